"""The dedup window: which message ids were accepted lately, and with what body.

An id seen with the same body (length and crc) is a duplicate; with another body it is a
conflict. Only ids that clients chose are remembered: those the broker makes cannot come
twice. Bounded in time and in number, whichever is reached first; about 200 bytes an id.

An id counts for the destination that its publisher named. A group of a pattern is fed by
several topics: its window knows an id together with its topic.

What a turn adds is unsure until the turn is carried out (`confirm`). One that failed has
happened for nobody, so the next incarnation of its queue begins with `rollback`: else the
publish, done anew, would be told that it is stored.
"""

import zlib
from collections import deque
from collections.abc import Iterator
from math import inf

from msg.core.body import topic_of
from msg.core.message import Message
from msg.core.names import has_wildcard
from msg.errors import ClientError

NEW = 0  # what `seen` says of an id that is not in the window; seqs begin at 1
STEPS = 128  # ids that came within this part of the window leave it together
_PRINT_BITS = 64
_PRINT = (1 << _PRINT_BITS) - 1
_VOLATILE = 1 << _PRINT_BITS  # accepted with durability "memory"
_SEQ_AT = _PRINT_BITS + 1


def fingerprint(body: bytes) -> int:
    """Length and crc of a body in one int: 2^-32 odds that another body of its length fits."""
    return len(body) << 32 | zlib.crc32(body)


def has_topics(queue: str) -> bool:
    """Whether several topics may feed this: it is a group of a pattern."""
    return has_wildcard(queue)


def id_at(topic: str | None, message_id: str) -> str:
    """What a window knows a publish by: the topic, where there are several, has no blank."""
    return message_id if topic is None else f"{topic} {message_id}"


class _Step:
    """Ids that came within a moment. `count` of the order's ids are its own."""

    __slots__ = ("began", "count", "high", "last", "low")

    def __init__(self, at: float, seq: int) -> None:
        self.began = self.last = at
        self.low = self.high = seq
        self.count = 0


class DedupWindow:
    """Ids in order of acceptance. Times are monotonic seconds."""

    def __init__(self, seconds: float, ids_max: int) -> None:
        self.seconds = seconds
        self._ids_max = ids_max
        self._entries: dict[str, int] = {}  # id -> seq, a bit, fingerprint
        # may hold ids that were forgotten, or forgotten and added anew: the step's seqs tell
        self._order: deque[str] = deque()
        self._steps: deque[_Step] = deque()
        self._unsure: list[tuple[str, int]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def span(self, now: float) -> float:
        """The real window in seconds: less than asked when the number of ids cut it."""
        if len(self._entries) < self._ids_max or not self._steps:
            return self.seconds
        return min(self.seconds, now - self._steps[0].began)

    def bound(self, seconds: float, ids_max: int) -> None:
        """How long and how many ids are remembered, from now on."""
        self.seconds = seconds
        self._ids_max = ids_max
        self._keep_to_number()

    def expires_at(self) -> float:
        """When `expire` has something to do next."""
        return self._steps[0].last + self.seconds if self._steps else inf

    def seen(self, message_id: str, print_: int, now: float, topic: str | None = None) -> int:
        """The seq under which this id was accepted, or NEW. Raises `id_conflict`."""
        if self._steps and self._steps[0].last + self.seconds <= now:
            self.expire(now)
        entry = self._entries.get(message_id if topic is None else id_at(topic, message_id))
        if entry is None:
            return NEW
        if entry & _PRINT != print_:
            raise ClientError(
                "id_conflict",
                f"message_id {message_id!r} was used for another body; use a new id",
            )
        return entry >> _SEQ_AT

    def add(
        self,
        message_id: str,
        print_: int,
        seq: int,
        at: float,
        *,
        volatile: bool = False,
        topic: str | None = None,
    ) -> None:
        """Remember what `seen` called new. `at` and `seq` do not fall. A `volatile` one is
        kept in memory only: a stop loses it, and then its id must be new again."""
        if topic is not None:
            message_id = id_at(topic, message_id)
        self._entries[message_id] = seq << _SEQ_AT | (_VOLATILE if volatile else 0) | print_
        self._order.append(message_id)
        self._unsure.append((message_id, seq))
        step = self._steps[-1] if self._steps else None
        if step is None or at >= step.began + self.seconds / STEPS:
            step = _Step(at, seq)
            self._steps.append(step)
        step.count += 1
        step.last = max(step.last, at)
        step.low, step.high = min(step.low, seq), max(step.high, seq)
        if len(self._entries) > self._ids_max:
            self._keep_to_number()

    def confirm(self) -> None:
        """The turn that added the last ids has been carried out."""
        if self._unsure:
            self._unsure = []

    def rollback(self) -> None:
        """The turn that added the last ids has failed: a retry must be taken as new."""
        for message_id, seq in self._unsure:
            self.forget(message_id, seq)
        self._unsure = []

    def forget(self, message_id: str, seq: int) -> None:
        """The publish that got this seq was not kept: a retry must be taken as new."""
        entry = self._entries.get(message_id)
        if entry is not None and entry >> _SEQ_AT == seq:
            del self._entries[message_id]

    def forget_message(self, message: Message, queue: str) -> None:
        """The same, of a message of this queue."""
        topic = topic_of(message.wire) if has_topics(queue) else None
        self.forget(id_at(topic, message.id), message.seq)

    def expire(self, now: float) -> None:
        """Let go of what is older than the window."""
        while self._steps and self._steps[0].last + self.seconds <= now:
            for _ in range(self._steps[0].count):
                self._drop_oldest()

    def oldest_seq(self, default: int) -> int:
        """The lowest seq that the window holds, or a lower one: the store keeps what it needs
        from there on."""
        return self._steps[0].low if self._steps else default

    def entries(self, seqs: range | None = None) -> list[tuple[str, int, int, float]]:
        """(id, fingerprint, seq, accepted at) of all but volatile ones, oldest first; only of
        these seqs, if given. Ids as `id_at` makes them."""
        return list(self._walk(seqs))

    def _walk(self, seqs: range | None) -> Iterator[tuple[str, int, int, float]]:
        at = 0
        ids = list(self._order) if self._steps else []
        for step in self._steps:
            mine, at = ids[at : at + step.count], at + step.count
            if seqs is not None and (step.high < seqs.start or step.low >= seqs.stop):
                continue
            for message_id in mine:
                entry = self._entries.get(message_id)
                if entry is None:
                    continue
                seq = entry >> _SEQ_AT
                known = step.low <= seq <= step.high
                if known and not entry & _VOLATILE and (seqs is None or seq in seqs):
                    yield message_id, entry & _PRINT, seq, step.last

    def _keep_to_number(self) -> None:
        while len(self._entries) > self._ids_max:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        message_id = self._order.popleft()
        step = self._steps[0]
        entry = self._entries.get(message_id)
        if entry is not None and entry >> _SEQ_AT <= step.high:
            del self._entries[message_id]
        step.count -= 1
        if not step.count:
            self._steps.popleft()
