"""Outbox: everything on its way to one client, bounded in bytes.

Owns   the answers and the deliveries that its connection's writer has not yet written.
Hears  answers from whoever has one; deliveries from queues (within the credit that `room`
       tells) and topics (any number: the oldest are dropped, counted and told).
Tells  the writer, by a bell: a memory channel of one slot. Where a turn gave it a little while
       the writer was idle, that is written at the end of the turn, without a switch of tasks.
Ends   with its connection; what is offered afterwards goes nowhere, and its queues hear of
       the departure.

This is the one place where actors meet an object instead of a mailbox: one writer serves up
to 100 subscriptions with byte limits and drop-oldest, which a bare channel cannot do. Its
doors (`answer`, `Port.deliver`, …) never wait and never fail.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import wraps
from operator import attrgetter
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import trio

WRITE_BYTES = 1 << 18  # a write takes about so much: large enough to amortise, small to share
DIRECT_BYTES = 4 << 10  # a turn writes no more than so much itself: a batch is better gathered
DIRECT_MOST = 64  # and to no more outboxes: a write is a system call of 5 to 10 us
_DELIVERIES = attrgetter("bytes")  # of an outbox: bytes of deliveries

P = ParamSpec("P")


class HasOutbox(Protocol):
    outbox: "Outbox"


class Clock(Protocol):
    def now(self) -> float: ...


S = TypeVar("S", bound=HasOutbox)


def contained(call: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
    """For what other actors call of a connection's: a bug in it ends that connection, and
    not the queue or topic whose turn it is."""

    @wraps(call)
    def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            call(self, *args, **kwargs)
        except Exception as error:
            self.outbox.fail(error)

    return guarded


class Budget:
    """Bytes that wait in all outboxes together."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class Outbound(Budget):
    """All outboxes together: the bytes that wait in them, and those that the turn under way has
    given something while their writers were idle.

    A turn runs `with` this around it, and may `flush` as soon as it has told all that it tells.
    A little is then written at once: waking a writer for it costs as much as half the turn. But
    no outbox has two such writes between two reads of anybody: when a thousand queues deliver
    to one connection in one pass of the loop, its writer gathers all but the first.
    """

    __slots__ = ("dropped", "fresh", "reads")

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.dropped = 0  # messages that slow subscribers of topics have lost, ever
        self.reads = 0  # of all connections, ever
        # idle outboxes that the turn has given something; None: their writers are woken at once
        self.fresh: list[Outbox] | None = None

    def __enter__(self) -> None:
        self.fresh = []

    def __exit__(self, *_: object) -> None:
        fresh, self.fresh = self.fresh, None
        if fresh:
            self._write_out(fresh)

    def flush(self) -> None:
        """Have all written, or their writers woken; deliveries go before mere answers."""
        if self.fresh:
            fresh, self.fresh = self.fresh, []
            self._write_out(fresh)

    def _write_out(self, fresh: "list[Outbox]") -> None:
        if len(fresh) > 1:
            fresh.sort(key=_DELIVERIES, reverse=True)
        for outbox in fresh[:DIRECT_MOST]:
            outbox.write_now()
        for outbox in fresh[DIRECT_MOST:]:
            outbox.wake()


class Port:
    """One subscription's share of an outbox. What waits in it can be counted and dropped."""

    __slots__ = ("bytes", "closed", "outbox")

    def __init__(self, outbox: "Outbox") -> None:
        self.outbox = outbox
        self.bytes = 0
        self.closed = False

    def chunks(self, size: int) -> Iterator[bytes]:
        """Encode and hand over what waits, until `size` bytes are reached."""
        raise NotImplementedError

    def wrote(self, now: float) -> None:
        """What `chunks` handed over has reached the kernel."""

    def cut_off(self, frames: Mapping[int, int]) -> None:
        """The connection ended in the middle of a write: of a chunk whose `id` is here, only
        so many frames have reached the kernel."""

    @property
    def waits(self) -> bool:
        raise NotImplementedError

    def grant(self) -> None:
        """There is more room: reserve it for the pages of replays that wait for some."""


class Outbox:
    """See the module. `limit` is the connection's limit for deliveries, in bytes."""

    __slots__ = ("_answers", "_bell", "_idle", "_parts", "_ports", "_ready", "_wait",
                 "_written_at", "answer_bytes", "budget", "bytes", "claimed", "claims", "closed",
                 "conn", "direct", "limit", "on_fault", "on_slow", "shut",
                 "writing")  # fmt: skip

    def __init__(self, limit: int, budget: Outbound, conn: int = 0) -> None:
        self.limit = limit
        self.budget = budget
        self.conn = conn  # the connection's number
        self._answers: list[bytes] = []
        self.answer_bytes = 0
        self._ready: dict[Port, None] = {}  # ports with something to write, in rotation
        self.bytes = 0
        self.claimed = 0  # bytes reserved for pages of replays that are being read
        self.claims: dict[Port, None] = {}  # ports whose replays wait for room
        self.closed = False
        self.shut = False  # its client seems to leave: give it nothing that waits for an answer
        self.on_fault: Callable[[Exception], None] | None = None  # the connection's
        # a subscription has lost messages: its `sub`, and how many so far
        self.on_slow: Callable[[str | None, int], None] | None = None
        self._idle = False  # whether the writer waits for the bell
        self.writing: bytes | None = None  # the write that is under way
        self._parts: Sequence[bytes] = ()  # what it was made of
        self._ports: Collection[Port] = ()  # and for whom
        # the connection's, where its stream can: `take` and write, but for what would wait
        self.direct: Callable[[], None] | None = None
        self._written_at = -1  # the count of reads when `direct` was last called
        self._bell, self._wait = trio.open_memory_channel[None](1)

    # -- for whoever has something for this client ----------------------------------------

    def answer(self, frame: bytes) -> None:
        """One or more whole frames."""
        if self.closed:
            return
        self._answers.append(frame)
        self.answer_bytes += len(frame)
        self.ring()

    def grow(self, port: Port, size: int) -> None:
        self.bytes += size
        self.budget.used += size
        self._ready[port] = None
        if self._idle:
            self.ring()

    def shrink(self, size: int) -> None:
        self.bytes -= size
        self.budget.used -= size
        if self.claims:
            for port in list(self.claims):
                port.grant()

    def takes_page(self, size: int) -> bool:
        """Whether a page of a replay may come: half of the room is left to what is live."""
        waiting = self.bytes + self.claimed
        if not waiting:
            return True  # else a replay could wait for ever on what others fill
        return waiting + size <= self.limit // 2 and self.budget.used + size <= self.budget.limit

    def forget(self, port: Port) -> None:
        """Drop what waits for this subscription: it is over."""
        self._ready.pop(port, None)
        self.shrink(port.bytes)
        port.bytes = 0

    @property
    def room(self) -> int:
        """Bytes of deliveries that may still be added; 0 when closed or shut."""
        if self.closed or self.shut:
            return 0
        return min(self.limit - self.bytes, self.budget.limit - self.budget.used)

    def fail(self, error: Exception) -> None:
        """A bug in what this client was to be told: its connection ends with it."""
        if self.on_fault is None:
            raise error
        self.on_fault(error)

    def ring(self) -> None:
        if self._idle:
            self._idle = False
            fresh = self.budget.fresh
            if fresh is None:
                self.wake()
            else:
                fresh.append(self)

    def wake(self) -> None:
        self._bell.send_nowait(None)

    def write_now(self) -> None:
        """The end of the turn that gave the first: write what waits, or wake the writer."""
        if (
            self.direct is not None
            and self._written_at != self.budget.reads
            and self.bytes + self.answer_bytes <= DIRECT_BYTES
            and not self.closed
        ):
            self._written_at = self.budget.reads
            try:
                self.direct()
            except Exception as error:
                self.fail(error)
            if self.empty:
                self._idle = True
                return
        self.wake()

    @property
    def idle(self) -> bool:
        """Whether the writer waits for the bell, and nothing has rung it."""
        return self._idle

    # -- for the writer -------------------------------------------------------------------

    async def wait(self) -> None:
        """Until there is something to write, or the outbox is closed."""
        while self.empty and not self.closed:
            self._idle = True
            await self._wait.receive()

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be written, and nothing is being written."""
        return not (self._answers or self._ready or self.writing is not None)

    def take(self) -> bytes:
        """The next write. It is under way until `wrote` or `cut_off` says how it ended."""
        parts = self._answers
        self._answers = []
        size, self.answer_bytes = self.answer_bytes, 0
        self._ports = self._take_deliveries(parts, size) if self._ready else ()
        self._parts = parts
        self.writing = parts[0] if len(parts) == 1 else b"".join(parts)
        return self.writing

    def _take_deliveries(self, parts: list[bytes], size: int) -> Collection[Port]:
        """Add what fits behind `size` bytes; whose it is."""
        ports: dict[Port, None] = {}
        while self._ready and size < WRITE_BYTES:
            port = next(iter(self._ready))
            del self._ready[port]
            ports[port] = None
            for chunk in port.chunks(WRITE_BYTES - size):
                parts.append(chunk)
                size += len(chunk)
            if port.waits:
                self._ready[port] = None  # to the end: its turn comes again
        return ports

    def wrote(self, clock: Clock) -> None:
        """The kernel has all of the write that was under way."""
        ports = self._ports
        self.writing, self._parts, self._ports = None, (), ()
        if ports:
            now = clock.now()
            for port in ports:
                port.wrote(now)

    def cut_off(self, sent: int) -> None:
        """The write under way, if there is one, ended after so many bytes: what came later was
        not handed over."""
        frames: dict[int, int] = {}
        for part in self._parts:
            if len(part) > sent:
                frames[id(part)] = part.count(b"\n", 0, max(0, sent))
            sent -= len(part)
        for port in self._ports:
            port.cut_off(frames)

    def close(self) -> None:
        """The connection is over: nothing more is taken."""
        if self.closed:
            return
        self.closed = True
        self._answers.clear()
        self._ready.clear()
        self.writing, self._parts, self._ports = None, (), ()
        self.budget.used -= self.bytes
        self.bytes = 0
        self.answer_bytes = 0
        if self._idle:
            self._idle = False
            self.wake()
