"""Dispatch: ready messages to consumers that have credit."""

from msg.core.books import Books
from msg.core.credit import Consumer, Consumers
from msg.core.message import Message
from msg.core.moves import Moves
from msg.core.waiting import Waiting
from msg.core.wire import Stamp

DRY_S = 30.0  # after so long without taking a suspect, one more consumer is let run dry


class Dispatch:
    """The rules of handing out in one queue. Nothing is handed out that has expired."""

    __slots__ = ("_dry", "_dry_at", "_given", "books", "consumers", "cramped", "moves",
                 "waiting")  # fmt: skip

    def __init__(self, books: Books, waiting: Waiting, moves: Moves, consumers: Consumers) -> None:
        self.books = books
        self.waiting = waiting
        self.moves = moves
        self.consumers = consumers
        self.cramped = False  # somebody has credit for what is ready, but no room
        self._given = 0  # bytes, in this turn: no port knows of them yet
        self._dry: list[Consumer] = []  # that were let run dry
        self._dry_at = 0.0

    def run(self, stamp: Stamp) -> None:
        """Hand out all that somebody can take."""
        consumers, waiting = self.consumers, self.waiting
        self._given = 0
        self.cramped = False
        if self._dry and not waiting.has_suspects:
            self._dry_no_more()
        if not (consumers.idle or consumers.hungry):
            return
        if waiting.has_suspects:
            self._try_suspects(stamp)
        again = True
        while again and (ready := waiting.deliverable):
            again = False
            for consumer, most in consumers.shares(ready):
                again = self._give(consumer, most, stamp) or again
        if consumers.idle or consumers.hungry:
            self.cramped = waiting.deliverable > 0 or waiting.has_suspects

    def _give(self, consumer: Consumer, most: int, stamp: Stamp) -> bool:
        """Up to `most` messages. Whether others may get what it did not."""
        # what was given in this turn counts against everybody's room: it may be the same
        room = consumer.port.room - self._given
        if room <= 0:
            return False
        messages, size = self.waiting.take(most, room)
        again = bool(messages) and len(messages) < most
        if self.waiting.expiring and any([m.expires for m in messages]):
            for message in messages:
                if message.expires and message.expires <= stamp.wall:
                    size -= len(message.wire)
                    self.moves.expire(message, stamp)
                    again = True
            messages = [m for m in messages if not m.expires or m.expires > stamp.wall]
        if messages:
            self._lease(consumer, messages, size, stamp)
        return again

    def _lease(self, consumer: Consumer, messages: list[Message], size: int, stamp: Stamp) -> None:
        self.consumers.lease(consumer, messages)
        if consumer.ack_timeout:
            self.books.wake(stamp.now + consumer.ack_timeout)
        self._given += size
        self.books.counts.delivered += len(messages)
        self.books.turn.deliveries.append((consumer.port, messages, size))
        if consumer.pull_left == 0:
            self.end_pull(consumer)

    # -- suspects -----------------------------------------------------------------------

    def _try_suspects(self, stamp: Stamp) -> None:
        """A message that consumers died of goes alone to one that holds nothing."""
        waiting = self.waiting
        for consumer in list(self.consumers.idle):
            if consumer.credit > 0 and consumer.port.room > self._given:
                message = self._next_suspect(stamp)
                if message is None:
                    return
                consumer.solo = True
                self._lease(consumer, [message], len(message.wire), stamp)
        if waiting.has_suspects:
            self._let_run_dry(stamp)

    def _next_suspect(self, stamp: Stamp) -> Message | None:
        while self.waiting.has_suspects:
            message = self.waiting.take_suspect()
            if not message.expires or message.expires > stamp.wall:
                return message
            self.moves.expire(message, stamp)
        return None

    def _let_run_dry(self, stamp: Stamp) -> None:
        """All are busy, and a busy one may never be empty: the least busy gets nothing more
        until it is. If that takes long (it may be stuck), then so does another."""
        able = [
            c
            for c in self.consumers.by_port.values()
            if c.leases and not (c.suspended or c.solo or c.dry) and c.pull_left < 0
        ]
        self._dry = [c for c in self._dry if c.dry]
        if able and (not self._dry or stamp.now >= self._dry_at):
            chosen = min(able, key=lambda c: (len(c.leases), c.turn))
            chosen.dry = True
            self.consumers.freed(chosen)
            self._dry.append(chosen)
            self._dry_at = stamp.now + DRY_S
            self.books.wake(self._dry_at)

    def _dry_no_more(self) -> None:
        """No suspect is left: those that were to take one are served as before."""
        for consumer in self._dry:
            if consumer.dry:
                consumer.dry = False
                self.consumers.freed(consumer)
        self._dry = []

    # -- `get` --------------------------------------------------------------------------

    def end_pulls(
        self, stamp: Stamp, *, stopped: bool, draining: bool, committing_from: float
    ) -> None:
        """End the `get`s that have waited long enough, unless more is on its way from disk, or
        what was published before them to it; all of them where nothing more is handed out."""
        waiting, consumers = self.waiting, self.consumers
        enough = stopped or waiting.deliverable > 0
        read = not len(waiting.cold)
        for consumer in list(consumers.pulling):
            if consumer.pull_until > stamp.now and not draining:
                self.books.wake(consumer.pull_until)
            elif enough or (read and consumer.pull_behind <= committing_from):
                self.end_pull(consumer)

    def end_pull(self, consumer: Consumer) -> None:
        """A `get` is over: it had what it asked for, or its time is up."""
        count = consumer.prefetch - consumer.pull_left
        self.books.turn.pulled.append((consumer.port, count))
        self.consumers.stop(consumer)
