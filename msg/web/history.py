"""The last minutes of queues, topics and the broker: samples of their books, for the plots.

Every two seconds one look at all of them, at counters that are there anyway. Samples of five
minutes are kept for `KEPT_MAX` of them: a queue that begins to move takes the place of one that
has not moved in all that time. Of the others the last two are known, for their rates.

A look at 3,000 queues takes some milliseconds of CPU time, in slices, of each two seconds.
"""

from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

if TYPE_CHECKING:
    from msg.actors.broker import Broker

EVERY_S = 2.0
SAMPLES = 151  # 150 rates between them
KEPT_MAX = 300
SLICE = 100
ALL = ("broker", "")  # the key of all queues and topics together

Key = tuple[str, str]  # "queue" or "topic", and its name


class Sample(NamedTuple):
    """Counters, and how many wait."""

    at: float  # monotonic
    came: int
    went: int
    settled: int
    waits: int


class Totals(NamedTuple):
    """Of all queues at the last look."""

    ready: int = 0
    leased: int = 0
    delayed: int = 0
    dead: int = 0


class Rates(NamedTuple):
    """Messages a second."""

    came: float = 0.0
    went: float = 0.0
    settled: float = 0.0


class History:
    """See the module."""

    def __init__(self) -> None:
        self.totals = Totals()
        self._last: dict[Key, Sample] = {}
        self._rates: dict[Key, Rates] = {}  # of those that move
        self._samples: dict[Key, deque[Sample]] = {}
        self._sum = Sample(0.0, 0, 0, 0, 0)  # of all, since the first look

    async def run(self, broker: "Broker") -> None:
        while True:
            await self.sample(broker)
            await trio.sleep(EVERY_S)

    async def sample(self, broker: "Broker") -> None:
        """One look at all. What is gone is forgotten."""
        now = broker.context.world.now()
        directory = broker.directory
        seen: dict[Key, Sample] = {}
        ready = leased = delayed = dead = 0
        for i, (name, queue) in enumerate(list(directory.queues.items())):
            if i % SLICE == SLICE - 1:
                await trio.lowlevel.checkpoint()
            ledger = getattr(queue.actor, "ledger", None)
            if ledger is None:
                continue
            states, counts = ledger.states(), ledger.counts
            came = counts.accepted - ledger.books.recalled
            seen["queue", name] = Sample(
                now, came, counts.delivered, counts.settled, states["ready"]
            )
            if name.endswith(".dead"):
                dead += queue.gauge.messages
            else:
                ready += states["ready"]
                leased += states["leased"]
                delayed += states["delayed"]
        for i, (name, topic) in enumerate(list(directory.topics.items())):
            if i % SLICE == SLICE - 1:
                await trio.lowlevel.checkpoint()
            rules = getattr(topic.actor, "rules", None)
            if rules is not None and not name.startswith("_inbox."):
                kept = rules.kept.backlog.count
                seen["topic", name] = Sample(now, rules.counts.published, 0, 0, kept)
        self.totals = Totals(ready, leased, delayed, dead)
        self._take(now, seen)

    def _take(self, now: float, seen: dict[Key, Sample]) -> None:
        before, self._last = self._last, seen
        if ALL in self._samples:  # what was not there at the last look has begun since
            nothing = Sample(self._sum.at, 0, 0, 0, 0)
            before = before | dict.fromkeys(seen.keys() - before.keys(), nothing)
        rates: dict[Key, Rates] = {}
        for key, sample in seen.items():
            old = before.get(key)
            if old is None:
                continue
            if sample[1:4] != old[1:4]:
                rates[key] = _rates(old, sample)
                if not key[1].endswith(".dead"):
                    self._sum = _plus(self._sum, old, sample)
        self._rates = rates
        for key in [key for key in self._samples if key not in seen and key != ALL]:
            del self._samples[key]
        self._make_room(rates)
        for key, sample in [*((key, seen[key]) for key in rates), *seen.items()]:
            kept = self._samples.get(key)
            if kept is not None and kept[-1] is sample:
                continue  # it moves, and was seen to first
            if kept is None and len(self._samples) < KEPT_MAX:
                kept = self._samples[key] = deque(maxlen=SAMPLES)
                if key in before:
                    kept.append(before[key])
            if kept is not None:
                kept.append(sample)
        self._sum = self._sum._replace(at=now, waits=self.totals.ready)
        self._samples.setdefault(ALL, deque(maxlen=SAMPLES)).append(self._sum)

    def _make_room(self, rates: dict[Key, Rates]) -> None:
        """Those that have not moved for the longest go, for as many as begin to move."""
        wanted = len([key for key in rates if key not in self._samples])
        over = len(self._samples) + wanted - KEPT_MAX
        if over <= 0:
            return
        still = [
            key
            for key, samples in self._samples.items()
            if key not in rates and key != ALL and samples[0][1:] == samples[-1][1:]
        ]
        for key in still[:over]:
            del self._samples[key]

    def rates(self, kind: str, name: str) -> dict[str, float]:
        """Messages a second between the last two looks."""
        if (kind, name) == ALL:
            samples = self._samples.get(ALL, ())
            return _named(_rates(*list(samples)[-2:]) if len(samples) > 1 else Rates())
        return _named(self._rates.get((kind, name), Rates()))

    def movement(self, kind: str, name: str) -> float:
        """What comes and goes, a second: sorts the busiest first."""
        rates = self._rates.get((kind, name))
        return 0.0 if rates is None else rates.came + rates.went

    def plot(self, kind: str, name: str, most: int = SAMPLES) -> dict[str, list[Any]]:
        """Rates and depth over time, oldest first: `age_s`, `in`, `out`, `acks`, `waits`."""
        samples = list(self._samples.get((kind, name), ()))[-most - 1 :]
        plot: dict[str, list[Any]] = {"age_s": [], "in": [], "out": [], "acks": [], "waits": []}
        for before, after in pairwise(samples):
            plot["age_s"].append(round(samples[-1].at - after.at, 1))
            for key, value in _named(_rates(before, after)).items():
                plot[key].append(value)
            plot["waits"].append(after.waits)
        return plot


def _named(rates: Rates) -> dict[str, float]:
    return {"in": rates.came, "out": rates.went, "acks": rates.settled}


def _plus(total: Sample, before: Sample, after: Sample) -> Sample:
    return total._replace(
        came=total.came + max(0, after.came - before.came),
        went=total.went + max(0, after.went - before.went),
        settled=total.settled + max(0, after.settled - before.settled),
    )


def _rates(before: Sample, after: Sample) -> Rates:
    seconds = max(after.at - before.at, 1e-6)
    # an actor that was started anew counts from the beginning
    return Rates(
        round(max(0, after.came - before.came) / seconds, 1),
        round(max(0, after.went - before.went) / seconds, 1),
        round(max(0, after.settled - before.settled) / seconds, 1),
    )
