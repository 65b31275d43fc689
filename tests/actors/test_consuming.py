"""Delivery: order, credit, rotation, subscriptions and their ends."""

import pytest

from tests.actors.kit import running, settings


async def test_a_subscribe_is_answered_and_then_come_the_messages(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        answer = await client.subscribe("jobs", sub="mine")
        assert answer == {
            "type": "subscribed", "id": "s", "topic": "jobs", "mode": "queue", "sub": "mine",
        }  # fmt: skip
        await client.expect("message", message=1, sub="mine")


async def test_without_a_prefetch_one_message_comes_at_a_time(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(3):
            await client.publish("jobs", n)
        await client.subscribe("jobs")
        for n in range(3):
            await client.expect("message", message=n, tag=n + 1)
            await client.silence(1)
            await client.send(action="ack", tag=n + 1)


async def test_prefetch_bounds_what_is_held(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(10):
            await client.publish("jobs", n)
        await client.subscribe("jobs", prefetch=4)
        assert await client.messages(4) == [0, 1, 2, 3]
        await client.silence(1)
        await client.send(action="ack", tags=[2, 3])
        assert await client.messages(2) == [4, 5]
        await client.silence(1)


async def test_repeating_a_sub_changes_its_prefetch(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(6):
            await client.publish("jobs", n)
        await client.subscribe("jobs", sub="a", prefetch=1)
        await client.expect("message", message=0)
        await client.subscribe("jobs", sub="a", prefetch=3)
        assert await client.messages(2) == [1, 2]
        await client.subscribe("jobs", sub="a", prefetch=2)
        await client.ask("ack", tag=1)
        await client.silence(1)  # two are held
        await client.send(action="ack", tag=2)
        await client.expect("message", message=3)


async def test_repeating_a_sub_changes_its_deadline_and_frames_say_so(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs", ack_timeout=30)
        await client.subscribe("jobs", ack_timeout=2)
        await client.publish("jobs", 1)
        await client.expect("message", attempt=1, ack_timeout=2)
        await client.silence(3)
        await client.ask("touch", tag=1)  # it has hung; this is life
        await client.expect("message", attempt=2, returned="deadline", ack_timeout=2)


async def test_a_subscription_keeps_its_way_to_acknowledge(autojump_clock):
    """One that asked for "manual" must not go on having what it is sent settled for it."""
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs", ack="auto")
        refused = await client.ask("subscribe", topic="jobs", mode="queue", ack="manual")
        assert (refused["type"], refused["code"]) == ("error", "bad_field")
        await client.subscribe("jobs", prefetch=2)  # names none: as it is
        await client.ask("unsubscribe", "unsubscribed", topic="jobs", mode="queue")
        await client.subscribe("jobs", ack="manual")
        refused = await client.ask("subscribe", topic="jobs", mode="queue", ack="auto")
        assert (refused["type"], refused["code"]) == ("error", "bad_field")
        await client.publish("jobs", 1)
        await client.expect("message", tag=1)
        assert (await client.ask("ack", tag=1))["count"] == 1


async def test_the_same_topic_without_another_sub_is_the_same_subscription(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs")
        await client.subscribe("jobs")
        await client.publish("jobs", 1)
        await client.expect("message", message=1)
        await client.silence()
        stats = await client.ask("stats")
        assert stats["queues"][0]["consumers"] == 1


async def test_two_subs_of_one_connection_are_two_consumers(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs", sub="a")
        await client.subscribe("jobs", sub="b")
        publisher = broker.client()
        await publisher.publish("jobs", 1)
        await publisher.publish("jobs", 2)
        frames = [await client.expect("message") for _ in range(2)]
        assert {f["sub"] for f in frames} == {"a", "b"}
        assert {f["tag"] for f in frames} == {1, 2}  # tags are the connection's


async def test_equal_consumers_get_equal_shares(autojump_clock):
    async with running() as broker:
        clients = [broker.client() for _ in range(4)]
        for client in clients:
            await client.subscribe("jobs")
        publisher = broker.client()
        for n in range(8):
            await publisher.publish("jobs", n)
            client = clients[n % 4]
            await client.expect("message", message=n)
            await client.send(action="ack", message_id=client.seen[-1]["message_id"], id="a")
            await client.expect("acked", count=1)


async def test_a_consumer_with_a_large_prefetch_does_not_starve_the_others(autojump_clock):
    async with running() as broker:
        big, small, publisher = broker.client(), broker.client(), broker.client()
        await big.subscribe("jobs", prefetch=1000)
        await small.subscribe("jobs", prefetch=10)
        for n in range(202):
            await publisher.publish("jobs", n)
        await small.messages(2)


async def test_priority_first_then_fifo(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n, priority in enumerate([4, 0, 9, None, 9, 5]):
            more = {} if priority is None else {"priority": priority}
            await client.publish("jobs", n, **more)
        await client.subscribe("jobs", prefetch=10)
        assert await client.messages(6) == [2, 4, 5, 0, 3, 1]


async def test_a_delayed_publish_comes_when_due_in_its_place(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", "later", delay=10)
        await client.publish("jobs", "now")
        await client.subscribe("jobs")
        await client.expect("message", message="now")
        await client.publish("jobs", "last")
        await client.silence(11)
        await client.send(action="ack", tag=1)
        await client.expect("message", message="later", attempt=1)
        await client.send(action="ack", tag=2)
        await client.expect("message", message="last")


async def test_an_expired_message_is_not_delivered_but_counted(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        await client.publish("jobs", "gone", ttl=5)
        await client.publish("jobs", "stays", ttl=50)
        await client.silence(6)
        await client.subscribe("jobs", prefetch=5)
        await client.expect("message", message="stays")
        stats = await client.ask("stats")
        assert stats["queues"][0]["counts"]["expired"] == 1
        await client.silence(60)  # a ttl never ends a lease; here its deadline does
        await other.subscribe("jobs")
        await other.silence()
        stats = await client.ask("stats")
        assert stats["queues"][0]["counts"]["expired"] == 2


async def test_an_expired_message_may_be_a_dead_letter(autojump_clock):
    async with running(settings(queues={"jobs": {"dead_letter_expired": True}})) as broker:
        client = broker.client()
        await client.publish("jobs", "gone", ttl=5)
        await client.silence(6)
        await client.subscribe("jobs")
        await client.subscribe("jobs.dead")
        frame = await client.expect("message", message="gone", topic="jobs")
        assert frame["case"]["reason"] == "expired"


async def test_auto_ack_settles_what_was_sent(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        for n in range(3):
            await client.publish("jobs", n)
        await client.subscribe("jobs", ack="auto")
        for n in range(3):
            frame = await client.expect("message", message=n)
            assert "tag" not in frame
        client.close()
        await other.subscribe("jobs")
        await other.silence()


async def test_what_an_auto_consumer_was_not_sent_returns_uncounted(autojump_clock):
    async with running() as broker:
        client, other = broker.client(window=1000), broker.client()
        for n in range(5):
            await other.publish("jobs", [n, "x" * 500])
        await client.send(action="subscribe", topic="jobs", mode="queue", ack="auto", prefetch=5)
        await other.silence(1)
        client.reset()
        await other.subscribe("jobs", prefetch=10)
        frames = [await other.read() for _ in range(5)]
        assert [f["message"][0] for f in frames] == [0, 1, 2, 3, 4]
        assert {f["attempt"] for f in frames} == {1}


async def test_unsubscribe_ends_deliveries_and_keeps_what_is_held(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        for n in range(3):
            await client.publish("jobs", n)
        await client.subscribe("jobs", prefetch=2)
        assert await client.messages(2) == [0, 1]
        answer = await client.ask("unsubscribe", topic="jobs", mode="queue")
        assert answer == {"type": "unsubscribed", "id": "ask", "topic": "jobs", "mode": "queue"}
        await client.silence()
        assert (await client.ask("ack", tag=1))["count"] == 1
        await other.subscribe("jobs", prefetch=5)
        await other.expect("message", message=2)  # 1 is still held
        client.close()
        await other.expect("message", message=1, attempt=2, returned="disconnect")


async def test_held_after_unsubscribe_returns_at_its_deadline(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        await client.publish("jobs", 1)
        await client.subscribe("jobs", ack_timeout=10)
        await client.expect("message")
        await client.ask("unsubscribe", topic="jobs", mode="queue")
        await other.subscribe("jobs")
        await other.silence(9)
        await other.expect("message", message=1, returned="deadline")


async def test_what_was_not_yet_written_at_unsubscribe_returns_uncounted(autojump_clock):
    async with running() as broker:
        client, other = broker.client(window=2000), broker.client()
        for n in range(40):
            await other.publish("jobs", [n, "x" * 60_000])
        await client.send(action="subscribe", topic="jobs", mode="queue", prefetch=100)
        await other.silence(1)
        await client.send(action="unsubscribe", topic="jobs", mode="queue", id="u")
        await other.subscribe("jobs", prefetch=100)
        first = await other.expect("message", attempt=1)
        assert first["message"][0] > 0
        frames = []
        while not frames or frames[-1]["type"] != "unsubscribed":
            frames.append(await client.read())
        await client.silence(1)
        held = [f["message"][0] for f in frames[:-1]]
        assert held == list(range(first["message"][0]))


async def test_unsubscribe_by_sub_ends_all_of_that_name(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("a", sub="x")
        await client.subscribe("b", sub="x")
        await client.subscribe("b", sub="y")
        await client.ask("unsubscribe", "unsubscribed", sub="x")
        await client.publish("a", 1)
        await client.send(action="publish", topic="b", mode="queue", message=2)
        frames = [await client.read(), await client.read()]
        assert [f["sub"] for f in frames if f["type"] == "message"] == ["y"]
        error = await client.ask("unsubscribe", "error", sub="x")
        assert error["code"] == "not_found"


async def test_subscriptions_have_a_limit(autojump_clock):
    async with running(settings(limits={"subscriptions": 2})) as broker:
        client = broker.client()
        await client.subscribe("a")
        await client.subscribe("a", sub="2")
        await client.send(action="subscribe", topic="a", mode="queue", sub="3", id="x")
        await client.expect("error", code="too_many", limit=2, id="x", closes=False)
        await client.subscribe("a", prefetch=3)  # a known one may change
        await client.ask("unsubscribe", "unsubscribed", topic="a", mode="queue", sub=None)
        await client.subscribe("b")


async def test_in_flight_has_a_limit(autojump_clock):
    async with running(settings(limits={"in_flight": 5})) as broker:
        client = broker.client()
        await client.send(action="subscribe", topic="a", mode="queue", prefetch=6, id="x")
        await client.expect("error", code="bad_field", limit=5, id="x")
        await client.send(action="get", topic="a", n=6, id="y")
        await client.expect("error", code="bad_field", limit=5, id="y")


async def test_a_new_message_goes_to_nobody_while_paused(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs")
        answer = await client.ask("pause", topic="jobs")
        assert (answer["type"], answer["paused"]) == ("pause", True)
        await client.publish("jobs", 1)
        await client.silence()
        await client.send(action="resume", topic="jobs", id="r")
        assert {(await client.read())["type"] for _ in range(2)} == {"resume", "message"}


async def test_a_dead_queue_is_read_but_never_published_to(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs.dead")
        await client.send(action="publish", topic="jobs.dead", mode="queue", message=1)
        await client.expect("error", code="bad_name")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"topic": "a.*"}, "bad_name"),
        ({"topic": ""}, "bad_name"),
        ({"prefetch": 0}, "bad_field"),
        ({"ack_timeout": -1}, "bad_field"),
        ({"ack": "perhaps"}, "bad_field"),
        ({"from": "all"}, "bad_field"),
        ({"sub": ""}, "bad_field"),
        ({"group": "x.dead", "mode": "pubsub"}, "bad_name"),
        ({"topic": "a@g", "group": "h"}, "bad_field"),
    ],
)
async def test_a_bad_subscribe_is_refused(autojump_clock, fields, code):
    async with running() as broker:
        client = broker.client()
        await client.send(
            {"action": "subscribe", "topic": "a", "mode": "queue", "id": "x", **fields}
        )
        await client.expect("error", code=code, closes=False, id="x")
