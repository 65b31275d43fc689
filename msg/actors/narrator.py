"""Narrator: what happens to messages, as log lines; `queue`, `message_id` and `conn` in each.

At the level info it tells what goes wrong: an attempt that failed, a message that died, moved
or was removed, publishes that were refused. At debug it tells everything, so that a grep for
a message id is its trace. Bodies are never told, and of a reason only its last line.

It is a watcher: where nothing went wrong, a turn costs it a few looks at empty lists.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msg.core.names import is_dead

if TYPE_CHECKING:
    from msg.actors import queue, topic
    from msg.actors.services import Logger
    from msg.core.batches import PublishBatch
    from msg.core.ledger import Turn as QueueTurn
    from msg.core.message import Message
    from msg.core.topic import Turn as TopicTurn
    from msg.core.wire import Stamp

REASON_MAX = 200


class Narrator:
    """See the module. `everything`: the log's level is debug."""

    def __init__(self, logger: "Logger", *, everything: bool = False) -> None:
        self._log = logger
        self.everything = everything

    # -- as a watcher -----------------------------------------------------------------------

    def queue_turn(
        self, actor: "queue.QueueActor", turn: "QueueTurn", effects: "queue.Effects", stamp: "Stamp"
    ) -> None:
        name = actor.name
        for batch in turn.answers:
            if batch.errors:
                self._refused("queue", name, batch)
        if turn.rare:
            if turn.tried:
                self._tried(name, turn)
            if turn.moves:
                self._moved(name, turn)
            if turn.drops:
                self._dropped("queue", name, turn.drops)
        if self.everything:
            self._all_of_queue(name, turn, effects)

    def topic_turn(self, actor: "topic.TopicActor", turn: "TopicTurn", stamp: "Stamp") -> None:
        changes = turn.changes
        if changes is None:
            return
        if changes.drops:
            self._dropped("topic", actor.name, changes.drops)
        if self.everything:
            for message in (*changes.logged, *changes.kept):
                self._log.debug("published", topic=actor.name, message_id=message.id)

    # -- what goes wrong --------------------------------------------------------------------

    def _refused(self, kind: str, name: str, batch: "PublishBatch") -> None:
        errors = batch.errors or {}
        first, error = next(iter(errors.items()))
        more = {"count": len(errors)} if len(errors) > 1 else {}
        self._log.info(
            "publish refused", **{kind: name}, **_conn(batch.origin, "number"),
            message_id=batch.ids[first] if first < len(batch.ids) else "", code=error.code,
            error=str(error), **more,
        )  # fmt: skip

    def _tried(self, name: str, turn: "QueueTurn") -> None:
        for message, attempt in turn.tried:
            if attempt is None:
                continue  # a case that is written anew
            lines = attempt.reason.strip().splitlines()
            reason = {"reason": lines[-1][:REASON_MAX]} if lines else {}
            self._log.info(
                "attempt failed", queue=name, message_id=message.id, attempt=attempt.n,
                why=attempt.why, consumer=attempt.who, **reason,
            )  # fmt: skip

    def _moved(self, name: str, turn: "QueueTurn") -> None:
        for to, _, message in turn.moves:
            tell = self._log.warning if is_dead(to) else self._log.info
            event = "message died" if is_dead(to) else "message moved"
            tell(event, queue=name, message_id=message.id, to=to)

    def _dropped(self, kind: str, name: str, drops: Sequence[tuple[str, Sequence[int]]]) -> None:
        for why, seqs in drops:
            if seqs:
                self._log.info("messages removed", **{kind: name}, why=why, count=len(seqs),
                               first=seqs[0])  # fmt: skip

    # -- everything -------------------------------------------------------------------------

    def _all_of_queue(self, name: str, turn: "QueueTurn", effects: "queue.Effects") -> None:
        for batch in (*turn.answers, *turn.waiting):
            refused, conn = batch.errors or {}, _conn(batch.origin, "number")
            for i, message_id in enumerate(batch.ids):
                if i not in refused:
                    self._log.debug("accepted", queue=name, message_id=message_id, **conn)
        for port, messages, _ in turn.deliveries:
            self._handed("leased", name, port, messages)
        for port, settled in effects.settled:
            self._handed("settled", name, port, settled)

    def _handed(self, event: str, name: str, port: Any, messages: "Sequence[Message]") -> None:
        conn = _conn(getattr(port, "outbox", None), "conn")
        consumer = getattr(port, "name", "")
        for message in messages:
            self._log.debug(event, queue=name, message_id=message.id, **conn, consumer=consumer,
                            attempt=message.attempts + 1)  # fmt: skip


def _conn(owner: object, attribute: str) -> dict[str, int]:
    """The connection's number, where there is one: copies to groups come from none."""
    number = getattr(owner, attribute, 0)
    return {"conn": number} if number else {}
