"""A simulated disk: what the program sees, and what a power cut would leave, kept apart.

Every file has volatile bytes (the page cache) and durable bytes (the medium); every
directory has volatile and durable names. `datasync` carries a file's bytes over, `sync_dir`
a directory's names. `crash` makes the disk as it is after a power cut: of what was not
synced, each 512-byte sector is kept, lost, zeroed or filled with garbage, each size and
each name is kept or lost, all as `rng` decides.

Faults on demand, by the number of the operation or until further notice: no space, errors
of a sync (and then lies, as ext4 tells them: the pages count as clean, and the next sync
succeeds without them), short writes, flipped bits. `latency` holds seconds per kind of
operation, which add up in `owed`: the simulated World sleeps them, the disk never does.
`hook` is called before each operation; it raises PowerCut to stop the machine there.
"""

import errno
import os
from collections.abc import Callable, Iterator
from random import Random
from typing import Literal

import attrs

from msg.errors import StoreLocked
from msg.store.disk import File

SECTOR = 512
Survival = Literal["mixed", "all", "none", "zeroed", "garbage", "torn"]
SURVIVALS: tuple[Survival, ...] = ("mixed", "all", "none", "zeroed", "garbage", "torn")


class PowerCut(Exception):
    """The machine is off. No `except Exception` of the store may live on after it: every
    further operation on the disk raises it again."""


@attrs.define(slots=True, eq=False)
class _Inode:
    """One file's bytes."""

    volatile: bytearray = attrs.field(factory=bytearray)
    durable: bytearray = attrs.field(factory=bytearray)
    dirty_from: int = 0  # below it both are the same
    # sectors that a failed sync has marked clean although the medium never got them
    lied: dict[int, None] = attrs.field(factory=dict)
    # cut off by an unsynced truncation: these bytes may have reached the medium before it
    ghost: bytes = b""

    @property
    def is_dirty(self) -> bool:
        size = max(len(self.volatile), len(self.durable))
        return self.dirty_from < size or bool(self.lied or self.ghost)


@attrs.define(slots=True, eq=False)
class _Directory:
    """One directory's names."""

    volatile: "dict[str, _Inode | _Directory]" = attrs.field(factory=dict)
    durable: "dict[str, _Inode | _Directory]" = attrs.field(factory=dict)


_Node = _Inode | _Directory


class SimFile:
    """An open file of a simulated disk."""

    __slots__ = ("_disk", "_inode", "_path", "closed")

    def __init__(self, disk: "SimDisk", path: str, inode: _Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode
        self.closed = False

    def append(self, data: bytes) -> None:
        disk, inode = self._disk, self._inode
        rest = memoryview(data)
        while rest:
            disk._begin("append", self._path)
            part = rest
            if disk.short_writes and len(rest) > 1:
                part = rest[: disk.rng.randrange(1, len(rest))]
            room = disk.room_for(len(part))
            inode.volatile += part[:room]
            inode.ghost = b""
            if room < len(part):
                # as write(2): what fits is written, and the next call fails
                if not room:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
                part = part[:room]
            rest = rest[len(part) :]

    def datasync(self) -> None:
        disk, inode = self._disk, self._inode
        disk._begin("datasync", self._path)
        if disk.take_sync_error():
            disk._lie(inode)
            raise OSError(disk.sync_errno, os.strerror(disk.sync_errno), self._path)
        disk._carry_over(inode)

    def truncate(self, size: int) -> None:
        self._disk._begin("truncate", self._path)
        inode = self._inode
        if size > len(inode.volatile):
            raise OSError(errno.EINVAL, "the store never makes a file longer by truncating")
        inode.ghost = bytes(inode.volatile[size:])
        del inode.volatile[size:]
        inode.dirty_from = min(inode.dirty_from, size)
        for sector in [s for s in inode.lied if s * SECTOR >= size]:
            del inode.lied[sector]

    def size(self) -> int:
        return len(self._inode.volatile)

    def close(self) -> None:
        assert not self.closed, "a descriptor is closed once"
        self.closed = True
        self._disk.open_files -= 1


class SimDisk:
    """See the module. `capacity` bounds the bytes of all files; None: there is always room."""

    def __init__(self, rng: Random, *, capacity: int | None = None) -> None:
        self.rng = rng
        self.capacity = capacity
        self.root = _Directory()
        self.operations = 0
        self.hook: Callable[[int, str, str], None] | None = None
        self.off = False
        self.open_files = 0
        self.latency: dict[str, float] = {}
        self.owed = 0.0
        self.short_writes = False
        self.sync_errors = 0  # so many of the next syncs fail
        self.sync_errno = errno.EIO
        self.lying = True  # after a failed sync, the next one succeeds without the bytes
        self.full_until: int | None = None  # only `room_left` bytes before this operation
        self.room_left = 0
        self._holder = ""
        self._locked = False

    # -- faults -------------------------------------------------------------------------

    def fill(self, operations: int = 1 << 62, *, room: int = 0) -> None:
        """Only so many bytes more find room, for so many operations."""
        self.room_left = room
        self.full_until = self.operations + operations

    def make_room(self) -> None:
        self.full_until = None

    def fail_syncs(self, count: int = 1, error: int = errno.EIO) -> None:
        """The next `count` syncs fail; what a datasync should have carried over is lost when
        the power goes, though the page cache shows it and later syncs succeed (`lying`)."""
        self.sync_errors = count
        self.sync_errno = error

    def flip_bit(self, path: str, bit: int) -> None:
        """Rot: one bit of a file differs, on the medium and in the cache."""
        inode = self._file(path)
        for data in (inode.volatile, inode.durable):
            if bit >> 3 < len(data):
                data[bit >> 3] ^= 1 << (bit & 7)

    def overwrite(self, path: str, offset: int, data: bytes) -> None:
        """A write that nobody asked for: a torn or misdirected sector."""
        inode = self._file(path)
        for kept in (inode.volatile, inode.durable):
            end = min(len(kept), offset + len(data))
            kept[offset:end] = data[: end - offset]

    def put(self, path: str, data: bytes) -> None:
        """A file that was always there, durable (a test's own doing, no operation)."""
        directory, name = self._parent(path)
        inode = _Inode(bytearray(data), bytearray(data), len(data))
        directory.volatile[name] = directory.durable[name] = inode

    def take_latency(self) -> float:
        """Seconds that the operations since the last call should have taken."""
        owed, self.owed = self.owed, 0.0
        return owed

    def take_sync_error(self) -> bool:
        if self.sync_errors:
            self.sync_errors -= 1
            return True
        return False

    def room_for(self, size: int) -> int:
        if self.full_until is not None and self.operations < self.full_until:
            taken = min(size, self.room_left)
            self.room_left -= taken
            return taken
        return min(size, self.free_bytes())

    def crash(self, rng: Random, survival: Survival = "mixed") -> "SimDisk":
        """The disk after a power cut now, as a new one; this one is not touched.

        `survival` says what becomes of what was not synced: "mixed" decides anew for each
        sector, size and name; the others treat all alike ("torn" keeps a first part of each
        file's unsynced bytes, and of the names each or not).
        """
        after = SimDisk(rng, capacity=self.capacity)
        after.root = _survive_directory(self.root, rng, survival, {})
        return after

    # -- the Disk protocol ----------------------------------------------------------------

    def create(self, path: str) -> File:
        self._begin("create", path)
        directory, name = self._parent(path)
        if name in directory.volatile:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        if not self.room_for(1):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        inode = directory.volatile[name] = _Inode()
        self.open_files += 1
        return SimFile(self, path, inode)

    def open(self, path: str) -> File:
        self._begin("open", path)
        self.open_files += 1
        return SimFile(self, path, self._file(path))

    def read(self, path: str, offset: int = 0, size: int = -1) -> bytes:
        self._begin("read", path)
        data = self._file(path).volatile
        return bytes(data[offset:] if size < 0 else data[offset : offset + size])

    def size(self, path: str) -> int:
        return len(self._file(path).volatile)

    def exists(self, path: str) -> bool:
        try:
            directory, name = self._parent(path)
        except FileNotFoundError:
            return False
        return name in directory.volatile

    def list(self, path: str) -> list[str]:
        return sorted(self._directory(path).volatile)

    def mkdir(self, path: str) -> None:
        directory, name = self._parent(path)
        if name in directory.volatile:
            self._directory(path)
            return
        self._begin("mkdir", path)
        directory.volatile[name] = _Directory()

    def unlink(self, path: str) -> None:
        self._begin("unlink", path)
        directory, name = self._parent(path)
        self._file(path)
        del directory.volatile[name]

    def rmdir(self, path: str) -> None:
        self._begin("rmdir", path)
        directory, name = self._parent(path)
        if self._directory(path).volatile:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        del directory.volatile[name]

    def sync_dir(self, path: str) -> None:
        self._begin("sync_dir", path)
        directory = self._directory(path)
        if self.take_sync_error():
            raise OSError(self.sync_errno, os.strerror(self.sync_errno), path)
        directory.durable = dict(directory.volatile)

    def free_bytes(self) -> int:
        if self.full_until is not None and self.operations < self.full_until:
            return self.room_left
        return self.total_bytes() - sum(len(i.volatile) for i in _inodes(self.root))

    def total_bytes(self) -> int:
        return 1 << 50 if self.capacity is None else self.capacity

    def lock(self, holder: str) -> None:
        if self._locked:
            raise StoreLocked(f"the data directory is in use by another broker ({self._holder})")
        self._locked, self._holder = True, holder

    def holder(self) -> str:
        return self._holder

    def unlock(self) -> None:
        self._locked = False

    # -- inside -------------------------------------------------------------------------

    def _begin(self, kind: str, path: str) -> None:
        if self.off:
            raise PowerCut
        self.owed += self.latency.get(kind, 0.0)
        if self.hook is not None:
            try:
                self.hook(self.operations, kind, path)
            except PowerCut:
                self.off = True
                raise
        self.operations += 1

    def _carry_over(self, inode: _Inode) -> None:
        start = inode.dirty_from
        kept = {
            sector: bytes(inode.durable[sector * SECTOR : (sector + 1) * SECTOR])
            for sector in inode.lied
        }
        inode.durable[start:] = inode.volatile[start:]
        for sector, data in kept.items():
            at = sector * SECTOR
            size = min(SECTOR, max(0, len(inode.durable) - at))
            inode.durable[at : at + size] = data[:size].ljust(size, b"\0")
        inode.dirty_from = len(inode.volatile)
        inode.ghost = b""

    def _lie(self, inode: _Inode) -> None:
        """A sync failed: the kernel drops the pages' dirty marks and keeps their bytes."""
        if self.lying:
            first = inode.dirty_from // SECTOR
            end = -(-len(inode.volatile) // SECTOR)
            inode.lied.update(dict.fromkeys(range(first, end)))

    def _parent(self, path: str) -> tuple[_Directory, str]:
        above, _, name = path.rpartition("/")
        if not name or name in (".", ".."):
            raise ValueError(f"{path!r} is no name inside the data directory")
        return self._directory(above), name

    def _directory(self, path: str) -> _Directory:
        node: _Node | None = self.root
        for part in path.split("/") if path else ():
            if not isinstance(node, _Directory):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            node = node.volatile.get(part)
            if node is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if not isinstance(node, _Directory):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return node

    def _file(self, path: str) -> _Inode:
        directory, name = self._parent(path)
        node = directory.volatile.get(name)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if not isinstance(node, _Inode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return node


def _inodes(directory: _Directory) -> Iterator[_Inode]:
    for node in directory.volatile.values():
        if isinstance(node, _Directory):
            yield from _inodes(node)
        else:
            yield node


def _survive_directory(
    directory: _Directory, rng: Random, survival: Survival, seen: dict[int, _Inode]
) -> _Directory:
    """Names that were synced are there; each change since then is, or is not."""
    after = _Directory()
    for name in sorted(directory.durable.keys() | directory.volatile.keys()):
        durable, volatile = directory.durable.get(name), directory.volatile.get(name)
        node = durable
        if durable is not volatile:
            keeps = survival == "all" or (survival != "none" and rng.random() < 0.5)
            node = volatile if keeps else durable
        if isinstance(node, _Directory):
            kept: _Node = _survive_directory(node, rng, survival, seen)
        elif node is not None:
            kept = _survive_file(node, rng, survival)
        else:
            continue
        after.volatile[name] = after.durable[name] = kept
    return after


def _survive_file(inode: _Inode, rng: Random, survival: Survival) -> _Inode:
    """Bytes that were synced are there; each sector written since then is as it may be."""
    if not inode.is_dirty or survival == "none":
        data = bytearray(inode.durable)
    elif survival == "all" and not inode.lied:
        data = bytearray(inode.volatile)
    else:
        data = _torn(inode, rng, survival)
    return _Inode(data, bytearray(data), len(data))


def _torn(inode: _Inode, rng: Random, survival: Survival) -> bytearray:
    old, new = inode.durable, inode.volatile
    size = len(new)
    if inode.ghost and survival in ("mixed", "torn") and rng.random() < 0.5:
        new = new + inode.ghost
        size = len(new)
    elif survival in ("mixed", "torn") and rng.random() < 0.5:
        low, high = sorted((len(old), len(new)))
        size = rng.choice((len(old), len(new), rng.randint(low, high)))
    data = bytearray(new[:size])
    data += old[len(data) : size]  # a truncation that did not happen
    first = inode.dirty_from // SECTOR
    for sector in (*inode.lied, *range(first, -(-size // SECTOR))):
        start, end = sector * SECTOR, min(size, (sector + 1) * SECTOR)
        # within the first dirty sector the durable bytes were rewritten with themselves
        start = max(start, min(inode.dirty_from, len(old))) if sector == first else start
        if start >= end:
            continue
        fate: str = survival
        if sector in inode.lied:
            fate = "old"
        elif survival == "mixed":
            fate = rng.choice(("kept", "kept", "old", "zeroed", "garbage"))
        if fate == "old":
            data[start:end] = old[start:end].ljust(end - start, b"\0")
        elif fate == "zeroed":
            data[start:end] = bytes(end - start)
        elif fate == "garbage":
            data[start:end] = rng.randbytes(end - start)
    return data
