"""Records: one JSON line each, checked by a crc that knows where the line belongs.

    {"op":"head","name":"jobs","kind":"queues","incarnation":"5f0c…","next_seq":1,"state":{}…}
    {"op":"pub","seq":17,"priority":9,"topic":"jobs","message_id":"…",…,"crc":"1a2b3c4d"}
    {"op":"try","seq":17,"attempts":1,"returned":"nack","attempt":{"n":1,"at":"…","why":"nack"}…}
    {"op":"ack","first":17,"last":116,…}          {"op":"ack","seqs":[17,19,40],…}
    {"op":"dead","seq":17,"to":"jobs.dead","key":"jobs:17:1","why":"max_deliveries",…}
    {"op":"drop","seqs":[17],"why":"expired",…}
    {"op":"ids","ids":[["id",2,305419896,1764000000.0,17],…],…}
    {"op":"state","next_seq":18,"state":{"paused":true},…}

The crc is zlib's, over the bytes before `,"crc"`, seeded with the destination's name and
incarnation: a line from another file, or from a queue that was deleted and made anew, fails.
A `pub` is the hot record: it embeds the message's `wire` as it is, and is read back by
slicing; no body is ever parsed. The rest goes through msgspec.
"""

import re
import struct
from binascii import hexlify
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import repeat
from typing import Any
from zlib import crc32

import msgspec

from msg.core.body import topic_of
from msg.core.dedup import has_topics, id_at
from msg.core.message import DURABILITIES, DURABILITY_NAMES, PRIORITY, STORED, Attempt, Message

SEQS_PER_LINE_MAX = 100  # one flipped bit may revive that many settled messages, not thousands
CRC_BYTES = 18  # ,"crc":"1a2b3c4d"}
END_BYTES = CRC_BYTES + 1  # with the LF
PUB = b'{"op":"pub","seq":'
_PUB_AT = len(PUB)
_TOPIC = b'"topic":'
_ID = b'","message_id":"'
_AT = b'","published_at":"'

encode = msgspec.json.Encoder().encode


class Remembered(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One publish in the dedup window: `length` and `crc` are of the body's bytes."""

    id: str
    length: int
    crc: int
    at: float  # wall clock, when it was accepted
    seq: int


class Other(msgspec.Struct, gc=False):
    """Any record but a `pub`. Only the members of its op are set."""

    op: str
    seq: int = 0
    seqs: list[int] = []
    first: int = 0
    last: int = 0
    attempts: int = 0
    returned: str = ""
    due: float = 0.0
    attempt: Attempt | None = None
    case: tuple[Attempt, ...] | None = None
    to: str = ""
    key: str = ""
    why: str = ""
    ids: list[Remembered] = []
    name: str = ""
    kind: str = ""
    incarnation: str = ""
    next_seq: int = 0
    instead_of: int = 0
    state: dict[str, Any] = {}


class _Options(msgspec.Struct, gc=False):
    """What may stand between a pub's seq and its wire."""

    priority: int = PRIORITY
    due: float = 0.0
    expires: float = 0.0
    key: str = ""
    origin: str = ""
    durability: str = "stored"


class _Body(msgspec.Struct, gc=False):
    message: msgspec.Raw


_decode_other = msgspec.json.Decoder(Other).decode
_decode_options = msgspec.json.Decoder(_Options).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_text = msgspec.json.Decoder(str).decode


def seed_of(name: str, incarnation: str) -> int:
    """What the crc of each line of this destination starts from.

    An XOR, so that a seed that was worked out from the lines gives the incarnation back.
    """
    return crc32(name.encode()) ^ int(incarnation, 16) & 0xFFFFFFFF


def close_line(seed: int, text: bytes) -> bytes:
    """`text`, a JSON object without its last brace, as a whole line with its crc."""
    return b'%b,"crc":"%08x"}\n' % (text, crc32(text, seed))


def unusual(batch: Sequence[Message]) -> list[Message]:
    """Those of which more is to be written than seq and wire."""
    return [
        m
        for m in batch
        if m.durability != STORED
        or m.priority != PRIORITY
        or m.due
        or m.expires
        or m.key
        or m.origin
        or m.attempts
    ]


def pub_pieces(seed: int, batch: Sequence[Message], *, usual: bool = False) -> list[bytes]:
    """Lines of at least one message, each in two pieces: up to the crc, and its end. Joined
    they would only be copied once more, for all of a commit is one write. `usual`: none of
    them is `unusual`.

    The hot path: half a microsecond a message, and most of that is the crc.
    """
    if usual:
        texts = [b'{"op":"pub","seq":%d,' % m.seq + m.wire for m in batch]
    else:
        texts = [b'{"op":"pub","seq":%d,%b%b' % (m.seq, _options(m), m.wire) for m in batch]
    pieces = [b""] * (2 * len(texts))
    pieces[::2] = texts
    pieces[1::2] = _line_ends([crc32(text, seed) for text in texts])
    return pieces


def _line_ends(crcs: list[int]) -> list[bytes]:
    """What closes the lines with these crcs. To format each by itself takes three times as
    long."""
    digits = hexlify(struct.pack(f">{len(crcs)}I", *crcs), ";", 4)
    return (b',"crc":"%b"}\n' % digits.replace(b";", b'"}\n,"crc":"')).splitlines(keepends=True)


def _options(m: Message) -> bytes:
    text = b""
    if m.priority != PRIORITY:
        text += b'"priority":%d,' % m.priority
    if m.due:
        text += b'"due":%b,' % encode(m.due)
    if m.expires:
        text += b'"expires":%b,' % encode(m.expires)
    if m.key:
        text += b'"key":%b,' % encode(m.key)
    if m.origin:
        text += b'"origin":%b,' % encode(m.origin)
    if m.durability != STORED:
        text += b'"durability":"%b",' % DURABILITY_NAMES[m.durability].encode()
    return text


def settle_lines(seed: int, op: str, seqs: Sequence[int], why: str = "") -> list[bytes]:
    """`ack` or `drop` lines for rising, distinct seqs; a run of them is written as a range."""
    start = b'{"op":"%b"' % op.encode()
    end = b',"why":%b' % encode(why) if why else b""
    lines = []
    for at in range(0, len(seqs), SEQS_PER_LINE_MAX):
        part = seqs[at : at + SEQS_PER_LINE_MAX]
        if part[-1] - part[0] == len(part) - 1:
            what = b',"first":%d,"last":%d' % (part[0], part[-1])
        else:
            what = b',"seqs":%b' % encode(list(part))
        lines.append(close_line(seed, start + what + end))
    return lines


def try_line(seed: int, m: Message, attempt: Attempt | None) -> bytes:
    """A failed attempt; with None the whole case, which replaces what stands before it."""
    text = b'{"op":"try","seq":%d,"attempts":%d,"returned":%b' % (
        m.seq,
        m.attempts,
        encode(m.returned),
    )
    if m.due:
        text += b',"due":%b' % encode(m.due)
    if attempt is None:
        text += b',"case":%b' % encode(m.case)
    else:
        text += b',"attempt":%b' % encode(attempt)
    return close_line(seed, text)


def dead_line(seed: int, seq: int, to: str, key: str, why: str) -> bytes:
    text = b'{"op":"dead","seq":%d,"to":%b,"key":%b,"why":%b' % (
        seq,
        encode(to),
        encode(key),
        encode(why),
    )
    return close_line(seed, text)


def filler(seed: int, seq: int, length: int) -> bytes:
    """A record of exactly `length` bytes in place of a pub that was found damaged."""
    text = b'{"op":"drop","seqs":[%d],"why":"damaged on disk"' % seq
    return close_line(seed, text.ljust(length - CRC_BYTES - 1))


def ids_lines(seed: int, entries: Sequence[Remembered]) -> list[bytes]:
    return [
        close_line(seed, b'{"op":"ids","ids":%b' % encode(entries[at : at + SEQS_PER_LINE_MAX]))
        for at in range(0, len(entries), SEQS_PER_LINE_MAX)
    ]


def state_line(seed: int, next_seq: int, state: dict[str, Any]) -> bytes:
    return close_line(seed, b'{"op":"state","next_seq":%d,"state":%b' % (next_seq, encode(state)))


def head_line(
    kind: str, name: str, incarnation: str, next_seq: int, instead_of: int, state: dict[str, Any]
) -> bytes:
    """The first record of each segment: who it belongs to, and the state as it was then."""
    text = b'{"op":"head","name":%b,"kind":%b,"incarnation":"%b","next_seq":%d' % (
        encode(name),
        encode(kind),
        incarnation.encode(),
        next_seq,
    )
    if instead_of:
        text += b',"instead_of":%d' % instead_of
    text += b',"state":%b' % encode(state)
    return close_line(seed_of(name, incarnation), text)


def incarnation_of(name: str, seed: int) -> str:
    """The way back from a seed."""
    return f"{crc32(name.encode()) ^ seed:08x}"


def _crc_tables() -> tuple[list[int], list[int]]:
    """Of the crc: byte -> remainder, and the remainder's first byte -> that byte."""
    forward = []
    for remainder in range(256):
        for _ in range(8):
            remainder = remainder >> 1 ^ (0xEDB88320 if remainder & 1 else 0)
        forward.append(remainder)
    back = sorted(range(256), key=lambda byte: forward[byte] >> 24)
    return forward, back


def seed_behind(line: bytes) -> int | None:
    """The seed with which a line's crc fits: the crc's own steps, backwards. Any line has
    one; several lines that agree are no chance."""
    try:
        state = int(line[-10:-2], 16) ^ 0xFFFFFFFF
    except ValueError:
        return None
    forward, back = _crc_tables()
    for byte in reversed(line[:-CRC_BYTES]):
        known = back[state >> 24]
        state = ((state ^ forward[known]) << 8 & 0xFFFFFFFF) | (known ^ byte)
    return state ^ 0xFFFFFFFF


def line_is_sound(seed: int, line: bytes) -> bool:
    """Whether a line (without its LF) is one that we wrote for this destination."""
    return line[-CRC_BYTES:] == b',"crc":"%08x"}' % crc32(line[:-CRC_BYTES], seed)


def head_of(line: bytes) -> Other | None:
    """The head in a segment's first line; None when it is not one, or damaged."""
    if not line.startswith(b'{"op":"head"'):
        return None
    try:
        head = _decode_other(line)
        sound = line_is_sound(seed_of(head.name, head.incarnation), line)
    except (ValueError, RecursionError):
        return None
    return head if sound else None


def other_of(line: bytes) -> Other:
    """A sound line that is not a pub. ValueError when it makes no sense all the same."""
    return _decode_other(line)


def is_pub_of(line: bytes, seq: int) -> bool:
    return line.startswith(b'{"op":"pub","seq":%d,' % seq)


def pub_of(seed: int, line: bytes) -> Message | None:
    """A pub that was read ahead, checked; None when it is not what was written."""
    text = line[:-CRC_BYTES]
    if line[-CRC_BYTES:] != b',"crc":"%08x"}' % crc32(text, seed) or not text.startswith(PUB):
        return None
    usual = _USUAL_PUB.match(text)
    if usual is None:
        return message_of(line)
    seq, wire, message_id = usual.groups()
    return Message(int(seq), message_id.decode(), wire)


def pubs_of(
    seed: int, data: bytes, seqs: list[int], offsets: list[int], lengths: list[int]
) -> list[Message] | None:
    """Pubs that were read ahead, checked, at these places. None if one of them is not what was
    written, or differs from the first in more than seq, id and what follows it: then they are
    to be looked at one by one (`pub_of`), which takes two or three times as long."""
    ends = [at + length for at, length in zip(offsets, lengths, strict=True)]
    texts = [data[at : end - END_BYTES] for at, end in zip(offsets, ends, strict=True)]
    crcs = [crc32(text, seed) for text in texts]
    if [data[end - END_BYTES : end] for end in ends] != _line_ends(crcs):
        return None
    first = texts[0]
    seq_end = first.find(b",", _PUB_AT) + 1
    wire_at = first.find(_TOPIC)
    id_at = first.find(_ID) + len(_ID)
    width = first.find(_AT, id_at) - id_at
    if not _PUB_AT < seq_end <= wire_at < id_at <= id_at + width:
        return None
    alike = first[seq_end:id_at]
    heads = b"%b%b,%b" % (PUB, encode(seqs)[1:-1].replace(b",", b",%b%b" % (alike, PUB)), alike)
    if b"".join([text[:id_at] for text in texts]) != heads:
        return None
    id_end = id_at + width + len(_AT)
    names = b"".join([text[id_at:id_end] for text in texts])
    if b"\\" in names or not names.isascii():  # one may be cut within a character
        return None
    *ids, _ = names.decode().split(_AT.decode())
    if len(ids) != len(seqs) or {*map(len, ids)} != {width}:
        return None
    wires = [text[wire_at:] for text in texts]
    if wire_at == seq_end:
        return list(map(Message, seqs, ids, wires))
    options = _decode_options(b"{%b}" % first[seq_end : wire_at - 1])
    if options.key or options.origin:
        return None
    durability = DURABILITIES[options.durability]
    each = [options.priority, durability, options.due, options.expires]
    return list(map(Message, seqs, ids, wires, *map(repeat, each)))


def message_of(line: bytes) -> Message:
    """A sound pub as a message, attempts and case apart, which stand in `try` records."""
    comma = line.index(b",", _PUB_AT)
    wire_at = line.index(_TOPIC, comma)
    wire = line[wire_at:-CRC_BYTES]
    message = Message(int(line[_PUB_AT:comma]), id_of(wire), wire)
    if wire_at != comma + 1:
        options = _decode_options(b"{%b}" % line[comma + 1 : wire_at - 1])
        message.priority = options.priority
        message.due = options.due
        message.expires = options.expires
        message.key = options.key
        message.origin = options.origin
        message.durability = DURABILITIES[options.durability]
    return message


def id_of(wire: bytes) -> str:
    start = wire.index(_ID) + len(_ID)
    raw = wire[start : wire.index(_AT, start)]
    return raw.decode() if b"\\" not in raw else _decode_text(b'"%b"' % raw)


def published_at(wire: bytes) -> bytes:
    """RFC 3339 in UTC, as bytes: of one width, so they compare as times do."""
    start = wire.index(_AT) + len(_AT)
    return wire[start : wire.index(b'"', start)]


def newest_published_at(data: bytes) -> bytes:
    """The newest of a segment's. Not simply the last one's: what was moved or copied here is as
    old as it is. A body that says the same makes it too new, which only costs a look."""
    return max(_PUBLISHED_AT.findall(data), default=b"")


def fingerprint(wire: bytes) -> tuple[int, int]:
    """Length and crc32 of the body's bytes: what dedup compares."""
    body = bytes(_decode_body(b"{%b}" % wire).message)
    return len(body), crc32(body)


def is_made_by_broker(message_id: str, at: float) -> bool:
    """Whether a publish named no id: ours are 22 hex digits and begin with the time (see
    `msg.core.wire.IdSource`). They cannot come twice, and no window remembers them."""
    if len(message_id) < 22 or not _OWN_ID.fullmatch(message_id):
        return False
    return _is_about(message_id[:11], at)


def _is_about(millis: str | bytes, at: float) -> bool:
    return abs(int(millis, 16) - at * 1000) < 10_000


def remembered(line: bytes, seconds_of: Mapping[bytes, float], queue: str) -> Remembered | None:
    """What the dedup window needs of a sound pub of this queue; None for a move, and for an id
    of ours."""
    comma = line.index(b",", _PUB_AT)
    wire_at = line.index(_TOPIC, comma)
    if wire_at != comma + 1 and b'"key":' in line[comma:wire_at]:
        return None
    wire = line[wire_at:-CRC_BYTES]
    message_id = id_of(wire)
    at = seconds_of[published_at(wire)]
    if is_made_by_broker(message_id, at):
        return None
    length, crc = fingerprint(wire)
    if has_topics(queue):
        message_id = id_at(topic_of(wire), message_id)
    return Remembered(message_id, length, crc, at, int(line[_PUB_AT:comma]))


def may_hold_client_ids(data: bytes, seconds_of: Mapping[bytes, float]) -> bool:
    """Whether any pub in these lines may have an id that its client chose. To look at each
    line for that takes five times as long, and most segments have none."""
    if _CLIENT_ID.search(data) is not None:
        return True
    for millis, at in dict.fromkeys(_BROKER_ID.findall(data)):
        try:
            if not _is_about(millis, seconds_of[at]):
                return True
        except ValueError:  # damaged
            return True
    return False


def seconds(at: bytes) -> float:
    """RFC 3339 as seconds since the epoch."""
    return datetime.fromisoformat(at.decode()).timestamp()


def rfc3339(wall: float) -> str:
    """Seconds since the epoch as the wire writes them: UTC, milliseconds, Z."""
    moment = datetime.fromtimestamp(wall, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


# a pub without options, of a name and an id without escapes; one match takes two thirds of
# the time of looking for its parts
_USUAL_PUB = re.compile(
    rb'\{"op":"pub","seq":(\d+),("topic":"[^"\\]*","message_id":"([^"\\]*)","published_at":".*)',
    re.DOTALL,
)
_OWN_ID = re.compile(r"[0-9a-f]{22,24}")
_PUBLISHED_AT = re.compile(rb'","published_at":"([^"]{24})"')
_CLIENT_ID = re.compile(rb'"message_id":"(?![0-9a-f]{22,24}","published_at":")')
_BROKER_ID = re.compile(rb'"message_id":"([0-9a-f]{11})[0-9a-f]{11,13}","published_at":"([^"]*)"')

# between two lines whose LF was hit; both halves must then be sound by themselves
_SEAM = re.compile(rb'"\}[^\n]\{"op":"', re.DOTALL)


def split_at_seam(seed: int, bad: bytes) -> tuple[bytes, ...]:
    """Two sound lines out of a bad one, when only the LF between them was damaged."""
    for seam in _SEAM.finditer(bad):
        left, right = bad[: seam.start() + 2], bad[seam.start() + 3 :]
        if line_is_sound(seed, left) and line_is_sound(seed, right):
            return left, right
    return ()
