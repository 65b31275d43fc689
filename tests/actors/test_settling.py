"""Ack, nack and touch; attempts, deadlines, dead letters."""

import pytest
import trio

from tests.actors.kit import Client, Running, running, settings, settled


async def holding(broker: Running, count: int = 1, **more) -> Client:
    """A client that holds so many messages: 0, 1, 2 …, with tags from 1 on."""
    client = broker.client()
    for n in range(count):
        await client.publish("jobs", n, message_id=f"m{n}")
    await client.subscribe("jobs", prefetch=count, **more)
    assert await client.messages(count) == list(range(count))
    return client


async def test_the_four_ways_to_name_a_message(autojump_clock):
    async with running() as broker:
        client = await holding(broker, 6)
        assert await client.ask("ack", "acked", tag=1) == {
            "type": "acked", "id": "ask", "count": 1, "failed": [],
        }  # fmt: skip
        assert (await client.ask("ack", tags=[2, 3]))["count"] == 2
        assert (await client.ask("ack", message_id="m3"))["count"] == 1
        assert (await client.ask("ack", message_ids=["m4", "m5"]))["count"] == 2
        other = broker.client()
        client.close()
        await other.subscribe("jobs")
        await other.silence()


async def test_the_originals_form_of_an_ack(autojump_clock):
    """Its README shows {"type":"ack","message_id":…}; `action` wins where both are there."""
    async with running() as broker:
        client = await holding(broker, 2)
        await client.send(type="ack", message_id="m0")
        await client.send(type="nonsense", action="ack", message_id="m1")
        await client.silence()
        stats = await client.ask("stats")
        assert stats["queues"][0]["counts"]["settled"] == 2


async def test_what_is_not_held_is_named_and_the_rest_is_settled(autojump_clock):
    async with running() as broker:
        client = await holding(broker, 2)
        answer = await client.ask("ack", tags=[1, 7, 2, 8])
        assert answer["count"] == 2
        assert answer["failed"] == [
            {"tag": 7, "code": "not_held"}, {"tag": 8, "code": "not_held"},
        ]  # fmt: skip
        answer = await client.ask("ack", message_ids=["m0", "nobody"])
        assert answer["count"] == 0
        assert answer["failed"] == [
            {"message_id": "m0", "code": "not_held"}, {"message_id": "nobody", "code": "not_held"},
        ]  # fmt: skip


async def test_a_second_ack_is_not_held(autojump_clock):
    async with running() as broker:
        client = await holding(broker)
        await client.send(action="ack", tag=1)
        await client.send(action="ack", tag=1)
        await client.expect("error", code="not_held", closes=False, retry="never")


async def test_nobody_settles_what_another_holds(autojump_clock):
    async with running() as broker:
        await holding(broker)
        other = broker.client()
        answer = await other.ask("ack", message_id="m0")
        assert answer["failed"] == [{"message_id": "m0", "code": "not_held"}]


async def test_an_acked_is_sent_when_it_is_as_durable_as_the_queue(autojump_clock):
    async with running() as broker:
        client = await holding(broker)
        broker.world.hold_disk()
        await client.send(action="ack", tag=1, id="a")
        await client.silence()
        broker.world.free_disk()
        await client.expect("acked", id="a", count=1)


async def test_an_ack_of_a_memory_message_waits_for_no_disk(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1, durability="memory")
        await client.subscribe("jobs")
        await client.expect("message")
        broker.world.hold_disk()
        await client.send(action="ack", tag=1, id="a")
        await client.expect("acked", id="a", count=1)
        broker.world.free_disk()


async def test_an_ack_does_not_wait_behind_a_publish_for_which_there_is_no_room(autojump_clock):
    async with running() as broker:
        client = await holding(broker)
        busy = broker.client()
        broker.world.hold_disk()
        await busy.publish("slow", 0, durability="memory")  # it is there
        for n in range(broker.queue("slow").mailbox.room):
            await busy.send(action="publish", topic="slow", mode="queue", message=n)
            await settled()
        publish = {"action": "publish", "topic": "slow", "mode": "queue", "message": "more"}
        await client.send_all(publish, {"action": "ack", "tag": 1}, {"action": "ping"})
        await client.silence()
        assert broker.queue("slow").mailbox.waiting == 1
        assert broker.queue("jobs").gauge.messages == 0
        broker.world.free_disk()
        await client.until("pong")


@pytest.mark.parametrize("named", [{"tags": [1, 2]}, {"message_ids": ["m0", "m1"]}])
async def test_an_ack_of_several_without_an_id_is_complete_too(autojump_clock, named):
    async with running() as broker:
        client = await holding(broker, 2)
        await client.send(action="ack", **named)
        await settled()
        assert broker.connection(1).session.unanswered == 0
        await client.eof()
        with trio.fail_after(1):  # what is not answered would be waited for
            assert await client.closed() == []
        assert broker.queue("jobs").gauge.messages == 0


async def test_one_ack_may_span_queues_and_is_answered_once(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for queue in ("a", "b"):
            await client.publish(queue, queue)
            await client.subscribe(queue)
            await client.expect("message", message=queue)
        answer = await client.ask("ack", tags=[1, 2, 3])
        assert answer["count"] == 2
        assert answer["failed"] == [{"tag": 3, "code": "not_held"}]
        await client.silence()


async def test_an_id_that_is_held_twice_is_ambiguous(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for queue in ("a", "b"):
            await client.publish(queue, queue, message_id="same")
            await client.subscribe(queue)
            await client.expect("message", message_id="same")
        answer = await client.ask("ack", message_id="same")
        assert answer["failed"] == [{"message_id": "same", "code": "ambiguous"}]
        assert (await client.ask("ack", tag=1))["count"] == 1
        assert (await client.ask("ack", message_id="same"))["count"] == 1


async def test_one_queue_may_give_one_id_twice_when_its_window_is_over(autojump_clock):
    async with running(settings(queues={"jobs": {"dedup_window": 1.0}})) as broker:
        client = broker.client()
        await client.subscribe("jobs", prefetch=5)
        for _ in range(2):
            await client.send(
                action="publish", topic="jobs", mode="queue", message=1, message_id="same"
            )
            await client.read()
            await client.read()
            await client.silence(2)
        answer = await client.ask("ack", message_id="same")
        assert answer["failed"] == [{"message_id": "same", "code": "ambiguous"}]
        assert (await client.ask("ack", tag=2))["count"] == 1
        assert (await client.ask("ack", message_id="same"))["count"] == 1


async def test_a_nack_returns_the_message_at_once_the_first_time(autojump_clock):
    async with running() as broker:
        client = await holding(broker, 3)
        answer = await client.ask("nack", "acked", tag=2, reason="bad luck")
        assert answer["count"] == 1
        await client.expect("message", message=1, attempt=2, returned="nack", tag=4)


async def test_nacks_wait_by_the_backoff(autojump_clock):
    async with running() as broker:
        client = await holding(broker)
        for tag, wait in ((1, 0), (2, 1), (3, 5), (4, 30)):
            await client.send(action="nack", tag=tag)
            if wait:
                await client.silence(wait - 0.1)
            await client.expect("message", attempt=tag + 1)


async def test_a_nack_with_a_delay_frees_its_credit_and_keeps_its_place(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(3):
            await client.publish("jobs", n)
        await client.subscribe("jobs")
        await client.expect("message", message=0)
        await client.send(action="nack", tag=1, delay=10)
        await client.expect("message", message=1)
        await client.silence(11)
        await client.send(action="ack", tag=2)
        await client.expect("message", message=0, attempt=2)


async def test_an_uncounted_nack_adds_no_attempt(autojump_clock):
    async with running() as broker:
        client = await holding(broker)
        await client.send(action="nack", tag=1, count_attempt=False)
        await client.expect("message", attempt=1, returned="nack")


async def test_a_nack_without_requeue_makes_a_dead_letter_with_its_case(autojump_clock):
    async with running() as broker:
        client = await holding(broker, name="worker-7")
        assert (await client.ask("nack", tag=1, requeue=False, reason="not JSON"))["count"] == 1
        await client.subscribe("jobs.dead")
        frame = await client.expect("message", message=0, message_id="m0", topic="jobs")
        case = frame["case"]
        assert (case["queue"], case["reason"]) == ("jobs", "not JSON")
        [attempt] = case["attempts"]
        assert (attempt["n"], attempt["why"], attempt["who"]) == (1, "nack", "worker-7")
        assert attempt["reason"] == "not JSON"
        assert attempt["at"].endswith("Z")


async def test_after_max_deliveries_a_message_is_dead_with_all_its_attempts(autojump_clock):
    async with running(
        settings(queues={"jobs": {"max_deliveries": 3, "backoff": (0.0,)}})
    ) as broker:
        client = await holding(broker)
        for tag in (1, 2):
            await client.send(action="nack", tag=tag, reason=f"r{tag}")
            await client.expect("message", attempt=tag + 1)
        await client.send(action="nack", tag=3, reason="r3")
        await client.silence()
        dead = broker.client()
        await dead.subscribe("jobs.dead")
        frame = await dead.expect("message", message=0)
        assert [a["reason"] for a in frame["case"]["attempts"]] == ["r1", "r2", "r3"]
        stats = {row["name"]: row for row in (await dead.ask("stats"))["queues"]}
        assert stats["jobs"]["dead"] == 1
        assert stats["jobs"]["counts"]["dead"] == 1
        # a dead queue has no max_deliveries: it comes again and again
        for tag in range(1, 8):
            await dead.send(action="nack", tag=tag, delay=0)
            await dead.expect("message", message=0)
        await dead.ask("ack", tag=8)


async def test_retry_moves_dead_letters_back_with_attempts_reset(autojump_clock):
    async with running(settings(queues={"jobs": {"max_deliveries": 1}})) as broker:
        client = await holding(broker, 3)
        await client.ask("nack", tags=[1, 2, 3])
        await client.silence(1)
        assert (await client.ask("retry", topic="jobs", message_id="m1"))["count"] == 1
        frame = await client.expect("message", message=1, attempt=1)
        assert "case" not in frame
        assert (await client.ask("retry", topic="jobs.dead", n=1))["count"] == 1
        await client.expect("message", message=0)
        assert (await client.ask("retry", topic="jobs"))["count"] == 1
        await client.expect("message", message=2)
        assert (await client.ask("retry", topic="jobs"))["count"] == 0


async def test_a_missed_deadline_returns_the_message(autojump_clock):
    async with running() as broker:
        client, other = await holding(broker, ack_timeout=10), broker.client()
        await other.subscribe("jobs")
        await other.silence(9.9)
        await other.expect("message", message=0, attempt=2, returned="deadline")
        assert (await client.ask("ack", tag=1))["failed"] == [{"tag": 1, "code": "not_held"}]


async def test_no_deadline_where_the_ack_timeout_is_0(autojump_clock):
    async with running() as broker:
        client, other = await holding(broker, ack_timeout=0), broker.client()
        assert client.seen[-1]["ack_timeout"] == 0
        await other.subscribe("jobs")
        await other.silence(1000)
        client.close()
        await other.expect("message", attempt=2)


async def test_the_queues_own_ack_timeout_counts_where_none_is_named(autojump_clock):
    async with running(settings(queues={"jobs": {"ack_timeout": 2.0}})) as broker:
        client, other = await holding(broker), broker.client()
        assert client.seen[-1]["ack_timeout"] == 2
        await other.subscribe("jobs")
        await other.silence(1.9)
        await other.expect("message", returned="deadline")


async def test_a_touch_starts_the_deadline_anew(autojump_clock):
    async with running() as broker:
        client, other = await holding(broker, 2, ack_timeout=10), broker.client()
        await other.subscribe("jobs", prefetch=5)
        await other.silence(9)
        assert (await client.ask("touch", "acked", tag=1))["count"] == 1
        await other.expect("message", message=1, returned="deadline")
        await other.silence(8.9)
        await other.expect("message", message=0)


async def test_a_touch_of_what_is_not_held(autojump_clock):
    async with running() as broker:
        client = await holding(broker)
        await client.ask("ack", tag=1)
        answer = await client.ask("touch", tags=[1, 2])
        assert [row["code"] for row in answer["failed"]] == ["not_held", "not_held"]


async def test_a_hung_consumer_gets_nothing_new_until_it_shows_life(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(5):
            await client.publish("jobs", n)
        await client.subscribe("jobs", prefetch=2, ack_timeout=10)
        assert await client.messages(2) == [0, 1]
        await client.silence(1000)
        await client.send(action="ack", tag=1)  # late, and it waits undelivered: accepted
        await client.expect("message", message=1, attempt=2)
        await client.expect("message", message=2)


async def test_a_late_ack_is_accepted_while_the_message_waits_undelivered(autojump_clock):
    async with running() as broker:
        client, other = await holding(broker, ack_timeout=10), broker.client()
        await client.silence(20)
        assert await client.ask("ack", tag=1) == {
            "type": "acked", "id": "ask", "count": 1, "failed": [],
        }  # fmt: skip
        await other.subscribe("jobs")
        await other.silence(100)


async def test_returned_messages_go_before_first_deliveries_in_order(autojump_clock):
    async with running() as broker:
        one, two, three = broker.client(), broker.client(), broker.client()
        for n in range(6):
            await one.publish("jobs", n)
        await one.subscribe("jobs", prefetch=2)
        assert await one.messages(2) == [0, 1]
        await two.subscribe("jobs", prefetch=2)
        assert await two.messages(2) == [2, 3]
        two.close()
        one.close()
        await three.silence(1)
        await three.subscribe("jobs", prefetch=9)
        assert await three.messages(6) == [0, 1, 2, 3, 4, 5]


async def test_a_poison_message_is_tried_alone_and_spends_no_neighbours_attempts(autojump_clock):
    async with running() as broker:
        publisher = broker.client()
        for n in range(4):
            await publisher.publish("jobs", n)
        for _ in range(2):
            victim = broker.client()
            await victim.subscribe("jobs", prefetch=1)
            await victim.expect("message", message=0)
            victim.close()
            await publisher.silence(1)
        consumer = broker.client()
        await consumer.subscribe("jobs", prefetch=4)
        await consumer.expect("message", message=0, attempt=3)
        await consumer.silence()  # alone
        await consumer.send(action="ack", tag=1)
        assert await consumer.messages(3) == [1, 2, 3]


async def test_nacked_and_redelivered_to_the_same_consumer_in_one_write(autojump_clock):
    async with running() as broker:
        client = await holding(broker, 3)
        await client.send_all(
            {"action": "nack", "tag": 1},
            {"action": "ack", "tag": 2, "id": "a"},
            {"action": "nack", "tag": 3, "delay": 1},
        )
        frames = [await client.read() for _ in range(3)]
        assert sorted(f["type"] for f in frames) == ["acked", "message", "message"]
        assert [f["message"] for f in frames if f["type"] == "message"] == [0, 2]
