"""Whose a tag is, on connections with many subscriptions."""

import random
from typing import Any

from msg.actors import ports
from msg.actors.ports import Tags
from tests.actors.kit import running


class Held:
    """A port that holds tags."""

    def __init__(self) -> None:
        self.held: dict[int, None] = {}


def test_the_holder_is_who_holds_it_or_nobody_knows(monkeypatch):
    monkeypatch.setattr(ports, "RUNS_MAX", 8)
    rng = random.Random(1)
    tags, all_ports = Tags(), [Held() for _ in range(5)]
    found = recent = 0
    for _ in range(2000):
        port: Any = rng.choice(all_ports)
        count = rng.randint(1, 3)
        first = tags.give(port, count)
        port.held.update(dict.fromkeys(range(first, first + count)))
        tag = rng.randint(max(0, tags.next - 15), tags.next + 2)
        holder = tags.holder(tag)
        holders = [each for each in all_ports if tag in each.held]
        assert holder is None or [holder] == holders
        if tag > tags.next - 4 and holders:  # in one of the last four runs
            recent += 1
            assert [holder] == holders
        if holder is not None:
            found += 1
            del holders[0].held[tag]
    assert found > 800
    assert recent > 200


def test_what_is_remembered_is_bounded_and_nothing_for_one_port():
    tags, one, other = Tags(), Held(), Held()
    for _ in range(10 * ports.RUNS_MAX):
        tags.give(one, 1)  # type: ignore[arg-type]
    assert tags._firsts == [1]
    for _ in range(10 * ports.RUNS_MAX):
        tags.give(one, 1)  # type: ignore[arg-type]
        tags.give(other, 1)  # type: ignore[arg-type]
        assert len(tags._firsts) <= ports.RUNS_MAX


def test_nothing_is_known_of_what_was_forgotten():
    tags, port = Tags(), Held()
    port.held[tags.give(port, 1)] = None  # type: ignore[arg-type]
    tags.forget()
    assert tags.holder(1) is None
    assert tags.give(port, 1) == 2  # type: ignore[arg-type]


async def test_acks_in_any_order_on_many_subscriptions(autojump_clock, monkeypatch):
    """Also of what was delivered so long ago that it must be searched."""
    monkeypatch.setattr(ports, "RUNS_MAX", 16)
    async with running() as broker:
        publisher, client = broker.client(), broker.client()
        names = [f"jobs.{n}" for n in range(20)]
        for name in names:
            await client.subscribe(name, prefetch=100)
        for n in range(5):
            for name in names:
                await publisher.publish(name, n)
        tags = [(await client.expect("message"))["tag"] for _ in range(100)]
        assert tags == list(range(1, 101))
        broker.world.rng.shuffle(tags)
        await client.send_all(*({"action": "ack", "tag": tag} for tag in tags[:60]))
        for tag in tags[60:]:
            await client.send(action="ack", tag=tag)
        await client.ask("ping", "pong")
        assert (await client.ask("ack", tag=1))["failed"] == [{"tag": 1, "code": "not_held"}]
        client.close()
        await publisher.silence(1)
        for name in names:
            await publisher.subscribe(name)
        await publisher.silence(1)  # nothing came back: all were acked
        broker.check()


async def test_a_queue_that_is_deleted_holds_nothing(autojump_clock):
    async with running() as broker:
        publisher, client = broker.client(), broker.client()
        for name in ("one", "two"):
            await client.subscribe(name)
            await publisher.publish(name, 1)
            await client.expect("message")
        await publisher.ask("delete", "delete", topic="one", mode="queue")
        await client.expect("unsubscribed", topic="one")
        await client.send_all({"action": "ack", "tag": 1}, {"action": "ack", "tag": 2})
        error = await client.expect("error", code="not_held")
        assert "tag 1" in error["error"]
        assert (await client.ask("ack", tag=2))["failed"][0]["code"] == "not_held"  # acked
        broker.check()
