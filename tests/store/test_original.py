"""A data directory of the original project: its messages move in, once, whatever happens."""

import json
from functools import partial
from random import Random

import pytest

from msg.store.original import IMPORTED, import_all
from msg.store.recovery import open_store, recover_log
from msg.store.simdisk import PowerCut, SimDisk

from .owner import read_all

NOW = 1_795_421_115.0
PAIRS = [
    ["plain", "id-1"],
    [{"a": [1, None, "ü\n"]}, "id-2"],
    [None, 17],
    ["x", ""],
    [3.5, "tab\tin it"],
    ["again", "id-1"],
]


def start(disk: SimDisk) -> list[str]:
    """What the broker does at a start; returns the notes."""
    disk.unlock()
    facts = open_store(disk)
    recover = partial(recover_log, disk, unclean=not facts.clean, now_wall=NOW)
    return facts.notes + import_all(disk, recover, now_wall=NOW, rng=Random(5))


def bodies(disk: SimDisk, kind: str, name: str) -> list[tuple[str, object]]:
    found = recover_log(disk, kind, name, unclean=True, now_wall=NOW)
    assert found is not None
    out = []
    for message in read_all(disk, found.log):
        frame = json.loads(b"{%b}" % message.wire)
        assert frame["topic"] == name
        out.append((message.id, frame["message"]))
    return out


EXPECTED = [
    ("id-1", "plain"),
    ("id-2", {"a": [1, None, "ü\n"]}),
    ("17", None),
    ("imported-4", "x"),
    ("imported-5", 3.5),
    ("id-1", "again"),
]


@pytest.mark.parametrize("indent", [None, 2])
def test_queues_and_topics_are_imported_and_put_away(indent):
    disk = SimDisk(Random(1), capacity=2 << 20)
    disk.put("queue_jobs.json", json.dumps(PAIRS, indent=indent).encode())
    disk.put("pubsub_news.json", json.dumps(PAIRS[:1], indent=indent).encode())
    assert "6 messages imported" in start(disk)[1]
    assert bodies(disk, "queues", "jobs") == EXPECTED
    assert bodies(disk, "topics", "news") == EXPECTED[:1]
    assert disk.list(IMPORTED) == ["pubsub_news.json", "queue_jobs.json"]
    assert start(disk) == []


def test_what_is_no_list_of_pairs_is_left_alone_and_named():
    disk = SimDisk(Random(1), capacity=2 << 20)
    disk.put("queue_a.json", b"[1, 2")
    disk.put("queue_b.json", b'{"x": 1}')
    disk.put("queue_c.json", b'[["fine", "1"], ["\\ud800", "2"], [NaN, "3"]]')
    notes = start(disk)
    assert len(notes) == 3
    assert disk.exists("queue_a.json")
    assert disk.exists("queue_b.json")
    assert bodies(disk, "queues", "c") == [("1", "fine")]
    assert "2 that are no valid JSON" in notes[2]


def test_without_room_it_is_done_at_the_next_start():
    disk = SimDisk(Random(1), capacity=2 << 20)
    start(disk)
    disk.put("queue_jobs.json", json.dumps(PAIRS).encode())
    disk.fill()
    assert "will be at the next start" in start(disk)[0]
    disk.make_room()
    start(disk)
    assert bodies(disk, "queues", "jobs") == EXPECTED


def test_a_power_cut_in_the_middle_neither_loses_nor_doubles():
    whole = SimDisk(Random(1), capacity=2 << 20)
    whole.put("queue_jobs.json", json.dumps(PAIRS).encode())
    start(whole.crash(Random(1)))
    at = 0
    while True:
        disk = whole.crash(Random(1))

        def cut(operation: int, kind: str, path: str, at: int = at) -> None:
            if operation == at:
                raise PowerCut

        disk.hook = cut
        try:
            start(disk)
        except PowerCut:
            pass
        else:
            break
        for seed in range(6):
            left = disk.crash(Random(seed))
            start(left)
            assert bodies(left, "queues", "jobs") == EXPECTED
        at += 1
    assert at > 20
