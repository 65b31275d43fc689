"""What the fast path believes of msgspec. Should a new version differ, this says so first.

`msg.protocol.codec` leaves to msgspec: grammar, escapes, surrogates and control characters
even in what it skips (`Raw`), the order of duplicate keys, and one value per call. It checks
itself what msgspec does not: UTF-8, numbers and depth of skipped values.
"""

import msgspec
import pytest
from msgspec import Raw

from msg.core.commands import Publish
from msg.protocol.codec import _decode, _decode_fields, commands_by_action
from tests.protocol.test_traps import NOT_JSON, NOT_UTF8, SURROGATES, publish


@pytest.mark.parametrize("body", NOT_JSON + SURROGATES)
@pytest.mark.parametrize("place", [b"%b", b"[%b]", b'{"a":%b}', b'{"%b":1}'])
def test_skipped_values_are_checked_for_grammar(body, place):
    if place == b'{"%b":1}':
        if not body.startswith(b'"') or len(body) < 3 or not body.endswith(b'"'):
            return
        place = b"{%b:1}"
    elif not body and place == b"[%b]":
        return  # an empty array
    with pytest.raises(msgspec.DecodeError):
        _decode(publish(place % body))
    with pytest.raises(msgspec.DecodeError):
        _decode_fields(publish(place % body))


@pytest.mark.parametrize("body", NOT_UTF8)
def test_skipped_values_are_not_checked_for_utf8(body):
    assert bytes(_decode(publish(body)).message) == body


def test_nor_for_the_range_of_numbers_or_depth():
    for body in (b"1e400", b"9" * 5000, b"[" * 500 + b"]" * 500):
        assert bytes(_decode(publish(body)).message) == body


def test_great_depth_is_a_recursion_error():
    with pytest.raises(RecursionError):
        _decode(publish(b"[" * 100_000 + b"]" * 100_000))


def test_typed_numbers_are_checked():
    for number in (b"1e400", b"9" * 4301):
        for field in (b"delay", b"priority"):
            with pytest.raises(msgspec.ValidationError):
                _decode(publish(b"1", b',"%b":%b' % (field, number)))


def test_one_value_per_call_and_only_blanks_around_it():
    assert _decode(b' \t\r\n{"action":"ping"} \t\r\n') == _decode(b'{"action":"ping"}')
    for wrong in (b'{"action":"ping"}{"action":"ping"}', b'{"action":"ping"}\x00', b"\n", b""):
        with pytest.raises(msgspec.DecodeError):
            _decode(wrong)


def test_unknown_fields_are_refused_here_and_left_out_by_the_slow_path():
    for class_ in commands_by_action().values():
        assert class_.__struct_config__.forbid_unknown_fields
    with pytest.raises(msgspec.ValidationError):
        _decode(b'{"action":"ping","x":1}')


def test_the_last_of_duplicate_keys_wins_but_for_the_tag():
    assert _decode(b'{"action":"ping","id":"a","id":"b"}').id == "b"
    assert bytes(_decode(publish(b'"a"', b',"message":"b"')).message) == b'"b"'
    assert bytes(_decode_fields(b'{"a":1,"\\u0061":2}')["a"]) == b"2"
    with pytest.raises(msgspec.ValidationError):
        _decode(b'{"action":"ack","action":"ping"}')


def test_a_bool_is_no_number_and_a_whole_float_no_int():
    for field in (b'"delay":true', b'"priority":true', b'"priority":4.0'):
        with pytest.raises(msgspec.ValidationError):
            _decode(publish(b"1", b"," + field))


def test_a_raw_is_a_view_that_keeps_its_line_alive_and_has_no_blanks_around_it():
    command = _decode(publish(b' \t{"a": 1} '))
    assert isinstance(command, Publish)
    assert bytes(command.message) == b'{"a": 1}'
    assert b"\n".join([command.message, Raw(b"1")]) == b'{"a": 1}\n1'


def test_what_came_before_an_error_is_kept_by_extend():
    got: list[object] = []
    lines = iter([b'{"action":"ping"}', b"wrong", b'{"action":"pong"}'])
    with pytest.raises(msgspec.DecodeError):
        got.extend(map(_decode, lines))
    assert len(got) == 1
    got.extend(map(_decode, lines))
    assert len(got) == 2
