"""Replay: how a subscription, or a new group, gets what a topic kept, and then what comes.

A reader walks upwards through the kept messages that it wants, a page at a time, and never
past what is released (kept as promised). What is published meanwhile is held for it, up to
a limit. Where the history has that too, a reader that is too far behind gives up holding it
and reads on (`until` = 0); when its next page reaches what is released, it joins again: from
then on everything is held, for the time of that one read.

At the end of its way it is handed what was held, and is live from the same turn on, so there
is neither a gap nor a message twice, whatever is published meanwhile.
"""

from heapq import merge
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from msg.core.runs import Port, Run
    from msg.core.shelf import Shelf

PAGE_BYTES = 64 << 10  # of one read, and of one piece that a port is handed
HELD_BYTES_MAX = 1 << 20  # for one subscription that is not live yet
HELD_MAX = 8192  # messages, the same


class Reader:
    """One walk through what a topic has kept."""

    __slots__ = ("busy", "floor", "gone", "history_from", "low", "missed", "next", "retained",
                 "since", "takes", "until", "wanted")  # fmt: skip

    def __init__(self, floor: int) -> None:
        self.next = 1  # the first seq not yet handed
        self.floor = floor  # all below this was published before it came
        self.until = floor  # it reads what is below; 0: as far as the history goes
        self.takes = False  # the undelivered backlog is for it
        self.low = 1  # of the backlog, from this seq on
        self.history_from = 0  # the history, from this seq on; 0: not at all
        self.since = b""  # RFC 3339: nothing that is older
        self.retained = 0  # the retained message's seq, if it is to have it
        self.busy = False  # a page is on its way
        self.wanted = 0  # its last seq
        self.gone: tuple[range, ...] = ()  # of it, what has left the history meanwhile
        self.missed = 0  # messages that went before it could have them

    @property
    def wants_something(self) -> bool:
        return bool(self.takes or self.history_from or self.retained)

    def page(
        self, backlog: "Shelf", history: "Shelf | None", released: int
    ) -> tuple[list[int], bool]:
        """The next seqs to read, and whether there are more of them."""
        limit = min(released, self.until - 1) if self.until else released
        sources: list[Iterator[tuple[int, int]]] = []
        if self.takes:
            sources.append(backlog.upwards(max(self.next, self.low)))
        if self.history_from and history is not None:
            sources.append(history.upwards(max(self.next, self.history_from)))
        if self.retained >= self.next:
            sources.append(iter([(self.retained, PAGE_BYTES)]))
        seqs: list[int] = []
        size = last = 0
        for seq, length in sources[0] if len(sources) == 1 else merge(*sources):
            if seq > limit:
                break
            if seq == last:
                continue
            if size >= PAGE_BYTES:
                return seqs, True
            seqs.append(seq)
            size += length
            last = seq
        return seqs, False

    def will_read(self, run: "Run") -> bool:
        """Whether it comes to this in the history."""
        if not (run.replayable and self.history_from):
            return False
        return not self.until or run.position < self.until

    def lost(self, run: range) -> None:
        """These have left the history: were they still to be read? Of a page on its way some
        may come nevertheless."""
        low = max(run.start, self.next, self.history_from)
        high = min(run.stop, self.until or run.stop)
        if not self.history_from or high <= low:
            return
        if self.busy and low <= self.wanted:
            after = min(high, self.wanted + 1)
            self.gone = (*self.gone, range(low, after))
            low = after
        self.missed += high - low

    def count_gone(self, came: "Iterable[int]" = ()) -> None:
        """The page is here, with these of what had left the history, or will not come."""
        if self.gone:
            self.missed += sum(map(len, self.gone))
            self.missed -= sum([1 for seq in came if any(seq in run for run in self.gone)])
            self.gone = ()


class Sub(Reader):
    """A subscription. Until it is `live`, what it is to have later is held."""

    __slots__ = ("_held", "_held_n", "claimed", "exact", "held_bytes", "held_count", "live",
                 "pieces", "port")  # fmt: skip

    def __init__(self, port: "Port", floor: int, *, exact: bool) -> None:
        super().__init__(floor)
        self.port = port
        self.exact = exact  # to this topic, and not to a pattern
        self.live = False
        self.claimed = False  # room for a page is reserved in its port
        self.pieces = 0  # of the backlog, handed and not yet written
        # only ever appended to, or replaced, so that a snapshot needs no copy
        self._held: list[Run] = []
        self._held_n = 0
        self.held_count = 0
        self.held_bytes = 0

    def hold(self, run: "Run") -> None:
        """Keep this for later. Over the limit, what the history has is read instead, and of
        the rest the oldest goes, counted."""
        self._held.append(run)
        self._held_n += 1
        self.held_count += len(run.wires)
        self.held_bytes += run.size
        if self._fits(HELD_MAX, HELD_BYTES_MAX):
            return
        if self.history_from:
            self.until = 0
            self._hold_only([r for r in self._held if not r.replayable])
        if self._fits(HELD_MAX, HELD_BYTES_MAX):
            return
        drop = 0
        count, size = self.held_count, self.held_bytes
        # somewhat more than needed, so that this is not done for each message
        while count > HELD_MAX * 3 // 4 or size > HELD_BYTES_MAX * 3 // 4:
            run = self._held[drop]
            count -= len(run.wires)
            size -= run.size
            self.missed += len(run.wires)
            drop += 1
        self._hold_only(self._held[drop:])

    def _fits(self, count: int, size: int) -> bool:
        return self.held_count <= count and self.held_bytes <= size

    def let_go(self, below: int | None = None) -> "list[Run]":
        """What is held and comes before a seq (None: all of it)."""
        n = len(self._held)
        if below is not None:
            n = next((i for i, run in enumerate(self._held) if run.position > below), n)
        if not n:
            return []
        out = self._held[:n]
        self._hold_only(self._held[n:])
        return out

    @property
    def next_held(self) -> int:
        """The position of the first run held; 0 when there is none."""
        return self._held[0].position if self._held else 0

    def _hold_only(self, runs: "list[Run]") -> None:
        self._held = runs
        self._held_n = len(runs)
        self.held_count = sum([len(run.wires) for run in runs])
        self.held_bytes = sum([run.size for run in runs])

    def snapshot(self) -> "Sub":
        """As it is now, for an estate."""
        copy = Sub.__new__(Sub)
        for name in _SUB_FIELDS:
            setattr(copy, name, getattr(self, name))
        return copy

    def restored(self) -> "Sub":
        """From a snapshot, after a crash: the page that was on its way does not come."""
        del self._held[self._held_n :]
        again = self.snapshot()
        again.busy = False
        again.count_gone()
        return again


_SUB_FIELDS = (*Reader.__slots__, *Sub.__slots__)


class Group:
    """A durable group that this topic feeds. `copy` walks through what a new one is to have."""

    __slots__ = ("copy", "given", "name", "number", "queue", "removed", "retry_at")

    def __init__(self, queue: Any, name: str, number: int) -> None:
        self.queue = queue  # a handle; the rules only pass it on
        self.name = name
        self.number = number  # tells it from one of the same name that was removed
        self.copy: Reader | None = None
        self.given = False  # it has been given a page and has not answered yet
        self.removed = False  # it is no more, though a turn may still name it
        self.retry_at = 0.0  # when a page that the group refused is tried again

    def snapshot(self) -> "Group":
        """As it is now, for an estate; and from there, after a crash."""
        again = Group(self.queue, self.name, self.number)
        again.retry_at = self.retry_at
        again.given = self.given
        if self.copy is not None:
            again.copy = Reader(self.copy.floor)
            for name in Reader.__slots__:
                setattr(again.copy, name, getattr(self.copy, name))
            again.copy.busy = self.given
        return again
