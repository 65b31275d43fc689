"""Commits and reads, carried out on the disk. Synchronous: this runs in a disk thread.

What may be said afterwards:

- `execute` returned, `commit.error` is None: it is on the medium (or, where the commit asks
  for no sync, written).
- `commit.error` is DiskFull: nothing of that commit is there, and that is durable too.
- StoreFailed was raised: nothing is known of any commit of the call. Nobody is answered and
  the broker stops; a failed sync is never tried again, for the kernel may have thrown the
  bytes away and would report success.
"""

import contextlib
import errno
from collections.abc import Iterator, Sequence

from msg.errors import DiskFull, StoreFailed
from msg.store import indexfile, records
from msg.store.disk import Disk, File
from msg.store.layout import Commit
from msg.store.log import Log
from msg.store.quarantine import quarantine
from msg.store.readahead import ReadPlan
from msg.store.scan import Digest

BALLAST = "BALLAST"
TRUSTED = "TRUSTED"  # no sync has failed since the last start: the page cache tells the truth
BALLAST_BYTES = 1 << 20
FLOOR_BYTES = 256 << 20
FLOOR_PERCENT = 5.0  # of the disk

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def floor_of(disk: Disk, most: int = FLOOR_BYTES, percent: float = FLOOR_PERCENT) -> int:
    """Free bytes below which no publish is taken: so many, or a share, whichever is less."""
    return min(most, int(disk.total_bytes() * percent / 100))


def execute(disk: Disk, commits: Sequence[Commit], floor: int | None = None) -> None:
    """Write all, then sync all, then delete what is not needed any more."""
    if floor is None:
        floor = floor_of(disk)
    files: list[tuple[Commit, File]] = []
    with disk_must_work(disk):
        try:
            free = disk.free_bytes()
            for commit in commits:
                for bad in commit.bad:
                    quarantine(disk, bad)
                commit.error = None
                if commit.publishes and free - commit.size < floor:
                    commit.error = DiskFull(
                        f"{free} bytes are free on the disk and {floor} are kept free:"
                        " make room, then publish again"
                    )
                elif (file := _write(disk, commit)) is not None:
                    files.append((commit, file))
                    free -= commit.size
            for commit, file in files:
                if commit.sync:
                    file.datasync()
            # each directory once; a new one before the parent that names it
            new = {c.directory: None for c, _ in files if c.new_segment}
            new |= {c.directory.rpartition("/")[0]: None for c, _ in files if c.new_directory}
            for directory in new:
                disk.sync_dir(directory)
            for commit in commits:
                _unlink_all(disk, commit)
                if commit.sealed is not None and commit.error is None:
                    write_index(disk, commit.before, commit.sealed, commit.log.seed)
            if new:  # now and then is enough
                restore_ballast(disk, floor)
        finally:
            for _, file in files:
                file.close()


@contextlib.contextmanager
def disk_must_work(disk: Disk) -> Iterator[None]:
    """An error of the disk that is no want of room, or comes from a sync, ends the store.

    The next start is then told not to believe what the page cache shows: TRUSTED goes. Its
    absence says that, and not the presence of a file, for a full disk can't stop a removal.
    """
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            disk.unlink(TRUSTED)
        raise StoreFailed(
            f"the disk failed ({error}); what is not yet answered is unknown"
        ) from error


def commit_now(disk: Disk, log: Log) -> None:
    """Write and sync what a log has gathered, before anything is served. Raises DiskFull."""
    commit = log.begin(sync=True)
    if commit is None:
        return
    execute(disk, [commit])
    log.finish(commit)
    if commit.error is not None:
        raise commit.error


def read(disk: Disk, plan: ReadPlan) -> list[bytes]:
    """The bytes of each extent; fewer, or none, where a file is shorter or gone."""
    blobs = []
    for extent in plan.extents:
        try:
            blobs.append(disk.read(extent.path, extent.offset, extent.length))
        except FileNotFoundError:
            blobs.append(b"")
    return blobs


def _write(disk: Disk, commit: Commit) -> File | None:
    """Append a commit to its segment; None when there was no room, and all is undone.

    For a commit without publishes the ballast is thrown: acks make room, as a rule.
    """
    if commit.seal:
        before = disk.open(commit.before)
        try:
            before.datasync()
        finally:
            before.close()
    if not (commit.size or commit.sync):
        return None
    data = commit.data
    if commit.copies:
        data = b"".join([data, *_copies(disk, commit), commit.copied])
    file = _append(disk, commit, data)
    if commit.error is not None and not commit.publishes and throw_ballast(disk):
        commit.error = None
        file = _append(disk, commit, data)
    return file


def _append(disk: Disk, commit: Commit, data: bytes) -> File | None:
    file: File | None = None
    try:
        if commit.new_directory:
            disk.mkdir(commit.directory)
        file = disk.create(commit.path) if commit.new_segment else disk.open(commit.path)
        if file.size() != commit.offset:
            raise StoreFailed(
                f"{commit.path} has {file.size()} bytes where the log knows of"
                f" {commit.offset}: something else writes to it"
            )
        if data:
            file.append(data)
    except (OSError, StoreFailed) as error:
        try:
            if not isinstance(error, OSError) or not no_room(error):
                raise
            _undo(disk, commit, file)
        finally:
            if file is not None:
                file.close()
        commit.error = DiskFull(f"no room for {commit.size} bytes in {commit.path}")
        return None
    return file


def _undo(disk: Disk, commit: Commit, file: File | None) -> None:
    """Take back what was written, durably: an error that is answered must stay true."""
    if file is not None:
        file.truncate(commit.offset)
        file.datasync()
    if commit.new_segment and disk.exists(commit.path):
        disk.unlink(commit.path)
        disk.sync_dir(commit.directory)


def _copies(disk: Disk, commit: Commit) -> list[bytes]:
    """The lines to be copied ahead, each checked: damage is not carried on as a message."""
    out = []
    for copy in commit.copies:
        raw = disk.read(copy.path, copy.source, copy.length)
        line = raw[:-1]
        if not (
            len(raw) == copy.length
            and records.line_is_sound(commit.log.seed, line)
            and records.is_pub_of(line, copy.seq)
        ):
            commit.damaged.append(copy)
            line = records.filler(commit.log.seed, copy.seq, copy.length)[:-1]
        else:
            commit.noted.note_options(records.message_of(line))
        out.append(b"%b\n" % line)
    return out


def _unlink_all(disk: Disk, commit: Commit) -> None:
    """Oldest first, each durable before the next: a segment that came back from a power cut
    without the one behind it would bring back what that one settled."""
    for path in commit.unlinks:
        index = indexfile.path_of(path)
        for name in (index, path):
            # it may be gone already, by an actor that crashed before `finish`
            with contextlib.suppress(FileNotFoundError):
                disk.unlink(name)
        disk.sync_dir(commit.directory)


def write_index(disk: Disk, segment: str, digest: Digest, seed: int) -> None:
    """Write the index file of a sealed segment. It may fail for want of room, or be torn by
    a power cut: then the segment itself is read at the next start."""
    path = indexfile.path_of(segment)
    data = indexfile.dump(digest, seed)
    if len(data) > digest.size:  # acks in no order at all: the segment itself is shorter
        return
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(path)
    file: File | None = None
    try:
        file = disk.create(path)
        file.append(data)
    except OSError as error:
        if not no_room(error):
            raise
        if file is not None:
            disk.unlink(path)
    finally:
        if file is not None:
            file.close()


def no_room(error: OSError) -> bool:
    """Whether a write failed because the disk, the quota or the largest file is full."""
    return error.errno in _NO_ROOM


def throw_ballast(disk: Disk) -> bool:
    """Give up the kept megabyte; False when that was done before."""
    try:
        disk.unlink(BALLAST)
    except FileNotFoundError:  # also when another thread's round was quicker
        return False
    disk.sync_dir("")
    return True


def restore_ballast(disk: Disk, floor: int) -> None:
    """Keep 1 MiB that can be given up for acks when the disk is full."""
    if disk.exists(BALLAST) or disk.free_bytes() < floor + 2 * BALLAST_BYTES:
        return
    try:
        file = disk.create(BALLAST)
    except FileExistsError:  # another thread's round was quicker
        return
    try:
        # not a sparse file: its blocks are what it is for
        file.append(b"\n" * BALLAST_BYTES)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):  # another thread's round has thrown it
            disk.unlink(BALLAST)
        if not no_room(error):
            raise
    finally:
        file.close()
