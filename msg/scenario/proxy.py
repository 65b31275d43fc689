"""A TCP proxy that hurts what goes through it: a real network between real sockets.

    client ─► proxy.port ─► [ Link: two Flows ] ─► the broker's port

A link that nobody hurts passes on bytes, half closes and resets as they come. Its buffers are
small (`modest`), so that one who does not read stops the writer soon, as over a long line;
left alone, loopback holds megabytes.

Faults hold from the moment that they are set, also for bytes that are in the proxy already.
"""

import socket
import struct
from math import inf
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

BUFFER_BYTES = 1 << 16  # of one socket, in each direction
SEGMENT_BYTES = 1400  # as over Ethernet; with loopback's 64 KiB, send buffers are megabytes
CRUMB_S = 0.000_2  # between two pieces, so that they are not read as one
TICK_S = 0.05  # a slow link passes on what it may in steps of this
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)

Address = tuple[str, int]


def modest(sock: trio.socket.SocketType) -> None:
    """Small buffers and small segments; before the socket is connected, or it is too late."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)


def reset(stream: trio.SocketStream) -> None:
    """Close with a RST: what is under way is lost, and the other side is told so."""
    if stream.socket.fileno() >= 0:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()


class Flow:
    """One direction of a link."""

    def __init__(self) -> None:
        self.rate = inf  # bytes a second that are passed on
        self.piece = 0  # the most that is passed on at once; 0 = all that is there
        self.stalled_until = -inf
        self.silent = False  # nothing is passed on any more, and nobody is told
        self.cut_after = -1  # so many more bytes are passed on, then the link is reset
        self.on_cut: Callable[[], None] = lambda: None
        self.passed = 0
        self._changed = trio.lowlevel.ParkingLot()

    def changed(self) -> None:
        """A fault was set or lifted: whoever waits looks again."""
        self._changed.unpark_all()

    async def carry(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        """Pass on until the end of input, which is passed on too. Raises one of GONE."""
        while True:
            try:
                data = await source.receive_some(BUFFER_BYTES)
            except GONE:
                await self._open()  # a silent link keeps a reset to itself
                raise
            await self._open()
            if not data:
                await sink.send_eof()
                return
            await self._pass_on(memoryview(data), sink)

    async def _pass_on(self, data: memoryview, sink: trio.SocketStream) -> None:
        while data:
            await self._open()
            most = self.piece or len(data)
            if self.rate != inf:
                most = min(most, max(1, int(self.rate * TICK_S)))
            if 0 <= self.cut_after < most:
                most = self.cut_after
            part, data = data[:most], data[most:]
            # counted before it is sent: a fault that is set meanwhile is for what comes after it
            cuts = self.cut_after >= 0
            if cuts:
                self.cut_after -= len(part)
            await sink.send_all(part)
            self.passed += len(part)
            if cuts and self.cut_after == 0:
                self.on_cut()
                return
            if self.rate != inf:
                await self._wait(len(part) / self.rate)
            elif self.piece:
                await trio.sleep(CRUMB_S)

    async def _open(self) -> None:
        """Return when something may pass."""
        while self.silent or trio.current_time() < self.stalled_until:
            await self._wait(inf if self.silent else self.stalled_until - trio.current_time())

    async def _wait(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._changed.park()


class Link:
    """One connection through the proxy, with the switches of its faults."""

    def __init__(self, name: str, client: trio.SocketStream) -> None:
        self.name = name
        self.client = client
        self.broker: trio.SocketStream | None = None
        self.up = Flow()  # client to broker
        self.down = Flow()
        self.flows = (self.up, self.down)
        self.up.on_cut = self.cut
        self.known = trio.Event()  # connected to the broker, or refused
        self.over = trio.Event()

    @property
    def alive(self) -> bool:
        """Whether it reaches the broker, and has not ended."""
        return self.broker is not None and not self.over.is_set()

    @property
    def broker_sees(self) -> Address:
        """From where it comes, for the broker."""
        assert self.broker is not None
        host, port = self.broker.socket.getsockname()[:2]
        return host, port

    def cut(self) -> None:
        """A reset: both sides learn it at once, what is under way is lost."""
        for stream in (self.client, self.broker):
            if stream is not None:
                reset(stream)
        self.over.set()

    def cut_inside_frame(self, after: int) -> None:
        """A reset once the broker has been sent `after` more bytes of the client."""
        self.up.cut_after = after
        self.up.changed()

    def stall(self, until: float) -> None:
        """Nothing passes before that moment; nothing is lost."""
        for flow in self.flows:
            flow.stalled_until = until
            flow.changed()

    def go_silent(self) -> None:
        """Half open: neither side is told anything any more, not even of the other's end."""
        for flow in self.flows:
            flow.silent = True
            flow.changed()

    def split(self, piece: int) -> None:
        """Bytes come in pieces of at most so many; 0: as they were sent."""
        for flow in self.flows:
            flow.piece = piece

    def throttle(self, bytes_per_second: float) -> None:
        """What the broker says comes no faster; inf: as fast as it can."""
        self.down.rate = bytes_per_second
        self.down.changed()

    async def run(self, target: Address) -> None:
        """From the connection to the broker to the end of both."""
        try:
            self.broker = await self._connect(target)
        except OSError:
            self.cut()
            return
        finally:
            self.known.set()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.up.carry, self.client, self.broker)
                nursery.start_soon(self.down.carry, self.broker, self.client)
        except* GONE:
            self.cut()
        finally:
            self.over.set()
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self.client)
                await trio.aclose_forcefully(self.broker)

    async def _connect(self, target: Address) -> trio.SocketStream:
        sock = trio.socket.socket()
        try:
            modest(sock)
            await sock.connect(target)
        except BaseException:
            sock.close()
            raise
        return trio.SocketStream(sock)


class _Dial:
    """A connection that is being made by us: the proxy says which link it became."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.link: Link | None = None
        self.known = trio.Event()


class Proxy:
    """See the module. `target` may change: it is for connections to come."""

    def __init__(self, target: Address) -> None:
        self.target = target
        self.links: list[Link] = []  # that are open, in the order of connecting
        self._dials: dict[Address, _Dial] = {}  # by the client's address
        self._listener: trio.SocketListener | None = None

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1; the same for all its life."""
        assert self._listener is not None
        port: int = self._listener.socket.getsockname()[1]
        return port

    async def run(self, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled."""
        sock = trio.socket.socket()
        modest(sock)  # what is accepted inherits it
        await sock.bind(("127.0.0.1", 0))
        sock.listen(256)
        self._listener = trio.SocketListener(sock)
        async with trio.open_nursery() as nursery:
            task_status.started()
            await trio.serve_listeners(self._serve, [self._listener], handler_nursery=nursery)

    async def _serve(self, client: trio.SocketStream) -> None:
        try:
            host, port = client.socket.getpeername()[:2]
        except OSError:  # it has left already
            await trio.aclose_forcefully(client)
            return
        dial = self._dials.get((host, port)) or _Dial(f"{host}:{port}")
        link = dial.link = Link(dial.name, client)
        dial.known.set()
        self.links.append(link)
        try:
            await link.run(self.target)
        finally:
            self.links.remove(link)

    async def dial(self, name: str) -> tuple[trio.SocketStream, Link]:
        """Connect as this client. Raises OSError when nobody listens behind the proxy."""
        sock = trio.socket.socket()
        dial = _Dial(name)
        address: Address | None = None
        try:
            modest(sock)
            await sock.bind(("127.0.0.1", 0))
            host, port = sock.getsockname()[:2]
            address = (host, port)
            self._dials[address] = dial
            await sock.connect(("127.0.0.1", self.port))
            await dial.known.wait()
            assert dial.link is not None
            await dial.link.known.wait()
            if dial.link.broker is None:
                raise ConnectionRefusedError("nobody listens")
        except BaseException:
            sock.close()
            raise
        finally:
            # a reset gives the address free before we come to know: it may be another's by now
            if address is not None and self._dials.get(address) is dial:
                del self._dials[address]
        return trio.SocketStream(sock), dial.link
