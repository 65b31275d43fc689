"""Questions and orders: what a client may ask about the broker, and `declare`.

Each is one answer. Lists that do not fit into one frame are paged: the answer has a
`cursor`, which the next question repeats. What is read is read between the turns of the
actors, so it is never a state half changed; orders are carried out in a turn.
"""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
import trio

from msg.actors.asking import Row, Rows, option, paged, rows_of, texts
from msg.actors.export import export
from msg.actors.glance import hear_acks
from msg.actors.orders import dead, delete, purge, retry, set_paused
from msg.actors.peek import held, peek
from msg.actors.queue import Keep, Queue
from msg.actors.reply import Reply
from msg.actors.tap import tap
from msg.actors.trace import trace
from msg.actors.why import why
from msg.config.declared import checked
from msg.core import commands
from msg.core.names import dead_name, group_address, refuse_broker_name, split_group
from msg.errors import ClientError
from msg.protocol import encode
from msg.protocol.codec import commands_by_action

if TYPE_CHECKING:
    from msg.actors.context import Context
    from msg.actors.session import Session
    from msg.actors.topic import Topic


class Questions:
    """Answers for all connections. Holds nothing but the way to the rest."""

    context: "Context"

    async def answer(self, session: "Session", question: commands.Question) -> None:
        fields = await self.fields(session, question)
        session.outbox.answer(
            encode.answer(str(question.__struct_config__.tag), id=question.id, **fields)
        )

    async def fields(self, session: "Session | None", question: commands.Question) -> Row:
        """What the answer to a question says. `session` is who asks; the web page has none."""
        method = _ANSWERS.get(question.__class__)
        if method is None:
            action = question.__struct_config__.tag
            raise ClientError("unsupported", f"{action!r} is not known to this version yet")
        if question.__class__ in _LOOKS:
            await self._hear_acks(question.topic)
        fields: Row = await method(self, session, question)
        return fields

    async def _hear_acks(self, name: str | None) -> None:
        """What was acked before is not held any more; a queue that is stuck is not waited for."""
        queues = self.context.directory.queues
        one = None if name is None else queues.get(name)
        if hear_acks(queues.values() if one is None else [one]):
            await trio.lowlevel.checkpoint()  # those that run may have their turns after ours
            await trio.lowlevel.checkpoint()

    # -- about the broker -------------------------------------------------------------------

    async def _stats(self, _: "Session | None", question: commands.Stats) -> Row:
        directory = self.context.directory
        queues, topics = sorted(directory.queues.items()), sorted(directory.topics.items())
        if question.topic is not None:
            queues = [entry for entry in queues if entry[0] == question.topic]
            topics = [entry for entry in topics if entry[0] == question.topic]
            if not queues and not topics:
                raise ClientError("not_found", f"there is no queue or topic {question.topic!r}")

        def rows() -> Rows:
            for _, queue in queues:
                yield "queues", lambda q=queue: self.queue_row(q)  # type: ignore[misc]
            for _, topic in topics:
                yield "topics", lambda t=topic: self.topic_row(t)  # type: ignore[misc]

        return await paged(rows(), question.cursor, "queues", "topics") | self.broker_row()

    def broker_row(self) -> Row:
        """The numbers that are of the whole broker."""
        context = self.context
        broker, store = context.broker, context.services.storekeeper
        now = context.world.now()
        return {
            "connections": len(broker.connections.open),
            "server": {
                "version": context.version,
                "draining": context.draining,
                "uptime_s": round(now - broker.since, 3),
                "outbound_bytes": context.outbound.used,
                "backlog_bytes": context.services.backlog.used,
                "loop_lag_s": round(broker.watchdog.lag_s, 6),
                "store": {
                    "rounds": store.rounds,
                    "last_round_s": round(store.sync_s, 6),
                    "busy_s": round(now - store.busy_since, 3) if store.busy_since else 0.0,
                    "disk_full": store.disk_full,
                },
                "connections_ever": context.counters.connections,
                "connections_refused": context.counters.refused,
                "connections_crashed": context.counters.crashed,
                "errors": context.counters.errors,
                "dropped": context.outbound.dropped,  # that slow subscribers have lost
            },
        }

    def queue_row(self, queue: Queue) -> Row:
        """As the last turn left it: read without asking, so that a stuck queue is shown too."""
        row: Row = {"name": queue.name, "state": "running"}
        if queue.restarts.failed:
            row["state"] = "failed"
        actor = queue.actor
        ledger = getattr(actor, "ledger", None)
        if actor is None or ledger is None:
            return {**row, "state": "starting"}
        states = ledger.states()
        row |= {name: states[name] for name in ("ready", "leased", "delayed")}
        row["pending"] = states["committing"] + states["leaving"] + states["arriving"]
        dead = self.context.directory.queues.get(dead_name(queue.name))
        row["dead"] = dead.gauge.messages if dead is not None else 0
        row["consumers"] = len(ledger.consumers)
        row["bytes"] = ledger.bytes
        row["memory_bytes"] = ledger.memory_bytes
        row["paused"] = ledger.paused
        row["disk_bytes"] = actor.log.disk_bytes
        row["restarts"] = queue.restarts.count
        row["counts"] = ledger.totals()
        row["dedup"] = {
            "ids": len(ledger.dedup),
            "seconds": round(ledger.dedup.span(self.context.world.now()), 1),
        }
        return row

    def topic_row(self, topic: "Topic") -> Row:
        row = topic.row()
        rules = getattr(topic.actor, "rules", None)
        if rules is not None:
            row["counts"] = attrs.asdict(rules.counts)
        return row

    async def _tree(self, _: "Session | None", question: commands.Tree) -> Row:
        """Options: `fold` (how many of a kind are shown), `expand`, `stacks`."""
        fold = option(question, "fold", int, 0)
        drawn = await self.context.broker.picture(
            stacks=option(question, "stacks", bool, False),
            keep=fold if fold > 0 else None,
            expand=texts(question, "expand"),
        )
        actors = drawn.pop("actors")
        drawn["waits"] = drawn["waits"][:1000]
        return await paged(rows_of("actors", actors), question.cursor, "actors") | drawn

    async def _limits(self, _: "Session | None", question: commands.Limits) -> Row:
        return {"limits": self.context.settings.limits.numbers()}

    async def _help(self, _: "Session | None", question: commands.Help) -> Row:
        return {"actions": _actions(), "protocol": 1}

    # -- about one thing --------------------------------------------------------------------

    async def _why(self, _: "Session | None", question: commands.Why) -> Row:
        name = question.topic if question.topic is not None else question.name
        if name is not None and question.group is not None:
            name = group_address(name, question.group)
        return await paged(
            rows_of("subjects", await why(self.context.broker, name)), question.cursor, "subjects"
        )

    async def _trace(self, _: "Session | None", question: commands.Trace) -> Row:
        return await trace(self.context, question)

    async def _peek(self, _: "Session | None", question: commands.Peek) -> Row:
        if "after" in (question.options or {}):
            return await export(self.context, question)
        return await peek(self.context, question)

    async def _held(self, _: "Session | None", question: commands.Held) -> Row:
        return await held(self.context, question)

    async def _dead(self, _: "Session | None", question: commands.Dead) -> Row:
        return await dead(self.context, question)

    async def _retry(self, _: "Session | None", question: commands.Retry) -> Row:
        return await retry(self.context, question)

    async def _purge(self, _: "Session | None", question: commands.Purge) -> Row:
        return await purge(self.context, question)

    async def _delete(self, _: "Session | None", question: commands.Delete) -> Row:
        return await delete(self.context, question)

    async def _pause(self, _: "Session | None", question: commands.Pause) -> Row:
        return await set_paused(self.context, question, True)

    async def _resume(self, _: "Session | None", question: commands.Resume) -> Row:
        return await set_paused(self.context, question, False)

    async def _tap(self, session: "Session | None", question: commands.Tap) -> Row:
        if session is None:
            raise ClientError("unsupported", "tap needs a connection to write to: use /ws or TCP")
        return tap(self.context, session, question)

    # -- declare ----------------------------------------------------------------------------

    async def declare(self, session: "Session", command: commands.Declare) -> None:
        """Make a queue, topic or group, or change what is set for it; or only look."""
        directory = self.context.directory
        topic, group = command.topic, command.group
        if group is None and "@" in topic:
            topic, group = split_group(topic)
        name = topic if group is None else group_address(topic, group)
        kind = "queues" if command.mode == "queue" or group is not None else "topics"
        if not command.passive:
            refuse_broker_name(topic)
        settings = checked(kind, command.settings or {})
        table: dict[str, Any] = directory.queues if kind == "queues" else directory.topics
        if command.passive and name not in table:
            raise ClientError("not_found", f"there is no {kind[:-1]} {name!r}; declare it first")
        handle: Any
        if group is not None:
            start = None
            if command.from_ is not None:
                from msg.actors.session import parsed_start

                start = parsed_start(command.from_)
            handle = await directory.group(topic, group, start)
        elif kind == "queues":
            handle = await directory.queue(name)
        else:
            handle = await directory.topic(name)
        if not command.passive and (settings or group is None):
            reply: Reply[None] = Reply()
            state = {"settings": settings} if settings else {"declared": True}
            if not handle.post(Keep(state, reply)):
                raise ClientError("unavailable", f"{name!r} has just ended; declare it again")
            await reply.wait()
        if command.passive:
            await self._hear_acks(name)
        effective = handle.settings
        counts = self.queue_row(handle) if kind == "queues" else handle.row()
        session.outbox.answer(
            encode.declared(
                msgspec.to_builtins(effective),
                {k: v for k, v in counts.items() if type(v) is int},
                command.id,
            )
        )


@cache
def _actions() -> Row:
    """Every action with its fields, looked at once: that leaves cycles behind."""
    actions: Row = {}
    for action, cls in commands_by_action().items():
        if issubclass(cls, commands.Question) and cls not in _ANSWERS:
            continue
        fields = msgspec.structs.fields(cls)
        actions[action] = {
            "required": [f.encode_name for f in fields if f.required],
            "optional": [f.encode_name for f in fields if not f.required],
        }
    return actions


# of what is there now
_LOOKS = (commands.Stats, commands.Tree, commands.Why, commands.Trace, commands.Peek, commands.Held)
_ANSWERS: dict[type[commands.Question], Callable[..., Any]] = {
    commands.Stats: Questions._stats,
    commands.Tree: Questions._tree,
    commands.Limits: Questions._limits,
    commands.Help: Questions._help,
    commands.Why: Questions._why,
    commands.Trace: Questions._trace,
    commands.Peek: Questions._peek,
    commands.Held: Questions._held,
    commands.Dead: Questions._dead,
    commands.Retry: Questions._retry,
    commands.Purge: Questions._purge,
    commands.Delete: Questions._delete,
    commands.Pause: Questions._pause,
    commands.Resume: Questions._resume,
    commands.Tap: Questions._tap,
}
