"""The disk: the few calls that the store makes, behind one seam.

Paths are relative strings with "/" ("queues/jobs/00000000000000000001.jsonl"; "" is the
data directory itself). A simulated disk lies in `simdisk.py`; one suite of contract tests
runs on both. Errors are `OSError`, as the operating system raises them: what one means is
for the caller to say (`commit.py`).
"""

import contextlib
import errno
import os
import stat
import sys
import threading
from collections.abc import Iterator
from typing import Protocol

from msg.errors import StoreLocked, StoreUnreadable

if sys.platform != "win32":
    import fcntl

LOCK = "LOCK"
IDLE_FILES_MAX = 128  # that stay open between commits


class File(Protocol):
    """One file, open for appending."""

    def append(self, data: bytes) -> None:
        """Write all of `data` at the end, over short writes; on an error some may be there."""

    def datasync(self) -> None:
        """Return when all bytes and the size are on the medium; an error is final."""

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes; not durable before a `datasync`."""

    def size(self) -> int:
        """The size now, durable or not."""

    def close(self) -> None:
        """Let go of the file; nothing is synced by it."""


class Disk(Protocol):
    """All that the store may do to a disk."""

    def create(self, path: str) -> File:
        """A new file, 0600; FileExistsError when the name is taken."""

    def open(self, path: str) -> File:
        """An existing file, for appending."""

    def read(self, path: str, offset: int = 0, size: int = -1) -> bytes:
        """At most `size` bytes from `offset` (-1: to the end); fewer at the end."""

    def size(self, path: str) -> int:
        """The file's size in bytes."""

    def exists(self, path: str) -> bool:
        """Whether a file or directory of that name is there."""

    def list(self, path: str) -> list[str]:
        """The names in a directory, sorted."""

    def mkdir(self, path: str) -> None:
        """Make a directory, 0700; nothing happens when it is there."""

    def unlink(self, path: str) -> None:
        """Remove a file's name; durable after `sync_dir` of its directory."""

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""

    def sync_dir(self, path: str) -> None:
        """Return when the names in the directory are on the medium."""

    def free_bytes(self) -> int:
        """Bytes that may still be written by us."""

    def total_bytes(self) -> int:
        """The size of the whole medium."""

    def lock(self, holder: str) -> None:
        """Take the data directory for this process; StoreLocked names who has it."""

    def holder(self) -> str:
        """Who holds (or held last) the lock, as it said itself; for messages only."""

    def unlock(self) -> None:
        """Give the data directory back."""


_DIR_FLAGS = 0
_FILE_FLAGS = 0
if sys.platform != "win32":
    _DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    _FILE_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC


def _sync(fd: int) -> None:
    """fdatasync, or on macOS F_FULLFSYNC, whose fsync stops at the drive's cache."""
    if sys.platform == "darwin":
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        except OSError as error:
            # some file systems don't know it; their fsync is then the best there is
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
            os.fsync(fd)
    else:
        os.fdatasync(fd)


class RealFile:
    """A file of the operating system. Its size is asked for once: nobody else writes to it."""

    __slots__ = ("_disk", "_fd", "_path", "_size", "nameless")

    def __init__(self, disk: "RealDisk", path: str, fd: int) -> None:
        self._disk = disk
        self._path = path
        self._fd = fd
        self._size = -1  # not known
        self.nameless = False  # unlinked while it was open: not to be found by its path again

    def append(self, data: bytes) -> None:
        size, self._size = self._size, -1
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        if size >= 0:
            self._size = size + len(data)

    def datasync(self) -> None:
        _sync(self._fd)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        self._size = size

    def size(self) -> int:
        if self._size < 0:
            self._size = os.fstat(self._fd).st_size
        return self._size

    def close(self) -> None:
        self._disk.give_back(self._path, self)

    def end(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


class RealDisk:
    """The data directory on the operating system's disk.

    Every path is walked from a descriptor of the root, one directory at a time and never
    through a symbolic link, so that nobody can lead the broker to another file. The root
    must belong to this user and be writable by nobody else.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        if sys.platform == "win32":
            raise StoreUnreadable(
                "the embedded store needs file locks and directory descriptors, which Windows"
                " lacks: run the broker under WSL"
            )
        self.root = os.path.abspath(root)
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        try:
            self._root_fd = os.open(self.root, _DIR_FLAGS)
        except OSError as error:
            raise StoreUnreadable(
                f"{self.root} cannot be opened as a directory ({error.strerror}); a symbolic"
                " link is not followed: name the directory itself"
            ) from error
        self._lock_fd = -1
        self._idle: dict[str, RealFile] = {}  # closed by the store, the longest idle first
        self._in_use: dict[str, RealFile] = {}
        self._guard = threading.Lock()  # of both: rounds run in several threads
        about = os.fstat(self._root_fd)
        problem = ""
        if about.st_uid != os.geteuid():
            problem = f"belongs to user {about.st_uid}, not to the broker's {os.geteuid()}"
        elif about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            problem = f"is writable by others (mode {stat.S_IMODE(about.st_mode):04o}): chmod 700"
        if problem:
            os.close(self._root_fd)
            raise StoreUnreadable(f"{self.root} {problem}")

    def close(self) -> None:
        """Let go of the root; the disk is not used after it."""
        self.unlock()
        while self._idle:
            self._idle.popitem()[1].end()
        os.close(self._root_fd)

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The descriptor of the directory that holds `path`, and the last part of its name."""
        *directories, name = path.split("/")
        fd = self._root_fd
        try:
            for part in directories:
                below = os.open(_checked(part), _DIR_FLAGS, dir_fd=fd)
                if fd != self._root_fd:
                    os.close(fd)
                fd = below
            yield fd, _checked(name)
        finally:
            if fd != self._root_fd:
                os.close(fd)

    @contextlib.contextmanager
    def _directory(self, path: str) -> Iterator[int]:
        if not path:
            yield self._root_fd
            return
        with self._parent(path) as (parent, name):
            fd = os.open(name, _DIR_FLAGS, dir_fd=parent)
        try:
            yield fd
        finally:
            os.close(fd)

    def _open(self, path: str, flags: int) -> int:
        with self._parent(path) as (parent, name):
            return os.open(name, flags | _FILE_FLAGS, 0o600, dir_fd=parent)

    def create(self, path: str) -> File:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        return self._use(path, RealFile(self, path, self._open(path, flags)))

    def open(self, path: str) -> File:
        with self._guard:
            file = self._idle.pop(path, None)
        if file is None:
            file = RealFile(self, path, self._open(path, os.O_WRONLY | os.O_APPEND))
        return self._use(path, file)

    def _use(self, path: str, file: RealFile) -> RealFile:
        with self._guard:
            self._in_use[path] = file
        return file

    def give_back(self, path: str, file: RealFile) -> None:
        """The store is done with a file. A few stay open: each walk to one is a dozen system
        calls, and after each the disk's thread must win the interpreter back."""
        last: RealFile | None = file
        with self._guard:
            if self._in_use.get(path) is file:
                del self._in_use[path]
            if not file.nameless:
                last = self._idle.pop(path, None)
                self._idle[path] = file
                if last is None and len(self._idle) > IDLE_FILES_MAX:
                    last = self._idle.pop(next(iter(self._idle)))
        if last is not None:
            last.end()

    def read(self, path: str, offset: int = 0, size: int = -1) -> bytes:
        fd = self._open(path, os.O_RDONLY)
        try:
            left = size if size >= 0 else max(0, os.fstat(fd).st_size - offset)
            parts = []
            while left:
                part = os.pread(fd, left, offset)
                if not part:
                    break
                parts.append(part)
                offset += len(part)
                left -= len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            os.close(fd)

    def size(self, path: str) -> int:
        with self._parent(path) as (parent, name):
            return os.stat(name, dir_fd=parent, follow_symlinks=False).st_size

    def exists(self, path: str) -> bool:
        try:
            with self._parent(path) as (parent, name):
                os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def list(self, path: str) -> list[str]:
        with self._directory(path) as fd:
            return sorted(os.listdir(fd))

    def mkdir(self, path: str) -> None:
        with self._parent(path) as (parent, name):
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                # a link or a file in its place must not pass for the directory
                os.close(os.open(name, _DIR_FLAGS, dir_fd=parent))

    def unlink(self, path: str) -> None:
        with self._guard:
            idle = self._idle.pop(path, None)
            if path in self._in_use:
                self._in_use[path].nameless = True
        if idle is not None:
            idle.end()
        with self._parent(path) as (parent, name):
            os.unlink(name, dir_fd=parent)

    def rmdir(self, path: str) -> None:
        with self._parent(path) as (parent, name):
            os.rmdir(name, dir_fd=parent)

    def sync_dir(self, path: str) -> None:
        with self._directory(path) as fd:
            os.fsync(fd)

    def free_bytes(self) -> int:
        about = os.fstatvfs(self._root_fd)
        return about.f_bavail * about.f_frsize

    def total_bytes(self) -> int:
        about = os.fstatvfs(self._root_fd)
        return about.f_blocks * about.f_frsize

    def lock(self, holder: str) -> None:
        fd = self._open(LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise StoreLocked(
                f"{self.root} is in use by another broker ({self.holder() or 'unknown'})"
            ) from error
        except OSError:
            os.close(fd)
            raise
        try:
            if holder:  # who only looks leaves the last one's name
                os.ftruncate(fd, 0)
                os.pwrite(fd, holder.encode(), 0)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                os.close(fd)
                raise
            # a full disk must not keep the broker from starting: the text is only a courtesy
        self._lock_fd = fd

    def holder(self) -> str:
        try:
            return self.read(LOCK).decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return ""

    def unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def _checked(part: str) -> str:
    """One component of a path, which must not be able to lead anywhere else."""
    if part in ("", ".", "..") or "/" in part or "\0" in part:
        raise ValueError(f"{part!r} is no name inside the data directory")
    return part
