"""A miniature broker, synchronous: owners of a few logs, and what was promised to clients.

It drives `Log`, `execute` and recovery as the actors do, one step after the other, and
keeps the books that a checker needs: what may be there after a crash, and what must.

One of the logs is a topic's: what is published to it is kept there (its backlog and history)
and goes to its one group as well, whose queue is a log of its own. Each log has a dedup
window, on a clock that the load moves on.
"""

import random
from collections import Counter
from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import TYPE_CHECKING

import attrs
import msgspec

from msg.core.dedup import STEPS, DedupWindow
from msg.core.message import OS, STORED, Attempt, Message
from msg.errors import DiskFull
from msg.store import commit as commits
from msg.store import records, recovery
from msg.store.disk import Disk
from msg.store.log import QUEUES as QUEUE_LOGS
from msg.store.log import TOPICS, Commit, Log
from msg.store.records import Remembered

if TYPE_CHECKING:
    from msg.store.scan import Damage

LONG = "Ω" * 60 + "@audit"  # a name that is cut in its directory
QUEUES = ("jobs", "jobs.dead", LONG)
TOPIC, GROUP = "news", "news@mail"
AT = "2026-11-23T08:05:15.123Z"
WALL = records.seconds(AT.encode())
WINDOW_S, WINDOW_IDS = 120.0, 1_000_000  # what recovery takes when it is told nothing else
LATE_S = 5 * WINDOW_S / STEPS  # a step each time that a restart is followed by a compaction


def wire(topic: str, uid: str, body: str = "", at: str = AT) -> bytes:
    return (
        f'"topic":"{topic}","message_id":"{uid}","published_at":"{at}","message":"{body or uid}"'
    ).encode()


def kind_of(name: str) -> str:
    return TOPICS if name == TOPIC else QUEUE_LOGS


def key_of(name: str, uid: str) -> str:
    """What a promise is known by: a topic's copy of a message is another one than its group's."""
    return f"{TOPIC}/{uid}" if name == TOPIC else uid


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
    home: str = ""  # where it was published
    known: Remembered | None = None  # what the window there holds of it
    known_kept: bool = False  # durably: a second publish of this id must be told so

    def is_known_as(self, entry: Remembered) -> bool:
        """The window keeps times by the step: one that was written anew may be a step late."""
        assert self.known is not None
        late = entry.at - self.known.at
        return msgspec.structs.replace(entry, at=self.known.at) == self.known and 0 <= late < LATE_S


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
        self.wall = WALL
        self.windows: dict[str, DedupWindow] = {}
        self.remembered: dict[str, list[Remembered]] = {}  # by log, as the start found them

    # -- starting -------------------------------------------------------------------------

    def start(self) -> None:
        facts = recovery.open_store(self.disk, holder="test")
        self.damage = []
        found = recovery.recover_all(
            self.disk,
            facts.logs,
            unclean=not facts.clean,
            trusted=facts.trusted,
            now_wall=self.wall,
            segment_bytes=self.segment_bytes,
            damage=self.damage,
        )
        self.remembered = {one.log.name: list(one.ids) for one in found}
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
            log = Log(kind_of(name), name, incarnation, segment_bytes=self.segment_bytes)
            self.logs[name] = log
            self.here[name] = {}
            self.windows[name] = DedupWindow(WINDOW_S, WINDOW_IDS)
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
            self.here[name] = {}
            for message in messages.values():
                promise = self.here[name][message.seq] = self.promises[key_of(name, message.id)]
                promise.queue = name
                promise.acked = False  # its ack was lost with the process
                promise.tries[name] = message.attempts
                # recovery has written the last segment anew, and synced it
                promise.kept, promise.tries_kept[name] = True, message.attempts
            state = self.logs[name].state.get("number", 0)
            self.paused[name] = self.paused_kept[name] = state
        there = {key_of(name, uid) for name, messages in by_id.items() for uid in messages}
        for key, promise in self.promises.items():
            promise.known_kept = False
            if key not in there:
                promise.kept, promise.acked = False, True
        self.windows = {}
        for name, entries in self.remembered.items():
            window = self.windows[name] = DedupWindow(WINDOW_S, WINDOW_IDS)
            for known in entries:
                window.add(known.id, known.length << 32 | known.crc, known.seq, known.at)
                self.promises[key_of(name, known.id)].known_kept = True

    # -- what clients do --------------------------------------------------------------------

    def publish(self, name: str, n: int, *, durability: int = STORED, big: bool = False) -> None:
        """To a queue, or to the topic and with it to its group."""
        uids = [f"m{self.count + i}" for i in range(1, n + 1)]
        self.count += n
        self.wall += self.rng.random() * 2 * n
        self._publish(name, uids, durability, big=big)
        if name == TOPIC:
            self._publish(GROUP, uids, durability, big=big)

    def _publish(self, name: str, uids: list[str], durability: int, *, big: bool) -> None:
        log = self.log(name)
        window = self.windows[name]
        at = records.rfc3339(self.wall)
        batch = []
        for uid in uids:
            seq = log.next_seq
            log.next_seq += self.rng.choice((1, 1, 1, 2))  # between them: memory-only ones
            text = wire(name, uid, uid * 300 if big else "", at)
            length, crc = records.fingerprint(text)
            known = Remembered(uid, length, crc, records.seconds(at.encode()), seq)
            promise = Promise(uid, text, queue=name, home=name, known=known)
            self.promises[key_of(name, uid)] = promise
            window.add(uid, length << 32 | crc, seq, known.at)
            message = Message(seq, uid, promise.wire, durability=durability)
            if self.rng.random() < 0.2 and name != TOPIC:
                message.priority = self.rng.choice((0, 9))
                message.due = self.rng.choice((0.0, 1e10))
                message.expires = self.rng.choice((0.0, 2e10))
            batch.append(message)
        log.publish(batch)

        def done(kept: bool) -> None:
            for message in batch:
                promise = self.promises[key_of(name, message.id)]
                if kept:
                    promise.kept = promise.known_kept = durability == STORED
                    self.here[name][message.seq] = promise
                else:
                    promise.refused = True
                    window.forget(message.id, message.seq)

        self.writing.setdefault(name, []).append(done)

    def ack(self, name: str, n: int, *, drop: bool = False) -> None:
        """A topic has heard the oldest of its backlog, or its history goes over a limit."""
        seqs = sorted(self.here.get(name, {}))[:n] if name == TOPIC else self.pick(name, n)
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
                message.due = 1e10
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
        before = {uid: (p.kept, p.acked, p.known_kept) for uid, p in self.promises.items()}
        for promise in self.promises.values():
            if promise.queue == name:
                promise.kept, promise.acked = False, True
            if promise.home == name:
                promise.known_kept = False
        self.deleting = name
        try:
            recovery.delete_log(self.disk, kind_of(name), log_dir)
        except DiskFull:
            for uid, (kept, acked, known_kept) in before.items():
                promise = self.promises[uid]
                promise.kept, promise.acked, promise.known_kept = kept, acked, known_kept
            self.deleting = ""
            return
        self.deleting = ""
        del self.logs[name], self.here[name], self.windows[name]
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
        self._keep_window(log)
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

    def _keep_window(self, log: Log) -> None:
        """As the actors do: what the window holds is written anew before its segment goes."""
        window = self.windows.get(log.name)
        if window is None:  # a start, which has not come to it yet
            return
        window.expire(self.wall)
        log.window_from = window.oldest_seq(log.next_seq)
        if (due := log.ids_due) is not None:
            log.remember_ids(
                due,
                [
                    Remembered(uid, print_ >> 32, print_ & 0xFFFFFFFF, at, seq)
                    for uid, print_, seq, at in window.entries(due)
                ],
            )

    def settle_all(self, name: str) -> None:
        log = self.log(name)
        for _ in range(1000):
            if not (log.has_gathered or self.waiting.get(name)):
                return
            if not self.commit(log) and not log.has_gathered:
                return
        raise Broken(f"{name}: there is always something left to write")

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
                key = key_of(name, message.id)
                if key in seen:
                    raise Broken(f"{key} is there twice: {seen[key][0]}, {name}")
                seen[key] = (name, message)
                self._check_one(name, message)
        self._check_windows(started, seen)
        for key, promise in self.promises.items():
            if promise.kept and not promise.acked and key not in seen:
                raise Broken(f"{promise.uid} of {promise.queue} was acked, and is lost")
        for name, number in self.paused_kept.items():
            if number and name != self.deleting and name in self.logs:
                state = started.logs[name].state.get("number", 0)
                if not number <= state <= self.paused[name]:
                    raise Broken(f"{name}: state {state}, and {number} was kept")

    def _check_windows(self, started: "Broker", seen: Container[str]) -> None:
        """An id that was kept is known; an id that is known was published, and its message is
        there or was settled: else who publishes it again is told that it is stored."""
        known: dict[str, Remembered] = {}
        for name, entries in started.remembered.items():
            for entry in entries:
                key = key_of(name, entry.id)
                promise = self.promises.get(key)
                if promise is None or promise.home != name or not promise.is_known_as(entry):
                    raise Broken(f"{name}: its window invents {entry}")
                if promise.refused or not (key in seen or promise.acked):
                    raise Broken(f"{name}: its window knows {entry.id}, which is not there")
                known[key] = entry
        for key, promise in self.promises.items():
            if promise.known_kept and promise.known and key not in known:
                age = started.wall - promise.known.at
                if age < WINDOW_S:
                    raise Broken(f"{promise.home}: its window forgot {key} after {age} s")

    def _check_one(self, name: str, message: Message) -> None:
        promise = self.promises.get(key_of(name, message.id))
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
        name = rng.choice((*QUEUES, "jobs", "jobs", TOPIC, TOPIC, GROUP))
        roll = rng.random()
        to = TOPIC if name == GROUP else name
        if roll < 0.35:
            broker.publish(to, rng.randint(1, 6), big=rng.random() < 0.1)
        elif roll < 0.45:
            broker.publish(to, rng.randint(1, 3), durability=OS)
        elif roll < 0.62:
            broker.ack(name, rng.randint(1, 8), drop=rng.random() < 0.3)
        elif roll < 0.72 and name != TOPIC:
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
        if rng.random() < 0.6:
            for each in (TOPIC, GROUP) if name == TOPIC else (name,):
                if each in broker.logs:
                    broker.commit(broker.logs[each], sync=rng.random() < 0.8)
