"""The constant part of a message, made once when it is accepted (see `msg.core.message`).

Ids and times of one turn come from a `Stamp`, which the actor makes from its World, so
the rules need neither clock nor randomness.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from msg.core.commands import Publish

_encode = msgspec.json.encode
_SUFFIXES = [f"{i:04x}" for i in range(4096)]


def json_string(text: str) -> bytes:
    """`text` as a JSON string with its quotes."""
    return _encode(text)


@lru_cache(maxsize=8)
def _to_the_second(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"


def rfc3339(wall: float) -> str:
    """Seconds since the epoch as RFC 3339 UTC with milliseconds."""
    second = int(wall)
    return f"{_to_the_second(second)}.{int((wall - second) * 1000):03d}Z"


class Stamp:
    """Times and ids for one turn: `now` monotonic and `wall` epoch seconds.

    `prefix` must differ from that of every other turn and sort after the earlier ones; the
    ids are the prefix and a rising number, so they are unique and sort by acceptance.
    """

    __slots__ = ("_count", "_prefix", "now", "text", "wall")

    def __init__(self, now: float, wall: float, prefix: str) -> None:
        self.now = now
        self.wall = wall
        self.text = rfc3339(wall)
        self._prefix = prefix
        self._count = 0

    def next_id(self) -> str:
        i = self._count
        self._count = i + 1
        return self._prefix + (_SUFFIXES[i] if i < 4096 else f"{i:04x}")

    def take_ids(self, n: int) -> list[str]:
        """The next n ids."""
        prefix, i = self._prefix, self._count
        self._count = i + n
        if i + n <= 4096:
            return [prefix + suffix for suffix in _SUFFIXES[i : i + n]]
        return [prefix + f"{j:04x}" for j in range(i, i + n)]

    def name_all(
        self, name_json: bytes, bodies: Sequence[msgspec.Raw]
    ) -> tuple[list[str], list[bytes]]:
        """Ids for these bodies, and the wires of messages that have nothing but a body."""
        ids = self.take_ids(len(bodies))
        head, middle = self.around_id(name_json)
        encoded = "\n".join(ids).encode().split(b"\n")
        # sums and not a format or a join: half the time
        wires = [head + i + middle + body for i, body in zip(encoded, bodies, strict=True)]
        return ids, wires

    def around_id(self, name_json: bytes) -> tuple[bytes, bytes]:
        """What stands before and after the id's characters in a wire, up to the body."""
        head = b'"topic":%b,"message_id":"' % name_json
        return head, b'","published_at":"%b","message":' % self.text.encode()


class IdSource:
    """Prefixes for stamps: rising, unique in this process and, by the tag, across processes.

    11 hex digits of milliseconds, 3 of a counter within one, 4 of the process's tag. When
    the clock stands still or goes back, the last millisecond is used on.
    """

    def __init__(self, tag: int) -> None:
        self._tag = f"{tag & 0xFFFF:04x}"
        self._ms = 0
        self._n = 0

    def prefix(self, wall: float) -> str:
        ms = int(wall * 1000)
        if ms > self._ms:
            self._ms, self._n = ms, 0
        else:
            self._n += 1
            if self._n > 0xFFF:
                self._ms, self._n = self._ms + 1, 0
        return f"{self._ms:011x}{self._n:03x}{self._tag}"


def extras(publish: Publish) -> bytes:
    """The optional members that travel with the message, each led by a comma."""
    parts = []
    if publish.headers:
        parts.append(b',"headers":' + _encode(publish.headers))
    if publish.reply_to is not None:
        parts.append(b',"reply_to":' + _encode(publish.reply_to))
    if publish.correlation_id is not None:
        parts.append(b',"correlation_id":' + _encode(publish.correlation_id))
    if publish.encoding is not None:
        parts.append(b',"encoding":' + _encode(publish.encoding))
    return b"".join(parts)


_CASE = b',"case":{"queue":'


def with_case(wire: bytes, queue: str, reason: str, at: str, attempts: tuple[object, ...]) -> bytes:
    """A dead letter's wire: the message and, as its last member, the story of its death."""
    case = {"queue": queue, "reason": reason, "at": at, "attempts": attempts}
    return without_case(wire) + b',"case":' + _encode(case)


def without_case(wire: bytes) -> bytes:
    """The wire before its death. Inside JSON strings quotes are escaped, so the last
    place where the opening bytes of a case stand is the case's own."""
    start = wire.rfind(_CASE)
    if start < 0 or not wire.endswith(b"}"):
        return wire
    try:
        msgspec.json.decode(wire[start + len(b',"case":') :])
    except msgspec.DecodeError:  # they stood in the body: what follows is not one object
        return wire
    return wire[:start]
