"""Doctor: what it says of a data directory, that it changes nothing, and what it mends."""

import cattrs
import pytest

from msg.errors import StoreLocked, StoreUnreadable
from msg.store import indexfile
from msg.store.doctor import examine
from msg.store.recovery import FORMAT, TOMBSTONE, close_store, open_store
from msg.store.simdisk import SimDisk

from .kit import live, new_disk, new_log, publish, reopen, settle
from .test_recovery import content


@pytest.fixture
def disk() -> SimDisk:
    """Two queues, one with three segments, after a clean stop."""
    disk, jobs, mail = new_disk(), new_log("jobs", segment_bytes=700), new_log("mail")
    publish(disk, jobs, 5)
    publish(disk, jobs, 5)
    publish(disk, jobs, 3)
    settle(disk, jobs, [1, 7])
    publish(disk, mail, 2)
    close_store(disk)
    return disk


def test_a_healthy_directory(disk):
    before = content(disk)
    report = examine(disk)
    assert content(disk) == before
    assert report.healthy
    assert (report.version, report.clean, report.in_use_by) == (1, True, "")
    jobs, mail = report.logs
    assert (jobs.name, jobs.segments, jobs.records, jobs.live) == ("jobs", 3, 13, 11)
    assert (jobs.next_seq, mail.name, mail.live) == (14, "mail", 2)
    assert jobs.disk_bytes > jobs.live_bytes > 0
    assert cattrs.unstructure(report)["logs"][0]["name"] == "jobs"


def test_damage_is_named_and_nothing_is_touched(disk):
    path = "queues/jobs/00000000000000000001.jsonl"
    at = disk.read(path).index(b'"m3"')
    disk.flip_bit(path, 8 * at)
    before = content(disk)
    report = examine(disk)
    assert content(disk) == before
    (damage,) = report.logs[0].damage
    assert (damage.file, damage.seq, report.healthy) == (path, 3, False)
    assert damage.offset < at < damage.offset + damage.length
    # it reads everything: an index file hides nothing from it
    assert disk.exists(indexfile.path_of(path))


def test_repair_takes_the_damage_out_and_keeps_it_for_a_person(disk):
    path = "queues/jobs/00000000000000000001.jsonl"
    data = disk.read(path)
    disk.flip_bit(path, 8 * data.index(b'"m3"'))
    disk.unlink(indexfile.path_of(path))
    report = examine(disk, repair=True)
    assert [text for text in report.mended if "seq 3" in text]
    assert report.healthy
    assert len(report.quarantined) == 1
    assert examine(disk).healthy
    assert live(disk, reopen(disk).log) == [2, 4, 5, 6, 8, 9, 10, 11, 12, 13]
    assert open_store(disk).clean


def test_repair_does_not_trust_an_index_file(disk):
    path = "queues/jobs/00000000000000000001.jsonl"
    disk.flip_bit(path, 8 * disk.read(path).index(b'"m3"'))
    assert examine(disk, repair=True).healthy
    assert 3 not in live(disk, reopen(disk).log)


def test_what_a_crash_left_behind(disk):
    last = f"queues/mail/{disk.list('queues/mail')[-1]}"
    disk.put(last, disk.read(last) + b'{"op":"pub","se')
    disk.mkdir("queues/old")
    disk.put(f"queues/old/{TOMBSTONE}", b"")
    disk.put("queues/jobs/00000000000000000777.idx", b"x")
    disk.put("queues/jobs/notes.txt", b"x")
    disk.put("queue_legacy.json", b"[]")
    report = examine(disk)
    assert not report.healthy
    jobs, mail, old = report.logs
    assert mail.torn_tail_bytes == 15
    assert "deletion" in old.notes[0]
    assert [note.partition(":")[0] for note in jobs.notes] == [
        "00000000000000000777.idx",
        "notes.txt",
    ]
    assert "queue_legacy.json" in report.notes[0]
    mended = examine(disk, repair=True)
    assert [log.directory for log in mended.logs] == ["jobs", "mail"]
    assert mended.logs[1].torn_tail_bytes == 0


def test_an_index_file_that_lies_is_told(disk):
    first, second = [n for n in disk.list("queues/jobs") if n.endswith(".idx")]
    other = disk.read(f"queues/jobs/{second}")
    digest = indexfile.load(
        other, new_log().seed, disk.size("queues/jobs/" + second[:20] + ".jsonl")
    )
    assert digest is not None
    digest.size = disk.size("queues/jobs/" + first[:20] + ".jsonl")
    disk.put(f"queues/jobs/{first}", indexfile.dump(digest, new_log().seed))
    report = examine(disk)
    assert "does not say" in report.logs[0].notes[0]
    assert examine(disk, repair=True).healthy


def test_a_directory_in_use_is_looked_at_and_not_mended(disk):
    open_store(disk, holder="pid 4711")
    assert examine(disk).in_use_by == "pid 4711"
    with pytest.raises(StoreLocked):
        examine(disk, repair=True)


def test_a_newer_format_is_not_judged(disk):
    disk.put(FORMAT, b'{"format":"trio-msg","version":9}')
    with pytest.raises(StoreUnreadable):
        examine(disk)


def test_a_log_whose_head_is_damaged_is_still_known(disk):
    path = f"queues/mail/{disk.list('queues/mail')[0]}"
    disk.flip_bit(path, 100)
    mail = examine(disk).logs[1]
    assert (mail.name, mail.live, len(mail.damage)) == ("mail", 2, 1)
