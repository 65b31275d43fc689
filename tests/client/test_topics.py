"""Topics: patterns, groups, what was kept, slow subscribers; and requests with replies."""

import anyio
import anyio.lowlevel
import pytest

from msg.client import Disconnected, NoResponders
from msg.client.subscription import BUFFER_MESSAGES
from tests.client.kit import Stage, both, message


@both
async def test_everybody_who_listens_hears_it(msg_broker):
    async with (
        msg_broker.connect() as client,
        client.subscribe("news.*") as one,
        client.subscribe("news.>") as two,
        client.subscribe("news.python") as three,
    ):
        receipt = await client.publish("news.python", "3.11 is out")
        assert receipt.receivers is None
        for subscription in (one, two, three):
            heard = await anext(subscription)
            assert (heard.topic, heard.body) == ("news.python", "3.11 is out")
    assert msg_broker.topic("news.python").subscribers == 0


@both
async def test_what_nobody_heard_waits_for_the_first_who_does(msg_broker):
    async with msg_broker.connect() as client:
        await client.publish_many("news", [1, 2])
        async with client.subscribe("news") as news:
            await client.publish("news", 3)
            assert [(await anext(news)).body for _ in range(3)] == [1, 2, 3]


@both
async def test_history_is_replayed_from_where_one_likes(msg_broker):
    msg_broker.configure(topics={"sensors": {"history_messages": 100}})
    async with msg_broker.connect() as client:
        await client.publish_many("sensors", range(5))
        async with client.subscribe("sensors", from_="all") as everything:
            heard = [await anext(everything) for _ in range(5)]
            assert [m.body for m in heard] == [0, 1, 2, 3, 4]
            assert all(m.replayed for m in heard)
        async with client.subscribe("sensors", from_=heard[3].seq) as later:
            assert (await anext(later)).body == 3
        async with client.subscribe("sensors", from_="last") as last:
            assert (await anext(last)).body == 4
        async with client.subscribe("sensors", from_="new") as new:
            await client.publish("sensors", "live")
            live = await anext(new)
            assert (live.body, live.replayed) == ("live", False)


@both
async def test_a_group_shares_its_messages_and_keeps_them(msg_broker):
    async with msg_broker.connect() as client:
        async with client.subscribe("orders.*", group="billing") as first:
            await client.publish("orders.a", 1)
            async with await anext(first) as heard:
                assert (heard.body, heard.leased) == (1, True)
        await client.publish("orders.b", 2)  # nobody of the group is there
        async with (
            client.subscribe("orders.*", group="billing") as again,
            await anext(again) as heard,
        ):
            assert heard.body == 2
    assert msg_broker.queue("orders.*@billing").settled == 2


@both
async def test_a_slow_subscriber_loses_the_oldest_and_is_told():
    stage = Stage()
    async with stage.connect() as client, anyio.create_task_group() as tasks:
        news = client.subscribe("news")
        await stage.accepted()
        tasks.start_soon(news.open)
        asked = await stage.heard()
        await stage.say({"type": "subscribed", "id": asked["id"], "sub": asked["sub"]})
        excess = 10
        for start in range(0, BUFFER_MESSAGES + excess, 1000):
            stop = min(start + 1000, BUFFER_MESSAGES + excess)
            await stage.say(
                *(
                    message(topic="news", sub=asked["sub"], message=n, dropped=2 if n == 5 else 0)
                    for n in range(start, stop)
                )
            )
        await anyio.wait_all_tasks_blocked()
        first = await anext(news)
        assert first.body == excess
        assert first.dropped == excess + 2  # its own, and what the broker had dropped before
        assert (await anext(news)).dropped == 0
        assert news.dropped == excess + 2


@both
async def test_a_request_is_answered(msg_broker):
    async with msg_broker.connect() as client, msg_broker.connect() as server:
        async with anyio.create_task_group() as tasks:
            service = await server.subscribe("sum.*").open()

            async def serve() -> None:
                async for request in service:
                    await request.reply(sum(request.body), headers={"by": "adder"})

            tasks.start_soon(serve)
            reply = await client.request("sum.x", [1, 2, 3])
            assert (reply.body, reply.headers) == (6, {"by": "adder"})
            answers = {}

            async def ask(n: int) -> None:
                answers[n] = (await client.request("sum.x", [n, n])).body

            async with anyio.create_task_group() as asking:
                for n in range(20):
                    asking.start_soon(ask, n)
            assert answers == {n: 2 * n for n in range(20)}
            tasks.cancel_scope.cancel()
        assert client._requests._replies == {}


@both
async def test_a_request_that_nobody_hears_fails_at_once(msg_broker):
    async with msg_broker.connect() as client:
        with pytest.raises(NoResponders):
            await client.request("nobody", 1, timeout=1000)
        await client.send("jobs", 1)
        [job] = await client.get("jobs")
        with pytest.raises(ValueError, match="asks for no reply"):
            await job.reply(1)


@both
async def test_a_request_to_a_queue_waits_for_its_worker(msg_broker):
    async with msg_broker.connect() as client, anyio.create_task_group() as tasks:

        async def work() -> None:
            [job] = await client.get("resize", wait=100)
            async with job:
                await job.reply({"done": job.body})

        tasks.start_soon(work)
        reply = await client.request("resize", "cat.jpg", mode="queue")
        assert reply.body == {"done": "cat.jpg"}


async def test_a_request_may_time_out(msg_broker, msg_clock):
    async with msg_broker.connect() as client, client.subscribe("slow") as slow:
        with pytest.raises(TimeoutError):
            await client.request("slow", 1, timeout=3)
        late = await anext(slow)
        await late.reply("too late")  # harms nobody
        assert client._requests._replies == {}


@both
async def test_a_request_does_not_outlive_its_connection():
    stage = Stage()
    async with stage.connect() as client:
        await stage.accepted()
        async with anyio.create_task_group() as tasks:
            failed = []

            async def ask() -> None:
                with pytest.raises(Disconnected, match="reply, if there was one, is lost"):
                    await client.request("service", 1)
                failed.append(True)

            tasks.start_soon(ask)
            subscribed, published = await stage.heard(), await stage.heard()
            assert subscribed["topic"] == published["reply_to"] == "_inbox.test.replies"
            await stage.say({"type": "ack", "message_id": published["message_id"]})
            await stage.hang_up()
        assert failed == [True]
