"""How durations are spread: an HDR-style histogram, 3 % exact from 1 us to hours.

Buckets are log-linear: 32 for each doubling. So a million durations are a few hundred counts,
which processes can send each other and add up.
"""

from collections.abc import Iterable, Mapping
from typing import Self

STEPS = 32  # buckets in each doubling: an error of 1/32 at most
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99, 100.0)


def bucket_of(value: int) -> int:
    """The bucket of a whole number; those up to 63 have one each."""
    if value < 2 * STEPS:
        return max(0, value)
    shift = value.bit_length() - 6
    return (shift << 5) + (value >> shift)


def top_of(bucket: int) -> int:
    """The greatest number in a bucket."""
    if bucket < 2 * STEPS:
        return bucket
    shift = (bucket >> 5) - 1
    return ((bucket - (shift << 5)) << shift) + (1 << shift) - 1


class Spread:
    """Durations in microseconds."""

    __slots__ = ("counts",)

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: dict[int, int] = dict(counts or {})

    def add(self, microseconds: int, times: int = 1) -> None:
        bucket = bucket_of(microseconds)
        self.counts[bucket] = self.counts.get(bucket, 0) + times

    def merge(self, others: Iterable[Self]) -> Self:
        """Add these up in this one."""
        for other in others:
            for bucket, count in other.counts.items():
                self.counts[bucket] = self.counts.get(bucket, 0) + count
        return self

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def percentile(self, percent: float) -> int:
        """Microseconds that so many percent do not exceed; 0 where there are none."""
        wanted = self.count * percent / 100
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return top_of(bucket)
        return 0

    def curve(self) -> list[tuple[float, int]]:
        """(percent, microseconds) at every bucket that holds something, rising."""
        total, seen, points = self.count, 0, []
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            points.append((100.0 * seen / total, top_of(bucket)))
        return points

    def summary(self) -> dict[str, int]:
        """`{"p50": us, …, "max": us}`; empty where nothing was measured."""
        if not self.counts:
            return {}
        return {
            "max" if percent == 100 else f"p{percent:g}": self.percentile(percent)
            for percent in PERCENTILES
        }
