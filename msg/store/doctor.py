"""Doctor: read every byte of a data directory, say what is there and what is wrong.

`examine` changes nothing, and can look at a directory that a broker is using (what it then
calls a torn tail may be a write under way). With `repair` it takes the lock and does what a
start would do (cut torn tails, finish what a crash cut off, write last segments anew), and
writes damaged segments anew without their bad lines, which stay in `quarantine/`.
"""

from collections.abc import Iterator

import attrs

from msg.errors import StoreLocked
from msg.store import indexfile, recovery
from msg.store.commit import BALLAST, TRUSTED, commit_now
from msg.store.disk import LOCK, Disk
from msg.store.log import QUEUES, SUFFIX, TOPICS, Log
from msg.store.names import name_of
from msg.store.original import original_kind
from msg.store.quarantine import QUARANTINE
from msg.store.reader import Reader
from msg.store.replay import Replay
from msg.store.scan import Damage, scan

_OURS = {
    LOCK, BALLAST, TRUSTED, QUARANTINE, QUEUES, TOPICS, recovery.FORMAT, recovery.CLEAN,
    "lost+found", "WEB_TOKEN", "WEB_ADDRESS",  # the latter two are the page's: msg/daemon/page.py
}  # fmt: skip


@attrs.define
class LogReport:
    """One queue's, group's or topic's folder."""

    kind: str
    directory: str
    name: str = ""
    incarnation: str = ""
    segments: int = 0
    disk_bytes: int = 0
    records: int = 0  # pubs, settled ones and copies too
    live: int = 0
    live_bytes: int = 0
    next_seq: int = 1
    torn_tail_bytes: int = 0
    damage: list[Damage] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)

    @property
    def healthy(self) -> bool:
        return not (self.damage or self.torn_tail_bytes or self.notes)


@attrs.define
class Report:
    """A whole data directory. `healthy`: a start finds nothing to mend or to complain of."""

    version: int = 0  # of the format; 0: there is no readable FORMAT.json
    clean: bool = False  # the last stop was a clean one
    in_use_by: str = ""
    mended: list[str] = attrs.field(factory=list)  # by this very repair
    logs: list[LogReport] = attrs.field(factory=list)
    quarantined: list[str] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)

    @property
    def healthy(self) -> bool:
        return not self.notes and all(log.healthy for log in self.logs)


def examine(disk: Disk, *, repair: bool = False, now_wall: float = 0.0) -> Report:
    """Look at everything, and mend it where that is asked for.

    To repair raises StoreLocked while a broker uses the directory. StoreUnreadable when it is
    of a newer format: nothing else can be said of it then.
    """
    report = Report()
    if repair:
        report.mended = _repair(disk, now_wall)
    report.version = recovery.format_version(disk)
    report.clean = disk.exists(recovery.CLEAN)
    report.in_use_by = _user(disk)
    if not report.version:
        report.notes.append(f"no readable {recovery.FORMAT}")
    for name in disk.list(""):
        if original_kind(name):
            report.notes.append(f"{name}: of the original project; imported at the next start")
        elif name not in _OURS and not name.startswith("."):
            report.notes.append(f"{name}: not of this broker")
    for kind in (QUEUES, TOPICS):
        if disk.exists(kind):
            report.logs += [_look(disk, kind, directory) for directory in disk.list(kind)]
    if disk.exists(QUARANTINE):
        report.quarantined = disk.list(QUARANTINE)
    return report


def _user(disk: Disk) -> str:
    try:
        disk.lock("")
    except StoreLocked:
        return disk.holder() or "a broker"
    disk.unlock()
    return ""


def _repair(disk: Disk, now_wall: float) -> list[str]:
    """A start and a stop, with damaged segments written anew; returns what it found."""
    facts = recovery.open_store(disk, holder="trio-msg doctor --repair")
    found = []
    mended = list(facts.notes)
    for kind, directory in facts.logs:
        damage: list[Damage] = []
        one = recovery.recover_log(
            disk,
            kind,
            directory,
            unclean=not facts.clean,
            trusted=facts.trusted,
            now_wall=now_wall,
            damage=damage,
            repair=True,
        )
        mended += [f"{d.file}:{d.offset}: {d.length} bytes, seq {d.seq or '?'}" for d in damage]
        if one is not None:
            found.append(one)
            mended += one.notes
    for log in recovery.settle_moved(disk, found):
        commit_now(disk, log)
    recovery.close_store(disk)
    return mended


def _look(disk: Disk, kind: str, directory: str) -> LogReport:
    """One folder, read only."""
    report = LogReport(kind, directory)
    folder = f"{kind}/{directory}"
    names = disk.list(folder)
    if recovery.TOMBSTONE in names:
        report.notes.append("its deletion was cut off; the next start ends it")
        return report
    numbers = recovery.segment_numbers(names)
    report.notes += list(_strangers(names, numbers))
    reader = Reader(disk, folder, numbers, report.damage, report.notes)
    unfinished = reader.unfinished()
    for number in unfinished:
        report.notes.append(f"{number:020d}{SUFFIX}: a rewrite that was cut off")
    numbers = reader.numbers = [n for n in numbers if n not in unfinished]
    report.segments = len(numbers)
    reader.find_identity(name_of(directory))
    if reader.name is None:
        report.notes.append("no record tells whose it is: the next start puts it in quarantine")
        report.disk_bytes = sum([disk.size(reader.path(n)) for n in numbers])
        return report
    log = Log(kind, reader.name, reader.incarnation)
    if log.directory != folder:
        report.notes.append(f"its records say {reader.name!r}, which belongs in {log.directory}")
    replay = Replay(log, b"~", 0)
    for number in numbers:
        _read(disk, reader, number, log, replay, report)
    replay.specials()
    report.name, report.incarnation = log.name, log.incarnation
    report.live, report.live_bytes = log.live_count, log.live_bytes
    report.disk_bytes = sum([segment.size for segment in log.segments])
    report.next_seq = log.next_seq
    return report


def _read(
    disk: Disk, reader: Reader, number: int, log: Log, replay: Replay, report: LogReport
) -> None:
    path = reader.path(number)
    data = disk.read(path)
    last = number == reader.numbers[-1]
    digest = scan(path, data, log.seed, last=last)
    report.damage += digest.damage
    report.records += len(digest.seqs)
    if last:
        report.torn_tail_bytes = len(data) - digest.size
    index = indexfile.path_of(path)
    if not last and disk.exists(index):
        loaded = indexfile.load(disk.read(index), log.seed, len(data))
        if loaded is not None and not indexfile.agree(loaded, digest):
            report.notes.append(f"{index} does not say what its segment says: remove it")
    digest.size = len(data)
    replay.add(number, digest)


def _strangers(names: list[str], numbers: list[int]) -> Iterator[str]:
    segments = {f"{number:020d}" for number in numbers}
    for name in names:
        stem, dot, suffix = name.partition(".")
        if dot + suffix not in (SUFFIX, indexfile.SUFFIX) or len(stem) != 20:
            yield f"{name}: not a file of a log"
        elif stem not in segments:
            yield f"{name}: an index file without its segment"
