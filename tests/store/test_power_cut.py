"""A power cut at every disk operation of a mixed load, and a second one in recovery.

What was acked is there, what was settled durably is not, nothing is there that nobody
published, and the store starts: whatever of the unsynced bytes and names survives. The load
has queues, a topic with its group, and their dedup windows.
"""

import contextlib
import random

import pytest

from msg.store.simdisk import SURVIVALS, PowerCut, SimDisk

from .owner import Broken, Broker, Execute, workload

CAPACITY = 2 << 20  # too small for the ballast, which would only slow the copying down


def successor(broker: Broker, disk: SimDisk) -> Broker:
    """Whoever starts after it, on what is left of its disk."""
    started = Broker(disk, random.Random(0), segment_bytes=broker.segment_bytes)
    started.wall = broker.wall
    return started


def recover_and_check(broker: Broker, disk: SimDisk, *, cut_at: int | None = None) -> int:
    """Start on what is left of the disk, and compare. With `cut_at` the power goes again at
    that operation of the recovery, or behind it if it has fewer. Returns how many it took."""
    if cut_at is not None:
        last = disk.operations + cut_at

        def cut(operation: int, kind: str, path: str) -> None:
            if operation >= last:
                raise PowerCut

        disk.hook = cut
        with contextlib.suppress(PowerCut):
            successor(broker, disk).start()
        rng = random.Random(cut_at)
        disk = disk.crash(rng, rng.choice(SURVIVALS))
    started = successor(broker, disk)
    before = disk.operations
    started.start()
    took = disk.operations - before
    broker.check(started)
    assert disk.open_files == 0
    return took


def run(
    seed: int, steps: int, variants: int, *, execute: Execute | None = None, every: int = 1
) -> int:
    """Cut at every operation (or every so-many-th); returns the number of crashes checked."""
    disk = SimDisk(random.Random(seed), capacity=CAPACITY)
    broker = Broker(disk, random.Random(seed), execute=execute)
    broker.start()
    choice = random.Random(seed)
    crashes = 0
    took = 40

    def hook(operation: int, kind: str, path: str) -> None:
        nonlocal crashes, took
        if kind == "read" or operation % every:
            return
        for variant in range(variants):
            survival = SURVIVALS[variant % len(SURVIVALS)] if variant else "mixed"
            rng_seed = choice.getrandbits(32)
            again = choice.randrange(took)
            try:
                left = disk.crash(random.Random(rng_seed), survival)
                took = recover_and_check(broker, left, cut_at=again)
            except Exception as error:  # not an OSError, which the store would take for its own
                raise AssertionError(
                    f"seed {seed}, cut before operation {operation} ({kind} {path}),"
                    f" {survival} {rng_seed}, second cut at {again}: {error!r}"
                ) from error
            crashes += 1

    disk.hook = hook
    workload(broker, steps, fill=disk.fill, restart=True)
    return crashes


@pytest.mark.parametrize("seed", [0, *[pytest.param(n, marks=pytest.mark.full) for n in (4, 5)]])
def test_a_power_cut_at_any_operation_loses_and_invents_nothing(seed):
    assert run(seed, steps=60, variants=3) > 500


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_every_operation_of_200_steps_20_variants_each():
    assert run(101, steps=200, variants=20) > 10_000


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(102, 106))
def test_every_operation_of_other_loads_fewer_variants(seed):
    assert run(seed, steps=200, variants=2) > 1000


def test_the_checker_sees_what_is_lost():
    disk = SimDisk(random.Random(1), capacity=CAPACITY)
    broker = Broker(disk, random.Random(1))
    broker.start()
    broker.publish("jobs", 3)
    broker.settle_all("jobs")
    broker.promises["m99"] = broker.promises["m1"].__class__("m99", b"", kept=True)
    with pytest.raises(Broken, match="m99"):
        recover_and_check(broker, disk.crash(random.Random(1)))
