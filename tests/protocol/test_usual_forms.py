"""Bare publishes and acks are read in a shorter way: whatever comes, it gives what the general
form gives of the same reads.

`python -m tests.protocol.test_usual_forms SECONDS [SEED]` goes on for so long.
"""

import random
import sys
import time
from collections.abc import Iterator, Sequence

import msgspec
import pytest

from msg.core.commands import Ack, Acks, BareAck, BarePublish, Publish, Publishes
from msg.protocol.checks import Checks
from msg.protocol.codec import Decoder
from tests.protocol.wire import plain

NAMES = ["jobs", "a.b", "é", "x" * 128]
KEYS = [
    "action", "topic", "message", "mode", "durability", "message_id", "tag", "id", "tags",
    "message_ids", "type", "ttl", "priority", "x", "", "Action", "action ", "é",
]  # fmt: skip
# as they stand in a frame
ODD = [
    b"null", b"true", b"0", b"-0", b"-0.0", b"4.0", b"4.5", b"1e2", b"1E400", b"-1e400", b"1e-400",
    b"7" * 400, b"7" * 4301, b"9007199254740991", b"9007199254740992", b"9223372036854775808",
    b"01", b"+1", b".5", b"5.", b"NaN", b"Infinity", b"nul", b"", b'"', b'""', b'"\\u0000"',
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83d\\ude00"', b'"\\u00e9"', b'"\\x"', b'"\\',
    b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b'"\xef\xbb\xbf"', b'"\x00"', b'"\x7f"', b'"\t"',
    b'"a\rb"', b'"a\nb"', b'" "', b'"' + b"n" * 129 + b'"', b'"' + "é".encode() * 64 + b'"',
    b'"' + "é".encode() * 65 + b'"', b"[]", b"{}", b"[1,]", b"[1,2]", b'["a"]', b'{"a":1,"a":2}',
    b"[" * 62 + b"]" * 62, b"[" * 63 + b"]" * 63, b"[" * 64 + b"]" * 64, b"[" * 2000,
    b'{"a":' * 63 + b"1" + b"}" * 63, b'{"a":' * 64 + b"1" + b"}" * 64, b'"}{"', b'"]["',
    b'"\\""', b'"\\\\"', b'"\\\\\\""', b"]", b"}", b"[}", b'"1e400"', b"[1e400]", b'"x" "y"',
    b'"' + b"b" * 700 + b'"', b"\xef\xbb\xbf1", b"/**/1", b"'a'",
]  # fmt: skip
FITTING = {
    "action": [b'"publish"', b'"ack"'],
    "type": [b'"publish"', b'"ack"', b'"message"'],
    "topic": [*(f'"{name}"'.encode() for name in NAMES), b'"a b"', b'"a.*"', b'"j\\u006fbs"'],
    "message": [b"1", b'"x"', b'{"a":[1,"b"]}', b'"\\u00e9"', b'"\\ud83d\\ude00"', b"null"],
    "mode": [b'"queue"', b'"pubsub"', b'"que\\u0075e"', b'"Queue"'],
    "durability": [b'"memory"', b'"os"', b'"stored"', b"null", b'"none"'],
    "message_id": [b'"m"', b'"n"', b'"\\u006d"', b"null"],
    "id": [b'"1"', b"null"],
    "tag": [b"1", b"2", b"null"],
    "tags": [b"[1]", b"null"],
    "message_ids": [b'["m"]', b"null"],
}
ENDS = [b"\n"] * 8 + [b"\r\n", b"", b"", b"\n\n", b" \n", b"\t", b"\r", b",", b"\x00\n", b"\n \r\n"]
PUBLISH, ACK = ["action", "topic", "message", "mode"], ["action", "message_id"]
USUAL = [
    b'{"action":"publish","topic":"jobs","message":1,"mode":"queue"}',
    b'{"action":"publish","topic":"a.b","message":"x"}',
    b'{"action":"ack","message_id":"m"}',
    b'{"action":"ack","tag":7}',
    b'{"type":"ack","message_id":"m"}',
]


class Frames:
    """Frames that are nearly usual."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def stream(self) -> bytes:
        rng = self.rng
        odd = rng.choice([0.0, 0.02, 0.3])
        out = b""
        for _ in range(rng.randrange(1, 9)):
            frame = rng.choice(USUAL) if rng.random() < 0.6 else self.frame(odd)
            if rng.random() < odd / 2:
                frame = self.spoiled(frame)
            out += frame + (b"\n" if rng.random() < 0.7 else rng.choice(ENDS))
        return out

    def frame(self, odd: float) -> bytes:
        rng = self.rng
        keys = list(rng.choice([PUBLISH, ACK]))
        if rng.random() < 0.4:
            keys += rng.choices(KEYS, k=rng.randrange(1, 3))
        if rng.random() < 0.2:
            keys.append(rng.choice(keys))
        if rng.random() < 0.2:
            keys.remove(rng.choice(keys))
        if rng.random() < 0.3:
            rng.shuffle(keys)
        pairs = []
        for key in keys:
            values = FITTING.get(key, ODD) if rng.random() >= odd else ODD
            if key == "action":
                fits = b'"ack"' if "topic" not in keys else b'"publish"'
                values = values if rng.random() < 0.1 else [fits]
            name = key.encode()
            if name and rng.random() < odd / 3:
                name = b"\\u%04x" % ord(key[0]) + key[1:].encode()
            pairs.append(b'"%b"%b%b' % (name, self.colon(odd), rng.choice(values)))
        blank = rng.choice([b"", b"", b"", b" ", b"\t"])
        return b"{" + blank + b",".join(pairs) + blank + b"}"

    def colon(self, odd: float) -> bytes:
        return b":" if self.rng.random() >= odd else self.rng.choice([b": ", b" :", b"\t:\t", b""])

    def spoiled(self, frame: bytes) -> bytes:
        rng, at = self.rng, self.rng.randrange(len(frame))
        match rng.randrange(4):
            case 0:
                return frame[:at] + bytes([rng.randrange(256)]) + frame[at + 1 :]
            case 1:
                return frame[:at] + frame[at + 1 :]
            case 2:
                return frame[:at] + rng.choice([b'"', b"\\", b"{", b"}", b"\n", b"\r"]) + frame[at:]
            case _:
                return frame[:at]

    def reads(self, data: bytes) -> list[bytes]:
        rng = self.rng
        match rng.randrange(4):
            case 0:
                return [data]
            case 1:
                return data.splitlines(keepends=True)
            case 2 if len(data) < 3000:
                return [data[i : i + 1] for i in range(len(data))]
            case _:
                places = sorted(rng.choices(range(len(data) + 1), k=rng.randrange(1, 6)))
                return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def one_by_one(items: Sequence[object]) -> Iterator[tuple[object, ...]]:
    """What was gathered, each by itself again, in the general form."""
    for item in items:
        match item:
            case Publishes():
                for p in item.items:
                    assert (p.topic, p.mode, p.durability) == (
                        item.topic, item.mode, item.durability,
                    )  # fmt: skip
                    yield shown(p)
            case Acks():
                yield from [shown(Ack(message_id=name)) for name in item.ids]
                yield from [shown(Ack(tag=tag)) for tag in item.tags]
            case _:
                yield shown(item)


def shown(item: object) -> tuple[object, ...]:
    if isinstance(item, BarePublish) and not isinstance(item, Publish):
        item = Publish(item.topic, item.message, item.mode, item.durability)
    elif isinstance(item, BareAck) and not isinstance(item, Ack):
        item = Ack(item.message_id, item.tag)
    values: tuple[object, ...] = plain(item)
    return values


def by_destination(items: Sequence[tuple[object, ...]]) -> dict[object, list[object]]:
    """Only there the order of one read counts."""
    out: dict[object, list[object]] = {}
    for item in items:
        values = item[1]
        key: object = "other"
        if item[0] == "Publish" and isinstance(values, dict):
            key = (values["topic"], values["mode"], values["durability"])
        elif item[0] == "Ack" and isinstance(values, dict):
            key = ("ack", values["tag"] is None)
        out.setdefault(key, []).append(item)
    return out


def same(seed: int) -> int:
    """Some reads, both ways; how many of them were gathered."""
    frames = Frames(seed)
    limit = frames.rng.choice([1 << 20, 600])
    checks, alone = Checks(), Checks()
    short = Decoder(limit, check=checks.check, gather=checks.gather)
    general = Decoder(limit, check=alone.check)
    gathered = 0
    first = b"".join([USUAL[0] + b"\n", USUAL[1] + b"\n"]) if frames.rng.random() < 0.8 else b""
    for read in [first, *frames.reads(frames.stream())]:
        items = short.feed(read)
        many = any([isinstance(item, Publishes | Acks) for item in items])
        gathered += many
        mine, theirs = list(one_by_one(items)), [shown(item) for item in general.feed(read)]
        assert mine == theirs or (many and by_destination(mine) == by_destination(theirs)), (
            seed, read, mine, theirs,
        )  # fmt: skip
        assert state(short) == state(general), (seed, read)
    assert [plain(item) for item in short.eof()] == [plain(item) for item in general.eof()], seed
    return gathered


def state(decoder: Decoder) -> tuple[object, ...]:
    return (
        decoder.taken, decoder.closed, decoder.partial, decoder.broken, decoder.pending_bytes,
        decoder._errors_in_a_row,
    )  # fmt: skip


@pytest.mark.parametrize("part", range(4))
def test_the_usual_forms_give_what_the_general_form_gives(part: int):
    gathered = sum([same(seed) for seed in range(part * 500, part * 500 + 500)])
    assert gathered > 200  # else this compares nothing


def test_a_form_that_is_not_what_it_looks_like_is_found():
    """The comparison sees a difference."""
    p = Publish("jobs", msgspec.Raw(b"1"))
    assert shown(BarePublish("jobs", msgspec.Raw(b"1"))) == shown(p)
    assert shown(BarePublish("jobs", msgspec.Raw(b"1.0"))) != shown(p)


if __name__ == "__main__":
    until, seed, many = time.monotonic() + float(sys.argv[1]), int((sys.argv[2:] or ["0"])[0]), 0
    start = seed
    while time.monotonic() < until:
        many += same(seed)
        seed += 1
    print(f"{seed - start} streams, {many} reads gathered")
