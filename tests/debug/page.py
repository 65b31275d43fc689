"""Runs what a page shows: the commands of its `console` blocks, against a real broker.

    python -m tests.debug.page docs/debugging.md     fill in anew what the commands print

A line that begins with `$ ` is a command and what follows is its output. In this order:

    $ trio-msg serve …          starts the broker (the page's flags, a free port, fresh data)
    $ … &                       runs until the page ends
    $ kill -9 …                 kills the broker and starts it again on the same data
    anything else               runs to its end; `...` as output: it does not matter
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.e2e.process import ENV, ROOT, SECONDS, Broker

BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LOOKS = ("why", "held", "tree", "queues", "topics", "dead list", "dead show", "trace", "peek")
SKIP = "..."
SETTLE_SECONDS = 2.0  # before a page is written anew, what runs may come to rest


@attrs.define
class Step:
    """A command and what the page says that it prints."""

    command: str
    output: str
    start: int  # where the output stands in the page
    end: int

    @property
    def looks(self) -> bool:
        """Whether it may be asked again: it changes nothing."""
        return self.command.startswith(tuple(f"trio-msg {name}" for name in LOOKS))


def steps_of(text: str) -> list[Step]:
    steps: list[Step] = []
    for block in BLOCK.finditer(text):
        at = block.start(1)
        for line in block.group(1).splitlines(keepends=True):
            if line.startswith("$ "):
                steps.append(Step(line[2:].strip(), "", at + len(line), at + len(line)))
            else:
                steps[-1].output += line
                steps[-1].end = at + len(line)
            at += len(line)
    return steps


class Stage:
    """A broker, and the commands that run beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._broker: Broker | None = None
        self._beside: list[subprocess.Popen[bytes]] = []
        tools = folder / "bin"
        tools.mkdir()
        script = tools / "trio-msg"
        run = "from msg.cli.main import main; main()"
        script.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{run}' \"$@\"\n")
        script.chmod(0o755)
        self._env = {**ENV, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
                     "COLUMNS": "100"}  # fmt: skip

    def run(self, command: str) -> str:
        """What it prints, both streams."""
        if command.startswith("trio-msg serve"):
            self._broker = Broker(self._folder, *shlex.split(command)[2:])
            self._env["MSG_URL"] = self._broker.url
            return ""
        assert self._broker is not None, "the page begins with trio-msg serve"
        if command.startswith("kill -9"):
            self._broker.kill()
            self._broker.start()
            return ""
        if command.endswith("&"):
            self._beside.append(subprocess.Popen(
                ["bash", "-c", command.removesuffix("&")], cwd=self._folder, env=self._env,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            ))  # fmt: skip
            return ""
        done = subprocess.run(["bash", "-c", command], cwd=self._folder, env=self._env,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=SECONDS, check=False)  # fmt: skip
        return done.stdout.decode()

    def close(self) -> None:
        for process in self._beside:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(SECONDS)
        if self._broker is not None:
            self._broker.kill()


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    found = Stage(folder)
    try:
        yield found
    finally:
        found.close()


def same(text: str) -> list[str]:
    """What must be alike: no times, addresses, numbers of connections, large counts, columns."""
    for pattern, name in (
        (r"\d{4}-\d\d-\d\dT[\d:.]+Z|\d\d:\d\d:\d\dZ?", "TIME"),
        (r"\b[\d.]+ (ms|s|min|h)\b", "SPAN"),
        (r"\b(127\.0\.0\.1|\[::1\]):\d+", "ADDRESS"),
        (r"\b[0-9a-f]{22}\b", "ID"),
        (r"\bconnection \d+|\bwhy \d+|(?<=worker-a) +\d+", "CONNECTION"),
        (r"\b[\d.]+ (bytes|KiB|MiB)", "SIZE"),
        (r"\b\d+(,\d{3})+\b|\b\d{3,}\b", "MANY"),
        (r"[ \t]+", " "),
    ):
        text = re.sub(pattern, name, text)
    return [line.strip() for line in text.splitlines()]


def fill_in(path: Path, folder: Path) -> None:
    """Run the page, and write what the commands print into it."""
    text = path.read_text(encoding="utf-8")
    found: list[tuple[Step, str]] = []
    with stage(folder) as here:
        for step in steps_of(text):
            if step.looks:
                time.sleep(SETTLE_SECONDS)
            output = here.run(step.command)
            found.append((step, step.output if step.output.strip() == SKIP else output))
    for step, output in reversed(found):
        text = text[: step.start] + output + text[step.end :]
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        fill_in(Path(sys.argv[1]), Path(scratch))
