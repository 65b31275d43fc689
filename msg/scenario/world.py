"""The simulated world: one seed decides all that is random in it, and an hour takes no time.

    def main(world): ...            # async; starts run_broker(settings, world, listen=False)
    run_simulated(main, seed=7)     # the same seed gives the same run, event for event

The clock is Trio's MockClock: when every task waits, time jumps to the next deadline. The disk
is simulated, and its latencies are slept here. There are no threads, sockets or files: the
clock does not wait for those, and neither would a second run find them as the first did.
"""

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
import trio.testing

from msg.store.simdisk import PowerCut, SimDisk, Survival

T = TypeVar("T")

EPOCH = 1_767_225_600.0  # 2026-01-01T00:00:00Z: where the wall clock of every run begins
THREAD_HOP_S = 0.000_2  # handing work to a disk thread takes up to this

# what a middling SSD takes, in seconds; enough that commits overlap with what follows
DISK_LATENCY = {
    "append": 0.000_02, "datasync": 0.001, "sync_dir": 0.001, "create": 0.000_1,
    "open": 0.000_02, "read": 0.000_1, "unlink": 0.000_1, "truncate": 0.000_1,
}  # fmt: skip


class SimWorld:
    """A `World` in which nothing comes from outside. It outlives the brokers that die in it."""

    def __init__(self, seed: int | str, *, disk: SimDisk | None = None) -> None:
        self.seed = seed
        self.clock = trio.testing.MockClock(autojump_threshold=0)
        self.rng = self.stream("broker")
        self.disk = disk or SimDisk(self.stream("disk"))
        self.disk.latency = dict(DISK_LATENCY)
        self.wall_offset = 0.0
        self._hop = self.stream("threads")
        self._threads: dict[trio.CancelScope, None] = {}

    def stream(self, purpose: str) -> random.Random:
        """A source of chance of its own, so that one user's draws do not shift another's."""
        return random.Random(f"{self.seed}/{purpose}")

    def now(self) -> float:
        return trio.current_time()

    def wall(self) -> float:
        return EPOCH + trio.current_time() + self.wall_offset

    async def in_disk_thread(self, work: Callable[[], T]) -> T:
        """As a thread would: it cannot be cancelled, only the machine can be switched off.

        The work itself happens at one moment, with time before it and after it, so that a
        power cut can find it not begun, or done and not yet reported.
        """
        with trio.CancelScope(shield=True) as scope:
            self._threads[scope] = None
            try:
                await trio.sleep(self._hop.random() * THREAD_HOP_S)
                try:
                    return work()
                finally:
                    await trio.sleep(self.disk.take_latency())
            finally:
                del self._threads[scope]
        raise PowerCut

    def switch_off(self) -> None:
        """The process or the machine is gone: nothing that was under way touches the disk."""
        self.disk.off = True
        for scope in list(self._threads):
            scope.cancel("the machine is off")

    def restart_process(self) -> None:
        """After a kill -9: the page cache is still there, and nothing of it was synced."""
        disk = SimDisk(self.disk.rng, capacity=self.disk.capacity)
        disk.root = self.disk.root
        self._replace(disk)

    def restart_machine(self, survival: Survival = "mixed") -> None:
        """After a power cut: of what was not synced, chance decides what is there."""
        self._replace(self.disk.crash(self.disk.rng, survival))

    def _replace(self, disk: SimDisk) -> None:
        disk.latency = self.disk.latency
        disk.short_writes = self.disk.short_writes
        if self.disk.full_until is not None:  # a disk that is full stays so over a restart
            disk.fill()
        self.disk = disk


@contextmanager
def deterministic_scheduling(seed: int | str) -> Iterator[None]:
    """Have Trio schedule by `seed`. Two private names; `tests/test_tidy.py` guards them.

    With the flag, each batch of runnable tasks is sorted before it is shuffled; the
    shuffling generator alone would not be enough.
    """
    run: Any = trio._core._run  # where these two are final
    flag, state = run._ALLOW_DETERMINISTIC_SCHEDULING, run._r.getstate()
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(f"{seed}/scheduler")
    try:
        yield
    finally:
        run._ALLOW_DETERMINISTIC_SCHEDULING = flag
        run._r.setstate(state)


def run_simulated(
    main: Callable[[SimWorld], Awaitable[T]],
    seed: int | str,
    *,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> T:
    """Run `main(world)` to its end in a world of its own; returns what it returns."""
    world = SimWorld(seed)
    with deterministic_scheduling(seed):
        return trio.run(main, world, clock=world.clock, instruments=instruments)
