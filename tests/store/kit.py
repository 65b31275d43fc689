"""Small steps that the store's tests share: one log, published to, committed and reopened."""

from collections.abc import Iterable
from random import Random

from msg.core.message import Message
from msg.store.commit import execute, read
from msg.store.disk import Disk
from msg.store.log import Log
from msg.store.recovery import Recovered, open_store, recover_log
from msg.store.scan import Damage
from msg.store.simdisk import SimDisk

from .owner import read_all, wire

CAPACITY = 2 << 20  # too small for the ballast, which would only slow the copying down


def new_disk(seed: int = 1) -> SimDisk:
    disk = SimDisk(Random(seed), capacity=CAPACITY)
    open_store(disk)
    return disk


def new_log(name: str = "jobs", *, segment_bytes: int = 2000) -> Log:
    return Log("queues", name, "5eed1234", segment_bytes=segment_bytes)


def messages(log: Log, n: int, **more) -> list[Message]:
    """The next n messages of a log; the id tells the seq."""
    first = log.next_seq
    return [
        Message(seq, f"m{seq}", wire(log.name, f"m{seq}"), **more)
        for seq in range(first, first + n)
    ]


def publish(disk: Disk, log: Log, n: int, **more) -> list[Message]:
    batch = messages(log, n, **more)
    log.publish(batch)
    commit(disk, log)
    return batch


def commit(disk: Disk, log: Log, *, sync: bool = True) -> None:
    """One commit, which must find room."""
    todo = log.begin(sync)
    if todo is not None:
        execute(disk, [todo])
        log.finish(todo)
        assert todo.error is None


def settle(disk: Disk, log: Log, seqs: Iterable[int]) -> None:
    log.settle(seqs)
    commit(disk, log)


def reopen(
    disk: Disk, directory: str = "jobs", *, unclean: bool = False, now_wall: float = 0.0, **more
) -> Recovered:
    found = recover_log(disk, "queues", directory, unclean=unclean, now_wall=now_wall, **more)
    assert found is not None
    return found


def live(disk: Disk, log: Log) -> list[int]:
    return [m.seq for m in read_all(disk, log)]


def read_with_damage(disk: Disk, log: Log) -> tuple[list[Message], list[Damage]]:
    out: list[Message] = []
    damage: list[Damage] = []
    after = 0
    while (plan := log.plan_read(after, 5, 1 << 20)) is not None:
        out += log.parse_read(plan, read(disk, plan))
        damage += plan.damaged
        after = plan.after
    return out, damage
