"""What the page shows first: every queue, topic and connection that matters now, with its level.

Of thousands, those that move or hold the most; the rest is counted. Everything that is not as
it should be is named, shown or not.
"""

from typing import TYPE_CHECKING, Any

import trio

from msg.actors.causes import LEVELS, worst
from msg.actors.why import look, why, why_broker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from msg.actors.broker import Broker
    from msg.actors.connection import Connection
    from msg.web.history import History

SHOWN = 100  # of a kind
PLOTTED = 40  # samples of the small plots
SLICE = 20

Row = dict[str, Any]


async def overview(broker: "Broker", history: "History", find: str, most: int) -> Row:
    """One look at everything."""
    questions = broker.context.questions
    directory = broker.directory
    busy: list[tuple[float, int, str, Any]] = []
    queues = [(n, q) for n, q in sorted(directory.queues.items()) if find in n]
    for name, queue in queues:
        rates = history.rates("queue", name)
        busy.append((rates["in"] + rates["out"], queue.gauge.messages, name, queue))
    busy.sort(key=lambda entry: (-entry[0], -entry[1], entry[2]))
    shown = sorted(busy[:most], key=lambda entry: entry[2])
    queue_rows = []
    for i, (_, _, name, queue) in enumerate(shown):
        if i % SLICE == SLICE - 1:
            await trio.lowlevel.checkpoint()
        row = questions.queue_row(queue)
        queue_rows.append(_with_cause(broker, "queue", queue, row, history, name))
    topics = [
        (n, t) for n, t in sorted(directory.topics.items())
        if find in n and not n.startswith("_inbox.")
    ]  # fmt: skip
    topics.sort(key=lambda entry: -history.rates("topic", entry[0])["in"])
    topic_rows = []
    for i, (name, topic) in enumerate(sorted(topics[:most])):
        if i % SLICE == SLICE - 1:
            await trio.lowlevel.checkpoint()
        row = questions.topic_row(topic)
        topic_rows.append(_with_cause(broker, "topic", topic, row, history, name))
    connections = _connections(broker, find)
    alerts = [subject for subject in await why(broker, None) if subject["level"] != "ok"]
    return {
        "at": broker.context.world.wall(),
        "level": max([s["level"] for s in alerts], key=LEVELS.index, default="ok"),
        "broker": [{"level": c.level, "code": c.code, "text": c.text, "do": c.do}
                   for c in why_broker(broker)],
        "alerts": alerts[:50],
        "queues": queue_rows,
        "queues_in_all": len(queues),
        "topics": topic_rows,
        "topics_in_all": len(topics),
        "connections": [_connection_row(broker, c) for c in connections[:most]],
        "connections_in_all": len(connections),
    } | {"stats": questions.broker_row()}  # fmt: skip


def _with_cause(
    broker: "Broker", kind: str, thing: Any, row: Row, history: "History", name: str
) -> Row:
    """The row, its level with the gravest cause, and its small plot."""
    causes = look(broker, kind, thing)
    row["level"] = worst(causes)
    row["cause"] = next((c.text for c in causes if c.level == row["level"]), "")
    row["rates"] = history.rates(kind, name)
    plot = history.plot(kind, name, PLOTTED)
    row["plot"] = {"in": plot["in"], "waits": plot["waits"]}
    return row


def _connections(broker: "Broker", find: str) -> "Sequence[Connection]":
    """Those that have the most to take first."""
    found = [
        c for c in broker.connections.open.values()
        if not find or find in c.session.name or find in c.peer
        or any([find in key[1] for key in c.session.subs])
    ]  # fmt: skip
    found.sort(key=lambda c: (-(c.outbox.bytes + c.outbox.answer_bytes), c.number))
    return found


def _connection_row(broker: "Broker", connection: "Connection") -> Row:
    session, outbox = connection.session, connection.outbox
    causes = look(broker, "connection", connection)
    level = worst(causes)
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
        "cause": next((c.text for c in causes if c.level == level), ""),
    }  # fmt: skip
