"""A queue actor with a bug: nothing is lost, nobody reconnects, everybody is answered."""

from collections.abc import Callable
from typing import Any

import pytest
import trio

from msg.actors import ports
from msg.actors.outbox import Outbox
from msg.actors.ports import QueuePort
from msg.actors.session import Session
from msg.core.deep import Packing
from msg.core.ledger import QueueLedger
from msg.protocol import encode
from msg.store.log import Log as StoreLog
from tests.actors.kit import Client, running, settings, settled

CRASHED = ("actor crashed",)
FAILED = ("actor crashed", "actor failed")


class Bug(Exception):
    """What the tests put into the actors."""


class Plant:
    """A bug in a method: it raises, before or after doing its work, `times` times.

    `only(args)` chooses the calls. `hits` counts.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        owner: Any,
        method: str,
        *,
        after: bool = False,
        times: int = 1,
        only: Callable[..., bool] = lambda *_: True,
    ) -> None:
        self.hits = 0
        self.armed = True
        real = getattr(owner, method)

        def buggy(*args: Any, **more: Any) -> Any:
            if not self.armed or self.hits >= times or not only(*args):
                return real(*args, **more)
            self.hits += 1
            if after:
                real(*args, **more)
            raise Bug(f"in {method}, as planted")

        monkeypatch.setattr(owner, method, buggy)


async def drained(client: Client, count: int) -> list[Any]:
    """Take and ack so many messages, as they come."""
    bodies = []
    while len(bodies) < count:
        frame = await client.read()
        if frame["type"] == "message":
            bodies.append(frame["message"])
            await client.send(action="ack", tag=frame["tag"])
    return bodies


@pytest.mark.parametrize("action", ["subscribe", "get"])
async def test_a_turn_that_failed_leaves_no_lease_to_who_came_in_it(
    autojump_clock, monkeypatch, action
):
    async with running(errors=CRASHED) as broker:
        client = broker.client()
        for n in range(3):
            await client.publish("jobs", n, durability="memory" if n % 2 else "stored")
        plant = Plant(monkeypatch, QueueLedger, "dispatch", after=True)
        more = {"prefetch": 1, "mode": "queue"} if action == "subscribe" else {"n": 3, "wait": 9}
        await client.send(action=action, topic="jobs", id="c", **more)
        assert await drained(client, 3) == [0, 1, 2]
        assert (await client.answers("c"))[0]["type"] in ("subscribed", "got")
        await trio.sleep(1)  # the last ack may be a note
        assert plant.hits == 1
        assert broker.queue("jobs").leased == 0


async def test_of_two_requests_for_one_subscription_each_is_answered_once(
    autojump_clock, monkeypatch
):
    async with running(errors=CRASHED) as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        plant = Plant(monkeypatch, QueueLedger, "attach")
        subscribe = {"action": "subscribe", "topic": "jobs", "mode": "queue"}
        await client.send_all({**subscribe, "id": "a"}, {**subscribe, "id": "b", "prefetch": 5})
        for id_ in "ab":
            await client.expect("error", code="internal", id=id_)
        await client.silence()
        assert plant.hits == 1
        await client.subscribe("jobs")
        await client.expect("message", message=1)
        await client.eof()
        with trio.fail_after(1):
            assert await client.closed() == []


PHASES = ["publish", "attach", "detach", "stop", "written", "ack", "nack", "touch", "dispatch",
          "tick", "committed", "purge"]  # fmt: skip


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("phase", PHASES)
async def test_nothing_is_lost_whatever_breaks(autojump_clock, monkeypatch, phase, after):
    async with running(errors=CRASHED) as broker:
        publisher, one, two = broker.client(), broker.client(), broker.client()
        for n in range(8):
            await publisher.publish("jobs", n, durability="memory" if n % 2 else "stored")
        await one.subscribe("jobs", prefetch=3)
        assert await one.messages(3) == [0, 1, 2]
        await one.send(action="nack", tag=2, reason="no")
        await one.expect("message", message=1, attempt=2, tag=4)  # held: 0, 2, 1
        plant = Plant(monkeypatch, QueueLedger, phase, after=after)

        await publisher.send(action="publish", topic="jobs", mode="queue", message=8, id="p")
        await publisher.send(
            action="publish", topic="jobs", mode="queue", message=9, id="d", delay=2
        )
        await two.send(action="subscribe", topic="jobs", mode="queue", prefetch=3, id="s")
        await two.until("message", "error")
        await one.send(action="ack", tag=1, id="a")
        await one.send(action="touch", tag=3, id="t")
        three = broker.client()
        await three.send(action="subscribe", topic="jobs", mode="queue", id="s")
        await three.until("message", "error")
        three.close()
        await one.send(action="nack", tag=4, delay=1, id="n")
        await two.send(action="unsubscribe", topic="jobs", mode="queue", id="u")
        answers = {f["id"]: f for f in await publisher.answers("p", "d")}
        answers |= {f["id"]: f for f in await one.answers("a", "t", "n")}
        answers |= {f["id"]: f for f in await two.answers("s", "u")}
        await trio.sleep(10)
        purged = await publisher.ask("pause", topic="jobs")
        if phase == "purge":
            purged = await publisher.ask("purge", topic="jobs")
            assert purged["code"] == "internal"
        await publisher.ask("resume", topic="jobs")
        await settled()
        assert plant.hits == 1
        assert broker.log.said("actor crashed")[0]["failures"] == 1

        refused = {id_ for id_, f in answers.items() if f["type"] == "error"}
        codes = {f["code"] for f in answers.values() if f["type"] == "error"}
        # where the subscribe was refused, there is nothing to unsubscribe
        assert codes <= ({"internal", "not_found"} if phase == "attach" else {"internal"})
        # leases are kept: what one and two hold is theirs to settle
        for client in (one, two):
            held = [f["tag"] for f in client.seen if f["type"] == "message"]
            if held:
                await client.ask("ack", tags=held)
        expected = {0, 1, 2, 3, 4, 5, 6, 7}
        expected |= {8} if "p" not in refused else set()
        expected |= {9} if "d" not in refused else set()
        got = {f["message"] for c in (one, two, three) for f in c.seen if f["type"] == "message"}
        last = broker.client()
        await last.subscribe("jobs", prefetch=20)
        while len(got) < len(expected):
            frame = await last.expect("message")
            got.add(frame["message"])
            await last.send(action="ack", tag=frame["tag"])
        await last.silence(1)
        broker.check()
        assert got == expected
        stats = (await publisher.ask("stats"))["queues"][0]
        assert stats["restarts"] == 1
        assert (stats["ready"], stats["delayed"], stats["pending"]) == (0, 0, 0)


async def test_the_consumers_are_served_on_without_reconnecting(autojump_clock, monkeypatch):
    async with running(errors=CRASHED) as broker:
        client = broker.client()
        await client.subscribe("jobs", prefetch=2)
        Plant(monkeypatch, QueueLedger, "dispatch")
        await broker.client().publish("jobs", 1)
        await client.expect("message", message=1, tag=1, attempt=1)
        await broker.client().publish("jobs", 2)
        await client.expect("message", message=2, tag=2)
        await broker.client().publish("jobs", 3)
        await client.silence(5)  # credit is counted over the crash
        assert (await client.ask("ack", tags=[1, 2]))["count"] == 2
        await client.expect("message", message=3, tag=3)


async def test_the_request_that_broke_it_is_answered_and_the_others_are_done(
    autojump_clock, monkeypatch
):
    async with running(errors=CRASHED) as broker:
        client = broker.client()
        await client.publish("jobs", 0)

        def poisoned(_ledger: Any, batch: Any, *_: Any) -> bool:
            return any(p.message_id == "poison" for p in batch.items)

        Plant(monkeypatch, QueueLedger, "publish", only=poisoned, times=9)
        others = [broker.client() for _ in range(4)]
        for n, other in enumerate(others):
            await other.send(
                action="publish", topic="jobs", mode="queue", message=n,
                message_id="poison" if n == 2 else f"m{n}", id=f"i{n}",
            )  # fmt: skip
        for n, other in enumerate(others):
            if n == 2:
                await other.expect(
                    "error", code="internal", retry="same_id", id="i2", message_id="poison"
                )
            else:
                frame = await other.expect("ack", id=f"i{n}", message_id=f"m{n}")
                assert "duplicate" not in frame
        assert broker.queue("jobs").restarts.count == 1


async def test_a_commit_in_flight_at_the_crash_is_answered_once(autojump_clock, monkeypatch):
    async with running(errors=CRASHED) as broker:
        client, consumer = broker.client(), broker.client()
        await client.publish("jobs", 0)
        broker.world.hold_disk()
        await client.send(action="publish", topic="jobs", mode="queue", message=1, id="in flight")
        await client.silence(1)
        await client.send(action="publish", topic="jobs", mode="queue", message=2, id="gathering")
        await client.silence(1)
        Plant(monkeypatch, QueueLedger, "attach")
        await consumer.send(action="subscribe", topic="jobs", mode="queue", id="s", prefetch=9)
        await client.silence(1)
        await client.send(action="publish", topic="jobs", mode="queue", message=3, id="after")
        await client.silence(1)
        broker.world.free_disk()
        for id_ in ("in flight", "gathering", "after"):
            await client.expect("ack", id=id_)
        await client.silence(1)
        await consumer.expect("error", code="internal", id="s")
        await consumer.subscribe("jobs", prefetch=9)
        assert await consumer.messages(4) == [0, 1, 2, 3]


async def test_a_commit_that_fails_while_the_actor_is_down(autojump_clock, monkeypatch):
    async with running(errors=CRASHED) as broker:
        client = broker.client()
        await client.publish("jobs", 0)
        broker.world.hold_disk()
        await client.send(
            action="publish", topic="jobs", mode="queue", message=1, id="p", message_id="m"
        )
        await client.silence(1)
        Plant(monkeypatch, QueueLedger, "attach")
        await broker.client().send(action="subscribe", topic="jobs", mode="queue")
        await client.silence(1)
        broker.world.disk.fill()
        broker.world.free_disk()
        await client.expect("error", code="disk_full", id="p")
        await settled()
        broker.world.disk.make_room()
        assert "duplicate" not in await client.publish("jobs", 1, message_id="m")
        await client.subscribe("jobs", prefetch=5)
        assert await client.messages(2) == [0, 1]
        await client.silence(1)


async def test_attempts_and_their_case_survive(autojump_clock, monkeypatch):
    async with running(settings(queues={"jobs": {"backoff": ()}}), errors=CRASHED) as broker:
        client = broker.client()
        for n, durability in enumerate(["stored", "memory"]):
            await client.publish("jobs", n, durability=durability)
        await client.subscribe("jobs", prefetch=2)
        await client.messages(2)
        for tag in (1, 2):
            await client.send(action="nack", tag=tag, reason="first")
        await client.messages(2)
        Plant(monkeypatch, QueueLedger, "tick")
        await client.publish("jobs", 9, delay=1)
        await client.silence(2)
        for tag in (3, 4):
            await client.send(action="nack", tag=tag, requeue=False, reason="second")
        await client.ask("ping")
        dead = broker.client()
        await dead.subscribe("jobs.dead", prefetch=5)
        for _ in range(2):
            frame = await dead.expect("message")
            assert [a["reason"] for a in frame["case"]["attempts"]] == ["first", "second"]
        assert broker.queue("jobs").restarts.count == 1


async def test_a_get_that_waits_is_answered_after_the_crash(autojump_clock, monkeypatch):
    async with running(errors=CRASHED) as broker:
        client, other = broker.client(), broker.client()
        await client.send(action="get", topic="jobs", n=2, wait=10, id="g")
        await other.publish("jobs", 1)
        await client.expect("message", message=1)
        Plant(monkeypatch, QueueLedger, "dispatch", after=True)
        await other.publish("jobs", 2)
        await client.expect("message", message=2, tag=2)
        await client.expect("got", id="g", count=2)
        assert (await client.ask("ack", tags=[1, 2]))["count"] == 2


async def test_a_get_that_ends_in_the_turn_that_fails(autojump_clock, monkeypatch):
    async with running(errors=CRASHED) as broker:
        client = broker.client()
        await client.send(action="get", topic="jobs", wait=3, id="g")
        Plant(
            monkeypatch, QueueLedger, "dispatch", after=True,
            only=lambda _, stamp: stamp.now >= 3.0,
        )  # fmt: skip
        await client.expect("got", id="g", count=0)
        assert broker.queue("jobs").restarts.count == 1


async def test_a_burial_in_the_turn_that_fails_happens_once(autojump_clock, monkeypatch):
    async with running(errors=CRASHED) as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.subscribe("jobs")
        await client.expect("message")
        Plant(monkeypatch, QueueLedger, "nack", after=True)
        await client.send(action="nack", tag=1, requeue=False, id="n")
        answer = await client.expect("acked", id="n", count=0)
        assert answer["failed"] == [{"tag": 1, "code": "internal"}]
        await settled()
        broker.check()
        await client.expect("message", message=1, tag=2)  # what it asked for was not done
        Plant(monkeypatch, QueueLedger, "dispatch", only=lambda ledger, *_: bool(ledger.turn.moves))
        await client.send(action="nack", tag=2, requeue=False, id="n")
        await client.expect("acked", id="n", count=1)
        await client.subscribe("jobs.dead", prefetch=9)
        await client.expect("message", message=1)
        await client.silence(5)
        broker.check()


@pytest.mark.parametrize("phase", ["arrive", "moved", "release"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("durability", ["stored", "memory"])
async def test_a_crash_in_the_middle_of_a_move(
    autojump_clock, monkeypatch, phase, after, durability
):
    async with running(errors=CRASHED) as broker:
        client = broker.client()
        for n in range(2):
            await client.publish("jobs", n, durability=durability)
        await client.subscribe("jobs", prefetch=2)
        await client.messages(2)
        Plant(monkeypatch, QueueLedger, phase, after=after)
        await client.ask("nack", tags=[1, 2], requeue=False)
        dead = broker.client()
        await dead.subscribe("jobs.dead", prefetch=9)
        assert sorted(await dead.messages(2)) == [0, 1]
        await dead.silence(5)
        broker.check()
        assert (await dead.ask("ack", tags=[1, 2]))["count"] == 2
        stats = {row["name"]: row for row in (await dead.ask("stats"))["queues"]}
        assert (stats["jobs"]["pending"], stats["jobs.dead"]["pending"]) == (0, 0)


@pytest.mark.parametrize("phase", ["dispatch", "purge"])
async def test_what_is_packed_survives_it_as_it_is(autojump_clock, monkeypatch, phase):
    async with running(errors=CRASHED) as broker:
        broker.broker.context.services.packing = Packing(run=4, head=2, still=0, above=0)
        client, worker = broker.client(), broker.client()
        await worker.subscribe("jobs", prefetch=3)
        for n in range(16):
            await client.publish("jobs", n, durability="memory")
        assert await worker.messages(3) == [0, 1, 2]
        estate = broker.queue("jobs").estate
        assert estate is not None
        runs = dict(estate.packed)
        assert [list(run.seqs) for run in runs.values()] == [[6, 7, 8, 9], [10, 11, 12, 13]]
        plant = Plant(monkeypatch, QueueLedger, phase, after=True)
        purged = await client.ask("purge", topic="jobs")
        await settled()
        assert plant.hits == 1
        if phase == "purge":
            assert purged["code"] == "internal"
            assert estate.packed == runs
            assert len(estate.kept) == 8
            await worker.send(action="ack", tags=[1, 2, 3])
            assert await drained(worker, 10) == [*range(3, 13)]
        purged = await client.ask("purge", topic="jobs")
        assert not estate.packed
        assert {m.seq for m in estate.kept.values()} <= {*range(17)}
        broker.check()


async def test_a_crash_with_parked_publishes(autojump_clock, monkeypatch):
    async with running(
        settings(queues={"jobs": {"max_messages": 1, "overflow": "block"}}), errors=CRASHED
    ) as broker:
        client, consumer = broker.client(), broker.client()
        await client.publish("jobs", 1)
        await client.send(action="publish", topic="jobs", mode="queue", message=2, id="parked")
        await client.silence(1)
        Plant(monkeypatch, QueueLedger, "attach")
        await consumer.send(action="subscribe", topic="jobs", mode="queue", id="s")
        await consumer.expect("error", code="internal")
        await consumer.subscribe("jobs")
        assert await drained(consumer, 2) == [1, 2]
        await client.expect("ack", id="parked")


async def test_paused_and_declared_settings_survive(autojump_clock, monkeypatch):
    async with running(errors=CRASHED) as broker:
        client = broker.client()
        await client.ask("declare", topic="jobs", settings={"max_messages": 1})
        await client.ask("pause", topic="jobs")
        Plant(monkeypatch, QueueLedger, "attach")
        await client.send(action="subscribe", topic="jobs", mode="queue", id="s")
        await client.expect("error", code="internal")
        await client.subscribe("jobs")
        await client.publish("jobs", 1)
        await client.silence(1)
        await client.send(action="publish", topic="jobs", mode="queue", message=2)
        await client.expect("error", code="queue_full")
        await client.send(action="resume", topic="jobs")
        await client.until("message")


async def test_a_duplicate_is_known_after_the_crash(autojump_clock, monkeypatch):
    async with running(errors=CRASHED) as broker:
        client = broker.client()
        await client.publish("jobs", 1, message_id="m")
        await client.publish("jobs", 2, message_id="k", durability="memory")
        Plant(monkeypatch, QueueLedger, "attach")
        await client.send(action="subscribe", topic="jobs", mode="queue", id="s")
        await client.expect("error", code="internal")
        assert (await client.publish("jobs", 1, message_id="m"))["duplicate"]
        assert (await client.publish("jobs", 2, message_id="k"))["duplicate"]


async def test_a_failed_resubscribe_ends_the_subscription_and_returns_its_leases(
    autojump_clock, monkeypatch
):
    async with running(errors=CRASHED) as broker:
        client, other = broker.client(), broker.client()
        await client.publish("jobs", 1)
        await client.subscribe("jobs", ack_timeout=0)
        await client.expect("message", message=1)
        Plant(monkeypatch, QueueLedger, "attach", only=lambda _, consumer: consumer.prefetch == 7)
        await client.send(action="subscribe", topic="jobs", mode="queue", prefetch=7, id="s")
        await client.expect("error", code="internal", id="s")
        await other.subscribe("jobs")
        await other.expect("message", message=1)


async def test_a_carry_out_that_fails_loses_nothing(autojump_clock, monkeypatch):
    """`_carry_out` may not fail; should it, what it was to do may happen twice, never not."""
    async with running(errors=CRASHED) as broker:
        client = broker.client()
        await client.publish("jobs", 0)
        Plant(monkeypatch, StoreLog, "publish", after=True)
        await client.send(action="publish", topic="jobs", mode="queue", message=1, id="p")
        await client.expect("ack", id="p")
        await client.subscribe("jobs", prefetch=9)
        assert {*await client.messages(2)} == {0, 1}


async def test_a_queue_over_its_restart_limit_has_failed_and_the_others_go_on(
    autojump_clock, monkeypatch
):
    async with running(errors=FAILED) as broker:
        client, consumer = broker.client(), broker.client()
        await client.publish("jobs", 1)
        await consumer.subscribe("jobs")
        await consumer.expect("message", message=1)
        plant = Plant(
            monkeypatch, QueueLedger, "dispatch", times=99,
            only=lambda ledger, *_: ledger.name == "jobs",
        )  # fmt: skip
        await client.send(action="publish", topic="jobs", mode="queue", message=2, id="p")
        error = await client.expect("error", id="p")
        assert error["code"] in ("internal", "unavailable")
        await consumer.expect("unsubscribed", topic="jobs", mode="queue")
        assert consumer.seen[-1]["reason"]
        assert broker.queue("jobs").restarts.failed

        await client.send(action="publish", topic="jobs", mode="queue", message=3, id="q")
        await client.expect("error", code="unavailable", retry="same_id", id="q")
        for action in ("subscribe", "get"):
            await client.send(action=action, topic="jobs", mode="queue", id=action)
            await client.expect("error", code="unavailable", id=action)
        for action in ("purge", "pause", "declare"):
            more = {"settings": {"max_messages": 9}} if action == "declare" else {}
            answer = await client.ask(action, topic="jobs", **more)
            assert answer.get("code") == "unavailable", answer
        for action in ("peek", "held"):
            await client.ask(action, topic="jobs")  # answered, one way or the other
        await consumer.ask("ack", tag=1)  # answered, whatever it says

        await client.publish("others", 1)
        stats = {row["name"]: row for row in (await client.ask("stats"))["queues"]}
        assert stats["jobs"]["state"] == "failed"
        assert stats["others"]["state"] == "running"
        [row] = [r for r in (await client.ask("tree"))["actors"] if r["name"] == "queue jobs"]
        assert row["state"] == "failed"

        plant.armed = False
        assert (await client.ask("delete", topic="jobs", mode="queue"))["type"] == "delete"
        await client.publish("jobs", "anew")
        await client.subscribe("jobs")
        await client.expect("message", message="anew")


async def test_a_failed_queue_keeps_what_it_has_on_disk_for_the_next_start(
    autojump_clock, monkeypatch
):
    async with running(errors=FAILED) as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        plant = Plant(monkeypatch, QueueLedger, "attach", times=99)
        for code in ("internal", "internal", "internal", "unavailable", "unavailable"):
            await client.send(action="subscribe", topic="jobs", mode="queue", id="s")
            await client.expect("error", code=code, id="s")
        disk = broker.world.disk
    plant.armed = False
    async with running(disk=disk) as broker:
        client = broker.client()
        await client.subscribe("jobs")
        await client.expect("message", message=1)


async def test_crashes_far_apart_are_forgiven(autojump_clock, monkeypatch):
    async with running(errors=CRASHED) as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        Plant(monkeypatch, QueueLedger, "attach", times=10)
        for _ in range(10):
            await client.send(action="subscribe", topic="jobs", mode="queue", id="s")
            await client.expect("error", code="internal", id="s")
            await client.silence(10)
        await client.subscribe("jobs")
        await client.expect("message")


async def test_a_crash_does_not_touch_other_connections(autojump_clock, monkeypatch):
    async with running(errors=("connection crashed",)) as broker:
        one, two = broker.client(), broker.client()
        await two.publish("jobs", 1)
        await one.subscribe("jobs")
        await one.expect("message")
        Plant(monkeypatch, Session, "_command", only=lambda session, _: session.number == 1)
        await one.send(action="ping")
        assert await one.closed() == []
        await two.send(action="ping", id="p")
        await two.expect("pong", id="p")
        await two.subscribe("jobs")
        await two.expect("message", message=1, attempt=2, returned="disconnect")
        assert broker.broker.context.counters.crashed == 1


@pytest.mark.parametrize(
    "told", ["accepted", "acked", "subscribed", "unsubscribed", "error", "got"]
)
async def test_a_bug_in_what_a_client_is_told_is_its_own_and_not_the_queues(
    autojump_clock, monkeypatch, told
):
    """These run in the queue's task; the bug must end the connection that has it."""
    errors = ("connection crashed", *(CRASHED if told == "error" else ()))
    async with running(errors=errors) as broker:
        one, two = broker.client(), broker.client()
        await two.publish("jobs", 1)
        await two.subscribe("jobs")
        await two.expect("message")
        await one.publish("more", 2)
        await one.subscribe("more", sub="m")
        await one.expect("message")
        if told == "error":
            Plant(monkeypatch, QueueLedger, "attach")
        Plant(monkeypatch, encode, told)
        match told:
            case "accepted":
                await one.send(action="publish", topic="jobs", mode="queue", message=2)
            case "acked":
                await one.send(action="ack", tag=1, id="a")
            case "unsubscribed":
                await two.send(action="delete", topic="more", mode="queue")
            case "got":
                await one.send(action="get", topic="jobs", id="g")
            case _:
                await one.send(action="subscribe", topic="jobs", mode="queue", id="s")
        await one.closed()
        await two.send(action="publish", topic="third", mode="queue", message=1)
        await two.until("ack")
        assert (await two.ask("ack", tag=1))["count"] == 1
        assert broker.queue("jobs").restarts.count == (1 if told == "error" else 0)
        assert [row["error"] for row in broker.log.said("connection crashed")]


@pytest.mark.parametrize(
    ("owner", "method"), [(Outbox, "grow"), (QueuePort, "chunks"), (QueuePort, "wrote")]
)
async def test_a_bug_in_a_port_is_its_connections_own(autojump_clock, monkeypatch, owner, method):
    async with running(errors=("connection crashed",)) as broker:
        one, two = broker.client(), broker.client()
        await two.publish("jobs", 1)
        Plant(monkeypatch, owner, method)
        await one.send(action="subscribe", topic="jobs", mode="queue", ack_timeout=1)
        await one.closed()
        await two.subscribe("jobs")
        await two.expect("message", message=1)
        assert broker.queue("jobs").restarts.count == 0


async def test_a_bug_in_the_stale_leases_is_its_connections_own(autojump_clock, monkeypatch):
    async with running(errors=("connection crashed",)) as broker:
        one, two = broker.client(), broker.client()
        await two.publish("jobs", 1)
        await one.subscribe("jobs", ack_timeout=1)
        await one.expect("message")
        monkeypatch.setattr(ports, "STALE_MAX", "many")
        await one.closed()
        await two.subscribe("jobs")
        await two.expect("message", message=1, attempt=2)
        assert broker.queue("jobs").restarts.count == 0


async def test_ready_again_after_many_crashes_under_load(autojump_clock, monkeypatch):
    """Crashes at random places while messages flow: each is settled at least once, those that
    were answered with an ack all are, and the books balance."""
    total = 300
    async with running(errors=CRASHED) as broker:
        rng = broker.world.rng
        real = QueueLedger.dispatch
        crashes = 0
        last = 0.0

        def sometimes(this: QueueLedger, stamp: Any) -> None:
            nonlocal crashes, last
            real(this, stamp)
            if this.name == "jobs" and stamp.now > last + 2 and rng.random() < 0.2:
                crashes += 1
                last = stamp.now
                raise Bug("now and then")

        monkeypatch.setattr(QueueLedger, "dispatch", sometimes)
        done: dict[int, int] = {}
        acked: set[int] = set()

        async def publish(client: Client, first: int) -> None:
            for n in range(first, first + total // 3):
                frame = {"durability": "memory"} if n % 3 == 0 else {}
                await client.send(
                    action="publish", topic="jobs", mode="queue", message=n, id=str(n), **frame
                )
                if (await client.read())["type"] == "ack":
                    acked.add(n)
                await trio.sleep(rng.random())

        async def work(client: Client) -> None:
            await client.subscribe("jobs", prefetch=4)
            while True:
                frame = await client.read()
                if frame["type"] != "message":
                    continue
                await trio.sleep(rng.random() / 2)
                if rng.random() < 0.2:
                    await client.send(action="nack", tag=frame["tag"], delay=0.1)
                else:
                    done[frame["message"]] = done.get(frame["message"], 0) + 1
                    await client.send(action="ack", tag=frame["tag"])

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(work, broker.client())
            async with trio.open_nursery() as publishing:
                for i in range(3):
                    publishing.start_soon(publish, broker.client(), i * total // 3)
            monkeypatch.setattr(QueueLedger, "dispatch", real)
            await trio.sleep(60)
            nursery.cancel_scope.cancel()
        assert crashes > 10
        assert acked == set(range(total))
        assert set(done) == acked
