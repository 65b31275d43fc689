"""Why something stands still: `trio-msg why QUEUE|TOPIC|CONNECTION`, or of the whole broker.

From state, in plain sentences, each with what to do. Nothing here asks an actor, so that the
answer comes although an actor hangs.
"""

from collections import Counter
from math import inf
from typing import TYPE_CHECKING, Any

import attrs
import trio

from msg.actors.causes import LEVELS, Cause, worst
from msg.actors.glance import ledger_of, names_of
from msg.actors.ports import TopicPort
from msg.actors.waits import wait_of
from msg.actors.why_queue import why_queue
from msg.actors.why_topic import why_topic
from msg.core.units import count, seconds, size
from msg.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from msg.actors.broker import Broker
    from msg.actors.connection import Connection

LAG_S = 0.25  # a loop this late is worth a word
SLICE = 50
SUBJECTS_MAX = 200  # of the broker's answer
NEARLY = 0.9  # of a limit

Row = dict[str, Any]


async def why(broker: "Broker", name: str | None) -> list[Row]:
    """The subjects of that name with their causes; without a name the broker and everything
    in it that is not as it should be. Raises ClientError (not_found)."""
    if name is None:
        return await _why_all(broker)
    subjects = []
    queue = broker.directory.find_queue(name)
    if queue is not None:
        subjects.append(_subject("queue", name, why_queue(broker, queue)))
    topic = broker.directory.find_topic(name)
    if topic is not None:
        subjects.append(_subject("topic", name, why_topic(broker, topic)))
    for connection in _connections(broker, name):
        subjects.append(_of_connection(broker, connection))
    if not subjects:
        raise ClientError(
            "not_found",
            f"there is no queue, topic or connection {name!r}: `trio-msg queues`, `topics` and"
            " `tree` list what there is",
        )
    return subjects


def _connections(broker: "Broker", name: str) -> "list[Connection]":
    """By number (`7`, `connection 7`), by the client's or a consumer's name, or by address."""
    number = name.removeprefix("connection ").removeprefix("writer ")
    table = broker.connections.open
    if number.isdecimal():
        found = table.get(int(number))
        return [found] if found is not None else []
    return [c for c in table.values() if name in (c.peer, *names_of(c))][:SUBJECTS_MAX]


def _of_connection(broker: "Broker", connection: "Connection") -> Row:
    subject = _subject("connection", str(connection.number), why_connection(broker, connection))
    return subject | {"client": ", ".join(names_of(connection)), "peer": connection.peer}


def _subject(kind: str, name: str, causes: list[Cause]) -> Row:
    causes = sorted(causes, key=lambda cause: -LEVELS.index(cause.level))
    return {
        "kind": kind,
        "name": name,
        "level": worst(causes),
        "causes": [attrs.asdict(cause) for cause in causes],
    }


async def _why_all(broker: "Broker") -> list[Row]:
    subjects = [_subject("broker", "broker", list(why_broker(broker)))]
    directory = broker.directory
    checks: list[tuple[str, str, Any]] = [
        *(("queue", name, queue) for name, queue in sorted(directory.queues.items())),
        *(("topic", name, topic) for name, topic in sorted(directory.topics.items())),
        *(("connection", str(number), c) for number, c in sorted(broker.connections.open.items())),
    ]
    for i, (kind, name, thing) in enumerate(checks):
        if i % SLICE == SLICE - 1:
            await trio.lowlevel.checkpoint()
        causes = look(broker, kind, thing)
        if worst(causes) in ("slow", "stuck"):
            subjects.append(
                _of_connection(broker, thing) if kind == "connection"
                else _subject(kind, name, causes)
            )  # fmt: skip
    broker_itself, *rest = subjects
    # what is stuck comes first, and of each kind some: many queues hide no connection
    seen: Counter[str] = Counter()
    place: dict[int, int] = {}
    for subject in rest:
        place[id(subject)] = seen[subject["kind"]]
        seen[subject["kind"]] += 1
    rest.sort(key=lambda subject: (-LEVELS.index(subject["level"]), place[id(subject)]))
    if len(rest) > SUBJECTS_MAX:
        broker_itself["causes"].append(
            attrs.asdict(
                Cause(
                    "note",
                    "more",
                    f"{len(rest) - SUBJECTS_MAX:,} more queues, topics and connections are not"
                    " as they should be.",
                    "Ask about one: `trio-msg why NAME`.",
                )
            )
        )
    return [broker_itself, *rest[:SUBJECTS_MAX]]


def look(broker: "Broker", kind: str, thing: Any) -> list[Cause]:
    """A quick look at a queue, topic or connection."""
    if kind == "queue":
        return why_queue(broker, thing, deep=False)
    if kind == "topic":
        return why_topic(broker, thing)
    return why_connection(broker, thing)


def why_broker(broker: "Broker") -> "Iterator[Cause]":
    """What concerns all: the store, the loop, limits, a stop under way."""
    context, store = broker.context, broker.storekeeper
    now = context.world.now()
    if context.draining:
        yield Cause("slow", "draining", "The broker is stopping: it takes no new publishes.")
    if store.disk_full:
        yield Cause(
            "stuck", "disk_full",
            "The store takes no publishes because the disk is full; deliveries and acks go on.",
            "Free some space on the data directory's disk: it recovers by itself.",
        )  # fmt: skip
    if store.busy_since is not None and now - store.busy_since > 1:
        yield Cause(
            "stuck", "disk_slow",
            f"The disk has not finished a write or sync for {seconds(now - store.busy_since)}.",
            "Look at the disk (iostat -x 1, dmesg).",
        )  # fmt: skip
    for name in broker.watchdog.stuck:
        yield Cause(
            "stuck", "takes_no_mail", f"Actor {name} does not take its mail.",
            "`trio-msg tree --stacks` shows where it stands.",
        )  # fmt: skip
    if broker.watchdog.lag_s > LAG_S:
        yield Cause(
            "slow", "loop_late",
            f"The loop turned {seconds(broker.watchdog.lag_s)} late: this process does not get"
            " enough CPU time, or a turn takes too long.",
        )  # fmt: skip
    limits = context.settings.limits
    names = len(broker.directory.queues) + len(broker.directory.topics)
    for code, what, used, most in (
        ("connections", "connections", len(broker.connections.open), limits.connections),
        ("names", "queues and topics", names, limits.names),
        ("outbound", "bytes waiting for clients", context.outbound.used, limits.outbound_bytes_all),
    ):
        if used >= NEARLY * most:
            yield Cause(
                "slow", f"near_limit_{code}", f"{used:,} {what} of the {most:,} that may be.",
                f"See limits in `trio-msg limits`; {context.counters.refused:,} were refused.",
            )  # fmt: skip


def why_connection(broker: "Broker", connection: "Connection") -> list[Cause]:
    """What keeps one client from getting, or from being heard."""
    causes = list(_reading(broker, connection))
    causes += _writing(broker, connection)
    causes += _subscriptions(broker, connection)
    return causes


def _reading(broker: "Broker", connection: "Connection") -> "Iterator[Cause]":
    now = broker.context.world.now()
    session, outbox = connection.session, connection.outbox
    wait = wait_of(connection.task) if connection.task is not None else None
    if wait is not None and now - wait.since > 0.1:
        target = wait.on.partition(" ")[2]
        yield Cause(
            "slow", "waits",
            f"It is not read from: it waits for {wait.what} of {wait.on or 'another actor'} for"
            f" {seconds(now - wait.since)}.",
            f"`trio-msg why {target}`" if target else "`trio-msg why`",
        )  # fmt: skip
    if outbox.answer_bytes > connection.limits.answer_bytes:
        yield Cause(
            "stuck", "answers_unread",
            f"It does not read its answers: {size(outbox.answer_bytes)} of them wait, and until"
            " half of that is read nothing more is read from it.",
            "Read from the connection while publishing, in another task.",
        )  # fmt: skip
    if connection._partial_since != inf:
        yield Cause(
            "slow", "partial_frame",
            f"A frame has begun and not ended for {seconds(now - connection._partial_since)}.",
            "Send the rest of it: a partial frame lives 30 s.",
        )  # fmt: skip
    if session.unanswered:
        yield Cause(
            "note", "unanswered",
            f"{count(session.unanswered, 'request of it waits', 'requests of it wait')} for an"
            " answer.",
        )  # fmt: skip


def _writing(broker: "Broker", connection: "Connection") -> "Iterator[Cause]":
    now = broker.context.world.now()
    outbox = connection.outbox
    since = connection._writing_since
    waits = outbox.bytes + outbox.answer_bytes
    if since != inf and now - since > 1:
        stall = connection.limits.write_stall_seconds
        cut = f" At its limit it is cut after {stall:g} s of that." if outbox.room <= 0 else ""
        yield Cause(
            "stuck", "takes_no_bytes",
            f"The client has taken no bytes for {seconds(now - max(since, connection._last_write))}"
            f" while {size(waits)} wait for it.{cut}",
            "The client does not read from its socket: see what it is busy with.",
        )  # fmt: skip
    elif outbox.room <= 0:
        yield Cause(
            "slow", "outbound_full",
            f"{size(waits)} wait for the client, its limit: nothing is handed to it until it"
            " reads.",
            "Let the client read faster, or ask for less with prefetch.",
        )  # fmt: skip


def _subscriptions(broker: "Broker", connection: "Connection") -> "Iterator[Cause]":
    for port in connection.session.ports:
        ledger = ledger_of(port.queue)
        consumer = ledger.consumers.get(port) if ledger is not None else None
        if ledger is None or consumer is None:
            continue
        queue = port.queue.name
        if consumer.suspended:
            yield Cause(
                "stuck", "consumer_hung",
                f'It let a lease of queue "{queue}" expire and gets nothing new from there until'
                " it acks, nacks or touches something.",
                "Restart the client; ask for a longer ack_timeout, or touch, if work takes long.",
            )  # fmt: skip
        elif consumer.credit <= 0 and ledger.states()["ready"]:
            yield Cause(
                "note", "at_prefetch",
                f'It holds {count(len(consumer.leases), "message")} of queue "{queue}", its'
                " prefetch: it gets more when it settles some.",
                f"`trio-msg held {queue}`",
            )  # fmt: skip
    for key, sub in connection.session.subs.items():
        slow = sub.port
        if isinstance(slow, TopicPort) and slow.dropped and not slow.behind:
            yield Cause(
                "note", "dropped",
                f'It has been a slow subscriber of "{key[1]}": {count(slow.dropped, "message")}'
                " dropped; it keeps up now.",
            )  # fmt: skip
        elif isinstance(slow, TopicPort) and slow.dropped:
            yield Cause(
                "slow", "dropped",
                f'It is a slow subscriber of "{key[1]}": {count(slow.dropped, "message")} dropped,'
                f" {count(slow.count, 'message')} ({size(slow.bytes)}) wait for it now.",
                "Let the client read faster, or subscribe in a group, which keeps what is missed.",
            )  # fmt: skip
