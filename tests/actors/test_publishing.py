"""Publishing to queues: acks, durability, dedup, limits."""

import random

import attrs
import pytest
import trio

from msg.store.simdisk import SimDisk
from tests.actors.kit import running, settings


async def test_an_ack_names_the_id_and_repeats_the_request_id(autojump_clock):
    async with running() as broker:
        client = broker.client()
        first = await client.publish("jobs", {"n": 1})
        second = await client.publish("jobs", None, id="b", message_id="mine")
        assert second == {"type": "ack", "message_id": "mine", "id": "b"}
        assert first.keys() == {"type", "message_id"}


async def test_made_ids_are_unique_and_sort_by_acceptance(autojump_clock):
    async with running() as broker:
        client = broker.client()
        frame = {"action": "publish", "topic": "q", "mode": "queue", "message": 1}
        ids = []
        for size in (1, 3, 5000, 1):
            await client.send_all(*[frame] * size)
            ids += [(await client.expect("ack"))["message_id"] for _ in range(size)]
        assert ids == sorted(set(ids))


async def test_every_body_comes_out_as_it_went_in(autojump_clock):
    bodies = [None, 0, -1.5e3, "", "é\n\u2028\U0001f600", [], {}, {"a": {"b": [1, None, True]}}]
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs", prefetch=100)
        for body in bodies:
            await client.send(action="publish", topic="jobs", mode="queue", message=body)
        frames = [await client.read() for _ in range(2 * len(bodies))]
        assert [f["message"] for f in frames if f["type"] == "message"] == bodies


async def test_the_optional_members_travel_with_the_message(autojump_clock):
    more = {
        "headers": {"a": "b", "é": '"'}, "reply_to": "answers.here", "correlation_id": "c-1",
        "encoding": "base64", "message_id": "m-1",
    }  # fmt: skip
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", "aGk=", **more)
        await client.subscribe("jobs", sub="s1")
        frame = await client.expect("message", **more)
        assert frame["published_at"].endswith("Z")
        assert (frame["topic"], frame["mode"], frame["sub"]) == ("jobs", "queue", "s1")
        assert (frame["tag"], frame["attempt"], frame["ack_timeout"]) == (1, 1, 30)
        assert frame.keys() == {
            "type", "topic", "message", "published_at", "mode", "sub", "tag", "attempt",
            "ack_timeout", *more,
        }  # fmt: skip


async def test_a_stored_publish_is_acked_when_it_is_synced_and_not_before(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs")
        broker.world.hold_disk()
        await client.send(action="publish", topic="jobs", mode="queue", message=1)
        await client.silence(10)  # neither ack nor delivery
        broker.world.free_disk()
        assert {(await client.read())["type"] for _ in range(2)} == {"ack", "message"}


async def test_a_memory_publish_waits_for_no_disk(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs")
        broker.world.hold_disk()
        await client.send(
            action="publish", topic="jobs", mode="queue", message=1, durability="memory"
        )
        assert {(await client.read())["type"] for _ in range(2)} == {"ack", "message"}
        broker.world.free_disk()


async def test_an_os_publish_is_written_and_not_synced(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 0)  # the segment is made
        synced: list[str] = []
        broker.world.disk.hook = lambda n, kind, path: synced.append(kind)
        await client.publish("jobs", 1, durability="os")
        assert "append" in synced
        assert "datasync" not in synced
        await client.publish("jobs", 2, durability="stored")
        assert "datasync" in synced


async def test_answers_of_one_durability_come_in_request_order(autojump_clock):
    async with running(settings(queues={"q": {"max_messages": 3}})) as broker:
        client = broker.client()
        await client.publish("q", 0, message_id="a")
        frame = {"action": "publish", "topic": "q", "mode": "queue"}
        await client.send_all(
            {**frame, "message": 1, "id": "1"},
            {**frame, "message": 2, "id": "2"},
            {**frame, "message": 0, "id": "3", "message_id": "a"},  # duplicate
            {**frame, "message": 9, "id": "4", "message_id": "a"},  # conflict
            {**frame, "message": 5, "id": "5"},  # full
            {**frame, "message": 1, "id": "6", "message_id": "b"},  # full
        )
        answers = [await client.read() for _ in range(6)]
        assert [a["id"] for a in answers] == ["1", "2", "3", "4", "5", "6"]
        assert [a.get("code", a["type"]) for a in answers] == [
            "ack", "ack", "ack", "id_conflict", "queue_full", "queue_full",
        ]  # fmt: skip


async def test_a_seen_id_is_acked_as_duplicate_and_not_stored_again(autojump_clock):
    async with running() as broker:
        client, consumer = broker.client(), broker.client()
        await client.publish("jobs", {"a": 1}, message_id="m")
        again = await client.publish("jobs", {"a": 1}, message_id="m", id="r")
        assert again == {"type": "ack", "message_id": "m", "id": "r", "duplicate": True}
        await consumer.subscribe("jobs", prefetch=10)
        await consumer.expect("message", message_id="m")
        await consumer.silence()


async def test_the_same_id_with_another_body_is_a_conflict(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1, message_id="m")
        await client.send(action="publish", topic="jobs", mode="queue", message=2, message_id="m")
        await client.expect("error", code="id_conflict", retry="never", message_id="m")


async def test_a_settled_message_is_still_a_duplicate_within_the_window(autojump_clock):
    async with running(settings(queues={"jobs": {"dedup_window": 60.0}})) as broker:
        client = broker.client()
        await client.publish("jobs", 1, message_id="m")
        await client.subscribe("jobs")
        await client.expect("message")
        await client.ask("ack", tag=1)
        await client.ask("purge", topic="jobs")
        assert (await client.publish("jobs", 1, message_id="m"))["duplicate"]
        await client.silence(61)
        await client.send(action="publish", topic="jobs", mode="queue", message=1, message_id="m")
        frames = [await client.read(), await client.read()]
        assert all("duplicate" not in frame for frame in frames)


async def test_a_duplicate_of_an_uncommitted_publish_shares_its_answer(autojump_clock):
    async with running() as broker:
        one, two = broker.client(), broker.client()
        await one.publish("jobs", 0)
        broker.world.hold_disk()
        for client in (one, two):
            await client.send(
                action="publish", topic="jobs", mode="queue", message=1, message_id="m"
            )
            await client.silence(1)
        broker.world.free_disk()
        assert "duplicate" not in await one.expect("ack")
        assert (await two.expect("ack"))["duplicate"]


async def test_when_the_commit_fails_the_id_leaves_the_window(autojump_clock):
    async with running() as broker:
        one, two = broker.client(), broker.client()
        await one.publish("jobs", 0)
        broker.world.hold_disk()
        for client in (one, two):
            await client.send(
                action="publish", topic="jobs", mode="queue", message=1, message_id="m"
            )
            await client.silence(1)
        broker.world.disk.fill()
        broker.world.free_disk()
        await one.expect("error", code="disk_full", retry="later", message_id="m")
        await two.expect("error", code="disk_full", message_id="m")
        broker.world.disk.make_room()
        await trio.sleep(0.2)  # the disk is tried again after 0.1 s
        assert "duplicate" not in await one.publish("jobs", 1, message_id="m")
        await two.subscribe("jobs", prefetch=5)
        assert await two.messages(2) == [0, 1]
        await two.silence()


async def test_disk_full_refuses_publishes_while_acks_and_deliveries_go_on(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(3):
            await client.publish("jobs", n)
        broker.world.disk.fill()
        await client.send(action="publish", topic="jobs", mode="queue", message=9, id="p")
        await client.expect("error", code="disk_full", id="p", closes=False)
        await client.subscribe("jobs")
        for n in range(3):
            await client.expect("message", message=n)
            await client.send(action="ack", tag=n + 1)
        await client.send(
            action="publish", topic="jobs", mode="queue", message=10, durability="memory"
        )
        assert {(await client.read())["type"] for _ in range(2)} == {"ack", "message"}
        broker.world.disk.make_room()
        await trio.sleep(0.2)  # the disk is tried again after 0.1 s
        await client.send(action="ack", tag=4)
        await client.publish("jobs", 11)


async def test_how_much_of_the_disk_is_left_alone_is_a_setting(autojump_clock):
    disk = SimDisk(random.Random(0), capacity=64 << 20)
    limits = {"disk_floor_bytes": 32 << 20, "disk_floor_percent": 100.0}
    async with running(settings(limits=limits), disk=disk) as broker:
        client = broker.client()
        await client.publish("jobs", "x" * 100)
        disk.capacity = 32 << 20
        await client.send(action="publish", topic="jobs", mode="queue", message=1, id="p")
        assert "33554432 are kept free" in (await client.expect("error", code="disk_full"))["error"]
        broker.broker.reload(settings(limits={"disk_floor_bytes": 0}))
        await trio.sleep(0.2)  # the disk is tried again after 0.1 s
        await client.publish("jobs", 2)


async def test_a_full_queue_refuses_and_says_its_limit(autojump_clock):
    async with running(settings(queues={"jobs": {"max_messages": 2}})) as broker:
        client = broker.client()
        await client.publish("jobs", 1, message_id="a")
        await client.publish("jobs", 2)
        await client.send(action="publish", topic="jobs", mode="queue", message=3, id="x")
        await client.expect(
            "error", code="queue_full", retry="later", limit=2, closes=False, id="x"
        )
        # an error is never sent for something that was kept
        assert (await client.publish("jobs", 1, message_id="a"))["duplicate"]
        await client.subscribe("jobs")
        await client.expect("message")
        await client.ask("ack", tag=1)
        await client.expect("message")
        await client.publish("jobs", 4)


async def test_overflow_block_parks_that_connections_publishes_until_there_is_room(autojump_clock):
    async with running(
        settings(queues={"jobs": {"max_messages": 1, "overflow": "block"}})
    ) as broker:
        client, consumer = broker.client(), broker.client()
        await client.publish("jobs", 1)
        await client.send(action="publish", topic="jobs", mode="queue", message=2)
        await client.silence(10)
        await client.send(action="ping")
        await client.expect("pong")  # its other requests are still read
        await consumer.subscribe("jobs")
        await consumer.expect("message", message=1)
        await consumer.send(action="ack", tag=1)
        await client.expect("ack")
        await consumer.expect("message", message=2)


async def test_overflow_block_gives_up_after_30_seconds(autojump_clock):
    async with running(
        settings(queues={"jobs": {"max_messages": 1, "overflow": "block"}})
    ) as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.send(action="publish", topic="jobs", mode="queue", message=2, id="p")
        await client.silence(29)
        await client.expect("error", code="queue_full", id="p")


async def test_how_long_a_publish_waits_for_room_is_a_setting(autojump_clock):
    full = {"queues": {"jobs": {"max_messages": 1, "overflow": "block"}}}
    async with running(settings(**full, limits={"parked_seconds": 2.0})) as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.send(action="publish", topic="jobs", mode="queue", message=2, id="a")
        await client.silence(1.5)
        await client.expect("error", code="queue_full", id="a")
        broker.broker.reload(settings(**full, limits={"parked_seconds": 5.0}))
        await client.send(action="publish", topic="jobs", mode="queue", message=3, id="b")
        await client.silence(4)
        await client.expect("error", code="queue_full", id="b")


async def test_overflow_drop_oldest_takes_the_new_and_counts_the_old(autojump_clock):
    async with running(
        settings(queues={"jobs": {"max_messages": 2, "overflow": "drop_oldest"}})
    ) as broker:
        client = broker.client()
        for n in range(5):
            await client.publish("jobs", n)
        stats = await client.ask("stats")
        assert stats["queues"][0]["counts"]["dropped"] == 3
        await client.subscribe("jobs", prefetch=9)
        assert await client.messages(2) == [3, 4]


async def test_memory_messages_have_a_limit_of_their_own(autojump_clock):
    async with running(settings(queues={"jobs": {"max_memory_bytes": 1000}})) as broker:
        client = broker.client()
        body = "x" * 500
        await client.publish("jobs", body, durability="memory")
        await client.send(
            action="publish", topic="jobs", mode="queue", message=body, durability="memory"
        )
        await client.expect("error", code="queue_full")
        await client.publish("jobs", body)


async def test_less_durability_than_the_queue_allows_is_refused(autojump_clock):
    async with running(settings(queues={"jobs": {"durability_min": "stored"}})) as broker:
        client = broker.client()
        await client.send(
            action="publish", topic="jobs", mode="queue", message=1, durability="os", id="a"
        )
        await client.expect("error", code="bad_field", id="a")
        await client.publish("jobs", 1)


async def test_a_publish_that_names_none_gets_the_least_where_the_usual_one_is_less(autojump_clock):
    asked = {"durability": "memory", "durability_min": "stored"}
    async with running(settings(queues={"jobs": asked})) as broker:
        client = broker.client()
        broker.world.hold_disk()
        await client.send(action="publish", topic="jobs", mode="queue", message=1)
        await client.silence(1)
        broker.world.free_disk()
        await client.expect("ack")


async def test_a_queues_setting_is_the_durability_of_a_publish_that_names_none(autojump_clock):
    async with running(settings(queues={"jobs": {"durability": "memory"}})) as broker:
        client = broker.client()
        broker.world.hold_disk()
        await client.publish("jobs", 1)
        broker.world.free_disk()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"topic": "a b"}, "bad_name"),
        ({"topic": "a..b"}, "bad_name"),
        ({"topic": "a.*"}, "bad_name"),
        ({"topic": "a@g"}, "bad_name"),
        ({"topic": "x" * 129}, "bad_name"),
        ({"topic": "jobs.dead"}, "bad_name"),
        ({"topic": "_mine"}, "forbidden"),
        ({"topic": "$SYS.x"}, "forbidden"),
        ({"topic": 3}, "bad_field"),
        ({"mode": "both"}, "bad_field"),
        ({"priority": 10}, "bad_field"),
        ({"delay": -1}, "bad_field"),
        ({"delay": 10, "ttl": 5}, "bad_field"),
        ({"ttl": 0}, "bad_field"),
        ({"durability": "raid"}, "bad_field"),
        ({"headers": {"a": 1}}, "bad_field"),
        ({"message_id": ""}, "bad_field"),
        ({"message_id": "x" * 129}, "bad_field"),
        ({"encoding": "hex"}, "bad_field"),
        ({"encoding": "base64", "message": 1}, "bad_field"),
        ({"reply_to": "no good"}, "bad_name"),
        ({"retain": True}, "bad_field"),
    ],
)
async def test_a_bad_publish_is_refused_and_the_next_one_taken(autojump_clock, fields, code):
    async with running() as broker:
        client = broker.client()
        frame = {"action": "publish", "topic": "jobs", "mode": "queue", "message": "x", "id": "p"}
        await client.send({**frame, **fields})
        await client.expect("error", code=code, closes=False, retry="never", id="p")
        await client.send(frame)
        await client.expect("ack", id="p")


async def test_names_have_a_limit(autojump_clock):
    async with running(settings(limits={"names": 2})) as broker:
        client = broker.client()
        await client.publish("a", 1)
        await client.publish("b", 1)
        await client.send(action="publish", topic="c", mode="queue", message=1, id="x")
        await client.expect("error", code="too_many", retry="later", limit=2, id="x")
        await client.send(action="subscribe", topic="c", mode="queue", id="y")
        await client.expect("error", code="too_many", id="y")
        await client.send(action="get", topic="c", id="z")
        await client.expect("error", code="too_many", id="z")
        await client.publish("a", 2)


async def test_a_slash_and_any_letter_may_stand_in_a_name(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for name in ("a/b", "Ünï", "A", "a", "x" * 128, "con", "a.b"):
            await client.publish(name, name)
        stats = await client.ask("stats")
        assert len(stats["queues"]) == 7


async def test_a_new_limit_holds_from_the_reload_on(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        new = attrs.evolve(settings(), queues={"jobs": {"max_messages": 1}})
        broker.broker.reload(new)
        await client.send(action="ping")
        await client.expect("pong")
        await client.send(action="publish", topic="jobs", mode="queue", message=2)
        await client.expect("error", code="queue_full", limit=1)
