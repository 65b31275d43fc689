"""The store's rounds side by side, and the threads that they run in."""

import queue
import threading
from types import SimpleNamespace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from msg.actors.storekeeper import ROUNDS, Storekeeper
from msg.world import RealWorld


class HeldWorld:
    """Each piece of disk work waits until it is let go, in any order."""

    def __init__(self):
        self.disk = None
        self.clock = 0.0
        self.begun = []

    def now(self):
        self.clock += 1
        return self.clock

    async def in_disk_thread(self, work):
        gate = trio.Event()
        self.begun.append(gate)
        await gate.wait()


class Inbox:
    def __init__(self):
        self.got = []

    def post(self, job):
        self.got.append(job.commit.name)


def commit(name):
    return SimpleNamespace(name=name, error=None, publishes=1)


async def test_a_commit_does_not_wait_for_another_logs_round(nursery):
    world, inbox = HeldWorld(), Inbox()
    store = Storekeeper(world)
    nursery.start_soon(store.run)
    await wait_all_tasks_blocked()
    assert store.busy_since is None
    for name in ("slow", "quick", "next", "after"):
        store.commit(commit(name), inbox)
        await wait_all_tasks_blocked()
    assert len(world.begun) == ROUNDS == 2
    assert store.commits.depth == 2, "what comes then gathers for one round"
    assert store.busy_since == 2, "the oldest round's begin"
    world.begun[1].set()
    await wait_all_tasks_blocked()
    assert inbox.got == ["quick"]
    assert store.busy_since == 2
    assert len(world.begun) == 4, "a thread for each of the two that had gathered"
    for gate in world.begun:
        gate.set()
    await wait_all_tasks_blocked()
    assert set(inbox.got) == {"quick", "slow", "next", "after"}
    assert (store.busy_since, store.rounds) == (None, 3)
    nursery.cancel_scope.cancel()


async def test_disk_work_has_threads_of_its_own_and_not_more_than_allowed():
    world, here = RealWorld(None, disk_threads=2), threading.get_ident()
    doors = [threading.Event() for _ in range(3)]
    begun, ended = queue.SimpleQueue(), []

    def work(number):
        assert threading.get_ident() != here
        begun.put(number)
        assert doors[number].wait(30)
        return number

    async def run(number):
        ended.append(await world.in_disk_thread(lambda: work(number)))

    async def next_begun():
        return await trio.to_thread.run_sync(begun.get, True, 30)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(run, number)
        first, second = await next_begun(), await next_begun()
        await wait_all_tasks_blocked()
        assert begun.empty()
        doors[first].set()
        third = await next_begun()
        assert ended == [first]
        assert {first, second, third} == {0, 1, 2}
        for door in doors:
            door.set()
    assert sorted(ended) == [0, 1, 2]


async def test_what_disk_work_raises_comes_out():
    world = RealWorld(None, disk_threads=1)
    for _ in range(2):  # and the thread's place is free again
        with pytest.raises(OSError, match="no such disk"):
            await world.in_disk_thread(lambda: _raise(OSError("no such disk")))


def _raise(error):
    raise error


async def test_disk_work_that_has_begun_is_not_abandoned():
    world, door, done = RealWorld(None), threading.Event(), []

    def work():
        assert door.wait(30)
        return "written"

    scope = trio.CancelScope()

    async def run():
        with scope:
            done.append(await world.in_disk_thread(work))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert not done
        door.set()
    assert done == ["written"]


async def test_disk_work_does_not_begin_when_cancelled():
    world, begun = RealWorld(None), []
    with trio.CancelScope() as scope:
        scope.cancel()
        await world.in_disk_thread(lambda: begun.append(1))
    assert scope.cancelled_caught
    assert begun == []
