"""Which messages a topic keeps, in order: about 4 bytes a message, and no object for each.

A shelf knows seqs, sizes and, sparsely, times; the messages themselves are in the log or in
the owner's memory. Seqs come in blocks of consecutive ones; a block has one time, that of
its newest message, so ages are exact to `span` seconds.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from math import inf

BLOCK = 512  # messages


class _Block:
    """The seqs `first` … `end - 1`, with their sizes."""

    __slots__ = ("first", "newest", "opened", "sizes")

    def __init__(self, first: int, sizes: "array[int]", opened: float, newest: float) -> None:
        self.first = first
        self.sizes = sizes
        self.opened = opened
        self.newest = newest

    @property
    def end(self) -> int:
        return self.first + len(self.sizes)


def _first(block: _Block) -> int:
    return block.first


class Shelf:
    """Rising seqs with their sizes. Times are wall-clock seconds."""

    __slots__ = ("_blocks", "_span", "bytes", "count")

    def __init__(self, span: float = 1.0) -> None:
        self._blocks: list[_Block] = []
        self._span = span
        self.count = 0
        self.bytes = 0

    def __bool__(self) -> bool:
        return self.count > 0

    def __contains__(self, seq: int) -> bool:
        at = bisect_right(self._blocks, seq, key=_first) - 1
        return at >= 0 and seq < self._blocks[at].end

    # -- filling and emptying ---------------------------------------------------------------

    def add(self, first: int, sizes: Sequence[int], at: float) -> None:
        """Consecutive seqs from `first` on, above all that are here."""
        blocks = self._blocks
        last = blocks[-1] if blocks else None
        if last is not None:
            at = max(at, last.newest)  # the clock may step back; ages do not
            if (
                last.end == first
                and len(last.sizes) + len(sizes) <= BLOCK
                and at < last.opened + self._span
            ):
                last.sizes.extend(sizes)
                last.newest = at
                self.count += len(sizes)
                self.bytes += sum(sizes)
                return
        for start in range(0, len(sizes), BLOCK):
            part = array("I", sizes[start : start + BLOCK])
            blocks.append(_Block(first + start, part, at, at))
        self.count += len(sizes)
        self.bytes += sum(sizes)

    def trim(self, most: float, most_bytes: float, since: float = -inf) -> list[range]:
        """Take the oldest away until at most so many messages and bytes are left, and none
        that is older than `since`. Returns the seqs that went."""
        gone: list[range] = []
        blocks = self._blocks
        while blocks:
            block = blocks[0]
            n = len(block.sizes)
            over = self.count - most
            if block.newest < since or over >= n:
                cut = n
            else:
                cut = int(max(over, 0))
                left = self.bytes - sum(block.sizes[:cut])
                while cut < n and left > most_bytes:
                    left -= block.sizes[cut]
                    cut += 1
                if cut == 0:
                    break
            gone.append(range(block.first, block.first + cut))
            self.count -= cut
            self.bytes -= sum(block.sizes[:cut])
            if cut < n:
                del block.sizes[:cut]
                block.first += cut
                break
            del blocks[0]
        return gone

    def remove(self, run: range) -> None:
        """These are not kept here any more; those that were not are passed over."""
        blocks = self._blocks
        at = max(0, bisect_right(blocks, run.start, key=_first) - 1)
        while at < len(blocks) and blocks[at].first < run.stop:
            block = blocks[at]
            low = max(run.start - block.first, 0)
            high = min(run.stop - block.first, len(block.sizes))
            if low >= high:
                at += 1
                continue
            self.count -= high - low
            self.bytes -= sum(block.sizes[low:high])
            tail = block.sizes[high:]
            if low:
                del block.sizes[low:]
                at += 1
                if tail:
                    blocks.insert(at, _Block(block.first + high, tail, block.opened, block.newest))
                    at += 1
            elif tail:
                block.sizes = tail
                block.first += high
                at += 1
            else:
                del blocks[at]

    # -- asking -----------------------------------------------------------------------------

    @property
    def first(self) -> int:
        """The oldest seq; 0 when there is none."""
        return self._blocks[0].first if self._blocks else 0

    @property
    def last(self) -> int:
        """The newest seq; 0 when there is none."""
        return self._blocks[-1].end - 1 if self._blocks else 0

    @property
    def oldest_at(self) -> float:
        """The time of the oldest block; inf when there is none."""
        return self._blocks[0].newest if self._blocks else inf

    def since(self, at: float) -> int:
        """The first seq that may be as young as `at`; 0 when all are older."""
        for block in self._blocks:
            if block.newest >= at:
                return block.first
        return 0

    def at_most(self, seq: int) -> int:
        """The newest that is not above `seq`; 0 when there is none."""
        at = bisect_right(self._blocks, seq, key=_first) - 1
        return min(seq, self._blocks[at].end - 1) if at >= 0 else 0

    def upwards(self, seq: int) -> Iterator[tuple[int, int]]:
        """(seq, size) of what is kept from `seq` on, rising."""
        blocks = self._blocks
        start = max(0, bisect_right(blocks, seq, key=_first) - 1)
        for at in range(start, len(blocks)):
            block = blocks[at]
            skip = max(0, seq - block.first)
            yield from zip(range(block.first + skip, block.end), block.sizes[skip:], strict=False)

    def seqs(self) -> list[int]:
        """All seqs. For looking at; it makes an object for each."""
        return [seq for run in self.ranges() for seq in run]

    def ranges(self) -> list[range]:
        """All seqs, as few ranges."""
        out: list[range] = []
        for block in self._blocks:
            if out and out[-1].stop == block.first:
                out[-1] = range(out[-1].start, block.end)
            else:
                out.append(range(block.first, block.end))
        return out
