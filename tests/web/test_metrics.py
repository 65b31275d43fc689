"""/metrics: right, by Prometheus' own parser; never falling; bounded."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

import msg.metrics as module
from tests.actors.kit import SimWorld, running, settled
from tests.web.kit import Site

DEPLOY = Path(__file__).parents[2] / "docs" / "howto" / "deploy.md"


async def scraped(site: Site) -> dict[tuple[str, str], float]:
    """(sample, its label's value or "") -> value."""
    answer = await site.get("/metrics")
    assert answer.status == 200
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation, family.name
        for sample in family.samples:
            assert len(sample.labels) <= 1 or family.name == "msg_build_info", sample
            key = (sample.name, next(iter(sample.labels.values()), ""))
            assert key not in found or family.name == "msg_build_info", sample
            found[key] = sample.value
    return found


async def test_figures_of_queues_topics_and_the_broker(autojump_clock):
    async with running() as broker:
        site, client, worker = Site(broker), broker.client(), broker.client()
        await client.ask("declare", topic="jobs", mode="queue", settings={"max_deliveries": 1})
        for n in range(3):
            await client.publish("jobs", n, message_id=f"m{n}")
        await client.publish("jobs", 0, message_id="m0")
        await client.publish("news", 1, mode="pubsub")
        await worker.subscribe("jobs")
        tag = (await worker.expect("message"))["tag"]
        await worker.send(action="nack", tag=tag)
        await worker.expect("message")
        await settled()
        found = await scraped(site)
        assert found["msg_accepted_total", "jobs"] == 3
        assert found["msg_duplicates_total", "jobs"] == 1
        assert found["msg_delivered_total", "jobs"] == 2
        assert found["msg_dead_lettered_total", "jobs"] == 1
        assert found["msg_queue_ready", "jobs"] == 1
        assert found["msg_queue_leased", "jobs"] == 1
        assert found["msg_queue_dead", "jobs"] == 1
        assert found["msg_queue_consumers", "jobs"] == 1
        assert found["msg_published_total", "news"] == 1
        assert found["msg_topic_kept", "news"] == 1
        assert found["msg_connections", ""] == 2
        assert found["msg_slow_dropped_total", ""] == 0
        assert found["msg_store_commit_seconds_count", ""] > 0
        assert ("msg_accepted_total", "jobs.dead") not in found


async def test_the_docs_name_figures_that_are_there(autojump_clock):
    async with running() as broker:
        await broker.client().publish("jobs", 1)
        found = {name for name, _ in await scraped(Site(broker))}
        named = set(re.findall(r"msg_[a-z_]+", DEPLOY.read_text()))
        assert len(named) > 5
        assert [n for n in named if n not in found and f"{n}_count" not in found] == []


async def test_totals_never_fall_not_even_when_a_queue_is_deleted(autojump_clock):
    async with running() as broker:
        site, client = Site(broker), broker.client()
        for _ in range(5):
            await client.publish("gone", 1)
        before = await scraped(site)
        assert before["msg_accepted_total", "gone"] == 5
        await client.ask("delete", topic="gone", mode="queue")
        after = await scraped(site)
        assert after["msg_accepted_total", "other"] == 5
        assert ("msg_accepted_total", "gone") not in after
        await client.publish("gone", 1)
        again = await scraped(site)
        assert (again["msg_accepted_total", "gone"], again["msg_accepted_total", "other"]) == (1, 5)


async def test_a_backlog_that_is_found_at_the_start_is_not_accepted_anew(autojump_clock):
    world = SimWorld()
    async with running(world=world) as broker:
        for n in range(5):
            await broker.client().publish("jobs", n)
        assert (await scraped(Site(broker)))["msg_accepted_total", "jobs"] == 5
    async with running(world=world) as broker:
        site = Site(broker)
        found = await scraped(site)
        assert (found["msg_accepted_total", "jobs"], found["msg_queue_ready", "jobs"]) == (0, 5)
        await broker.client().publish("jobs", 5)
        assert (await scraped(site))["msg_accepted_total", "jobs"] == 1


async def test_labels_are_bounded(autojump_clock, monkeypatch):
    monkeypatch.setattr(module, "DESTINATIONS_MAX", 10)
    async with running() as broker:
        site, client = Site(broker), broker.client()
        for n in range(30):
            await client.publish(f"q{n:02}", 1)
            await client.publish(f"t{n:02}", 1, mode="pubsub")
        found = await scraped(site)
        for name in (
            "msg_accepted_total",
            "msg_queue_ready",
            "msg_published_total",
            "msg_topic_kept",
        ):
            values = {label: value for (sample, label), value in found.items() if sample == name}
            assert len(values) == 11, name
            assert values["other"] == 20
            assert sum(values.values()) == 30


async def test_totals_never_fall_when_there_are_more_than_labels(autojump_clock, monkeypatch):
    """A queue that goes, or comes, moves no other one from a label to another."""
    monkeypatch.setattr(module, "DESTINATIONS_MAX", 2)
    async with running() as broker:
        site, client, worker = Site(broker), broker.client(), broker.client()
        await client.ask("declare", topic="a", mode="queue", settings={"max_deliveries": 1})
        for name, messages in (("a", 1), ("b", 2), ("c", 50)):
            for _ in range(messages):
                await client.publish(name, 1)
        await worker.subscribe("a")
        await worker.send(action="nack", tag=(await worker.expect("message"))["tag"])
        await settled()

        async def accepted() -> dict[str, float]:
            found = await scraped(site)
            return {label: n for (name, label), n in found.items() if name == "msg_accepted_total"}

        assert await accepted() == {"a": 1, "b": 2, "other": 50}
        await client.publish("0", 1)
        assert await accepted() == {"a": 1, "b": 2, "other": 51}
        await client.ask("delete", topic="a", mode="queue")
        assert await accepted() == {"b": 2, "other": 52}
        await client.ask("delete", topic="a.dead", mode="queue")  # it was counted as nobody's
        assert await accepted() == {"b": 2, "other": 52}
        await client.publish("d", 1)
        assert await accepted() == {"b": 2, "d": 1, "other": 52}


async def test_a_scrape_of_many_gives_others_their_turn(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(module.SLICE * 3):
            await client.publish(f"q{n}", 1, durability="memory")
        metrics = Site(broker).web.metrics
        assert len(list(metrics.readings())) >= 3
