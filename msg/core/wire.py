"""The constant part of a message, made once when it is accepted (see `msg.core.message`).

Ids and times of one turn come from a `Stamp`, which the actor makes from its World, so
the rules need neither clock nor randomness.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from msg.core.commands import BarePublish

_encode = msgspec.json.encode
_MADE = 4096  # suffixes of ids that are made once; a turn seldom needs more
_SUFFIXES = [f"{i:04x}" for i in range(_MADE)]
_SUFFIX_BYTES = [suffix.encode() for suffix in _SUFFIXES]


def json_string(text: str) -> bytes:
    """`text` as a JSON string with its quotes."""
    return _encode(text)


@lru_cache(maxsize=8)
def _to_the_second(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"


@lru_cache(maxsize=8)
def _to_the_ms(ms: int) -> str:
    return f"{_to_the_second(ms // 1000)}.{ms % 1000:03d}Z"


def rfc3339(wall: float) -> str:
    """Seconds since the epoch as RFC 3339 UTC with milliseconds."""
    return _to_the_ms(int(wall * 1000))


class Stamp:
    """Times and ids for one turn: `now` monotonic and `wall` epoch seconds.

    The ids are a prefix, which sorts after those of earlier turns, and a rising number, so they
    are unique and sort by acceptance. What not every turn needs is made when it is asked for.
    """

    __slots__ = ("_count", "_prefix", "_source", "_text", "now", "wall")

    def __init__(self, now: float, wall: float, source: "IdSource") -> None:
        self.now = now
        self.wall = wall
        self._source = source
        self._prefix = ""
        self._text = ""
        self._count = 0

    @property
    def text(self) -> str:
        """`wall` as it is written into messages."""
        self._text = self._text or rfc3339(self.wall)
        return self._text

    def next_id(self) -> str:
        return self.take_ids(1)[0]

    def take_ids(self, n: int) -> list[str]:
        """The next n ids."""
        if not self._prefix:
            self._prefix = self._source.prefix(self.wall)
        prefix, i = self._prefix, self._count
        self._count = i + n
        if i + n <= _MADE:
            return [prefix + suffix for suffix in _SUFFIXES[i : i + n]]
        return [prefix + f"{j:04x}" for j in range(i, i + n)]

    def name_all(
        self, name_json: bytes, items: Sequence[BarePublish]
    ) -> tuple[list[str], list[bytes]]:
        """Ids for these, which have nothing but a body, and their wires."""
        i, n = self._count, len(items)
        ids = self.take_ids(n)
        head, middle = self.around_id(name_json)
        head += self._prefix.encode()
        if i + n <= _MADE:
            suffixes = _SUFFIX_BYTES[i : i + n]
        else:
            suffixes = [b"%04x" % j for j in range(i, i + n)]
        # sums and not a format or a join: half the time
        wires = [head + s + middle + p.message for s, p in zip(suffixes, items, strict=True)]
        return ids, wires

    def around_id(self, name_json: bytes) -> tuple[bytes, bytes]:
        """What stands before and after the id's characters in a wire, up to the body."""
        self._text = text = self._text or rfc3339(self.wall)
        head = b'"topic":%b,"message_id":"' % name_json
        return head, b'","published_at":"%b","message":' % text.encode()


class IdSource:
    """Prefixes for stamps: rising, unique in this process and, by the tag, across processes.

    11 hex digits of milliseconds, 3 of a counter within one, 4 of the process's tag. When
    the clock stands still or goes back, the last millisecond is used on.
    """

    def __init__(self, tag: int) -> None:
        self._tag = f"{tag & 0xFFFF:04x}"
        self._last = 0  # milliseconds, and in its last 12 bits the counter

    def prefix(self, wall: float) -> str:
        last = self._last = max(int(wall * 1000) << 12, self._last + 1)
        return f"{last:014x}" + self._tag


def extras(publish: BarePublish) -> bytes:
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
