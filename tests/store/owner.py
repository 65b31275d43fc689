"""A miniature broker, synchronous: owners of a few logs, and what was promised to clients.

It drives `Log`, `execute` and recovery as the actors do, one step after the other, and
keeps the books that a checker needs: what may be there after a crash, and what must.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import attrs

from msg.core.message import OS, STORED, Attempt, Message
from msg.errors import DiskFull
from msg.store import commit as commits
from msg.store import recovery
from msg.store.disk import Disk
from msg.store.log import Commit, Log

if TYPE_CHECKING:
    from msg.store.scan import Damage

LONG = "Ω" * 60 + "@audit"  # a name that is cut in its directory
QUEUES = ("jobs", "jobs.dead", LONG)


def wire(topic: str, uid: str, body: str = "") -> bytes:
    return (
        f'"topic":"{topic}","message_id":"{uid}","published_at":"2026-11-23T08:05:15.123Z",'
        f'"message":"{body or uid}"'
    ).encode()


@attrs.define(eq=False)
class Promise:
    """What clients know of one message, by its id."""

    uid: str
    wire: bytes
    kept: bool = False  # its publish was acked, with durability "stored"
    refused: bool = False  # its publish was answered with an error
    acked: bool = False  # a consumer's ack was taken in
    gone: bool = False  # and is durable: it must not come back
    tries: Counter[str] = attrs.field(factory=Counter)  # by queue: a move begins anew
    tries_kept: Counter[str] = attrs.field(factory=Counter)
    queue: str = ""  # where it was last


@attrs.define(eq=False)
class Broken(Exception):
    """A promise was broken."""

    what: str

    def __str__(self) -> str:
        return self.what


Execute = Callable[[Disk, Sequence[Commit]], None]


class Broker:
    """Logs and promises. `execute` may be replaced, to see that a bad store is caught."""

    def __init__(
        self,
        disk: Disk,
        rng: random.Random,
        *,
        segment_bytes: int = 2000,
        execute: Execute | None = None,
    ) -> None:
        self.disk = disk
        self.rng = rng
        self.segment_bytes = segment_bytes
        self.execute: Execute = execute or commits.execute
        self.logs: dict[str, Log] = {}
        self.promises: dict[str, Promise] = {}
        self.here: dict[str, dict[int, Promise]] = {}  # queue -> seq -> message, deliverable
        self.deleting = ""
        self.deleted: list[str] = []
        self.count = 0
        # by queue, what hears of the next commit, and what waits for one that is synced
        self.writing: dict[str, list[Callable[[bool], None]]] = {}
        self.waiting: dict[str, list[Callable[[bool], None]]] = {}
        self.paused: dict[str, int] = {}  # queue -> the state's number, as it was last put
        self.paused_kept: dict[str, int] = {}
        self.damage: list[Damage] = []
        self.full = 0  # so many steps more without room on the disk

    # -- starting -------------------------------------------------------------------------

    def start(self) -> None:
        facts = recovery.open_store(self.disk, holder="test")
        self.damage = []
        found = recovery.recover_all(
            self.disk,
            facts.logs,
            unclean=not facts.clean,
            trusted=facts.trusted,
            now_wall=0.0,
            segment_bytes=self.segment_bytes,
            damage=self.damage,
        )
        self.logs = {one.log.name: one.log for one in found}
        recovery.settle_moved(self.disk, found)
        self.waiting, self.writing = {}, {}
        for log in self.logs.values():
            self.commit(log)

    def stop(self) -> None:
        for log in self.logs.values():
            self.commit(log)
        recovery.close_store(self.disk)

    def log(self, name: str) -> Log:
        log = self.logs.get(name)
        if log is None:
            incarnation = f"{self.rng.getrandbits(32):08x}"
            log = Log("queues", name, incarnation, segment_bytes=self.segment_bytes)
            self.logs[name] = log
            self.here[name] = {}
            self.paused[name] = self.paused_kept[name] = 0
        return log

    def restart(self, *, clean: bool) -> None:
        """The process ends, by a stop or by kill -9, and starts on what the page cache has."""
        if clean:
            for log in self.logs.values():
                self.settle_all(log.name)
            recovery.close_store(self.disk)
        else:
            self.disk.unlock()
        self.start()
        self.check(self)
        by_id = {name: {m.id: m for m in messages} for name, messages in self.found().items()}
        for name in list(self.here):
            if name not in self.logs:
                del self.here[name]
        for name, messages in by_id.items():
            self.here[name] = {m.seq: self.promises[m.id] for m in messages.values()}
            for message in messages.values():
                promise = self.promises[message.id]
                promise.queue = name
                promise.acked = False  # its ack was lost with the process
                promise.tries[name] = message.attempts
                # recovery has written the last segment anew, and synced it
                promise.kept, promise.tries_kept[name] = True, message.attempts
            state = self.logs[name].state.get("number", 0)
            self.paused[name] = self.paused_kept[name] = state
        there = {uid for messages in by_id.values() for uid in messages}
        for promise in self.promises.values():
            if promise.uid not in there:
                promise.kept, promise.acked = False, True

    # -- what clients do --------------------------------------------------------------------

    def publish(self, name: str, n: int, *, durability: int = STORED, big: bool = False) -> None:
        log = self.log(name)
        batch = []
        for _ in range(n):
            self.count += 1
            uid = f"m{self.count}"
            promise = Promise(uid, wire(name, uid, uid * 300 if big else ""), queue=name)
            self.promises[uid] = promise
            seq = log.next_seq
            log.next_seq += self.rng.choice((1, 1, 1, 2))  # between them: memory-only ones
            message = Message(seq, uid, promise.wire, durability=durability)
            if self.rng.random() < 0.2:
                message.priority = self.rng.choice((0, 9))
                message.due = self.rng.choice((0.0, 1e9))
                message.expires = self.rng.choice((0.0, 2e9))
            batch.append(message)
        log.publish(batch)

        def done(kept: bool) -> None:
            for message in batch:
                promise = self.promises[message.id]
                if kept:
                    promise.kept = durability == STORED
                    self.here[name][message.seq] = promise
                else:
                    promise.refused = True

        self.writing.setdefault(name, []).append(done)

    def ack(self, name: str, n: int, *, drop: bool = False) -> None:
        seqs = self.pick(name, n)
        promises = [self.here[name].pop(seq) for seq in seqs]
        for promise in promises:
            promise.acked = True
        if drop:
            self.log(name).drop(seqs, "purged")
        else:
            self.log(name).settle(seqs)
        for promise in promises:
            self.when_durable(name, partial(setattr, promise, "gone", True))

    def nack(self, name: str) -> None:
        for seq in self.pick(name, 1):
            promise = self.here[name][seq]
            promise.tries[name] += 1
            tries = promise.tries[name]
            message = Message(seq, promise.uid, b"", attempts=tries, returned="nack")
            if self.rng.random() < 0.3:
                message.due = 1e9
            self.log(name).tried(message, Attempt(tries, "now", "nack"))
            self.when_durable(name, partial(promise.tries_kept.update, {name: 1}))

    def move(self, source: str, target: str) -> None:
        """Dead letter or retry: the target first, then the source; held back until then."""
        self.settle_all(source)
        for seq in self.pick(source, 1):
            promise = self.here[source].pop(seq)
            to, key = self.log(target), f"{source}:{seq}:{promise.tries[source]}"
            there = to.next_seq
            to.publish([Message(there, promise.uid, promise.wire, key=key)])
            promise.tries[target] = promise.tries_kept[target] = 0
            if not self.commit(to):
                self.here[source][seq] = promise
                return
            self.log(source).dead(seq, target, key, "test")
            promise.queue = target
            self.when_durable(source, partial(self.here[target].update, {there: promise}))

    def put_state(self, name: str) -> None:
        log = self.log(name)
        self.paused[name] += 1
        number = self.paused[name]
        log.put_state({"number": number})
        self.when_durable(name, partial(self.paused_kept.update, {name: number}))

    def delete(self, name: str) -> None:
        if name not in self.logs:
            return
        for other in list(self.logs):  # what moved in is deleted only if its source let go
            self.settle_all(other)
        log_dir = self.logs[name].directory.rpartition("/")[2]
        before = {uid: (p.kept, p.acked) for uid, p in self.promises.items()}
        for promise in self.promises.values():
            if promise.queue == name:
                promise.kept, promise.acked = False, True
        self.deleting = name
        try:
            recovery.delete_log(self.disk, "queues", log_dir)
        except DiskFull:
            for uid, (kept, acked) in before.items():
                self.promises[uid].kept, self.promises[uid].acked = kept, acked
            self.deleting = ""
            return
        self.deleting = ""
        del self.logs[name], self.here[name]
        for promise in self.promises.values():
            if promise.queue == name:
                promise.gone = True

    def pick(self, name: str, n: int) -> list[int]:
        there = list(self.here.get(name, {}))
        return sorted(self.rng.sample(there, min(n, len(there))))

    # -- committing -------------------------------------------------------------------------

    def when_durable(self, name: str, then: Callable[[], object]) -> None:
        def done(kept: bool) -> None:
            if kept:
                then()
            else:  # the disk was full: the record waits for the next commit
                self.waiting.setdefault(name, []).append(done)

        self.waiting.setdefault(name, []).append(done)

    def commit(self, log: Log, *, sync: bool = True) -> bool:
        """One commit; False when the disk was full."""
        commit = log.begin(sync)
        if commit is None:
            return True
        writing, self.writing[log.name] = self.writing.get(log.name, []), []
        waiting, self.waiting[log.name] = self.waiting.get(log.name, []), []
        self.execute(self.disk, [commit])
        log.finish(commit)
        for done in writing:
            done(commit.error is None)
        for done in waiting:
            if commit.sync or commit.error is not None:
                done(commit.error is None)
            else:
                self.waiting[log.name].append(done)
        return commit.error is None

    def settle_all(self, name: str) -> None:
        log = self.log(name)
        while log.has_gathered or self.waiting.get(name):
            if not self.commit(log) and not log.has_gathered:
                break

    # -- checking ---------------------------------------------------------------------------

    def found(self) -> dict[str, list[Message]]:
        """What the started broker would deliver, by queue."""
        out = {}
        for name, log in self.logs.items():
            out[name] = read_all(self.disk, log)
        return out

    def check(self, started: "Broker") -> None:
        """Compare what was promised here with what another incarnation found."""
        found = started.found()
        seen: dict[str, tuple[str, Message]] = {}
        for name, messages in found.items():
            seqs = [m.seq for m in messages]
            if seqs != sorted(set(seqs)):
                raise Broken(f"{name}: out of order: {seqs}")
            if started.logs[name].live_count != len(messages):
                raise Broken(f"{name}: {started.logs[name].live_count} live, {len(messages)} read")
            for message in messages:
                if message.id in seen:
                    raise Broken(f"{message.id} is there twice: {seen[message.id][0]}, {name}")
                seen[message.id] = (name, message)
                self._check_one(name, message)
        for promise in self.promises.values():
            if promise.kept and not promise.acked and promise.uid not in seen:
                raise Broken(f"{promise.uid} of {promise.queue} was acked, and is lost")
        for name, number in self.paused_kept.items():
            if number and name != self.deleting and name in self.logs:
                state = started.logs[name].state.get("number", 0)
                if not number <= state <= self.paused[name]:
                    raise Broken(f"{name}: state {state}, and {number} was kept")

    def _check_one(self, name: str, message: Message) -> None:
        promise = self.promises.get(message.id)
        if promise is None or promise.wire != message.wire:
            raise Broken(f"{message.id} was invented: {message.wire!r}")
        if promise.refused:
            raise Broken(f"{message.id} was refused, and is there")
        if promise.gone:
            raise Broken(f"{message.id} was settled durably, and is back in {name}")
        if not promise.tries_kept[name] <= message.attempts <= promise.tries[name]:
            raise Broken(f"{message.id}: attempts {message.attempts} of {promise.tries_kept}")
        numbers = [attempt.n for attempt in message.case]
        # a record in between may be lost where the last one was not promised either
        if (
            numbers != sorted(set(numbers))
            or numbers[-1:] != [message.attempts][: message.attempts]
        ):
            raise Broken(f"{message.id}: {message.attempts} attempts, case {message.case}")


def read_all(disk: Disk, log: Log) -> list[Message]:
    """Every live message, through the reading ahead."""
    out: list[Message] = []
    after = 0
    while (plan := log.plan_read(after, 7, 1 << 20)) is not None:
        out += log.parse_read(plan, commits.read(disk, plan))
        after = plan.after
    return out


def workload(
    broker: Broker,
    steps: int,
    *,
    fill: Callable[[int], None] | None = None,
    restart: bool = False,
) -> None:
    """A mixed load, as the broker's rng decides. `fill` makes the disk full for so many
    operations; with `restart` the process ends now and then."""
    rng = broker.rng
    for _ in range(steps):
        name = rng.choice((*QUEUES, "jobs", "jobs"))
        roll = rng.random()
        if roll < 0.35:
            broker.publish(name, rng.randint(1, 6), big=rng.random() < 0.1)
        elif roll < 0.45:
            broker.publish(name, rng.randint(1, 3), durability=OS)
        elif roll < 0.62:
            broker.ack(name, rng.randint(1, 8), drop=rng.random() < 0.3)
        elif roll < 0.72:
            broker.nack(name)
        elif roll < 0.82:
            broker.move("jobs", "jobs.dead")
        elif roll < 0.86:
            broker.move("jobs.dead", "jobs")
        elif roll < 0.90:
            broker.put_state(name)
        elif roll < 0.92:
            broker.delete(name)
        elif roll < 0.94 and fill is not None:
            fill(rng.randint(5, 25))
        elif roll < 0.96 and restart:
            broker.restart(clean=rng.random() < 0.5)
        if rng.random() < 0.6 and name in broker.logs:
            broker.commit(broker.logs[name], sync=rng.random() < 0.8)
