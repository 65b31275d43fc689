"""A histogram of durations in fixed buckets: one bisect an observation."""

from bisect import bisect_left

BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
          2.5, 5.0, 10.0)  # fmt: skip


class Histogram:
    """Counts by upper bound, in seconds; the last bucket has none."""

    __slots__ = ("_counts", "total")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> tuple[list[tuple[str, float]], float, int]:
        """([(upper bound, how many up to it)], sum of all, how many), as Prometheus has it."""
        buckets: list[tuple[str, float]] = []
        count = 0
        for bound, n in zip((*map(str, BOUNDS), "+Inf"), self._counts, strict=True):
            count += n
            buckets.append((bound, count))
        return buckets, self.total, count
