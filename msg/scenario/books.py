"""The books of a queue: accepted is the sum of all that became of it, after every step."""

from typing import Any

import trio

from msg.actors.broker import Broker


def ledger_of(broker: Broker | None, task: trio.lowlevel.Task) -> Any:
    """The ledger of the queue whose actor this task runs, if it must balance now."""
    if broker is None or not task.name.startswith("queue "):
        return None
    queue = broker.directory.queues.get(task.name[6:])
    if queue is None or queue.actor is None or queue.actor.estate.turn:
        return None  # a turn that failed is done anew by the next incarnation
    return getattr(queue.actor, "ledger", None)
