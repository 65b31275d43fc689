"""Storekeeper actor: group commit for all queues and topics.

Owns   the disk, while the broker runs: nobody else writes or reads it.
Hears  commits (one in flight per log) and reads, posted; their number is bounded by the logs.
Tells  whoever asked, by a post to its mailbox, when the disk has answered.
Ends   when cancelled, or for good when a sync failed: a store that has lied once is not
       restarted (STORE.md rule 3). The broker then stops with exit code 74.

No timer: while rounds of commits are synced, the next gathers. Two may be under way: whoever
comes while a busy queue's round is being synced does not wait for that first, and is not held
up by its size (a durable ping-pong beside a busy durable queue: p99 13 -> 9 ms). They can't be
of one log, which has one commit in flight. Reads have a task of their own, so that a stalled
sync does not stop the reading ahead.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import attrs
import trio

from msg.actors.mailbox import Mailbox
from msg.actors.reply import Reply
from msg.core.histogram import Histogram
from msg.store.commit import execute, floor_of, read

if TYPE_CHECKING:
    from msg.store.disk import Disk
    from msg.store.log import Commit, ReadPlan
    from msg.world import World

ROUNDS = 2  # under way at a time
READ_TOGETHER = 1 << 20  # bytes of several queues' reads, for one trip to a disk thread
SYNC_THREADS = 4  # of one round: separate files sync side by side (50 files: 5.1 -> 3.0 ms)

T = TypeVar("T")


@attrs.define(eq=False)
class Written:
    """A commit and what became of it: `commit.error` tells. Comes back to `reply_to`."""

    commit: "Commit"
    reply_to: "ReplyTo"
    since: float  # when it was asked for, monotonic
    done: bool = False


@attrs.define(eq=False)
class Fetched:
    """A read and its bytes, one blob for each piece of the plan."""

    plan: "ReadPlan"
    reply_to: "ReplyTo"
    ahead: bool  # of the reading ahead, and not for single messages
    blobs: list[bytes] = attrs.field(factory=list)
    error: Exception | None = None


@attrs.frozen(eq=False)
class Errand:
    """Anything else that is read from the disk, for a person's question."""

    work: "Callable[[Disk], Any]"
    reply: "Reply[Any]"


class ReplyTo(Protocol):
    def post(self, item: Any) -> object: ...


def _read_each(disk: "Disk", jobs: Sequence[Fetched]) -> None:
    """In a disk thread. What fails is of that job alone."""
    for job in jobs:
        try:
            job.blobs = read(disk, job.plan)
        except OSError as error:
            job.error = error


class Storekeeper:
    """The handle and the task. See the module."""

    def __init__(self, world: "World", floor: "Callable[[Disk], int]" = floor_of) -> None:
        self._world = world
        self.floor = floor  # free bytes that are left alone
        self.commits: Mailbox[Written] = Mailbox(owner="store")
        self.reads: Mailbox[Fetched | Errand] = Mailbox(owner="store")
        self.rounds = 0
        self.sync_s = 0.0  # seconds that the last round took
        self._under_way: list[float] = []  # when each of these rounds began, the oldest first
        self.durations = Histogram()
        self.disk_full = False  # publishes find no room

    def commit(self, commit: "Commit", reply_to: ReplyTo) -> Written:
        """Have this written, and synced if it asks for it. The answer is posted back."""
        job = Written(commit, reply_to, self._world.now())
        self.commits.post(job)
        return job

    @property
    def busy_since(self) -> float | None:
        """When the oldest round that is under way began."""
        return self._under_way[0] if self._under_way else None

    def read(self, plan: "ReadPlan", reply_to: ReplyTo, *, ahead: bool) -> None:
        """Have this read. The answer is posted back."""
        self.reads.post(Fetched(plan, reply_to, ahead))

    async def look(self, work: "Callable[[Disk], T]") -> T:
        """Have `work` done on the disk, between the reads: it is to be short, and to change
        nothing. Raises what it raises."""
        reply: Reply[T] = Reply("store")
        self.reads.post(Errand(work, reply))
        return await reply.wait()

    async def recheck(self) -> None:
        """After the disk was full: whether there is room again, though nobody publishes."""
        free, floor = await self.look(lambda disk: (disk.free_bytes(), self.floor(disk)))
        if free > floor:
            self.disk_full = False

    async def run(self) -> None:
        """Commit round after round until cancelled. Raises StoreFailed (in a group)."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_reads, name="store reader")
            door = trio.Lock()
            for _ in range(ROUNDS - 1):
                nursery.start_soon(self._run_rounds, door, name="store writer")
            await self._run_rounds(door)

    async def _run_rounds(self, door: trio.Lock) -> None:
        while True:
            async with door:  # one takes, the others wait behind it
                jobs = await self.commits.take()
            await self._round(jobs)

    async def _round(self, jobs: Sequence[Written]) -> None:
        world = self._world
        since = world.now()
        self._under_way.append(since)
        commits = [job.commit for job in jobs]
        share = -(-len(commits) // SYNC_THREADS)
        if len(commits) == 1:
            await world.in_disk_thread(lambda: self._write(commits))
        else:
            async with trio.open_nursery() as nursery:
                for start in range(0, len(commits), share):
                    nursery.start_soon(self._execute, commits[start : start + share])
        self._under_way.remove(since)
        self.sync_s = world.now() - since
        self.durations.observe(self.sync_s)
        self.rounds += 1
        if any([commit.error is not None for commit in commits]):
            self.disk_full = True
        elif self.disk_full and any([commit.publishes for commit in commits]):
            self.disk_full = False  # acks alone prove nothing: room is kept free for them
        for job in jobs:
            job.done = True
            job.reply_to.post(job)

    def _write(self, commits: "Sequence[Commit]") -> None:
        """In a disk thread."""
        disk = self._world.disk
        execute(disk, commits, self.floor(disk))

    async def _execute(self, commits: "list[Commit]") -> None:
        await self._world.in_disk_thread(lambda: self._write(commits))

    async def _run_reads(self) -> None:
        while True:
            together: list[Fetched] = []
            size = 0
            for job in await self.reads.take():
                if isinstance(job, Errand):
                    await self._read_all(together)
                    together, size = [], 0
                    await self._run_errand(job)
                    continue
                together.append(job)
                size += job.plan.size
                if size >= READ_TOGETHER:
                    await self._read_all(together)
                    together, size = [], 0
            await self._read_all(together)

    async def _read_all(self, jobs: Sequence[Fetched]) -> None:
        """With one trip to a disk thread: where a thousand queues each read some of their
        backlog, the trips are what costs."""
        if not jobs:
            return
        disk = self._world.disk
        await self._world.in_disk_thread(partial(_read_each, disk, jobs))
        for job in jobs:
            job.reply_to.post(job)

    async def _run_errand(self, errand: Errand) -> None:
        disk = self._world.disk
        try:
            found = await self._world.in_disk_thread(lambda: errand.work(disk))
        except Exception as error:  # it is the asker's, whatever it is
            errand.reply.fail(error)
        else:
            errand.reply.set(found)
