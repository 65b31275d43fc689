"""One HTTP connection: Hypercorn's protocol around a socket, without what a client could misuse.

Owns   a socket and the tasks around it. One of them reads, and the connection ends with it.
Hears  HTTP/1.1 and WebSockets.
Tells  the handlers of `app` what a client says, and that it has left.
Ends   when the client leaves, takes nothing, says nothing, or its last answer has been sent.

What Hypercorn does and a client must not be able to use:

- A handler is told things through a channel of ten places. Who spoke on to one that listened no
  more waited for ever, and its connection with it. Here the channel is closed at the end.
- A socket that is closed with unread bytes in it may take the answer along. Here what is left
  of the request is read for a while, and thrown away.
- A WebSocket's message over the limit was refused and kept, however long it became.
- Of compressed messages 300 KB can be 300 MB, and HTTP/2 has a hundred requests on one
  connection. Neither is offered: this is for pages and programs of this machine.
"""

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import h11
import msgspec
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response, StreamClosed
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.ws_stream import FrameTooLargeError, WebsocketBuffer, WSStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.task_group import _handle as handle
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.typing import AppWrapper, ConnectionState, WorkerContext
from hypercorn.utils import parse_socket_addr
from wsproto.events import Message

WRITE_S = 30.0  # a client that takes nothing for so long is cut
READ_S = 60.0  # or says nothing, not even a WebSocket's pong, while it takes nothing
LINGER_S = 2.0  # so long the rest of a request is read that was answered before its end
# what the kernel keeps for a client: a slow one is to be seen taking something now and then
SEND_BUFFER = 1 << 17
SWITCHING = 101
EXTENSIONS = b"sec-websocket-extensions"
UNREADABLE = {
    431: ("too_large", "the headers of this request are too long"),
    501: ("unsupported", "a request's body is chunked, or has a Content-Length"),
}


class PatientStream:
    """A socket whose writes do not wait for ever: Hypercorn shields them from cancellation."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket
        self.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, SEND_BUFFER)
        self.took_at = trio.current_time()  # when the client last made room for more

    async def send_all(self, data: bytes) -> None:
        """As long as the client takes some of it now and then. Raises BrokenResourceError."""
        rest = memoryview(data)
        while True:
            try:
                rest = rest[os.write(self.socket.fileno(), rest) :]
            except BlockingIOError:
                pass
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error
            if not rest:
                await trio.lowlevel.checkpoint()
                return
            with trio.move_on_after(WRITE_S) as scope:
                await trio.lowlevel.wait_writable(self.socket)
            if scope.cancelled_caught:
                self.close()
                raise trio.BrokenResourceError("the client takes nothing")
            self.took_at = trio.current_time()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def close(self) -> None:
        """At once; whoever reads or writes learns it."""
        self.socket.close()


class Handlers(TaskGroup):
    """The tasks that answer, and what goes on beside them as long as the client is there."""

    def __init__(self) -> None:
        super().__init__()
        self._beside: list[trio.CancelScope] = []

    def spawn(self, func: Callable[..., Any], *args: Any) -> None:
        """The pings of a WebSocket, which sleep for long."""

        async def run(scope: trio.CancelScope) -> None:
            with scope:
                await func(*args)

        assert self._nursery is not None
        self._beside.append(trio.CancelScope())
        self._nursery.start_soon(run, self._beside[-1])

    def client_left(self) -> None:
        for scope in self._beside:
            scope.cancel("the client has left")

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        """Run the application. What comes back tells it what the client says."""
        said, heard = trio.open_memory_channel[Any](config.max_app_queue_size)
        end = {"type": f"{scope['type']}.disconnect"}

        async def receive() -> Any:
            try:
                return await heard.receive()
            except trio.EndOfChannel:
                return end

        async def tell(event: Any) -> None:
            if event["type"] == end["type"]:
                end.update(event)
                said.close()  # it waits for nobody: the handler itself may be the one who tells
                return
            with suppress(trio.ClosedResourceError):  # the handler has ended, or is about to
                await said.send(event)

        assert self._nursery is not None
        self._nursery.start_soon(
            handle, app, config, scope, receive, send, trio.to_thread.run_sync,
            trio.from_thread.run,
        )  # fmt: skip
        return tell


class Bounded(WebsocketBuffer):
    """A message of a WebSocket as it comes in; of one that is too long no more is kept."""

    @property
    def full(self) -> bool:
        return bool(self.length > self.max_length)

    def extend(self, event: Message[Any]) -> None:
        if self.full:
            raise FrameTooLargeError
        super().extend(event)


class Protocol(H11Protocol):
    """Bytes to requests and back."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._decided = trio.Event()  # whether it becomes a WebSocket

    async def handle(self, event: Event) -> None:
        if isinstance(event, Closed):
            self._decided.set()  # who refuses it is not heard any more
        await super().handle(event)
        stream = self.stream
        if (
            isinstance(stream, WSStream)
            and isinstance(stream.buffer, Bounded)
            and stream.buffer.full
        ):
            await self.send(Closed())  # it has been told why

    async def stream_send(self, event: StreamEvent) -> None:
        await super().stream_send(event)
        if isinstance(event, StreamClosed) or (
            isinstance(event, Response) and event.status_code == SWITCHING
        ):
            self._decided.set()

    async def _check_protocol(self, event: h11.Request) -> None:
        """Whatever else the client would like to speak: it is answered in HTTP/1.1."""

    async def _create_stream(self, request: h11.Request) -> None:
        self._decided = trio.Event()
        # Hypercorn breaks on headers of a WebSocket that are not ASCII
        headers = [
            (name, value)
            for name, value in request.headers
            if name != EXTENSIONS
            and (value.isascii() or not name.startswith((b"sec-websocket-", b"connection")))
        ]
        await super()._create_stream(
            h11.Request(method=request.method, target=request.target, headers=headers,
                        http_version=request.http_version)
        )  # fmt: skip
        stream = self.stream
        if isinstance(stream, WSStream):
            stream.buffer = Bounded(stream.buffer.max_length)
            if stream.closed:  # it is none, and has been told so
                await self.send(Closed())
            else:
                await self._decided.wait()  # what it says meanwhile is read then

    async def _send_error_response(self, status_code: int) -> None:
        code, text = UNREADABLE.get(status_code, ("bad_frame", "this is no HTTP request"))
        body = msgspec.json.encode({"code": code, "error": text, "retry": "never"})
        headers = [
            (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"), *self.config.response_headers("h11"),
        ]  # fmt: skip
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class Connection(TCPServer):
    """See the module. `run` is the whole life of the connection, but for closing its socket."""

    stream: PatientStream  # type: ignore[assignment]

    def __init__(
        self, app: AppWrapper, config: Config, context: WorkerContext, stream: PatientStream
    ) -> None:
        super().__init__(app, config, context, ConnectionState({}), stream)  # type: ignore[arg-type]
        self._handlers = Handlers()
        self._reads = True  # else nobody waits for another request
        self._reading = trio.CancelScope()
        self._over_at: float | None = None  # all has been answered, and not all was read

    async def run(self) -> None:
        socket = self.stream.socket
        client, server = [
            parse_socket_addr(socket.family, name)
            for name in (socket.getpeername(), socket.getsockname())
        ]
        async with self._handlers as self._task_group:
            self.protocol = Protocol(  # type: ignore[assignment]
                self.app, self.config, self.context, self._task_group, ConnectionState({}), False,
                client, server, self.protocol_send,
            )  # fmt: skip
            await self.idle_task.restart(self._task_group, self._idle_timeout)
            await self._read_data()

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, Closed):
            if not isinstance(event, Updated) or self._reads:
                await super().protocol_send(event)
            return
        if self._over_at is None:
            self._over_at = trio.current_time() + LINGER_S
            with suppress(
                trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError
            ):
                await self.stream.send_eof()
            self._reading.deadline = self._over_at
        await self.protocol.handle(Closed())

    async def _read_data(self) -> None:
        while True:
            due = self._over_at
            if due is None:
                due = trio.current_time() + READ_S
            with trio.CancelScope(deadline=due) as self._reading:
                try:
                    data = await self.stream.receive_some(MAX_RECV)
                except (trio.ClosedResourceError, trio.BrokenResourceError):
                    break
            if self._reading.cancelled_caught:
                if self._over_at is None and self.stream.took_at + READ_S > trio.current_time():
                    continue  # what asks it for a sign of life waits behind what it still reads
                break
            if self._over_at is None:
                await self.protocol.handle(RawData(data))
            if not data:
                break
        self._reads = False
        await self.protocol.handle(Closed())
        await self.idle_task.stop()
        self._handlers.client_left()
