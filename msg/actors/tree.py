"""The actor tree, read from Trio's own nurseries: what really runs, under whom, and how it is.

Every actor's task has a name of kind and number or name (`queue jobs`, `connection 7`); what
is between them (a supervisor's helper tasks) is left out, and its children go to the actor
above. Figures come from the handles. Reading them changes nothing and asks no actor, so that
a stuck one is shown too.

A row has `waits_on` where its actor waits for another: for room in a mailbox, for an answer,
for the store, for a client that takes no bytes. `msg.actors.knots` reads cycles from that.

At 3,000 actors a dump takes some ten milliseconds, await stacks more: `picture` gives up its
turn after every `SLICE` actors. `dump_tree` does not, and is for the moment when all else has
stopped.
"""

from collections.abc import Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from msg.actors.glance import names_of
from msg.actors.knots import edges_of, knots_of
from msg.actors.waits import wait_of
from msg.core.names import dead_name

if TYPE_CHECKING:
    from msg.actors.broker import Broker
    from msg.actors.connection import Connection
    from msg.actors.mailbox import Mailbox
    from msg.actors.queue import Queue
    from msg.actors.topic import Topic

KINDS = frozenset(
    ["broker", "store", "timer", "directory", "listener", "connection", "queue", "topic",
     "writer", "heartbeat", "watchdog", "group", "web", "turnstile", "making", "deleting"]
)  # fmt: skip
SLICE = 50  # actors described in one turn: under half a millisecond
KEEP = 20  # of one kind under one parent, before the rest is folded
SENDERS_MAX = 10  # waiting senders that are named for one mailbox
NAMES_MAX = 3  # of a connection's consumers
# these live as long as the broker does
LASTING = frozenset(
    ["store", "timer", "directory", "listener", "heartbeat", "watchdog", "web", "turnstile"]
)
TAKES_TIME_S = 0.1  # a write or commit that is under way is no wait before that

Row = dict[str, Any]


class Place(NamedTuple):
    """An actor's task, and the name of the actor above it."""

    task: trio.lowlevel.Task
    name: str
    parent: str | None


def dump_tree(broker: "Broker") -> list[Row]:
    """Every actor as a dict, parents before children, siblings by name."""
    senders = senders_by_owner(places := list(walk(broker.root)))
    return [describe(broker, place, senders) for place in places]


async def picture(
    broker: "Broker",
    *,
    stacks: bool = False,
    keep: int | None = None,
    expand: Sequence[str] = (),
) -> Row:
    """The tree in slices: `actors`, `waits` (the edges), `knots` (sentences), `count`.

    With `keep`, actors of one kind under one parent are folded when there are more; `expand`
    names kinds or actors whose children are all shown.
    """
    places = list(walk(broker.root))
    senders = senders_by_owner(places)
    rows: list[Row] = []
    for i, place in enumerate(places):
        if i % SLICE == SLICE - 1:
            await trio.lowlevel.checkpoint()
        rows.append(describe(broker, place, senders))
        if stacks:
            rows[-1]["stack"] = stack_of(place.task)
    edges = edges_of(rows)
    knots = knots_of(edges)
    count = len(rows)
    if keep is not None:
        if not stacks:  # a writer is half of its connection, whose row says what it waits for
            rows = [row for row in rows if row["kind"] != "writer"]
            edges = [edge for edge in edges if not edge["from"].startswith("writer ")]
        rows = fold(rows, keep, expand)
    return {"actors": rows, "waits": edges, "knots": knots, "count": count}


def walk(root: trio.lowlevel.Task) -> Iterator[Place]:
    """All actors, parents before children."""
    yield Place(root, "broker", None)
    yield from _below(root, "broker")


def _below(task: trio.lowlevel.Task, parent: str) -> Iterator[Place]:
    for nursery in task.child_nurseries:
        for child in sorted(nursery.child_tasks, key=lambda t: _natural(t.name)):
            name = child.name
            if name.partition(" ")[0] in KINDS:
                yield Place(child, name, parent)
                yield from _below(child, name)
            else:
                yield from _below(child, parent)


def _natural(name: str) -> tuple[str, int, str]:
    """Connection 9 before connection 10."""
    kind, _, rest = name.partition(" ")
    return (kind, int(rest) if rest.isdecimal() else 0, rest)


Senders = dict[str, list[tuple[str, float]]]  # owner of a mailbox: (who waits, since when)


def senders_by_owner(places: Sequence[Place]) -> Senders:
    senders: Senders = {}
    for place in places:
        wait = wait_of(place.task)
        if wait is not None:
            senders.setdefault(wait.on, []).append((place.name, wait.since))
    return senders


def stack_of(task: trio.lowlevel.Task) -> list[str]:
    """Where a task stands, outermost first: `actors/queue.py:412 run`. Trio's own last steps,
    which are the same for all, are left out."""
    stack = []
    for frame, line in task.iter_await_frames():
        path = frame.f_code.co_filename.replace("\\", "/")
        if path.endswith("/trio/_core/_traps.py"):
            break
        for part in ("/msg/", "/site-packages/"):
            if part in path:
                path = path.rpartition(part)[2]
        stack.append(f"{path}:{line} {frame.f_code.co_name}")
    return stack


# -- one actor ------------------------------------------------------------------------------


def describe(broker: "Broker", place: Place, senders: Senders) -> Row:
    """One actor as a row."""
    now = broker.context.world.now()
    name = place.name
    kind, _, rest = name.partition(" ")
    row: Row = {"name": name, "kind": kind, "state": "running", "parent": place.parent}
    if (kind in LASTING and not rest.startswith("connection ")) or name == "group watch":
        row["age_s"] = round(now - broker.since, 3)
    waits: list[Row] = []
    wait = wait_of(place.task)
    if wait is not None:
        waits.append(_wait(wait.on, wait.what, now - wait.since))
    match kind:
        case "queue":
            queue = broker.directory.queues.get(rest)
            if queue is not None:
                _queue(broker, row, queue, waits, now, senders)
        case "topic":
            topic = broker.directory.topics.get(rest)
            if topic is not None:
                _handle(row, topic.mailbox, topic.restarts, now, senders)
                _topic(row, topic, waits, now)
        case "connection":
            connection = broker.connections.open.get(int(rest))
            if connection is not None:
                _connection(broker, row, connection, waits, now)
        case "writer":
            connection = broker.connections.open.get(int(rest))
            if connection is not None:
                row["age_s"] = round(now - connection.since, 3)
                if connection._writing_since < now - TAKES_TIME_S:
                    row["state"] = "waiting"
                    stalled = now - connection._writing_since
                    waits.append(_wait(_client(connection), "its bytes to be read", stalled))
        case "store" if not rest:
            store = broker.storekeeper
            _mailbox(row, store.commits, now, senders)
            row["rounds"] = store.rounds
            row["last_round_s"] = round(store.sync_s, 6)
            row["disk_full"] = store.disk_full
            if store.busy_since is not None:
                row["busy_s"] = round(now - store.busy_since, 3)
                if now - store.busy_since >= TAKES_TIME_S:
                    waits.append(_wait("disk", "a write or sync", now - store.busy_since))
        case "store":
            _mailbox(row, broker.storekeeper.reads, now, {})
        case "directory":
            _mailbox(row, broker.directory.mailbox, now, senders)
        case "broker":
            row["state"] = "draining" if broker.context.draining else "running"
            row["age_s"] = round(now - broker.since, 3)
    stuck = broker.watchdog.stuck.get(name)
    if stuck is not None:
        row["state"] = "stuck"
        row["stuck_s"] = round(now - stuck, 3)
    if waits:
        row["waits_on"] = waits
        if row["state"] == "running" and wait is not None:
            row["state"] = "waiting"
    return row


def _wait(on: str, what: str, seconds: float) -> Row:
    return {"on": on or "?", "what": what, "since_s": round(max(0.0, seconds), 3)}


def _client(connection: "Connection") -> str:
    return f"client {next(iter(names_of(connection)), connection.peer)}"


def _queue(
    broker: "Broker", row: Row, queue: "Queue", waits: list[Row], now: float, senders: Senders
) -> None:
    _handle(row, queue.mailbox, queue.restarts, now, senders)
    if queue.since:
        row["age_s"] = round(now - queue.since, 3)
    actor = queue.actor
    ledger = getattr(actor, "ledger", None)
    if actor is None or ledger is None:
        if row["state"] == "running":
            row["state"] = "starting"
        return
    if row["state"] == "running" and ledger.paused:
        row["state"] = "paused"
    states = ledger.states()
    row |= {name: states[name] for name in ("ready", "leased", "delayed")}
    dead = broker.directory.queues.get(dead_name(queue.name))
    row["dead"] = dead.gauge.messages if dead is not None else 0
    row["consumers"] = len(ledger.consumers)
    row["bytes"] = ledger.bytes
    in_flight = actor.estate.commits.in_flight
    if in_flight is not None and in_flight.job is not None:
        waited = now - in_flight.job.since
        if waited >= TAKES_TIME_S:
            waits.append(_wait("store", "its commit", waited))
    for until, batch in ledger.parked:
        origin = getattr(batch.origin, "number", None)
        if origin is not None:
            row.setdefault("parked", []).append(
                {"name": f"connection {origin}", "until_s": round(until - now, 3)}
            )


def _topic(row: Row, topic: "Topic", waits: list[Row], now: float) -> None:
    if topic.since:
        row["age_s"] = round(now - topic.since, 3)
    facts = topic.row()
    row |= {key: facts[key] for key in ("subscribers", "groups", "kept", "bytes") if key in facts}
    in_flight = topic.estate.commits.in_flight if topic.estate is not None else None
    if in_flight is not None and in_flight.job is not None:
        waited = now - in_flight.job.since
        if waited >= TAKES_TIME_S:
            waits.append(_wait("store", "its commit", waited))


def _connection(
    broker: "Broker", row: Row, connection: "Connection", waits: list[Row], now: float
) -> None:
    session, outbox = connection.session, connection.outbox
    row["age_s"] = round(now - connection.since, 3)
    row["peer"] = connection.peer
    row["client"] = ", ".join(names_of(connection)[:NAMES_MAX])
    row["subscriptions"] = len(session.subs)
    leased = credit = 0
    for port in session.ports:
        ledger = getattr(port.queue.actor, "ledger", None)
        consumer = ledger.consumers.get(port) if ledger is not None else None
        if consumer is not None:
            leased += len(consumer.leases)
            credit += max(0, consumer.credit)
    row["leased"] = leased
    row["credit"] = credit
    row["outbound_bytes"] = outbox.bytes + outbox.answer_bytes
    row["outbound_room"] = max(0, outbox.room)
    row["unanswered"] = session.unanswered
    row["published"] = session.published_count
    row["read_bytes"] = connection.read_bytes
    row["written_bytes"] = connection.written_bytes
    if connection._writing_since != inf and now - connection._writing_since >= TAKES_TIME_S:
        waits.append(
            _wait(_client(connection), "its bytes to be read", now - connection._writing_since)
        )
    if session.unanswered and not waits:
        row["waiting_for_answers"] = session.unanswered


def _handle(row: Row, mailbox: "Mailbox[Any]", restarts: Any, now: float, senders: Senders) -> None:
    _mailbox(row, mailbox, now, senders)
    row["restarts"] = restarts.count
    if restarts.last_error:
        row["last_error"] = restarts.last_error
    if restarts.failed:
        row["state"] = "failed"


def _mailbox(row: Row, mailbox: "Mailbox[Any]", now: float, senders: Senders) -> None:
    box: Row = {
        "depth": mailbox.depth,
        "room": mailbox.room,
        "free": mailbox.free_room,
        "waiting": mailbox.waiting,
    }
    waiting = senders.get(mailbox.owner)
    if waiting:
        waiting.sort(key=lambda sender: sender[1])
        box["senders"] = [
            {"name": name, "since_s": round(now - since, 3)}
            for name, since in waiting[:SENDERS_MAX]
        ]
    row["mailbox"] = box
    row["handled"] = mailbox.taken


# -- folding --------------------------------------------------------------------------------


def fold(rows: Sequence[Row], keep: int, expand: Sequence[str] = ()) -> list[Row]:
    """Of many actors of one kind under one parent only the most telling, and a row for the
    rest: {"name": "2980 more connections", "folded": 2980, …}. What is under a folded actor
    goes with it."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["parent"] or "", row["kind"]), []).append(row)
    below: dict[str, list[Row]] = {}
    for (parent, kind), group in groups.items():
        if len(group) > keep and kind not in expand and parent not in expand:
            group.sort(key=lambda row: (row["name"] not in expand, _dullness(row)))
            group[keep:] = [_sum(parent, kind, group[keep:])]
        below.setdefault(parent, []).extend(group)
    return list(_in_order(below, ""))


def _in_order(below: dict[str, list[Row]], parent: str) -> Iterator[Row]:
    """Parents before children."""
    for row in below.get(parent, ()):
        yield row
        yield from _in_order(below, row["name"])


def _dullness(row: Row) -> tuple[Any, ...]:
    """Sorts what a person looks for first."""
    box = row.get("mailbox") or {}
    return (
        row["state"] in ("running", "starting"),
        "waits_on" not in row,
        -(box.get("depth", 0) + box.get("waiting", 0)),
        -row.get("ready", 0),
        -row.get("leased", 0),
        -row.get("outbound_bytes", 0),
        -row.get("subscribers", 0),
        _natural(row["name"]),
    )


def _sum(parent: str, kind: str, rest: Sequence[Row]) -> Row:
    plural = {"directory": "directories"}.get(kind, f"{kind}s")
    row: Row = {"name": f"{len(rest)} more {plural}", "kind": kind, "state": "folded",
                "parent": parent, "folded": len(rest)}  # fmt: skip
    for key in ("ready", "leased", "delayed", "dead", "consumers", "bytes", "subscribers",
                "outbound_bytes", "handled", "restarts"):  # fmt: skip
        if any(key in each for each in rest):
            row[key] = sum([each.get(key, 0) for each in rest])
    depths = [each["mailbox"]["depth"] for each in rest if "mailbox" in each]
    if depths:
        row["mailbox"] = {"depth": sum(depths), "max": max(depths)}
    return row
