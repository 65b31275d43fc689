"""JSON's traps: each is a typed error, and nothing is let in that could not be delivered."""

import json
import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msg.core.commands import Publish
from msg.protocol.codec import DEPTH_MAX, Decoder, decode_frame
from msg.protocol.encode import heard, wire
from tests.protocol.wire import GREETED, HELLO, after_hello, kinds, plain, read

GOOD_NUMBERS = [
    b"0",
    b"-0",
    b"1.5",
    b"1e5",
    b"1E+5",
    b"1e-400",
    b"1.7976931348623157e308",
    b"0." + b"0" * 400 + b"1e100",
    b"9" * 4300,
    b"-" + b"9" * 4300,
    b"0." + b"9" * 5000,
]
HUGE_NUMBERS = [
    b"1e400",
    b"-1e400",
    b"1E400",
    b"1e+400",
    b"1e0400",
    b"1.8e308",
    b"1" + b"0" * 250 + b"e99",
    b"1" + b"0" * 250 + b".5e99",
    b"1" + b"0" * 305 + b"e9",
    b"1" + b"0" * 400 + b".0",
    b"9" * 4301,
    b"-" + b"9" * 4301,
]
# what stands around a number in a body
PLACES = [b"%b", b"[%b]", b'{"a":%b}', b'[ 1, %b ,"x"]', b'{"a" :\t%b}', b'["1e9",[[%b]]]', b" %b "]
NOT_JSON = [
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"nan",
    b"01",
    b"+1",
    b"1.",
    b".5",
    b"1e",
    b"-",
    b"0x10",
    b"tru",
    b"None",
    b"'a'",
    b"[1,]",
    b'{"a":1,}',
    b"{a:1}",
    b"{1:2}",
    b"[1 2]",
    b"[1",
    b"1]",
    b'"a',
    b'"\\x"',
    b'"\\u12"',
    b'"\\u12g4"',
    b'"a\tb"',
    b'"\x00"',
    b'"\x1f"',
    b"\x00",
    b"\x0c1",
    b"\xc2\xa01",
    b"/*1*/1",
    b"",
]
SURROGATES = [
    b'"\\ud800"',
    b'"\\udfff"',
    b'"\\ud800 and more text behind it"',
    b'"\\udc00\\ud800 in the wrong order"',
    b'"\\ud800\\ud800\\udc00"',
    b'"\\ud800\\\\udc00 that is a backslash"',
    b'"\\ud83d\\n\\ude00"',
    b'{"\\ud800 in a key":1}',
    b'[["\\uDBFF"]]',
]
NOT_UTF8 = [
    b'"\xff"',
    b'"\xc3"',
    b'"\xed\xa0\x80"',  # a surrogate, encoded
    b'"\xc0\xaf"',  # overlong
    b'"\xf4\x90\x80\x80"',  # above U+10FFFF
    b'{"\xe4":1}',
]


def publish(body, more=b""):
    return b'{"action":"publish","topic":"t","message":%b%b}' % (body, more)


def four_ways(frame):
    """One frame as a line, as a line among others, without a newline, and byte by byte."""
    bytewise = [frame[i : i + 1] for i in range(len(frame))] if len(frame) < 3000 else [frame]
    for pieces in (
        [frame + b"\n"],
        [HELLO + frame + b"\n" + HELLO],
        [frame, b"\n"],
        [*bytewise, b"\n"],
    ):
        items, decoder = after_hello(*pieces)
        yield [item for item in items if item != GREETED], decoder


def refused(frame):
    for items, decoder in four_ways(frame):
        assert kinds(items) == ["bad_frame"]
        assert not decoder.closed


def taken(frame, body):
    for items, _ in four_ways(frame):
        assert [item[1]["message"] for item in items] == [body]


class TestBodies:
    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("number", HUGE_NUMBERS)
    def test_a_number_out_of_range_is_refused(self, number, place):
        refused(publish(place % number))

    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("number", GOOD_NUMBERS)
    def test_a_number_in_range_is_taken_as_it_is(self, number, place):
        taken(publish(place % number), (place % number).strip())

    @pytest.mark.parametrize("text", [b"1e400", b":1e400,", b"[1e999]", b"9" * 5000, b"NaN"])
    def test_text_that_looks_like_a_number_is_text(self, text):
        taken(publish(b'"%b"' % text), b'"%b"' % text)
        taken(publish(b'{"%b":["%b"]}' % (text, text)), b'{"%b":["%b"]}' % (text, text))

    @pytest.mark.parametrize("body", NOT_JSON + SURROGATES + NOT_UTF8)
    def test_what_is_no_json_is_refused(self, body):
        for frame in (publish(body), publish(b"[%b]" % body) if body else publish(body)):
            for items, _ in four_ways(frame):
                assert kinds(items)[0] in ("bad_frame", "bad_frame!")
                assert "Publish" not in kinds(items)

    @pytest.mark.parametrize(
        "body",
        [
            b'"\\ud83d\\ude00"',
            b'"\\\\ud800"',
            '"\u2028 \ufeff \U0001f600 \x7f"'.encode(),
            b'"\\u0000"',
            b"null",
            b"{}",
            b"[]",
            b'""',
            b'{"a":1,"a":2}',
        ],
    )
    def test_what_is_unusual_but_json_is_taken_untouched(self, body):
        taken(publish(body), body)

    def test_one_wrong_body_among_many_costs_only_itself(self):
        lines = [publish(b'{"n":%d}' % n) for n in range(100)]
        lines[40] = publish(b'{"n":1e400}')
        items, _ = after_hello(b"\n".join(lines) + b"\n")
        assert kinds(items) == ["Publish"] * 40 + ["bad_frame"] + ["Publish"] * 59
        assert [item[1]["message"] for item in items if item[0] == "Publish"] == [
            b'{"n":%d}' % n for n in range(100) if n != 40
        ]


class TestUnknownAndTypedFields:
    """The rules hold for the whole frame, not only for bodies."""

    @pytest.mark.parametrize("wrong", [b"1e400", *NOT_JSON[:3], *SURROGATES[:3], *NOT_UTF8])
    def test_a_wrong_value_in_an_unknown_field(self, wrong):
        for frame in (b'{"action":"ping","x":%b}' % wrong, publish(b"1", b',"x":[%b]' % wrong)):
            refused(frame)

    @pytest.mark.parametrize("field", [b"delay", b"priority", b"ttl"])
    def test_a_number_out_of_range_in_a_typed_field(self, field):
        refused(publish(b"1", b',"%b":1e400' % field))
        refused(publish(b"1", b',"%b":%b' % (field, b"9" * 4301)))

    def test_in_settings(self):
        refused(b'{"action":"declare","topic":"t","settings":{"a":1e400}}')
        refused(b'{"action":"declare","topic":"t","settings":{"a":%b}}' % (b"[" * 63 + b"]" * 63))


class TestDepth:
    @pytest.mark.parametrize(("open_", "close"), [(b"[", b"]"), (b'{"a":', b"}")])
    def test_64_levels_with_the_frame_itself(self, open_, close):
        for number, expected in ((DEPTH_MAX - 1, "Publish"), (DEPTH_MAX, "bad_frame")):
            body = open_ * number + b"1" + close * number
            for items, _ in four_ways(publish(body)):
                assert kinds(items) == [expected]
            for items, _ in four_ways(b'{"action":"ping","x":%b}' % body):
                assert kinds(items) == ["Ping" if expected == "Publish" else "bad_frame"]

    def test_many_brackets_are_not_depth(self):
        taken(publish(b"[%b[]]" % (b"[]," * 200)), b"[%b[]]" % (b"[]," * 200))
        taken(publish(b'["%b"]' % (b"[{" * 200)), b'["%b"]' % (b"[{" * 200))

    @pytest.mark.parametrize("depth", [900, 2000, 100_000])
    def test_a_parser_that_gives_up_is_an_input_error(self, depth):
        assert depth < 1000 or depth > sys.getrecursionlimit()
        for open_, close in ((b"[", b"]"), (b'{"a":', b"}")):
            refused(publish(open_ * depth + close * depth))

    def test_unclosed_depth(self):
        items, _ = after_hello(publish(b"[" * 100_000)[:-1] + b"\n" + HELLO)
        assert kinds(items) == ["bad_frame", "Ping"]


class TestDuplicateKeys:
    """Of duplicate keys the last wins, whichever path decodes the frame."""

    @pytest.mark.parametrize(
        ("frame", "expected"),
        [
            (b'{"action":"ack","action":"ping","id":"x"}', ("Ping", {"id": "x"})),
            (b'{"action":"ping","action":"ping"}', ("Ping", {"id": None})),
            (b'{"action":"fly","action":"ping"}', ("Ping", {"id": None})),
            (b'{"action":1,"action":"ping"}', ("Ping", {"id": None})),
            (b'{"action":"ping","id":"a","id":"b"}', ("Ping", {"id": "b"})),
            (b'{"action":"ping","id":7,"id":"b"}', ("Ping", {"id": "b"})),
            (b'{"id":"a","action":"ping","i\\u0064":"b"}', ("Ping", {"id": "b"})),
            (b'{"type":"ack","type":"ping"}', ("Ping", {"id": None})),
            (b'{"\\u0061ction":"ping"}', ("Ping", {"id": None})),
        ],
    )
    def test_the_last_wins(self, frame, expected):
        for items, _ in four_ways(frame):
            assert items == [expected]
        assert plain(decode_frame(frame)) == expected

    def test_the_last_may_be_the_wrong_one(self):
        assert kinds(after_hello(b'{"action":"ping","id":"b","id":7}\n')[0]) == ["bad_field"]
        assert kinds(after_hello(b'{"action":"ping","action":"fly"}\n')[0]) == ["unknown_action"]
        assert kinds(
            after_hello(b'{"action":"publish","topic":"t","message":1,"message":1e400}\n')[0]
        ) == ["bad_frame"]

    def test_of_two_bodies(self):
        frame = b'{"action":"publish","message":"a","topic":"t","message":{"b":1}}'
        taken(frame, b'{"b":1}')


def reference(frame):
    """Whether the standard library, with every strictness added, takes this as one object."""

    def number(text):
        assert math.isfinite(float(text))

    def integer(text):
        assert len(text.lstrip("-")) <= 4300

    def constant(text):
        raise ValueError(text)

    try:
        text = frame.decode()
        assert "\r" not in text
        assert "\n" not in text
        parsed = json.loads(
            text,
            parse_float=number,
            parse_int=integer,
            parse_constant=constant,
            object_pairs_hook=list,
        )
        json.dumps(parsed, ensure_ascii=False).encode()
    except (ValueError, AssertionError):
        return False
    return text.lstrip(" \t").startswith("{")


VALID = [
    publish(b'{"a":[1,2.5e3,-0,null,true,"\\ud83d\\ude00\\n"],"b":{"c":""}}', b',"id":"x"'),
    b'{"action":"ack","tags":[1,2,3]}',
    '{"action":"publish","topic":"é","message":"ß\u2028"}'.encode(),
    b'{"action":"declare","topic":"q","settings":{"a":[1e5]}}',
]
mutations = st.lists(
    st.tuples(
        st.integers(0, 200),
        st.integers(0, 4),
        st.sampled_from(
            [
                *(b"", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"1", b"e99", b"e", b"-"),
                *(b"\xff", b"\xc3", b"\\ud800", b"\\u", b"\r", b"\x00", b"nul", b" ", b"9" * 300),
            ]
        ),
    ),
    max_size=4,
)


def judge_mutated(frame, changes):
    """Nothing uncaught; every path judges as the strict reference does; and what is let in
    can be delivered: as a message it is one line that the reference takes too."""
    for place, length, new in changes:
        place %= len(frame) + 1
        frame = frame[:place] + new + frame[place + length :]
    frame = frame.strip(b" \t\r")  # those may stand between frames
    line = after_hello(frame + b"\n")[0]
    pieces = after_hello(*[frame[i : i + 7] for i in range(0, len(frame), 7)], b"\n")[0]
    assert pieces == line
    if reference(frame):
        assert len(line) == 1
        assert kinds(line)[0] not in ("bad_frame", "bad_frame!")
    elif frame and len(line) == 1:  # not two frames in a row
        assert kinds(line)[0] in ("bad_frame", "bad_frame!")
    for command in Decoder().feed(frame + b"\n"):
        if isinstance(command, Publish):
            delivered = heard([wire(command, "m", b"2026-11-23T08:05:15Z")])
            assert reference(delivered.removesuffix(b"\n"))


@given(st.sampled_from(VALID), mutations)
@settings(max_examples=1500)
def test_mutated_frames_against_the_standard_library(frame, changes):
    judge_mutated(frame, changes)


@pytest.mark.full
@pytest.mark.timeout(300)
@given(st.sampled_from(VALID), mutations)
@settings(max_examples=20_000)
def test_many_mutated_frames_against_the_standard_library(frame, changes):
    judge_mutated(frame, changes)


@given(st.lists(st.binary(max_size=40), max_size=5), st.booleans())
@settings(max_examples=500)
def test_noise_gives_results_that_do_not_depend_on_its_cuts(pieces, greeted):
    if greeted:
        pieces = [HELLO, *pieces]
    assert read(*pieces, eof=True)[0] == read(b"".join(pieces), eof=True)[0]
