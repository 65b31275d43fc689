"""The world: the one seam for all that is random, timed, on disk or on the network.

Broker code takes its clock, random numbers, ids and disk from here and from nowhere
else, so that a simulated run with one seed replays exactly.
"""

import contextlib
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

if TYPE_CHECKING:
    from outcome import Outcome

    from msg.store.disk import Disk

T = TypeVar("T")


class World(Protocol):
    """What the broker may ask of its surroundings."""

    rng: random.Random

    @property
    def disk(self) -> "Disk":
        """The data directory. A simulated one is another object after a power cut."""

    def now(self) -> float:
        """Monotonic seconds: deadlines, delays, windows."""

    def wall(self) -> float:
        """Seconds since the epoch: only for what people read and what outlives a restart."""

    async def in_disk_thread(self, work: Callable[[], T]) -> T:
        """Run blocking disk work without blocking the loop."""


class RealWorld:
    """The world outside: the operating system's clock, disk and randomness. For one run of the
    loop."""

    def __init__(self, disk: "Disk", *, disk_threads: int = 8) -> None:
        self.rng: random.Random = random.SystemRandom()
        self._disk = disk
        # the loop's clock, as soon as it is known: asked for in each turn, several times
        self.now: Callable[[], float] = self._first_now
        # own limiter: 50 stalled syncs would use up trio's default of 40 threads
        self._limiter = trio.CapacityLimiter(disk_threads)

    @property
    def disk(self) -> "Disk":
        return self._disk

    def _first_now(self) -> float:
        self.now = trio.lowlevel.current_clock().current_time
        return self.now()

    def wall(self) -> float:
        return time.time()

    async def in_disk_thread(self, work: Callable[[], T]) -> T:
        """As `trio.to_thread.run_sync`, which lets all other tasks run before it starts a thread
        that is free: before every commit, that is a whole turn of a busy loop."""
        limiter, task = self._limiter, trio.lowlevel.current_task()
        token = trio.lowlevel.current_trio_token()

        def deliver(outcome: "Outcome[T]") -> None:
            with contextlib.suppress(trio.RunFinishedError):  # nobody is left to be told
                token.run_sync_soon(trio.lowlevel.reschedule, task, outcome)

        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            limiter.acquire_nowait()
        except trio.WouldBlock:
            await limiter.acquire()
        try:
            trio.lowlevel.start_thread_soon(work, deliver, "disk")
            done: T = await trio.lowlevel.wait_task_rescheduled(_finish_first)
            return done
        finally:
            limiter.release()


def _finish_first(_raise_cancel: object) -> trio.lowlevel.Abort:
    """Disk work that has begun is not abandoned."""
    return trio.lowlevel.Abort.FAILED
