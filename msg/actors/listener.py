"""Listener actor: accepts connections, and contains each one's failure.

Owns   the listening sockets, and the nursery in which the connections run.
Hears  the kernel.
Tells  nobody: each connection is a task of its own, named `connection N`.
Ends   when cancelled; a failing socket stops the broker.

A bug in one connection is logged with its peer and ends that connection, no other. It is
never restarted: the client connects anew.
"""

import errno
import socket
import sys
from typing import TYPE_CHECKING

import trio

from msg.actors.connection import CLOSED, Connection
from msg.actors.turnstile import Turnstile
from msg.errors import ClientError
from msg.protocol import encode

if TYPE_CHECKING:
    from msg.actors.context import Context

BACKLOG = 1024
OUT_OF_FILES_S = 0.1  # wait before the next accept when there are no file descriptors
PICK_TRIES = 20
DIRECT = 64  # connections; more than that wait at a turnstile
_OUT_OF_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listening sockets for every address of `host`, all on one port; 0 picks one.

    `localhost` is 127.0.0.1 and ::1, where the machine has it. Raises OSError.
    """
    for attempt in range(PICK_TRIES):
        addresses = await _addresses(host)
        listeners: list[trio.SocketListener] = []
        chosen = port
        try:
            for family, address in addresses:
                try:
                    listener = await _listen(family, (address, chosen))
                except OSError as error:
                    if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and (
                        host == "localhost" and len(addresses) > 1
                    ):
                        continue  # a machine without IPv6, or without one of the loopbacks
                    raise
                listeners.append(listener)
                chosen = listener.socket.getsockname()[1]
            if not listeners:
                raise OSError(errno.EADDRNOTAVAIL, f"no address of {host!r} can be listened on")
        except OSError as error:
            for listener in listeners:
                listener.socket.close()
            if port == 0 and error.errno == errno.EADDRINUSE and attempt < PICK_TRIES - 1:
                continue  # free on one address and taken on the other: pick again
            raise
        return listeners
    raise OSError(errno.EADDRINUSE, "no port is free on all addresses")


async def _addresses(host: str) -> list[tuple[int, str]]:
    if host == "localhost":
        return [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    try:
        found = await trio.socket.getaddrinfo(
            host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"cannot listen on {host}: {error.strerror}") from error
    addresses = [(int(family), str(sockaddr[0])) for family, _, _, _, sockaddr in found]
    return list(dict.fromkeys(addresses))


async def _listen(family: int, address: tuple[str, int]) -> trio.SocketListener:
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        where = f"[{address[0]}]" if family == socket.AF_INET6 else address[0]
        raise OSError(
            error.errno, f"cannot listen on {where}:{address[1]}: {error.strerror}"
        ) from error
    return trio.SocketListener(sock)


class Connections:
    """All connections that are open, by number; and the door for new ones."""

    def __init__(self, context: "Context", nursery: trio.Nursery) -> None:
        self.context = context
        self.nursery = nursery
        self.open: dict[int, Connection] = {}
        self._numbers = 0
        self.turnstile: Turnstile | None = None  # once there are many
        self._accepting: list[trio.CancelScope] = []

    async def accept_from(self, listener: trio.SocketListener) -> None:
        """Accept until `stop_accepting`, which closes the listener: who connects to a broker that
        drains is refused at once, and does not wait in its backlog for an answer."""
        with trio.CancelScope() as scope:
            self._accepting.append(scope)
            await self._accept_from(listener)
        listener.socket.close()

    def stop_accepting(self) -> None:
        for scope in self._accepting:
            scope.cancel("no new connections")

    async def _accept_from(self, listener: trio.SocketListener) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _OUT_OF_FILES:
                    raise
                self.context.services.logger.error(
                    "cannot accept: raise the limit of open files", error=str(error)
                )
                await trio.sleep(OUT_OF_FILES_S)
                continue
            keepalive = int(self.context.settings.limits.keepalive_seconds)
            try:
                _keep_alive(stream.socket, keepalive)
                peer = _show(stream.socket.getpeername())
            except OSError:
                stream.socket.close()  # gone already
                continue
            self.add(stream, peer)

    def add(self, stream: trio.abc.Stream, peer: str) -> None:
        """Serve this stream as a connection of its own."""
        self._numbers += 1
        number = self._numbers
        self.nursery.start_soon(self._serve, stream, number, peer, name=f"connection {number}")

    def _where_to_wait(self) -> "Turnstile | None":
        """Of one more connection: for bytes."""
        if len(self.open) < DIRECT or sys.platform != "linux":
            return None
        if self.turnstile is None:
            try:
                self.turnstile = Turnstile()
            except OSError as error:
                if error.errno not in _OUT_OF_FILES:
                    raise
                return None  # the client took the last file descriptor: it waits as the first do
            self.nursery.start_soon(self._turn, self.turnstile, name="turnstile")
        return self.turnstile

    async def _turn(self, turnstile: "Turnstile") -> None:
        try:
            await turnstile.run()
        except Exception as error:
            self.context.services.last_look(error)
            raise

    def close(self) -> None:
        """After the nursery."""
        if self.turnstile is not None:
            self.turnstile.close()

    async def _serve(self, stream: trio.abc.Stream, number: int, peer: str) -> None:
        context = self.context
        log = context.services.logger
        limit = context.settings.limits.connections
        try:
            if len(self.open) >= limit:
                context.counters.refused += 1
                await _turn_away(stream, limit)
                return
            connection = Connection(stream, number, context, peer, self._where_to_wait())
            self.open[number] = connection
            context.counters.connections += 1
            log.debug("connected", conn=number, peer=peer)
            try:
                try:
                    why = await connection.run()
                finally:
                    connection.let_go()
            except Exception as error:  # contained here: a bug in one connection is its own
                context.counters.crashed += 1
                log.error(
                    "connection crashed", conn=number, peer=peer, error=repr(error),
                    exc_info=error,
                )  # fmt: skip
            else:
                # that a client has left is its own affair, that it was cut or lost is news
                tell = log.debug if why in ("", CLOSED) else log.info
                tell(
                    "disconnected", conn=number, client=connection.session.name, peer=peer, why=why
                )
        finally:
            self.open.pop(number, None)
            if isinstance(stream, trio.SocketStream):
                stream.socket.close()  # all that its `aclose` does, but for a checkpoint
            else:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                    await trio.aclose_forcefully(stream)


async def _turn_away(stream: trio.abc.Stream, limit: int) -> None:
    error = ClientError(
        "too_many", f"the broker serves {limit} connections already; try again later", limit=limit
    )
    frame = encode.answer(
        "error", code=error.code, error=str(error), retry="later", closes=True, limit=limit
    )
    with trio.move_on_after(1):
        try:
            await stream.send_all(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # it has gone by itself


def _keep_alive(sock: trio.socket.SocketType, seconds: int) -> None:
    """Find half-open connections: probes after `seconds`, three of them 10 s apart."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", seconds), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        option = getattr(socket, name, None)  # macOS calls the first TCP_KEEPALIVE
        if option is None and name == "TCP_KEEPIDLE":
            option = getattr(socket, "TCP_KEEPALIVE", None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _show(address: tuple[object, ...]) -> str:
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
