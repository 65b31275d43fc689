"""Leases: acks, attempts, deadlines, hung consumers, suspects, departures, `get`."""

import pytest

from msg.errors import ClientError
from tests.core.ledger_kit import Desk, Worker, body_of

FULL = ClientError("disk_full", "no room")


def reasons(worker: Worker) -> list[tuple[int, int, str]]:
    """(body, attempt, why it came back) of what it holds."""
    return [(body_of(m), m.attempts + 1, m.returned) for m in worker.held.values()]


# -- credit -------------------------------------------------------------------------------------


def test_prefetch_is_never_exceeded_and_acks_free_it():
    q = Desk()
    worker = q.consumer(prefetch=2)
    q.publish(1, 2, 3, 4)
    assert worker.took() == [1, 2]
    q.ack(worker, 1)
    assert worker.took() == [3]
    q.ack(worker, 2, 3)
    assert worker.took() == [4]


def test_repeating_a_subscription_changes_its_prefetch():
    q = Desk()
    worker = q.consumer(prefetch=1)
    q.publish(*range(6))
    assert worker.took() == [0]
    again = q.workers[worker].anew()
    again.prefetch = 4
    q.turn(lambda _: q.ledger.attach(again))
    assert worker.took() == [1, 2, 3]
    again = again.anew()
    again.prefetch = 1
    q.turn(lambda _: q.ledger.attach(again))
    q.ack(worker, 0, 1, 2)
    assert worker.took() == []  # it holds as much as it may
    q.ack(worker, 3)
    assert worker.took() == [4]


def test_bytes_are_credit():
    """As long as there is room at all the next message goes, so it may go over by one."""
    q = Desk()
    q.hold_writes = True
    worker = q.consumer(prefetch=100, room=1000)
    q.publish(*range(10), size=300)  # about 400 bytes each
    assert worker.took() == [0, 1, 2]
    q.write(worker, 1)
    assert worker.took() == [3]
    worker.limit = 10_000
    q.turn()
    assert worker.took() == list(range(4, 10))


def test_one_message_goes_even_if_it_is_larger_than_the_room():
    q = Desk()
    q.hold_writes = True
    worker = q.consumer(prefetch=9, room=10)
    q.publish(1, 2)
    assert worker.took() == [1]
    q.write(worker)
    assert worker.took() == [2]


def test_what_is_handed_out_in_one_turn_counts_against_everybodys_room():
    """Two subscriptions of one connection share its room, and the queue can't know."""
    q = Desk()
    q.hold_writes = True
    q.ledger.paused = True
    q.publish(*range(20), size=300)
    a, b = q.consumer(prefetch=9, room=2000), q.consumer(prefetch=9, room=2000)
    q.ledger.paused = False
    q.turn()
    assert 2000 < sum(len(m.wire) for m in [*a.new, *b.new]) < 2500


# -- attempts -----------------------------------------------------------------------------------


def test_a_nack_comes_back_at_once_and_then_after_its_backoff():
    q = Desk(backoff=(0.0, 1.0, 5.0), max_deliveries=0)
    worker = q.consumer()
    q.publish(1)
    waits = []
    for attempt in range(1, 6):
        assert reasons(worker) == [(1, attempt, "nack" if attempt > 1 else "")]
        began = q.now
        q.nack(worker, 1, reason="not now")
        while not worker.held:
            q.sleep(0.5)
        waits.append(q.now - began)
    assert waits == [0, 1, 5, 5, 5]


def test_a_nack_with_a_delay_frees_its_credit_and_comes_back_to_its_place():
    q = Desk()
    worker = q.consumer(prefetch=1)
    q.publish(1, 2, 3, 4)
    q.nack(worker, 1, delay=10.0)
    assert worker.took() == [1, 2]
    q.sleep(10)
    q.ack(worker, 2)
    assert worker.took() == [1]
    assert reasons(worker) == [(1, 2, "nack")]


def test_a_nack_that_does_not_count():
    q = Desk(max_deliveries=2)
    worker = q.consumer()
    q.publish(1)
    for _ in range(5):
        q.nack(worker, 1, count=False)
    assert reasons(worker) == [(1, 1, "nack")]
    q.nack(worker, 1, count=False, delay=3.0)
    q.sleep(3)
    assert reasons(worker) == [(1, 1, "nack")]
    assert q.log.tries[1].case == ()  # a delay is noted, but it is no attempt


def test_the_delay_of_an_uncounted_nack_survives_a_restart():
    q = Desk()
    worker = q.consumer()
    q.publish(1)
    q.nack(worker, 1, count=False, delay=30.0)
    q.restart()
    worker = q.consumer()
    q.sleep(29)
    assert worker.took() == []
    q.sleep(2)
    assert worker.took() == [1]


def test_a_disconnect_counts_only_for_what_the_kernel_had():
    q = Desk()
    q.hold_writes = True
    worker = q.consumer(prefetch=2)
    q.publish(1, 2)
    q.write(worker, 1)
    q.leave(worker)
    q.hold_writes = False
    other = q.consumer(prefetch=2)
    assert reasons(other) == [(1, 2, "disconnect"), (2, 1, "")]


def test_a_disconnect_returns_at_once_whatever_the_backoff():
    q = Desk(backoff=(60.0,))
    q.publish(1)
    q.leave(q.consumer())
    assert q.consumer().took() == [1]


def test_a_drain_counts_nothing_delivers_nothing_and_takes_acks():
    q = Desk()
    worker = q.consumer(prefetch=2)
    q.publish(1, 2, 3)
    q.ledger.draining = True
    q.turn()
    q.ack(worker, 1)
    assert worker.took() == [1, 2]
    q.leave(worker)
    assert q.log.tries == {}
    assert q.ledger.states()["ready"] == 2
    assert q.consumer().took() == []


def test_a_case_tells_of_each_attempt_and_is_bounded():
    q = Desk(max_deliveries=0, backoff=())
    worker = q.consumer(name="smith")
    q.publish(1)
    q.nack(worker, 1, reason="too heavy")
    attempt = next(iter(worker.held.values())).case[0]
    assert (attempt.n, attempt.why, attempt.who, attempt.reason) == (
        1,
        "nack",
        "smith",
        "too heavy",
    )
    for _ in range(150):
        q.nack(worker, 1)
    case = next(iter(worker.held.values())).case
    assert [a.n for a in case] == [*range(1, 51), *range(102, 152)]


# -- deadlines ----------------------------------------------------------------------------------


def test_a_deadline_runs_from_the_write_of_the_frame():
    q = Desk()
    q.hold_writes = True
    worker = q.consumer(ack_timeout=30.0)
    q.publish(1)
    q.sleep(100)
    assert worker.held  # it was never written: its clock does not run
    q.write(worker)
    q.sleep(29)
    assert worker.held
    q.sleep(2)
    assert not worker.held
    assert [body_of(m) for m in worker.stale.values()] == [1]


def test_no_deadline():
    q = Desk()
    worker = q.consumer(ack_timeout=0.0)
    q.publish(1)
    q.sleep(100_000)
    assert worker.held
    q.leave(worker)
    assert q.consumer().took() == [1]


def test_a_touch_lets_the_deadline_run_anew():
    q = Desk()
    worker = q.consumer(prefetch=2, ack_timeout=30.0)
    q.publish(1, 2)
    q.sleep(20)
    assert q.touch(worker, 1) == []
    q.sleep(15)
    assert list(map(body_of, worker.held.values())) == [1]
    q.sleep(14)
    assert worker.held
    q.sleep(2)
    assert not worker.held


def test_a_touch_before_others_are_written_does_not_hide_its_deadline():
    q = Desk()
    q.hold_writes = True
    worker = q.consumer(prefetch=2, ack_timeout=30.0)
    q.publish(1)
    q.write(worker)
    q.publish(2)
    q.sleep(10)
    q.touch(worker, 1)  # until 40; 2 stands before it, and its clock does not run
    q.sleep(25)
    q.write(worker)  # until 65
    q.sleep(6)
    assert list(map(body_of, worker.held.values())) == [2]


def test_a_shorter_timeout_holds_for_new_leases_only():
    q = Desk()
    worker = q.consumer(prefetch=2, ack_timeout=100.0)
    q.publish(1)
    again = q.workers[worker].anew()
    again.ack_timeout = 10.0
    q.turn(lambda _: q.ledger.attach(again))
    q.publish(2)
    q.sleep(11)
    assert list(map(body_of, worker.held.values())) == [1]
    q.sleep(90)
    assert not worker.held


def test_a_stall_of_the_broker_is_not_the_consumers_time():
    q = Desk()
    worker = q.consumer(ack_timeout=30.0)
    q.publish(1)
    q.now += 50  # the process was stopped
    q.tick(stalled=40.0)
    assert worker.held
    q.tick()  # the next tick must know it too
    assert worker.held
    q.sleep(19)
    assert worker.held
    q.sleep(2)
    assert not worker.held


def test_a_jump_of_the_wall_clock_is_no_time():
    q = Desk()
    worker = q.consumer(ack_timeout=30.0)
    q.publish(1)
    q.publish(2, delay=20.0)
    q.hold_commits = True
    q.publish(3, delay=20.0)  # under way when it jumps
    q.jump = 7200.0
    q.hold_commits = False
    q.settle_down()
    q.sleep(19)
    assert worker.held
    assert q.ledger.states()["delayed"] == 2
    q.sleep(2)
    assert q.ledger.states()["delayed"] == 0
    q.jump = -7200.0
    q.sleep(10)
    assert not worker.held


# -- hung consumers and late acks ---------------------------------------------------------------


def test_a_hung_consumer_gets_nothing_until_it_shows_life():
    for life in ("ack", "nack", "touch"):
        q = Desk()
        worker = q.consumer(prefetch=3, ack_timeout=10.0)
        q.publish(1)
        q.sleep(9)
        q.publish(2)
        q.sleep(2)
        assert worker.took() == [1, 2]  # 1 expired, and does not come back to it
        q.publish(3)
        assert worker.took() == []
        getattr(q, life)(worker, 2)
        assert worker.took()[:2] == ([1, 3] if life != "nack" else [1, 2]), life


def test_even_a_refused_ack_is_life():
    q = Desk()
    worker = q.consumer(ack_timeout=10.0)
    other = q.consumer()
    q.publish(1)
    q.sleep(11)
    assert other.took() == [1]
    q.publish(2)
    assert worker.took() == [1]
    assert q.ack(worker, 1) == [(None, next(iter(other.held.values())).id, "not_held")]
    assert worker.took() == [2]


def test_a_late_ack_counts_while_the_message_waits_undelivered():
    q = Desk(backoff=(0.0,))
    worker = q.consumer(prefetch=2, ack_timeout=10.0)
    q.publish(1, 2)
    q.sleep(11)
    assert q.ledger.states()["ready"] == 2
    assert q.ack(worker, 2) == []
    assert q.ledger.counts.settled == 1
    assert worker.took() == [1, 2, 1]  # its credit is its own again
    q.ack(worker, 1)
    assert q.ledger.live == 0


def test_a_late_ack_counts_while_the_message_waits_for_its_backoff():
    q = Desk(backoff=(60.0,))
    worker = q.consumer(ack_timeout=10.0)
    q.publish(1)
    q.sleep(11)
    assert q.ledger.states()["delayed"] == 1
    assert q.ack(worker, 1) == []
    assert q.ledger.live == 0
    q.sleep(100)
    assert worker.took() == [1]


def test_a_late_ack_of_another_is_not_held():
    q = Desk()
    worker, other = q.consumer(ack_timeout=10.0), Worker()
    q.publish(1)
    q.sleep(11)
    other.stale = dict(worker.stale)
    assert len(q.ack(other, 1)) == 1
    assert q.ack(worker, 1) == []
    assert len(q.turn(lambda _: q.ledger.ack(worker, list(other.stale.values())))[0]) == 0


def test_a_late_ack_of_an_old_lease_does_not_settle_a_new_one():
    """The tag of the first lease, when the same consumer holds the message again."""
    q = Desk(backoff=(0.0,))
    worker = q.consumer(prefetch=2, ack_timeout=10.0)
    q.publish(1)
    old = worker.find(1)
    q.sleep(11)
    q.touch(worker, 1)  # life
    assert worker.took() == [1, 1]
    assert len(q.turn(lambda _: q.ledger.ack(worker, [old]))[0]) == 1
    assert q.ledger.leased == 1
    assert q.ack(worker, 1) == []
    assert q.ledger.live == 0


def test_an_ack_of_the_same_lease_twice_in_one_request():
    q = Desk()
    worker = q.consumer()
    q.publish(1)
    message = worker.held.pop(1)
    assert len(q.turn(lambda _: q.ledger.ack(worker, [message, message]))[0]) == 1
    assert q.ledger.counts.settled == 1


# -- suspects -----------------------------------------------------------------------------------


def crash_with(q: Desk, *numbers: int, times: int) -> None:
    for _ in range(times):
        worker = q.consumer(prefetch=100)
        assert set(numbers) <= set(worker.took())
        q.leave(worker)


def test_from_the_third_attempt_on_a_message_that_disconnects_return_goes_alone():
    q = Desk()
    q.publish(*range(4))
    crash_with(q, 0, 1, 2, 3, times=2)
    assert [body_of(m) for m in q.ledger.suspects] == [0, 1, 2, 3]
    q.publish(4)
    worker = q.consumer(prefetch=10)
    taken = worker.took()
    for n in range(4):  # one at a time
        assert taken == [n]
        q.ack(worker, n)
        taken = worker.took()
    assert taken == [4]


def test_a_poison_message_spends_nobody_elses_attempts():
    q = Desk(max_deliveries=5)
    q.publish(*range(10))
    for _ in range(5):  # whoever gets 5 dies; what else it holds returns with it
        worker = q.consumer(prefetch=4)
        while 5 not in (taken := worker.took()):
            q.ack(worker, *taken)
        q.leave(worker)
    to, _, moved = q.take_moves()[0]
    assert (to, body_of(moved)) == ("jobs.dead", 5)
    others = [tries.attempts for seq, tries in q.log.tries.items() if seq != 6]
    assert others
    assert max(others) == 2


def two_busy_ones_and_a_suspect() -> tuple[Desk, Worker, Worker]:
    """Both hold all they may; the suspect (0) waits, and much else behind it."""
    q = Desk()
    q.publish(1, 2, 3, 4, 5)
    first = q.consumer(prefetch=2, ack_timeout=0.0)
    second = q.consumer(prefetch=3, ack_timeout=0.0)
    q.publish(0)
    crash_with(q, 0, times=2)
    q.publish(*range(10, 80))
    assert (first.took(), second.took()) == ([1, 2], [3, 4, 5])
    assert [body_of(m) for m in q.ledger.suspects] == [0]
    return q, first, second


def oldest(worker: Worker) -> int:
    return body_of(next(iter(worker.held.values())))


def test_suspects_do_not_starve_when_all_are_always_busy():
    """No consumer is ever empty by itself: one is let run dry for the suspect."""
    q, first, second = two_busy_ones_and_a_suspect()
    steps = 0
    while q.ledger.suspects:
        for worker in (second, first):
            if len(worker.held) > 1 or worker is first:
                q.ack(worker, oldest(worker))
        steps += 1
        assert steps < 5
    assert [body_of(m) for m in first.held.values()] == [0]
    assert len(second.held) == 3  # is served as ever
    q.ack(first, 0)
    assert len(first.held) == 2


def test_one_that_is_stuck_does_not_keep_suspects_waiting_for_ever():
    q, first, second = two_busy_ones_and_a_suspect()
    q.ack(first, 1)  # the least busy: it gets nothing more, and then it hangs
    for _ in range(10):
        q.ack(second, oldest(second))
        assert len(second.held) == 3
        q.sleep(2)
    q.sleep(15)
    while q.ledger.suspects:
        q.ack(second, oldest(second))
    assert [body_of(m) for m in second.held.values()] == [0]


def test_those_that_ran_dry_are_served_again_when_no_suspect_is_left():
    q, first, _ = two_busy_ones_and_a_suspect()
    q.ack(first, 1)
    assert first.took() == []
    assert q.purge() == 71
    q.publish(5)
    assert first.took() == [5]


def test_a_consumer_that_leaves_while_it_runs_dry_is_not_waited_for():
    q, first, second = two_busy_ones_and_a_suspect()
    q.ack(first, 1)
    q.leave(first, handed=False)
    while q.ledger.suspects:
        q.ack(second, oldest(second))
    assert [body_of(m) for m in second.held.values()] == [0]


def test_a_suspect_stays_one_when_it_was_never_sent():
    q = Desk()
    q.publish(0)
    crash_with(q, 0, times=2)
    q.hold_writes = True
    worker = q.consumer()
    assert worker.took() == [0]
    q.leave(worker)  # unsent: uncounted
    assert [m.attempts for m in q.ledger.suspects] == [2]


def test_suspects_are_known_after_a_restart():
    q = Desk()
    q.publish(0, 1)
    crash_with(q, 0, 1, times=2)
    q.publish(2)
    q.restart()
    assert q.consumer(prefetch=10).took() in ([0], [2])
    assert q.ledger.suspects or q.ledger.leased


def test_a_suspect_that_expired_is_not_tried():
    q = Desk()
    q.publish(0, ttl=5.0)
    q.publish(1)
    crash_with(q, 0, times=2)
    q.sleep(6)
    worker = q.consumer()
    q.ack(worker, 1)
    assert worker.took() == [1]
    assert q.ledger.counts.expired == 1


# -- departures ---------------------------------------------------------------------------------


def test_after_an_unsubscribe_nothing_comes_and_what_is_held_stays_valid():
    q = Desk()
    worker = q.consumer(prefetch=2, ack_timeout=30.0)
    q.publish(1, 2)
    q.hold_writes = True
    q.ack(worker, 1)
    q.publish(3)
    assert worker.took() == [1, 2, 3]
    q.unsubscribe(worker)  # 3 was not yet written: back, uncounted
    q.hold_writes = False
    q.publish(4)
    assert worker.took() == []
    assert q.ack(worker, 2) == []
    assert worker not in q.ledger.consumers  # it held nothing more
    other = q.consumer(prefetch=9)
    assert reasons(other) == [(3, 1, ""), (4, 1, "")]


def test_what_is_held_after_an_unsubscribe_returns_at_its_deadline_or_on_disconnect():
    q = Desk()
    worker, second = q.consumer(ack_timeout=10.0), q.consumer(ack_timeout=0.0)
    q.publish(1, 2)
    q.unsubscribe(worker)
    q.unsubscribe(second)
    q.sleep(11)
    assert list(q.ledger.consumers) == [second]
    q.leave(second)
    assert q.consumer(prefetch=2).took() == [1, 2]


def test_auto_ack_settles_when_the_frame_was_sent():
    q = Desk()
    q.hold_writes = True
    worker = q.consumer(auto=True, prefetch=2)
    q.publish(1, 2, 3)
    assert q.ledger.counts.settled == 0
    q.write(worker, 1)
    assert q.ledger.counts.settled == 1
    worker.took()
    q.leave(worker)
    q.hold_writes = False
    other = q.consumer(prefetch=9)
    assert reasons(other) == [(2, 1, ""), (3, 1, "")]


def test_pause_stops_dispatch_only():
    q = Desk()
    worker = q.consumer(prefetch=2)
    q.publish(1)
    q.ledger.paused = True
    q.publish(2)
    assert worker.took() == [1]
    assert q.ack(worker, 1) == []
    q.ledger.paused = False
    q.turn()
    assert worker.took() == [2]


def test_purge_takes_ready_and_delayed_only():
    q = Desk()
    worker = q.consumer()
    q.publish(1, 2, 3)
    q.publish(4, delay=60.0)
    q.publish(5, durability="memory")
    q.publish(6, priority=9)
    assert q.purge() == 5
    assert q.kept == {}
    assert sorted(q.log.ended.values()) == ["purged"] * 4
    q.nack(worker, 1)
    assert worker.took() == [1, 1]


# -- get ----------------------------------------------------------------------------------------


def test_get_takes_what_is_there_and_says_how_many():
    q = Desk()
    q.publish(1, 2)
    worker = q.get(5)
    assert (worker.took(), worker.gots) == ([1, 2], [2])
    q.publish(3)
    assert worker.took() == []
    q.ack(worker, 1, 2)
    assert q.ledger.consumers == {}


def test_get_waits_for_its_time():
    q = Desk()
    worker = q.get(3, wait=10.0)
    q.publish(1)
    q.sleep(5)
    assert (worker.took(), worker.gots) == ([1], [])
    q.ack(worker, 1)  # its credit, but not its count
    q.publish(2)
    q.sleep(6)
    assert (worker.took(), worker.gots) == ([2], [2])
    empty = q.get(1)
    assert empty.gots == [0]
    assert list(q.ledger.consumers) == [worker]


def test_get_ends_as_soon_as_it_has_all():
    q = Desk()
    worker = q.get(2, wait=1000.0)
    q.publish(1, 2, 3)
    assert (worker.took(), worker.gots) == ([1, 2], [2])


def test_get_waits_for_what_was_published_before_it():
    """The two may have come in one read; a commit takes a millisecond."""
    q = Desk()
    q.hold_commits = True
    q.publish(1)
    worker = q.get(5)
    assert worker.gots == []
    q.commit()
    assert (worker.took(), worker.gots) == ([1], [1])
    q.publish(2)
    failing = q.get(5)
    q.commit(FULL)
    assert (failing.took(), failing.gots) == ([], [0])


def test_get_does_not_wait_for_what_is_published_after_it():
    q = Desk()
    q.hold_commits = True
    q.publish(1)
    worker = q.get(5)
    q.begin_commit()
    q.publish(2)
    q.commit()
    assert (worker.took(), worker.gots) == ([1], [1])


def test_get_waits_for_the_disk_even_without_wait():
    q = Desk(hot_bytes=300)
    for n in range(20):
        q.publish(n)
    q.hold_reads = True
    worker = q.get(10)
    assert worker.gots == []
    q.hold_reads = False
    q.settle_down()
    assert (worker.took(), worker.gots) == (list(range(10)), [10])


@pytest.mark.parametrize("stopped", ["paused", "draining"])
def test_get_from_a_stopped_queue_is_empty(stopped):
    q = Desk()
    q.publish(1)
    setattr(q.ledger, stopped, True)
    assert q.get(1).gots == [0]


def test_the_leases_of_a_get_end_like_others():
    q = Desk()
    q.publish(1, 2)
    worker = q.get(2, ack_timeout=10.0)
    q.sleep(11)
    assert q.ledger.consumers == {}
    assert q.ack(worker, 1) == []  # late, but nobody has it
    assert q.consumer(prefetch=2).took() == [2]
