"""When Python looks for garbage among what is old: seldom, and while nobody waits for it.

A full collection visits all that lives and stops everybody meanwhile: 50 to 300 ms where 5,000
connections are open. Python starts one whenever a quarter has come to what there was, so that a
wave of connections met half a dozen. But nothing here needs it as a rule: what is thrown away
is free at once unless it refers to itself, and connections that end leave no such cycles
(`Connection.let_go`); the young generations are collected as ever, in a few milliseconds.

So the automatic full collection is off, and this task starts one for the cycles that nobody knows
of: where memory has grown by a quarter since the last, at a moment when the broker has had next
to nothing to do for a second, and not more often than every ten minutes. Where memory grows
much, it does not wait: what leaks through cycles must not take more than there was.
"""

import gc
import sys
import time

import attrs
import trio

LOOK_S = 1.0
QUIET = 0.05  # of a core, at most, is no work
OFTEN_S = 600.0
GROWN = 1.25
TOO_MUCH = 2.0
TOO_MANY = 4_000_000  # blocks more: some 300 MB, or 20,000 connections
NEVER = 2**31 - 1


@attrs.define
class Collector:
    """Decides from three figures, which it takes itself in `run`. Blocks are what Python has
    allocated: their number is cheap to ask for, and grows with whatever is kept."""

    blocks: int = 0  # after the last full collection
    at: float = 0.0  # of that
    busy: float = 0.0  # CPU seconds of the process at the last look

    def settle(self) -> None:
        """All that the start has made stays: collections need not walk through it any more."""
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, NEVER)
        gc.collect()
        gc.freeze()
        self.blocks, self.at = sys.getallocatedblocks(), time.monotonic()
        self.busy = time.process_time()

    async def run(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            self.look(time.monotonic(), sys.getallocatedblocks(), time.process_time())

    def look(self, now: float, blocks: int, busy: float) -> bool:
        """Collect, if it is time to. Whether it was."""
        quiet = busy - self.busy <= QUIET * LOOK_S
        self.busy = busy
        seldom = now - self.at >= OFTEN_S
        if not (
            (blocks > GROWN * self.blocks and quiet and seldom)
            or blocks > TOO_MUCH * self.blocks + TOO_MANY
        ):  # fmt: skip
            return False
        gc.collect()
        self.blocks, self.at = sys.getallocatedblocks(), now
        return True
