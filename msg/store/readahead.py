"""Reading ahead: which bytes of which segments hold the next messages.

What lies close together is read at once, in the order of the seqs. A plan is made by the
log's owner, read in a disk thread, and parsed by the owner again: what has become of a
message meanwhile is seen then.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

import attrs

from msg.store.index import Index, Places
from msg.store.scan import Damage

READ_GAP_BYTES = 64 << 10  # settled bytes that one read rather takes along than begin anew


@attrs.define(slots=True, eq=False)
class Extent:
    """One sequential read, and the messages that it is for."""

    path: str
    offset: int
    length: int = 0
    seqs: list[int] = attrs.field(factory=list)
    offsets: list[int] = attrs.field(factory=list)
    lengths: list[int] = attrs.field(factory=list)


@attrs.define(slots=True, eq=False)
class ReadPlan:
    """Messages to read ahead. After `parse_read`, `after` is where the next plan begins."""

    extents: list[Extent]
    after: int
    settled: int  # the index's count when it was made: if it is still that, all are live
    damaged: list[Damage] = attrs.field(factory=list)

    @property
    def size(self) -> int:
        return sum([e.length for e in self.extents])


def plan_after(index: Index, after_seq: int, messages: int, size: int) -> ReadPlan | None:
    """The live messages on disk after a seq: up to `messages` of them, and until `size` bytes
    are reached. At least one, however large; None when there is none."""
    plan = ReadPlan([], after_seq, index.settled)
    for run in index.runs(after_seq):
        end = run.start
        for places in index.places(run):
            lengths = places.lengths[:messages]
            total = sum(lengths)
            if total > size:
                # the one that crosses the limit is taken, so that a plan is never empty
                lengths = lengths[: 1 + bisect_left(list(accumulate(lengths)), size)]
                total = size
            _add(plan, places, lengths)
            end += len(lengths)
            messages -= len(lengths)
            size -= total
            if not (messages and size):
                return plan
        if end < run.stop:
            break  # the rest is still to be written
    return plan if plan.extents else None


def plan_seqs(index: Index, seqs: Iterable[int]) -> ReadPlan | None:
    """These messages, as far as they are live and on disk."""
    plan = ReadPlan([], 0, index.settled)
    for seq in sorted(set(seqs)):
        if index.flags(seq):
            for places in index.places(range(seq, seq + 1)):
                _add(plan, places, places.lengths)
    return plan if plan.extents else None


def _add(plan: ReadPlan, places: Places, lengths: Sequence[int]) -> None:
    """Add the first messages of `places`."""
    n = len(lengths)
    offsets = places.offsets[:n]
    path, end = places.segment.path, offsets[-1] + lengths[-1]
    if end - offsets[0] > sum(lengths) + READ_GAP_BYTES:
        # not one behind the other, by far: each is looked at by itself
        for k in range(n):
            one = Places(places.seqs[k : k + 1], places.segment, offsets[k : k + 1], [])
            _add(plan, one, lengths[k : k + 1])
        return
    last = plan.extents[-1] if plan.extents else None
    if (
        last is None
        or last.path != path
        or not 0 <= offsets[0] - (last.offset + last.length) <= READ_GAP_BYTES
    ):
        last = Extent(path, offsets[0])
        plan.extents.append(last)
    last.seqs += places.seqs[:n]
    last.offsets += offsets
    last.lengths += lengths
    last.length = end - last.offset
