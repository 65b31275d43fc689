"""Timer actor: wakes other actors at the times they asked for.

Owns   a heap of (when, mailbox) for the whole broker: one task and no scope per deadline.
Hears  `arm` and `nudge`, which never wait.
Tells  a `Tick` to each mailbox whose time has come.
Ends   when cancelled.

It also notices when the broker itself stood still (a stopped process, a long turn): the
time that was lost is in the tick, so that no lease expires for the broker's own fault. It is
never too little: after a SIGCONT deadlines strike before the sockets are looked at, and an ack
that waits in one must find its lease alive.
"""

import heapq
from collections.abc import Sized
from itertools import count
from math import inf
from typing import Protocol

import attrs
import trio

STALL_S = 0.25  # later than this is a stall and not a busy moment
BEAT_S = 1.0  # it wakes at least so often: a stall is known to have begun after the last time


@attrs.frozen
class Tick:
    """It is time. `stalled`: seconds for which the broker itself stood still just before."""

    stalled: float


class Alarmed(Protocol):
    @property
    def notes(self) -> Sized: ...
    def post(self, item: Tick) -> object: ...
    def __hash__(self) -> int: ...


class Timer:
    """The handle: `arm` a mailbox for a time. Each mailbox has one alarm, the last armed."""

    def __init__(self) -> None:
        self._due: dict[Alarmed, float] = {}
        # when its notes are to be read at the latest, and after how long that was asked for
        self._nudges: dict[Alarmed, tuple[float, float]] = {}
        # may hold alarms that were replaced: what is not in `_due` is passed over
        self._heap: list[tuple[float, int, Alarmed]] = []
        self._numbers = count()
        self._scope: trio.CancelScope | None = None
        self._seen = -inf  # when it woke last
        self._stalled = 0.0  # seconds, of the last stall
        self._stalled_until = -inf

    def arm(self, at: float, mailbox: Alarmed) -> None:
        """Post a Tick at `at` (monotonic seconds), and not when it was armed for before."""
        self._due[mailbox] = at
        heapq.heappush(self._heap, (at, next(self._numbers), mailbox))
        if self._scope is not None and at < self._scope.deadline:
            self._scope.deadline = at

    def nudge(self, mailbox: Alarmed, within: float) -> None:
        """Post a Tick in so many seconds if it has notes then that it did not read."""
        known = self._nudges.get(mailbox)
        if known is not None and known[1] <= within:
            return  # it was asked for earlier, so it comes earlier
        at = trio.current_time() + within
        self._nudges[mailbox] = at, within
        heapq.heappush(self._heap, (at, next(self._numbers), mailbox))
        if self._scope is not None and at < self._scope.deadline:
            self._scope.deadline = at

    async def run(self) -> None:
        self._seen = trio.current_time()
        while True:
            due = self._heap[0][0] if self._heap else inf
            with trio.CancelScope(deadline=min(due, self._seen + BEAT_S)) as self._scope:
                await trio.sleep_forever()
            now = trio.current_time()
            # who arms for a time that is over already is not late
            if now - max(self._scope.deadline, self._seen) > STALL_S:
                self._stalled = now - self._seen + STALL_S
                self._stalled_until = now
            self._seen = now
            while self._heap and self._heap[0][0] <= now:
                at, _, mailbox = heapq.heappop(self._heap)
                # also of a time that was armed only after the stall that it fell into; and of a
                # nudge, which may be read as one with an alarm
                stalled = self._stalled if at <= self._stalled_until else 0.0
                if (nudge := self._nudges.get(mailbox)) is not None and nudge[0] == at:
                    del self._nudges[mailbox]
                    if mailbox.notes:
                        mailbox.post(Tick(stalled))
                elif self._due.get(mailbox) == at:
                    del self._due[mailbox]
                    mailbox.post(Tick(stalled))
            if len(self._heap) > 2 * (len(self._due) + len(self._nudges)) + 64:
                self._heap = [entry for entry in self._heap if self._counts(entry)]
                heapq.heapify(self._heap)

    def _counts(self, entry: tuple[float, int, Alarmed]) -> bool:
        at, _, mailbox = entry
        return self._due.get(mailbox) == at or self._nudges.get(mailbox, (None,))[0] == at
