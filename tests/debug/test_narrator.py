"""The log's own story: what goes wrong at info, everything at debug, never a body."""

from typing import Any

import trio

from tests.actors.kit import Client, running, settings, settled

SECRET = "the body of the message"


def about(broker: Any, message_id: str) -> list[str]:
    """A grep for the id."""
    return [
        event for _, event, fields in broker.log.lines if fields.get("message_id") == message_id
    ]


async def died(broker: Any) -> tuple[Client, str]:
    client = broker.client()
    await client.subscribe("jobs", name="worker-a")
    message_id = (await client.publish("jobs", SECRET))["message_id"]
    await client.expect("message")
    await client.ask("nack", "acked", tag=1, reason="Traceback\n  …\nKeyError: 'cat'\n")
    await settled()
    return client, message_id


async def test_what_goes_wrong_with_a_message_is_told_at_info(autojump_clock):
    async with running(settings(queues={"jobs": {"max_deliveries": 1}})) as broker:
        _, message_id = await died(broker)
        assert about(broker, message_id) == ["attempt failed", "message died"]
        (failed,) = broker.log.said("attempt failed")
        assert failed == {
            "queue": "jobs", "message_id": message_id, "attempt": 1, "why": "nack",
            "consumer": "worker-a", "reason": "KeyError: 'cat'",
        }  # fmt: skip
        (death,) = broker.log.said("message died")
        assert death == {"queue": "jobs", "message_id": message_id, "to": "jobs.dead"}


async def test_at_debug_a_grep_for_the_id_is_its_trace(autojump_clock):
    quiet = settings(queues={"jobs": {"max_deliveries": 1}}, log_level="debug")
    async with running(quiet) as broker:
        client, message_id = await died(broker)
        assert about(broker, message_id)[:2] == ["accepted", "leased"]
        assert set(about(broker, message_id)) >= {"attempt failed", "message died"}
        assert broker.log.said("accepted")[0]["conn"] == 1
        assert broker.log.said("leased")[0] | {"message_id": ""} == {
            "queue": "jobs", "message_id": "", "conn": 1, "consumer": "worker-a", "attempt": 1,
        }  # fmt: skip
        other = (await client.publish("jobs", SECRET))["message_id"]
        await client.expect("message")
        await client.ask("ack", "acked", tag=2)
        assert about(broker, other) == ["accepted", "leased", "settled"]
        assert not [line for line in broker.log.lines if SECRET in str(line)]


async def test_the_level_changes_with_a_reload(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        assert broker.log.said("accepted") == []
        broker.broker.reload(settings(log_level="debug"))
        await client.publish("jobs", 2)
        assert len(broker.log.said("accepted")) == 1


async def test_a_refused_publish_and_a_refused_frame_are_told_with_their_connection(autojump_clock):
    full = settings(queues={"jobs": {"max_messages": 1, "overflow": "reject"}})
    async with running(full) as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.ask("publish", "error", topic="jobs", mode="queue", message=2)
        (refused,) = broker.log.said("publish refused")
        assert (refused["queue"], refused["conn"], refused["code"]) == ("jobs", 1, "queue_full")
        await client.ask("publish", "error", topic="no good", mode="queue", message=2)
        (frame,) = broker.log.said("frame refused")
        assert (frame["conn"], frame["code"]) == (1, "bad_name")


async def test_a_slow_subscriber_is_told_of_each_time_its_loss_doubles(autojump_clock):
    few = settings(limits={"subscriber_messages": 4})
    async with running(few) as broker:
        client, slow = broker.client(), broker.client(window=10)
        await slow.send(action="hello", name="dashboard")
        await slow.expect("hello")
        await slow.subscribe("prices", mode="pubsub")
        await settled()
        for n in range(40):
            await client.publish("prices", n, mode="pubsub")
        told = broker.log.said("slow subscriber: messages dropped")
        assert (told[0]["conn"], told[0]["client"], told[0]["dropped"]) == (2, "dashboard", 1)
        assert 3 <= len(told) <= 6


async def test_a_lost_connection_is_news_and_one_that_closed_is_not(autojump_clock):
    async with running() as broker:
        broker.client().close()
        await settled()
        silent = broker.client()
        await silent.ask("hello", "hello", heartbeat=1, name="worker-a")
        await trio.sleep(5)
        levels = [(level, fields) for level, event, fields in broker.log.lines
                  if event == "disconnected"]  # fmt: skip
        assert [level for level, _ in levels] == ["debug", "info"]
        assert levels[1][1]["client"] == "worker-a"
        assert "heartbeats" in levels[1][1]["why"]


async def test_a_full_disk_is_told_once_and_its_end_too(autojump_clock):
    async with running() as broker:
        for full in (True, False):
            broker.broker.storekeeper.disk_full = full
            broker.broker.watchdog._tell_of_disk(broker.broker)
            broker.broker.watchdog._tell_of_disk(broker.broker)
        assert [level for level, event, _ in broker.log.lines if event.startswith("disk ")] == [
            "warning", "info",
        ]  # fmt: skip
