"""`trio-msg serve`: from settings to a running broker, and from any end to an exit code.

Order: settings, log, open files, thread switch, world, broker; each may refuse with its
own code. The first SIGTERM or SIGINT drains, the second ends the process where it stands
(which is safe at any time: what was acked is on the disk). SIGHUP reads the settings
again, SIGUSR1 writes the actor tree to the log.
"""

import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

import attrs
import structlog
import trio

from msg import __version__
from msg.config import ConfigError, Settings, load, reload
from msg.daemon import exits, page, tracing
from msg.daemon.collector import Collector
from msg.daemon.logs import Logs, configure
from msg.daemon.process import (
    CannotCreate,
    is_loopback,
    port_file,
    raise_file_limit,
    share_the_interpreter,
    show_address,
    too_few_files,
)
from msg.daemon.stall import StallWatch
from msg.daemon.systemd import Notifier
from msg.errors import StoreFailed, StoreLocked, StoreUnreadable

if TYPE_CHECKING:
    from msg.world import World

log = structlog.get_logger()

DUMPED = 100  # actors of one kind under one parent, in a dump to the log

WINDOWS = (
    "trio-msg serve needs POSIX file locks, directory syncs and signals (fcntl, SIGHUP), which "
    "Windows does not have: run it under WSL or in a container; the command line's other "
    "commands and the clients work here."
)


class Broker(Protocol):
    """The handle that the root actor gives when it serves."""

    connections: Any  # whose nursery the page runs in
    drained: trio.Event

    @property
    def addresses(self) -> Sequence[tuple[str, int]]:
        """Where it listens."""

    def drain(self) -> None:
        """Stop accepting and wait for acks; the actor then returns."""

    def reload(self, settings: Settings) -> None:
        """Apply what can change."""

    async def picture(self, *, keep: int) -> dict[str, Any]:
        """The actor tree, with at most `keep` of a kind under one actor."""

    @property
    def seen_alive(self) -> float:
        """The loop's heartbeat: it changes every second."""

    def healthy(self) -> bool:
        """Whether systemd may be told that all is well."""


class RunBroker(Protocol):
    """The root actor's task."""

    async def __call__(
        self, settings: Settings, world: "World", *, task_status: "trio.TaskStatus[Any]"
    ) -> None:
        """Serve until drained."""


def serve(flags: Mapping[str, object], env: Mapping[str, str], sets: Sequence[str] = ()) -> int:
    """Serve until stopped; the exit code. Problems before the log is up go to stderr."""
    if sys.platform == "win32":
        return _refuse(exits.UNAVAILABLE, WINDOWS)

    def read() -> Settings:
        settings = load(flags, env, sets)
        page.address_of(settings)
        tracing.check(settings)
        if not settings.insecure and not is_loopback(settings.host):
            raise ConfigError([
                f"{settings.origin('host')}: host {settings.host!r} can be reached from other "
                "machines, and nobody has to log in: add --insecure if that is meant"
            ])  # fmt: skip
        return settings

    try:
        settings = read()
    except ConfigError as error:
        return _refuse(exits.CONFIG, str(error))
    logs = configure(settings.log_format, settings.log_level)
    try:
        return _serve(settings, logs, Notifier.from_environment(env), read)
    finally:
        logs.close()


def _refuse(code: int, text: str) -> int:
    with contextlib.suppress(OSError, ValueError):  # a closed stderr changes nothing
        print(f"trio-msg: {text}", file=sys.stderr)
    return code


def _serve(settings: Settings, logs: Logs, notifier: Notifier, read: Callable[[], Settings]) -> int:
    limit, needed = raise_file_limit(settings)
    if too_few_files(settings, limit, needed):
        log.info("fewer connections than limits.connections: open files are limited"
                 " (ulimit -Hn, LimitNOFILE=)", open_files=limit, wanted=needed)  # fmt: skip
    share_the_interpreter()
    try:
        os.makedirs(settings.data_dir, mode=0o700, exist_ok=True)
    except OSError as error:
        log.error("data directory cannot be made", data_dir=settings.data_dir, error=str(error))
        return exits.CANT_CREATE

    try:
        # here, so that settings are refused before the broker is imported
        from msg.actors.broker import run_broker
        from msg.store.disk import RealDisk
        from msg.world import RealWorld

        daemon = Daemon(settings, logs, notifier, read, run_broker)

        def beat() -> float | None:
            return None if daemon.broker is None else daemon.broker.seen_alive

        async def main() -> None:
            disk = RealDisk(settings.data_dir)
            await daemon.run(RealWorld(disk, disk_threads=settings.limits.disk_threads))

        with StallWatch(beat):
            trio.run(main)
    except BaseException as error:  # one place turns every end into a code
        return exit_code(error)
    log.info("stopped")
    return exits.OK


@attrs.define
class Daemon:
    """One run of the broker, and the signals around it."""

    settings: Settings
    logs: Logs
    notifier: Notifier
    read: Callable[[], Settings]
    run_broker: RunBroker
    broker: Broker | None = None

    async def run(self, world: "World") -> None:
        """Returns when the broker has stopped in good order; raises as it does."""
        with contextlib.ExitStack() as at_end:
            async with trio.open_nursery() as nursery:
                # signals first: a stop must be possible while a big store is read
                await nursery.start(self._hear_signals, nursery.cancel_scope)
                # a port that is taken is said before anything is begun
                address = page.address_of(self.settings)
                listeners = await page.listen(address) if address is not None else []
                for listener in listeners:
                    at_end.callback(listener.socket.close)
                self.broker = await nursery.start(self._run_broker, nursery.cancel_scope, world)
                if self.settings.otel != "off":
                    at_end.callback(tracing.start(cast("Any", self.broker), self.settings))
                at_end.enter_context(port_file(self.settings.port_file, self._port()))
                collector = Collector()
                collector.settle()
                nursery.start_soon(collector.run)
                self._announce()
                if address is not None and listeners:
                    at = await page.start(self.broker, listeners, address, self.settings, world)
                    if at is not None:
                        self.logs.say(f"web page at {at} (to write there: trio-msg page)")
                if self.notifier.watchdog_seconds:
                    nursery.start_soon(self._feed_watchdog)

    async def _run_broker(
        self, everything: trio.CancelScope, world: "World", task_status: "trio.TaskStatus[Broker]"
    ) -> None:
        await self.run_broker(self.settings, world, task_status=task_status)
        everything.cancel("the broker has stopped")

    def _port(self) -> int:
        assert self.broker is not None
        return self.broker.addresses[0][1]

    def _announce(self) -> None:
        assert self.broker is not None
        addresses = [show_address(*address) for address in self.broker.addresses]
        data_dir = os.path.abspath(self.settings.data_dir)
        self.logs.say(
            f"trio-msg {__version__} listening on {', '.join(addresses)}, data in {data_dir}"
        )
        if not self.logs.text:  # a person has just read it
            log.info("ready", addresses=addresses, data_dir=data_dir, version=__version__,
                     pid=os.getpid(), config=self.settings.config)  # fmt: skip
        self.notifier.ready(f"listening on {', '.join(addresses)}")

    async def _feed_watchdog(self) -> None:
        while True:
            assert self.broker is not None
            if self.broker.healthy():
                self.notifier.alive()
            await trio.sleep(self.notifier.watchdog_seconds / 2)

    async def _hear_signals(
        self, everything: trio.CancelScope, task_status: "trio.TaskStatus[None]"
    ) -> None:
        wanted = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
        with trio.open_signal_receiver(*wanted) as received:
            task_status.started()
            async for number in received:
                name = signal.Signals(number).name
                if number in (signal.SIGTERM, signal.SIGINT):
                    log.info("draining: a second signal exits at once", signal=name)
                    self._stop(everything)
                elif self.broker is None:
                    log.warning("not serving yet: signal ignored", signal=name)
                elif number == signal.SIGHUP:
                    await self._reload(self.broker)
                else:
                    await self._dump_tree(self.broker)

    def _stop(self, everything: trio.CancelScope) -> None:
        # not through the loop, which may be what hangs
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._exit_now)
        self.notifier.stopping()
        if self.broker is None:
            everything.cancel("stopped before it served")
        else:
            self.broker.drain()

    def _exit_now(self, number: int, _frame: FrameType | None) -> NoReturn:
        self.logs.close(seconds=0.2)
        os._exit(exits.INTERRUPTED if number == signal.SIGINT else exits.TERMINATED)

    async def _reload(self, broker: Broker) -> None:
        self.notifier.reloading()
        try:
            new = await trio.to_thread.run_sync(self.read)
        except ConfigError as error:
            log.error("settings not reloaded, the old ones stay", problems=error.problems)
        else:
            result = reload(self.settings, new)
            self.settings = result.settings
            self.logs.set_level(result.settings.log_level)
            broker.reload(result.settings)
            log.info("settings reloaded", changed=[str(change) for change in result.applied],
                     need_restart=[str(change) for change in result.restart])  # fmt: skip
        self.notifier.ready("serving")

    async def _dump_tree(self, broker: Broker) -> None:
        drawn = await broker.picture(keep=DUMPED)
        log.info("tree", **drawn)


_BIND = {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM, errno.EAFNOSUPPORT}


def exit_code(error: BaseException) -> int:
    """The code for an error that ended the broker, which is told to the log.

    A group of errors has the code of its gravest: a disk that failed outranks the bugs that
    it may have set off.
    """
    leaves = list(_leaves(error))
    ranked: list[tuple[type[BaseException], int]] = [
        (StoreFailed, exits.IO_ERROR),
        (StoreLocked, exits.TEMPORARY),
        (StoreUnreadable, exits.DATA),
        (CannotCreate, exits.CANT_CREATE),
        (OSError, exits.IO_ERROR),
        (KeyboardInterrupt, exits.INTERRUPTED),
    ]
    if any(not isinstance(leaf, tuple(cls for cls, _ in ranked)) for leaf in leaves):
        log.critical("the broker failed: this is a bug, please report it", exc_info=error)
    for cls, code in ranked:
        for leaf in leaves:
            if isinstance(leaf, cls):
                if isinstance(leaf, OSError) and _is_about_listening(leaf):
                    code = exits.UNAVAILABLE
                log.error("cannot serve", error=_said(leaf), exit=code)
                return code
    return exits.SOFTWARE


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is None and error.strerror:
        return error.strerror  # without the number before it
    return str(error) or type(error).__name__


def _is_about_listening(error: OSError) -> bool:
    # the store's errors carry a file name
    return isinstance(error, socket.gaierror) or (error.errno in _BIND and error.filename is None)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
