"""A broker of the benchmark's own: a process on a free port, its data in a temporary folder."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

START_S = 30.0


class LocalBroker:
    """A context manager. `options` are further ones of `trio-msg serve`."""

    def __init__(self, *options: str) -> None:
        self.options = options

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="trio-msg-bench-"))
        env = {k: v for k, v in os.environ.items() if not k.upper().startswith("MSG_")}
        self._log = open(self.folder / "log", "wb")  # closed with the broker
        self.process = subprocess.Popen(
            [sys.executable, "-m", "msg", "--host", "127.0.0.1", "--port", "0", "--http", "off",
             "--data-dir", str(self.folder / "data"), *self.options],
            env=env, stdout=subprocess.PIPE, stderr=self._log,
        )  # fmt: skip
        try:
            self.port = self._port_when_ready()
        except BaseException:  # also Ctrl-C: the broker would run on, and its folder stay
            self.__exit__()
            raise
        return self

    def _port_when_ready(self) -> int:
        assert self.process.stdout is not None
        ready = self.process.stdout.readline().decode()
        if "listening on" not in ready:
            said = (self.folder / "log").read_text()
            raise OSError(f"the broker did not start: {said.strip()}")
        return int(ready.partition(",")[0].rpartition(":")[2])

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(START_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        return self.process.pid


def cpu_seconds(pid: int) -> float | None:
    """User and system time of a process; None where the system has no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int | None:
    """Resident memory that is the process's own."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return None
