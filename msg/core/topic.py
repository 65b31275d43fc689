"""The rules of one topic: who hears a message, who will, and what is kept of it.

  publish ──► line ──────────── released ──► live subscriptions, at once
     │          (what is logged waits           │
     │           until it is written)           └► those still reading hold it
     ├──► backlog    while nobody hears: for the first who comes
     ├──► history    whoever hears, if it is set
     ├──► retained   the last value, if the publish says so
     └──► groups     each a queue with a log of its own

What is kept has a seq. Messages are published in the order of `line`: one that is to be
logged is heard when it is written, so that nobody sees a seq that a crash takes back. What
is kept is the business of `kept`, who hears is that of `audience`; what comes in, and the
line, are in `msg.core.publishing`, and here is all the rest.

Plain rules: no clock, no I/O. Every method takes the time it needs and writes what is to
happen into `turn`; the actor carries it out when all rules of the turn have run.
"""

from math import inf
from typing import TYPE_CHECKING, Any

from msg.core.audience import Start, published_at
from msg.core.publishing import Publishing
from msg.core.runs import Changes, Copying, Handing, Port, Run, Turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from msg.core.kept import Survived
    from msg.core.replay import Group, Reader, Sub
    from msg.core.settings import TopicSettings
    from msg.core.shelf import Shelf
    from msg.core.wire import Stamp

__all__ = ["Changes", "Copying", "Handing", "Start", "TopicRules", "Turn", "published_at"]


class TopicRules(Publishing):
    """All of one topic's rules. `next_seq` is the first free seq."""

    def end_turn(self) -> Turn:
        """What the turn wants done; the next one begins."""
        turn = self.turn
        self.turn = self.kept.turn = self.audience.turn = Turn()
        # a run is written as a whole: what comes later may be in a later commit
        self._run = self._passing = None
        return turn

    # -- who hears --------------------------------------------------------------------------

    def attach(self, port: Port, exact: bool, start: Start) -> None:
        """A subscription begins. What was published before it in this turn is not for it."""
        if port not in self.audience.subs:
            self.cut()
            self.audience.attach(port, exact, start)

    def detach(self, port: Port) -> None:
        """A subscription ends; what was published before was for it too."""
        self.cut()
        self.audience.detach(port)

    def add_group(self, queue: Any, name: str, start: Start) -> "Group":
        self.cut()
        return self.audience.add_group(queue, name, start)

    def remove_group(self, name: str) -> None:
        self.cut()
        self.audience.remove_group(name)

    # -- time -------------------------------------------------------------------------------

    def tick(self, stamp: "Stamp") -> None:
        self.turn.change()
        self.audience.left_history(self.kept.trim(stamp))
        self.dedup.expire(stamp.now)
        self.answers.forget_before(stamp.now - self.settings.dedup_window)
        self.audience.tick(stamp.now)

    def go_on(self) -> None:
        """End of a turn: what may be published is, and readers go on."""
        if self.line:
            self.release()
        if self.audience.due and not self.draining:
            self.audience.go_on()

    def next_wake(self, stamp: "Stamp") -> float:
        """When `tick` has something to do, monotonic; inf: never."""
        s, kept = self.settings, self.kept
        wake = inf
        if kept.backlog and s.backlog_seconds:
            wake = kept.backlog.oldest_at + s.backlog_seconds
        if kept.history and s.history_seconds:
            wake = min(wake, kept.history.oldest_at + s.history_seconds)
        if wake != inf:
            wake = max(wake - stamp.wall, 0.0) + stamp.now + 0.001
        for group in self.audience.groups.values():
            if group.retry_at:
                wake = min(wake, group.retry_at)
        if not self.heard:
            wake = min(wake, self.dedup.expires_at() + 0.001)
            for part in self.answers.in_part.values():
                wake = min(wake, part.at + s.dedup_window + 0.001)
                break
        return wake

    # -- over a restart ---------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a restart must know beside the messages themselves."""
        copies = self.audience.copies_in_hand()
        return {**self.kept.state(heard=self.heard), "copies": copies}

    def recall(
        self,
        runs: "Sequence[tuple[int, Sequence[int], float]]",
        state: dict[str, Any],
        survived: "Survived | None",
        stamp: "Stamp",
    ) -> None:
        """What is there, as (first seq, sizes, time) in order; see `Kept.recall`."""
        self.turn.change()
        self.audience.copies = dict(state.get("copies", {}))
        self.kept.recall(runs, state, survived, stamp)

    def restore(
        self, subs: "Iterable[Sub]", groups: "Iterable[Group]", line: "Iterable[Run]"
    ) -> None:
        """After a crash: those that were here, as they were after the last whole turn."""
        self.audience.restore(subs, groups)
        self.line.extend(line)
        for run in self.line:
            self.logged_to = max(self.logged_to, run.need)
        firsts = [run.position for run in self.line if run.last]
        self.audience.released = min(firsts, default=self.kept.next_seq) - 1

    def change(self, settings: "TopicSettings", stamp: "Stamp") -> None:
        """New settings, from now on."""
        self.turn.change()
        self.settings = settings
        self.dedup.bound(settings.dedup_window, settings.dedup_ids)
        self.audience.left_history(self.kept.change(settings, stamp))
        if self.kept.history is None:
            self.audience.history_is_off()

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost if this topic were forgotten."""
        return not (
            self.heard
            or self.settings.history
            or self.kept.anything
            or self.line
            or len(self.dedup)
            or self.answers.outstanding
            or self.answers.in_part
        )

    # -- looking ----------------------------------------------------------------------------

    @property
    def subs(self) -> "dict[Port, Sub]":
        return self.audience.subs

    @property
    def groups(self) -> "dict[str, Group]":
        return self.audience.groups

    @property
    def taker(self) -> "Reader | None":
        return self.audience.taker

    @property
    def backlog(self) -> "Shelf":
        return self.kept.backlog
