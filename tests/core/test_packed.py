"""Runs of messages in one piece: they give back what they were given, byte for byte."""

from functools import partial

import attrs
import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given
from msgspec import Raw

from msg.core.commands import Publish
from msg.core.deep import Packer, Packing
from msg.core.message import Attempt, Message
from msg.core.packed import LARGE, SHARED, Packed, pack
from msg.core.ready import Lane
from msg.core.wire import IdSource, Stamp, json_string

FIELDS = Message.__struct_fields__


def facts(messages: list[Message]) -> list[tuple[object, ...]]:
    return [tuple(getattr(m, field) for field in FIELDS) for m in messages]


def made(
    sizes: list[int], *, name: str = "jobs", body: bytes = b'"x"', first: int = 1
) -> list[Message]:
    """Messages as the intake makes them: so many in each turn."""
    source = IdSource(7)
    out: list[Message] = []
    for turn, n in enumerate(sizes):
        stamp = Stamp(1.0, 1.7e9 + first + turn / 50, source)
        ids, wires = stamp.name_all(json_string(name), [Publish(topic=name, message=Raw(body))] * n)
        seqs = range(first + len(out), first + len(out) + n)
        out += [Message(s, i, w, 4, 0) for s, i, w in zip(seqs, ids, wires, strict=True)]
    return out


def named(ids: list[str], bodies: list[bytes], name: str = "jobs") -> list[Message]:
    """Messages under ids that their publisher chose, all of one turn."""
    before, after = Stamp(1.0, 1.7e9, IdSource(7)).around_id(json_string(name))
    return [
        Message(seq, i, before + json_string(i)[1:-1] + after + body, 4, 0)
        for seq, (i, body) in enumerate(zip(ids, bodies, strict=True), 1)
    ]


def memory_of(run: Packed) -> int:
    return len(run._text)


def test_what_was_packed_comes_back():
    messages = made([1, 700, 30, 1, 2], body=b'{"a":"' + b"x" * 190 + b'"}')
    run = pack(messages)
    assert run is not None
    assert facts(run.unpack()) == facts(messages)
    assert len(run) == len(messages)
    assert run.bytes == sum(len(m.wire) for m in messages)
    assert (run.first, run.last) == (1, len(messages))


def test_a_message_takes_little_more_than_its_body():
    body = b'"' + b"x" * 200 + b'"'
    for sizes, most in (([512], 8), ([25] * 20, 10), ([1] * 100, 50)):
        messages = made(sizes, body=body)
        run = pack(messages)
        assert run is not None
        assert memory_of(run) < (len(body) + most) * len(messages)


def test_uuids_are_packed_too():
    ids = [f"0c1f2e{n:04x}-7b7e-4d0b-9f3c-5b2b8a6f0d11" for n in range(600)]
    messages = named(ids, [b"17"] * 600)
    run = pack(messages)
    assert run is not None
    assert facts(run.unpack()) == facts(messages)
    assert memory_of(run) < 600 * (len(ids[0]) + 5)
    assert run.may_have(ids[77])
    assert not run.may_have("0c1f2effff-7b7e-4d0b-9f3c-5b2b8a6f0d11")


def test_an_id_is_looked_for_without_opening():
    messages = made([3, 3])
    run = pack(messages)
    assert run is not None
    assert all(run.may_have(m.id) for m in messages)
    assert not run.may_have(f"{'0' * SHARED}0001")
    assert not run.may_have("x1")


def test_places_need_not_follow_each_other():
    messages = made([5])
    del messages[2]
    run = pack(messages)
    assert run is not None
    assert list(run.seqs) == [1, 2, 4, 5]
    assert facts(run.unpack()) == facts(messages)


def test_times_to_live_are_kept():
    messages = made([3])
    messages[1].expires = 1.7e9 + 5.25
    run = pack(messages)
    assert run is not None
    assert facts(run.unpack()) == facts(messages)


@pytest.mark.parametrize(
    "change",
    [
        {"durability": 1},
        {"priority": 5},
        {"due": 5.0},
        {"until": 5.0},
        {"attempts": 1},
        {"returned": "nack"},
        {"case": (Attempt(1, "", "nack"),)},
        {"key": "a:1:1"},
        {"origin": "a"},
    ],
)
def test_what_is_not_plain_is_not_packed(change: dict[str, object]):
    messages = made([3])
    for field, value in change.items():
        setattr(messages[1], field, value)
    assert pack(messages) is None


def test_messages_of_several_topics_are_not_packed():
    """A group of a pattern has them; names of one length put the ids at the same place."""
    for sizes in ([4], [1, 1, 1, 1]):
        messages = made(sizes, name="a.x")
        for message in messages[1:3]:
            message.wire = message.wire.replace(b'"a.x"', b'"a.y"')
        assert pack(messages) is None
    assert pack(named(["u1", "u2"], [b"1"] * 2, "a.x") + named(["u3"], [b"1"], "a.y")) is None


def test_large_messages_are_not_packed():
    assert pack(made([3], body=b'"' + b"x" * LARGE + b'"')) is None


def test_of_a_wire_in_two_lines_there_is_no_run():
    assert pack(made([3], body=b'{"a":\n1}')) is None
    assert pack(made([3], body=b'{"a":\x011}')) is None


def test_bodies_that_look_like_what_stands_around_them():
    like = b'","published_at":"2023-11-14T22:13:20.000Z","message":'
    bodies = [b'{"message_id":"' + like + b"1}", b'"a"' + like + b"2", b'{"topic":"jobs"}']
    for messages in (named(["a", "b", "c"], bodies), made([3], body=bodies[0])):
        run = pack(messages)
        assert run is not None
        assert facts(run.unpack()) == facts(messages)


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
JSON = st.recursive(
    st.none() | st.integers(-5, 5) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
IDS = TEXT | st.text("ab", min_size=22, max_size=22) | st.just('",","message":')


@given(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=12),
    st.lists(st.tuples(IDS | st.none(), JSON, st.booleans(), st.booleans()), min_size=1),
)
def test_any_message_comes_back_or_is_not_packed(
    name: str, rows: list[tuple[str | None, object, bool, bool]]
):
    """Names and ids with quotes and of any script, ids of ours between those of clients,
    many turns, headers."""
    source = IdSource(7)
    messages: list[Message] = []
    seq, wall, stamp = 0, 1.7e9, Stamp(1.0, 1.7e9, source)
    for message_id, body, later, headers in rows:
        if later:
            wall += 0.017
            stamp = Stamp(1.0, wall, source)
        before, after = stamp.around_id(json_string(name))
        message_id = message_id or stamp.next_id()
        wire = before + json_string(message_id)[1:-1] + after + msgspec.json.encode(body)
        if headers:
            wire += b',"headers":{"a":"b"}'
        seq += 1 + later
        messages.append(Message(seq, message_id, wire, 4, 0, expires=5.5 * headers))
    run = pack(messages)
    if run is not None:
        assert facts(run.unpack()) == facts(messages)
        assert all(run.may_have(m.id) for m in messages)
    else:
        assert any(json_string(m.id)[1:-1] != m.id.encode() for m in messages)


# -- a lane whose far part is packed ---------------------------------------------------------

EARLY = Packing(run=3, head=2, still=0, above=5)


@attrs.define
class Plain:
    """A lane, and the same as one list."""

    lane: Lane
    line: list[Message] = attrs.field(factory=list)
    runs: dict[int, Packed] = attrs.field(factory=dict)  # as an estate has them
    kept: dict[int, Message] = attrs.field(factory=dict)

    def follow(self) -> None:
        """As an estate does, before what left is forgotten."""
        assert self.lane.packer is not None
        for run, messages in self.lane.packer.take_changes():
            if messages is None:
                self.runs[run.first] = run
                for seq in run.seqs:
                    del self.kept[seq]
            else:
                assert self.runs.pop(run.first) is run
                self.kept.update({m.seq: m for m in messages})

    def check(self) -> None:
        self.follow()
        here = [seq for run in self.runs.values() for seq in run.seqs] + list(self.kept)
        assert sorted(here) == [m.seq for m in self.line]
        assert facts(list(self.lane)) == facts(self.line)
        assert sorted(self.lane.seqs()) == [m.seq for m in self.line]
        assert len(self.lane) == len(self.line)
        assert self.lane.bytes == sum(len(m.wire) for m in self.line)
        head = self.lane.head()
        assert (head and head.seq) == (self.line[0].seq if self.line else None)
        for message in self.line[-2:]:
            found = [m for m in self.lane.candidates(message.id) if m.id == message.id]
            assert facts(found) == facts([message])
            assert self.lane.count_before(message.seq) == self.line.index(message)

    def left(self, out: list[Message]) -> None:
        gone = {m.seq for m in out}
        self.line = [m for m in self.line if m.seq not in gone]
        for seq in gone:
            self.kept.pop(seq, None)


def _is_one_of(seqs: set[int], message: Message) -> bool:
    return message.seq in seqs


@given(st.data())
def test_a_packed_lane_is_a_lane(data: st.DataObject):
    plain = Plain(Lane(Packer(EARLY)))
    lane = plain.lane
    place = 1
    for _ in range(data.draw(st.integers(1, 12))):
        step = data.draw(st.sampled_from("aaattirxlc"))
        if step == "a":
            n = data.draw(st.integers(1, 9))
            messages = made([n], first=place)
            if data.draw(st.integers(0, 4)) == 0:
                messages[n // 2].durability = 1
            place += n + data.draw(st.integers(0, 2))
            lane.append(messages)
            plain.line += messages
            plain.kept.update({m.seq: m for m in messages})
        elif step == "t":
            most = data.draw(st.integers(1, 12))
            room = data.draw(st.sampled_from([1, 250, 1000, 1 << 20]))
            out, size = lane.take(most, room)
            assert size == sum(len(m.wire) for m in out)
            assert facts(out) == facts(plain.line[: len(out)])
            assert len(out) <= most
            assert len(out) <= 1 or size <= room
            if plain.line and room == 1 << 20:
                assert len(out) == min(most, len(plain.line))
            assert bool(out) == bool(plain.line)
            plain.follow()
            plain.left(out)
            for message in out[:1] if data.draw(st.booleans()) else ():  # it comes back
                lane.insert(message)
                plain.kept[message.seq] = message
                plain.line = sorted([*plain.line, message], key=lambda m: m.seq)
        elif step == "i":
            message = made([1], first=place)[0]
            place += 1
            lane.insert(message)
            plain.line.append(message)
            plain.kept[message.seq] = message
        elif step == "r":
            k = data.draw(st.integers(2, 5))
            leaving = {m.seq for m in plain.line if m.seq % k == 0}
            out = lane.remove_if(partial(_is_one_of, leaving))
            assert facts(out) == facts([m for m in plain.line if m.seq in leaving])
            plain.follow()
            plain.left(out)
        elif step == "x":
            seq = data.draw(st.integers(0, place))
            out = lane.take_after(seq)
            assert {m.seq for m in out} == {m.seq for m in plain.line if m.seq > seq}
            plain.follow()
            plain.left(out)
        elif step == "l" and plain.line:
            messages, runs = lane.clear()
            plain.follow()
            gone = [m.seq for m in messages] + [seq for run in runs for seq in run.seqs]
            assert sorted(gone) == [m.seq for m in plain.line]
            plain.left(list(plain.line))
        elif step == "c":  # an actor's crash: a new lane of what is left
            plain.follow()
            plain.lane = lane = Lane(Packer(EARLY))
            pieces: list[Message | Packed] = [*plain.kept.values(), *plain.runs.values()]
            for piece in sorted(pieces, key=lambda p: p.seq if isinstance(p, Message) else p.first):
                if isinstance(piece, Packed):
                    lane.append_run(piece)
                else:
                    lane.append([piece])
        plain.check()
