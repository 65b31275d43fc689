"""The world: the one seam for all that is random, timed, on disk or on the network.

Broker code takes its clock, random numbers, ids and disk from here and from nowhere
else, so that a simulated run with one seed replays exactly.
"""

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

if TYPE_CHECKING:
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
    """The world outside: the operating system's clock, disk and randomness."""

    def __init__(self, disk: "Disk", *, disk_threads: int = 8) -> None:
        self.rng: random.Random = random.SystemRandom()
        self._disk = disk
        # own limiter: 50 stalled syncs would use up trio's default of 40 threads
        self._limiter = trio.CapacityLimiter(disk_threads)

    @property
    def disk(self) -> "Disk":
        return self._disk

    def now(self) -> float:
        return trio.current_time()

    def wall(self) -> float:
        return time.time()

    async def in_disk_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._limiter)
