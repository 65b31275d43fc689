"""Frames and their ends: what is complete, what is broken, what closes the connection."""

import pytest

from msg.protocol.codec import ERRORS_IN_A_ROW_MAX, Decoder
from msg.protocol.framing import FRAME_BYTES_MAX, Framer
from tests.protocol.wire import HELLO, after_hello, kinds, plain, read

PING = b'{"action":"ping"}'


class TestEndsOfFrames:
    @pytest.mark.parametrize(
        ("stream", "expected"),
        [
            (PING, ["Ping"]),
            (PING + b"\n", ["Ping"]),
            (PING + b"\r\n", ["Ping"]),
            (b"\n\r\n \t\n" + PING + b"\n\n", ["Ping"]),
            (PING + PING, ["Ping", "Ping"]),
            (PING + b" " + PING + b"\n" + PING, ["Ping", "Ping", "Ping"]),
            (b" \t" + PING + b" \r\n", ["Ping"]),
            (b"\n" * 1000, []),
            (b"", []),
            (PING[:-1], []),
        ],
    )
    def test_a_frame_is_complete_at_its_last_bracket(self, stream, expected):
        items, decoder = read(stream)
        assert kinds(items) == expected
        assert not decoder.closed

    def test_brackets_and_quotes_in_strings_do_not_count(self):
        items, _ = read(rb'{"action":"publish","topic":"t","message":"}\"]{\\"}')
        assert items == [
            ("Publish", {**items[0][1], "topic": "t", "message": rb'"}\"]{\\"'}),
        ]

    def test_a_line_break_inside_an_object_ends_the_frame_and_costs_only_it(self):
        items, decoder = after_hello(b'{"action":\n"ping"}\n' + PING)
        # what is left of the object is a line of its own, and wrong too
        assert kinds(items) == ["bad_frame", "bad_frame", "Ping"]
        assert not decoder.closed

    def test_two_frames_on_a_line_do_not_hide_one_over_two_lines(self):
        # as many line breaks as frames: a count alone would not notice
        items, _ = after_hello(PING + PING + b'\n{"action":\n"ping"}\n')
        assert kinds(items) == ["Ping", "Ping", "bad_frame", "bad_frame"]

    def test_a_line_break_inside_a_string_ends_the_frame(self):
        items, _ = after_hello(b'{"action":"publish","topic":"t","message":"a\n', PING)
        assert kinds(items) == ["bad_frame", "Ping"]

    def test_also_behind_a_backslash(self):
        for pieces in ([b'{"a":"\\\n' + PING], [b'{"a":"\\', b"\n", PING]):
            assert kinds(after_hello(*pieces)[0]) == ["bad_frame", "Ping"]

    def test_a_raw_cr_inside_a_frame_is_refused(self):
        for frame in (b'{"action":\r"ping"}', b'{"action"\r\n:"ping"}', b'{"action":"a\rb"}'):
            assert kinds(after_hello(frame + b"\n")[0])[0] == "bad_frame"

    def test_many_good_lines_around_a_wrong_one(self):
        line = b'{"action":"ack","tag":1}\n'
        items, _ = read(line * 50 + b"{nonsense}\n" + line * 50 + b"\n" + line)
        assert kinds(items) == ["Ack"] * 50 + ["bad_frame"] + ["Ack"] * 51


class TestFirstFrame:
    @pytest.mark.parametrize(
        "start",
        [
            b"GET / HTTP/1.1\r\nHost: localhost:8888\r\n\r\n" + PING,
            b'POST / HTTP/1.1\r\nContent-Length: 18\r\n\r\n{"action":"ping"}\n',
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + PING + b"\n",
            b"\xef\xbb\xbf" + PING + b"\n",  # a byte order mark
            PING.decode().encode("utf-16") + b"\n",
            b"[1]\n" + PING,
            b'"action"\n' + PING,
            b"\x00" + PING,
            b"{}}".replace(b"{}", b'{"a" 1}') + PING,
            b'{"action":\n"ping"}\n' + PING,
            b'{"action":"publish","topic":"t","message":1e999}\n' + PING,
            b'{"action":"ping"' + b"\r" + b"}\n" + PING,
            b'{"a":"\xff"}\n' + PING,
            b"PING\n" + PING,
        ],
    )
    def test_one_error_then_nothing_is_executed(self, start):
        decoder = Decoder()
        items = [plain(item) for item in decoder.feed(start)]
        assert kinds(items) == ["bad_frame!"]
        assert decoder.closed
        assert decoder.feed(PING) == decoder.feed(HELLO * 10) == decoder.eof() == []
        assert decoder.pending_bytes == 0

    def test_a_request_is_recognised_by_its_first_byte(self):
        assert kinds(read(b"G")[0]) == ["bad_frame!"]

    def test_an_unknown_action_or_bad_field_is_no_reason_to_close(self):
        items, decoder = read(
            b'{"action":"fly"}\n{"action":"publish"}\n{}\n' + PING + b"foo\n" + PING
        )
        assert kinds(items) == [
            "unknown_action",
            "bad_field",
            "unknown_action",
            "Ping",
            "bad_frame",
            "Ping",
        ]
        assert not decoder.closed

    def test_nor_what_is_no_json_once_a_frame_was_understood(self):
        for first in (b'{"action":"fly"}\n', b'{"action":"publish"}'):
            items, decoder = read(first + b"\nfoo\n" + PING)
            assert kinds(items)[1:] == ["bad_frame", "Ping"]
            assert not decoder.closed

    def test_what_comes_before_a_wrong_line_is_executed(self):
        assert kinds(read(PING + b" x\n" + PING)[0]) == ["Ping", "bad_frame", "Ping"]


class TestBroken:
    """Later errors: a complete line costs itself; where the end is unknown, all ends."""

    def test_an_object_that_is_no_json_waits_for_its_line_end(self):
        items, decoder = after_hello(b'{"action" 1}')
        assert items == []
        assert decoder.broken
        assert not decoder.partial
        assert decoder.feed(b" \r") == []
        assert decoder.broken
        assert kinds(map(plain, decoder.feed(b"\n" + PING))) == ["bad_frame", "Ping"]
        assert not decoder.broken

    def test_any_other_byte_behind_it_closes(self):
        items, decoder = after_hello(b'{"action" 1}', PING)
        assert kinds(items) == ["bad_frame!"]
        assert decoder.closed

    def test_also_when_the_line_is_complete(self):
        assert kinds(after_hello(b'{"action" 1}' + PING + b"\n")[0]) == ["bad_frame!"]

    def test_what_is_not_an_object_waits_for_its_line_end(self):
        items, decoder = after_hello(b"fo")
        assert items == []
        assert decoder.broken
        assert kinds(map(plain, decoder.feed(b"o {}\n" + PING))) == ["bad_frame", "Ping"]

    def test_its_time_is_over(self):
        for pending in (b'{"action" 1}', b"foo"):
            _, decoder = after_hello(pending)
            assert kinds(map(plain, decoder.expire())) == ["bad_frame!"]
            assert decoder.closed
            assert decoder.expire() == []

    def test_a_partial_frame_whose_time_is_over(self):
        _, decoder = after_hello(b'{"action":')
        assert decoder.partial
        assert not decoder.broken
        assert decoder.pending_bytes == 10
        assert kinds(map(plain, decoder.expire())) == ["bad_frame!"]

    def test_taken_tells_a_new_partial_frame_from_the_old_one(self):
        _, decoder = after_hello(b'{"action":')
        before = decoder.taken
        decoder.feed(b'"pi')
        assert decoder.taken == before
        decoder.feed(b'ng"}{"action":')
        assert decoder.partial
        assert decoder.taken == before + 1

    def test_a_hundred_errors_in_a_row_close(self):
        wrong = b"{}\nfoo\n" * (ERRORS_IN_A_ROW_MAX // 2)
        items, decoder = after_hello(wrong + PING)
        assert kinds(items) == [
            *["unknown_action", "bad_frame"] * 49,
            "unknown_action",
            "bad_frame!",
        ]
        assert decoder.closed

    def test_how_many_is_a_setting(self):
        items, _ = after_hello(b"{}\n" * 5, errors_max=3)
        assert kinds(items) == ["unknown_action"] * 2 + ["unknown_action!"]

    def test_a_good_frame_begins_the_count_anew(self):
        almost = b"{}\n" * (ERRORS_IN_A_ROW_MAX - 1)
        items, decoder = after_hello(almost + HELLO + almost + PING + almost)
        assert not decoder.closed
        assert kinds(items).count("Ping") == 2

    def test_a_megabyte_of_empty_objects_ends_after_a_hundred(self):
        items, decoder = after_hello(b"{}" * 500_000)
        assert len(items) == ERRORS_IN_A_ROW_MAX
        assert decoder.closed


class TestEnd:
    def test_what_is_complete_has_been_executed(self):
        assert kinds(read(PING + PING, eof=True)[0]) == ["Ping", "Ping"]

    def test_a_partial_frame_is_an_error(self):
        items, decoder = read(PING + b'{"action":"pi', eof=True)
        assert kinds(items) == ["Ping", "bad_frame!"]
        assert decoder.closed

    def test_the_end_is_as_good_as_a_line_end(self):
        assert kinds(read(HELLO + b'{"action" 1}', eof=True)[0]) == ["Ping", "bad_frame"]
        assert kinds(read(HELLO + b"foo", eof=True)[0]) == ["Ping", "bad_frame"]

    def test_nothing_at_all(self):
        assert read(b"\r\n \n", eof=True)[0] == []


class TestLimit:
    def frame(self, size):
        empty = b'{"action":"publish","topic":"t","message":""}'
        return empty.replace(b'""', b'"%b"' % (b"x" * (size - len(empty))))

    @pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
    def test_a_frame_of_just_the_limit_is_good_and_one_byte_more_closes(self, end):
        for pieces in (lambda b: [b], lambda b: [b[:700], b[700:]], lambda b: [b[:-1], b[-1:]]):
            good, wrong = self.frame(1000) + end, self.frame(1001) + end
            assert kinds(after_hello(*pieces(good), limit=1000)[0]) == ["Publish"]
            items, decoder = after_hello(*pieces(wrong), PING, limit=1000)
            assert kinds(items) == ["too_large!"]
            assert items[0][4] == 1000
            assert decoder.closed

    def test_it_is_noticed_before_the_end_comes(self):
        items, decoder = after_hello(b'{"a":"' + b"x" * 95, limit=100)
        assert kinds(items) == ["too_large!"]
        assert decoder.pending_bytes == 0

    def test_a_line_that_is_no_object_has_the_same_limit(self):
        assert kinds(after_hello(b"x" * 100 + b"\n", limit=100)[0]) == ["bad_frame"]
        assert kinds(after_hello(b"x" * 101 + b"\n", limit=100)[0]) == ["too_large!"]
        assert kinds(after_hello(b"x" * 101, limit=100)[0]) == ["too_large!"]

    def test_many_frames_in_one_read_may_be_more_than_the_limit_together(self):
        assert len(read(PING * 100, limit=100)[0]) == 100
        assert len(read(HELLO * 100, limit=100)[0]) == 100

    def test_a_megabyte_without_end_keeps_no_more_than_the_limit(self):
        decoder = Decoder()
        decoder.feed(HELLO)
        items = []
        for _ in range(40):
            items += decoder.feed(b'{"' + b"x" * 65_534)
            assert decoder.pending_bytes <= FRAME_BYTES_MAX
        assert kinds(map(plain, items)) == ["too_large!"]


@pytest.mark.parametrize("size", [1, 1000, 65_536])
def test_a_long_frame_is_scanned_once_however_it_is_cut(size, monkeypatch):
    """Each scan must go on where the last one stopped: the sum of the stretches is linear."""
    scanned = []
    total = 20_000 if size == 1 else 1_000_000
    frame = b'{"action":"publish","topic":"t","message":"%b"}' % (b"y" * (total - 44))
    decoder = Decoder()
    scan = Framer._scan

    def counted(framer):
        begin = framer._at
        end = scan(framer)
        scanned.append((end or framer._at) - begin)
        return end

    monkeypatch.setattr(Framer, "_scan", counted)
    items = []
    for start in range(0, len(frame), size):
        items += decoder.feed(frame[start : start + size])
    assert kinds(map(plain, items)) == ["Publish"]
    assert sum(scanned) <= 1.1 * len(frame)
