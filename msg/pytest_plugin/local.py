"""LocalBroker: the real broker in a test, without a port. See the package."""

import random
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio
import anyio.abc
import sniffio
import trio
import trio.testing

from msg.actors.broker import Broker
from msg.client import Client, connect
from msg.config import ConfigError, Settings
from msg.config.sources import from_table
from msg.pytest_plugin.running import Events, Running, all_acks_heard
from msg.pytest_plugin.stream import TrioByteStream
from msg.pytest_plugin.views import QueueView, TopicView, view_queue, view_topic
from msg.scenario.simnet import SimLink
from msg.scenario.world import SimWorld

if TYPE_CHECKING:
    from msg.sync import Client as SyncClient
    from msg.world import World

T = TypeVar("T")
DRAIN_S = 0.5  # a client that the test forgot does not keep the broker for longer


class LocalBroker:
    """A broker that starts with its first connection and ends with the test.

    events    what it has logged
    """

    def __init__(self, seed: str = "0") -> None:
        self.events = Events()
        self._settings = Settings(drain_seconds=DRAIN_S)
        self._world = SimWorld(seed)
        self._rng = random.Random(seed)
        self._running: Running | None = None
        self._links: list[SimLink | socket.socket] = []

    # -- for the test -----------------------------------------------------------------------

    def configure(self, settings: Settings | None = None, **changes: Any) -> None:
        """Other settings than the defaults: `configure(queues={"jobs": {"max_deliveries": 2}})`.

        Before the first connection. The keys are those of the configuration file.
        """
        if self._running is not None:
            raise RuntimeError("configure it before the first connection")
        self._settings = settings if settings is not None else _settings(changes)

    def connect(self, **options: Any) -> Client:
        """A client of this broker: `async with msg_broker.connect() as client`."""
        return connect("msg://msg-broker.test", **{"dial": self.dial, **options})

    def connect_sync(self, **options: Any) -> "SyncClient":
        """A connected client for tests that are not async: `with msg_broker.connect_sync()`."""
        import msg.sync

        return msg.sync.connect("msg://msg-broker.test", **{"dial": self.dial, **options})

    def queue(self, name: str) -> QueueView:
        """What is in a queue (or in a group, `pattern@group`) at this moment."""
        return self._look(lambda broker: view_queue(broker, name), QueueView(name))

    def topic(self, name: str) -> TopicView:
        return self._look(lambda broker: view_topic(broker, name), TopicView(name))

    async def idle(self) -> None:
        """Until all tasks wait for something: what was sent has been dealt with.

        Under trio only. Elsewhere, leave the client's `async with` before you look: its end
        is answered when everything before it was executed.
        """
        if sniffio.current_async_library() != "trio":
            raise RuntimeError("idle() is for trio; end the client before you look instead")
        await trio.testing.wait_all_tasks_blocked(0.001)
        if self._look(all_acks_heard, True):
            return
        await trio.testing.wait_all_tasks_blocked(0.001)

    def cut(self) -> None:
        """Reset every connection, as a broken network would. Clients connect again."""
        for link in self._links:
            if isinstance(link, SimLink):
                link.cut()
            else:
                _reset(link)
        self._links.clear()

    @property
    def actors(self) -> list[dict[str, Any]]:
        """The actor tree."""
        return self._look(lambda broker: broker.dump(), [])

    # -- how clients get to it --------------------------------------------------------------

    async def dial(self) -> anyio.abc.ByteStream:
        """A stream to the broker, for `msg.connect(dial=…)`."""
        if sniffio.current_async_library() == "trio":
            return await self._dial_here()
        return await self._dial_thread()

    def _life(self) -> Running:
        # a World's disk may be any, this one's is simulated: for a reader that is the same
        return Running(self._settings, cast("World", self._world), self.events)

    async def _dial_here(self) -> anyio.abc.ByteStream:
        running = self._running
        if running is None or running.token is not trio.lowlevel.current_trio_token():
            if running is not None:  # another trio.run in one test: the same disk, a new life
                self._world.restart_process()
            running = self._running = self._life()
            await running.start_here()
        link = SimLink(self._rng, latency=0.0)
        self._links.append(link)
        running.up().connect(link.broker_end, "memory")
        return TrioByteStream(link.client_end)

    async def _dial_thread(self) -> anyio.abc.ByteStream:
        if self._running is None:
            self._running = self._life()
            self._running.start_thread()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self._links.append(ours)

        def adopt(broker: Broker) -> None:
            broker.connect(trio.SocketStream(trio.socket.from_stdlib_socket(theirs)), "pair")

        self._running.do(adopt)
        return await anyio.abc.UNIXSocketStream.from_socket(ours)

    # -- the end ----------------------------------------------------------------------------

    def finish(self) -> None:
        """Stop, and check that the books balance: every accepted message is in one place."""
        running = self._running
        if running is None:
            return
        running.stop_thread()
        if running.failure is not None:
            raise RuntimeError("the broker of this test has failed") from running.failure
        assert running.broker is not None
        for queue in running.broker.directory.queues.values():
            ledger = getattr(queue.actor, "ledger", None)
            if ledger is not None:
                ledger.check()

    def _look(self, look: Callable[[Broker], T], otherwise: T) -> T:
        return otherwise if self._running is None else self._running.look(look)


def _settings(changes: dict[str, Any]) -> Settings:
    table = {"drain_seconds": DRAIN_S, **changes}
    settings, problems = from_table(table, lambda where: f"configure({where[0]}=…)")
    if problems:
        raise ConfigError(problems)
    return settings


def _reset(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has gone by itself
