"""A queue crashes while the store reads ahead for it: the answer is for who is gone."""

from typing import Any

from msg.actors.storekeeper import Fetched, Storekeeper
from msg.scenario.bugs import put_bug
from msg.store.commit import read
from tests.actors.kit import running
from tests.actors.test_crash import CRASHED, drained


async def test_messages_flow_on(autojump_clock, monkeypatch):
    """The answer stands behind the mail that crashes the actor, so the next one hears it first
    of all: it counted a reading less than none, and never read again."""
    monkeypatch.setattr("msg.actors.queue.READ_MESSAGES", 10)
    async with running(errors=CRASHED) as broker:
        client, consumer = broker.client(), broker.client()
        for n in range(50):
            await client.publish("jobs", n)
        await consumer.subscribe("jobs", prefetch=1)
        held: list[Fetched] = []

        def hold(_: Storekeeper, plan: Any, reply_to: Any, *, ahead: bool) -> None:
            held.append(Fetched(plan, reply_to, ahead, read(broker.world.disk, plan)))

        with monkeypatch.context() as held_up:
            held_up.setattr(Storekeeper, "read", hold)
            put_bug(broker.broker, "queue jobs")
            await client.silence(0.1)
        assert len(held) == 1  # the new incarnation has nothing in memory
        put_bug(broker.broker, "queue jobs")
        broker.queue("jobs").post(held[0])
        assert await drained(consumer, 50) == list(range(50))
