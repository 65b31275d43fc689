"""Many clients that do something in one moment: a few run in each pass of the loop, real sockets.

The first `DIRECT` connections are beside the turnstile, and stay: those behind it are the `crowd`.
"""

import errno
import os
import socket
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from msg.actors import turnstile
from msg.actors.listener import DIRECT
from tests.actors.kit import Client, Running, running, settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the turnstile is an epoll")

CROWD = 5 * turnstile.LEAVING + 3 * turnstile.SPEAKING


class Passes(trio.abc.Instrument):
    """The most steps and ends of connections' tasks in one pass of the loop."""

    def __init__(self) -> None:
        self.most: Counter[str] = Counter()
        self._now: Counter[str] = Counter()

    def before_io_wait(self, timeout: float) -> None:
        self.most |= self._now
        self._now.clear()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._now[task.name.partition(" ")[0]] += 1

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self._now[f"end of {task.name.partition(' ')[0]}"] += 1


@attrs.frozen
class Crowded:
    broker: Running
    beside: list[Client]
    crowd: list[Client]

    def leave(self, *, reset: bool = False) -> None:
        """All of the crowd in one moment."""
        for client in self.crowd:
            sock = client.stream.socket
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()

    async def gone(self) -> None:
        while len(self.broker.broker.connections.open) > len(self.beside):
            await trio.lowlevel.checkpoint()


def say(client: Client, data: bytes) -> None:
    """Now, and not in a later pass."""
    os.write(client.stream.socket.fileno(), data)


async def connect(broker: Running, listener: trio.SocketListener) -> Client:
    stream = await trio.testing.open_stream_to_socket_listener(listener)
    broker.broker.connect(await listener.accept(), "test")
    return Client(stream)


@asynccontextmanager
async def crowded(**options):
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with running(**options) as broker, listener:
        clients = []
        try:
            for _ in range(DIRECT + CROWD):
                clients.append(await connect(broker, listener))
                await clients[-1].ask("ping")
            yield Crowded(broker, clients[:DIRECT], clients[DIRECT:])
        finally:
            for client in clients:
                client.stream.socket.close()


@pytest.mark.parametrize("reset", [False, True])
async def test_of_a_crowd_that_leaves_a_few_end_in_each_pass(autojump_clock, reset):
    async with crowded() as at:
        for client in at.crowd:
            await client.subscribe("news", mode="pubsub")
        passes = Passes()
        trio.lowlevel.add_instrument(passes)
        at.leave(reset=reset)
        await at.gone()
        trio.lowlevel.remove_instrument(passes)
        assert 0 < passes.most["end of connection"] <= turnstile.LEAVING
        # once to read the end, and once when the writer has ended
        assert passes.most["connection"] <= 2 * turnstile.LEAVING
        assert (await at.beside[0].ask("ping"))["type"] == "pong"
        assert (await at.beside[0].ask("stats"))["connections"] == DIRECT


async def test_of_a_crowd_that_speaks_a_few_are_read_in_each_pass(autojump_clock):
    async with crowded() as at:
        passes = Passes()
        trio.lowlevel.add_instrument(passes)
        for client in at.crowd:
            say(client, b'{"action":"ping","id":"1"}')
        for client in at.crowd:
            await client.expect("pong", id="1")
        trio.lowlevel.remove_instrument(passes)
        assert 0 < passes.most["connection"] <= turnstile.SPEAKING


async def test_who_speaks_passes_before_those_who_leave(autojump_clock):
    async with crowded() as at:
        speaker = at.crowd.pop()
        at.leave()
        say(speaker, b'{"action":"ping","id":"1"}')
        await speaker.expect("pong", id="1")
        assert len(at.broker.broker.connections.open) > DIRECT + CROWD // 2


async def test_what_a_leaving_crowd_held_goes_to_who_stays(autojump_clock):
    """And not from each to the next of those that leave, with an attempt spent each time."""
    async with crowded() as at:
        for client in at.crowd:
            await client.subscribe("jobs")
        stays = at.beside[0]
        for n in range(20):
            await stays.publish("jobs", n, durability="memory")
        await trio.testing.wait_all_tasks_blocked()
        at.leave()
        await at.gone()
        await stays.subscribe("jobs", prefetch=20)
        for n in range(20):
            await stays.expect("message", message=n, attempt=2, returned="disconnect")


async def test_a_drain_does_not_wait_for_a_leaving_crowd(autojump_clock):
    async with crowded(set_to=settings(drain_seconds=60.0)) as at:
        for client in at.crowd:
            await client.subscribe("jobs")
        for n in range(20):
            await at.beside[0].publish("jobs", n, durability="memory")
        await trio.testing.wait_all_tasks_blocked()
        at.leave()
        at.broker.broker.drain()
        assert [f["type"] for f in await at.beside[0].closed()] == ["closing"]
        assert trio.current_time() < 10  # virtual


async def test_a_stop_ends_those_that_are_in_line(autojump_clock):
    async with crowded(stop="kill") as at:
        at.leave()
        while len(at.broker.broker.connections.open) == DIRECT + CROWD:
            await trio.lowlevel.checkpoint()
        at.broker.nursery.cancel_scope.cancel()


async def test_an_end_of_requests_is_no_end_of_answers(autojump_clock):
    """What came before the end is executed, and a `get` still has its message."""
    async with crowded() as at:
        first, second, *_ = at.crowd
        get = b'{"action":"get","topic":"jobs","mode":"queue","wait":50,"id":"g"}'
        say(first, get)
        first.stream.socket.shutdown(socket.SHUT_WR)
        await trio.testing.wait_all_tasks_blocked()
        await at.beside[0].publish("jobs", 1)
        assert [f["type"] for f in await first.closed()] == ["message", "got"]
        # the message came back when the first had left
        say(second, get)
        second.stream.socket.shutdown(socket.SHUT_WR)
        assert [f["type"] for f in await second.closed()] == ["message", "got"]


async def test_in_line_is_alive(autojump_clock):
    """A heartbeat that was due while the bytes waited for their turn is no miss."""
    async with crowded() as at:
        client = at.crowd[0]
        await client.ask("hello", heartbeat=10)
        connection = at.broker.connection(DIRECT + 1)
        connection._last_read -= 100.0
        connection.noticed(leaving=False)
        assert connection._check_up() is False
        assert connection._pings == 0
        await client.ask("hello", heartbeat=0)


async def test_without_a_file_descriptor_for_it_a_client_waits_as_the_first_do(
    autojump_clock, monkeypatch
):
    class OutOfFiles:
        def __init__(self) -> None:
            raise OSError(errno.EMFILE, "too many open files")

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with running() as broker, listener:
        clients = [await connect(broker, listener) for _ in range(DIRECT)]
        for client in clients:
            await client.ask("ping")
        with monkeypatch.context() as patch:
            patch.setattr("msg.actors.listener.Turnstile", OutOfFiles)
            clients.append(await connect(broker, listener))
            await clients[-1].ask("ping")
        assert broker.broker.connections.turnstile is None
        clients.append(await connect(broker, listener))
        await clients[-1].ask("ping")
        assert broker.broker.connections.turnstile is not None
        for client in clients:
            await client.ask("ping")
            client.stream.socket.close()


async def test_a_few_do_without(autojump_clock):
    async with running() as broker:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            clients = [await connect(broker, listener) for _ in range(5)]
            for client in clients:
                await client.ask("ping")
            assert broker.broker.connections.turnstile is None
            for client in clients:
                client.stream.socket.close()


def test_where_there_is_no_epoll_the_broker_can_be_imported_all_the_same():
    """On a Mac, say, where nobody waits at a turnstile."""
    probe = """
import sys, select
import trio  # which needs to know the truth
import msg.actors.connection
for name in [name for name in vars(select) if name.lower().startswith("epoll")]:
    delattr(select, name)
sys.platform = "darwin"
import msg.actors.listener
"""
    subprocess.run([sys.executable, "-c", probe], check=True, timeout=30)
