"""Supervision: how often a failing actor may be started again, and what then."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import attrs
import trio

from msg.errors import ClientError

INTENSITY = 3  # restarts within PERIOD_S before an actor counts as failed
PERIOD_S = 5.0
BACKOFF_S = (0.0, 0.05, 0.2, 1.0)  # before the first, second, … restart within the period


@attrs.define
class Restarts:
    """What supervision knows of one actor; read by dumps."""

    count: int = 0
    last_error: str = ""
    failed: bool = False


class Estate(Protocol):
    """What an actor leaves to its next incarnation: of a turn that failed, its mail."""

    turn: list[Any]
    culprit: int  # which of it was being heard; -1 = none of it
    suspect: Any  # a fact that was the culprit once


def take_culprit(
    estate: Estate, facts: tuple[type, ...], vital: tuple[type, ...] = ()
) -> Any | None:
    """Take the mail that broke the last incarnation out of what is done anew: it is to be
    refused, before anything is restored. A fact, which nobody repeats, has a second chance; what
    is `vital` is heard, or the actor fails for good."""
    mails, culprit, estate.culprit = estate.turn, estate.culprit, -1
    if not 0 <= culprit < len(mails):
        return None
    mail = mails[culprit]
    if isinstance(mail, vital):
        return None
    if isinstance(mail, facts) and mail is not estate.suspect:
        estate.suspect = mail
        return None
    return mails.pop(culprit)


def broken_by(actor: str) -> ClientError:
    """What is said of a request that an actor failed on."""
    return ClientError(
        "internal",
        f"{actor} failed on this request and was started anew; the broker's log has the cause",
    )


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
