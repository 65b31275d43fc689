"""Cancelled at any step: no lease stays behind, no byte of the budget, no acked message.

A probe counts the steps of the connection's tasks (or of all tasks) and cancels at the k-th:
so each await of the code is cut at least once, also those that nobody thought of.
"""

from collections.abc import Callable
from math import inf

import pytest
import trio

from msg.actors.connection import Connection
from tests.actors.cable import End, cable
from tests.actors.kit import Client, Running, SimWorld, running, settled

EVERY = 3  # of the steps are tried by default; `--full` tries all


class Probe(trio.abc.Instrument):
    """Calls `act` before the k-th step of a task whose name has one of these beginnings."""

    def __init__(self, kinds: tuple[str, ...], at: float, act: Callable[[], None]) -> None:
        self.kinds = kinds
        self.at = at
        self.act = act
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name.startswith(self.kinds):
            self.steps += 1
            if self.steps == self.at:
                self.act()


async def served(
    broker: Running, stream: End, at: float, kinds: tuple[str, ...]
) -> tuple[Probe, trio.CancelScope]:
    """A connection of our own, cancelled at its k-th step."""
    scope = trio.CancelScope()
    probe = Probe(kinds, at, scope.cancel)

    async def serve(task_status: "trio.TaskStatus[None]") -> None:
        trio.lowlevel.add_instrument(probe)
        try:
            with scope:
                task_status.started()
                await Connection(stream, 99, broker.broker.context, "cut").run()
        finally:
            trio.lowlevel.remove_instrument(probe)
            stream.close()

    # the real door names the task so; the tests of other files go through it
    async def named(task_status: "trio.TaskStatus[None]") -> None:
        trio.lowlevel.current_task().name = "connection 99"
        await serve(task_status)

    await broker.nursery.start(named)
    return probe, scope


async def a_clients_life(client: Client) -> None:
    """All that a consumer and publisher does, until it is cut off."""
    try:
        for n in range(3):
            await client.send(action="publish", topic="jobs", mode="queue", message=n, id=f"p{n}")
        await client.answers("p0", "p1", "p2")
        await client.send(action="subscribe", topic="jobs", mode="queue", prefetch=2, id="s")
        first = await client.until("message")
        second = await client.until("message")
        await client.send(action="ack", tag=first["tag"], id="a")
        await client.send(action="nack", tag=second["tag"], id="n")
        await client.answers("a", "n")
        await client.send(action="declare", topic="more", mode="queue", id="d")
        await client.send(action="get", topic="more", wait=1, id="g")
        await client.send(action="stats", id="st")
        await client.answers("d", "g", "st")
        await client.send(action="unsubscribe", topic="jobs", mode="queue", id="u")
        await client.answers("u")
        await client.eof()
        await client.closed()
    except (EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
        return  # cut off


async def all_of(client: Client) -> list[int]:
    """Take and ack whatever comes, until nothing does."""
    bodies = []
    with trio.move_on_after(5):
        while True:
            frame = await client.expect("message")
            bodies.append(frame["message"])
            await client.send(action="ack", tag=frame["tag"])
    return bodies


async def life_cut_at(k: float, window: float) -> int:
    """One life, cut at step k. Returns how many steps it had."""
    async with running() as broker:
        ours, theirs = cable(window)
        client = Client(ours)
        probe, _ = await served(broker, theirs, k, ("connection 99", "writer 99"))
        await a_clients_life(client)
        client.close()
        await settled()
        other = broker.client()
        await other.subscribe("jobs", prefetch=20)
        here = await all_of(other)
        context = broker.broker.context
        assert context.outbound.used == 0
        for name in broker.broker.directory.queues:
            actor = broker.actor(name)
            actor.ledger.check()
            holders = list(actor.estate.consumers)
            assert [p.outbox for p in holders if p.outbox.closed] == []  # type: ignore[attr-defined]
        # acked publishes are here once, or were settled by the first client's ack
        acked = {f["id"] for f in client.seen if f["type"] == "ack"}
        settled_ones = {
            next(m["message"] for m in client.seen if m["type"] == "message")
            for f in client.seen
            if f["type"] == "acked" and f.get("id") == "a"
        }
        assert len(here) == len(set(here))
        wanted = {int(id_[1:]) for id_ in acked} - settled_ones
        # an ack that was sent and not answered may have counted
        assert wanted - set(here) <= {
            m["message"] for m in client.seen if m["type"] == "message" and m.get("tag") == 1
        }
        return probe.steps


@pytest.mark.parametrize("window", [inf, 64], ids=["open", "narrow"])
async def test_a_connection_cancelled_at_any_step_leaves_nothing_behind(
    autojump_clock, window, request
):
    total = await life_cut_at(inf, window)
    assert total > 20
    every = 1 if "full" in str(request.config.option.markexpr).split() else EVERY
    for k in range(1, total + 1, every):
        await life_cut_at(k, window)


async def world_cut_at(k: float) -> int:
    """The whole broker, cancelled where it stands at step k, and started again."""
    world = SimWorld()
    client: Client | None = None
    probe = Probe(("queue", "connection", "writer", "store", "directory", "timer"), k, lambda: None)
    async with running(world=world, stop="kill") as broker:
        probe.act = broker.nursery.cancel_scope.cancel
        client = broker.client()
        trio.lowlevel.add_instrument(probe)
        try:
            await a_clients_life(client)
        finally:
            trio.lowlevel.remove_instrument(probe)
    assert broker.broker.context.outbound.used == 0
    world.disk.unlock()
    async with running(disk=world.disk) as broker:
        other = broker.client()
        await other.subscribe("jobs", prefetch=20)
        here = await all_of(other)
    acked = {int(f["id"][1:]) for f in client.seen if f["type"] == "ack"}
    first = [f["message"] for f in client.seen if f["type"] == "message"][:1]
    settled_ones = set(first) if any(f.get("id") == "a" for f in client.seen) else set()
    assert len(here) == len(set(here))
    assert acked - set(here) <= set(first)
    assert not settled_ones & set(here)
    return probe.steps


async def test_a_broker_cancelled_at_any_step_has_kept_what_it_acked(autojump_clock, request):
    total = await world_cut_at(inf)
    assert total > 60
    every = 1 if "full" in str(request.config.option.markexpr).split() else 2 * EVERY
    for k in range(1, total + 1, every):
        await world_cut_at(k)
