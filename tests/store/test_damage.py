"""Torn tails and flipped bits at every byte: what is delivered was published, next to
nothing is lost, and what is lost is named."""

from random import Random

import pytest

from msg.core.message import Attempt, Message
from msg.store import indexfile
from msg.store.log import Log
from msg.store.records import split_at_seam
from msg.store.recovery import recover_log
from msg.store.simdisk import SimDisk

from .kit import (
    commit,
    live,
    messages,
    new_disk,
    new_log,
    publish,
    read_with_damage,
    reopen,
    settle,
)
from .owner import wire


def story(*, segment_bytes: int = 1500) -> tuple[SimDisk, Log]:
    """Three segments with records of every kind; 9 live messages of 20."""
    disk, log = new_disk(), new_log(segment_bytes=segment_bytes)
    publish(disk, log, 6)
    settle(disk, log, [1, 2, 3])
    publish(disk, log, 5, priority=9, due=5.0)
    log.tried(Message(4, "m4", b"", attempts=1, returned="nack"), Attempt(1, "now", "nack"))
    commit(disk, log)
    publish(disk, log, 5, key="other:1:1")
    log.drop([8, 9], "expired")
    log.dead(10, "jobs.dead", "jobs:10:1", "max_deliveries")
    log.put_state({"paused": True})
    commit(disk, log)
    publish(disk, log, 4)
    settle(disk, log, [12, 14, 16, 18, 19])
    return disk, log


def pubs_at(log: Log, path: str, offset: int) -> set[int]:
    """The live messages whose record, or the LF before it, is at this offset."""
    out = set()
    for seq in range(1, log.next_seq):
        where = log.index.where(seq)
        if where is None or where[0].path != path:
            continue
        if where[1] - 1 <= offset < where[1] + where[2]:
            out.add(seq)
    return out


def flips(disk: SimDisk, log: Log, bits: list[tuple[str, int]], *, indexed: bool) -> None:
    undamaged = disk.crash(Random(1), "all")
    for path, bit in bits:
        left = undamaged.crash(Random(1), "all")
        if not indexed:
            for name in left.list(log.directory):
                if name.endswith(indexfile.SUFFIX):
                    left.unlink(f"{log.directory}/{name}")
        left.flip_bit(path, bit)
        hit = pubs_at(log, path, bit >> 3)
        assert len(hit) <= 2
        damaged = left.crash(Random(1), "all")
        for unclean in (False, True):
            again = damaged.crash(Random(1), "all")
            found = reopen(again, unclean=unclean)
            got, later = read_with_damage(again, found.log)
            where = f"{path} byte {bit >> 3} bit {bit & 7}, unclean={unclean}"
            for message in got:
                assert message.wire == wire("jobs", f"m{message.seq}"), where
            seqs = [m.seq for m in got]
            assert seqs == sorted(set(seqs)), where
            lost = set(ALIVE) - set(seqs)
            assert lost <= hit, f"{where}: lost {lost}, and {hit} were hit"
            named = {d.seq for d in (*found.damage, *later)}
            assert lost <= named or found.notes, f"{where}: {lost} not named in {named}"
            revived = set(seqs) - set(ALIVE)
            assert len(revived) <= 100
            assert not (revived and hit), where


ALIVE = [4, 5, 6, 7, 11, 13, 15, 17, 20]


def all_bits(disk: SimDisk, log: Log) -> list[tuple[str, int]]:
    return [(s.path, bit) for s in log.segments for bit in range(8 * disk.size(s.path))]


def test_the_story_is_what_the_tests_take_it_for():
    disk, log = story()
    assert len(log.segments) == 3
    assert live(disk, log) == ALIVE == live(disk, reopen(disk).log)
    digest = reopen(disk).log.digest
    assert indexfile.agree(digest, log.digest), "written and read, a segment says the same"


@pytest.mark.parametrize("indexed", [True, False])
def test_a_flipped_bit_loses_what_it_hits_and_is_named(indexed):
    disk, log = story()
    flips(disk, log, Random(1).sample(all_bits(disk, log), 400), indexed=indexed)


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("indexed", [True, False])
def test_every_bit_of_every_byte(indexed):
    disk, log = story()
    flips(disk, log, all_bits(disk, log), indexed=indexed)


@pytest.mark.parametrize("tail", [b"", b"\0" * 700, b'garbage\n{"op":"pub","seq":99}\n'])
def test_a_torn_tail_at_every_byte_leaves_the_whole_records_before_it(tail):
    disk, log = new_disk(), new_log(segment_bytes=1 << 20)
    publish(disk, log, 4)
    path = log.segments[0].path
    data = disk.read(path)
    ends = [place[1] + place[2] for seq in range(1, 5) if (place := log.index.where(seq))]
    for at in range(len(data) - 1):
        left = new_disk()
        left.mkdir("queues/jobs")
        left.put(path, data[:at] + tail)
        whole = [seq for seq, end in enumerate(ends, 1) if end <= at]
        for unclean in (False, True, True):
            if at <= data.index(b"\n"):
                break  # not even a head: see below
            found = reopen(left, unclean=unclean)
            assert live(left, found.log) == whole, f"torn at byte {at}"
            assert found.damage == []


def test_a_segment_torn_in_its_head_was_never_promised():
    disk, log = new_disk(), new_log()
    publish(disk, log, 1)
    path = log.segments[0].path
    head = disk.read(path).index(b"\n")
    for at in (0, 1, head // 2, head):
        left = new_disk()
        left.mkdir("queues/jobs")
        left.put(path, disk.read(path)[:at])
        assert recover_log(left, "queues", "jobs", unclean=True, now_wall=0.0) is None
        assert left.list("queues") == []


def test_a_line_break_that_was_hit_loses_neither_record():
    disk, log = new_disk(), new_log(segment_bytes=1 << 20)
    publish(disk, log, 3)
    data = disk.read(log.segments[0].path)
    for at in [i for i, byte in enumerate(data) if byte == 10][:-1]:
        left = disk.crash(Random(1), "all")
        left.flip_bit(log.segments[0].path, at * 8 + 3)
        assert live(left, reopen(left, unclean=True).log) == [1, 2, 3]


def test_a_body_cannot_pass_for_a_record():
    disk, log = new_disk(), new_log()
    publish(disk, log, 1)
    disk_line = disk.read(log.segments[0].path).split(b"\n")[1]
    # the attacker has even read a true line of this file, and publishes it as a body
    inner = b'[{"a":"b"},%b]' % disk_line
    body = wire("jobs", "m2").replace(b'"message":"m2"', b'"message":' + inner)
    log.publish([Message(2, "m2", body)])
    commit(disk, log)
    path = log.segments[0].path
    line = disk.read(path).split(b"\n")[2]
    assert split_at_seam(log.seed, line) == ()
    start = disk.read(path).index(line)
    for at in range(len(line)):
        left = disk.crash(Random(1), "all")
        left.flip_bit(path, (start + at) * 8 + at % 8)
        found = reopen(left)
        assert [m.id for m in read_with_damage(left, found.log)[0]] == ["m1"]


def test_a_record_of_another_queue_or_of_a_former_one_does_not_pass():
    disk = new_disk()
    first, other = new_log("jobs"), Log("queues", "jobs", "00000001")
    publish(disk, first, 2)
    disk.mkdir("queues/x")
    stolen = new_log("mail")
    stolen.next_seq = 3
    publish(disk, stolen, 1)
    other.next_seq = 4
    other.publish(messages(other, 1))
    foreign = disk.read(stolen.segments[0].path).split(b"\n")[1]
    former = other._pubs[0][:-1]
    path = first.segments[0].path
    data = disk.read(path)
    disk.put(path, data + foreign + b"\n" + former + b"\n" + data.split(b"\n")[1] + b"\n")
    found = reopen(disk)
    assert live(disk, found.log) == [1, 2]
    assert [d.seq for d in found.damage] == [3]


def test_when_all_heads_are_damaged_the_records_say_whose_they_are():
    disk, log = story(segment_bytes=1 << 20)
    disk.flip_bit(log.segments[0].path, 8 * 40)
    found = reopen(disk, unclean=True)
    assert (found.log.name, found.log.incarnation) == (log.name, log.incarnation)
    assert live(disk, found.log) == ALIVE
    assert "no head is readable" in found.notes[0]


def test_damage_met_while_reading_ahead_is_named_kept_and_settled():
    disk, log = story()
    place = log.index.where(5)
    assert place is not None
    disk.flip_bit(place[0].path, 8 * (place[1] + 50))
    found = reopen(disk)  # by the index file: the segment itself is not read
    assert found.damage == []
    got, damage = read_with_damage(disk, found.log)
    assert [m.seq for m in got] == [seq for seq in ALIVE if seq != 5]
    assert [(d.file, d.offset, d.seq) for d in damage] == [(place[0].path, place[1], 5)]
    commit(disk, found.log)
    (kept,) = disk.list("quarantine")
    assert len(disk.read(f"quarantine/{kept}")) == place[2]
    assert live(disk, reopen(disk, unclean=True).log) == [seq for seq in ALIVE if seq != 5]


def test_an_index_file_that_is_damaged_is_made_anew():
    disk, log = story()
    indexes = [n for n in disk.list(log.directory) if n.endswith(indexfile.SUFFIX)]
    assert len(indexes) == 2
    size = disk.size(f"{log.directory}/{indexes[0]}")
    for bit in range(0, size * 8, 13):
        left = disk.crash(Random(1), "all")
        left.flip_bit(f"{log.directory}/{indexes[0]}", bit)
        assert live(left, reopen(left).log) == ALIVE
        assert left.read(f"{log.directory}/{indexes[0]}") == disk.read(
            f"{log.directory}/{indexes[0]}"
        )
