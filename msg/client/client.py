"""Client: what a program holds. It outlives its connections.

One background task connects, introduces itself, says again what is not answered, and serves
the connection until it is lost; then it waits a little longer each time, with jitter, and
begins anew. All calls are plain bookkeeping plus a wait for an answer, so each of them may
be cancelled at any await without harm to the connection.
"""

import logging
import os
import random
import signal
import socket
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)
from urllib.parse import unquote, urlsplit

import anyio
import anyio.abc
import attrs

from msg.client import bodies, wire
from msg.client.errors import (
    Closed,
    Disconnected,
    Forbidden,
    Refused,
    Unauthorized,
    Unsubscribed,
    refusal,
)
from msg.client.link import Link
from msg.client.message import Message
from msg.client.publisher import (
    RESEND_S,
    WINDOW_BYTES,
    WINDOW_MESSAGES,
    Outgoing,
    Published,
    Publisher,
    Receipt,
    publish_many,
    publish_one,
)
from msg.client.requests import INBOX_SUB, Requests
from msg.client.subscription import Feed, Subscription, give_back, give_back_held

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")
Mode = Literal["pubsub", "queue"]
Durability = Literal["memory", "os", "stored"]
From = int | str  # "new", "last", "all", a time, or a sequence number
Dial = Callable[[], Awaitable[anyio.abc.ByteStream]]

PREFETCH = 32
HEARTBEAT_S = 30.0
RECONNECT_MIN_S = 0.05
CONNECT_S = 5.0
CLOSE_S = 2.0  # so long a client may take to say its last words

logger = logging.getLogger("msg.client")


@attrs.define
class Counts:
    """What a client has been through, for who wonders."""

    connections: int = 0
    leases_lost: int = 0  # handled, but the connection ended before the ack
    settlements_failed: int = 0  # acks that the broker could not follow: late ones


@attrs.frozen(kw_only=True)
class Options:
    """How a client connects. See `connect` for each."""

    host: str
    port: int
    name: str | None = None
    token: str | None = None
    user: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    heartbeat: float = HEARTBEAT_S
    connect_timeout: float = CONNECT_S
    wait: float = 0.0
    reconnect: bool = True
    reconnect_max: float = 5.0
    window: int = WINDOW_MESSAGES
    window_bytes: int = WINDOW_BYTES
    resend_for: float = RESEND_S
    converter: "Converter | None" = None
    dial: Dial | None = None
    rng: random.Random = attrs.field(factory=random.SystemRandom)


class ConnectOptions(TypedDict, total=False):
    """The keyword arguments of `connect`, for type checkers."""

    name: str | None
    token: str | None
    user: str | None
    password: str | None
    heartbeat: float
    connect_timeout: float
    wait: float
    reconnect: bool
    reconnect_max: float
    window: int
    window_bytes: int
    resend_for: float
    converter: "Converter | None"
    dial: Dial | None
    rng: random.Random


def parse_url(url: str) -> dict[str, Any]:
    """`msg://[user:password@]host[:port]` as options. Raises ValueError."""
    parts = urlsplit(url if "://" in url else f"msg://{url}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme != "msg" or not parts.hostname or port == -1 or parts.path not in ("", "/"):
        raise ValueError(f"expected msg://host:port, not {url!r}")
    options: dict[str, Any] = {"host": parts.hostname, "port": wire.PORT if port is None else port}
    if parts.username is not None:
        options |= {"user": unquote(parts.username), "password": unquote(parts.password or "")}
    return options


def connect(url: str | None = None, **options: Unpack[ConnectOptions]) -> "Client":
    """A client for the broker at `url`: `async with connect() as client`.

    Without a url, the environment's `MSG_URL` or msg://localhost:8888. Options:

        name             shown to who asks the broker who holds what
        token, user, password
                         for brokers that want to know who this is
        wait             seconds to try for the first connection; 0 fails at once
        reconnect        False: the client ends with its first connection
        reconnect_max    the longest pause between two tries, in seconds
        connect_timeout  for each try
        heartbeat        seconds; a broker silent for two of them counts as gone, and it cuts a
                         client silent for two. 0: never
        window, window_bytes
                         how much may be published and not yet confirmed; more waits
        resend_for       seconds after which an unanswered publish is given up rather than sent
                         again: less than the broker's window of seen ids
        converter        a cattrs converter for bodies, in both directions
        dial             makes the byte stream (anyio.abc.ByteStream) instead of TCP to the url
        rng              the randomness of ids and pauses, for runs that repeat
    """
    if unknown := options.keys() - ConnectOptions.__annotations__.keys():
        name = min(unknown)
        close = get_close_matches(name, ConnectOptions.__annotations__)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise TypeError(f"connect() has no option {name!r}{hint}")
    if url is None:
        url = os.environ.get("MSG_URL") or wire.DEFAULT_URL
    return Client(Options(**{**parse_url(url), **options}))


class Client:
    """A connection that mends itself, and everything that is asked of the broker through it.

    To be used by any number of tasks of one event loop, trio's or asyncio's.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.link: Link | None = None
        self.hello: dict[str, Any] = {}  # what the broker said about itself
        self.feeds: dict[str, Feed] = {}
        self.counts = Counts()
        self.abandoned: list[Feed] = []
        self.decode_plain = bodies.decoder(None, options.converter)
        self._encode = bodies.encoder(options.converter)
        self._closed: Exception | None = None
        self._entered = False
        self._draining = False
        self._subs = 0
        self._publisher = Publisher(
            f"{options.rng.getrandbits(64):016x}-",
            messages=options.window,
            size=options.window_bytes,
            resend_s=options.resend_for,
        )
        self._requests = Requests(self)
        self._stops: list[Callable[[], None]] = []
        self._signals: anyio.CancelScope | None = None

    # -- life -------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._entered:
            raise Closed("a client is entered once; make another with connect()")
        self._entered = True
        self._connected = anyio.Event()
        self._tried = anyio.Event()
        self._group = anyio.create_task_group()
        # whoever cancels the program's block lets it say its last acks before the connection ends
        self._shield = anyio.CancelScope(shield=True)
        await self._group.__aenter__()
        try:
            self._group.start_soon(self._keep_connected, name=f"msg client {self.options.name}")
            await self._tried.wait()
            if self._closed is not None:
                raise self._closed.with_traceback(None)
        except BaseException:
            self._shield.cancel()
            self._group.cancel_scope.cancel()
            await self._group.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        # in a task of its own: asyncio's cancellation of this one knows no shield
        self._group.start_soon(self._leave)
        # the body's own exception is not passed on: it would come back in a group
        await self._group.__aexit__(None, None, None)

    async def _leave(self) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_S):
            await self._say_goodbye()
        self._end(Closed("this client was closed"))
        self._shield.cancel()
        self._group.cancel_scope.cancel()

    async def _say_goodbye(self) -> None:
        """Acks that were promised go out, and what was not begun goes back uncounted."""
        self.reap()
        for feed in list(self.feeds.values()):
            feed.close()
        link = self.link
        if link is None:
            return
        for get in self._requests.gets.values():
            give_back_held(get.messages)
        await self._requests.wait_for_abandoned()
        await link.flush()
        if not link.lost:
            await link.end()

    def _end(self, error: Exception) -> None:
        """Nothing more will be answered: whoever waits is told why."""
        if self._closed is None:
            self._closed = error
        self._publisher.close(self._closed)
        self._requests.close(self._closed)
        for feed in list(self.feeds.values()):
            feed.end(self._closed)
        self._connected.set()
        self._tried.set()

    def raise_if_closed(self) -> None:
        if self._closed is not None:
            raise self._closed.with_traceback(None)
        if not self._entered:
            raise Closed("enter the client first: async with connect() as client")
        if self.abandoned:
            self.reap()

    def reap(self) -> None:
        """Subscriptions whose handles went away in another thread."""
        while self.abandoned:
            self.abandoned.pop().close()

    def __repr__(self) -> str:
        options = self.options
        if self._closed is not None:
            state = f"over: {self._closed}"
        elif not self._entered:
            state = "not entered"
        else:
            state = "connected" if self.connected else "connecting"
        name = "" if options.name is None else f" {options.name}"
        return f"<msg.Client{name} of {options.host}:{options.port}, {state}>"

    @property
    def connected(self) -> bool:
        """Whether there is a connection at this moment."""
        return self.link is not None

    async def wait_connected(self) -> Link:
        """Until there is a connection."""
        while self.link is None:
            self.raise_if_closed()
            await self._connected.wait()
        return self.link

    # -- connecting -------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        with self._shield:
            await self._connect_again_and_again()

    async def _connect_again_and_again(self) -> None:
        options = self.options
        pause, begun = RECONNECT_MIN_S, anyio.current_time()
        while True:
            before = self.counts.connections
            try:
                reason = await self._serve_once()
            # UnicodeError: no host has such a name
            except (OSError, Disconnected, TimeoutError, UnicodeError) as error:
                reason = _why(error)
                where = f"{options.host}:{options.port}"
                if not self.counts.connections and (
                    not options.wait or anyio.current_time() - begun >= options.wait
                ):
                    self._end(Disconnected(f"no broker at {where}: {reason}"))
                    return
            except (Unauthorized, Forbidden) as error:
                self._end(error)
                return
            except Refused as error:  # a broker that is full: later, perhaps
                reason = str(error)
                if not self.counts.connections and not options.wait:
                    self._end(error)
                    return
            if self.counts.connections > before:
                pause = RECONNECT_MIN_S
                if not options.reconnect:
                    self._end(Disconnected(f"the connection has ended: {reason}"))
                    return
                logger.info("connection lost, connecting again: %s", reason)
            await anyio.sleep(pause * options.rng.uniform(0.5, 1.0))
            pause = min(2 * pause, options.reconnect_max)

    async def _serve_once(self) -> str:
        """One connection from beginning to end; returns why it ended."""
        stream = await self._dial()
        link = Link(stream, self)
        failed: Exception | None = None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._run, link)
                try:
                    with anyio.fail_after(self.options.connect_timeout):
                        hello = await self._introduce(link)
                except Exception as error:
                    failed = error  # raised outside of the group, which would wrap it
                    link.lose(str(error) or "no answer to hello")
                else:
                    self._up(link, hello)
            if failed is not None:
                raise failed
        finally:
            link.lose("closed")
            self._down(link)
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await anyio.aclose_forcefully(stream)
        return link.lost

    async def _run(self, link: Link) -> None:
        await link.run(partial(self._heard, link), self.options.heartbeat)
        self._requests.greeting_failed(Disconnected(link.lost))

    async def _dial(self) -> anyio.abc.ByteStream:
        options = self.options
        with anyio.fail_after(options.connect_timeout):
            if options.dial is not None:
                return await options.dial()
            stream = await anyio.connect_tcp(options.host, options.port)
        raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return stream

    async def _introduce(self, link: Link) -> dict[str, Any]:
        options = self.options
        ask = self._requests.greeting()
        link.write(
            wire.encode(
                {
                    "action": "hello",
                    "id": "hello",
                    "name": options.name,
                    "token": options.token,
                    "user": options.user,
                    "password": options.password,
                    "heartbeat": options.heartbeat or None,
                }
            )
        )
        hello = await ask.wait()
        limits = hello.get("limits") or {}
        if not isinstance(limits, dict) or not isinstance(limits.get("frame_bytes", 0), int):
            raise Disconnected(f"this is not a broker: its limits are {str(limits)[:80]}")
        return hello

    def _up(self, link: Link, hello: dict[str, Any]) -> None:
        if link.lost:
            return
        self.hello = hello
        link.inbox = str(hello.get("inbox", "_inbox"))
        link.frame_bytes = (hello.get("limits") or {}).get("frame_bytes")
        self.link = link
        self._draining = False
        self.counts.connections += 1
        for feed in list(self.feeds.values()):  # one that is refused leaves them
            feed.subscribe(link)
        self._requests.connected(link)
        self._publisher.connected(link)
        self._connected.set()
        self._tried.set()

    def _down(self, link: Link) -> None:
        if self.link is link:
            self.link = None
            self._connected = anyio.Event()
            self._publisher.disconnected()
            self._requests.disconnected(link.lost)
            for feed in self.feeds.values():
                feed.disconnected()

    # -- what the broker says ---------------------------------------------------------------

    def _heard(self, link: Link, frames: list[Any]) -> None:
        """A read's worth of frames. Runs of one kind are handed on together."""
        acks: list[wire.Ack] = []
        run: list[Message[Any]] = []
        sub: str | None = None
        for frame in frames:
            kind = frame.__class__
            if kind is Message:
                if frame.sub != sub and run:
                    self._deliver(link, sub, run)
                    run = []
                sub = frame.sub
                run.append(frame)
            elif kind is wire.Ack:
                acks.append(frame)
            else:
                if run:  # `got` and `unsubscribed` mean what came before them
                    self._deliver(link, sub, run)
                    run = []
                self._answer(link, frame)
        if run:
            self._deliver(link, sub, run)
        if acks:
            self._publisher.confirm(acks)

    def _deliver(self, link: Link, sub: str | None, messages: list[Message[Any]]) -> None:
        feed = self.feeds.get(sub or "")
        if feed is not None:
            feed.arrived(messages)
        elif sub == INBOX_SUB:
            self._requests.replied(link, messages)
        elif (get := self._requests.gets.get(sub or "")) is not None:
            get.arrived(link, messages)
        else:  # on its way when the subscription was ended
            tags = [m.tag for m in messages if m.tag is not None]
            if tags:
                give_back(link, tags)
                if sub is not None and sub not in link.strays:
                    # once more, or a broker that believes in it would send for ever
                    link.strays[sub] = None
                    # (with an id: that it knows of none by now is no news to anybody)
                    link.write(wire.encode({"action": "unsubscribe", "sub": sub, "id": "stray"}))

    def _answer(self, link: Link, frame: Any) -> None:
        kind = frame.__class__
        if kind is wire.Ping:
            link.write(b'{"action":"pong"}\n')
        elif kind is wire.Got:
            self._requests.answered(frame.id or "", {"count": frame.count}, None)
        elif kind is wire.Pong:
            if frame.id is not None:
                self._requests.answered(frame.id, {}, None)
        else:
            self._answer_plain(link, frame)

    def _answer_plain(self, link: Link, frame: dict[str, Any]) -> None:
        request_id = frame.get("id")
        match frame.get("type"):
            case "error":
                self._refused(link, frame, refusal(frame))
            case "subscribed":
                feed = self.feeds.get(frame.get("sub") or "")
                if feed is not None:
                    feed.answered(None)
            case "unsubscribed" if request_id is None:
                feed = self.feeds.pop(frame.get("sub") or "", None)
                if feed is not None:
                    feed.end(Unsubscribed(f"the broker ended it: {frame.get('reason')}"))
            case "closing":
                self._draining = True
                logger.info("the broker is closing: %s", frame.get("reason"))
            case _ if request_id is not None:
                self._requests.answered(request_id, frame, None)

    def _refused(self, link: Link, frame: dict[str, Any], error: Refused) -> None:
        request_id = frame.get("id")
        if request_id is not None:
            if request_id.startswith("sub-"):
                feed = self.feeds.get(request_id.removeprefix("sub-"))
                if feed is not None:
                    feed.answered(error)
            else:
                self._requests.answered(request_id, frame, error)
        elif error.message_id is not None and self._publisher.refuse(error.message_id, error):
            return
        elif frame.get("closes"):
            self._requests.greeting_failed(error)
            link.lose(str(error))
        else:
            # an ack without an answer that came too late: the message goes to another
            self.counts.settlements_failed += 1
            logger.warning("%s", error)

    def tags_in_use(self, link: Link, timeouts: list[float]) -> list[int]:
        """Leases of these deadlines that are being worked on, or wait here for their turn."""
        self.reap()
        messages: list[Message[Any]] = [
            m for m in link.handling.values() if m.ack_timeout in timeouts
        ]
        for feed in self.feeds.values():
            messages += [m for m in feed.waiting if m.ack_timeout in timeouts]
        for get in self._requests.gets.values():
            messages += [m for m in get.messages if m.ack_timeout in timeouts]
        return [m.tag for m in messages if m.tag is not None and m._state == "open"]

    # -- publishing -------------------------------------------------------------------------

    async def publish(
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
        is kept once. Cancelled, it may or may not have been kept. Raises the broker's
        refusal (`QueueFull`, …), TypeError for a body that is not JSON.
        """
        self.raise_if_closed()
        publishing = wire.Publishing(
            topic,
            mode,
            {
                "headers": dict(headers) if headers else None,
                "delay": delay,
                "ttl": ttl,
                "priority": priority,
                "durability": durability,
                "reply_to": reply_to,
                "correlation_id": correlation_id,
                "retain": retain,
            },
        )
        binary = isinstance(body, bytes | bytearray | memoryview)
        data = bodies.encode_binary(body) if binary else self._encode(body)
        return await publish_one(
            self._publisher, publishing, message_id or self._publisher.next_id(), data, binary
        )

    async def send(self, queue: str, body: Any, **options: Any) -> Receipt:
        """`publish` to a queue."""
        return await self.publish(queue, body, mode="queue", **options)

    async def publish_many(
        self,
        topic: str,
        bodies: Iterable[Any] | AsyncIterable[Any],
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

        Items are bodies, or `Outgoing` with an id and fields of their own. `on_progress` is
        called with the number that are kept, now and then. Raises `PublishFailed` when some
        were refused; it stops at the first refusal that it hears of.
        """
        self.raise_if_closed()
        shared = {
            "headers": dict(headers) if headers else None,
            "delay": delay,
            "ttl": ttl,
            "priority": priority,
            "durability": durability,
        }

        def publishing(item: Outgoing | None) -> wire.Publishing:
            if item is None:
                return wire.Publishing(topic, mode, shared)
            own = {
                "headers": item.headers,
                "delay": item.delay,
                "ttl": item.ttl,
                "priority": item.priority,
                "correlation_id": item.correlation_id,
            }
            given = {key: value for key, value in own.items() if value is not None}
            return wire.Publishing(topic, mode, {**shared, **given})

        return await publish_many(self._publisher, publishing, bodies, self._encode, on_progress)

    def _slice_of(self, most: int, parts: int) -> int:
        """How many messages are one of so many parts of the window, going by the last ones."""
        return self._publisher.of_bytes(self.options.window_bytes // parts, most)

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

    def subscribe(
        self,
        pattern: str,
        *,
        type: type[Any] | None = None,
        group: str | None = None,
        from_: From | None = None,
        prefetch: int = PREFETCH,
        ack_timeout: float | None = None,
        name: str | None = None,
    ) -> Subscription[Any]:
        """The messages of a topic, or of all that match `news.*` or `news.>`.

        `group` shares them with its other members, durably: they are leased, to be settled
        with `async with message`. `from_`: "new", "last", "all", a sequence number, or an
        RFC 3339 time. `type` is what bodies are to be.
        """
        request: dict[str, Any] = {
            "action": "subscribe",
            "topic": pattern,
            "group": group,
            "from": from_,
        }
        if group is not None:
            request |= {"prefetch": prefetch, "ack_timeout": ack_timeout, "name": name}
        return self._subscription(request, type)

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

    def consume(
        self,
        queue: str,
        *,
        type: type[Any] | None = None,
        prefetch: int = PREFETCH,
        ack_timeout: float | None = None,
        auto_ack: bool = False,
        name: str | None = None,
    ) -> Subscription[Any]:
        """The messages of a queue, each leased to this client until it is settled.

        Up to `prefetch` are held at a time; those that wait here keep their leases. Work on
        each in an `async with message`.
        """
        request = {
            "action": "subscribe",
            "topic": queue,
            "mode": "queue",
            "prefetch": prefetch,
            "ack_timeout": ack_timeout,
            "ack": "auto" if auto_ack else None,
            "name": name,
        }
        return self._subscription(request, type)

    def _subscription(self, request: dict[str, Any], type_: Any) -> Subscription[Any]:
        decode = bodies.decoder(type_, self.options.converter)

        def make() -> Feed:
            self._subs += 1
            return Feed(self, f"s{self._subs}", request, decode)

        return Subscription(make)

    async def get(
        self,
        queue: str,
        *,
        n: int = 1,
        wait: float = 0.0,
        type: type[Any] | None = None,
        group: str | None = None,
        ack_timeout: float | None = None,
    ) -> list[Message[Any]]:
        """Up to `n` messages, now or within `wait` seconds. To be settled like all others."""
        frame = {
            "action": "get",
            "topic": queue,
            "mode": "queue" if group is None else "pubsub",
            "group": group,
            "n": n,
            "wait": wait or None,
            "ack_timeout": ack_timeout,
        }
        return await self._requests.get(frame, bodies.decoder(type, self.options.converter))

    # -- asking -----------------------------------------------------------------------------

    async def ask(self, action: str, **fields: Any) -> dict[str, Any]:
        """Any request of the protocol, such as `ask("stats")`: its answer, as it came."""
        return await self._requests.ask({"action": action, **fields})

    async def declare(
        self, topic: str, *, mode: Mode = "queue", group: str | None = None,
        settings: Mapping[str, Any] | None = None, passive: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """Make a queue, topic or group, or change its settings; the answer has both in force."""
        return await self.ask(
            "declare", topic=topic, mode=mode, group=group,
            settings=dict(settings) if settings else None, passive=passive or None,
        )  # fmt: skip

    async def request(
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
        self.raise_if_closed()
        decode = bodies.decoder(type, self.options.converter)

        async def publish(inbox: str, correlation_id: str) -> Receipt:
            # a reply that nobody waits for any more helps nobody: it is not kept for later
            return await self.publish(
                topic, body, mode=mode, reply_to=inbox, correlation_id=correlation_id,
                **{"ttl": timeout, **options},
            )  # fmt: skip

        with anyio.fail_after(timeout):
            return await self._requests.request(publish, self._publisher.next_id(), decode)

    async def run_worker(
        self,
        queue: str,
        handler: Callable[[Message[Any]], Awaitable[object]],
        *,
        concurrency: int = 1,
        **options: Any,
    ) -> None:
        """Call `handler` with each message, `concurrency` at a time. See `msg.client.worker`."""
        from msg.client.worker import run_worker

        await run_worker(self, queue, handler, concurrency=concurrency, **options)

    # -- signals, for workers ---------------------------------------------------------------

    def on_signals(self, stop: Callable[[], None]) -> None:
        """Call this at each SIGINT or SIGTERM, until `off_signals`.

        One receiver for all workers of a client: a second one would replace the first.
        """
        self._stops.append(stop)
        if self._signals is None:
            self._signals = anyio.CancelScope()
            self._group.start_soon(self._hear_signals, self._signals)

    def off_signals(self, stop: Callable[[], None]) -> None:
        if stop in self._stops:
            self._stops.remove(stop)
        if not self._stops and self._signals is not None:
            self._signals.cancel()
            self._signals = None

    async def _hear_signals(self, scope: anyio.CancelScope) -> None:
        with scope, anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                for stop in list(self._stops):
                    stop()


def _why(error: Exception) -> str:
    """Why there is no connection, in the system's words where it has any."""
    cause: BaseException | None = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):  # one for each address that was tried
        cause = cause.exceptions[0]
    if isinstance(cause, OSError) and cause.strerror:
        # asyncio puts words of its own in `strerror`; the number says it plainly
        number = cause.errno or 0  # negative: one of getaddrinfo's own
        return os.strerror(number) if number > 0 else cause.strerror
    return str(error) or "the broker did not answer in time"
