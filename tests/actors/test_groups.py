"""Groups: durable subscriptions that their members share."""

import trio

from msg.core.deep import Packing
from msg.core.ledger import QueueLedger
from tests.actors.kit import Client, Running, running, settings, settled
from tests.actors.test_crash import CRASHED, Plant


async def pub(client: Client, topic: str, message: object, **more) -> dict:
    return await client.publish(topic, message, mode="pubsub", **more)


async def member(broker: Running, pattern: str = "news", group: str = "g", **more) -> Client:
    client = broker.client()
    await client.subscribe(pattern, mode="pubsub", group=group, **more)
    return client


async def test_members_share_and_each_message_goes_to_one(autojump_clock):
    async with running() as broker:
        members = [await member(broker) for _ in range(3)]
        publisher = broker.client()
        for n in range(9):
            await pub(publisher, "news", n)
        got = []
        for _ in range(3):
            for client in members:
                frame = await client.expect("message", group="g", attempt=1)
                got.append(frame["message"])
                await client.send(action="ack", tag=frame["tag"])
        assert sorted(got) == list(range(9))


async def test_each_group_and_each_plain_subscriber_gets_its_own(autojump_clock):
    async with running() as broker:
        one, two = await member(broker, group="one"), await member(broker, group="two")
        plain = broker.client()
        await plain.subscribe("news", mode="pubsub")
        await pub(broker.client(), "news", 1)
        for client in (one, two, plain):
            await client.expect("message", message=1)
        assert "tag" not in plain.seen[-1]


async def test_a_group_keeps_what_comes_while_no_member_is_there(autojump_clock):
    async with running() as broker:
        client, publisher = await member(broker), broker.client()
        client.close()
        await settled()
        for n in range(3):
            answer = await pub(publisher, "news", n)
            assert "receivers" not in answer  # the group heard it
        disk = broker.world.disk
    async with running(disk=disk) as broker:
        publisher = broker.client()
        await pub(publisher, "news", 3)
        client = await member(broker, prefetch=9)
        assert await client.messages(4) == [0, 1, 2, 3]


async def test_a_groups_messages_are_leased_retried_and_buried_like_a_queues(autojump_clock):
    async with running(settings(queues={"news@g": {"max_deliveries": 2, "backoff": ()}})) as broker:
        client, publisher = await member(broker), broker.client()
        await pub(publisher, "news", 1)
        await client.expect("message", attempt=1, tag=1)
        await client.send(action="nack", tag=1, reason="a")
        await client.expect("message", attempt=2, tag=2, returned="nack")
        await client.send(action="nack", tag=2, reason="b")
        dead = broker.client()
        await dead.subscribe("news@g.dead")
        frame = await dead.expect("message", message=1, topic="news")
        assert [a["reason"] for a in frame["case"]["attempts"]] == ["a", "b"]
        assert frame["case"]["queue"] == "news@g"
        assert (await dead.ask("retry", topic="news@g"))["count"] == 0  # it is held
        await dead.ask("nack", tag=1, count_attempt=False)
        await dead.ask("unsubscribe", topic="news@g.dead", mode="queue")
        dead.close()
        await publisher.silence(1)
        assert (await publisher.ask("retry", topic="news@g"))["count"] == 1
        await client.expect("message", message=1, attempt=1)


async def test_dead_letters_of_a_group_may_be_addressed_in_two_ways(autojump_clock):
    async with running() as broker:
        client = await member(broker)
        await pub(broker.client(), "news", 1)
        await client.expect("message")
        await client.ask("nack", tag=1, requeue=False)
        other = broker.client()
        # the nack is answered before the message has moved
        await other.send(action="get", topic="news@g.dead", wait=5, id="g")
        await other.expect("message", message=1)
        await other.expect("got", count=1)


async def test_a_wildcard_group_takes_from_topics_old_and_new(autojump_clock):
    async with running() as broker:
        live, publisher = broker.client(), broker.client()
        await live.subscribe("a.old", mode="pubsub")
        client = await member(broker, "a.*", prefetch=9)
        await pub(publisher, "a.old", 1)
        await pub(publisher, "a.new", 2)
        await pub(publisher, "b.new", 3, ttl=0)
        frames = [await client.expect("message", group="g") for _ in range(2)]
        assert sorted((f["topic"], f["message"]) for f in frames) == [("a.new", 2), ("a.old", 1)]
        await client.silence(1)
        disk = broker.world.disk
    async with running(disk=disk) as broker:
        client = await member(broker, "a.*", prefetch=9)
        await pub(broker.client(), "a.third", 4)
        assert 4 in await client.messages(3)


async def test_a_wildcard_groups_long_line_in_memory_keeps_each_messages_topic(autojump_clock):
    """Names of one length: their messages look alike where a line is packed."""
    async with running() as broker:
        broker.broker.context.services.packing = Packing(run=4, head=2, still=0, above=0)
        client = broker.client()
        await client.ask("declare", "declared", topic="a.*", group="g")
        sent = [(f"a.{'xy'[n % 2]}", n) for n in range(20)]
        for topic, n in sent:
            await client.publish(topic, n, mode="pubsub", durability="memory")
        await client.subscribe("a.*", mode="pubsub", group="g", prefetch=100)
        got = [await client.expect("message") for _ in sent]
        assert [(m["topic"], m["message"]) for m in got] == sent


async def test_a_new_group_takes_the_backlog_unless_from_new(autojump_clock):
    async with running() as broker:
        publisher = broker.client()
        for topic in ("kept", "left"):
            for n in range(3):
                await pub(publisher, topic, n)
        client = await member(broker, "kept", prefetch=9)
        assert await client.messages(3) == [0, 1, 2]
        client = await member(broker, "left", prefetch=9, from_="new")
        await client.silence(1)


async def test_from_counts_only_when_the_group_is_made(autojump_clock):
    async with running(settings(topics={"news": {"history_messages": 100}})) as broker:
        publisher = broker.client()
        for n in range(4):
            await pub(publisher, "news", n)
        first = await member(broker, prefetch=9, from_="all")
        assert await first.messages(4) == [0, 1, 2, 3]
        await first.ask("ack", tags=[1, 2, 3, 4])
        second = await member(broker, prefetch=9, from_="all")
        await second.silence(1)
        last = await member(broker, group="late", prefetch=9, from_="last")
        assert await last.messages(1) == [3]


async def test_a_group_may_be_declared_before_its_first_member(autojump_clock):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        await client.ask("declare", "declared", topic="news", mode="pubsub", group="g")
        await pub(publisher, "news", 1)
        assert await (await member(broker)).messages(1) == [1]


async def test_the_address_with_an_at_is_the_same_group(autojump_clock):
    async with running() as broker:
        client = await member(broker)
        other = broker.client()
        await other.subscribe("news@g", mode="pubsub")
        assert broker.actor("news@g").ledger.consumers.keys() == {
            *broker.actor("news@g").ledger.consumers
        }
        assert len(broker.actor("news@g").ledger.consumers) == 2
        client.close()


async def test_a_groups_making_is_durable_when_it_is_answered(autojump_clock):
    async with running() as broker:
        one, two = broker.client(), broker.client()
        broker.world.hold_disk()
        for client in (one, two):
            await client.send(action="subscribe", topic="news", mode="pubsub", group="g", id="s")
        await one.silence(3)
        await two.silence(3)
        broker.world.free_disk()
        await one.expect("subscribed", id="s", group="g")
        await two.expect("subscribed", id="s", group="g")
        disk = broker.world.disk.crash(broker.world.rng, "none")
    async with running(disk=disk) as broker:
        await pub(broker.client(), "news", 1)
        assert await (await member(broker)).messages(1) == [1]


async def test_what_a_new_group_is_to_have_is_durable_when_it_is_answered(
    autojump_clock, monkeypatch
):
    """Not yet copied, it is still the group's after a power cut."""
    async with running(stop="kill") as broker:
        publisher = broker.client()
        keep = {"history_messages": 9}
        await publisher.ask("declare", topic="news", mode="pubsub", settings=keep)
        for n in range(3):
            await pub(publisher, "news", n, durability="stored")
        monkeypatch.setattr(QueueLedger, "publish", lambda *_: None)  # it gets to nothing
        await member(broker, from_="all")
        disk = broker.world.disk.crash(broker.world.rng, "none")
    monkeypatch.undo()
    async with running(disk=disk) as broker:
        assert await (await member(broker, prefetch=9)).messages(3) == [0, 1, 2]


async def test_a_group_that_finds_no_room_on_the_disk_is_not_made(autojump_clock):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        broker.world.disk.fill()
        await client.send(action="subscribe", topic="news", mode="pubsub", group="g", id="s")
        await client.expect("error", code="disk_full", id="s")
        await publisher.silence(2)
        broker.world.disk.make_room()
        assert (await pub(publisher, "news", 1))["receivers"] == 0
        client = await member(broker)
        assert await client.messages(1) == [1]  # from the backlog
        await pub(publisher, "news", 2)
        await client.ask("ack", tag=1)
        assert await client.messages(1) == [2]


async def test_delete_removes_the_group_and_its_backlog(autojump_clock):
    async with running() as broker:
        client, other, publisher = await member(broker), await member(broker), broker.client()
        await pub(publisher, "news", 1)
        await settled()
        answer = await client.ask(
            "unsubscribe", "unsubscribed", topic="news", group="g", delete=True
        )
        assert answer["group"] == "g"
        frame = await other.until("unsubscribed")
        assert frame["reason"]
        assert (await pub(publisher, "news", 2, ttl=0))["receivers"] == 0
        late = await member(broker, from_="new")
        await late.silence(1)
        answer = await client.ask("unsubscribe", "error", topic="news", group="none", delete=True)
        assert answer["code"] == "not_found"


async def test_a_group_without_a_member_is_removed_after_its_time(autojump_clock):
    async with running(settings(limits={"group_idle_seconds": 4_000.0})) as broker:
        client, stays, publisher = await member(broker), broker.client(), broker.client()
        await stays.subscribe("news", mode="pubsub", group="stays")
        client.close()
        await publisher.silence(3_700)
        assert "news@g" in broker.broker.directory.queues
        await publisher.silence(3_600)
        assert "news@g" not in broker.broker.directory.queues
        assert "news@stays" in broker.broker.directory.queues
        await pub(publisher, "news", 1)
        await stays.expect("message", message=1)


async def test_a_forgotten_group_refuses_no_publisher(autojump_clock):
    async with running(settings(queues={"news@g": {"max_messages": 5}})) as broker:
        client, publisher = await member(broker), broker.client()
        client.close()
        await settled()
        for n in range(20):
            await pub(publisher, "news", n)
        stats = {row["name"]: row for row in (await publisher.ask("stats"))["queues"]}
        assert stats["news@g"]["counts"]["dropped"] == 15
        assert await (await member(broker, prefetch=9)).messages(5) == [15, 16, 17, 18, 19]


async def test_a_publish_is_acked_when_every_group_has_it_durably(autojump_clock):
    async with running() as broker:
        await member(broker, group="one")
        await member(broker, group="two")
        publisher = broker.client()
        broker.world.hold_disk()
        await publisher.send(action="publish", topic="news", message=1)
        await publisher.silence()
        broker.world.free_disk()
        await publisher.expect("ack")


async def test_a_group_that_crashes_loses_nothing(autojump_clock, monkeypatch):
    async with running(errors=CRASHED) as broker:
        client, publisher = await member(broker, prefetch=9), broker.client()
        await pub(publisher, "news", 0)
        await client.expect("message")
        Plant(monkeypatch, QueueLedger, "publish", after=True)
        await publisher.send(action="publish", topic="news", message=1, id="p", message_id="m")
        answer = await publisher.read()
        if answer["type"] == "error":
            assert answer["retry"] == "same_id"
            await pub(publisher, "news", 1, message_id="m")
        await client.expect("message", message=1)
        await pub(publisher, "news", 2)
        await client.expect("message", message=2)
        await client.silence(2)


async def test_a_retry_under_the_same_id_reaches_only_those_that_miss_it(
    autojump_clock, monkeypatch
):
    async with running(errors=CRASHED) as broker:
        one = await member(broker, group="one", prefetch=9)
        two = await member(broker, group="two", prefetch=9)
        publisher = broker.client()
        Plant(
            monkeypatch, QueueLedger, "publish",
            only=lambda ledger, *_: ledger.name == "news@two",
        )  # fmt: skip
        await publisher.send(action="publish", topic="news", message=1, id="p", message_id="m")
        error = await publisher.expect("error", id="p", message_id="m", retry="same_id")
        assert error["code"] == "internal"
        await pub(publisher, "news", 1, message_id="m")
        for client in (one, two):
            await client.expect("message", message=1)
            await client.silence(1)


async def test_an_id_counts_for_its_topic_in_a_group_of_several(autojump_clock):
    async with running() as broker:
        publisher = broker.client()
        await (await member(broker, "a.*")).eof()
        for topic, body in (("a.x", 1), ("a.y", 1), ("a.z", 2)):
            for duplicate in (None, True):
                answer = await pub(publisher, topic, body, message_id="m")
                assert answer.get("duplicate") == duplicate
        await publisher.send(action="publish", topic="a.x", message=3, message_id="m")
        error = await publisher.expect("error", code="id_conflict")
        assert "message_id 'm' " in error["error"]
        broker.world.disk.fill()
        await publisher.send(action="publish", topic="a.y", message=4, message_id="n")
        await publisher.expect("error", code="disk_full", message_id="n")
        broker.world.disk.make_room()
        await trio.sleep(10)
        await pub(publisher, "a.y", 4, message_id="n")
        disk = broker.world.disk
    async with running(disk=disk) as broker:
        publisher = broker.client()
        await pub(publisher, "a.y", 1, message_id="m")  # the topics' windows are gone
        await pub(publisher, "a.v", 1, message_id="m")
        client = await member(broker, "a.*", prefetch=9)
        got = [await client.expect("message", group="g") for _ in range(5)]
        assert [(f["topic"], f["message"]) for f in got] == [
            ("a.x", 1), ("a.y", 1), ("a.z", 2), ("a.y", 4), ("a.v", 1),
        ]  # fmt: skip
        await client.silence()


async def test_a_group_that_was_made_before_a_retry_gets_it_and_nobody_else(autojump_clock):
    """Whether it missed the first one or was not there yet, its log does not know."""
    async with running() as broker:
        one, plain, publisher = await member(broker, group="one"), broker.client(), broker.client()
        await plain.subscribe("news", mode="pubsub")
        await pub(publisher, "news", 1, message_id="m")
        two = await member(broker, group="two")
        assert "duplicate" not in await pub(publisher, "news", 1, message_id="m")
        assert (await pub(publisher, "news", 1, message_id="m"))["duplicate"]
        for client in (one, two, plain):
            await client.expect("message", message=1)
            await client.silence(1)


async def test_get_from_a_group(autojump_clock):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        await client.ask("declare", "declared", topic="news", mode="pubsub", group="g")
        await pub(publisher, "news", 1)
        await client.send(action="get", topic="news", mode="pubsub", group="g", id="x")
        await client.expect("message", message=1, group="g", tag=1)
        await client.expect("got", count=1)


async def test_groups_count_as_names(autojump_clock):
    async with running(settings(limits={"names": 1})) as broker:
        await member(broker)
        client = broker.client()
        await client.send(action="subscribe", topic="news", mode="pubsub", group="h", id="s")
        await client.expect("error", code="too_many", id="s")
