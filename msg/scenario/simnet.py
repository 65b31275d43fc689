"""The simulated network: byte streams between clients and broker, and what befalls them.

A link is two pipes. A pipe behaves as TCP does as far as a program can tell: a bounded number
of bytes is under way (a reader that does not read stops the writer), bytes arrive in order
after a while and in other pieces than they were written, an end of file comes after the
data, a reset throws away what is under way.
"""

import random
from collections import deque
from math import inf
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW_BYTES = 1 << 16  # under way in one direction: about what two socket buffers hold


class Pipe:
    """One direction. The writer's side is `send`, the reader's `receive`."""

    def __init__(self, rng: random.Random, latency: float, window: int = WINDOW_BYTES) -> None:
        self._rng = rng
        self.latency = latency
        self.window = window
        self.rate = inf  # bytes a second that arrive
        self.piece = 0  # the most that one read gives; 0 = all that is there
        self.stalled_until = -inf
        self.silent = False  # what is sent is lost, and nobody is told
        self.cut_after = -1  # so many more bytes arrive, then the link is reset
        self.on_cut: Callable[[], None] = self.reset_now
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._arrived_at = -inf
        self._free_at = -inf
        self._ended = False
        self._reset = False
        self._closed_by_reader = False
        self._changed = trio.lowlevel.ParkingLot()

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        while True:
            if self._reset or (self._closed_by_reader and not self.silent):
                raise trio.BrokenResourceError("connection reset by peer")
            if self._ended:
                raise trio.ClosedResourceError("this end was closed")
            room = self.window - self._size
            if room > 0 and rest:
                self._put(bytes(rest[:room]))
                rest = rest[room:]
            if not rest:
                return
            await self._changed.park()

    def _put(self, data: bytes) -> None:
        self._size += len(data)
        if self.silent:
            return  # it fills the sender's buffer, as unacknowledged bytes do
        at = trio.current_time() + self.latency * (0.5 + self._rng.random())
        self._arrived_at = max(at, self._arrived_at)
        self._chunks.append((self._arrived_at, data))
        self._changed.unpark_all()

    async def receive(self, most: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self._reset:
                raise trio.BrokenResourceError("connection reset by peer")
            if self._closed_by_reader:
                raise trio.ClosedResourceError("this end was closed")
            due = self._due()
            if due <= trio.current_time():
                return self._take(most)
            with trio.CancelScope(deadline=due):
                await self._changed.park()

    def _due(self) -> float:
        if self.silent:
            return inf
        if self._chunks:
            return max(self._chunks[0][0], self.stalled_until, self._free_at)
        return self.stalled_until if self._ended else inf

    def _take(self, most: int) -> bytes:
        if not self._chunks:
            return b""  # the end
        now = trio.current_time()
        if self.piece:
            most = min(most, self._rng.randint(1, self.piece))
        if self.rate != inf:
            most = min(most, max(1, int(self.rate * 0.05)))
        parts: list[bytes] = []
        while self._chunks and self._chunks[0][0] <= now and most > 0:
            at, data = self._chunks.popleft()
            if len(data) > most:
                self._chunks.appendleft((at, data[most:]))
                data = data[:most]
            parts.append(data)
            most -= len(data)
        taken = b"".join(parts)
        if 0 <= self.cut_after <= len(taken):
            taken = taken[: self.cut_after]
            self.on_cut()
        elif self.cut_after > 0:
            self.cut_after -= len(taken)
        self._size -= len(taken)
        if self.rate != inf:
            self._free_at = now + len(taken) / self.rate
        self._changed.unpark_all()
        return taken

    @property
    def under_way(self) -> int:
        """Bytes sent and not yet received."""
        return self._size

    def end(self) -> None:
        """The writer has no more: the reader gets what is under way, then the end."""
        self._ended = True
        self._changed.unpark_all()

    def close_reading(self) -> None:
        self._closed_by_reader = True
        self._changed.unpark_all()

    def reset_now(self) -> None:
        self._reset = True
        self._chunks.clear()
        self._changed.unpark_all()

    def changed(self) -> None:
        """A fault was set: whoever waits looks again."""
        self._changed.unpark_all()


class End(trio.abc.HalfCloseableStream):
    """One end of a link."""

    def __init__(self, incoming: Pipe, outgoing: Pipe) -> None:
        self._in = incoming
        self._out = outgoing

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._out.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        self._out.end()
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._in.receive(max_bytes or WINDOW_BYTES)

    async def aclose(self) -> None:
        self._out.end()
        self._in.close_reading()
        await trio.lowlevel.checkpoint()


class SimLink:
    """A connection between a client and the broker, with the switches of a fault."""

    def __init__(self, rng: random.Random, latency: float) -> None:
        self.up = Pipe(rng, latency)  # client to broker
        self.down = Pipe(rng, latency)
        self.client_end = End(self.down, self.up)
        self.broker_end = End(self.up, self.down)
        self.pipes = (self.up, self.down)
        self.up.on_cut = self.cut

    def cut(self) -> None:
        """A reset: both sides learn it at once, what is under way is lost."""
        for pipe in self.pipes:
            pipe.reset_now()

    def broker_died(self) -> None:
        """What it had said before arrives, then the end; what it says now does not."""
        self.down.end()
        self.up.close_reading()

    def cut_inside_frame(self, after: int) -> None:
        """A reset once the broker has received `after` more bytes from the client."""
        self.up.cut_after = after
        self.up.changed()

    def stall(self, until: float) -> None:
        for pipe in self.pipes:
            pipe.stalled_until = until
            pipe.changed()

    def go_silent(self) -> None:
        """Half open: neither side is told anything any more."""
        for pipe in self.pipes:
            pipe.silent = True
            pipe.changed()

    def split(self, piece: int) -> None:
        for pipe in self.pipes:
            pipe.piece = piece

    def throttle(self, bytes_per_second: float) -> None:
        """What the broker sends arrives no faster than this."""
        self.down.rate = bytes_per_second
        self.down.changed()
