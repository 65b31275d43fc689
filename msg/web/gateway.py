"""Frames of the wire through HTTP: `/ws`, and one publish by POST.

Both make a connection like any other: the same session, checks and limits. Its stream is a
`FrameStream`, whose other end is a coroutine here instead of a client's socket.
"""

from typing import TYPE_CHECKING, Any

import msgspec
import trio
from starlette.websockets import WebSocket, WebSocketDisconnect

from msg.errors import ClientError

if TYPE_CHECKING:
    from msg.actors.broker import Broker

PROTOCOL = "msg.v1"
ANSWER_S = 60.0  # for a POST: what is not answered by then has an unknown outcome
CHUNKS = 8  # reads' worth that may wait for the session


class FrameStream(trio.abc.HalfCloseableStream):
    """The broker's end of a connection that has no socket. `put` and `take` are the other.

    `put` waits while the session is busy, `send_all` until what it has is taken: so both ways
    push back as a socket does.
    """

    def __init__(self) -> None:
        self._in, self._reads = trio.open_memory_channel[bytes](CHUNKS)
        self._writes, self._out = trio.open_memory_channel[bytes](0)
        self._rest = b""

    # -- for the connection -----------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = self._rest
        if not data:
            try:
                data = await self._reads.receive()
            except trio.EndOfChannel:
                return b""
        else:
            await trio.lowlevel.checkpoint()
        most = max_bytes or len(data)
        self._rest = data[most:]
        return data[:most]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._writes.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        self._writes.close()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self._writes.close()
        self._reads.close()
        await trio.lowlevel.checkpoint()

    # -- for the other end ------------------------------------------------------------------

    async def put(self, data: bytes) -> None:
        """Bytes from the client. Raises BrokenResourceError when the connection is over."""
        await self._in.send(data)

    def put_eof(self) -> None:
        self._in.close()

    async def take(self) -> bytes:
        """Whole frames for the client. Raises EndOfChannel when the connection is over."""
        return await self._out.receive()

    def hang_up(self) -> None:
        """The client is gone."""
        self._in.close()
        self._out.close()


async def websocket(broker: "Broker", socket: WebSocket) -> None:
    """One client at `/ws`: a text message for each frame, both ways."""
    wanted = socket.scope.get("subprotocols", [])
    await socket.accept(subprotocol=PROTOCOL if PROTOCOL in wanted else None)
    stream = FrameStream()
    client = socket.client
    broker.connect(stream, f"ws {client.host}:{client.port}" if client else "ws")
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read, socket, stream, name="websocket reader")
            await _write(socket, stream)
            nursery.cancel_scope.cancel("the connection is over")
    finally:
        stream.hang_up()


async def _read(socket: WebSocket, stream: FrameStream) -> None:
    while True:
        try:
            message = await socket.receive()
        except (WebSocketDisconnect, RuntimeError):  # the latter is Starlette's, for the same
            stream.put_eof()
            return
        if message["type"] == "websocket.disconnect":
            stream.hang_up()
            return
        data = message.get("bytes") or (message.get("text") or "").encode("utf-8", "replace")
        try:
            # each message is one or more whole frames: the LF says so
            await stream.put(data + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


async def _write(socket: WebSocket, stream: FrameStream) -> None:
    try:
        while True:
            for frame in (await stream.take()).splitlines():
                await socket.send_text(frame.decode())
    except trio.EndOfChannel:
        await socket.close()
    except (trio.ClosedResourceError, WebSocketDisconnect, RuntimeError):
        return  # the client has left


async def ask(broker: "Broker", frame: dict[str, Any], peer: str) -> dict[str, Any]:
    """One frame in, its answer out. Raises ClientError when none comes."""
    stream = FrameStream()
    broker.connect(stream, peer)
    try:
        with trio.move_on_after(ANSWER_S):
            await stream.put(msgspec.json.encode({**frame, "id": "http"}) + b"\n")
            while True:
                for line in (await stream.take()).splitlines():
                    answer: dict[str, Any] = msgspec.json.decode(line)
                    if answer.get("id") == "http" or answer.get("closes"):
                        return answer
    except (trio.EndOfChannel, trio.BrokenResourceError) as error:
        raise ClientError("unavailable", "the broker is stopping; ask again") from error
    finally:
        stream.hang_up()
    raise ClientError("unavailable", f"no answer within {ANSWER_S:g} s: its outcome is unknown")
