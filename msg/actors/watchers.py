"""Watchers: who looks on while queues and topics carry out their turns.

Taps, spans and the log's narrator are watchers. As a rule there is the last one only, which
looks at what goes wrong. A watcher must not fail, wait, or change anything.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from msg.actors import queue, topic
    from msg.core.ledger import Turn as QueueTurn
    from msg.core.topic import Turn as TopicTurn
    from msg.core.wire import Stamp


class Watcher(Protocol):
    """Told of each turn when its rules have run: it happens, or has just happened."""

    def queue_turn(
        self, actor: "queue.QueueActor", turn: "QueueTurn", effects: "queue.Effects", stamp: "Stamp"
    ) -> None:
        """A queue's or group's turn."""

    def topic_turn(self, actor: "topic.TopicActor", turn: "TopicTurn", stamp: "Stamp") -> None:
        """A topic's turn."""
