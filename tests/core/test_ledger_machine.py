"""The whole ledger against the naive model, in any order of anything that can happen.

Every step is one turn. The store, the network and the clock move only when told to, so that
commits, reads and writes are under way while everything else goes on.
"""

from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from msg.core.batches import PublishBatch
from msg.core.credit import Consumer
from msg.core.deep import Packing
from msg.core.message import DURABILITIES, Message
from msg.errors import ClientError
from tests.core.ledger_kit import Desk, Publisher, Worker
from tests.core.ledger_model import Client, Model

FULL = ClientError("disk_full", "no room")
EARLY = Packing(run=2, head=1, still=0, above=0)
SMALL = 600  # bytes of room: a few messages


class Listener(Publisher):
    """Tells the model of each answer as it is given."""

    model: Model

    def published(self, batch: PublishBatch) -> None:
        self.model.answered(batch)


LIMITS: dict[str, dict[str, Any]] = {
    "none": {},
    "reject": {"max_messages": 6},
    "block": {"max_messages": 6, "overflow": "block"},
    "drop_oldest": {"max_messages": 6, "overflow": "drop_oldest"},
    "dead letters": {"max_deliveries": 2, "dead_letter_expired": True},
}


class LedgerMachine(RuleBasedStateMachine):
    """See the module."""

    @initialize(
        limits=st.sampled_from(sorted(LIMITS)),
        hot_bytes=st.sampled_from([300, 900, 1 << 20]),
        durability=st.sampled_from(["memory", "os", "stored"]),
        backoff=st.sampled_from([(), (0.0, 3.0), (7.0,)]),
        dead=st.booleans(),
        packing=st.sampled_from([Packing(), EARLY, Packing(run=3, head=2, still=0, above=4)]),
    )
    def begin(
        self,
        limits: str,
        hot_bytes: int,
        durability: str,
        backoff: tuple[float, ...],
        dead: bool,
        packing: Packing,
    ) -> None:
        self.limited = "max_messages" in LIMITS[limits]
        self.desk = Desk(
            hot_bytes=hot_bytes,
            packing=packing,
            durability=durability,
            backoff=backoff,
            dead_name="" if dead and limits == "none" else "jobs.dead",
            dedup_window=100.0,
            **LIMITS[limits],
        )
        self.desk.hold_commits = self.desk.hold_reads = self.desk.hold_writes = True
        self.model = Model(self.desk)
        self.publishers = [Listener(), Listener()]
        for publisher in self.publishers:
            publisher.model = self.model
        self.count = 0
        self.arrivals: dict[str, Message] = {}

    @property
    def ledger(self) -> Any:
        return self.desk.ledger

    def turn(self, command: Any = lambda stamp: None, predict: Any = lambda: None) -> None:
        """One turn: what is predicted must come out, and then all else is compared."""
        stamp = self.desk.stamp()
        result = command(stamp)
        expected = predict()
        if isinstance(result, list):
            assert len(result) == self.model.failures
        elif expected is not None:
            assert result == expected
        self.finish()

    def finish(self) -> None:
        self.model.unpark()
        self.ledger.dispatch(self.desk.stamp())
        self.model.check(self.desk.carry_out())

    def some(self, data: st.DataObject, choices: list[Any]) -> list[Any]:
        if not choices:
            return []
        return data.draw(st.lists(st.sampled_from(choices), unique_by=id, min_size=1))

    def workers(self) -> list[Worker]:
        return list(self.model.clients)

    def sent(self, worker: Worker) -> list[Message]:
        """What its client has received and holds."""
        waits = {m.seq for m in worker.pending}
        return [m for m in worker.held.values() if m.seq not in waits]

    # -- publishing -----------------------------------------------------------------------

    @rule(
        n=st.integers(1, 4),
        origin=st.integers(0, 1),
        level=st.sampled_from([None, "memory", "os", "stored"]),
        priority=st.sampled_from([None, None, None, 0, 9]),
        delay=st.sampled_from([None, None, None, 5.0, 20.0]),
        ttl=st.sampled_from([None, None, None, 25.0]),
        message_id=st.sampled_from([None, None, "a", "b"]),
    )
    def publish(
        self,
        n: int,
        origin: int,
        level: str | None,
        priority: int | None,
        delay: float | None,
        ttl: float | None,
        message_id: str | None,
    ) -> None:
        bodies = [self.count + i for i in range(n)]
        self.count += n
        if message_id is not None:
            bodies = [ord(message_id)] * (n - 1) + [ord(message_id) + (n == 3)]
        batch = self.desk.batch(
            *bodies,
            origin=self.publishers[origin],
            durability=level,
            priority=priority,
            delay=delay,
            ttl=None if self.limited else ttl,
            message_id=message_id,
        )
        number = DURABILITIES[level or self.desk.settings.durability]
        self.turn(
            lambda stamp: self.ledger.publish(batch, stamp),
            lambda: self.model.publish(batch, number),
        )

    @rule()
    def begin_commit(self) -> None:
        if self.desk.gathered or self.desk.waiting:
            self.desk.begin_commit()

    @rule(ok=st.sampled_from([True, True, True, False]))
    def end_commit(self, ok: bool) -> None:
        if not (self.desk.in_flight or self.desk.gathered or self.desk.waiting):
            return
        self.desk.begin_commit()
        assert self.desk.in_flight is not None
        messages, waiting = self.desk.in_flight
        self.desk.in_flight = None
        seqs = [m.seq for m in messages]
        log = self.desk.log
        if ok:
            log.on_disk.update(seq for seq in seqs if seq in log.records)
            self.ledger.committed(messages, self.desk.stamp())
            self.model.committed(seqs)
        else:
            log.end(seqs, "disk full")
            self.ledger.failed(messages, [*waiting, *self.desk.waiting], FULL)
            self.model.failed(seqs)
        for batch in waiting:
            batch.answer()
        self.finish()

    # -- the store ------------------------------------------------------------------------

    @precondition(lambda self: self.desk.reads)
    @rule(data=st.data(), damage=st.sampled_from([False, False, False, True]))
    def read(self, data: st.DataObject, damage: bool) -> None:
        ahead, seqs = self.desk.reads.pop(0)
        log = self.desk.log
        seqs = [seq for seq in seqs if seq in log.records]
        gone: list[int] = []
        if damage:
            cold = [seq for seq in seqs if not self.ledger._in_memory(seq)]
            cold = [s for s in cold if self.model.get(s).state in ("ready", "delayed")]
            gone = cold[:1]
        messages = [log.read(seq) for seq in seqs if seq not in gone]
        stamp = self.desk.stamp()
        if gone:
            log.end(gone, "damaged")
            self.ledger.lost_on_disk(gone)
            for seq in gone:
                self.model.lost(seq)
        if ahead:
            self.desk.reading_ahead = False
            if seqs:
                self.ledger.loaded(messages, seqs[-1], stamp)
        elif data.draw(st.booleans()):
            self.ledger.loaded_seqs(messages, stamp)
        else:  # some were copied to another segment meanwhile
            self.ledger.loaded_seqs(messages[1:], stamp)
        self.finish()

    # -- consumers ------------------------------------------------------------------------

    @precondition(lambda self: len(self.model.clients) < 4)
    @rule(
        prefetch=st.sampled_from([1, 2, 3, 10]),
        ack_timeout=st.sampled_from([0.0, 10.0, 30.0]),
        auto=st.sampled_from([False, False, False, True]),
        room=st.sampled_from([SMALL, 1 << 20, 1 << 20]),
        pull=st.sampled_from([None, None, None, 0.0, 15.0]),
    )
    def subscribe(
        self, prefetch: int, ack_timeout: float, auto: bool, room: int, pull: float | None
    ) -> None:
        worker = Worker(f"w{len(self.desk.turns)}", room)
        auto = auto and pull is None
        consumer = Consumer(
            worker,
            prefetch=prefetch,
            ack_timeout=ack_timeout,
            auto=auto,
            pull=None if pull is None else (prefetch, self.desk.now + pull),
        )
        client = Client(worker, prefetch, ack_timeout, auto)
        client.pull_left, client.pull_until = consumer.pull_left, consumer.pull_until
        self.turn(lambda _: self.ledger.attach(consumer), lambda: self.model.attach(client))

    @rule(data=st.data(), prefetch=st.integers(1, 5), ack_timeout=st.sampled_from([0.0, 10.0]))
    def resubscribe(self, data: st.DataObject, prefetch: int, ack_timeout: float) -> None:
        clients = [c for c in self.model.clients.values() if c.pull_left < 0]
        for client in self.some(data, clients)[:1]:
            again = Consumer(client.worker, prefetch=prefetch, ack_timeout=ack_timeout)

            def predict(client: Client = client) -> None:
                client.prefetch, client.ack_timeout = prefetch, ack_timeout

            self.turn(lambda _, again=again: self.ledger.attach(again), predict)

    @rule(data=st.data(), handed=st.booleans())
    def leave(self, data: st.DataObject, handed: bool) -> None:
        for worker in self.some(data, self.workers())[:1]:
            waits = {m.seq for m in worker.pending}
            seqs = {seq for seq in worker.held if handed and seq not in waits}
            self.turn(
                lambda stamp, w=worker, s=seqs: self.ledger.detach(w, sorted(s), stamp),
                lambda w=worker, s=seqs: self.model.detach(w, s),
            )
            worker.held.clear()
            worker.pending.clear()

    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        for worker in self.some(data, self.workers())[:1]:
            unsent, worker.pending = worker.pending, []
            for message in unsent:
                del worker.held[message.seq]
            self.turn(
                lambda stamp, w=worker, u=unsent: self.ledger.stop(w, u, stamp),
                lambda w=worker, u=unsent: self.model.stop(w, [m.seq for m in u]),
            )

    @rule(data=st.data(), most=st.integers(1, 4))
    def write(self, data: st.DataObject, most: int) -> None:
        waiting = [w for w in self.workers() if w.pending]
        for worker in self.some(data, waiting)[:1]:
            seqs = [m.seq for m in worker.pending[:most]]
            command = self.desk._writing(worker, most)
            self.turn(command, lambda w=worker, s=seqs: self.model.written(w, s))

    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        """Of what it holds, and of leases that expired."""
        for worker in self.some(data, self.workers())[:1]:
            choices = [*self.sent(worker), *worker.stale.values()]
            messages = self.some(data, choices)
            if not messages:
                continue
            leased = {m.seq for m in messages if worker.held.get(m.seq) is m}
            if len({m.seq for m in messages}) < len(messages):
                continue  # an old and a new lease of one message: a story of its own
            for message in messages:
                if worker.held.get(message.seq) is message:
                    del worker.held[message.seq]
                else:
                    del worker.stale[message.seq]
            self.turn(
                lambda _, w=worker, ms=messages: self.ledger.ack(w, ms),
                lambda w=worker, ms=messages, s=leased: self.model.ack(w, [m.seq for m in ms], s),
            )

    @rule(
        data=st.data(),
        delay=st.sampled_from([None, None, 0.0, 12.0]),
        requeue=st.sampled_from([True, True, True, False]),
        count=st.sampled_from([True, True, False]),
    )
    def nack(self, data: st.DataObject, delay: float | None, requeue: bool, count: bool) -> None:
        for worker in self.some(data, self.workers())[:1]:
            messages = self.some(data, self.sent(worker))
            for message in messages:
                del worker.held[message.seq]
            self.turn(
                lambda stamp, w=worker, ms=messages: self.ledger.nack(
                    w, ms, stamp, delay=delay, requeue=requeue, count=count
                ),
                lambda w=worker, ms=messages: self.model.nack(
                    w, [m.seq for m in ms], delay=delay, requeue=requeue, count=count
                ),
            )

    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        for worker in self.some(data, self.workers())[:1]:
            messages = self.some(data, self.sent(worker))
            self.turn(
                lambda stamp, w=worker, ms=messages: self.ledger.touch(w, ms, stamp),
                lambda w=worker, ms=messages: self.model.touch(w, [m.seq for m in ms]),
            )

    # -- time -----------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 4, 9, 40, 110]), stalled=st.sampled_from([0, 0, 0, 5]))
    def sleep(self, seconds: int, stalled: int) -> None:
        self.desk.now += seconds
        self.turn(
            lambda stamp: self.ledger.tick(stamp, stalled=float(stalled)),
            lambda: self.model.tick(stalled),
        )

    @rule(jump=st.sampled_from([-3600.0, -10.0, 10.0, 3600.0]))
    def jump(self, jump: float) -> None:
        self.desk.jump += jump
        self.turn()

    # -- operators ------------------------------------------------------------------------

    @rule()
    def purge(self) -> None:
        self.turn(lambda _: self.ledger.purge(), self.model.purge)

    @rule()
    def pause(self) -> None:
        self.ledger.paused = not self.ledger.paused
        self.turn()

    @rule()
    def drain(self) -> None:
        self.ledger.draining = not self.ledger.draining
        self.turn()

    # -- moves ----------------------------------------------------------------------------

    @rule(level=st.integers(0, 2), priority=st.sampled_from([4, 4, 9]))
    def arrive(self, level: int, priority: int) -> None:
        self.count += 1
        key = f"other:{self.count}:1"
        wire = b'"topic":"other","message_id":"m%d","published_at":"","message":%d' % (
            self.count, self.count,
        )  # fmt: skip
        message = Message(0, f"m{self.count}", wire, priority, level, key=key)
        self.arrivals[key] = message
        self.arrive_again(key)

    def arrive_again(self, key: str) -> None:
        message = self.arrivals[key]
        self.turn(
            lambda _: self.ledger.arrive(key, message), lambda: self.model.arrive(key, message)
        )

    @precondition(lambda self: self.arrivals)
    @rule(data=st.data())
    def go_on_with_an_arrival(self, data: st.DataObject) -> None:
        """Its source sends it again until it has heard that it is durable; then it lets go."""
        key = data.draw(st.sampled_from(sorted(self.arrivals)))
        here = [c for c in self.model.copies if c.key == key and c.state != "failed"]
        if here and here[-1].state == "arriving" and data.draw(st.booleans()):
            del self.arrivals[key]
            self.turn(
                lambda stamp: self.ledger.release(key, stamp), lambda: self.model.release(key)
            )
        elif here and here[-1].state == "stopped":
            del self.arrivals[key]  # the broker stopped, and so did its source
        elif not here or here[-1].state in ("committing", "arriving"):
            self.arrive_again(key)

    @precondition(lambda self: self.ledger.leaving)
    @rule(data=st.data(), ok=st.sampled_from([True, True, False]))
    def go_on_with_a_departure(self, data: st.DataObject, ok: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.ledger.leaving)))
        if ok:
            self.turn(
                lambda _: self.ledger.moved(key), lambda: self.model.moved(int(key.split(":")[1]))
            )
        else:
            self.turn(lambda stamp: self.ledger.move_failed(key, stamp))

    # -- crashes --------------------------------------------------------------------------

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """In the midst of a turn, what it did has happened for nobody."""
        stamp = self.desk.stamp()
        for worker in self.workers()[:2]:
            messages = self.sent(worker)
            if data.draw(st.booleans()):
                self.ledger.ack(worker, messages[:1])
            elif data.draw(st.booleans()):
                self.ledger.nack(worker, messages, stamp, requeue=data.draw(st.booleans()))
        if data.draw(st.booleans()):
            batch = self.desk.batch(7001, 7002, message_id="a")
            self.ledger.publish(batch, stamp)
        if data.draw(st.booleans()):
            self.ledger.purge()
        self.ledger.dispatch(stamp)
        self._down(self.model.crash)

    @precondition(lambda self: not self.model.parked)
    @rule()
    def restart(self) -> None:
        """The whole broker: consumers and what was in memory only are gone."""
        for key in [k for k, m in self.arrivals.items() if not m.durability]:
            del self.arrivals[key]
        desk = self.desk
        desk.workers, desk.kept, desk.packed = {}, {}, {}
        desk.leaving, desk.unreleased = {}, set()
        desk.dedup, desk.parked = None, []
        for key in list(self.arrivals):
            if any(c.key == key and c.state == "arriving" for c in self.model.copies):
                del self.arrivals[key]  # settled at its source by the recovery
        self._down(self.model.restart)

    def _down(self, predict: Any) -> None:
        paused, draining = self.ledger.paused, self.ledger.draining
        desk = self.desk
        batches = [*(desk.in_flight[1] if desk.in_flight else ()), *desk.waiting]
        logged = [*(desk.in_flight[0] if desk.in_flight else ()), *desk.gathered]
        desk.in_flight, desk.gathered, desk.waiting = None, [], []
        desk.log.on_disk.update(m.seq for m in logged if m.seq in desk.log.records)
        predict()
        for batch in batches:
            batch.answer()
        desk.begin_anew()
        self.ledger.paused, self.ledger.draining = paused, draining
        self.finish()

    # -- the end --------------------------------------------------------------------------

    def teardown(self) -> None:
        """Nothing is lost: a consumer that takes all gets all that is left."""
        if not hasattr(self, "desk"):
            return
        for worker in self.workers():
            self.turn(
                lambda stamp, w=worker: self.ledger.detach(w, [], stamp),
                lambda w=worker: self.model.detach(w, set()),
            )
        self.ledger.paused = self.ledger.draining = False
        self.desk.jump = 0.0
        last = Worker("last")
        client = Client(last, 1000, 0.0, auto=False)
        self.turn(
            lambda _: self.ledger.attach(Consumer(last, prefetch=1000, ack_timeout=0.0)),
            lambda: self.model.attach(client),
        )
        # each hour that the clock stood back at a restart is one more for what is delayed
        for _ in range(2000):
            desk = self.desk
            if not (self.model.live or self.model.parked or desk.waiting or desk.in_flight):
                break
            self.sleep(40, 0)
            for _ in range(3):
                self.end_commit(True)
            while self.desk.reads:
                self._read_all()
            for key in sorted(self.ledger.leaving):
                self.turn(
                    lambda _, k=key: self.ledger.moved(k),
                    lambda k=key: self.model.moved(int(k.split(":")[1])),
                )
            for c in self.model.those("arriving"):
                self.turn(
                    lambda stamp, k=c.key: self.ledger.release(k, stamp),
                    lambda k=c.key: self.model.release(k),
                )
            messages = list(last.held.values())
            last.held.clear()
            last.pending.clear()
            self.turn(
                lambda _, ms=messages: self.ledger.ack(last, ms),
                lambda ms=messages: self.model.ack(last, [m.seq for m in ms], {m.seq for m in ms}),
            )
        assert self.ledger.live == self.ledger.bytes == self.ledger.memory_bytes == 0
        assert not self.desk.log.records
        assert not any(self.model.unanswered.values()), "not all publishes were answered"

    def _read_all(self) -> None:
        ahead, seqs = self.desk.reads.pop(0)
        messages = [self.desk.log.read(seq) for seq in seqs if seq in self.desk.log.records]
        if ahead:
            self.desk.reading_ahead = False
            self.ledger.loaded(messages, seqs[-1], self.desk.stamp())
        else:
            self.ledger.loaded_seqs(messages, self.desk.stamp())
        self.finish()


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=150, stateful_step_count=40)
