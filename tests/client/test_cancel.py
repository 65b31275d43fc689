"""Cancelled at each of its awaits in turn, no call harms the client, and no message is lost.

The cancellation comes at the n-th step of the task that runs the call, for n = 1, 2, … until
the call ends before it. All of it over one connection, which has to live through all of that.
"""

import anyio
import pytest
import trio

from msg.client import Outgoing
from tests.client.kit import until


class CancelAtStep(trio.abc.Instrument):
    """Cancels `scope` just before the n-th step of the task that entered it."""

    def __init__(self, n: int) -> None:
        self.left = n
        self.scope = trio.CancelScope()
        self.task = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.left -= 1
            if not self.left:
                self.scope.cancel()


async def cancelled_at_each_step(call, after=None) -> int:
    """How many steps it took. `after(result)`: result is None where it was cancelled."""
    for n in range(1, 1000):
        instrument = CancelAtStep(n)
        result, finished = None, False
        trio.lowlevel.add_instrument(instrument)
        try:
            with instrument.scope:
                result = await call(n)
                finished = True
        finally:
            trio.lowlevel.remove_instrument(instrument)
        if after is not None:
            await after(n, result)
        if finished and instrument.left > 0:
            return n - 1
    raise AssertionError("it never ends")


async def at_rest(client) -> None:
    """Nothing is left over in the client's books, over the connection that it began with."""
    await until(lambda: not client._requests.gets and not len(client._publisher))
    assert client._requests._asks == {}
    assert client._requests._replies == {}
    assert client.feeds == {}
    assert client._publisher._bytes == 0
    assert client.counts.connections == 1
    assert client.counts.settlements_failed == 0
    assert client.link.handling == {}


async def test_publish(msg_broker, msg_clock):
    certain = []
    async with msg_broker.connect() as client:

        async def call(n):
            return await client.send("jobs", n)

        async def after(n, receipt):
            if receipt is not None:
                certain.append(n)

        assert await cancelled_at_each_step(call, after) >= 1
        await at_rest(client)
    bodies = msg_broker.queue("jobs").bodies
    assert len(set(bodies)) == len(bodies)  # kept or not, but none twice
    assert set(certain) <= set(bodies)


async def test_publish_with_a_full_window(msg_broker, msg_clock):
    async with msg_broker.connect(window=1) as client:

        async def call(n):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, "jobs", 2 * n)
                await client.send("jobs", 2 * n + 1)
            return True

        assert await cancelled_at_each_step(call) >= 1
        await at_rest(client)
        await client.send("jobs", "last")
    bodies = msg_broker.queue("jobs").bodies
    assert len(set(bodies)) == len(bodies)
    assert bodies[-1] == "last"


@pytest.mark.parametrize("form", ["list", "async", "own ids"])
async def test_publish_many(msg_broker, msg_clock, form):
    closed = []
    async with msg_broker.connect(window=7) as client:

        def items(n):
            bodies = [[n, i] for i in range(20)]
            if form == "own ids":
                return [Outgoing(body, message_id=f"{body}") for body in bodies]
            return each(bodies) if form == "async" else bodies

        async def each(bodies):
            try:
                for body in bodies:
                    await trio.lowlevel.checkpoint()
                    yield body
            finally:
                closed.append(1)

        async def call(n):
            return await client.publish_many("jobs", items(n), mode="queue")

        steps = await cancelled_at_each_step(call)
        assert steps >= 3
        await at_rest(client)
        await client.send("jobs", "last")
    bodies = msg_broker.queue("jobs").bodies
    assert bodies.pop() == "last"
    for n in range(1, steps + 2):  # the beginning of each, in its order, none twice
        some = [body for body in bodies if body[0] == n]
        assert some == [[n, i] for i in range(len(some))]
    assert len(some) == 20  # the last one was not cancelled
    if form == "async":  # closed in its own task, not left to the collector
        assert 0 < len(closed) <= steps + 1


async def test_get(msg_broker, msg_clock):
    async with msg_broker.connect() as client:
        await client.publish_many("jobs", range(3), mode="queue")

        async def call(n):
            return await client.get("jobs", n=3, wait=60)

        async def after(n, messages):
            await until(lambda: not client._requests.gets)
            if messages is None:
                await until(lambda: not msg_broker.queue("jobs").leased)
                assert [m.attempt for m in msg_broker.queue("jobs").ready] == [1, 1, 1]
            else:
                assert [(m.body, m.attempt) for m in messages] == [(0, 1), (1, 1), (2, 1)]
                for message in messages:
                    await message.nack(delay=0, count_attempt=False)
                await msg_broker.idle()

        assert await cancelled_at_each_step(call, after) >= 1
        await at_rest(client)


@pytest.mark.parametrize("take", [False, True])
async def test_consuming_from_subscribe_to_ack(msg_broker, msg_clock, take):
    done = []
    async with msg_broker.connect() as client:
        await client.publish_many("jobs", range(100), mode="queue")

        async def call(n):
            async with client.consume("jobs", prefetch=10) as messages:
                if take:
                    batch = await messages.take()
                    try:
                        for message in batch:
                            async with message:
                                await trio.lowlevel.checkpoint()
                                done.append(message.body)
                    finally:  # what was taken is the program's affair
                        for message in batch:
                            if message.held:
                                await message.nack(delay=0, count_attempt=False)
                else:
                    async for message in messages:
                        async with message:
                            await trio.lowlevel.checkpoint()
                            done.append(message.body)
                        if message.body % 5 == 4:
                            break
            return True

        async def after(n, _):
            await until(lambda: not msg_broker.queue("jobs").leased)

        assert await cancelled_at_each_step(call, after) >= 4
        await at_rest(client)
    queue = msg_broker.queue("jobs")
    # each is done once or back in its place, and being stopped was no attempt of theirs
    assert sorted(done + queue.bodies) == list(range(100))
    assert queue.settled == len(done)
    assert all(letter.attempt == 1 for letter in queue.ready)


async def test_settling_with_confirmation(msg_broker, msg_clock):
    async with msg_broker.connect() as client:
        await client.publish_many("jobs", range(100), mode="queue")
        (message,) = await client.get("jobs")

        async def call(n):
            nonlocal message
            if n % 2:
                await message.ack(confirm=True)
            else:
                await message.nack("no", delay=0, requeue=False, confirm=True)
            return True

        async def after(n, _):
            nonlocal message
            await msg_broker.idle()
            (message,) = await client.get("jobs")

        steps = await cancelled_at_each_step(call, after)
        assert steps >= 1
        assert message.body == steps + 1  # each of them was settled, once
        await message.ack()
        await at_rest(client)


async def test_asking_and_requests(msg_broker, msg_clock):
    async with msg_broker.connect() as client, msg_broker.connect() as other:

        async def serve() -> None:
            async for message in other.subscribe("sums"):
                await message.reply(sum(message.body))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await until(lambda: msg_broker.topic("sums").subscribers)

            async def call(n):
                await client.ask("stats")
                await client.declare("jobs")
                return (await client.request("sums", [n, n])).body

            async def after(n, answer):
                assert answer in (None, 2 * n)

            assert await cancelled_at_each_step(call, after) >= 3
            await at_rest(client)
            nursery.cancel_scope.cancel()


async def test_connecting_and_closing(msg_broker, msg_clock):
    """No task, no connection and no lease outlives a client whose beginning or end is cut."""
    async with msg_broker.connect() as other:
        await other.publish_many("jobs", range(3), mode="queue")

        async def call(n):
            async with msg_broker.connect() as client:
                await client.send("mine", n)
                messages = await client.get("jobs", n=1)
                async with messages[0]:
                    await trio.lowlevel.checkpoint()
                    raise_again = messages[0].body
                return raise_again

        tasks = len(trio.lowlevel.current_task().child_nurseries)
        done = []

        async def after(n, _):
            await until(lambda: not msg_broker.queue("jobs").leased)
            assert len(trio.lowlevel.current_task().child_nurseries) == tasks
            queue = msg_broker.queue("jobs")
            done.append(queue.settled)
            if queue.empty:
                await other.publish_many("jobs", range(3), mode="queue")
            assert all(letter.attempt == 1 for letter in queue.ready)

        assert await cancelled_at_each_step(call, after) >= 5
        assert done == sorted(done)
        with anyio.fail_after(10):
            await until(lambda: [a["kind"] for a in msg_broker.actors].count("connection") == 1)
