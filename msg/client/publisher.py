"""Publisher: what was published and is not yet confirmed.

Every publish has an id and stays here, encoded, until the broker has answered. A lost
connection changes nothing for who waits: at the next one all of it is sent again in its
order, and the broker's window of seen ids makes that exactly once. What was first sent too
long ago for that window is given up instead, with `Disconnected`: sending it again might
publish it twice.

The window bounds what is unconfirmed in messages and bytes, over all callers; whoever
publishes more waits for the answers.
"""

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from contextlib import AsyncExitStack, aclosing
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.lowlevel
import attrs
import msgspec

from msg.client import bodies, wire
from msg.client.errors import Disconnected, PublishFailed, Refused
from msg.core.names import is_id

if TYPE_CHECKING:
    from msg.client.link import Link

WINDOW_MESSAGES = 10_000
WINDOW_BYTES = 8 << 20
RESEND_S = 100.0  # less than the broker's default window of seen ids, 120 s
SLICE = 256  # messages encoded between two checkpoints
FIRST_SLICE = 16  # while nothing is known of their size
GRAINS = 32  # a window that is almost full takes this part of its bytes, not one by one


@attrs.frozen
class Receipt:
    """A publish is kept as promised.

    `duplicate`: it had been before, under this id. `receivers` is 0 when a topic's publish
    was heard by nobody, else None.
    """

    message_id: str
    duplicate: bool = False
    receivers: int | None = None


@attrs.frozen
class Published:
    """What became of a `publish_many`: all are kept."""

    count: int
    duplicates: int = 0
    unheard: int = 0


@attrs.frozen
class Outgoing:
    """A message of a `publish_many` that brings its own id or other fields."""

    body: Any
    message_id: str | None = None
    headers: dict[str, str] | None = None
    delay: float | None = None
    ttl: float | None = None
    priority: int | None = None
    correlation_id: str | None = None


class Waiter(Protocol):
    """Who hears what became of a publish."""

    def confirmed(self, ack: wire.Ack) -> None: ...

    def failed(self, message_id: str, error: Exception) -> None: ...

    def progressed(self) -> None: ...


Entry = tuple[bytes, Waiter, float]  # the frame, who waits, when it was first sent


class Publisher:
    """See the module."""

    def __init__(self, prefix: str, *, messages: int, size: int, resend_s: float) -> None:
        self.prefix = prefix
        self.messages = messages
        self.size = size
        self.resend_s = resend_s
        self.link: Link | None = None
        self.error: Exception | None = None
        self._unconfirmed: dict[str, Entry] = {}
        self._bytes = 0
        self._typical = 0  # bytes of a frame, of those that were sent together the last time
        self._since = 0.0  # when this connection began
        self._count = 0
        self._room: anyio.Event | None = None
        self._settled: anyio.Event | None = None

    def __len__(self) -> int:
        return len(self._unconfirmed)

    # -- for who publishes ------------------------------------------------------------------

    def next_id(self) -> str:
        self._count += 1
        return f"{self.prefix}{self._count:x}"

    async def wait_for_room(self, size: int = 0) -> None:
        """Until the window has room. Raises `Closed`, or what has ended the client."""
        while True:
            if self.error is not None:
                raise self.error.with_traceback(None)
            if len(self._unconfirmed) < self.messages and self._bytes + size <= self.size:
                link = self.link
                if link is None or not link.full:
                    return
                await link.wait_for_room()
            elif not self._unconfirmed:
                return  # one message that is larger than the window goes alone
            else:
                if self._room is None:
                    self._room = anyio.Event()
                await self._room.wait()

    def fitting(self, most: int) -> int:
        """How many messages to take of an input, after `wait_for_room`: at least one, at most
        `most`, and what the window has room for if they are as long as the last ones.
        """
        room = max(self.size - self._bytes, self.size // GRAINS)
        return max(1, min(self.of_bytes(room, most), self.messages - len(self._unconfirmed)))

    def of_bytes(self, size: int, most: int) -> int:
        """How many messages have so many bytes, at least one, if they are as long as the last."""
        if not self._typical:
            return min(most, FIRST_SLICE)
        return max(1, min(most, size // self._typical))

    def send(self, entries: list[tuple[str, bytes, Waiter]]) -> None:
        """Keep these until they are answered, and write them if there is a connection."""
        link = self.link
        when = inf if link is None else anyio.current_time()
        unconfirmed = self._unconfirmed
        size = 0
        frames = []
        for message_id, frame, waiter in entries:
            if link is not None and (refused := link.refusal(frame)):
                waiter.failed(message_id, refused)
                waiter.progressed()
                continue
            unconfirmed[message_id] = (frame, waiter, when)
            size += len(frame)
            frames.append(frame)
        self._bytes += size
        if frames:
            self._typical = size // len(frames)
        if link is not None:
            link.write(b"".join(frames))

    async def wait_until_free(self, message_id: str) -> None:
        """Until no publish under this id is unanswered: two answers could not be told apart."""
        while message_id in self._unconfirmed:
            if self._settled is None:
                self._settled = anyio.Event()
            await self._settled.wait()
        if self.error is not None:
            raise self.error

    def forget(self, message_id: str, waiter: Waiter) -> None:
        """Nobody waits for this any more: it is not sent again."""
        entry = self._unconfirmed.get(message_id)
        if entry is not None and entry[1] is waiter:
            del self._unconfirmed[message_id]
            self._freed(len(entry[0]))

    def forget_all(self, waiter: Waiter) -> None:
        gone = [mid for mid, entry in self._unconfirmed.items() if entry[1] is waiter]
        for message_id in gone:
            self.forget(message_id, waiter)

    # -- for the link -----------------------------------------------------------------------

    def confirm(self, acks: list[wire.Ack]) -> None:
        """The broker's answers, a read's worth."""
        pop = self._unconfirmed.pop
        freed = 0
        waiter: Waiter | None = None
        for ack in acks:
            entry = pop(ack.message_id, None)
            if entry is not None:
                freed += len(entry[0])
                if entry[1] is not waiter:
                    if waiter is not None:
                        waiter.progressed()
                    waiter = entry[1]
                waiter.confirmed(ack)
        if waiter is not None:
            waiter.progressed()
        self._freed(freed)

    def refuse(self, message_id: str, error: Refused) -> bool:
        """An `error` for a publish. False: no publish of ours has this id."""
        entry = self._unconfirmed.get(message_id)
        if entry is None:
            return False
        if error.code == "draining":
            # it was not taken: the next broker gets it, and who waits sees nothing of this.
            # (But what an earlier connection has sent too may be there since then.)
            if entry[2] >= self._since:
                self._unconfirmed[message_id] = (entry[0], entry[1], inf)
            return True
        del self._unconfirmed[message_id]
        self._freed(len(entry[0]))
        entry[1].failed(message_id, error)
        entry[1].progressed()
        return True

    def connected(self, link: "Link") -> None:
        """A new connection: everything unconfirmed goes out again, in its order."""
        self.link = link
        now = self._since = anyio.current_time()
        frames = []
        for message_id, (frame, waiter, when) in list(self._unconfirmed.items()):
            if now - when > self.resend_s:
                self.forget(message_id, waiter)
                waiter.failed(
                    message_id,
                    Disconnected(
                        f"message {message_id} was sent {now - when:.0f} s ago and never"
                        " answered; sent again it might be there twice"
                    ),
                )
                waiter.progressed()
                continue
            if refused := link.refusal(frame):
                self.forget(message_id, waiter)
                waiter.failed(message_id, refused)
                waiter.progressed()
                continue
            if when == inf:
                self._unconfirmed[message_id] = (frame, waiter, now)
            frames.append(frame)
        if frames:
            link.write(b"".join(frames))
        self._wake()

    def disconnected(self) -> None:
        self.link = None

    def close(self, error: Exception) -> None:
        """The client is over: nothing unconfirmed will ever be confirmed."""
        if self.error is None:
            self.error = error
        self.link = None
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        self._bytes = 0
        for message_id, (_, waiter, when) in unconfirmed.items():
            if when == inf:
                waiter.failed(message_id, error)
            else:
                waiter.failed(
                    message_id,
                    Disconnected(f"whether message {message_id} was kept is not known: {error}"),
                )
            waiter.progressed()
        self._freed(0)
        self._wake()

    def _freed(self, size: int) -> None:
        self._bytes -= size
        if self._settled is not None:
            self._settled.set()
            self._settled = None
        if self._room is not None and len(self._unconfirmed) <= self.messages // 2:
            self._wake()

    def _wake(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None


class One:
    """Waits for the answer to one publish."""

    __slots__ = ("_done", "_error", "_receipt")

    def __init__(self) -> None:
        self._done = anyio.Event()
        self._receipt: Receipt | None = None
        self._error: Exception | None = None

    def confirmed(self, ack: wire.Ack) -> None:
        self._receipt = Receipt(ack.message_id, ack.duplicate, ack.receivers)
        self._done.set()

    def failed(self, message_id: str, error: Exception) -> None:
        self._error = error
        self._done.set()

    def progressed(self) -> None:
        """One answer is all the progress there is."""

    async def wait(self) -> Receipt:
        await self._done.wait()
        if self._error is not None:
            raise self._error
        assert self._receipt is not None
        return self._receipt


class Many:
    """Counts the answers to a `publish_many`."""

    def __init__(self, on_progress: Callable[[int], object] | None = None) -> None:
        self.sent = 0
        self.kept = 0
        self.duplicates = 0
        self.unheard = 0
        self.failures: dict[int, Refused] = {}
        self.broken: Exception | None = None
        self._on_progress = on_progress
        self._told = 0
        self._progress: anyio.Event | None = None
        self._places: dict[str, int] = {}

    def add(self, message_ids: list[str]) -> None:
        after = self.sent + len(message_ids)
        self._places.update(zip(message_ids, range(self.sent, after), strict=True))
        self.sent = after

    def confirmed(self, ack: wire.Ack) -> None:
        self.kept += 1
        del self._places[ack.message_id]
        if ack.duplicate:
            self.duplicates += 1
        if ack.receivers == 0:
            self.unheard += 1

    def failed(self, message_id: str, error: Exception) -> None:
        place = self._places.pop(message_id)
        if isinstance(error, Refused):
            self.failures[place] = error
        elif self.broken is None:
            self.broken = error

    def progressed(self) -> None:
        """All answers of one read were counted."""
        if self._progress is not None:
            self._progress.set()

    def tell(self) -> None:
        """Tell the caller how many are kept; in the caller's own task."""
        if self._on_progress is not None and self.kept != self._told:
            self._told = self.kept
            self._on_progress(self.kept)

    @property
    def stopped(self) -> bool:
        return bool(self.failures) or self.broken is not None

    @property
    def done(self) -> bool:
        return not self._places

    async def wait(self) -> Published:
        while self._places:
            self._progress = anyio.Event()
            await self._progress.wait()
            self.tell()
        self.tell()
        if self.broken is not None:
            raise self.broken
        if self.failures:
            raise PublishFailed(self.failures, self.kept)
        return Published(self.kept, self.duplicates, self.unheard)


async def publish_one(
    publisher: Publisher, publishing: wire.Publishing, message_id: str, data: bytes, binary: bool
) -> Receipt:
    """Raises the refusal. Cancelled, it may or may not be kept; it is not sent again."""
    frame = publishing.frame(quoted(message_id), data, binary=binary)
    await publisher.wait_for_room(len(frame))
    await publisher.wait_until_free(message_id)
    one = One()
    publisher.send([(message_id, frame, one)])
    try:
        return await one.wait()
    finally:
        publisher.forget(message_id, one)


async def publish_many(
    publisher: Publisher,
    publishing: Callable[[Outgoing | None], wire.Publishing],
    items: Iterable[Any] | AsyncIterable[Any],
    encode: Callable[[Any], bytes],
    on_progress: Callable[[int], object] | None,
) -> Published:
    """Send as far ahead as the window allows; the answers are counted as they come."""
    many = Many(on_progress)
    plain = publishing(None)

    def entry(item: Any) -> tuple[str, bytes, Waiter]:
        if item.__class__ is Outgoing:
            message_id = item.message_id or publisher.next_id()
            inside, body, form = quoted(message_id), item.body, publishing(item)
        else:
            message_id = publisher.next_id()
            inside, body, form = message_id.encode(), item, plain
        if isinstance(body, _BINARY):
            return message_id, form.frame(inside, bodies.encode_binary(body), binary=True), many
        return message_id, form.frame(inside, encode(body)), many

    async def send(some: list[Any]) -> None:
        entries = [entry(item) for item in some]
        many.tell()
        if any([_has_id(item) for item in some]):
            await _send_slowly(publisher, many, entries)
        else:
            many.add([one[0] for one in entries])
            publisher.send(entries)

    try:
        if isinstance(items, AsyncIterable):
            await _send_each(items, publisher, many, send)
        else:
            iterator = iter(items)
            while not many.stopped and (some := await _next_slice(iterator, publisher)):
                await send(some)
        return await many.wait()
    finally:
        if not many.done:
            publisher.forget_all(many)


async def _send_each(
    items: AsyncIterable[Any],
    publisher: Publisher,
    many: "Many",
    send: Callable[[list[Any]], Awaitable[None]],
) -> None:
    """One by one as they come: the connection's writer gathers them."""
    async with AsyncExitStack() as stack:
        if isinstance(items, AsyncGenerator):  # else it is left half run after a refusal
            await stack.enter_async_context(aclosing(items))
        async for item in items:
            some = item if item.__class__ is Batch else [item]
            while some:
                await publisher.wait_for_room()
                if many.stopped:
                    return
                fit = publisher.fitting(SLICE)
                await send(some[:fit])
                some = some[fit:]


class Batch(list[Any]):
    """Some items at once, in an async input: what a slower producer has gathered."""


async def _next_slice(iterator: Iterator[Any], publisher: Publisher) -> list[Any]:
    """As much of the input as the window has room for; nothing at its end."""
    await anyio.lowlevel.checkpoint()
    await publisher.wait_for_room()
    return list(islice(iterator, publisher.fitting(SLICE)))


_BINARY = (bytes, bytearray, memoryview)


def _has_id(item: Any) -> bool:
    return item.__class__ is Outgoing and item.message_id is not None


async def _send_slowly(
    publisher: Publisher, many: "Many", entries: list[tuple[str, bytes, Waiter]]
) -> None:
    """One after the other: an id of the caller's may be one that is still on its way."""
    for one in entries:
        await publisher.wait_until_free(one[0])
        many.add([one[0]])
        publisher.send([one])


def quoted(text: str) -> bytes:
    """An id as the inside of a JSON string. Raises the refusal that it would get.

    The broker would not repeat it, so that nobody could tell whose refusal it is.
    """
    if not is_id(text):
        error = '"message_id" must be a string of 1-128 printable bytes.'
        raise Refused({"code": "bad_field", "error": error})
    return msgspec.json.encode(text)[1:-1]
