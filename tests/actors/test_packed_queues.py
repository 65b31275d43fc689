"""A queue whose line is packed is, to everybody outside, as one whose line never is.

The same clients do the same to two brokers, of which one packs as early as it can. All that
comes out of both must be equal. Where something differs, the first difference is shown.

`python -m tests.actors.test_packed_queues SECONDS [SEED]` goes on for so long.
"""

import random
import sys
import time
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from msg.core.deep import Packing
from msg.core.names import dead_name
from msg.scenario.world import deterministic_scheduling
from tests.actors.kit import Client, Frame, Running, SimWorld, running, settings, settled

NEVER = Packing(still=1 << 40, above=1 << 40)
EARLY = [
    Packing(run=2, head=1, still=0, above=0),
    Packing(run=3, head=2, still=0, above=0),
    Packing(run=8, head=4, still=0, above=4),
    Packing(run=4, head=3, still=6, above=9),
]
QUEUES = ["jobs", "mail"]
BODIES: list[Any] = [
    None, 17, "x", "\x01", 'a"b\\', "é", "\n", [1, {"a": "b"}], '","message":', "y" * 300, "z" * 5000,
]  # fmt: skip


@attrs.define(eq=False)
class Actor:
    """One client, and what it knows of what it holds."""

    client: Client
    held: list[int] = attrs.field(factory=list)
    ids: list[str] = attrs.field(factory=list)
    gone: bool = False
    n: int = 0


class Play:
    """One seed's story with one broker; `told` is all that came out."""

    def __init__(self, seed: int, broker: Running) -> None:
        self.rng = random.Random(seed)
        self.broker = broker
        self.told: list[tuple[int, Any]] = []
        self.actors = [Actor(broker.client()) for _ in range(4)]
        self.ids: list[str] = ["a"]
        self.count = 0
        self.packed = 0

    async def run(self, steps: int) -> None:
        rng = self.rng
        for name in QUEUES:
            await self.say(0, action="declare", topic=name, mode="queue", settings=self.settings())
        for _ in range(steps):
            await self.step()
            await self.hear()
            for name in QUEUES:
                queue = self.broker.broker.directory.queues.get(name)
                if queue is not None and queue.actor is not None:
                    self.packed += len(queue.actor.estate.packed)
        for name in QUEUES:  # and all that is left, in order
            await self.say(0, action="resume", topic=name, id="end")
            await self.say(0, action="get", topic=name, n=1000, id="rest")
            await self.hear()
            await self.say(0, action="peek", topic=name, n=1000, id="look",
                           options={"state": "all"})  # fmt: skip
            await self.say(0, action="dead", topic=name, id="dead", n=1000)
            await self.hear()
        assert rng is self.rng

    def settings(self) -> dict[str, Any]:
        rng = self.rng
        out: dict[str, Any] = {
            "durability": rng.choice(["memory", "memory", "memory", "stored"]),
            "max_deliveries": rng.choice([0, 1, 2]),
            "backoff": rng.choice([[0], [0, 3], [2]]),
            "dead_letter_expired": rng.choice([True, False]),
            "dedup_window": rng.choice([5, 120]),
        }
        limit = rng.choice(["messages", "bytes", "memory", "", "", ""])
        if limit:
            out["overflow"] = rng.choice(["reject", "block", "drop_oldest"])
        if limit == "messages":
            out["max_messages"] = 15
        elif limit == "bytes":
            out["max_bytes"] = 4000
        elif limit == "memory":
            out["max_memory_bytes"] = 4000
        return out

    async def step(self) -> None:
        rng = self.rng
        who = rng.randrange(len(self.actors))
        queue = rng.choice(["jobs", "jobs", "jobs", "mail"])
        step = rng.choice(STEPS)
        if step in ("get", "peek", "subscribe", "order") and rng.random() < 0.15:
            queue = dead_name(queue)
        match step:
            case "publish":
                await self.publish(who, queue)
            case "subscribe":
                await self.say(who, action="subscribe", topic=queue, mode="queue",
                               prefetch=rng.choice([1, 2, 5]),
                               ack_timeout=rng.choice([0, 5, 30]),
                               ack=rng.choice(["manual", "manual", "auto"]))  # fmt: skip
            case "unsubscribe":
                await self.say(who, action="unsubscribe", topic=queue, mode="queue")
            case "get":
                await self.say(who, action="get", topic=queue, n=rng.choice([1, 2, 7]),
                               wait=rng.choice([0, 0, 3]))  # fmt: skip
            case "settle":
                await self.settle(who)
            case "peek":
                await self.say(who, action="peek", topic=queue, n=rng.choice([1, 3, 20, None]),
                               options={"skip": rng.choice([0, 1, 3, 9]), "state": rng.choice(
                                   ["ready", "all", "delayed", "leased"])})  # fmt: skip
            case "dead":
                await self.dead(who, queue)
            case "order":
                action = rng.choice(
                    ["purge", "pause", "resume", "resume", "why", "delete", "retry"]
                )
                if action == "delete" and rng.random() < 0.7:
                    action = "stats"
                await self.say(who, action=action, topic=queue)
            case "trace":
                await self.say(who, action="trace", topic=queue, message_id=rng.choice(self.ids))
            case "declare":
                if rng.random() < 0.2:
                    await self.say(who, action="declare", topic=queue, settings=self.settings())
            case "leave":
                actor = self.actors[who]
                rng.choice([actor.client.close, actor.client.reset])()
                await settled()
                self.actors[who] = Actor(self.broker.client())
            case "sleep":
                await trio.sleep(rng.choice([0.3, 1.0, 4.0, 12.0]))
            case "jump":
                self.broker.world.jumped += rng.choice([-5.0, 5.0])

    async def publish(self, who: int, queue: str) -> None:
        rng = self.rng
        plain = rng.random() < 0.6
        frames: list[Frame] = []
        for _ in range(rng.choice([1, 2, 3, 6, 12])):
            self.count += 1
            body = rng.choice(BODIES) if rng.random() < 0.3 else self.count
            frame: Frame = {"action": "publish", "topic": queue, "mode": "queue", "message": body}
            if not plain:
                for name, some in SPECIAL.items():
                    if rng.random() < 0.15:
                        frame[name] = rng.choice(some)
            frames.append(frame)
        await self.actors[who].client.send_all(*frames)

    async def settle(self, who: int) -> None:
        rng, actor = self.rng, self.actors[who]
        if not actor.held:
            return
        tags = rng.sample(actor.held, min(len(actor.held), rng.choice([1, 1, 2, 5])))
        action = rng.choice(["ack", "ack", "nack", "nack", "touch"])
        frame: Frame = {"action": action, "tags": tags}
        if action == "nack":
            more = {"delay": [0, 2.0], "reason": ["bad", "worse"], "requeue": [True, False],
                    "count_attempt": [True, False]}  # fmt: skip
            for name, some in more.items():
                if rng.random() < 0.4:
                    frame[name] = rng.choice(some)
        if action != "touch":
            actor.held = [tag for tag in actor.held if tag not in tags]
        await self.say(who, **frame)

    async def dead(self, who: int, queue: str) -> None:
        rng = self.rng
        options: dict[str, Any] = {"do": rng.choice(["list", "show", "retry", "drop", "edit"])}
        for name, some in {"reason": ["bad", "expired"], "contains": ["x", "1"], "older_s": [3.0],
                           "newer_s": [3.0], "all": [True], "skip": [1, 5]}.items():  # fmt: skip
            if rng.random() < 0.25:
                options[name] = rng.choice(some)
        frame: Frame = {"action": "dead", "topic": queue, "options": options}
        if options["do"] == "edit":
            options["message"] = "edited"
        if options["do"] == "edit" or rng.random() < 0.2:
            frame["message_id"] = rng.choice(self.ids)
        if rng.random() < 0.3:
            frame["n"] = rng.choice([1, 2, 50])
        await self.say(who, **frame)

    async def say(self, who: int, **fields: Any) -> None:
        actor = self.actors[who]
        actor.n += 1
        await actor.client.send({"id": f"{who}.{actor.n}"} | fields)

    async def hear(self) -> None:
        await settled()
        for who, actor in enumerate(self.actors):
            client = actor.client
            while client.end.into.bytes:
                await client._fill()
            while client._frames:
                frame = client._frames.popleft()
                self.told.append((who, frame))
                if frame["type"] == "message" and "tag" in frame:
                    actor.held.append(frame["tag"])
                if frame.get("message_id"):
                    self.ids.append(frame["message_id"])


STEPS = (
    ["publish"] * 9 + ["subscribe"] * 2 + ["unsubscribe"] * 2 + ["get"] * 4 + ["settle"] * 6
    + ["peek"] * 3 + ["dead"] * 2 + ["order"] * 3 + ["trace", "declare", "leave", "sleep", "sleep"]
    + ["jump"]
)  # fmt: skip
SPECIAL: dict[str, list[Any]] = {
    "priority": [0, 4, 9],
    "delay": [0, 2.0],
    "ttl": [1.0, 8.0],
    "message_id": ["a", "b", "c\x01", 'd"', "é", "0" * 22, "k1", "k2", "k3"],
    "headers": [{}, {"h": "\x01"}],
    "durability": ["memory", "memory", "os", "stored"],
    "correlation_id": ["c"],
    "id": ["p"],
}


async def story(seed: int, packing: Packing, steps: int) -> Play:
    rng = random.Random(seed)
    hot_bytes = rng.choice([400, 2000, 8 << 20, 8 << 20])
    async with running(settings(drain_seconds=0.0), world=SimWorld(seed=seed)) as broker:
        services = broker.broker.context.services
        services.packing, services.hot_bytes = packing, hot_bytes
        play = Play(seed, broker)
        await play.run(steps)
        return play


def same(seed: int, steps: int = 60) -> int:
    """How many runs were packed."""
    plays = []
    for packing in (EARLY[seed % len(EARLY)], NEVER):
        with deterministic_scheduling(seed):  # the order of tasks too is that of the other
            clock = trio.testing.MockClock(autojump_threshold=0)
            plays.append(trio.run(story, seed, packing, steps, clock=clock))
    early, never = plays
    assert not never.packed
    for n, (mine, theirs) in enumerate(zip(early.told, never.told, strict=False)):
        assert mine == theirs, (seed, n, mine, theirs)
    assert len(early.told) == len(never.told), seed
    return early.packed


@pytest.mark.parametrize("part", range(4))
def test_packed_or_not_is_the_same_to_everybody(part: int):
    packed = sum([same(seed) for seed in range(part * 5, part * 5 + 5)])
    assert packed > 20  # else this compares nothing


def go_on(seconds: float, seed: int) -> None:
    until, first, packed = time.monotonic() + seconds, seed, 0
    while time.monotonic() < until:
        try:
            packed += same(seed)
        except BaseException:
            print("seed", seed)
            raise
        seed += 1
    print(f"{seed - first} stories, {packed} runs packed")


if __name__ == "__main__":
    go_on(float(sys.argv[1]), int((sys.argv[2:] or ["0"])[0]))
