"""Parking: publishes that wait for room in a full queue whose overflow is "block".

A connection may park so much; with more, all that it has parked is refused, so that its
answers keep their order and nothing of it overtakes. All connections together are bounded too.
"""

from collections import deque
from math import inf

import attrs
from msgspec import Raw

from msg.core.batches import Origin, PublishBatch

PARKED_BYTES_ALL = 16 << 20  # of one queue
ITEM_OVERHEAD = 128  # bytes that an item takes beside its body, about


@attrs.define
class ParkingRules:
    """What one connection may park, and for how long. One for all queues, changed by a reload."""

    bytes: int = 1 << 20
    seconds: float = 30.0


def _size(batch: PublishBatch) -> int:
    return sum([len(bytes(p.message)) + ITEM_OVERHEAD for p in batch.items])


class Parking:
    """In order of arrival. `batches` are (until when, monotonic; batch)."""

    __slots__ = ("_sizes", "batches", "bytes", "changed", "rules")

    def __init__(self, rules: ParkingRules) -> None:
        self.rules = rules
        self.batches: deque[tuple[float, PublishBatch]] = deque()
        self.bytes = 0
        self.changed = False
        self._sizes: dict[Origin, int] = {}

    def park(self, batch: PublishBatch, now: float) -> bool:
        """Let it wait behind all others; False if there is too much of its origin's."""
        size = _size(batch)
        if (
            self._sizes.get(batch.origin, 0) + size > self.rules.bytes
            or self.bytes + size > PARKED_BYTES_ALL
        ):
            return False
        for item in batch.items:  # a body must not keep the chunk that it came in
            item.message = Raw(bytes(item.message))
        self._count(batch, size)
        self.batches.append((now + self.rules.seconds, batch))
        return True

    def put_first(self, until: float, batch: PublishBatch) -> None:
        """The rest of the first one still waits."""
        self._count(batch, _size(batch))
        self.batches.appendleft((until, batch))

    def take_first(self) -> PublishBatch:
        batch = self.batches.popleft()[1]
        self._count(batch, -_size(batch))
        return batch

    def take_of(self, origin: Origin) -> list[PublishBatch]:
        """All of one connection."""
        mine = [batch for _, batch in self.batches if batch.origin is origin]
        self.batches = deque([entry for entry in self.batches if entry[1].origin is not origin])
        for batch in mine:
            self._count(batch, -_size(batch))
        return mine

    @property
    def next_until(self) -> float:
        return self.batches[0][0] if self.batches else inf

    def _count(self, batch: PublishBatch, size: int) -> None:
        self.changed = True
        self.bytes += size
        mine = self._sizes.get(batch.origin, 0) + size
        if mine:
            self._sizes[batch.origin] = mine
        else:
            self._sizes.pop(batch.origin, None)
