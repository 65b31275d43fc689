"""Many queues together hold no more in memory than `services.hot` grants, however they start."""

from sys import getsizeof

import pytest

from msg.actors.queue import HOT_LEAST
from msg.actors.recent import Recent
from msg.core.message import PRIORITY, Message
from tests.actors.kit import Running, SimWorld, running, settled

QUEUES, MESSAGES, BODY = 12, 100, "x" * 1000
GRANTED = 64 << 10  # to all: less than one queue's messages are
RECORD = 1500  # more than a message takes in the log
# when the budget is used up a queue may still hold HOT_LEAST, and overshoot by a message; the
# one that uses it up may take all it has
MOST = GRANTED + MESSAGES * RECORD + QUEUES * (HOT_LEAST + RECORD)


def names() -> list[str]:
    return [f"q{n}" for n in range(QUEUES)]


def grant_little(broker: Running) -> None:
    broker.broker.context.services.hot.limit = GRANTED


def in_memory(broker: Running) -> int:
    """Bytes of what is ready, and of what is being read."""
    total = 0
    for name in names():
        actor = broker.actor(name)
        plans = [plan for plan in (actor.ahead, actor.by_seq) if plan is not None]
        total += actor.ledger.waiting.ready.bytes + sum([plan.size for plan in plans])
    return total


async def fill(broker: Running, priority: int) -> None:
    client = broker.client()
    for name in names():
        for _ in range(MESSAGES):
            await client.publish(name, BODY, priority=priority)
    await settled()


@pytest.mark.parametrize("priority", [4, 9])
async def test_publishes_to_many_queues(autojump_clock, priority):
    async with running() as broker:
        grant_little(broker)
        await fill(broker, priority)
        assert GRANTED < in_memory(broker) < MOST


async def test_many_queues_are_consumed_from_at_once_after_a_start(autojump_clock):
    """A queue that had no turn since it was opened, when there was room for all, took as
    much as it might have taken then: a thousand of them 500 MB instead of 48."""
    async with running() as broker:
        await fill(broker, PRIORITY)
        disk = broker.world.disk
    world = SimWorld(disk)
    async with running(world=world) as broker:
        await settled()
        grant_little(broker)  # none of them hears of it
        consumer = broker.client()
        world.hold_disk()  # the reads are under way, all at once
        for name in names():
            await consumer.send(action="subscribe", topic=name, mode="queue", prefetch=1)
        await settled()
        asked_for = in_memory(broker)
        world.free_disk()  # before any assertion: a held disk cannot be cancelled
        assert GRANTED < asked_for < MOST
        await settled()
        assert GRANTED < in_memory(broker) < MOST
        assert broker.broker.context.services.hot.used == in_memory(broker)
        seen = []
        while len(seen) < QUEUES * MESSAGES:
            frame = await consumer.until("message")
            seen.append(frame["message_id"])
            await consumer.send(action="ack", tag=frame["tag"])
            assert in_memory(broker) < MOST
        assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("seqs", [range(1, 501), [2, 1, *range(3, 501)], range(2, 1001, 2)])
def test_who_settled_what_is_remembered_in_few_bytes(seqs):
    """A list of 500 seqs takes 20 kB, and 20,000 of them are remembered."""
    recent = Recent()
    recent.settled(1.0, "jobs", "me", [Message(seq, "", b"") for seq in seqs])
    (handover,) = recent.of("jobs", 2)
    assert list(handover.seqs) == list(seqs)
    assert isinstance(handover.seqs, range) or getsizeof(handover.seqs) < 10 * len(seqs)
