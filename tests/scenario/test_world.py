"""The simulated world: one seed, one run."""

import random
from typing import Any

import pytest
import trio

from msg.scenario.simnet import SimLink
from msg.scenario.world import EPOCH, SimWorld, deterministic_scheduling, run_simulated
from msg.store.simdisk import PowerCut


async def chatter(world: SimWorld) -> list[str]:
    """Tasks that wake at the same moments, and a line of who came when."""
    order: list[str] = []

    async def talk(name: str) -> None:
        for _ in range(5):
            await trio.sleep(1)
            order.append(f"{name}@{world.now():.3f}")
            await world.in_disk_thread(lambda: None)

    async with trio.open_nursery() as nursery:
        for n in range(10):
            nursery.start_soon(talk, f"task {n}")
    return order


def test_one_seed_is_one_run_and_another_is_another():
    runs = [run_simulated(chatter, seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_afterwards_trio_is_as_it_was():
    run: Any = trio._core._run
    run._r.seed(5)
    before = run._ALLOW_DETERMINISTIC_SCHEDULING, run._r.getstate()
    with deterministic_scheduling(1):
        assert run._ALLOW_DETERMINISTIC_SCHEDULING is True
        run._r.random()
    assert (run._ALLOW_DETERMINISTIC_SCHEDULING, run._r.getstate()) == before


def test_an_hour_takes_no_time_and_the_wall_clock_can_jump():
    async def main(world: SimWorld) -> tuple[float, float]:
        await trio.sleep(3600)
        world.wall_offset -= 60
        return world.now(), world.wall()

    assert run_simulated(main, 1) == (3600.0, EPOCH + 3600 - 60)


def test_disk_latency_is_slept_and_a_thread_cannot_be_cancelled():
    async def main(world: SimWorld) -> float:
        world.disk.latency["create"] = 5.0
        with trio.move_on_after(1):
            (await world.in_disk_thread(lambda: world.disk.create("a"))).close()
        return world.now()

    assert run_simulated(main, 1) >= 5


def test_switched_off_no_work_is_done_or_reported():
    async def main(world: SimWorld) -> bool:
        world.disk.latency["create"] = 5.0

        async def work() -> None:
            with pytest.raises(PowerCut):
                await world.in_disk_thread(lambda: world.disk.create("a"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            await trio.sleep(1)
            world.switch_off()
        world.restart_machine("none")
        return world.disk.exists("a")

    assert run_simulated(main, 1) is False


def link() -> SimLink:
    return SimLink(random.Random(1), 0.001)


async def test_a_reader_that_does_not_read_stops_the_writer(autojump_clock):
    one = link()
    with trio.move_on_after(10) as scope:
        await one.client_end.send_all(bytes(1 << 20))
    assert scope.cancelled_caught
    assert one.up.under_way == one.up.window
    assert len(await one.broker_end.receive_some(1 << 20)) == one.up.window


async def test_an_end_comes_after_the_data_and_a_reset_before_it(autojump_clock):
    one, other = link(), link()
    for each in (one, other):
        await each.client_end.send_all(b"abc")
        await each.client_end.send_eof()
    other.cut()
    assert await one.broker_end.receive_some() == b"abc"
    assert await one.broker_end.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await other.broker_end.receive_some()


async def test_a_cut_inside_a_frame_lets_its_first_bytes_through(autojump_clock):
    one = link()
    one.cut_inside_frame(2)
    await one.client_end.send_all(b"abc")
    assert await one.broker_end.receive_some() == b"ab"
    for end in (one.broker_end, one.client_end):
        with pytest.raises(trio.BrokenResourceError):
            await end.receive_some()


async def test_silence_stall_split_and_throttle(autojump_clock):
    one = link()
    one.stall(5.0)
    one.split(1)
    await one.client_end.send_all(b"abc")
    assert [await one.broker_end.receive_some() for _ in range(3)] == [b"a", b"b", b"c"]
    assert trio.current_time() >= 5
    one.throttle(10)
    await one.broker_end.send_all(bytes(10))
    for _ in range(10):
        await one.client_end.receive_some()
    assert trio.current_time() >= 5.9
    one.go_silent()
    await one.client_end.send_all(b"lost")
    with trio.move_on_after(3600) as scope:
        await one.broker_end.receive_some()
    assert scope.cancelled_caught
