"""Moves: dead letters and their case, retries, arrivals, and crashes in between."""

import json

from msg.core.message import Message
from tests.core.ledger_kit import Desk, body_of


def case_of(message: Message) -> dict[str, object]:
    case = json.loads(b"{" + message.wire + b"}")["case"]
    assert isinstance(case, dict)
    return case


def carry(source: Desk, target: Desk) -> list[str]:
    """All moves that are under way, to their end; returns their keys."""
    keys = []
    for to, key, message in source.take_moves():
        assert to == target.name
        target.arrive(key, message)
        source.moved(key)
        target.release(key)
        keys.append(key)
    return keys


def pair() -> tuple[Desk, Desk]:
    return Desk(max_deliveries=2, backoff=()), Desk("jobs.dead", dead_name="")


def test_after_max_deliveries_a_message_moves_with_its_case():
    q, dead = pair()
    worker = q.consumer(name="smith")
    q.publish(1)
    q.nack(worker, 1, reason="too heavy")
    q.leave(worker)
    assert q.ledger.states()["leaving"] == 1
    assert carry(q, dead) == ["jobs:1:2"]
    assert (q.ledger.live, q.ledger.counts.dead, q.ledger.bytes) == (0, 1, 0)
    assert q.log.ended == {1: "moved to jobs.dead"}
    reader = dead.consumer()
    message = reader.find(1)
    assert message.attempts == 0
    case = case_of(message)
    assert case["queue"] == "jobs"
    assert case["reason"] == "2 failed attempts, the last: disconnect"
    assert case["attempts"] == [
        {"n": 1, "at": case["at"], "why": "nack", "who": "smith", "reason": "too heavy"},
        {"n": 2, "at": case["at"], "why": "disconnect", "who": "smith"},
    ]


def test_no_limit_of_deliveries():
    q = Desk(max_deliveries=0, backoff=())
    worker = q.consumer()
    q.publish(1)
    for _ in range(50):
        q.nack(worker, 1)
    assert q.take_moves() == []


def test_a_nack_without_requeue_goes_at_once():
    q, dead = pair()
    worker = q.consumer()
    q.publish(1, 2)
    q.nack(worker, 1, requeue=False, reason="nonsense")
    carry(q, dead)
    assert case_of(dead.consumer().find(1))["reason"] == "nonsense"
    assert worker.took() == [1, 2]


def test_a_dead_queue_has_no_max_deliveries_and_drops_what_is_refused_there():
    dead = Desk("jobs.dead", dead_name="", max_deliveries=2, backoff=())
    dead.publish(1, 2)
    worker = dead.consumer()
    for _ in range(10):
        dead.nack(worker, 1)
    dead.nack(worker, 1, requeue=False)
    assert worker.took()[-1] == 2
    assert dead.ledger.counts.dropped == 1
    assert dead.log.drops == [("dropped from a dead queue: nacked without requeue", 1)]


def test_an_arrival_is_handed_out_only_when_its_source_has_let_go():
    q, dead = pair()
    q.publish(1)
    q.nack(q.consumer(), 1, requeue=False)
    reader = dead.consumer()
    _, key, message = q.take_moves()[0]
    assert dead.arrive(key, message)
    assert reader.took() == []
    assert dead.ledger.states()["arriving"] == 1
    dead.release(key)
    assert reader.took() == [1]


def test_an_arrival_twice_is_one():
    q, dead = pair()
    q.publish(1)
    q.nack(q.consumer(), 1, requeue=False)
    _, key, message = q.take_moves()[0]
    assert dead.arrive(key, message)
    assert not dead.arrive(key, message)
    dead.release(key)
    assert not dead.arrive(key, message)
    assert dead.ledger.live == 1


def test_moves_are_not_subject_to_dedup_and_give_no_id_free():
    """The id of what moves in is not the target's business, also when its disk is full."""
    from msg.errors import ClientError

    q, dead = pair()
    q.publish(1, message_id="a")
    worker = q.consumer()
    q.nack(worker, 1, requeue=False)
    carry(q, dead)
    assert dead.retry() == 1
    _, key, message = dead.take_moves()[0]
    q.hold_commits = True
    q.arrive(key, message)
    q.commit(ClientError("disk_full", "no room"))
    assert q.ledger.live == 0
    assert q.publish(1, message_id="a") == []
    q.commit()
    assert q.mine.outcomes() == ["dup"]
    assert q.arrive(key, message)  # it is sent again, and is new here
    q.commit()
    q.release(key)
    assert worker.took() == [1, 1]


def test_a_move_that_its_target_refuses_is_tried_again():
    q, dead = pair()
    q.publish(1)
    q.nack(q.consumer(), 1, requeue=False)
    _, key, _ = q.take_moves()[0]
    q.turn(lambda stamp: q.ledger.move_failed(key, stamp))
    q.sleep(0.5)
    assert q.moves == []
    q.sleep(1)
    assert carry(q, dead) == [key]


def test_retry_sends_back_where_it_died_with_attempts_reset():
    q, dead = pair()
    q.publish(1, 2, 3)
    worker = q.consumer(prefetch=3)
    q.nack(worker, 1, 2, 3)
    q.nack(worker, 1, 2, 3)
    q.leave(worker)
    carry(q, dead)
    assert dead.retry(lambda m: body_of(m) != 2, most=1) == 1
    assert carry(dead, q) == ["jobs.dead:1:0"]
    again = q.consumer()
    message = again.find(1)
    assert (message.attempts, message.case) == (0, ())
    assert b"case" not in message.wire
    assert dead.ledger.counts.moved == 1
    assert dead.retry() == 2
    carry(dead, q)
    assert dead.ledger.live == 0


def test_what_was_not_a_dead_letter_is_not_retried():
    dead = Desk("jobs.dead", dead_name="")
    dead.publish(1)
    assert dead.retry() == 0


def test_a_retry_reaches_what_is_only_in_the_log():
    q = Desk(max_deliveries=1)
    dead = Desk("jobs.dead", dead_name="", hot_bytes=2000)
    worker = q.consumer(prefetch=100)
    for n in range(50):
        q.publish(n)
        q.nack(worker, n)
    carry(q, dead)
    assert len(dead.ledger.waiting.cold) > 20
    sent = dead.retry()
    dead.settle_down()
    assert sent < 50
    assert carry(dead, q) == [f"jobs.dead:{seq}:0" for seq in range(1, 51)]
    assert dead.ledger.live == 0
    assert dead.ledger.wants() is None


def test_a_dead_queue_keeps_little_in_memory():
    q = Desk(max_deliveries=1)
    dead = Desk("jobs.dead", dead_name="", hot_bytes=2000)
    worker = q.consumer(prefetch=100)
    for n in range(200):
        q.publish(n)
        q.nack(worker, n)
        carry(q, dead)
    assert dead.ledger.waiting.in_memory < 30
    reader = dead.consumer(prefetch=1000)
    assert reader.took() == list(range(200))


def test_memory_only_messages_move_too():
    q, dead = pair()
    q.publish(1, durability="memory")
    q.nack(q.consumer(), 1, requeue=False)
    carry(q, dead)
    assert q.kept == {}
    assert list(map(body_of, dead.kept.values())) == [1]
    assert dead.retry() == 1
    carry(dead, q)
    assert dead.kept == {}
    assert q.ledger.memory_bytes == q.ledger.bytes > 0


def test_a_crash_of_the_source_sends_again():
    for durability in ("stored", "memory"):
        q, dead = pair()
        q.publish(1, 2, durability=durability)
        worker = q.consumer()
        q.nack(worker, 1, requeue=False)
        _, key, message = q.take_moves()[0]
        dead.arrive(key, message)
        q.crash()
        assert [move[1] for move in q.moves] == [key]
        assert carry(q, dead) == [key]
        assert dead.ledger.live == 1
        assert worker.took() == [1, 2]


def test_a_turn_that_fails_after_a_burial_has_buried_nothing():
    q, dead = pair()
    q.publish(1)
    worker = q.consumer()
    message = worker.find(1)
    q.ledger.nack(worker, [message], q.stamp(), requeue=False)
    q.crash()
    assert (q.moves, q.ledger.leased) == ([], 1)
    assert (message.attempts, message.case, message.returned) == (0, (), "")
    q.nack(worker, 1, requeue=False)
    carry(q, dead)
    assert q.ledger.live == 0


def test_a_crash_of_the_target_waits_on_for_its_release():
    for durability in ("stored", "memory"):
        q, dead = pair()
        q.publish(1, durability=durability)
        q.nack(q.consumer(), 1, requeue=False)
        _, key, message = q.take_moves()[0]
        dead.arrive(key, message)
        dead.crash()
        reader = dead.consumer()
        assert reader.took() == []
        assert not dead.arrive(key, message)
        dead.release(key)
        assert reader.took() == [1]
        dead.ack(reader, 1)
        assert dead.ledger.live == dead.ledger.bytes == 0


def test_a_crash_of_the_target_before_it_wrote_anything():
    q, dead = pair()
    q.publish(1)
    q.nack(q.consumer(), 1, requeue=False)
    _, key, message = q.take_moves()[0]
    dead.ledger.arrive(key, message)  # and no carry_out
    dead.crash()
    assert dead.ledger.live == 0
    assert dead.arrive(key, message)
    dead.release(key)
    assert dead.consumer().took() == [1]


def test_one_that_has_had_all_its_attempts_at_a_stop_is_not_delivered_again():
    """The broker stopped between the last attempt and the move."""
    q, dead = pair()
    q.publish(1, 2)
    worker = q.consumer()
    q.nack(worker, 1)
    q.nack(worker, 1)
    q.take_moves()
    q.restart()
    worker = q.consumer()
    assert worker.took() == [2]
    carry(q, dead)
    assert dead.ledger.live == 1


def test_keys_never_meet_twice():
    """A memory-only message that died has lent its number to nobody after a crash."""
    q, dead = pair()
    worker = q.consumer()
    q.publish(1, durability="memory")
    q.nack(worker, 1, requeue=False)
    first = carry(q, dead)
    q.crash()
    q.publish(2, durability="memory")
    q.nack(worker, 2, requeue=False)
    assert carry(q, dead) != first
    assert dead.ledger.live == 2


def test_a_crash_of_a_target_with_a_backlog_reads_what_was_released_after_it():
    q, dead = pair()
    q.publish(1)
    q.nack(q.consumer(), 1, requeue=False)
    _, key, message = q.take_moves()[0]
    dead.publish(0)  # it is cold after the crash, and goes before
    dead.arrive(key, message)
    dead.hold_reads = True
    dead.crash()
    reader = dead.consumer(prefetch=9)
    dead.release(key)
    dead.hold_reads = False
    dead.settle_down()
    assert reader.took() == [0, 1]
