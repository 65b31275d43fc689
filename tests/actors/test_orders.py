"""Questions and orders: stats, tree, peek, held, purge, pause, delete, declare, limits, help."""

from random import Random

import pytest
import trio

from msg.store.simdisk import SimDisk
from tests.actors.kit import running, settings, settled


async def test_stats_count_a_queues_messages_by_state(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(4):
            await client.publish("jobs", n, **({"delay": 100} if n == 3 else {}))
        await client.subscribe("jobs", prefetch=1)
        await client.expect("message")
        answer = await client.ask("stats", "stats")
        [row] = answer["queues"]
        assert (row["name"], row["state"], row["consumers"]) == ("jobs", "running", 1)
        assert (row["ready"], row["leased"], row["delayed"], row["dead"]) == (2, 1, 1, 0)
        assert row["bytes"] > 0
        assert row["counts"]["accepted"] == 4
        assert answer["connections"] == 1


async def test_an_answer_over_the_frame_limit_is_paged(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(60):
            await client.publish("jobs", [n, "x" * 20_000])
        seen: list[int] = []
        cursor: dict[str, str] = {}
        pages = 0
        while True:
            page = await client.ask("peek", "peek", topic="jobs", n=1000, **cursor)
            seen += [row["message"][0] for row in page["messages"]]
            pages += 1
            if "cursor" not in page:
                break
            cursor = {"cursor": page["cursor"]}
        assert seen == list(range(60))
        assert pages > 1


async def test_peek_takes_nothing(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(3):
            await client.publish("jobs", n)
        page = await client.ask("peek", "peek", topic="jobs", n=2)
        assert [row["message"] for row in page["messages"]] == [0, 1]
        assert page["messages"][0]["attempt"] == 1
        await client.subscribe("jobs", prefetch=3)
        assert await client.messages(3) == [0, 1, 2]


async def test_held_says_who_holds_what_and_until_when(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        await client.publish("jobs", 1, message_id="m")
        await client.subscribe("jobs", name="worker", ack_timeout=20)
        await client.expect("message")
        await client.silence(5)
        [row] = (await other.ask("held", "held", topic="jobs"))["held"]
        assert (row["message_id"], row["attempt"], row["consumer"]) == ("m", 1, "worker")


async def test_purge_takes_ready_and_delayed_only(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(5):
            await client.publish("jobs", n, **({"delay": 50} if n == 4 else {}))
        await client.subscribe("jobs", prefetch=2)
        await client.messages(2)
        assert (await client.ask("purge", "purge", topic="jobs"))["count"] == 3
        assert (await client.ask("ack", tag=1))["count"] == 1
        await client.silence(1)
        client.close()
        other = broker.client()
        await other.silence(1)
        await other.subscribe("jobs", prefetch=9)
        await other.expect("message", message=1, attempt=2)
        await other.silence(100)


async def test_pause_survives_a_restart(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.ask("pause", "pause", topic="jobs")
        disk = broker.world.disk
    async with running(disk=disk) as broker:
        client = broker.client()
        await client.subscribe("jobs")
        await client.silence()
        await client.send(action="resume", topic="jobs")
        await client.until("message")


async def test_declared_settings_survive_a_restart_and_the_config_file_wins(autojump_clock):
    async with running() as broker:
        client = broker.client()
        answer = await client.ask(
            "declare", "declared", topic="jobs", settings={"max_messages": 7, "ack_timeout": 3}
        )
        assert (answer["settings"]["max_messages"], answer["settings"]["ack_timeout"]) == (7, 3)
        assert answer["counts"]["ready"] == 0
        disk = broker.world.disk
    async with running(settings(queues={"jobs": {"max_messages": 9}}), disk=disk) as broker:
        client = broker.client()
        answer = await client.ask("declare", "declared", topic="jobs", passive=True)
        assert (answer["settings"]["max_messages"], answer["settings"]["ack_timeout"]) == (9, 3)


async def test_what_is_declared_replaces_what_was_and_nothing_leaves_it(autojump_clock):
    async with running() as broker:
        client = broker.client()
        first = await client.ask("declare", topic="jobs", settings={"max_messages": 7, "ttl": 3})
        assert (first["settings"]["max_messages"], first["settings"]["ttl"]) == (7, 3)
        for settings_ in (None, {}):
            same = await client.ask("declare", topic="jobs", settings=settings_)
            assert same["settings"] == first["settings"]
        second = await client.ask("declare", topic="jobs", settings={"ttl": 4})
        assert (second["settings"]["max_messages"], second["settings"]["ttl"]) == (20_000_000, 4)


async def test_a_passive_declare_makes_nothing(autojump_clock):
    async with running() as broker:
        client = broker.client()
        answer = await client.ask("declare", "error", topic="jobs", passive=True)
        assert answer["code"] == "not_found"
        assert (await client.ask("stats"))["queues"] == []
        await client.ask("declare", "declared", topic="jobs")
        await client.ask("declare", "declared", topic="jobs", passive=True)


@pytest.mark.parametrize(
    "chosen",
    [{"max_mesages": 1}, {"max_messages": -1}, {"overflow": "explode"}, {"backoff": "soon"}],
)
async def test_bad_settings_are_refused_and_nothing_is_made(autojump_clock, chosen):
    async with running() as broker:
        client = broker.client()
        answer = await client.ask("declare", "error", topic="jobs", settings=chosen)
        assert answer["code"] == "bad_field"
        if "max_mesages" in chosen:
            assert "max_messages" in answer["error"]
        assert (await client.ask("stats"))["queues"] == []


async def test_a_declare_is_answered_when_it_is_durable(autojump_clock):
    async with running() as broker:
        client = broker.client()
        broker.world.hold_disk()
        await client.send(action="declare", topic="jobs", settings={"max_messages": 1}, id="d")
        await client.silence()
        broker.world.free_disk()
        await client.expect("declared", id="d")


async def test_delete_tells_consumers_and_forgets_everything(autojump_clock):
    async with running() as broker:
        client, consumer = broker.client(), broker.client()
        await client.publish("jobs", 1, message_id="m")
        await consumer.subscribe("jobs", sub="x")
        await consumer.expect("message")
        assert (await client.ask("delete", topic="jobs", mode="queue"))["type"] == "delete"
        frame = await consumer.expect("unsubscribed", topic="jobs", mode="queue", sub="x")
        assert "deleted" in frame["reason"]
        assert (await consumer.ask("ack", tag=1))["failed"] == [{"tag": 1, "code": "not_held"}]
        assert broker.world.disk.list("queues") == []
        assert "duplicate" not in await client.publish("jobs", 1, message_id="m")
        await consumer.subscribe("jobs", sub="x")
        await consumer.expect("message", attempt=1)


async def test_a_deleted_queues_messages_do_not_come_back_at_the_next_start(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.ask("delete", topic="jobs", mode="queue")
        disk = broker.world.disk
    async with running(disk=disk) as broker:
        assert (await broker.client().ask("stats"))["queues"] == []


async def test_what_is_not_there_cannot_be_deleted(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for action in ("delete", "purge", "pause", "resume", "peek", "held", "retry"):
            answer = await client.ask(action, topic="jobs", mode="queue")
            assert answer.get("code") == "not_found", answer


async def test_what_is_asked_while_a_queue_is_being_deleted_finds_the_new_one(autojump_clock):
    async with running() as broker:
        clients = [broker.client() for _ in range(4)]
        await clients[0].publish("jobs", "old")
        broker.world.disk.latency["unlink"] = 5.0
        await clients[0].send(action="delete", topic="jobs", mode="queue", id="d")
        await clients[0].silence(1)
        assert "jobs" not in broker.broker.directory.queues
        await clients[1].send(action="publish", topic="jobs", mode="queue", message="new", id="p")
        await clients[2].send(action="subscribe", topic="jobs", mode="queue", id="s")
        await clients[3].send(action="get", topic="jobs", wait=1, id="g")
        await clients[0].silence(1)
        assert not clients[1].seen
        await clients[0].expect("delete", id="d")
        await clients[1].expect("ack", id="p")
        await clients[2].expect("subscribed", id="s")
        await clients[3].until("got")
        got = [f["message"] for c in clients for f in c.seen if f["type"] == "message"]
        if not got:
            got = [(await clients[2].expect("message"))["message"]]
        assert got == ["new"]
        await broker.client().publish("again", 1)  # the directory goes on


async def test_publishes_that_race_a_delete_are_answered(autojump_clock):
    """Each is either in the queue that went, or in the new one, or refused."""
    async with running() as broker:
        publishers = [broker.client() for _ in range(5)]
        order = broker.client()
        await order.publish("jobs", 0)

        async def publish(n: int) -> None:
            client = publishers[n]
            for i in range(40):
                await client.send(
                    action="publish", topic="jobs", mode="queue", message=i, id=str(i)
                )
                frame = await client.read()
                assert frame["id"] == str(i)
                assert frame["type"] == "ack" or frame["code"] in ("unavailable", "not_found"), (
                    frame
                )
                await trio.sleep(broker.world.rng.random() * 0.01)

        async with trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(publish, n)
            for _ in range(8):
                await trio.sleep(0.02)
                answer = await order.ask("delete", topic="jobs", mode="queue")
                assert answer["type"] == "delete" or answer["code"] == "not_found"


async def test_a_delete_answers_parked_publishes_and_open_gets(autojump_clock):
    async with running(
        settings(queues={"jobs": {"max_messages": 1, "overflow": "block"}})
    ) as broker:
        one, two, order = broker.client(), broker.client(), broker.client()
        await one.publish("jobs", 1)
        await one.send(action="publish", topic="jobs", mode="queue", message=2, id="parked")
        await two.send(action="get", topic="jobs", n=5, wait=100, id="g")
        await two.expect("message", message=1)
        await settled()
        await order.ask("delete", topic="jobs", mode="queue")
        answers = await one.answers("parked")
        assert answers[0]["type"] in ("ack", "error")
        await two.answers("g")


async def test_a_queue_can_be_deleted_when_the_disk_is_full(autojump_clock):
    disk = SimDisk(Random(1), capacity=4 << 20)
    async with running(disk=disk) as broker:
        client = broker.client()
        while True:
            await client.send(action="publish", topic="jobs", mode="queue", message="x" * 200_000)
            if (await client.read())["type"] == "error":
                break
        assert (await client.ask("delete", topic="jobs", mode="queue"))["type"] == "delete"
        await client.publish("jobs", 1)


async def test_a_delete_without_room_for_a_tombstone_has_done_nothing(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.subscribe("jobs")
        await client.expect("message")
        broker.world.disk.fill()
        answer = await client.ask("delete", topic="jobs", mode="queue")
        assert answer["code"] == "disk_full"
        broker.world.disk.make_room()
        assert (await client.ask("ack", tag=1))["count"] == 1
        await client.send(action="publish", topic="jobs", mode="queue", message=2)
        await client.until("message")
        assert (await client.ask("delete", topic="jobs", mode="queue"))["type"] == "delete"


async def test_an_ack_that_was_asked_for_is_told_when_a_full_disk_has_taken_it(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.publish("jobs", 2)
        await client.subscribe("jobs", prefetch=2)
        await client.messages(2)
        broker.world.disk.unlink("BALLAST")
        broker.world.disk.fill()
        await client.send(action="ack", tag=1, id="a")
        await client.silence(30)
        broker.world.disk.make_room()
        await client.expect("acked", id="a", count=1)


async def test_limits_shows_every_limit_and_help_every_action(autojump_clock):
    async with running() as broker:
        client = broker.client()
        limits = (await client.ask("limits", "limits"))["limits"]
        assert limits["frame_bytes"] == 1 << 20
        assert limits["connections"] == 20_000
        actions = (await client.ask("help", "help"))["actions"]
        assert {"publish", "subscribe", "ack", "stats", "help"} <= actions.keys()
        assert actions["publish"]["required"] == ["topic", "message"]
        for action in actions.keys() - {"pong"}:  # what is offered is known
            answer = await client.ask(action)
            assert answer.get("code") not in ("unknown_action", "unsupported"), answer


async def test_an_action_of_a_later_version_is_unsupported(autojump_clock):
    async with running() as broker:
        client = broker.client()
        offered = (await client.ask("help", "help"))["actions"]
        for action in ("why", "trace", "tap", "dead"):
            if action not in offered:
                answer = await client.ask(action, "error", topic="jobs")
                assert answer["code"] == "unsupported"


async def test_the_tree_names_every_actor_under_its_parent(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        rows = (await client.ask("tree", "tree"))["actors"]
        parents = {row["name"]: row["parent"] for row in rows}
        assert parents["broker"] is None
        for name in ("store", "timer", "directory", "connection 1"):
            assert parents[name] == "broker"
        assert parents["queue jobs"] == "directory"
        [queue] = [row for row in rows if row["name"] == "queue jobs"]
        assert queue["state"] == "running"
        assert queue["restarts"] == 0
        assert queue["mailbox"]["depth"] == 0
