"""Glances at a queue from outside of its turns: what debugging shows of a ledger.

An actor's state changes only in its turns, and a turn never waits; so between turns it may be
read without asking. That is how a queue that takes no mail can be shown too. All that
questions read of a ledger's insides goes through this module.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from math import inf
from typing import TYPE_CHECKING

import attrs

from msg.actors.queue import Sent, Settle
from msg.actors.timer import Tick
from msg.core.credit import Consumer
from msg.core.message import Message

if TYPE_CHECKING:
    from msg.actors.broker import Broker
    from msg.actors.connection import Connection
    from msg.actors.queue import Queue
    from msg.core.ledger import QueueLedger


@attrs.frozen
class Lease:
    """One message in a consumer's hands. Times are monotonic."""

    message: Message
    consumer: Consumer
    until: float  # its deadline; 0 = its clock does not run (yet)
    since: float | None  # when it was handed over, as far as that is known
    exact: bool  # False: a touch or a restart of the clock hides the first hand-over


def ledger_of(queue: "Queue") -> "QueueLedger | None":
    """The ledger of a queue that runs."""
    return getattr(queue.actor, "ledger", None)


def hear_acks(queues: "Iterable[Queue]") -> bool:
    """Have acks heard that these queues have only noted, so that nobody is told of messages as
    held that were acked before. Whether there are any; queues that run hear them in the next
    pass of the loop."""
    noted = [q for q in queues if any([isinstance(note, Settle) for note in q.mailbox.notes])]
    for queue in noted:
        queue.post(Tick(0.0))
    return bool(noted)


def leases(broker: "Broker", queue: "Queue", *, exact: bool = True) -> list[Lease]:
    """Everything that is leased, the longest held first. Without `exact` what was handed over
    lately is not searched, and the times are those of the deadlines' beginnings."""
    ledger = ledger_of(queue)
    if ledger is None:
        return []
    world = broker.context.world
    ahead = world.wall() - world.now()
    wanted = {seq for consumer in ledger.consumers.values() for seq in consumer.leases}
    known: dict[int, float] = {}
    for handover in broker.context.services.recent.leases_of(queue.name) if exact else ():
        if len(known) == len(wanted):
            break
        for seq in handover.seqs:
            if seq in wanted:
                known.setdefault(seq, handover.wall - ahead)
    found = []
    noted = _written(queue)
    for consumer in ledger.consumers.values():
        for message in consumer.leases.values():
            until = _until(message, consumer, noted)
            since = known.get(message.seq)
            guess = until - consumer.ack_timeout if until else None
            found.append(Lease(message, consumer, until, guess if since is None else since,
                               since is not None))  # fmt: skip
    found.sort(key=lambda lease: (inf if lease.since is None else lease.since, lease.message.seq))
    return found


def deadlines(queue: "Queue", consumer: Consumer) -> Iterator[tuple[Message, float]]:
    """What this consumer holds, each with its deadline; 0 = its clock does not run (yet)."""
    noted = _written(queue)
    for message in consumer.leases.values():
        yield message, _until(message, consumer, noted)


def _written(queue: "Queue") -> dict[int, float]:
    """When frames were written of which the queue hears only with its next mail: seq -> when."""
    return {
        message.seq: note.at
        for note in queue.mailbox.notes
        if isinstance(note, Sent)
        for message in note.messages
    }


def _until(message: Message, consumer: Consumer, noted: dict[int, float]) -> float:
    if message.until or not consumer.ack_timeout:
        return message.until
    at = noted.get(message.seq)
    return 0.0 if at is None else at + consumer.ack_timeout


def next_due(ledger: "QueueLedger") -> float | None:
    """When the next delayed message comes, monotonic."""
    return ledger.delayed.next_due if len(ledger.delayed) else None


def failing(ledger: "QueueLedger", most: int = 10_000) -> int:
    """How many of the delayed messages failed before, as far as a short look tells."""
    return sum([m.attempts > 0 for m in islice(ledger.delayed.hot.values(), most)])


def delayed(ledger: "QueueLedger") -> list[tuple[float, int, Message | None]]:
    """(due, seq, message or None if it is only on disk), the next one first."""
    return ledger.delayed.entries()


def suspects(ledger: "QueueLedger") -> list[Message]:
    """Messages that consumers died of: tried alone."""
    return ledger.suspects


def moving_in(ledger: "QueueLedger") -> list[Message]:
    """Those that have come from another queue, which does not yet know."""
    return list(ledger.moves.arrived.values())


def parked(ledger: "QueueLedger") -> tuple[int, float | None]:
    """How many publishes wait for room (overflow = block), and until when the first may."""
    if not ledger.parked:
        return 0, None
    return sum([len(batch) for _, batch in ledger.parked]), ledger.parked[0][0]


def ready_in_memory(ledger: "QueueLedger") -> Iterator[Message]:
    """Next ones first, without those that are only on disk."""
    yield from ledger.waiting


def ready_ids(ledger: "QueueLedger", message_id: str) -> Iterator[tuple[int, Message]]:
    """Those in memory with this id, each with how many stand before it."""
    yield from ledger.waiting.find(message_id)


def ready_seqs(ledger: "QueueLedger") -> set[int]:
    """Of those in memory."""
    return set(ledger.waiting.seqs())


def connection_numbers(broker: "Broker") -> dict[object, int]:
    """The number of the connection behind an outbox."""
    return {c.outbox: number for number, c in broker.connections.open.items()}


def connections_by_outbox(broker: "Broker") -> "dict[object, Connection]":
    """The connection behind an outbox."""
    return {c.outbox: c for c in broker.connections.open.values()}


def names_of(connection: "Connection") -> list[str]:
    """What a person may know it by: the client's own name, then its consumers'."""
    session = connection.session
    names = [session.name, *[port.name for port in session.ports]]
    return list(dict.fromkeys([n for n in names if n and n != connection.peer]))


def called(connection: "Connection") -> str:
    """`connection 7 ("worker-a")`, as sentences name it."""
    names = names_of(connection)
    return f"connection {connection.number}" + (f' ("{names[0]}")' if names else "")
