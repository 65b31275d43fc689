"""Transcripts in the documentation, played against a broker: what stands there is what came.

A block of the language `transcript` is a conversation:

    → {"action":"ping","id":"1"}        sent as it stands, with a newline
    ← {"type":"pong","id":"1"}          must come, byte for byte
    B → …                               another connection, by its letter
    31 s later                          virtual time
    B leaves                            that connection ends

A broker of its own, with simulated disk and clock and one seed, plays each block. Ids and times
are the seed's, so they repeat, but not from one version to the next: `normal` replaces them.
"…" in a `←` line stands for whatever is there, in answers too long to be shown.

    python -m tests.docs.transcripts      writes anew what comes, after a change that is meant
"""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio
import trio.testing

from tests.actors.kit import Running, running, settings, settled

if TYPE_CHECKING:
    from tests.actors.cable import End

DOCS = Path(__file__).parent.parent.parent / "docs"
BLOCK = re.compile(r"(?<=^```transcript\n)(.*?)(?=^```$)", re.M | re.S)
LINE = re.compile(r"(?:([A-Z]) )?([→←]) (.*)")
LATER = re.compile(r"([\d.]+) s later")
LEAVES = re.compile(r"([A-Z]) leaves")
ID = re.compile(r"\b(?:[0-9a-f]{22}|[0-9a-f]{24})\b")  # of messages, and of inboxes
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
VERSION = re.compile(r'"version":"[^"]+"')


@attrs.frozen
class Block:
    """One conversation, and where it stands."""

    path: Path
    line: int
    text: str

    @property
    def sent(self) -> list[dict[str, object]]:
        """The frames that it sends; those that are broken on purpose left out."""
        frames = []
        for line in self.text.splitlines():
            said = LINE.fullmatch(line)
            if said and said.group(2) == "→":
                with contextlib.suppress(ValueError):
                    frames.append(json.loads(said.group(3)))
        return frames

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}"


def blocks(path: Path) -> Iterator[Block]:
    text = path.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        yield Block(path, text.count("\n", 0, match.start()) + 1, match.group(1))


class Talk:
    """The connections of one block, and what has come on them."""

    def __init__(self, broker: Running) -> None:
        self._broker = broker
        self._ends: dict[str, End] = {}

    async def send(self, who: str, line: str) -> None:
        if who not in self._ends:
            self._ends[who] = self._broker.client().end
        await self._ends[who].send_all(line.encode() + b"\n")
        await self._quiet()

    def leave(self, who: str) -> None:
        self._ends.pop(who).close()

    async def came(self) -> dict[str, list[str]]:
        """What has come since, of each connection."""
        await self._quiet()
        lines: dict[str, list[str]] = {}
        for who, end in self._ends.items():
            data = b""
            with trio.move_on_after(0.001):
                while chunk := await end.receive_some(1 << 20):
                    data += chunk
            lines[who] = data.decode().splitlines()
        return lines

    async def _quiet(self) -> None:
        await trio.sleep(0.05)  # virtual: a commit and what follows from it
        await settled()


def normal(lines: list[str]) -> list[str]:
    """With the times and the version of a run replaced by such as repeat."""
    times: dict[str, str] = {}

    def a_time(match: re.Match[str]) -> str:
        return times.setdefault(match.group(), f"2026-01-01T09:00:{len(times):02}.000Z")

    return VERSION.sub('"version":"0.1.0"', STAMP.sub(a_time, "\n".join(lines))).split("\n")


class Ids:
    """Made ids: as the document has them, and as they are in this run."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}
        self._real: dict[str, str] = {}

    def told(self, line: str) -> str:
        return ID.sub(self._tell, line)

    def real(self, line: str) -> str:
        return ID.sub(lambda match: self._real.get(match.group(), match.group()), line)

    def _tell(self, match: re.Match[str]) -> str:
        real = match.group()
        number = 1 + sum(len(known) == len(real) for known in self._told)
        made = f"1a2b3c4d5e6f{number:0{len(real) - 12}x}"
        told = self._told.setdefault(real, made)
        self._real[told] = real
        return told


async def play(block: Block) -> str:
    """The block as it comes: the sent lines as they are, after each what came."""
    out: list[str] = []
    ids = Ids()
    async with running(settings(drain_seconds=0.0)) as broker:
        talk = Talk(broker)
        letters = bool(re.search(r"^[A-Z] →", block.text, re.M))

        async def hear() -> None:
            for who, lines in (await talk.came()).items():
                for line in map(ids.told, lines):
                    out.append(f"{who} ← {line}" if letters else f"← {line}")

        for line in block.text.splitlines():
            said = LINE.fullmatch(line)
            if said and said.group(2) == "→":
                out.append(line)
                await talk.send(said.group(1) or "A", ids.real(said.group(3)))
                await hear()
            elif later := LATER.fullmatch(line):
                out.append(line)
                await trio.sleep(float(later.group(1)))
                await hear()
            elif leaves := LEAVES.fullmatch(line):
                out.append(line)
                talk.leave(leaves.group(1))
                await hear()
            elif not said:
                raise ValueError(f"{block}: not a line of a transcript: {line}")
    return "\n".join(normal(out)) + "\n"


def differs(told: str, came: str) -> str:
    """ "" where the document tells what came, else the first line that it does not."""
    pairs = zip(told.splitlines(), came.splitlines(), strict=False)
    for number, (line, real) in enumerate(pairs, 1):
        if "…" in line:
            pattern = ".*".join(re.escape(part) for part in line.split("…"))
            if re.fullmatch(pattern, real):
                continue
        elif line == real:
            continue
        return f"line {number}:\n  told: {line}\n  came: {real}"
    if told.count("\n") != came.count("\n"):
        return f"{told.count(chr(10))} lines told, {came.count(chr(10))} came:\n{came}"
    return ""


def merged(told: str, came: str) -> str:
    """What came, with the lines that the document shortens as it has them, where they still fit."""
    short = [line for line in told.splitlines() if "…" in line]
    lines = []
    for real in came.splitlines():
        fits = [line for line in short if not differs(line + "\n", real + "\n")]
        lines.append(fits[0] if fits else real)
    return "\n".join(lines) + "\n"


def play_now(block: Block) -> str:
    """From outside of trio."""
    return trio.run(play, block, clock=trio.testing.MockClock(autojump_threshold=0))


def write_anew(path: Path) -> None:
    """Put into a document what comes."""
    text = path.read_text(encoding="utf-8")
    for block in blocks(path):
        text = text.replace(block.text, merged(block.text, play_now(block)), 1)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for document in sorted(DOCS.rglob("*.md")):
        write_anew(document)
