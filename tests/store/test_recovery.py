"""Opening a store: whose it is, what it holds, and what a crash had cut off."""

from random import Random

import msgspec
import pytest

from msg.core.message import OS, Message
from msg.errors import StoreFailed, StoreLocked, StoreUnreadable
from msg.store import indexfile
from msg.store.commit import commit_now, execute
from msg.store.disk import RealDisk
from msg.store.log import Log
from msg.store.recovery import (
    CLEAN,
    FORMAT,
    close_store,
    delete_log,
    open_store,
    recover_all,
    recover_log,
    settle_moved,
)
from msg.store.simdisk import PowerCut, SimDisk

from .kit import commit, live, messages, new_disk, new_log, publish, reopen, settle
from .owner import read_all, wire


def content(disk: SimDisk, path: str = "") -> dict[str, bytes | None]:
    out: dict[str, bytes | None] = {}
    for name in disk.list(path):
        below = f"{path}/{name}" if path else name
        try:
            out[below] = disk.read(below)
        except IsADirectoryError:
            out[below] = None
            out |= content(disk, below)
    return out


# -- the directory ------------------------------------------------------------------------


def test_a_stop_that_was_clean_is_known_as_one_and_only_once():
    disk = SimDisk(Random(1))
    assert not open_store(disk).clean
    close_store(disk)
    assert open_store(disk).clean
    for seed in range(10):
        assert not open_store(disk.crash(Random(seed))).clean


def test_the_second_broker_is_told_who_holds_the_directory(tmp_path):
    disk = RealDisk(tmp_path)
    open_store(disk, holder="pid 4711")
    with pytest.raises(StoreLocked, match="pid 4711"):
        open_store(RealDisk(tmp_path))
    close_store(disk)
    open_store(RealDisk(tmp_path))


def test_a_newer_format_is_refused_in_a_sentence():
    disk = SimDisk(Random(1))
    disk.put(FORMAT, b'{"format":"trio-msg","version":2}\n')
    with pytest.raises(StoreUnreadable, match="newer version"):
        open_store(disk)


def test_another_programs_directory_is_refused():
    disk = SimDisk(Random(1))
    disk.put("thesis.odt", b"")
    with pytest.raises(StoreUnreadable, match=r"thesis\.odt"):
        open_store(disk)
    other = SimDisk(Random(1))
    other.put(FORMAT, b'{"format":"something","version":1}')
    with pytest.raises(StoreUnreadable, match="something"):
        open_store(other)


@pytest.mark.parametrize("raw", [b"", b'{"format":"tr', b"\0" * 30])
def test_a_damaged_format_file_stops_no_start(raw):
    disk, log = new_disk(), new_log()
    publish(disk, log, 2)
    disk.unlock()
    disk.put(FORMAT, raw)
    facts = open_store(disk)
    assert facts.logs == [("queues", "jobs")]
    assert FORMAT in facts.notes[0]
    assert msgspec.json.decode(disk.read(FORMAT)) == {"format": "trio-msg", "version": 1}


def test_a_first_start_may_be_cut_off_anywhere():
    whole = SimDisk(Random(1))
    open_store(whole)
    for at in range(whole.operations):
        disk = SimDisk(Random(1))

        def cut(operation: int, kind: str, path: str, at: int = at) -> None:
            if operation == at:
                raise PowerCut

        disk.hook = cut
        with pytest.raises(PowerCut):
            open_store(disk)
        for seed in range(10):
            assert open_store(disk.crash(Random(seed))).logs == []


# -- one log ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jobs", "Jobs", "a/b", "news.*@audit", "Ω" * 100])
def test_a_log_is_found_by_its_true_name(name):
    disk, log = new_disk(), new_log(name)
    publish(disk, log, 1)
    disk.unlock()
    ((kind, directory),) = open_store(disk).logs
    found = recover_log(disk, kind, directory, unclean=True, now_wall=0.0)
    assert found is not None
    assert (found.log.name, found.log.kind) == (name, "queues")
    assert [m.id for m in read_all(disk, found.log)] == ["m1"]


def test_recovering_twice_gives_the_same_as_once():
    disk, log = new_disk(), new_log(segment_bytes=700)
    publish(disk, log, 12)
    settle(disk, log, [2, 3, 5, 12])
    stranger = disk.open(log.segments[-1].path)
    stranger.append(b"torn")
    stranger.close()
    once = reopen(disk)
    after = content(disk)
    twice = reopen(disk)
    assert content(disk) == after
    assert live(disk, once.log) == live(disk, twice.log) == [1, 4, *range(6, 12)]
    assert (once.notes != [], twice.notes) == (True, [])


def test_after_an_unclean_stop_nothing_is_appended_to_what_may_be_a_lie():
    disk, log = new_disk(), new_log()
    publish(disk, log, 3)
    old = log.segments[-1].path
    found = reopen(disk, unclean=True)
    assert not disk.exists(old)
    assert found.log.segments[-1].path != old
    publish(disk, found.log, 1)
    assert live(disk, reopen(disk).log) == [1, 2, 3, 4]


def test_what_a_killed_process_had_only_written_is_synced_before_it_is_served():
    disk, log = new_disk(), new_log()
    publish(disk, log, 2)
    log.publish(messages(log, 3, durability=OS))
    commit(disk, log, sync=False)
    before = [segment.path for segment in log.segments]
    found = reopen(disk, unclean=True, trusted=True)
    assert [segment.path for segment in found.log.segments] == before, "nothing is written anew"
    assert live(disk, found.log) == [1, 2, 3, 4, 5]
    left = disk.crash(Random(1), "none")
    assert live(left, reopen(left, unclean=True, trusted=True).log) == [1, 2, 3, 4, 5]


def test_a_disk_is_trusted_until_a_sync_fails():
    disk = new_disk()
    assert recover_all(disk, [], unclean=True, now_wall=0.0) == []
    disk.unlock()
    assert open_store(disk).trusted
    log = new_log()
    log.publish(messages(log, 1))
    todo = log.begin()
    assert todo is not None
    disk.fail_syncs(1)
    with pytest.raises(StoreFailed):
        execute(disk, [todo])
    disk.unlock()
    facts = open_store(disk)
    assert not facts.trusted
    recover_all(disk, facts.logs, unclean=True, trusted=False, now_wall=0.0)
    disk.unlock()
    assert open_store(disk).trusted, "all that was in doubt has been written anew"


def test_a_rewrite_that_was_cut_off_is_made_again():
    disk, log = new_disk(), new_log()
    publish(disk, log, 5)
    settle(disk, log, [1, 4])
    steps = disk.crash(Random(1), "all")
    reopen(steps, unclean=True)
    for at in range(steps.operations):
        left = disk.crash(Random(1), "all")

        def cut(operation: int, kind: str, path: str, at: int = at) -> None:
            if operation == at:
                raise PowerCut

        left.hook = cut
        with pytest.raises(PowerCut):
            reopen(left, unclean=True)
        for seed in range(10):
            again = left.crash(Random(seed))
            found = reopen(again, unclean=True)
            assert live(again, found.log) == [2, 3, 5]
            assert len(again.list("queues/jobs")) == 1


@pytest.mark.parametrize("left", [[2, 3, 5], []])
def test_a_rewrite_that_lost_its_head_brings_nothing_back(left):
    disk, log = new_disk(), new_log()
    publish(disk, log, 5)
    settle(disk, log, [seq for seq in range(1, 6) if seq not in left])
    old = log.segments[-1].path
    kept = disk.read(old)
    reopen(disk, unclean=True)
    (new,) = disk.list("queues/jobs")
    # the old segment's removal is lost; of the new one, the head and all behind the pubs
    path = f"queues/jobs/{new}"
    lines = disk.read(path).split(b"\n")
    disk.put(path, b"\0" * len(lines[0]) + b"\n" + b"\n".join(lines[1:6]) + b"\n")
    disk.put(old, kept)
    for _ in range(2):
        assert live(disk, reopen(disk, unclean=True).log) == left


def test_a_sealed_segment_is_whole():
    disk, log = new_disk(), new_log(segment_bytes=1000)
    publish(disk, log, 1)
    for _ in range(4):
        log.publish(messages(log, 3, durability=OS))
        commit(disk, log, sync=False)
    assert len(log.segments) > 1
    for seed in range(20):
        left = disk.crash(Random(seed))
        reopen(left, unclean=True)
        assert left.exists(log.segments[0].path)
        assert left.read(log.segments[0].path) == disk.read(log.segments[0].path)


def test_segments_go_oldest_first_whatever_survives():
    disk, log = new_disk(), new_log(segment_bytes=600)
    publish(disk, log, 3)
    log.window_from = 1  # holds everything back
    for _ in range(6):
        publish(disk, log, 3)
    settle(disk, log, range(1, 22))  # far behind what it settles
    publish(disk, log, 3)
    settle(disk, log, range(22, 25))
    publish(disk, log, 3)
    log.window_from = None
    checks = 0

    def hook(operation: int, kind: str, path: str) -> None:
        nonlocal checks
        for seed in range(10):
            left = disk.crash(Random(seed))
            assert live(left, reopen(left, unclean=True).log) == [25, 26, 27]
            checks += 1

    disk.hook = hook
    commit(disk, log)
    disk.hook = None
    assert checks > 50


def test_index_files_say_what_their_segments_say():
    disk, log = new_disk(), new_log(segment_bytes=700)
    publish(disk, log, 5, priority=9)
    publish(disk, log, 5, due=4.0, key="x:1:1")
    settle(disk, log, [1, 3, 4])
    log.put_state({"paused": True})
    for _ in range(5):
        publish(disk, log, 4)
    settle(disk, log, range(5, 20))
    while log.has_gathered:
        commit(disk, log)
    written = {n: b for n, b in content(disk).items() if n.endswith(indexfile.SUFFIX)}
    assert written
    for name in written:
        disk.unlink(name)
    reopen(disk)
    made = {n: b for n, b in content(disk).items() if n.endswith(indexfile.SUFFIX)}
    assert made.keys() == written.keys()
    for name, data in made.items():
        segment = name.removesuffix(indexfile.SUFFIX) + ".jsonl"
        one, other = (
            indexfile.load(raw or b"", log.seed, disk.size(segment))
            for raw in (data, written[name])
        )
        assert one is not None
        assert other is not None
        assert indexfile.agree(one, other), name


def test_a_start_does_not_read_what_an_index_file_tells():
    disk, log = new_disk(), new_log(segment_bytes=1000)
    for _ in range(30):
        publish(disk, log, 10)
    read: list[str] = []
    disk.hook = lambda operation, kind, path: read.append(path) if kind == "read" else None
    found = reopen(disk, unclean=True, now_wall=4e9)
    sealed = [s.path for s in found.log.segments[:-1]]
    assert len(sealed) > 20
    # the head of each, and no more
    assert all(read.count(path) == 1 for path in sealed)
    assert live(disk, found.log) == list(range(1, 301))


def test_a_state_goes_with_every_new_segment():
    disk, log = new_disk(), new_log(segment_bytes=600)
    log.put_state({"paused": True, "from": "all"})
    publish(disk, log, 3)
    for _ in range(10):
        settle(disk, log, [m.seq for m in publish(disk, log, 3)])
    assert "state" not in str([disk.read(s.path) for s in log.segments]).replace('"state":{', "")
    assert reopen(disk).log.state == {"paused": True, "from": "all"}
    log.put_state({})
    commit(disk, log)
    assert reopen(disk, unclean=True).log.state == {}


def test_seqs_are_never_used_twice_though_all_is_settled():
    disk, log = new_disk(), new_log(segment_bytes=500)
    for _ in range(10):
        settle(disk, log, [m.seq for m in publish(disk, log, 2)])
    assert reopen(disk).log.next_seq == 21
    assert reopen(disk, unclean=True).log.next_seq == 21


# -- moves and deletions ------------------------------------------------------------------


def test_a_move_that_was_cut_in_two_is_ended():
    disk, source, target = new_disk(), new_log("jobs"), new_log("jobs.dead")
    publish(disk, source, 3)
    target.publish([Message(1, "m2", wire("jobs", "m2"), key="jobs:2:5")])
    commit(disk, target)
    found = [reopen(disk, "jobs"), reopen(disk, "jobs.dead")]
    (changed,) = settle_moved(disk, found)
    assert changed is found[0].log
    commit_now(disk, changed)
    assert live(disk, reopen(disk, "jobs").log) == [1, 3]
    assert live(disk, reopen(disk, "jobs.dead").log) == [1]
    assert found[1].move_keys == {}, "nobody will send it again"


def test_a_key_of_a_queue_that_was_made_anew_settles_nothing():
    disk, old, target = new_disk(), new_log("jobs"), new_log("jobs.dead")
    publish(disk, old, 2)
    target.publish([Message(1, "m2", wire("jobs", "m2"), key="jobs:2:5")])
    commit(disk, target)
    delete_log(disk, "queues", "jobs")
    new = Log("queues", "jobs", "00000009")
    new.publish([Message(seq, f"n{seq}", wire("jobs", f"n{seq}")) for seq in (1, 2)])
    commit(disk, new)
    found = [reopen(disk, "jobs"), reopen(disk, "jobs.dead")]
    assert settle_moved(disk, found) == []
    assert live(disk, found[0].log) == [1, 2]


def test_the_number_of_a_message_that_was_lost_is_not_lent_to_another():
    disk, source, target = new_disk(), new_log("jobs"), new_log("jobs.dead")
    publish(disk, source, 3)
    target.publish([Message(1, "m9", wire("jobs", "m9"), key="jobs:9:5")])
    commit(disk, target)
    found = [reopen(disk, "jobs"), reopen(disk, "jobs.dead")]
    assert settle_moved(disk, found) == []
    assert found[0].log.next_seq == 10


@pytest.mark.parametrize("name", ["jobs", "Ω" * 100])
def test_a_deletion_is_done_whole_or_not_begun(name):
    disk, log = new_disk(), new_log(name, segment_bytes=600)
    publish(disk, log, 4)
    publish(disk, log, 4)
    publish(disk, log, 4)
    directory = log.directory.partition("/")[2]
    before = live(disk, log)
    seen = set()

    def hook(operation: int, kind: str, path: str) -> None:
        for seed in range(10):
            left = disk.crash(Random(seed))
            facts = open_store(left)
            found = [
                recover_log(left, kind, directory, unclean=True, now_wall=0.0)
                for kind, directory in facts.logs
            ]
            there = [live(left, one.log) for one in found if one is not None]
            assert there in ([], [before])
            seen.add(len(there))
            if not there:
                assert left.list("queues") == []

    disk.hook = hook
    delete_log(disk, "queues", directory)
    disk.hook = None
    assert seen == {0, 1}
    assert disk.list("queues") == []
    delete_log(disk, "queues", directory)  # once more does no harm


def test_commits_of_many_logs_in_one_round():
    disk = new_disk()
    logs = [new_log(f"q{n}") for n in range(20)]
    for _ in range(3):
        for log in logs:
            log.publish(messages(log, 5))
        todo = [one for log in logs if (one := log.begin()) is not None]
        before = disk.operations
        execute(disk, todo)
        for one in todo:
            one.log.finish(one)
    assert disk.operations - before == 3 * 20, "open, append, sync: each file once"
    assert [len(live(disk, reopen(disk, f"q{n}").log)) for n in range(20)] == [15] * 20
    assert not disk.exists(CLEAN)
