"""The last minutes of queues and topics: samples of their books, for the page's plots.

A sample is taken every two seconds of up to 300 queues and topics; five minutes are kept. It
reads counters that are there anyway: 300 of them take about a millisecond.
"""

from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

if TYPE_CHECKING:
    from msg.actors.broker import Broker

EVERY_S = 2.0
SAMPLES = 150
KEPT_MAX = 300
SLICE = 100


class Sample(NamedTuple):
    """Counters, and how many wait."""

    at: float  # monotonic
    came: int
    went: int
    settled: int
    waits: int


class History:
    """See the module. Keys are ("queue" or "topic", name)."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str], deque[Sample]] = {}

    async def run(self, broker: "Broker") -> None:
        while True:
            await self.sample(broker)
            await trio.sleep(EVERY_S)

    async def sample(self, broker: "Broker") -> None:
        """One look at all. What is gone is forgotten."""
        now = broker.context.world.now()
        directory = broker.directory
        seen: dict[tuple[str, str], Sample] = {}
        for i, (name, queue) in enumerate(list(directory.queues.items())):
            ledger = getattr(queue.actor, "ledger", None)
            if ledger is not None and len(seen) < KEPT_MAX:
                c = ledger.counts
                waits = ledger.states()["ready"]
                seen["queue", name] = Sample(now, c.accepted, c.delivered, c.settled, waits)
            if i % SLICE == SLICE - 1:
                await trio.lowlevel.checkpoint()
        for name, topic in list(directory.topics.items()):
            rules = getattr(topic.actor, "rules", None)
            if rules is not None and len(seen) < KEPT_MAX and not name.startswith("_inbox."):
                kept = rules.backlog.count
                seen["topic", name] = Sample(now, rules.counts.published, 0, 0, kept)
        for key, sample in seen.items():
            if key not in self._samples:
                self._samples[key] = deque(maxlen=SAMPLES)
            self._samples[key].append(sample)
        for key in [key for key in self._samples if key not in seen]:
            del self._samples[key]

    def rates(self, kind: str, name: str) -> dict[str, float]:
        """Messages a second between the last two samples."""
        samples = self._samples.get((kind, name))
        if samples is None or len(samples) < 2:
            return {"in": 0.0, "out": 0.0, "acks": 0.0}
        return _rates(samples[-2], samples[-1])

    def plot(self, kind: str, name: str, most: int = SAMPLES) -> dict[str, list[Any]]:
        """Rates and depth over time, oldest first: `age_s`, `in`, `out`, `acks`, `waits`."""
        samples = list(self._samples.get((kind, name), ()))[-most - 1 :]
        plot: dict[str, list[Any]] = {"age_s": [], "in": [], "out": [], "acks": [], "waits": []}
        for before, after in pairwise(samples):
            rates = _rates(before, after)
            plot["age_s"].append(round(samples[-1].at - after.at, 1))
            for key in ("in", "out", "acks"):
                plot[key].append(rates[key])
            plot["waits"].append(after.waits)
        return plot


def _rates(before: Sample, after: Sample) -> dict[str, float]:
    seconds = max(after.at - before.at, 1e-6)
    # an actor that was started anew counts from the beginning
    return {
        "in": round(max(0, after.came - before.came) / seconds, 1),
        "out": round(max(0, after.went - before.went) / seconds, 1),
        "acks": round(max(0, after.settled - before.settled) / seconds, 1),
    }
