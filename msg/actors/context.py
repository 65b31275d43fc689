"""Context: what every connection is given of the broker around it."""

from typing import TYPE_CHECKING, Any

import attrs

from msg.actors.outbox import Outbound

if TYPE_CHECKING:
    from collections.abc import Callable

    from msg.actors.broker import Broker
    from msg.actors.directory import Directory
    from msg.actors.questions import Questions
    from msg.actors.services import Services
    from msg.actors.session import Session
    from msg.config import Settings
    from msg.core.commands import Declare, Question
    from msg.world import World

FEATURES = (
    "ack_by_id", "attempts", "backlog", "dead_letters", "dedup", "delay", "durability", "get",
    "groups", "history", "inbox", "no_newline", "prefetch", "priority", "retain", "touch", "ttl",
    "wildcards",
)  # fmt: skip


@attrs.define
class Counters:
    """Of the whole broker, since it started."""

    connections: int = 0
    refused: int = 0
    errors: int = 0
    cut: int = 0
    crashed: int = 0


@attrs.define(eq=False)
class Context:
    settings: "Settings"
    services: "Services"
    directory: "Directory"
    version: str
    # what a durability of "stored" promises with this store; said in `hello`
    stored: str
    outbound: Outbound
    declare: "Callable[[Session, Declare], Any]"
    question: "Callable[[Session, Question], Any]"
    broker: "Broker" = attrs.field(init=False, repr=False)
    questions: "Questions" = attrs.field(init=False, repr=False)
    counters: Counters = attrs.field(factory=Counters)
    draining: bool = False
    features: tuple[str, ...] = FEATURES
    world: "World" = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.world = self.services.world  # looked at with each read and write

    def token(self) -> str:
        """Random enough that nobody guesses another's inbox: 96 bits."""
        return f"{self.world.rng.getrandbits(96):024x}"
