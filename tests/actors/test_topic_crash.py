"""What is left of a topic whose turn failed, or that failed for good."""

from functools import partial

import pytest
import trio

from msg.actors.topic import AddGroup, RemoveGroup
from msg.core.topic import TopicRules
from tests.actors.kit import Client, running, settled
from tests.actors.test_crash import CRASHED, Plant

FAILED = (*CRASHED, "actor failed")


async def pub(client: Client, topic: str, message: object, **more) -> dict:
    return await client.publish(topic, message, mode="pubsub", **more)


async def sub(client: Client, topic: str, **more) -> dict:
    return await client.subscribe(topic, mode="pubsub", **more)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("pattern", ["news.a", "news.*"])
async def test_a_subscription_whose_end_broke_the_turn_is_not_there_any_more(
    autojump_clock, monkeypatch, pattern, after
):
    async with running(errors=CRASHED) as broker:
        client, other, publisher = broker.client(), broker.client(), broker.client()
        await pub(publisher, "news.a", 0, ttl=0)
        await sub(client, pattern)
        plant = Plant(monkeypatch, TopicRules, "detach", after=after, times=2)
        await client.ask("unsubscribe", "unsubscribed", topic=pattern)
        await trio.sleep(1)
        assert plant.hits == 2  # it has a second chance
        assert (await pub(publisher, "news.a", 1))["receivers"] == 0
        await sub(other, "news.a")
        await other.expect("message", message=1)


@pytest.mark.parametrize("after", [False, True])
async def test_a_group_whose_removal_broke_the_turn_is_not_there_any_more(
    autojump_clock, monkeypatch, after
):
    async with running(errors=CRASHED) as broker:
        client, publisher = broker.client(), broker.client()
        await pub(publisher, "news", 0, ttl=0)
        await client.subscribe("news", mode="pubsub", group="g")
        plant = Plant(monkeypatch, TopicRules, "remove_group", after=after, times=2)
        await client.ask("unsubscribe", "unsubscribed", topic="news", group="g", delete=True)
        await trio.sleep(1)
        assert plant.hits == 2
        assert (await pub(publisher, "news", 1))["receivers"] == 0
        await sub(client, "news")
        await client.expect("message", message=1)


@pytest.mark.parametrize("after", [False, True])
async def test_a_subscription_that_broke_the_turn_is_an_error_and_not_subscribed(
    autojump_clock, monkeypatch, after
):
    async with running(errors=CRASHED) as broker:
        client, publisher = broker.client(), broker.client()
        await pub(publisher, "news", 1)
        plant = Plant(monkeypatch, TopicRules, "attach", after=after)
        await client.send(action="subscribe", topic="news", id="s")
        await client.expect("error", code="internal", id="s")
        assert plant.hits == 1
        await client.silence()
        await sub(client, "news")
        await client.expect("message", message=1)
        await client.eof()
        with trio.fail_after(1):
            assert await client.closed() == []


@pytest.mark.parametrize("after", [False, True])
async def test_a_pattern_that_broke_a_topics_turn_is_not_said_to_stand(
    autojump_clock, monkeypatch, after
):
    async with running(errors=CRASHED) as broker:
        client, publisher = broker.client(), broker.client()
        for name in ("a.x", "a.y"):
            await pub(publisher, name, 0, ttl=0)
        plant = Plant(monkeypatch, TopicRules, "attach", after=after)
        await client.send(action="subscribe", topic="a.*", id="s")
        await client.expect("error", code="internal", id="s")
        assert plant.hits == 1
        await client.silence()
        assert not len(broker.broker.directory.patterns)
        for name in ("a.x", "a.y"):
            assert (await pub(publisher, name, 1, ttl=0))["receivers"] == 0
        await sub(client, "a.*")
        await pub(publisher, "a.x", 2)
        await client.expect("message", message=2)
        await client.eof()
        with trio.fail_after(1):
            assert await client.closed() == []


async def test_a_pattern_that_a_new_topic_fails_on_is_over_and_its_client_told(
    autojump_clock, monkeypatch
):
    async with running(errors=CRASHED) as broker:
        client, publisher = broker.client(), broker.client()
        await sub(client, "a.*")
        plant = Plant(monkeypatch, TopicRules, "attach")
        await pub(publisher, "a.x", 1)
        assert plant.hits == 1
        assert "failed" in (await client.expect("unsubscribed", topic="a.*"))["reason"]
        await client.silence()
        await sub(client, "a.*", from_="all")
        await client.expect("message", message=1)


async def test_a_publish_in_the_turn_that_removes_a_group_still_copying_is_answered(
    autojump_clock,
):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        await pub(publisher, "news", 1)
        await client.subscribe("other", mode="pubsub", group="g")
        topic, queue = broker.broker.directory.topics["news"], broker.queue("other@g")
        broker.world.hold_disk()  # its page is not read
        topic.post(AddGroup(queue, "all"))
        await settled()
        assert topic.actor.rules.groups[queue.name].copy is not None
        publish = {"action": "publish", "topic": "news", "message": 2, "durability": "memory"}
        await publisher.send(publish)
        while not topic.mailbox.depth:  # the publish is there, and has not been heard
            await trio.lowlevel.checkpoint()
        topic.post(RemoveGroup(queue))
        await settled()
        broker.world.free_disk()
        await publisher.expect("ack")


async def test_a_group_in_the_making_is_answered_when_a_topic_fails_for_good(
    autojump_clock, monkeypatch
):
    async with running(errors=FAILED) as broker:
        client, publisher = broker.client(), broker.client()
        await pub(publisher, "news", 1)
        topic = broker.broker.directory.topics["news"]
        await client.subscribe("other", mode="pubsub", group="g")
        broker.world.hold_disk()
        await publisher.send(action="publish", topic="news", message=2)
        await settled()
        made = []
        topic.post(AddGroup(broker.queue("other@g"), "all", partial(made.append, True)))
        await settled()
        Plant(monkeypatch, TopicRules, "committed", times=4)
        broker.world.free_disk()
        await trio.sleep(9)
        assert topic.restarts.failed
        assert made == [True]
        assert topic.mailbox.free_room == topic.mailbox.room


async def test_who_waits_for_room_in_a_topic_that_fails_for_good_is_refused(
    autojump_clock, monkeypatch
):
    async with running(errors=FAILED) as broker:
        publisher = broker.client()
        await pub(publisher, "news", 0)
        topic = broker.broker.directory.topics["news"]
        broker.world.hold_disk()
        clients = [broker.client() for _ in range(80)]
        for client in clients:
            await client.send(action="publish", topic="news", message=1)
            await settled()
        Plant(monkeypatch, TopicRules, "committed", times=4)
        broker.world.free_disk()
        for client in clients:  # what was being written when it failed is told as it went
            await client.until("error", "ack")
        assert topic.restarts.failed
        assert topic.mailbox.free_room == topic.mailbox.room


async def test_a_copy_that_a_crash_took_over_is_not_begun_again_by_a_restart(
    autojump_clock, monkeypatch
):
    async with running(errors=CRASHED) as broker:
        client, publisher = broker.client(), broker.client()
        await client.ask("declare", topic="news", mode="pubsub", settings={"history_messages": 9})
        for n in range(3):
            await pub(publisher, "news", n, durability="stored")
        plant = Plant(monkeypatch, TopicRules, "go_on", only=lambda rules: any(
            g.given for g in rules.groups.values()))  # fmt: skip
        await client.subscribe("news", mode="pubsub", group="g", from_="all", prefetch=9)
        for n in range(3):
            frame = await client.expect("message", message=n)
            await client.send(action="ack", tag=frame["tag"])
        await settled()
        await pub(publisher, "news", 3, durability="stored")
        frame = await client.expect("message", message=3)
        await client.send(action="ack", tag=frame["tag"])
        await trio.sleep(200)  # the ids leave the windows
        assert plant.hits == 1
        disk = broker.world.disk
    async with running(disk=disk) as broker:
        client = broker.client()
        await client.subscribe("news", mode="pubsub", group="g", prefetch=9)
        await client.silence()
