"""The broker itself stands still: SIGSTOP, a paused virtual machine, a laptop's lid.

After it, deadlines strike before the sockets are looked at: what clients said meanwhile is
heard only some steps later, and must count as said in time.
"""

import trio

from tests.actors.kit import Running, running, settings

STEPS = 30  # of the scheduler, until it looks at sockets
STEP_S = 0.000_1


async def stand_still(clock: "trio.testing.MockClock", seconds: float) -> None:
    """The clock goes on and nobody is served; then deadlines strike, and clients are not heard
    yet."""
    clock.autojump_threshold = float("inf")
    clock.jump(seconds)
    for _ in range(STEPS):
        clock.jump(STEP_S)
        await trio.lowlevel.checkpoint()
    clock.autojump_threshold = 0


async def test_an_ack_that_waits_in_the_socket_is_in_time(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.subscribe("jobs", ack_timeout=1)
        assert await client.messages(1) == [1]
        other = broker.client()  # whose it would be then
        await other.subscribe("jobs")
        await stand_still(autojump_clock, 60)
        assert (await client.ask("ack", "acked", tag=1))["failed"] == []


async def test_a_lease_that_was_nearly_over_when_it_began(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.subscribe("jobs", ack_timeout=10)
        assert await client.messages(1) == [1]
        other = broker.client()  # whose it would be then
        await other.subscribe("jobs")
        await client.silence(9.999)
        await stand_still(autojump_clock, 5)
        assert (await client.ask("ack", "acked", tag=1))["failed"] == []


async def test_a_stall_is_granted_once(autojump_clock):
    """Who says nothing after it loses what it holds, at the time that was left."""
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.subscribe("jobs", ack_timeout=2)
        assert await client.messages(1) == [1]
        await stand_still(autojump_clock, 60)
        other = broker.client()
        await other.subscribe("jobs")
        await other.silence(0.5)
        begun = trio.current_time()
        assert await other.messages(1) == [1]
        assert trio.current_time() - begun < 3


async def test_the_stall_is_known_to_who_arms_after_it(autojump_clock):
    """The process was stopped between a lease and its alarm."""
    async with running() as broker:
        ticks: list[float] = []

        class Mailbox:
            def post(self, item: object) -> None:
                ticks.append(item.stalled)  # type: ignore[attr-defined]

        timer = broker.broker.context.services.timer
        due = trio.current_time() + 1
        await stand_still(autojump_clock, 10)
        timer.arm(due, Mailbox())
        timer.arm(trio.current_time() + 1, Mailbox())
        await trio.sleep(2)
        first, second = ticks
        assert 10 <= first < 12
        assert second == 0


async def test_a_client_that_talked_all_the_time_is_not_cut(autojump_clock):
    async with running(settings(limits={"heartbeats_missed": 1})) as broker:
        client, other = broker.client(), broker.client()
        await client.ask("hello", heartbeat=1)
        await stand_still(autojump_clock, 60)
        await client.ask("ping", "pong")
        assert alive(broker)
        await other.silence(3)
        assert not alive(broker)  # it is silent now


async def test_half_a_frame_may_be_ended_after_it(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.raw(b'{"action":"pi')
        await client.silence(1)
        await stand_still(autojump_clock, 60)
        await client.raw(b'ng","id":"late"}\n')
        assert (await client.expect("pong"))["id"] == "late"


async def test_a_reader_that_comes_after_it_is_not_cut(autojump_clock):
    async with running(settings(limits={"outbound_bytes": 50_000})) as broker:
        client, other = broker.client(window=1000), broker.client()
        for n in range(20):
            await other.publish("jobs", [n, "x" * 10_000])
        await client.send(
            action="subscribe", topic="jobs", mode="queue", prefetch=20, ack_timeout=0
        )
        await other.silence(10)
        await stand_still(autojump_clock, 60)
        assert [m[0] for m in await client.messages(20)] == list(range(20))


def alive(broker: Running) -> bool:
    return 1 in broker.broker.connections.open
