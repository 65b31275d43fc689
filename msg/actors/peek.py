"""Looking into a queue without taking anything: `peek` and `held`.

What is in memory is read between the queue's turns; what is only on disk is read through the
storekeeper, for the few messages that are shown.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
import trio

from msg.actors.asking import Row, Slot, ask, option, paged, queue_of, rows_of
from msg.actors.asking import choice as chosen
from msg.actors.glance import (
    connection_numbers,
    delayed,
    leases,
    ledger_of,
    moving_in,
    ready_in_memory,
    ready_seqs,
    suspects,
)
from msg.core.message import DURABILITY_NAMES, Message
from msg.core.names import is_dead
from msg.core.wire import rfc3339
from msg.errors import ClientError

if TYPE_CHECKING:
    from msg.actors.context import Context
    from msg.actors.queue import Queue
    from msg.core import commands
    from msg.store.log import ReadPlan

STATES = ("ready", "leased", "delayed", "committing", "leaving")
PEEK_MAX = 1000
HELD_MAX = 20_000
BODY_MAX = 64 << 10  # of one message in an answer; more is cut, and said


@attrs.frozen
class Found:
    """A message and where it stands. Without a message it is only on disk."""

    state: str
    seq: int
    message: Message | None
    more: Row = attrs.field(factory=dict)


async def peek(context: "Context", question: "commands.Question") -> Row:
    """Messages in any state, from any position, without taking any of them."""
    queue = queue_of(context, question)
    state = chosen(question, "state", ("all", *STATES), "ready")
    skip = option(question, "skip", int, 0)
    most = min(question.n or 10, PEEK_MAX)
    if most < 1 or skip < 0:
        raise ClientError("bad_field", '"n" is 1 or more, and the option "skip" 0 or more')
    places = await look(context, queue, STATES if state == "all" else (state,), skip, most)
    body_max = option(question, "body_bytes", int, BODY_MAX)
    shown = [row_of(found, body_max) for found in places]
    return {"topic": queue.name} | await paged(
        rows_of("messages", shown), question.cursor, "messages"
    )


async def look(
    context: "Context", queue: "Queue", states: Sequence[str], skip: int, most: int
) -> list[Found]:
    """The messages of these states; those that are only on disk have been read."""
    places: list[Found] = []
    for state in states:
        want = skip + most - len(places)
        if want <= 0:
            break
        places += islice(_in_memory(context, queue, state), want)
        if state == "ready" and len(places) < skip + most:
            places += await _on_disk(queue, skip + most - len(places))
    return await _read_all(context, queue, places[skip:])


def _in_memory(context: "Context", queue: "Queue", state: str) -> Iterator[Found]:
    ledger = ledger_of(queue)
    if ledger is None:
        return
    world = context.world
    now, ahead = world.now(), world.wall() - world.now()
    match state:
        case "ready":
            alone = {message.seq for message in suspects(ledger)}
            for message in ready_in_memory(ledger):
                yield Found(state, message.seq, message,
                            {"alone": True} if message.seq in alone else {})  # fmt: skip
        case "leased":
            for lease in leases(context.broker, queue):
                more: Row = {"consumer": lease.consumer.name}
                if lease.since is not None:
                    more["since"] = rfc3339(lease.since + ahead)
                if lease.until:
                    more["deadline_s"] = round(lease.until - now, 3)
                yield Found(state, lease.message.seq, lease.message, more)
        case "delayed":
            for due, seq, here in delayed(ledger):
                more = {"due": rfc3339(due + ahead), "due_s": round(due - now, 3)}
                yield Found(state, seq, here, more)
        case "committing":
            for message in ledger.committing.values():
                yield Found(state, message.seq, message)
        case "leaving":
            for message, to, _ in ledger.leaving.values():
                yield Found(state, message.seq, message, {"to": to})


async def _on_disk(queue: "Queue", most: int) -> list[Found]:
    """Ready messages that are not in memory, in the order of their seqs."""
    actor, ledger = queue.actor, ledger_of(queue)
    if actor is None or ledger is None or most <= 0 or queue.restarts.failed:
        return []
    here = ready_seqs(ledger)
    if ledger.states()["ready"] <= len(here):
        return []
    here.update([seq for c in ledger.consumers.values() for seq in c.leases])
    here.update([seq for _, seq, _ in delayed(ledger)])
    here.update(ledger.committing)
    here.update([m.seq for m, _, _ in ledger.leaving.values()])
    here.update([m.seq for m in moving_in(ledger)])
    found: list[Found] = []
    after = 0
    while len(found) < most:
        seqs = actor.log.live_after(after, 4096)
        if not seqs:
            break
        found += [Found("ready", seq, None) for seq in seqs if seq not in here]
        after = seqs[-1]
        await trio.lowlevel.checkpoint()
    return found[:most]


async def _read_all(context: "Context", queue: "Queue", places: list[Found]) -> list[Found]:
    """Read those that are only on disk. What was settled meanwhile is left out."""
    seqs = [place.seq for place in places if place.message is None]
    if not seqs:
        return places
    messages: dict[int, Message] = {}
    for message in await read_messages(context, queue, seqs):
        messages[message.seq] = message
    return [
        attrs.evolve(place, message=place.message or messages.get(place.seq))
        for place in places
        if place.message is not None or place.seq in messages
    ]


async def read_messages(context: "Context", queue: "Queue", seqs: Sequence[int]) -> list[Message]:
    """These messages of the queue's log, through the storekeeper."""
    plan: ReadPlan | None = await ask(queue, lambda actor, _: actor.log.plan_read_seqs(seqs))
    if plan is None:
        return []
    slot = Slot()
    context.services.storekeeper.read(plan, slot, ahead=False)
    fetched = await slot.reply.wait()
    if fetched.error is not None:
        raise ClientError("store_failed", f"the disk could not be read: {fetched.error}")
    messages: list[Message] = await ask(
        queue, lambda actor, _: actor.log.parse_read(plan, fetched.blobs)
    )
    return messages


def row_of(found: Found, body_max: int = BODY_MAX) -> Row:
    """A message as an answer shows it."""
    message = found.message
    assert message is not None
    row = shown(message, body_max)
    row["state"] = found.state
    return row | found.more


def shown(message: Message, body_max: int = BODY_MAX) -> Row:
    """The message's own facts and its body, which is cut when it is long."""
    size = len(message.wire)
    row: Row = {"seq": message.seq}
    if size > body_max:
        fields = msgspec.json.decode(b"{%b}" % message.wire, type=_Outside)
        body, fields.message = bytes(fields.message), msgspec.Raw(b"null")
        row |= {k: v for k, v in msgspec.structs.asdict(fields).items() if v is not None}
        row["message"] = body[:body_max].decode("utf-8", "replace")
        row["cut"] = True
    else:
        row |= msgspec.json.decode(b"{%b}" % message.wire)
    row["bytes"] = size
    row["attempt"] = message.attempts + 1
    row["durability"] = DURABILITY_NAMES[message.durability]
    if message.priority != 4:
        row["priority"] = message.priority
    if message.returned:
        row["returned"] = message.returned
    if message.expires:
        row["expires"] = rfc3339(message.expires)
    if message.case:
        row["attempts"] = msgspec.to_builtins(message.case)
    return row


class _Outside(msgspec.Struct):
    """What is around a long body."""

    topic: str
    message_id: str
    published_at: str
    message: msgspec.Raw
    headers: dict[str, str] | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    encoding: str | None = None
    case: dict[str, Any] | None = None


async def held(context: "Context", question: "commands.Question") -> Row:
    """Who holds what, since when, and until when; of one queue or of all."""
    if question.topic is not None:
        queues = [queue_of(context, question)]
    else:
        queues = [q for _, q in sorted(context.directory.queues.items()) if not is_dead(q.name)]
    now = context.world.now()
    ahead = context.world.wall() - now
    numbers = connection_numbers(context.broker)
    found: list[tuple[float, Row]] = []
    for queue in queues:
        if queue.leased:
            await trio.lowlevel.checkpoint()
            for lease in leases(context.broker, queue):
                found.append(
                    (
                        inf if lease.since is None else lease.since,
                        _lease_row(queue, lease, now, ahead, numbers),
                    )
                )
        if len(found) > HELD_MAX:
            break
    found.sort(key=lambda entry: entry[0])
    return await paged(rows_of("held", [row for _, row in found]), question.cursor, "held")


def _lease_row(
    queue: "Queue", lease: Any, now: float, ahead: float, numbers: dict[object, int]
) -> Row:
    message, consumer = lease.message, lease.consumer
    row: Row = {
        "queue": queue.name,
        "message_id": message.id,
        "seq": message.seq,
        "attempt": message.attempts + 1,
        "consumer": consumer.name,
        "connection": numbers.get(getattr(consumer.port, "outbox", None)),
        "since": None if lease.since is None else rfc3339(lease.since + ahead),
        "held_s": None if lease.since is None else round(now - lease.since, 3),
        "deadline_s": round(lease.until - now, 3) if lease.until else None,
    }
    if not lease.exact and lease.since is not None:
        row["at_least"] = True
    if consumer.ack_timeout and not lease.until:
        row["unwritten"] = True
    return row
