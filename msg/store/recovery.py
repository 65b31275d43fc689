"""Opening a store after a stop of any kind, and finding what every log holds.

`open_store` takes the directory, `recover_log` one log of it, `settle_moved` ends the moves
between logs that a crash cut in two, `close_store` says that the stop was a clean one.
Recovering twice gives the same as once; nothing here needs to run to its end to be safe.
"""

import contextlib
import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import attrs
import msgspec

from msg.errors import DiskFull, StoreUnreadable
from msg.store import records
from msg.store.commit import (
    BALLAST,
    TRUSTED,
    disk_must_work,
    floor_of,
    no_room,
    read,
    restore_ballast,
    throw_ballast,
)
from msg.store.disk import LOCK, Disk
from msg.store.log import QUEUES, SEGMENT_BYTES, TOPICS, Log
from msg.store.names import name_of
from msg.store.original import original_kind
from msg.store.quarantine import QUARANTINE
from msg.store.reader import Reader, Rewrites
from msg.store.replay import Ids, Replay, Specials
from msg.store.scan import Damage

FORMAT = "FORMAT.json"
VERSION = 1
CLEAN = "CLEAN"
TOMBSTONE = "DELETED"
TOGETHER = 100  # segments that are written anew with shared syncs; so many files stay open

# what may be there before FORMAT.json is: its making may have been cut off
_FIRST = {LOCK, CLEAN, TRUSTED, QUEUES, TOPICS, QUARANTINE, BALLAST, "lost+found"}
_SEGMENT = re.compile(r"\d{20}\.jsonl")

P = ParamSpec("P")
R = TypeVar("R")


def _on_a_disk_that_works(
    function: Callable[Concatenate[Disk, P], R],
) -> Callable[Concatenate[Disk, P], R]:
    """Under `disk_must_work`."""

    @wraps(function)
    def guarded(disk: Disk, /, *args: P.args, **more: P.kwargs) -> R:
        with disk_must_work(disk):
            return function(disk, *args, **more)

    return guarded


class Format(msgspec.Struct):
    """FORMAT.json."""

    format: str
    version: int


@attrs.define
class Facts:
    """What `open_store` found."""

    clean: bool  # the last stop was a clean one
    trusted: bool  # no sync had failed before it
    logs: list[tuple[str, str]]  # (kind, directory), sorted
    notes: list[str] = attrs.field(factory=list)  # for the operator, a sentence each


@attrs.define(eq=False)
class Recovered:
    """One log as it is on disk, and what of it needs its owner's attention.

    `special`: (seq, priority, due) of the live messages that are not simply next in line,
    rising; `due` may be a failed attempt's. `log.tries` has those with attempts. `move_keys`:
    key -> seq of the live messages that were moved here. `ids`: what the dedup window holds,
    oldest first.
    """

    log: Log
    special: Specials
    move_keys: dict[str, int]
    ids: Ids
    damage: list[Damage]
    notes: list[str]

    @classmethod
    def of_new(cls, log: Log) -> "Recovered":
        """What there is to say of a log that has just been made."""
        return cls(log, Specials(), {}, Ids(), [], [])


@_on_a_disk_that_works
def open_store(disk: Disk, *, holder: str = "", floor: int | None = None) -> Facts:
    """Take the directory, or raise StoreLocked; check its format; list its logs.

    StoreUnreadable when it is of a newer format or not one of ours.
    """
    disk.lock(holder)
    notes: list[str] = []
    _check_format(disk, notes)
    clean = disk.exists(CLEAN)
    if clean:
        disk.unlink(CLEAN)
    for directory in (QUEUES, TOPICS, QUARANTINE):
        disk.mkdir(directory)
    restore_ballast(disk, floor_of(disk) if floor is None else floor)
    # the name of a queue whose making was cut off may be in the page cache only
    for directory in (QUEUES, TOPICS, ""):
        disk.sync_dir(directory)
    logs = [(kind, directory) for kind in (QUEUES, TOPICS) for directory in disk.list(kind)]
    return Facts(clean, disk.exists(TRUSTED), logs, notes)


@_on_a_disk_that_works
def close_store(disk: Disk) -> None:
    """All logs are synced and nothing will be written: the next start may trust that."""
    try:
        if not disk.exists(CLEAN):
            disk.create(CLEAN).close()
            disk.sync_dir("")
    except OSError as error:
        if not no_room(error):
            raise
        # the next start then takes this stop for an unclean one, and only works more
    disk.unlock()


def format_version(disk: Disk) -> int:
    """The data directory's format; 0 when FORMAT.json is missing or damaged.

    StoreUnreadable when it is a newer one, or another program's.
    """
    try:
        found = msgspec.json.decode(disk.read(FORMAT), type=Format)
    except (ValueError, RecursionError, FileNotFoundError):
        return 0
    if found.format != "trio-msg":
        raise StoreUnreadable(f"{FORMAT} says {found.format!r}: this is another program's data")
    if found.version > VERSION:
        raise StoreUnreadable(
            f"the data directory has format {found.version}, and this version of trio-msg reads"
            f" up to {VERSION}: start it with the newer version that wrote it"
        )
    return found.version


def _check_format(disk: Disk, notes: list[str]) -> None:
    """See that the directory is one of ours, or make it one."""
    if format_version(disk):
        return
    if disk.exists(FORMAT):
        notes.append(f"{FORMAT} was damaged and has been written anew")
        disk.unlink(FORMAT)
    else:
        for name in disk.list(""):
            ours = name in _FIRST or name.startswith(".") or original_kind(name)
            if not ours:
                raise StoreUnreadable(
                    f"the directory holds {name!r} and no {FORMAT}: it is not a data directory"
                    " of this broker; name an empty one"
                )
    file = disk.create(FORMAT)
    try:
        file.append(msgspec.json.encode(Format("trio-msg", VERSION)) + b"\n")
        file.datasync()
    finally:
        file.close()
    disk.sync_dir("")


def segment_numbers(names: Iterable[str]) -> list[int]:
    """The numbers of the segments among these file names, rising."""
    return sorted([int(n[:20]) for n in names if _SEGMENT.fullmatch(n)])


@_on_a_disk_that_works
def recover_log(
    disk: Disk,
    kind: str,
    directory: str,
    *,
    unclean: bool,
    trusted: bool = False,
    now_wall: float,
    window_s: float = 120.0,
    ids_max: int = 1_000_000,
    segment_bytes: int = SEGMENT_BYTES,
    damage: list[Damage] | None = None,
    repair: bool = False,
    later: Rewrites | None = None,
) -> Recovered | None:
    """Find what a log holds; None when nothing is left of it (deleted, or never durable).

    After an unclean stop its last segment is synced before it is served. Unless the disk is
    `trusted`, it is written anew for that: after a failed sync the page cache may show for
    good what never reached the medium. (When the machine has gone down with the process, it
    shows what is there.) `damage` collects what was found even
    where no log is left. To `repair` is to write damaged segments anew without what is bad;
    else they stay, and are named at each start. With `later` nothing may be served before
    that has ended.
    """
    damage = [] if damage is None else damage
    notes: list[str] = []
    folder = f"{kind}/{directory}"
    names = disk.list(folder)
    if TOMBSTONE in names:
        finish_delete(disk, kind, directory)
        return None
    numbers = segment_numbers(names)
    reader = Reader(disk, folder, numbers, damage, notes, later)
    reader.drop_unfinished()
    reader.find_identity(name_of(directory))
    if reader.name is None:
        reader.give_up()
        return None
    log = Log(kind, reader.name, reader.incarnation, segment_bytes=segment_bytes)
    replay = Replay(log, records.rfc3339(max(0.0, now_wall - window_s)).encode(), ids_max)
    doubtful = unclean and not trusted
    tail, data = reader.read_tail(log.seed, cut=not doubtful)
    for number in reader.numbers[:-1]:
        replay.add(*reader.sealed(number, log, repair=repair))
    if doubtful or (tail.damage and (unclean or repair)):
        # the last segment's own head may be what the power cut took
        log.next_seq = max(log.next_seq, tail.next_seq)
        log.state = log.state if tail.state is None else tail.state
        tail = reader.rewritten(log, tail, data)
    elif unclean:
        reader.keep_tail(tail)
    replay.add(reader.numbers[-1], tail)
    log.adopt(tail)
    found = Recovered(
        log, replay.specials(), replay.move_keys(), replay.window(disk), damage, notes
    )
    log.index.trim()
    return found


def recover_all(
    disk: Disk,
    logs: Iterable[tuple[str, str]],
    *,
    unclean: bool,
    trusted: bool = False,
    now_wall: float,
    segment_bytes: int = SEGMENT_BYTES,
    damage: list[Damage] | None = None,
) -> list[Recovered]:
    """All logs of a start, as `recover_log` does one. A thousand that are to be written anew
    share their syncs. The disk is trusted from then on, until a sync fails."""
    later = Rewrites(disk)
    found = []
    with contextlib.closing(later):
        for kind, directory in logs:
            one = recover_log(
                disk,
                kind,
                directory,
                unclean=unclean,
                trusted=trusted,
                now_wall=now_wall,
                segment_bytes=segment_bytes,
                damage=damage,
                later=later,
            )
            if one is not None:
                found.append(one)
            if len(later) >= TOGETHER:
                later.end()
        later.end()
    if not (trusted or later.refused):
        _trust(disk)
    return found


@_on_a_disk_that_works
def _trust(disk: Disk) -> None:
    """Nothing is in doubt any more. It need not be durable: with the machine, the page cache
    goes too, and a start that finds it missing only works more."""
    try:
        disk.create(TRUSTED).close()
    except FileExistsError:
        pass
    except OSError as error:
        if not no_room(error):
            raise


def settle_moved(disk: Disk, found: Iterable[Recovered]) -> list[Log]:
    """End the moves that a crash cut in two: what a target holds under a source's key is
    settled at the source. Returns the logs to commit before any target is served."""
    logs = list(found)
    sources = {r.log.name: r.log for r in logs if r.log.kind == QUEUES}
    changed: dict[str, Log] = {}
    for target in logs:
        for key, there in target.move_keys.items():
            name, _, number = key.rpartition(":")[0].rpartition(":")
            source = sources.get(name)
            if source is None or not number.isdecimal():
                continue
            seq = int(number)
            # a message that was lost to a power cut may not lend its number to another
            source.next_seq = max(source.next_seq, seq + 1)
            if not source.is_live(seq):
                continue
            # a key may be of a queue of that name that was deleted and made anew since
            if _identity(disk, source, seq) == _identity(disk, target.log, there):
                source.dead(seq, target.log.name, key, "moved before the stop")
                changed[name] = source
        target.move_keys = {}  # no source will send any of these again
    return list(changed.values())


def _identity(disk: Disk, log: Log, seq: int) -> tuple[str, bytes] | None:
    """What stays the same of a message wherever it moves."""
    plan = log.plan_read_seqs([seq])
    messages = log.parse_read(plan, read(disk, plan)) if plan else []
    return (messages[0].id, records.published_at(messages[0].wire)) if messages else None


@_on_a_disk_that_works
def delete_log(disk: Disk, kind: str, directory: str) -> None:
    """Remove a destination: a durable tombstone first, so that a crash in between neither
    brings it back nor leaves it half there; then the segments, oldest first. Raises DiskFull,
    and has done nothing, when there is no room even for the tombstone's name."""
    if entomb(disk, kind, directory):
        finish_delete(disk, kind, directory)


def entomb(disk: Disk, kind: str, directory: str) -> bool:
    """The first half: from here on no start brings it back. False: there is nothing to bring
    back. Its owner may still write to it. Raises DiskFull, and has done nothing, as `delete_log`
    does."""
    folder = f"{kind}/{directory}"
    if not disk.exists(folder):
        return False
    if not disk.list(folder):  # its first commit found no room
        disk.rmdir(folder)
        return False
    tombstone = f"{folder}/{TOMBSTONE}"
    if not disk.exists(tombstone):
        try:
            try:
                file = disk.create(tombstone)
            except OSError as error:
                if not no_room(error) or not throw_ballast(disk):
                    raise
                file = disk.create(tombstone)
        except OSError as error:
            if not no_room(error):
                raise
            raise DiskFull(f"no room for a tombstone in {folder}; free some space") from error
        file.close()
        disk.sync_dir(folder)
    return True


def finish_delete(disk: Disk, kind: str, directory: str) -> None:
    """What is left of a deletion whose tombstone is durable."""
    folder = f"{kind}/{directory}"
    for name in disk.list(folder):
        if name != TOMBSTONE:
            disk.unlink(f"{folder}/{name}")
    disk.sync_dir(folder)  # the tombstone goes last, whatever order the disk prefers
    disk.unlink(f"{folder}/{TOMBSTONE}")
    disk.rmdir(folder)
    disk.sync_dir(kind)
