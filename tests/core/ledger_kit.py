"""One queue's ledger with all that surrounds it, played by plain lists: a clock, a log, ports.

    q = Desk()
    q.publish(1, 2, 3)                   # bodies; each call is a turn, committed at once
    worker = q.consumer(prefetch=2)
    assert worker.took() == [1, 2]       # handed over, and written
    q.ack(worker, 1)

`hold_commits`, `hold_reads` and `hold_writes` stop the world outside until it is let go on.
What survives a crash is kept as the queue actor keeps it: only what `carry_out` was told.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import attrs
from msgspec import Raw

from msg.core.batches import Failure, PublishBatch
from msg.core.books import Leaving, Turn
from msg.core.commands import BarePublish, Publish
from msg.core.credit import Consumer
from msg.core.deep import Packing
from msg.core.ledger import QueueLedger
from msg.core.message import DURABILITIES, STORED, Attempt, Message
from msg.core.settings import QueueSettings
from msg.core.wire import IdSource, Stamp
from msg.errors import ClientError

if TYPE_CHECKING:
    from msg.core.dedup import DedupWindow
    from msg.core.packed import Packed

WALL = 1_764_000_000.0


def body_of(message: Message) -> int:
    """The number that was published, from the wire."""
    text = message.wire.partition(b'"message":')[2]
    return int(text.partition(b",")[0])


def bodies(messages: Sequence[Message]) -> list[int]:
    return [body_of(m) for m in messages]


class Worker:
    """A port: what a consumer's session would hold."""

    def __init__(self, name: str = "", room: int = 1 << 24) -> None:
        self.name = name
        self.limit = room
        self.pending: list[Message] = []  # handed over, not yet written
        self.held: dict[int, Message] = {}
        self.stale: dict[int, Message] = {}  # leases that expired
        self.gots: list[int] = []
        self.new: list[Message] = []  # deliveries that no test has looked at

    def __repr__(self) -> str:
        return f"<{self.name or 'worker'}>"

    @property
    def room(self) -> int:
        """As an outbox has it: what is written gives its room back."""
        return self.limit - sum(len(m.wire) for m in self.pending)

    def deliver(self, messages: list[Message], size: int) -> None:
        assert size == sum(len(m.wire) for m in messages)
        for message in messages:
            assert message.seq not in self.held, "held twice"
            self.held[message.seq] = message
        self.pending += messages
        self.new += messages

    def holdings(self) -> list[Message]:
        return list(self.held.values())

    def lapse(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self.stale[message.seq] = self.held.pop(message.seq)

    def got(self, count: int) -> None:
        self.gots.append(count)

    def ended(self, reason: str) -> None:
        raise AssertionError(reason)

    def refuse(self, error: ClientError) -> None:
        raise AssertionError(error)

    def took(self) -> list[int]:
        """The bodies that came since this was last asked."""
        new, self.new = self.new, []
        return bodies(new)

    def find(self, body: int) -> Message:
        return next(m for m in [*self.held.values(), *self.stale.values()] if body_of(m) == body)


class Publisher:
    """An origin: a connection that publishes."""

    def __init__(self) -> None:
        self.answered: list[PublishBatch] = []

    def published(self, batch: PublishBatch) -> None:
        assert not any(batch is other for other in self.answered), "answered twice"
        self.answered.append(batch)

    def outcomes(self) -> list[str]:
        """Of all items answered since last asked, in order: ok, dup, or the error's code."""
        out: list[str] = []
        for batch in self.answered:
            for i in range(len(batch.items)):
                if i in (batch.errors or {}):
                    out.append(batch.errors[i].code)  # type: ignore[index]
                else:
                    out.append("dup" if i in (batch.duplicates or ()) else "ok")
        self.answered = []
        return out


@attrs.define
class Tries:
    attempts: int
    returned: str
    due: float
    case: tuple[Attempt, ...]


class FakeLog:
    """What the store keeps of one queue, as a dict."""

    def __init__(self) -> None:
        self.records: dict[int, Message] = {}
        self.tries: dict[int, Tries] = {}
        self.on_disk: set[int] = set()
        self.drops: list[tuple[str, int]] = []
        self.ended: dict[int, str] = {}  # how each ended that did
        self.synced = True

    def publish(self, messages: Sequence[Message]) -> None:
        for message in messages:
            assert message.seq > max(self.records | self.ended, default=0)
            record = copy(message)
            record.until = 0.0
            self.records[message.seq] = record

    def end(self, seqs: Sequence[int], how: str) -> None:
        for seq in seqs:
            if seq in self.records:
                del self.records[seq]
                self.tries.pop(seq, None)
                self.on_disk.discard(seq)
                self.ended[seq] = how

    def tried(self, message: Message, attempt: Attempt | None) -> None:
        if message.seq in self.records:
            case = self.tries[message.seq].case if message.seq in self.tries else ()
            case = message.case if attempt is None else (*case, attempt)
            self.tries[message.seq] = Tries(message.attempts, message.returned, message.due, case)

    def read(self, seq: int) -> Message:
        message = copy(self.records[seq])
        tries = self.tries.get(seq)
        if tries is not None:
            message.attempts, message.returned = tries.attempts, tries.returned
            message.case = tries.case
            message.due = tries.due or message.due
        return message

    def live_after(self, after: int, most: int) -> list[int]:
        return sorted(seq for seq in self.on_disk if seq > after)[:most]

    def special(self) -> list[tuple[int, int, float]]:
        rows = [(m.seq, m.priority, m.due) for m in map(self.read, sorted(self.on_disk))]
        return [row for row in rows if row[1] != 4 or row[2]]


class Desk:
    """See the module."""

    def __init__(
        self,
        name: str = "jobs",
        *,
        hot_bytes: int = 8 << 20,
        packing: Packing | None = None,
        dead_name: str | None = None,
        durability: str = "stored",
        **settings: Any,
    ) -> None:
        self.name = name
        self.settings = QueueSettings(durability=durability, **settings)
        self.hot_bytes = hot_bytes
        self.packing = packing or Packing()
        self.dead_name = f"{name}.dead" if dead_name is None else dead_name
        self.now = 1000.0
        self.jump = 0.0  # of the wall clock
        self.ids = IdSource(7)
        self.log = FakeLog()
        self.kept: dict[int, Message] = {}
        self.packed: dict[int, Packed] = {}
        self.workers: dict[Any, Consumer] = {}
        self.leaving: dict[str, Leaving] = {}
        self.unreleased: set[str] = set()
        self.dedup: DedupWindow | None = None
        self.parked: list[tuple[float, PublishBatch]] = []
        self.next_seq = 1
        self.pulls: dict[Any, int] = {}
        # commits
        self.hold_commits = self.hold_reads = self.hold_writes = False
        self.gathered: list[Message] = []
        self.waiting: list[PublishBatch] = []
        self.in_flight: tuple[list[Message], list[PublishBatch]] | None = None
        self.reads: list[tuple[bool, list[int]]] = []  # ahead?, seqs
        self.reading_ahead = False
        self.moves: list[tuple[str, str, Message]] = []
        self.mine = Publisher()
        self.turns: list[Turn] = []
        self.ledger = self._ledger()

    def _ledger(self) -> QueueLedger:
        ledger = QueueLedger(
            self.name,
            self.settings,
            next_seq=self.next_seq,
            dead_name=self.dead_name,
            hot_bytes=self.hot_bytes,
            packing=self.packing,
            dedup=self.dedup,
            oldest_cold=self.log.live_after,
        )
        self.dedup = ledger.dedup
        return ledger

    @property
    def wall(self) -> float:
        return WALL + self.now + self.jump

    def stamp(self) -> Stamp:
        return Stamp(self.now, self.wall, self.ids)

    # -- turns ----------------------------------------------------------------------------

    def turn(self, *commands: Callable[[Stamp], object]) -> list[Any]:
        """One turn of these, and all that the world outside does at once."""
        stamp = self.stamp()
        results = [command(stamp) for command in commands]
        self.ledger.dispatch(stamp)
        self.carry_out()
        self.settle_down()
        return results

    def carry_out(self) -> Turn:
        self.ledger.check()
        turn = self.ledger.take_turn()
        self.turns.append(turn)
        self.log.publish(turn.logged)
        self.gathered += turn.logged
        self.log.end(turn.settled, "settled")
        for message, attempt in turn.tried:
            self.log.tried(message, attempt)
        for why, seqs in turn.drops:
            self.log.drops += [(why, seq) for seq in seqs]
            self.log.end(seqs, why)
        for seq, to, _, _ in turn.dead:
            self.log.end([seq], f"moved to {to}")
        self.kept.update({m.seq: m for m in turn.kept})
        self._repack(turn)
        for seq in turn.unkept:
            del self.kept[seq]
        self.leaving |= turn.leaving
        for key in turn.left:
            del self.leaving[key]
        self.unreleased.update(turn.arrived)
        self.unreleased.difference_update(turn.released)
        self.next_seq = self.ledger.next_seq
        if turn.parked is not None:
            self.parked = turn.parked
        self.moves += turn.moves
        for batch in turn.answers:
            batch.answer()
        self.waiting += turn.waiting
        for port, messages, size in turn.deliveries:
            port.deliver(messages, size)
        for port, messages in turn.lapsed:
            port.lapse(messages)
        for port, count in turn.pulled:
            port.got(count)
        self.workers = dict(self.ledger.consumers)
        self.pulls = {c.port: c.pull_left for c in self.ledger.pulling}
        self._plan_reads()
        return turn

    def _repack(self, turn: Turn) -> None:
        for run, messages in turn.repacked:
            if messages is None:
                assert run.first not in self.packed
                self.packed[run.first] = run
                for seq in run.seqs:
                    del self.kept[seq]
            else:
                assert self.packed.pop(run.first) is run
                assert [m.seq for m in messages] in ([], list(run.seqs))
                self.kept.update({m.seq: m for m in messages})

    def in_runs(self) -> list[Message]:
        return [m for run in self.packed.values() for m in run.unpack()]

    def _plan_reads(self) -> None:
        wanted = None if self.reading_ahead else self.ledger.wants()
        if wanted is not None:
            after, size = wanted
            seqs: list[int] = []
            for seq in self.log.live_after(after, 8192):
                if seqs and size <= 0:
                    break
                size -= len(self.log.records[seq].wire) + 60
                seqs.append(seq)
            assert seqs, "the ledger counts cold messages that the log does not have"
            self.reading_ahead = True
            self.reads.append((True, seqs))
        if seqs := self.ledger.wants_seqs():
            assert set(seqs) <= self.log.on_disk
            self.reads.append((False, seqs))

    def settle_down(self) -> None:
        """Whatever is not held happens, until nothing more does."""
        while True:
            if not self.hold_commits and (self.in_flight or self.gathered or self.waiting):
                self.commit()
            elif not self.hold_reads and self.reads:
                self.read()
            elif not self.hold_writes and any(w.pending for w in self.workers):
                self.turn(*[self._writing(w) for w in self.workers if w.pending])
            else:
                return

    def _writing(self, worker: Worker, most: int = 1 << 30) -> Callable[[Stamp], object]:
        written, worker.pending = worker.pending[:most], worker.pending[most:]
        if self.workers[worker].auto:
            for message in written:
                worker.held.pop(message.seq, None)
        return lambda stamp: self.ledger.written(worker, written, stamp.now)

    def write(self, worker: Worker, most: int = 1 << 30) -> None:
        """The kernel takes some frames of what waits for this worker."""
        self.turn(self._writing(worker, most))

    # -- the store --------------------------------------------------------------------------

    def begin_commit(self) -> None:
        if self.in_flight is None:
            self.in_flight = self.gathered, self.waiting
            self.gathered, self.waiting = [], []

    def commit(self, error: ClientError | None = None) -> None:
        """What has gathered is written (or not), and the queue hears of it."""
        self.begin_commit()
        assert self.in_flight is not None
        messages, waiting = self.in_flight
        self.in_flight = None
        if error is None:
            self.log.on_disk.update(m.seq for m in messages if m.seq in self.log.records)
            tell = lambda stamp: self.ledger.committed(messages, stamp)  # noqa: E731
        else:
            self.log.end([m.seq for m in messages], "disk full")
            tell = lambda _: self.ledger.failed(  # noqa: E731
                messages, [*waiting, *self.waiting], error
            )
        tell(self.stamp())
        for batch in waiting:
            batch.answer()
        self.turn()

    def read(self, damaged: Sequence[int] = ()) -> None:
        """The first reading that is under way comes back."""
        ahead, seqs = self.reads.pop(0)
        stamp = self.stamp()
        bad = [seq for seq in seqs if seq in damaged and seq in self.log.records]
        self.log.end(bad, "damaged")
        messages = [self.log.read(seq) for seq in seqs if seq in self.log.records]
        if bad:
            self.ledger.lost_on_disk(bad)
        if ahead:
            self.reading_ahead = False
            self.ledger.loaded(messages, seqs[-1], stamp)
        else:
            self.ledger.loaded_seqs(messages, stamp)
        self.turn()

    # -- commands ---------------------------------------------------------------------------

    def batch(
        self,
        *numbers: int,
        origin: Publisher | None = None,
        durability: str | None = None,
        size: int = 0,
        **fields: Any,
    ) -> PublishBatch:
        items: list[BarePublish] = [
            Publish("jobs", Raw(str(n).encode() + b" " * size), "queue", **fields) for n in numbers
        ]
        level = None if durability is None else DURABILITIES[durability]
        raw = sum(len(bytes(p.message)) + 60 for p in items)
        return PublishBatch(origin or self.mine, items, level, raw)

    def publish(self, *numbers: int, **fields: Any) -> list[str]:
        """A batch of these bodies; returns the outcomes known by now."""
        batch = self.batch(*numbers, **fields)
        self.turn(lambda stamp: self.ledger.publish(batch, stamp))
        return self.mine.outcomes()

    def consumer(self, name: str = "", *, room: int = 1 << 24, **fields: Any) -> Worker:
        worker = Worker(name, room)
        self.turn(lambda _: self.ledger.attach(Consumer(worker, name=name, **fields)))
        return worker

    def get(self, n: int, wait: float = 0.0, **fields: Any) -> Worker:
        return self.consumer(prefetch=n, pull=(n, self.now + wait), **fields)

    def _held(self, worker: Worker, numbers: Sequence[int], *, keep: bool = False) -> list[Message]:
        messages = [worker.find(n) for n in numbers]
        for message in messages:
            if not keep:
                if worker.held.get(message.seq) is message:
                    del worker.held[message.seq]
                else:
                    worker.stale.pop(message.seq, None)
        return messages

    def ack(self, worker: Worker, *numbers: int) -> list[Failure]:
        """Returns what could not be acked."""
        messages = self._held(worker, numbers)
        return self.turn(lambda _: self.ledger.ack(worker, messages))[0]  # type: ignore[no-any-return]

    def nack(self, worker: Worker, *numbers: int, **fields: Any) -> list[Failure]:
        messages = self._held(worker, numbers)
        return self.turn(  # type: ignore[no-any-return]
            lambda stamp: self.ledger.nack(worker, messages, stamp, **fields)
        )[0]

    def touch(self, worker: Worker, *numbers: int) -> list[Failure]:
        messages = self._held(worker, numbers, keep=True)
        return self.turn(lambda stamp: self.ledger.touch(worker, messages, stamp))[0]  # type: ignore[no-any-return]

    def leave(self, worker: Worker, *, handed: bool = True) -> None:
        """The consumer is gone. What was not written never counts as handed."""
        waits = {m.seq for m in worker.pending}
        seqs = [seq for seq in worker.held if handed and seq not in waits]
        self.workers.pop(worker, None)
        self.turn(lambda stamp: self.ledger.detach(worker, seqs, stamp))
        worker.held.clear()
        worker.pending.clear()

    def unsubscribe(self, worker: Worker) -> None:
        unsent, worker.pending = worker.pending, []
        for message in unsent:
            del worker.held[message.seq]
        self.turn(lambda stamp: self.ledger.stop(worker, unsent, stamp))

    def purge(self) -> int:
        return self.turn(lambda _: self.ledger.purge())[0]  # type: ignore[no-any-return]

    def retry(self, select: Callable[[Message], bool] = lambda _: True, most: int = 1 << 30) -> int:
        return self.turn(lambda _: self.ledger.retry(select, most))[0]  # type: ignore[no-any-return]

    def tick(self, *, stalled: float = 0.0) -> None:
        self.turn(lambda stamp: self.ledger.tick(stamp, stalled=stalled))

    def sleep(self, seconds: float) -> None:
        """Let time pass: a tick at each time that the ledger asks for."""
        end = self.now + seconds
        ticks = 0
        while self.ledger.wake_at <= end:
            ticks += 1
            assert ticks < 1000, "it asks for a tick again and again"
            self.now = max(self.now, self.ledger.wake_at)
            self.tick()
        self.now = end
        self.turn()

    # -- moves ------------------------------------------------------------------------------

    def take_moves(self) -> list[tuple[str, str, Message]]:
        moves, self.moves = self.moves, []
        return moves

    def moved(self, *keys: str) -> None:
        self.turn(*[lambda _, key=key: self.ledger.moved(key) for key in keys])

    def arrive(self, key: str, message: Message) -> bool:
        return self.turn(lambda _: self.ledger.arrive(key, message))[0]  # type: ignore[no-any-return]

    def release(self, *keys: str) -> None:
        self.turn(*[lambda stamp, key=key: self.ledger.release(key, stamp) for key in keys])

    # -- crashes ----------------------------------------------------------------------------

    def crash(self) -> None:
        """The actor fails: what it was doing has happened for nobody. The commit under way
        ends, all that has gathered is written, and a new incarnation begins."""
        batches = [*(self.in_flight[1] if self.in_flight else ()), *self.waiting]
        logged = [*(self.in_flight[0] if self.in_flight else ()), *self.gathered]
        self.in_flight, self.gathered, self.waiting = None, [], []
        self.log.on_disk.update(m.seq for m in logged if m.seq in self.log.records)
        for batch in batches:
            batch.answer()
        self.begin_anew()
        self.turn()

    def begin_anew(self) -> None:
        """A new incarnation, from the log, the estate and the sessions."""
        self.reads, self.reading_ahead = [], False
        held = {worker: worker.holdings() for worker in self.workers}
        if self.dedup is not None:
            self.dedup.rollback()
        consumers = list(self.workers.values())
        self.ledger = ledger = self._ledger()
        stamp = self.stamp()
        ledger.recall(
            special=self.log.special(),
            logged=len(self.log.records),
            size=sum(len(m.wire) + 60 for m in self.log.records.values()),
            kept=self.kept,
            packed=self.packed.values(),
            leaving=self.leaving,
            unreleased=self.unreleased,
            move_keys={m.key: m.seq for m in self.log.records.values() if m.key},
            leased={m.seq for messages in held.values() for m in messages},
            stamp=stamp,
        )
        for old in consumers:
            again = old.anew()
            if again.pull_left >= 0:
                again.pull_left = self.pulls.get(old.port, 0)
            ledger.attach(again)
            ledger.restore(old.port, held[old.port])
        parked, self.parked = self.parked, []
        for _, batch in parked:
            ledger.publish(batch, stamp)

    def restart(self) -> None:
        """The broker stops and starts: consumers and what was in memory only are gone."""
        self.settle_down()
        self.workers, self.kept, self.packed = {}, {}, {}
        self.leaving, self.unreleased = {}, set()
        self.dedup = None
        self.next_seq = max(self.log.records | self.log.ended, default=0) + 1
        self.crash()


__all__ = ["STORED", "Desk", "FakeLog", "Publisher", "Worker", "bodies", "body_of"]
