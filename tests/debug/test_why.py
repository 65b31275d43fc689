"""`why`: for each way to stand still, one sentence that says so, and what to do."""

from typing import Any

import pytest

from tests.actors.kit import Client, running, settings, settled


async def causes(client: Client, name: str | None = None) -> dict[str, dict[str, Any]]:
    """The causes of the first subject, by code."""
    answer = await client.ask("why", "why", **({"name": name} if name else {}))
    return {cause["code"]: cause for cause in answer["subjects"][0]["causes"]}


async def test_no_consumers(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.publish("jobs", 2)
        found = await causes(client, "jobs")
        assert found["no_consumers"]["level"] == "stuck"
        assert found["no_consumers"]["text"] == "No consumer is attached; 2 messages wait."
        assert "trio-msg work jobs" in found["no_consumers"]["do"]


@pytest.mark.parametrize(
    "name", ["\N{RIGHT-TO-LEFT OVERRIDE}evil", f"{'n' * 128}@{'g' * 128}", f"{'n' * 128}.dead"]
)
async def test_whatever_may_be_a_name_may_be_asked_about(autojump_clock, name):
    async with running() as broker:
        client = broker.client()
        if "@" in name:
            await client.ask("declare", "declared", topic=name, mode="pubsub")
        else:
            queue = name.removesuffix(".dead")
            await client.ask("declare", topic=queue, mode="queue", settings={"max_deliveries": 1})
            await client.publish(queue, 1)
            await client.subscribe(queue)
            await client.send(action="nack", tag=(await client.expect("message"))["tag"])
            await settled()
        why = await client.ask("why", "why", name=name)
        assert [subject["name"] for subject in why["subjects"]] == [name]
        refused = await client.ask("why", "error", name="a\x00b")
        assert refused["code"] == "bad_name"


async def test_all_consumers_at_their_prefetch_and_who_holds_the_head(autojump_clock):
    async with running() as broker:
        publisher, slow = broker.client(), broker.client()
        await slow.send(action="hello", name="worker-a")
        await slow.expect("hello")
        await slow.subscribe("jobs", prefetch=2)
        for n in range(5):
            await publisher.publish("jobs", n)
        await slow.messages(2)
        await settled()
        autojump_clock.jump(20)
        found = await causes(publisher, "jobs")
        assert found["at_prefetch"]["text"] == (
            "The only consumer is at the prefetch: 2 messages held unsettled, 3 messages wait."
        )
        assert '"worker-a" (connection 2) for 20 s, deadline in 10 s' in found["leased"]["text"]
        assert found["leased"]["level"] == "slow"


async def test_paused_says_how_to_go_on(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.ask("pause", "pause", topic="jobs")
        found = await causes(client, "jobs")
        assert found["paused"]["level"] == "stuck"
        assert found["paused"]["do"] == "`trio-msg resume jobs`"
        await client.ask("resume", "resume", topic="jobs")
        assert "paused" not in await causes(client, "jobs")


async def test_delayed_messages_and_the_next_one_due(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(3):
            await client.publish("jobs", n, delay=60 * (n + 1))
        text = (await causes(client, "jobs"))["delayed"]["text"]
        assert text.startswith("3 messages are delayed; the next is due at ")
        assert text.endswith("Z, in 60 s.")


async def test_a_queue_over_its_limit_says_what_happens_to_publishes(autojump_clock):
    async with running(settings(queues={"jobs": {"max_messages": 2}})) as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.publish("jobs", 2)
        await client.send(action="publish", topic="jobs", mode="queue", message=3)
        await client.expect("error", code="queue_full")
        found = await causes(client, "jobs")
        assert found["over_limit"]["level"] == "stuck"
        assert found["over_limit"]["text"] == (
            "It is at its limit max_messages (2) with 2 messages: publishes are refused, 1 so far."
        )


async def test_a_hung_consumer_is_named(autojump_clock):
    async with running() as broker:
        client, hung = broker.client(), broker.client()
        await hung.subscribe("jobs", ack_timeout=5, name="sleepy")
        await client.publish("jobs", 1)
        await client.publish("jobs", 2)
        await hung.messages(1)
        await client.silence(6)
        found = await causes(client, "jobs")
        assert found["consumer_hung"]["level"] == "stuck"
        assert found["consumer_hung"]["text"].startswith('"sleepy" (connection 2) let a lease')


async def test_a_stalled_disk(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        await client.publish("jobs", 1)
        broker.world.hold_disk()
        await client.send(action="publish", topic="jobs", mode="queue", message=2)
        await settled()
        autojump_clock.jump(7)
        found = await causes(other, "jobs")
        assert found["disk_slow"]["level"] == "stuck"
        assert "for 7.0 s; 1 publish wait" in found["disk_slow"]["text"]
        everything = await other.ask("why", "why")
        assert [s["name"] for s in everything["subjects"]] == ["broker", "jobs"]
        assert everything["subjects"][0]["causes"][0]["code"] == "disk_slow"
        broker.world.free_disk()
        await client.expect("ack")


async def test_dead_letters_are_worth_a_note(autojump_clock):
    async with running(settings(queues={"jobs": {"max_deliveries": 1}})) as broker:
        client = broker.client()
        await client.subscribe("jobs")
        await client.publish("jobs", 1)
        await client.expect("message")
        await client.ask("nack", "acked", tag=1, reason="no such cat")
        found = await causes(client, "jobs")
        assert found["has_dead_letters"]["text"] == '1 message has died here: see "jobs.dead".'
        dead = await causes(client, "jobs.dead")
        assert dead["dead_letters"]["level"] == "note"


async def test_a_topic_nobody_listens_to(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("news", 1, mode="pubsub")
        found = await causes(client, "news")
        assert found["nobody_listens"]["text"].startswith(
            "Nobody listens: no subscription and no group matches it; 1 message is kept (at most"
        )


async def test_a_slow_subscriber_is_named_with_what_it_lost(autojump_clock):
    limits = {"subscriber_messages": 10}
    async with running(settings(limits=limits)) as broker:
        publisher, slow = broker.client(), broker.client(window=64)
        await slow.subscribe("news", mode="pubsub")
        for _ in range(50):
            await publisher.publish("news", "x" * 100, mode="pubsub")
        found = await causes(publisher, "news")
        assert found["slow_subscriber"]["level"] == "slow"
        assert "connection 2: " in found["slow_subscriber"]["text"]
        about = await causes(publisher, "2")
        assert about["dropped"]["text"].startswith('It is a slow subscriber of "news": ')
        while len(slow.seen) < 11:  # it reads what is left
            await slow.read()
        await settled()
        found = await causes(publisher, "news")
        assert (
            found["was_slow"]["text"] == "1 subscriber has lost messages before, and keeps up now."
        )
        about = await causes(publisher, "2")
        assert (about["dropped"]["level"], "keeps up now" in about["dropped"]["text"]) == (
            "note",
            True,
        )


async def test_among_many_troubles_the_worst_are_named_and_the_rest_counted(autojump_clock):
    async with running() as broker:
        client, deaf = broker.client(), broker.client(window=64)
        await deaf.subscribe("jobs", prefetch=100)
        for _ in range(10):
            await client.publish("jobs", "x" * 100)
        for n in range(250):
            await client.publish(f"q{n}", n)
            await client.ask("pause", topic=f"q{n}")
        autojump_clock.jump(12)
        subjects = (await client.ask("why", "why"))["subjects"]
        assert len(subjects) == 201
        levels = [subject["level"] for subject in subjects[1:]]
        assert levels == sorted(levels, key=["stuck", "slow"].index)
        (more,) = [c for c in subjects[0]["causes"] if c["code"] == "more"]
        assert more["text"].startswith("51 more queues, topics and connections")
        assert "connection" in [subject["kind"] for subject in subjects]
        deaf.reset()


async def test_a_client_that_takes_no_bytes(autojump_clock):
    async with running() as broker:
        client, deaf = broker.client(), broker.client(window=64)
        await deaf.subscribe("jobs", prefetch=100)
        for _ in range(10):
            await client.publish("jobs", "x" * 100)
        await settled()
        autojump_clock.jump(12)
        found = await causes(client, "connection 2")
        assert "taken no bytes for 12 s" in found["takes_no_bytes"]["text"]
        deaf.reset()


async def test_everything_well_is_one_subject_without_causes(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs")
        answer = await client.ask("why", "why")
        assert answer["subjects"] == [
            {"kind": "broker", "name": "broker", "level": "ok", "causes": []}
        ]


async def test_a_name_that_is_not_there(autojump_clock):
    async with running() as broker:
        answer = await broker.client().ask("why", "error", name="nothing")
        assert answer["code"] == "not_found"
        assert "`trio-msg queues`" in answer["error"]


async def test_a_crashed_queue_says_so_and_a_failed_one_what_to_do(autojump_clock, monkeypatch):
    from msg.core.ledger import QueueLedger

    def broken(self, *args):
        raise RuntimeError("a bug")

    errors = ("actor crashed", "actor failed")
    async with running(errors=errors) as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        with monkeypatch.context() as patch:
            patch.setattr(QueueLedger, "publish", broken)
            await client.send(action="publish", topic="jobs", mode="queue", message=2)
            await client.expect("error", code="internal")
        found = await causes(client, "jobs")
        assert "crashed 1 time" in found["restarted"]["text"]
        assert "RuntimeError: a bug" in found["restarted"]["text"]
        with monkeypatch.context() as patch:
            patch.setattr(QueueLedger, "dispatch", broken)
            await client.send(action="publish", topic="jobs", mode="queue", message=3)
            await client.expect("error")
        found = await causes(client, "jobs")
        assert found["failed"]["level"] == "stuck"
        assert "safe on disk" in found["failed"]["text"]


async def test_a_connection_is_found_by_the_name_that_its_consumer_is_held_under(autojump_clock):
    """`held` says worker-a, which is the subscription's name and not the client's."""
    async with running() as broker:
        client, worker = broker.client(), broker.client()
        await worker.subscribe("jobs", name="worker-a", prefetch=1)
        await client.publish("jobs", 1)
        await client.publish("jobs", 2)
        await worker.messages(1)
        await settled()
        subjects = (await client.ask("why", "why", name="worker-a"))["subjects"]
        assert [(s["kind"], s["name"], s["client"]) for s in subjects] == [
            ("connection", "2", "worker-a")
        ]
        assert subjects[0]["causes"][0]["code"] == "at_prefetch"
        tree = (await client.ask("tree", "tree"))["actors"]
        assert next(r for r in tree if r["name"] == "connection 2")["client"] == "worker-a"
