"""Web server actor: HTTP connections for the page, beside the broker.

Owns   its listening sockets and its connections, at most `CONNECTIONS_MAX`.
Hears  HTTP/1.1 and WebSockets, which Hypercorn's Trio worker reads.
Tells  the broker nothing but what a client may: questions, orders, frames.
Ends   when cancelled; then every socket is closed, for Hypercorn shields its writes. A bug in
       one connection is logged and ends that one.

Hypercorn's own `serve` would let a failing connection end the server, and a client that reads
nothing hold up a stop; so the accepting is done here, around a `Connection`.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from msg.web.app import Web
from msg.web.connection import READ_S, Connection, PatientStream
from msg.web.guard import Guard

if TYPE_CHECKING:
    from msg.actors.broker import Broker

CONNECTIONS_MAX = 500
PING_S = 20.0
OUT_OF_FILES_S = 0.5


def hosts_of(host: str, port: int) -> frozenset[str]:
    """What a browser on this machine may call us."""
    names = {"localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host.lower()}
    return frozenset([f"{name}:{port}" for name in names] + ([*names] if port == 80 else []))


async def serve_web(
    broker: "Broker",
    listeners: Sequence[trio.SocketListener],
    *,
    host: str,
    token: str,
    local: bool,
    reports: str = "",
    task_status: "trio.TaskStatus[Web]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the page until cancelled. `local`: only this machine can reach it."""
    port = listeners[0].socket.getsockname()[1]
    guard = Guard(_closed, hosts_of(host, port) if local else None, token)
    web = Web(broker, lambda scope: guard.has_token(scope, _headers(scope)), reports)
    server = Server(broker, Guard(web.app(), guard.hosts, token))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(web.history.run, broker, name="web history")
            for listener in listeners:
                name = f"web listener {listener.socket.getsockname()[0]}"
                nursery.start_soon(server.accept_from, listener, nursery, name=name)
            task_status.started(web)
    finally:
        server.close()
        for listener in listeners:
            listener.socket.close()


async def _closed(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("only asked for its opinion")


def _headers(scope: Any) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


class Server:
    """All connections of the page's port."""

    def __init__(self, broker: "Broker", app: Any) -> None:
        self._log = broker.context.services.logger
        self._open: dict[PatientStream, None] = {}
        self._numbers = 0
        self._context = WorkerContext(None)
        config = self._config = Config()
        config.accesslog = None
        config.errorlog = logging.getLogger("hypercorn")  # to our log
        config.loglevel = "WARNING"
        config.include_server_header = False
        config.read_timeout = int(READ_S)
        config.websocket_ping_interval = PING_S
        config.websocket_max_message_size = broker.context.settings.limits.frame_bytes + 1
        self._app = ASGIWrapper(app)

    async def accept_from(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                self._log.warning("web: cannot accept", error=str(error))
                await trio.sleep(OUT_OF_FILES_S)
                continue
            if len(self._open) >= CONNECTIONS_MAX:
                self._log.warning("web: a connection is refused", open=len(self._open))
                stream.socket.close()
                continue
            self._numbers += 1
            name = f"web connection {self._numbers}"
            nursery.start_soon(self.serve, stream, name=name)

    async def serve(self, accepted: trio.SocketStream) -> None:
        """One connection, to its end. Errors stay in here."""
        stream = PatientStream(accepted)
        self._open[stream] = None
        try:
            await Connection(self._app, self._config, self._context, stream).run()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            return  # it has left
        except Exception as error:  # contained: a bug in one connection is its own
            self._log.error("web connection crashed", error=repr(error), exc_info=error)
        finally:
            del self._open[stream]
            stream.close()

    def close(self) -> None:
        """Every connection ends now."""
        for stream in self._open:
            stream.close()
