"""What the documents show is tried: programs run, commands give what stands below them.

python    a program, run against a broker; the `text` block after it is what it prints. Or a test
          file (it defines `test_…`), run by pytest.
console   `$ command`, and what it prints; one with a comment behind it is not run. One broker
          for each document. `…` is whatever is there, made ids are any ids. A command that ends
          with & runs on; what it prints comes after what the next command prints. The settings
          that the document shows are that broker's.
toml      settings, or a scenario: read by the program that is to read it.
sh        not run, but each `trio-msg` in it is a command with these options.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Self

import attrs
import pytest

from msg.plain_client import PlainClient
from tests.docs.transcripts import ID, STAMP, differs
from tests.e2e.process import ENV, ROOT, SECONDS

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.M | re.S)
HERE = re.compile(r"localhost:8888")


@attrs.frozen
class Snippet:
    """One fenced block. `after` is the text of the `text` block that follows at once."""

    path: Path
    line: int
    language: str
    text: str
    after: str = ""

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}"


def snippets(path: Path, *languages: str) -> list[Snippet]:
    return [snippet for snippet in _all(path) if snippet.language in languages]


def _all(path: Path) -> Iterator[Snippet]:
    text = path.read_text(encoding="utf-8")
    matches = list(FENCE.finditer(text))
    for match, following in zip_longest(matches, matches[1:]):
        after = ""
        if following is not None and following.group(2) == "text":
            between = text[match.end() : following.start()]
            after = following.group(3) if not between.strip() else ""
        indent = match.group(1)
        body = re.sub(rf"^{indent}", "", match.group(3), flags=re.M)
        line = text.count("\n", 0, match.start()) + 1
        yield Snippet(path, line, match.group(2), body, after)


def need(*programs: str) -> None:
    """Skip where these are not there; where CI runs, they have to be."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"needs {', '.join(missing)}")
    assert not missing, f".ci/run has to install {missing}"


class Shell:
    """Runs what a document shows, in a directory of its own, against one broker."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.folder = folder / "work"
        self.folder.mkdir()
        (self.folder / "scenarios").symlink_to(ROOT / "scenarios")
        programs = folder / "bin"
        programs.mkdir()
        program = programs / "trio-msg"
        program.write_text(
            f'#!/bin/sh\nexec {sys.executable} -c "from msg.cli.main import main; main()" "$@"\n'
        )
        program.chmod(0o755)
        (programs / "python").symlink_to(sys.executable)
        self.env = {**ENV, "MSG_URL": url, "PATH": f"{programs}:{os.environ['PATH']}",
                    "PYTHONPATH": str(ROOT), "COLUMNS": "100", "LC_ALL": "C.UTF-8"}  # fmt: skip
        self._behind: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._behind:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=SECONDS)

    def program(self, text: str, *, test: bool = False) -> str:
        """Run a Python program or test file; what it prints."""
        path = self.folder / ("test_it.py" if test else "program.py")
        path.write_text(HERE.sub(self.url.removeprefix("msg://"), self._ported(text)))
        command = [sys.executable, "-W", "error", str(path)]
        if test:
            # as in a project of its own: nothing of ours but the plugin
            (self.folder / "pytest.ini").write_text(
                "[pytest]\nasyncio_mode = auto\n" if "asyncio_mode" in text else
                "[pytest]\ntrio_mode = true\n"
            )  # fmt: skip
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True,
                              text=True, timeout=SECONDS, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _ported(self, text: str) -> str:
        port = self.url.rpartition(":")[2]
        return text.replace('"localhost", 8888', f'"127.0.0.1", {port}')

    def console(self, text: str) -> str:
        """Run the commands of a console block; the block as it comes."""
        out = ""
        for line in text.splitlines():
            if not line.startswith("$ "):
                continue
            out += f"{line}\n"
            command = line[2:]
            if "   # " in command:  # told, and not run: it would take too long
                continue
            if command.endswith("&"):
                self._start(command.removesuffix("&"))
            else:
                out += self._run(command)
        assert not self._behind, "a command in the background was not followed by another"
        return out

    def _run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS,
            check=False,
        )  # fmt: skip
        out = done.stdout
        while self._behind:
            out += self._behind[0].communicate(timeout=SECONDS)[0]
            self._behind.pop(0)
        return out

    def _start(self, command: str) -> None:
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._behind.append(process)
        with PlainClient.connect(self.url) as client:  # until it listens
            while not any(a.get("subscriptions") for a in client.ask({"action": "tree"})["actors"]):
                assert process.poll() is None, f"{command} has ended"


def told_wrong(told: str, came: str) -> str:
    """ "" where a console block tells what came; made ids, times, process ids and counts may differ."""
    return differs(_plain(told), _plain(came))


def _plain(text: str) -> str:
    text = STAMP.sub("TIME", ID.sub("ID", text))
    text = re.sub(r"\bwork-\d+", "work-PID", text)
    text = re.sub(r" *\b[\d.]+ (s|ms|runs/s)\b", r" N \1", text)
    text = re.sub(r" +\d{3,}\b", " N", text)
    return re.sub(r" {2,}", "  ", text)  # the width of a column


def commands(text: str) -> Iterator[list[str]]:
    """The `trio-msg …` in a shell snippet, as words."""
    for line in text.replace("\\\n", " ").splitlines():
        if "trio-msg" not in line:
            continue
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] | None = None
        begins = True  # whether the next word is a command
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                if words is not None:
                    yield words
                words, begins = None, True
            elif words is not None:
                words.append(word)
            elif begins and (word == "trio-msg" or word.endswith("/trio-msg")):
                words = []
            else:
                begins = word.partition("=")[0].isupper()  # NAME=value before the command
