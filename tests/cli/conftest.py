"""The command line, in this process or in one of its own, and a broker for it to talk to."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import pytest

from msg.cli.main import main
from tests.cli.fake import FakeBroker

ROOT = Path(__file__).parent.parent.parent


@attrs.frozen
class Result:
    code: int
    out: str
    err: str


class Cli:
    """Runs `trio-msg` against one broker."""

    def __init__(self, url: str) -> None:
        self.env = {k: v for k, v in os.environ.items() if not k.upper().startswith("MSG_")}
        self.env["MSG_URL"] = url
        self._running: list[subprocess.Popen[str]] = []

    def __call__(self, *args: str, stdin: str | bytes = b"", **env: str) -> Result:
        """In this process: a process each would be most of these tests' time."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in "12")
        with contextlib.ExitStack() as undo:
            given = undo.enter_context(tempfile.TemporaryFile("w+"))
            given.buffer.write(stdin.encode() if isinstance(stdin, str) else stdin)
            given.seek(0)
            undo.enter_context(mock.patch.dict(os.environ, {**self.env, **env}, clear=True))
            for name, stream in (("stdin", given), ("stdout", out), ("stderr", err)):
                undo.enter_context(mock.patch.object(sys, name, stream))
            try:
                main(args)
            except SystemExit as left:
                code = left.code
        assert isinstance(code, int)
        return Result(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))

    def run(self, *args: str) -> Result:
        """In a process of its own, whose children write to where it does."""
        done = subprocess.run(self._command(args), capture_output=True, timeout=30, cwd=ROOT,
                              env=self.env, check=False, text=True)  # fmt: skip
        return Result(done.returncode, done.stdout, done.stderr)

    def start(self, *args: str, **popen: Any) -> "subprocess.Popen[str]":
        """Runs until the test has ended."""
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE,
                   "stderr": subprocess.PIPE, "text": True, **popen}  # fmt: skip
        process = subprocess.Popen(self._command(args), cwd=ROOT, env=self.env, **options)
        self._running.append(process)
        return process

    def close(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.kill()
            process.wait(20)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def _command(self, args: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-c", "from msg.cli.main import main; main()", *args]


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    fake = FakeBroker()
    yield fake
    fake.close()


@pytest.fixture
def cli(broker: FakeBroker) -> Iterator[Cli]:
    runner = Cli(broker.url)
    yield runner
    runner.close()
