"""Stall watch: a thread that tells when the broker's loop does not turn at all.

From inside of a loop that stands still nothing can be said: no answer, no signal handler, no
watchdog. This thread looks once a second whether the loop's heartbeat has moved; after five
looks without, it writes to the log where the loop's thread stands. It counts looks and not
seconds, so a process that was stopped (SIGSTOP, a suspended laptop) is no stall.
"""

import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

LOOKS = 5
LOOK_S = 1.0

log = structlog.get_logger()


class StallWatch:
    """Runs while it is entered, in the thread whose loop it watches. `beat` gives a number
    that the loop changes every second or so; None: there is no loop yet."""

    def __init__(self, beat: Callable[[], float | None], look_s: float = LOOK_S) -> None:
        self._beat = beat
        self._look_s = look_s
        self._over = threading.Event()
        self._told = False
        self._watched = threading.get_ident()
        self._thread = threading.Thread(target=self._run, name="stall watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._over.set()

    def _run(self) -> None:
        seen: float | None = None
        same = 0
        while not self._over.wait(self._look_s):
            beat = self._beat()
            same = same + 1 if beat is not None and beat == seen else 0
            if same == LOOKS:
                log.error("the loop stands still", seconds=same * self._look_s, stack=self._stack())
            elif beat != seen and seen is not None and self._told:
                log.info("the loop turns again")
            self._told = same >= LOOKS
            seen = beat

    def _stack(self) -> list[str]:
        """Where the watched thread is, outermost first."""
        frame = sys._current_frames().get(self._watched)
        if frame is None:
            return []
        return [
            f"{place.filename}:{place.lineno} {place.name}: {(place.line or '').strip()}"
            for place in traceback.extract_stack(frame)[-30:]
        ]
