"""A broker that runs for a test: in the test's own trio loop, or in a thread of its own."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import attrs
import trio
import trio.testing

from msg.actors.broker import Broker, run_broker
from msg.actors.glance import hear_acks
from msg.config import Settings
from msg.world import World

T = TypeVar("T")
STOP_S = 10.0
REST_S = 0.005  # longer than a simulated commit takes


@attrs.define
class Events:
    """A logger that remembers: (level, event, fields) in order."""

    lines: list[tuple[str, str, dict[str, Any]]] = attrs.field(factory=list)

    def debug(self, event: str, **fields: Any) -> None:
        self.lines.append(("debug", event, fields))

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append(("warning", event, fields))

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append(("error", event, fields))

    def of(self, level: str) -> list[str]:
        return [f"{event} {fields}" for kind, event, fields in self.lines if kind == level]


def all_acks_heard(broker: Broker) -> bool:
    """Whether no queue has acks that it has only noted. Those that have hear them now."""
    return not hear_acks(broker.directory.queues.values())


@attrs.define(eq=False)
class Running:
    """One life of a broker. `broker` is there once `started` is set, or `failure` is."""

    settings: Settings
    world: World
    events: Events
    listen: bool = False
    broker: Broker | None = None
    failure: BaseException | None = None
    token: trio.lowlevel.TrioToken | None = None
    thread: threading.Thread | None = None
    _ready: threading.Event = attrs.field(factory=threading.Event)

    # -- in the loop of the test ------------------------------------------------------------

    async def start_here(self) -> Broker:
        """As a system task of this loop: it ends with the loop, whoever made that."""
        self.token = trio.lowlevel.current_trio_token()
        started = trio.Event()
        trio.lowlevel.spawn_system_task(self._run, started.set, name="msg_broker")
        await started.wait()
        return self.up()

    async def _run(self, started: Callable[[], None]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self.broker = await nursery.start(self._serve)
                started()
        except Exception as error:  # kept: a system task that fails takes all of trio with it
            self.failure = error
        finally:
            started()

    async def _serve(self, task_status: "trio.TaskStatus[Broker]") -> None:
        await run_broker(
            self.settings,
            self.world,
            logger=self.events,
            listen=self.listen,
            task_status=task_status,
        )

    def up(self) -> Broker:
        """The broker, or why there is none."""
        if self.failure is not None:
            raise RuntimeError("the broker of this test has failed") from self.failure
        assert self.broker is not None
        return self.broker

    # -- in a thread ------------------------------------------------------------------------

    def start_thread(self) -> Broker:
        self.thread = threading.Thread(target=self._in_thread, name="msg broker", daemon=True)
        self.thread.start()
        self._ready.wait()
        return self.up()

    def _in_thread(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # the test's own thread raises it
            self.failure = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self.token = trio.lowlevel.current_trio_token()
        await self._run(self._ready.set)

    def do(self, work: Callable[[Broker], T]) -> T:
        """Run this in the broker's loop, at once."""
        broker = self.up()
        if self.thread is None:
            return work(broker)
        assert self.token is not None
        return trio.from_thread.run_sync(work, broker, trio_token=self.token)

    def look(self, work: Callable[[Broker], T]) -> T:
        """Run this between two turns of the broker.

        From another thread: once its tasks have come to rest, so that what a client's end has
        set going (leases that return, letters that die) is over.
        """
        broker = self.up()
        if self.thread is None:
            return work(broker)
        assert self.token is not None

        async def at_rest() -> T:
            await trio.testing.wait_all_tasks_blocked(REST_S)
            if not all_acks_heard(broker):
                await trio.testing.wait_all_tasks_blocked(REST_S)
            return work(broker)

        return trio.from_thread.run(at_rest, trio_token=self.token)

    def stop_thread(self) -> None:
        """In good order; a broker that does not end fails the test."""
        if self.thread is None:
            return
        if self.broker is not None and self.token is not None and self.thread.is_alive():
            with suppress(trio.RunFinishedError):
                self.token.run_sync_soon(self.broker.drain)
        self.thread.join(STOP_S)
        if self.thread.is_alive():
            raise RuntimeError(f"the broker of this test did not stop within {STOP_S:g} s")
