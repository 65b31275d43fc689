"""What the client's tests share: `both` loops, and a broker of which a test plays the part."""

import functools
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.abc
import pytest
import trio.testing

from msg.client import Client, connect

Frame = dict[str, Any]
PATIENCE_S = 20.0
STAGES: list["Stage"] = []  # of this test; `both` closes them


def both(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run this async test twice: under trio with a virtual clock, and under asyncio.

    Under asyncio time is real, so a test of both loops may wait for events, not for seconds.
    """

    @pytest.mark.parametrize("loop", ["trio", "asyncio"])
    @functools.wraps(test)
    def run(loop: str, **fixtures: Any) -> None:
        options: dict[str, Any] = {}
        if loop == "trio":
            options = {"clock": trio.testing.MockClock(autojump_threshold=0)}

        async def main() -> None:
            try:
                with anyio.fail_after(PATIENCE_S if loop == "asyncio" else 10_000):
                    await test(**fixtures)
            finally:
                while STAGES:
                    STAGES.pop().close()

        anyio.run(main, backend=loop, backend_options=options)

    signature = inspect.signature(test)
    loop = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), loop]
    )
    return run


async def until(true: Callable[[], object]) -> None:
    """Until this is so; `both` bounds how long that may take."""
    while not true():  # noqa: ASYNC110 - what it is about has no event
        await anyio.sleep(0.001)  # a virtual clock may only go on while nothing runs


class Wire(anyio.abc.ByteStream):
    """One end of a connection in memory, of any loop."""

    def __init__(self, receive: Any, send: Any) -> None:
        self._receive, self._send = receive, send
        self.peer: Wire | None = None
        self._rest = b""  # of a piece that was longer than a read

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data: bytes = self._rest or await self._receive.receive()
        self._rest = data[max_bytes:]
        return data[:max_bytes]

    async def send(self, item: bytes) -> None:
        await self._send.send(item)

    async def send_eof(self) -> None:
        self._send.close()
        if self.peer is not None:  # a broker closes too, when all is answered
            self.peer._send.close()

    async def aclose(self) -> None:
        self._send.close()
        self._receive.close()


class Stage:
    """The broker's side of a client's connections, played by the test, one at a time.

    `hello` is answered by itself unless `greet` is False.
    """

    def __init__(self, *, greet: bool = True) -> None:
        STAGES.append(self)
        self.greet = greet
        self.dialled = 0
        self.ends: list[Wire] = []
        self.refuse: list[Exception] = []  # for the next tries to connect
        self._new, self._connections = anyio.create_memory_object_stream[Wire](100)
        self._buffer = b""
        self.end: Wire | None = None

    def connect(self, **options: Any) -> Client:
        return connect("msg://stage.test", **{"dial": self.dial, "heartbeat": 0, **options})

    async def dial(self) -> anyio.abc.ByteStream:
        self.dialled += 1
        if self.refuse:
            raise self.refuse.pop(0)
        up, from_client = anyio.create_memory_object_stream[bytes](10_000)
        down, from_broker = anyio.create_memory_object_stream[bytes](10_000)
        client_end, broker_end = Wire(from_broker, up), Wire(from_client, down)
        client_end.peer = broker_end
        self.ends += [client_end, broker_end]
        self._new.send_nowait(broker_end)
        if self.greet:
            down.send_nowait(b'{"type":"hello","id":"hello","inbox":"_inbox.test"}\n')
        return client_end

    async def accepted(self) -> None:
        """The next connection is there; its `hello` has been read."""
        self.end = await self._connections.receive()
        self._buffer = b""
        hello = await self.heard()
        assert hello["action"] == "hello"

    async def heard(self) -> Frame:
        """The next frame of the client."""
        assert self.end is not None
        while b"\n" not in self._buffer:
            self._buffer += await self.end.receive()
        line, _, self._buffer = self._buffer.partition(b"\n")
        frame: Frame = json.loads(line)
        return frame

    async def say(self, *frames: Frame) -> None:
        assert self.end is not None
        await self.end.send(b"".join(json.dumps(f).encode() + b"\n" for f in frames))

    async def hang_up(self) -> None:
        assert self.end is not None
        await self.end.aclose()

    def close(self) -> None:
        """Nothing is left open: a stream that is not closed warns."""
        self._new.close()
        self._connections.close()
        for end in self.ends:
            end._send.close()
            end._receive.close()


def message(**fields: Any) -> Frame:
    """A delivery."""
    return {
        "type": "message",
        "topic": "jobs",
        "message_id": "m1",
        "published_at": "2026-11-23T08:05:15.123Z",
        "message": 1,
        **fields,
    }
