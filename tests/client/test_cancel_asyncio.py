"""The same as test_cancel.py with asyncio's own cancellation, which comes once and not again.

`asyncio.wait_for`, `asyncio.timeout` and task groups cancel so: `CancelledError` is raised at
one await, and whatever is awaited after that in a `finally` just waits.
"""

import asyncio

import anyio

from tests.client.kit import until

PATIENCE_S = 40


class CancelAtYield:
    """Awaits a coroutine; at its n-th yield to the loop the task is cancelled."""

    def __init__(self, coroutine, n: int) -> None:
        self.coroutine = coroutine
        self.left = n

    def __await__(self):
        step, value = self.coroutine.send, None
        while True:
            try:
                future = step(value)
            except StopIteration as stop:
                return stop.value
            self.left -= 1
            if not self.left:
                asyncio.current_task().cancel()
            try:
                value = yield future
                step = self.coroutine.send
            except BaseException as error:
                step, value = self.coroutine.throw, error


async def cancelled_at_each_yield(call, after=None) -> int:
    for n in range(1, 1000):
        steps = CancelAtYield(call(n), n)

        async def run(steps=steps):
            return await steps

        task = asyncio.ensure_future(run())
        try:
            result = await task
        except asyncio.CancelledError:
            result = None
        if after is not None:
            await after(n, result)
        if steps.left > 0:
            return n - 1
    raise AssertionError("it never ends")


def in_asyncio(main) -> None:
    async def bounded() -> None:
        with anyio.fail_after(PATIENCE_S):
            await main()

    asyncio.run(bounded())


async def at_rest(client) -> None:
    await until(lambda: not client._requests.gets and not len(client._publisher))
    assert client._requests._asks == {}
    assert client.feeds == {}
    assert client._publisher._bytes == 0
    assert client.counts.connections == 1
    assert client.link.handling == {}


def test_publishing(msg_broker):
    async def main() -> None:
        async with msg_broker.connect(window=7) as client:

            async def one(n):
                return await client.send("single", n)

            async def many(n):
                return await client.publish_many("many", [[n, i] for i in range(20)], mode="queue")

            assert await cancelled_at_each_yield(one) >= 1
            assert await cancelled_at_each_yield(many) >= 3
            await at_rest(client)

    in_asyncio(main)
    bodies = msg_broker.queue("single").bodies
    assert len(set(bodies)) == len(bodies)
    bodies = msg_broker.queue("many").bodies
    for n in range(1, bodies[-1][0] + 1):
        some = [body for body in bodies if body[0] == n]
        assert some == [[n, i] for i in range(len(some))]
    assert len(some) == 20


def test_consuming(msg_broker):
    done = []

    async def main() -> None:
        async with msg_broker.connect() as client:
            await client.publish_many("jobs", range(100), mode="queue")

            async def call(n):
                async with client.consume("jobs", prefetch=10) as messages:
                    async for message in messages:
                        async with message:
                            await asyncio.sleep(0)
                            done.append(message.body)
                        if message.body % 5 == 4:
                            return
                        await asyncio.sleep(0)

            async def after(n, _):
                await until(lambda: not msg_broker.queue("jobs").leased)

            assert await cancelled_at_each_yield(call, after) >= 4
            await at_rest(client)

    in_asyncio(main)
    queue = msg_broker.queue("jobs")
    assert sorted(done + queue.bodies) == list(range(100))
    assert all(letter.attempt == 1 for letter in queue.ready)


def test_getting_and_asking(msg_broker):
    async def main() -> None:
        async with msg_broker.connect() as client:
            await client.publish_many("jobs", range(3), mode="queue")

            async def call(n):
                await client.ask("stats")
                return await client.get("jobs", n=3, wait=5)

            async def after(n, messages):
                for message in messages or []:
                    await message.nack(delay=0, count_attempt=False)
                await until(lambda: not client._requests.gets)
                await until(lambda: len(msg_broker.queue("jobs").ready) == 3)
                assert [m.attempt for m in msg_broker.queue("jobs").ready] == [1, 1, 1]

            assert await cancelled_at_each_yield(call, after) >= 2
            await at_rest(client)

    in_asyncio(main)


def test_connecting_and_closing(msg_broker):
    async def main() -> None:
        async with msg_broker.connect() as other:
            await other.publish_many("jobs", range(50), mode="queue")

            async def call(n):
                async with msg_broker.connect() as client:
                    (message,) = await client.get("jobs")
                    async with message:
                        await asyncio.sleep(0)

            tasks = len(asyncio.all_tasks())

            async def after(n, _):
                assert len(asyncio.all_tasks()) == tasks
                await until(lambda: not msg_broker.queue("jobs").leased)
                assert all(letter.attempt == 1 for letter in msg_broker.queue("jobs").ready)

            assert await cancelled_at_each_yield(call, after) >= 5

    in_asyncio(main)
