"""The load itself: publishers in one process, consumers in another, on plain sockets.

Only the standard library, frames encoded beforehand, so that the generators cost less than the
broker: a publish carries the time of its sending at the head of its body, and whoever receives
it reads that there. All processes share one table of counters (`Board`).
"""

import contextlib
import json
import re
import select
import socket
import time
from collections import deque
from collections.abc import Callable, MutableSequence, Sequence
from multiprocessing.connection import Connection
from typing import Any

import attrs

BATCH = 50  # publishes in one send
RECEIVE_BYTES = 1 << 18
AHEAD = 10_000  # messages that publishers may be ahead of the consumers, all together
STAMP_BYTES = 19  # digits of nanoseconds at the head of each body
SUBSCRIPTIONS = 100  # of one connection: the broker's default limit
IDLE_S = 5.0  # consumers that get nothing for so long, after the last publish, give up
NS_PER_US = 1000

_TAG = re.compile(rb'"tag":(\d+)')
_STAMP = re.compile(rb'"message":"(\d{19})')
_MESSAGE, _ACK, _ERROR = b'"type":"message"', b'"type":"ack"', b'"type":"error"'

# the counters, by place; behind them one for each consumer
GO, STOP, READY, SENT, CONFIRMED, RECEIVED, DONE, CONSUMERS = range(8)
Board = MutableSequence[int]


@attrs.frozen(kw_only=True)
class Load:
    """What is sent, and to whom. Sizes in bytes, times in seconds."""

    mode: str = "queue"  # or "pubsub"
    run: str = "run"  # in the names of the destinations
    # destinations: each consumer hears some, each producer goes round all of them, or has one
    # of its own where there are enough producers
    names: int = 1
    producers: int = 1  # connections
    consumers: int = 1  # connections; of a topic each hears all
    size: int = 200  # of a body
    window: int = 1000  # publishes of one connection that are not yet acked, at most
    prefetch: int = 1000
    durability: str = ""  # "": the broker's own
    rate: int = 0  # messages a second, all together; 0: as fast as it goes

    def name(self, number: int) -> str:
        return f"bench.{self.run}.{number}"

    def heads(self) -> list[bytes]:
        """Of the publish to each destination: all that stands before the time in the body."""
        durability = f',"durability":"{self.durability}"' if self.durability else ""
        return [
            f'{{"action":"publish","topic":"{self.name(n)}","mode":"{self.mode}"{durability},'
            f'"message":"'.encode()
            for n in range(self.names)
        ]

    def tail(self) -> bytes:
        return b"x" * max(0, self.size - STAMP_BYTES - 2) + b'"}\n'

    def sent_by(self, producer: int) -> list[int]:
        """The destinations of one producer, in the order that it goes round them."""
        if self.names <= self.producers:
            return [producer % self.names]
        first = producer * BATCH % self.names
        return [(first + n) % self.names for n in range(self.names)]

    def heard_by(self, consumer: int) -> list[int]:
        """The destinations of one consumer."""
        if self.mode == "pubsub":
            return list(range(self.names))
        if self.names <= self.consumers:
            return [consumer % self.names]
        return list(range(consumer, self.names, self.consumers))


class Refused(Exception):
    """The broker said no; its own words."""


def dial(host: str, port: int) -> socket.socket:
    connection = socket.create_connection((host, port), 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class Lines:
    """Complete lines out of reads."""

    def __init__(self) -> None:
        self._rest = b""

    def whole(self, data: bytes) -> bytes:
        """All complete lines so far; raises `Refused` where one is an error."""
        data = self._rest + data
        end = data.rfind(b"\n") + 1
        self._rest = data[end:]
        lines = data[:end]
        if _ERROR in lines:
            wrong = next(line for line in lines.splitlines() if _ERROR in line)
            raise Refused(str(json.loads(wrong).get("error")))
        return lines


# -- publishers -----------------------------------------------------------------------------


class Producer:
    """One publishing connection. Never blocks; `step` does what can be done now."""

    def __init__(self, load: Load, connection: socket.socket, number: int) -> None:
        self.load = load
        self.socket = connection
        self.unsent = memoryview(b"")
        self.sent = self.confirmed = 0
        self.spread: dict[int, int] = {}
        self._lines = Lines()
        heads, self._tail = load.heads(), load.tail()
        self._heads = [heads[n] for n in load.sent_by(number)]
        self._at = 0
        self._batch = min(BATCH, load.window)
        self._under_way: deque[tuple[int, int]] = deque()  # (count when acked, sent at)
        connection.setblocking(False)

    @property
    def may_send(self) -> bool:
        return self.sent + self._batch - self.confirmed <= self.load.window

    def fill(self, most: int) -> int:
        """Make the next batch, of `most` at most; how many."""
        count, now = min(self._batch, most), time.perf_counter_ns()
        rest = b"%019d" % now + self._tail
        if len(self._heads) == 1:
            data = (self._heads[0] + rest) * count
        else:
            heads = [self._heads[(self._at + i) % len(self._heads)] for i in range(count)]
            data = rest.join(heads) + rest
            self._at = (self._at + count) % len(self._heads)
        self.unsent = memoryview(data)
        self.sent += count
        self._under_way.append((self.sent, now))
        return count

    def push(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.unsent = self.unsent[self.socket.send(self.unsent) :]

    def pull(self, add: Callable[[int, int], None]) -> int:
        """Take the acks that are there; how many. `add` gets each batch's time."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            raise Refused("the broker closed the connection")
        count = self._lines.whole(data).count(_ACK)
        self.confirmed += count
        now = time.perf_counter_ns()
        while self._under_way and self._under_way[0][0] <= self.confirmed:
            add((now - self._under_way.popleft()[1]) // NS_PER_US, 1)
        return count


def produce(load: Load, host: str, port: int, board: Board, pipe: Connection) -> None:
    """Publish over all connections until told to stop, then wait for the last ack."""

    def run() -> dict[str, Any]:
        from msg.bench.spread import Spread

        spread = Spread()
        some = [Producer(load, dial(host, port), n) for n in range(load.producers)]
        poll = select.poll()
        by_fd = {producer.socket.fileno(): producer for producer in some}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        board[READY] += 1
        _wait_for(board)
        begun = time.perf_counter()
        while True:
            moved = False
            some.append(some.pop(0))  # whoever is first gets most of what room there is
            for producer in some:
                if not producer.unsent and not board[STOP] and producer.may_send:
                    room = _room(load, board, begun)
                    if room > 0:
                        board[SENT] += producer.fill(room)
                if producer.unsent:
                    producer.push()
                    moved = moved or not producer.unsent
            full = [producer for producer in some if producer.unsent]
            for producer in full:
                poll.modify(producer.socket, select.POLLIN | select.POLLOUT)
            waits = all([not producer.may_send or producer.unsent for producer in some])
            for fd, _ in poll.poll(0 if moved else 50 if waits or board[STOP] else 1):
                board[CONFIRMED] += by_fd[fd].pull(spread.add)
            for producer in full:
                poll.modify(producer.socket, select.POLLIN)
            if board[STOP] and all([p.confirmed == p.sent and not p.unsent for p in some]):
                break
        board[DONE] = 1
        for producer in some:
            producer.socket.close()
        return {"spread": spread.counts, "sent": board[SENT]}

    _tell(pipe, run)


def _room(load: Load, board: Board, begun: float) -> int:
    """How many may be published now, by the consumers and by the rate."""
    room = BATCH
    if load.consumers:
        each = 1 if load.mode == "queue" else load.consumers
        room = AHEAD - (board[SENT] - board[RECEIVED] // each)
    if load.rate:
        room = min(room, int((time.perf_counter() - begun) * load.rate) - board[SENT])
    return room


# -- consumers ------------------------------------------------------------------------------


class Consumer:
    """One consuming connection, subscribed."""

    def __init__(self, load: Load, connection: socket.socket, number: int) -> None:
        self.socket = connection
        self.count = 0
        self._lines = Lines()
        self._queue = load.mode == "queue"
        names = load.heard_by(number)
        if len(names) > SUBSCRIPTIONS:
            raise Refused(f"{len(names)} subscriptions for one connection; take more consumers")
        more = f',"prefetch":{load.prefetch}' if self._queue else ""
        connection.sendall(
            b"".join([
                f'{{"action":"subscribe","topic":"{load.name(n)}","mode":"{load.mode}"{more},'
                f'"id":"s"}}\n'.encode()
                for n in names
            ])
        )  # fmt: skip
        answered = 0
        while answered < len(names):
            answered += self._lines.whole(connection.recv(RECEIVE_BYTES)).count(b'"subscribed"')

    def pull(self, add: Callable[[int, int], None]) -> int:
        """Take what is there, ack each message of a queue by itself; how many."""
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise Refused("the broker closed the connection")
        lines = self._lines.whole(data)
        if not lines:
            return 0
        if self._queue:
            tags = _TAG.findall(lines)
            count = len(tags)
            if tags:
                acks = b'}\n{"action":"ack","tag":'.join(tags)
                self.socket.sendall(b'{"action":"ack","tag":' + acks + b"}\n")
        else:
            count = lines.count(_MESSAGE)
        now = time.perf_counter_ns()
        first = _STAMP.search(lines)
        if first is not None:  # the oldest of this read stands for all of it
            add((now - int(first[1])) // NS_PER_US, count)
        self.count += count
        return count


def consume(load: Load, host: str, port: int, board: Board, pipe: Connection) -> None:
    """Receive until the publishers are done and all is here."""

    def run() -> dict[str, Any]:
        from msg.bench.spread import Spread

        spread = Spread()
        poll = select.poll()
        by_fd: dict[int, tuple[int, Consumer]] = {}
        for number in range(load.consumers):
            consumer = Consumer(load, dial(host, port), number)
            by_fd[consumer.socket.fileno()] = number, consumer
            poll.register(consumer.socket, select.POLLIN)
        board[READY] += 1
        each = 1 if load.mode == "queue" else load.consumers
        heard = time.monotonic()
        while not board[DONE] or board[RECEIVED] < board[SENT] * each:
            for fd, _ in poll.poll(50):
                number, consumer = by_fd[fd]
                board[RECEIVED] += consumer.pull(spread.add)
                board[CONSUMERS + number] = consumer.count
                heard = time.monotonic()
            if board[DONE] and time.monotonic() - heard > IDLE_S:
                break
        for _, consumer in by_fd.values():
            consumer.socket.close()
        return {"spread": spread.counts, "received": board[RECEIVED]}

    _tell(pipe, run)


# -- one at a time, and many that do nothing ------------------------------------------------


def ping_pong(load: Load, host: str, port: int, board: Board, pipe: Connection) -> None:
    """One message under way: published, received, acked, confirmed; then the next."""

    def run() -> dict[str, Any]:
        from msg.bench.spread import Spread

        spread = Spread()
        source = Producer(attrs.evolve(load, window=1), dial(host, port), 0)
        source.socket.settimeout(10)
        sink = Consumer(load, dial(host, port), 0)
        board[READY] += 1
        _wait_for(board)

        def ignore(_microseconds: int, _times: int) -> None:
            """The time until the ack: not asked for here."""

        while not board[STOP]:
            begun = time.perf_counter_ns()
            source.fill(1)
            source.socket.sendall(source.unsent)
            while not sink.pull(ignore):
                pass
            spread.add((time.perf_counter_ns() - begun) // NS_PER_US)
            while source.confirmed < source.sent:
                source.pull(ignore)
            board[SENT] += 1
            board[RECEIVED] += 1
            if load.rate:
                time.sleep(1 / load.rate)
        board[DONE] = 1
        return {"spread": spread.counts, "sent": board[SENT]}

    _tell(pipe, run)


def hold_open(load: Load, host: str, port: int, board: Board, pipe: Connection) -> None:
    """Subscribe with every connection, and keep them all until told to stop."""

    def run() -> dict[str, Any]:
        kept: list[Consumer] = []
        for number in range(load.consumers):
            kept.append(Consumer(load, dial(host, port), number))
            board[RECEIVED] = len(kept)
        board[READY] += 1
        while not board[STOP]:
            time.sleep(0.02)
        for each in kept:
            each.socket.close()
        board[DONE] = 1
        return {"spread": {}, "received": len(kept)}

    _tell(pipe, run)


def _wait_for(board: Board) -> None:
    while not board[GO]:
        time.sleep(0.001)


def _tell(pipe: Connection, run: Callable[[], dict[str, Any]]) -> None:
    """Run, and tell what came of it, or why nothing did."""
    try:
        pipe.send(run())
    except (OSError, Refused) as error:
        pipe.send({"error": str(error) or type(error).__name__})
    except KeyboardInterrupt:
        pipe.send({"error": "interrupted"})


ROLES: dict[str, Sequence[Callable[[Load, str, int, Board, Connection], None]]] = {
    "pub": (produce,),
    "flow": (consume, produce),
    "latency": (ping_pong,),
    "connections": (hold_open,),
}
