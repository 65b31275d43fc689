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


class Named:
    """A message, as far as these tests look."""

    def __init__(self, message_id: str) -> None:
        self.id = message_id


def test_who_holds_an_id_is_known_however_often_it_is_held(monkeypatch):
    """Against a look at all that is held, whatever comes and goes between two looks."""
    monkeypatch.setattr(ports, "RUNS_MAX", 4)
    rng = random.Random(2)
    counts = [0, 0, 0]
    for _ in range(60):
        tags: Any = Tags()
        all_ports: list[Any] = [Held() for _ in range(rng.choice([1, 3]))]
        names = [f"m{n}" for n in range(rng.choice([3, 30]))]
        for step in range(100):
            port = rng.choice(all_ports)
            match rng.choice(["hold", "hold", "let go", "take", "look"] if step else ["look"]):
                case "hold":
                    messages = [Named(rng.choice(names)) for _ in range(rng.randint(1, 4))]
                    first = tags.give(port, len(messages))
                    port.held.update(zip(range(first, tags.next), messages, strict=True))
                    tags.hold(messages, first)
                case "let go":
                    gone = rng.sample(list(port.held), min(len(port.held), 2))
                    tags.let_go([port.held.pop(tag) for tag in gone])
                case "take" if len(all_ports) == 1:
                    wanted = rng.sample(names, 2)
                    held = [m.id for m in port.held.values()]
                    taken = tags.take_ids(wanted, port)
                    once = [held.count(name) for name in wanted] == [1, 1]
                    if taken is not None:
                        assert once
                        assert [m.id for m in taken] == wanted
                    else:
                        assert not once or tags._several  # one by one then
                    left = [m.id for m in port.held.values()]
                    assert sorted(left) == sorted([n for n in held if not taken or n not in wanted])
                case _:
                    name = rng.choice(names)
                    holders = [(p, t) for p in all_ports for t, m in p.held.items() if m.id == name]
                    assert sorted(tags.holders(name, all_ports), key=lambda h: h[1]) == sorted(
                        holders, key=lambda h: h[1]
                    )
                    counts[min(len(holders), 2)] += 1
            everybody = [m.id for p in all_ports for m in p.held.values()]
            assert tags._ids is None or {*tags._ids} == {*everybody}
            assert all(everybody.count(name) == n for name, n in tags._several.items())
    assert min(counts) > 100


async def test_an_id_in_several_queues_is_ambiguous_until_one_is_left(autojump_clock):
    async with running() as broker:
        publisher, client = broker.client(), broker.client()
        for name in ("one", "two", "three"):
            await client.subscribe(name, prefetch=9)
            await publisher.publish(name, 1, message_id="same")
            await publisher.publish(name, 2, message_id=name)
            await client.messages(2)
        answer = await client.ask("ack", message_ids=["same", "one", "none"])
        assert answer["failed"] == [
            {"message_id": "same", "code": "ambiguous"}, {"message_id": "none", "code": "not_held"},
        ]  # fmt: skip
        await publisher.ask("delete", "delete", topic="three", mode="queue")
        await client.expect("unsubscribed", topic="three")
        assert (await client.ask("ack", message_id="three"))["failed"][0]["code"] == "not_held"
        assert (await client.ask("ack", message_id="same"))["failed"][0]["code"] == "ambiguous"
        assert (await client.ask("ack", tag=1))["count"] == 1
        assert (await client.ask("ack", message_ids=["same", "two"]))["count"] == 2
        assert (await client.ask("ack", message_id="same"))["failed"][0]["code"] == "not_held"
        broker.check()


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
