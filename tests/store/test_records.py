"""Records: what is written is read back, and a seed can be worked out from its lines."""

import json
from copy import copy
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msg.core.message import MEMORY, OS, PRIORITY, STORED, Message
from msg.core.wire import IdSource, Stamp, json_string
from msg.store import records

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def some_messages(draw) -> Message:
    message_id = draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
    body = json.dumps(draw(JSON), ensure_ascii=draw(st.booleans())).encode()
    wire = b'"topic":%b,"message_id":%b,"published_at":"2026-11-23T08:05:15.123Z","message":%b' % (
        json_string(draw(TEXT)),
        json_string(message_id),
        body,
    )
    if draw(st.booleans()):
        wire += b',"headers":%b' % json.dumps({"topic": '"topic":"x","message_id":"'}).encode()
    times = st.just(0.0) | st.floats(1, 4e9)
    return Message(
        draw(st.integers(1, 2**62)),
        message_id,
        wire,
        priority=draw(st.just(PRIORITY) | st.integers(0, 9)),
        durability=draw(st.sampled_from((OS, STORED))),
        due=draw(times),
        expires=draw(times),
        key=draw(st.just("") | TEXT),
        origin=draw(st.just("") | TEXT),
    )


def pub_lines(seed: int, batch: list[Message]) -> list[bytes]:
    pieces = records.pub_pieces(seed, batch, usual=not records.unusual(batch))
    return [text + end for text, end in zip(pieces[::2], pieces[1::2], strict=True)]


@given(st.lists(some_messages(), min_size=1, max_size=5), SEEDS)
def test_a_pub_is_read_back_as_it_was_written(batch, seed):
    lines = pub_lines(seed, batch)
    for message, line in zip(batch, lines, strict=True):
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert json.loads(line)["seq"] == message.seq
        found = records.pub_of(seed, line[:-1])
        assert found is not None
        for name in Message.__struct_fields__:
            assert getattr(found, name) == getattr(message, name), name


def read_together(seed: int, batch: list[Message], data: bytes) -> list[Message] | None:
    lengths = [len(line) for line in pub_lines(seed, batch)]
    *offsets, _ = accumulate(lengths, initial=0)
    return records.pubs_of(seed, data, [m.seq for m in batch], offsets, lengths)


def fields(message: Message | None) -> list[object]:
    return [getattr(message, name) for name in Message.__struct_fields__]


@st.composite
def like_messages(draw) -> list[Message]:
    """What one queue is given, as a rule: they differ in seq, id and body."""
    first = draw(some_messages())
    wire = (
        b'"topic":%b,"message_id":"%022x","published_at":"2026-11-23T08:05:15.%03dZ","message":%b'
    )
    topic = json_string(draw(TEXT))
    seq = 10**6
    out = []
    for gap in draw(st.lists(st.integers(1, 3), min_size=1, max_size=5)):
        seq += gap
        message = copy(first)
        message.seq, message.id, message.key, message.origin = seq, f"{seq:022x}", "", ""
        message.wire = wire % (topic, seq, gap, json.dumps(draw(JSON)).encode())
        out.append(message)
    return out


@given(st.lists(some_messages(), min_size=1, max_size=5) | like_messages(), SEEDS)
def test_pubs_read_together_are_those_read_one_by_one(batch, seed):
    lines = pub_lines(seed, batch)
    together = read_together(seed, batch, b"".join(lines))
    if together is not None:
        one_by_one = [records.pub_of(seed, line[:-1]) for line in lines]
        assert list(map(fields, together)) == list(map(fields, one_by_one))


@given(like_messages(), SEEDS, st.data())
def test_pubs_that_are_alike_are_read_together_unless_a_bit_is_wrong(batch, seed, data):
    written = bytearray(b"".join(pub_lines(seed, batch)))
    assert read_together(seed, batch, bytes(written)) is not None
    at = data.draw(st.integers(0, len(written) - 1))
    written[at] ^= 1 << data.draw(st.integers(0, 7))
    assert read_together(seed, batch, bytes(written)) is None
    assert read_together(seed, batch, bytes(written[:at])) is None


def test_a_record_of_another_seq_is_not_taken_for_the_one_that_was_asked_for():
    seed, wire = 17, b'"topic":"t","message_id":"%d","published_at":"2026-11-23T08:05:15.123Z",'
    batch = [Message(seq, str(seq), wire % seq + b'"message":1') for seq in (11, 12, 13)]
    data = b"".join(pub_lines(seed, batch))
    assert read_together(seed, batch, data) is not None
    for message in batch:
        message.seq += 1
        assert read_together(seed, batch, data) is None
        message.seq -= 1


LIKE_AN_END = b'a","published_at":"2026-11-23T08:05:15.123Z","message":{"a":"b'


@pytest.mark.parametrize("usual", ["0" * 22, "0" * len(LIKE_AN_END)])
@pytest.mark.parametrize(
    "odd", ["0" * 21, "0" * 40, '"' * 11, "\u00e9" * 11, "0" + "\u00e9" * 30, "a"]
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_ids_are_read_together_only_where_they_are_cut_right(usual, odd, place):
    wire = b'"topic":"t","message_id":%b,"published_at":"2026-11-23T08:05:15.123Z","message":%b'
    body = b'{"a":"b","published_at":"2026-11-23T08:05:15.123Z"}'  # an id could end in there
    batch = [Message(seq, usual, wire % (json_string(usual), body)) for seq in (11, 12, 13)]
    assert read_together(0, batch, b"".join(pub_lines(0, batch))) is not None
    batch[place].id, batch[place].wire = odd, wire % (json_string(odd), body)
    assert read_together(0, batch, b"".join(pub_lines(0, batch))) is None


@given(some_messages(), SEEDS, st.data())
def test_a_changed_byte_never_passes(message, seed, data):
    line = bytearray(pub_lines(seed, [message])[0][:-1])
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] ^= 1 << data.draw(st.integers(0, 7))
    assert not records.line_is_sound(seed, bytes(line))
    assert records.pub_of(seed, bytes(line)) is None


@given(some_messages(), SEEDS, TEXT)
def test_a_line_tells_the_seed_that_it_was_written_with(message, seed, name):
    line = pub_lines(seed, [message])[0][:-1]
    assert records.seed_behind(line) == seed
    incarnation = records.incarnation_of(name, seed)
    assert records.seed_of(name, incarnation) == seed


@given(st.lists(st.integers(1, 2000), unique=True, min_size=1, max_size=400), SEEDS)
def test_settled_seqs_are_few_to_a_line(seqs, seed):
    seqs.sort()
    found = []
    for line in records.settle_lines(seed, "ack", seqs):
        assert records.line_is_sound(seed, line[:-1])
        other = records.other_of(line[:-1])
        some = other.seqs or list(range(other.first, other.last + 1))
        assert 0 < len(some) <= 100
        found += some
    assert found == seqs


@given(st.integers(100, 2000), SEEDS)
def test_a_filler_has_the_length_of_what_it_stands_for(length, seed):
    line = records.filler(seed, 17, length)
    assert len(line) == length
    assert records.line_is_sound(seed, line[:-1])
    assert records.other_of(line[:-1]).seqs == [17]


def test_ids_of_the_brokers_own_are_told_from_those_of_clients():
    wall = 1_795_421_115.123
    stamp = Stamp(0.0, wall, IdSource(0xBEEF))
    own = stamp.next_id()
    assert records.is_made_by_broker(own, wall)
    assert not records.is_made_by_broker(own, wall + 60)
    assert not records.is_made_by_broker("0" * 22, wall)
    assert not records.is_made_by_broker("6f1c2a52-6f0e-4f0e-9a52-0d6a1f1c2a52", wall)
    assert not records.is_made_by_broker("order-17", wall)


def test_a_segment_is_passed_by_only_when_all_its_ids_are_the_brokers():
    wall = 1_795_421_115.123
    at = records.rfc3339(wall).encode()
    own = Stamp(0.0, wall, IdSource(0xBEEF)).next_id().encode()
    line = b'{"op":"pub","seq":1,"topic":"t","message_id":"%b","published_at":"%b","message":1}\n'
    seconds = {at: wall}
    mine = line % (own, at) * 3
    assert not records.may_hold_client_ids(mine, seconds)
    for theirs in (b"order-17", b"", b"0" * 22, b"6" * 24, own[:-1] + b"x", b'\\"' + own):
        assert records.may_hold_client_ids(mine + line % (theirs, at) + mine, seconds), theirs


def test_memory_only_messages_have_no_record():
    message = Message(1, "m", b'"topic":"t"', durability=MEMORY)
    (line,) = pub_lines(0, [message])
    assert b'"durability":"memory"' in line, "and who writes one by mistake can see it"
