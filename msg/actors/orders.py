"""Orders of an operator's: pause, resume, purge, delete, and what is done with dead letters."""

from typing import TYPE_CHECKING, Any

import attrs
import msgspec
import trio

from msg.actors.asking import (
    Row,
    address_of,
    ask,
    choice,
    dead_queue_of,
    option,
    paged,
    queue_of,
    rows_of,
)
from msg.actors.peek import BODY_MAX, Found, look, row_of
from msg.actors.queue import Keep, Queue
from msg.actors.reply import Reply
from msg.actors.topic import Ask as AskTopic
from msg.core.body import with_body
from msg.core.message import Message
from msg.core.names import dead_name, group_address, is_dead, parent_of, split_group
from msg.core.wire import without_case
from msg.errors import ClientError
from msg.store.records import published_at, seconds

if TYPE_CHECKING:
    from msg.actors.context import Context
    from msg.actors.queue import QueueActor
    from msg.core import commands
    from msg.core.wire import Stamp

SEARCH_PAGE = 500  # dead letters read together
NO_LIMIT = 1 << 62


async def set_paused(context: "Context", question: "commands.Question", paused: bool) -> Row:
    """Stop or resume dispatch, durably."""
    queue = queue_of(context, question)
    reply: Reply[None] = Reply(queue.mailbox.owner)
    if not queue.post(Keep({"paused": paused}, reply)):
        raise ClientError("not_found", f"queue {queue.name!r} has just ended")
    await reply.wait()
    context.services.logger.info("paused" if paused else "resumed", queue=queue.name)
    return {"topic": queue.name, "paused": paused}


async def purge(context: "Context", question: "commands.Question") -> Row:
    """Drop what is ready and delayed in a queue, or what a topic keeps."""
    name = address_of(question)
    if question.mode == "pubsub" and question.group is None and "@" not in name:
        topic = context.directory.find_topic(name)
        if topic is None:
            raise ClientError("not_found", f"there is no topic {name!r}")
        reply: Reply[Any] = Reply(topic.mailbox.owner)
        if not topic.post(AskTopic(lambda actor, _: actor.rules.kept.clear(), reply)):
            raise ClientError("not_found", f"topic {name!r} has just ended")
        count = await reply.wait()
    else:
        queue = queue_of(context, question)
        count = await ask(queue, lambda actor, _: actor.ledger.purge())
    context.services.logger.info("purged", **_naming(question), count=count)
    return {"topic": name, "count": count}


async def delete(context: "Context", question: "commands.Question") -> Row:
    """Delete a queue, group or topic with all that it holds; durable when it is answered."""
    if question.topic is None:
        raise ClientError("bad_field", 'name what to delete in "topic"')
    name, group = split_group(question.topic)
    group = group or question.group
    kind = "queues" if question.mode == "queue" or group is not None else "topics"
    address = name if group is None else group_address(name, group)
    await context.directory.erase(kind, address, "deleted by an operator")
    context.services.logger.info("deleted", **{kind[:-1]: address})
    return {"topic": address}


def _naming(question: "commands.Question") -> dict[str, str]:
    name = question.topic or ""
    return {"topic" if question.mode == "pubsub" and "@" not in name else "queue": name}


# -- dead letters ---------------------------------------------------------------------------

DOES = ("list", "show", "retry", "drop", "edit")


@attrs.frozen
class Filter:
    """Which dead letters are meant. All that is given must fit."""

    ids: frozenset[str]
    reason: str  # a part of the reason of the death or of an attempt, in any case of letters
    consumer: str  # who failed on it
    contains: str  # a part of the body's JSON
    older: float  # died before (epoch seconds); 0 = whenever
    newer: float  # died after

    @property
    def is_open(self) -> bool:
        """Whether it lets everything through."""
        return not (self.ids or self.reason or self.consumer or self.contains or self.older
                    or self.newer)  # fmt: skip

    def fits(self, message: Message) -> bool:
        if self.ids and message.id not in self.ids:
            return False
        if self.is_open or (self.ids and not self._looks_inside):
            return True
        whole = msgspec.json.decode(b"{%b}" % message.wire)
        case = whole.get("case") or {}
        attempts = case.get("attempts", [])
        reasons = [case.get("reason", ""), *(a.get("reason", "") for a in attempts)]
        if self.reason and self.reason.lower() not in "\n".join(reasons).lower():
            return False
        if self.consumer and self.consumer not in [a.get("who", "") for a in attempts]:
            return False
        if self.contains:
            body = msgspec.json.encode(whole.get("message")).decode()
            if self.contains not in body:
                return False
        at = case.get("at")
        died = seconds(at.encode() if at else published_at(message.wire))
        return not ((self.older and died >= self.older) or (self.newer and died <= self.newer))

    @property
    def _looks_inside(self) -> bool:
        return bool(self.reason or self.consumer or self.contains or self.older or self.newer)


def filter_of(context: "Context", question: "commands.Question") -> Filter:
    """The filter that a question's fields and options describe."""
    ids = list(question.message_ids or ())
    if question.message_id is not None:
        ids.append(question.message_id)
    wall = context.world.wall()
    older = option(question, "older_s", float, 0.0)
    newer = option(question, "newer_s", float, 0.0)
    return Filter(
        frozenset(ids),
        option(question, "reason", str, ""),
        option(question, "consumer", str, ""),
        option(question, "contains", str, ""),
        wall - older if older else 0.0,
        wall - newer if newer else 0.0,
    )


async def dead(context: "Context", question: "commands.Question") -> Row:
    """`list`, `show`, `retry`, `drop` or `edit` dead letters; without a queue, who has any."""
    if question.topic is None:
        return await _all_dead(context, question)
    does = choice(question, "do", DOES, "list")
    queue = dead_queue_of(context, question)
    wanted = filter_of(context, question)
    if queue is None:
        answer: Row = {"topic": dead_name(address_of(question)), "count": 0}
        return answer | ({"messages": []} if does in ("list", "show") else {})
    if does in ("list", "show"):
        return await _list(context, question, queue, wanted, whole=does == "show")
    if does == "edit":
        return await _edit(context, question, queue, wanted)
    if does == "drop":
        if wanted.is_open and not option(question, "all", bool, False):
            raise ClientError(
                "bad_field", 'say which dead letters to drop, or the option "all" for every one'
            )
        return await _drop(context, question, queue, wanted)
    return await _retry(context, question, queue, wanted)


async def retry(context: "Context", question: "commands.Question") -> Row:
    """Dead letters back to where they died: some by id or filter, the first n, or all."""
    queue = dead_queue_of(context, question)
    if queue is None:
        return {"topic": dead_name(address_of(question)), "count": 0}
    return await _retry(context, question, queue, filter_of(context, question))


async def _all_dead(context: "Context", question: "commands.Question") -> Row:
    rows = [
        {"queue": parent_of(name), "dead_queue": name, "messages": queue.gauge.messages,
         "bytes": queue.gauge.bytes}
        for name, queue in sorted(context.directory.queues.items())
        if is_dead(name) and queue.gauge.messages
    ]  # fmt: skip
    return await paged(rows_of("queues", rows), question.cursor, "queues")


async def search(
    context: "Context", queue: Queue, wanted: Filter, most: int, skip: int = 0
) -> list[Found]:
    """Dead letters that fit, in memory or on disk, a page at a time."""
    found: list[Found] = []
    at = 0
    while len(found) < skip + most:
        page = await look(context, queue, ("ready",), at, SEARCH_PAGE)
        at += len(page)
        found += [f for f in page if f.message is not None and wanted.fits(f.message)]
        if len(page) < SEARCH_PAGE:
            break
        await trio.lowlevel.checkpoint()
    return found[skip : skip + most]


async def _list(
    context: "Context", question: "commands.Question", queue: Queue, wanted: Filter, *, whole: bool
) -> Row:
    skip = option(question, "skip", int, 0)
    found = await search(context, queue, wanted, min(question.n or 100, 1000), max(0, skip))
    if whole and wanted.ids and not found:
        raise ClientError("not_found", f"no such dead letter in {queue.name!r}")
    rows = [row_of(f, BODY_MAX if whole else 1000) for f in found]
    answer: Row = {"topic": queue.name, "count": queue.gauge.messages}
    return answer | await paged(rows_of("messages", rows), question.cursor, "messages")


async def _retry(
    context: "Context", question: "commands.Question", queue: Queue, wanted: Filter
) -> Row:
    most = question.n or NO_LIMIT
    count = await ask(queue, lambda actor, _: actor.ledger.retry(wanted.fits, most))
    _say(context, "dead letters retried", queue, wanted, count)
    return {"topic": queue.name, "count": count}


async def _drop(
    context: "Context", question: "commands.Question", queue: Queue, wanted: Filter
) -> Row:
    most = question.n or NO_LIMIT
    if not is_dead(queue.name):
        raise AssertionError("dead_queue_of gives dead queues")
    why = "dropped by an operator"
    count = await ask(queue, lambda actor, _: actor.ledger.remove(wanted.fits, most, why))
    _say(context, "dead letters dropped", queue, wanted, count)
    return {"topic": queue.name, "count": count}


async def _edit(
    context: "Context", question: "commands.Question", queue: Queue, wanted: Filter
) -> Row:
    """One dead letter gets another body and goes back to where it died."""
    if len(wanted.ids) != 1:
        raise ClientError("bad_field", 'name the one dead letter to edit in "message_id"')
    body = (question.options or {}).get("message", msgspec.UNSET)
    if body is msgspec.UNSET:
        raise ClientError("bad_field", 'give the new body in the option "message"')
    encoded = msgspec.json.encode(body)
    limit = context.settings.limits.frame_bytes
    if len(encoded) > limit:
        raise ClientError("too_large", f"a body has at most {limit} bytes", limit=limit)

    def edited(wire: bytes) -> bytes:
        return with_body(without_case(wire), encoded)

    def send(actor: "QueueActor", _: "Stamp") -> int:
        return actor.ledger.retry(wanted.fits, 1, edited)

    # those that are only on disk have to be in memory for this
    count = await ask(queue, send)
    if not count and await search(context, queue, wanted, 1):
        raise ClientError(
            "unavailable", "it is further back than memory reaches: retry or drop others first"
        )
    if not count:
        raise ClientError("not_found", f"no such dead letter in {queue.name!r}")
    _say(context, "dead letter edited and retried", queue, wanted, count)
    return {"topic": queue.name, "count": count}


def _say(context: "Context", event: str, queue: Queue, wanted: Filter, count: int) -> None:
    more: dict[str, Any] = {}
    if len(wanted.ids) == 1:
        more["message_id"] = next(iter(wanted.ids))
    context.services.logger.info(event, queue=queue.name, count=count, **more)
