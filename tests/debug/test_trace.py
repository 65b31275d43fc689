"""`trace`: the life of one message, from memory and from the records on disk."""

from typing import Any

import trio

from tests.actors.kit import Client, SimWorld, running, settings, settled


async def trace(client: Client, message_id: str, **fields: Any) -> dict[str, Any]:
    return await client.ask("trace", "trace", message_id=message_id, **fields)


def told(place: dict[str, Any]) -> list[str]:
    return [event["what"] for event in place["events"]]


async def test_a_message_in_a_consumers_hands(autojump_clock):
    async with running() as broker:
        client, worker = broker.client(), broker.client()
        await worker.subscribe("jobs", name="worker-a")
        message_id = (await client.publish("jobs", 1))["message_id"]
        await worker.expect("message")
        await settled()
        place = (await trace(client, message_id))["places"][0]
        assert (place["name"], place["seq"], place["state"]) == ("jobs", 1, "leased")
        assert told(place) == ["accepted", "stored", "leased"]
        assert (
            place["now"]
            == 'It is leased by "worker-a" (connection 2), attempt 1, deadline in 30 s.'
        )
        assert place["unknown"] == []


async def test_acked_and_who_did_it(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs", name="worker-a")
        message_id = (await client.publish("jobs", 1))["message_id"]
        await client.expect("message")
        await client.ask("ack", "acked", tag=1)
        place = (await trace(client, message_id))["places"][0]
        assert place["state"] == "settled"
        assert told(place) == ["accepted", "stored", "leased", "settled"]
        assert place["now"].startswith('It was acked by "worker-a" at ')


async def test_nacked_and_waiting_for_the_next_attempt(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs", name="worker-a")
        message_id = (await client.publish("jobs", 1))["message_id"]
        await client.expect("message")
        await client.ask("nack", "acked", tag=1, reason="no such cat", delay=60)
        place = (await trace(client, message_id))["places"][0]
        assert place["state"] == "delayed"
        assert told(place) == ["accepted", "stored", "leased", "returned"]
        assert place["events"][3]["text"] == 'attempt 1 by "worker-a" was nacked: no such cat'
        assert "60 s from now" in place["now"]


async def test_after_its_death_and_a_restart(autojump_clock):
    """The origin's records and the dead letter's own case tell it, though memory is gone."""
    disk = SimWorld().disk
    one_try = settings(queues={"jobs": {"max_deliveries": 1}}, drain_seconds=0.0)
    async with running(one_try, disk=disk) as broker:
        client = broker.client()
        await client.publish("jobs", 0)
        message_id = (await client.publish("jobs", 1))["message_id"]
        await client.subscribe("jobs", name="worker-a")
        await client.expect("message", message=0)
        await client.ask("ack", "acked", tag=1)
        await client.expect("message", message=1)
        await client.ask("nack", "acked", tag=2, reason="no such cat")
        await settled()
    async with running(one_try, disk=disk) as broker:
        answer = await trace(broker.client(), message_id)
    jobs, dead = answer["places"]
    assert jobs["state"] == "dead"
    assert jobs["now"].startswith('It died, and went to queue "jobs.dead": 1 failed attempts')
    assert told(jobs) == ["accepted", "stored", "returned", "dead"]
    assert "First leases are not written to disk" in jobs["unknown"][0]
    assert dead["name"] == "jobs.dead"
    assert dead["state"] == "ready"
    assert told(dead) == ["accepted", "moved_in"]


async def test_acked_before_a_restart_lies_between_its_neighbours(autojump_clock):
    disk = SimWorld().disk
    async with running(disk=disk) as broker:
        client = broker.client()
        await client.subscribe("jobs", prefetch=1)
        message_id = (await client.publish("jobs", 1))["message_id"]
        await client.expect("message")
        autojump_clock.jump(5)
        await client.ask("ack", "acked", tag=1)
        autojump_clock.jump(5)
        await client.publish("jobs", 2)
    async with running(disk=disk) as broker:
        place = (await trace(broker.client(), message_id))["places"][0]
    assert place["state"] == "settled"
    assert "by whom is not known any more" in place["now"]
    settled_ = place["events"][-1]
    assert settled_["after"] < settled_["before"]
    assert settled_["at"] is None


async def test_an_id_of_the_clients_own_with_quotes_in_it(autojump_clock):
    async with running() as broker:
        client = broker.client()
        message_id = 'a "quoted" id \\ with a slash'
        await client.publish("jobs", message_id, message_id=message_id)
        await client.publish("jobs", {"message_id": message_id}, message_id="another")
        await client.ask("get", "got", topic="jobs", n=2)
        answer = await trace(client, message_id)
        assert [place["seq"] for place in answer["places"]] == [1]


async def test_two_queues_with_the_same_id(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("one", 1, message_id="x")
        await client.publish("two", 2, message_id="x")
        answer = await trace(client, "x", options={"body": True})
        assert [place["name"] for place in answer["places"]] == ["one", "two"]
        assert answer["message"]["message"] == 1
        assert [p["name"] for p in (await trace(client, "x", topic="two"))["places"]] == ["two"]


async def test_expired_and_purged_messages_say_so(autojump_clock):
    async with running() as broker:
        client = broker.client()
        gone = (await client.publish("jobs", 1))["message_id"]
        await client.ask("purge", "purge", topic="jobs")
        late = (await client.publish("jobs", 2, ttl=1))["message_id"]
        autojump_clock.jump(2)
        await client.ask("get", "got", topic="jobs")
        await settled()
        assert "ask again" in (await trace(client, late))["places"][0]["now"]
        await trio.sleep(1)  # records that nobody waits for are written a moment later
        assert "purged" in (await trace(client, gone))["places"][0]["now"]
        assert "expired" in (await trace(client, late))["places"][0]["now"]


async def test_in_a_topic_and_its_group(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("news.*", mode="pubsub", group="mail")
        message_id = (await client.publish("news.a", 1, mode="pubsub"))["message_id"]
        await client.expect("message")
        place = (await trace(client, message_id))["places"][0]
        assert (place["name"], place["state"]) == ("news.*@mail", "leased")


async def test_kept_in_a_topic(autojump_clock):
    async with running() as broker:
        client = broker.client()
        message_id = (await client.publish("news", 1, mode="pubsub"))["message_id"]
        place = (await trace(client, message_id))["places"][0]
        assert (place["kind"], place["state"]) == ("topic", "kept")
        assert "Which live subscribers had it is not recorded" in place["unknown"][0]


async def test_an_unknown_id_says_what_that_can_mean(autojump_clock):
    world = SimWorld()
    async with running(world=world) as broker:
        client = broker.client()
        known = (await client.publish("jobs", 1, durability="memory"))["message_id"]
        await client.ask("get", "got", topic="jobs")
        await client.ask("ack", "acked", tag=1)
        answer = await trace(client, known)
        assert not answer["found"]
        assert any("durability memory" in text for text in answer["unknown"])
        assert answer["unknown"][0].startswith("Its id says that this broker's kind made it at ")


async def test_a_search_has_a_budget_and_says_what_it_left_out(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", "x" * 2000)
        answer = await trace(client, "nobody", options={"bytes": 100})
        assert not answer["found"]
        assert "of older records were not searched" in answer["unknown"][-1]


async def test_a_dead_letter_that_was_sent_back_has_three_places(autojump_clock):
    one_try = settings(queues={"jobs": {"max_deliveries": 1}})
    async with running(one_try) as broker:
        client = broker.client()
        message_id = (await client.publish("jobs", 1))["message_id"]
        await client.subscribe("jobs", name="worker-a")
        await client.expect("message")
        await client.ask("nack", "acked", tag=1, reason="Traceback\n  …\nKeyError: 'cat'\n")
        await settled()
        await client.ask("dead", "dead", topic="jobs", options={"do": "retry"})
        await client.expect("message")
        await settled()
        places = (await trace(client, message_id))["places"]
        assert [(p["name"], p["seq"], p["state"]) for p in places] == [
            ("jobs", 1, "dead"), ("jobs.dead", 1, "moved"), ("jobs", 2, "leased"),
        ]  # fmt: skip
        assert (
            places[0]["events"][3]["text"]
            == "attempt 1 by \"worker-a\" was nacked: KeyError: 'cat'"
        )
        assert told(places[2]) == ["accepted", "moved_in", "leased"]
        assert places[1]["now"] == 'It went back to queue "jobs": retried.'


async def test_a_dead_letters_case_tells_what_the_queues_records_no_longer_do(autojump_clock):
    one_try = settings(queues={"jobs": {"max_deliveries": 1}})
    async with running(one_try) as broker:
        client = broker.client()
        message_id = (await client.publish("jobs", 1))["message_id"]
        await client.subscribe("jobs", name="worker-a")
        await client.expect("message")
        await client.ask("nack", "acked", tag=1, reason="no")
        await client.ask("delete", "delete", topic="jobs")
        places = (await trace(client, message_id))["places"]
        assert [p["name"] for p in places] == ["jobs.dead"]
        assert told(places[0]) == ["accepted", "failed_before", "moved_in"]
