"""Prometheus metrics, read from the actors' state when they are asked for.

Nothing on the hot path counts for Prometheus: the ledgers' own books are read at a scrape, in
slices (`readings`), and what was read is put into words by `text`, which touches no actor and so
may be done in a thread: at 3,000 queues both take some 50 ms. A
restarted actor counts anew and a deleted queue takes its numbers along, so what was seen is
carried over here: the totals only ever rise. Labels are bounded: queues and topics beyond
`DESTINATIONS_MAX` are summed up as "other", and nothing that clients choose freely is a label.
"""

import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

import attrs
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import CollectorRegistry

from msg.core.names import dead_name, is_dead

if TYPE_CHECKING:
    from msg.actors.broker import Broker
    from msg.actors.queue import Queue

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

DESTINATIONS_MAX = 200
SLICE = 50  # queues or topics read in one turn: under a millisecond
OTHER = "other"

QUEUE_COUNTS = {  # name in the ledger's books -> metric, help
    "accepted": ("msg_accepted_total", "Messages that queues accepted"),
    "delivered": ("msg_delivered_total", "Messages handed to consumers, again or not"),
    "settled": ("msg_settled_total", "Messages that consumers acked"),
    "redelivered": ("msg_redelivered_total", "Messages that came back from consumers"),
    "dead": ("msg_dead_lettered_total", "Messages that failed too often"),
    "expired": ("msg_expired_total", "Messages whose ttl ended"),
    "dropped": ("msg_dropped_total", "Messages dropped from full queues"),
    "duplicates": ("msg_duplicates_total", "Publishes that were stored before"),
    "rejected": ("msg_rejected_total", "Publishes refused by a queue"),
}
TOPIC_COUNTS = {
    "published": ("msg_published_total", "Messages published to topics"),
    "duplicates": ("msg_topic_duplicates_total", "Publishes to topics that were stored before"),
    "rejected": ("msg_topic_rejected_total", "Publishes refused by a topic"),
    "dropped": ("msg_topic_dropped_total", "Messages dropped from topics' backlogs"),
}


@attrs.define
class Totals:
    """Counters of one kind of destination, never falling."""

    seen: dict[str, dict[str, int]] = attrs.field(factory=dict)  # name -> as last read
    base: dict[str, dict[str, int]] = attrs.field(factory=dict)  # label -> what is over
    # name -> label, kept as long as it is there: else the sum of the others would fall
    labels: dict[str, str] = attrs.field(factory=dict)

    def note(self, now: dict[str, dict[str, int]]) -> None:
        """Take a reading of all: what fell or is gone is carried over."""
        for name, before in self.seen.items():
            counts = now.get(name)
            if counts is None or any([counts[key] < n for key, n in before.items()]):
                # of destinations that are gone no label is kept
                base = self.base.setdefault(name if counts is not None else OTHER, {})
                if counts is None:
                    for key, n in self.base.pop(name, {}).items():
                        base[key] = base.get(key, 0) + n
                for key, n in before.items():
                    base[key] = base.get(key, 0) + n
        self.seen = now
        self.labels = {name: label for name, label in self.labels.items() if name in now}
        own = sum([label != OTHER for label in self.labels.values()])
        for name in sorted(now.keys() - self.labels.keys()):
            self.labels[name] = name if own < DESTINATIONS_MAX else OTHER
            own += self.labels[name] != OTHER

    def of(self, name: str, key: str) -> int:
        return self.seen.get(name, {}).get(key, 0) + self.base.get(name, {}).get(key, 0)

    def names(self) -> list[str]:
        return [*self.seen, *([OTHER] if OTHER in self.base and OTHER not in self.seen else [])]


@attrs.define
class Reading:
    """What one scrape has read."""

    few: list[Metric] = attrs.field(factory=list)  # of the broker and its store
    queue_counts: dict[str, dict[str, int]] = attrs.field(factory=dict)
    queue_gauges: dict[str, dict[str, float]] = attrs.field(factory=dict)
    topic_counts: dict[str, dict[str, int]] = attrs.field(factory=dict)
    topic_rows: dict[str, dict[str, float]] = attrs.field(factory=dict)


class Metrics:
    """A collector over one broker. One scrape at a time: all of `readings`, then `text`."""

    def __init__(self, broker: "Broker") -> None:
        self._broker = broker
        self._queues = Totals()
        self._topics = Totals()
        self._reading = Reading()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def readings(self) -> Iterator[None]:
        """Read the actors' state; between the slices others may run."""
        reading = Reading()
        directory = self._broker.directory
        queues = list(directory.queues.items())
        for at in range(0, len(queues), SLICE):
            for name, queue in queues[at : at + SLICE]:
                self._read_queue(reading, name, queue)
            yield
        topics = list(directory.topics.items())
        for at in range(0, len(topics), SLICE):
            for name, topic in topics[at : at + SLICE]:
                rules = getattr(topic.actor, "rules", None)
                if rules is not None and not name.startswith("_inbox."):
                    row = topic.row()
                    reading.topic_counts[name] = attrs.asdict(rules.counts)
                    reading.topic_rows[name] = {key: row[key] for key in TOPIC_GAUGES}
            yield
        reading.few = [*self._of_broker(), *self._of_store()]
        self._reading = reading

    def text(self) -> bytes:
        """The answer to a scrape, of what `readings` has read."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        yield from self._reading.few
        yield from self._of_queues()
        yield from self._of_topics()

    def _of_broker(self) -> Iterator[Metric]:
        broker, context = self._broker, self._broker.context
        yield InfoMetricFamily(
            "msg_build", "Versions",
            {"version": context.version, "python": sys.version.split()[0],
             "trio": version("trio")},
        )  # fmt: skip
        now = context.world.now()
        counters = context.counters
        yield _gauge("msg_uptime_seconds", "Since the start", now - broker.since)
        yield _gauge("msg_connections", "Open connections", len(broker.connections.open))
        yield _counter("msg_connections_total", "Connections accepted", counters.connections)
        yield _counter("msg_connections_refused_total", "Turned away", counters.refused)
        yield _counter("msg_connections_crashed_total", "Ended by a bug", counters.crashed)
        yield _counter("msg_frame_errors_total", "Frames answered with an error", counters.errors)
        dropped = context.outbound.dropped
        yield _counter("msg_slow_dropped_total", "Lost by slow subscribers of topics", dropped)
        subscriptions = sum([len(c.session.subs) for c in broker.connections.open.values()])
        yield _gauge("msg_subscriptions", "Of all connections", subscriptions)
        yield _gauge("msg_outbound_bytes", "Waiting for clients", context.outbound.used)
        yield _gauge("msg_backlog_bytes", "Kept for unheard topics", context.services.backlog.used)
        yield _gauge("msg_draining", "1 while the broker stops", int(context.draining))
        yield _gauge("msg_loop_lag_seconds", "How late the loop was", broker.watchdog.lag_s)
        yield _gauge("msg_loop_lag_max_seconds", "The latest ever", broker.watchdog.lag_max_s)
        yield _gauge("msg_actors_stuck", "That take no mail", len(broker.watchdog.stuck))
        actors = GaugeMetricFamily("msg_actors", "Actors that run", labels=["kind"])
        restarts = CounterMetricFamily("msg_actor_restarts_total", "After crashes", labels=["kind"])
        depth = GaugeMetricFamily(
            "msg_mailbox_depth", "The fullest mailbox of a kind", labels=["kind"]
        )
        directory = broker.directory
        for kind, handles in (
            ("queue", list(directory.queues.values())),
            ("topic", list(directory.topics.values())),
        ):
            actors.add_metric([kind], len(handles))
            restarts.add_metric([kind], sum([h.restarts.count for h in handles]))
            depth.add_metric([kind], max([h.mailbox.depth for h in handles], default=0))
        depth.add_metric(["store"], broker.storekeeper.commits.depth)
        depth.add_metric(["directory"], directory.mailbox.depth)
        yield from (actors, restarts, depth)

    def _of_store(self) -> Iterator[Metric]:
        store = self._broker.storekeeper
        now = self._broker.context.world.now()
        yield _gauge("msg_store_read_only", "1 while the disk is full", int(store.disk_full))
        busy = now - store.busy_since if store.busy_since is not None else 0.0
        yield _gauge("msg_store_busy_seconds", "Of the commit under way", busy)
        buckets, total, count = store.durations.cumulative()
        family = HistogramMetricFamily(
            "msg_store_commit_seconds", "Rounds of group commit: writes and syncs"
        )
        family.add_metric([], buckets=buckets, sum_value=total)
        assert buckets[-1][1] == count
        yield family
        yield _gauge("msg_store_bytes", "Of all logs on disk", self._disk_bytes())

    def _disk_bytes(self) -> int:
        directory = self._broker.directory
        actors = [queue.actor for queue in directory.queues.values()]
        actors += [topic.actor for topic in directory.topics.values()]  # type: ignore[misc]
        logs = [getattr(actor, "log", None) for actor in actors]
        return sum([log.disk_bytes for log in logs if log is not None])

    # -- by destination ---------------------------------------------------------------------

    def _read_queue(self, reading: Reading, name: str, queue: "Queue") -> None:
        ledger = getattr(queue.actor, "ledger", None)
        if ledger is None:
            return  # it is only starting
        if is_dead(name):
            return  # its queue tells of it
        counts = reading.queue_counts[name] = ledger.totals()
        # a backlog that was found at the start has not come since
        counts["accepted"] -= ledger.books.recalled
        states = ledger.states()
        dead = self._broker.directory.queues.get(dead_name(name))
        reading.queue_gauges[name] = {
            "ready": states["ready"],
            "leased": states["leased"],
            "delayed": states["delayed"],
            "dead": dead.gauge.messages if dead is not None else 0,
            "consumers": len(ledger.consumers),
            "bytes": ledger.bytes,
            "paused": int(ledger.paused),
        }

    def _of_queues(self) -> Iterator[Metric]:
        self._queues.note(self._reading.queue_counts)
        labels = self._queues.labels
        yield from _counters(self._queues, QUEUE_COUNTS, "queue")
        rows = self._reading.queue_gauges
        for key, text in QUEUE_GAUGES.items():
            yield _by_label(f"msg_queue_{key}", text, "queue", _summed(rows, key, labels))

    def _of_topics(self) -> Iterator[Metric]:
        self._topics.note(self._reading.topic_counts)
        labels = self._topics.labels
        yield from _counters(self._topics, TOPIC_COUNTS, "topic")
        rows = self._reading.topic_rows
        for key, text in TOPIC_GAUGES.items():
            yield _by_label(f"msg_topic_{key}", text, "topic", _summed(rows, key, labels))


TOPIC_GAUGES = {"subscribers": "Live subscriptions", "kept": "Messages kept"}
QUEUE_GAUGES = {
    "ready": "Messages that wait",
    "leased": "Messages in consumers' hands",
    "delayed": "Messages that wait for a time",
    "dead": "Dead letters",
    "consumers": "Consumers attached",
    "bytes": "Of all live messages",
    "paused": "1 while nothing is handed out",
}


def _summed(
    rows: dict[str, dict[str, float]], key: str, labels: dict[str, str]
) -> dict[str, float]:
    """One figure by label: of those that share one, the sum."""
    sums: dict[str, float] = {}
    for name, row in rows.items():
        label = labels.get(name, OTHER)
        sums[label] = sums.get(label, 0) + row[key]
    return sums


def _counters(totals: Totals, counts: dict[str, tuple[str, str]], label: str) -> Iterator[Metric]:
    for key, (metric, text) in counts.items():
        sums: dict[str, float] = {}
        for name in totals.names():
            own = totals.labels.get(name, OTHER)
            sums[own] = sums.get(own, 0) + totals.of(name, key)
        family = CounterMetricFamily(metric.removesuffix("_total"), text, labels=[label])
        for own, value in sums.items():
            family.add_metric([own], value)
        yield family


def _by_label(name: str, text: str, label: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for own, value in values.items():
        family.add_metric([own], value)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name.removesuffix("_total"), text, value=value)
