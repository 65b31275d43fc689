"""The root: store, timer, directory, listener, connections, in the order of who needs whom.

    broker
    ├── store            outermost: it ends last, and its failure ends everything
    ├── timer
    ├── directory ─── queue NAME …, topic NAME …     each under its own supervisor
    └── listener ──── connection N …                 each contained, never restarted

Store, directory and listener are not restarted: when one of them fails, the tree is dumped
to the log and `run_broker` raises, which ends the process with a non-zero code. A stop in
good order is a drain: no new connections, no new publishes, acks awaited, all synced.
"""

import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import trio

from msg import __version__
from msg.actors.context import Context
from msg.actors.directory import Directory
from msg.actors.listener import Connections, open_listeners
from msg.actors.narrator import Narrator
from msg.actors.outbox import Budget, Outbound
from msg.actors.questions import Questions
from msg.actors.queue import Drain, Keep, Queue
from msg.actors.reply import Reply
from msg.actors.services import Logger, Services
from msg.actors.storekeeper import Storekeeper
from msg.actors.timer import Timer
from msg.actors.topic import Topic
from msg.actors.tree import KEEP, dump_tree, fold, picture
from msg.actors.watchdog import Watchdog
from msg.config import Settings
from msg.config.declared import in_force
from msg.core.parking import ParkingRules
from msg.core.settings import QueueSettings, TopicSettings
from msg.core.wire import IdSource
from msg.errors import ActorStopped, ClientError
from msg.protocol import encode
from msg.store.commit import execute, floor_of
from msg.store.disk import Disk
from msg.store.log import Log
from msg.store.names import directory_of
from msg.store.original import import_all
from msg.store.recovery import (
    Recovered,
    close_store,
    open_store,
    recover_all,
    recover_log,
    settle_moved,
)
from msg.world import World

if TYPE_CHECKING:
    from msg.store.scan import Damage

LOOP_LATE_S = 1.0  # a timer this late, and the broker is not healthy
FLUSH_S = 1.0  # at a stop, so long clients may take to read what was already said
STORED = "fdatasync before the ack, group-committed"


@attrs.define(eq=False)
class Broker:
    """The handle to a running broker."""

    addresses: Sequence[tuple[str, int]]
    context: Context
    directory: Directory
    connections: Connections
    storekeeper: Storekeeper
    root: trio.lowlevel.Task
    drained: trio.Event = attrs.field(factory=trio.Event)
    seen_alive: float = 0.0
    since: float = 0.0  # monotonic
    since_wall: float = 0.0
    watchdog: Watchdog = attrs.field(factory=Watchdog)
    narrator: Narrator = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.narrator = Narrator(self.context.services.logger)

    def drain(self) -> None:
        """Begin to stop: `run_broker` returns when all is done."""
        self.drained.set()

    def connect(self, stream: trio.abc.Stream, peer: str = "memory") -> None:
        """Serve a stream that did not come from the listener (tests, simulations)."""
        self.connections.add(stream, peer)

    def reload(self, settings: Settings) -> None:
        """New settings: limits of connections to come, settings of queues and topics."""
        self.context.settings = self.directory.settings = settings
        self.narrator.everything = settings.log_level == "debug"
        self.context.outbound.limit = settings.limits.outbound_bytes_all
        services = self.context.services
        services.backlog.limit = settings.limits.backlog_bytes_all
        services.parking.bytes = settings.limits.parked_bytes
        services.parking.seconds = settings.limits.parked_seconds
        services.storekeeper.floor = _floor(settings)
        for queue in self.directory.queues.values():
            queue.post(Keep({"settings": _declared(queue)}, Reply()))
        for topic in self.directory.topics.values():
            topic.reload()

    def dump(self) -> list[dict[str, Any]]:
        """Every actor, parents before children."""
        return dump_tree(self)

    async def picture(self, **options: Any) -> dict[str, Any]:
        """The same without stopping everybody else meanwhile. See `msg.actors.tree.picture`."""
        return await picture(self, **options)

    def healthy(self) -> bool:
        """Whether the loop turns and nothing is stuck in the store's round for 30 s."""
        now = self.context.world.now()
        busy = self.storekeeper.busy_since
        return now - self.seen_alive < 2 * LOOP_LATE_S + 1 and (busy is None or now - busy < 30)

    async def _beat(self) -> None:
        while True:
            self.seen_alive = self.context.world.now()
            await trio.sleep(LOOP_LATE_S)


def _declared(queue: Queue) -> dict[str, Any]:
    log = None if queue.estate is None else queue.estate.commits.log
    return {} if log is None else log.state.get("settings", {})


async def run_broker(
    settings: Settings,
    world: World,
    *,
    logger: Logger | None = None,
    listen: bool = True,
    task_status: "trio.TaskStatus[Broker]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until drained. Raises StoreLocked, StoreUnreadable, StoreFailed, OSError."""
    if logger is None:
        import structlog

        logger = structlog.get_logger().bind()  # else each line, written or not, binds one
    recovered = await world.in_disk_thread(partial(_open, world, settings, logger))
    listeners = await open_listeners(settings.host, settings.port) if listen else []
    broker: Broker | None = None
    looked = False

    def last_look(error: BaseException) -> None:
        nonlocal looked
        if broker is not None and not looked and _is_failure(error):
            looked = True
            actors = fold(broker.dump(), KEEP)
            logger.error(
                "the broker failed: its actors at that moment", error=repr(error), actors=actors
            )

    try:
        async with trio.open_nursery() as nursery:
            storekeeper = Storekeeper(world, _floor(settings))
            timer = Timer()
            directory, context = _make(settings, world, storekeeper, timer, logger)
            context.services.last_look = last_look
            nursery.start_soon(_vital, storekeeper.run, last_look, name="store")
            nursery.start_soon(_vital, timer.run, last_look, name="timer")
            await nursery.start(directory.run, recovered, name="directory")
            recovered.clear()
            async with trio.open_nursery() as inner:
                connections = Connections(context, inner)
                addresses = [listener.socket.getsockname()[:2] for listener in listeners]
                broker = Broker(
                    addresses, context, directory, connections, storekeeper,
                    trio.lowlevel.current_task(), since=world.now(),
                    since_wall=world.wall(),
                )  # fmt: skip
                context.broker = broker
                broker.narrator.everything = settings.log_level == "debug"
                context.services.watchers.append(broker.narrator)
                for listener, address in zip(listeners, addresses, strict=True):
                    accept = partial(connections.accept_from, listener)
                    inner.start_soon(_vital, accept, last_look, name=f"listener {address[0]}")
                inner.start_soon(broker._beat, name="heartbeat")
                inner.start_soon(broker.watchdog.run, broker, name="watchdog")
                task_status.started(broker)
                await broker.drained.wait()
                connections.stop_accepting()
                await _drain(broker)
                inner.cancel_scope.cancel("stopped")
            await _sync_all(broker)
            nursery.cancel_scope.cancel("stopped")
    except BaseException as error:
        last_look(error)  # of what is left, where nobody has looked before
        raise
    finally:
        for listener in listeners:
            listener.socket.close()
        if broker is not None:
            broker.connections.close()
    await world.in_disk_thread(partial(close_store, world.disk))


async def _vital(
    run: Callable[[], Awaitable[None]], last_look: Callable[[BaseException], None]
) -> None:
    """A task whose failure ends the broker; the others are still there when it is looked at."""
    try:
        await run()
    except BaseException as error:
        last_look(error)
        raise


def _floor(settings: Settings) -> Callable[[Disk], int]:
    """The free space that is left alone, of a disk."""
    limits = settings.limits
    return partial(floor_of, most=limits.disk_floor_bytes, percent=limits.disk_floor_percent)


def _open(world: World, settings: Settings, logger: Logger) -> list[Recovered]:
    """Take the store and read all that is in it. In a disk thread."""
    disk = world.disk
    facts = open_store(disk, holder=f"process {os.getpid()}", floor=_floor(settings)(disk))
    now = world.wall()
    how: Any = {
        "unclean": not facts.clean,
        "trusted": facts.trusted,
        "now_wall": now,
        "segment_bytes": settings.limits.segment_bytes,
    }
    imported = import_all(
        disk, lambda kind, name: recover_log(disk, kind, name, **how), now_wall=now, rng=world.rng
    )
    logs = facts.logs
    if imported:  # files of the original project: their logs are new
        logs = [(kind, name) for kind in ("queues", "topics") for name in disk.list(kind)]
    damage: list[Damage] = []
    recovered = recover_all(disk, logs, damage=damage, **how)
    for bad in damage:
        logger.error("record damaged", file=bad.file, offset=bad.offset, seq=bad.seq, why=bad.why)
    for note in [*facts.notes, *imported, *[note for found in recovered for note in found.notes]]:
        logger.warning("store", note=note)
    _end_moves(disk, recovered)
    return recovered


def _end_moves(disk: Disk, recovered: list[Recovered]) -> None:
    """Moves between queues that a crash cut in two: settle them before anything is served."""
    for log in settle_moved(disk, recovered):
        commit = log.begin(sync=True)
        if commit is not None:
            execute(disk, [commit])
            log.finish(commit)


def _make(
    settings: Settings, world: World, storekeeper: Storekeeper, timer: Timer, logger: Logger
) -> tuple[Directory, Context]:
    directory: Directory

    async def reopen(kind: str, name: str) -> Recovered:
        directory = directory_of(name)

        def read() -> Recovered | None:
            if not world.disk.exists(f"{kind}/{directory}"):
                return None  # nothing of it was ever committed
            return recover_log(
                world.disk, kind, directory, unclean=False, now_wall=world.wall(),
                segment_bytes=settings.limits.segment_bytes,
            )  # fmt: skip

        found = await world.in_disk_thread(read)
        return found or Recovered.of_new(new_log(kind, name))

    def new_log(kind: str, name: str) -> Log:
        incarnation = f"{world.rng.getrandbits(64):016x}"
        return Log(kind, name, incarnation, segment_bytes=settings.limits.segment_bytes)

    def queue_settings(name: str, chosen: Any) -> QueueSettings:
        return in_force(directory.settings, "queues", name, chosen)  # type: ignore[return-value]

    def topic_settings(name: str, chosen: Any) -> TopicSettings:
        return in_force(directory.settings, "topics", name, chosen)  # type: ignore[return-value]

    services = Services(
        world=world,
        storekeeper=storekeeper,
        timer=timer,
        ids=IdSource(world.rng.getrandbits(16)),
        logger=logger,
        reopen=reopen,
        move=lambda to, move: directory.carry(to, move),
        topic_idle=lambda topic: directory.idle(topic),
        queue_settings=queue_settings,
        topic_settings=topic_settings,
        new_log=new_log,
        outbound=Outbound(settings.limits.outbound_bytes_all),
        backlog=Budget(settings.limits.backlog_bytes_all),
        parking=ParkingRules(settings.limits.parked_bytes, settings.limits.parked_seconds),
    )
    directory = Directory(services, settings)
    questions = Questions()
    context = Context(
        settings=settings,
        services=services,
        directory=directory,
        version=__version__,
        stored=STORED,
        outbound=services.outbound,
        declare=questions.declare,
        question=questions.answer,
    )
    questions.context = context
    context.questions = questions
    return directory, context


def _is_failure(error: BaseException) -> bool:
    """Whether there is anything in it but a cancellation from outside."""
    stops = (trio.Cancelled, KeyboardInterrupt)
    if isinstance(error, BaseExceptionGroup):
        return error.split(stops)[1] is not None
    return not isinstance(error, stops)


async def _drain(broker: Broker) -> None:
    """No new publishes, nothing more delivered; wait for acks, then for what was said."""
    context, directory = broker.context, broker.directory
    context.draining = True
    for handle in _handles(broker):
        handle.post(Drain())
    frame = encode.closing("the broker is stopping")
    for connection in broker.connections.open.values():
        connection.tell(frame)
    with trio.move_on_after(context.settings.drain_seconds):
        # polled: it is the states of many actors, seen together, and only at a stop
        while any(q.leased or q.mailbox.depth for q in directory.queues.values()) or any(  # noqa: ASYNC110
            c.session.unanswered for c in broker.connections.open.values()
        ):
            await trio.sleep(0.02)
    with trio.move_on_after(FLUSH_S):
        while any(not c.outbox.empty for c in broker.connections.open.values()):  # noqa: ASYNC110
            await trio.sleep(0.01)


def _handles(broker: Broker) -> list[Queue | Topic]:
    return [*broker.directory.queues.values(), *broker.directory.topics.values()]


async def _sync_all(broker: Broker) -> None:
    """Everything that was accepted with less than a sync is synced too: a stop loses nothing."""
    replies: list[Reply[None]] = []
    for handle in _handles(broker):
        reply: Reply[None] = Reply(handle.mailbox.owner)
        if handle.post(Keep({}, reply)):
            replies.append(reply)
    for reply in replies:
        try:
            await reply.wait()
        except (ActorStopped, ClientError) as error:
            # it ended meanwhile, with all that it held written; or it has failed, and was told so
            broker.context.services.logger.warning("not synced at the end", error=str(error))
