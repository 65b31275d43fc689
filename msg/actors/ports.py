"""Ports: a subscription's end in its connection. What the queue or topic hands over waits
here, is encoded by the connection's writer, and is remembered until it is acked.

`holdings` is the session's table of what it holds; a new incarnation of a queue asks for it
before it dispatches anything. It is a plain call and not mail because a writer that is stuck
in `send_all` answers no mail.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from msg.actors.outbox import WRITE_BYTES, Outbox, Port, contained
from msg.actors.queue import Sent
from msg.core.message import Message
from msg.errors import ClientError
from msg.protocol import encode

if TYPE_CHECKING:
    from msg.actors.queue import Queue

STALE_MAX = 10_000  # expired leases whose late acks are still understood, per subscription
RUNS_MAX = 1024
_PENDING_SEP = b'{"type":"message",'


class Tags:
    """Delivery tags of one connection: 1, 2, 3 …; and whose the latest of them are.

    A run is tags in a row of one port, so a connection with one subscription has one run for
    ever. With many, an ack need not look at each of them: the last RUNS_MAX runs are known.

    For a client that acks by message id there is also the tag of each id that is held.
    """

    __slots__ = ("_firsts", "_ids", "_ports", "_several", "next")

    def __init__(self) -> None:
        self.next = 1
        # by run; None until there is one, for those who only wait
        self._firsts: list[int] | None = None
        self._ports: list[QueuePort] | None = None
        # made at the first ack by id, then kept up to date
        self._ids: dict[str, int] | None = None
        # ids that are held more than once: how often. One of their tags is in `_ids`
        self._several: dict[str, int] = {}

    def give(self, port: "QueuePort", count: int) -> int:
        """So many tags for this port; returns the first."""
        first = self.next
        self.next = first + count
        if self._firsts is None or self._ports is None:
            self._firsts, self._ports = [first], [port]
        elif self._ports[-1] is not port:
            self._firsts.append(first)
            self._ports.append(port)
            if len(self._ports) > RUNS_MAX:
                del self._firsts[: RUNS_MAX // 2], self._ports[: RUNS_MAX // 2]
        return first

    def holder(self, tag: int) -> "QueuePort | None":
        """The port that holds what was delivered under this tag. None: it must be searched."""
        if self._firsts is None or self._ports is None:
            return None
        at = bisect_right(self._firsts, tag) - 1
        return self._ports[at] if at >= 0 and tag in self._ports[at].held else None

    def forget(self) -> None:
        """A port is gone for good, and is named no more."""
        self._firsts = self._ports = None

    def search(self, tag: int, ports: "Sequence[QueuePort]") -> "QueuePort | None":
        """Who of all these holds it, also if it was delivered long ago."""
        port = self.holder(tag)
        if port is not None:
            return port
        for port in ports:
            if tag in port.held:
                return port
        return None

    # -- by message id ----------------------------------------------------------------------

    def holders(
        self, message_id: str, ports: "Sequence[QueuePort]"
    ) -> "list[tuple[QueuePort, int]]":
        """Who of all these holds a message of this id, under which tag."""
        ids = self._table(ports)
        if message_id not in self._several:
            tag = ids.get(message_id)
            port = None if tag is None else self.search(tag, ports)
            return [] if port is None or tag is None else [(port, tag)]
        found = [
            (port, tag) for port in ports for tag, m in port.held.items() if m.id == message_id
        ]
        if len(found) == 1:  # the others are settled
            del self._several[message_id]
            ids[message_id] = found[0][1]
        return found

    def take_ids(self, message_ids: list[str], port: "QueuePort") -> list[Message] | None:
        """Take out what the one port there is holds under these ids. None, and nothing is
        taken, unless each of them is the id of one message that is held, and of another one."""
        ids = self._table((port,))
        if self._several and not self._several.keys().isdisjoint(message_ids):
            return None
        tags = [ids.pop(message_id, None) for message_id in message_ids]
        if None in tags:
            ids.update({i: t for i, t in zip(message_ids, tags, strict=True) if t is not None})
            return None
        pop = port.held.pop
        return [pop(tag) for tag in tags]  # type: ignore[arg-type]  # none is None

    def hold(self, messages: Sequence[Message], first: int) -> None:
        """These are held from now on, under tags from `first` on."""
        ids = self._ids
        if ids is None:
            return
        new = {m.id: tag for tag, m in enumerate(messages, first)}
        if len(new) < len(messages) or not ids.keys().isdisjoint(new):
            several, earlier = self._several, set[str]()  # of these
            for message in messages:
                if message.id in ids or message.id in earlier:
                    several[message.id] = several.get(message.id, 1) + 1
                earlier.add(message.id)
        ids.update(new)

    def let_go(self, messages: "Iterable[Message]") -> None:
        """These are not held any more."""
        ids, several = self._ids, self._several
        if ids is None:
            return
        for message in messages:
            left = several.get(message.id, 1) - 1 if several else 0
            if left:
                several[message.id] = left
            else:
                several.pop(message.id, None)
                ids.pop(message.id, None)

    def _table(self, ports: "Sequence[QueuePort]") -> dict[str, int]:
        ids = self._ids
        if ids is None:
            ids = self._ids = {}
            for port in ports:
                for tag, message in port.held.items():
                    self.hold((message,), tag)
        return ids


class QueuePort(Port):
    """A subscription to a queue or a group, or one `get`.

    held     tag -> message, from the moment its frame is given to the kernel
    stale    tag -> message: leases that expired; a late ack may still come
    """

    __slots__ = (
        "_pending",
        "_unsent",
        "_writing",
        "ack_timeout",
        "auto",
        "finished",
        "held",
        "name",
        "on_ended",
        "on_got",
        "on_refused",
        "queue",
        "stale",
        "sub",
        "suffix",
        "tags",
    )

    def __init__(
        self,
        outbox: Outbox,
        queue: "Queue",
        tags: Tags,
        *,
        sub: str | None,
        suffix: bytes,
        auto: bool,
        ack_timeout: float,
        name: str,
    ) -> None:
        super().__init__(outbox)
        self.queue = queue
        self.tags = tags
        self.sub = sub
        self.suffix = suffix  # what every frame of this subscription says after the wire
        self.auto = auto
        self.finished = False  # of a `get`: it has been answered
        self.ack_timeout = ack_timeout
        self.name = name
        self.held: dict[int, Message] = {}
        self.stale: dict[int, Message] | None = None
        self._pending: deque[tuple[list[Message], int] | bytes] | None = None
        # messages, their bytes, the frames
        self._writing: list[tuple[list[Message], int, bytes]] = []
        self._unsent: set[int] | None = None  # seqs that were in a write which did not come so far
        self.on_refused: Callable[[ClientError], None] | None = None
        self.on_got: Callable[[int], bytes] | None = None
        self.on_ended: Callable[[str], None] | None = None

    # -- for the queue ----------------------------------------------------------------------

    @property
    def room(self) -> int:
        return 0 if self.closed else self.outbox.room

    @contained
    def deliver(self, messages: list[Message], size: int) -> None:
        if self.closed or self.outbox.closed:
            return  # its departure is in the queue's mailbox, and returns them
        if self._pending is None:
            self._pending = deque()
        self._pending.append((messages, size))
        self.bytes += size
        self.outbox.grow(self, size)

    @property
    def done(self) -> bool:
        """It gets nothing more, and nothing that it got is still open."""
        over = self.finished or self.closed
        return over and not (self.held or self._pending or self._writing)

    def holdings(self) -> list[Message]:
        """All that was leased to this subscription and not settled by it."""
        pending = [m for entry in self._pending or () if not isinstance(entry, bytes)
                   for m in entry[0]]  # fmt: skip
        writing = [m for entry in self._writing for m in entry[0]] if self.auto else []
        return [*self.held.values(), *writing, *pending]

    @contained
    def lapse(self, messages: Sequence[Message]) -> None:
        """These leases expired: they are no longer held, but a late ack may come."""
        gone = {m.seq for m in messages}
        if self.stale is None:
            self.stale = {}
        for tag in [tag for tag, m in self.held.items() if m.seq in gone]:
            self.stale[tag] = self.take(tag)
        while len(self.stale) > STALE_MAX:
            del self.stale[next(iter(self.stale))]

    @contained
    def got(self, count: int) -> None:
        """The `get` is over: its answer goes behind the messages."""
        if self.on_got is None or self.outbox.closed:
            return
        frame = self.on_got(count)
        if self._pending is None:
            self._pending = deque()
        self._pending.append(frame)
        self.outbox.grow(self, 0)

    @contained
    def ended(self, reason: str) -> None:
        """The queue is gone."""
        if not self.closed and self.on_ended is not None:
            self.on_ended(reason)

    @contained
    def refuse(self, error: ClientError) -> None:
        """The queue cannot take this subscription."""
        self.closed = True
        if self.on_refused is not None:
            self.on_refused(error)

    # -- for the writer ---------------------------------------------------------------------

    @property
    def waits(self) -> bool:
        return bool(self._pending)

    def chunks(self, size: int) -> Iterator[bytes]:
        pending = self._pending
        while pending and size > 0:
            entry = pending.popleft()
            if isinstance(entry, bytes):
                size -= len(entry)
                yield entry
                continue
            messages, nbytes = entry
            if nbytes > 2 * WRITE_BYTES and len(messages) > 1:
                half = len(messages) // 2
                rest = messages[half:]
                messages = messages[:half]
                rest_bytes = sum([len(m.wire) for m in rest])
                pending.appendleft((rest, rest_bytes))
                nbytes -= rest_bytes
            data = self._encode(messages)
            self._writing.append((messages, nbytes, data))
            size -= len(data)
            yield data
        if not pending:
            self._pending = None  # an empty deque is 600 bytes, and most are idle

    def _encode(self, messages: list[Message]) -> bytes:
        if self.auto:
            return encode.heard([m.wire for m in messages], self.suffix)
        first = self.tags.give(self, len(messages))
        self.held.update(zip(range(first, self.tags.next), messages, strict=True))
        self.tags.hold(messages, first)
        return encode.leased(messages, first, self.suffix)

    def wrote(self, now: float) -> None:
        queue = self.queue
        for messages, nbytes, _ in self._writing:
            if not self.closed:  # else all its bytes were given back then
                self.bytes -= nbytes
                self.outbox.shrink(nbytes)
            sent = Sent(self, messages, now)
            if self.auto or queue.cramped:
                queue.post(sent)
            else:
                queue.mailbox.note(sent)
        self._writing.clear()

    def cut_off(self, frames: Mapping[int, int]) -> None:
        self._unsent = {
            m.seq
            for messages, _, data in self._writing
            for m in messages[frames.get(id(data), len(messages)) :]
        }

    # -- for the session --------------------------------------------------------------------

    def forget_callers(self) -> None:
        """Nobody is told any more what becomes of it."""
        self.on_got = self.on_refused = self.on_ended = None

    def take(self, tag: int) -> Message:
        """Take out what is held under this tag."""
        message = self.held.pop(tag)
        self.tags.let_go((message,))
        return message

    def take_by_tags(self, tags: list[int]) -> list[Message] | None:
        """Take out what is held under these tags. None, and nothing is taken, unless all of
        them are held, and each is named once."""
        held = self.held
        messages = [held.pop(tag, None) for tag in tags]
        if None in messages:
            held.update({t: m for t, m in zip(tags, messages, strict=True) if m is not None})
            return None
        self.tags.let_go(messages)  # type: ignore[arg-type]  # none is None
        return messages  # type: ignore[return-value]

    def stop(self) -> list[Message]:
        """Nothing more is written. What was is still held; returns what was not."""
        unsent = [m for entry in self._pending or () if not isinstance(entry, bytes)
                  for m in entry[0]]  # fmt: skip
        self.closed = True
        self.outbox.forget(self)
        self._pending = None
        return unsent

    def close(self) -> list[int]:
        """The subscription is over. Returns the seqs whose frames the kernel has had."""
        self.stop()
        unsent = self._unsent or ()
        return [m.seq for m in self.held.values() if m.seq not in unsent]


class TopicPort(Port):
    """A live subscription to a topic or a pattern. It is never waited for: what it does not
    take in time is dropped, oldest first, counted, and told with the next message. Replays
    are: each page of one needs room that was claimed here."""

    __slots__ = ("_claims", "_missed", "_pending", "_told_at", "_written", "claimed", "count",
                 "dropped", "limit_bytes", "limit_count", "on_ended", "on_refused", "sub",
                 "suffix")  # fmt: skip

    def __init__(
        self,
        outbox: Outbox,
        *,
        sub: str | None,
        suffix: bytes,
        limit_count: int,
        limit_bytes: int,
    ) -> None:
        super().__init__(outbox)
        self.sub = sub
        self.suffix = suffix
        self.limit_count = limit_count
        self.limit_bytes = limit_bytes
        self.count = 0
        self.dropped = 0  # ever
        self.claimed = 0  # bytes reserved for pages that are being read
        self.on_ended: Callable[[str], None] | None = None
        self.on_refused: Callable[[ClientError], None] | None = None
        self._missed = 0  # since the last message that it was sent
        self._told_at = 1  # when so many are dropped, the log is told
        self._pending: deque[tuple[bytes, int, Callable[[bool], None] | None]] | None = None
        self._written: list[tuple[int, Callable[[bool], None] | None]] = []
        self._claims: deque[tuple[int, Callable[[], None]]] | None = None

    @property
    def behind(self) -> bool:
        """Whether so much waits that it may soon lose something (again)."""
        return 2 * self.count >= self.limit_count or 2 * self.bytes >= self.limit_bytes

    # -- for the topic ----------------------------------------------------------------------

    def offer(self, frames: bytes, count: int, gone: Callable[[bool], None] | None = None) -> None:
        """`count` whole message frames; `gone` is called when they wait here no longer:
        with True when the kernel has them, with False when they were dropped. Who offers sees
        to it that a bug here ends this connection only: `deliver` does so for one."""
        outbox = self.outbox
        if self.closed or outbox.closed:
            return
        pending = self._pending
        if pending is None:
            pending = self._pending = deque()
        pending.append((frames, count, gone))
        size = len(frames)
        self.count += count
        self.bytes += size
        outbox.grow(self, size)
        budget = outbox.budget
        if (
            self.count > self.limit_count
            or self.bytes > self.limit_bytes
            or outbox.bytes > outbox.limit
            or budget.used > budget.limit
        ):
            self._drop()

    deliver = contained(offer)

    def miss(self, count: int) -> None:
        """So many were dropped before they came here."""
        self._missed += count
        self.dropped += count
        self.outbox.budget.dropped += count

    def claim(self, size: int, granted: Callable[[], None]) -> bool:
        """Reserve room for a page of a replay. False: `granted` is called when there is some
        (never, if the subscription ends before)."""
        if not self._claims and self._takes_page(size):
            self.claimed += size
            self.outbox.claimed += size
            return True
        if not (self.closed or self.outbox.closed):
            if self._claims is None:
                self._claims = deque()
            self._claims.append((size, granted))
            self.outbox.claims[self] = None
        return False

    def unclaim(self, size: int) -> None:
        """The page is here, or will not come."""
        if self.closed:
            return
        self.claimed -= size
        self.outbox.claimed -= size
        self.outbox.shrink(0)

    def grant(self) -> None:
        while self._claims and self._takes_page(self._claims[0][0]):
            size, granted = self._claims.popleft()
            self.claimed += size
            self.outbox.claimed += size
            granted()
        if not self._claims:
            self._claims = None
            self.outbox.claims.pop(self, None)

    def _takes_page(self, size: int) -> bool:
        waiting = self.bytes + self.claimed
        if waiting and (
            waiting + size > self.limit_bytes // 2 or self.count > self.limit_count // 2
        ):
            return False
        return self.outbox.takes_page(size)

    @contained
    def ended(self, reason: str) -> None:
        """The topic was deleted."""
        if not self.closed and self.on_ended is not None:
            self.on_ended(reason)

    @contained
    def refuse(self, error: ClientError) -> None:
        """A topic failed on this subscription. Its requests are answered, also if it has left."""
        if self.on_refused is not None:
            self.on_refused(error)

    def _drop(self) -> None:
        """Too slow: the oldest go until the rest fits."""
        pending = self._pending
        while pending and (
            self.count > self.limit_count or self.bytes > self.limit_bytes or self.outbox.room < 0
        ):
            frames, count, gone = pending.popleft()
            self.count -= count
            self.bytes -= len(frames)
            self.outbox.shrink(len(frames))
            self._missed += count
            self.dropped += count
            self.outbox.budget.dropped += count
            if gone is not None:
                gone(False)
        if self.dropped >= self._told_at:
            self._told_at = 2 * self.dropped  # each time that it doubles: a line each is a flood
            if self.outbox.on_slow is not None:
                self.outbox.on_slow(self.sub, self.dropped)

    # -- for the writer ---------------------------------------------------------------------

    @property
    def waits(self) -> bool:
        return bool(self._pending)

    def chunks(self, size: int) -> Iterator[bytes]:
        pending = self._pending
        while pending and size > 0:
            frames, count, gone = pending.popleft()
            self.count -= count
            self._written.append((len(frames), gone))
            if self._missed:
                note = b'"dropped":%d,' % self._missed
                frames = _PENDING_SEP + note + frames[len(_PENDING_SEP) :]
                self._missed = 0
            size -= len(frames)
            yield frames
        if not pending:
            self._pending = None

    def wrote(self, now: float) -> None:
        if self.closed:
            self._written.clear()
            return
        written, self._written = self._written, []
        for size, gone in written:
            self.bytes -= size
            self.outbox.shrink(size)
            if gone is not None:
                gone(True)

    # -- for the session --------------------------------------------------------------------

    def close(self) -> None:
        self.closed = True
        self.outbox.claimed -= self.claimed
        self.claimed = 0
        self._claims = None
        self.outbox.claims.pop(self, None)
        self.outbox.forget(self)
        self._pending = None

    def forget_callers(self) -> None:
        """Nobody is told any more what becomes of it."""
        self.on_ended = self.on_refused = None
