"""peek, held, dead letters, taps: looking at messages, and an operator's orders."""

from typing import Any

import msgspec
import pytest

from msg.actors.export import export
from msg.actors.tap import Tap
from msg.core.commands import Question
from msg.core.deep import Packing
from tests.actors.kit import Client, running, settings, settled


async def test_peek_shows_every_state_and_counts_no_attempt(autojump_clock):
    async with running() as broker:
        client, worker = broker.client(), broker.client()
        await worker.subscribe("jobs", name="worker-a")
        for n in range(4):
            await client.publish("jobs", n)
        await client.publish("jobs", "later", delay=60)
        await worker.expect("message", message=0)
        ready = (await client.ask("peek", "peek", topic="jobs"))["messages"]
        assert [m["message"] for m in ready] == [1, 2, 3]
        assert [m["attempt"] for m in ready] == [1, 1, 1]
        every = (await client.ask("peek", "peek", topic="jobs", options={"state": "all"}))[
            "messages"
        ]
        assert [(m["state"], m["message"]) for m in every] == [
            ("ready", 1), ("ready", 2), ("ready", 3), ("leased", 0), ("delayed", "later"),
        ]  # fmt: skip
        assert every[3]["consumer"] == "worker-a"
        assert every[4]["due_s"] == 60.0
        await worker.send(action="ack", tag=1)
        assert (await worker.expect("message"))["attempt"] == 1


async def test_peek_at_any_position(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(20):
            await client.publish("jobs", n)
        page = await client.ask("peek", "peek", topic="jobs", n=3, options={"skip": 7})
        assert [m["message"] for m in page["messages"]] == [7, 8, 9]


async def test_peek_reads_what_is_only_on_disk(autojump_clock):
    async with running() as broker:
        broker.broker.context.services.hot_bytes = 2000
        client = broker.client()
        for n in range(40):
            await client.publish("jobs", {"n": n, "x": "x" * 200})
        await settled()
        ledger = broker.actor("jobs").ledger
        assert len(ledger.ready) < 40
        page = await client.ask("peek", "peek", topic="jobs", n=40)
        assert [m["message"]["n"] for m in page["messages"]] == list(range(40))
        page = await client.ask("peek", "peek", topic="jobs", n=2, options={"skip": 35})
        assert [m["message"]["n"] for m in page["messages"]] == [35, 36]


async def test_a_packed_queue_is_looked_at_as_any_other(autojump_clock):
    async with running() as broker:
        broker.broker.context.services.packing = Packing(run=4, head=2, still=0, above=0)
        client = broker.client()
        ids = [
            (await client.publish("jobs", n, durability="memory"))["message_id"] for n in range(16)
        ]
        estate = broker.actor("jobs").estate
        runs = dict(estate.packed)
        assert len(runs) == 3
        page = await client.ask("peek", "peek", topic="jobs", n=5, options={"skip": 3})
        assert [m["message"] for m in page["messages"]] == [3, 4, 5, 6, 7]
        assert [m["message_id"] for m in page["messages"]] == ids[3:8]
        trace = await client.ask("trace", "trace", topic="jobs", message_id=ids[7])
        assert "It is ready, 7 before it." in str(trace)
        bodies: list[int] = []
        after: int | None = 0
        while after is not None:
            question = Question("export", "jobs", n=3, options={"after": after})
            answer = await export(broker.broker.context, question)
            bodies += [msgspec.json.decode(m)["message"] for m in answer["messages"]]
            after = answer["next"]
        assert bodies == [*range(16)]
        assert estate.packed == runs  # looking opens nothing
        assert (await client.ask("purge", "purge", topic="jobs"))["count"] == 16
        assert estate.kept == {}
        assert estate.packed == {}
        broker.check()
        await client.publish("jobs", "x", durability="memory")
        await client.subscribe("jobs")
        await client.expect("message", message="x")


async def test_peek_cuts_a_long_body_and_says_so(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", "x" * 5000)
        page = await client.ask("peek", "peek", topic="jobs", options={"body_bytes": 100})
        assert page["messages"][0]["cut"]
        assert len(page["messages"][0]["message"]) == 100
        assert page["messages"][0]["topic"] == "jobs"


async def test_held_says_who_since_when_and_until_when(autojump_clock):
    async with running() as broker:
        client, one, two = broker.client(), broker.client(), broker.client()
        await one.subscribe("jobs", name="one")
        await client.publish("jobs", 1)
        await one.expect("message")
        autojump_clock.jump(10)
        await two.subscribe("jobs", name="two", ack_timeout=0)
        await client.publish("jobs", 2)
        await two.expect("message")
        await settled()
        held = (await client.ask("held", "held"))["held"]
        assert [(h["queue"], h["consumer"], h["connection"]) for h in held] == [
            ("jobs", "one", 2), ("jobs", "two", 3),
        ]  # fmt: skip
        assert held[0]["held_s"] == 10.0
        assert held[0]["deadline_s"] == 20.0
        assert held[1]["deadline_s"] is None


async def test_what_was_acked_is_held_no_more_though_its_queue_has_only_noted_that(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs", prefetch=10)
        questions: list[dict[str, Any]] = [
            {"action": "stats"}, {"action": "stats", "topic": "jobs"},
            {"action": "held"}, {"action": "peek", "topic": "jobs", "options": {"state": "leased"}},
            {"action": "declare", "topic": "jobs", "mode": "queue", "passive": True},
        ]  # fmt: skip
        for n, question in enumerate(questions):
            await client.publish("jobs", n, durability="memory")
            tag = (await client.expect("message"))["tag"]
            await client.send(action="ack", tag=tag)
            await settled()
            assert broker.queue("jobs").leased == 1
            answer = await client.ask(**question)
            rows = answer.get("held") or answer.get("messages") or answer.get("queues")
            counts = answer.get("counts") or (rows[0] if rows else {"leased": 0})
            assert counts["leased"] == 0, answer


async def test_a_lone_message_has_its_deadline_though_its_queue_has_not_heard_of_the_write(
    autojump_clock,
):
    async with running() as broker:
        client, worker = broker.client(), broker.client()
        await client.publish("jobs", 1)
        await worker.subscribe("jobs", name="worker-a")
        await worker.expect("message")
        await settled()
        autojump_clock.jump(2)
        (lease,) = (await client.ask("held", "held", topic="jobs"))["held"]
        assert (lease["held_s"], lease["deadline_s"]) == (2.0, 28.0)
        assert "unwritten" not in lease
        seen = await client.ask("peek", "peek", topic="jobs", options={"state": "leased"})
        assert seen["messages"][0]["deadline_s"] == 28.0
        causes = (await client.ask("why", "why", name="jobs"))["subjects"][0]["causes"]
        assert "for 2.0 s, deadline in 28 s." in causes[0]["text"]


async def test_a_touch_does_not_hide_since_when_it_is_held(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs")
        await client.publish("jobs", 1)
        await client.expect("message")
        await settled()
        autojump_clock.jump(20)
        await client.ask("touch", "acked", tag=1)
        held = (await client.ask("held", "held", topic="jobs"))["held"]
        assert held[0]["held_s"] == 20.0
        assert held[0]["deadline_s"] == 30.0


async def die(client: Client, body: Any, reason: str, **fields: Any) -> str:
    """Publish a message to `jobs` (max_deliveries 1, one consumer: this client) and let it die."""
    await client.publish("jobs", body, **fields)
    message = await client.expect("message")
    await client.ask("nack", "acked", tag=message["tag"], reason=reason)
    await settled()
    return str(message["message_id"])


ONE_TRY = settings(queues={"jobs": {"max_deliveries": 1}})


async def test_dead_letters_are_listed_with_their_case_and_filtered(autojump_clock):
    async with running(ONE_TRY) as broker:
        client = broker.client()
        await client.subscribe("jobs", name="worker-a")
        first = await die(client, {"cat": "tom"}, "KeyError: tom")
        await die(client, {"cat": "kit"}, "timeout")
        summary = await client.ask("dead", "dead")
        assert summary["queues"][0] | {"bytes": 0} == {
            "queue": "jobs", "dead_queue": "jobs.dead", "messages": 2, "bytes": 0,
        }  # fmt: skip
        everything = await client.ask("dead", "dead", topic="jobs")
        assert len(everything["messages"]) == 2
        assert everything["messages"][0]["case"]["attempts"][0]["who"] == "worker-a"
        for options in ({"reason": "keyerror"}, {"contains": "tom"}):
            found = await client.ask("dead", "dead", topic="jobs", options=options)
            assert [m["message_id"] for m in found["messages"]] == [first], options
        by = {"consumer": "worker-b"}
        assert (await client.ask("dead", "dead", topic="jobs", options=by))["messages"] == []
        autojump_clock.jump(100)
        ages: list[tuple[dict[str, float], int]] = [({"older_s": 50}, 2), ({"newer_s": 50}, 0)]
        for age, count in ages:
            found = await client.ask("dead", "dead", topic="jobs", options=age)
            assert len(found["messages"]) == count


async def test_dead_letters_are_retried_by_filter(autojump_clock):
    async with running(ONE_TRY) as broker:
        client = broker.client()
        await client.subscribe("jobs")
        await die(client, 1, "KeyError")
        await die(client, 2, "timeout")
        answer = await client.ask(
            "dead", "dead", topic="jobs", options={"do": "retry", "reason": "time"}
        )
        assert answer["count"] == 1
        again = await client.expect("message", message=2)
        assert again["attempt"] == 1
        left = await client.ask("dead", "dead", topic="jobs")
        assert [m["message"] for m in left["messages"]] == [1]


async def test_dead_letters_are_dropped_only_when_it_is_said_which(autojump_clock):
    async with running(ONE_TRY) as broker:
        client = broker.client()
        await client.subscribe("jobs")
        first = await die(client, 1, "KeyError")
        await die(client, 2, "timeout")
        refused = await client.ask("dead", "error", topic="jobs", options={"do": "drop"})
        assert refused["code"] == "bad_field"
        await client.ask("dead", "dead", topic="jobs", message_id=first, options={"do": "drop"})
        left = await client.ask("dead", "dead", topic="jobs")
        assert [m["message"] for m in left["messages"]] == [2]
        await client.ask("dead", "dead", topic="jobs", options={"do": "drop", "all": True})
        assert broker.actor("jobs.dead").ledger.live == 0
        assert broker.actor("jobs.dead").ledger.counts.dropped == 2


async def test_a_dead_letter_is_edited_and_goes_back(autojump_clock):
    async with running(ONE_TRY) as broker:
        client = broker.client()
        await client.subscribe("jobs")
        headers = {"traceparent": "00-ab-cd-01"}
        dead = await die(client, {"cat": None}, "no name", headers=headers)
        options = {"do": "edit", "message": {"cat": "tom", "quote": '","message":"'}}
        await client.ask("dead", "dead", topic="jobs", message_id=dead, options=options)
        again = await client.expect("message", message=options["message"])
        assert (again["message_id"], again["headers"]) == (dead, headers)
        assert "case" not in again


async def test_dead_letters_that_are_only_on_disk_are_dropped_too(autojump_clock):
    async with running(ONE_TRY) as broker:
        broker.broker.context.services.hot_bytes = 2000
        client = broker.client()
        await client.subscribe("jobs")
        for n in range(30):
            await die(client, {"n": n, "x": "x" * 100}, "no")
        await client.ask("dead", "dead", topic="jobs", options={"do": "drop", "all": True})
        await settled()
        assert broker.actor("jobs.dead").ledger.live == 0


async def test_purge_of_a_topic(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(3):
            await client.publish("news", n, mode="pubsub")
        assert (await client.ask("purge", "purge", topic="news", mode="pubsub"))["count"] == 3
        await client.subscribe("news", mode="pubsub")
        await client.silence()


async def test_a_tap_sees_the_life_of_each_message_and_counts_for_nobody(autojump_clock):
    async with running(ONE_TRY) as broker:
        client, looker = broker.client(), broker.client()
        await looker.ask("tap", "tap", topic="jobs", name="t")
        await client.subscribe("jobs", name="worker-a")
        await die(client, "a", "no")
        await client.publish("jobs", "b")
        await client.expect("message")
        await client.ask("ack", "acked", tag=2)
        await settled()
        seen = []
        for _ in range(7):
            frame = await looker.read()
            told = frame["tap"]
            assert told["id"] == "t"
            seen.append((frame["message"], told["event"], told.get("consumer"), told.get("reason")))
        assert seen == [
            ("a", "published", None, None), ("a", "leased", "worker-a", None),
            ("a", "returned", "worker-a", "no"), ("a", "moved", None, None),
            ("b", "published", None, None), ("b", "leased", "worker-a", None),
            ("b", "settled", "worker-a", None),
        ]  # fmt: skip


async def test_a_tap_on_topics_leaves_the_backlog_alone(autojump_clock):
    async with running() as broker:
        client, looker = broker.client(), broker.client()
        await looker.ask("tap", "tap", topic="news.*", options={"of": "topics"})
        await client.publish("news.a", 1, mode="pubsub")
        await looker.expect("message", message=1, topic="news.a")
        await client.subscribe("news.a", mode="pubsub")
        await client.expect("message", message=1)
        await client.publish("news.a", 2, mode="pubsub")
        await looker.expect("message", message=2)
        await looker.silence()


async def test_a_tap_shows_no_more_than_its_rate_and_says_what_it_skipped(autojump_clock):
    async with running() as broker:
        client, looker = broker.client(), broker.client()
        options = {"rate": 5, "events": ["published"]}
        await looker.ask("tap", "tap", topic="jobs", options=options)
        for n in range(20):
            await client.publish("jobs", n)
        assert await looker.messages(5) == [0, 1, 2, 3, 4]
        autojump_clock.jump(1)
        await client.publish("jobs", 20)
        frame = await looker.expect("message", message=20)
        assert frame["tap"]["skipped"] == 15


async def test_taps_end_with_their_connection_or_when_told(autojump_clock):
    async with running() as broker:
        client, looker = broker.client(), broker.client()
        services = broker.broker.context.services
        await looker.ask("tap", "tap", topic="jobs", name="a")
        await looker.ask("tap", "tap", topic="jobs", name="b")
        await looker.ask("tap", "tap", name="a", options={"stop": True})
        assert len([w for w in services.watchers if isinstance(w, Tap)]) == 1
        looker.close()
        await settled()
        await client.publish("jobs", 1)
        assert [w for w in services.watchers if isinstance(w, Tap)] == []


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        ("peek", {"topic": "jobs", "options": {"state": "gone"}}),
        ("peek", {"topic": "jobs", "options": {"skip": -1}}),
        ("peek", {"topic": "jobs", "options": {"skip": "1"}}),
        ("peek", {"topic": "jobs", "cursor": "x"}),
        ("tap", {"topic": "jobs", "options": {"rate": 0}}),
        ("tap", {"topic": "jobs", "options": {"events": ["born"]}}),
        ("tap", {}),
        ("dead", {"topic": "jobs", "options": {"do": "bury"}}),
        ("trace", {}),
        ("tree", {"options": {"expand": [1]}}),
    ],
)
async def test_a_wrong_option_is_a_bad_field(autojump_clock, action, fields):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        assert (await client.ask(action, "error", **fields))["code"] == "bad_field"
