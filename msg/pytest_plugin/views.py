"""Views: what a test may say about a queue or a topic, as it is at this moment."""

from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from msg.core.names import dead_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from msg.actors.broker import Broker
    from msg.core.ledger import QueueLedger
    from msg.core.message import Message


@attrs.frozen
class Attempt:
    """One attempt that failed: `why` is "nack", "deadline" or "disconnect"."""

    n: int
    at: str
    why: str
    who: str = ""
    reason: str = ""


@attrs.frozen
class Letter:
    """A message in a queue. Of a dead one, `reason` is what its last attempt failed of."""

    message_id: str
    topic: str
    body: Any
    attempt: int  # 1: it was never delivered
    headers: dict[str, str]
    attempts: tuple[Attempt, ...] = ()
    died_of: str = ""  # the broker's words: "3 failed attempts, the last: nack", …

    @property
    def reason(self) -> str:
        last = self.attempts[-1] if self.attempts else None
        return (last.reason or last.why) if last is not None else self.died_of


@attrs.frozen
class QueueView:
    """A queue at the moment of asking; a queue that does not exist is an empty one."""

    name: str
    exists: bool = False
    ready: tuple[Letter, ...] = ()
    leased: tuple[Letter, ...] = ()
    delayed: tuple[Letter, ...] = ()
    dead: tuple[Letter, ...] = ()
    consumers: tuple[str, ...] = ()
    accepted: int = 0
    settled: int = 0
    paused: bool = False
    counts: dict[str, int] = attrs.field(factory=dict, repr=False)

    @property
    def empty(self) -> bool:
        """Nothing to do and nothing being done. Dead letters do not count."""
        return not (self.ready or self.leased or self.delayed)

    @property
    def bodies(self) -> list[Any]:
        """Of the ready ones, in the order of delivery."""
        return [letter.body for letter in self.ready]


@attrs.frozen
class TopicView:
    """A topic at the moment of asking."""

    name: str
    exists: bool = False
    subscribers: int = 0
    groups: int = 0
    kept: int = 0
    published: int = 0


def view_queue(broker: "Broker", name: str) -> QueueView:
    """Between two turns of the queue, so never of a state half changed."""
    died = _letters(_dead(broker, name))
    ledger = _ledger(broker, name)
    if ledger is None:
        return QueueView(name, dead=died)
    consumers = list(ledger.consumers.values())
    totals = ledger.totals()
    return QueueView(
        name,
        exists=True,
        ready=_letters(ledger.waiting),
        leased=_letters(m for consumer in consumers for m in consumer.leases.values()),
        delayed=_letters(sorted(ledger.delayed.hot.values(), key=lambda m: m.due)),
        dead=died,
        consumers=tuple(consumer.name for consumer in consumers),
        accepted=totals.get("accepted", 0),
        settled=totals.get("settled", 0),
        paused=ledger.paused,
        counts=totals,
    )


def view_topic(broker: "Broker", name: str) -> TopicView:
    topic = broker.directory.topics.get(name)
    if topic is None:
        return TopicView(name)
    row = topic.row()
    return TopicView(
        name,
        exists=True,
        subscribers=row["subscribers"],
        groups=row["groups"],
        kept=row["kept"],
        published=row.get("published", 0),
    )


def _dead(broker: "Broker", name: str) -> "list[Message]":
    """The dead letters, also those on their way from one queue's books to the other's."""
    found: dict[str, Message] = {}
    dead = _ledger(broker, dead_name(name))
    if dead is not None:
        for message in (*dead.waiting, *dead.moves.arrived.values(), *dead.committing.values()):
            found[message.key] = message
    source = _ledger(broker, name)
    if source is not None:
        for key, (_, to, moved) in source.leaving.items():
            if to == dead_name(name):
                found.setdefault(key, moved)
    return list(found.values())


def _ledger(broker: "Broker", name: str) -> "QueueLedger | None":
    queue = broker.directory.queues.get(name)
    return None if queue is None else getattr(queue.actor, "ledger", None)


def _letters(messages: "Iterable[Message]") -> tuple[Letter, ...]:
    return tuple(_letter(message) for message in messages)


def _letter(message: "Message") -> Letter:
    frame = msgspec.json.decode(b"{%b}" % message.wire)
    case = frame.get("case") or {}
    attempts = case.get("attempts") or msgspec.to_builtins(message.case)
    return Letter(
        message_id=frame["message_id"],
        topic=frame["topic"],
        body=frame["message"],
        attempt=message.attempts + 1,
        headers=frame.get("headers") or {},
        attempts=tuple(Attempt(**attempt) for attempt in attempts),
        died_of=case.get("reason", ""),
    )
