"""Reconnecting: what a program notices of it (little), and that nothing is there twice."""

import logging
import random
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing

from msg.client import (
    Closed,
    Disconnected,
    NotHeld,
    QueueFull,
    Refused,
    Unauthorized,
    connect,
)
from tests.client.kit import Stage, both, message


@both
async def test_publishes_that_were_not_answered_go_out_again_under_their_ids():
    stage = Stage()
    async with stage.connect() as client, anyio.create_task_group() as tasks:
        await stage.accepted()
        for n in range(3):
            tasks.start_soon(client.publish, "jobs", n)
        first = [await stage.heard() for _ in range(3)]
        await stage.say({"type": "ack", "message_id": first[1]["message_id"]})
        await stage.hang_up()
        await stage.accepted()
        again = [await stage.heard() for _ in range(2)]
        assert again == [first[0], first[2]]
        await stage.say(*({"type": "ack", "message_id": f["message_id"]} for f in again))


@both
async def test_publishing_goes_on_while_there_is_no_connection():
    stage = Stage()
    async with stage.connect() as client, anyio.create_task_group() as tasks:
        await stage.accepted()
        stage.refuse = [OSError("refused")] * 3
        await stage.hang_up()
        with anyio.fail_after(5):
            while client.connected:
                await anyio.lowlevel.checkpoint()
        for n in range(3):
            tasks.start_soon(client.publish, "jobs", n)
        await stage.accepted()
        heard = [await stage.heard() for _ in range(3)]
        assert sorted(frame["message"] for frame in heard) == [0, 1, 2]
        await stage.say(*({"type": "ack", "message_id": f["message_id"]} for f in heard))
    assert client.counts.connections == 2


@both
async def test_everything_is_kept_once_however_often_the_connection_is_cut(msg_broker):
    rng = random.Random(7)
    due = sorted(rng.randrange(3000) for _ in range(20))

    def cut(kept: int) -> None:
        while due and kept > due[0]:
            due.pop(0)
            msg_broker.cut()

    async with msg_broker.connect(window=100) as client:
        await client.publish_many("jobs", range(3000), mode="queue", on_progress=cut)
        assert client.counts.connections > 5
    assert msg_broker.queue("jobs").bodies == list(range(3000))


@both
async def test_a_draining_broker_is_nothing_that_a_publisher_notices():
    stage = Stage()
    async with stage.connect() as client, anyio.create_task_group() as tasks:
        await stage.accepted()
        await stage.say({"type": "closing", "reason": "it stops"})
        tasks.start_soon(client.publish, "jobs", 1)
        frame = await stage.heard()
        refusal = {"type": "error", "code": "draining", "error": "It stops.", "retry": "later"}
        await stage.say({**refusal, "message_id": frame["message_id"]})
        await stage.hang_up()
        await stage.accepted()
        assert await stage.heard() == frame
        await stage.say({"type": "ack", "message_id": frame["message_id"]})


async def test_a_publish_too_old_for_the_window_is_given_up(msg_clock):
    stage = Stage()
    async with stage.connect(resend_for=100, reconnect_max=1000) as client:
        await stage.accepted()
        stage.refuse = [OSError("refused")] * 20
        async with trio.open_nursery() as nursery:

            async def publish() -> None:
                with pytest.raises(Disconnected, match="might be there twice"):
                    await client.publish("jobs", 1)

            nursery.start_soon(publish)
            await stage.heard()
            await stage.hang_up()
            await stage.accepted()
        assert trio.current_time() > 100
        # one that was never sent is under no suspicion
        stage.refuse = [OSError("refused")] * 20
        await stage.hang_up()
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.publish, "jobs", 2)
            await stage.accepted()
            frame = await stage.heard()
            await stage.say({"type": "ack", "message_id": frame["message_id"]})
    while stage.ends:
        end = stage.ends.pop()
        await end.aclose()
    stage.close()


@both
async def test_subscriptions_are_repeated_and_what_waited_of_a_queue_is_void():
    stage = Stage()
    async with stage.connect() as client, anyio.create_task_group() as tasks:
        await stage.accepted()
        jobs, news = client.consume("jobs", prefetch=7), client.subscribe("news")
        for subscription in (jobs, news):
            tasks.start_soon(subscription.open)
            asked = await stage.heard()
            await stage.say({"type": "subscribed", "id": asked["id"], "sub": asked["sub"]})
            if subscription is jobs:
                first = asked
        await stage.say(message(tag=1, sub=first["sub"]), message(tag=2, sub=first["sub"]))
        await stage.say(message(topic="news", sub=asked["sub"], message="kept"))
        held = await anext(jobs)
        assert (await anext(news)).body == "kept"
        await stage.hang_up()
        await stage.accepted()
        again = {frame["sub"]: frame for frame in [await stage.heard(), await stage.heard()]}
        assert again[first["sub"]] == first
        assert again[asked["sub"]] == asked
        with pytest.raises(NotHeld, match="delivered again"):
            await held.ack()
        # tags begin anew: number 1 of this connection is another lease
        await stage.say(message(tag=1, sub=first["sub"], message="new"))
        async with await anext(jobs) as fresh:
            assert fresh.body == "new"
        assert await stage.heard() == {"action": "ack", "tag": 1}


@both
async def test_a_handler_that_outlives_its_connection_is_told_in_the_log(caplog):
    stage = Stage()
    async with stage.connect() as client, anyio.create_task_group() as tasks:
        await stage.accepted()
        jobs = client.consume("jobs")
        tasks.start_soon(jobs.open)
        asked = await stage.heard()
        await stage.say({"type": "subscribed", "id": asked["id"], "sub": asked["sub"]})
        await stage.say(message(tag=1, sub=asked["sub"]))
        with caplog.at_level(logging.WARNING, logger="msg.client"):
            async with await anext(jobs):
                await stage.hang_up()
                await stage.accepted()
        assert "comes again" in caplog.text
        assert client.counts.leases_lost == 1
        assert (await stage.heard())["action"] == "subscribe"


@both
async def test_a_subscription_goes_on_where_it_was(msg_broker):
    msg_broker.configure(topics={"sensors.>": {"history_messages": 100}})
    async with msg_broker.connect() as client, msg_broker.connect() as other:
        await other.publish_many("sensors.a", range(3))
        async with (
            client.subscribe("sensors.a", from_="all") as exact,
            client.subscribe("sensors.*", from_="all") as pattern,
        ):
            for subscription in (exact, pattern):
                assert [(await anext(subscription)).body for _ in range(3)] == [0, 1, 2]
            msg_broker.cut()
            await other.publish_many("sensors.a", range(3, 6))
            for subscription in (exact, pattern):
                assert [(await anext(subscription)).body for _ in range(3)] == [3, 4, 5]
            await other.publish("sensors.a", "last")
            for subscription in (exact, pattern):
                assert (await anext(subscription)).body == "last"


@both
async def test_a_refusal_of_the_repetition_ends_that_subscription():
    stage = Stage()
    async with stage.connect() as client, anyio.create_task_group() as tasks:
        await stage.accepted()
        news = client.subscribe("news")
        tasks.start_soon(news.open)
        asked = await stage.heard()
        await stage.say({"type": "subscribed", "id": asked["id"], "sub": asked["sub"]})
        await stage.hang_up()
        await stage.accepted()
        asked = await stage.heard()
        error = {"type": "error", "code": "too_many", "error": "Enough.", "id": asked["id"]}
        await stage.say(error)
        with pytest.raises(Refused, match="Enough"):
            await anext(news)
        assert client.feeds == {}


@both
async def test_questions_are_asked_again_and_orders_are_not():
    stage = Stage()
    async with stage.connect() as client, anyio.create_task_group() as tasks:
        await stage.accepted()
        outcome = {}

        async def ask(action: str) -> None:
            try:
                outcome[action] = await client.ask(action, topic="jobs")
            except Disconnected as error:
                outcome[action] = str(error)

        for action in ("purge", "peek"):
            tasks.start_soon(ask, action)
            await stage.heard()
        await stage.hang_up()
        await stage.accepted()
        again = await stage.heard()
        assert again["action"] == "peek"
        await stage.say({"type": "peek", "id": again["id"], "messages": []})
        with anyio.fail_after(5):
            while len(outcome) < 2:
                await anyio.lowlevel.checkpoint()
        assert outcome["peek"]["messages"] == []
        assert "not answered" in outcome["purge"]


# -- the first connection ---------------------------------------------------------------------


@both
async def test_no_broker_is_said_at_once():
    with pytest.raises(Disconnected, match=r"no broker at 127\.0\.0\.1:1: .*refused"):
        async with connect("msg://127.0.0.1:1"):
            raise AssertionError("there is none")


async def test_with_patience_it_waits_for_a_broker(msg_clock):
    stage = Stage()
    stage.refuse = [OSError("refused")] * 5
    async with stage.connect(wait=60):
        assert stage.dialled == 6
    stage.refuse = [OSError("refused")] * 1000
    with pytest.raises(Disconnected, match="refused"):
        async with stage.connect(wait=60):
            raise AssertionError("there is none")
    assert 60 <= trio.current_time() < 100
    stage.close()


async def test_pauses_grow_to_a_limit_and_are_never_alike(msg_clock):
    tries = []

    async def dial():
        tries.append(trio.current_time())
        raise OSError("refused")

    with pytest.raises(Disconnected):
        async with connect(dial=dial, wait=100, reconnect_max=5, rng=random.Random(1)):
            raise AssertionError("there is none")
    pauses = [after - before for before, after in pairwise(tries)]
    assert pauses[0] < 0.06
    assert max(pauses) <= 5
    assert all(2.5 <= pause <= 5 for pause in pauses[8:])
    assert len(set(pauses)) == len(pauses)


@both
async def test_whoever_is_not_let_in_hears_it():
    stage = Stage(greet=False)
    async with anyio.create_task_group() as tasks:

        async def refuse() -> None:
            await stage.accepted()
            await stage.say(
                {"type": "error", "code": "unauthorized", "error": "Who?", "id": "hello"}
            )

        tasks.start_soon(refuse)
        with pytest.raises(Unauthorized, match="Who"):
            async with stage.connect(token="secret", wait=1000):
                raise AssertionError("it was not let in")


@both
async def test_something_else_than_a_broker_is_recognised():
    stage = Stage(greet=False)
    async with anyio.create_task_group() as tasks:

        async def answer() -> None:
            await stage.accepted()
            assert stage.end is not None
            await stage.end.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        tasks.start_soon(answer)
        with pytest.raises(Disconnected, match="this is not a broker"):
            async with stage.connect():
                raise AssertionError("it is not")


@pytest.mark.parametrize("limits", [[1], "many", {"frame_bytes": "1 MiB"}])
@both
async def test_a_greeting_that_makes_no_sense_is_no_brokers(limits):
    stage = Stage(greet=False)
    async with anyio.create_task_group() as tasks:

        async def answer() -> None:
            await stage.accepted()
            await stage.say({"type": "hello", "id": "hello", "limits": limits})

        tasks.start_soon(answer)
        with pytest.raises(Disconnected, match="this is not a broker"):
            async with stage.connect():
                raise AssertionError("it is not")


DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


@pytest.mark.parametrize(
    "line",
    [
        DEEP,
        b'{"type":"error","id":5,"code":"internal"}',
        b'{"type":"error","code":"draining","message_id":["x"]}',
        b'{"type":"subscribed","sub":{}}',
        b'{"type":"stats","id":{"a":1}}',
        b'{"type":["x"]}',
    ],
    ids=["deep", "error", "message_id", "sub", "answer", "type"],
)
@both
async def test_nonsense_ends_the_connection_and_not_the_client(line):
    stage = Stage()
    async with stage.connect() as client, anyio.create_task_group() as tasks:
        await stage.accepted()
        tasks.start_soon(client.ask, "stats")
        await stage.heard()
        assert stage.end is not None
        await stage.end.send(line + b"\n")
        await stage.accepted()
        again = await stage.heard()
        await stage.say({"type": "stats", "id": again["id"]})
    assert client.counts.connections == 2


async def test_a_broker_that_says_nothing_is_none(msg_clock):
    stage = Stage(greet=False)
    with pytest.raises(Disconnected, match="did not answer in time"):
        async with stage.connect(connect_timeout=5):
            raise AssertionError("it says nothing")
    stage.close()


@both
async def test_without_reconnect_the_client_ends_with_its_connection():
    stage = Stage()
    async with stage.connect(reconnect=False) as client, anyio.create_task_group() as tasks:
        await stage.accepted()
        raised = []

        async def expect(call) -> None:
            with pytest.raises(Disconnected) as error:
                await call
            raised.append(str(error.value))

        news = client.subscribe("news")
        for call in (client.publish("a", 1), client.ask("stats"), client.get("q"), news.open()):
            tasks.start_soon(expect, call)
            await stage.heard()
        await stage.hang_up()
        with anyio.fail_after(5):
            while len(raised) < 4:
                await anyio.lowlevel.checkpoint()
        with pytest.raises(Disconnected, match="has ended"):
            await client.publish("a", 1)


async def test_a_broker_that_falls_silent_is_left(msg_clock):
    stage = Stage()
    async with stage.connect(heartbeat=10) as client:
        await stage.accepted()
        assert await stage.heard() == {"action": "ping"}
        await stage.say({"type": "pong"})
        begun = trio.current_time()
        assert await stage.heard() == {"action": "ping"}
        await stage.accepted()  # a new connection: the old one was given up
        assert 15 <= trio.current_time() - begun <= 25
        await trio.testing.wait_all_tasks_blocked()
        assert client.counts.connections == 2
    stage.close()


@both
async def test_pings_are_answered():
    stage = Stage()
    async with stage.connect():
        await stage.accepted()
        await stage.say({"type": "ping"})
        assert await stage.heard() == {"action": "pong"}


@both
async def test_errors_of_the_block_come_out_as_they_are(msg_broker):
    with pytest.raises(ZeroDivisionError):
        async with msg_broker.connect():
            1 / 0  # noqa: B018
    msg_broker.cut()
    with pytest.raises(QueueFull):
        async with msg_broker.connect():
            raise QueueFull({"code": "queue_full"})


@both
async def test_calls_that_wait_when_the_client_ends_are_told():
    stage = Stage()
    raised = []
    async with anyio.create_task_group() as tasks:  # noqa: SIM117  # it outlives the client
        async with stage.connect() as client:
            await stage.accepted()

            async def publish() -> None:
                with pytest.raises(Disconnected, match="not known"):
                    await client.publish("jobs", 1)
                raised.append(True)

            async def listen() -> None:
                with pytest.raises(Closed):
                    await anext(client.subscribe("news"))
                raised.append(True)

            tasks.start_soon(publish)
            tasks.start_soon(listen)
            await stage.heard()
            await stage.heard()
    assert raised == [True, True]
