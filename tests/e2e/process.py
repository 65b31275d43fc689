"""`trio-msg serve` as a process of its own, on a free port, for tests that kill it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from msg.plain_client import PlainClient

ROOT = Path(__file__).parent.parent.parent
SECONDS = 30.0  # a hang is to be an error and not a hang
ENV = {k: v for k, v in os.environ.items() if not k.upper().startswith("MSG_")}


class Broker:
    """A running broker; `start` it again on the same data after a `kill`."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.folder = folder
        self.args = args
        self.port = 0
        self.start()

    def start(self) -> None:
        """The port is the same after a restart, so that clients find it again."""
        self.log = open(self.folder / "log", "ab")  # noqa: SIM115
        command = [sys.executable, "-m", "msg", "--host", "127.0.0.1", "--port", str(self.port),
                   "--http", "off", "--data-dir", str(self.folder / "data"), *self.args]  # fmt: skip
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=ENV, stdout=subprocess.PIPE, stderr=self.log
        )
        assert self.process.stdout is not None
        ready = self.process.stdout.readline().decode()
        if "listening on" not in ready:
            self._ended()
            raise AssertionError((self.folder / "log").read_text())
        self.port = int(ready.partition(",")[0].rpartition(":")[2])
        self.url = f"msg://127.0.0.1:{self.port}"

    def connect(self) -> PlainClient:
        return PlainClient.connect(self.url)

    def kill(self) -> None:
        self.process.kill()
        self._ended()

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self._ended()

    def _ended(self) -> int:
        code = self.process.wait(SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
