"""What a client may ask: one class per action, decoded straight from the wire.

On the hot path the msgspec Struct is the command (0.1 us against 1.1 for a frozen attrs
class). Other wires (MQTT, STOMP) would make the same objects. Types are checked by the
decoder; ranges and names by `msg.protocol.checks`, so that a bad field is
answered as `bad_field` and never closes.

Unknown fields are refused by these classes so that the decoder's fast path has seen every
byte that it accepts; `msg.protocol.codec` leaves them out and decodes again.
"""

from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Raw

if TYPE_CHECKING:
    from collections.abc import Sequence

Mode = Literal["pubsub", "queue"]
DurabilityName = Literal["memory", "os", "stored"]


class Command(msgspec.Struct, tag_field="action", gc=False, forbid_unknown_fields=True):
    """The root: `id`, where given, is repeated by exactly one answer."""


class BarePublish(Command, tag="publish"):
    """A publish as most are: of a body, and what it goes to. It is read as a `Publish` that
    has nothing else, so that rules need not ask which it is."""

    topic: str
    message: Raw
    mode: Mode = "pubsub"
    durability: DurabilityName | None = None

    @property
    def message_id(self) -> str | None:
        return None

    @property
    def id(self) -> str | None:
        return None

    @property
    def headers(self) -> dict[str, str] | None:
        return None

    @property
    def delay(self) -> float | None:
        return None

    @property
    def ttl(self) -> float | None:
        return None

    @property
    def priority(self) -> int | None:
        return None

    @property
    def reply_to(self) -> str | None:
        return None

    @property
    def correlation_id(self) -> str | None:
        return None

    @property
    def retain(self) -> bool | None:
        return None

    @property
    def encoding(self) -> str | None:
        return None


class Publish(BarePublish, tag="publish"):
    message_id: str | None = None
    id: str | None = None
    headers: dict[str, str] | None = None
    delay: float | None = None
    ttl: float | None = None
    priority: int | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    retain: bool | None = None
    encoding: str | None = None


class Publishes(msgspec.Struct, gc=False):
    """Bare publishes to one destination that one read brought, as one command."""

    topic: str
    mode: Mode
    durability: DurabilityName | None
    items: list[BarePublish]


class Acks(msgspec.Struct, gc=False):
    """Acks of one message each that one read brought, by id or by tag, as one command."""

    ids: list[str]
    tags: list[int]


def are_bare(publishes: "Sequence[BarePublish]") -> bool:
    """Whether these have nothing but a topic, a mode, a durability and a body."""
    return not any(  # of a list and not a generator: half the time
        [
            p.message_id is not None
            or p.id is not None
            or p.headers is not None
            or p.delay is not None
            or p.ttl is not None
            or p.priority is not None
            or p.reply_to is not None
            or p.correlation_id is not None
            or p.retain is not None
            or p.encoding is not None
            for p in publishes
        ]
    )


class Subscribe(Command, tag="subscribe"):
    topic: str
    mode: Mode = "pubsub"
    id: str | None = None
    sub: str | None = None
    group: str | None = None
    from_: str | int | None = msgspec.field(default=None, name="from")
    prefetch: int | None = None
    ack_timeout: float | None = None
    ack: Literal["manual", "auto"] | None = None
    name: str | None = None


class Unsubscribe(Command, tag="unsubscribe"):
    id: str | None = None
    sub: str | None = None
    topic: str | None = None
    mode: Mode = "pubsub"
    group: str | None = None
    delete: bool = False


class Get(Command, tag="get"):
    topic: str
    mode: Mode = "queue"
    id: str | None = None
    sub: str | None = None  # repeated by its messages: a dead letter's topic is not its queue
    group: str | None = None
    n: int = 1
    wait: float = 0.0
    ack_timeout: float | None = None


class BareAck(Command, tag="ack"):
    """An ack as most are: of one message, and nobody asks whether it was heard."""

    message_id: str | None = None
    tag: int | None = None


class Ack(BareAck, tag="ack"):
    id: str | None = None
    tags: list[int] | None = None
    message_ids: list[str] | None = None


class Nack(Command, tag="nack"):
    message_id: str | None = None
    tag: int | None = None
    id: str | None = None
    tags: list[int] | None = None
    message_ids: list[str] | None = None
    delay: float | None = None
    reason: str | None = None
    requeue: bool = True
    count_attempt: bool = True


class Touch(Command, tag="touch"):
    message_id: str | None = None
    tag: int | None = None
    id: str | None = None
    tags: list[int] | None = None
    message_ids: list[str] | None = None


class Declare(Command, tag="declare"):
    topic: str
    mode: Mode = "queue"
    id: str | None = None
    group: str | None = None
    settings: dict[str, object] | None = None
    passive: bool = False
    from_: str | int | None = msgspec.field(default=None, name="from")


class Hello(Command, tag="hello"):
    id: str | None = None
    token: str | None = None
    user: str | None = None
    password: str | None = None
    name: str | None = None
    heartbeat: float | None = None


class Ping(Command, tag="ping"):
    id: str | None = None


class Pong(Command, tag="pong"):
    id: str | None = None


class Question(Command):
    """What part 4 asks: about the broker, or about one queue, topic or connection."""

    id: str | None = None
    topic: str | None = None
    mode: Mode = "queue"
    group: str | None = None
    name: str | None = None
    n: int | None = None
    cursor: str | None = None
    message_id: str | None = None
    message_ids: list[str] | None = None
    options: dict[str, object] | None = None


class Stats(Question, tag="stats"): ...


class Tree(Question, tag="tree"): ...


class Peek(Question, tag="peek"): ...


class Held(Question, tag="held"): ...


class Why(Question, tag="why"): ...


class Trace(Question, tag="trace"): ...


class Tap(Question, tag="tap"): ...


class Purge(Question, tag="purge"): ...


class Pause(Question, tag="pause"): ...


class Resume(Question, tag="resume"): ...


class Delete(Question, tag="delete"): ...


class Dead(Question, tag="dead"): ...


class Retry(Question, tag="retry"): ...


class Limits(Question, tag="limits"): ...


class Help(Question, tag="help"): ...
