"""How long the broker's loop is busy at a time: a broker that measures its own turns.

    TRIO_MSG="python bench/turns.py" python bench/peers/run.py --peers trio-msg --workloads W4

Takes the arguments of `trio-msg`. A turn is all that runs between two waits for I/O, and what
Trio does with the events of the first; its length is what everybody else waits. It is counted in
CPU time, so that other processes on the same machine do not count, and until the broker is told to
stop. Then it goes to the file that TURNS_OUT names (else to stderr) how many turns exceeded each
length, how many tasks ran in the longest one (thousands where thousands of clients did something
in the same moment), and what the garbage collector took.
"""

import contextlib
import gc
import os
import sys
import time
from typing import Any

import trio

from msg.actors.listener import Connections
from msg.cli.main import main

LIMITS_MS = (1, 2, 5, 10, 20, 50)
START_S = 2.0  # the broker's own start is not counted


class Turns(trio.abc.Instrument):
    """Counts the turns longer than each limit, and the collector's pauses likewise."""

    def __init__(self) -> None:
        self.turns: list[float] = []
        self.pauses: list[tuple[float, int]] = []
        self._began = self._paused = 0.0
        self._steps = 0
        self._longest = (0.0, 0)  # of the turns: seconds, steps of tasks
        self.over = False  # the broker stops: nobody waits for it any more
        self._from = time.monotonic() + START_S

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps += 1

    def before_io_wait(self, timeout: float) -> None:
        now = time.thread_time()
        if time.monotonic() > self._from and not self.over:
            self.turns.append(now - self._began)
            self._longest = max(self._longest, (self.turns[-1], self._steps))
        self._began, self._steps = now, 0

    def collecting(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._paused = time.thread_time()
        elif time.monotonic() > self._from and not self.over:
            self.pauses.append((time.thread_time() - self._paused, info["generation"]))

    def told(self) -> str:
        lines = [f"{_told('turns', self.turns)}; {self._longest[1]} tasks ran in the longest"]
        for generation in range(3):
            mine = [s for s, g in self.pauses if g == generation]
            lines.append(_told(f"collections of generation {generation}", mine))
        return "\n".join(lines) + "\n"


def _told(what: str, seconds: list[float]) -> str:
    over = ", ".join(
        f"> {ms} ms: {n}" for ms in LIMITS_MS if (n := sum(s * 1000 > ms for s in seconds))
    )
    longest = max(seconds, default=0.0) * 1000
    return f"{len(seconds)} {what}, the longest {longest:.1f} ms; {over or 'none over 1 ms'}"


def run() -> None:
    turns, run_loop = Turns(), trio.run
    stop = Connections.stop_accepting

    def stopping(connections: Connections) -> None:
        turns.over = True
        stop(connections)

    Connections.stop_accepting = stopping  # type: ignore[method-assign]

    def measured(*args: Any, **options: Any) -> Any:
        gc.callbacks.append(turns.collecting)
        try:
            return run_loop(*args, **options, instruments=[turns])
        finally:
            with contextlib.ExitStack() as stack:
                out = sys.stderr
                if name := os.environ.get("TURNS_OUT"):
                    out = stack.enter_context(open(name, "a"))
                out.write(turns.told())

    trio.run = measured
    main()


if __name__ == "__main__":
    run()
