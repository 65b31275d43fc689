"""Bugs put into a running broker: one actor fails at the next thing that it does."""

from typing import Any

from msg.actors import directory as directories
from msg.actors import topic as topics
from msg.actors.broker import Broker
from msg.actors.queue import Ask
from msg.actors.reply import Reply


class Bug(RuntimeError):
    """Put in by a scenario."""


def put_bug(broker: Broker, actor: str) -> bool:
    """Into `queue NAME`, `topic NAME`, `connection PEER`, `directory` or `store`.

    False when there is no such actor now.
    """
    kind, _, name = actor.partition(" ")
    there = True

    def boom(*_: object) -> Any:
        raise Bug(f"a bug in {actor}")

    match kind:
        case "queue":
            queue = broker.directory.queues.get(name)
            there = queue is not None and queue.post(Ask(boom, Reply()))
        case "topic":
            topic = broker.directory.topics.get(name)
            there = topic is not None and topic.post(topics.Ask(boom, Reply()))
        case "connection":
            victims = [c for c in broker.connections.open.values() if c.peer == name]
            there = bool(victims)
            for connection in victims:
                connection.session.handle = boom  # type: ignore[assignment, method-assign]
        case "directory":
            broker.directory.mailbox.post(directories.Ended("queues", _Broken(boom)))  # type: ignore[arg-type]
        case "store":
            broker.storekeeper.commits.post(_Broken(boom))  # type: ignore[arg-type]
        case _:
            raise AssertionError(f"no such actor: {actor}")
    return there


class _Broken:
    """A mail that cannot be read."""

    def __init__(self, boom: Any) -> None:
        self._boom = boom

    def __getattr__(self, name: str) -> Any:
        return self._boom()
