"""Link: one connection to the broker, from `hello` to its end. The client outlives it.

Owns   the stream; what waits to be written; which leases are being worked on.
Hears  whole reads of decoded frames from its reader task, which it passes to the client.
Tells  the broker, through its writer task. `write`, `ack`, `nack` and `touch` only put
       something into a buffer: they never wait, so no cancellation can cut a frame in two.
Ends   when the stream does, when nothing was heard for two heartbeats, or with its client.

Three tasks: reader, writer, and one that touches leases and looks whether the broker lives.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import attrs

from msg.client import wire
from msg.client.bodies import Decode
from msg.client.errors import Refused
from msg.client.message import Message, not_held

if TYPE_CHECKING:
    from msg.client.client import Client
    from msg.client.subscription import Feed

READ_BYTES = 1 << 17
LINE_BYTES_MAX = 256 << 20  # no broker's frame is longer: whoever sends it is none
BUFFER_BYTES = 1 << 20  # more than that waits for the writer before it is added
TOUCHES_PER_TIMEOUT = 3
TOUCH_MIN_S = 0.02

logger = logging.getLogger("msg.client")

_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)


@attrs.frozen(eq=False, slots=True)
class Origin:
    """Where messages came from: the link, and how the bodies of this subscription are read."""

    link: "Link"
    decode: Decode
    feed: "Feed | None" = None

    async def settle(self, action: str, tag: int, **fields: Any) -> None:
        """Ack or nack, and wait for the answer."""
        if reason := fields.get("reason"):
            fields["reason"] = wire.clip(reason)
        answer = await self.link.client.ask(action, tag=tag, **fields)
        for failure in answer.get("failed") or []:
            raise not_held(str(failure.get("code")), f"with tag {tag}")


class Link:
    """See the module. `lost` is why it ended, empty while it is up."""

    def __init__(self, stream: anyio.abc.ByteStream, client: "Client") -> None:
        self.stream = stream
        self.client = client
        self.lost = ""
        self.inbox = ""
        self.frame_bytes: int | None = None  # the broker's limit, if it has told one
        self.handling: dict[int, Message[Any]] = {}
        self.strays: dict[str, None] = {}  # ended here, and messages came all the same
        self.last_heard = anyio.current_time()
        self._frames: list[bytes] = []
        self._acks: list[int] = []
        self._size = 0
        self._bell: anyio.Event | None = None
        self._room: anyio.Event | None = None
        self._quiet: anyio.Event | None = None
        self._sending = False
        self._timeouts: dict[float, float] = {}  # ack timeout -> when to touch its leases next
        self._new_timeout = anyio.Event()
        self._over = anyio.Event()
        self._scope = anyio.CancelScope()

    async def run(self, heard: Callable[[list[Any]], None], heartbeat: float) -> None:
        """Read and write until the link is lost; `lost` says why."""
        with self._scope:
            async with anyio.create_task_group() as group:
                group.start_soon(self._read_all, heard)
                group.start_soon(self._write_all)
                group.start_soon(self._keep_leases)
                if heartbeat:
                    group.start_soon(self._watch, heartbeat)

    def lose(self, reason: str) -> None:
        """The link is over; the first reason counts."""
        if not self.lost:
            self.lost = reason
            self._frames.clear()
            self._acks.clear()
            if self._room is not None:
                self._room.set()
            if self._quiet is not None:
                self._quiet.set()
            self._over.set()
        self._scope.cancel()

    async def end(self) -> None:
        """Say that no more requests come, and wait until the broker has executed them all."""
        try:
            await self.stream.send_eof()
        except _GONE as error:
            self.lose(_reason(error))
        await self._over.wait()

    # -- writing ----------------------------------------------------------------------------

    def write(self, frames: bytes) -> None:
        """Whole frames, behind those that wait."""
        if self.lost:
            return
        self._frames.append(frames)
        self._size += len(frames)
        if self._bell is not None:
            self._ring()

    def refusal(self, frame: bytes) -> Refused | None:
        """What the broker would say to this line without saying to which it says so.

        It cannot read it, so its error names no id: whoever waits for the answer would wait
        for ever, and a line that is too long ends the connection, each time anew.
        """
        if self.frame_bytes is not None and len(frame) > self.frame_bytes + len(b"\n"):
            text = f"A frame may have {self.frame_bytes:,} bytes; send less, or pieces of it."
            return Refused({"code": "too_large", "error": text, "limit": self.frame_bytes})
        if wire.is_too_deep(frame):
            text = f"A frame may be nested {wire.DEPTH_MAX} deep; flatten it."
            return Refused({"code": "bad_frame", "error": text})
        return None

    def _ring(self) -> None:
        assert self._bell is not None
        self._bell.set()
        self._bell = None

    @property
    def full(self) -> bool:
        # a lost link takes everything: who waited for its room would ask again, for ever
        return self._size >= BUFFER_BYTES and not self.lost

    async def wait_for_room(self) -> None:
        """Until less than `BUFFER_BYTES` wait to be written, or the link is lost."""
        while self.full:
            if self._room is None:
                self._room = anyio.Event()
            await self._room.wait()

    async def flush(self) -> None:
        """Until all that was written before has been given to the operating system."""
        while (self._frames or self._acks or self._sending) and not self.lost:
            if self._quiet is None:
                self._quiet = anyio.Event()
            await self._quiet.wait()

    def ack(self, tag: int) -> None:
        self._acks.append(tag)
        if self._bell is not None:
            self._ring()

    def nack(self, tags: list[int], **fields: Any) -> None:
        if fields.get("reason"):
            fields["reason"] = wire.clip(fields["reason"])
        self.write(wire.tagged("nack", tags, **fields))

    def touch(self, tags: list[int]) -> None:
        self.write(wire.tagged("touch", tags))

    async def _write_all(self) -> None:
        try:
            while True:
                if not self._frames and not self._acks:
                    if self._quiet is not None:
                        self._quiet.set()
                        self._quiet = None
                    bell = self._bell = anyio.Event()
                    await bell.wait()
                frames, self._frames = self._frames, []
                if self._acks:
                    # settled before anything else is asked: `get` may count on it
                    frames.insert(0, wire.tagged("ack", self._acks))
                    self._acks = []
                self._size = 0
                if self._room is not None:
                    self._room.set()
                    self._room = None
                self._sending = True
                await self.stream.send(frames[0] if len(frames) == 1 else b"".join(frames))
                self._sending = False
        except _GONE as error:
            self.lose(_reason(error))

    # -- reading ----------------------------------------------------------------------------

    async def _read_all(self, heard: Callable[[list[Any]], None]) -> None:
        receive, decode = self.stream.receive, wire.decode
        parts: list[bytes] = []  # of a line whose end has not come
        waiting = 0
        try:
            while True:
                data = await receive(READ_BYTES)
                self.last_heard = anyio.current_time()
                end = data.rfind(b"\n") + 1
                if not end:
                    parts.append(data)
                    waiting += len(data)
                    if waiting > LINE_BYTES_MAX:
                        raise wire.NotABroker("this is not a broker: its line has no end")
                    continue
                if end == len(data) and not parts:
                    heard(decode(data))
                else:
                    lines = b"".join([*parts, data[:end]])
                    parts = [data[end:]] if end < len(data) else []
                    waiting = len(data) - end
                    heard(decode(lines))
        except _GONE as error:
            self.lose(_reason(error))
        except wire.NotABroker as error:
            self.lose(str(error))

    async def _watch(self, heartbeat: float) -> None:
        """Ask when nothing was heard for one heartbeat; after two the broker is gone."""
        while True:
            # the same sums for looking and for sleeping: another rounding would spin
            now, heard = anyio.current_time(), self.last_heard
            if now >= heard + 2 * heartbeat:
                self.lose(f"nothing heard for {now - heard:.0f} s")
                return
            if now >= heard + heartbeat:
                self.write(b'{"action":"ping"}\n')
                await anyio.sleep_until(heard + 2 * heartbeat)
            else:
                await anyio.sleep_until(heard + heartbeat)

    # -- leases -----------------------------------------------------------------------------

    def leased(self, ack_timeout: float) -> None:
        """Leases with this timeout come in: they are to be touched in time."""
        if ack_timeout > 0 and ack_timeout not in self._timeouts:
            self._timeouts[ack_timeout] = anyio.current_time() + _period(ack_timeout)
            self._new_timeout.set()

    async def _keep_leases(self) -> None:
        """Touch what is being handled, and what waits here for a handler."""
        while True:
            self._new_timeout = anyio.Event()
            if not self._timeouts:
                await self._new_timeout.wait()
            due = min(self._timeouts.values())
            with anyio.CancelScope(deadline=due):
                await self._new_timeout.wait()
            now = anyio.current_time()
            if now < due:
                continue
            dues = [timeout for timeout, when in self._timeouts.items() if when <= now]
            for timeout in dues:
                self._timeouts[timeout] = now + _period(timeout)
            tags = self.client.tags_in_use(self, dues)
            if tags:
                self.touch(tags)

    def gave_up(self, message: Message[Any], error: BaseException | None) -> None:
        """A handler ended after its message's connection: the broker gives it out again."""
        self.client.counts.leases_lost += 1
        if not isinstance(error, Exception) and error is not None:
            return
        logger.warning(
            "message %s from %r was handled, but its connection had ended (%s): it comes again",
            message.message_id,
            message.topic,
            self.lost,
        )


def _period(timeout: float) -> float:
    return max(timeout / TOUCHES_PER_TIMEOUT, TOUCH_MIN_S)


def _reason(error: BaseException) -> str:
    if isinstance(error, anyio.EndOfStream):
        return "the broker closed the connection"
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    return f"the connection broke: {cause}" if str(cause) else "the connection broke"
