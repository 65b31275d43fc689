"""Session: what one client has asked for and what it holds. The connection's I/O is around it.

Owns   the subscriptions of one connection with their ports, its identity, and the count of
       requests that are not yet answered.
Hears  decoded commands from the connection's reader, in order, a read's worth at a time.
Tells  queues and topics through their handles, one batch for each destination of a read;
       the client through the outbox. Only publishes and look-ups of names ever wait.
Ends   with its connection: `close` tells every queue and topic what to take back.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from msg.actors import directory as names
from msg.actors import queue as queues
from msg.actors import topic as topics
from msg.actors.outbox import contained
from msg.actors.ports import QueuePort, Tags, TopicPort
from msg.core import commands
from msg.core.batches import Failure, PublishBatch, Settlement, Unasked
from msg.core.commands import (
    Ack,
    Acks,
    BarePublish,
    Command,
    Nack,
    Publish,
    Publishes,
    Touch,
)
from msg.core.credit import Consumer
from msg.core.message import DURABILITIES, Message
from msg.core.names import (
    group_address,
    has_wildcard,
    is_broker_name,
    refuse_broker_name,
    split_group,
)
from msg.errors import ActorStopped, ClientError
from msg.protocol import encode
from msg.protocol.checks import parse_from
from msg.protocol.codec import Item, Rejected

if TYPE_CHECKING:
    from msg.actors.context import Context
    from msg.actors.outbox import Outbox
    from msg.actors.queue import Queue
    from msg.actors.topic import Topic

INBOX = "_inbox."
# Acks for which a queue has nothing to hand out, and nobody waits, are read with what comes
# next, or after so long: half of the turns of a queue that is never full. What is logged is
# written as soon as other records that nobody waits for; for what is in memory only, no
# stop of the broker makes a difference.
ACK_DURABLE_S = queues.LAZY_S
ACK_MEMORY_S = 0.25
TRIES = 10  # a destination that ends between look-up and hand-over is looked up again
Destination = tuple[str, str, str | None]  # mode, topic, durability
Key = tuple[str, str, str | None, str | None]  # mode, topic or pattern, group, sub


@attrs.define(eq=False)
class QueueSub:
    """A subscription to a queue or group."""

    key: Key
    port: QueuePort
    waiting: list[commands.Subscribe] = attrs.field(factory=list)  # not yet answered


@attrs.define(eq=False)
class TopicSub:
    """A live subscription to a topic or pattern."""

    key: Key
    port: TopicPort
    topic: "Topic | None"  # None: a pattern, known to the directory
    waiting: list[commands.Subscribe] = attrs.field(factory=list)  # not yet answered


class Session:
    """See the module. `number` names the connection in logs and dumps."""

    def __init__(self, number: int, outbox: "Outbox", context: "Context", peer: str) -> None:
        self.number = number
        self.peer = peer
        self.outbox = outbox
        self.context = context
        self.name = ""
        self.heartbeat = 0.0
        self.inbox = f"{INBOX}{context.token()}"
        self.tags = Tags()
        self.subs: dict[Key, QueueSub | TopicSub] = {}
        self.ports: list[QueuePort] = []  # all that may hold something; `get`s too
        self.unanswered = 0  # requests whose answers are still to come from elsewhere
        self.on_answered: Callable[[], None] | None = None
        self.published_count = 0
        self._gets = 0  # that have no answer yet
        self._acks: dict[QueuePort, list[Message]] = {}
        self._unasked = Unasked(self)

    # -- a read's worth of commands ---------------------------------------------------------

    async def handle(self, items: Sequence[Item], size: int) -> None:
        """Do what one read brought, in order; `size` is its bytes."""
        batches: dict[Destination, PublishBatch] = {}
        for item in items:
            match item:
                case Publishes():
                    self._collect(batches, item, item.items, size, bare=True)
                case Acks():
                    self._ack_all(item)
                case Publish():
                    self._collect(batches, item, [item], size)
                case Ack():
                    self._ack(item)
                case _:
                    self._flush_acks()  # first: publishes may wait for room, and acks never do
                    if batches:
                        await self._publish_all(batches)
                        batches = {}
                    if isinstance(item, Rejected):
                        self.reject(item)
                    else:
                        await self._command(item)
        if self._acks:
            self._flush_acks()
        if batches:
            await self._publish_all(batches)

    def _collect(
        self,
        batches: dict[Destination, PublishBatch],
        to: Publish | Publishes,
        items: list[BarePublish],
        size: int,
        *,
        bare: bool = False,
    ) -> None:
        """One batch for each destination."""
        key = (to.mode, to.topic, to.durability)
        batch = batches.get(key)
        if batch is None:
            level = None if to.durability is None else DURABILITIES[to.durability]
            batches[key] = PublishBatch(self, items, level, size, bare=bare)
        else:
            batch.items += items
            batch.bare = batch.bare and bare

    def reject(self, item: Rejected) -> None:
        self.context.counters.errors += 1
        self.context.services.logger.info(
            "frame refused", conn=self.number, code=item.error.code, error=str(item.error),
            **({"message_id": item.message_id} if item.message_id else {}),
        )  # fmt: skip
        self.outbox.answer(encode.error(item.error, item.id, item.message_id))

    async def _command(self, command: Command) -> None:
        try:
            await _DO[command.__class__](self, command)
        except ClientError as error:
            self.fail(error, getattr(command, "id", None))

    def fail(self, error: ClientError, request_id: str | None) -> None:
        self.context.services.logger.debug(
            "request refused", conn=self.number, code=error.code, error=str(error)
        )
        self.outbox.answer(encode.error(error, request_id))

    # -- publishing -------------------------------------------------------------------------

    async def _publish_all(self, batches: dict[Destination, PublishBatch]) -> None:
        for (mode, name, _), batch in batches.items():
            self.unanswered += 1
            if self._hand_over_now(batch, mode, name):
                continue
            try:
                await self._hand_over(batch, mode, name)
            except ClientError as error:
                batch.fail_all(error)
                batch.answer()

    def _hand_over_now(self, batch: PublishBatch, mode: str, name: str) -> bool:
        """Where it is there, and has room: each coroutine that need not wait costs 0.5 us."""
        if self.context.draining or is_broker_name(name):
            return False
        directory = self.context.directory
        if mode == "queue":
            queue = directory.find_queue(name)
            return queue is not None and queue.offer(batch)
        topic = directory.find_topic(name)
        return topic is not None and topic.offer(batch)

    async def _hand_over(self, batch: PublishBatch, mode: str, name: str) -> None:
        context = self.context
        if context.draining:
            raise ClientError("draining", "the broker is stopping; publish to its successor")
        if not (mode == "pubsub" and name.startswith(INBOX)):
            refuse_broker_name(name)
        for _ in range(TRIES):
            try:
                if mode == "queue":
                    await (await self._queue(name)).publish(batch)
                else:
                    await (await self._topic(name)).publish(batch)
            except ActorStopped:
                continue
            return
        raise ClientError("unavailable", f"{name!r} comes and goes; publish again with the same id")

    async def _queue(self, name: str) -> "Queue":
        """The queue of this name; while one is being deleted, the one that comes after it."""
        directory = self.context.directory
        queue = directory.find_queue(name)
        if queue is None or queue.mailbox.closed:
            queue = await directory.queue(name)
        return queue

    async def _topic(self, name: str) -> "Topic":
        """The topic of this name; where one has just ended, the one that comes after it."""
        directory = self.context.directory
        topic = directory.find_topic(name)
        if topic is None or topic.mailbox.closed:
            topic = await directory.topic(name)
        return topic

    @contained
    def published(self, batch: PublishBatch) -> None:
        """Every item of the batch has its outcome: answer them in order."""
        if not batch.more:
            self.unanswered -= 1
        self.published_count += len(batch.items)
        special = batch.errors or batch.duplicates or batch.receivers is not None
        if special or not (batch.bare or all([p.id is None for p in batch.items])):
            self._answer_each(batch)
        else:
            self.outbox.answer(encode.accepted(batch.ids))
        if self.on_answered is not None:
            self.on_answered()

    def _answer_each(self, batch: PublishBatch) -> None:
        errors = batch.errors or {}
        duplicates = set(batch.duplicates or ())
        frames = []
        for i, item in enumerate(batch.items):
            message_id = batch.ids[i]
            if i in errors:
                frames.append(encode.error(errors[i], item.id, message_id or None))
            else:
                frames.append(
                    encode.ack(
                        message_id,
                        item.id,
                        duplicate=i in duplicates,
                        receivers=None if i in duplicates else batch.receivers,
                    )
                )
        self.outbox.answer(b"".join(frames))

    # -- settling ---------------------------------------------------------------------------

    def _ack_all(self, acks: Acks) -> None:
        """As a rule all of them are of one subscription: those are taken together."""
        ids, tags = acks.ids, acks.tags
        if len(self.ports) == 1:  # else an id may be held twice
            port = self.ports[0]
            messages = self.tags.take_ids(ids, port) if ids else port.take_by_tags(tags)
            if messages is not None:
                self._gather(port, messages)
                return
        for message_id in ids:
            self._ack(Ack(message_id=message_id))
        for tag in tags:
            holder = self.tags.search(tag, self.ports)
            if holder is None:
                self._ack(Ack(tag=tag))
            else:
                self._gather(holder, [holder.take(tag)])

    def _gather(self, port: QueuePort, messages: list[Message]) -> None:
        """Acked: sent on to the queue at the end of the read."""
        mine = self._acks.get(port)
        if mine is None:
            self._acks[port] = messages
        else:
            mine += messages

    def _ack(self, ack: Ack) -> None:
        """One by one: what is simple is gathered too."""
        port, tag = None, ack.tag
        if ack.id is None and self.ports:
            if ack.message_id is not None:
                holders = self.tags.holders(ack.message_id, self.ports)
                if len(holders) == 1:
                    ((port, tag),) = holders
            elif tag is not None:
                port = self.tags.search(tag, self.ports)
        if port is None or tag is None:
            self._flush_acks()
            self._settle_slowly(ack)
            return
        self._gather(port, [port.take(tag)])

    def _flush_acks(self) -> None:
        if not self._acks:
            return
        for port, messages in self._acks.items():
            queue = port.queue
            settle = queues.Settle(port, messages, self._unasked)
            # what is noted overtakes the mail that waits: a touch, say, would find nothing left
            if queue.patient and not queue.mailbox.depth:
                heard = queue.mailbox.note(settle)
                within = ACK_DURABLE_S if messages[0].durability else ACK_MEMORY_S
                self.context.services.timer.nudge(queue.mailbox, within)
            else:
                heard = queue.mailbox.post(settle)
            if not heard:
                self._unasked.part(0, [(None, m.id, "not_held") for m in messages])
        self._acks = {}

    def _settle_slowly(self, command: Ack | Nack | Touch) -> None:
        """Acks that want an answer, name several, or need a look at several ports."""
        failures: list[Failure] = []
        found: dict[QueuePort, list[Message]] = {}
        settlement = Settlement(self, command.id)
        keep = command.__class__ is Touch
        tags = list(command.tags or ()) if command.tag is None else [command.tag]
        for tag in tags:
            held = self._by_tag(tag, keep=keep)
            if held is None:
                failures.append((tag, None, "not_held"))
            else:
                found.setdefault(held[0], []).append(held[1])
                settlement.tags[held[1].id] = tag
        ids = list(command.message_ids or ())
        if command.message_id is not None:
            ids.append(command.message_id)
        for message_id in ids:
            try:
                port, message = self._by_id(message_id, keep=keep)
            except ClientError as error:
                failures.append((None, message_id, error.code))
            else:
                found.setdefault(port, []).append(message)
        settlement.left = len(found) + 1
        settlement.counted = True
        self.unanswered += 1
        for port, messages in found.items():
            if not port.queue.post(_settling(command, port, messages, settlement)):
                settlement.part(0, [(None, m.id, "not_held") for m in messages])
        settlement.part(0, failures)

    def _by_tag(self, tag: int, *, keep: bool) -> tuple[QueuePort, Message] | None:
        port = self.tags.search(tag, self.ports)
        if port is not None:
            return port, port.held[tag] if keep else port.take(tag)
        for port in self.ports:
            if port.stale is not None and tag in port.stale:
                return port, port.stale[tag] if keep else port.stale.pop(tag)
        return None

    def _by_id(self, message_id: str, *, keep: bool) -> tuple[QueuePort, Message]:
        holders = self.tags.holders(message_id, self.ports)
        if not holders:
            raise ClientError("not_held", "this connection does not hold that message")
        if len(holders) > 1:
            raise ClientError("ambiguous", "it holds several of that id; name the tag")
        ((port, tag),) = holders
        return port, port.held[tag] if keep else port.take(tag)

    @contained
    def settled(self, settlement: Settlement) -> None:
        """All parts are in: answer if an answer was asked for, or if something failed."""
        tags = settlement.tags
        if settlement.request_id is not None:
            failed = [
                (tags.get(message_id or "", message_id or "") if tag is None else tag, code)
                for tag, message_id, code in settlement.failures
            ]
            self.outbox.answer(encode.acked(settlement.count, failed, settlement.request_id))
        else:
            for tag, message_id, code in settlement.failures:
                self.outbox.answer(encode.error(_not_settled(tag, code), None, message_id))
        if settlement.counted:
            self.unanswered -= 1
            if self.on_answered is not None:
                self.on_answered()

    # -- subscribing ------------------------------------------------------------------------

    async def _subscribe(self, command: commands.Subscribe) -> None:
        topic, group = _address(command.topic, command.group)
        key: Key = (command.mode, topic, group, command.sub)
        known = self.subs.get(key)
        if known is None and len(self.subs) >= self.context.settings.limits.subscriptions:
            limit = self.context.settings.limits.subscriptions
            raise ClientError(
                "too_many",
                f"a connection may have {limit} subscriptions; end one, or open another connection",
                limit=limit,
            )
        start = parsed_start(command.from_)
        if command.mode == "queue" or group is not None:
            await self._consume(command, key, start, known)
        elif isinstance(known, TopicSub):
            self.unanswered += 1
            if known.waiting:
                known.waiting.append(command)  # it does not stand yet
            else:
                self._say_subscribed(command, key)
        else:
            await self._listen(command, key, start)

    async def _consume(
        self,
        command: commands.Subscribe,
        key: Key,
        start: names.Start,
        known: "QueueSub | TopicSub | None",
    ) -> None:
        mode, name, group, _ = key
        queue = await self._source(mode, name, group, start)
        timeout = command.ack_timeout
        if timeout is None:
            timeout = queue.settings.ack_timeout
        port = known.port if isinstance(known, QueueSub) else None
        if port is None or port.closed:
            port = self._queue_port(queue, key, timeout, command.ack == "auto")
            port.name = command.name or self.name or self.peer
        elif command.ack is not None and port.auto != (command.ack == "auto"):
            raise ClientError(
                "bad_field",
                "a subscription keeps its way to acknowledge; unsubscribe first, or name another"
                ' "sub"',
            )
        elif not port.auto:
            port.suffix = _suffix(key, timeout)  # frames say the deadline that is in force
        consumer = Consumer(
            port,
            prefetch=command.prefetch or 1,
            ack_timeout=timeout,
            auto=port.auto,
            name=port.name,
        )
        if not isinstance(known, QueueSub) or known.port is not port:
            known = self.subs[key] = QueueSub(key, port)
            port.on_refused = partial(self._refused, known)
            port.on_ended = partial(self._ended, key)
        known.waiting.append(command)
        self.unanswered += 1
        queue.post(queues.Attach(consumer, partial(self._stands, known, command)))

    async def _source(
        self, mode: str, name: str, group: str | None, start: names.Start = None
    ) -> "Queue":
        """The queue that a subscription or a `get` takes from; it hears what is posted next."""
        if group is None and mode != "queue":
            raise ClientError("bad_field", "only a queue or a group can be taken from")
        refuse_broker_name(name)
        address = name if group is None else group_address(name, group)
        for _ in range(TRIES):
            if group is None or group.endswith(".dead"):
                queue = await self._queue(address)
            else:
                queue = await self.context.directory.group(name, group, start)
            if not queue.mailbox.closed:
                return queue
        raise ClientError("unavailable", f"{address!r} comes and goes; ask again")

    def _queue_port(self, queue: "Queue", key: Key, timeout: float, auto: bool) -> QueuePort:
        port = QueuePort(
            self.outbox,
            queue,
            self.tags,
            sub=key[3],
            suffix=_suffix(key, None if auto else timeout),
            auto=auto,
            ack_timeout=timeout,
            name=self.name or self.peer,
        )
        self.ports.append(port)
        return port

    async def _listen(self, command: commands.Subscribe, key: Key, start: names.Start) -> None:
        _, name, _, sub = key
        if is_broker_name(name) and not self._is_mine(name):
            raise ClientError(
                "forbidden", "names that begin with _ or $ are the broker's; hear your own inbox"
            )
        limits = self.context.settings.limits
        port = TopicPort(
            self.outbox,
            sub=sub,
            suffix=encode.members(sub=sub),
            limit_count=limits.subscriber_messages,
            limit_bytes=limits.subscriber_bytes,
        )
        listening = TopicSub(key, port, None, [command])
        answer = partial(self._hears, listening)
        port.on_ended = partial(self._ended, key)
        port.on_refused = partial(self._not_heard, listening)
        if has_wildcard(name):
            self.subs[key] = listening
            self.unanswered += 1
            await self.context.directory.listen(port, name, start, answer)
            return
        for _ in range(TRIES):
            topic = await self._topic(name)
            if topic.post(topics.Attach(port, exact=True, start=start, answer=answer)):
                listening.topic = topic
                self.subs[key] = listening
                self.unanswered += 1
                return
        port.forget_callers()
        raise ClientError("unavailable", f"topic {name!r} comes and goes; subscribe again")

    def _is_mine(self, name: str) -> bool:
        """Whether this is this connection's own inbox, or a topic or pattern in it."""
        return name == self.inbox or name.startswith(f"{self.inbox}.")

    @contained
    def _say_subscribed(self, command: commands.Subscribe, key: Key) -> None:
        mode, topic, group, sub = key
        self._answered()
        if command.id is not None:
            self.outbox.answer(encode.subscribed(topic, mode, sub=sub, group=group, id=command.id))

    def _hears(self, sub: TopicSub) -> None:
        """A live subscription stands: all requests for it are answered, in their order."""
        waiting, sub.waiting = sub.waiting, []
        for command in waiting:
            self._say_subscribed(command, sub.key)
        if sub.port.closed:
            sub.port.forget_callers()

    def _not_heard(self, sub: TopicSub, error: ClientError) -> None:
        """A topic failed on a live subscription: it is over, and its client knows."""
        waiting, sub.waiting = sub.waiting, []
        if self.subs.get(sub.key) is sub:
            if waiting:
                self._drop(sub.key)
            else:
                self._ended(sub.key, str(error))
        for command in waiting:
            self._answered()
            self.fail(error, command.id)
        sub.port.forget_callers()

    def _stands(self, sub: QueueSub, command: commands.Subscribe) -> None:
        """One of its requests has been heard; if it came behind one that was refused, that has
        ended the subscription and answered this one too."""
        if command in sub.waiting:
            sub.waiting.remove(command)
            self._say_subscribed(command, sub.key)

    def _refused(self, sub: QueueSub, error: ClientError) -> None:
        waiting, sub.waiting = sub.waiting, []
        if self.subs.get(sub.key) is sub:
            self._drop(sub.key)
        for command in waiting:
            self._answered()
            self.fail(error, command.id)

    def _ended(self, key: Key, reason: str) -> None:
        """The queue was deleted, or failed."""
        mode, topic, group, sub = key
        self._drop(key)
        self.outbox.answer(encode.unsubscribed(topic, mode, sub=sub, group=group, reason=reason))

    def _drop(self, key: Key) -> None:
        gone = self.subs.pop(key, None)
        if isinstance(gone, QueueSub):
            # to a queue that has ended this goes nowhere; one that refused a change of the
            # subscription takes its leases back
            gone.port.queue.post(queues.Detach(gone.port, gone.port.close()))
            self.ports.remove(gone.port)
            self.tags.let_go(gone.port.held.values())
            self.tags.forget()
            gone.port.forget_callers()
        elif gone is not None:
            self._leave(gone)

    async def _unsubscribe(self, command: commands.Unsubscribe) -> None:
        keys = self._named(command)
        topic, group = "", None
        if command.topic is not None:
            topic, group = _address(command.topic, command.group)
        if not keys and not (command.delete and group):
            raise ClientError("not_found", "this connection has no such subscription")
        for key in keys:
            sub = self.subs.pop(key)
            if isinstance(sub, QueueSub):
                # what is held stays valid, so the port stays in `ports`
                sub.port.queue.post(queues.Stop(sub.port, sub.port.stop()))
            else:
                self._leave(sub)
        if command.delete and group is not None:
            await self.context.directory.erase(
                "queues", group_address(topic, group), "the group was removed"
            )
        if command.id is not None:
            mode, name, of_group, sub_name = (
                keys[0] if keys else (command.mode, topic, group, command.sub)
            )
            self.outbox.answer(
                encode.unsubscribed(name, mode, sub=sub_name, group=of_group, id=command.id)
            )

    def _named(self, command: commands.Unsubscribe) -> list[Key]:
        if command.sub is not None:
            return [key for key in self.subs if key[3] == command.sub]
        topic, group = _address(command.topic or "", command.group)
        return [key for key in self.subs if key[:3] == (command.mode, topic, group)]

    def _leave(self, sub: TopicSub) -> None:
        sub.port.close()
        if sub.topic is not None:
            sub.topic.post(topics.Detach(sub.port, None))
        else:
            self.context.directory.unlisten(sub.port, sub.key[1])
        if not sub.waiting:
            sub.port.forget_callers()

    # -- the other commands -----------------------------------------------------------------

    async def _get(self, command: commands.Get) -> None:
        name, group = _address(command.topic, command.group)
        queue = await self._source(command.mode, name, group)
        timeout = command.ack_timeout
        if timeout is None:
            timeout = queue.settings.ack_timeout
        if done := [p for p in self.ports if p.done]:
            self.ports = [p for p in self.ports if not p.done]
            self.tags.forget()
            for each in done:
                each.forget_callers()
        most = self.context.settings.limits.gets
        if self._gets >= most:
            raise ClientError(
                "too_many",
                f"a connection may have {most} gets under way; wait for one, or subscribe",
                limit=most,
            )
        port = self._queue_port(
            queue, (command.mode, name, group, command.sub), timeout, auto=False
        )
        until = self.context.world.now() + command.wait
        consumer = Consumer(
            port, prefetch=command.n, ack_timeout=timeout, name=port.name, pull=(command.n, until)
        )
        self.unanswered += 1
        self._gets += 1

        def finish() -> None:
            self._gets -= 1
            port.finished = True
            port.forget_callers()  # it is answered once; and these and the port hold each other
            self._answered()

        def got(count: int) -> bytes:
            finish()
            return encode.got(count, command.id)

        def refused(error: ClientError) -> None:
            finish()
            self.fail(error, command.id)

        port.on_got = got
        port.on_refused = refused
        port.on_ended = lambda reason: refused(ClientError("not_found", f"it ended: {reason}"))
        queue.post(queues.Attach(consumer))

    async def _settle(self, command: Nack | Touch) -> None:
        self._settle_slowly(command)

    async def _hello(self, command: commands.Hello) -> None:
        if command.name is not None:
            self.name = command.name
        if command.heartbeat is not None:
            self.heartbeat = command.heartbeat
        context = self.context
        self.outbox.answer(
            encode.hello(
                server="trio-msg",
                version=context.version,
                features=context.features,
                limits={
                    name: int(number)
                    for name, number in context.settings.limits.numbers().items()
                    if name in HELLO_LIMITS
                },
                inbox=self.inbox,
                id=command.id,
                connection=self.number,
                stored=context.stored,
            )
        )

    async def _ping(self, command: commands.Ping) -> None:
        self.outbox.answer(encode.pong(command.id))

    async def _pong(self, _: commands.Pong) -> None:
        """Life: the reader has seen it already."""

    async def _declare(self, command: commands.Declare) -> None:
        await self.context.declare(self, command)

    async def _question(self, command: commands.Question) -> None:
        await self.context.question(self, command)

    # -- counting what is open, and the end -------------------------------------------------

    def _answered(self) -> None:
        self.unanswered -= 1
        if self.on_answered is not None:
            self.on_answered()

    def close(self) -> None:
        """The connection is over: every queue takes back what is held here. Never waits."""
        self._flush_acks()
        for sub in self.subs.values():
            if isinstance(sub, TopicSub):
                self._leave(sub)
                sub.port.forget_callers()
        for port in self.ports:
            port.queue.post(queues.Detach(port, port.close()))
        self.subs.clear()

    def let_go(self) -> None:
        """After `close`: refer to nothing that refers back (see `Connection.let_go`)."""
        self.on_answered = None
        for port in self.ports:
            port.forget_callers()
        del self._unasked


HELLO_LIMITS = frozenset(
    ["frame_bytes", "subscriptions", "in_flight", "outbound_bytes", "subscriber_messages",
     "subscriber_bytes"]
)  # fmt: skip

_DO: dict[type[Command], Callable[[Session, Any], Any]] = {
    commands.Subscribe: Session._subscribe,
    commands.Unsubscribe: Session._unsubscribe,
    commands.Get: Session._get,
    commands.Nack: Session._settle,
    commands.Touch: Session._settle,
    commands.Declare: Session._declare,
    commands.Hello: Session._hello,
    commands.Ping: Session._ping,
    commands.Pong: Session._pong,
    **dict.fromkeys(commands.Question.__subclasses__(), Session._question),
}


def _suffix(key: Key, ack_timeout: float | None) -> bytes:
    """What every frame of this subscription says of it."""
    mode, _, group, sub = key
    return encode.subscription_suffix(mode, sub=sub, group=group, ack_timeout=ack_timeout)


def _settling(
    command: Ack | Nack | Touch, port: QueuePort, messages: list[Message], settlement: Settlement
) -> Any:
    match command:
        case Nack():
            return queues.GiveBack(
                port,
                messages,
                settlement,
                delay=command.delay,
                reason=command.reason or "",
                requeue=command.requeue,
                count=command.count_attempt,
            )
        case Touch():
            return queues.Extend(port, messages, settlement)
        case _:
            return queues.Settle(port, messages, settlement)


def _not_settled(tag: int | None, code: str) -> ClientError:
    named = "that message" if tag is None else f"tag {tag}"
    texts = {
        "not_held": f"this connection does not hold {named}; it was settled, or went to another",
        "ambiguous": "this connection holds several messages of that id; name the tag instead",
    }
    text = texts.get(code, f"{named} could not be settled; it is delivered again")
    return ClientError(code, text)  # type: ignore[arg-type]


def _address(topic: str, group: str | None) -> tuple[str, str | None]:
    """A topic that may be written `pattern@group`, and the group that may stand beside it."""
    if group is None and "@" in topic:
        return split_group(topic)
    return topic, group


def parsed_start(value: str | int | None) -> names.Start:
    """The field `from`: "new", "last", "all", a seq (int), a time (float); None if absent."""
    if value is None:
        return None
    start = parse_from(value)
    return start.kind if start.kind in ("new", "last", "all") else start.value
