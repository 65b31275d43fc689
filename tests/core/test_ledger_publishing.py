"""Publishes: dedup, the order of answers, commits that fail, limits and what they do."""

import attrs
import pytest

from msg.core.commands import Publish
from msg.errors import ClientError
from tests.core.ledger_kit import Desk, Publisher

FULL = ClientError("disk_full", "no room")


# -- dedup --------------------------------------------------------------------------------------


def test_the_same_id_and_body_is_stored_once():
    q = Desk()
    assert q.publish(1, message_id="a") == ["ok"]
    assert q.publish(1, message_id="a") == ["dup"]
    assert q.ledger.live == 1
    worker = q.consumer(prefetch=9)
    q.ack(worker, 1)
    assert q.publish(1, message_id="a") == ["dup"]  # also when it is long settled
    assert q.ledger.counts.duplicates == 2


def test_the_same_id_with_another_body_conflicts():
    q = Desk()
    q.publish(1, message_id="a")
    assert q.publish(2, message_id="a") == ["id_conflict"]
    assert q.publish(1, message_id="a") == ["dup"]


def test_an_id_is_known_as_long_as_the_window_and_is_let_go_by_itself():
    q = Desk(dedup_window=120.0)
    q.publish(1, message_id="a")
    q.sleep(119)
    assert q.publish(1, message_id="a") == ["dup"]
    q.sleep(3)
    assert len(q.ledger.dedup) == 0  # nothing was published for it to be noticed
    assert q.publish(1, message_id="a") == ["ok"]


def test_a_new_window_holds_for_the_ids_that_are_there():
    q = Desk()
    q.publish(1, message_id="a")
    q.sleep(6)
    q.publish(2, message_id="b")
    q.ledger.settings = q.settings = attrs.evolve(q.settings, dedup_window=5.0)
    assert q.publish(3, message_id="a") == ["ok"], "another body, and a second later no conflict"
    assert q.publish(2, message_id="b") == ["dup"]
    q.ledger.settings = q.settings = attrs.evolve(q.settings, dedup_window=60.0)
    q.sleep(50)
    assert q.publish(2, message_id="b") == ["dup"]
    q.ledger.settings = q.settings = attrs.evolve(q.settings, dedup_ids=1)
    assert len(q.ledger.dedup) == 1
    assert q.publish(3, message_id="a") == ["dup"]
    assert q.publish(2, message_id="b") == ["ok"]


@pytest.mark.parametrize("durability", ["memory", "stored"])
def test_an_id_twice_in_one_batch(durability):
    q = Desk(durability=durability)
    assert q.publish(1, 1, message_id="a") == ["ok", "dup"]
    assert q.ledger.live == 1


def test_a_duplicate_of_what_is_not_yet_committed_waits_and_shares_its_answer():
    q = Desk()
    q.hold_commits = True
    q.publish(1, message_id="a")
    q.begin_commit()
    assert q.publish(1, message_id="a") == []
    q.commit()
    assert q.mine.outcomes() == ["ok"]
    q.commit()
    assert q.mine.outcomes() == ["dup"]


def test_a_duplicate_shares_the_failure_too_and_the_id_is_free_again():
    q = Desk()
    q.hold_commits = True
    q.publish(1, 2, message_id="a")  # two bodies, one id: the second conflicts
    q.begin_commit()
    q.publish(1, message_id="a")
    q.commit(FULL)
    q.commit()
    assert q.mine.outcomes() == ["disk_full", "id_conflict", "disk_full"]
    assert q.ledger.live == q.ledger.bytes == 0
    q.hold_commits = False
    assert q.publish(1, message_id="a") == ["ok"]


def test_a_failed_commit_takes_nothing_from_an_older_one_of_the_same_id():
    """The id left the window by number, and was used anew: two seqs, one of them fails."""
    q = Desk(dedup_ids=1)
    q.publish(1, message_id="a")
    q.publish(2, message_id="b")
    q.hold_commits = True
    old = q.batch(1, message_id="a")
    q.turn(lambda stamp: q.ledger.publish(old, stamp))
    q.commit(FULL)
    assert q.mine.outcomes() == ["disk_full"]
    assert q.ledger.live == 2
    q.hold_commits = False
    assert q.publish(1, message_id="a") == ["ok"]


def test_purge_does_not_clear_the_window():
    q = Desk()
    q.publish(1, message_id="a")
    assert q.purge() == 1
    assert q.publish(1, message_id="a") == ["dup"]


def test_a_turn_that_failed_has_added_no_id():
    q = Desk()
    q.publish(1, message_id="a")
    batch = q.batch(2, message_id="b")
    q.ledger.publish(batch, q.stamp())  # and no carry_out
    q.crash()
    assert q.publish(2, message_id="b") == ["ok"]
    assert q.publish(1, message_id="a") == ["dup"]


# -- answers ------------------------------------------------------------------------------------


def test_acks_wait_for_the_commit_and_delivery_too():
    q = Desk()
    q.hold_commits = True
    worker = q.consumer(prefetch=9)
    assert q.publish(1) == []
    assert worker.took() == []
    q.commit()
    assert q.mine.outcomes() == ["ok"]
    assert worker.took() == [1]


def test_memory_does_not_wait_for_the_disk():
    q = Desk()
    q.hold_commits = True
    worker = q.consumer(prefetch=9)
    q.publish(1)
    assert q.publish(2, durability="memory") == ["ok"]
    assert worker.took() == [2]


def test_a_refusal_does_not_overtake_what_waits():
    q = Desk(max_messages=1)
    q.hold_commits = True
    q.publish(1)
    assert q.publish(2) == []  # queue_full, but the first has no answer yet
    q.commit()
    q.commit()
    assert q.mine.outcomes() == ["ok", "queue_full"]
    assert q.publish(3) == ["queue_full"]  # nothing waits: at once


def test_nothing_of_its_kind_overtakes_a_batch_that_waits_for_another_commit():
    """The first is committed, but its duplicate waits in the next commit: a refusal that
    comes with the news of the first may not be answered before it."""
    q = Desk(max_messages=1)
    q.hold_commits = True
    q.publish(1, message_id="a")
    q.begin_commit()
    q.publish(1, message_id="a")
    messages, waiting = q.in_flight  # type: ignore[misc]
    q.in_flight = None
    q.log.on_disk.update(m.seq for m in messages)
    refused = q.batch(2)
    q.turn(
        lambda stamp: q.ledger.committed(messages, stamp),
        lambda _: [batch.answer() for batch in waiting],
        lambda stamp: q.ledger.publish(refused, stamp),
    )
    assert q.mine.outcomes() == ["ok"]
    q.commit()
    assert q.mine.outcomes() == ["dup", "queue_full"]


def test_memory_publishes_keep_their_order_behind_a_duplicate_that_waits():
    q = Desk()
    q.hold_commits = True
    q.publish(1, message_id="a")
    assert q.publish(1, message_id="a", durability="memory") == []
    assert q.publish(2, durability="memory") == []  # kept, but answered in its turn
    assert q.ledger.states()["ready"] == 1
    q.commit()
    assert q.mine.outcomes() == ["ok", "dup", "ok"]


def test_less_durability_than_the_queue_allows():
    q = Desk(durability_min="os")
    assert q.publish(1, durability="memory") == ["bad_field"]
    assert q.publish(1, durability="os") == ["ok"]


def test_a_duplicate_is_acked_whatever_there_would_be_to_refuse():
    """An error is never sent for something that was kept."""
    q = Desk(max_messages=1, durability_min="memory")
    q.publish(1, message_id="a")
    assert q.publish(1, message_id="a") == ["dup"]
    assert q.publish(2, message_id="b") == ["queue_full"]
    q.ledger.settings = q.settings = type(q.settings)(durability_min="stored", max_messages=1)
    assert q.publish(1, message_id="a", durability="os") == ["dup"]
    assert q.publish(2, message_id="b", durability="os") == ["bad_field"]
    q.ledger.closed = "it is being deleted"
    assert q.publish(1, message_id="a") == ["dup"]
    assert q.publish(2) == ["unavailable"]


# -- limits: reject -----------------------------------------------------------------------------


def test_a_full_queue_takes_what_fits_and_refuses_the_rest():
    q = Desk(max_messages=3)
    assert q.publish(1, 2, 3, 4) == ["ok", "ok", "ok", "queue_full"]
    assert q.publish(5) == ["queue_full"]
    assert q.ledger.counts.rejected == 2
    worker = q.consumer()
    assert q.publish(5) == ["queue_full"]  # what is leased takes room too
    q.ack(worker, 1)
    assert q.publish(5) == ["ok"]


def test_duplicates_in_a_batch_take_no_room():
    q = Desk(max_messages=2)
    q.publish(1, message_id="a")
    batch = q.batch(1, 2, 3)
    for item, message_id in zip(batch.items, "abc", strict=True):
        assert isinstance(item, Publish)
        item.message_id = message_id
    q.turn(lambda stamp: q.ledger.publish(batch, stamp))
    assert q.mine.outcomes() == ["dup", "ok", "queue_full"]


def test_bytes_are_limited_exactly():
    q = Desk()
    q.publish(1)
    one = q.ledger.bytes
    q = Desk(max_bytes=3 * one)
    assert q.publish(1, 2, 3, 4) == ["ok", "ok", "ok", "queue_full"]
    assert q.ledger.bytes == 3 * one


def test_memory_bytes_have_a_limit_of_their_own():
    q = Desk()
    q.publish(1)
    q = Desk(max_memory_bytes=2 * q.ledger.bytes)
    assert q.publish(1, 2, 3, durability="memory") == ["ok", "ok", "queue_full"]
    assert q.publish(4) == ["ok"]
    assert q.publish(5, durability="memory") == ["queue_full"]
    worker = q.consumer()
    q.ack(worker, 1)
    assert q.publish(5, durability="memory") == ["ok"]


@pytest.mark.parametrize(
    ("durability", "limits", "most"),
    [
        ("stored", {"max_messages": 2, "max_bytes": 1 << 20}, 2),
        ("memory", {"max_messages": 2, "max_memory_bytes": 1 << 20}, 2),
        ("stored", {"max_messages": 9, "max_bytes": 300}, 300),
        ("memory", {"max_bytes": 300, "max_memory_bytes": 1 << 20}, 300),
        ("memory", {"max_bytes": 1 << 20, "max_memory_bytes": 300}, 300),
        ("memory", {"max_bytes": 0, "max_memory_bytes": 300}, 300),
    ],
)
def test_a_refusal_names_the_limit_that_was_reached(durability, limits, most):
    q = Desk(**limits)
    batch = q.batch(1, 2, 3, durability=durability)
    q.turn(lambda stamp: q.ledger.publish(batch, stamp))
    q.mine.outcomes()
    assert batch.errors is not None
    assert [(e.code, e.limit) for e in batch.errors.values()] == [("queue_full", most)]
    assert f"(2 messages of {q.ledger.bytes} bytes)" in str(batch.errors[2])


def test_a_dead_queue_counts_in_its_parents_limits():
    q = Desk(max_messages=3)
    q.ledger.dead_gauge.messages = 2
    assert q.publish(1, 2) == ["ok", "queue_full"]


def test_what_has_expired_makes_room():
    q = Desk(max_messages=2)
    q.publish(1, 2, ttl=5.0)
    assert q.publish(3) == ["queue_full"]
    q.sleep(6)
    assert q.publish(3) == ["ok"]
    assert q.ledger.counts.expired == 2


def test_the_limits_of_zero_are_none():
    q = Desk(max_messages=0, max_bytes=0, max_memory_bytes=0)
    assert q.publish(*range(100)) == ["ok"] * 100


# -- limits: block ------------------------------------------------------------------------------


def test_a_blocked_publish_waits_for_room_in_its_turn():
    q = Desk(max_messages=2, overflow="block")
    other = Publisher()
    assert q.publish(1, 2, 3) == ["ok", "ok"]
    assert q.publish(4) == []
    q.publish(5, origin=other)
    worker = q.consumer(prefetch=9)
    assert worker.took() == [1, 2]
    q.ack(worker, 1)
    assert (q.mine.outcomes(), worker.took()) == (["ok"], [3])
    q.ack(worker, 2, 3)
    assert (q.mine.outcomes(), other.outcomes()) == (["ok"], ["ok"])
    assert worker.took() == [4, 5]


def test_a_publish_does_not_overtake_those_that_are_parked_even_if_it_would_fit():
    q = Desk(max_bytes=2000, overflow="block")
    q.publish(1, size=1500)
    assert q.publish(2, size=1500) == []
    assert q.publish(3) == []
    worker = q.consumer(prefetch=9)
    q.ack(worker, 1)
    assert worker.took() == [1, 2, 3]


def test_a_parked_publish_is_refused_after_30_seconds():
    q = Desk(max_messages=1, overflow="block")
    q.publish(1)
    q.publish(2)
    q.sleep(10)
    q.publish(3)
    q.sleep(19.5)
    assert q.mine.outcomes() == []
    q.sleep(1)
    assert q.mine.outcomes() == ["queue_full"]
    q.sleep(10)
    assert q.mine.outcomes() == ["queue_full"]
    assert not q.ledger.parked


def test_a_parked_duplicate_is_acked_even_when_its_time_is_up():
    q = Desk(max_messages=1, overflow="block")
    q.publish(1, message_id="a")
    batch = q.batch(2, 1)
    second = batch.items[1]
    assert isinstance(second, Publish)
    second.message_id = "a"
    q.turn(lambda stamp: q.ledger.publish(batch, stamp))
    q.sleep(31)
    assert q.mine.outcomes() == ["queue_full", "dup"]


def test_a_connection_parks_a_mebibyte_and_then_all_of_it_is_refused_in_order():
    q = Desk(max_messages=1, overflow="block")
    other = Publisher()
    q.publish(0)
    q.publish(100, origin=other)
    for n in range(1, 4):
        assert q.publish(n, size=300_000) == []
    assert q.publish(4, size=300_000) == ["queue_full"] * 4
    assert [batch.origin for _, batch in q.ledger.parked] == [other]
    assert q.publish(5) == []  # there is room again
    worker = q.consumer()
    q.ack(worker, 0)
    assert other.outcomes() == ["ok"]


def test_all_connections_together_park_16_mebibytes():
    q = Desk(max_messages=1, overflow="block")
    q.publish(0)
    others = [Publisher() for _ in range(18)]
    for n, origin in enumerate(others):
        q.publish(n, origin=origin, size=1_000_000)
    assert [o.outcomes() for o in others[-2:]] == [["queue_full"]] * 2
    assert others[0].outcomes() == []


def test_a_batch_larger_than_the_queue_gets_in_piece_by_piece():
    q = Desk(max_messages=2, overflow="block")
    assert q.publish(*range(7)) == ["ok", "ok"]
    worker = q.consumer(prefetch=9)
    got = worker.took()
    while len(got) < 7:
        q.ack(worker, *got[-2:])
        got += worker.took()
    assert got == list(range(7))
    assert q.mine.outcomes() == ["ok"] * 5


def test_a_crash_loses_no_parked_publish():
    q = Desk(max_messages=1, overflow="block")
    q.publish(1, 2)
    q.publish(3)
    worker = q.consumer(prefetch=9)
    messages = [worker.held.pop(seq) for seq in list(worker.held)]
    q.ledger.ack(worker, messages)  # a turn that fails when it has let one in
    q.ledger.dispatch(q.stamp())
    worker.held = {m.seq: m for m in messages}
    q.crash()
    assert [len(batch) for _, batch in q.ledger.parked] == [1, 1]
    q.ack(worker, 1)
    q.ack(worker, 2)
    assert worker.took() == [1, 2, 3]
    assert q.mine.outcomes() == ["ok"] * 2


# -- limits: drop_oldest ------------------------------------------------------------------------


def test_the_oldest_go_and_each_is_a_record_and_a_count():
    q = Desk(max_messages=3, overflow="drop_oldest")
    assert q.publish(1, 2, 3, 4, 5) == ["ok"] * 5
    assert q.ledger.counts.dropped == 2
    assert q.log.drops == [("dropped: the queue was full", seq) for seq in (1, 2)]
    assert q.consumer(prefetch=9).took() == [3, 4, 5]


def test_what_is_leased_is_not_dropped():
    q = Desk(max_messages=2, overflow="drop_oldest")
    worker = q.consumer(prefetch=2)
    q.publish(1, 2)
    assert q.publish(3) == ["ok"]
    assert q.ledger.counts.dropped == 1  # 3 itself: it is the oldest that is not held
    q.ack(worker, 1)
    q.publish(4)
    assert worker.took() == [1, 2, 4]


def test_drop_oldest_by_bytes_and_by_memory():
    q = Desk()
    q.publish(1)
    one = q.ledger.bytes
    q = Desk(max_bytes=3 * one, overflow="drop_oldest")
    q.publish(1, 2, 3, 4)
    assert q.consumer(prefetch=9).took() == [2, 3, 4]
    q = Desk(max_memory_bytes=2 * one, overflow="drop_oldest")
    q.publish(1, 2)
    q.publish(3, 4, 5, durability="memory")
    assert q.ledger.counts.dropped == 1  # a memory-only one: the stored ones make no room
    assert q.consumer(prefetch=9).took() == [1, 2, 4, 5]
    assert q.ledger.memory_bytes == 2 * one


def test_drop_oldest_reaches_what_is_only_in_the_log():
    q = Desk(max_messages=50, overflow="drop_oldest", hot_bytes=1000)
    for n in range(100):
        q.publish(n)
    assert q.ledger.live <= 50
    worker = q.consumer(prefetch=200)
    assert worker.took() == list(range(50, 100))


def test_drop_oldest_takes_the_delayed_when_nothing_else_is_left():
    q = Desk(max_messages=2, overflow="drop_oldest")
    q.publish(1, delay=50.0)
    q.publish(2, delay=40.0)
    assert q.publish(3, delay=60.0) == ["ok"]
    q.sleep(100)
    assert q.consumer(prefetch=9).took() == [1, 3]


def test_a_group_never_refuses():
    q = Desk("news@team", max_messages=2, overflow="reject")
    assert q.publish(1, 2, 3) == ["ok"] * 3
    assert q.consumer(prefetch=9).took() == [2, 3]


# -- times --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ttl", "outcome"), [(5.0, "bad_field"), (11.0, "ok")])
def test_a_delay_that_reaches_beyond_the_queues_ttl(ttl, outcome):
    q = Desk(ttl=ttl)
    assert q.publish(1, delay=10.0) == [outcome]
    assert q.publish(2, delay=10.0, ttl=30.0) == ["ok"]  # its own ttl goes before


def test_the_queues_ttl_is_what_a_publish_gets_that_names_none():
    q = Desk(ttl=5.0)
    q.publish(1)
    q.publish(2, ttl=10.0)
    q.sleep(6)
    assert q.consumer(prefetch=9).took() == [2]
