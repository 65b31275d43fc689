"""A topic without its actor: rules, driven turn by turn, with a log and ports made of lists.

What the actor would wait for happens when the test says so: commits end (well or badly),
pages come, ports get room, pieces are written, groups answer.
"""

import json
from collections import deque
from datetime import datetime
from typing import Any

import attrs
from msgspec import Raw

from msg.core.answers import Answer, Answers
from msg.core.batches import PublishBatch
from msg.core.commands import Publish
from msg.core.dedup import DedupWindow
from msg.core.kept import Survived
from msg.core.message import DURABILITIES, Message
from msg.core.replay import _SUB_FIELDS, Group, Reader, Sub
from msg.core.runs import Changes, Copying, Handing, Run, Turn
from msg.core.settings import TopicSettings
from msg.core.topic import Start, TopicRules
from msg.core.wire import IdSource, Stamp
from msg.errors import ClientError

NAME = "news"
EPOCH = 1_764_000_000.0


def body_in(wire: bytes) -> Any:
    return json.loads(b"{%b}" % wire)["message"]


def at_of(message: Message) -> float:
    at = json.loads(b"{%b}" % message.wire)["published_at"]
    return datetime.fromisoformat(at).timestamp()


class Port:
    """A subscriber's end. `got`: (body, seq or 0, replayed) in order of arrival."""

    suffix = b""
    limit_count = 1000
    limit_bytes = 1 << 20

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.got: list[tuple[Any, int, bool]] = []
        self.missed = 0
        self.claims = 0
        self.unwritten: deque[list[int]] = deque()  # pieces of the backlog

    def __repr__(self) -> str:
        return f"<Port {self.name}>"

    @property
    def bodies(self) -> list[Any]:
        return [body for body, _, _ in self.got]


@attrs.define(eq=False)
class Owner:
    """Where answers go, as their publisher sees them."""

    batches: list[PublishBatch] = attrs.field(factory=list)

    def published(self, batch: PublishBatch) -> None:
        assert batch not in self.batches, "answered once"
        self.batches.append(batch)


def publish(body: Any, **fields: Any) -> Publish:
    return Publish(topic=NAME, message=Raw(json.dumps(body).encode()), **fields)


class GroupLog:
    """A group: stores what it is given, each id once. `refuse` makes it answer with errors."""

    def __init__(self, name: str, rig: "Rig") -> None:
        self.name = name
        self.rig = rig
        self.stored: list[Any] = []
        self.ids: dict[str, float] = {}
        self.waiting: deque[PublishBatch] = deque()

    def answer(self, *, refuse: bool = False) -> None:
        batch = self.waiting.popleft()
        assert batch.wires is not None
        batch.errors = batch.duplicates = None
        for i, (message_id, wire) in enumerate(zip(batch.ids, batch.wires, strict=True)):
            if refuse:
                batch.fail(i, ClientError("disk_full", "no room"))
                continue
            named = batch.items[i].message_id is not None
            if named and self._knows(message_id):
                batch.duplicates = [*(batch.duplicates or ()), i]
                continue
            if named:
                self.ids[message_id] = self.rig.now
            self.stored.append(body_in(wire))
        batch.answer()

    def copy(self, messages: list[Message]) -> None:
        for message in messages:
            named = self.rig.rules.remembers(message, self.rig.stamp())
            if not (named and self._knows(message.id)):
                self.stored.append(body_in(message.wire))
            if named:
                self.ids[message.id] = self.rig.now

    def _knows(self, message_id: str) -> bool:
        window = self.rig.settings.dedup_window
        return self.ids.get(message_id, -window) + window > self.rig.now


@attrs.define(eq=False)
class Commit:
    """What is written at one time."""

    messages: list[Message]
    answers: list[Answer]
    dropped: list[int]
    state: dict[str, Any]


class Rig:
    """The rules and their surroundings."""

    def __init__(self, **settings: Any) -> None:
        self.settings = TopicSettings(**settings)
        self.now = 1000.0
        self.ids = IdSource(7)
        self.owner = Owner()
        self.answers = Answers()
        self.dedup = DedupWindow(self.settings.dedup_window, self.settings.dedup_ids)
        self.rules = self._rules(1)
        self.log: dict[int, Message] = {}  # given to the log, and not dropped
        self.durable: dict[int, Message] = {}  # what a restart finds, with `durable_state`
        self.durable_next = 1  # the log tells it: no seq that was ever in it comes again
        self.durable_state: dict[str, Any] = {}
        self.dropped: list[int] = []  # to be written with the next commit
        self.memory: dict[int, Message] = {}
        self.gathered: list[Message] = []
        self.waiting: list[Answer] = []
        self.in_flight: Commit | None = None
        self.finished: list[Answer] = []
        self.pages: deque[tuple[Reader, list[int]]] = deque()
        self.asking: deque[Sub] = deque()  # wait for room
        self.copies: deque[Copying] = deque()
        self.groups: dict[str, GroupLog] = {}
        self.pending: dict[str, list[PublishBatch]] = {}
        self.snapshots: dict[Any, Sub] = {}
        self.group_snapshots: list[Any] = []
        self.line: tuple[Run, ...] = ()
        self.unheard: list[range] | None = None
        self.retained = self.history_from = 0
        self.next_seq = 1
        self.oldest_id = 0  # the lowest seq in the dedup window
        self.state: dict[str, Any] = {}  # as it is in the log
        self.rules.recall([], {}, None, self.stamp())
        self.turns = 0

    def _rules(self, next_seq: int) -> TopicRules:
        return TopicRules(
            NAME, self.settings, next_seq=next_seq, dedup=self.dedup, answers=self.answers
        )

    def stamp(self) -> Stamp:
        return Stamp(self.now, self.now + EPOCH, self.ids)

    # -- one turn ---------------------------------------------------------------------------

    def publish(self, *items: Publish, durability: str | None = None) -> PublishBatch:
        """In this turn; `turn` ends it."""
        level = None if durability is None else DURABILITIES[durability]
        batch = PublishBatch(self.owner, list(items), level, 0)
        self.rules.publish(batch, self.stamp())
        return batch

    def send(self, *bodies: Any, durability: str | None = None, **fields: Any) -> PublishBatch:
        """Publish in a turn of its own."""
        batch = self.publish(*[publish(b, **fields) for b in bodies], durability=durability)
        self.turn()
        return batch

    def attach(self, port: Port, start: Start = None, *, exact: bool = True) -> Port:
        self.rules.attach(port, exact, start)
        return port

    def join(self, start: Start = None, *, exact: bool = True, name: str = "") -> Port:
        """Attach in a turn of its own."""
        port = self.attach(Port(name), start, exact=exact)
        self.turn()
        return port

    def leave(self, port: Port) -> None:
        self.rules.detach(port)
        port.unwritten.clear()
        self.turn()

    def add_group(self, name: str, start: Start = None) -> GroupLog:
        group = self.groups[name] = GroupLog(name, self)
        self.rules.add_group(group, name, start)
        return group

    def turn(self) -> None:
        """End the turn: carry it out as the actor does."""
        self.turns += 1
        rules = self.rules
        rules.go_on()
        turn = rules.end_turn()
        changes = turn.changes
        if changes is None:
            self._is_as_it_was()
        else:
            self._keep_books(changes)
        self._deliver(turn)
        if changes is not None:
            self._to_groups(changes)
        for answer in turn.owed:
            self.answers.owe(answer)
        finished, self.finished = self.finished, []
        for answer in finished:
            answer.answer()
        for reader, seqs in () if changes is None else changes.pages:
            if isinstance(reader, Sub) and not reader.claimed:
                self.asking.append(reader)
            else:
                self.pages.append((reader, seqs))
        if not self.gathered and self.in_flight is None:
            waiting, self.waiting = self.waiting, []
            for answer in waiting:
                answer.answer()

    def _keep_books(self, changes: Changes) -> None:
        for message in changes.logged:
            self.log[message.seq] = message
        self.gathered += changes.logged
        for seq in [*changes.settled, *[seq for _, seqs in changes.drops for seq in seqs]]:
            assert self.log.pop(seq, None) is not None, f"{seq} is settled once"
            self.dropped.append(seq)
        for message in changes.kept:
            self.memory[message.seq] = message
        for seq in changes.unkept:
            del self.memory[seq]
        self.waiting += changes.waiting
        rules = self.rules
        for port in changes.subs:
            sub = rules.subs.get(port)
            if sub is None:
                self.snapshots.pop(port, None)
            else:
                self.snapshots[port] = sub.snapshot()
        self.group_snapshots = [group.snapshot() for group in rules.groups.values()]
        self.line = tuple(rules.line)
        self.unheard = rules.backlog.ranges()
        self.retained = rules.kept.retained
        self.history_from = rules.kept.history_from
        self.next_seq = rules.kept.next_seq
        self.oldest_id = self.dedup.oldest_seq(0)
        if changes.state:
            self.state = json.loads(json.dumps(rules.state()))
        self.dedup.confirm()

    def _is_as_it_was(self) -> None:
        """A turn that notes no changes: what the actor remembers, and does not look at then,
        still holds."""
        rules = self.rules
        assert self.snapshots.keys() == rules.subs.keys()
        for port, sub in rules.subs.items():
            assert _fields(self.snapshots[port]) == _fields(sub)
        assert list(map(_of_group, self.group_snapshots)) == [
            _of_group(group.snapshot()) for group in rules.groups.values()
        ]
        assert self.line == tuple(rules.line)
        kept = rules.kept
        assert (self.unheard or []) == kept.backlog.ranges()
        assert (self.retained, self.history_from, self.next_seq) == (
            kept.retained,
            kept.history_from,
            kept.next_seq,
        )
        assert self.memory == kept.memory
        assert self.oldest_id == self.dedup.oldest_seq(0)
        assert not self.dedup._unsure

    def _deliver(self, turn: Turn) -> None:
        for entry in turn.deliveries:
            if isinstance(entry, Handing):
                port: Any = entry.port
                port.missed += entry.missed
                port.claims -= entry.page
                assert port.claims >= 0
                port.got += [(body_in(m.wire), m.seq, True) for m in entry.messages]
                if entry.taken:
                    port.unwritten.append(entry.taken)
                continue
            run, ports = entry
            for port in ports:
                seqs = run.seqs or [0] * len(run.wires)
                port.got += [
                    (body_in(wire), seq, False) for wire, seq in zip(run.wires, seqs, strict=True)
                ]

    def _to_groups(self, changes: Changes) -> None:
        for group in changes.caught_up:
            self.groups[group.name].waiting.extend(self.pending.pop(group.name, ()))
        for passing, groups in changes.passings:
            for group in groups:
                batch = passing.batch_for(group.name, self.answers)
                if group.copy is None:
                    self.groups[group.name].waiting.append(batch)
                else:
                    self.pending.setdefault(group.name, []).append(batch)
        self.copies += changes.copies

    # -- what happens around it -------------------------------------------------------------

    def begin(self) -> None:
        if self.in_flight is None and (self.gathered or self.waiting or self.other):
            self.in_flight = Commit(self.gathered, self.waiting, self.dropped, self.state)
            self.gathered, self.waiting, self.dropped = [], [], []

    def finish(self, *, fail: bool = False) -> list[Message]:
        """The commit under way ends. Returns what was in it."""
        assert self.in_flight is not None
        commit, self.in_flight = self.in_flight, None
        if fail:
            for message in commit.messages:
                self.log.pop(message.seq, None)
            self.dropped = [*commit.dropped, *self.dropped]
            error = ClientError("disk_full", "no room")
            self.rules.failed(commit.messages, [*commit.answers, *self.waiting], error)
        else:
            self._write(commit)
            self.rules.committed(commit.messages)
        self.finished += commit.answers
        self.turn()
        return commit.messages

    @property
    def other(self) -> bool:
        """Whether there is something to be written that nobody waits for."""
        return bool(self.dropped) or self.state != self.durable_state

    def _write(self, commit: "Commit") -> None:
        self.durable.update({m.seq: m for m in commit.messages})
        self.durable_next = max([self.durable_next, *(m.seq + 1 for m in commit.messages)])
        for seq in commit.dropped:
            self.durable.pop(seq, None)
        self.durable_state = commit.state

    def commit(self, *, fail: bool = False) -> None:
        """All that has gathered is written."""
        while self.in_flight is not None or self.gathered or self.other:
            self.begin()
            self.finish(fail=fail and bool(self.in_flight and self.in_flight.messages))

    def grant(self) -> None:
        """The next port that waits for room has some."""
        sub = self.asking.popleft()
        if sub.port in self.rules.subs:
            sub.port.claims += 1  # type: ignore[attr-defined]
            self.rules.audience.roomy(sub.port)
        self.turn()

    def load(self) -> None:
        """The next page comes."""
        reader, seqs = self.pages.popleft()
        messages = [self.log.get(seq) or self.memory.get(seq) for seq in seqs]
        for message in messages:
            assert message is None or message.seq in self.memory or message.seq in self.durable
        self.rules.audience.loaded(
            reader, [m for m in messages if m is not None], seqs[-1], self.stamp()
        )
        self.turn()

    def write(self, port: Port, *, dropped: bool = False) -> None:
        """The oldest piece that waits in a port is written, or dropped there."""
        taken = port.unwritten.popleft()
        self.rules.audience.written(port, taken, kept=dropped)
        self.turn()

    def copy(self, *, refuse: bool = False) -> None:
        """A group answers for the page of what was kept that it was given."""
        page = self.copies.popleft()
        if self.groups.get(page.group.name) is not page.group.queue:
            self.turn()
            return  # it was removed before it had this
        error = ClientError("disk_full", "no room") if refuse else None
        group = page.group.queue
        if error is None:
            group.copy(page.messages)
        self.rules.audience.copied(page, error, self.now)
        self.turn()

    def settle(self) -> None:
        """Everything that can happen, happens, well."""
        for _ in range(10_000):
            if self.in_flight is not None or self.gathered or self.other:
                self.commit()
            elif self.asking:
                self.grant()
            elif self.pages:
                self.load()
            elif self.copies:
                self.copy()
            elif any(group.waiting for group in self.groups.values()):
                next(g for g in self.groups.values() if g.waiting).answer()
            else:
                self.now += 2.0
                self.rules.tick(self.stamp())
                self.turn()
                quiet = not (self.gathered or self.asking or self.pages or self.copies)
                quiet = quiet and not self.other
                if quiet and not any(group.waiting for group in self.groups.values()):
                    return
        raise AssertionError("it never comes to rest")

    # -- crashes ----------------------------------------------------------------------------

    def crash(self) -> None:
        """The actor fails in the middle of a turn, and is started anew."""
        self.dedup.rollback()
        finished: list[Commit] = []
        while self.in_flight is not None or self.gathered or self.waiting or self.other:
            self.begin()
            assert self.in_flight is not None
            self._write(self.in_flight)
            finished.append(self.in_flight)
            self.in_flight = None
        retaining = [0 if m is None else m.seq for run in self.line for m in run.retains]
        unheard = self.unheard or []
        self._read_again(
            self.next_seq,
            Survived(self.memory, self.retained, retaining, unheard, self.history_from),
        )
        self.rules.restore(self.snapshots.values(), self.group_snapshots, self.line)
        self.pages.clear()
        for commit in finished:
            self.rules.committed(commit.messages)
            self.finished += commit.answers
        self.rules.known = max(self.rules.known, self.rules.logged_to)
        for sub in self.asking:
            if sub.port in self.rules.subs:
                sub.port.claims += 1  # type: ignore[attr-defined]
                self.rules.audience.roomy(sub.port)
        self.asking.clear()
        self.turn()

    def restart(self) -> None:
        """The broker stops without a word, and starts again: only the log is left."""
        self.log = dict(self.durable)
        self.state = self.durable_state
        self.memory, self.gathered, self.waiting, self.dropped = {}, [], [], []
        self.in_flight = None
        self.pages.clear()
        self.asking.clear()
        self.copies.clear()
        self.pending.clear()
        self.groups.clear()
        self.snapshots.clear()
        self.answers = Answers()
        self.dedup = DedupWindow(self.settings.dedup_window, self.settings.dedup_ids)
        self.retained = 0
        self._read_again(self.durable_next, None)
        self.turn()

    def _read_again(self, next_seq: int, survived: Survived | None) -> None:
        there = sorted([*self.log.values(), *self.memory.values()], key=lambda m: m.seq)
        runs = [(m.seq, [len(m.wire)], at_of(m)) for m in there]
        self.rules = self._rules(next_seq)
        self.rules.recall(runs, self.state, survived, self.stamp())

    # -- checking ---------------------------------------------------------------------------

    def check(self) -> None:
        """Everything that is stored has a role, and the other way round."""
        kept = self.rules.kept
        roles = set(self.rules.kept.backlog.seqs())
        if kept.history is not None:
            roles |= set(kept.history.seqs())
        roles |= {seq for seq in (kept.retained, *kept.retaining) if seq}
        there = {*self.log, *self.memory}
        assert roles == there, f"roles {sorted(roles)}, stored {sorted(there)}"


def _fields(sub: Sub) -> list[Any]:
    return [getattr(sub, name) for name in _SUB_FIELDS]


def _of_group(group: Group) -> list[Any]:
    copy = group.copy
    walk = None if copy is None else [getattr(copy, name) for name in Reader.__slots__]
    return [group.name, group.number, group.given, group.retry_at, walk]
