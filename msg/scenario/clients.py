"""The clients of a scenario: publishers, consumers, subscribers, requesters, and recordings.

They are honest and simple, know nothing of the broker but the protocol, and write into the
journal what they sent and heard; the checker judges by that alone. The same code runs on
both engines: a stage gives it a stream to the broker.

Every body that they publish names itself (`{"k": "producer/17"}`), so that a message is
known again wherever it turns up, whatever the broker says of it.
"""

import random
from base64 import b64decode
from collections import deque
from collections.abc import Iterator, Mapping
from math import inf
from typing import Any, Protocol

import attrs
import msgspec
import trio

from msg.scenario.journal import Journal
from msg.scenario.model import Client, Consume, Publish, Request, Respond, Say, Subscribe

_encode = msgspec.json.encode
_decode = msgspec.json.decode
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
READ_BYTES = 1 << 16
PARROT_WAITS_S = 10.0  # for the delivery that it answered when it was recorded
PROMISES = ("durability", "delay", "ttl", "priority")  # of a publish: what the checker goes by
Frame = dict[str, Any]
SHOWN = ("topic", "group", "sub", "id", "message_id", "count", "failed", "reason", "code")


class Stage(Protocol):
    """What a client is given of the play."""

    journal: Journal
    bodies: dict[str, Any]  # of all that was ever published, by key
    inboxes: dict[str, str]  # of those that said hello, by name

    def stream(self, purpose: str) -> random.Random:
        """A source of chance for one purpose."""

    async def dial(self, client: str) -> trio.abc.HalfCloseableStream:
        """Connect. Raises OSError when nobody listens."""

    def drop(self, client: str) -> None:
        """Reset this client's connection."""

    def fresh(self, client: Client, name: str) -> None:
        """A new connection of this client stands: its standing faults apply."""


class Session:
    """One connection of a client: what may be sent on it."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, *, reads: bool = True) -> None:
        self.stream = stream
        self.reads = reads
        self._lock = trio.Lock()
        self.scope = trio.CancelScope()

    async def say(self, frame: Frame) -> bool:
        """Send one frame; False when the connection is gone."""
        return await self.say_bytes(_encode(frame) + b"\n")

    async def say_bytes(self, data: bytes) -> bool:
        try:
            async with self._lock:
                await self.stream.send_all(data)
        except GONE:
            if not self.reads:
                self.scope.cancel()
            return False  # the reader finds the end too, after the broker's last words
        return True


class Actor:
    """A client with all its roles, over all its connections."""

    def __init__(self, spec: Client, name: str, stage: Stage) -> None:
        self.spec = spec
        self.name = name
        self.stage = stage
        self.rng = stage.stream(f"client {name}")
        self.roles: list[Role] = [
            *(Publisher(self, role, i) for i, role in enumerate(spec.publish)),
            *(Consumer(self, role, f"c{i}") for i, role in enumerate(spec.consume)),
            *(Subscriber(self, role, f"s{i}") for i, role in enumerate(spec.subscribe)),
            *(Requester(self, role, f"q{i}") for i, role in enumerate(spec.request)),
            *(Responder(self, role, f"r{i}") for i, role in enumerate(spec.respond)),
        ]
        if spec.say:
            self.roles.append(Parrot(self, spec.say))
        self.by_sub = {role.sub: role for role in self.roles if role.sub}
        self.inbox = ""
        self.connects = 0
        self.leaving = False
        self.gone = False  # for good
        self.session: Session | None = None

    def note(self, kind: str, /, **what: Any) -> None:
        self.stage.journal.note(self.name, kind, **what)

    @property
    def finished(self) -> bool:
        """Whether it has nothing more to do of itself."""
        return self.gone or not self.spec.reads or all(role.finished for role in self.roles)

    async def run(self) -> None:
        """Connect, again and again, until it leaves."""
        await trio.sleep(self.spec.start.pick(self.rng))
        with trio.move_on_after(inf if self.spec.stop is None else self.spec.stop) as scope:
            await self._live()
        if scope.cancelled_caught:
            self.note("left")
        self.gone = True

    async def _live(self) -> None:
        refused = False
        while True:
            try:
                stream = await self.stage.dial(self.name)
            except OSError:
                if not refused:
                    self.note("no broker")
                refused = True
            else:
                refused = False
                self.connects += 1
                await self._session(stream)
            if self.spec.reconnect is None or self.leaving:
                return
            await trio.sleep(self.spec.reconnect.pick(self.rng))

    async def _session(self, stream: trio.abc.HalfCloseableStream) -> None:
        session = self.session = Session(stream, reads=self.spec.reads)
        self.note("connected")
        self.stage.fresh(self.spec, self.name)
        try:
            with session.scope:
                async with trio.open_nursery() as nursery:
                    if self.spec.reads:
                        nursery.start_soon(self._read, session, nursery)
                    else:
                        nursery.start_soon(trio.sleep_forever)
                    await self._greet(session)
                    for role in self.roles:
                        nursery.start_soon(role.serve, session)
            self.session = None
            for role in self.roles:
                role.lost()
            self.note("lost")
        finally:  # also when the play is over: what it holds is there for the last look
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    async def _greet(self, session: Session) -> None:
        wants_inbox = any(isinstance(role, Requester) for role in self.roles)
        if self.spec.heartbeat is not None or wants_inbox:
            frame: Frame = {"action": "hello", "name": self.name, "id": "hello"}
            if self.spec.heartbeat is not None:
                frame["heartbeat"] = self.spec.heartbeat
            await session.say(frame)
        for role in self.roles:
            await role.begin(session)

    # -- reading ----------------------------------------------------------------------------

    async def _read(self, session: Session, nursery: trio.Nursery) -> None:
        left = b""
        if self.spec.heartbeat is not None:
            nursery.start_soon(self._beat, session, self.spec.heartbeat)
        while True:
            try:
                data = await session.stream.receive_some(READ_BYTES)
            except GONE:
                break
            if not data:
                break
            *lines, left = (left + data).split(b"\n")
            for line in lines:
                await self._hear(_decode(line), session)
        session.scope.cancel()

    async def _beat(self, session: Session, heartbeat: float) -> None:
        """Two signs of life in each interval, as libraries do it."""
        while True:
            if not await session.say({"action": "pong"}):
                return
            await trio.sleep(heartbeat / 2)

    async def _hear(self, frame: Frame, session: Session) -> None:
        kind = frame.get("type")
        if kind == "message":
            role = self.by_sub.get(frame.get("sub", ""))
            if role is None:
                role = next((r for r in self.roles if isinstance(r, Parrot)), None)
            if role is None:
                self.note("stray", frame=frame)
            else:
                await role.heard(frame, session)
        elif kind == "ping":
            await session.say({"action": "pong"})
        elif kind == "hello":
            self.inbox = self.stage.inboxes[self.name] = frame.get("inbox", "")
            for role in self.roles:
                await role.greeted(session)
        elif kind == "error":
            self._note_error(frame)
            for role in self.roles:
                if role.answered(frame):
                    break
        elif kind in ("ack", "acked"):
            if not any([role.answered(frame) for role in self.roles]):
                self.note("answer", **_brief(frame))
        elif kind != "pong":
            self.note(str(kind), **_brief(frame))

    def _note_error(self, frame: Frame) -> None:
        self.note(
            "error", code=frame.get("code"), error=frame.get("error"),
            closes=frame.get("closes"), mid=frame.get("message_id"),
        )  # fmt: skip

    def received(self, frame: Frame, sub: str, source: str) -> str:
        """Note a delivery; returns the message's key."""
        body = frame.get("message")
        bodies = self.stage.bodies
        key = body.get("k") if isinstance(body, dict) else None
        if key is None or key not in bodies:
            key = frame.get("message_id")
        what: Frame = {"key": key, "from": source, "mid": frame.get("message_id")}
        if key not in bodies:
            what["unknown"] = True
        elif bodies[key] != body:
            what["altered"] = True
        for name in ("tag", "attempt", "returned", "dropped", "replayed", "seq", "ack_timeout"):
            if name in frame:
                what[name] = frame[name]
        what["sub"] = sub
        self.note("message", **what)
        return str(key)


def _brief(frame: Frame) -> Frame:
    return {
        name: value for name, value in frame.items()
        if name in SHOWN
    }  # fmt: skip


# -- roles ----------------------------------------------------------------------------------


class Role:
    """A part that a client plays on each of its connections."""

    sub = ""  # the name of its subscription, if it has one
    finished = True

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.rng = actor.rng
        self.note = actor.note

    async def begin(self, session: Session) -> None:
        """First words on a connection."""

    async def greeted(self, session: Session) -> None:
        """`hello` was answered."""

    async def serve(self, session: Session) -> None:
        """What is done of itself while the connection lives."""

    async def heard(self, frame: Frame, session: Session) -> None:
        """A delivery."""

    def answered(self, frame: Frame) -> bool:
        """An answer: True if it was for this role."""
        return False

    def lost(self) -> None:
        """The connection is gone."""


def place(mode_queue: str, topic: str) -> Frame:
    """`topic` and `mode` of a frame."""
    return {"topic": mode_queue, "mode": "queue"} if mode_queue else {"topic": topic}


@attrs.define(eq=False)
class Item:
    """One publication, until its outcome is known."""

    key: str
    frame: Frame
    request_id: str | None
    sent: int = 0


class Publisher(Role):
    """Publishes in order, some unanswered at a time; what has no answer is sent again."""

    def __init__(self, actor: Actor, spec: Publish, number: int) -> None:
        super().__init__(actor)
        self.spec = spec
        self.prefix = actor.name if number == 0 else f"{actor.name}.{number}"
        self.to = f"queue {spec.queue}" if spec.queue else f"topic {spec.topic}"
        self.next = 0
        self.due = -inf
        self.unanswered: dict[str, Item] = {}
        self.again: deque[tuple[float, Item]] = deque()
        self._poke = trio.Event()

    @property
    def finished(self) -> bool:  # type: ignore[override]
        return self.next >= self.spec.count and not self.unanswered and not self.again

    async def serve(self, session: Session) -> None:
        if self.due == -inf:
            self.due = trio.current_time() + self.spec.start.pick(self.rng)
        for item in list(self.unanswered.values()):  # of the last connection, in order
            await self._send(item, session)
        while not self.finished:
            now = trio.current_time()
            if self.again and self.again[0][0] <= now:
                item = self.again.popleft()[1]
                self.unanswered[item.key] = item
                await self._send(item, session)
                continue
            may = self.next < self.spec.count and len(self.unanswered) < self.spec.window
            if may and self.due <= now:
                item = self._new()
                self.unanswered[item.key] = item
                self.due = max(self.due + self.spec.every.pick(self.rng), now)
                await self._send(item, session)
                if self.spec.again and self.rng.random() < self.spec.again:
                    await self._send(item, session)
                continue
            due = self.again[0][0] if self.again else inf
            if may:
                due = min(due, self.due)
            self._poke = trio.Event()
            with trio.CancelScope(deadline=due):
                await self._poke.wait()
        if self.actor.spec.leaves and self.actor.finished:
            self.actor.leaving = True
            session.scope.cancel()

    def _new(self) -> Item:
        spec, rng = self.spec, self.rng
        number = self.next
        self.next += 1
        key = f"{self.prefix}/{number}"
        body: Frame = {"k": key, "n": number}
        if spec.body_bytes:
            body["pad"] = "x" * spec.body_bytes
        frame: Frame = {"action": "publish", **place(spec.queue, spec.topic), "message": body}
        if spec.ids:
            frame["message_id"] = key
        else:
            frame["id"] = key
        if spec.durability:
            frame["durability"] = spec.durability
        if spec.delay is not None:
            frame["delay"] = round(spec.delay.pick(rng), 3)
        if spec.ttl is not None:
            frame["ttl"] = spec.ttl
        if spec.priority:
            frame["priority"] = rng.choice(spec.priority)
        self.actor.stage.bodies[key] = body
        return Item(key, frame, frame.get("id"))

    async def _send(self, item: Item, session: Session) -> None:
        item.sent += 1
        what: Frame = {name: item.frame[name] for name in PROMISES if name in item.frame}
        if item.sent > 1:
            what["times"] = item.sent
        self.note("publish", key=item.key, to=self.to, **what)
        await session.say(item.frame)

    def answered(self, frame: Frame) -> bool:
        key = frame.get("message_id") if self.spec.ids else frame.get("id")
        item = self.unanswered.pop(key, None) if key is not None else None
        if item is None:
            return key is not None and key.startswith(self.prefix + "/")  # of a second sending
        if frame["type"] == "ack":
            what = {"duplicate": True} if frame.get("duplicate") else {}
            if frame.get("receivers") == 0:
                what["unheard"] = True
            self.note("acked", key=item.key, **what)
        elif frame.get("retry") == "never" or not self.spec.ids or not self.spec.retry:
            self.note("refused", key=item.key, code=frame.get("code"))
        else:
            self.note("put off", key=item.key, code=frame.get("code"))
            # longer each time, as libraries do it
            wait = self.spec.retry_after.pick(self.rng) * min(2 ** (item.sent - 1), 16)
            self.again.append((trio.current_time() + wait, item))
        self._poke.set()
        return True

    def lost(self) -> None:
        if self.spec.ids:
            return
        for item in self.unanswered.values():  # it may be there or not: it is not sent again
            self.note("unknown", key=item.key)
        self.unanswered.clear()


class Consumer(Role):
    """Takes messages from a queue or a group, and works on one after the other."""

    def __init__(self, actor: Actor, spec: Consume, sub: str) -> None:
        super().__init__(actor)
        self.spec = spec
        self.sub = sub
        self.source = f"queue {spec.queue}" if spec.queue else f"group {spec.topic}@{spec.group}"
        self.waiting: deque[Frame] = deque()
        self.seen = 0
        self.asked = 0
        self._asks: dict[str, list[Any]] = {}
        self._poke = trio.Event()

    async def begin(self, session: Session) -> None:
        spec = self.spec
        frame: Frame = {"action": "subscribe", **place(spec.queue, spec.topic), "sub": self.sub,
                        "prefetch": spec.prefetch, "id": f"sub-{self.sub}"}  # fmt: skip
        if spec.group:
            frame["group"] = spec.group
        if spec.from_:
            frame["from"] = spec.from_
        if spec.ack_timeout is not None:
            frame["ack_timeout"] = spec.ack_timeout
        self.seen = 0
        await session.say(frame)

    async def heard(self, frame: Frame, session: Session) -> None:
        key = self.actor.received(frame, self.sub, self.source)
        self.seen += 1
        if self.spec.leave_after and self.seen >= self.spec.leave_after:
            self.note("leaves", holding=[key])
            await trio.aclose_forcefully(session.stream)
            session.scope.cancel()
            return
        self.waiting.append(frame)
        self._poke.set()

    async def serve(self, session: Session) -> None:
        while True:
            while self.waiting:
                await self._work_on(self.waiting.popleft(), session)
            self._poke = trio.Event()
            await self._poke.wait()

    async def _work_on(self, frame: Frame, session: Session) -> None:
        spec, tag = self.spec, frame["tag"]
        takes = spec.ack_after.pick(self.rng)
        if takes:
            await trio.sleep(takes)
        body = frame.get("message")
        key = body.get("k", "") if isinstance(body, dict) else ""
        number = body.get("n") if isinstance(body, dict) else None
        fate = spec.on_poison if number in spec.poison else self._fate()
        if fate == "ack":
            ask: Frame = {"action": "ack"}
            ask |= {"tag": tag} if spec.ack_by == "tag" else {"message_id": frame["message_id"]}
            await self._settle(ask, "ack", key, tag, session)
        elif fate in ("nack", "reject"):
            ask = {"action": "nack", "tag": tag, "reason": "cannot do it"}
            if fate == "reject":
                ask["requeue"] = False
            await self._settle(ask, fate, key, tag, session)
        elif fate == "crash":
            self.note("dies", holding=[key])
            self.actor.stage.drop(self.actor.name)
            session.scope.cancel()
            await trio.lowlevel.checkpoint()
        elif fate == "hang":
            self.note("hangs", holding=[key])
            await trio.sleep_forever()
        else:
            self.note("forgets", key=key, tag=tag)

    def _fate(self) -> str:
        spec = self.spec
        if not (spec.nack or spec.crash or spec.forget):
            return "ack"
        x = self.rng.random()
        for fate, odds in (("nack", spec.nack), ("crash", spec.crash), ("forget", spec.forget)):
            if x < odds:
                return fate
            x -= odds
        return "ack"

    async def _settle(self, frame: Frame, kind: str, key: str, tag: int, session: Session) -> None:
        if self.spec.confirm:
            self.asked += 1
            frame["id"] = f"{self.sub}-{self.asked}"
            self._asks[frame["id"]] = [kind, key]
        self.note("settle", how=kind, key=key, **{"from": self.source}, tag=tag)
        await session.say(frame)

    def answered(self, frame: Frame) -> bool:
        asked = self._asks.pop(frame.get("id", ""), None)
        if asked is None:
            return False
        kind, key = asked
        if frame["type"] == "acked" and not frame.get("failed"):
            self.note("settled", how=kind, key=key, **{"from": self.source})
        else:
            failed = frame.get("failed") or [frame]
            self.note("not settled", how=kind, key=key, code=failed[0].get("code"))
        return True

    def lost(self) -> None:
        self.waiting.clear()
        self._asks.clear()


class Subscriber(Role):
    """Listens."""

    def __init__(self, actor: Actor, spec: Subscribe, sub: str) -> None:
        super().__init__(actor)
        self.spec = spec
        self.sub = sub

    async def begin(self, session: Session) -> None:
        frame: Frame = {"action": "subscribe", "topic": self.spec.topic, "sub": self.sub,
                        "id": f"sub-{self.sub}"}  # fmt: skip
        if self.spec.from_:
            start = self.spec.from_
            frame["from"] = int(start) if start.isdecimal() else start
        await session.say(frame)

    async def heard(self, frame: Frame, session: Session) -> None:
        self.actor.received(frame, self.sub, f"topic {self.spec.topic}")


class Requester(Role):
    """Asks, and notes which questions were answered in time."""

    def __init__(self, actor: Actor, spec: Request, sub: str) -> None:
        super().__init__(actor)
        self.spec = spec
        self.sub = sub
        self.next = 0
        self.open: dict[str, float] = {}
        self.ready = trio.Event()

    @property
    def finished(self) -> bool:  # type: ignore[override]
        return self.next >= self.spec.count and not self.open

    async def greeted(self, session: Session) -> None:
        topic = f"{self.actor.inbox}.{self.sub}"
        await session.say({"action": "subscribe", "topic": topic, "sub": self.sub})
        self.ready.set()

    async def serve(self, session: Session) -> None:
        await self.ready.wait()
        spec = self.spec
        while not self.finished:
            if self.next < spec.count:
                key = f"{self.actor.name}.{self.sub}/{self.next}"
                self.next += 1
                body = {"k": key, "ask": True}
                self.actor.stage.bodies[key] = body
                self.open[key] = trio.current_time() + spec.timeout
                self.note("ask", key=key)
                await session.say({
                    "action": "publish", **place(spec.queue, spec.topic), "message": body,
                    "reply_to": f"{self.actor.inbox}.{self.sub}", "correlation_id": key,
                })  # fmt: skip
                await trio.sleep(spec.every.pick(self.rng))
            else:
                await trio.sleep(max(0.0, min(self.open.values()) - trio.current_time()))
            self._give_up()

    def _give_up(self) -> None:
        now = trio.current_time()
        for key in [key for key, until in self.open.items() if until <= now]:
            del self.open[key]
            self.note("unanswered", key=key)

    async def heard(self, frame: Frame, session: Session) -> None:
        key = frame.get("correlation_id", "")
        if self.open.pop(key, None) is not None:
            self.note("answered", key=key)

    def lost(self) -> None:
        for key in self.open:
            self.note("unanswered", key=key)
        self.open.clear()
        self.ready = trio.Event()


class Responder(Role):
    """Answers what asks."""

    def __init__(self, actor: Actor, spec: Respond, sub: str) -> None:
        super().__init__(actor)
        self.spec = spec
        self.sub = sub

    async def begin(self, session: Session) -> None:
        frame: Frame = {"action": "subscribe", **place(self.spec.queue, self.spec.topic),
                        "sub": self.sub, "id": f"sub-{self.sub}"}  # fmt: skip
        if self.spec.queue:
            frame["prefetch"] = 10
        await session.say(frame)

    async def heard(self, frame: Frame, session: Session) -> None:
        if "reply_to" not in frame:
            return
        key = frame.get("correlation_id", "")
        body = {"k": f"re:{key}"}
        self.actor.stage.bodies[body["k"]] = body
        if self.spec.after.high:
            await trio.sleep(self.spec.after.pick(self.rng))
        await session.say({
            "action": "publish", "topic": frame["reply_to"], "message": body,
            "correlation_id": key,
        })  # fmt: skip
        if "tag" in frame:
            await session.say({"action": "ack", "tag": frame["tag"]})


class Parrot(Role):
    """Says what a recorded client said, at its times.

    An answer to a delivery waits for that delivery. `{inbox NAME}` is another client's inbox.
    """

    def __init__(self, actor: Actor, lines: tuple[Say, ...]) -> None:
        super().__init__(actor)
        self.lines = lines
        self.done = 0
        self.held: dict[int, tuple[str, str]] = {}  # tag -> key, source
        self.asked: dict[str, str] = {}  # id of a publish -> key
        self.sources: dict[str, str] = {}  # sub or group -> source
        self._poke = trio.Event()

    @property
    def finished(self) -> bool:  # type: ignore[override]
        return self.done >= len(self.lines)

    async def serve(self, session: Session) -> None:
        begun = trio.current_time()
        for line in self.lines[self.done :]:
            await trio.sleep_until(begun + line.at)
            self.done += 1
            if line.reset:
                self.actor.leaving = True
                self.actor.stage.drop(self.actor.name)
                session.scope.cancel()
            elif line.close:
                self.actor.leaving = True
                await session.stream.send_eof()
            else:
                await session.say_bytes(await self._bytes(line))

    async def _bytes(self, line: Say) -> bytes:
        if line.base64:
            return b64decode(line.base64)
        frame = line.frame if line.frame is not None else _frame_in(line.text or "")
        if frame is None:
            self.note("say", text=line.text)
            return (line.text or "").encode()
        frame = _filled_in(frame, self.actor.stage.inboxes)
        action = frame.get("action", frame.get("type"))
        if action == "publish":
            self._publish(frame)
        elif action in ("ack", "nack"):
            await self._settle(frame, str(action))
        else:
            self.note("say", frame=frame)
            if action == "subscribe" and "topic" in frame:
                name = str(frame.get("sub") or frame.get("group") or frame["topic"])
                self.sources[name] = _source(frame)
        return _encode(frame) + b"\n"

    def _publish(self, frame: Frame) -> None:
        body = frame.get("message")
        key = str(frame.get("message_id") or (body.get("k") if isinstance(body, dict) else ""))
        if not key:
            self.note("say", frame=frame)
            return
        self.actor.stage.bodies.setdefault(key, body)
        if "id" in frame:
            self.asked[str(frame["id"])] = key
        what = {name: frame[name] for name in PROMISES if name in frame}
        mode = "queue" if frame.get("mode") == "queue" else "topic"
        self.note("publish", key=key, to=f"{mode} {frame.get('topic')}", **what)

    async def _settle(self, frame: Frame, action: str) -> None:
        tags = frame.get("tags") or [frame["tag"]] if "tag" in frame or "tags" in frame else []
        with trio.move_on_after(PARROT_WAITS_S):
            while not all(tag in self.held for tag in tags):
                self._poke = trio.Event()
                await self._poke.wait()
        ids = frame.get("message_ids") or [frame.get("message_id")]
        tags += [tag for tag, (key, _) in self.held.items() if key in ids and tag not in tags]
        how = "reject" if action == "nack" and frame.get("requeue") is False else action
        for tag in tags:
            if tag in self.held:
                key, source = self.held[tag]
                self.note("settle", how=how, key=key, **{"from": source}, tag=tag)

    async def heard(self, frame: Frame, session: Session) -> None:
        known = self.sources.get(frame.get("sub") or frame.get("group") or frame["topic"])
        source = known or _source(frame)
        key = self.actor.received(frame, frame.get("sub", ""), source)
        if "tag" in frame:
            self.held[frame["tag"]] = key, source
            self._poke.set()
        elif not source.startswith("topic "):  # acked by being sent
            self.note("settle", how="ack", key=key, **{"from": source}, tag=0)

    def answered(self, frame: Frame) -> bool:
        key = frame.get("message_id", "")
        if key not in self.actor.stage.bodies:
            key = self.asked.get(frame.get("id", ""), "")
        if not key:
            return False
        if frame["type"] == "ack":
            what = {"duplicate": True} if frame.get("duplicate") else {}
            self.note("acked", key=key, **what)
        elif frame["type"] == "error":
            self.note("refused", key=key, code=frame.get("code"))
        return True


def _frame_in(text: str) -> Frame | None:
    """The frame that this text is, if it is one."""
    try:
        frame = _decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return frame if isinstance(frame, dict) else None


def _filled_in(value: Any, inboxes: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled_in(inner, inboxes) for key, inner in value.items()}
    if isinstance(value, str) and value.startswith("{inbox "):
        name, _, rest = value.removeprefix("{inbox ").partition("}")
        return inboxes.get(name, f"nowhere.{name}") + rest
    return value


def _source(frame: Frame) -> str:
    if frame.get("group"):
        return f"group {frame['topic']}@{frame['group']}"
    return f"{'queue' if frame.get('mode') == 'queue' else 'topic'} {frame['topic']}"


def cast(clients: tuple[Client, ...]) -> Iterator[tuple[Client, str]]:
    """Every client by its own name."""
    for client in clients:
        if client.number == 1:
            yield client, client.name
        else:
            for n in range(1, client.number + 1):
                yield client, f"{client.name}-{n}"
