"""Who waits on whom: noted where a task really waits for another actor, read by dumps.

Only the slow path writes here: a `put` that finds no room, an answer that is not there yet.
A task has at most one wait, for a wait is an `await`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import trio


class Wait(NamedTuple):
    on: str  # the actor's name, as dumps write it: "queue jobs"
    what: str  # "room in its mailbox", "an answer"
    since: float  # monotonic


_WAITS: dict[trio.lowlevel.Task, Wait] = {}


@contextmanager
def waiting(on: str, what: str) -> Iterator[None]:
    """The current task waits, inside of this, on the actor of that name."""
    task = trio.lowlevel.current_task()
    _WAITS[task] = Wait(on, what, trio.current_time())
    try:
        yield
    finally:
        del _WAITS[task]


def wait_of(task: trio.lowlevel.Task) -> Wait | None:
    """What this task waits for, if it is another actor."""
    return _WAITS.get(task)


def waits() -> Iterator[tuple[str, Wait]]:
    """(name of the task, its wait), the longest first. Of all brokers in this process."""
    for task, wait in sorted(_WAITS.items(), key=lambda item: item[1].since):
        yield task.name, wait
