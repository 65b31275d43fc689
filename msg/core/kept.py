"""What a topic keeps, and why: backlog, history, retained value.

A kept message has one or more of these three roles, and goes when it has lost the last one.
The messages themselves are in the log, or, with durability "memory", here; the shelves know
seqs and sizes. What goes, and what a restart must know beside the messages, is written into
the turn.
"""

from math import inf
from typing import TYPE_CHECKING, Any

import attrs

from msg.core.runs import Turn
from msg.core.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from msg.core.message import Message
    from msg.core.settings import TopicSettings
    from msg.core.wire import Stamp

RETAINED_CACHE_BYTES = 16 << 10  # a larger retained message is read from the log when needed
UNHEARD_RANGES_MAX = 100  # remembered of a topic with history; more become one
STEPS = 1000  # an age is exact to this part of the limit that it is held against, or 1 s


@attrs.define(slots=True)
class Counts:
    """Since these rules began."""

    published: int = 0
    duplicates: int = 0
    rejected: int = 0
    dropped: int = 0  # from the backlog, over a limit
    expired: int = 0


@attrs.define(slots=True)
class Survived:
    """What a crash of the actor leaves beside the log."""

    memory: "dict[int, Message]"
    retained: int
    retaining: list[int]  # of what is in the line
    unheard: list[range]
    history_from: int  # the first seq of the history


class Kept:
    """The three roles. `keeps` is False for a topic that keeps nothing at all (an inbox)."""

    def __init__(self, settings: "TopicSettings", *, keeps: bool, next_seq: int) -> None:
        self.settings = settings
        self.keeps = keeps
        self.next_seq = next_seq
        self.turn = Turn()
        self.counts = Counts()
        self.backlog = Shelf(max(1.0, settings.backlog_seconds / STEPS))
        # bytes that the broker has now for this topic's backlog
        self.backlog_room: Callable[[], float] = _no_end
        self.history = self._new_history()
        self.memory: dict[int, Message] = {}  # kept with durability "memory"
        self.retained = 0
        self.retained_message: Message | None = None  # where it is small
        self.retaining: list[int] = []  # published, not yet released; 0 clears

    def _new_history(self) -> Shelf | None:
        if not (self.settings.history and self.keeps):
            return None
        return Shelf(max(1.0, self.settings.history_seconds / STEPS))

    @property
    def history_from(self) -> int:
        """The first seq of the history, or of what will be in it."""
        return self.history.first or self.next_seq if self.history is not None else 0

    @property
    def anything(self) -> bool:
        return bool(self.backlog or self.history or self.retained or self.retaining or self.memory)

    # -- coming in --------------------------------------------------------------------------

    def shelve(self, messages: "Sequence[Message]", heard: bool, stamp: "Stamp") -> list[range]:
        """Give consecutive new messages their places. Returns what left the history for them."""
        self.turn.change()
        first = messages[0].seq
        sizes = [len(m.wire) for m in messages]
        if self.history is not None:
            self.history.add(first, sizes, stamp.wall)
        if not heard:
            self.backlog.add(first, sizes, stamp.wall)
        return self.trim(stamp)

    def retain(self, seq: int) -> None:
        """To be the retained value (0: none) when it is released."""
        self.retaining.append(seq)
        self.turn.change().state = True

    def retained_is(self, message: "Message | None") -> None:
        """This is the value now."""
        self.turn.change()
        old = self.retained
        del self.retaining[0]
        self.retained = 0 if message is None else message.seq
        self.retained_message = None
        if message is not None and len(message.wire) <= RETAINED_CACHE_BYTES:
            self.retained_message = message
        if old and not self._has_role(old):
            self._go((old,), "replaced")

    # -- going ------------------------------------------------------------------------------

    def trim(self, stamp: "Stamp") -> list[range]:
        """Hold the limits of backlog and history. Returns what left the history."""
        s = self.settings
        if self.backlog:
            size = min(s.backlog_bytes or inf, self.backlog_room())
            since = stamp.wall - s.backlog_seconds if s.backlog_seconds else -inf
            for run in self.backlog.trim(s.backlog_messages or inf, size, since):
                self.turn.change()
                self.counts.dropped += len(run)
                self._lose_role(run, self.history, "dropped: the backlog was full or too old")
        if not self.history:
            return []
        since = stamp.wall - s.history_seconds if s.history_seconds else -inf
        left = self.history.trim(s.history_messages or inf, s.history_bytes or inf, since)
        if left:
            self.turn.change()
        for run in left:
            self._lose_role(run, self.backlog, "history")
        return left

    def take(self, seqs: "Iterable[int]", why: str | None) -> None:
        """These have left the backlog: delivered (None), or for another reason."""
        self.turn.change()
        here = [seq for seq in seqs if seq in self.backlog]
        for seq in here:
            self.backlog.remove(range(seq, seq + 1))
        if (self.history is not None and here) or self.retained in here:
            self.turn.change().state = True
        self._lose_role(here, self.history, why)

    def lose(self, seqs: "Iterable[int]") -> None:
        """These could not be written, or their records are damaged: the log has none of them."""
        for seq in seqs:
            self.backlog.remove(range(seq, seq + 1))
            if self.history is not None:
                self.history.remove(range(seq, seq + 1))
            if seq in self.retaining:
                self.retaining.remove(seq)
            if seq == self.retained:
                self.retained, self.retained_message = 0, None
        self.turn.change().state = True

    def clear(self) -> int:
        """Drop all that is kept. Returns how many messages."""
        shelves = [self.backlog] if self.history is None else [self.backlog, self.history]
        seqs = {seq for shelf in shelves for run in shelf.trim(0, 0) for seq in run}
        if self.retained:
            seqs.add(self.retained)
            self.retained, self.retained_message = 0, None
        seqs.difference_update(self.retaining)
        self._go(sorted(seqs), "purged")
        self.turn.change().state = True
        return len(seqs)

    def _on_shelf(self, seq: int) -> bool:
        return seq in self.backlog or (self.history is not None and seq in self.history)

    def _has_role(self, seq: int) -> bool:
        return self._on_shelf(seq) or seq == self.retained or seq in self.retaining

    def _lose_role(self, run: "Sequence[int]", other: Shelf | None, why: str | None) -> None:
        """These have lost one role; they go unless they have another."""
        if other or self.retained or self.retaining:
            run = [seq for seq in run if not self._has_role(seq)]
        if run:
            self._go(run, why)

    def _go(self, seqs: "Sequence[int]", why: str | None) -> None:
        """Nothing keeps these any more; without a reason they were delivered."""
        if self.memory:
            here = [seq for seq in seqs if self.memory.pop(seq, None) is not None]
            if here:
                self.turn.change().unkept += here
                left = set(seqs).difference(here)
                seqs = [seq for seq in seqs if seq in left]
        if not seqs:
            return
        if why is None:
            self.turn.change().settled += seqs
        else:
            self.turn.change().drops.append((why, seqs))

    # -- over a restart ---------------------------------------------------------------------

    def state(self, *, heard: bool) -> dict[str, Any]:
        """What a restart must know beside the messages themselves."""
        newest = self.retaining[-1] if self.retaining else self.retained
        earlier = [self.retained, *self.retaining] if self.retaining else []
        state: dict[str, Any] = {
            "retained": 0 if newest in self.memory else newest,
            "retained_unheard": newest in self.backlog,
            "replaced": [
                seq
                for seq in dict.fromkeys(earlier)
                if seq and seq != newest and seq not in self.memory and not self._on_shelf(seq)
            ],
        }
        if self.history is not None:
            ranges = [[r.start, r.stop - 1] for r in self.backlog.ranges()]
            if len(ranges) > UNHEARD_RANGES_MAX:
                first = len(ranges) - UNHEARD_RANGES_MAX
                ranges = [[ranges[0][0], ranges[first][1]], *ranges[first + 1 :]]
            if not heard:
                ranges.append([self.next_seq, 0])  # and all that comes
            state["unheard"] = ranges
            state["history_from"] = self.history_from
        return state

    def recall(
        self,
        runs: "Sequence[tuple[int, Sequence[int], float]]",
        state: dict[str, Any],
        survived: Survived | None,
        stamp: "Stamp",
    ) -> None:
        """What is there, as (first seq, sizes, time) in order. After a restart the state says
        what of it nobody had heard, where there is a history; else that is all of it."""
        retained = int(state.get("retained", 0))
        replaced = [int(seq) for seq in state.get("replaced", ())]
        unheard: list[range] | None = None
        history_from = int(state.get("history_from", 0))
        if survived is not None:
            self.memory = dict(survived.memory)
            self.retaining = list(survived.retaining)
            retained, replaced, unheard = survived.retained, [], survived.unheard
            history_from = survived.history_from
        elif "unheard" in state:
            unheard = [range(a, (b or self.next_seq - 1) + 1) for a, b in state["unheard"]]
        for first, sizes, at in runs:
            run = range(first, first + len(sizes))
            if self.history is not None and run.stop > history_from:
                low = max(first, history_from)
                self.history.add(low, sizes[low - first :], at)
            if retained in run:
                self.retained = retained
            waits = [run] if unheard is None else _overlap(run, unheard)
            for part in waits if self.keeps else ():
                self.backlog.add(part.start, sizes[part.start - first : part.stop - first], at)
        heard = not state.get("retained_unheard")
        if self.history is None and unheard is None and self.retained and heard:
            self.backlog.remove(range(self.retained, self.retained + 1))
        for seq in replaced:
            for shelf in (self.backlog, self.history):
                if shelf is not None:
                    shelf.remove(range(seq, seq + 1))
        for first, sizes, _ in runs:
            run = range(first, first + len(sizes))
            if self.history is None or replaced or history_from:
                self._lose_role([seq for seq in run if not self._has_role(seq)], None, "replaced")
        if self.history is not None and survived is None:
            self.turn.change().state = True  # nobody hears now what comes
        self.trim(stamp)

    def change(self, settings: "TopicSettings", stamp: "Stamp") -> list[range]:
        """New settings, from now on. Returns what left the history for them."""
        self.settings = settings
        old = self.history
        left: list[range] = []
        if settings.history and self.keeps:
            if old is None:
                self.history = self._new_history()
        elif old is not None:
            self.history = None
            left = old.ranges()
            for run in left:
                self._lose_role(run, self.backlog, "history off")
        if (old is None) != (self.history is None):
            self.turn.change().state = True
        return left + self.trim(stamp)


def _no_end() -> float:
    return inf


def _overlap(run: range, others: "Iterable[range]") -> list[range]:
    parts = [range(max(run.start, r.start), min(run.stop, r.stop)) for r in others]
    return [part for part in parts if part]
