"""A crash of the actor: the ledger is built anew from the log, the estate and the sessions."""

from msg.core.deep import Packing
from tests.core.ledger_kit import Desk, body_of


def test_consumers_keep_what_they_hold_and_are_served_on():
    q = Desk()
    q.publish(*range(6))
    worker = q.consumer(prefetch=3)
    assert worker.took() == [0, 1, 2]
    q.crash()
    assert worker.took() == []
    assert q.ack(worker, 0, 2) == []
    assert worker.took() == [3, 4]
    q.leave(worker)
    assert q.consumer(prefetch=9).took() == [1, 3, 4, 5]


def test_deadlines_go_on():
    q = Desk()
    worker = q.consumer(ack_timeout=30.0)
    q.publish(1)
    q.sleep(20)
    q.crash()
    q.sleep(9)
    assert worker.held
    q.sleep(2)
    assert not worker.held


def test_attempts_and_delays_are_kept():
    for durability in ("stored", "memory"):
        q = Desk(backoff=())
        worker = q.consumer()
        q.publish(1, durability=durability)
        q.publish(2, durability=durability, delay=30.0)
        q.nack(worker, 1, delay=10.0)
        q.crash()
        q.sleep(9)
        assert worker.took() == [1]
        q.sleep(1)
        assert worker.took() == [1]
        assert worker.find(1).attempts == 1
        q.ack(worker, 1)
        q.sleep(19)
        assert worker.took() == []
        q.sleep(2)
        assert worker.took() == [2]


def test_memory_only_messages_survive_it():
    q = Desk()
    q.publish(1, 2, durability="memory")
    q.publish(3)
    q.crash()
    assert q.consumer(prefetch=9).took() == [1, 2, 3]


def test_what_was_packed_stays_packed():
    q = Desk(packing=Packing(run=3, head=1, still=0, above=0))
    q.publish(*range(12), durability="memory")
    q.publish(12, 13)
    q.publish(14, 15, durability="memory")
    runs = dict(q.packed)
    assert len(runs) == 3
    q.crash()
    assert q.packed == runs
    q.ledger.check()
    assert q.consumer(prefetch=99).took() == [*range(16)]
    assert q.packed == {}


def test_priorities_are_kept():
    q = Desk()
    for n in range(6):
        q.publish(n, priority=n % 3 + 3)
    q.crash()
    assert q.consumer(prefetch=9).took() == [2, 5, 1, 4, 0, 3]


def test_a_commit_under_way_is_waited_for():
    q = Desk()
    q.hold_commits = True
    q.publish(1)
    q.begin_commit()
    q.publish(2)
    q.crash()
    assert q.mine.outcomes() == ["ok", "ok"]
    assert q.consumer(prefetch=9).took() == [1, 2]


def test_a_turn_that_failed_has_happened_for_nobody():
    q = Desk(backoff=())
    worker = q.consumer(prefetch=2)
    q.publish(1, 2, 3)
    held = dict(worker.held)
    stamp = q.stamp()
    q.ledger.ack(worker, [held[1]])
    q.ledger.nack(worker, [held[2]], stamp)
    q.ledger.publish(q.batch(4, 5), stamp)
    q.ledger.purge()
    q.ledger.dispatch(stamp)
    q.crash()
    assert [(body_of(m), m.attempts) for m in worker.held.values()] == [(1, 0), (2, 0)]
    assert q.ledger.states()["ready"] == 1
    q.ack(worker, 1, 2)
    assert worker.took() == [1, 2, 3]
    assert q.publish(4) == ["ok"]


def test_a_hung_consumer_stays_one():
    q = Desk()
    worker = q.consumer(prefetch=2, ack_timeout=10.0)
    q.publish(1)
    q.sleep(5)
    q.publish(2)
    q.sleep(6)
    q.crash()
    q.publish(3)
    assert worker.took() == [1, 2]
    q.ack(worker, 2)
    assert worker.took() == [1, 3]


def test_a_suspect_is_still_held_alone():
    q = Desk()
    q.publish(1)
    for _ in range(2):
        q.leave(q.consumer())
    worker = q.consumer(prefetch=5)
    assert worker.took() == [1]
    q.crash()
    q.publish(2)
    assert worker.took() == []
    q.ack(worker, 1)
    assert worker.took() == [2]


def test_gets_and_ended_subscriptions_are_what_they_were():
    q = Desk()
    get = q.get(3, wait=100.0)
    ended = q.consumer()
    q.publish(1, 2)
    assert (get.took(), ended.took()) == ([1], [2])
    q.unsubscribe(ended)
    q.ledger.dispatch(q.stamp())
    q.crash()
    q.publish(3, 4, 5)
    assert (get.took(), get.gots, ended.took()) == ([3, 4], [3], [])
    q.ack(ended, 2)
    q.ack(get, 1, 3, 4)
    assert q.ledger.consumers == {}


def test_a_get_that_was_counted_down_by_the_turn_that_failed():
    q = Desk()
    get = q.get(2, wait=100.0)
    q.hold_commits = True
    q.publish(1)
    messages = q.gathered
    q.ledger.committed(messages, q.stamp())
    q.ledger.dispatch(q.stamp())  # handed out, and never carried out
    q.crash()
    q.hold_commits = False
    assert (get.took(), get.gots) == ([1], [])
    q.publish(2)
    assert (get.took(), get.gots) == ([2], [2])


def test_a_backlog_with_everything_in_it():
    q = Desk(hot_bytes=500, backoff=())
    for n in range(60):
        q.publish(n, priority=9 if n % 10 == 5 else 4, delay=20.0 if n % 10 == 7 else None)
    worker = q.consumer(prefetch=12)
    assert worker.took()[:6] == [5, 15, 25, 35, 45, 55]
    q.nack(worker, 15, 25, delay=3.0)
    q.leave(worker)
    q.restart()
    assert q.ledger.live == 60
    worker = q.consumer(prefetch=100)
    q.sleep(30)
    taken = worker.took()
    assert sorted(taken) == list(range(60))
    usual = [n for n in taken if n % 10 not in (5, 7)]
    assert usual == sorted(usual)
    q.ack(worker, *taken)
    assert q.ledger.live == q.ledger.bytes == 0


def test_what_a_restart_cannot_keep_leaves_no_trace():
    q = Desk()
    q.publish(1, durability="memory", message_id="a")
    q.restart()
    assert q.ledger.live == 0
    assert q.publish(1, durability="memory", message_id="a") == ["ok"]
