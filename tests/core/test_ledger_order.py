"""Order: first deliveries, returns to the original place, priorities, delays, ttl, the log."""

import pytest

from tests.core.ledger_kit import Desk, Worker, body_of


def all_of(q: Desk, worker: Worker) -> list[int]:
    """Take and ack until nothing more comes."""
    out: list[int] = []
    while taken := worker.took():
        out += taken
        q.ack(worker, *taken)
    return out


def cold(q: Desk) -> int:
    return len(q.ledger.waiting.cold)


def test_returned_messages_go_before_first_deliveries_in_order_among_themselves():
    q = Desk()
    q.publish(*range(1, 10))
    a, b = q.consumer(prefetch=2), q.consumer(prefetch=2)
    assert (a.took(), b.took()) == ([1, 2], [3, 4])
    q.ledger.paused = True
    q.leave(b)
    q.leave(a)
    q.ledger.paused = False
    assert all_of(q, q.consumer(prefetch=3)) == list(range(1, 10))


def test_two_consumers_returns_interleave_by_place():
    q = Desk()
    q.publish(*range(1, 9))
    a, b = q.consumer(prefetch=3), q.consumer(prefetch=3)
    q.ack(a, 2)  # and 7 comes instead
    q.ack(b, 5)  # and 8
    assert (a.took(), b.took()) == ([1, 2, 3, 7], [4, 5, 6, 8])
    q.ledger.paused = True
    q.leave(a)
    q.leave(b)
    q.ledger.paused = False
    assert all_of(q, q.consumer(prefetch=9)) == [1, 3, 4, 6, 7, 8]


def test_higher_priority_first_and_fifo_within():
    q = Desk()
    for n, priority in enumerate([4, 0, 9, None, 9, 5, 0]):
        q.publish(n, **({} if priority is None else {"priority": priority}))
    assert all_of(q, q.consumer(prefetch=3)) == [2, 4, 5, 0, 3, 1, 6]


def test_a_returned_message_keeps_to_its_priority():
    q = Desk()
    q.publish(1, priority=2)
    worker = q.consumer()
    q.publish(2, priority=9)
    q.nack(worker, 1)
    assert worker.took() == [1, 2]


def test_a_delayed_publish_takes_its_place_when_it_is_due():
    q = Desk()
    q.publish(1, delay=10.0)
    q.publish(2, 3)
    worker = q.consumer()
    assert worker.took() == [2]
    q.sleep(10)
    q.ack(worker, 2)
    assert all_of(q, worker) == [1, 3]


def test_a_publish_that_came_due_while_it_was_written():
    q = Desk()
    q.hold_commits = True
    q.publish(1, delay=5.0)
    q.sleep(6)
    q.commit()
    assert q.consumer().took() == [1]


def test_due_at_the_very_moment_of_a_tick():
    q = Desk()
    q.publish(1, delay=0.1)
    q.now = q.ledger.wake_at
    q.tick()
    assert q.ledger.states()["delayed"] == 0


# -- ttl ----------------------------------------------------------------------------------------


def test_ttl_is_checked_when_it_would_be_handed_out():
    q = Desk()
    q.publish(1, ttl=10.0)
    q.publish(2)
    q.sleep(11)
    assert q.ledger.live == 2
    assert q.consumer(prefetch=9).took() == [2]
    assert q.ledger.counts.expired == 1
    assert q.log.drops == [("expired", 1)]


def test_expired_messages_at_the_head_do_not_use_up_a_dispatch():
    q = Desk()
    q.publish(*range(10), ttl=5.0)
    q.publish(10, 11)
    q.sleep(6)
    assert q.consumer(prefetch=2).took() == [10, 11]


def test_ttl_never_ends_a_lease_but_meets_what_comes_back():
    q = Desk()
    q.publish(1, 2, ttl=10.0)
    worker = q.consumer(prefetch=2)
    q.sleep(20)
    assert q.ack(worker, 1) == []
    q.nack(worker, 2)
    assert worker.took() == [1, 2]
    assert q.ledger.counts.expired == 1


def test_a_jump_of_the_wall_clock_touches_ttl():
    q = Desk()
    q.publish(1, ttl=10.0)
    q.jump = 3600.0
    assert q.consumer().took() == []


def test_dead_letter_expired():
    q = Desk(dead_letter_expired=True)
    q.publish(1, ttl=10.0)
    q.sleep(11)
    q.consumer()
    to, key, moved = q.take_moves()[0]
    assert (to, body_of(moved)) == ("jobs.dead", 1)
    assert b'"reason":"expired"' in moved.wire
    q.moved(key)
    assert (q.ledger.counts.dead, q.ledger.counts.expired) == (1, 0)


# -- what is only in the log --------------------------------------------------------------------


def deep(**more: object) -> Desk:
    """A queue that keeps about three messages of a hundred in memory."""
    q = Desk(hot_bytes=300, **more)  # type: ignore[arg-type]
    for n in range(100):
        q.publish(n)
    assert cold(q) > 90
    return q


def test_a_backlog_stays_in_the_log_and_is_read_in_order():
    q = deep()
    worker = q.consumer(prefetch=10)
    assert worker.took() == list(range(10))
    for n in range(100):
        assert q.ledger.waiting.in_memory <= 10
        q.ack(worker, n)
    assert worker.took() == list(range(10, 100))
    assert q.ledger.live == q.ledger.bytes == 0


def test_new_publishes_queue_up_behind_what_is_cold():
    q = deep()
    q.publish(100)
    assert all_of(q, q.consumer(prefetch=7)) == list(range(101))


def test_memory_only_messages_keep_their_place_behind_what_is_cold():
    q = deep()
    q.publish(100, durability="memory")
    q.publish(101)
    q.publish(102, durability="memory")
    assert all_of(q, q.consumer(prefetch=7)) == list(range(103))


def test_memory_and_stored_in_turn_are_one_line_once_the_commits_are_done():
    q = Desk()
    q.hold_commits = True
    for n in range(10):
        q.publish(n, durability="memory" if n % 2 else "stored")
    q.hold_commits = False
    q.settle_down()
    assert all_of(q, q.consumer(prefetch=3)) == list(range(10))


def test_what_comes_back_keeps_its_place_before_what_is_cold():
    q = deep()
    worker = q.consumer(prefetch=5)
    q.nack(worker, 3, delay=5.0)
    q.sleep(6)
    q.leave(worker)
    assert all_of(q, q.consumer(prefetch=4)) == list(range(100))


def test_a_delayed_message_takes_its_place_among_what_is_cold():
    q = Desk(hot_bytes=300)
    for n in range(100):
        q.publish(n, **({"delay": 10.0} if n == 50 else {}))
    q.sleep(11)
    assert all_of(q, q.consumer(prefetch=7)) == list(range(100))


def test_many_delayed_ones_wait_in_the_log_only():
    q = Desk(hot_bytes=300)
    for n in range(50):
        q.publish(n, delay=10.0 + n)
    assert len(q.ledger.delayed.hot) < 10
    assert q.ledger.states()["delayed"] == 50
    worker = q.consumer()
    for n in range(50):
        q.sleep(11 if not n else 1)
        assert worker.took() == [n]
        q.ack(worker, n)
    assert q.ledger.bytes == 0


def test_other_priorities_have_their_own_room_and_their_own_line_in_the_log():
    q = Desk(hot_bytes=1600)
    for n in range(60):
        q.publish(n, priority=n % 3 * 4)  # 0, 4, 8
    assert cold(q) > 30
    expected = [n for p in (2, 1, 0) for n in range(60) if n % 3 == p]
    assert all_of(q, q.consumer(prefetch=7)) == expected


def test_lower_priorities_wait_until_higher_ones_are_read():
    q = Desk(hot_bytes=1600)
    for n in range(40):
        q.publish(n, priority=n % 2)
    q.hold_reads = True
    worker = q.consumer(prefetch=100)
    assert set(worker.took()) == {1, 3}
    assert len(q.ledger.ready) == 2
    get = q.get(10)
    assert get.gots == []
    q.hold_reads = False
    q.settle_down()
    mine, others = worker.took(), get.took()
    assert mine[:18] == list(range(5, 40, 2))
    assert sorted(mine[18:] + others) == list(range(0, 40, 2))
    assert get.gots == [len(others)]


def test_a_late_ack_of_a_message_that_stands_aside():
    """After a crash what one held may be in the midst of what is not yet read."""
    q = deep()
    worker = q.consumer(prefetch=3, ack_timeout=10.0)
    q.ack(worker, 0, 1)
    q.hold_reads = True
    q.crash()
    q.sleep(12)
    assert [body_of(m) for m in q.ledger.waiting.cold.asides] == [2, 3, 4]
    assert q.ack(worker, 3) == []
    q.leave(worker)
    q.hold_reads = False
    q.settle_down()
    assert all_of(q, q.consumer(prefetch=5)) == [2, *range(4, 100)]


def test_a_read_that_comes_back_after_a_purge_is_nothing():
    q = deep()
    q.hold_reads = True
    q.publish(200, priority=9)
    worker = q.consumer(prefetch=50)
    taken = worker.took()
    assert q.reads
    assert q.purge() == 101 - len(taken)
    q.hold_reads = False
    q.settle_down()
    assert worker.took() == []
    q.ack(worker, *taken)
    assert q.ledger.live == q.ledger.bytes == 0


def test_a_purge_of_the_log_is_in_ranges_and_leaves_what_is_held():
    q = deep()
    q.publish(100)
    worker = q.consumer()
    q.hold_commits = True
    q.publish(101)  # not yet durable: it is not ready
    assert q.purge() == 100
    purged = [seq for why, seq in q.log.drops if why == "purged"]
    assert purged == list(range(2, 102))
    q.hold_commits = False
    q.settle_down()
    q.ack(worker, 0)
    assert worker.took() == [0, 101]


@pytest.mark.parametrize("n", [0, 1, 50, 99])
def test_one_damaged_record_costs_one_message(n):
    q = deep()
    q.hold_reads = True
    worker = q.consumer(prefetch=7)
    taken: list[int] = []
    while (new := worker.took()) or q.reads:
        if q.reads:
            q.read(damaged=[n + 1])
        taken += new
        q.ack(worker, *new)
    in_memory = n < 3  # it had been read before it was damaged
    assert taken == [m for m in range(100) if m != n or in_memory]
    assert q.ledger.counts.lost == (0 if in_memory else 1)
    assert q.ledger.live == q.ledger.bytes == 0


def test_a_damaged_record_of_another_priority_or_a_delayed_one():
    q = Desk(hot_bytes=300)
    for n in range(20):
        q.publish(n, priority=9)
        q.publish(100 + n, delay=50.0)
    q.hold_reads = True
    worker = q.consumer(prefetch=100)
    q.read(damaged=[39])  # 19
    q.hold_reads = False
    q.settle_down()
    assert worker.took() == list(range(19))
    q.ack(worker, *range(19))
    q.log.end([40], "damaged")  # 119; found when a segment was copied
    q.turn(lambda _: q.ledger.lost_on_disk([40]))
    q.sleep(60)
    assert worker.took() == list(range(100, 119))
    assert q.ledger.counts.lost == 2


def test_what_is_in_memory_is_not_lost_with_its_record():
    q = Desk()
    worker = q.consumer()
    q.publish(1, 2)
    q.publish(3, delay=10.0)
    q.log.end([1, 2, 3], "damaged")
    q.turn(lambda _: q.ledger.lost_on_disk([1, 2, 3]))
    q.sleep(11)
    assert all_of(q, worker) == [1, 2, 3]
    assert q.ledger.counts.lost == 0


def test_a_seq_that_did_not_come_is_asked_for_again():
    """The record was copied to another segment while it was read."""
    q = Desk(hot_bytes=300)
    for n in range(20):
        q.publish(n, priority=9)
    q.hold_reads = True
    worker = q.consumer(prefetch=100)
    ahead, seqs = q.reads.pop(0)
    assert not ahead
    q.turn(lambda stamp: q.ledger.loaded_seqs([], stamp))
    assert q.reads == [(False, seqs)]
    q.hold_reads = False
    q.settle_down()
    assert worker.took() == list(range(20))


def test_nothing_is_read_for_nobody():
    q = deep()
    assert q.reads == []
    assert q.ledger.wants() is None
    q.restart()  # now nothing is in memory: a few messages are
    q.settle_down()
    assert 1 <= q.ledger.waiting.in_memory < 10
    assert q.ledger.wants() is None


def test_bytes_are_counted_exactly_in_the_end_also_after_a_restart():
    q = deep()
    q.restart()
    assert q.ledger.bytes > 0
    assert all_of(q, q.consumer(prefetch=9)) == list(range(100))
    assert q.ledger.live == q.ledger.bytes == 0
