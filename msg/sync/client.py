"""Client: `msg.Client` for a program that blocks. See `msg.sync`."""

import signal
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

import anyio
import anyio.abc
import anyio.to_thread

import msg.client
from msg.client import Closed, Disconnected, Published, Receipt
from msg.client.client import PREFETCH, ConnectOptions, Counts, Durability, From, Mode
from msg.client.publisher import Batch
from msg.client.subscription import give_back_held
from msg.client.worker import GRACE_S
from msg.sync.message import Message
from msg.sync.subscription import Inner, Subscription
from msg.sync.thread import LoopThread

T = TypeVar("T")
SLICE = 1000  # at most so many messages of a publish_many for each visit to the loop's thread
SLICES = 2  # so many wait there while the program makes the next one


def connect(url: str | None = None, **options: Unpack[ConnectOptions]) -> "Client":
    """A connected client for the broker at `url`, by default `MSG_URL` or msg://localhost:8888.

    `with connect() as client:` closes it at the end. The options are those of `msg.connect`.
    Raises `Disconnected` when there is no broker.
    """
    return Client(msg.client.connect(url, **options))


class Client:
    """A connection that mends itself, and everything that is asked of the broker through it."""

    def __init__(self, client: "msg.client.Client") -> None:
        self._client = client
        self._loop = LoopThread(client, f"msg client {client.options.name or ''}".strip())
        self._workers: set[Callable[[], object]] = set()
        # also at the end of the program, if it is forgotten until then
        self._finalizer = weakref.finalize(self, self._loop.stop)
        try:
            self._loop.start()
        except BaseException:
            self._finalizer.detach()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what was acked, give back what was not begun, and end the connection."""
        self._finalizer()

    def __repr__(self) -> str:
        options = self._client.options
        state = "closed" if self._loop.ended else "connected" if self.connected else "connecting"
        return f"<msg.sync.Client of {options.host}:{options.port}, {state}>"

    @property
    def connected(self) -> bool:
        """Whether there is a connection at this moment."""
        return self._client.connected and not self._loop.ended

    @property
    def hello(self) -> dict[str, Any]:
        """What the broker said about itself."""
        return self._client.hello

    @property
    def counts(self) -> Counts:
        """What this client has been through."""
        return self._client.counts

    # -- publishing -------------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        body: Any,
        *,
        mode: Mode = "pubsub",
        message_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay: float | None = None,
        ttl: float | None = None,
        priority: int | None = None,
        durability: Durability | None = None,
        reply_to: str | None = None,
        correlation_id: str | None = None,
        retain: bool | None = None,
    ) -> Receipt:
        """Publish, and wait until the broker has kept it as promised.

        A lost connection does not end the wait: the message goes out again under its id, and
        is kept once. Raises the broker's refusal (`QueueFull`, …), TypeError for a body that
        is not JSON.
        """
        return self._loop.call(
            lambda: self._client.publish(
                topic, body, mode=mode, message_id=message_id, headers=headers, delay=delay,
                ttl=ttl, priority=priority, durability=durability, reply_to=reply_to,
                correlation_id=correlation_id, retain=retain,
            ),
            sends=True,
        )  # fmt: skip

    def send(self, queue: str, body: Any, **options: Any) -> Receipt:
        """`publish` to a queue."""
        return self.publish(queue, body, mode="queue", **options)

    def publish_many(
        self,
        topic: str,
        bodies: Iterable[Any],
        *,
        mode: Mode = "pubsub",
        headers: Mapping[str, str] | None = None,
        delay: float | None = None,
        ttl: float | None = None,
        priority: int | None = None,
        durability: Durability | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> Published:
        """Publish all of them, far ahead of the answers, and wait for the last answer.

        Items are bodies, or `msg.Outgoing` with an id and fields of their own. `bodies` is
        iterated, and `on_progress` called with the number that are kept, in the thread that
        calls. Raises `PublishFailed` when some were refused; it stops at the first refusal
        that it hears of.
        """
        many = _Many(on_progress)

        async def publish(slices: Any) -> Published:
            return await self._client.publish_many(
                topic, slices, mode=mode, headers=headers, delay=delay, ttl=ttl,
                priority=priority, durability=durability, on_progress=many.progressed,
            )  # fmt: skip

        iterator, begun = iter(bodies), False
        try:
            self._loop.call(lambda: many.start(publish))
            begun = True
            while some := Batch(islice(iterator, self._client._slice_of(SLICE, SLICES + 1))):
                going = self._loop.call(partial(many.put, some), sends=True)
                many.tell()
                if not going:
                    break
            self._loop.call(many.finish, sends=True)
            while self._loop.call(many.wait, sends=True):
                many.tell()
            many.tell()
        except BaseException as error:
            self._loop.post(many.cancel)
            if begun and isinstance(error, Closed) and self._loop.ended:  # between two calls
                raise Disconnected(f"{error}: whether all were kept is not known") from error
            raise
        return many.outcome()

    # -- subscribing ------------------------------------------------------------------------

    @overload
    def subscribe(
        self, pattern: str, *, type: type[T], group: str | None = None, from_: From | None = None,
        prefetch: int = PREFETCH, ack_timeout: float | None = None, name: str | None = None,
    ) -> Subscription[T]: ...  # fmt: skip
    @overload
    def subscribe(
        self, pattern: str, *, group: str | None = None, from_: From | None = None,
        prefetch: int = PREFETCH, ack_timeout: float | None = None, name: str | None = None,
    ) -> Subscription[Any]: ...  # fmt: skip

    def subscribe(self, pattern: str, **options: Any) -> Subscription[Any]:
        """The messages of a topic, or of all that match `news.*` or `news.>`.

        `group` shares them with its other members, durably: they are leased, to be settled
        with `with message`. `from_`: "new", "last", "all", a sequence number, or an RFC 3339
        time. `type` is what bodies are to be.
        """
        return Subscription(self, self._client.subscribe(pattern, **options))

    @overload
    def consume(
        self, queue: str, *, type: type[T], prefetch: int = PREFETCH,
        ack_timeout: float | None = None, auto_ack: bool = False, name: str | None = None,
    ) -> Subscription[T]: ...  # fmt: skip
    @overload
    def consume(
        self, queue: str, *, prefetch: int = PREFETCH,
        ack_timeout: float | None = None, auto_ack: bool = False, name: str | None = None,
    ) -> Subscription[Any]: ...  # fmt: skip

    def consume(self, queue: str, **options: Any) -> Subscription[Any]:
        """The messages of a queue, each leased to this client until it is settled.

        Up to `prefetch` are held at a time; those that wait here keep their leases. Work on
        each in a `with message`.
        """
        return Subscription(self, self._client.consume(queue, **options))

    @overload
    def get(
        self, queue: str, *, type: type[T], n: int = 1, wait: float = 0.0,
        group: str | None = None, ack_timeout: float | None = None,
    ) -> list[Message[T]]: ...  # fmt: skip
    @overload
    def get(
        self, queue: str, *, n: int = 1, wait: float = 0.0,
        group: str | None = None, ack_timeout: float | None = None,
    ) -> list[Message[Any]]: ...  # fmt: skip

    def get(self, queue: str, **options: Any) -> list[Message[Any]]:
        """Up to `n` messages, now or within `wait` seconds. To be settled like all others."""
        messages = self._loop.call(lambda: self._client.get(queue, **options), undo=self._undo)
        return [Message(self, message) for message in messages]

    def _undo(self, messages: list[Inner]) -> None:
        self._loop.post(lambda: give_back_held(messages))

    # -- asking -----------------------------------------------------------------------------

    def ask(self, action: str, **fields: Any) -> dict[str, Any]:
        """Any request of the protocol, such as `ask("stats")`: its answer, as it came."""
        return self._loop.call(lambda: self._client.ask(action, **fields), sends=True)

    def declare(
        self, topic: str, *, mode: Mode = "queue", group: str | None = None,
        settings: Mapping[str, Any] | None = None, passive: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """Make a queue, topic or group, or change its settings; the answer has both in force."""
        return self._loop.call(
            lambda: self._client.declare(
                topic, mode=mode, group=group, settings=settings, passive=passive
            )
        )

    def request(
        self,
        topic: str,
        body: Any,
        *,
        timeout: float = 10.0,
        mode: Mode = "pubsub",
        type: type[Any] | None = None,
        **options: Any,
    ) -> Message[Any]:
        """Publish, and wait for the reply. Whoever hears it calls `message.reply(…)`.

        Raises `NoResponders` when nobody hears the topic, TimeoutError, and `Disconnected`
        when the connection ends before the reply: the request may have been handled.
        """
        reply = self._loop.call(
            lambda: self._client.request(
                topic, body, timeout=timeout, mode=mode, type=type, **options
            ),
            sends=True,
        )
        return Message(self, reply)

    # -- workers ----------------------------------------------------------------------------

    def run_worker(
        self,
        queue: str,
        handler: Callable[[Message[Any]], object],
        *,
        concurrency: int = 1,
        prefetch: int | None = None,
        group: str | None = None,
        signals: bool = True,
        grace: float = GRACE_S,
        **options: Any,
    ) -> None:
        """Call `handler` with each message of `queue`, in `concurrency` threads.

        A handler that returns acks its message; one that raises nacks it with the error's
        text, and the worker goes on. `msg.Retry` and `msg.Reject` say so more exactly.

        It returns after `stop_workers()` or, with `signals` and in the main thread, after the
        first Ctrl-C or SIGTERM, when what runs has finished or `grace` seconds are over. The
        second Ctrl-C is a KeyboardInterrupt at once.
        """
        stop = _Stop()
        limiter = anyio.CapacityLimiter(concurrency) if concurrency >= 1 else None

        async def handle(message: Inner) -> None:
            await anyio.to_thread.run_sync(
                handler, Message(self, message), abandon_on_cancel=True, limiter=limiter
            )

        async def work() -> None:
            await self._client.run_worker(
                queue, handle, concurrency=concurrency, prefetch=prefetch, group=group,
                stop=stop.begin(), signals=False, grace=grace, **options,
            )  # fmt: skip

        def told() -> None:
            self._loop.post(stop.set)

        self._workers.add(told)
        try:
            with _heard(told, signals):
                self._loop.call(work)
        finally:
            self._workers.discard(told)

    def stop_workers(self) -> None:
        """Every `run_worker` of this client finishes what runs, and returns. Never waits."""
        for told in list(self._workers):
            told()


class _Stop:
    """An event that may be set before its loop has made it."""

    def __init__(self) -> None:
        self._set = False
        self._event: anyio.Event | None = None

    def begin(self) -> anyio.Event:
        self._event = anyio.Event()
        if self._set:
            self._event.set()
        return self._event

    def set(self) -> None:
        self._set = True
        if self._event is not None:
            self._event.set()


@contextmanager
def _heard(told: Callable[[], object], signals: bool) -> Iterator[None]:
    """While this lasts the first SIGINT or SIGTERM tells, and the second interrupts."""
    if not signals or threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = 0

    def hear(_number: int, _frame: FrameType | None) -> None:
        nonlocal heard
        heard += 1
        if heard > 1:
            raise KeyboardInterrupt
        told()

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Many:
    """A `publish_many` whose input comes from another thread, slice by slice."""

    def __init__(self, on_progress: Callable[[int], object] | None) -> None:
        self._on_progress = on_progress
        self._kept = 0
        self._told = 0
        self._result: Published | None = None
        self._error: Exception | None = None
        self._scope: anyio.CancelScope | None = None

    # -- in the loop's thread ---------------------------------------------------------------

    async def start(self, publish: Callable[[Any], Any]) -> None:
        import asyncio

        self._scope = anyio.CancelScope()
        self._send, receive = anyio.create_memory_object_stream[Batch](SLICES)
        self._changed = anyio.Event()
        self._over = anyio.Event()
        self._task = asyncio.create_task(self._run(publish, receive))

    async def _run(self, publish: Callable[[Any], Any], slices: Any) -> None:
        with self._scope or anyio.CancelScope(), slices:
            try:
                self._result = await publish(slices)
            except Exception as error:  # raised by the thread that called
                self._error = error
        self._over.set()
        self._changed.set()

    def progressed(self, kept: int) -> None:
        self._kept = kept
        self._changed.set()

    async def put(self, some: Batch) -> bool:
        """False: nothing more is wanted."""
        try:
            await self._send.send(some)
        except anyio.BrokenResourceError:
            return False
        return True

    async def finish(self) -> None:
        self._send.close()

    async def wait(self) -> bool:
        """Until there is progress to tell. False: it is over."""
        await self._changed.wait()
        self._changed = anyio.Event()
        if self._over.is_set():
            self._changed.set()
            return False
        return True

    def cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()
            self._send.close()

    # -- in the caller's --------------------------------------------------------------------

    def tell(self) -> None:
        if self._on_progress is not None and self._kept != self._told:
            self._told = self._kept
            self._on_progress(self._told)

    def outcome(self) -> Published:
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result
