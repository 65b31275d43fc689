"""Consuming: leases, how they are settled, and what goes back when a program stops early."""

import gc
from math import inf

import anyio
import anyio.lowlevel
import attrs
import pytest
import trio

from msg.client import (
    AlreadySettled,
    BodyMismatch,
    NotHeld,
    Refused,
    Reject,
    Retry,
    Unsubscribed,
)
from tests.client.kit import Stage, both, message

QUICK = {"queues": {"jobs": {"backoff": [0], "max_deliveries": 2}}}


@both
async def test_a_block_that_ends_well_acks(msg_broker):
    async with msg_broker.connect() as client:
        await client.publish_many("jobs", range(10), mode="queue")
        seen = []
        async with client.consume("jobs", prefetch=3) as messages:
            async for message in messages:
                async with message:
                    seen.append(message.body)
                if len(seen) == 10:
                    break
    assert seen == list(range(10))
    assert msg_broker.queue("jobs").empty
    assert msg_broker.queue("jobs").settled == 10


@both
async def test_a_block_that_raises_nacks_with_the_errors_text(msg_broker):
    msg_broker.configure(**QUICK)
    async with msg_broker.connect(name="worker-a") as client:
        await client.send("jobs", "bad")
        for attempt in (1, 2):
            [message] = await client.get("jobs", wait=5)
            assert message.attempt == attempt
            with pytest.raises(ZeroDivisionError):
                async with message:
                    1 / 0  # noqa: B018
    [dead] = msg_broker.queue("jobs").dead
    assert dead.reason == "ZeroDivisionError: division by zero"
    assert [(a.n, a.why, a.who) for a in dead.attempts] == [
        (1, "nack", "worker-a"), (2, "nack", "worker-a"),
    ]  # fmt: skip


@both
async def test_retry_and_reject_say_more_exactly(msg_broker):
    async with msg_broker.connect() as client:
        await client.send("jobs", 1)
        [message] = await client.get("jobs")
        with pytest.raises(Retry):
            async with message:
                raise Retry("the lock is taken", delay=0, count=False)
        [message] = await client.get("jobs", wait=5)
        assert message.attempt == 1  # it did not count
        with pytest.raises(Reject):
            async with message:
                raise Reject("no such file")
    [dead] = msg_broker.queue("jobs").dead
    assert dead.reason == "no such file"


@both
async def test_what_was_not_begun_goes_back_uncounted(msg_broker):
    async with msg_broker.connect() as client:
        await client.publish_many("jobs", range(5), mode="queue")
        async for message in client.consume("jobs", prefetch=5):
            async with message:
                break
        assert client.feeds == {}
    queue = msg_broker.queue("jobs")
    assert queue.bodies == [1, 2, 3, 4]
    assert [letter.attempt for letter in queue.ready] == [1, 1, 1, 1]
    assert queue.consumers == ()


@both
async def test_leaving_the_client_gives_back_what_waits(msg_broker):
    async with msg_broker.connect() as client:
        await client.publish_many("jobs", range(3), mode="queue")
        messages = client.consume("jobs", prefetch=3)
        await messages.take(1)
        got = await client.get("jobs", n=5)
        assert got == []
    queue = msg_broker.queue("jobs")
    # the one in hand was handed over: its disconnect counts, the others' do not
    assert sorted(letter.attempt for letter in queue.ready) == [1, 1, 2]


@both
async def test_a_subscription_that_nobody_refers_to_ends(msg_broker):
    async with msg_broker.connect() as client:
        await client.publish_many("jobs", range(3), mode="queue")
        messages = client.consume("jobs", prefetch=3)
        first = await anext(messages)
        del messages
        gc.collect()
        assert client.feeds == {}
        await first.ack(confirm=True)
        # answered behind the ack: what waited has gone back
        assert msg_broker.queue("jobs").bodies == [1, 2]


@both
async def test_settling_by_hand(msg_broker):
    async with msg_broker.connect() as client:
        await client.publish_many("jobs", range(3), mode="queue")
        first, second, third = await client.get("jobs", n=3)
        assert first.held
        await first.ack(confirm=True)
        assert not first.held
        with pytest.raises(AlreadySettled, match="acked before"):
            await first.nack()
        await second.nack("not today", delay=60, confirm=True)
        await third.touch()
        async with third:
            await third.nack(requeue=False, reason="bad")  # the block's end adds nothing
        await client.ask("ping")
    queue = msg_broker.queue("jobs")
    assert (queue.settled, len(queue.delayed), len(queue.dead)) == (1, 1, 1)


@both
async def test_a_topics_message_needs_no_ack(msg_broker):
    async with (
        msg_broker.connect() as client,
        client.subscribe("news") as news,
    ):
        await client.publish("news", 1)
        async with await anext(news) as message:
            assert not message.leased
        with pytest.raises(AlreadySettled, match="nothing to settle"):
            await message.ack()


@both
async def test_get_takes_what_is_there_and_may_wait(msg_broker):
    async with msg_broker.connect() as client:
        assert await client.get("jobs") == []
        await client.publish_many("jobs", range(3), mode="queue")
        assert [m.body for m in await client.get("jobs", n=2)] == [0, 1]
        async with anyio.create_task_group() as tasks:
            got: list[int] = []

            async def wait() -> None:
                got.extend(m.body for m in await client.get("later", wait=100))

            tasks.start_soon(wait)
            await anyio.lowlevel.checkpoint()
            await client.send("later", 7)
        assert got == [7]


@both
async def test_gets_at_the_same_time_keep_their_messages_apart(msg_broker):
    async with msg_broker.connect() as client:
        for name in ("a", "b", "c"):
            await client.publish_many(name, [f"{name}{n}" for n in range(20)], mode="queue")
        found: dict[str, list[str]] = {}

        async def get(name: str) -> None:
            messages = await client.get(name, n=20)
            found[name] = [m.body for m in messages]

        async with anyio.create_task_group() as tasks:
            for name in ("a", "b", "c"):
                tasks.start_soon(get, name)
        assert found == {name: [f"{name}{n}" for n in range(20)] for name in ("a", "b", "c")}


@both
async def test_a_get_of_dead_letters_shows_their_case(msg_broker):
    async with msg_broker.connect() as client:
        await client.send("jobs", 1)
        [message] = await client.get("jobs")
        await message.nack("bad", requeue=False, confirm=True)
        [dead] = await client.get("jobs.dead", wait=5)
        assert dead.topic == "jobs"
        assert dead.case is not None
        assert dead.case["attempts"][0]["reason"] == "bad"
        await dead.ack()


@both
async def test_a_cancelled_get_gives_back_what_comes_all_the_same():
    stage = Stage()
    async with stage.connect() as client:
        await stage.accepted()
        with anyio.move_on_after(0.01):
            await client.get("jobs", n=2, wait=100)
        asked = await stage.heard()
        await stage.say(
            message(tag=1, sub=asked["sub"]),
            message(tag=2, sub=asked["sub"]),
            {"type": "got", "id": asked["id"], "count": 2},
        )
        given_back = [await stage.heard(), await stage.heard()]
        assert [frame["tag"] for frame in given_back] == [1, 2]
        assert all(frame["count_attempt"] is False for frame in given_back)
        assert client._requests.gets == {}


@attrs.define
class Job:
    n: int


@both
async def test_bodies_of_a_type_and_those_that_do_not_fit(msg_broker):
    msg_broker.configure(queues={"jobs": {"max_deliveries": 1}})
    async with msg_broker.connect() as client:
        await client.send("jobs", Job(1))
        await client.send("jobs", {"n": "one"})
        async with client.consume("jobs", type=Job) as jobs:
            async with await anext(jobs) as message:
                assert message.body == Job(1)
                assert message.body is message.body
            with pytest.raises(BodyMismatch, match=r"no Job: expected int, not str @ \$\.n"):
                async with await anext(jobs) as message:
                    _ = message.body
    [dead] = msg_broker.queue("jobs").dead
    assert "expected int, not str" in dead.reason


@both
async def test_auto_ack_needs_no_settling(msg_broker):
    async with msg_broker.connect() as client:
        await client.publish_many("jobs", range(3), mode="queue")
        async with client.consume("jobs", auto_ack=True) as messages:
            for n in range(3):
                async with await anext(messages) as message:
                    assert message.body == n
                    assert not message.leased
    assert msg_broker.queue("jobs").empty


@both
async def test_work_in_batches(msg_broker):
    async with msg_broker.connect() as client:
        await client.publish_many("jobs", range(100), mode="queue")
        async with client.consume("jobs", prefetch=1000) as messages:
            seen: list[int] = []
            while len(seen) < 100:
                batch = await messages.take(30)
                assert 1 <= len(batch) <= 30
                for message in batch:
                    seen.append(message.body)
                    await message.ack()
        assert seen == list(range(100))
    assert msg_broker.queue("jobs").settled == 100


@both
async def test_refused_subscriptions_say_why(msg_broker):
    async with msg_broker.connect() as client:
        with pytest.raises(Refused) as refused:
            await anext(client.consume("no blanks"))
        assert refused.value.code == "bad_name"
        with pytest.raises(Refused):
            async with client.subscribe("a", from_="yesterday"):
                pass
        assert client.feeds == {}


@both
async def test_a_deleted_queue_ends_its_subscriptions(msg_broker):
    async with (
        msg_broker.connect() as client,
        client.consume("jobs") as messages,
    ):
        await client.ask("delete", topic="jobs")
        with pytest.raises(Unsubscribed, match="deleted"):
            await anext(messages)


@both
async def test_closing_ends_the_iterations_of_all_tasks(msg_broker):
    async with msg_broker.connect() as client:
        messages = await client.consume("jobs").open()
        ended = []

        async def iterate() -> None:
            async for _ in messages:
                raise AssertionError("there is nothing")
            ended.append(True)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(iterate)
            await anyio.wait_all_tasks_blocked()
            messages.close()
        assert ended == [True] * 3


# -- leases, in virtual time ------------------------------------------------------------------


async def test_the_lease_is_touched_while_the_handler_runs(msg_broker, msg_clock):
    async with msg_broker.connect() as client:
        await client.send("jobs", 1)
        async with client.consume("jobs", ack_timeout=1) as messages, await anext(messages):
            await trio.sleep(600)
            assert len(msg_broker.queue("jobs").leased) == 1
    assert msg_broker.queue("jobs").settled == 1
    assert msg_broker.queue("jobs").counts.get("expired", 0) == 0


async def test_what_waits_for_its_turn_keeps_its_lease(msg_broker, msg_clock):
    async with msg_broker.connect() as client:
        await client.publish_many("jobs", range(3), mode="queue")
        async with client.consume("jobs", prefetch=3, ack_timeout=1) as messages:
            for n in range(3):
                async with await anext(messages) as message:
                    assert (message.body, message.attempt) == (n, 1)
                    await trio.sleep(20)
    assert msg_broker.queue("jobs").settled == 3


async def test_outside_of_a_block_the_deadline_is_the_programs_affair(msg_broker, msg_clock):
    async with msg_broker.connect() as client:
        await client.send("jobs", 1)
        [message] = await client.get("jobs", ack_timeout=1)
        await trio.sleep(5)
        [again] = await client.get("jobs", ack_timeout=1, wait=60)
        assert again.attempt == 2
        with pytest.raises(NotHeld):
            await message.ack(confirm=True)
        await again.ack(confirm=True)
    assert msg_broker.queue("jobs").settled == 1


async def test_different_deadlines_are_touched_each_in_its_time(msg_broker, msg_clock):
    async with msg_broker.connect() as client:
        await client.send("short", 1)
        await client.send("long", 1)
        async with (
            client.consume("long", ack_timeout=300) as long,
            client.consume("short", ack_timeout=0.5) as short,
            await anext(long),
            await anext(short),
        ):
            await trio.sleep(1000)
    assert msg_broker.queue("short").settled == 1
    assert msg_broker.queue("long").settled == 1


async def test_a_cancelled_handler_returns_its_message_uncounted(msg_broker, msg_clock):
    async with msg_broker.connect() as client:
        await client.send("jobs", 1)
        with trio.move_on_after(5):
            async with client.consume("jobs") as messages, await anext(messages):
                await trio.sleep(inf)
        assert (await client.get("jobs", wait=1))[0].attempt == 1
