"""The shortest stories: what was published and acked is what a restart finds."""

from msg.core.message import Attempt, Message
from msg.store.commit import execute, read
from msg.store.disk import RealDisk
from msg.store.log import Log
from msg.store.recovery import close_store, open_store, recover_log


def wire(seq: int, body: bytes = b'"hello"') -> bytes:
    at = b"2026-11-23T08:05:15.123Z"
    return b'"topic":"jobs","message_id":"m%d","published_at":"%b","message":%b' % (seq, at, body)


def commit_all(disk: RealDisk, log: Log) -> None:
    while (commit := log.begin()) is not None:
        execute(disk, [commit])
        log.finish(commit)
        assert commit.error is None


def test_a_restart_finds_what_was_kept_and_not_what_was_settled(tmp_path):
    disk = RealDisk(tmp_path)
    assert open_store(disk).logs == []
    log = Log("queues", "jobs", "0badcafe")
    log.publish([Message(seq, f"m{seq}", wire(seq)) for seq in range(1, 11)])
    commit_all(disk, log)
    log.settle([1, 2, 5])
    log.tried(Message(3, "m3", b"", attempts=1, returned="nack"), Attempt(1, "now", "nack"))
    commit_all(disk, log)
    close_store(disk)

    for unclean in (False, True, True):
        facts = open_store(disk)
        assert facts.logs == [("queues", "jobs")]
        found = recover_log(disk, "queues", "jobs", unclean=unclean, now_wall=0.0)
        assert found is not None
        plan = found.log.plan_read(0, 100, 1 << 20)
        assert plan is not None
        messages = found.log.parse_read(plan, read(disk, plan))
        assert [m.seq for m in messages] == [3, 4, 6, 7, 8, 9, 10]
        assert messages[0].attempts == 1
        assert [m.wire for m in messages] == [wire(m.seq) for m in messages]
        assert found.log.next_seq == 11
        disk.unlock()
    disk.close()
