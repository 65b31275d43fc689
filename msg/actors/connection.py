"""Connection actor: one client. A reader task and a writer task around a session.

Owns   the stream, the decoder, the session and the outbox of one client.
Hears  bytes from the client; through its outbox, answers and deliveries from everybody.
Tells  what the session tells. Only the writer writes to the stream; where it is idle and a
       turn has a little for this client, `_write_directly` does it in the writer's place, and
       leaves to it all that would wait or fail.
Ends   at the client's EOF when all is answered, at an error that closes, when the client is
       cut (reset, missed heartbeats, takes no bytes), or when the broker stops. However it
       ends, its queues hear of the departure without anything being awaited.

All its clocks share the deadline of one scope around the reader: when it strikes, `_check_up`
looks at what is overdue. So a read costs no scope of its own.
"""

import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import trio

from msg.actors.outbox import Outbox
from msg.actors.session import Session
from msg.protocol import encode
from msg.protocol.checks import Checks
from msg.protocol.codec import Decoder, Rejected

if sys.platform != "win32":
    import fcntl
    import termios

if TYPE_CHECKING:
    from msg.actors.context import Context
    from msg.actors.turnstile import Turnstile

READ_BYTES = 1 << 16
READ_BYTES_MORE = 1 << 18  # after a read that was full: the larger, the fewer turns a message costs
LINGER_S = 2.0  # after an error that closes: so long the client may take to read it
FLUSH_S = 5.0
STALL_LOOKS = 10  # so many at what the kernel holds, before a client is taken for stalled
STALL_S = 1.0  # a check-up that is so late says nothing about the client
CLOSED = "closed by the client"

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class Cut(Exception):
    """The connection ends now; nothing more is written. `str` says why, for the log."""


class Connection:
    """See the module. `run` is the whole life of the connection."""

    # of a write that waits: what the kernel held for the client when that was last looked at
    _untaken = -1
    _looked = inf

    def __init__(
        self,
        stream: trio.abc.Stream,
        number: int,
        context: "Context",
        peer: str,
        turnstile: "Turnstile | None" = None,
    ) -> None:
        limits = context.settings.limits
        self.stream = stream
        # it stays open until `run` has returned
        self._fd = stream.socket.fileno() if isinstance(stream, trio.SocketStream) else -1
        self._turnstile = turnstile  # None: it waits for bytes by itself
        self.context = context
        self.number = number
        self.peer = peer
        self.since = context.world.now()
        self.outbox = Outbox(limits.outbound_bytes, context.outbound, number)
        self.outbox.on_slow = self._slow
        self.session = Session(number, self.outbox, context, peer)
        checks = Checks(prefetch_max=limits.in_flight)
        self.decoder = Decoder(
            limits.frame_bytes,
            check=checks.check,
            gather=checks.gather,
            errors_max=limits.errors_in_a_row,
        )
        self.limits = limits
        self.read_bytes = 0
        self.written_bytes = 0
        self._scope = trio.CancelScope()
        self._deadline = inf  # of that scope, as we set it: asking trio costs a microsecond
        self._last_read = self.since
        self._last_write = self.since
        self._writing_since = inf
        self._partial_since = inf
        self._taken = -1
        self._pings = 0
        self._interruptible = False
        self._drained: trio.Event | None = None
        self.task: trio.lowlevel.Task | None = None  # the reader's, for dumps
        self._fault: Exception | None = None
        self._gone = ""  # how the writer found that the client is
        self._sent = 0  # bytes of the write under way that the kernel has
        self._broken = ""  # why a direct write failed: the writer raises it
        self._ended = False  # the client has said that it asks for nothing more
        self._left: tuple[float, int, int] = (inf, 0, 0)  # to write, when that was last looked at
        self._more_to_read = False  # the last read took all that it may: there is more

    async def run(self) -> str:
        """Serve the client until the end. Returns why it ended; a bug passes through."""
        why = ""
        self.task = trio.lowlevel.current_task()
        try:
            async with trio.open_nursery() as nursery:
                self.outbox.on_fault = partial(self._fail, nursery.cancel_scope)
                nursery.start_soon(
                    self._write_until_gone, nursery.cancel_scope, name=f"writer {self.number}"
                )
                # an error that passed through the nursery would leave a cycle behind
                try:
                    why = await self._read_all()
                except Cut as cut:
                    why = str(cut)
                except _GONE as gone:
                    why = f"reset: {gone}"
                if self.outbox.idle:
                    self._depart()  # which tells the writer; a cancellation costs ten times that
                else:
                    nursery.cancel_scope.cancel()
        finally:
            if not self.outbox.closed:
                self._depart()
        if self._fault is not None:
            raise self._fault
        return why or self._gone

    def _depart(self) -> None:
        """Nothing is being written any more: tell everybody."""
        self.session.close()
        self.outbox.close()

    def _fail(self, everything: trio.CancelScope, error: Exception) -> None:
        """A bug that showed while another actor told us something."""
        if self._fault is None:
            self._fault = error
            everything.cancel("a bug")

    def let_go(self) -> None:
        """It has ended: leave no cycle behind, so that its memory is free when the last refers to
        it no more. Else it would wait for a full collection, which stops everybody."""
        self.outbox.on_slow = self.outbox.direct = None
        self.outbox.on_fault = _ignore
        self.session.let_go()
        self.task = None

    def _slow(self, sub: str | None, dropped: int) -> None:
        """A subscription does not keep up and has lost messages."""
        of = {"sub": sub} if sub is not None else {}
        self.context.services.logger.warning(
            "slow subscriber: messages dropped", conn=self.number, **of, dropped=dropped,
            client=self.session.name, peer=self.peer,
        )  # fmt: skip

    def tell(self, frame: bytes) -> None:
        """Something from the broker to this client."""
        self.outbox.answer(frame)

    # -- reading ----------------------------------------------------------------------------

    async def _read_all(self) -> str:
        while True:
            with trio.CancelScope() as self._scope:
                self._deadline = inf
                self._open_to_check_ups()
                return await self._read_on()
            if self._check_up():
                return await self._refuse_to_go_on()

    async def _read_on(self) -> str:
        decoder, session, outbox = self.decoder, self.session, self.outbox
        world, receive = self.context.world, self._receiver()
        answers_max = self.limits.answer_bytes
        outbound = outbox.budget
        while True:
            if outbox.answer_bytes > answers_max:
                await self._until_read()
            data = await receive()
            if not data:
                return await self._end_of_input()
            outbound.reads += 1
            self.read_bytes += len(data)
            self._last_read = world.now()
            self._pings = 0
            items = decoder.feed(data)
            if items:
                # no check-up may cancel this in the middle: a read is done whole
                self._interruptible = False
                if self._deadline != inf:
                    self._strike_at(inf)
                await session.handle(items, len(data))
                if decoder.closed:
                    return await self._refuse_to_go_on()
            if decoder.pending or self._partial_since != inf:
                self._watch()
            self._open_to_check_ups()

    def _open_to_check_ups(self) -> None:
        self._interruptible = True
        due = self._due()
        if due != self._deadline:
            self._strike_at(due)

    def _strike_at(self, due: float) -> None:
        self._deadline = self._scope.deadline = due

    def _watch(self) -> None:
        """Set the clock for what is open after this read."""
        decoder = self.decoder
        if decoder.pending:
            if decoder.taken != self._taken or self._partial_since == inf:
                self._partial_since = self._last_read
                self._taken = decoder.taken
        else:
            self._partial_since = inf

    def _due(self) -> float:
        """When something may be overdue, at the earliest."""
        due = inf
        if self._partial_since != inf:
            due = self._partial_since + self._patience()
        if self.session.heartbeat:
            due = min(due, self._last_read + (self._pings + 1) * self.session.heartbeat)
        if self._writing_since != inf:
            due = min(due, self._next_look())
        return due

    def _stall_due(self) -> float:
        return max(self._last_write, self._writing_since) + self.limits.write_stall_seconds

    def _next_look(self) -> float:
        if self._untaken < 0 or self._ended:  # after the end `_left_to_write` looks
            return self._stall_due()
        return min(self._stall_due(), self._looked + self.limits.write_stall_seconds / STALL_LOOKS)

    def _check_up(self) -> bool:
        """The scope's deadline struck: cut the client, ping it, or find that all is well.

        True: a frame stayed incomplete for too long; it has been answered, and it closes.
        """
        now = self.context.world.now()
        if now - self._scope.deadline > STALL_S:
            self._forgive(now)
        if self._writing_since != inf:
            self._look_at_kernel(now)
            if now >= self._stall_due():
                if self.outbox.room <= 0 or self.outbox.answer_bytes > self.limits.answer_bytes:
                    raise Cut(f"took no bytes for {self.limits.write_stall_seconds:g} s")
                self._writing_since = now  # it may take its time while it is within its limit
        heartbeat = self.session.heartbeat
        if heartbeat and now >= self._last_read + (self._pings + 1) * heartbeat:
            self._pings += 1
            # who has ended what it says has no way to answer a ping
            if self._pings >= self.limits.heartbeats_missed and not self._ended:
                raise Cut(f"missed {self._pings} heartbeats of {heartbeat:g} s")
            self.outbox.answer(encode.PING)
        if now >= self._partial_since + self._patience():
            for item in self.decoder.expire():
                assert isinstance(item, Rejected), "what expires is refused"
                self.session.reject(item)
            return True
        return False

    def _look_at_kernel(self, now: float) -> None:
        """Our kernel takes more of us only when a third of its buffer is free, which can be a
        megabyte: a client that takes less is slow, and not stalled."""
        before, self._untaken, self._looked = self._untaken, untaken(self._fd), now
        if self._untaken < before:
            self._last_write = now

    def _forgive(self, now: float) -> None:
        """The broker itself stood still: what was said meanwhile waits in the socket, unread."""
        self._last_read = now
        self._pings = 0
        if self._partial_since != inf:
            self._partial_since = now
        if self._writing_since != inf:
            self._writing_since = now

    def _patience(self) -> float:
        """How long what has begun to come in may stay incomplete."""
        if self.decoder.broken:
            return self.limits.broken_frame_seconds
        return self.limits.partial_frame_seconds

    async def _until_read(self) -> None:
        """The client does not read its answers, so it is not read either."""
        self._drained = trio.Event()
        while self.outbox.answer_bytes > self.limits.answer_bytes // 2:
            self._drained = trio.Event()
            await self._drained.wait()
        self._drained = None

    async def _end_of_input(self) -> str:
        """No more requests: all that was received is answered, then the end."""
        self._ended = True
        self._partial_since = inf  # what had begun is refused now: nothing more can come in
        items = self.decoder.eof()
        if items:
            self.outbox.shut = False
            await self.session.handle(items, 0)
        if self.session.unanswered:
            answered = trio.Event()
            self.session.on_answered = lambda: None if self.session.unanswered else answered.set()
            await answered.wait()
        self.outbox.shut = True  # what else a queue gave it would come back unread
        self.session.heartbeat = 0.0  # what it is still given shows that we are there
        self._open_to_check_ups()
        # a slow client reads all, one that does not read is not waited for, nor is one to which
        # topics give as much as it takes
        while not self.outbox.empty:
            before, self._left = self._left, self._left_to_write()
            if self._left >= before:
                break
            await self._flush()
        return CLOSED

    def _left_to_write(self) -> tuple[float, int, int]:
        """It becomes less as the client takes bytes, if nobody adds to it."""
        outbox = self.outbox
        sent = self._sent if outbox.writing is not None else 0
        return outbox.bytes + outbox.answer_bytes, -sent, untaken(self._fd)

    async def _refuse_to_go_on(self) -> str:
        """An error that closes has been answered: let the client read it."""
        await self._flush()
        with trio.move_on_after(LINGER_S):
            if isinstance(self.stream, trio.abc.HalfCloseableStream):
                await self.stream.send_eof()
            # closing with unread bytes would reset the connection under the answer
            for _ in range(256):
                if not await self.stream.receive_some(READ_BYTES):
                    break
        return "closed after an error"

    async def _flush(self) -> None:
        if self.outbox.empty:
            return
        with trio.move_on_after(FLUSH_S):
            while not self.outbox.empty:
                self._drained = trio.Event()
                await self._drained.wait()

    # -- writing ----------------------------------------------------------------------------

    async def _write_until_gone(self, everything: trio.CancelScope) -> None:
        try:
            await self._write_all()
        except _GONE as gone:
            self._gone = f"reset: {gone}"
            everything.cancel("the client is gone")

    async def _write_all(self) -> None:
        outbox = self.outbox
        send = self._sender()
        try:
            while True:
                await outbox.wait()
                if outbox.closed:
                    return
                if outbox.writing is None:
                    self._sent = 0
                    outbox.take()
                await send()
                self._wrote()
                if not outbox.empty:
                    await trio.lowlevel.checkpoint()  # a write that does not block is none
        except BaseException:
            outbox.cut_off(self._sent)
            raise
        finally:
            outbox.direct = None

    def _write_directly(self) -> None:
        """In the turn of another actor: it neither waits nor fails."""
        self._sent = 0
        self.outbox.take()
        try:
            whole = self._push()
        except OSError as error:
            self._broken = _reason(error)  # not the error: it holds this frame, which holds us
            return
        if whole:
            self._wrote()
        else:
            self._may_block()

    def _wrote(self) -> None:
        """All of the write under way has been passed on."""
        outbox = self.outbox
        self.written_bytes += self._sent
        self._writing_since = inf
        outbox.wrote(self.context.world)
        if self._drained is not None:
            self._drained.set()

    def _may_block(self) -> None:
        """A write waits for the client: from now on it may stall."""
        self._writing_since = self._looked = self.context.world.now()
        self._untaken = untaken(self._fd)
        if self._interruptible and self._next_look() < self._deadline:
            self._strike_at(self._next_look())

    # -- the stream -------------------------------------------------------------------------
    #
    # On a socket it is the two system calls and nothing else: trio's own methods try a read
    # that fails before they wait, and cost as much as the calls themselves.

    def _receiver(self) -> Callable[[], Awaitable[bytes]]:
        if self._fd >= 0:
            return self._receive_from_socket
        return self._receive_from_stream

    async def _receive_from_stream(self) -> bytes:
        return bytes(await self.stream.receive_some(READ_BYTES))

    async def _receive_from_socket(self) -> bytes:
        """A short read has emptied the socket, so the next one waits first."""
        fd, size = self._fd, READ_BYTES
        if self._more_to_read:
            size = READ_BYTES_MORE
            await trio.lowlevel.checkpoint()
        elif self._turnstile is None:
            await trio.lowlevel.wait_readable(fd)
        else:
            await self._turnstile.wait_readable(fd, self)
        while True:
            try:
                data = os.read(fd, size)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(fd)
                continue
            except OSError as error:
                raise trio.BrokenResourceError(_reason(error)) from error
            self._more_to_read = len(data) >= READ_BYTES
            if data and self.outbox.shut:
                self.outbox.shut = False  # there was more than the end: it may still want something
            return data

    def noticed(self, *, leaving: bool) -> None:
        """There is something to read, which is read as soon as it is this client's turn."""
        self._last_read = self.context.world.now()
        self._pings = 0
        if leaving and not self.session.unanswered:
            self.outbox.shut = True

    def _sender(self) -> Callable[[], Awaitable[None]]:
        if self._fd >= 0:
            self.outbox.direct = self._write_directly
            return self._send_to_socket
        return self._send_to_stream

    async def _send_to_stream(self) -> None:
        data = self.outbox.writing
        assert data is not None
        self._sent = len(data)  # a stream that does not tell may have passed on all of it
        self._may_block()
        await self.stream.send_all(data)
        self._last_write = self.context.world.now()

    async def _send_to_socket(self) -> None:
        """It notes each time that the client took something."""
        try:
            if self._broken:
                raise trio.BrokenResourceError(self._broken)
            if self._writing_since == inf:  # else a direct write has come to where it waits
                if self._push():
                    return
                self._may_block()
            while True:
                await trio.lowlevel.wait_writable(self._fd)
                whole = self._push()
                self._last_write = self.context.world.now()
                if whole:
                    return
                self._untaken = untaken(self._fd)
        except OSError as error:
            raise trio.BrokenResourceError(_reason(error)) from error

    def _push(self) -> bool:
        """Give the kernel what it takes without waiting of the write under way; whether that
        was all of it."""
        data, sent = self.outbox.writing, self._sent
        assert data is not None
        try:
            sent += os.write(self._fd, memoryview(data)[sent:] if sent else data)
        except BlockingIOError:
            return False
        self._sent = sent
        return sent == len(data)


def untaken(fd: int) -> int:
    """Bytes that the kernel holds for a client which has not taken them; -1: it does not say."""
    if fd < 0 or sys.platform == "win32":
        return -1
    try:
        held = fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4))
    except OSError:
        return -1
    return int.from_bytes(held, sys.byteorder)


def _ignore(_error: Exception) -> None:
    """A bug in what would have been told to a client that is gone."""


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
