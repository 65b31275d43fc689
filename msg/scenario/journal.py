"""The journal of a run: every event, in order, and one hash over all of them.

Two runs are the same run when their hashes are equal. The checker and the report read
nothing else.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec

_encode = msgspec.json.Encoder(order="deterministic").encode


class Event(msgspec.Struct, gc=False):
    """Something that happened: when, in whose lane, what, and its particulars."""

    at: float  # seconds since the run began
    lane: str  # a client's name, `broker`, `fault`, `check`
    kind: str
    what: dict[str, Any]

    def line(self) -> str:
        """For a timeline: one line."""
        more = " ".join(f"{name}={_short(value)}" for name, value in self.what.items())
        return f"{self.at:10.4f}  {self.lane:<16} {self.kind:<12} {more}".rstrip()


def _short(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 160 else f"{text[:157]}…"


class Journal:
    """Events in order. `clock` gives seconds since the run began."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.events: list[Event] = []
        self.watch: Callable[[Event], None] | None = None

    def note(self, lane: str, kind: str, /, **what: Any) -> Event:
        event = Event(round(self.clock(), 6), lane, kind, what)
        self.events.append(event)
        if self.watch is not None:
            self.watch(event)
        return event

    @property
    def hash(self) -> str:
        """Equal for equal runs."""
        digest = blake2b(digest_size=16)
        for event in self.events:
            digest.update(_encode(event))
            digest.update(b"\n")
        return digest.hexdigest()
