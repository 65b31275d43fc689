"""The rules of a topic against a naive model, by Hypothesis.

The model keeps plain lists and knows for each subscriber the set of what it is to hear. What
must hold at any time: what is kept, and why; that a subscriber hears in the order of
publishing, nothing twice, and nothing that is not for it. At rest: that it has heard all of
it, and that each publisher has its answers, in order.
"""

from typing import Any

import attrs
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from msg.core.batches import PublishBatch
from msg.core.message import MEMORY
from msg.core.names import has_wildcard
from tests.core.topic_rig import EPOCH, Port, Rig, publish

GROUPS = ("news@a", "news@b", "*@w")


@attrs.define(eq=False)
class Entry:
    """One message, as its publisher sees it."""

    n: int  # in the order of publishing
    body: str
    seq: int = 0
    heard: bool = False
    has_hearers: bool = False
    logged: bool = False
    written: bool = False
    lost: bool = False
    size: int = 0
    at: float = 0.0
    expires: float = 0.0
    retain: bool = False
    clears: bool = False


@attrs.define(eq=False)
class Hearer:
    """What one subscriber must hear, and what it may hear besides: what left the topic before
    it came to be read."""

    port: Any
    must: dict[str, Entry] = attrs.field(factory=dict)
    may: dict[str, Entry] = attrs.field(factory=dict)
    replayed: dict[str, Entry] = attrs.field(factory=dict)  # of `must`, what it must read
    reads_to: int = 0  # what the history has below this seq, it reads there

    def excuse(self, entry: Entry) -> None:
        """It has left the topic: it need not be heard any more if it had still to be read."""
        if entry.body in self.replayed and entry.body in self.must:
            self.may[entry.body] = self.must.pop(entry.body)

    def check(self, entries: dict[str, Entry]) -> None:
        got = self.port.bodies
        order = [entries[body].n for body in got]
        assert order == sorted(set(order)), f"{self.port} heard {got}"
        for body, seq, _ in self.port.got:
            assert seq == entries[body].seq
            assert body in self.must or body in self.may, f"{self.port} heard {body}"


class TopicMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, Entry] = {}
        self.line: list[Entry] = []
        self.backlog: list[Entry] = []
        self.history: list[Entry] = []
        self.retained: Entry | None = None
        self.hearers: list[Hearer] = []
        self.window: dict[str, tuple[str, float, Entry | None]] = {}
        self.batches: list[tuple[PublishBatch, list[Entry | None]]] = []
        self.groups: dict[str, Hearer] = {}
        self.refused = False
        self.bodies_of: dict[str, tuple[str, float]] = {}
        self.count = 0
        self.serial = 0

    @initialize(
        history=st.sampled_from([{}, {"history_messages": 4}, {"history_bytes": 50_000},
                                 {"history_seconds": 300}, {"history_messages": 1000}]),
        backlog=st.sampled_from([3, 1000]),
    )  # fmt: skip
    def begin(self, history: dict[str, Any], backlog: int) -> None:
        self.rig = Rig(backlog_messages=backlog, backlog_seconds=400, **history)

    # -- the model --------------------------------------------------------------------------

    @property
    def is_heard(self) -> bool:
        return bool(self.hearers or self.groups)

    @property
    def keeps_history(self) -> bool:
        return self.rig.settings.history

    def _release(self) -> None:
        while self.line and (not self.line[0].logged or self.line[0].written or self.line[0].lost):
            entry = self.line.pop(0)
            if entry.lost:
                continue
            if entry.retain or entry.clears:
                if self.retained not in (None, *self.backlog, *self.history):
                    self._optional(self.retained)
                self.retained = entry if entry.retain else None
            if entry.heard:
                for hearer in self.hearers:
                    if entry.seq and self.keeps_history and entry.seq < hearer.reads_to:
                        continue
                    (hearer.must if entry.has_hearers else hearer.may)[entry.body] = entry

    def _trim(self) -> None:
        s, wall = self.rig.settings, self.rig.now + EPOCH
        while self.backlog and (
            len(self.backlog) > s.backlog_messages
            or sum(e.size for e in self.backlog) > s.backlog_bytes
            or self.backlog[0].at < wall - s.backlog_seconds
        ):
            self._optional(self.backlog.pop(0))
        while self.history and (
            (s.history_messages and len(self.history) > s.history_messages)
            or (s.history_bytes and sum(e.size for e in self.history) > s.history_bytes)
            or (s.history_seconds and self.history[0].at < wall - s.history_seconds)
        ):
            self._optional(self.history.pop(0))

    def _optional(self, entry: Entry) -> None:
        for hearer in (*self.hearers, *self.groups.values()):
            hearer.excuse(entry)

    def _taken(self, seqs: list[int]) -> None:
        """These have left the backlog."""
        for entry in [e for e in self.backlog if e.seq in seqs]:
            self.backlog.remove(entry)
            if entry is not self.retained and entry not in self.history:
                self._optional(entry)

    def _note(self, batch: PublishBatch, items: list[tuple[Any, str | None]]) -> None:
        """What a publish should have done."""
        s, rig = self.rig.settings, self.rig
        durability = 1 if batch.durability is None else batch.durability
        outcome: list[Entry | None] = []
        kept: list[Entry] = []
        heard = self.is_heard
        for body, item in items:
            p = item
            known = None
            if p.message_id is not None:
                known = self.window.get(p.message_id)
                if known is not None and known[1] + s.dedup_window <= rig.now:
                    known = None
                if known is not None:
                    outcome.append(known[2] if known[0] == body else None)
                    for group in self.groups.values():
                        if known[0] == body and p.ttl != 0 and body not in group.must:
                            group.may[body] = self.entries[body]
                    continue
                self.bodies_of[p.message_id] = (body, rig.now + s.dedup_window)
            self.count += 1
            entry = Entry(self.count, body, heard=heard, at=rig.now + EPOCH)
            entry.has_hearers = bool(self.hearers)
            self.entries[body] = entry
            outcome.append(entry)
            entry.clears = bool(p.retain and body == "null" and p.ttl != 0)
            entry.retain = bool(p.retain and not entry.clears and p.ttl != 0)
            if p.ttl:
                entry.expires = rig.now + EPOCH + p.ttl
            if p.ttl != 0 and (not heard or self.keeps_history or entry.retain):
                kept.append(entry)
                entry.logged = durability != MEMORY
                message = next(
                    m for m in [*rig.rules.turn.new_messages] if b'"%b' % body.encode() in m.wire
                )
                entry.seq, entry.size = message.seq, len(message.wire)
            if p.message_id is not None:
                self.window[p.message_id] = (body, rig.now, entry)
            self.line.append(entry)
            if p.ttl != 0:
                for group in self.groups.values():
                    group.must[body] = entry
        self.batches.append((batch, outcome))
        if self.keeps_history:
            self.history += kept
        if not heard:
            self.backlog += kept
        self._trim()

    # -- what clients do --------------------------------------------------------------------

    bodies = st.lists(
        st.tuples(
            st.sampled_from([0, 0, 0, 20_000]),  # padding
            st.sampled_from([None, None, None, "a", "b", "c"]),  # message id
            st.sampled_from([None, None, None, 0, 50]),  # ttl
            st.sampled_from([None, None, None, True]),  # retain
        ),
        min_size=1,
        max_size=5,
    )

    def _items(self, bodies: list[tuple[int, str | None, int | None, bool | None]]) -> Any:
        items = []
        for padding, message_id, ttl, retain in bodies:
            if message_id is not None and self.groups and message_id not in self.window:
                # an id that is used again while a group still has the first one: another story
                message_id += str(self.serial)
            self.serial += 1
            body = f"m{self.serial}." + "x" * padding
            window = self.rig.settings.dedup_window
            self.window = {i: w for i, w in self.window.items() if w[1] + window > self.rig.now}
            if message_id in self.window:
                body = self.window[message_id][0]  # a retry
            elif self.bodies_of.get(message_id, ("", 0.0))[1] > self.rig.now:
                body = self.bodies_of[message_id][0]  # a retry of what was lost
            items.append((body, publish(body, message_id=message_id, ttl=ttl, retain=retain)))
        return items

    @rule(bodies=bodies, durability=st.sampled_from([None, "stored", "memory"]))
    def publishes(self, bodies: Any, durability: str | None) -> None:
        items = self._items(bodies)
        if durability == "memory" or any(p.message_id is not None for _, p in items):
            # a retry that asks for another durability is another story
            items = [(b, publish(b, ttl=p.ttl, retain=p.retain) if durability == "memory" else p)
                     for b, p in items if b not in self.entries or durability != "memory"]  # fmt: skip
        if not items:
            return
        batch = self.rig.publish(*[p for _, p in items], durability=durability)
        self._note(batch, items)
        self._turn()

    @rule(bodies=bodies, start=st.sampled_from([None, "all", "new"]), again=st.booleans())
    def publishes_subscribes_publishes_in_one_turn(
        self, bodies: Any, start: Any, again: bool
    ) -> None:
        items = [(f"{b}", p) for b, p in self._items(bodies) if p.message_id is None]
        if items:
            self._note(self.rig.publish(*[p for _, p in items]), items)
        self._attach(Port(f"p{len(self.hearers)}"), start, exact=True)
        if again:
            more = self._items([(0, None, None, None)])
            self._note(self.rig.publish(more[0][1]), more)
        self._turn()

    def _turn(self) -> None:
        self.rig.turn()
        self._release()

    @rule(
        start=st.sampled_from([None, None, "new", "all", "last", 3, "time"]),
        exact=st.booleans(),
    )
    def subscribes(self, start: Any, exact: bool) -> None:
        if start == "time":
            start = self.rig.now + EPOCH - 100
        self._attach(Port(f"s{self.count}.{len(self.hearers)}"), start, exact=exact)
        self._turn()

    def _attach(self, port: Port, start: Any, *, exact: bool) -> None:
        self._release()
        hearer = Hearer(port)
        takes = start != "new" and (exact or start == "all") and self.rig.rules.taker is None
        backlog = self.backlog if takes else []
        history = self.history if start not in (None, "new") else []
        released = self.rig.rules.audience.released
        for entry in (*backlog, *history):
            if start == "last":
                last = max([e.seq for e in (*backlog, *history) if e.seq <= released], default=1)
                wanted = entry.seq >= last
            elif isinstance(start, float):
                wanted = entry.at >= start
            elif isinstance(start, int):
                wanted = entry.seq >= start
            else:
                wanted = True
            if wanted:
                hearer.must[entry.body] = entry
        if self.retained is not None and start != "new":
            hearer.must[self.retained.body] = self.retained
        hearer.replayed = dict(hearer.must)
        if start not in (None, "new"):
            hearer.reads_to = self.rig.rules.kept.next_seq
        self.hearers.append(hearer)
        self.rig.attach(port, start, exact=exact)

    @precondition(lambda self: self.hearers)
    @rule(data=st.data())
    def unsubscribes(self, data: Any) -> None:
        self._release()
        hearer = data.draw(st.sampled_from(self.hearers))
        self.hearers.remove(hearer)
        self.rig.leave(hearer.port)
        hearer.check(self.entries)
        self._release()

    # -- groups -----------------------------------------------------------------------------

    @rule(name=st.sampled_from(GROUPS), start=st.sampled_from([None, "all", "new", "last", 2]))
    def makes_a_group(self, name: str, start: Any) -> None:
        if name in self.groups:
            return
        self._release()
        takes = start != "new" and self.rig.rules.taker is None
        takes = takes and (not has_wildcard(name) or start == "all")
        backlog = self.backlog if takes else []
        history = self.history if start not in (None, "new") else []
        released = self.rig.rules.audience.released
        last = max([e.seq for e in (*backlog, *history) if e.seq <= released], default=1)
        low = last if start == "last" else start if isinstance(start, int) else 0
        wanted = {e.body: e for e in (*backlog, *history) if e.seq >= low}
        if self.retained is not None and start in ("all", "last"):
            wanted[self.retained.body] = self.retained
        self.groups[name] = Hearer(name, wanted, replayed=dict(wanted))
        self.rig.add_group(name, start)
        self._turn()

    @precondition(lambda self: self.groups)
    @rule(data=st.data())
    def removes_a_group(self, data: Any) -> None:
        self._release()
        name = data.draw(st.sampled_from(sorted(self.groups)))
        del self.groups[name]
        self.rig.rules.remove_group(name)
        for batch in [*self.rig.groups.pop(name).waiting, *self.rig.pending.pop(name, ())]:
            batch.origin.gone()  # type: ignore[attr-defined]
        self._turn()

    @precondition(lambda self: any(g.waiting for g in self.rig.groups.values()))
    @rule(refuse=st.booleans())
    def group_answers(self, refuse: bool) -> None:
        self.refused = self.refused or refuse
        next(g for g in self.rig.groups.values() if g.waiting).answer(refuse=refuse)

    @precondition(lambda self: self.rig.copies)
    @rule(refuse=st.booleans())
    def group_takes_a_page(self, refuse: bool) -> None:
        group = self.rig.copies[0].group
        if not refuse and self.rig.groups.get(group.name) is group.queue:
            taken = self.rig.copies[0].taken
            self._taken(taken)
        self.rig.copy(refuse=refuse)
        self._release()

    # -- what the surroundings do -----------------------------------------------------------

    @rule()
    def commit_begins(self) -> None:
        self.rig.begin()

    @precondition(lambda self: self.rig.in_flight is not None)
    @rule(fail=st.sampled_from([False, False, True]))
    def commit_ends(self, fail: bool) -> None:
        assert self.rig.in_flight is not None
        messages = [m.seq for m in self.rig.in_flight.messages]
        for entry in self.entries.values():
            if entry.seq in messages and entry.logged:
                entry.written, entry.lost = not fail, fail
                if fail:
                    self._lose(entry)
        self.rig.finish(fail=fail)
        self._release()

    def _lose(self, entry: Entry) -> None:
        self.backlog = [e for e in self.backlog if e is not entry]
        self.history = [e for e in self.history if e is not entry]
        self.window = {i: w for i, w in self.window.items() if w[2] is not entry}
        for hearer in (*self.hearers, *self.groups.values()):
            hearer.excuse(entry)

    @precondition(lambda self: self.rig.asking)
    @rule()
    def port_has_room(self) -> None:
        self.rig.grant()

    @precondition(lambda self: self.rig.pages)
    @rule()
    def page_comes(self) -> None:
        reader, seqs = self.rig.pages[0]
        here = reader in self.rig.rules.audience.readers or any(
            g.copy is reader for g in self.rig.rules.groups.values()
        )
        if here:
            wall = self.rig.now + EPOCH
            for entry in [e for e in self.entries.values() if e.seq and e.seq in seqs]:
                if entry.expires and entry.expires <= wall:
                    self._optional(entry)
                    if reader.takes:
                        self.backlog = [e for e in self.backlog if e is not entry]
        self.rig.load()
        self._release()

    @precondition(lambda self: any(h.port.unwritten for h in self.hearers))
    @rule(data=st.data(), dropped=st.booleans())
    def piece_is_written(self, data: Any, dropped: bool) -> None:
        hearer = data.draw(st.sampled_from([h for h in self.hearers if h.port.unwritten]))
        taken = hearer.port.unwritten[0]
        if not dropped:
            self._taken(taken)
        self.rig.write(hearer.port, dropped=dropped)
        self._release()

    @rule(seconds=st.sampled_from([10, 60, 130, 500]))
    def time_passes(self, seconds: float) -> None:
        if any(group.copy is not None for group in self.rig.rules.groups.values()):
            return  # a copy that takes longer than ids are remembered is another story
        for log in self.rig.groups.values():
            while log.waiting:
                log.answer()
        self.rig.now += seconds
        self._trim()
        self.rig.rules.tick(self.rig.stamp())
        self._turn()

    @rule()
    def actor_crashes(self) -> None:
        note(f"line {[e.body[:8] for e in self.line]}")
        for entry in self.entries.values():
            if entry.logged and not entry.lost:
                entry.written = True
        self.rig.crash()
        self._release()

    @rule()
    def broker_is_killed_and_started(self) -> None:
        """What had been written is there, in its roles; clients are gone."""
        durable = {e.seq: e for e in self.entries.values() if e.seq in self.rig.durable}
        self.rig.restart()
        for entry in self.entries.values():
            if durable.get(entry.seq) is not entry:
                entry.seq, entry.lost = -1, True
        backlog = self.rig.rules.backlog.seqs()
        assert {*backlog} <= {*durable}
        assert {e.seq for e in self.backlog if e.seq > 0} <= {*backlog}
        assert all(not durable[seq].heard for seq in backlog)
        history = self.rig.rules.kept.history
        kept = [] if history is None else history.seqs()
        assert {e.seq for e in self.history if e.seq > 0} <= {*kept}
        if self.retained is not None and self.retained.seq > 0:
            retained = durable[self.rig.rules.kept.retained]
            assert retained.n >= self.retained.n, "a newer one may have been written"
        self.backlog = [durable[seq] for seq in backlog]
        self.history = [durable[seq] for seq in kept]
        self.retained = durable.get(self.rig.rules.kept.retained)
        self._trim()
        self.line, self.hearers, self.batches = [], [], []
        self.groups, self.window, self.bodies_of = {}, {}, {}
        for name in [*self.rig.rules.audience.copies]:
            self.rig.rules.remove_group(name)
        self.rig.turn()

    # -- what must hold ---------------------------------------------------------------------

    @invariant()
    def books_balance(self) -> None:
        if not hasattr(self, "rig"):
            return
        self.rig.check()
        rules = self.rig.rules
        assert rules.backlog.seqs() == [e.seq for e in self.backlog]
        if rules.kept.history is not None:
            assert rules.kept.history.seqs() == [e.seq for e in self.history]
        assert rules.kept.retained == (self.retained.seq if self.retained else 0)
        for hearer in self.hearers:
            hearer.check(self.entries)

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        rig = self.rig
        while rig.in_flight or rig.gathered or rig.asking or rig.pages or rig.copies:
            if rig.in_flight is not None or rig.gathered:
                rig.begin()
                self.commit_ends(fail=False)
            elif rig.asking:
                self.port_has_room()
            elif rig.pages:
                self.page_comes()
            else:
                self.group_takes_a_page(refuse=False)
        for hearer in self.hearers:
            hearer.check(self.entries)
            missing = [body for body in hearer.must if body not in hearer.port.bodies]
            assert not missing, f"{hearer.port} never heard {missing}"
            assert not hearer.port.claims
        self.rig.settle()
        for batch, outcome in self.batches:
            assert batch in self.rig.owner.batches, "answered"
            errors = batch.errors or {}
            for i, entry in enumerate(outcome):
                if i in errors:
                    refused = self.refused or (entry is not None and entry.lost) or entry is None
                    assert refused, errors[i]
        for name, group in self.groups.items():
            stored = self.rig.groups[name].stored
            assert len(stored) == len(set(stored))
            assert {*stored} <= {*group.must, *group.may}
            if not self.refused:
                must = [b for b, e in group.must.items() if not e.lost]
                assert {*must} <= {*stored}, f"{name}: {must} in {stored}"


TestTopic = TopicMachine.TestCase
TestTopic.settings = settings(max_examples=150, stateful_step_count=40)
