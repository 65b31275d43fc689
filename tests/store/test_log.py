"""One log: what gathers, what is written, what is read ahead, and what may go."""

from collections.abc import Iterator
from random import Random

import pytest

from msg.core.message import OS, Attempt, Message
from msg.store.commit import execute, read
from msg.store.log import Log
from msg.store.records import Remembered, seconds

from .kit import commit, live, messages, new_disk, new_log, publish, reopen, settle
from .owner import read_all, wire

NOW = seconds(b"2026-11-23T08:05:15.123Z")  # as it stands in the wires


def three_times(disk, log: Log) -> Iterator[Log]:
    """The log itself, and as the two kinds of start find it."""
    yield log
    yield reopen(disk).log
    yield reopen(disk, unclean=True).log


def test_a_commit_takes_all_that_has_gathered_and_the_next_gathers_meanwhile():
    disk, log = new_disk(), new_log()
    log.publish(messages(log, 3))
    first = log.begin()
    assert first is not None
    log.publish(messages(log, 2))
    log.settle([1])
    assert (first.publishes, log.durable_seq) == (3, 0)
    execute(disk, [first])
    log.finish(first)
    assert (log.durable_seq, log.live_count) == (3, 4)
    commit(disk, log)
    assert log.begin() is None
    assert live(disk, log) == [2, 3, 4, 5] == live(disk, reopen(disk).log)


def test_only_what_is_on_disk_is_read_ahead():
    disk, log = new_disk(), new_log()
    assert log.plan_read(0, 10, 1000) is None
    publish(disk, log, 2)
    log.publish(messages(log, 2))
    assert live(disk, log) == [1, 2]
    assert log.live_after(0, 10) == [1, 2]
    assert log.live_runs() == [range(1, 5)]
    log.settle([1, 2])
    assert log.plan_read(0, 10, 1000) is None
    assert log.live_after(0, 10) == []


def test_reading_ahead_is_bounded_and_goes_on_where_it_was():
    disk, log = new_disk(), new_log()
    publish(disk, log, 20)
    settle(disk, log, [3, 4, 5, 11])
    after, seen = 0, []
    while (plan := log.plan_read(after, 4, 1 << 20)) is not None:
        batch = log.parse_read(plan, read(disk, plan))
        assert len(batch) <= 4
        seen += [m.seq for m in batch]
        after = plan.after
    assert seen == [1, 2, 6, 7, 8, 9, 10, *range(12, 21)]
    size = log.live_bytes // log.live_count
    plan = log.plan_read(0, 100, 3 * size)
    assert plan is not None
    assert len(log.parse_read(plan, read(disk, plan))) in (3, 4)
    tiny = log.plan_read(0, 100, 1)
    assert tiny is not None
    assert len(log.parse_read(tiny, read(disk, tiny))) == 1


def test_what_was_settled_while_it_was_read_is_left_out():
    disk, log = new_disk(), new_log()
    publish(disk, log, 5)
    plan = log.plan_read(0, 10, 1 << 20)
    assert plan is not None
    blobs = read(disk, plan)
    log.settle([2, 3])
    assert [m.seq for m in log.parse_read(plan, blobs)] == [1, 4, 5]
    assert plan.damaged == []


def test_a_segment_that_went_while_it_was_to_be_read_is_no_damage():
    disk, log = new_disk(), new_log()
    publish(disk, log, 40)
    stuck = log.segments[0]
    plan = log.plan_read(0, 2, 1 << 20)
    assert plan is not None
    settle(disk, log, range(3, 41))
    publish(disk, log, 20)
    settle(disk, log, range(41, 61))
    while log.has_gathered:  # 1 and 2 are copied ahead, then their segment goes
        commit(disk, log)
    assert not disk.exists(stuck.path)
    assert log.parse_read(plan, read(disk, plan)) == []
    assert (plan.damaged, plan.after) == ([], 0)
    assert live(disk, log) == [1, 2]


def test_single_messages_are_read_by_seq():
    disk, log = new_disk(), new_log()
    publish(disk, log, 9)
    log.settle([4])
    plan = log.plan_read_seqs([7, 2, 4, 99])
    assert plan is not None
    assert [m.seq for m in log.parse_read(plan, read(disk, plan))] == [2, 7]
    assert log.plan_read_seqs([4, 99]) is None


def test_a_message_comes_back_whole():
    disk, log = new_disk(), new_log()
    body = '{"a":[1,2,"\\u00e9\\n"],"crc":"00000000"}'
    whole = (
        b'"topic":"jobs","message_id":"a\\"b","published_at":"2026-11-23T08:05:15.123Z",'
        b'"message":%b,"headers":{"x":"y"},"case":{"queue":"q"}' % body.encode()
    )
    sent = Message(
        1, 'a"b', whole, priority=9, durability=OS, due=12.5, expires=13.25, key="x:1:2", origin="x"
    )
    log.publish([sent])
    commit(disk, log)
    for found in three_times(disk, log):
        (got,) = read_all(disk, found)
        for name in Message.__struct_fields__:
            assert getattr(got, name) == getattr(sent, name), name


def test_attempts_come_back_with_their_case():
    disk, log = new_disk(), new_log()
    publish(disk, log, 2)
    case = (Attempt(1, "t1", "nack", "w", "no"), Attempt(2, "t2", "deadline", "v"))
    log.tried(Message(1, "m1", b"", attempts=1, returned="nack", due=9.5), case[0])
    commit(disk, log)
    log.tried(Message(1, "m1", b"", attempts=2, returned="deadline"), case[1])
    commit(disk, log)
    for found in three_times(disk, log):
        first, second = read_all(disk, found)
        assert (first.attempts, first.returned, first.due, first.case) == (2, "deadline", 0.0, case)
        assert (second.attempts, second.case) == (0, ())
    settle(disk, found, [1])
    assert found.tries == {}


def test_what_needs_attention_is_told_once_and_only_while_it_lives():
    disk, log = new_disk(), new_log(segment_bytes=600)
    publish(disk, log, 2, priority=9)
    publish(disk, log, 2, due=50.0)
    publish(disk, log, 1, key="src:7:1")
    publish(disk, log, 2)
    log.tried(Message(6, "m6", b"", attempts=1, returned="nack", due=77.0), Attempt(1, "", "nack"))
    settle(disk, log, [1, 4])
    for unclean in (False, True):
        found = reopen(disk, unclean=unclean)
        assert list(found.special) == [(2, 9, 0.0), (3, 4, 50.0), (6, 4, 77.0)]
        assert found.move_keys == {"src:7:1": 5}


def test_a_raw_line_break_is_never_written():
    disk, log = new_disk(), new_log()
    for bad in (b"\n", b"\r"):
        log = new_log()
        log.publish([Message(1, "m1", wire("jobs", "m1").replace(b'"m1"', b'"m1%b"' % bad))])
        with pytest.raises(AssertionError, match="raw"):
            log.begin()
    assert disk.list("queues") == []


def test_os_durability_is_written_and_synced_later_on_demand():
    disk, log = new_disk(), new_log()
    publish(disk, log, 1)
    log.publish(messages(log, 1, durability=OS))
    todo = log.begin(sync=False)
    assert todo is not None
    assert not todo.sync
    execute(disk, [todo])
    log.finish(todo)
    assert log.begin(sync=False) is None
    last = log.begin(sync=True)
    assert last is not None
    assert (last.size, last.sync) == (0, True)
    execute(disk, [last])
    log.finish(last)
    assert log.begin(sync=True) is None


def test_a_stored_publish_is_synced_whatever_its_owner_says():
    log = new_log()
    log.publish(messages(log, 1))
    todo = log.begin(sync=False)
    assert todo is not None
    assert todo.sync


# -- what may go --------------------------------------------------------------------------


def flow(disk, log: Log, rounds: int, *, keep: set[int]) -> int:
    """Publish and settle batch after batch; returns the most that the disk held."""
    most = 0
    for _ in range(rounds):
        seqs = [m.seq for m in publish(disk, log, 10)]
        settle(disk, log, [seq for seq in seqs if seq not in keep])
        most = max(most, log.disk_bytes)
    return most


def test_one_stuck_message_does_not_pin_what_flows_past_it():
    disk, log = new_disk(), new_log()
    case = (Attempt(1, "t", "nack"),)
    publish(disk, log, 1, priority=9, due=5.0, expires=9e9, key="a:1:1")
    log.tried(Message(1, "m1", b"", attempts=1, returned="nack", due=6.0), case[0])
    most = flow(disk, log, 300, keep=set())
    assert most <= 2 * log.live_bytes + 2 * log.segment_bytes + 1000
    assert len(disk.list(log.directory)) <= 4
    assert log.bytes_written < 1.3 * log.bytes_published
    for found in (log, reopen(disk, unclean=True).log):
        (stuck,) = read_all(disk, found)
        assert (stuck.seq, stuck.priority, stuck.due, stuck.key) == (1, 9, 6.0, "a:1:1")
        assert (stuck.expires, stuck.attempts, stuck.case) == (9e9, 1, case)


def test_many_stuck_messages_are_copied_no_more_often_than_it_pays():
    disk, log = new_disk(), new_log()
    keep = set(range(1, 5000, 7))
    most = flow(disk, log, 300, keep=keep)
    assert most <= 2 * log.live_bytes + 2 * log.segment_bytes + 1000
    assert log.bytes_written < 2.2 * log.bytes_published
    expected = [seq for seq in sorted(keep) if seq < log.next_seq]
    assert live(disk, log) == expected == live(disk, reopen(disk, unclean=True).log)


def test_an_idle_log_still_lets_go_of_what_is_settled():
    disk, log = new_disk(), new_log()
    publish(disk, log, 100)
    publish(disk, log, 1)
    settle(disk, log, range(1, 101))
    while log.has_gathered:
        commit(disk, log)
    assert len(log.segments) == 1
    assert [n for n in disk.list(log.directory) if n.endswith(".idx")] == []


def test_the_dedup_window_outlives_the_segments():
    disk, log = new_disk(), new_log()
    log.window_from = 1
    for _ in range(40):
        seqs = [m.seq for m in publish(disk, log, 10)]
        settle(disk, log, seqs)
    assert len(log.segments) > 5, "the window pins them"

    def remember(due: range) -> list[Remembered]:
        known = range(max(due.start, log.window_from or 0), due.stop)
        return [Remembered(f"m{seq}", 3, 7, NOW, seq) for seq in known]

    while (due := log.ids_due) is not None:
        log.remember_ids(due, remember(due))
        commit(disk, log)
        while log.has_gathered:
            commit(disk, log)
    assert len(log.segments) < 5
    found = reopen(disk, now_wall=NOW + 60)
    assert [entry.id for entry in found.ids] == [f"m{seq}" for seq in range(1, 401)]
    assert found.log.window_from == 1
    # the window moves on: nothing pins any more, nothing is asked for
    publish(disk, log, 30)
    settle(disk, log, range(401, 431))
    assert list(remember(log.ids_due or range(0))), "while the window holds them"
    log.window_from = log.next_seq
    assert not log.ids_due
    assert list(reopen(disk, now_wall=NOW + 121).ids) == []


@pytest.mark.parametrize("refused", [False, True])
def test_no_segment_goes_before_its_ids_are_durable(refused):
    """Not even where only acks are written, which wait for no sync, and the disk is full."""
    disk, log = new_disk(), new_log()
    log.window_from = 1
    publish(disk, log, 30)
    publish(disk, log, 1)
    log.settle(range(1, 31))
    commit(disk, log, sync=False)
    due = log.ids_due
    assert due == range(1, 31)
    log.remember_ids(due, [Remembered(f"m{seq}", 3, 7, NOW, seq) for seq in due])
    commit(disk, log, sync=False)
    if refused:
        log.publish(messages(log, 1))
        disk.fill()
    todo = log.begin(False)
    assert todo is not None
    execute(disk, [todo])
    log.finish(todo)
    assert len(log.segments) == 1, "it has gone"
    found = reopen(disk.crash(Random(1), "none"), unclean=True, now_wall=NOW)
    assert [entry.seq for entry in found.ids] == [*range(1, 32)]


def test_ids_that_stand_in_the_last_segment_are_not_taken_for_written_anew():
    disk, log = new_disk(), new_log()
    log.window_from = 1
    publish(disk, log, 30)
    settle(disk, log, range(1, 31))
    log.put_state({"n": 1})  # begins a segment without a publish
    commit(disk, log)
    assert len(log.segments) == 2
    due = log.ids_due
    assert due is not None
    log.remember_ids(due, [Remembered(f"m{seq}", 3, 7, NOW, seq) for seq in due])
    settle(disk, log, [m.seq for m in publish(disk, log, 30)])
    publish(disk, log, 1)
    while log.has_gathered:
        commit(disk, log)
    found = reopen(disk, now_wall=NOW)
    assert [entry.seq for entry in found.ids] == [*range(1, 62)]


@pytest.mark.parametrize("key", ["src:1:1", ""])
@pytest.mark.parametrize("sealed", [False, True])
def test_what_was_moved_here_hides_no_id_from_the_window(sealed, key):
    """What was moved, or copied to a group from a history, is as old as it is, and may be the
    last of its segment."""
    disk, log = new_disk(), new_log(segment_bytes=1 << 20)
    log.window_from = 1
    publish(disk, log, 30)
    old = wire("jobs", "old", at="2026-11-23T01:00:00.000Z")
    log.publish([Message(log.next_seq, "old", old, key=key)])
    commit(disk, log)
    if sealed:
        log.segment_bytes = 1
        publish(disk, log, 1)
    assert len(log.segments) == 1 + sealed
    expected = [*range(1, 31), *([32] if sealed else [])]
    assert [entry.seq for entry in reopen(disk, now_wall=NOW + 60).ids] == expected
    for name in disk.list(log.directory):
        if name.endswith(".idx"):  # then the segment itself is read
            disk.unlink(f"{log.directory}/{name}")
    assert [entry.seq for entry in reopen(disk, now_wall=NOW + 60).ids] == expected


def test_the_window_is_read_from_the_records_newest_first_up_to_its_limit():
    disk, log = new_disk(), new_log()
    log.window_from = 1
    publish(disk, log, 50)
    publish(disk, log, 3, key="src:1:1")  # moves are no publishes
    own = Message(log.next_seq, "019f0000000000000000", b"")
    own.id = f"{int(NOW * 1000):011x}00000010000"  # ids of the broker's own cannot come twice
    own.wire = wire("jobs", own.id)
    log.publish([own])
    commit(disk, log)
    settle(disk, log, range(1, 51))
    ids = list(reopen(disk, now_wall=NOW).ids)
    assert [entry.id for entry in ids] == [f"m{seq}" for seq in range(1, 51)]
    assert (ids[0].length, ids[0].seq, ids[0].at) == (4, 1, NOW)
    few = reopen(disk, now_wall=NOW, ids_max=7)
    assert [entry.seq for entry in few.ids] == list(range(44, 51))
    assert few.log.window_from == 44


def test_two_segments_never_share_a_name():
    disk, log = new_disk(), new_log(segment_bytes=300)
    publish(disk, log, 60)
    for seq in range(1, 60, 2):  # nothing is published in between
        settle(disk, log, [seq])
    numbers = [s.number for s in log.segments]
    assert numbers == sorted(set(numbers))
    assert live(disk, reopen(disk).log) == list(range(2, 61, 2))
