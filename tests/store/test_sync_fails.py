"""A sync that fails: no ack after it, and the next start serves what is durable."""

import errno
from random import Random

import pytest

from msg.errors import StoreFailed
from msg.store.commit import execute
from msg.store.simdisk import SURVIVALS, SimDisk

from .kit import messages, new_disk, new_log, publish
from .owner import Broker, Execute, workload
from .test_power_cut import recover_and_check


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_failed_sync_is_final(error):
    disk, log = new_disk(), new_log()
    publish(disk, log, 2)
    log.publish(messages(log, 1))
    todo = log.begin()
    assert todo is not None
    disk.fail_syncs(1, error)
    with pytest.raises(StoreFailed, match="unknown"):
        execute(disk, [todo])
    assert disk.open_files == 0


def test_so_is_a_failed_sync_of_a_directory():
    disk, log = new_disk(), new_log()
    log.publish(messages(log, 1))
    todo = log.begin()
    assert todo is not None

    def hook(operation: int, kind: str, path: str) -> None:
        if kind == "sync_dir":
            disk.fail_syncs(1)

    disk.hook = hook
    with pytest.raises(StoreFailed):
        execute(disk, [todo])


def test_a_segment_that_something_else_wrote_to_is_not_written_to():
    disk, log = new_disk(), new_log()
    publish(disk, log, 1)
    stranger = disk.open(log.segments[0].path)
    stranger.append(b"x")
    stranger.close()
    log.publish(messages(log, 1))
    todo = log.begin()
    assert todo is not None
    with pytest.raises(StoreFailed, match="something else"):
        execute(disk, [todo])


def run_failing(seed: int, at: int, *, execute: Execute | None = None) -> bool:
    """Fail the at-th sync; then the power goes, or the broker starts on the page cache and
    the power goes later. False when the load has fewer syncs."""
    disk = SimDisk(Random(seed), capacity=2 << 20)
    broker = Broker(disk, Random(seed), execute=execute)
    broker.start()
    syncs = 0

    def hook(operation: int, kind: str, path: str) -> None:
        nonlocal syncs
        if kind in ("datasync", "sync_dir"):
            syncs += 1
            if syncs == at:
                disk.fail_syncs(1)

    disk.hook = hook
    try:
        workload(broker, 50)
    except (StoreFailed, OSError):
        failed = True
    else:
        failed = False
        if execute is None and disk.sync_errors == 0:
            assert syncs < at
    disk.hook = None
    for survival in SURVIVALS:
        recover_and_check(broker, disk.crash(Random(at), survival))
    broker.restart(clean=False)
    workload(broker, 10)
    for survival in SURVIVALS:
        recover_and_check(broker, disk.crash(Random(at), survival))
    return failed or syncs >= at


def test_whichever_sync_fails_nothing_that_was_acked_is_lost():
    for at in range(1, 60, 3):
        run_failing(2, at)


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(10))
def test_each_sync_failing_in_turn(seed):
    at = 1
    while run_failing(seed, at):
        at += 1
    assert at > 30


def test_an_unrelated_error_of_a_write_stops_the_store_too(monkeypatch):
    disk, log = new_disk(), new_log()
    publish(disk, log, 1)

    def fail(self: object, data: bytes) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr("msg.store.simdisk.SimFile.append", fail)
    with pytest.raises(StoreFailed):
        publish(disk, log, 1)
