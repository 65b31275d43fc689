"""The proxy that hurts connections: what each of its faults does to both sides."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from msg.scenario.proxy import BUFFER_BYTES, Link, Proxy, reset

pytestmark = pytest.mark.process  # real sockets
FAR = 3600.0  # a fault that does not end by itself


class Pair:
    """A client's end, the server's end, and the link between them."""

    def __init__(self, client: trio.SocketStream, server: trio.SocketStream, link: Link) -> None:
        self.client = client
        self.server = server
        self.link = link


class Rig:
    """A proxy before a server that only listens."""

    def __init__(self, proxy: Proxy, came: "trio.MemoryReceiveChannel[trio.SocketStream]") -> None:
        self.proxy = proxy
        self.clients: list[trio.SocketStream] = []
        self._came = came

    async def connect(self, name: str = "client") -> Pair:
        client, link = await self.proxy.dial(name)
        self.clients.append(client)
        return Pair(client, await self._came.receive(), link)


@asynccontextmanager
async def through_proxy() -> AsyncIterator[Rig]:
    """All ends with the block."""
    sent, came = trio.open_memory_channel[trio.SocketStream](10)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def keep(stream: trio.SocketStream) -> None:
        await sent.send(stream)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, keep, listeners)
        proxy = Proxy(listeners[0].socket.getsockname())
        await nursery.start(proxy.run)
        rig = Rig(proxy, came)
        try:
            yield rig
        finally:
            for client in rig.clients:
                client.socket.close()
            nursery.cancel_scope.cancel()


async def read(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await stream.receive_some(size - len(data))
        assert part, f"the end after {data!r}"
        data += part
    return data


async def test_bytes_go_both_ways_and_half_closes_too():
    async with through_proxy() as rig:
        pair = await rig.connect()
        await pair.client.send_all(b"question")
        assert await read(pair.server, 8) == b"question"
        await pair.client.send_eof()
        assert await pair.server.receive_some() == b""
        await pair.server.send_all(b"answer")  # the other half is still open
        assert await read(pair.client, 6) == b"answer"
        assert pair.link.alive
        await pair.server.aclose()
        assert await pair.client.receive_some() == b""
        await pair.link.over.wait()
        assert not pair.link.alive


async def test_the_broker_sees_another_address_than_the_clients():
    async with through_proxy() as rig:
        pair = await rig.connect()
        assert pair.server.socket.getpeername() == pair.link.broker_sees
        assert pair.link.broker_sees != pair.client.socket.getsockname()


async def test_nobody_listens_behind_it():
    async with through_proxy() as rig:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        rig.proxy.target = listeners[0].socket.getsockname()
        await listeners[0].aclose()
        with pytest.raises(ConnectionRefusedError):
            await rig.proxy.dial("early")


async def test_a_program_that_knows_nothing_of_it_may_come():
    async with through_proxy() as rig:
        stream = await trio.open_tcp_stream("127.0.0.1", rig.proxy.port)
        rig.clients.append(stream)
        await stream.send_all(b"x")
        while not (links := rig.proxy.links) or not links[0].up.passed:
            await trio.lowlevel.checkpoint()
        assert links[0].name == "{}:{}".format(*stream.socket.getsockname())


async def test_a_cut_is_a_reset_on_both_sides():
    async with through_proxy() as rig:
        pair = await rig.connect()
        pair.link.cut()
        for stream in (pair.client, pair.server):
            with pytest.raises(trio.BrokenResourceError) as caught:
                await stream.receive_some()
            assert isinstance(caught.value.__cause__, ConnectionResetError)
        assert not pair.link.alive


async def test_a_reset_goes_through():
    async with through_proxy() as rig:
        pair = await rig.connect()
        await pair.server.send_all(b"never read")
        while pair.link.down.passed < 10:
            await trio.lowlevel.checkpoint()
        pair.client.socket.close()  # with bytes that were not read: a reset
        with pytest.raises(trio.BrokenResourceError):
            await pair.server.receive_some()


async def test_a_cut_inside_a_frame_comes_after_so_many_bytes():
    async with through_proxy() as rig:
        pair = await rig.connect()
        await pair.client.send_all(b"whole\n")
        assert await read(pair.server, 6) == b"whole\n"
        pair.link.cut_inside_frame(4)
        await pair.client.send_all(b"half a frame\n")
        with pytest.raises(trio.BrokenResourceError):
            await pair.client.receive_some()
        data = b""
        with pytest.raises(trio.BrokenResourceError):
            while True:
                data += await pair.server.receive_some()
        assert data in (b"half", b"")  # a reset may overtake what was not read yet
        assert pair.link.up.passed == 10


async def test_a_stalled_link_loses_nothing():
    async with through_proxy() as rig:
        pair = await rig.connect()
        until = trio.current_time() + 0.05
        pair.link.stall(until)
        await pair.client.send_all(b"late")
        assert await read(pair.server, 4) == b"late"
        assert trio.current_time() >= until


async def test_a_stall_holds_back_the_end_too():
    async with through_proxy() as rig:
        pair = await rig.connect()
        pair.link.stall(trio.current_time() + FAR)
        await pair.client.send_all(b"last words")
        await pair.client.aclose()
        with trio.move_on_after(0.02) as scope:
            await pair.server.receive_some()
        assert scope.cancelled_caught
        pair.link.stall(trio.current_time())
        assert await read(pair.server, 10) == b"last words"
        assert await pair.server.receive_some() == b""


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_silent_link_tells_nobody_of_an_end(end):
    async with through_proxy() as rig:
        pair = await rig.connect()
        pair.link.go_silent()
        await pair.client.send_all(b"unheard")
        if end == "reset":
            reset(pair.client)
        else:
            await pair.client.aclose()
        with trio.move_on_after(0.02) as scope:
            await pair.server.receive_some()
        assert scope.cancelled_caught
        await pair.server.send_all(b"anybody there?")  # and its writes succeed
        assert pair.link.alive
        assert pair.link.up.passed == pair.link.down.passed == 0


async def test_split_bytes_come_in_pieces_and_in_order():
    async with through_proxy() as rig:
        pair = await rig.connect()
        pair.link.split(3)
        await pair.client.send_all(bytes(range(100)))
        most, data = 0, b""
        while len(data) < 100:
            part = await pair.server.receive_some()
            most = max(most, len(part))
            data += part
        assert data == bytes(range(100))
        assert most < 100


async def test_a_slow_link_takes_its_time():
    async with through_proxy() as rig:
        pair = await rig.connect()
        pair.link.throttle(10_000)
        begun = trio.current_time()
        await pair.server.send_all(bytes(1500))
        await read(pair.client, 1500)
        assert trio.current_time() - begun >= 0.1  # two pauses of a twentieth; the third is after
        pair.link.throttle(float("inf"))
        await pair.server.send_all(bytes(100_000))
        await read(pair.client, 100_000)


async def test_who_does_not_read_stops_the_writer_soon():
    """Loopback alone would take megabytes, and a slow subscriber would never be seen as such."""
    async with through_proxy() as rig:
        pair = await rig.connect()
        sent = 0
        with trio.move_on_after(0.1):
            while sent < 40 * BUFFER_BYTES:
                await pair.server.send_all(bytes(4096))
                sent += 4096
        assert sent < 20 * BUFFER_BYTES


async def test_links_stand_in_the_order_of_connecting():
    async with through_proxy() as rig:
        first, second = await rig.connect("a"), await rig.connect("b")
        assert [link.name for link in rig.proxy.links] == ["a", "b"]
        first.link.cut()
        await first.link.over.wait()
        assert second.link.alive
