"""`python -m msg.scenario.child {"fd": 3} serve …`: the real program, hurt from inside.

What no signal can do to a process from outside is done here, underneath the product and
without a line in it: syncs that fail or are slow, a wall clock that is set, writes that come
short, a bug in an actor. Orders come as JSON lines over a socket whose descriptor is in the first
argument; each is answered once it is in force. With them comes the watch over the books,
which looks after every step of a queue's actor.

The rest of the arguments is the command line of `python -m msg`.
"""

import errno
import json
import os
import runpy
import socket
import stat
import sys
import threading
import time
from typing import Any

import structlog
import trio

import msg.actors.broker as root
from msg.config import Settings
from msg.scenario.books import ledger_of
from msg.scenario.bugs import put_bug
from msg.world import World


class Faults:
    """What is wrong at the moment. Set by the thread that hears orders, met by all others."""

    def __init__(
        self, *, slow: float = 0.0, clock: float = 0.0, short_writes: bool = False
    ) -> None:
        self.slow = slow  # a sync takes so long
        self.clock = clock  # the wall clock is so far ahead
        self.short_writes = short_writes
        self.failing = 0  # so many of the next syncs fail
        self.broker: root.Broker | None = None
        self.token: trio.lowlevel.TrioToken | None = None
        self._guard = threading.Lock()

    def install(self) -> None:
        """Get underneath: from now on the program meets what is wrong."""
        datasync, sync, write = os.fdatasync, os.fsync, os.write
        wall, wall_ns = time.time, time.time_ns

        def slow_datasync(fd: int) -> None:
            self._before_sync()
            datasync(fd)

        def slow_sync(fd: int) -> None:
            self._before_sync()
            sync(fd)

        def short_write(fd: int, data: Any) -> int:
            if self.short_writes and len(data) > 1 and stat.S_ISREG(os.fstat(fd).st_mode):
                data = memoryview(data)[: len(data) // 2]
            return write(fd, data)

        os.fdatasync, os.fsync, os.write = slow_datasync, slow_sync, short_write  # type: ignore[assignment]
        time.time = lambda: wall() + self.clock
        time.time_ns = lambda: wall_ns() + int(self.clock * 1e9)

    def _before_sync(self) -> None:
        if self.slow:
            time.sleep(self.slow)
        with self._guard:
            fails = self.failing > 0
            self.failing -= fails
        if fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def obey(self, orders: socket.socket) -> None:
        """A thread: hear orders to the end of the other side."""
        with orders, orders.makefile("rb") as lines:
            for line in lines:
                order = json.loads(line)
                answer = self._carry_out(**order)
                orders.sendall(json.dumps(answer).encode() + b"\n")

    def _carry_out(self, what: str, value: Any) -> dict[str, Any]:
        there = True
        with self._guard:
            if what == "fsync_error":
                self.failing = value
            elif what == "slow_fsync":
                self.slow = value
            elif what == "clock":
                self.clock = value
        if what == "bug":
            there = self._put_bug(value)
        return {"there": there}

    def _put_bug(self, actor: str) -> bool:
        broker, token = self.broker, self.token
        if broker is None or token is None:
            return False
        try:
            return trio.from_thread.run_sync(put_bug, broker, actor, trio_token=token)
        except trio.RunFinishedError:
            return False

    async def run_broker(
        self, settings: Settings, world: World, *,
        task_status: "trio.TaskStatus[root.Broker]" = trio.TASK_STATUS_IGNORED, **options: Any,
    ) -> None:  # fmt: skip
        """Instead of the product's own: the same, known to us and watched."""
        self.token = trio.lowlevel.current_trio_token()
        trio.lowlevel.add_instrument(Watch(self))
        await _run_broker(settings, world, task_status=_Status(self, task_status), **options)


class _Status:
    """As `trio.TaskStatus`: the broker, once it serves, is known here too."""

    def __init__(self, faults: Faults, outer: "trio.TaskStatus[root.Broker]") -> None:
        self._faults = faults
        self._outer = outer

    def started(self, broker: Any = None) -> None:
        self._faults.broker = broker
        self._outer.started(broker)


class Watch(trio.abc.Instrument):
    """Do the books balance, after every step of a queue's actor? If not, the log says so once."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._told = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        ledger = ledger_of(self._faults.broker, task)
        if ledger is None or self._told:
            return
        try:
            ledger.check()
        except AssertionError as error:
            self._told = True
            structlog.get_logger().error("books do not balance", actor=task.name, error=str(error))


_run_broker = root.run_broker


def main() -> None:
    """See the module."""
    state = json.loads(sys.argv[1])
    orders = socket.socket(fileno=state.pop("fd"))
    faults = Faults(**state)
    faults.install()
    root.run_broker = faults.run_broker
    threading.Thread(target=faults.obey, args=(orders,), name="faults", daemon=True).start()
    sys.argv[1:] = sys.argv[2:]
    runpy.run_module("msg", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
