"""What a topic costs per message, without decoding and without sockets.

    python bench/topic_bench.py

Turns of one topic are driven by hand: publish batches in, frames out of the ports. The
deliveries' own writing is part of it (`take` and `wrote`, as the connection's writer does).
"""

import random
import time
from typing import Any

import trio
from msgspec import Raw

from msg.actors.outbox import Outbound, Outbox
from msg.actors.ports import TopicPort
from msg.actors.services import Services
from msg.actors.storekeeper import Storekeeper
from msg.actors.timer import Timer
from msg.actors.topic import Attach, Publish, Topic, TopicActor
from msg.core.batches import PublishBatch
from msg.core.commands import Publish as Command
from msg.core.settings import TopicSettings
from msg.core.wire import IdSource
from msg.store.log import Log
from msg.store.recovery import Recovered
from msg.store.simdisk import SimDisk
from msg.world import RealWorld

CLOCK = RealWorld(SimDisk(random.Random(0)))
BODY = b'"' + b"x" * 198 + b'"'


class Nobody:
    def published(self, batch: PublishBatch) -> None: ...


def make(**settings: Any) -> TopicActor:
    disk = SimDisk(random.Random(0))
    for folder in ("queues", "topics"):
        disk.mkdir(folder)
    services = Services(
        world=RealWorld(disk),
        storekeeper=Storekeeper(RealWorld(disk)),
        timer=Timer(),
        ids=IdSource(1),
        logger=None,  # type: ignore[arg-type]
        outbound=Outbound(1 << 30),
        reopen=None,  # type: ignore[arg-type]
        move=None,  # type: ignore[arg-type]
        topic_idle=lambda _: None,
        queue_settings=None,  # type: ignore[arg-type]
        topic_settings=lambda _name, _chosen: TopicSettings(**settings),
        new_log=lambda kind, name: Log(kind, name, "ab" * 8),
    )
    return TopicActor(Topic("news"), services)


def port() -> TopicPort:
    outbox = Outbox(16 << 20, Outbound(1 << 30))
    return TopicPort(outbox, sub=None, suffix=b"", limit_count=65536, limit_bytes=16 << 20)


def write(ports: list[TopicPort]) -> None:
    for p in ports:
        while not p.outbox.empty:
            p.outbox.take()
            p.outbox.wrote(CLOCK)


async def fan_out(subscribers: int, size: int, total: int, batches_a_turn: int = 4) -> float:
    """Seconds per published message."""
    actor = make()
    await actor.open(Recovered.of_new(Log("topics", "news", "ab" * 8)))
    ports = [port() for _ in range(subscribers)]
    actor.turn([Attach(p, True, "new") for p in ports])
    origin = Nobody()
    took = 0.0
    for _ in range(total // (size * batches_a_turn)):
        mails: list[Any] = [
            Publish(
                PublishBatch(
                    origin, [Command("news", Raw(BODY)) for _ in range(size)], None, size * 300
                )
            )
            for _ in range(batches_a_turn)
        ]
        for _ in mails:
            await actor.handle.mailbox.put(None)  # type: ignore[arg-type]
        actor.handle.mailbox.take_nowait()
        began = time.perf_counter()
        actor.turn(mails)
        took += time.perf_counter() - began
        write(ports)
    return took / total


async def main() -> None:
    for size, batches in ((1, 1), (10, 1), (50, 1), (50, 4), (200, 4)):
        one = min([await fan_out(1, size, 40_000, batches) for _ in range(3)])
        many = min([await fan_out(101, size, 8_000, batches) for _ in range(3)])
        extra = (many - one) / 100
        print(
            f"{batches} batches of {size:3} a turn: {one * 1e6:6.2f} us a message with one"
            f" subscriber, {extra * 1e6:6.4f} us for each further one"
        )


trio.run(main)
