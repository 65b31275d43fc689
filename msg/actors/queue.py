"""Queue actor: keeps each message until one consumer has acknowledged it.

Owns   a ledger (the rules), a log (its files' bookkeeping), and the memory-only messages.
Hears  publishes (their senders may wait for room); all else is posted and never waits:
       attachments and departures, acks, writes, ticks, the store's answers, moves, questions.
Tells  each consumer's port, within the credit and the bytes it has; the storekeeper and the
       directory by post. So the only thing that it ever waits for is its own mailbox.
Ends   when it is deleted, when cancelled, or on a bug: then its supervisor starts it anew.

A turn is carried out only when all its rules have run (`_carry_out`): a turn that fails has
happened for nobody. What must survive a crash is in the `Estate`, which is changed there and
nowhere else: the next incarnation reads its log again, takes the table of what each session
holds, and does the failed turn anew, without the command that broke it.
"""

import heapq
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from msg.actors.committing import Commits, Gathered, Settled
from msg.actors.mailbox import Mailbox
from msg.actors.storekeeper import Fetched, Written
from msg.actors.supervision import Restarts, broken_by, take_culprit
from msg.actors.timer import Tick
from msg.core.batches import Failure, PublishBatch, Settlement
from msg.core.credit import Consumer, Port
from msg.core.dedup import DedupWindow
from msg.core.deep import Repacking
from msg.core.lazily import Lazily
from msg.core.ledger import Gauge, QueueLedger, Turn
from msg.core.message import MEMORY, STORED, Message
from msg.core.packed import Packed
from msg.core.wire import Stamp
from msg.errors import ClientError
from msg.store.records import Remembered

if TYPE_CHECKING:
    from msg.actors.reply import Reply
    from msg.actors.services import Services
    from msg.core.settings import QueueSettings
    from msg.store.log import Log
    from msg.store.readahead import ReadPlan
    from msg.store.recovery import Recovered

RETRY_S = 1.0  # a disk without room even for acks is tried again after this
# times the memory of all queues, for those that somebody takes from: 1,000 of them drain at
# 65-70,000 messages/s with it and at 50-68,000 without, for 70 MiB more at the peak
HOT_CONSUMED = 2
HOT_LEAST = 32 << 10  # of ready messages in memory, for each queue, when all have too much
HOLD_OFF_S = 0.1  # after the disk was found full, until a publish tries it again
LAZY_S = 0.02  # acks and attempts that nobody waits for are written after so long at most
READ_MESSAGES = 8192  # in one reading ahead

# -- what a queue hears ---------------------------------------------------------------------


@attrs.define(eq=False)  # not frozen: 0.3 us less for each, and these come with every message
class Publish:
    batch: PublishBatch
    puts: int = 1  # how much of the mailbox's room it took


@attrs.frozen(eq=False)
class Attach:
    """A subscription begins, or its prefetch or deadline change; `answer` when it stands."""

    consumer: Consumer
    answer: Callable[[], None] | None = None


@attrs.frozen(eq=False)
class Detach:
    """A subscription ends. `handed`: seqs whose frames reached the kernel."""

    port: Port
    handed: Sequence[int]
    answer: Callable[[], None] | None = None


@attrs.define(eq=False)
class Sent:
    """Frames were written, at this time."""

    port: Port
    messages: list[Message]
    at: float


@attrs.define(eq=False)
class Settle:
    port: Port
    messages: Sequence[Message]
    settlement: Settlement


@attrs.frozen(eq=False)
class GiveBack:
    port: Port
    messages: Sequence[Message]
    settlement: Settlement
    delay: float | None
    reason: str
    requeue: bool
    count: bool


@attrs.frozen(eq=False)
class Extend:
    port: Port
    messages: Sequence[Message]
    settlement: Settlement


@attrs.frozen(eq=False)
class MoveIn:
    """A message moves in from `source`, which keeps it until it hears `Moved`."""

    source: "Queue"
    key: str
    message: Message


@attrs.frozen(eq=False)
class Moved:
    """The target has it durably (or could not take it: `error`)."""

    target: "Queue | None"
    key: str
    error: Exception | None = None


@attrs.frozen(eq=False)
class Release:
    """The source's record is durable: what moved in may be handed out."""

    key: str


@attrs.frozen(eq=False)
class Ask:
    """A question or an order of the operator's: run `what` on the actor, between turns."""

    what: "Callable[[QueueActor, Stamp], object]"
    reply: "Reply[object]"


@attrs.frozen(eq=False)
class Stop:
    """A subscription takes nothing more; what it holds stays valid until it leaves."""

    port: Port
    unsent: Sequence[Message]


@attrs.frozen(eq=False)
class Keep:
    """Put these into the queue's state (a group's making, declared settings, paused), or,
    with none, have all that was written before synced; answer when that is durable."""

    state: dict[str, Any]
    reply: "Reply[None]"


@attrs.frozen(eq=False)
class Delete:
    """The end of this queue: consumers are told, nothing is answered but refusals."""

    reason: str
    reply: "Reply[None]"


@attrs.frozen(eq=False)
class Drain:
    """Stop handing out; what returns is not counted."""


Mail = (
    Publish | Attach | Detach | Stop | Sent | Settle | GiveBack | Extend | MoveIn | Moved
    | Release | Ask | Keep | Delete | Drain | Tick | Written | Fetched
)  # fmt: skip


# -- the handle -----------------------------------------------------------------------------


class Queue:
    """The handle: all that the rest of the broker may hold of a queue or a group."""

    __slots__ = ("actor", "cramped", "dead_gauge", "estate", "gauge", "idle_since", "leased",
                 "mailbox", "name", "patient", "restarts", "settings", "since")  # fmt: skip

    def __init__(self, name: str, settings: "QueueSettings") -> None:
        self.name = name
        self.settings = settings
        self.actor: QueueActor | None = None  # for dumps, and for its supervisor
        self.idle_since: float | None = None  # a group's: wall time of the last member's leaving
        self.mailbox: Mailbox[Mail] = Mailbox(owner=f"queue {name}")
        self.restarts = Restarts()
        self.gauge = Gauge()
        self.leased = 0
        self.cramped = False  # somebody's outbox had no room for what it could be given
        self.patient = False  # acks that want no answer change nothing for now: `note` them
        self.since = 0.0  # when this incarnation began
        self.dead_gauge: Gauge | None = None  # of our dead queue, once there is one
        self.estate: Estate | None = None

    def offer(self, batch: PublishBatch) -> bool:
        """Hand over a batch, if there is room now, and the queue has not gone."""
        return self.mailbox.offer(Publish(batch))

    async def publish(self, batch: PublishBatch) -> None:
        """Hand over a batch; waits for room. Raises ActorStopped when the queue is gone."""
        await self.mailbox.put(Publish(batch))

    def post(self, mail: Mail) -> bool:
        """Hand over without waiting; False when the queue is gone."""
        return self.mailbox.post(mail)


@attrs.define(eq=False)
class Estate:
    """What survives a crash of the actor. Changed in `_carry_out` and `_committed` only."""

    kept: dict[int, Message] = attrs.field(factory=dict)  # durability "memory": seq -> message
    packed: dict[int, Packed] = attrs.field(factory=dict)  # more of them: first seq -> run
    consumers: dict[Port, Consumer] = attrs.field(factory=dict)
    pulls: dict[Port, int] = attrs.field(factory=dict)  # `get`s under way: what they still want
    leaving: "dict[str, tuple[Message, str, Message]]" = attrs.field(factory=dict)
    unreleased: set[str] = attrs.field(factory=set)
    sources: "dict[str, Queue]" = attrs.field(factory=dict)  # of moves in, to be told, by key
    dedup: DedupWindow | None = None
    parked: list[tuple[float, PublishBatch]] = attrs.field(factory=list)  # until when; as of then
    next_seq: int = 1  # no place in line is given twice, also not one of memory only
    paused: bool = False
    draining: bool = False
    commits: Commits = attrs.field(factory=Commits)
    # a turn that failed
    turn: list[Mail] = attrs.field(factory=list)
    culprit: int = -1  # which of it was being heard; -1 = none of it
    suspect: Mail | None = None  # a fact that was the culprit once

    def in_memory_after(self, after: int, most: int) -> list[Message]:
        """The first messages of durability "memory" behind this place, in order of seq."""
        found = [message for seq, message in self.kept.items() if seq > after]
        opened = 0
        for first in sorted(self.packed):  # runs do not overlap
            run = self.packed[first]
            if run.last > after and opened < most:
                messages = [message for message in run.unpack() if message.seq > after]
                found += messages
                opened += len(messages)
        return heapq.nsmallest(most, found, key=lambda message: message.seq)

    def repack(self, changes: Sequence[Repacking]) -> None:
        """Runs were made of what is kept, or opened."""
        for run, messages in changes:
            if messages is None:
                self.packed[run.first] = run
                for seq in run.seqs:
                    self.kept.pop(seq, None)
            else:
                self.packed.pop(run.first, None)
                self.kept.update(zip(run.seqs, messages, strict=False))  # of all, or none


# -- the actor ------------------------------------------------------------------------------


class Effects(Lazily):
    """What a turn wants done beside the ledger's own `Turn`: done only if all of it ran."""

    __slots__ = ("arrivals", "attached", "detached", "keep", "moved", "parts", "puts", "replies",
                 "settled")  # fmt: skip
    RARE: ClassVar[dict[str, type]] = dict.fromkeys(
        ["parts", "attached", "detached", "arrivals", "moved", "keep", "replies"], list
    )

    parts: list[tuple[Settled, bool]]  # and whether they wait
    attached: list[Attach]
    detached: list[Detach]
    arrivals: list[tuple[str, Queue]]
    moved: list[tuple[str, Queue]]
    keep: list[Keep]
    replies: "list[tuple[Reply[object], object]]"

    def __init__(self) -> None:
        self.rare = False
        self.puts = 0
        self.settled: list[tuple[Port, Sequence[Message]]] = []


class QueueActor:
    """One incarnation of a queue. `open` it, then `run` it."""

    def __init__(self, handle: Queue, services: "Services") -> None:
        self.handle = handle
        self.name = handle.name
        self.services = services
        self.estate = handle.estate = handle.estate or Estate()
        self.is_dead = not services.dead_name(handle.name)
        self.effects = Effects()
        self.log: Log
        self.ledger: QueueLedger
        self.armed = inf
        self.hot_noted = 0  # bytes of ready messages that `services.hot` counts for us
        self.lazy_at = inf  # when records that nobody waits for are written at the latest
        # under way, asked for by this incarnation: what the last one asked for is not for us
        self.ahead: ReadPlan | None = None
        self.by_seq: ReadPlan | None = None
        self.deleted: Delete | None = None

    # -- opening ----------------------------------------------------------------------------

    async def open(self, recovered: "Recovered | None") -> None:
        """Rebuild the state from the store and from what the sessions hold.

        `recovered` is what the start of the broker has read already; None after a crash.
        """
        estate, mailbox = self.estate, self.handle.mailbox
        if recovered is None:
            await self._flush()
            self._deny(ClientError("disk_full", "the disk is full; it is delivered again"))
            recovered = await self.services.reopen("queues", self.name)
        # no await from here on: what the sessions say now holds when the first turn begins
        log = self.log = estate.commits.log = recovered.log
        estate.turn += mailbox.take_nowait()
        self._drop_culprit()
        held = self._held(log)
        leased = {seq for table in held.values() for seq in table}
        stamp = self._stamp()
        settings = self.services.queue_settings(self.name, log.state.get("settings", {}))
        self.handle.settings = settings
        self.handle.since = stamp.now
        if estate.dedup is None:
            estate.dedup = DedupWindow(settings.dedup_window, settings.dedup_ids)
            for known in recovered.ids:
                at = stamp.now - max(0.0, stamp.wall - known.at)
                estate.dedup.add(known.id, known.length << 32 | known.crc, known.seq, at)
            estate.dedup.confirm()
        ledger = self.ledger = QueueLedger(
            self.name,
            settings,
            next_seq=max(log.next_seq, estate.next_seq),
            dead_name=self.services.dead_name(self.name),
            hot_bytes=self.services.hot_bytes,
            packing=self.services.packing,
            dedup=estate.dedup,
            parking=self.services.parking,
            oldest_cold=log.live_after,
        )
        ledger.paused = estate.paused = bool(log.state.get("paused", False))
        ledger.draining = estate.draining
        self.handle.idle_since = log.state.get("idle_since")
        if self.handle.dead_gauge is not None:
            ledger.dead_gauge = self.handle.dead_gauge
        ledger.recall(
            special=recovered.special,
            logged=log.live_count,
            size=log.live_bytes,
            kept=estate.kept,
            packed=estate.packed.values(),
            leaving=estate.leaving,
            unreleased=estate.unreleased,
            move_keys=recovered.move_keys,
            leased=leased,
            stamp=stamp,
        )
        for port, consumer in estate.consumers.items():
            again = consumer.anew()
            if again.pull_left >= 0:  # the turn that failed may have counted it down
                again.pull_left = estate.pulls.get(port, 0)
            ledger.attach(again)
            ledger.restore(port, held.get(port, {}).values())

    def _held(self, log: "Log") -> "dict[Port, dict[int, Message]]":
        """What each session holds, and what it held when it sent the mail not yet heard."""
        held: dict[Port, dict[int, Message]] = {
            port: {m.seq: m for m in port.holdings()} for port in self.estate.consumers
        }
        taken = {seq for table in held.values() for seq in table}
        for mail in self.estate.turn:
            if not isinstance(mail, Settle | GiveBack | Extend | Sent) or mail.port not in held:
                continue
            # what was sent is in its port's table, or named by other mail, or settled by that
            if not isinstance(mail, Sent) or self.estate.consumers[mail.port].auto:
                for message in mail.messages:
                    if message.seq not in taken:  # else a late one: another holds it by now
                        taken.add(message.seq)
                        held[mail.port][message.seq] = message
        for table in held.values():
            for seq, message in list(table.items()):
                known = (
                    seq in self.estate.kept if message.durability == MEMORY else log.is_live(seq)
                )
                if not known:
                    del table[seq]
        return held

    async def _flush(self) -> None:
        """After a crash: have written what earlier turns gathered, and answer for it."""
        estate = self.estate
        commits = estate.commits
        while commits.in_flight is not None or self._begin():
            while not (commits.in_flight and commits.in_flight.job and commits.in_flight.job.done):
                estate.turn += await self.handle.mailbox.take()
            if not self._finish(None):
                return  # no room even for acks: what waits for them is told so

    # -- running ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Turn after turn, until the queue is deleted."""
        self.turn(self.estate.turn)  # what the last incarnation did not get done
        take = self.handle.mailbox.take
        outbound = self.services.outbound
        while self.deleted is None:
            mails = await take()
            with outbound:
                self.turn(mails)
            del mails  # a queue that waits would keep the read that its last publish came in
        await self._end(self.deleted)

    async def _end(self, order: Delete) -> None:
        """Deleted: what was promised before is kept, everybody else is told."""
        await self._flush()
        self._deny(ClientError("disk_full", "the disk is full, and the queue deleted"))
        gone = ClientError("not_found", f"queue {self.name!r} was deleted ({order.reason})")
        parked = [Publish(batch, puts=0) for _, batch in self.ledger.parked]
        for mail in [*parked, *self.estate.turn, *self.handle.mailbox.close()]:
            self.refuse(mail, gone)
        for port in list(self.estate.consumers):
            port.ended(order.reason)
        self.estate.consumers.clear()  # their ports hold this queue
        self._share_nothing()
        order.reply.set(None)

    def undo(self) -> None:
        """The turn failed: its ids leave the dedup window, and the publishes that were parked
        come again. Called by the supervisor."""
        self._share_nothing()
        ledger: QueueLedger | None = getattr(self, "ledger", None)
        if ledger is None:
            return
        ledger.dedup.rollback()
        parked: list[Mail] = [Publish(batch, puts=0) for _, batch in self.estate.parked]
        self.estate.parked = []
        self.estate.turn = parked + self.estate.turn
        if self.estate.culprit >= 0:
            self.estate.culprit += len(parked)

    def abandoned(self) -> list[Mail]:
        """It has failed for good: what nobody will do any more."""
        estate = self.estate
        mails, estate.turn = estate.turn, []
        error = ClientError("internal", f"queue {self.name!r} failed; the broker's log says why")
        self._deny(error)
        for port in list(estate.consumers):
            port.ended("the queue has failed")
        estate.consumers.clear()
        return mails

    def _deny(self, error: ClientError) -> None:
        """What has gathered for the next commit will not be in it: nobody waits for ever."""
        commits = self.estate.commits
        lost, commits.next = commits.next, Gathered()
        commits.next.releases = lost.releases
        for item in lost.waiting:
            if isinstance(item, PublishBatch):
                item.fail_all(error)
                item.answer()
            elif isinstance(item, Settled):
                item.deny(error.code)
        for reply in lost.told:
            reply.fail(error)
        self.handle.mailbox.free(lost.puts)

    def _drop_culprit(self) -> None:
        """Refused before anything is restored, so that what it would have settled goes back to
        its place."""
        mail = take_culprit(self.estate, _FACTS)
        if mail is not None:
            self.refuse(mail, broken_by(f"queue {self.name!r}"))

    def turn(self, mails: list[Mail]) -> None:
        """One turn: hear all that is there, hand out, carry out."""
        estate, ledger = self.estate, self.ledger
        estate.turn = mails
        # as it is now: what a quiet queue learnt in its last turn may be long untrue
        ledger.waiting.cold.hot_bytes = self._hot_bytes()
        stamp = self._stamp()
        tick: Tick | None = None
        for i, mail in enumerate(mails):
            estate.culprit = i
            if mail.__class__ is Tick:
                # last: waiting acks come first; of several, any may tell of a stall
                if tick is None or mail.stalled > tick.stalled:
                    tick = mail
            else:
                _HEAR[mail.__class__](self, mail, stamp)
        estate.culprit = -1
        if tick is not None:
            self.armed = inf
            ledger.tick(stamp, stalled=tick.stalled)
        if estate.draining and ledger.parked:  # else the stop would wait for all of them
            error = ClientError("draining", "the broker is stopping; publish to its successor")
            ledger.refuse_parked(error, stamp)
        ledger.dispatch(stamp)
        self._carry_out(stamp)
        estate.turn = []

    def _stamp(self) -> Stamp:
        world = self.services.world
        return Stamp(world.now(), world.wall(), self.services.ids)

    # -- hearing: one method for each kind of mail ------------------------------------------

    def _publish(self, mail: Publish, stamp: Stamp) -> None:
        self.effects.puts += mail.puts
        mail.batch.begin_anew()
        self.ledger.publish(mail.batch, stamp)

    def _attach(self, mail: Attach, _: Stamp) -> None:
        # a copy: a turn that fails must not leave its leases in the mail that comes again
        self.ledger.attach(mail.consumer.anew())
        self.effects.attached.append(mail)

    def _detach(self, mail: Detach, stamp: Stamp) -> None:
        self.ledger.detach(mail.port, mail.handed, stamp)
        self.effects.detached.append(mail)

    def _stop(self, mail: Stop, stamp: Stamp) -> None:
        self.ledger.stop(mail.port, mail.unsent, stamp)

    def _keep(self, mail: Keep, _: Stamp) -> None:
        self.effects.keep.append(mail)

    def _delete(self, mail: Delete, _: Stamp) -> None:
        self.ledger.closed = f"queue {self.name!r} is being deleted"
        self.ledger.draining = True  # nothing is handed out any more
        self.deleted = mail

    def _sent(self, mail: Sent, stamp: Stamp) -> None:
        self.ledger.written(mail.port, mail.messages, mail.at)

    def _settle(self, mail: Settle, _: Stamp) -> None:
        failures = self.ledger.ack(mail.port, mail.messages)
        self.effects.settled.append((mail.port, mail.messages))
        if failures or mail.settlement.counted:  # else nobody waits for it to be complete
            self._part(mail, failures)

    def _give_back(self, mail: GiveBack, stamp: Stamp) -> None:
        failures = self.ledger.nack(
            mail.port,
            mail.messages,
            stamp,
            delay=mail.delay,
            reason=mail.reason,
            requeue=mail.requeue,
            count=mail.count,
        )
        self._part(mail, failures)

    def _extend(self, mail: Extend, stamp: Stamp) -> None:
        failures = self.ledger.touch(mail.port, mail.messages, stamp)
        self._part(mail, failures, commits=False)

    def _part(
        self, mail: Settle | GiveBack | Extend, failures: list[Failure], *, commits: bool = True
    ) -> None:
        """Our part of the answer: at once, or, where an answer was asked for, when durable."""
        settlement = mail.settlement
        waits = (
            commits
            and settlement.request_id is not None
            and any([m.durability for m in mail.messages])
        )
        self.effects.parts.append((Settled(settlement, mail.messages, failures), waits))

    def _move_in(self, mail: MoveIn, _: Stamp) -> None:
        self.ledger.arrive(mail.key, mail.message)
        self.effects.arrivals.append((mail.key, mail.source))

    def _moved(self, mail: Moved, stamp: Stamp) -> None:
        if mail.error is not None or mail.target is None:
            self.ledger.move_failed(mail.key, stamp)
            return
        self.ledger.moved(mail.key)
        self.effects.moved.append((mail.key, mail.target))

    def _release(self, mail: Release, stamp: Stamp) -> None:
        self.ledger.release(mail.key, stamp)

    def _ask(self, mail: Ask, stamp: Stamp) -> None:
        try:
            answer = mail.what(self, stamp)
        except ClientError as error:
            mail.reply.fail(error)
        else:
            self.effects.replies.append((mail.reply, answer))

    def _drain(self, _: Drain, stamp: Stamp) -> None:
        self.ledger.draining = self.estate.draining = True

    def _written(self, mail: Written, stamp: Stamp) -> None:
        if self.estate.commits.is_for(mail):  # else of the last incarnation, which dealt with it
            self._finish(stamp)

    def _fetched(self, mail: Fetched, stamp: Stamp) -> None:
        plan = mail.plan
        if plan is self.ahead:
            self.ahead = None
        elif plan is self.by_seq:
            self.by_seq = None
        else:
            return
        if mail.error is not None:
            raise mail.error  # an unreadable segment: the restart reads it anew, or fails
        messages = self.log.parse_read(plan, mail.blobs)
        if plan.damaged:
            self.ledger.lost_on_disk([d.seq for d in plan.damaged if d.seq])
            for damage in plan.damaged:
                self.services.logger.error(
                    "record damaged", queue=self.name, file=damage.file, offset=damage.offset,
                    seq=damage.seq,
                )  # fmt: skip
        if mail.ahead:
            self.ledger.loaded(messages, plan.after, stamp)
        else:
            self.ledger.loaded_seqs(messages, stamp)

    # -- carrying out -----------------------------------------------------------------------

    def _carry_out(self, stamp: Stamp) -> None:
        """All rules have run: now it happens, and nothing below may fail."""
        ledger, effects, estate, log = self.ledger, self.effects, self.estate, self.log
        mailbox = self.handle.mailbox
        turn, self.effects = ledger.take_turn(), Effects()
        gather = estate.commits.next
        if turn.logged:
            log.publish(turn.logged)
            gather.add(turn.logged)
        if turn.settled:
            log.settle(turn.settled)
        if turn.kept:
            estate.kept.update({message.seq: message for message in turn.kept})
        if turn.repacked:
            estate.repack(turn.repacked)
        for seq in turn.unkept:
            estate.kept.pop(seq, None)
        if turn.rare:
            self._carry_out_rare(turn)
        estate.next_seq = ledger.intake.next_seq
        if turn.parked is not None:
            estate.parked = turn.parked
        if effects.puts:
            # durable ones give their room back when they are committed
            if turn.logged:
                gather.puts += effects.puts
            else:
                mailbox.free(effects.puts)
        if turn.waiting:
            gather.waiting += turn.waiting
            # a duplicate of what was only written may ask for more
            gather.sync = gather.sync or STORED in [batch.durability for batch in turn.waiting]
        for batch in turn.answers:
            batch.answer()
        if effects.rare:
            for part, waits in effects.parts:
                if waits:
                    gather.waiting.append(part)
                    gather.sync = True
                else:
                    part.answer()
        self._tell(turn, effects)
        self.services.outbound.flush()  # before all that nobody waits for
        if turn.deliveries or effects.settled:
            self._remember_handovers(turn, effects, stamp.wall)
        for watcher in self.services.watchers:
            watcher.queue_turn(self, turn, effects, stamp)
        self._commit(stamp)
        if not ledger.waiting.cold.is_empty:
            self._read_ahead(stamp)
        wake_at = ledger.books.wake_at
        if wake_at < self.armed:
            self.armed = wake_at
            self.services.timer.arm(wake_at, mailbox)
        log.window_from = ledger.dedup.oldest_seq(log.next_seq)
        due = log.ids_due
        if due is not None:
            self._remember(due)
        self._show()

    def _carry_out_rare(self, turn: Turn) -> None:
        """What a usual turn has nothing of: attempts, drops, moves."""
        log, estate = self.log, self.estate
        for message, attempt in turn.tried:
            log.tried(message, attempt)
        for why, seqs in turn.drops:
            log.drop(seqs, why)
        for seq, to, key, why in turn.dead:
            log.dead(seq, to, key, why)
            estate.commits.next.sync = True
        estate.leaving |= turn.leaving
        for key in turn.left:
            estate.leaving.pop(key, None)
        estate.unreleased.update(turn.arrived)
        estate.unreleased.difference_update(turn.released)

    def _show(self) -> None:
        """What the rest of the broker sees of this queue."""
        ledger, handle = self.ledger, self.handle
        books, gauge = ledger.books, handle.gauge
        gauge.messages, gauge.bytes = live, _ = books.live, books.bytes
        handle.leased = leased = ledger.customers.leased
        handle.cramped = ledger.cramped
        # all is in consumers' hands, and nobody waits for room: acks may come later
        handle.patient = (
            live == leased
            and not ledger.intake.parking.batches
            and not ledger.draining
            and not self.is_dead  # a dead queue's messages count in its parent's limits
        )
        self._share_memory(ledger.waiting.ready.bytes)

    def _share_memory(self, held: int) -> None:
        """Tell how much is held in memory. What is being read counts: a thousand queues that
        are consumed from at once would else all read."""
        for plan in (self.ahead, self.by_seq):
            if plan is not None:
                held += plan.size
        self.services.hot.used += held - self.hot_noted
        self.hot_noted = held

    def _hot_bytes(self) -> int:
        services = self.services
        hot = services.hot
        if hot.used < hot.limit:
            return services.hot_bytes
        roomy = self.ledger.customers.by_port and hot.used < hot.limit * HOT_CONSUMED
        return services.hot_bytes if roomy else HOT_LEAST

    def _remember_handovers(self, turn: Turn, effects: Effects, wall: float) -> None:
        """For `trace` and `held`: who settled what, and who gets what."""
        recent, name = self.services.recent, self.name
        for port, settled in effects.settled:
            if settled:
                recent.settled(wall, name, getattr(port, "name", ""), settled)
        for port, messages, _ in turn.deliveries:
            recent.leased(wall, name, getattr(port, "name", ""), messages)

    def _tell(self, turn: Turn, effects: Effects) -> None:
        """Consumers, other queues, and whoever asked."""
        estate = self.estate
        if effects.rare:
            for attach in effects.attached:
                port = attach.consumer.port
                if port in self.ledger.consumers:
                    estate.consumers[port] = self.ledger.consumers[port]
                if attach.answer is not None:
                    attach.answer()
                self._note_idle()
        for port, messages, size in turn.deliveries:
            port.deliver(messages, size)
        if turn.rare:
            for port, messages in turn.lapsed:
                port.lapse(messages)
            for port, count in turn.pulled:
                port.got(count)
        if effects.rare:
            for detach in effects.detached:
                estate.consumers.pop(detach.port, None)
                self._note_idle()
                if detach.answer is not None:
                    detach.answer()
        customers = self.ledger.customers
        if len(estate.consumers) != len(customers.by_port):
            # `get`s and stopped subscriptions that have settled all that they held
            estate.consumers = dict(customers.by_port)
            self._note_idle()
        if estate.pulls or customers.pulling:
            estate.pulls = {c.port: c.pull_left for c in customers.pulling}
        if turn.rare:
            for to, key, message in turn.moves:
                self.services.move(to, MoveIn(self.handle, key, message))
        if effects.rare:
            self._tell_rare(turn, effects)

    def _tell_rare(self, turn: Turn, effects: Effects) -> None:
        """Other queues, about moves; and whoever asked."""
        estate, ledger = self.estate, self.ledger
        for key, source in effects.arrivals:
            if ledger.move_keys.get(key) in ledger.committing:
                estate.sources[key] = source  # told when it is durable
            else:
                source.post(Moved(self.handle, key))
        logged = {key for _, _, key, _ in turn.dead}
        for key, target in effects.moved:
            if key in logged:
                estate.commits.next.releases.append((key, target))  # when our record is durable
            else:
                target.post(Release(key))
        for keep in effects.keep:
            self._put_state(keep.state)
            estate.commits.next.sync = True
            estate.commits.next.told.append(keep.reply)
        for reply, answer in effects.replies:
            reply.set(answer)

    def _put_state(self, state: dict[str, Any]) -> None:
        if not state:
            return
        self.log.put_state({**self.log.state, **state})
        self._note_idle()
        if "settings" in state:
            self.adopt(self.services.queue_settings(self.name, state["settings"]))
        if "paused" in state:
            self.ledger.paused = self.estate.paused = bool(state["paused"])
            self.handle.post(Tick(0.0))  # to dispatch what waited

    def adopt(self, settings: "QueueSettings") -> None:
        """New settings: they hold from the next turn on."""
        self.handle.settings = self.ledger.settings = settings

    def _note_idle(self) -> None:
        """A group without members is removed after a time: since when is in its state."""
        if "@" not in self.name:
            return
        idle = None if self.estate.consumers else self.services.world.wall()
        if (idle is None) != (self.handle.idle_since is None):
            self.handle.idle_since = idle
            self.log.put_state({**self.log.state, "idle_since": idle})

    def _commit(self, stamp: Stamp) -> None:
        """Give what has gathered to the store: at once if anybody waits for it, else soon."""
        commits = self.estate.commits
        if commits.in_flight is not None:
            return
        wanted = commits.next.wanted
        if not wanted and not self.log.has_gathered:
            return
        if stamp.now < commits.retry_at:
            self.ledger.wake_at = min(self.ledger.wake_at, commits.retry_at)
        elif wanted or stamp.now >= self.lazy_at:
            self.lazy_at = inf
            self._begin()
        else:
            if self.lazy_at == inf:
                self.lazy_at = stamp.now + LAZY_S
            self.ledger.wake_at = min(self.ledger.wake_at, self.lazy_at)  # a tick has reset it

    def _share_nothing(self) -> None:
        """This incarnation holds nothing any more."""
        self.services.hot.used -= self.hot_noted
        self.hot_noted = 0

    def _remember(self, due: range) -> None:
        """A segment that goes takes ids along that the window still needs: write them anew."""
        ahead = self.services.world.wall() - self.services.world.now()
        self.log.remember_ids(
            due,
            [
                Remembered(message_id, print_ >> 32, print_ & 0xFFFFFFFF, at + ahead, seq)
                for message_id, print_, seq, at in self.ledger.dedup.entries(due)
            ],
        )

    def _begin(self) -> bool:
        return self.estate.commits.begin(self.services.storekeeper, self.handle.mailbox)

    def _finish(self, stamp: Stamp | None) -> bool:
        """The commit under way is done: answer, and make its messages deliverable. False:
        the disk was full.

        Without a stamp the ledger is gone (a crash), and is built anew from the log.
        """
        commits = self.estate.commits
        done, failure = commits.outcome()
        error = None
        if failure is not None:
            error = ClientError("disk_full", str(failure))
            if stamp is not None:
                self.ledger.failed(done.logged, [*done.waiting, *commits.next.waiting], error)
                self.ledger.hold_off(error, stamp.now + HOLD_OFF_S)
            else:
                for item in done.waiting:
                    if isinstance(item, PublishBatch):
                        item.fail_all(error)
                if self.estate.dedup is not None:
                    for message in done.logged:  # they were not kept: a retry is new
                        if not message.key:
                            self.estate.dedup.forget_message(message, self.name)
        elif stamp is not None:
            self.ledger.committed(done.logged, stamp)
        if stamp is not None and done.job is not None and done.job.commit.damaged:
            self.ledger.lost_on_disk([copy.seq for copy in done.job.commit.damaged])
        commits.finish()  # from here on nothing fails
        if error is not None:
            done.postpone().precede(commits.next)
            if not done.logged:
                commits.retry_at = self.services.world.now() + RETRY_S
        if self.estate.sources:
            for message in done.logged:
                source = self.estate.sources.pop(message.key, None)
                if source is not None:
                    source.post(Moved(self.handle, message.key, error))
        for key, target in done.releases:
            target.post(Release(key))
        self.handle.mailbox.free(done.puts)
        done.answer(error)
        return error is None

    def _read_ahead(self, stamp: Stamp) -> None:
        """Ask the store for messages that come next, or came due, and are not in memory."""
        ledger, log = self.ledger, self.log
        wanted = ledger.wants() if self.ahead is None else None
        if wanted is not None:
            after, size = wanted
            plan = log.plan_read(after, READ_MESSAGES, size)
            if plan is not None:
                self.ahead = plan
                self.services.storekeeper.read(plan, self.handle.mailbox, ahead=True)
        seqs = ledger.wants_seqs()
        if not seqs:
            return
        plan = log.plan_read_seqs(seqs)
        if plan is not None:
            self.by_seq = plan
            self.services.storekeeper.read(plan, self.handle.mailbox, ahead=False)
        else:
            self.services.logger.error("records not found", queue=self.name, seqs=seqs)
            ledger.lost_on_disk(seqs)
            ledger.loaded_seqs([], stamp)

    # -- refusing ---------------------------------------------------------------------------

    def refuse(self, mail: Mail, error: ClientError) -> None:
        """Answer a request that cannot be done: nobody waits for ever."""
        match mail:
            case Publish(batch, puts):
                batch.fail_all(error)
                batch.answer()
                self.handle.mailbox.free(puts)
            case Attach(consumer):
                self.estate.consumers.pop(consumer.port, None)
                consumer.port.refuse(error)
            case Detach(port, _, answer):
                self.estate.consumers.pop(port, None)
                if answer is not None:
                    answer()
            case Settle() | GiveBack() | Extend():
                mail.settlement.part(0, [(None, m.id, error.code) for m in mail.messages])
            case MoveIn(source, key):
                source.post(Moved(self.handle, key, error))
            case Ask(_, reply) | Keep(_, reply):
                reply.fail(error)
            case Delete():
                self.deleted = mail  # answered when nothing more is written
            case Written() if self.estate.commits.is_for(mail):
                self._finish(None)
                self._deny(error)
            case _:
                pass  # facts: nobody waits for an answer


_FACTS = (Detach, Stop, Sent, Moved, Release, Drain, Written, Fetched)

_HEAR: dict[type, Callable[[QueueActor, Any, Stamp], None]] = {
    Publish: QueueActor._publish,
    Attach: QueueActor._attach,
    Detach: QueueActor._detach,
    Stop: QueueActor._stop,
    Keep: QueueActor._keep,
    Delete: QueueActor._delete,
    Sent: QueueActor._sent,
    Settle: QueueActor._settle,
    GiveBack: QueueActor._give_back,
    Extend: QueueActor._extend,
    MoveIn: QueueActor._move_in,
    Moved: QueueActor._moved,
    Release: QueueActor._release,
    Ask: QueueActor._ask,
    Drain: QueueActor._drain,
    Written: QueueActor._written,
    Fetched: QueueActor._fetched,
}
