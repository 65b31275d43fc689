"""Directory actor: what exists by which name, and who matches which pattern.

Owns   the tables of queues, topics and groups, the pattern trie, and the nursery in which
       their supervisors run.
Hears  requests for names, wildcard subscriptions, moves between queues, and who has ended.
Tells  topics and queues, by post; askers, by a Reply. It waits for its mailbox only: what
       takes longer (a new group's durable record, a deletion) is done by a task beside it.
Ends   when cancelled, or on a bug, which stops the broker: nothing is found without it.

A wildcard subscription and the making of a topic cannot miss each other: both happen in this
actor's turns, and `subscribed` is answered when every topic that matches has heard of it.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import trio

from msg.actors.mailbox import Mailbox
from msg.actors.queue import Delete, Keep, Moved, MoveIn, Queue, QueueActor
from msg.actors.reply import Reply
from msg.actors.supervision import supervise
from msg.actors.topic import AddGroup, RemoveGroup, Retire, Topic, TopicActor
from msg.actors.topic import Attach as AttachTopic
from msg.actors.topic import Detach as DetachTopic
from msg.core.names import dead_name, group_address, is_dead, parent_of, split_group
from msg.core.patterns import PatternTrie, matches
from msg.errors import ActorStopped, ClientError, DiskFull
from msg.store.names import directory_of
from msg.store.recovery import Recovered, delete_log, entomb

if TYPE_CHECKING:
    from msg.actors.ports import TopicPort
    from msg.actors.services import Services
    from msg.config import Settings

Start = str | int | float | None  # `from`, parsed: new, last, all, a seq, a wall time
T = TypeVar("T")
GROUP_CHECK_S = 3600.0  # how often groups without members are looked for


@attrs.frozen(eq=False)
class Find:
    """A name's handle; made if need be. kind is "queues" or "topics"."""

    kind: str
    name: str
    reply: "Reply[Any]"
    create: bool = True


@attrs.frozen(eq=False)
class FindGroup:
    pattern: str
    group: str
    start: Start
    reply: "Reply[Queue]"
    create: bool = True


@attrs.frozen(eq=False)
class Listen:
    """A wildcard subscription; `answer` when all topics that match know it."""

    port: "TopicPort"
    pattern: str
    start: Start
    answer: Callable[[], None]


@attrs.frozen(eq=False)
class Unlisten:
    port: "TopicPort"
    pattern: str


@attrs.frozen(eq=False)
class Carry:
    """A move on its way to the queue of a name."""

    to: str
    move: MoveIn


@attrs.frozen(eq=False)
class Idle:
    topic: Topic


@attrs.frozen(eq=False)
class Ended:
    """A queue or topic has ended by itself: deleted or retired."""

    kind: str
    handle: Queue | Topic


@attrs.frozen(eq=False)
class Erase:
    """Delete a queue, group or topic with all that it holds."""

    kind: str
    name: str
    reply: "Reply[None]"
    reason: str


Request = Find | FindGroup | Listen | Unlisten | Carry | Idle | Ended | Erase


class Countdown:
    """Calls `then` when so many have answered. Never waits."""

    def __init__(self, left: int, then: Callable[[], None]) -> None:
        self._left = left
        self._then = then
        if not left:
            then()

    def __call__(self) -> None:
        self._left -= 1
        if not self._left:
            self._then()


class Directory:
    """The handle and the task. `find_…` look without waiting; the rest asks."""

    def __init__(self, services: "Services", settings: "Settings") -> None:
        self.services = services
        self.settings = settings
        self.mailbox: Mailbox[Request] = Mailbox(owner="directory")
        self.queues: dict[str, Queue] = {}
        self.topics: dict[str, Topic] = {}
        # values: TopicPort for live wildcard subscriptions, Queue for groups
        self.patterns: PatternTrie[Any] = PatternTrie()
        self._nursery: trio.Nursery | None = None
        self._erasing: dict[tuple[str, str], list[Request]] = {}
        self._making: dict[str, list[FindGroup]] = {}  # groups that are not yet durable

    # -- for connections --------------------------------------------------------------------

    def find_queue(self, name: str) -> Queue | None:
        return self.queues.get(name)

    def find_topic(self, name: str) -> Topic | None:
        return self.topics.get(name)

    async def queue(self, name: str) -> Queue:
        """The queue of this name, made if it is not there. Raises ClientError (too_many)."""
        reply: Reply[Queue] = Reply("directory")
        await self.mailbox.put(Find("queues", name, reply))
        return await reply.wait()

    async def topic(self, name: str) -> Topic:
        reply: Reply[Topic] = Reply("directory")
        await self.mailbox.put(Find("topics", name, reply))
        return await reply.wait()

    async def group(self, pattern: str, group: str, start: Start) -> Queue:
        """The durable subscription's queue; it exists durably when this returns."""
        reply: Reply[Queue] = Reply("directory")
        await self.mailbox.put(FindGroup(pattern, group, start, reply))
        return await reply.wait()

    async def listen(
        self, port: "TopicPort", pattern: str, start: Start, answer: Callable[[], None]
    ) -> None:
        await self.mailbox.put(Listen(port, pattern, start, answer))

    def unlisten(self, port: "TopicPort", pattern: str) -> None:
        self.mailbox.post(Unlisten(port, pattern))

    async def erase(self, kind: str, name: str, reason: str) -> None:
        """Delete it and all that it holds; durable when this returns. ClientError: not_found."""
        reply: Reply[None] = Reply("directory")
        await self.mailbox.put(Erase(kind, name, reply, reason))
        await reply.wait()

    # -- for actors -------------------------------------------------------------------------

    def carry(self, to: str, move: MoveIn) -> None:
        """Pass a move on to the queue of a name, which is made if need be. Never waits."""
        self.mailbox.post(Carry(to, move))

    def idle(self, topic: Topic) -> None:
        self.mailbox.post(Idle(topic))

    # -- the task ---------------------------------------------------------------------------

    async def run(
        self,
        recovered: Iterable[Recovered],
        task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async with trio.open_nursery() as self._nursery:
            self._begin(list(recovered))
            self._nursery.start_soon(self._watch_groups, name="group watch")
            task_status.started()
            while True:
                requests = await self.mailbox.take()
                try:
                    for request in requests:
                        if isinstance(request, Find | FindGroup | Listen | Erase):
                            self.mailbox.free(1)
                        self._hear(request)
                except Exception as error:
                    self.services.last_look(error)
                    raise

    def _begin(self, recovered: list[Recovered]) -> None:
        """Start an actor for everything that the store holds."""
        for found in recovered:
            name = found.log.name
            if found.log.kind == "queues":
                pattern, group = split_group(name)
                queue = self._new_queue(name, found)
                if group is not None and not is_dead(name):
                    self.patterns.add(pattern, queue)
        for found in recovered:
            if found.log.kind == "topics":
                self._new_topic(found.log.name, found)

    def _hear(self, request: Request) -> None:
        match request:
            case Find() | FindGroup() | Erase():
                self._find_or_refuse(request)
            case Listen(port, pattern, start, answer):
                self.patterns.add(pattern, port)
                matching = self._matching(pattern)
                countdown = Countdown(len(matching), answer)
                for topic in matching:
                    attach = AttachTopic(port, exact=False, start=start, answer=countdown)
                    if not topic.post(attach):
                        countdown()  # it has just ended; its next life finds the pattern
            case Unlisten(port, pattern):
                self.patterns.remove(pattern, port)
                for topic in self._matching(pattern):
                    topic.post(DetachTopic(port))
            case Carry(to, move):
                self._carry(to, move)
            case Idle(topic):
                if self.topics.get(topic.name) is topic:
                    topic.post(Retire())
            case Ended(kind, handle):
                handle.actor = None  # they hold each other
                table: dict[str, Any] = self.queues if kind == "queues" else self.topics
                if table.get(handle.name) is handle:
                    del table[handle.name]

    def _find_or_refuse(self, request: Find | FindGroup | Erase) -> None:
        try:
            match request:
                case Find(kind, name, reply):
                    if (kind, name) in self._erasing:
                        self._erasing[kind, name].append(request)
                    elif kind == "queues":
                        reply.set(self.queues.get(name) or self._new_queue(name, None))
                    else:
                        topic = self.topics.get(name)
                        if topic is None or topic.mailbox.closed:
                            topic = self._new_topic(name, None)
                        reply.set(topic)
                case FindGroup():
                    self._find_group(request)
                case Erase():
                    self._erase(request)
        except ClientError as error:
            request.reply.fail(error)

    def _find_group(self, request: FindGroup) -> None:
        name = group_address(request.pattern, request.group)
        if ("queues", name) in self._erasing:
            self._erasing["queues", name].append(request)
            return
        if name in self._making:
            self._making[name].append(request)
            return
        queue = self.queues.get(name)
        if queue is not None:
            request.reply.set(queue)
            return
        queue = self._new_queue(name, None)
        self.patterns.add(request.pattern, queue)
        self._making[name] = []
        self._spawn(self._make_group, request, queue, name=f"making {name}")

    async def _make_group(self, request: FindGroup, queue: Queue) -> None:
        """A new group: durable itself, and known to every topic that matches, then answered."""
        done: Reply[None] = Reply(queue.mailbox.owner)
        queue.post(Keep({"group": request.group, "pattern": request.pattern}, done))
        try:
            await done.wait()
        except (ClientError, ActorStopped) as error:
            for asking in (request, *self._making.pop(queue.name)):
                asking.reply.fail(error)
            self._hear(Erase("queues", queue.name, Reply(), "it could not be made"))
            return

        def made() -> None:
            for asking in (request, *self._making.pop(queue.name)):
                asking.reply.set(queue)

        matching = self._matching(request.pattern)
        countdown = Countdown(len(matching), made)
        for topic in matching:
            if not topic.post(AddGroup(queue, request.start, countdown)):
                countdown()

    def _carry(self, to: str, move: MoveIn) -> None:
        try:
            if ("queues", to) in self._erasing:
                raise ClientError("unavailable", f"queue {to!r} is being deleted")
            target = self.queues.get(to) or self._new_queue(to, None)
        except ClientError as error:
            move.source.post(Moved(None, move.key, error))
            return
        target.post(move)

    # -- making and ending ------------------------------------------------------------------

    def _matching(self, pattern: str) -> list[Topic]:
        topic = self.topics.get(pattern)
        if topic is not None:
            return [topic]
        return [topic for name, topic in self.topics.items() if matches(pattern, name)]

    def _room_for_a_name(self) -> None:
        limit = self.settings.limits.names
        if len(self.queues) + len(self.topics) >= limit:
            raise ClientError(
                "too_many",
                f"there are {limit} queues and topics already; delete some, or raise limits.names",
                limit=limit,
            )

    def _new_queue(self, name: str, recovered: Recovered | None) -> Queue:
        if recovered is None and not is_dead(name):
            self._room_for_a_name()
        queue = Queue(name, self.services.queue_settings(name, {}))
        self.queues[name] = queue
        # a dead queue counts in its parent's limits: the parent reads its gauge
        parent, dead = self.queues.get(parent_of(name)), self.queues.get(dead_name(name))
        if is_dead(name) and parent is not None:
            parent.dead_gauge = queue.gauge
        elif dead is not None:
            queue.dead_gauge = dead.gauge
        self._spawn(self._supervise_queue, queue, recovered, name=f"queue {name}")
        return queue

    def _new_topic(self, name: str, recovered: Recovered | None) -> Topic:
        if recovered is None and not name.startswith("_inbox."):
            self._room_for_a_name()
        topic = Topic(name)
        self.topics[name] = topic
        for listener in self.patterns.match(name):
            if isinstance(listener, Queue):
                topic.post(AddGroup(listener, "new", None))  # the group itself is not new
            else:
                topic.post(AttachTopic(listener, exact=False, start=None, answer=None))
        self._spawn(self._supervise_topic, topic, recovered, name=f"topic {name}")
        return topic

    async def _supervise_queue(self, queue: Queue, recovered: Recovered | None) -> None:
        first = recovered or Recovered.of_new(self.services.new_log("queues", queue.name))
        state: list[Recovered | None] = [first]

        async def incarnation() -> None:
            actor = QueueActor(queue, self.services)
            queue.actor = actor
            await actor.open(state.pop() if state else None)
            await actor.run()

        await self._live(queue, "queues", incarnation)

    async def _supervise_topic(self, topic: Topic, recovered: Recovered | None) -> None:
        state: list[Recovered | None] = [recovered]

        async def incarnation() -> None:
            first = not topic.restarts.count
            actor = TopicActor(topic, self.services)
            topic.actor = actor
            await actor.open(state.pop() if state else None, fresh=first)
            await actor.run()

        await self._live(topic, "topics", incarnation)

    async def _live(
        self, handle: Queue | Topic, kind: str, incarnation: Callable[[], Awaitable[None]]
    ) -> None:
        """One name's life: supervised, and when it fails for good, refusing from then on."""

        def crashed(error: Exception, n: int) -> None:
            self.services.logger.error(
                "actor crashed", actor=f"{kind[:-1]} {handle.name}", error=repr(error), failures=n,
                exc_info=error,
            )  # fmt: skip
            if handle.actor is not None:
                handle.actor.undo()

        try:
            await supervise(incarnation, handle.restarts, crashed)
        except Exception:
            self.services.logger.error(
                "actor failed", actor=f"{kind[:-1]} {handle.name}", restarts=handle.restarts.count
            )
            await self._refuse_for_ever(handle, kind)
        self.mailbox.post(Ended(kind, handle))

    async def _refuse_for_ever(self, handle: Queue | Topic, kind: str) -> None:
        """It failed too often: what it holds stays on disk, the rest of the broker goes on."""
        error = ClientError(
            "unavailable",
            f"{kind[:-1]} {handle.name!r} has failed and is out of service; see the broker's"
            " log, then restart the broker",
        )
        actor: Any = handle.actor  # of either kind, with mail of its own kind
        if actor is None:
            raise AssertionError("it crashed, so it was there")
        for mail in actor.abandoned():
            actor.refuse(mail, error)
        while not actor.deleted or actor.estate.commits.in_flight is not None:
            for mail in await handle.mailbox.take():
                actor.refuse(mail, error)
        for mail in handle.mailbox.close():
            actor.refuse(mail, error)
        actor.deleted.reply.set(None)

    def _erase(self, request: Erase) -> None:
        table: dict[str, Any] = self.queues if request.kind == "queues" else self.topics
        handle = table.get(request.name)
        if handle is None or (request.kind, request.name) in self._erasing:
            raise ClientError("not_found", f"there is no {request.kind[:-1]} {request.name!r}")
        self._erasing[request.kind, request.name] = []
        self._spawn(self._do_erase, request, handle, name=f"deleting {request.name}")

    async def _do_erase(self, request: Erase, handle: Queue | Topic) -> None:
        """The tombstone first: where there is no room for it, nothing has happened. When the
        actor has ended, its files go; whoever asked for the name meanwhile gets a new one."""
        world = self.services.world
        directory = directory_of(request.name)
        try:
            await world.in_disk_thread(lambda: entomb(world.disk, request.kind, directory))
        except DiskFull as failure:
            request.reply.fail(ClientError("disk_full", str(failure)))
        else:
            pattern, group = split_group(request.name)
            if group is not None and isinstance(handle, Queue):
                self.patterns.remove(pattern, handle)
                for topic in self._matching(pattern):
                    topic.post(RemoveGroup(handle, None))
            done: Reply[None] = Reply(handle.mailbox.owner)
            handle.post(Delete(request.reason, done))
            await done.wait()
            await world.in_disk_thread(lambda: delete_log(world.disk, request.kind, directory))
            table: dict[str, Any] = self.queues if request.kind == "queues" else self.topics
            table.pop(request.name, None)
            request.reply.set(None)
        for waiting in self._erasing.pop((request.kind, request.name)):
            self._hear(waiting)

    async def _watch_groups(self) -> None:
        """Groups without a member for `group_idle_seconds` are removed."""
        world = self.services.world
        while True:
            await trio.sleep(GROUP_CHECK_S)
            oldest = world.wall() - self.settings.limits.group_idle_seconds
            for name, queue in list(self.queues.items()):
                _, group = split_group(name)
                if group is None or is_dead(name) or queue.idle_since is None:
                    continue
                if queue.idle_since < oldest:
                    self.services.logger.info("group removed", group=name, why="no member")
                    self._hear(Erase("queues", name, Reply(), "no member for too long"))

    def _spawn(self, work: Callable[..., Awaitable[Any]], *args: Any, name: str) -> None:
        if self._nursery is None:
            raise AssertionError("the directory runs before anything is looked up")
        self._nursery.start_soon(work, *args, name=name)
