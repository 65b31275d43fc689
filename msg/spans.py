"""OpenTelemetry spans: a message's way through the broker, as part of its sender's trace.

    publish jobs    from when the queue took it until it is kept as promised
    deliver jobs    one for each attempt: from the hand-over until it is settled or comes back
    settle jobs     the end of an attempt: acked, or failed and why

A publish is a child of the `traceparent` among the message's headers (which are carried to the
consumer as they came, so its spans join the same trace); deliveries are children of the
publish, or of the same `traceparent` where the publish is no longer known (a restart). Topics
have publish spans only: nobody acks there.

A watcher on the actors' turns, and only when the setting `otel` asks for it; needs the extra
`trio-msg[otel]`. Where spans go is said by OpenTelemetry's own environment variables. Whatever
is exported is exported by the library's thread, and is lost rather than waited for.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context

    from msg.actors import queue, topic
    from msg.actors.broker import Broker
    from msg.core.ledger import Turn as QueueTurn
    from msg.core.message import Message
    from msg.core.topic import Turn as TopicTurn
    from msg.core.wire import Stamp

OPEN_MAX = 10_000  # spans and parents that are remembered, of each kind; the oldest go
REASON_MAX = 200
HEADER = b'"traceparent":'

Place = tuple[str, int]  # queue, seq
_PROPAGATOR = TraceContextTextMapPropagator()


class _Headers(msgspec.Struct):
    headers: dict[str, str] = {}


class Spans:
    """See the module. With `every`, messages without a `traceparent` begin traces of their own
    (which the tracer's sampler thins out)."""

    def __init__(self, tracer: trace.Tracer, *, every: bool = False) -> None:
        self._tracer = tracer
        self._every = every
        self._committing: OrderedDict[Place, trace.Span] = OrderedDict()
        self._delivering: OrderedDict[Place, trace.Span] = OrderedDict()
        self._parents: OrderedDict[Place, Context] = OrderedDict()

    # -- as a watcher -----------------------------------------------------------------------

    def queue_turn(
        self, actor: "queue.QueueActor", turn: "QueueTurn", effects: "queue.Effects", stamp: "Stamp"
    ) -> None:
        name, now = actor.name, int(stamp.wall * 1e9)
        if self._committing:
            self._committed(actor, now)
        for message in self._of_interest(turn.logged):
            self._publish(name, message, now, lasts=True)
        for message in self._of_interest(turn.kept):
            if not message.attempts:
                self._publish(name, message, now, lasts=False)
        if self._delivering:
            for _, settled in effects.settled:
                for message in settled:
                    self._settle((name, message.seq), message, "ack", now)
        for message, attempt in turn.tried:
            if attempt is not None:
                lines = attempt.reason.strip().splitlines()
                reason = f": {lines[-1][:REASON_MAX]}" if lines else ""
                self._settle((name, message.seq), message, attempt.why, now,
                             error=f"{attempt.why}{reason}")  # fmt: skip
        for port, messages, _ in turn.deliveries:
            for message in self._of_interest(messages):
                self._deliver(name, message, getattr(port, "name", ""), now)
        for _, _, message in turn.moves:
            self._parents.pop((name, message.seq), None)

    def topic_turn(self, actor: "topic.TopicActor", turn: "TopicTurn", stamp: "Stamp") -> None:
        now = int(stamp.wall * 1e9)
        wires = [message.wire for message in turn.new_messages]
        if not wires:  # nothing of it is kept: it goes to those who listen
            runs = [entry[0] for entry in turn.deliveries if isinstance(entry, tuple)]
            wires = [wire for run in runs for wire in run.wires]
        for wire in wires:
            parent = self._parent_in(wire)
            if parent is not None or self._every:
                self._start("publish", actor.name, _id_in(wire), parent, SpanKind.PRODUCER,
                            now).end(now)  # fmt: skip

    def close(self) -> None:
        """The broker stops: what is open ends where it is."""
        for span in (*self._committing.values(), *self._delivering.values()):
            span.end()
        self._committing.clear()
        self._delivering.clear()

    def _of_interest(self, messages: "Sequence[Message]") -> "Sequence[Message]":
        """Those that may have spans. As a rule few have: the rest costs a look each."""
        return messages if self._every else [m for m in messages if HEADER in m.wire]

    # -- a queue's spans --------------------------------------------------------------------

    def _publish(self, name: str, message: "Message", now: int, *, lasts: bool) -> None:
        place = (name, message.seq)
        if place in self._parents:
            return  # what comes back to memory is kept anew
        parent = self._parent_in(message.wire)
        if parent is None and not self._every:
            return
        span = self._start("publish", name, message.id, parent, SpanKind.PRODUCER, now)
        _put(self._parents, place, trace.set_span_in_context(span))
        if not lasts:
            span.end(now)
            return
        gone = _put(self._committing, place, span)
        if gone is not None:
            gone.end(now)

    def _committed(self, actor: "queue.QueueActor", now: int) -> None:
        """End the publishes that the store has answered for."""
        committing, name = actor.ledger.committing, actor.name
        done = [at for at in self._committing if at[0] == name and at[1] not in committing]
        for place in done:
            span = self._committing.pop(place)
            if actor.services.storekeeper.disk_full:
                span.set_status(Status(StatusCode.ERROR, "the disk is full"))
            span.end(now)

    def _deliver(self, name: str, message: "Message", consumer: str, now: int) -> None:
        place = (name, message.seq)
        parent = self._parents.get(place) or self._parent_in(message.wire)
        if parent is None and not self._every:
            return
        before = self._delivering.pop(place, None)
        if before is not None:  # its consumer left before it had a look: no attempt was counted
            before.add_event("returned uncounted", timestamp=now)
            before.end(now)
        span = self._start("deliver", name, message.id, parent, SpanKind.CONSUMER, now)
        span.set_attribute("messaging.consumer.name", consumer)
        span.set_attribute("msg.attempt", message.attempts + 1)
        gone = _put(self._delivering, place, span)
        if gone is not None:
            gone.end(now)

    def _settle(
        self, place: Place, message: "Message", how: str, now: int, error: str = ""
    ) -> None:
        span = self._delivering.pop(place, None)
        if span is None:
            return
        inside = trace.set_span_in_context(span)
        settle = self._start("settle", place[0], message.id, inside, SpanKind.INTERNAL, now)
        settle.set_attribute("msg.settled", how)
        if error:
            settle.set_status(Status(StatusCode.ERROR, error))
            span.set_status(Status(StatusCode.ERROR, error))
        else:
            self._parents.pop(place, None)
        settle.end(now)
        span.end(now)

    # -- both -------------------------------------------------------------------------------

    def _start(
        self, what: str, name: str, message_id: str, parent: "Context | None", kind: SpanKind,
        now: int,
    ) -> trace.Span:  # fmt: skip
        return self._tracer.start_span(
            f"{what} {name}",
            context=parent if parent is not None else trace.set_span_in_context(trace.INVALID_SPAN),
            kind=kind,
            start_time=now,
            attributes={
                "messaging.system": "trio-msg",
                "messaging.operation.name": what,
                "messaging.destination.name": name,
                "messaging.message.id": message_id,
            },
        )

    def _parent_in(self, wire: bytes) -> "Context | None":
        """The trace that the message's headers name, if they name one."""
        if HEADER not in wire:
            return None
        headers = msgspec.json.decode(b"{%b}" % wire, type=_Headers).headers
        context = _PROPAGATOR.extract(headers)
        valid = trace.get_current_span(context).get_span_context().is_valid
        return context if valid else None


class _Id(msgspec.Struct):
    message_id: str


def _id_in(wire: bytes) -> str:
    return msgspec.json.decode(b"{%b}" % wire, type=_Id).message_id


def _put(table: "OrderedDict[Place, Any]", place: Place, value: Any) -> Any:
    """Put it in; what has to go for it (the oldest) is returned."""
    gone = table.popitem(last=False)[1] if len(table) >= OPEN_MAX else None
    table[place] = value
    return gone


# -- the daemon's side ------------------------------------------------------------------------


class Running(Protocol):
    """Spans that are being exported."""

    def stop(self) -> None:
        """Export what is there, and end. Waits for the library's thread."""


class _Running:
    def __init__(self, spans: Spans, provider: Any) -> None:
        self._spans = spans
        self._provider = provider

    def stop(self) -> None:
        self._spans.close()
        self._provider.shutdown()


def start(broker: "Broker", mode: str, version: str) -> Running:
    """Have the broker's spans exported by OTLP over HTTP, as OTEL_… in the environment says."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": "trio-msg", "service.version": version})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    spans = Spans(provider.get_tracer("trio-msg", version), every=mode == "all")
    broker.context.services.watchers.append(spans)
    return _Running(spans, provider)
