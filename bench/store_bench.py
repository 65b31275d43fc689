"""What the store costs: microseconds a record, bytes a message, seconds to a first delivery.

    python bench/store_bench.py [MESSAGES] [--dir DIR]

One log, 200-byte bodies, batches of 1,000 with an fdatasync each; then a start on that
backlog (after a clean and an unclean stop), the reading of all of it, and the acks.
"""

import argparse
import os
import resource
import shutil
import tempfile
import time

from msg.core.message import Message
from msg.store.commit import execute, read
from msg.store.disk import RealDisk
from msg.store.log import Log
from msg.store.recovery import Recovered, close_store, open_store, recover_log

BATCH = 1000


def rss_mb() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 1e6


def show(what: str, value: float, unit: str) -> None:
    print(f"{what:<44}{value:>10.2f} {unit}", flush=True)


def batch_of(first: int, at: bytes) -> list[Message]:
    body = b'"' + b"x" * 198 + b'"'
    out = []
    for seq in range(first, first + BATCH):
        message_id = b"019a0000000000000000%04x" % (seq & 0xFFFF)
        wire = b'"topic":"jobs","message_id":"%b","published_at":"%b","message":%b' % (
            message_id,
            at,
            body,
        )
        out.append(Message(seq, message_id.decode(), wire))
    return out


def commit(disk: RealDisk, log: Log) -> tuple[float, float]:
    """Seconds in the owner's thread and in the disk's."""
    started = time.perf_counter()
    todo = log.begin()
    if todo is None:
        return time.perf_counter() - started, 0.0
    begun = time.perf_counter()
    execute(disk, [todo])
    executed = time.perf_counter()
    log.finish(todo)
    assert todo.error is None
    return begun - started + time.perf_counter() - executed, executed - begun


def fill(disk: RealDisk, n: int) -> Log:
    log = Log("queues", "jobs", "0badcafe")
    publish = own = disk_s = 0.0
    for first in range(1, n + 1, BATCH):
        batch = batch_of(first, b"2026-11-23T08:05:15.123Z")
        started = time.perf_counter()
        log.publish(batch)
        publish += time.perf_counter() - started
        a, b = commit(disk, log)
        own += a
        disk_s += b
    show("publish", publish / n * 1e6, "us a message")
    show("begin + finish", own / n * 1e6, "us a message")
    show("execute (write, sync)", disk_s / n * 1e6, "us a message")
    show("disk", log.disk_bytes / n, "bytes a message")
    return log


def start(disk: RealDisk, n: int, *, unclean: bool, what: str) -> Recovered:
    started = time.perf_counter()
    found = recover_log(disk, "queues", "jobs", unclean=unclean, now_wall=1.9e9)
    assert found is not None
    recovered = time.perf_counter()
    plan = found.log.plan_read(0, 1000, 1 << 20)
    assert plan is not None
    found.log.parse_read(plan, read(disk, plan))
    took = time.perf_counter() - started
    show(f"start {what}", (recovered - started) / n * 1e6, "us a message")
    show("  to the first message", took, "s")
    show("  RSS", rss_mb(), "MB")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("messages", type=int, nargs="?", default=200_000)
    parser.add_argument("--dir")
    options = parser.parse_args()
    n = options.messages
    root = tempfile.mkdtemp(dir=options.dir)
    try:
        disk = RealDisk(os.path.join(root, "data"))
        open_store(disk)
        show("RSS before", rss_mb(), "MB")
        log = fill(disk, n)
        show("RSS with all of them live", rss_mb(), "MB")
        close_store(disk)
        del log
        open_store(disk)
        start(disk, n, unclean=False, what="after a clean stop")
        log = start(disk, n, unclean=True, what="after an unclean stop").log
        for name in disk.list(log.directory):
            if name.endswith(".idx"):
                disk.unlink(f"{log.directory}/{name}")
        log = start(disk, n, unclean=False, what="without index files").log
        started = time.perf_counter()
        after = 0
        while (plan := log.plan_read(after, 1000, 1 << 20)) is not None:
            log.parse_read(plan, read(disk, plan))
            after = plan.after
        show("reading ahead, all of it", (time.perf_counter() - started) / n * 1e6, "us a message")
        started = time.perf_counter()
        own = 0.0
        for first in range(1, n + 1, BATCH):
            seqs = list(range(first, first + BATCH))
            began = time.perf_counter()
            log.settle(seqs)
            own += time.perf_counter() - began + commit(disk, log)[0]
        show("settle + begin + finish", own / n * 1e6, "us a message")
        show("settled, with the disk", (time.perf_counter() - started) / n * 1e6, "us a message")
        show("disk afterwards", log.disk_bytes / 1e6, "MB")
        show("RSS afterwards", rss_mb(), "MB")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
