"""The simulated engine: the broker's own actors on a virtual clock, network and disk.

Owns   the incarnations of the broker, one after the other, and the links of the clients.
Hears  the faults of the play.
Tells  the journal what the broker logged and how it ended.
Ends   with the play; a broker that still runs is cancelled.
"""

from functools import partial
from typing import Any

import attrs
import trio

from msg.actors.broker import Broker, run_broker
from msg.config import Settings
from msg.daemon import exits
from msg.errors import StoreFailed, StoreLocked, StoreUnreadable
from msg.scenario import model
from msg.scenario.books import ledger_of
from msg.scenario.bugs import put_bug
from msg.scenario.damage import flipped, last_segment, torn
from msg.scenario.journal import Journal
from msg.scenario.model import Scenario
from msg.scenario.simnet import SimLink
from msg.scenario.world import SimWorld
from msg.store.simdisk import PowerCut


@attrs.define(eq=False)
class Incarnation:
    """One life of the broker."""

    number: int
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    broker: Broker | None = None
    known: trio.Event = attrs.field(factory=trio.Event)  # it serves, or it has ended
    ended: trio.Event = attrs.field(factory=trio.Event)
    killed: bool = False

    def started(self, value: Broker | None = None) -> None:
        """It serves (as `trio.TaskStatus`)."""
        self.broker = value
        self.known.set()


class SimEngine:
    """See the module. Its nursery holds the broker's incarnations."""

    name = "sim"
    poll_s = 0.01
    sweep_s = 300.0

    def __init__(
        self, scenario: Scenario, world: SimWorld, journal: Journal, nursery: trio.Nursery,
        watch: "Watch",
    ) -> None:  # fmt: skip
        self.scenario = scenario
        self.world = world
        self.journal = journal
        self.nursery = nursery
        self.watch = watch
        self.settings: Settings = scenario.broker or Settings()
        self.rng = world.stream("engine")
        self.net = world.stream("net")
        self.links: dict[str, SimLink] = {}
        self.life: Incarnation | None = None
        self.lives = 0
        self.logger = Log(journal, self)
        watch.engine = self
        disk = world.disk
        disk.capacity = scenario.disk.size
        disk.short_writes = scenario.disk.short_writes
        if scenario.disk.sync is not None:
            disk.latency["datasync"] = disk.latency["sync_dir"] = scenario.disk.sync
        self.calm_latency = dict(disk.latency)

    # -- the broker's lives -----------------------------------------------------------------

    @property
    def broker(self) -> Broker | None:
        return self.life.broker if self.life is not None and not self.life.ended.is_set() else None

    @property
    def up(self) -> bool:
        return self.broker is not None

    @property
    def _down(self) -> bool:
        """Nothing of the broker is left; `up` is less: it is not so while it starts or ends."""
        return self.life is None or self.life.ended.is_set()

    async def start(self) -> None:
        self.lives += 1
        life = self.life = Incarnation(self.lives)
        self.journal.note("broker", "starts")
        begun = self.journal.clock()
        self.nursery.start_soon(self._live, life, name="broker")
        await life.known.wait()
        if life.broker is not None:
            self.journal.note("broker", "serves", after=round(self.journal.clock() - begun, 6))

    async def _live(self, life: Incarnation) -> None:
        error: BaseException | None = None
        with life.scope:
            try:
                await run_broker(
                    self.settings, self.world, logger=self.logger, listen=False, task_status=life
                )
            except* Exception as failures:  # a cancellation among them passes on
                error = failures
        if not life.killed and _holds(error, PowerCut):
            life.killed = True
        for link in self.links.values():
            link.broker_died()
        self.links.clear()
        life.ended.set()
        life.known.set()
        if life.killed:
            self.journal.note("broker", "is gone")
        elif error is not None or life.scope.cancelled_caught:
            self.logger.keep(error)
            self.journal.note("broker", "ended", exit=exit_of(error), error=_last_words(error))
            self.world.switch_off()
            self.world.restart_process()
        else:
            self.journal.note("broker", "ended", exit=exits.OK)

    async def _kill(self, *, power: model.PowerCut | None = None) -> None:
        """The process is gone from this moment on; returns when nothing of it runs."""
        life = self.life
        if life is None or self._down:
            return
        life.killed = True
        self._unplug(power=power is not None)
        life.scope.cancel("killed")
        await life.ended.wait()

    def _unplug(self, *, power: bool) -> None:
        self.world.switch_off()
        for link in self.links.values():
            if power:
                link.cut()
            else:
                link.broker_died()
        self.links.clear()

    async def end(self) -> None:
        if self.broker is not None and self.life is not None:
            self.broker.drain()
            await self.life.ended.wait()

    # -- links ------------------------------------------------------------------------------

    async def dial(self, client: str) -> trio.abc.HalfCloseableStream:
        await trio.sleep(self.scenario.network.latency)
        broker = self.broker
        if broker is None or broker.context.draining:
            raise ConnectionRefusedError("nobody listens")
        link = SimLink(self.net, self.scenario.network.latency)
        self.links.pop(client, None)  # to the end: links stand in the order of connecting
        self.links[client] = link
        broker.connect(link.broker_end, peer=client)
        return link.client_end

    def link(self, client: str) -> SimLink | None:
        return self.links.get(client)

    def clients(self) -> list[str]:
        return [name for name in self.links if name != "operator"]

    # -- faults -----------------------------------------------------------------------------

    async def strike(self, what: model.What) -> None:
        disk = self.world.disk
        match what:
            case model.KillBroker(restart_after=span):
                await self._kill()
                self.world.restart_process()
                await self._start_after(span)
            case model.PowerCut(restart_after=span):
                if what.inside_write:
                    await self._cut_inside_write()
                await self._kill(power=what)
                self.world.restart_machine(what.survival)  # type: ignore[arg-type]
                await self._start_after(span)
            case model.TornWrite() | model.BitFlip():
                await self._kill()
                self.world.restart_process()
                self._damage(what)
                await self._start_after(what.restart_after)
            case model.Drain(restart_after=span):
                await self.end()
                await self._start_after(span)
            case model.Restart():
                if self._down:
                    await self.start()
            case model.CrashActor(actor=actor):
                if self.broker is not None:
                    put_bug(self.broker, actor)
            case model.FreezeBroker(for_=span):
                self.world.clock.jump(span.pick(self.rng))
            case model.ClockJump(by=by):
                self.world.wall_offset += by
            case model.DiskFull(for_=span):
                disk.fill()
                if span is not None:
                    await trio.sleep(span.pick(self.rng))
                    self.world.disk.make_room()
            case model.FsyncError(count=count):
                disk.fail_syncs(count)
            case model.SlowFsync(to=to, for_=span):
                disk.latency["datasync"] = disk.latency["sync_dir"] = to
                if span is not None:
                    await trio.sleep(span.pick(self.rng))
                    disk.latency.update(self.calm_latency)
            case _:
                raise AssertionError(f"{what} is for the play to do")
        await trio.lowlevel.checkpoint()

    async def _start_after(self, span: model.Span | None) -> None:
        if span is not None:
            await trio.sleep(span.pick(self.rng))
            if self._down:
                await self.start()

    async def _cut_inside_write(self) -> None:
        """Arm the disk: the power goes between two operations of what is written next."""
        life, disk = self.life, self.world.disk
        if life is None or self._down:
            return
        at = disk.operations + self.rng.randint(0, 12)

        def strike(number: int, kind: str, path: str) -> None:
            if number >= at:
                life.killed = True
                self.journal.note("fault", "power is cut", before=kind, file=path)
                self._unplug(power=True)
                raise PowerCut

        disk.hook = strike
        with trio.move_on_after(1):
            await life.ended.wait()
        disk.hook = None

    def _damage(self, what: model.TornWrite | model.BitFlip) -> None:
        disk = self.world.disk
        path = last_segment(disk, what.queue)
        if path is None:
            self.journal.note("fault", "nothing to damage", queue=what.queue)
            return
        data = disk.read(path)
        if isinstance(what, model.TornWrite):
            disk.put(path, torn(data, self.rng))
            return
        changed, at = flipped(data, self.rng)
        disk.put(path, changed)
        self.journal.note("fault", "flipped", file=path, offset=at)

    async def heal(self) -> None:
        disk = self.world.disk
        disk.make_room()
        disk.sync_errors = 0
        disk.latency.update(self.calm_latency)
        await trio.lowlevel.checkpoint()

    # -- looking ----------------------------------------------------------------------------

    def tree(self) -> list[dict[str, Any]]:
        broker = self.broker
        return broker.dump() if broker is not None else []

    def problems(self) -> list[str]:
        return self.watch.problems


class Watch(trio.abc.Instrument):
    """After every step of a queue's actor: do its books balance?

    accepted = ready + leased + delayed + settled + dead + expired + dropped + purged + moved,
    and what is on its way to or from another state.
    """

    def __init__(self) -> None:
        self.engine: SimEngine | None = None
        self.problems: list[str] = []
        self.tree: list[dict[str, Any]] = []
        self.checks = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.engine is None:
            return
        ledger = ledger_of(self.engine.broker, task)
        if ledger is None:
            return
        self.checks += 1
        try:
            ledger.check()
        except AssertionError as error:
            if not self.problems:
                self.engine.journal.note("check", "books", error=str(error))
                self.tree = self.engine.tree()
            self.problems.append(str(error))


class Log:
    """The broker's logger: into the journal, debug left out; errors are kept for the report."""

    def __init__(self, journal: Journal, engine: SimEngine) -> None:
        self._journal = journal
        self._engine = engine
        self.errors: list[BaseException] = []
        self.info = partial(self._note, "info")
        self.warning = partial(self._note, "warning")
        self.error = partial(self._note, "error")

    def debug(self, event: str, **fields: Any) -> None:
        """Too much for a timeline."""

    def keep(self, error: BaseException | None) -> None:
        if error is not None:
            self.errors.append(error)

    def _note(self, level: str, event: str, **fields: Any) -> None:
        life = self._engine.life
        if life is not None and life.killed:
            return  # what a killed process would have said about its end
        self.keep(fields.pop("exc_info", None))
        shown = {
            name: value if isinstance(value, str | int | float) or value is None else str(value)
            for name, value in fields.items()
            if name not in ("actors", "block")
        }
        self._journal.note("broker", level, event=event, **shown)


def _leaves(error: BaseException | None) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [] if error is None else [error]


def _holds(error: BaseException | None, kind: type[BaseException]) -> bool:
    return any(isinstance(leaf, kind) for leaf in _leaves(error))


def _last_words(error: BaseException | None) -> str:
    return "; ".join(f"{type(leaf).__name__}: {leaf}" for leaf in _leaves(error)) or "cancelled"


def exit_of(error: BaseException | None) -> int:
    """The code with which `trio-msg serve` would have ended."""
    for kind, code in (
        (StoreFailed, exits.IO_ERROR),
        (StoreLocked, exits.TEMPORARY),
        (StoreUnreadable, exits.DATA),
        (OSError, exits.IO_ERROR),
    ):
        if _holds(error, kind):
            return code
    return exits.SOFTWARE
