"""A cable between two fake sockets: TCP as the broker meets it, in memory and in virtual time.

Each direction holds up to `window` bytes that were sent and not yet read, so that a peer who
does not read makes the sender wait. An end may be closed (EOF behind what was sent), reset
(both ends fail at once, what was under way is lost) or `cut` (bytes vanish, nobody is told).
`reset_after(n)` resets in the middle of a later `send_all`, when n more bytes were taken.
"""

from math import inf

import trio


class _Line:
    """One direction."""

    def __init__(self, window: float) -> None:
        self.window = window
        self.bytes = bytearray()
        self.passed = 0  # bytes ever taken from the sender
        self.eof = False
        self.cut = False
        self.changed = trio.Event()

    def ring(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class End(trio.abc.HalfCloseableStream):
    """One end of a cable."""

    def __init__(self, out: _Line, into: _Line, ends: "list[End]") -> None:
        self.out = out
        self.into = into
        self._ends = ends
        self._closed = False
        self._broken = False
        self._reset_at = inf
        self.read_limit = 1 << 30  # bytes that one read returns at most

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        rest = memoryview(bytes(data))
        line = self.out
        while True:
            self._check()
            if line.eof:
                raise trio.ClosedResourceError
            if line.bytes and not line.cut and self._peer._closed:
                self.reset()
                self._check()
            room = len(rest) if line.cut else line.window - len(line.bytes)
            part = rest[: int(min(len(rest), room, max(0.0, self._reset_at - line.passed)))]
            line.passed += len(part)
            if not line.cut:
                line.bytes += part
            rest = rest[len(part) :]
            if part:
                line.ring()
            if line.passed >= self._reset_at:
                self.reset()
                raise trio.BrokenResourceError("connection reset by peer")
            if not rest:
                return
            await line.changed.wait()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        line = self.into
        while True:
            self._check()
            if line.bytes:
                most = min(max_bytes or 65536, self.read_limit)
                data = bytes(line.bytes[:most])
                del line.bytes[:most]
                line.ring()
                return data
            if line.eof:
                return b""
            await line.changed.wait()

    async def send_eof(self) -> None:
        self._check()
        self.out.eof = True
        self.out.ring()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """As close(2): the peer reads EOF; with something unread here, or sent here later, RST."""
        if self._closed:
            return
        self._closed = True
        if not self.out.cut:
            self.out.eof = True
            if self.into.bytes:
                self.reset()
        self._wake()

    def reset(self) -> None:
        """The connection is gone at once, for both ends (unless the cable is cut)."""
        for end in self._ends:
            if end is self or not self.out.cut:
                end._broken = True
        self._wake()

    def reset_after(self, count: int) -> None:
        """In the middle of what this end sends, when the peer was given `count` bytes more."""
        self._reset_at = self.out.passed + count

    def cut(self) -> None:
        """Pull the cable: whatever either end sends from now on goes nowhere."""
        for line in (self.out, self.into):
            line.cut = True

    @property
    def _peer(self) -> "End":
        return self._ends[1] if self._ends[0] is self else self._ends[0]

    def _wake(self) -> None:
        self.out.ring()
        self.into.ring()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if self._broken:
            raise trio.BrokenResourceError("connection reset by peer")


def cable(window: float = inf) -> tuple[End, End]:
    """Two ends: the client's and the broker's. `window`: bytes under way, each direction."""
    there, back = _Line(window), _Line(window)
    ends: list[End] = []
    ends += [End(there, back, ends), End(back, there, ends)]
    return ends[0], ends[1]
