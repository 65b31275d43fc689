"""Subscriptions: what was asked for once, on whichever connection there is.

A `Feed` is the client's side: the request, which is repeated on each new connection, and
the messages that wait here. A `Subscription` is the handle that the program iterates; when
the last of it is gone, or it is closed, the feed ends: the broker is told, and what waited
here goes back uncounted.

Messages of queues and groups are bounded by `prefetch`. A topic's are not: when more than
`BUFFER_MESSAGES` wait here the oldest go, counted in `dropped`, because reading must not
stop: behind the messages come the answers that a handler may be waiting for.
"""

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import anyio
import anyio.lowlevel

from msg.client import wire
from msg.client.errors import Closed, Refused
from msg.client.link import Link, Origin
from msg.client.message import Message

if TYPE_CHECKING:
    from msg.client.bodies import Decode
    from msg.client.client import Client

T = TypeVar("T")

BUFFER_MESSAGES = 65_536
BUFFER_BYTES = 16 << 20
TURN = 64  # messages handed out between two checkpoints
SEQS_MAX = 10_000  # topics of one pattern whose place is remembered


class Feed:
    """See the module. `id` is its `sub` on the wire."""

    def __init__(
        self, client: "Client", id: str, request: dict[str, Any], decode: "Decode"
    ) -> None:
        self.client = client
        self.id = id
        self.request = request
        self.decode = decode
        self.waiting: deque[Message[Any]] = deque()
        self.dropped = 0
        self.ended: Exception | None = None
        self.closed = False
        self._missed = 0  # of `dropped`, not yet told with a message
        self._bytes = 0
        self._origin: Origin | None = None
        self._arrived: anyio.Event | None = None
        self._subscribed: anyio.Event | None = None
        self._seqs: dict[str, int] = {}  # topic -> the last place seen
        self._latest = ""  # when the last of them was published

    # -- for the link -----------------------------------------------------------------------

    def subscribe(self, link: Link) -> None:
        """Ask for it on this connection; what came over the last one is void."""
        self._origin = Origin(link, self.decode, self)
        ids = {"sub": self.id, "id": f"sub-{self.id}"}
        frame = wire.encode({**self.request, **self._resuming(), **ids})
        if refused := link.refusal(frame):
            self.answered(refused)
        else:
            link.write(frame)

    def _resuming(self) -> dict[str, Any]:
        """Where to go on after a reconnect: nothing twice, and nothing left out that is kept."""
        if not self._seqs:
            return {}
        if self.request["topic"] in self._seqs:
            return {"from": self._seqs[self.request["topic"]] + 1}
        return {"from": self._latest}  # a pattern's topics: by time, and the seqs filter

    def answered(self, error: Refused | None) -> None:
        """`subscribed`, or why not."""
        if error is not None:
            self.client.feeds.pop(self.id, None)
            self.end(error)
        if self._subscribed is not None:
            self._subscribed.set()

    def arrived(self, messages: list[Message[Any]]) -> None:
        """A read's worth. Leased ones never exceed the prefetch."""
        origin = self._origin
        for message in messages:
            message._origin = origin
        if messages[0].tag is None:
            messages = self._unleased(messages)
        elif origin is not None:
            origin.link.leased(messages[0].ack_timeout)
        self.waiting += messages
        self.wake()

    def _unleased(self, messages: list[Message[Any]]) -> list[Message[Any]]:
        if any([m.seq is not None for m in messages]):
            messages = [m for m in messages if self._is_new(m)]
        told = sum([m.dropped for m in messages])
        self.dropped += told
        self._bytes += sum([memoryview(m.raw).nbytes for m in messages])
        while self.waiting and (
            self._bytes > BUFFER_BYTES or len(self.waiting) + len(messages) > BUFFER_MESSAGES
        ):
            oldest = self.waiting.popleft()
            self._bytes -= memoryview(oldest.raw).nbytes
            self.dropped += 1
            self._missed += 1 + oldest.dropped
        return messages

    def _is_new(self, message: Message[Any]) -> bool:
        """Whether this place of its topic has not been seen: a resumed replay may repeat."""
        if message.seq is None:
            return True
        last = self._seqs.get(message.topic, -1)
        if message.seq <= last and message.replayed:
            return False
        if message.topic in self._seqs or len(self._seqs) < SEQS_MAX:
            self._seqs[message.topic] = message.seq
            self._latest = max(self._latest, message.published_at)
        return True

    def disconnected(self) -> None:
        """The link is lost: leases that wait here are void, the broker gives them out again."""
        if any([m.tag is not None for m in self.waiting]):
            self.waiting.clear()
        self._origin = None

    def end(self, error: Exception) -> None:
        """Nothing more will come, and this is why."""
        if self.ended is None:
            self.ended = error
        self.wake()
        if self._subscribed is not None:
            self._subscribed.set()

    def wake(self) -> None:
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = None

    # -- for the handle ---------------------------------------------------------------------

    async def open(self) -> None:
        """Subscribe and wait for the answer. Raises the refusal."""
        client = self.client
        client.raise_if_closed()
        wire.encode(self.request)  # raises here what would else end the client's connections
        client.feeds[self.id] = self
        self._subscribed = anyio.Event()
        if client.link is not None:
            self.subscribe(client.link)
        try:
            await self._subscribed.wait()
        except BaseException:
            self.close()
            raise
        self._subscribed = None
        if self.ended is not None:
            client.feeds.pop(self.id, None)
            raise self.ended.with_traceback(None)
        if self.closed:
            raise Closed("this subscription was closed before it began")

    async def wait(self) -> None:
        """Until a message waits here. Raises why none will, StopAsyncIteration when closed."""
        while not self.waiting:
            if self.closed:
                raise StopAsyncIteration
            if self.ended is not None:
                raise self.ended.with_traceback(None)
            if self._arrived is None:
                self._arrived = anyio.Event()
            await self._arrived.wait()

    def pop(self) -> Message[Any]:
        message = self.waiting.popleft()
        if message.tag is None:
            self._bytes -= memoryview(message.raw).nbytes
            if self._missed:
                message.dropped += self._missed
                self._missed = 0
        return message

    def close(self) -> None:
        """Tell the broker, and give back what waits here. Never waits."""
        if self.closed:
            return
        self.closed = True
        self.client.feeds.pop(self.id, None)
        origin = self._origin
        if origin is not None and self.ended is None and not origin.link.lost:
            origin.link.write(wire.encode({"action": "unsubscribe", "sub": self.id}))
            tags = [m.tag for m in self.waiting if m.tag is not None]
            if tags:
                give_back(origin.link, tags)
        self.waiting.clear()
        self.wake()
        if self._subscribed is not None:
            self._subscribed.set()


def give_back(link: Link, tags: list[int]) -> None:
    """These were never begun: at once to the next, and no attempt of theirs."""
    link.nack(tags, delay=0, count_attempt=False)


def give_back_held(messages: list[Message[Any]]) -> None:
    """What was taken and not begun: at once to the next, and no attempt of theirs."""
    for message in messages:
        if message.held and message.tag is not None and message._origin is not None:
            message._state = "nacked"
            give_back(message._origin.link, [message.tag])


class Subscription(Generic[T]):
    """Iterate it: `async for message in subscription`. Several tasks may share one.

    It subscribes at `async with`, or at the first iteration. It ends at the end of the
    `async with`, with `close()`, or when nothing refers to it any more, as after a `break`
    out of `async for message in client.subscribe(…)`. `dropped` counts what was missed.
    """

    def __init__(self, make: Callable[[], Feed]) -> None:
        self._make = make
        self._feed: Feed | None = None
        self._opening: anyio.Lock | None = None
        self._turn = TURN
        self._thread = threading.get_ident()

    @property
    def dropped(self) -> int:
        return 0 if self._feed is None else self._feed.dropped

    async def open(self) -> Self:
        """Subscribe now, and raise what the broker has against it."""
        if self._opening is None:
            self._opening = anyio.Lock()
        async with self._opening:
            if self._feed is None:
                feed = self._make()
                await feed.open()
                self._feed = feed
        return self

    def close(self) -> None:
        """No more messages; what waits here goes back. Iterations end. Never waits."""
        if self._feed is None:
            self._make = _closed
        else:
            self._feed.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message[T]:
        feed = self._feed
        if feed is None:
            await self.open()
            feed = self._feed
            assert feed is not None
        self._turn -= 1
        if not self._turn:
            self._turn = TURN
            await anyio.lowlevel.checkpoint()
        if not feed.waiting:
            await feed.wait()
        return feed.pop()

    async def take(self, most: int = 1000) -> list[Message[T]]:
        """All that waits here, up to `most`; at least one. For work in batches."""
        await self.open()
        feed = self._feed
        assert feed is not None
        await anyio.lowlevel.checkpoint()
        await feed.wait()
        return [feed.pop() for _ in range(min(most, len(feed.waiting)))]

    def __del__(self) -> None:
        feed = self._feed
        if feed is not None and not feed.closed:
            if threading.get_ident() == self._thread:
                feed.close()
            else:  # the collector ran in another thread: not ours to write from
                feed.client.abandoned.append(feed)


def _closed() -> Feed:
    raise Closed("this subscription was closed before it began")
