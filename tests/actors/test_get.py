"""`get`: take some messages, now or within a time."""

import trio

from tests.actors.kit import running, settings


async def test_get_brings_up_to_n_messages_and_then_its_count(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(5):
            await client.publish("jobs", n)
        await client.send(action="get", topic="jobs", n=3, id="g")
        assert await client.messages(3) == [0, 1, 2]
        await client.expect("got", id="g", count=3)
        await client.send(action="get", topic="jobs", n=9, id="h")
        assert await client.messages(2) == [3, 4]
        await client.expect("got", id="h", count=2)
        assert (await client.ask("ack", tags=[1, 2, 3, 4, 5]))["count"] == 5


async def test_get_of_nothing_answers_at_once(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.send(action="get", topic="jobs", id="g")
        await client.expect("got", id="g", count=0)


async def test_get_waits_for_messages(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        await client.send(action="get", topic="jobs", n=2, wait=10, id="g")
        await client.silence(5)
        await other.publish("jobs", 1)
        await client.expect("message", message=1)
        await client.silence(4.5)
        await client.expect("got", id="g", count=1)


async def test_get_is_over_as_soon_as_it_has_all(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        await client.send(action="get", topic="jobs", n=1, wait=1000, id="g")
        await client.silence(5)
        await other.publish("jobs", 1)
        await client.expect("message", message=1)
        await client.expect("got", id="g", count=1)
        await other.publish("jobs", 2)
        await client.silence()


async def test_a_get_without_an_id_is_answered_by_its_messages_only(autojump_clock):
    """Without an id only publishes and faults are answered; `got` would surprise nobody who
    asked for it, so it is sent too: a `get` is not of the original's protocol."""
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.send(action="get", topic="jobs")
        await client.expect("message", message=1)
        await client.expect("got", count=1)


async def test_what_a_get_took_is_leased(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        await client.publish("jobs", 1)
        await client.send(action="get", topic="jobs", ack_timeout=5, id="g")
        await client.expect("message", message=1, tag=1, attempt=1, ack_timeout=5)
        await client.expect("got", count=1)
        await other.subscribe("jobs")
        await other.silence(4.9)
        await other.expect("message", message=1, returned="deadline", attempt=2)


async def test_what_a_get_took_returns_when_the_client_leaves(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        await client.publish("jobs", 1)
        await client.send(action="get", topic="jobs")
        await client.expect("message")
        client.close()
        await other.silence(1)
        await other.send(action="get", topic="jobs")
        await other.expect("message", message=1, attempt=2, returned="disconnect")


async def test_a_nacked_message_of_a_get_does_not_come_again_by_itself(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.send(action="get", topic="jobs", id="g")
        await client.expect("message")
        await client.expect("got")
        await client.ask("nack", tag=1)
        await client.silence()
        await client.send(action="get", topic="jobs", id="g")
        await client.expect("message", attempt=2)


async def test_gets_and_subscriptions_share_one_connection(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("a", "a")
        await client.publish("b", "b")
        await client.subscribe("a")
        await client.expect("message", message="a", tag=1)
        await client.send(action="get", topic="b", id="g")
        await client.expect("message", message="b", tag=2)
        await client.expect("got")
        assert (await client.ask("ack", tags=[1, 2]))["count"] == 2


async def test_many_gets_leave_nothing_behind(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(50):
            await client.publish("jobs", n)
            await client.send(action="get", topic="jobs", id="g")
            await client.expect("message", message=n)
            await client.expect("got")
            await client.ask("ack", tag=n + 1)
        await client.send(action="get", topic="jobs", id="g")
        await client.expect("got", count=0)
        assert len(broker.connection(1).session.ports) <= 2
        assert not broker.actor("jobs").ledger.consumers
        assert not broker.queue("jobs").estate.consumers


async def test_a_get_is_answered_once_though_its_queue_is_deleted_later(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        await client.publish("jobs", 1)
        await client.send(action="get", topic="jobs", id="g")
        await client.expect("message", message=1)
        await client.expect("got", id="g", count=1)
        await other.ask("delete", topic="jobs", mode="queue")
        await client.silence()
        await client.eof()
        with trio.fail_after(1):  # nothing is left to be answered
            assert await client.closed() == []


async def test_the_gets_under_way_are_bounded(autojump_clock):
    async with running(settings(limits={"gets": 2})) as broker:
        client, other = broker.client(), broker.client()
        for n in range(3):
            await client.send(action="get", topic="jobs", wait=60, id=f"g{n}")
        await client.expect("error", code="too_many", id="g2", limit=2, retry="later")
        await other.publish("jobs", 1)
        await client.expect("message", message=1)
        await client.expect("got", id="g0", count=1)
        await client.send(action="ack", tag=1)
        await client.send(action="get", topic="jobs", wait=1, id="g3")
        await client.expect("got", id="g3", count=0)
        await client.expect("got", id="g1", count=0)


async def test_a_get_that_waits_ends_with_its_connection(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        await client.send(action="get", topic="jobs", wait=1000)
        await other.silence(1)
        client.reset()
        await other.publish("jobs", 1)
        await other.send(action="get", topic="jobs")
        await other.expect("message", message=1, attempt=1)


async def test_eof_waits_for_the_gets_answer(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.send(action="get", topic="jobs", wait=5, id="g")
        await client.eof()
        frames = await client.closed()
        assert [f["type"] for f in frames] == ["got"]


async def test_a_get_makes_the_queue_and_names_are_limited(autojump_clock):
    async with running(settings(limits={"names": 2})) as broker:
        client = broker.client()
        for name in ("a", "b", "a"):
            assert (await client.ask("get", "got", topic=name))["count"] == 0
        assert (await client.ask("get", "error", topic="c"))["code"] == "too_many"
        await client.ask("delete", "delete", topic="a")
        await client.ask("get", "got", topic="c")
        disk = broker.world.disk
    async with running(disk=disk) as broker:  # none of them has stored anything
        assert (await broker.client().ask("stats"))["queues"] == []


async def test_only_queues_and_groups_can_be_taken_from(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.send(action="get", topic="news", mode="pubsub", id="g")
        await client.expect("error", code="bad_field", id="g")
