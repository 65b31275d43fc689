"""A connection that has ended is free soon: nothing of it waits for a full collection.

Of a reset one some errors, which are new then, refer to each other: the young generations do.
"""

import gc
import weakref

import pytest
import trio

from msg.core.batches import PublishBatch
from tests.actors.kit import running, settled


@pytest.fixture
def no_collections():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def closes(client):
    client.close()


async def is_reset(client):
    client.reset()


async def ends_its_requests(client):
    await client.eof()
    await client.closed()


async def is_refused(client):
    await client.raw(b"\xff\n" * 200)
    await client.closed()


@pytest.mark.parametrize("end", [closes, is_reset, ends_its_requests, is_refused])
async def test_a_connection_that_ended_leaves_no_cycle(autojump_clock, no_collections, end):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.subscribe("news", mode="pubsub")
        await client.subscribe("news.*", mode="pubsub")
        await client.subscribe("jobs", prefetch=5)
        await client.expect("message", message=1)
        await client.ask("ack", tag=1)
        await client.send(action="get", topic="others", wait=60, id="g")
        await client.publish("news", 2, mode="pubsub")
        await settled()
        gc.collect()  # from here on all of it is old
        connection = broker.connection(1)
        left = [weakref.ref(connection), weakref.ref(connection.session)]
        del connection
        await end(client)
        del client
        await broker.client().silence(100)  # the waiting get is answered, too
        assert not broker.broker.connections.open.get(1)
        gc.collect(1)
        assert [ref() for ref in left] == [None, None]


REQUESTS = {
    "id_conflict": {"action": "publish", "topic": "jobs", "mode": "queue", "message_id": "a"},
    "id_conflict of a topic": {"action": "publish", "topic": "news", "message_id": "a"},
    "bad_name": {"action": "publish", "topic": "_jobs", "mode": "queue"},
    "bad_field": {"action": "publish", "topic": "jobs", "ttl": "x"},
    "unsupported": {"action": "publish", "topic": "kept", "delay": 5},
    "unknown_action": {"action": "dance"},
    "not_found": {"action": "delete", "topic": "nothing"},
    "get": {"action": "get", "topic": "nothing", "wait": 1},
    "tree": {"action": "tree"},
    "help": {"action": "help"},
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=list(REQUESTS))
async def test_a_request_leaves_no_cycle(autojump_clock, no_collections, request_):
    """One that is refused keeps the read that it came in: its error knows where it was raised."""
    async with running() as broker:
        client = broker.client()
        await client.ask("declare", topic="kept", mode="pubsub")
        for n in range(4):
            if n == 2:
                gc.collect()
            await client.ask(**{"message": n, **request_})
            await trio.sleep(5)
        assert gc.collect() == 0


async def subscribes(client):
    await client.subscribe("news", "pubsub")
    await client.ask("unsubscribe", topic="news", mode="pubsub")


async def declares(client):
    await client.ask("declare", topic="jobs", mode="queue")
    await client.ask("delete", topic="jobs", mode="queue")


async def consumes(client):
    await client.subscribe("jobs")
    await client.ask("delete", topic="jobs", mode="queue")
    await client.expect("unsubscribed", topic="jobs")


async def consumes_and_gets(client):
    await client.subscribe("jobs")
    await client.ask("unsubscribe", topic="jobs", mode="queue")
    await client.ask("get", topic="jobs")  # which looks for what is over


@pytest.mark.parametrize("use", [subscribes, declares, consumes, consumes_and_gets])
async def test_a_topic_or_queue_that_ended_leaves_no_cycle(autojump_clock, no_collections, use):
    """As each inbox does, that a client had for its answers."""
    async with running() as broker:
        client = broker.client()
        for n in range(4):
            if n == 2:
                gc.collect()
            await use(client)
            await trio.sleep(5)
        assert gc.collect() == 0


@pytest.mark.parametrize("mode", ["queue", "pubsub"])
@pytest.mark.parametrize("durability", ["memory", "stored"])
async def test_who_waits_keeps_nothing_of_the_last_mail(
    autojump_clock, no_collections, mode, durability
):
    """A body is a piece of the read that it came in: a thousand queues kept 256 KiB each."""
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1, mode=mode, durability=durability)
        await trio.sleep(1)
        assert not [o for o in gc.get_objects() if isinstance(o, PublishBatch)]
