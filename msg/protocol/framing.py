"""Bytes to frames: where one object ends and the next begins, with and without newlines.

Knows JSON's strings and brackets and nothing of commands. A frame begins at `{` and is
complete at the bracket that closes it; a raw LF ends whatever is open. Because every
decision depends only on the bytes seen so far and never on how they were cut into reads,
any splitting of a stream gives the same frames and the same errors.

What is scanned once is never scanned again, so a frame of 1 MiB costs the same in one
read and in a million. The connection's fast path for complete lines is in
`msg.protocol.codec`; what it does not understand at once comes here.
"""

import re
from enum import Enum

from msg.errors import ClientError, FatalClientError

FRAME_BYTES_MAX = 1024 * 1024
HELLO_BYTES_MAX = 4096  # before authentication: a stranger gets no megabyte

_INSIDE = rb'[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+'
_STRING_REST = re.compile(_INSIDE)
# A short plain string is one token; a quote alone begins one that is long, has escapes or is
# not complete yet. Those are searched for their end by `find`, 100 times as fast a byte.
_TOKEN = re.compile(rb'"[^"\\\n]{0,200}+"|[{}\[\]\n"]')
_NOT_BLANK = re.compile(rb"[^ \t\r\n]")
_NOT_BLANK_IN_LINE = re.compile(rb"[^ \t\r]")

_QUOTE, _LF, _BACKSLASH = b'"'[0], b"\n"[0], b"\\"[0]
_OPENING, _CLOSING = frozenset(b"{["), frozenset(b"}]")

_SKIP_BYTES = 512  # from here on it pays to look at many bytes at once
_PAIRS_ROUNDS = 20  # of taking out pairs of brackets; deeper ones are counted one by one
_ESCAPED = b"\1\1"
_TO_ROUND = bytes.maketrans(b"{[}]", b"(())")
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"{}[]\1"))


class _State(Enum):
    BETWEEN = "between frames: blanks and blank lines mean nothing"
    OBJECT = "inside an object that is not complete"
    GARBAGE = "in a line that began with something else; its LF ends it"
    DISTRUSTED = "after an object that could not be parsed; only its LF proves its end"
    CLOSED = "after a fatal error or the end: whatever comes is dropped"


def _string_rest(buffer: bytearray, at: int) -> int:
    """From inside a string: the index of its closing quote or of a LF in it; or where the bytes
    run out, perhaps behind a backslash that waits for its character."""
    end = buffer.find(_QUOTE, at)
    if end < 0:
        end = len(buffer)
    if buffer.find(_BACKSLASH, at, end) < 0 and buffer.find(_LF, at, end) < 0:
        return end
    rest = _STRING_REST.match(buffer, at)
    assert rest is not None  # it matches the empty string too
    return rest.end()


def brackets_of(text: bytes, in_string: bool = False) -> tuple[bytes | None, bool]:
    """The brackets outside of strings, all as ( and ); and whether a string is open at the end.

    None for text that is no JSON, in that it has escapes outside of strings: where its strings
    begin, only a look at each byte tells. `in_string`: whether one is open at the beginning.
    """
    if b"\\" in text:
        text = text.replace(b"\\\\", _ESCAPED).replace(b'\\"', _ESCAPED)
    parts = text.split(b'"')
    outside = b"".join(parts[1 if in_string else 0 :: 2])
    brackets = outside.translate(_TO_ROUND, _NOT_STRUCTURE)
    if _ESCAPED[:1] in brackets:
        return None, in_string
    return brackets, in_string ^ (len(parts) % 2 == 0)


def without_pairs(brackets: bytes, rounds: int) -> bytes:
    """Take out pairs that have nothing between them, so many times: what nests less is gone."""
    for _ in range(rounds):
        fewer = brackets.replace(b"()", b"")
        if len(fewer) == len(brackets):
            break
        brackets = fewer
    return brackets


def fatal(error: ClientError) -> FatalClientError:
    """The same error, but the connection ends with it."""
    if isinstance(error, FatalClientError):
        return error
    return FatalClientError(error.code, str(error), limit=error.limit)


class Framer:
    """The unread bytes of one connection: `push` what came in, `pull` until None.

    `pull` gives a frame's bytes, or an error that stands in its place in the order, or
    None when more bytes are needed. After a `FatalClientError` nothing more is given.
    `started` is set by the owner at the first frame that could be parsed: before that
    whatever is wrong is fatal at its first wrong byte, since it is a web page's request
    or a scanner's and its rest must not be executed.
    """

    __slots__ = (
        "_at",
        "_buffer",
        "_depth",
        "_fault",
        "_in_string",
        "_start",
        "_state",
        "closed",
        "limit",
        "started",
    )

    def __init__(self, limit: int = FRAME_BYTES_MAX) -> None:
        self.limit = limit
        self.started = False
        self.closed = False  # nothing more is given
        self._buffer = bytearray()
        self._start = 0  # of the frame that is open
        self._at = 0  # everything before it was scanned
        self._state = _State.BETWEEN
        self._depth = 0
        self._in_string = False
        self._fault = ClientError("bad_frame", "")  # what GARBAGE and DISTRUSTED will answer

    @property
    def busy(self) -> bool:
        """Whether the next byte belongs to something that came before it."""
        if self._state is _State.CLOSED:
            return False
        return self._state is not _State.BETWEEN or self._start < len(self._buffer)

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and its end has not come: it may live for 30 s."""
        return self._state is _State.OBJECT

    @property
    def broken(self) -> bool:
        """Whether something wrong waits for the LF that would confine it: 1 s."""
        return self._state in (_State.GARBAGE, _State.DISTRUSTED)

    @property
    def pending(self) -> bool:
        """Whether it is partial or broken."""
        return self._state is not _State.BETWEEN and self._state is not _State.CLOSED

    @property
    def pending_bytes(self) -> int:
        return len(self._buffer) - self._start

    def push(self, data: bytes) -> None:
        if self._state is _State.CLOSED:
            return
        if self._start:
            del self._buffer[: self._start]
            self._at -= self._start
            self._start = 0
        self._buffer += data

    def pull(self) -> bytes | ClientError | None:
        if self._state is _State.BETWEEN and not self._begin():
            return None
        match self._state:
            case _State.OBJECT:
                return self._object()
            case _State.GARBAGE:
                return self._garbage()
            case _State.DISTRUSTED:
                return self._distrusted()
            case _:
                return None

    def distrust(self, error: ClientError) -> None:
        """The frame just pulled was no JSON after all.

        Its brackets were even, but where they really end nobody can say. If a LF follows,
        the line is the frame and the error costs only itself; any other byte is fatal.
        """
        self._state = _State.DISTRUSTED
        self._fault = error

    def end(self) -> ClientError | None:
        """The client sends no more: the error that what is left over amounts to, if any."""
        partial, broken = self.partial, self.broken
        self.close()
        if partial:
            return FatalClientError(
                "bad_frame", "The connection ended inside a frame; send its last bracket too."
            )
        return self._fault if broken else None

    def expire(self) -> FatalClientError:
        """The time for what is pending is over."""
        broken = self.broken
        self.close()
        if broken:
            return fatal(self._fault)
        return FatalClientError(
            "bad_frame", "The frame was begun but not completed in time; send it in one piece."
        )

    def close(self) -> None:
        """Drop what is pending and all that may still come."""
        self._buffer = bytearray()
        self._start = self._at = 0
        self._state = _State.CLOSED
        self.closed = True

    def _begin(self) -> bool:
        found = _NOT_BLANK.search(self._buffer, self._at)
        if found is None:
            self._start = self._at = len(self._buffer)
            return False
        self._start = self._at = found.start()
        if self._buffer[self._at] == b"{"[0]:
            self._state, self._depth, self._in_string = _State.OBJECT, 0, False
        else:
            self._state = _State.GARBAGE
            self._fault = ClientError(
                "bad_frame", 'A frame is a JSON object, such as {"action":"ping"}.'
            )
        return True

    def _garbage(self) -> ClientError | None:
        if not self.started:
            return self._give_up(self._fault)
        end = self._buffer.find(b"\n", self._at)
        self._at = len(self._buffer) if end < 0 else end
        if self._at - self._start > self.limit:
            return self._give_up(self._too_large())
        if end < 0:
            return None
        self._finish(end + 1)
        return self._fault

    def _distrusted(self) -> ClientError | None:
        found = _NOT_BLANK_IN_LINE.search(self._buffer, self._at)
        if found is None:
            self._start = self._at = len(self._buffer)
            return None
        if self._buffer[found.start()] != _LF:
            return self._give_up(self._fault)
        self._finish(found.end())
        return self._fault

    def _object(self) -> bytes | ClientError | None:
        end = self._scan()
        if (end or len(self._buffer)) - self._start > self.limit:
            return self._give_up(self._too_large())
        if end is None:
            return None
        if self._buffer[end - 1] == _LF:
            self._finish(end)
            error = ClientError(
                "bad_frame",
                "A line break inside an object ends the frame; write each object on one line"
                " and line breaks in strings as \\n.",
            )
            return error if self.started else self._give_up(error)
        frame = bytes(self._buffer[self._start : end])
        self._finish(end)
        return frame

    def take_line(self, end: bytes) -> bytes | None:
        """The line that the pending object makes with these bytes, which end in a LF; None when
        something else is pending. It stays pending until `drop`."""
        return bytes(self._buffer[self._start :]) + end if self.partial else None

    def drop(self) -> None:
        """What was pending has been dealt with."""
        self._finish(len(self._buffer))

    def _skip(self) -> bool:
        """Pass over all new bytes of an object that does not end in them, without a look at
        each token: 10 ns a byte of objects, where the tokens take 100. False: nothing passed."""
        region = bytes(self._buffer[self._at :])
        if (len(region) - len(region.rstrip(b"\\"))) % 2:
            region = region[:-1]  # it waits for its character
        if b"\n" in region:
            return False
        brackets, in_string = brackets_of(region, self._in_string)
        if brackets is None:
            return False  # each token counts
        depth = self._depth
        if depth == 0:  # the object begins here: its own bracket must not be taken for a pair
            depth, brackets = 1, brackets[1:]
        brackets = without_pairs(brackets, _PAIRS_ROUNDS)
        closing = brackets.find(b"(")
        if closing < 0:
            closing = len(brackets)
        if closing >= depth or b")" in brackets[closing:]:
            return False  # the object ends here, or is deep
        self._depth = depth + len(brackets) - 2 * closing
        self._in_string = in_string
        self._at += len(region)
        return True

    def _scan(self) -> int | None:
        """Go on to the end of the object or the LF in it: the index behind that, or None."""
        if len(self._buffer) - self._at >= _SKIP_BYTES and self._skip():
            return None
        buffer, depth, at = self._buffer, self._depth, self._at
        while True:
            if self._in_string:
                at = _string_rest(buffer, at)
                # Either the bytes ran out, perhaps behind a backslash that waits for its
                # character, or here is the closing quote or a LF.
                if buffer[at : at + 2] == b"\\\n":
                    at += 1
                if at == len(buffer) or buffer[at] not in (_QUOTE, _LF):
                    break
                if buffer[at] == _LF:
                    return at + 1
                at += 1
                self._in_string = False
            for token in _TOKEN.finditer(buffer, at):
                first = buffer[token.start()]
                if first == _QUOTE:
                    if token.end() - token.start() == 1:
                        self._in_string = True
                        at = token.end()
                        break
                elif first in _OPENING:
                    depth += 1
                elif first in _CLOSING:
                    depth -= 1
                    if depth == 0:
                        return token.end()
                else:
                    return token.end()
            else:
                at = len(buffer)
                break
        self._depth, self._at = depth, at
        return None

    def _finish(self, end: int) -> None:
        self._start = self._at = end
        self._state = _State.BETWEEN

    def _give_up(self, error: ClientError) -> FatalClientError:
        self.close()
        return fatal(error)

    def _too_large(self) -> ClientError:
        return FatalClientError(
            "too_large",
            f"A frame may have {self.limit:,} bytes; send less, or pieces of it.",
            limit=self.limit,
        )
