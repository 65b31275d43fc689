"""Where every live message of one log lies: about 13 bytes each, and no objects.

Messages are found by seq through chunks of 4,096 places, each a few typed arrays. A run of
consecutive seqs, which is what a batch is, is added, placed and settled by slices. A chunk
goes when nothing in it is live; one with a handful left behind becomes entries of a dict,
so that a stuck message does not pin a chunk.

`Segment`s (one file each) are counted here too: which of them still hold live messages.
"""

import re
from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

import attrs

CHUNK_BITS = 12
CHUNK = 1 << CHUNK_BITS
SETTLE_STEP = 128  # acks of several consumers, sorted, are runs with a few holes
SPARSE = 32  # so few live ones in a chunk behind the head move to the dict

LIVE, TRIED, GONE = 1, 2, 4
_LIVE_RUN = bytes([LIVE]) * CHUNK
_GONE_RUN = bytes([GONE]) * CHUNK
_LIVE = re.compile(rb"[\x01\x03]+")


@attrs.define(slots=True, eq=False)
class Segment:
    """One file of a log, and what of it is still needed."""

    number: int  # its name: the first seq that it was made for
    path: str
    ordinal: int  # rising from 1; 0 is "not on disk yet"
    size: int = 0
    live: int = 0
    live_bytes: int = 0
    ids_low: int = 0  # the seqs whose ids stand in it, for the dedup window; 0: none
    ids_high: int = 0
    ids_bytes: int = 0  # of `ids` records, as far as this process wrote them

    def has_ids(self, low: int, high: int) -> None:
        self.ids_low = min(self.ids_low or low, low)
        self.ids_high = max(self.ids_high, high)


@attrs.define(slots=True, eq=False)
class Places:
    """Messages with consecutive seqs in one file, at rising offsets."""

    seqs: range
    segment: Segment
    offsets: Sequence[int]
    lengths: Sequence[int]


class _Chunk:
    """The places of seqs `first` … `first + len(flags) - 1`."""

    __slots__ = ("first", "flags", "lengths", "live", "mixed", "offsets", "ordinals")

    def __init__(self, first: int) -> None:
        self.first = first
        self.flags = bytearray()
        self.ordinals = array("I")
        self.offsets = array("I")
        self.lengths = array("I")
        self.live = 0
        self.mixed = False  # ordinals don't rise with seq: a message was copied ahead

    def reach(self, i: int) -> None:
        """Make places up to, not including, i."""
        gap = i - len(self.flags)
        if gap > 0:
            self.flags += bytes(gap)
            for column in (self.ordinals, self.offsets, self.lengths):
                column.frombytes(bytes(gap * column.itemsize))

    def prepend(self, gap: int) -> None:
        """Make `gap` places before the first (recovery finds an older seq late)."""
        self.first -= gap
        self.flags = bytearray(gap) + self.flags
        empty = array("I", bytes(gap * 4))
        self.ordinals = empty + self.ordinals
        self.offsets = empty + self.offsets
        self.lengths = empty + self.lengths


class Index:
    """The live messages of one log, and the segments that hold them.

    `keep_gone` (recovery) remembers what is settled until `trim`: a message that was settled
    once must not come back with an older copy of its record.
    """

    def __init__(self, *, keep_gone: bool = False) -> None:
        self.gathering = Segment(0, "", 0)  # those that no file holds yet
        self.segments: dict[int, Segment] = {0: self.gathering}
        self.live_count = 0
        self.live_bytes = 0
        self.settled = 0  # messages, since this object was made
        self.highest_settled = 0  # seq
        self._chunks: dict[int, _Chunk] = {}
        self._keys: list[int] = []  # of the chunks, rising
        # seq -> (flags, ordinal, offset, length)
        self._sparse: dict[int, tuple[int, int, int, int]] = {}
        self._sparse_seqs: list[int] | None = []  # sorted; None: to be made anew
        self._keep_gone = keep_gone

    # -- adding -------------------------------------------------------------------------

    def add(self, seqs: Sequence[int], lengths: "array[int]", size: int) -> None:
        """New messages, rising and above all that are there, `size` bytes in all; no file holds
        them yet."""
        first, n = seqs[0], len(seqs)
        key = first >> CHUNK_BITS
        nowhere = array("I", bytes(4 * n))
        if self._keys and self._keys[-1] == key == seqs[-1] >> CHUNK_BITS:
            chunk = self._chunks[key]
            if seqs[-1] - first == n - 1 and first - chunk.first == len(chunk.flags):
                self._append(chunk, nowhere, lengths, size, 0)
                return
        self.put(seqs, nowhere, lengths, 0)

    def put(
        self, seqs: Sequence[int], offsets: "array[int]", lengths: "array[int]", ordinal: int
    ) -> None:
        """Live messages and where they lie. One that was live elsewhere lies here now; one
        that was settled stays settled."""
        at, n = 0, len(seqs)
        while at < n:
            first = seqs[at]
            end = min(n, at + CHUNK - (first & (CHUNK - 1)))
            if not _rises_by_one(seqs, at, end):
                end = _run_end(seqs, at, end)
            self._put_run(first, offsets[at:end], lengths[at:end], ordinal)
            at = end

    def _put_run(
        self, first: int, offsets: "array[int]", lengths: "array[int]", ordinal: int
    ) -> None:
        chunk = self._chunk(first)
        n = len(lengths)
        i = first - chunk.first
        if i < 0:
            chunk.prepend(-i)
            i = 0
        if i < len(chunk.flags):
            for k in range(n):
                self._put_one(chunk, first + k, ordinal, offsets[k], lengths[k])
            return
        chunk.reach(i)
        if ordinal and chunk.ordinals and ordinal < chunk.ordinals[-1]:
            chunk.mixed = True
        self._append(chunk, offsets, lengths, sum(lengths), ordinal)

    def _append(
        self, chunk: _Chunk, offsets: "array[int]", lengths: "array[int]", size: int, ordinal: int
    ) -> None:
        """Messages with the seqs behind those of a chunk."""
        n = len(lengths)
        chunk.flags += _LIVE_RUN[:n]
        chunk.ordinals.extend(array("I", [ordinal]) * n)
        chunk.offsets.extend(offsets)
        chunk.lengths.extend(lengths)
        chunk.live += n
        self.live_count += n
        self.live_bytes += size
        segment = self.segments[ordinal]
        segment.live += n
        segment.live_bytes += size

    def _put_one(self, chunk: _Chunk, seq: int, ordinal: int, offset: int, length: int) -> None:
        i = seq - chunk.first
        chunk.reach(i + 1)
        flags = chunk.flags[i]
        if flags & LIVE:
            self.move(seq, ordinal, offset, length)
        elif not flags & GONE:
            chunk.flags[i] = LIVE
            chunk.ordinals[i] = ordinal
            chunk.offsets[i] = offset
            chunk.lengths[i] = length
            chunk.mixed = True
            chunk.live += 1
            self._count(self.segments[ordinal], 1, length)
            self.live_count += 1
            self.live_bytes += length

    def place(
        self, seqs: Sequence[int], offsets: "array[int]", lengths: "array[int]", ordinal: int
    ) -> None:
        """Messages that were gathered, rising, lie in a file now, one behind the other."""
        at, n = 0, len(seqs)
        while at < n:
            first = seqs[at]
            end = min(n, at + CHUNK - (first & (CHUNK - 1)))
            if seqs[end - 1] - first != end - at - 1:
                end = _run_end(seqs, at, end)
            size = offsets[end - 1] + lengths[end - 1] - offsets[at]
            if not self._place_run(first, offsets[at:end], size, ordinal):
                for k in range(at, end):
                    self.move(seqs[k], ordinal, offsets[k], lengths[k])
            at = end

    def _place_run(self, first: int, offsets: "array[int]", size: int, ordinal: int) -> bool:
        """The quick way, when all of the run are still live."""
        chunk = self._chunks.get(first >> CHUNK_BITS)
        n = len(offsets)
        i = -1 if chunk is None else first - chunk.first
        if chunk is None or i < 0 or chunk.flags[i : i + n] != _LIVE_RUN[:n]:
            return False
        chunk.offsets[i : i + n] = offsets
        chunk.ordinals[i : i + n] = array("I", [ordinal]) * n
        self._count(self.gathering, -n, -size)
        self._count(self.segments[ordinal], n, size)
        return True

    def move(self, seq: int, ordinal: int, offset: int, length: int) -> None:
        """A live message has a newer copy; nothing happens when it is not live any more."""
        target = self.segments[ordinal]
        if seq in self._sparse:
            flags, old, _, old_length = self._sparse[seq]
            self._sparse[seq] = (flags, ordinal, offset, length)
        else:
            chunk, i = self._find(seq)
            if chunk is None or not chunk.flags[i] & LIVE:
                return
            old, old_length = chunk.ordinals[i], chunk.lengths[i]
            chunk.ordinals[i] = ordinal
            chunk.offsets[i] = offset
            chunk.lengths[i] = length
            if old:
                chunk.mixed = True
        self._count(self.segments[old], -1, -old_length)
        self._count(target, 1, length)
        self.live_bytes += length - old_length

    # -- settling -----------------------------------------------------------------------

    def settle(self, seqs: Sequence[int]) -> list[int]:
        """These are not live any more. Returns those of them that had been tried."""
        tried: list[int] = []
        at, n = 0, len(seqs)
        if n and seqs[-1] > self.highest_settled:
            self.highest_settled = seqs[-1]
        while at < n:
            first = seqs[at]
            end = min(n, at + SETTLE_STEP)
            end = bisect_left(seqs, ((first >> CHUNK_BITS) + 1) << CHUNK_BITS, at, end)
            chunk = self._chunks.get(first >> CHUNK_BITS)
            part = seqs[at:end]
            if (
                chunk is None
                or part[-1] - first != len(part) - 1
                or not self._settle_run(chunk, first, len(part))
            ):
                for seq in part:
                    if self._settle_one(seq) & TRIED:
                        tried.append(seq)
            if chunk is not None:
                self._tidy(chunk)
            at = end
        return tried

    def _settle_run(self, chunk: _Chunk, first: int, n: int) -> bool:
        """The quick way, when all of the run are live, untried and in one file."""
        i = first - chunk.first
        end = i + n
        if (
            i < 0
            or end > len(chunk.flags)
            or chunk.mixed
            or chunk.flags[i:end] != _LIVE_RUN[:n]
            or chunk.ordinals[i] != chunk.ordinals[end - 1]
        ):
            return False
        size = sum(chunk.lengths[i:end])
        chunk.flags[i:end] = _GONE_RUN[:n]
        chunk.live -= n
        self._count(self.segments[chunk.ordinals[i]], -n, -size)
        self.live_count -= n
        self.live_bytes -= size
        self.settled += n
        return True

    def _settle_one(self, seq: int) -> int:
        """Its flags before; 0 when it was not live."""
        entry = self._sparse.pop(seq, None)
        if entry is not None:
            flags, ordinal, _, length = entry
            self._sparse_seqs = None
        else:
            chunk, i = self._find(seq)
            if chunk is None or not chunk.flags[i] & LIVE:
                return 0
            flags = chunk.flags[i]
            chunk.flags[i] = GONE
            chunk.live -= 1
            ordinal, length = chunk.ordinals[i], chunk.lengths[i]
        self._count(self.segments[ordinal], -1, -length)
        self.live_count -= 1
        self.live_bytes -= length
        self.settled += 1
        return flags

    def mark(self, seq: int, flag: int) -> bool:
        """Set a flag of a live message; False when it is not live."""
        entry = self._sparse.get(seq)
        if entry is not None:
            self._sparse[seq] = (entry[0] | flag, *entry[1:])
            return True
        chunk, i = self._find(seq)
        if chunk is None or not chunk.flags[i] & LIVE:
            return False
        chunk.flags[i] |= flag
        return True

    def _tidy(self, chunk: _Chunk) -> None:
        """Let a chunk go that holds nothing live, or next to nothing behind the head."""
        key = chunk.first >> CHUNK_BITS
        if self._keep_gone or chunk.live > SPARSE or self._chunks.get(key) is not chunk:
            return
        if chunk.live:
            if key == self._keys[-1]:
                return
            for run in _LIVE.finditer(chunk.flags):
                for i in range(run.start(), run.end()):
                    self._sparse[chunk.first + i] = (
                        chunk.flags[i],
                        chunk.ordinals[i],
                        chunk.offsets[i],
                        chunk.lengths[i],
                    )
            self._sparse_seqs = None
        del self._chunks[key]
        del self._keys[bisect_left(self._keys, key)]

    def trim(self) -> None:
        """Recovery is over: forget what is settled."""
        self._keep_gone = False
        for chunk in list(self._chunks.values()):
            self._tidy(chunk)

    # -- asking -------------------------------------------------------------------------

    def flags(self, seq: int) -> int:
        """LIVE and TRIED of this message; 0 when it is not live."""
        entry = self._sparse.get(seq)
        if entry is not None:
            return entry[0]
        chunk, i = self._find(seq)
        if chunk is None or not chunk.flags[i] & LIVE:
            return 0
        return chunk.flags[i]

    def where(self, seq: int) -> tuple[Segment, int, int] | None:
        """(segment, offset, length) of a live message; None when no file holds it."""
        entry = self._sparse.get(seq)
        if entry is not None:
            _, ordinal, offset, length = entry
        else:
            chunk, i = self._find(seq)
            if chunk is None or not chunk.flags[i] & LIVE:
                return None
            ordinal, offset, length = chunk.ordinals[i], chunk.offsets[i], chunk.lengths[i]
        return (self.segments[ordinal], offset, length) if ordinal else None

    def runs(self, after: int) -> Iterator[range]:
        """Live messages above `after`, rising, as runs of consecutive seqs."""
        sparse = self._sorted_sparse()
        at = bisect_left(sparse, after + 1)
        for key in self._keys[bisect_left(self._keys, (after + 1) >> CHUNK_BITS) :]:
            chunk = self._chunks[key]
            flags = bytes(chunk.flags)  # the chunk may grow while the caller holds us
            for run in _LIVE.finditer(flags, max(0, after + 1 - chunk.first)):
                while at < len(sparse) and sparse[at] < chunk.first + run.start():
                    yield range(sparse[at], sparse[at] + 1)
                    at += 1
                yield range(chunk.first + run.start(), chunk.first + run.end())
        for seq in sparse[at:]:
            yield range(seq, seq + 1)

    def places(self, run: range) -> Iterator["Places"]:
        """Where the messages of a run (or of a part of one) that `runs` gave lie, up to the
        first that no file holds yet."""
        seq = run.start
        while seq < run.stop:
            chunk, i = self._find(seq)
            if chunk is None or not chunk.flags[i] & LIVE:
                _, ordinal, offset, length = self._sparse[seq]
                if not ordinal:
                    return
                yield Places(range(seq, seq + 1), self.segments[ordinal], [offset], [length])
                seq += 1
                continue
            ordinal = chunk.ordinals[i]
            if not ordinal:
                return
            j = min(i + run.stop - seq, len(chunk.flags))
            if chunk.mixed:
                j = i + 1  # copies: offsets may fall as seqs rise
            elif chunk.ordinals[j - 1] != ordinal:
                j = i + chunk.ordinals[i:j].count(ordinal)  # one file's are side by side
            yield Places(
                range(seq, seq + j - i),
                self.segments[ordinal],
                chunk.offsets[i:j],
                chunk.lengths[i:j],
            )
            seq += j - i

    def in_segment(self, segment: Segment) -> list[int]:
        """The seqs of the live messages that this file holds."""
        ordinal = segment.ordinal
        out = [seq for seq in self._sorted_sparse() if self._sparse[seq][1] == ordinal]
        low = bisect_left(self._keys, segment.ids_low >> CHUNK_BITS)
        high = bisect_left(self._keys, (segment.ids_high >> CHUNK_BITS) + 1)
        for key in self._keys[low:high]:
            chunk = self._chunks[key]
            if ordinal in chunk.ordinals:
                out += [
                    chunk.first + i
                    for i, there in enumerate(chunk.ordinals)
                    if there == ordinal and chunk.flags[i] & LIVE
                ]
        return out

    # -- inside -------------------------------------------------------------------------

    def _sorted_sparse(self) -> list[int]:
        if self._sparse_seqs is None:
            self._sparse_seqs = sorted(self._sparse)
        return self._sparse_seqs

    def _chunk(self, seq: int) -> _Chunk:
        key = seq >> CHUNK_BITS
        chunk = self._chunks.get(key)
        if chunk is None:
            chunk = self._chunks[key] = _Chunk(seq)
            if self._keys and key < self._keys[-1]:
                insort(self._keys, key)
            else:
                self._keys.append(key)
        return chunk

    def _find(self, seq: int) -> tuple[_Chunk | None, int]:
        chunk = self._chunks.get(seq >> CHUNK_BITS)
        if chunk is None:
            return None, 0
        i = seq - chunk.first
        return (chunk, i) if 0 <= i < len(chunk.flags) else (None, 0)

    @staticmethod
    def _count(segment: Segment, count: int, size: int) -> None:
        segment.live += count
        segment.live_bytes += size


def _rises_by_one(seqs: Sequence[int], at: int, end: int) -> bool:
    """Whether the seqs are consecutive."""
    first, n = seqs[at], end - at
    if seqs[end - 1] - first != n - 1:
        return False
    return n < 3 or list(seqs[at:end]) == list(range(first, first + n))


def _run_end(seqs: Sequence[int], at: int, end: int) -> int:
    """Where the run of consecutive seqs that begins at `at` ends."""
    want = seqs[at] + 1
    at += 1
    while at < end and seqs[at] == want:
        want += 1
        at += 1
    return at
