"""A trio stream as an anyio one, for clients in the broker's own loop."""

import anyio
import anyio.abc
import attrs
import trio


@attrs.frozen(eq=False)
class TrioByteStream(anyio.abc.ByteStream):
    """Only the names of methods and errors differ."""

    stream: trio.abc.HalfCloseableStream

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            data = await self.stream.receive_some(max_bytes)
        except trio.ClosedResourceError as error:
            raise anyio.ClosedResourceError from error
        except trio.BrokenResourceError as error:
            raise anyio.BrokenResourceError from error
        if not data:
            raise anyio.EndOfStream
        return bytes(data)

    async def send(self, item: bytes) -> None:
        try:
            await self.stream.send_all(item)
        except trio.ClosedResourceError as error:
            raise anyio.ClosedResourceError from error
        except trio.BrokenResourceError as error:
            raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()
