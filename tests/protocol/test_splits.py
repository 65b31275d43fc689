"""However a stream is cut into reads, and with or without newlines, the results are equal."""

import json
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from msg.protocol import framing
from tests.protocol.wire import HELLO, cut, kinds, plain, read

names = st.sampled_from(["jobs", "a.b", "é", "x" * 128])
bodies = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('ab{}[]"\\', max_size=3), inner)
    ),
    max_leaves=5,
)


def as_json(value, ascii_only, blanks):
    separators = (", ", ": ") if blanks else (",", ":")
    return json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode()


commands = st.one_of(
    st.fixed_dictionaries(
        {"action": st.just("publish"), "topic": names, "message": bodies},
        optional={
            "mode": st.sampled_from(["queue", "pubsub", "other"]),
            "id": st.sampled_from(["1", "é", 7, ""]),
            "message_id": st.sampled_from(["m", "n" * 200, None]),
            "priority": st.sampled_from([4, 4.0, 4.5, True, "4"]),
            "headers": st.dictionaries(st.text("ab"), st.text("ab{"), max_size=2),
            "x-unknown": bodies,
        },
    ),
    st.fixed_dictionaries(
        {"action": st.just("ack")},
        optional={"message_id": names, "tag": st.integers(), "tags": st.lists(st.integers(0, 9))},
    ),
    st.fixed_dictionaries({"type": st.sampled_from(["ack", "ping", "message"])}),
    st.fixed_dictionaries(
        {"action": st.just("declare"), "topic": names}, optional={"settings": bodies}
    ),
    st.dictionaries(st.text("acn", max_size=3), bodies, max_size=2),
)
frames = st.builds(as_json, commands, st.booleans(), st.booleans())
wrongs = st.sampled_from(
    [
        b'{"action" "ping"}',
        b'{"action":"ping",}',
        b'{"action":\n"ping"}',
        b'{"action":"pi\nng"}',
        b'{"action":\r"ping"}',
        b'{"action":"publish","topic":"t","message":1e400}',
        b'{"action":"publish","topic":"t","message":"\xff"}',
        b'{"action":"publish","topic":"t","message":"\\ud800"}',
        b'{"a":' + b"[" * 70 + b"]" * 70 + b"}",
        b"GET / HTTP/1.1",
        b"]",
        b'"',
        b"\\",
        b"\x00",
        b"\x0b",
        b"[1]",
        b"{",
        b"}",
        b'{"a":"\\',
    ]
)
ends = st.sampled_from([b"\n", b"\r\n", b"\n\n", b"", b"", b" ", b"\n \r\n", b"\r"])
streams = st.lists(st.tuples(st.one_of(frames, frames, frames, wrongs), ends), max_size=8).map(
    lambda parts: b"".join(frame + end for frame, end in parts)
)


@given(
    streams,
    st.booleans(),
    st.lists(st.integers(0, 400), max_size=5),
    st.sampled_from([90, 1 << 20]),
)
@example(b'{"action" "ping"}\r\n{"action":"ping"}\n', True, [17], 1 << 20)
@example(b'foo\n{"action":"ping"}', True, [], 1 << 20)
@settings(max_examples=400)
def test_any_splitting_gives_the_same(stream, greeted, places, limit):
    stream = (HELLO if greeted else b"") + stream
    places = [place for place in places if place <= len(stream)]
    whole, one = read(stream, limit=limit, eof=True)
    pieces, _ = read(*cut(stream, places), limit=limit, eof=True)
    single, two = read(*cut(stream, range(len(stream))), limit=limit, eof=True)
    assert pieces == whole
    assert single == whole
    assert one.taken == two.taken == len(whole)


@given(streams, st.lists(st.integers(0, 400), max_size=5))
@settings(max_examples=300)
def test_passing_over_many_bytes_at_once_gives_the_same(stream, places):
    """As large frames do, whose tokens nobody looks at one by one."""
    stream = HELLO + stream
    places = [place for place in places if place <= len(stream)]
    exact, _ = read(*cut(stream, places), eof=True)
    with mock.patch.object(framing, "_SKIP_BYTES", 1):
        passed, _ = read(*cut(stream, places), eof=True)
        single, _ = read(*cut(stream, range(len(stream))), eof=True)
    assert passed == single == exact


@pytest.mark.full
@given(st.lists(frames, min_size=1, max_size=6), st.data())
@settings(max_examples=200)
def test_newlines_make_no_difference_to_good_frames(objects, data):
    with_lf, _ = read(HELLO, b"".join(frame + b"\n" for frame in objects))
    for end in (b"", b"\r\n", b" ", b"\n\n", b"\t\n\r\n"):
        stream = b"".join(frame + end for frame in objects)
        places = data.draw(st.lists(st.integers(0, len(stream)), max_size=4))
        assert read(HELLO, *cut(stream, places))[0] == with_lf


@given(streams, st.lists(st.integers(0, 400), max_size=5))
@settings(max_examples=100)
def test_stepwise_gives_one_item_at_a_time_and_the_same_in_the_end(stream, places):
    stream = HELLO + stream
    whole, _ = read(stream)
    _, decoder = read(stepwise=True)
    items = []
    for piece in cut(stream, [place for place in places if place <= len(stream)]):
        got = decoder.feed(piece)
        while got:
            assert len(got) == 1
            items += got
            got = decoder.feed(b"")
    assert [plain(item) for item in items] == whole


def test_a_hello_raises_the_limit_for_what_follows_it_in_the_same_read():
    big = b'{"action":"publish","topic":"t","message":"%b"}\n' % (b"x" * 5000)
    _, decoder = read(limit=4096, stepwise=True)
    assert kinds(map(plain, decoder.feed(b'{"action":"hello","token":"t"}\n' + big + big))) == [
        "Hello"
    ]
    decoder.limit = 1 << 20
    decoder.stepwise = False
    assert kinds(map(plain, decoder.feed(big))) == ["Publish"] * 3
    assert kinds(read(big, limit=4096)[0]) == ["too_large!"]


def test_the_end_of_a_string_of_backslashes_is_found_at_every_cut():
    stream = (
        HELLO + rb'{"action":"publish","topic":"t","message":"\\\"\\\\{[","mode":"queue"}' + HELLO
    )
    whole, _ = read(stream)
    assert kinds(whole) == ["Ping", "Publish", "Ping"]
    for place in range(len(stream)):
        assert read(*cut(stream, [place]))[0] == whole


def test_a_bytearray_is_as_good_as_bytes():
    """trio's memory streams give those."""
    stream = HELLO + b'{"action":"publish","topic":"t","message":{"a":1}}'
    for pieces in ([stream], [HELLO, stream[len(HELLO) :]], cut(stream, [10, 40])):
        mutable = [bytearray(piece) for piece in pieces]
        items, decoder = read(*mutable)
        assert items == read(stream)[0]
        for piece in mutable:
            piece.clear()  # nothing holds on to it
        assert decoder.pending_bytes == 0
