"""The rules of a queue once more, as simply as they can be said: one list, searched.

The model is told the commands before the ledger hands out, and learns from each turn what was
a free choice: to whom a message went, and when an expired one was met. All else it predicts.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from msg.core.batches import PublishBatch
from msg.core.books import Turn
from msg.core.commands import BarePublish
from msg.core.message import Message
from tests.core.ledger_kit import Desk, Publisher, Worker, body_of

GONE = {"settled", "dead", "expired", "dropped", "purged", "lost", "failed", "stopped"}


@attrs.define(eq=False)
class Copy:
    """One message. `state` is committing, delayed, ready, leased, leaving, arriving, or how
    it ended."""

    seq: int
    body: int
    level: int
    priority: int = 4
    due: float = 0.0
    due_wall: float = 0.0  # as the log knows it
    published_due: float = 0.0
    expires: float = 0.0
    key: str = ""
    state: str = "committing"
    attempts: int = 0
    returned: str = ""
    logged_returned: str = ""  # as the log knows it
    holder: Worker | None = None
    until: float = 0.0
    late_for: Worker | None = None
    was_committed: bool = False

    @property
    def suspect(self) -> bool:
        return self.returned == "disconnect" and self.attempts >= 2

    @property
    def place(self) -> tuple[int, int]:
        return (-self.priority, self.seq)


@attrs.define(eq=False)
class Client:
    """One consumer."""

    worker: Worker
    prefetch: int
    ack_timeout: float
    auto: bool
    pull_left: int = -1
    pull_until: float = 0.0
    pulled: int = 0
    suspended: bool = False


@attrs.define(eq=False)
class Item:
    """One item of a publish, and what is to be answered."""

    publish: BarePublish
    outcome: str = ""  # "" = parked
    seq: int = 0  # its own, or that of which it is a duplicate


class Model:
    """See the module. `desk` is only looked at: for the time, the turn, and what is cold."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.copies: list[Copy] = []
        self.clients: dict[Worker, Client] = {}
        self.ids: dict[str, tuple[int, int, float]] = {}  # body, seq, at
        self.next_seq = 1
        self.parked: list[tuple[float, int, list[Item]]] = []  # until, level, items
        self.unanswered: dict[tuple[Publisher, bool], deque[Item]] = {}
        # of this turn
        self.acked: set[int] = set()
        self.lapsed: set[int] = set()
        self.failures = 0

    # -- looking --------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.desk.now

    def get(self, seq: int) -> Copy:
        return next(c for c in reversed(self.copies) if c.seq == seq)

    def those(self, *states: str) -> list[Copy]:
        return [c for c in self.copies if c.state in states]

    def held_by(self, worker: Worker) -> list[Copy]:
        return [c for c in self.copies if c.state == "leased" and c.holder is worker]

    @property
    def live(self) -> int:
        return len([c for c in self.copies if c.state not in GONE])

    def is_expired(self, c: Copy) -> bool:
        return 0 < c.expires <= self.desk.wall

    def is_spent(self, c: Copy) -> bool:
        most = self.desk.settings.max_deliveries
        return bool(most and self.desk.dead_name) and c.attempts >= most

    # -- publishing -----------------------------------------------------------------------

    def publish(self, batch: PublishBatch, level: int) -> None:
        items = [Item(p) for p in batch.items]
        assert isinstance(batch.origin, Publisher)
        self.unanswered.setdefault((batch.origin, level > 0), deque()).extend(items)
        if self.parked:
            self.parked.append((self.now + 30.0, level, items))
        else:
            self._admit(level, items, self.now + 30.0)

    def _admit(self, level: int, items: list[Item], until: float) -> bool:
        """Whether all have an outcome; else the rest is parked, in first place."""
        for i, item in enumerate(items):
            if self._is_known(item):
                continue
            most = self.desk.settings.max_messages
            policy = self.desk.settings.overflow
            if most and self.live >= most and policy != "drop_oldest":
                if policy == "block":
                    self.parked.insert(0, (until, level, items[i:]))
                    return False
                item.outcome = "queue_full"
                continue
            self._accept(item, level)
        return True

    def _is_known(self, item: Item) -> bool:
        p = item.publish
        entry = self.ids.get(p.message_id) if p.message_id is not None else None
        if entry is None or entry[2] + self.desk.settings.dedup_window <= self.now:
            return False
        body, seq, _ = entry
        item.outcome = "dup" if body == int(bytes(p.message)) else "id_conflict"
        item.seq = seq
        return True

    def _accept(self, item: Item, level: int) -> None:
        p = item.publish
        c = Copy(self.next_seq, int(bytes(p.message)), level)
        c.priority = 4 if p.priority is None else p.priority
        if p.delay:
            c.due, c.due_wall = self.now + p.delay, self.desk.wall + p.delay
            c.published_due = c.due_wall
        if p.ttl is not None:
            c.expires = self.desk.wall + p.ttl
        self.next_seq += 1
        self.copies.append(c)
        item.outcome, item.seq = "ok", c.seq
        if p.message_id is not None:
            self.ids[p.message_id] = (c.body, c.seq, self.now)
        if not level:
            self._enter(c)

    def _enter(self, c: Copy) -> None:
        c.was_committed = True
        c.state = "delayed" if c.due > self.now else "ready"

    def unpark(self) -> None:
        most = self.desk.settings.max_messages
        while self.parked and self.live < most:
            until, level, items = self.parked.pop(0)
            if not self._admit(level, items, until):
                return

    def _end_parking(self) -> None:
        while self.parked and self.parked[0][0] <= self.now:
            for item in self.parked.pop(0)[2]:
                if not self._is_known(item):
                    item.outcome = "queue_full"

    def committed(self, seqs: Iterable[int]) -> None:
        for seq in seqs:
            c = self.get(seq)
            c.was_committed = True
            if c.key:
                c.state = "arriving"
            else:
                self._enter(c)

    def failed(self, seqs: Sequence[int]) -> None:
        for seq in seqs:
            c = self.get(seq)
            c.state = "failed"
            for message_id, entry in list(self.ids.items()):
                if entry[1] == seq and not c.key:
                    del self.ids[message_id]

    def answered(self, batch: PublishBatch) -> None:
        """Each kind in the order of its requests, and each as it happened."""
        assert isinstance(batch.origin, Publisher)
        queue = self.unanswered[batch.origin, bool(batch.durability)]
        errors, duplicates = batch.errors or {}, batch.duplicates or ()
        for i, p in enumerate(batch.items):
            item = queue.popleft()
            assert item.publish is p, "answers out of order"
            told = errors[i].code if i in errors else "dup" if i in duplicates else "ok"
            expected = item.outcome
            if expected in ("ok", "dup"):
                c = self.get(item.seq)
                if c.state == "failed":
                    expected = "disk_full"
                else:
                    assert c.was_committed, "acked, and not yet kept"
            assert told == expected, (told, expected)

    # -- consumers ------------------------------------------------------------------------

    def attach(self, client: Client) -> None:
        self.clients[client.worker] = client

    def detach(self, worker: Worker, handed: set[int]) -> None:
        del self.clients[worker]
        for c in self.held_by(worker):
            if c.seq in handed and not self.desk.ledger.draining:
                self._fail(c, "disconnect", count=True, delay=0.0)
            else:
                self._back(c)

    def stop(self, worker: Worker, unsent: Iterable[int]) -> None:
        for seq in unsent:
            self._back(self.get(seq))
        self.clients[worker].pull_left = 0
        self._freed(worker)

    def ack(self, worker: Worker, seqs: Sequence[int], leased: set[int]) -> None:
        """`leased`: those whose present lease is meant."""
        for seq in seqs:
            c = self.get(seq)
            if (c.state == "leased" and c.holder is worker and seq in leased) or (
                c.late_for is worker and c.state in ("ready", "delayed")
            ):
                self._end(c, "settled")
                self.acked.add(seq)
            else:
                self.failures += 1
        self._alive(worker)

    def nack(
        self, worker: Worker, seqs: Sequence[int], *, delay: float | None, requeue: bool,
        count: bool,
    ) -> None:  # fmt: skip
        for seq in seqs:
            c = self.get(seq)
            if requeue:
                self._fail(c, "nack", count=count, delay=delay)
            else:
                c.attempts += count
                c.returned = "nack"
                self._bury(c)
        self._alive(worker)

    def touch(self, worker: Worker, seqs: Sequence[int]) -> None:
        for seq in seqs:
            timeout = self.clients[worker].ack_timeout
            if timeout:
                self.get(seq).until = self.now + timeout
        self._alive(worker)

    def written(self, worker: Worker, seqs: Iterable[int]) -> None:
        client = self.clients[worker]
        for seq in seqs:
            c = self.get(seq)
            if client.auto:
                self._end(c, "settled")
                self.acked.add(seq)
            elif client.ack_timeout:
                c.until = self.now + client.ack_timeout
        if client.auto:
            self._alive(worker)

    def _alive(self, worker: Worker) -> None:
        if worker in self.clients:
            self.clients[worker].suspended = False
            self._freed(worker)

    def _freed(self, worker: Worker) -> None:
        if self.clients[worker].pull_left == 0 and not self.held_by(worker):
            del self.clients[worker]

    # -- coming back ----------------------------------------------------------------------

    def _back(self, c: Copy) -> None:
        """Uncounted: it is what it was."""
        c.state, c.holder, c.until, c.due = "ready", None, 0.0, 0.0

    def _fail(self, c: Copy, why: str, *, count: bool, delay: float | None) -> None:
        holder = c.holder
        self._back(c)
        c.returned = why
        c.late_for = holder if why == "deadline" else None
        backoff = self.desk.settings.backoff
        if count:
            c.attempts += 1
            c.logged_returned = why
            c.due_wall = c.published_due
            if self.is_spent(c):
                self._bury(c)
                return
            if delay is None and backoff:
                delay = backoff[min(c.attempts, len(backoff)) - 1]
        if delay:
            c.logged_returned = why
            c.state = "delayed"
            c.due, c.due_wall = self.now + delay, self.desk.wall + delay

    def _bury(self, c: Copy) -> None:
        if self.desk.dead_name:
            c.state, c.holder, c.late_for = "leaving", None, None
            c.logged_returned = c.returned
        else:
            self._end(c, "dropped")

    def _end(self, c: Copy, how: str) -> None:
        c.state, c.holder, c.late_for = how, None, None

    def tick(self, stalled: float) -> None:
        for c in self.those("leased"):
            if c.until:
                c.until += stalled
        for c in self.those("leased"):
            if 0 < c.until <= self.now:
                assert c.holder is not None
                worker = c.holder
                self._fail(c, "deadline", count=True, delay=None)
                self.lapsed.add(c.seq)
                self.clients[worker].suspended = True
        for worker in list(self.clients):
            self._freed(worker)
        for c in self.those("delayed"):
            if c.due <= self.now:
                c.state = "ready"
        self._end_parking()

    def purge(self) -> int:
        gone = self.those("ready", "delayed")
        for c in gone:
            self._end(c, "purged")
        return len(gone)

    # -- moves ----------------------------------------------------------------------------

    def arrive(self, key: str, message: Message) -> bool:
        if any(c.key == key and c.state not in GONE for c in self.copies):
            return False
        c = Copy(self.next_seq, body_of(message), message.durability, message.priority, key=key)
        self.next_seq += 1
        self.copies.append(c)
        if not c.level:
            c.state = "arriving"
        return True

    def release(self, key: str) -> None:
        for c in self.those("arriving"):
            if c.key == key:
                c.state = "ready"

    def moved(self, seq: int) -> None:
        self._end(self.get(seq), "dead")

    def lost(self, seq: int) -> None:
        self._end(self.get(seq), "lost")

    # -- crashes --------------------------------------------------------------------------

    def crash(self) -> None:
        self.committed([c.seq for c in self.those("committing")])
        for c in self.copies:
            c.late_for = None
            if c.level and c.state in ("ready", "delayed"):
                c.returned = c.logged_returned
            if c.level and c.state in ("ready", "delayed") and c.due_wall:
                c.due = self.now + c.due_wall - self.desk.wall
                c.state = "delayed" if c.due > self.now else "ready"
            elif c.state == "delayed" and c.due <= self.now:
                c.state = "ready"
        for worker in list(self.clients):
            self._freed(worker)
        parked, self.parked = self.parked, []
        for _, level, items in parked:
            if self.parked:
                self.parked.append((self.now + 30.0, level, items))
            elif not self._admit(level, items, self.now + 30.0):
                pass

    def restart(self) -> None:
        self.clients.clear()
        self.ids.clear()
        self.committed([c.seq for c in self.those("committing")])
        for c in self.copies:
            if c.state in GONE:
                continue
            if not c.level:
                self._end(c, "stopped")
            elif c.state in ("leased", "leaving", "arriving"):
                self._back(c)
        assert not self.parked
        self.crash()

    # -- what a turn did ------------------------------------------------------------------

    def check(self, turn: Turn, results: Sequence[Any] = ()) -> None:
        """Compare a turn that was carried out with what may and what must happen."""
        self._check_moves(turn)
        self._check_ends(turn)
        self._check_lapses(turn)
        self._check_deliveries(turn)
        self._check_pulls(turn)
        self._check_nobody_is_kept_waiting(turn)
        self._check_states()
        self._check_wake()
        self.acked, self.lapsed, self.failures = set(), set(), 0

    def _check_moves(self, turn: Turn) -> None:
        for to, key, moved in turn.moves:
            source, seq, attempts = key.split(":")
            c = self.get(int(seq))
            if c.state == "ready":
                # found when it was read from the log, or as it was to be handed out
                expires = self.desk.settings.dead_letter_expired and self.is_expired(c)
                assert self.is_spent(c) or expires
                self._bury(c)
            assert c.state == "leaving"
            assert (source, to, int(attempts)) == (
                self.desk.name, self.desk.dead_name, c.attempts
            )  # fmt: skip
            assert (moved.priority, moved.durability, body_of(moved)) == (
                c.priority, c.level, c.body
            )  # fmt: skip

    def _check_ends(self, turn: Turn) -> None:
        assert set(turn.settled) == {s for s in self.acked if self.get(s).level}
        for why, seqs in turn.drops:
            for seq in seqs:
                self._learn_end(self.get(seq), why)
        for seq in turn.unkept:
            c = self.get(seq)
            self._learn_end(c, "expired" if self.is_expired(c) else "dropped: the queue was full")

    def _learn_end(self, c: Copy, why: str) -> None:
        if c.state in GONE:
            return  # predicted
        if why == "expired":
            assert c.state == "ready"
            assert self.is_expired(c)
            self._end(c, "expired")
        else:
            assert why == "dropped: the queue was full"
            assert self.desk.settings.overflow == "drop_oldest"
            assert c.state in ("ready", "delayed")
            if c.state == "ready" and not c.suspect:
                here = {m.seq for m in self.desk.ledger.waiting.ready}
                older = [o for o in self._line(c) if o.seq < c.seq and o.seq in here]
                assert not older, "a younger one was dropped before an older one"
            self._end(c, "dropped")

    def _check_lapses(self, turn: Turn) -> None:
        assert {m.seq for _, messages in turn.lapsed for m in messages} == self.lapsed

    def _line(self, beside: Copy) -> list[Copy]:
        """Those in line. One of the same priority that came due and is still being read takes
        its place when it has been read."""
        due = self.desk.ledger.waiting.cold.due.get(beside.priority)
        unread = set(due) if due is not None else set()
        return [
            c
            for c in self.those("ready")
            if not (c.suspect or self.is_expired(c) or self.is_spent(c))
            and not (c.priority == beside.priority and c.seq in unread)
        ]

    def _check_deliveries(self, turn: Turn) -> None:
        stopped = self.desk.ledger.paused or self.desk.ledger.draining
        assert not (stopped and turn.deliveries)
        for port, messages, size in turn.deliveries:
            assert isinstance(port, Worker)
            client = self.clients[port]
            assert not client.suspended
            assert sum(len(m.wire) for m in messages) == size
            room = port.room + sum(s for p, _, s in turn.deliveries if p is port)
            assert room > 0
            assert size <= room or len(messages) == 1
            for message in messages:
                self._check_delivery(client, message)

    def _check_delivery(self, client: Client, message: Message) -> None:
        c = self.get(message.seq)
        assert c.state == "ready", c
        assert not self.is_expired(c)
        assert not self.is_spent(c)
        assert (body_of(message), message.attempts, message.returned, message.until) == (
            c.body, c.attempts, c.returned, 0.0
        )  # fmt: skip
        held = self.held_by(client.worker)
        assert len(held) < client.prefetch
        assert client.pull_left != 0
        assert not any(h.suspect for h in held), "a suspect is held alone"
        if c.suspect:
            assert not held
        else:
            first = min(self._line(c), key=lambda c: c.place)
            assert c is first, f"{first} goes before {c}"
        c.state, c.holder, c.late_for, c.until = "leased", client.worker, None, 0.0
        if client.pull_left > 0:
            client.pull_left -= 1
            client.pulled += 1

    def _check_pulls(self, turn: Turn) -> None:
        ledger = self.desk.ledger
        stopped = ledger.paused or ledger.draining
        for port, count in turn.pulled:
            assert isinstance(port, Worker)
            client = self.clients[port]
            assert count == client.pulled
            assert not client.pull_left or client.pull_until <= self.now or ledger.draining
            client.pull_left = 0
            self._freed(port)
        for client in self.clients.values():
            if client.pull_left > 0 and client.pull_until <= self.now:
                assert len(ledger.waiting.cold) or ledger.committing
                assert not stopped

    def _check_nobody_is_kept_waiting(self, turn: Turn) -> None:
        """Work is conserved: no consumer could take what is ready and in memory."""
        ledger = self.desk.ledger
        if ledger.paused or ledger.draining:
            return
        given = sum(size for _, _, size in turn.deliveries)
        suspects = [c for c in self.those("ready") if c.suspect and not self.is_expired(c)]
        in_memory = {m.seq for m in ledger.waiting}
        suspects = [c for c in suspects if c.seq in in_memory]
        line = [c for c in self.those("ready") if c.seq in in_memory and not c.suspect]
        floor = ledger.waiting.cold.floor
        line = [c for c in line if c.priority >= floor]
        aside = {m.seq for m in ledger.waiting.cold.asides}
        line = [c for c in line if c.seq not in aside]
        for client in self.clients.values():
            held = self.held_by(client.worker)
            taken = sum(size for port, _, size in turn.deliveries if port is client.worker)
            room = client.worker.room + taken - given
            can = (
                not client.suspended
                and client.pull_left != 0
                and len(held) < client.prefetch
                and not any(h.suspect for h in held)
                and room > 0
            )
            if can and not held:
                assert not suspects, "a suspect waits, and an empty consumer too"
            if can and not ledger.consumers[client.worker].dry:
                assert not line, f"{line[0]} waits, and so does {client.worker}"
            if ledger.consumers[client.worker].dry:
                assert held
                assert ledger.waiting.has_suspects

    def _check_states(self) -> None:
        ledger = self.desk.ledger
        states = ledger.states()
        mine = {name: len(self.those(name)) for name in states}
        assert states == mine, f"{states}, but it should be {mine}"
        assert ledger.live == self.live
        memory = [c for c in self.copies if not c.level and c.state not in GONE]
        kept = [*self.desk.kept.values(), *self.desk.in_runs()]
        assert {m.seq for m in kept} == {c.seq for c in memory}
        assert len(kept) == len(memory)
        assert ledger.memory_bytes == sum(len(m.wire) for m in kept)
        assert set(ledger.consumers) == set(self.clients)
        for worker in self.clients:
            theirs = {m.seq for m in ledger.consumers[worker].leases.values()}
            assert theirs == {c.seq for c in self.held_by(worker)}
            assert set(worker.held) == theirs
        most = self.desk.settings.max_messages
        if any(c.key for c in self.copies):
            most = 0  # moves in are not limited
        if most and self.desk.settings.overflow == "drop_oldest" and ledger.live > most:
            assert not ledger.ready, "it is over its limit, and could drop some"
            # what has not been read from the log can't be dropped yet; what is published over
            # the limit meanwhile goes as soon as it is ready
            waiting = ledger.waiting
            assert len(waiting.cold) or not (waiting.delayed.hot or ledger.suspects)

    def _check_wake(self) -> None:
        """It asks to be woken in time for whatever comes next."""
        times = [c.until for c in self.those("leased")]
        times += [c.due for c in self.those("delayed")]
        times += [until for until, _, _ in self.parked]
        times += [c.pull_until for c in self.clients.values() if c.pull_left > 0]
        times = [t for t in times if t > self.now]
        if times:
            assert self.desk.ledger.wake_at <= min(times) + 1e-5
