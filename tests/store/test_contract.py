"""The contract of the store, on the real disk and on the simulated one: what a queue, a topic
and a dedup window find again, through the same log, commits and recovery that a broker uses."""

from random import Random

import attrs
import pytest

from msg.core.message import Attempt, Message
from msg.store.disk import Disk, RealDisk
from msg.store.log import QUEUES, TOPICS, Log
from msg.store.names import directory_of
from msg.store.records import Remembered, seconds
from msg.store.recovery import (
    Recovered,
    close_store,
    delete_log,
    open_store,
    recover_all,
    settle_moved,
)
from msg.store.simdisk import SimDisk

from .kit import commit, messages, publish, settle
from .owner import AT, read_all

NOW = seconds(AT.encode())
SEGMENT_BYTES = 2000


@attrs.define(eq=False)
class Store:
    """The logs of one data directory, and their ends and beginnings."""

    disk: Disk
    found: dict[str, Recovered] = attrs.field(factory=dict)

    def log(self, name: str, kind: str = QUEUES) -> Log:
        return Log(kind, name, "5eed1234", segment_bytes=SEGMENT_BYTES)

    def restart(self, how: str, *, now: float = NOW) -> None:
        """After a clean stop, or after a kill -9, whose page cache is trusted or is not."""
        if how == "clean":
            close_store(self.disk)
        else:
            self.disk.unlock()
        self.start(now=now, trusted=how != "doubtful")

    def start(self, *, now: float = NOW, trusted: bool = True) -> None:
        facts = open_store(self.disk, holder="test")
        found = recover_all(
            self.disk, facts.logs, unclean=not facts.clean, trusted=facts.trusted and trusted,
            now_wall=now, segment_bytes=SEGMENT_BYTES,
        )  # fmt: skip
        assert [damage for one in found for damage in one.damage] == []
        for log in settle_moved(self.disk, found):
            commit(self.disk, log)
        self.found = {one.log.name: one for one in found}

    def live(self, name: str) -> list[Message]:
        return read_all(self.disk, self.found[name].log)

    def seqs(self, name: str) -> list[int]:
        assert self.found[name].log.live_count == len(self.live(name))
        return [m.seq for m in self.live(name)]

    def ids(self, name: str) -> list[str]:
        return [entry.id for entry in self.found[name].ids]


@pytest.fixture(params=["real", "simulated"])
def store(request, tmp_path):
    real = RealDisk(tmp_path / "data") if request.param == "real" else None
    store = Store(real or SimDisk(Random(1), capacity=64 << 20))
    store.start()
    yield store
    store.disk.unlock()
    if real is not None:
        real.close()


@pytest.fixture(params=["clean", "killed", "doubtful"])
def how(request):
    return request.param


def finish(store: Store, log: Log) -> None:
    while log.has_gathered:
        commit(store.disk, log)


def remember(store: Store, log: Log) -> None:
    """As the actors do it: ids of m1, m2 … with seqs 1, 2 …"""
    while (due := log.ids_due) is not None:
        known = range(max(due.start, log.window_from or 0), due.stop)
        log.remember_ids(due, [Remembered(f"m{seq}", 3, 7, NOW, seq) for seq in known])
        finish(store, log)


def test_a_queue_has_what_was_published_and_not_what_was_acked(store, how):
    log = store.log("jobs")
    batch = publish(store.disk, log, 5)
    settle(store.disk, log, [2, 4])
    store.restart(how)
    assert store.seqs("jobs") == [1, 3, 5]
    assert [m.wire for m in store.live("jobs")] == [batch[i].wire for i in (0, 2, 4)]
    again = store.found["jobs"].log
    assert again.next_seq == 6
    publish(store.disk, again, 1)
    store.restart(how)
    assert store.seqs("jobs") == [1, 3, 5, 6]


def test_attempts_and_their_case_files_are_kept(store, how):
    log = store.log("jobs")
    publish(store.disk, log, 2)
    for n in (1, 2):
        message = Message(1, "m1", b"", attempts=n, returned="nack")
        log.tried(message, Attempt(n, AT, "nack", "worker", "busy"))
        commit(store.disk, log)
    store.restart(how)
    first, second = store.live("jobs")
    assert (first.attempts, first.returned) == (2, "nack")
    assert [(a.n, a.who, a.reason) for a in first.case] == [
        (1, "worker", "busy"), (2, "worker", "busy"),
    ]  # fmt: skip
    assert second.attempts == 0


def test_delays_priorities_and_expiries_are_kept(store, how):
    log = store.log("jobs")
    publish(store.disk, log, 1)
    publish(store.disk, log, 1, due=NOW + 60, priority=9, expires=NOW + 90)
    log.tried(Message(1, "m1", b"", attempts=1, returned="nack", due=NOW + 5), None)
    commit(store.disk, log)
    store.restart(how)
    assert [(s, due) for s, _, due in store.found["jobs"].special] == [(1, NOW + 5), (2, NOW + 60)]
    second = store.live("jobs")[1]
    assert (second.priority, second.due, second.expires) == (9, NOW + 60, NOW + 90)


@pytest.mark.parametrize("settled", [True, False])
def test_a_dead_letter_is_in_one_place_also_where_the_move_was_cut_in_two(store, how, settled):
    jobs, dead = store.log("jobs"), store.log("jobs.dead")
    [message] = publish(store.disk, jobs, 1)
    publish(store.disk, jobs, 1)
    dead.publish([Message(1, message.id, message.wire, key="jobs:1:3")])
    commit(store.disk, dead)
    if settled:
        jobs.dead(1, "jobs.dead", "jobs:1:3", "3 attempts")
        commit(store.disk, jobs)
    store.restart(how)
    assert store.seqs("jobs") == [2]
    assert [m.id for m in store.live("jobs.dead")] == ["m1"]
    assert "m1" not in store.ids("jobs.dead"), "a move is no publish"


def test_what_was_dropped_stays_away(store, how):
    log = store.log("jobs")
    publish(store.disk, log, 10)
    log.drop(range(1, 9), "purged")
    commit(store.disk, log)
    store.restart(how)
    assert store.seqs("jobs") == [9, 10]


def test_segments_roll_and_go_and_the_rest_is_found(store, how):
    log = store.log("jobs")
    for _ in range(20):
        publish(store.disk, log, 10)
    assert len(log.segments) >= 10
    full = log.disk_bytes
    settle(store.disk, log, [n for n in range(1, 196) if n != 7])
    finish(store, log)
    assert log.disk_bytes < full / 3, "one message does not pin what is settled"
    store.restart(how)
    assert store.seqs("jobs") == [7, *range(196, 201)]
    assert store.found["jobs"].log.next_seq == 201


@pytest.mark.parametrize(("kind", "name"), [(QUEUES, "jobs"), (TOPICS, "news")])
def test_what_was_deleted_is_gone_and_its_name_is_free(store, how, kind, name):
    publish(store.disk, store.log(name, kind), 30)
    other = store.log("other")
    publish(store.disk, other, 1)
    delete_log(store.disk, kind, directory_of(name))
    store.restart(how)
    assert list(store.found) == ["other"]
    assert store.disk.list(kind) == (["other"] if kind == QUEUES else [])
    publish(store.disk, store.log(name, kind), 2)
    store.restart(how)
    assert store.seqs(name) == [1, 2]


def test_a_topic_keeps_its_backlog_until_it_was_heard(store, how):
    log = store.log("news", TOPICS)
    publish(store.disk, log, 40)
    log.put_state({"topic": {"unheard": [[1, 40]]}})
    commit(store.disk, log)
    settle(store.disk, log, range(1, 31))  # a subscriber has come, and was given these
    log.put_state({"topic": {"unheard": [[31, 40]]}})
    commit(store.disk, log)
    store.restart(how)
    assert store.seqs("news") == list(range(31, 41))
    assert store.found["news"].log.state == {"topic": {"unheard": [[31, 40]]}}
    assert store.found["news"].log.kind == TOPICS


def test_a_topic_keeps_the_newest_of_its_history(store, how):
    log = store.log("news", TOPICS)
    log.put_state({"settings": {"history_messages": 20}})
    for _ in range(10):
        seqs = [m.seq for m in publish(store.disk, log, 10)]
        log.drop(range(1, max(1, seqs[-1] - 19)), "over the history's limit")
        commit(store.disk, log)
    finish(store, log)
    assert log.segments[0].number > 1, "the older segments have gone"
    store.restart(how)
    assert store.seqs("news") == list(range(81, 101))
    assert store.found["news"].log.state == {"settings": {"history_messages": 20}}


def test_a_group_has_its_own_place_in_the_topic(store, how):
    topic, groups = store.log("news", TOPICS), [store.log(f"news@{g}") for g in ("mail", "audit")]
    batch = publish(store.disk, topic, 10)
    for group in groups:
        group.publish([Message(m.seq, m.id, m.wire) for m in batch])
        group.put_state({"group": {"from": 0}})
        commit(store.disk, group)
    settle(store.disk, groups[0], range(1, 8))
    settle(store.disk, topic, range(1, 11))
    store.restart(how)
    assert store.seqs("news@mail") == [8, 9, 10]
    assert store.seqs("news@audit") == list(range(1, 11))
    assert store.seqs("news") == []
    assert store.found["news@mail"].log.state == {"group": {"from": 0}}
    assert [m.wire for m in store.live("news@audit")] == [m.wire for m in batch]


@pytest.mark.parametrize(("kind", "name"), [(QUEUES, "jobs"), (TOPICS, "news")])
def test_the_dedup_window_outlives_the_restart_and_the_message(store, how, kind, name):
    log = store.log(name, kind)
    log.window_from = 1
    publish(store.disk, log, 5)
    settle(store.disk, log, range(1, 6))
    store.restart(how, now=NOW + 100)
    assert store.ids(name) == [f"m{n}" for n in range(1, 6)]
    [first, *_] = store.found[name].ids
    assert (first.seq, first.length, first.at) == (1, len(b'"m1"'), NOW)
    assert store.found[name].log.window_from == 1
    store.restart(how, now=NOW + 121)
    assert store.ids(name) == []


@pytest.mark.parametrize(("kind", "name"), [(QUEUES, "jobs"), (TOPICS, "news")])
def test_the_dedup_window_outlives_the_segments(store, how, kind, name):
    log = store.log(name, kind)
    log.window_from = 1
    for _ in range(20):
        settle(store.disk, log, [m.seq for m in publish(store.disk, log, 10)])
        remember(store, log)
    assert log.segments[0].number > 100, "the window pins nothing"
    store.restart(how)
    assert store.seqs(name) == []
    assert store.ids(name) == [f"m{n}" for n in range(1, 201)]


def test_a_copy_ahead_keeps_what_is_known_of_the_message(store, how):
    log = store.log("jobs")
    publish(store.disk, log, 1, due=NOW + 60)
    log.tried(Message(1, "m1", b"", attempts=2, returned="nack", due=NOW + 60), None)
    commit(store.disk, log)
    for _ in range(20):
        settle(store.disk, log, [m.seq for m in publish(store.disk, log, 10)])
    log.publish(messages(log, 1))
    finish(store, log)
    assert log.segments[0].number > 1, "the first segment has gone"
    store.restart(how)
    first, _ = store.live("jobs")
    assert (first.seq, first.attempts, first.due) == (1, 2, NOW + 60)
