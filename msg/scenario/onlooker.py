"""An onlooker of a simulated run: it sees the actors at one moment, and when nothing moves on.

It changes nothing: it is no task, so that a run that is looked at is the run that was not.
"""

from math import inf
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

SPIN_STEPS = 1_000_000  # of tasks, without time passing: far more than any scenario has


class Onlooker(trio.abc.Instrument):
    """`tree` is what `look` gave at the moment `at`, in seconds since the run began."""

    def __init__(self, at: float | None = None) -> None:
        self.at = inf if at is None else at
        self.tree: list[dict[str, Any]] = []
        self.clock: Callable[[], float] | None = None
        self.look: Callable[[], list[dict[str, Any]]] | None = None
        self.on_spin: Callable[[], None] | None = None
        self._steps = 0
        self._now = -1.0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps += 1
        if self.at == inf and self._steps % SPIN_STEPS:
            return
        if self.clock is None:
            return
        now = self.clock()
        if now >= self.at and self.look is not None:
            self.at = inf
            self.tree = self.look()
        if self._steps % SPIN_STEPS == 0:
            if now == self._now and self.on_spin is not None:
                self.on_spin()
            self._now = now
