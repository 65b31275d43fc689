"""Services: what every queue and topic actor is given. Handles and settings, no state."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from msg.actors.outbox import Budget, Outbound
from msg.actors.recent import Recent
from msg.core.deep import Packing
from msg.core.parking import ParkingRules
from msg.core.wire import IdSource

if TYPE_CHECKING:
    from msg.actors.queue import MoveIn
    from msg.actors.storekeeper import Storekeeper
    from msg.actors.timer import Timer
    from msg.actors.topic import Topic
    from msg.actors.watchers import Watcher
    from msg.core.settings import QueueSettings, TopicSettings
    from msg.store.log import Log
    from msg.store.recovery import Recovered
    from msg.world import World


class Logger(Protocol):
    """A structlog logger: an event and its fields. Never blocks."""

    def debug(self, event: str, **fields: Any) -> Any: ...
    def info(self, event: str, **fields: Any) -> Any: ...
    def warning(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...


@attrs.define(eq=False)
class Services:
    world: "World"
    storekeeper: "Storekeeper"
    timer: "Timer"
    ids: IdSource
    logger: Logger
    # (kind, name): read this destination's log anew, after a crash; kind "queues" or "topics"
    reopen: Callable[[str, str], "Awaitable[Recovered]"]
    # to the queue of this name, which is made if it is not there; never waits
    move: "Callable[[str, MoveIn], None]"
    # a topic has nothing to keep and nobody to tell: the directory may retire it
    topic_idle: "Callable[[Topic], None]"
    # the settings in force for a name: defaults < declared (the argument) < the config file
    queue_settings: "Callable[[str, Mapping[str, Any]], QueueSettings]"
    topic_settings: "Callable[[str, Mapping[str, Any]], TopicSettings]"
    # (kind, name): the log of a destination that is new
    new_log: "Callable[[str, str], Log]"
    outbound: Outbound  # all clients' outboxes
    hot_bytes: int = 8 << 20  # of ready messages that one queue keeps in memory
    packing: Packing = attrs.field(factory=Packing)  # of a long line that is in memory only
    # all queues' together: beyond it, each keeps HOT_LEAST only, and the log the rest
    hot: Budget = attrs.field(factory=lambda: Budget(48 << 20))
    backlog: Budget = attrs.field(factory=lambda: Budget(64 << 20))  # of all topics' backlogs
    # the broker is about to end by this: look at its actors while they are all there
    last_look: Callable[[BaseException], None] = lambda _error: None
    parking: ParkingRules = attrs.field(factory=ParkingRules)
    recent: Recent = attrs.field(factory=Recent)
    watchers: "list[Watcher]" = attrs.field(factory=list)  # the log, taps, spans

    @staticmethod
    def dead_name(name: str) -> str:
        """The dead queue of a queue; "" for one that is a dead queue itself."""
        return "" if name.endswith(".dead") else f"{name}.dead"
