"""A consumer leaves, in every way: what it held is back, in order, before the next dispatch."""

import itertools
from collections.abc import Iterator

import pytest
import trio

from msg.core.ledger import QueueLedger
from tests.actors.kit import Client, running, settled
from tests.actors.test_crash import Plant


@pytest.fixture
def leave(request: pytest.FixtureRequest):
    """The ways in which a client leaves."""

    async def close(client: Client) -> None:
        client.close()

    async def reset(client: Client) -> None:
        client.reset()

    async def eof(client: Client) -> None:
        await client.eof()

    async def reset_in_a_frame(client: Client) -> None:
        await client.raw(b'{"action":"ack","tag":1')
        await settled()
        client.reset()

    async def broken_frame(client: Client) -> None:
        await client.raw(b'{"action":oops}{"')

    async def cut_cable(client: Client) -> None:
        await client.ask("hello", heartbeat=1)
        client.end.cut()
        await trio.sleep(3)

    return locals()[request.param]


WAYS = ["close", "reset", "eof", "reset_in_a_frame", "broken_frame", "cut_cable"]


@pytest.mark.parametrize("leave", WAYS, indirect=True)
async def test_what_it_held_is_back_in_order_before_the_next_dispatch(autojump_clock, leave):
    async with running() as broker:
        client, other, publisher = broker.client(), broker.client(), broker.client()
        for n in range(8):
            await publisher.publish("jobs", n)
        await client.subscribe("jobs", prefetch=5, ack_timeout=0)
        assert await client.messages(5) == [0, 1, 2, 3, 4]
        await client.ask("ack", tag=2)
        await client.expect("message", message=5)
        await other.subscribe("jobs", ack_timeout=0)
        await other.expect("message", message=6)
        await leave(client)
        await trio.sleep(2)
        await publisher.publish("jobs", 8)
        await other.send(action="ack", tag=1)
        seen = []
        for tag in range(2, 9):
            frame = await other.expect("message", tag=tag)
            seen.append((frame["message"], frame["attempt"]))
            await other.send(action="ack", tag=tag)
        assert seen == [(0, 2), (2, 2), (3, 2), (4, 2), (5, 2), (7, 1), (8, 1)]
        broker.check()


@pytest.mark.parametrize("leave", ["close", "reset", "eof"], indirect=True)
async def test_an_idle_consumer_gets_them_at_once_and_in_order(autojump_clock, leave):
    async with running() as broker:
        client, other, publisher = broker.client(), broker.client(), broker.client()
        for n in range(5):
            await publisher.publish("jobs", n)
        await client.subscribe("jobs", prefetch=5)
        await client.messages(5)
        await other.subscribe("jobs", prefetch=3)
        await leave(client)
        assert await other.messages(3) == [0, 1, 2]
        assert {frame["returned"] for frame in other.seen[1:]} == {"disconnect"}


async def test_two_that_leave_together_give_all_back_in_the_original_order(autojump_clock):
    async with running() as broker:
        one, two, last = broker.client(), broker.client(), broker.client()
        for n in range(9):
            await last.publish("jobs", n)
        await one.subscribe("jobs", prefetch=4)
        await one.messages(4)
        await two.subscribe("jobs", prefetch=4)
        await two.messages(4)
        two.reset()
        one.reset()
        await settled()
        await last.subscribe("jobs", prefetch=9)
        assert await last.messages(9) == list(range(9))


async def test_priorities_are_kept_when_messages_come_back(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        for n, priority in enumerate([4, 9, 0, 9]):
            await other.publish("jobs", n, priority=priority)
        await client.subscribe("jobs", prefetch=4)
        assert await client.messages(4) == [1, 3, 0, 2]
        client.close()
        await other.silence(1)
        await other.subscribe("jobs", prefetch=4)
        assert await other.messages(4) == [1, 3, 0, 2]


async def test_gone_between_dispatch_and_write(autojump_clock, monkeypatch):
    """The original checked, then sent. Here the lease comes first: a consumer that is gone
    when its message is written has lost nothing, and has used up no attempt."""
    async with running() as broker:
        ours, theirs = (trio.SocketStream(s) for s in trio.socket.socketpair())
        broker.broker.connect(theirs, "pair")
        client, other = Client(ours), broker.client()
        await client.subscribe("jobs")
        real = QueueLedger.dispatch

        def then_gone(this: QueueLedger, stamp) -> None:
            real(this, stamp)
            if this.leased:
                ours.socket.close()

        monkeypatch.setattr(QueueLedger, "dispatch", then_gone)
        await other.publish("jobs", 1)
        await settled()
        monkeypatch.setattr(QueueLedger, "dispatch", real)
        await other.subscribe("jobs")
        await other.expect("message", message=1, attempt=1)
        broker.check()


async def test_gone_while_its_departure_waits_in_the_mailbox(autojump_clock, monkeypatch):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        await client.subscribe("jobs")
        await other.send(
            action="publish", topic="jobs", mode="queue", message=1, durability="memory"
        )
        client.reset()
        await other.expect("ack")
        await settled()
        await other.subscribe("jobs")
        await other.expect("message", message=1)
        broker.check()


async def test_reset_in_the_middle_of_a_write(autojump_clock):
    for count in (1, 50, 300, 1000, 5000):
        async with running() as broker:
            client, other = broker.client(), broker.client()
            for n in range(10):
                await other.publish("jobs", [n, "x" * 500])
            broker_end = broker.connection(1).stream
            broker_end.reset_after(count)
            await client.send(action="subscribe", topic="jobs", mode="queue", prefetch=10)
            await settled()
            assert 1 not in broker.broker.connections.open
            await other.subscribe("jobs", prefetch=10)
            assert [m[0] for m in await other.messages(10)] == list(range(10))
            broker.check()


async def test_reset_in_the_middle_of_an_ack_batch(autojump_clock):
    """Acks that were read before the reset count, whatever became of their answers."""
    async with running() as broker:
        client, other = broker.client(), broker.client()
        for n in range(6):
            await other.publish("jobs", n)
        await client.subscribe("jobs", prefetch=6)
        await client.messages(6)
        await client.raw(
            b'{"action":"ack","tag":1}\n{"action":"ack","tag":2,"id":"a"}\n{"action":"ack","ta'
        )
        client.reset()
        await settled()
        await other.subscribe("jobs", prefetch=9)
        await settled()
        got = await other.messages(broker.queue("jobs").leased)
        assert got in ([2, 3, 4, 5], [0, 1, 2, 3, 4, 5])  # the read came in time, or did not


async def test_only_what_the_kernel_had_counts_as_an_attempt(autojump_clock):
    """A real socket pair: 100 messages of 20 kB fit neither buffer, and the reader is gone."""
    async with running() as broker:
        other = broker.client()
        for n in range(100):
            await other.publish("jobs", [n, "x" * 20_000])
        ours, theirs = (trio.SocketStream(s) for s in trio.socket.socketpair())
        broker.broker.connect(theirs, "pair")
        client = Client(ours)
        await client.send(action="subscribe", topic="jobs", mode="queue", prefetch=100)
        await settled()
        ours.socket.close()
        await settled()
        await other.subscribe("jobs", prefetch=100)
        attempts = []
        for n in range(100):
            frame = await other.expect("message")
            assert frame["message"][0] == n
            attempts.append(frame["attempt"])
        assert attempts == sorted(attempts, reverse=True)
        assert attempts[0] == 2
        assert attempts[-1] == 1
        assert attempts.count(2) < 60


async def test_a_bystander_in_a_cut_write_spends_no_attempts(autojump_clock):
    """However often a consumer dies at its first message, those behind it in the same write
    stay at their first attempt."""
    async with running() as broker:
        other = broker.client()
        for n in range(60):
            await other.publish("jobs", [n, "x" * 20_000])
        for _ in range(4):
            ours, theirs = (trio.SocketStream(s) for s in trio.socket.socketpair())
            broker.broker.connect(theirs, "pair")
            await Client(ours).send(action="subscribe", topic="jobs", mode="queue", prefetch=60)
            await settled()
            ours.socket.close()
            await settled()
        await other.subscribe("jobs", prefetch=60)
        attempts = {}
        while len(attempts) < 60:
            frame = await other.expect("message")
            attempts[frame["message"][0]] = frame["attempt"]
            await other.send(action="ack", tag=frame["tag"])
        assert attempts[59] == 1


async def test_hundreds_of_consumers_that_come_and_go_lose_nothing(autojump_clock):
    async with running() as broker:
        rng = broker.world.rng
        publisher = broker.client()
        done: list[int] = []

        async def come_and_go(numbers: Iterator[int]) -> None:
            for _ in numbers:
                client = broker.client()
                await client.send(action="subscribe", topic="jobs", mode="queue", prefetch=3)
                with trio.move_on_after(rng.random()):
                    while True:
                        frame = await client.expect("message")
                        await trio.sleep(rng.random() / 10)
                        if (await client.ask("ack", tag=frame["tag"]))["count"]:
                            done.append(frame["message"])
                rng.choice([client.close, client.reset])()

        async with trio.open_nursery() as nursery:
            numbers = iter(range(400))
            for _ in range(10):
                nursery.start_soon(come_and_go, numbers)
            for n in range(150):
                await publisher.publish("jobs", n, durability="memory")
                await trio.sleep(0.1)
        await publisher.subscribe("jobs", prefetch=100)
        left = itertools.count()
        with trio.move_on_after(100):
            while len(set(done)) < 150:
                frame = await publisher.expect("message")
                next(left)
                await publisher.send(action="ack", tag=frame["tag"])
                done.append(frame["message"])
        assert sorted(set(done)) == list(range(150))


async def test_a_connection_that_crashes_gives_back_what_it_held(autojump_clock, monkeypatch):
    from msg.actors.session import Session

    async with running(errors=("connection crashed",)) as broker:
        client, other = broker.client(), broker.client()
        await other.publish("jobs", 1)
        await client.subscribe("jobs")
        await client.expect("message")
        Plant(monkeypatch, Session, "handle")
        await client.send(action="ping")
        assert await client.closed() == []
        await other.subscribe("jobs")
        await other.expect("message", message=1, attempt=2)
