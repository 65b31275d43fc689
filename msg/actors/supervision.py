"""Supervision: how often a failing actor may be started again, and what then."""

from collections import deque
from collections.abc import Awaitable, Callable

import attrs
import trio

INTENSITY = 3  # restarts within PERIOD_S before an actor counts as failed
PERIOD_S = 5.0
BACKOFF_S = (0.0, 0.05, 0.2, 1.0)  # before the first, second, … restart within the period


@attrs.define
class Restarts:
    """What supervision knows of one actor; read by dumps."""

    count: int = 0
    last_error: str = ""
    failed: bool = False


async def supervise(
    actor: Callable[[], Awaitable[None]],
    restarts: Restarts,
    on_crash: Callable[[Exception, int], None],
    *,
    intensity: int = INTENSITY,
    period_s: float = PERIOD_S,
) -> None:
    """Run `actor` until it returns, starting it again when it fails.

    More than `intensity` failures within `period_s` are this supervisor's own failure: the
    last error is raised. `on_crash(error, n)` is told of each, before the restart.
    Cancellation passes, and so does a group that holds one.
    """
    failures = deque[float]()
    while True:
        try:
            await actor()
            return
        except Exception as error:
            failures.append(trio.current_time())
            while failures[0] < failures[-1] - period_s:
                failures.popleft()
            restarts.count += 1
            restarts.last_error = f"{type(error).__name__}: {error}"
            on_crash(error, len(failures))
            if len(failures) > intensity:
                restarts.failed = True
                raise
        await trio.sleep(BACKOFF_S[min(len(failures), len(BACKOFF_S)) - 1])
