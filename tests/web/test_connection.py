"""What a web client must not be able to do: hang a connection, fill the memory, lose an answer.

The sockets are real, a pair within this process; the clock is not, and a wait that should not be
is a `TooSlowError`.
"""

import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from msg.web.connection import LINGER_S, READ_S, WRITE_S, Connection, PatientStream
from msg.web.server import PING_S

App = Callable[[Any, Any, Any], Awaitable[None]]
MESSAGE_MAX = 1000
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"
)
TEXT, CLOSE, PING = 1, 8, 9


@attrs.define
class Client:
    """The other end of a connection. `ended` when that has left nothing behind."""

    stream: trio.SocketStream
    ended: trio.Event = attrs.field(factory=trio.Event)
    heard: bytes = b""

    async def say(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def until(self, end: bytes) -> bytes:
        """What comes, up to and with this."""
        while end not in self.heard:
            self.heard += (await self.stream.receive_some(65536)) or pytest.fail(
                f"never came: {end!r}, but {self.heard!r}"
            )
        found, _, self.heard = self.heard.partition(end)
        return found + end

    async def rest(self) -> bytes:
        """What comes, up to the end."""
        while data := await self.stream.receive_some(65536):
            self.heard += data
        return self.heard

    async def upgrade(self, more: bytes = b"") -> bytes:
        await self.say(UPGRADE % more)
        return await self.until(b"\r\n\r\n")

    async def frame(self) -> tuple[int, bytes]:
        """(opcode, payload) of the next frame that is no ping."""
        while True:
            first, length = await self._bytes(2)
            if length == 126:
                (length,) = struct.unpack(">H", await self._bytes(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", await self._bytes(8))
            payload = await self._bytes(length)
            if first & 15 != PING:
                return first & 15, payload

    async def _bytes(self, count: int) -> bytes:
        while len(self.heard) < count:
            self.heard += (await self.stream.receive_some(65536)) or pytest.fail("it has ended")
        found, self.heard = self.heard[:count], self.heard[count:]
        return found


@asynccontextmanager
async def served(app: App) -> AsyncIterator[Client]:
    """A client whose requests this application answers."""
    ours, theirs = map(trio.socket.from_stdlib_socket, socket.socketpair())
    client = Client(trio.SocketStream(theirs))
    config = Config()
    config.websocket_max_message_size = MESSAGE_MAX
    config.websocket_ping_interval = PING_S

    async def serve() -> None:
        with ours:
            stream = PatientStream(trio.SocketStream(ours))
            await Connection(ASGIWrapper(app), config, WorkerContext(None), stream).run()
        client.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield client
        theirs.close()
        with trio.fail_after(1):
            await client.ended.wait()


def frame(payload: bytes, opcode: int = TEXT, length: int | None = None) -> bytes:
    """As a client sends it: masked, with zeros."""
    size = len(payload) if length is None else length
    said = bytes([0x80 | size]) if size < 126 else b"\xff" + struct.pack(">Q", size)
    return bytes([0x80 | opcode]) + said + bytes(4) + payload


def chunked(chunks: int) -> bytes:
    return (
        b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\nx\r\n" * chunks
    )


async def answer(send: Any, body: bytes = b"done", status: int = 200) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def deaf(scope: Any, receive: Any, send: Any) -> None:
    """Hears nothing of what the client says, and answers when all wait for it."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await trio.testing.wait_all_tasks_blocked()
        await send({"type": "websocket.close"})
    else:
        await trio.testing.wait_all_tasks_blocked()
        await answer(send)


async def echo(_scope: Any, receive: Any, send: Any) -> None:
    """A WebSocket that tells what it was told, also that the client has left."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def test_who_speaks_on_to_a_handler_that_does_not_listen_ends_all_the_same(autojump_clock):
    async with served(deaf) as client:
        await client.say(chunked(100))
        assert (await client.rest()).endswith(b"\r\n\r\ndone")


async def test_a_websocket_that_speaks_on_after_its_end_ends_all_the_same(autojump_clock):
    async with served(deaf) as client:
        await client.upgrade()
        await client.say(frame(b"x") * 100)
        assert await client.frame() == (CLOSE, struct.pack(">H", 1000))
        assert await client.rest() == b""


async def test_who_leaves_leaves_nothing_behind(autojump_clock):
    async with served(deaf):
        pass  # it said nothing
    async with served(deaf) as client:
        await client.say(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        await client.until(b"done")
    async with served(echo) as client:  # its pings sleep for long
        await client.upgrade()
        await client.say(frame(b"hello"))
        assert await client.frame() == (TEXT, b"hello")


async def test_who_asks_for_a_websocket_and_leaves_before_it_is_refused_leaves_nothing_behind(
    autojump_clock,
):
    async def refuses(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await trio.testing.wait_all_tasks_blocked()
        await send({"type": "websocket.close"})

    async with served(refuses) as client:
        await client.say(UPGRADE % b"")


async def test_who_only_half_leaves_is_answered(autojump_clock):
    async with served(deaf) as client:
        await client.say(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        await client.stream.send_eof()
        with trio.fail_after(1):
            assert (await client.rest()).endswith(b"\r\n\r\ndone")


async def test_a_refusal_reaches_a_client_that_still_sends(autojump_clock):
    async with served(deaf) as client:
        await client.say(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 9000000\r\n\r\n")
        await client.until(b"\r\n\r\ndone")
        for _ in range(100):
            await client.say(bytes(10_000))
        assert await client.rest() == b""
        with trio.fail_after(LINGER_S + 1):  # not for ever
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await client.say(bytes(10_000))
                    await trio.sleep(LINGER_S / 10)


async def test_a_message_over_the_limit_ends_the_websocket_and_is_not_kept(autojump_clock):
    left = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await echo(scope, receive, send)
        left.set()

    async with served(app) as client:
        await client.upgrade()
        await client.say(frame(b"x" * 2 * MESSAGE_MAX, length=1 << 40))
        assert await client.frame() == (CLOSE, struct.pack(">H", 1009))
        with trio.fail_after(1):
            await left.wait()
            assert await client.rest() == b""


async def test_only_http_1_and_no_compression_are_spoken(autojump_clock):
    async with served(deaf) as client:
        await client.say(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: Upgrade, HTTP2-Settings\r\n"
                         b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")  # fmt: skip
        assert (await client.until(b"done")).startswith(b"HTTP/1.1 200")
    async with served(deaf) as client:
        await client.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await client.until(b"\r\n")).startswith(b"HTTP/1.1 ")
    async with served(echo) as client:
        head = await client.upgrade(b"Sec-WebSocket-Extensions: permessage-deflate\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        assert b"deflate" not in head


@pytest.mark.parametrize(
    "header", [b"Sec-WebSocket-Extensions: \xff", b"Sec-WebSocket-Protocol: \xff"]
)
async def test_a_header_that_is_not_ascii_breaks_nothing(autojump_clock, header):
    async with served(echo) as client:
        await client.upgrade(header + b"\r\n")
        await client.say(frame(b"hello"))
        assert await client.frame() == (TEXT, b"hello")


async def test_a_frame_that_comes_with_the_handshake_is_heard(autojump_clock):
    async with served(echo) as client:
        await client.say(UPGRADE % b"" + frame(b"hello"))
        await client.until(b"\r\n\r\n")
        assert await client.frame() == (TEXT, b"hello")


async def test_who_asks_wrongly_for_a_websocket_is_told_so_and_let_go(autojump_clock):
    async with served(echo) as client:
        await client.say(b"GET /ws HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\n"
                         b"Upgrade: websocket\r\n\r\nrubbish")  # fmt: skip
        with trio.fail_after(1):
            assert (await client.rest()).startswith(b"HTTP/1.1 400")


async def test_what_is_no_request_is_answered_in_a_sentence(autojump_clock):
    async with served(deaf) as client:
        await client.say(b"\x16\x03\x01 hello\r\n\r\n")
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert json.loads(body)["code"] == "bad_frame"
    async with served(deaf) as client:
        await client.say(b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000)
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 431")
        assert json.loads(body)["code"] == "too_large"


async def test_a_slow_reader_gets_all_of_its_answer(autojump_clock):
    whole = bytes(8 << 20)

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, whole)

    async with served(app) as client:
        await client.say(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        await client.until(b"\r\n\r\n")
        had = len(client.heard)
        while had < len(whole):
            await trio.sleep(WRITE_S / 3)
            had += len(await client.stream.receive_some(1 << 18)) or pytest.fail(f"cut at {had}")


async def test_a_slow_reader_of_a_websocket_need_not_answer_pings_that_it_has_not_read(
    autojump_clock,
):
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(8):
            await send({"type": "websocket.send", "text": "x" * (1 << 20)})
        await send({"type": "websocket.close"})

    async with served(app) as client:
        await client.upgrade()
        for _ in range(8):
            while len(client.heard) < 1 << 20:
                await trio.sleep(WRITE_S / 3)
                client.heard += await client.stream.receive_some(1 << 18) or pytest.fail("cut")
            assert len((await client.frame())[1]) == 1 << 20


async def test_who_takes_nothing_or_says_nothing_is_cut(autojump_clock):
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, bytes(8 << 20))

    async with served(app) as client:
        await client.say(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        with trio.fail_after(WRITE_S + 1):
            await client.ended.wait()
    async with served(echo) as client:
        await client.upgrade()
        with trio.fail_after(READ_S + 1):
            await client.ended.wait()
