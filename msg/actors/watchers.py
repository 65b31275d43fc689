"""Watchers: who looks on while queues and topics carry out their turns.

Taps and spans are watchers. As a rule there are none, and then a turn costs one look at an
empty list. A watcher must not fail, wait, or change anything.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from msg.actors import queue, topic
    from msg.core.ledger import Turn as QueueTurn
    from msg.core.topic import Turn as TopicTurn
    from msg.core.wire import Stamp


class Watcher(Protocol):
    """Told of each turn when its rules have run and it is about to happen."""

    def queue_turn(
        self, actor: "queue.QueueActor", turn: "QueueTurn", effects: "queue.Effects", stamp: "Stamp"
    ) -> None:
        """A queue's or group's turn."""

    def topic_turn(self, actor: "topic.TopicActor", turn: "TopicTurn", stamp: "Stamp") -> None:
        """A topic's turn."""
