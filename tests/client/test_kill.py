"""The client and a broker process that is killed with -9 while it is used: real sockets and disk."""

import random

import anyio
import anyio.to_thread
import pytest

from msg.client import Outgoing, connect
from tests.e2e.process import Broker

pytestmark = pytest.mark.process
FULL = pytest.mark.full
TRIO_FIRST = ["trio", pytest.param("asyncio", marks=FULL)]
ASYNCIO_FIRST = [pytest.param("trio", marks=FULL), "asyncio"]
PATIENCE_S = 50


def run(loop, main) -> None:
    async def bounded() -> None:
        with anyio.fail_after(PATIENCE_S):
            await main()

    anyio.run(bounded, backend=loop)


def restart(broker: Broker) -> None:
    broker.kill()
    broker.start()


@pytest.mark.parametrize("loop", TRIO_FIRST)
def test_what_is_published_is_kept_exactly_once_through_kills(tmp_path, loop):
    """Confirmed or on its way at the moment of each kill, in one pipeline, in its order."""
    with Broker(tmp_path) as broker:

        async def main() -> None:
            due = [500, 2000, 4000]
            async with connect(broker.url, window=300) as client:

                def progress(kept: int) -> None:
                    if due and kept > due[0]:
                        due.pop(0)
                        tasks.start_soon(anyio.to_thread.run_sync, restart, broker)

                async with anyio.create_task_group() as tasks:
                    done = await client.publish_many(
                        "jobs", range(6000), mode="queue", durability="stored", on_progress=progress
                    )
                assert done.count == 6000
                assert client.counts.connections == 4
            async with connect(broker.url) as client:
                bodies = []
                while messages := await client.get("jobs", n=1000):
                    for message in messages:
                        bodies.append(message.body)
                        await message.ack()
                assert bodies == list(range(6000))

        run(loop, main)


@pytest.mark.full
@pytest.mark.parametrize("loop", ASYNCIO_FIRST)
def test_workers_go_on_through_kills_and_miss_nothing(tmp_path, loop):
    """At least once: an ack may be lost with the broker, but each result is there just once,
    because it is published under its job's id."""
    rng = random.Random(3)
    with Broker(tmp_path) as broker:

        async def main() -> None:
            stop, due = anyio.Event(), [rng.randrange(100, 300), rng.randrange(400, 600)]
            done: set[int] = set()
            async with connect(broker.url) as client, anyio.create_task_group() as tasks:
                await client.publish_many("jobs", range(800), mode="queue", durability="stored")

                async def handle(message) -> None:
                    await client.send(
                        "done", message.body, message_id=f"done-{message.body}", durability="stored"
                    )
                    done.add(message.body)
                    if due and len(done) > due[0]:
                        due.pop(0)
                        tasks.start_soon(anyio.to_thread.run_sync, restart, broker)
                    if len(done) == 800:
                        stop.set()

                await client.run_worker("jobs", handle, concurrency=8, stop=stop)
            async with connect(broker.url) as client:
                results = [m.body for m in await client.get("done", n=1000)]
                assert sorted(results) == list(range(800))

        run(loop, main)


@pytest.mark.parametrize("loop", TRIO_FIRST)
def test_ids_of_ones_own_are_kept_once_by_two_programs_and_a_kill_between(tmp_path, loop):
    """The import that is begun anew from its beginning, as scripts are."""
    with Broker(tmp_path) as broker:

        async def main() -> None:
            rows = [Outgoing(n, message_id=f"row-{n}") for n in range(500)]
            async with connect(broker.url) as client:
                await client.publish_many("rows", rows[:300], mode="queue", durability="stored")
            await anyio.to_thread.run_sync(restart, broker)
            async with connect(broker.url) as client:
                again = await client.publish_many("rows", rows, mode="queue", durability="stored")
                assert (again.count, again.duplicates) == (500, 300)
                assert len(await client.get("rows", n=1000)) == 500

        run(loop, main)
