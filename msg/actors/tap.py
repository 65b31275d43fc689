"""Taps: a copy of what flows through queues and topics, sampled, for a person to look at.

A tap is no subscription: it never counts as somebody who listens, holds nothing, acks
nothing, and slows nobody. It shows each message with what happened to it:

    {"type":"message",…,"tap":{"id":"t1","event":"leased","queue":"jobs","consumer":"worker-a"}}

Events of queues: published, leased, settled, returned, moved. Of topics: published. What is
over the rate is left out and counted (`skipped`); a client that does not read loses the
oldest (`dropped`), as any subscriber does.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from msg.actors.asking import Row, choice, option, texts
from msg.actors.ports import TopicPort
from msg.core.message import Message
from msg.core.names import group_address
from msg.core.patterns import matches
from msg.errors import ClientError
from msg.protocol import encode

if TYPE_CHECKING:
    from msg.actors import queue, topic
    from msg.actors.context import Context
    from msg.actors.services import Services
    from msg.actors.session import Session
    from msg.core import commands
    from msg.core.ledger import Turn as QueueTurn
    from msg.core.topic import Turn as TopicTurn
    from msg.core.wire import Stamp

T = TypeVar("T")

EVENTS = ("published", "leased", "settled", "returned", "moved")
RATE = 100.0  # messages a second that a tap shows, as a rule
RATE_MAX = 10_000.0
TAPS_MAX = 100  # at one time, of all connections
PENDING_MAX = 1000  # messages that wait for a slow reader
PENDING_BYTES = 1 << 20


class Tap:
    """One person's look at what flows."""

    def __init__(
        self, port: TopicPort, tap_id: str, pattern: str, of: str, events: Sequence[str],
        every: int, rate: float, now: float,
    ) -> None:  # fmt: skip
        self.port = port
        self.id = tap_id
        self.pattern = pattern
        self.of = of
        self.events = frozenset(events)
        self.every = every
        self.rate = rate
        self._tokens = rate
        self._at = now
        self._count = 0
        self._skipped = 0
        self._known: dict[str, bool] = {}
        self._newest: dict[str, int] = {}  # queue -> the highest seq that was published

    # -- as a watcher -----------------------------------------------------------------------

    def queue_turn(
        self, actor: "queue.QueueActor", turn: "QueueTurn", effects: "queue.Effects", stamp: "Stamp"
    ) -> None:
        if self._is_over(actor.services) or not self._is_for("queues", actor.name):
            return
        name, events = actor.name, self.events
        if "published" in events and (turn.logged or turn.kept):
            # what comes back to memory is kept anew; only what is new has a higher seq
            newest = self._newest.get(name, 0)
            fresh = [*turn.logged, *turn.kept]
            seqs = [m.seq for m in fresh]
            if not newest or min(seqs) <= newest:
                fresh = [m for m in fresh if m.seq > newest and not m.attempts]
            if fresh:
                self._newest[name] = max(seqs)
                self._show(stamp, fresh, event="published", queue=name)
        if "settled" in events:
            for port, messages in effects.settled:
                self._show(stamp, messages, event="settled", queue=name,
                           consumer=getattr(port, "name", ""))  # fmt: skip
        if "returned" in events:
            for message, attempt in turn.tried:
                if attempt is None:
                    continue  # a case that is written anew
                self._show(stamp, [message], event="returned", queue=name, why=attempt.why,
                           consumer=attempt.who, reason=attempt.reason or None)  # fmt: skip
        if "moved" in events:
            for to, _, message in turn.moves:
                self._show(stamp, [message], event="moved", queue=name, to=to)
        if "leased" in events:
            for port, messages, _ in turn.deliveries:
                self._show(stamp, messages, event="leased", queue=name,
                           consumer=getattr(port, "name", ""))  # fmt: skip

    def topic_turn(self, actor: "topic.TopicActor", turn: "TopicTurn", stamp: "Stamp") -> None:
        if self._is_over(actor.services) or not self._is_for("topics", actor.name):
            return
        wires = [m.wire for m in turn.new_messages]
        if not wires:
            for entry in turn.deliveries:
                if not isinstance(entry, tuple):
                    continue  # a replay: these were shown when they came
                run: Any = entry[0]
                wires += run.wires
        shown, left_out = self._chosen(stamp.now, wires)
        self._show_wires(shown, left_out, event="published", topic=actor.name)

    def _is_over(self, services: "Services") -> bool:
        if not (self.port.closed or self.port.outbox.closed):
            return False
        # another list: this one is being walked
        services.watchers = [watcher for watcher in services.watchers if watcher is not self]
        return True

    def _is_for(self, of: str, name: str) -> bool:
        if self.of not in (of, "all"):
            return False
        known = self._known.get(name)
        if known is None:
            if len(self._known) > 10_000:
                self._known.clear()
            known = self._known[name] = name == self.pattern or (
                "@" not in name and matches(self.pattern, name)
            )
        return known

    def _show(self, stamp: "Stamp", messages: Sequence[Message], **fields: Any) -> None:
        shown, left_out = self._chosen(stamp.now, messages)
        self._show_wires([m.wire for m in shown], left_out, **fields)

    def _show_wires(self, wires: Sequence[bytes], left_out: int, **fields: Any) -> None:
        for wire in wires:
            told = {"id": self.id, **{k: v for k, v in fields.items() if v is not None}}
            if self._skipped:
                told["skipped"] = self._skipped
                self._skipped = 0
            self.port.deliver(encode.heard([wire], encode.members(tap=told)), 1)
        self._skipped += left_out

    def _chosen(self, now: float, things: Sequence[T]) -> tuple[Sequence[T], int]:
        """Each n-th, and of these so many as the rate has room for (a bucket of one second);
        and how many that leaves out. Nothing is done for each of those: a flood costs hardly
        more for being seen."""
        first = -(self._count + 1) % self.every
        self._count += len(things)
        wanted = things[first :: self.every]
        self._tokens = min(self.rate, self._tokens + (now - self._at) * self.rate)
        self._at = now
        shown = wanted[: int(self._tokens)]
        self._tokens -= len(shown)
        return shown, len(wanted) - len(shown)


def tap(context: "Context", session: "Session", question: "commands.Tap") -> Row:
    """Begin a tap, or end it (option `stop`). Its frames come on this connection."""
    services = context.services
    watchers = services.watchers
    tap_id = question.name or question.id or "tap"
    mine = [w for w in watchers if isinstance(w, Tap) and w.port.outbox is session.outbox]
    if option(question, "stop", bool, False):
        for one in mine:
            if one.id == tap_id or question.name is None:
                one.port.close()
                services.watchers = [w for w in services.watchers if w is not one]
        return {"count": len(mine)}
    if question.topic is None:
        raise ClientError("bad_field", 'name what to tap in "topic": a queue, a topic or a pattern')
    if len([w for w in watchers if isinstance(w, Tap)]) >= TAPS_MAX:
        raise ClientError("too_many", f"there are {TAPS_MAX} taps already", limit=TAPS_MAX)
    if any([one.id == tap_id for one in mine]):
        raise ClientError("bad_field", f"this connection has a tap {tap_id!r} already")
    pattern = question.topic
    if question.group is not None:
        pattern = group_address(pattern, question.group)
    events = texts(question, "events") or list(EVENTS)
    unknown = [event for event in events if event not in EVENTS]
    if unknown:
        raise ClientError("bad_field", f"events are {', '.join(EVENTS)}, not {unknown[0]!r}")
    every = option(question, "every", int, 1)
    rate = option(question, "rate", float, RATE)
    if every < 1 or not 0 < rate <= RATE_MAX:
        raise ClientError(
            "bad_field", f'the option "every" is 1 or more, "rate" at most {RATE_MAX:g} a second'
        )
    of = choice(question, "of", ("queues", "topics", "all"), "all")
    port = TopicPort(
        session.outbox,
        sub=None,
        suffix=b"",
        limit_count=PENDING_MAX,
        limit_bytes=PENDING_BYTES,
    )
    watchers.append(Tap(port, tap_id, pattern, of, events, every, rate, context.world.now()))
    return {"topic": pattern, "tap": tap_id, "rate": rate, "every": every}
