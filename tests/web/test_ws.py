"""Frames of the wire through /ws: what a browser can do, TCP clients can, and the reverse."""

import json

import trio

from tests.actors.kit import running, settings, settled
from tests.web.kit import Site


async def test_a_browser_publishes_and_subscribes_with_the_frames_of_tcp(autojump_clock):
    async with running() as broker:
        site, client = Site(broker), broker.client()
        async with site.socket() as socket:
            assert socket.subprotocol == "msg.v1"
            await socket.say(action="subscribe", topic="news.>", id="s")
            assert (await socket.hear())["type"] == "subscribed"
            await client.publish("news.today", {"from": "tcp"}, mode="pubsub")
            heard = await socket.hear()
            assert (heard["type"], heard["topic"]) == ("message", "news.today")
            assert heard["message"] == {"from": "tcp"}
            await client.send(action="subscribe", topic="replies", id="c")
            await client.expect("subscribed")
            await socket.say(action="publish", topic="replies", message="über ☂", id="p")
            assert (await socket.hear())["type"] == "ack"
            assert (await client.expect("message"))["message"] == "über ☂"


async def test_the_same_question_has_the_same_answer_on_both(autojump_clock):
    async with running() as broker:
        site, client = Site(broker), broker.client()
        await client.publish("jobs", 1)
        async with site.socket() as socket:
            for frame in (
                {"action": "limits"}, {"action": "peek", "topic": "jobs"},
                {"action": "nonsense"}, {"action": "publish", "topic": "a b", "message": 1},
            ):  # fmt: skip
                await socket.say(**frame, id="ask")
                assert await socket.hear() == await client.ask(**frame)


async def test_elsewhere_than_at_ws_it_is_told_where(autojump_clock):
    async with running() as broker, Site(broker).socket("/") as socket:
        assert socket.refused == (404, "there is no WebSocket at /, but at /ws")


async def test_what_a_browser_held_returns_when_it_leaves(autojump_clock):
    async with running() as broker:
        site, client = Site(broker), broker.client()
        await client.publish("jobs", "work")
        async with site.socket() as socket:
            await socket.say(action="subscribe", topic="jobs", mode="queue", id="s")
            assert (await socket.hear())["type"] == "subscribed"
            assert (await socket.hear())["message"] == "work"
            assert broker.queue("jobs").leased == 1
        await settled()
        assert broker.queue("jobs").leased == 0
        assert list(broker.broker.connections.open) == [1]
        await client.subscribe("jobs")
        assert (await client.expect("message"))["message"] == "work"


async def test_several_frames_in_one_message_and_a_bad_one(autojump_clock):
    async with running() as broker, Site(broker).socket() as socket:
        pings = "\n".join([json.dumps({"action": "ping", "id": str(n)}) for n in range(3)])
        await socket.say_text(pings)
        assert [(await socket.hear())["id"] for _ in range(3)] == ["0", "1", "2"]
        await socket.say_text('{"action": "ping", ')
        assert (await socket.hear())["code"] == "bad_frame"
        await socket.say(action="ping", id="still here")
        assert (await socket.hear())["id"] == "still here"


async def test_a_bad_first_frame_closes_as_on_tcp(autojump_clock):
    async with running() as broker, Site(broker).socket() as socket:
        await socket.say_text("GET / HTTP/1.1")
        error = await socket.hear()
        assert (error["code"], error["closes"]) == ("bad_frame", True)
        await socket.closed()


async def test_a_browser_that_does_not_read_loses_its_own_oldest(autojump_clock):
    limits = {"subscriber_messages": 50}
    async with running(settings(limits=limits, drain_seconds=0.0)) as broker:
        site, client = Site(broker), broker.client()
        async with site.socket() as socket:
            await socket.say(action="subscribe", topic="news", id="s")
            await socket.hear()
            for n in range(400):  # the test's channel and the port's room are less
                await client.publish("news", n, mode="pubsub")
            heard: list[int] = []
            dropped = 0
            while not heard or heard[-1] != 399:
                frame = await socket.hear()
                heard.append(frame["message"])
                dropped += frame.get("dropped", 0)
            assert heard == sorted(heard)
            assert dropped > 0
            assert len(heard) + dropped == 400


async def test_a_stop_of_the_broker_is_told(autojump_clock):
    async with running() as broker, Site(broker).socket() as socket:
        await socket.say(action="ping", id="1")
        await socket.hear()
        broker.broker.drain()
        assert (await socket.hear())["type"] == "closing"
        await socket.closed()


async def test_a_frame_over_the_limit_is_refused(autojump_clock):
    limits = {"frame_bytes": 2000}
    set_to = settings(limits=limits, drain_seconds=0.0)
    async with running(set_to) as broker, Site(broker).socket() as socket:
        await socket.say(action="ping", id="1")
        await socket.hear()
        await socket.say(action="publish", topic="t", message="x" * 3000)
        assert (await socket.hear())["code"] == "too_large"
        with trio.move_on_after(50):
            await socket.closed()
