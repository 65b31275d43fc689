"""The play: clients, faults and the last look, the same on both engines.

    start the broker ─► clients and faults ─► quiet, or out of patience ─► the clients leave
    ─► whatever is still in the queues is taken out and noted ─► the broker drains

An engine knows how to start, connect, hurt and end a broker. Judging comes afterwards, from
the journal (`checker.py`).
"""

import random
from collections.abc import Sequence
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import msgspec
import trio

from msg.core.patterns import matches
from msg.scenario import model
from msg.scenario.clients import GONE, Actor, Frame, Session, cast
from msg.scenario.journal import Event, Journal
from msg.scenario.model import Client, Fault, Scenario
from msg.scenario.reading import _like

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE_S = 60.0  # for the end of a scenario that names no time
_decode = msgspec.json.decode


class Engine(Protocol):
    """A broker that can be hurt."""

    name: str
    poll_s: float  # how often to look whether all is quiet
    sweep_s: float  # how long the last look may wait for what is not yet due

    @property
    def up(self) -> bool:
        """Whether the broker serves."""

    async def start(self) -> None:
        """Start the broker; returns when it serves, or has ended instead."""

    async def dial(self, client: str) -> trio.abc.HalfCloseableStream: ...

    def link(self, client: str) -> Any:
        """The newest link of this client: cut, stall, go_silent, split, throttle …"""

    def clients(self) -> list[str]:
        """Those that are connected now, in the order of their connecting."""

    async def strike(self, what: model.What) -> None:
        """Do what is not about one link. Returns when it is over."""

    async def heal(self) -> None:
        """End all that is wrong with the surroundings."""

    async def end(self) -> None:
        """Drain the broker, if it is up."""

    def tree(self) -> list[dict[str, Any]]:
        """The actors now, as far as can be seen."""

    def problems(self) -> list[str]:
        """What is wrong by what only the engine can see."""


class Tally:
    """What was acked to publishers and not yet settled, where somebody consumes it."""

    def __init__(self, scenario: Scenario) -> None:
        self.sources = list(sources_of(scenario))
        self.waiting: dict[tuple[str, str], None] = {}  # (source, key)
        self._to: dict[str, str] = {}
        self._sent: dict[str, float] = {}
        self._since: dict[str, float] = {}  # when a group was there for certain
        self._settled: dict[tuple[str, str], None] = {}
        self.last_publish = 0.0

    def hear(self, event: Event) -> None:
        what = event.what
        match event.kind:
            case "publish":
                if what["key"] not in self._to:
                    self.last_publish = event.at
                    self._to[what["key"]] = what["to"]
                    self._sent[what["key"]] = event.at
            case "acked":
                for source in self.sources:
                    pair = (source, what["key"])
                    if self._comes_to(what["key"], source) and pair not in self._settled:
                        self.waiting[pair] = None
            case "subscribed" if "group" in what:
                self._since.setdefault(f"group {what['topic']}@{what['group']}", event.at)
            case "settle" if what["how"] in ("ack", "reject"):
                pair = (what["from"], what["key"])
                self.waiting.pop(pair, None)
                self._settled[pair] = None

    def _comes_to(self, key: str, source: str) -> bool:
        """Whether it is to be settled there for certain: a group must have been there before."""
        if source.startswith("group ") and self._sent.get(key, inf) <= self._since.get(source, inf):
            return False
        return feeds(self._to.get(key, ""), source)


def sources_of(scenario: Scenario) -> Sequence[str]:
    """Every queue and group that somebody consumes from, named as in the journal."""
    found: dict[str, None] = {}
    for client in scenario.client:
        for role in client.consume:
            name = f"queue {role.queue}" if role.queue else f"group {role.topic}@{role.group}"
            found[name] = None
    return list(found)


def feeds(to: str, source: str) -> bool:
    """Whether a message published `to` ("topic news") comes into `source` ("group news@g")."""
    mode, _, name = to.partition(" ")
    kind, _, at = source.partition(" ")
    if kind == "queue":
        return mode == "queue" and name == at
    return mode == "topic" and matches(at.rpartition("@")[0], name)


@attrs.define(eq=False)
class Play:
    """One run of one scenario on one engine."""

    scenario: Scenario
    seed: int
    engine: Engine
    journal: Journal
    bodies: dict[str, Any] = attrs.field(factory=dict)
    inboxes: dict[str, str] = attrs.field(factory=dict)
    actors: list[Actor] = attrs.field(factory=list)
    tree: list[dict[str, Any]] = attrs.field(factory=list)  # when the clients left
    begun: float = 0.0  # when the clients came

    def stream(self, purpose: str) -> random.Random:
        return random.Random(f"{self.seed}/{purpose}")

    # -- for the clients --------------------------------------------------------------------

    async def dial(self, client: str) -> trio.abc.HalfCloseableStream:
        return await self.engine.dial(client)

    def drop(self, client: str) -> None:
        link = self.engine.link(client)
        if link is not None:
            link.cut()

    def fresh(self, client: Client, name: str) -> None:
        link = self.engine.link(name)
        if client.bytes_per_second is not None:
            link.throttle(float(client.bytes_per_second))
        if client.split_bytes:
            link.split(client.split_bytes)

    # -- the course of it -------------------------------------------------------------------

    async def run(self) -> None:
        tally = Tally(self.scenario)
        self.journal.watch = tally.hear
        engine = self.engine
        await engine.start()
        self.begun = self.journal.clock()
        async with trio.open_nursery() as nursery:
            for spec, name in cast(self.scenario.client):
                actor = Actor(spec, name, self)
                self.actors.append(actor)
                nursery.start_soon(actor.run, name=f"client {name}")
            async with trio.open_nursery() as faults:
                for i, fault in enumerate(self.scenario.fault):
                    faults.start_soon(self._strike, fault, i, nursery, name=f"fault {i}")
            await self._until_quiet(tally)
            nursery.cancel_scope.cancel("the play is over")
        self.tree = engine.tree()
        self.journal.note("play", "over")
        await engine.heal()
        if not engine.up:
            await engine.start()
        if engine.up:
            await self._sweep(tally.sources)
        await engine.end()

    async def _until_quiet(self, tally: Tally) -> None:
        expect, clock = self.scenario.expect, self.journal.clock
        patience = expect.drained_within or PATIENCE_S
        calm = clock()  # since when no fault strikes any more
        until = self.begun + self.scenario.lasts
        wait = self.engine.poll_s
        gone = expect.lost.high + (expect.dead.high if expect.dead else 0)
        while True:
            published = all(actor.finished for actor in self.actors)
            drained = published and (not tally.waiting or self._left_is_fine(tally))
            if not drained and published and 0 < len(tally.waiting) <= gone:
                drained = await self._rest_is_gone(len(tally.waiting))
            if (drained or not self.engine.up) and clock() >= until:
                self.journal.note("play", "drained" if drained else "no broker")
                return
            if clock() > max(calm, tally.last_publish, until) + patience:
                self.journal.note(
                    "play", "not drained",
                    waiting=len(tally.waiting),
                    unfinished=[actor.name for actor in self.actors if not actor.finished],
                )  # fmt: skip
                return
            await trio.sleep(wait)
            wait = min(wait * 1.5, 100 * self.engine.poll_s)

    def _left_is_fine(self, tally: Tally) -> bool:
        """Where messages are to be left over, their number need not become 0."""
        left = self.scenario.expect.left
        return left is not None and bool(left.low) and len(tally.waiting) in left

    async def _rest_is_gone(self, waiting: int) -> bool:
        """Whether what is not settled is dead or lost, as it may be: the queues are empty."""
        with suppress(Lost):
            async with operator(self) as ask:
                rows = (await ask({"action": "stats"})).get("queues", [])
                live = sum(live_of(row) for row in rows if not row["name"].endswith(".dead"))
                dead = sum(int(row.get("dead", 0)) for row in rows)
                return not live and waiting - dead <= self.scenario.expect.lost.high
        return False

    # -- faults -----------------------------------------------------------------------------

    async def _strike(self, fault: Fault, number: int, nursery: trio.Nursery) -> None:
        rng = self.stream(f"fault {number}")
        await trio.sleep(fault.at.pick(rng))
        for n in range(fault.times.pick(rng)):
            if n:
                await trio.sleep(fault.every.pick(rng))
            await self._strike_once(fault.what, f"{number}.{n}", rng, nursery)

    async def _strike_once(
        self, what: model.What, label: str, rng: random.Random, nursery: trio.Nursery
    ) -> None:
        kind = model.KIND_OF[type(what)]
        victim = getattr(what, "client", None)
        if victim is None:
            self.journal.note("fault", kind, **_particulars(what))
            match what:
                case model.Flood():
                    self._flood(what, label, nursery)
                case model.BadFrames():
                    async with trio.open_nursery() as bad:
                        for i in range(what.connections):
                            bad.start_soon(self._talk_badly, what.kinds[i % len(what.kinds)], i)
                case model.Send():
                    await self._send(what)
                case _:
                    await self.engine.strike(what)
            return
        there = [name for name in self.engine.clients() if _like(victim, name)]
        if not there:
            self.journal.note("fault", kind, client=victim, missed=True)
            return
        client = rng.choice(there)
        self.journal.note("fault", kind, **{**_particulars(what), "client": client})
        link = self.engine.link(client)
        match what:
            case model.Cut(inside_frame=True):
                link.cut_inside_frame(rng.randint(1, 40))
            case model.Cut():
                link.cut()
            case model.Stall():
                link.stall(trio.current_time() + what.for_.pick(rng))
            case model.HalfOpen():
                link.go_silent()
                self._restart_client(client)
            case model.SplitBytes():
                link.split(what.size)
                await self._after(what.for_, rng, lambda: link.split(0))
            case model.SlowReader():
                link.throttle(float(what.bytes_per_second))
                await self._after(what.for_, rng, lambda: link.throttle(inf))

    async def _after(self, span: model.Span | None, rng: random.Random, undo: Any) -> None:
        if span is not None:
            await trio.sleep(span.pick(rng))
            undo()

    def _restart_client(self, client: str) -> None:
        """Its machine died with the connection: nothing of that side is closed or answered."""
        for actor in self.actors:
            if actor.name == client and actor.session is not None:
                actor.session.scope.cancel()

    def _flood(self, flood: model.Flood, label: str, nursery: trio.Nursery) -> None:
        spec = Client(
            name=f"flood-{label}",
            number=flood.connections,
            reconnect=None,
            leaves=True,
            reads=flood.reads,
            publish=(
                model.Publish(
                    queue=flood.queue, topic=flood.topic, count=flood.count,
                    body_bytes=flood.body_bytes, window=model.Count(flood.count),
                    retry=False,
                ),
            ),
        )  # fmt: skip
        for one, name in cast((spec,)):
            actor = Actor(one, name, self)
            self.actors.append(actor)
            nursery.start_soon(actor.run, name=f"client {name}")

    async def _talk_badly(self, kind: str, number: int) -> None:
        name = f"bad-{kind}-{number}"
        try:
            stream = await self.engine.dial(name)
        except OSError:
            self.journal.note(name, "no broker")
            return
        heard = b""
        closed = False
        with trio.move_on_after(45):
            try:
                await stream.send_all(BAD[kind])
                while True:
                    data = await stream.receive_some(1 << 16)
                    if not data:
                        break
                    heard += data
            except GONE:
                pass
            closed = True
        codes = [
            frame.get("code") for frame in map(_decode, heard.splitlines())
            if frame.get("type") == "error"
        ]  # fmt: skip
        self.journal.note(name, "bad frame", codes=codes, closed=closed)
        await trio.aclose_forcefully(stream)

    async def _send(self, what: model.Send) -> None:
        try:
            async with operator(self) as ask:
                answer = await ask(what.frame)
        except Lost:
            answer = {"type": "nothing"}
        self.journal.note("operator", "answer", **_brief(answer))

    # -- the last look ----------------------------------------------------------------------

    async def _sweep(self, sources: Sequence[str]) -> None:
        """Take out and note what is still in the queues, and in their dead queues."""
        try:
            async with operator(self) as ask:
                stats = await ask({"action": "stats"})
                names = [row["name"] for row in stats.get("queues", [])]
                restarts = sum(int(row.get("restarts", 0)) for row in
                               [*stats.get("queues", []), *stats.get("topics", [])])  # fmt: skip
                self.journal.note("play", "stats", restarts=restarts)
                for name in names:
                    await ask({"action": "resume", "topic": name})
                for name in sorted(names, key=lambda name: name.endswith(".dead")):
                    await self._empty(name, ask)
        except Lost:
            self.journal.note("play", "not swept")

    async def _empty(self, name: str, ask: Any) -> None:
        until = trio.current_time() + self.engine.sweep_s
        pattern, _, group = name.partition("@")
        where: Frame = {"topic": pattern, "mode": "queue"}
        source = f"queue {name}"
        if group:
            where = {"topic": pattern, "group": group}
            source = f"group {name}"
        while True:
            got: list[Frame] = []
            answer = await ask({"action": "get", "n": 500, "wait": 0, **where}, got)
            for frame in got:
                self._note_found(frame, source)
            tags = [frame["tag"] for frame in got]
            if tags:
                await ask({"action": "ack", "tags": tags})
                continue
            if answer.get("type") == "error":
                self.journal.note("play", "unreachable", source=source, code=answer.get("code"))
                return
            live = await self._live(name, ask)
            if not live:
                return
            if trio.current_time() >= until:
                self.journal.note("play", "unreachable", source=source, count=live)
                return
            await trio.sleep(min(0.25, self.engine.sweep_s / 10))

    async def _live(self, name: str, ask: Any) -> int:
        for row in (await ask({"action": "stats"})).get("queues", []):
            if row["name"] == name and row["state"] == "running":
                return live_of(row)
        return 0

    def _note_found(self, frame: Frame, source: str) -> None:
        body = frame.get("message")
        key = body.get("k") if isinstance(body, dict) else None
        if key is None or key not in self.bodies:
            key = frame.get("message_id")
        what: Frame = {"key": key, "from": source, "attempt": frame.get("attempt")}
        if key not in self.bodies:
            what["unknown"] = True
        elif self.bodies[key] != body:
            what["altered"] = True
        self.journal.note("play", "found", **what)


def live_of(row: Frame) -> int:
    """The messages of one queue, of a row of `stats`."""
    return sum(int(row.get(part, 0)) for part in ("ready", "leased", "delayed", "pending"))


class Lost(Exception):
    """The operator's connection ended, or there is no broker."""


@asynccontextmanager
async def operator(play: Play) -> "AsyncIterator[Any]":
    """A connection that asks: `await ask(frame, messages)`; messages on the way are gathered."""
    try:
        stream = await play.engine.dial("operator")
    except OSError:
        raise Lost from None
    session = Session(stream)
    state: dict[str, Any] = {"left": b"", "lines": [], "n": 0}

    async def ask(frame: Frame, messages: list[Frame] | None = None) -> Frame:
        state["n"] += 1
        request_id = f"op-{state['n']}"
        if not await session.say({**frame, "id": request_id}):
            raise Lost
        while True:
            while state["lines"]:
                answer: Frame = _decode(state["lines"].pop(0))
                if answer.get("id") == request_id:
                    return answer
                if answer.get("type") == "message" and messages is not None:
                    messages.append(answer)
            try:
                data = await stream.receive_some(1 << 16)
            except GONE:
                raise Lost from None
            if not data:
                raise Lost
            *state["lines"], state["left"] = (state["left"] + data).split(b"\n")

    try:
        yield ask
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


def _particulars(what: model.What) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for field in attrs.fields(type(what)):
        value = getattr(what, field.name)
        if isinstance(value, model.Span):
            value = value.low if value.low == value.high else [value.low, value.high]
        if value is not None and value != field.default:
            shown[field.name.removesuffix("_")] = value
    return shown


def _brief(answer: Frame) -> Frame:
    shown = {k: v for k, v in answer.items() if k in ("count", "code", "topic", "paused")}
    return {"said": answer.get("type"), **shown}


BAD: dict[str, bytes] = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost:8888\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + bytes(range(1, 120)),
    "garbage": bytes(range(255, 127, -1)) + b"\n",
    "deep": b'{"action":' + b"[" * 5000 + b"]" * 5000 + b"}\n",
    "huge": b'{"action":"publish","topic":"t","message":"' + b"x" * (2 << 20),
    "half": b'{"action":"publish","topic":"t","mess',
    "lf": b'{"action":"publish","topic":"t",\n"message":1}\n',
    "surrogate": b'{"action":"publish","topic":"t","message":"\\ud800"}\n',
}
