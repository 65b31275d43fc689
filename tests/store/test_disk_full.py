"""A full disk: that publish fails, and nothing else; it ends by itself."""

import errno
from functools import partial
from random import Random

import pytest

from msg.errors import DiskFull
from msg.store.commit import (
    BALLAST,
    BALLAST_BYTES,
    execute,
    floor_of,
    restore_ballast,
    throw_ballast,
)
from msg.store.log import Log
from msg.store.recovery import delete_log, open_store
from msg.store.simdisk import SimDisk

from .kit import commit, live, messages, new_disk, new_log, publish, reopen, settle
from .owner import Broker, workload


def try_publish(disk: SimDisk, log: Log, n: int = 1) -> DiskFull | None:
    log.publish(messages(log, n))
    todo = log.begin()
    assert todo is not None
    execute(disk, [todo])
    log.finish(todo)
    return todo.error


def test_the_floor_is_so_many_bytes_or_a_share_whichever_is_less():
    disk, total = new_disk(), 1 << 30
    disk.capacity = total
    assert floor_of(disk, 1000, 100.0) == 1000
    assert floor_of(disk, total, 25.0) == total // 4
    assert floor_of(disk, 1000, 0.0) == 0


def test_a_publish_without_room_is_undone_and_everything_else_goes_on():
    disk, log = new_disk(), new_log()
    publish(disk, log, 5)
    log.publish(messages(log, 2))
    log.settle([1])
    disk.fill()
    todo = log.begin()
    assert todo is not None
    execute(disk, [todo])
    assert isinstance(todo.error, DiskFull)
    log.finish(todo)
    assert live(disk, log) == [2, 3, 4, 5], "reading goes on"
    assert log.has_gathered, "the ack waits for its record"
    disk.make_room()
    commit(disk, log)
    publish(disk, log, 1)
    assert live(disk, log) == [2, 3, 4, 5, 8] == live(disk, reopen(disk, unclean=True).log)
    assert disk.open_files == 0


def test_what_was_refused_never_comes_back_whatever_survives(monkeypatch):
    disk, log = new_disk(), new_log()
    publish(disk, log, 5)
    for free in range(0, 500, 37):
        room = free

        def some_room(size: int) -> int:
            nonlocal room
            taken = min(size, room)
            room -= taken
            return taken

        with monkeypatch.context() as patch:  # the write stops in the middle of a record
            patch.setattr(disk, "room_for", some_room)
            assert try_publish(disk, log, 4) is not None
        for seed in range(5):
            left = disk.crash(Random(seed))
            assert live(left, reopen(left, unclean=True).log) == [1, 2, 3, 4, 5]


def test_the_first_segment_of_a_new_queue_without_room():
    disk, log = new_disk(), new_log()
    disk.fill()
    assert try_publish(disk, log) is not None
    for seed in range(20):
        left = disk.crash(Random(seed))
        assert [live(left, reopen(left).log) for _ in left.list("queues")] in ([], [[]])
    disk.make_room()
    publish(disk, log, 1)
    assert live(disk, log) == [2]


def test_below_the_floor_publishes_are_refused_before_anything_is_written():
    disk, log = new_disk(), new_log()
    publish(disk, log, 5)
    disk.put("other", b"x" * (disk.free_bytes() - floor_of(disk)))
    before = disk.operations
    error = try_publish(disk, log)
    assert "make room" in str(error)
    assert disk.operations == before
    settle(disk, log, [1, 2])
    assert live(disk, log) == [3, 4, 5]
    disk.unlink("other")
    assert try_publish(disk, log) is None


def test_the_ballast_is_thrown_for_acks_and_comes_back_with_the_room():
    disk = SimDisk(Random(1), capacity=8 << 20)
    open_store(disk)
    assert disk.size(BALLAST) == BALLAST_BYTES
    log = new_log()
    publish(disk, log, 300)
    disk.put("other", b"x" * disk.free_bytes())
    assert try_publish(disk, log) is not None
    settle(disk, log, range(1, 300, 2))
    assert not disk.exists(BALLAST)
    assert live(disk, reopen(disk).log) == list(range(2, 301, 2))
    disk.unlink("other")
    publish(disk, log, 20)
    publish(disk, log, 1)  # to a new segment
    assert disk.size(BALLAST) == BALLAST_BYTES


def test_ballast_that_another_round_throws_while_it_is_written_is_no_failure_of_the_disk():
    disk = SimDisk(Random(1), capacity=8 << 20)

    def strike(_: int, kind: str, path: str) -> None:
        if (kind, path) == ("append", BALLAST):
            disk.hook = None
            thrown.append(throw_ballast(disk))
            disk.fill()

    thrown: list[bool] = []
    disk.hook = strike
    restore_ballast(disk, 0)
    assert thrown == [True]
    assert not disk.exists(BALLAST)


def test_other_logs_of_the_round_are_not_touched():
    disk, full, fine = new_disk(), new_log("full"), new_log("fine")
    publish(disk, full, 1)
    publish(disk, fine, 1)
    full.publish(messages(full, 300))
    fine.settle([1])
    disk.put("other", b"x" * (disk.free_bytes() - floor_of(disk) - 1000))
    todo = [log.begin() for log in (full, fine)]
    commits = [one for one in todo if one is not None]
    execute(disk, commits)
    assert [one.error is None for one in commits] == [False, True]


def test_a_queue_that_cannot_be_deleted_stays():
    disk, log = new_disk(), new_log()
    publish(disk, log, 3)
    disk.fill()
    with pytest.raises(DiskFull):
        delete_log(disk, "queues", "jobs")
    disk.make_room()
    assert live(disk, reopen(disk).log) == [1, 2, 3]
    delete_log(disk, "queues", "jobs")
    assert disk.list("queues") == []


@pytest.mark.parametrize("error", [errno.EDQUOT, errno.EFBIG])
def test_a_full_quota_is_a_full_disk(error, monkeypatch):
    disk, log = new_disk(), new_log()
    publish(disk, log, 1)

    def refuse(self: object, data: bytes) -> None:
        raise OSError(error, "no")

    monkeypatch.setattr("msg.store.simdisk.SimFile.append", refuse)
    assert try_publish(disk, log) is not None


def fill_at(disk: SimDisk, at: int, operation: int, kind: str, path: str) -> None:
    if operation == at:
        disk.fill(7, room=at * 37 % 500)  # the write may stop in the middle


def run_full(seed: int, every: int) -> int:
    """Make the disk full at an operation, for a while, and see that no promise breaks."""
    times = 0
    at = every
    while True:
        disk = SimDisk(Random(seed), capacity=2 << 20)
        broker = Broker(disk, Random(seed))
        broker.start()

        disk.hook = partial(fill_at, disk, at)
        workload(broker, 50)
        disk.make_room()
        for name in list(broker.logs):
            broker.settle_all(name)
        started = Broker(disk.crash(Random(at)), Random(0), segment_bytes=broker.segment_bytes)
        started.start()
        broker.check(started)
        assert disk.open_files == 0
        times += 1
        if disk.operations < at:
            return times
        at += every


def test_full_at_any_operation_for_a_while():
    assert run_full(1, every=5) > 20


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(5))
def test_full_at_every_operation_for_a_while(seed):
    assert run_full(seed, every=1) > 100


def test_a_refusal_is_durable_before_it_is_answered():
    disk, log = new_disk(), new_log()
    publish(disk, log, 1)
    room = 400
    log.publish(messages(log, 4))
    todo = log.begin()
    assert todo is not None
    disk.full_until = None
    disk.capacity = disk.total_bytes() - disk.free_bytes() + room
    execute(disk, [todo], floor=-(1 << 30))
    assert todo.error is not None
    for seed in range(50):
        left = disk.crash(Random(seed))
        left.capacity = 2 << 20
        assert live(left, reopen(left, unclean=True).log) == [1]
