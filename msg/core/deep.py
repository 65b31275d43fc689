"""The far part of a long line, mostly packed (`msg.core.packed`).

    head (`Lane.fifo`)  |  runs, each packed or, where that cannot be, a list  |  tail

A line is packed when nobody takes from it, or when it is far longer than what producers and
consumers that keep pace leave between them: packing and opening costs a message 1.5 us.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator

import attrs

from msg.core.message import Message
from msg.core.packed import Packed, pack

# a run that was made (None), or one that was opened, and its messages that are on their own
# from now on: all of them, or none if it is dropped as it is
Repacking = tuple[Packed, list[Message] | None]


@attrs.frozen
class Packing:
    """When a line is packed, in messages. The bodies of a run are a piece of memory that is
    large enough to be given back to the system."""

    run: int = 1024  # packed together
    head: int = 1024  # never packed
    # if so many have come since the last one was taken (50 producers with consumers that keep pace
    # can be half as far ahead: with 4,096 they paid a quarter more CPU a message for it),
    still: int = 8192
    above: int = 16384  # or if the line is so long


class Packer:
    """Packs and opens runs, and notes it: what survives a crash must follow."""

    __slots__ = ("changes", "least", "rules")

    def __init__(self, rules: Packing) -> None:
        self.rules = rules
        self.least = rules.head + rules.run  # in a shorter line nothing is packed
        self.changes: list[Repacking] = []  # in this turn

    def pack(self, messages: list[Message]) -> "Packed | list[Message]":
        run = pack(messages)
        if run is None:
            return messages
        self.changes.append((run, None))
        return run

    def open(self, run: "Packed | list[Message]") -> list[Message]:
        if not isinstance(run, Packed):
            return run
        messages = run.unpack()
        self.changes.append((run, messages))
        return messages

    def drop(self, run: Packed) -> None:
        """All of it goes, and its messages need not be looked at."""
        self.changes.append((run, []))

    def take_changes(self) -> list[Repacking]:
        changes, self.changes = self.changes, []
        return changes


class Deep:
    """First in, first out; never empty. Rising seqs, all above those of the head."""

    __slots__ = ("_runs", "_tail", "count", "last", "packer")

    def __init__(self, packer: Packer) -> None:
        self.packer = packer
        self.count = 0
        self.last = 0  # no seq here is above it
        self._runs: deque[Packed | list[Message]] = deque()  # none of them empty
        self._tail: list[Message] = []

    def __iter__(self) -> Iterator[Message]:
        for run in self._runs:
            yield from run.unpack() if isinstance(run, Packed) else run
        yield from self._tail

    def runs(self) -> Iterator[Packed | list[Message]]:
        """All of it, in order."""
        yield from self._runs
        if self._tail:
            yield self._tail

    def append(self, messages: list[Message]) -> None:
        self._tail += messages
        self.count += len(messages)
        self.last = messages[-1].seq

    def append_run(self, run: Packed) -> None:
        """One that was made before. Behind all that are here."""
        if self._tail:
            self._runs.append(self._tail)
            self._tail = []
        self._runs.append(run)
        self.count += len(run)
        self.last = run.last

    def pack(self, most: int) -> None:
        """Pack the tail, so many runs of it at most."""
        length = self.packer.rules.run
        for _ in range(min(most, len(self._tail) // length)):
            some = self._tail[:length]
            del self._tail[:length]
            self._runs.append(self.packer.pack(some))

    def take_next(self) -> list[Message]:
        """The first ones: a run or the tail."""
        messages = self.packer.open(self._runs.popleft()) if self._runs else self._tail
        if messages is self._tail:
            self._tail = []
        self.count -= len(messages)
        return messages

    def take_after(self, seq: int) -> list[Message]:
        """Take out all behind this place."""
        return self._cut(lambda _, last: last > seq, lambda m: m.seq > seq)

    def take_out(self, seqs: list[int]) -> None:
        """Take out these, which rise. A run without any of them stays packed."""
        gone = set(seqs)
        self._cut(
            lambda first, last: bisect_left(seqs, first) < bisect_right(seqs, last),
            lambda m: m.seq in gone,
        )

    def _cut(
        self, concerns: Callable[[int, int], bool], leaves: Callable[[Message], bool]
    ) -> list[Message]:
        """Take out what leaves, of the runs that this concerns: of those first and last seqs."""
        out: list[Message] = []
        runs: deque[Packed | list[Message]] = deque()
        for run in self.runs():
            packed = isinstance(run, Packed)
            first, last = (
                (run.first, run.last) if isinstance(run, Packed) else (run[0].seq, run[-1].seq)
            )
            if not concerns(first, last):
                runs.append(run)
                continue
            stay: list[Message] = []
            for message in self.packer.open(run):
                (out if leaves(message) else stay).append(message)
            if stay:
                runs.append(self.packer.pack(stay) if packed else stay)
        last_one = runs[-1] if runs else None
        self._tail = []
        if isinstance(last_one, list):
            runs.pop()
            self._tail = last_one
        self._runs = runs
        self.count -= len(out)
        return out
