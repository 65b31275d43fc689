"""Topic actor: hands each message to everybody who listens, and keeps what is to be kept.

Owns   the topic's rules, a log (backlog, history, retained value), the memory-only messages.
Hears  publishes (their senders may wait for room); all else is posted and never waits:
       subscriptions, groups, ticks, the store's answers, what left a port, questions.
Tells  ports, which never make it wait; the storekeeper and the directory by post; groups by
       their queues' doors for publishers, where it may wait for room, after its turn is done.
Ends   when it is deleted, when it is retired (nothing to keep, nobody to tell), when
       cancelled, or on a bug: then its supervisor starts it anew.

A turn is carried out only when all its rules have run (`_carry_out`): a turn that fails has
happened for nobody. What must survive a crash is in the `Estate`, which is changed there and
nowhere else: the next incarnation reads its log again, takes the subscriptions as they were
after the last whole turn, and does the failed turn anew, without the mail that broke it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

import attrs

from msg.actors.committing import Commits, Gathered
from msg.actors.fan_out import deliver, deliver_in_slices, is_long
from msg.actors.group_feed import Copied, GroupFeed, copy_batch
from msg.actors.mailbox import Mailbox
from msg.actors.paging import Loaded, Pages, Roomy
from msg.actors.ports import TopicPort
from msg.actors.queue import Delete, Drain, Keep, Queue
from msg.actors.storekeeper import Fetched, Written
from msg.actors.supervision import Restarts, broken_by, take_culprit
from msg.actors.timer import Tick
from msg.core.answers import Answer, Answers
from msg.core.batches import PublishBatch
from msg.core.dedup import DedupWindow
from msg.core.kept import Survived
from msg.core.message import Message
from msg.core.replay import Group, Sub
from msg.core.runs import Copying, Run
from msg.core.settings import TopicSettings
from msg.core.topic import Changes, Start, TopicRules, Turn
from msg.core.wire import Stamp
from msg.errors import ClientError
from msg.store.log import TOPICS
from msg.store.names import directory_of
from msg.store.records import Remembered
from msg.store.recovery import Recovered, delete_log

if TYPE_CHECKING:
    from msg.actors.outbox import Budget
    from msg.actors.reply import Reply
    from msg.actors.services import Services
    from msg.store.log import Log

LAZY_S = 0.02  # records that nobody waits for are written after so long at most
IDLE_S = 2.0  # a topic that was never used is given up after this
RETRY_S = 1.0  # after a full disk, where nobody publishes: not before
SEQS_AHEAD = 10_000  # seqs reserved at once for messages that no log remembers

# -- what a topic hears ---------------------------------------------------------------------


@attrs.define(eq=False)  # not frozen: 0.3 us less for each, and these come with every message
class Publish:
    batch: PublishBatch


@attrs.frozen(eq=False)
class Attach:
    """A subscription begins; `answer` when it stands. `exact`: it is to this very topic."""

    port: TopicPort
    exact: bool
    start: Start = None
    answer: Callable[[], None] | None = None


@attrs.frozen(eq=False)
class Detach:
    port: TopicPort
    answer: Callable[[], None] | None = None


@attrs.frozen(eq=False)
class AddGroup:
    """A durable group matches this topic. `start` says what a new one is to have of what is
    kept (None: the backlog, if the group is to this very topic); for one that is not new it
    is "new". `answer` when what it is to have is durably its own."""

    queue: Queue
    start: Start = None
    answer: Callable[[], None] | None = None


@attrs.frozen(eq=False)
class RemoveGroup:
    queue: Queue
    answer: Callable[[], None] | None = None


@attrs.frozen(eq=False)
class Handed:
    """A piece of the backlog has left its port: the kernel has it, or it was dropped."""

    port: TopicPort
    seqs: Sequence[int]
    written: bool


@attrs.frozen(eq=False)
class Ask:
    """A question or an order of the operator's: run `what` on the actor, between turns."""

    what: "Callable[[TopicActor, Stamp], object]"
    reply: "Reply[object]"


@attrs.frozen(eq=False)
class Reload:
    """The settings file has changed."""


@attrs.frozen(eq=False)
class Retire:
    """From the directory: end, if there is still nothing to keep and nobody to tell."""


Mail = (
    Publish | Attach | Detach | AddGroup | RemoveGroup | Handed | Roomy | Loaded | Copied | Ask
    | Keep | Delete | Drain | Reload | Retire | Tick | Written | Fetched
)  # fmt: skip


# -- the handle -----------------------------------------------------------------------------


class Topic:
    """The handle: all that the rest of the broker may hold of a topic."""

    __slots__ = ("actor", "estate", "mailbox", "name", "restarts", "settings", "since")

    def __init__(self, name: str) -> None:
        self.name = name
        self.settings = TopicSettings()
        self.actor: TopicActor | None = None  # for dumps, and for its supervisor
        self.mailbox: Mailbox[Mail] = Mailbox(owner=f"topic {name}")
        self.restarts = Restarts()
        self.since = 0.0  # when this incarnation began
        self.estate: Estate | None = None

    def offer(self, batch: PublishBatch) -> bool:
        """Hand over a batch, if there is room now, and the topic has not gone."""
        return self.mailbox.offer(Publish(batch))

    async def publish(self, batch: PublishBatch) -> None:
        """Hand over a batch; waits for room. Raises ActorStopped when the topic is gone."""
        await self.mailbox.put(Publish(batch))

    def post(self, mail: Mail) -> bool:
        """Hand over without waiting; False when the topic is gone."""
        return self.mailbox.post(mail)

    def reload(self) -> None:
        self.post(Reload())

    def row(self) -> dict[str, Any]:
        """What there is to see of it."""
        row: dict[str, Any] = {
            "name": self.name,
            "state": "failed" if self.restarts.failed else "running",
            "subscribers": 0,
            "kept": 0,
            "groups": 0,
        }
        rules: TopicRules | None = getattr(self.actor, "rules", None)
        if rules is not None:
            kept, history = rules.kept, rules.kept.history
            row["subscribers"] = len(rules.subs)
            row["groups"] = len(rules.groups)
            row["backlog"] = kept.backlog.count
            row["history"] = history.count if history is not None else 0
            row["kept"] = max(row["backlog"], row["history"], int(bool(kept.retained)))
            row["bytes"] = max(kept.backlog.bytes, history.bytes if history is not None else 0)
            row["replaying"] = len(rules.audience.readers)
            row["next_seq"] = kept.next_seq
            row["published"] = rules.counts.published
            row["dropped"] = rules.counts.dropped
        return row


@attrs.define(eq=False)
class Estate:
    """What survives a crash of the actor. Changed in `_carry_out` only, but for the failed
    turn, and what comes in for it while the log is read again."""

    kept: dict[int, Message] = attrs.field(factory=dict)  # durability "memory": seq -> message
    subs: dict[Any, Sub] = attrs.field(factory=dict)  # snapshots, by port
    groups: dict[str, Group] = attrs.field(factory=dict)
    copies: dict[str, dict[str, int]] = attrs.field(factory=dict)  # that a restart cut off
    feed: GroupFeed = attrs.field(factory=GroupFeed)
    line: Sequence[Run] = ()
    retained: int = 0
    unheard: list[range] = attrs.field(factory=list)
    history_from: int = 0  # its first seq
    turned: bool = False  # whether a turn has ever been carried out
    next_seq: int = 1
    answers: Answers = attrs.field(factory=Answers)
    dedup: DedupWindow | None = None
    draining: bool = False
    budgeted: int = 0  # bytes of our backlog that the broker's budget knows of
    commits: Commits = attrs.field(factory=Commits)
    finished: list[tuple[Gathered, Exception | None]] = attrs.field(factory=list)
    deleted: "Delete | None" = None  # it is ending
    # a turn that failed
    turn: list[Mail] = attrs.field(factory=list)
    culprit: int = -1  # which of it was being heard; -1 = none of it
    suspect: Mail | None = None  # a fact that broke a turn, and is heard once more

    @property
    def outgoing(self) -> "Sequence[tuple[Queue, PublishBatch]]":
        """What waits for room in groups, the next first."""
        return self.feed.outgoing

    def survived(self) -> Survived | None:
        """What there is beside the log; None if this is the first incarnation."""
        if not self.turned:
            return None
        retaining = [0 if m is None else m.seq for run in self.line for m in run.retains]
        return Survived(self.kept, self.retained, retaining, self.unheard, self.history_from)


# -- the actor ------------------------------------------------------------------------------


@attrs.define
class Effects:
    """What mail that is no publish wants done beside the rules' own `Turn`: done only if all of
    the turn ran."""

    tick: bool = False
    answers: list[Callable[[], None]] = attrs.field(factory=list)  # subscriptions that stand
    left: list[Callable[[], None]] = attrs.field(factory=list)  # those that have ended
    durable: list[Callable[[], None]] = attrs.field(factory=list)  # when all is written
    removed: list[str] = attrs.field(factory=list)  # groups
    keep: list[Keep] = attrs.field(factory=list)
    replies: "list[tuple[Reply[object], object]]" = attrs.field(factory=list)


class _Waits:
    """Somebody who is told when the commit is durable."""

    __slots__ = ("answer",)

    def __init__(self, answer: Callable[[], None]) -> None:
        self.answer = answer


@attrs.define(eq=False)
class More:
    """What there is to a turn beside deliveries and answers to publishers. As a rule nothing:
    it published to those who listen, and left the topic and its log as they were."""

    changes: Changes
    effects: Effects
    stamp: Stamp


@attrs.define(eq=False)
class Rest:
    """What of a turn is done when its deliveries have been."""

    turn: Turn
    more: More | None


class TopicActor:
    """One incarnation of a topic. `open` it, then `run` it."""

    def __init__(self, handle: Topic, services: "Services") -> None:
        self.handle = handle
        self.name = handle.name
        self.services = services
        self.estate = handle.estate = handle.estate or Estate()
        self.effects = Effects()
        self.log: Log
        self.rules: TopicRules
        self.armed = inf
        self.lazy_at = inf  # when records that nobody waits for are written at the latest
        self.pages = Pages(handle.mailbox, services.storekeeper)
        self.state_due = False  # the rules' state is to be put into the log
        self.declared = False
        self.retire = False
        self.retired = False
        self.idle_at = inf
        self.announced = False
        self.deleted: Delete | None = self.estate.deleted

    # -- opening ----------------------------------------------------------------------------

    async def open(self, recovered: "Recovered | None", *, fresh: bool = False) -> None:
        """Rebuild the state from the store and from the estate.

        `recovered` is what the start of the broker has read already; None for a topic that
        is new (`fresh`), or after a crash.
        """
        estate, services = self.estate, self.services
        if recovered is None and fresh:
            recovered = Recovered.of_new(services.new_log(TOPICS, self.name))
        elif recovered is None:
            self._drop_culprit()
            await self._flush()
            recovered = await services.reopen(TOPICS, self.name)
        log = self.log = estate.commits.log = recovered.log
        runs = await self.pages.kept_runs(log, estate.kept.values(), estate.turn)
        # no await from here on: the mail of now is heard by the first turn
        estate.turn += self.handle.mailbox.take_nowait()
        stamp = self._stamp()
        settings = services.topic_settings(self.name, log.state.get("settings", {}))
        self.handle.settings = settings
        self.handle.since = stamp.now
        self.declared = bool(log.state.get("declared") or log.state.get("settings"))
        if estate.dedup is None:
            estate.dedup = DedupWindow(settings.dedup_window, settings.dedup_ids)
            for known in recovered.ids:
                at = stamp.now - max(0.0, stamp.wall - known.at)
                estate.dedup.add(known.id, known.length << 32 | known.crc, known.seq, at)
        rules = self.rules = TopicRules(
            self.name,
            settings,
            next_seq=max(log.next_seq, estate.next_seq),
            dedup=estate.dedup,
            answers=estate.answers,
        )
        rules.draining = estate.draining
        rules.kept.backlog_room = partial(_room_in, services.backlog, estate)
        state = log.state.get("topic", {})
        rules.recall(runs, state, estate.survived(), stamp)
        if estate.turned:
            rules.audience.copies = dict(estate.copies)
            self.state_due = True  # a group whose removal broke the turn is not in it any more
        rules.restore(estate.subs.values(), estate.groups.values(), estate.line)
        for done, failure in estate.finished:
            self._outcome(done, failure)
        rules.known = rules.logged_to

    async def _flush(self) -> None:
        """After a crash: have written what earlier turns gathered. `open` deals with it."""
        estate, commits = self.estate, self.estate.commits
        while commits.in_flight is not None or self._begin():
            while not (commits.in_flight and commits.in_flight.job and commits.in_flight.job.done):
                estate.turn += await self.handle.mailbox.take()
            done, failure = commits.finish()
            estate.finished.append((done, failure))
            if failure is not None:  # the rest would fail too, and its log is about to go
                estate.finished.append((commits.next, failure))
                commits.next = Gathered()
                return

    # -- running ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Turn after turn, until the topic is deleted or retired."""
        rest = self.turn(self.estate.turn)
        feed = self.estate.feed
        take, outbound = self.handle.mailbox.take, self.services.outbound
        while True:
            if rest is not None:
                await deliver_in_slices(rest.turn.deliveries, self._left_port)
                self._settle_up(rest.turn, rest.more)
            if feed.outgoing:
                await feed.send()
            if self.deleted is not None:
                await self._end(self.deleted)
                return
            if self.retire:
                await self._retire()
                if self.retired:
                    return
            mails = await take()
            with outbound:
                rest = self.turn(mails)
            del mails  # a topic that waits would keep the read that its last publish came in

    async def _retire(self) -> None:
        """Nothing is kept: the files go, and then the topic, if it is still not wanted."""
        self.retire = False
        if not self._is_idle():
            return
        if self.log.segments:
            disk, directory = self.services.world.disk, directory_of(self.name)
            await self.services.world.in_disk_thread(lambda: delete_log(disk, TOPICS, directory))
            self.log = self.estate.commits.log = self.services.new_log(TOPICS, self.name)
            self.log.next_seq = self.rules.kept.next_seq
        if not self.handle.mailbox.depth:
            self.handle.mailbox.close()
            self.retired = True

    async def _end(self, order: Delete) -> None:
        """Deleted: what was promised before is kept, everybody else is told."""
        estate = self.estate
        estate.deleted = order
        await self._flush()
        for done, failure in estate.finished:
            self._outcome(done, failure)
        finished, estate.finished = estate.finished, []
        for done, failure in finished:
            self._answer(done, failure)
        # what waited on for a retained value to be cleared, or a group's copy to be planned:
        # there is no such value any more, and nothing to copy
        estate.commits.next.answer()
        estate.commits.next = Gathered()
        gone = ClientError("not_found", f"topic {self.name!r} was deleted ({order.reason})")
        for mail in [*estate.turn, *self.handle.mailbox.close()]:
            self.refuse(mail, gone)
        self._dismiss(order.reason)
        order.reply.set(None)

    def _dismiss(self, reason: str) -> None:
        """The subscriptions to this very topic are over; patterns may match others."""
        for port, sub in list(self.estate.subs.items()):
            if sub.exact:
                port.ended(reason)
        self.estate.subs.clear()
        self.estate.feed.drop_pending()
        self.services.backlog.used -= self.estate.budgeted
        self.estate.budgeted = 0

    def undo(self) -> None:
        """The turn failed: its ids leave the dedup window. Called by the supervisor."""
        rules: TopicRules | None = getattr(self, "rules", None)
        if rules is not None:
            rules.dedup.rollback()

    def abandoned(self) -> list[Mail]:
        """It has failed for good: what nobody will do any more."""
        estate = self.estate
        mails, estate.turn = estate.turn, []
        finished, estate.finished = estate.finished, []
        for done, failure in finished:
            self._close_books(done, failure)
        if estate.commits.in_flight is None:
            self._deny()
        self._dismiss("the topic has failed")
        return mails

    def _close_books(self, done: Gathered, failure: Exception | None) -> None:
        """A commit has ended, of a topic that has failed for good."""
        self.handle.mailbox.free(done.puts)
        if failure is None:
            done.answer()
            return
        error = ClientError("disk_full", str(failure))
        lost = {m.seq for m in done.logged}
        for item in done.waiting:
            if isinstance(item, Answer):
                item.lose(lost, error)
        done.answer(error)

    def _deny(self) -> None:
        """What has gathered for the next commit will not be in it: nobody waits for ever."""
        error = ClientError("internal", f"topic {self.name!r} failed; the broker's log says why")
        self.estate.answers.abandon(error)
        commits = self.estate.commits
        lost, commits.next = commits.next, Gathered()
        self.handle.mailbox.free(lost.puts)
        lost.answer(error)

    def _drop_culprit(self) -> None:
        """Refused before anything is restored, so that who was to leave has left."""
        mail = take_culprit(self.estate, _FACTS, vital=_FEEDING)
        if mail is not None:
            self.refuse(mail, broken_by(f"topic {self.name!r}"))

    def turn(self, mails: list[Mail]) -> Rest | None:
        """One turn: hear all that is there, let readers go on, carry out. Where it has
        thousands of deliveries, they and all that comes after them are left to `run`."""
        estate, rules = self.estate, self.rules
        estate.turn = mails
        stamp = self._stamp()
        puts = 0
        effects: Effects | None = None
        for i, mail in enumerate(mails):
            estate.culprit = i
            if isinstance(mail, Publish):
                puts += 1
                rules.publish(mail.batch, stamp)
            else:
                effects = self.effects
                _HEAR[mail.__class__](self, mail, stamp)
        estate.culprit = -1
        if effects is not None:
            self.effects = Effects()
            if effects.tick:
                self.armed = inf
                rules.tick(stamp)
        rules.go_on()
        rest = self._carry_out(puts, effects, stamp)
        estate.turn = []
        return rest

    def _stamp(self) -> Stamp:
        world = self.services.world
        return Stamp(world.now(), world.wall(), self.services.ids)

    # -- hearing: one method for each kind of mail but publishes ----------------------------

    def _tick(self, _: Tick, __: Stamp) -> None:
        self.effects.tick = True

    def _attach(self, mail: Attach, _: Stamp) -> None:
        self.rules.attach(mail.port, mail.exact, mail.start)
        if mail.answer is not None:
            self.effects.answers.append(mail.answer)

    def _detach(self, mail: Detach, _: Stamp) -> None:
        self.rules.detach(mail.port)
        if mail.answer is not None:
            self.effects.left.append(mail.answer)

    def _add_group(self, mail: AddGroup, _: Stamp) -> None:
        group = self.rules.add_group(mail.queue, mail.queue.name, mail.start)
        if mail.answer is not None:
            if group.copy is None:
                self.effects.answers.append(mail.answer)
            else:
                self.effects.durable.append(mail.answer)

    def _remove_group(self, mail: RemoveGroup, _: Stamp) -> None:
        self.rules.remove_group(mail.queue.name)
        self.effects.removed.append(mail.queue.name)
        if mail.answer is not None:
            self.effects.left.append(mail.answer)

    def _handed(self, mail: Handed, _: Stamp) -> None:
        self.rules.audience.written(mail.port, mail.seqs, kept=not mail.written)

    def _roomy(self, mail: Roomy, _: Stamp) -> None:
        self.rules.audience.roomy(mail.port)

    def _loaded(self, mail: Loaded, stamp: Stamp) -> None:
        memory = self.rules.kept.memory
        messages = [memory[seq] for seq in mail.seqs if seq in memory]
        self.rules.audience.loaded(mail.reader, messages, mail.seqs[-1], stamp)

    def _copied(self, mail: Copied, stamp: Stamp) -> None:
        self.rules.audience.copied(mail.page, mail.error, stamp.now)

    def _ask(self, mail: Ask, stamp: Stamp) -> None:
        try:
            answer = mail.what(self, stamp)
        except ClientError as error:
            mail.reply.fail(error)
        else:
            self.effects.replies.append((mail.reply, answer))

    def _keep(self, mail: Keep, _: Stamp) -> None:
        self.effects.keep.append(mail)

    def _delete(self, mail: Delete, _: Stamp) -> None:
        self.rules.closed = f"topic {self.name!r} is being deleted"
        self.deleted = mail

    def _drain(self, _: Drain, stamp: Stamp) -> None:
        self.rules.draining = self.estate.draining = True

    def _reload(self, _: Reload, stamp: Stamp) -> None:
        self._adopt(self.log.state.get("settings", {}), stamp)

    def _adopt(self, declared: Any, stamp: Stamp) -> None:
        settings = self.services.topic_settings(self.name, declared)
        self.handle.settings = settings
        self.rules.change(settings, stamp)

    def _hear_retire(self, _: Retire, stamp: Stamp) -> None:
        self.retire = True
        self.announced = False

    def _written(self, mail: Written, _: Stamp) -> None:
        commits = self.estate.commits
        if commits.is_for(mail):  # else of the last incarnation, which dealt with it
            done, failure = commits.finish()
            self.estate.finished.append((done, failure))
            self._outcome(done, failure)

    def _outcome(self, done: Gathered, failure: Exception | None) -> None:
        if failure is None:
            self.rules.committed(done.logged)
        else:
            waiting = [*done.waiting, *self.estate.commits.next.waiting]
            self.rules.failed(done.logged, waiting, ClientError("disk_full", str(failure)))
        if done.job is not None and done.job.commit.damaged:
            self.rules.kept.lose([copy.seq for copy in done.job.commit.damaged])

    def _fetched(self, mail: Fetched, stamp: Stamp) -> None:
        kept = self.rules.kept
        page = self.pages.fetched(mail, self.log, kept.memory)
        if page is None:
            return
        for damage in mail.plan.damaged:
            self.services.logger.error(
                "record damaged", topic=self.name, file=damage.file, offset=damage.offset,
                seq=damage.seq,
            )  # fmt: skip
        if mail.plan.damaged:
            kept.lose([d.seq for d in mail.plan.damaged])
        self.rules.audience.loaded(*page, stamp)

    # -- carrying out -----------------------------------------------------------------------

    def _carry_out(self, puts: int, effects: Effects | None, stamp: Stamp) -> Rest | None:
        """All rules have run: now it happens, and nothing below may fail."""
        turn = self.rules.end_turn()
        for watcher in self.services.watchers:
            watcher.topic_turn(self, turn, stamp)
        more: More | None = None
        if effects is not None or turn.changes is not None:
            more = More(turn.change(), effects or Effects(), stamp)
            self._remember_all(more)
        if puts:
            # what waits for the log gives its room back with it
            if self.rules.line:
                self.estate.commits.next.puts += puts
            else:
                self.handle.mailbox.free(puts)
        if more is not None:
            for answer in more.effects.answers:
                answer()
        if is_long(turn.deliveries):
            return Rest(turn, more)
        deliver(turn.deliveries, self._left_port)
        self._settle_up(turn, more)
        return None

    def _settle_up(self, turn: Turn, more: More | None) -> None:
        """What comes after the deliveries: answers, groups, the store, and what comes next."""
        answers = self.estate.answers
        if more is not None:
            for answer in more.effects.left:
                answer()
            self.estate.feed.add(more.changes, more.effects.removed, answers, self._copy_of)
        for owed in turn.owed:
            answers.owe(owed)
        if more is not None:
            self._go_on(more)

    def _go_on(self, more: More) -> None:
        """The store, readers, and the next tick. A turn without more to it has changed nothing
        that these depend on."""
        estate, effects = self.estate, more.effects
        finished, estate.finished = estate.finished, []
        for done, failure in finished:
            self._answer(done, failure)
        for keep in effects.keep:
            self._put_state(keep.state)
            estate.commits.next.sync = True
            estate.commits.next.told.append(keep.reply)
        for reply, value in effects.replies:
            reply.set(value)
        self.services.outbound.flush()
        self._commit(more.stamp)
        self._read_on(more.changes)
        self._look_ahead(more.changes, more.stamp)

    def _answer(self, done: Gathered, failure: Exception | None) -> None:
        """A commit has ended. Where the disk was full, what waits only for what the log keeps
        for the next commit goes on waiting."""
        commits = self.estate.commits
        self.handle.mailbox.free(done.puts)
        if failure is None:
            done.answer()
            return
        later = [w for w in done.waiting if not isinstance(w, Answer) or w.goes_on_waiting]
        done.waiting = [w for w in done.waiting if w not in later]
        commits.next.waiting[:0] = later
        commits.next.sync = commits.next.sync or done.sync
        if not done.logged:
            commits.retry_at = self.services.world.now() + RETRY_S
        done.answer(ClientError("disk_full", str(failure)))

    def _remember_all(self, more: More) -> None:
        """Into the estate, and into the log."""
        rules, estate, log = self.rules, self.estate, self.log
        kept, audience = rules.kept, rules.audience
        changes, gather = more.changes, estate.commits.next
        if changes.logged:
            log.publish(changes.logged)
            gather.add(changes.logged)
        if changes.settled:
            log.settle(changes.settled)
        for why, seqs in changes.drops:
            log.drop(seqs, why)
        gather.sync = gather.sync or changes.sync or bool(more.effects.durable)
        gather.waiting += changes.waiting
        gather.waiting += [_Waits(answer) for answer in more.effects.durable]
        for message in changes.kept:
            estate.kept[message.seq] = message
        for seq in changes.unkept:
            estate.kept.pop(seq, None)
        for port in changes.subs:
            sub = audience.subs.get(port)
            if sub is None:
                estate.subs.pop(port, None)
            else:
                estate.subs[port] = sub.snapshot()
        estate.groups = {name: group.snapshot() for name, group in audience.groups.items()}
        estate.copies = dict(audience.copies)
        estate.line = tuple(rules.line)
        estate.retained = kept.retained
        estate.unheard = kept.backlog.ranges()
        estate.history_from = kept.history_from
        estate.next_seq = kept.next_seq
        estate.turned = True
        if changes.kept and kept.history is not None and kept.next_seq > log.next_seq:
            log.next_seq = kept.next_seq + SEQS_AHEAD
            changes.state = True
        self.state_due = self.state_due or changes.state
        if self.state_due and (changes.logged or log.segments or changes.waiting):
            log.put_state({**log.state, "topic": rules.state()})
            self.state_due = False
        rules.dedup.confirm()
        log.window_from = rules.dedup.oldest_seq(log.next_seq)
        if log.ids_due is not None:
            self._remember_ids(log.ids_due)
        budget = self.services.backlog
        budget.used += kept.backlog.bytes - estate.budgeted
        estate.budgeted = kept.backlog.bytes

    def _remember_ids(self, due: range) -> None:
        """A segment that goes takes ids along that the window still needs: write them anew."""
        ahead = self.services.world.wall() - self.services.world.now()
        self.log.remember_ids(
            due,
            [
                Remembered(message_id, print_ >> 32, print_ & 0xFFFFFFFF, at + ahead, seq)
                for message_id, print_, seq, at in self.rules.dedup.entries(due)
            ],
        )

    def _left_port(self, port: TopicPort, seqs: list[int]) -> Callable[[bool], None]:
        """What a port is to call when a piece of the backlog has left it."""
        return partial(self._post_handed, port, seqs)

    def _post_handed(self, port: TopicPort, seqs: Sequence[int], written: bool) -> None:
        self.handle.post(Handed(port, seqs, written))

    def _copy_of(self, copying: Copying) -> PublishBatch:
        stamp = self._stamp()
        remembers = self.rules.remembers
        return copy_batch(
            self.name, copying, stamp.wall, lambda m: remembers(m, stamp), self.handle.post
        )

    def _put_state(self, state: dict[str, Any]) -> None:
        if not state:
            return
        self.log.put_state({**self.log.state, **state})
        self.declared = bool(self.log.state.get("declared") or self.log.state.get("settings"))
        if "settings" in state:
            self._adopt(state["settings"], self._stamp())
            self.handle.post(Tick(0.0))  # a turn, for what the new settings want done

    def _commit(self, stamp: Stamp) -> None:
        """Give what has gathered to the store: at once if anybody waits for it, else soon."""
        commits = self.estate.commits
        if commits.in_flight is not None or stamp.now < commits.retry_at:
            return
        if commits.next.wanted or (self.log.has_gathered and stamp.now >= self.lazy_at):
            self.lazy_at = inf
            if self._begin():
                return
        elif self.log.has_gathered and self.lazy_at == inf:
            self.lazy_at = stamp.now + LAZY_S
        if commits.next.puts:
            self.handle.mailbox.free(commits.next.puts)
            commits.next.puts = 0

    def _begin(self) -> bool:
        return self.estate.commits.begin(self.services.storekeeper, self.handle.mailbox)

    def _read_on(self, changes: Changes) -> None:
        """Pages that are wanted: a subscriber's port must have room for one first."""
        memory = self.rules.kept.memory
        for reader, seqs in changes.pages:
            if isinstance(reader, Sub) and not reader.claimed:
                if not self.pages.claim(reader):
                    continue
                self.estate.subs[reader.port] = reader.snapshot()
            self.pages.read(reader, seqs, self.log, memory)
        self.pages.go_on(self.log, memory)

    def _look_ahead(self, changes: Changes, stamp: Stamp) -> None:
        """The next tick, and whether the topic is still needed."""
        retry_at = self.estate.commits.retry_at
        wake = min(self.rules.next_wake(stamp), self.lazy_at)
        if retry_at > stamp.now:
            wake = min(wake, retry_at)
        if not self._is_idle():
            self.announced = False
            self.idle_at = inf
        elif changes.subs or stamp.now >= self.idle_at:
            if not self.announced:
                self.announced = True
                self.services.topic_idle(self.handle)
        elif not self.announced:
            # new, or not used for anything that it keeps: its finder may still be on the way
            self.idle_at = min(self.idle_at, stamp.now + IDLE_S)
            wake = min(wake, self.idle_at)
        if wake < self.armed:
            self.armed = wake
            self.services.timer.arm(wake, self.handle.mailbox)

    def _is_idle(self) -> bool:
        commits = self.estate.commits
        if self.declared or commits.in_flight is not None or commits.next.wanted:
            return False
        return self.rules.idle and not (
            self.log.has_gathered or self.estate.outgoing or self.pages.under_way
        )

    # -- refusing ---------------------------------------------------------------------------

    def refuse(self, mail: Mail, error: ClientError) -> None:
        """Answer a request that cannot be done: nobody waits for ever."""
        match mail:
            case Publish(batch):
                batch.fail_all(error)
                batch.answer()
                self.handle.mailbox.free(1)
            case Attach(port, exact, _, answer):
                self.estate.subs.pop(port, None)
                if error.code == "internal" or (exact and error.code == "unavailable"):
                    port.refuse(error)
                    return
                if answer is not None:
                    answer()
                if exact:
                    port.ended(str(error))
            case Detach(port, answer):
                self.estate.subs.pop(port, None)
                if answer is not None:
                    answer()
            case AddGroup(_, _, answer):
                if answer is not None:
                    answer()
            case RemoveGroup(queue, answer):
                self.estate.groups.pop(queue.name, None)
                self.estate.copies.pop(queue.name, None)
                self.estate.feed.drop(queue.name)
                if answer is not None:
                    answer()
            case Ask(_, reply) | Keep(_, reply):
                reply.fail(error)
            case Delete(_, reply):
                self.deleted = mail
                reply.set(None)
            case Written() if self.estate.commits.is_for(mail):
                self._close_books(*self.estate.commits.finish())
                self._deny()
            case _:
                pass  # facts: nobody waits for an answer


def _room_in(budget: "Budget", estate: Estate) -> int:
    """Bytes that a topic's backlog may have."""
    return max(0, budget.limit - budget.used + estate.budgeted)


_FEEDING = (AddGroup, Copied)  # a group's messages hang on these
_FACTS = (Detach, RemoveGroup, Handed, Roomy, Drain, Written, Fetched)

_HEAR: dict[type, Callable[[TopicActor, Any, Stamp], None]] = {
    Tick: TopicActor._tick,
    Attach: TopicActor._attach,
    Detach: TopicActor._detach,
    AddGroup: TopicActor._add_group,
    RemoveGroup: TopicActor._remove_group,
    Handed: TopicActor._handed,
    Roomy: TopicActor._roomy,
    Loaded: TopicActor._loaded,
    Copied: TopicActor._copied,
    Ask: TopicActor._ask,
    Keep: TopicActor._keep,
    Delete: TopicActor._delete,
    Drain: TopicActor._drain,
    Reload: TopicActor._reload,
    Retire: TopicActor._hear_retire,
    Written: TopicActor._written,
    Fetched: TopicActor._fetched,
}
