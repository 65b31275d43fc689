"""Where a broker's data lies: a plain directory, or a file system so small that it can be full.

The small one is a tmpfs in a mount namespace of its own, which a process of ours keeps: it is
gone with that process, whatever becomes of us. Who is not root gets the right to mount by a
user namespace. From outside it is seen below `/proc/PID/root`; a program is started inside by
putting `prefix` before its command.
"""

import contextlib
import errno
import os
import subprocess
from pathlib import Path

from msg.errors import BrokerError

DEFAULT_BYTES = 32 << 20
CHUNKS = (1 << 20, 1 << 12, 1)

# as root, and as anybody; and how to come into what the first made
WAYS: list[tuple[list[str], list[str]]] = [
    (["unshare", "--mount"], ["nsenter", "--mount"]),
    (
        ["unshare", "--user", "--map-root-user", "--mount"],
        ["nsenter", "--preserve-credentials", "--user", "--mount"],
    ),
]


class CannotHurt(BrokerError):
    """This machine does not let us do what the scenario asks for."""


class Volume:
    """A plain directory: as large as the disk below it."""

    def __init__(self, path: Path) -> None:
        self.inside = path  # as the broker names it
        self.path = path  # as we do
        self.prefix: list[str] = []

    def fill(self) -> None:
        """Leave no room."""
        raise AssertionError("nobody fills the machine's own disk")

    def make_room(self) -> None:
        """The room that `fill` took."""

    def close(self) -> None:
        """It is not used any more."""


class SmallVolume(Volume):
    """A file system of so many bytes. Raises CannotHurt."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path)
        why: list[str] = []
        for make, enter in WAYS:
            try:
                self._keeper = _keep(make, path, size)
            except (OSError, CannotHurt) as error:
                why.append(f"{' '.join(make)}: {error}")
                continue
            self.prefix = [*enter, "--target", str(self._keeper.pid), "--"]
            self.path = Path(f"/proc/{self._keeper.pid}/root{path}")
            return
        raise CannotHurt(
            "the disk cannot be filled here: a small file system needs the right to mount, as"
            f" root or in a user namespace ({'; '.join(why)})"
        )

    @property
    def _filler(self) -> Path:
        return self.path / ".filler"

    def fill(self) -> None:
        fd = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            for size in CHUNKS:
                with contextlib.suppress(_Full):
                    while True:
                        _write(fd, bytes(size))
        finally:
            os.close(fd)

    def make_room(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        self._keeper.stdout.close()
        self._keeper.kill()
        self._keeper.wait()


class _Full(Exception):
    """No room."""


def _write(fd: int, data: bytes) -> None:
    try:
        os.write(fd, data)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _Full from None
        raise


def _keep(make: list[str], path: Path, size: int) -> "subprocess.Popen[bytes]":
    """A process in a namespace where the file system is mounted; it ends with its stdin."""
    script = 'mount -t tmpfs -o "size=$1,mode=0700" tmpfs "$2" && echo mounted && exec cat'
    keeper = subprocess.Popen(
        [*make, "sh", "-c", script, "sh", str(size), str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert keeper.stdout is not None
    assert keeper.stderr is not None
    if keeper.stdout.readline() == b"mounted\n":
        keeper.stderr.close()
        return keeper
    _, said = keeper.communicate()
    raise CannotHurt(said.decode(errors="replace").strip() or f"exit code {keeper.returncode}")
