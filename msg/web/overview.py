"""What the page shows first: every queue, topic and connection that matters now, with its level.

Of thousands, those that move or hold the most; the rest is counted. Everything that is not as
it should be is named, shown or not.
"""

from typing import TYPE_CHECKING, Any

import attrs
import trio

from msg.actors.causes import LEVELS, Cause, worst
from msg.actors.why import look, why_broker
from msg.core.names import split_group
from msg.core.patterns import matches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from msg.actors.broker import Broker
    from msg.actors.connection import Connection
    from msg.web.history import History

SHOWN = 100  # of a kind
SHOWN_MAX = 1000
ALERTS = 50
PLOTTED = 40  # samples of the small plots
SLICE = 20
NAMES = 12  # of subjects with the same causes
FEW = 3  # so many with the same causes are shown each by itself
SERIOUS = ("slow", "stuck")
FRESH_S = 1.0  # several pages that are open look at all once
KINDS = ("queues", "topics", "connections")
# notes of a moment, that come and go with each message: a table that shows them is restless
PASSING = ("leased", "unanswered")

Row = dict[str, Any]


@attrs.define
class Alerts:
    """Everything that is not as it should be, worst first; looked for once a second at most.

    Three thousand queues without a consumer are one alert, with some of their names: so they
    do not hide the one connection that hangs.
    """

    broker: "Broker"
    _found: list[Row] = attrs.field(factory=list)
    _at: float = float("-inf")
    _looking: trio.Lock = attrs.field(factory=trio.Lock)

    async def look(self) -> list[Row]:
        async with self._looking:
            now = self.broker.context.world.now()
            if now - self._at >= FRESH_S:
                self._found, self._at = await self._look(), now
            return self._found

    async def _look(self) -> list[Row]:
        broker = self.broker
        alike: dict[tuple[str, ...], list[tuple[str, list[Cause]]]] = {}
        counts: dict[tuple[str, ...], int] = {}
        whole = [cause for cause in why_broker(broker) if cause.level in SERIOUS]
        if whole:
            alike["broker",], counts["broker",] = [("broker", whole)], 1
        things: list[tuple[str, str, Any]] = [
            *(("queue", name, queue) for name, queue in sorted(broker.directory.queues.items())),
            *(("topic", name, topic) for name, topic in sorted(broker.directory.topics.items())),
            *(("connection", str(number), c) for number, c in broker.connections.open.items()),
        ]
        for i, (kind, name, thing) in enumerate(things):
            if i % SLICE == SLICE - 1:
                await trio.lowlevel.checkpoint()
            causes = [cause for cause in look(broker, kind, thing) if cause.level in SERIOUS]
            if causes:
                key = (kind, *[cause.code for cause in causes])
                counts[key] = counts.get(key, 0) + 1
                if counts[key] <= NAMES:
                    alike.setdefault(key, []).append((name, causes))
        found: list[Row] = []
        for key, subjects in alike.items():
            if counts[key] > FEW:
                found.append(_alert(key[0], subjects, counts[key]))
            else:
                found += [_alert(key[0], [subject], 1) for subject in subjects]
        found.sort(key=lambda alert: (-LEVELS.index(alert["level"]), -alert["count"]))
        return found


def _alert(kind: str, subjects: "Sequence[tuple[str, list[Cause]]]", count: int) -> Row:
    """Of several the causes are those of the first."""
    name, causes = subjects[0]
    return {
        "kind": kind,
        "name": name,
        "names": [name for name, _ in subjects],
        "count": count,
        "level": worst(causes),
        "causes": [attrs.asdict(cause) for cause in causes],
    }


@attrs.frozen
class Wanted:
    """What of the overview is asked for."""

    find: str = ""  # names that hold this text
    most: int = SHOWN  # of a kind
    kinds: "Sequence[str]" = KINDS
    hears: str = ""  # connections that subscribe to this topic
    number: int | None = None  # this connection


async def summary(broker: "Broker", alerts: Alerts) -> Row:
    """What stands above every view."""
    found = await alerts.look()
    return {
        "level": _level(found),
        "alerts": sum([alert["count"] for alert in found]),
        **broker.context.questions.broker_row(),
    }


def _level(alerts: "Sequence[Row]") -> str:
    return max([alert["level"] for alert in alerts], key=LEVELS.index, default="ok")


async def overview(broker: "Broker", history: "History", alerts: Alerts, wanted: Wanted) -> Row:
    """One look at everything, or at one kind of it."""
    found = await alerts.look()
    totals = history.rates("broker", "") | history.totals._asdict()
    answer: Row = {
        "at": broker.context.world.wall(),
        "level": _level(found),
        "alerts": found[:ALERTS],
        "alerts_in_all": sum([alert["count"] for alert in found]),
        "totals": totals,
        "stats": broker.context.questions.broker_row(),
    }
    if "queues" in wanted.kinds:
        answer |= await _queues(broker, history, wanted)
    if "topics" in wanted.kinds:
        answer |= await _topics(broker, history, wanted)
    if "connections" in wanted.kinds:
        connections = _connections(broker, wanted)
        rows = [_connection_row(broker, c) for c in connections[: wanted.most]]
        answer |= {"connections": rows, "connections_in_all": len(connections)}
    return answer


async def _queues(broker: "Broker", history: "History", wanted: Wanted) -> Row:
    queues = [(name, q) for name, q in broker.directory.queues.items() if wanted.find in name]
    if len(queues) > wanted.most:
        queues.sort(key=lambda e: (-history.movement("queue", e[0]), -e[1].gauge.messages, e[0]))
    rows = []
    for i, (name, queue) in enumerate(sorted(queues[: wanted.most], key=lambda e: e[0])):
        if i % SLICE == SLICE - 1:
            await trio.lowlevel.checkpoint()
        row = broker.context.questions.queue_row(queue)
        if "ready" in row:  # else its actor is only starting
            rows.append(_with_cause(broker, "queue", queue, row, history, name))
    return {"queues": rows, "queues_in_all": len(queues)}


async def _topics(broker: "Broker", history: "History", wanted: Wanted) -> Row:
    topics = [
        (name, t) for name, t in broker.directory.topics.items()
        if wanted.find in name and not name.startswith("_inbox.")
    ]  # fmt: skip
    if len(topics) > wanted.most:
        topics.sort(key=lambda e: (-history.movement("topic", e[0]), e[0]))
    rows = []
    for i, (name, topic) in enumerate(sorted(topics[: wanted.most], key=lambda e: e[0])):
        if i % SLICE == SLICE - 1:
            await trio.lowlevel.checkpoint()
        row = broker.context.questions.topic_row(topic)
        rows.append(_with_cause(broker, "topic", topic, row, history, name))
    return {"topics": rows, "topics_in_all": len(topics)}


def _with_cause(
    broker: "Broker", kind: str, thing: Any, row: Row, history: "History", name: str
) -> Row:
    """The row, its level with the gravest cause, and its small plot."""
    row["level"], row["cause"] = _gravest(broker, kind, thing)
    row["rates"] = history.rates(kind, name)
    plot = history.plot(kind, name, PLOTTED)
    row["plot"] = {key: plot[key] for key in ("in", "out", "waits")}
    return row


def _gravest(broker: "Broker", kind: str, thing: Any) -> tuple[str, str]:
    """(level, sentence)."""
    causes = [
        cause
        for cause in look(broker, kind, thing)
        if cause.level != "note" or cause.code not in PASSING
    ]
    level = worst(causes)
    return level, next((cause.text for cause in causes if cause.level == level), "")


def _connections(broker: "Broker", wanted: Wanted) -> "Sequence[Connection]":
    """Those that have the most to take first."""
    if wanted.number is not None:
        one = broker.connections.open.get(wanted.number)
        return [] if one is None else [one]
    find, hears = wanted.find, wanted.hears
    found = [
        c for c in broker.connections.open.values()
        if (not find or find in c.session.name or find in c.peer
            or any([find in key[1] for key in c.session.subs]))
        and (not hears or any([key[0] == "pubsub" and key[2] is None and _hears(key[1], hears)
                               for key in c.session.subs]))
    ]  # fmt: skip
    found.sort(key=lambda c: (-(c.outbox.bytes + c.outbox.answer_bytes), c.number))
    return found


def _hears(pattern: str, topic: str) -> bool:
    return matches(split_group(pattern)[0], topic)


def _connection_row(broker: "Broker", connection: "Connection") -> Row:
    session, outbox = connection.session, connection.outbox
    level, cause = _gravest(broker, "connection", connection)
    held = sum([len(port.held) for port in session.ports])
    return {
        "number": connection.number,
        "client": session.name,
        "peer": connection.peer,
        "age_s": round(broker.context.world.now() - connection.since, 1),
        "subscriptions": [key[1] if key[2] is None else f"{key[1]}@{key[2]}"
                          for key in list(session.subs)[:5]],
        "subscribed": len(session.subs),
        "published": session.published_count,
        "held": held,
        "to_send": outbox.bytes + outbox.answer_bytes,
        "read_bytes": connection.read_bytes,
        "written_bytes": connection.written_bytes,
        "level": level,
        "cause": cause,
    }  # fmt: skip
