"""Leases: what consumers hold, how it ends, and how what is not acked comes back.

A deadline runs from the write of its frame, which is told with the next mail: that is in time,
for a queue is woken an `ack_timeout` after it handed something out. A message that comes back
is a copy: the session still has the old object, and an ack of that one is told from an ack of
a later lease.
"""

from collections.abc import Iterable, Sequence
from copy import copy

from msg.core.batches import Failure
from msg.core.books import Books
from msg.core.credit import Consumer, Consumers, Port
from msg.core.message import Attempt, Message
from msg.core.moves import Moves
from msg.core.waiting import Waiting, is_suspect
from msg.core.wire import Stamp

CASE_MAX = 100  # attempts that a case tells of: the first ones and the last ones


class Leases:
    """The rules of acks, nacks, touches, deadlines and departures in one queue."""

    __slots__ = ("books", "consumers", "moves", "waiting")

    def __init__(self, books: Books, waiting: Waiting, moves: Moves, consumers: Consumers) -> None:
        self.books = books
        self.waiting = waiting
        self.moves = moves
        self.consumers = consumers

    # -- while they run -----------------------------------------------------------------

    def restore(self, port: Port, leases: Iterable[Message]) -> None:
        """After a crash of the actor: what this consumer's session says it holds."""
        consumer = self.consumers.by_port[port]
        messages = list(leases)
        self.books.bring_back([m for m in messages if m.durability])
        if any([m.expires for m in messages]):
            self.waiting.expiring = True
        self.consumers.restore(consumer, messages)
        consumer.shuffled = bool(messages)
        consumer.solo = any([is_suspect(m) for m in messages])
        self.consumers.freed(consumer)
        for message in messages:
            if message.until:
                self.books.wake(message.until)

    def written(self, port: Port, messages: list[Message], at: float) -> None:
        """These frames were handed to the kernel: their deadlines run from then."""
        consumer = self.consumers.by_port.get(port)
        if consumer is None:
            return
        if consumer.auto:
            self.ack(port, messages)
            return
        if consumer.ack_timeout:
            until = at + consumer.ack_timeout
            for message in messages:
                message.until = until
            self.books.wake(until)
        if not consumer.suspended:
            self.consumers.freed(consumer)  # bytes are credit, and some are free again

    def touch(self, port: Port, messages: Sequence[Message], stamp: Stamp) -> list[Failure]:
        """The deadlines of these run anew. Returns those not held."""
        consumer = self.consumers.by_port.get(port)
        failures: list[Failure] = []
        for message in messages:
            if consumer is None or consumer.leases.get(message.seq) is not message:
                failures.append((None, message.id, "not_held"))
            elif consumer.ack_timeout:
                del consumer.leases[message.seq]
                if consumer.leases and not _last(consumer.leases).until:
                    consumer.shuffled = True  # what is not yet written ends later still
                consumer.leases[message.seq] = message
                message.until = stamp.now + consumer.ack_timeout
                self.books.wake(message.until)
        if consumer is not None:
            self._alive(consumer)
        return failures

    def extend(self, seconds: float) -> None:
        """The broker itself stood still for so long: that is not the consumers' time."""
        for consumer in self.consumers.by_port.values():
            for message in consumer.leases.values():
                if message.until:
                    message.until += seconds

    # -- how they end -------------------------------------------------------------------

    def ack(self, port: Port, messages: Sequence[Message]) -> list[Failure]:
        """Settle what this consumer holds. Returns those it did not hold."""
        consumer = self.consumers.by_port.get(port)
        failures: list[Failure] = []
        if consumer is None:
            done = self._late(port, messages, failures)
        else:
            pop = consumer.leases.pop
            popped = [pop(m.seq, None) for m in messages]
            if popped == messages:  # by identity: the usual case
                done = list(messages)
                self.consumers.leased -= len(done)
            else:
                done = self._ack_some(consumer, messages, popped, failures)
            self._alive(consumer)
        if done:
            self.books.settle(done)
        return failures

    def _ack_some(
        self,
        consumer: Consumer,
        messages: Sequence[Message],
        popped: list[Message | None],
        failures: list[Failure],
    ) -> list[Message]:
        done: list[Message] = []
        late: list[Message] = []
        for message, lease in zip(messages, popped, strict=True):
            if lease is message:
                done.append(message)
                continue
            if lease is not None:  # leased to it again since: that is another lease
                consumer.leases[lease.seq] = lease
                consumer.shuffled = True
            late.append(message)
        self.consumers.leased -= len(done)
        return done + self._late(consumer.port, late, failures)

    def _late(
        self, port: Port, messages: Sequence[Message], failures: list[Failure]
    ) -> list[Message]:
        """A late ack still counts when the message waits undelivered."""
        done: list[Message] = []
        for message in messages:
            waiting = self.waiting.take_late(port, message)
            if waiting is None:
                failures.append((None, message.id, "not_held"))
            else:
                done.append(waiting)
        return done

    def nack(
        self,
        port: Port,
        messages: Sequence[Message],
        stamp: Stamp,
        *,
        delay: float | None = None,
        reason: str = "",
        requeue: bool = True,
        count: bool = True,
    ) -> list[Failure]:
        """Give back what this consumer holds. Returns those it did not hold."""
        consumer = self.consumers.by_port.get(port)
        failures: list[Failure] = []
        for message in messages:
            if consumer is None or consumer.leases.get(message.seq) is not message:
                failures.append((None, message.id, "not_held"))
                continue
            del consumer.leases[message.seq]
            if requeue:
                self._return(message, consumer, "nack", reason, stamp, count=count, wait=delay)
            else:
                self.consumers.leased -= 1
                again = copy(message)
                self._fail(again, consumer, "nack", reason, stamp, count=count)
                self.moves.bury(again, reason or "nacked without requeue", stamp)
        if consumer is not None:
            self._alive(consumer)
        return failures

    def detach(self, port: Port, handed: Iterable[int], stamp: Stamp) -> None:
        """The consumer is gone. `handed` are the seqs whose frames reached the kernel: only
        those count as attempts."""
        consumer = self.consumers.by_port.get(port)
        if consumer is None:
            return
        self.consumers.remove(consumer)
        counted = set(handed)
        for message in consumer.leases.values():
            count = message.seq in counted
            why = "disconnect" if count else ""
            self._return(message, consumer, why, "", stamp, count=count, wait=0.0)
        consumer.leases.clear()

    def stop(self, port: Port, unsent: Sequence[Message], stamp: Stamp) -> None:
        """The subscription takes nothing more. What it holds stays valid until it leaves;
        what was not yet written returns, uncounted."""
        consumer = self.consumers.by_port.get(port)
        if consumer is None:
            return
        for message in unsent:
            if consumer.leases.get(message.seq) is message:
                del consumer.leases[message.seq]
                self._return(message, consumer, "", "", stamp, count=False, wait=0.0)
        self.consumers.stop(consumer)

    def expire(self, stamp: Stamp) -> None:
        """End the leases whose deadlines have passed."""
        for consumer in list(self.consumers.by_port.values()):
            if consumer.leases and (consumer.ack_timeout or consumer.shuffled):
                self._expire(consumer, stamp)

    def _expire(self, consumer: Consumer, stamp: Stamp) -> None:
        now = stamp.now
        expired: list[Message] = []
        for message in consumer.leases.values():
            until = message.until
            if not until:  # not yet written: its clock does not run
                if consumer.ack_timeout:
                    self.books.wake(now + consumer.ack_timeout)
                continue
            if until <= now:
                expired.append(message)
                continue
            self.books.wake(until)
            if not consumer.shuffled:
                break
        if not expired:
            return
        for message in expired:
            del consumer.leases[message.seq]
            self._return(message, consumer, "deadline", "", stamp, count=True, wait=None)
        self.consumers.suspend(consumer)
        self.books.turn.lapsed.append((consumer.port, expired))

    def _alive(self, consumer: Consumer) -> None:
        """The consumer showed life: it may be served again."""
        consumer.suspended = False
        self.consumers.freed(consumer)

    # -- coming back --------------------------------------------------------------------

    def _return(
        self,
        message: Message,
        consumer: Consumer,
        why: str,
        reason: str,
        stamp: Stamp,
        *,
        count: bool,
        wait: float | None,
    ) -> None:
        """A lease ended without an ack: back to its place, later, or to the dead."""
        self.consumers.leased -= 1
        books = self.books
        message = copy(message)
        message.until = 0.0
        if why:  # else it never left the broker, and is what it was
            message.returned = why
            books.counts.redelivered += 1
        if count:
            self._fail(message, consumer, why, reason, stamp, count=True)
            if self.moves.is_spent(message):
                self.moves.bury_spent(message, why, stamp)
                return
            backoff = books.settings.backoff
            if wait is None and backoff:
                wait = backoff[min(message.attempts, len(backoff)) - 1]
        message.due = stamp.wall + wait if wait else 0.0
        if not message.durability:
            books.turn.kept.append(message)
        elif wait and not count:
            books.turn.tried.append((message, None))  # the log must know when it is due
        if why == "deadline":
            self.waiting.late[message.seq] = (consumer.port, message)
        if wait:
            self.waiting.delay(message, stamp.now + wait)
        else:
            self.waiting.put_back(message)

    def _fail(
        self, message: Message, consumer: Consumer, why: str, reason: str, stamp: Stamp, *,
        count: bool,
    ) -> None:  # fmt: skip
        """Enter a failed attempt into the message's case."""
        if count:
            message.attempts += 1
        attempt = Attempt(message.attempts, stamp.text, why, consumer.name, reason)
        case = (*message.case, attempt)
        if len(case) > CASE_MAX:
            case = case[: CASE_MAX // 2] + case[-CASE_MAX // 2 :]
        message.case = case
        if message.durability:
            self.books.turn.tried.append((message, attempt))


def _last(leases: dict[int, Message]) -> Message:
    return leases[next(reversed(leases))]
