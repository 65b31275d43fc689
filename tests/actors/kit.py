"""A broker in this process, with a simulated disk, a virtual clock and memory for a network.

    async with running() as broker:
        client = broker.client()
        await client.send(action="publish", topic="jobs", mode="queue", message=1)
        await client.expect("ack")

Use it with the `autojump_clock` fixture: nothing here really sleeps, and what waits for ever
fails after `PATIENCE_S` virtual seconds with the frames that did come.
"""

import json
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Any, TypeVar

import attrs
import trio

from msg.actors.broker import Broker, run_broker
from msg.actors.connection import Connection
from msg.actors.queue import Queue, QueueActor
from msg.config import Limits, Settings
from msg.store.simdisk import SimDisk
from tests.actors.cable import End, cable

T = TypeVar("T")
Frame = dict[str, Any]
PATIENCE_S = 100.0  # virtual
EPOCH = 1_764_000_000.0


class SimWorld:
    """A World whose time is trio's (virtual) clock and whose disk is simulated.

    `hold_disk` makes all disk work wait until `free_disk`: a stalled sync.
    """

    def __init__(self, disk: SimDisk | None = None, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.disk: SimDisk = disk or SimDisk(random.Random(seed))
        self.jumped = 0.0  # seconds that the wall clock was set forward
        self._gate: trio.Event | None = None

    def now(self) -> float:
        return trio.current_time()

    def wall(self) -> float:
        return EPOCH + trio.current_time() + self.jumped

    async def in_disk_thread(self, work: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        if self._gate is not None:
            with trio.CancelScope(shield=True):  # a thread cannot be cancelled either
                await self._gate.wait()
        try:
            return work()
        finally:
            owed = self.disk.take_latency()
            if owed:
                with trio.CancelScope(shield=True):
                    await trio.sleep(owed)

    def hold_disk(self) -> None:
        if self._gate is None:
            self._gate = trio.Event()

    def free_disk(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.set()


@attrs.define
class Log:
    """A logger that remembers. `errors` are what a test must expect by name."""

    lines: list[tuple[str, str, dict[str, Any]]] = attrs.field(factory=list)

    def debug(self, event: str, **fields: Any) -> None:
        self.lines.append(("debug", event, fields))

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append(("warning", event, fields))

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append(("error", event, fields))

    def said(self, event: str) -> list[dict[str, Any]]:
        return [fields for _, said, fields in self.lines if said == event]

    @property
    def errors(self) -> list[str]:
        return [event for level, event, _ in self.lines if level == "error"]


class Client:
    """One client. It reads only when asked to, as a client that has hung would."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = bytearray()
        self._frames: deque[Frame] = deque()
        self.seen: list[Frame] = []  # all that was ever received, for messages of failures

    @property
    def end(self) -> End:
        assert isinstance(self.stream, End)
        return self.stream

    # -- saying ---------------------------------------------------------------------------

    async def send(self, _frame: Frame | None = None, /, **fields: Any) -> None:
        """One frame, without a newline: `send(action="ping")`; `from_` stands for `from`."""
        frame = dict(_frame or {}, **fields)
        if "from_" in frame:
            frame["from"] = frame.pop("from_")
        await self.raw(json.dumps(frame).encode())

    async def send_all(self, *frames: Frame) -> None:
        """Several frames in one write."""
        await self.raw(b"".join([json.dumps(frame).encode() + b"\n" for frame in frames]))

    async def raw(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def publish(self, topic: str, message: Any, mode: str = "queue", **more: Any) -> Frame:
        """Publish to a queue and take the answer."""
        await self.send(action="publish", topic=topic, message=message, mode=mode, **more)
        return await self.expect("ack")

    async def subscribe(self, topic: str, mode: str = "queue", **more: Any) -> Frame:
        """Subscribe to a queue and take the answer; deliveries may stand before others'."""
        await self.send(action="subscribe", topic=topic, mode=mode, id="s", **more)
        return await self.expect("subscribed", id="s")

    async def ask(self, action: str, type_: str | None = None, **fields: Any) -> Frame:
        """A request and its answer, by id; other frames are kept for later."""
        await self.send(dict(fields), action=action, id="ask")
        kept: list[Frame] = []
        while True:
            frame = await self.read()
            if frame.get("id") == "ask":
                self._frames.extendleft(reversed(kept))
                if type_ is not None:
                    assert frame["type"] == type_, frame
                return frame
            kept.append(frame)

    # -- hearing --------------------------------------------------------------------------

    async def read(self) -> Frame:
        """The next frame. EOFError when the broker has closed."""
        with trio.move_on_after(PATIENCE_S):
            while not self._frames:
                if not await self._fill():
                    raise EOFError(f"closed after {self.seen[-5:]}")
            return self._frames.popleft()
        raise AssertionError(f"nothing came; the last frames were {self.seen[-5:]}")

    async def _fill(self) -> bool:
        data = await self.stream.receive_some(1 << 20)
        if not data:
            return False
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        for line in lines:
            frame = json.loads(line)
            self._frames.append(frame)
            self.seen.append(frame)
        return True

    async def expect(self, type_: str, **fields: Any) -> Frame:
        """The next frame is of this type and has these fields."""
        frame = await self.read()
        shown = {"type": frame.get("type"), **{key: frame.get(key) for key in fields}}
        assert shown == {"type": type_, **fields}, frame
        return frame

    async def messages(self, count: int) -> list[Any]:
        """The bodies of the next frames, which are all messages."""
        return [(await self.expect("message"))["message"] for _ in range(count)]

    async def silence(self, seconds: float = 5.0) -> None:
        """Nothing comes for so long."""
        with trio.move_on_after(seconds):
            while not self._frames:
                if not await self._fill():
                    raise EOFError("the broker closed")
        assert not self._frames, list(self._frames)

    async def until(self, *types: str) -> Frame:
        """The next frame of one of these types; the others are in `seen`."""
        while True:
            frame = await self.read()
            if frame["type"] in types:
                return frame

    async def answers(self, *ids: str) -> list[Frame]:
        """The answers with these ids, in whatever order they come; or came already."""
        found = {f["id"]: f for f in self.seen if f.get("id") in ids}
        while len(found) < len(ids):
            frame = await self.read()
            if frame.get("id") in ids:
                found[frame["id"]] = frame
        return list(found.values())

    async def closed(self) -> list[Frame]:
        """The broker closes; what it said before that."""
        before: list[Frame] = []
        try:
            while True:
                before.append(await self.read())
        except (EOFError, trio.BrokenResourceError):
            return before

    # -- leaving --------------------------------------------------------------------------

    def close(self) -> None:
        self.end.close()

    def reset(self) -> None:
        self.end.reset()

    async def eof(self) -> None:
        """No more requests; answers are still read."""
        await self.end.send_eof()


@attrs.define(eq=False)
class Running:
    """A broker that runs, seen from a test."""

    broker: Broker
    world: SimWorld
    log: Log
    nursery: trio.Nursery

    def client(self, window: float = inf) -> Client:
        ours, theirs = cable(window)
        self.broker.connect(theirs, "test")
        return Client(ours)

    def queue(self, name: str) -> Queue:
        return self.broker.directory.queues[name]

    def actor(self, name: str) -> QueueActor:
        actor = self.queue(name).actor
        assert actor is not None
        return actor

    def connection(self, number: int) -> Connection:
        return self.broker.connections.open[number]

    def check(self) -> None:
        """The books of every queue balance, and every byte in an outbox is accounted for."""
        for queue in self.broker.directory.queues.values():
            if queue.actor is not None and not queue.restarts.failed:
                queue.actor.ledger.check()
        used = sum([c.outbox.bytes for c in self.broker.connections.open.values()])
        assert self.broker.context.outbound.used == used


def settings(*, limits: dict[str, Any] | None = None, **more: Any) -> Settings:
    """Settings with some limits changed."""
    return Settings(port=0, limits=attrs.evolve(Limits(), **(limits or {})), **more)


async def settled() -> None:
    """Until everything that can run now has run."""
    for _ in range(3):
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def running(
    set_to: Settings | None = None,
    *,
    disk: SimDisk | None = None,
    world: SimWorld | None = None,
    stop: str = "drain",
    errors: tuple[str, ...] = (),
) -> AsyncIterator[Running]:
    """A broker. At the end it drains (or, with `stop="kill"`, is cancelled where it stands), and
    must have logged no other errors than those named."""
    world = world or SimWorld(disk)
    log = Log()
    async with trio.open_nursery() as nursery:

        async def run(task_status: "trio.TaskStatus[Broker]") -> None:
            await run_broker(
                set_to or settings(drain_seconds=0.0), world, logger=log, listen=False,
                task_status=task_status,
            )  # fmt: skip

        broker = await nursery.start(run)
        ran = Running(broker, world, log, nursery)
        yield ran
        await settled()
        ran.check()
        world.free_disk()
        if stop == "kill":
            nursery.cancel_scope.cancel()
        else:
            broker.drain()
    if stop != "kill":
        assert broker.context.outbound.used == 0
    unexpected = [event for event in log.errors if event not in errors]
    assert not unexpected, [line for line in log.lines if line[0] == "error"]
