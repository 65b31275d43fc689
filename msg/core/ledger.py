"""The life of every message in one queue: ready, leased, delayed, leaving, gone.

                      ┌─────────── nack, deadline, disconnect ──────────┐
                      ▼                                                 │
  publish ─► committing ─► ready ──────── dispatch ────────► leased ────┴─► settled
                │  ▲         ▲                                 │
                ▼  │         │ due                             ├─► leaving ─► dead (in NAME.dead)
             delayed ────────┘ ◄────── nack with delay ────────┘
                            ready ─► expired, dropped, purged

Plain rules: no clock, no I/O. Every method takes the time it needs and writes what is to
happen into `turn`; nothing outside is touched until the actor carries the turn out. So a
turn that fails has happened for nobody, and can be tried again.

The rules are in parts, each with one idea; here they are put together:

    intake    publishes: dedup, limits, parking, commits
    waiting   all that waits: ready, delayed, cold (only in the log), suspects
    leases    acks, nacks, touches, deadlines, departures
    dispatch  who gets the next message
    moves     dead letters, retries, arrivals
    books     what became of everything; `check` says that it adds up
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import inf

import attrs

from msg.core.batches import Failure, PublishBatch
from msg.core.books import Books, Counts, Gauge, Leaving, Turn
from msg.core.credit import Consumer, Consumers, Port
from msg.core.dedup import DedupWindow
from msg.core.deep import Packing
from msg.core.delayed import Delayed
from msg.core.dispatch import Dispatch
from msg.core.intake import Intake
from msg.core.leases import Leases
from msg.core.message import PRIORITY, Message
from msg.core.moves import Edit, Moves, Select
from msg.core.packed import Packed
from msg.core.parking import ParkingRules
from msg.core.ready import ReadyLine
from msg.core.settings import QueueSettings
from msg.core.waiting import Waiting
from msg.core.wire import Stamp
from msg.errors import ClientError

__all__ = ["Counts", "Gauge", "QueueLedger", "Turn"]

PACKING = Packing()
PURGE_STEP = 1 << 16  # seqs looked at together


class QueueLedger:
    """All of one queue's rules. `next_seq` is the first free place in line.

    `hot_bytes` bounds the ready messages kept in memory of those that are in the log too,
    `packing` says how long a line of the others is packed; `dead_name` is "" for a dead queue,
    which has no max_deliveries; `oldest_cold(after, n)` names up to n live seqs that are in
    the log, rising.
    """

    def __init__(
        self,
        name: str,
        settings: QueueSettings,
        *,
        next_seq: int = 1,
        dead_name: str = "",
        hot_bytes: int = 8 << 20,
        packing: Packing = PACKING,
        dedup: DedupWindow | None = None,
        parking: ParkingRules | None = None,
        oldest_cold: Callable[[int, int], list[int]] | None = None,
    ) -> None:
        self.name = name
        self.books = Books(name, settings, dead_name)
        self.counts = self.books.counts
        if dedup is None:  # an empty one is false
            dedup = DedupWindow(settings.dedup_window, settings.dedup_ids)
        self.dedup = dedup
        self.dedup.rollback()  # of a turn that failed
        self.waiting = Waiting(self.books, hot_bytes, packing)
        self.moves = Moves(self.books, self.waiting)
        self.intake = Intake(
            self.books, self.waiting, self.moves, self.dedup, next_seq, parking or ParkingRules()
        )
        self.customers = Consumers()
        self.leases = Leases(self.books, self.waiting, self.moves, self.customers)
        self._dispatch = Dispatch(self.books, self.waiting, self.moves, self.customers)
        self._oldest_cold = oldest_cold
        self.paused = False
        self.draining = False

    # -- publishes ----------------------------------------------------------------------

    def publish(self, batch: PublishBatch, stamp: Stamp) -> None:
        """Accept a batch: dedup, limits, a place in line. Answered now, or when committed."""
        self.intake.publish(batch, stamp)

    def committed(self, messages: Sequence[Message], stamp: Stamp) -> None:
        """These are durable: they may be delivered."""
        self.intake.committed(messages, stamp)

    def failed(
        self, messages: Sequence[Message], waiting: Iterable[object], error: ClientError
    ) -> None:
        """These could not be written: they were never accepted, and their ids are free.

        `waiting` are all batches still to be answered: theirs, and those of duplicates that
        counted on them.
        """
        self.intake.failed(messages, waiting, error)

    def hold_off(self, error: ClientError, until: float) -> None:
        """The disk is full: refuse at once what needs it, until it is tried again."""
        self.intake.hold_off(error, until)

    def refuse_parked(self, error: ClientError, stamp: Stamp) -> None:
        """Those that wait for room are refused: it does not come in time."""
        self.intake.refuse_parked(error, stamp)

    # -- consumers ----------------------------------------------------------------------

    def attach(self, consumer: Consumer) -> None:
        """A new subscription, or a known one whose prefetch and deadline change."""
        known = self.customers.attach(consumer)
        if known.pull_left > 0:
            self.books.wake(known.pull_until)
            known.pull_behind = known.pull_behind or self.intake.next_seq

    def detach(self, port: Port, handed: Sequence[int], stamp: Stamp) -> None:
        """The consumer is gone. `handed` are the seqs whose frames reached the kernel."""
        self.leases.detach(port, () if self.draining else handed, stamp)

    def stop(self, port: Port, unsent: Sequence[Message], stamp: Stamp) -> None:
        """The subscription takes nothing more. What it holds stays valid until it leaves;
        what was not yet written returns, uncounted."""
        self.leases.stop(port, unsent, stamp)

    def written(self, port: Port, messages: list[Message], at: float) -> None:
        """These frames were handed to the kernel: their deadlines run from then."""
        self.leases.written(port, messages, at)

    def ack(self, port: Port, messages: Sequence[Message]) -> list[Failure]:
        """Settle what this consumer holds. Returns those it did not hold."""
        return self.leases.ack(port, messages)

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
        return self.leases.nack(
            port, messages, stamp, delay=delay, reason=reason, requeue=requeue, count=count
        )

    def touch(self, port: Port, messages: Sequence[Message], stamp: Stamp) -> list[Failure]:
        """The deadlines of these run anew. Returns those not held."""
        return self.leases.touch(port, messages, stamp)

    # -- time and dispatch --------------------------------------------------------------

    def tick(self, stamp: Stamp, *, stalled: float = 0.0) -> None:
        """Deadlines: leases that ran out, messages that came due, `get`s and parked publishes.

        `stalled` seconds during which the broker itself stood still are granted to leases.
        """
        books, now = self.books, stamp.now
        self.wake_at = inf
        if stalled:
            self.leases.extend(stalled)
        self.leases.expire(stamp)
        self.moves.send_again(now)
        self.waiting.come_due(now)
        books.wake(self.waiting.delayed.next_due)
        self.intake.end_parking(stamp)
        self.dedup.expire(now)
        books.wake(self.dedup.expires_at())

    def dispatch(self, stamp: Stamp) -> None:
        """Hand out what is ready to whoever has credit."""
        if self.intake.parking.batches:
            self.intake.unpark(stamp)
        stopped = self.paused or self.draining
        if not stopped:
            self._dispatch.run(stamp)
        if self.customers.pulling:
            self._dispatch.end_pulls(
                stamp,
                stopped=stopped,
                draining=self.draining,
                committing_from=next(iter(self.intake.committing), inf),
            )

    def take_turn(self) -> Turn:
        """What the turn that ends now wants done. From here on it cannot fail."""
        books, parking = self.books, self.intake.parking
        turn, books.turn = books.turn, Turn()
        if self.waiting.ready.packer.changes:
            turn.repacked = self.waiting.ready.packer.take_changes()
        self.dedup.confirm()
        if parking.changed:
            parking.changed = False
            turn.parked = list(parking.batches)
        return turn

    # -- moves --------------------------------------------------------------------------

    def arrive(self, key: str, moved: Message) -> bool:
        """A message moves in, under its own key. False: it is here already."""
        intake = self.intake
        message = self.moves.arrive(key, moved, intake.next_seq)
        if message is None:
            return False
        intake.next_seq += 1
        if message.durability:
            intake.committing[message.seq] = message
        return True

    def moved(self, key: str) -> None:
        """The target has it, durably: our record may follow."""
        self.moves.moved(key)

    def move_failed(self, key: str, stamp: Stamp) -> None:
        """The target could not take it (its disk is full, say): it is sent again soon."""
        self.moves.failed(key, stamp)

    def release(self, key: str, stamp: Stamp) -> None:
        """The source's record is durable: what moved in under this key may be handed out."""
        self.moves.release(key, stamp)

    def retry(self, select: Select, most: int, edited: Edit | None = None) -> int:
        """Send dead letters that match back to where they died, attempts reset; `edited` may
        change their wires. Returns how many went at once; those that are only in the log
        follow as they are read."""
        return self.moves.sweep(
            lambda m: bool(m.origin) and select(m),
            most,
            self.intake.next_seq - 1,
            lambda m: self.moves.send_back(m, edited),
        )

    def remove(self, select: Select, most: int, why: str) -> int:
        """Drop ready messages that match. Returns how many went at once, as for `retry`."""
        up_to = self.intake.next_seq - 1
        return self.moves.sweep(select, most, up_to, lambda m: self.moves.remove(m, why))

    def purge(self) -> int:
        """Drop what is ready or delayed. What is leased stays with its holder."""
        books = self.books
        gone, packed, away = self.waiting.clear(self.intake.next_seq - 1)
        if away:
            books.turn.drops += [("purged", seqs) for seqs in self._in_log()]
        elif logged := [m.seq for m in gone if m.durability]:
            books.turn.drops.append(("purged", logged))
        return books.purge(gone, packed, away)

    def _in_log(self) -> list[Sequence[int]]:
        """All that the log has, but what is leased or on its way, or has just ended."""
        turn, moves = self.books.turn, self.moves
        stay = {seq for c in self.customers.by_port.values() for seq in c.leases}
        stay |= {message.seq for message, _, _ in moves.leaving.values()}
        stay |= {message.seq for message in moves.arrived.values()}
        stay |= {seq for seq, _ in moves.unread.values()}
        stay.update(turn.settled, *[seqs for _, seqs in turn.drops], [d[0] for d in turn.dead])
        out: list[Sequence[int]] = []
        after = 0
        while self._oldest_cold is not None and (found := self._oldest_cold(after, PURGE_STEP)):
            after = found[-1]
            seqs = [seq for seq in found if seq not in stay]
            if seqs and seqs[-1] - seqs[0] == len(seqs) - 1:
                out.append(range(seqs[0], seqs[-1] + 1))
            elif seqs:
                out.append(seqs)
        return out

    # -- reading from the log -----------------------------------------------------------

    def wants(self) -> tuple[int, int] | None:
        """(after which seq, how many bytes) to read ahead from the log, if it is time."""
        anybody = bool(self.customers.by_port) or self.moves.sweeping
        return self.waiting.cold.wants(self.waiting.ready, anybody=anybody)

    def wants_seqs(self) -> list[int]:
        """Seqs to read: of messages that came due, and of other priorities. One such reading
        at a time: until `loaded_seqs` there is nothing more."""
        return self.waiting.cold.wants_seqs(self.waiting.ready)

    def loaded(self, messages: list[Message], up_to: int, stamp: Stamp) -> None:
        """Read ahead: all up to seq `up_to` have been looked at."""
        fresh = self.waiting.loaded(messages, up_to, self.moves.unreleased)
        self._admit(fresh, stamp)

    def loaded_seqs(self, messages: list[Message], stamp: Stamp) -> None:
        """Messages that were asked for by seq were read. What is missing is asked for again."""
        self._admit(self.waiting.loaded_seqs(messages), stamp)

    def _admit(self, messages: list[Message], stamp: Stamp) -> None:
        moves = self.moves
        if not moves.has_order and not any([m.expires or m.attempts for m in messages]):
            self.waiting.admit(messages)  # the usual case: nothing to decide
            self.intake.trim()
            return
        line: list[Message] = []
        for message in messages:
            if message.expires:
                self.waiting.expiring = True
            if 0 < message.expires <= stamp.wall:
                moves.expire(message, stamp)
            elif moves.is_spent(message):  # its move was cut short by a stop
                moves.bury_spent(message, message.returned, stamp)
            elif moves.picks(message):
                moves.sweep_one(message)
            else:
                line.append(message)
        self.waiting.admit(line)
        self.intake.trim()

    def lost_on_disk(self, seqs: Iterable[int]) -> None:
        """The log found these damaged: they are named there, and gone. To be told before what
        was read with them. What is in memory too is not lost."""
        for seq in seqs:
            if self.waiting.lose(seq) or self.moves.lose(seq):
                self._lost()
            elif self.waiting.cold.is_usual(seq) and not self._in_memory(seq):
                self.waiting.cold.lose_usual()
                self._lost()

    def _lost(self) -> None:
        self.books.forget_away(1)
        self.counts.lost += 1

    def _in_memory(self, seq: int) -> bool:
        return (
            self.waiting.holds(seq)
            or seq in self.intake.committing
            or any(seq in c.leases for c in self.customers.by_port.values())
            or any(m.seq == seq for m in self.moves.arrived.values())
            or any(entry[0].seq == seq for entry in self.moves.leaving.values())
        )

    # -- after a crash or a start -------------------------------------------------------

    def recall(
        self,
        *,
        special: Iterable[tuple[int, int, float]],
        logged: int,
        size: int,
        kept: Mapping[int, Message],
        packed: Collection[Packed] = (),
        leaving: Mapping[str, Leaving],
        unreleased: set[str],
        move_keys: Mapping[str, int],
        leased: set[int],
        stamp: Stamp,
    ) -> None:
        """Begin with what the store has: `logged` live messages of `size` bytes, all cold.

        `special` are those of another priority or with a due time: (seq, priority, due). `kept`
        and `packed` are the memory-only ones. `leased` are the seqs that consumers hold
        (`restore` follows), `leaving` the moves under way, which are sent again.
        """
        cold, delayed = self.waiting.cold, self.waiting.delayed
        rows = {seq: (priority, due) for seq, priority, due in special}
        self.books.recall(logged, size, kept.values(), packed)
        priorities = {seq: row[0] for seq, row in rows.items()}
        self.moves.recall(leaving, unreleased, kept, move_keys, priorities)
        out = [message for message, _, _ in leaving.values()]
        self.books.bring_back([m for m in out if m.durability])
        elsewhere = leased | {m.seq for m in out}
        elsewhere |= {seq for seq, _ in self.moves.unread.values()}
        usual = logged - len([s for s in sorted(elsewhere) if s not in kept and s not in rows])
        for seq, (priority, due) in rows.items():
            usual -= 1
            if seq in elsewhere:
                continue
            if due > stamp.wall:
                delayed.push_seq(stamp.now + due - stamp.wall, seq, priority)
            elif priority != PRIORITY:
                cold.list_seq(seq, priority)
            else:
                cold.want(seq, priority)
        self.books.wake(delayed.next_due)
        cold.recall(usual, [s for s in sorted(elsewhere) if s not in kept])
        if not usual:
            cold.to = self.intake.next_seq - 1
        elif packed and self._oldest_cold is not None and (oldest := self._oldest_cold(0, 1)):
            cold.to = oldest[0] - 1  # so that what is packed before it need not stand aside
        arrived = {m.seq for m in self.moves.arrived.values()}
        entering = [kept[s] for s in sorted(kept) if s not in elsewhere and s not in arrived]
        self.waiting.expiring = any([m.expires for m in kept.values()]) or any(
            [run.expires for run in packed]
        )
        done = 0
        for run in sorted(packed, key=lambda run: run.first):
            before = bisect_left(entering, run.first, done, key=lambda m: m.seq)
            self.waiting.enter(entering[done:before], stamp)
            self.waiting.enter_run(run)
            done = before
        self.waiting.enter(entering[done:], stamp)

    def restore(self, port: Port, leases: Iterable[Message]) -> None:
        """After a crash of the actor: what this consumer's session says it holds."""
        self.leases.restore(port, leases)

    # -- looking ------------------------------------------------------------------------

    @property
    def turn(self) -> Turn:
        """What the turn under way wants done so far."""
        return self.books.turn

    @property
    def settings(self) -> QueueSettings:
        return self.books.settings

    @settings.setter
    def settings(self, settings: QueueSettings) -> None:
        self.books.adopt(settings)
        self.dedup.bound(settings.dedup_window, settings.dedup_ids)
        self.books.wake(self.dedup.expires_at())

    @property
    def dead_gauge(self) -> Gauge:
        return self.books.dead_gauge

    @dead_gauge.setter
    def dead_gauge(self, gauge: Gauge) -> None:
        self.books.dead_gauge = gauge

    @property
    def wake_at(self) -> float:
        """Monotonic: the earliest deadline that was made since the last tick."""
        return self.books.wake_at

    @wake_at.setter
    def wake_at(self, at: float) -> None:
        self.books.wake_at = at

    @property
    def closed(self) -> str:
        """Why nothing is accepted any more; "" = it is."""
        return self.intake.closed

    @closed.setter
    def closed(self, why: str) -> None:
        self.intake.closed = why

    @property
    def next_seq(self) -> int:
        return self.intake.next_seq

    @property
    def live(self) -> int:
        """Messages that are not settled, whatever state they are in."""
        return self.books.live

    @property
    def bytes(self) -> int:
        """Of all live messages, on disk or not."""
        return self.books.bytes

    @property
    def memory_bytes(self) -> int:
        """Of those with durability "memory"."""
        return self.books.memory_bytes

    @property
    def leased(self) -> int:
        return self.customers.leased

    @property
    def cramped(self) -> bool:
        """Whether the last dispatch found somebody with credit and without room, so that the
        next write to a consumer may let something be handed out."""
        return self._dispatch.cramped

    @property
    def consumers(self) -> dict[Port, Consumer]:
        return self.customers.by_port

    @property
    def pulling(self) -> Iterable[Consumer]:
        """Those of the `get`s under way."""
        return self.customers.pulling

    @property
    def ready(self) -> ReadyLine:
        """Those in line and in memory, in the order of delivery."""
        return self.waiting.ready

    @property
    def suspects(self) -> list[Message]:
        """Those that will be tried alone, in order."""
        return self.waiting.suspects

    @property
    def delayed(self) -> Delayed:
        return self.waiting.delayed

    @property
    def parked(self) -> deque[tuple[float, PublishBatch]]:
        """Publishes that wait for room: (until, batch)."""
        return self.intake.parking.batches

    @property
    def committing(self) -> dict[int, Message]:
        """Given to the log, not yet durable."""
        return self.intake.committing

    @property
    def leaving(self) -> dict[str, Leaving]:
        """Moves under way, by key."""
        return self.moves.leaving

    @property
    def unreleased(self) -> set[str]:
        """Keys of what moved in and is still in its source's books."""
        return self.moves.unreleased

    @property
    def move_keys(self) -> dict[str, int]:
        """Of all that moved in and is still here: key -> seq."""
        return self.books.move_keys

    def states(self) -> dict[str, int]:
        """How many live messages are in each state."""
        return {
            "ready": len(self.waiting),
            "leased": self.leased,
            "delayed": len(self.waiting.delayed),
            "committing": len(self.intake.committing),
            "leaving": len(self.moves.leaving),
            "arriving": len(self.moves),
        }

    def totals(self) -> dict[str, int]:
        """What became of all messages so far, by name."""
        return attrs.asdict(self.counts)

    def check(self) -> None:
        """The books balance: every accepted message is in exactly one state."""
        states = self.states()
        leased = sum([len(c.leases) for c in self.consumers.values()])
        if sum(states.values()) != self.live or leased != self.leased:
            raise AssertionError(f"queue {self.name!r}: {self.live} live, but {states}, {leased}")
        if not self.live and (self.bytes or self.memory_bytes):
            raise AssertionError(f"queue {self.name!r} is empty, but of {self.bytes} bytes")
