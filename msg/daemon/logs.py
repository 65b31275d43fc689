"""Logs: one line an event, text or JSON, never in the way of the loop.

An event is rendered where it happens and put into a bounded buffer; a thread writes. A
full stderr pipe (a reader that sleeps, a terminal with ^S) would otherwise stop the whole
broker; so when the buffer is full, lines are dropped, counted, and the count is told with
the first line that finds room. A closed pipe ends the writing and nothing else.

Repeated events are limited by name, so that a flood of one kind does not hide the rest;
the first line after a pause says how many were left out (`suppressed`).
"""

import json
import logging
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

import attrs
import structlog

from msg.show.tree_text import tree_text

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
BUFFER_BYTES = 4 << 20
TEXT_MAX = 1000  # of one value: a log line is no place for a body
BURST = 50  # lines of one event name at once,
REFILL = 5.0  # and per second after that
FLUSH_SECONDS = 1.0  # a stop waits no longer for a reader that sleeps

Event = MutableMapping[str, Any]


class LineWriter:
    """Lines from any thread to one file descriptor, by a thread of its own.

    `put` never waits. What a stop leaves behind (a reader that sleeps) is lost.
    """

    def __init__(
        self, fd: int, dropped_line: Callable[[int], bytes], bytes_max: int = BUFFER_BYTES
    ):
        self._fd = fd
        self._dropped_line = dropped_line
        self._bytes_max = bytes_max
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._closing = False
        self._changed = threading.Condition(threading.Lock())
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()
        self.dropped_total = 0

    def put(self, line: bytes) -> None:
        with self._changed:
            if self._bytes + len(line) > self._bytes_max:
                self._dropped += 1
                self.dropped_total += 1
                return
            if self._dropped:
                told = self._dropped_line(self._dropped)
                self._dropped = 0
                self._lines.append(told)
                self._bytes += len(told)
            self._lines.append(line)
            self._bytes += len(line)
            self._changed.notify()

    def close(self, seconds: float = FLUSH_SECONDS) -> None:
        """Write what is there, but wait no longer than that."""
        with self._changed:
            if self._dropped:
                self._lines.append(self._dropped_line(self._dropped))
                self._dropped = 0
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._closing:
                    self._changed.wait()
                if not self._lines:
                    return
                chunk = b"".join(self._lines)
                self._lines.clear()
            written = self._write(chunk)
            with self._changed:
                # counted until it is written: a chunk in a stuck write fills the buffer too
                self._bytes -= len(chunk)
                if not written:
                    self._lines.clear()
                    self._bytes = self._bytes_max + 1  # no reader will come back: drop all
                    return

    def _write(self, chunk: bytes) -> bool:
        view = memoryview(chunk)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # somebody made our stderr non-blocking
                time.sleep(0.05)
            except OSError:  # closed: there is nobody left to tell
                return False
        return True


class RateLimit:
    """A structlog processor: a token bucket for each event name; at the level debug all pass.

    Event names are our own constants, so the table is bounded by the source code.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, gate: "LevelGate | None" = None
    ) -> None:
        self._clock = clock
        self._gate = gate
        self._buckets: dict[str, tuple[float, float, int]] = {}  # tokens, when, suppressed

    def __call__(self, _logger: Any, method: str, event: Event) -> Event:
        if method == "debug" or (self._gate is not None and self._gate.level <= LEVELS["debug"]):
            return event  # who asked for everything gets everything
        name = str(event.get("event"))
        now = self._clock()
        tokens, when, suppressed = self._buckets.get(name, (float(BURST), now, 0))
        tokens = min(float(BURST), tokens + (now - when) * REFILL)
        if tokens < 1.0:
            self._buckets[name] = (tokens, now, suppressed + 1)
            raise structlog.DropEvent
        self._buckets[name] = (tokens - 1.0, now, 0)
        if suppressed:
            event["suppressed"] = suppressed
        return event


@attrs.define
class LevelGate:
    """A structlog processor: drops what is below the level, which can change at any time.

    (structlog's own filter is chosen when a logger is bound, too early for a reload.)
    """

    level: int

    def __call__(self, _logger: Any, method: str, event: Event) -> Event:
        if LEVELS.get(method, 40) < self.level:
            raise structlog.DropEvent
        event["level"] = method
        return event


def add_time(_logger: Any, _method: str, event: Event) -> Event:
    now = time.time()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    event["time"] = f"{whole}.{int(now % 1 * 1000):03d}Z"
    return event


def add_traceback(_logger: Any, _method: str, event: Event) -> Event:
    """`exc_info` (True, an exception or a triple) becomes the traceback's text."""
    found = event.pop("exc_info", None)
    if found is True:
        found = sys.exception()
    if isinstance(found, tuple):
        found = found[1]
    if isinstance(found, BaseException):
        event["traceback"] = "".join(traceback.format_exception(found)).rstrip()
    return event


def draw(_logger: Any, _method: str, event: Event) -> Event:
    """For people: a tree's `actors` and a `stack` as lines below the event."""
    actors, stack = event.get("actors"), event.get("stack")
    blocks = []
    if isinstance(stack, list):
        blocks += [str(place) for place in event.pop("stack")]
    if isinstance(actors, list) and all(isinstance(actor, dict) for actor in actors):
        del event["actors"]
        event.setdefault("count", len(actors))
        blocks.append(tree_text(actors, event.pop("waits", None), event.pop("knots", ())))
    if blocks:
        event["block"] = "\n".join([*blocks, *([event["block"]] if "block" in event else [])])
    return event


def cut_values(_logger: Any, _method: str, event: Event) -> Event:
    """No value fills the log, however long a client's text is."""
    for key, value in event.items():
        if isinstance(value, str) and len(value) > TEXT_MAX and key not in ("traceback", "block"):
            event[key] = value[:TEXT_MAX] + f"… ({len(value)} characters)"
    return event


def render_json(_logger: Any, _method: str, event: Event) -> bytes:
    first = {key: event.pop(key) for key in ("time", "level", "event") if key in event}
    return json.dumps({**first, **event}, default=str, ensure_ascii=True).encode() + b"\n"


_COLOURS = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"


@attrs.frozen
class TextRenderer:
    """`time level event key=value …`; texts from outside cannot forge lines or colours."""

    colour: bool

    def __call__(self, _logger: Any, _method: str, event: Event) -> bytes:
        when, level, name = (str(event.pop(key, "")) for key in ("time", "level", "event"))
        blocks = [event.pop(key) for key in ("block", "traceback") if key in event]
        if self.colour:
            line = f"{_DIM}{when[11:23]}{_PLAIN} {_COLOURS.get(level, '')}{level:<7}{_PLAIN} "
            line += f"{_BOLD}{_plain(name, blanks=True)}{_PLAIN}"
            line += "".join(f" {_DIM}{key}={_PLAIN}{_plain(v)}" for key, v in event.items())
        else:
            line = f"{when} {level:<7} {_plain(name, blanks=True)}"
            line += "".join(f" {key}={_plain(value)}" for key, value in event.items())
        for block in blocks:
            line += "".join(f"\n    {_plain(part, blanks=True)}" for part in str(block).split("\n"))
        return line.encode("utf-8", "backslashreplace") + b"\n"


def _plain(value: object, *, blanks: bool = False) -> str:
    """A value as it is where that is harmless, else as a JSON string."""
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, default=str)
    text = str(value)
    if text and text.isprintable() and (blanks or not any(c in text for c in ' "=')):
        return text
    return text if blanks and not text else json.dumps(text)


@attrs.frozen
class Logs:
    """The configured log; `close` it last."""

    writer: LineWriter
    out: LineWriter
    text: bool  # lines for people: a tree may be drawn
    gate: LevelGate

    def say(self, line: str) -> None:
        """One plain line to standard output, whatever the log's format and level."""
        self.out.put(line.encode("utf-8", "backslashreplace") + b"\n")

    def set_level(self, level: str) -> None:
        self.gate.level = LEVELS[level]

    def close(self, seconds: float = FLUSH_SECONDS) -> None:
        self.out.close(seconds)
        self.writer.close(seconds)


def configure(log_format: str, level: str, *, fd: int = 2, out_fd: int = 1) -> Logs:
    """Send structlog's (and the standard library's) events to `fd`, plain lines to `out_fd`."""
    terminal = os.isatty(fd)
    text = log_format == "text" or (log_format == "auto" and terminal)
    colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    render: Callable[..., bytes] = TextRenderer(colour) if text else render_json

    def dropped_line(count: int) -> bytes:
        event = {"event": "log lines dropped: stderr was not read", "level": "warning"}
        return render(None, "", add_time(None, "", {**event, "count": count}))

    gate = LevelGate(LEVELS[level])
    writer = LineWriter(fd, dropped_line)
    processors: Iterable[Any] = [
        gate,
        RateLimit(gate=gate),
        structlog.contextvars.merge_contextvars,
        add_time,
        add_traceback,
        *([draw] if text else []),
        cut_values,
        render,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: _Sink(writer),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_FromStandardLibrary()], level=logging.INFO, force=True)
    logging.captureWarnings(capture=True)
    return Logs(writer, LineWriter(out_fd, dropped_line), text, gate)


@attrs.frozen
class _Sink:
    """What structlog calls with a rendered line, whatever the level."""

    writer: LineWriter

    def msg(self, line: bytes) -> None:
        self.writer.put(line)

    debug = info = warning = error = critical = msg


class _FromStandardLibrary(logging.Handler):
    """Libraries log through `logging`: their lines look like ours."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        level = record.levelname.lower()
        method = getattr(log, level if level in LEVELS else "warning")
        method(record.getMessage(), logger=record.name, exc_info=record.exc_info or None)
