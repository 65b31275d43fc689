"""A run as a picture: time from left to right, a lane per actor and client.

Faults stand across all lanes, what did not hold is flagged in red, and the message that it is
about is drawn thick through all hands. Time in which nothing happens is folded.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise

import attrs

from msg.scenario.checker import Violation
from msg.scenario.journal import Event

LEFT, RIGHT, LANE, PLOT = 150, 30, 46, 1050
ARROWS_MAX = 300  # more of them are a grey cloud: then only the marked message's are drawn
LABEL_WIDTH = 6.3
MARKS_MAX = 4000

STYLE = """
.run-svg { background: #fff } .run-svg text { font: 12px system-ui, sans-serif; fill: #222 }
.run-svg .lane { stroke: #ddd } .run-svg .name { font-weight: 600 }
.run-svg .time { fill: #777; font-size: 11px }
.run-svg .fold { stroke: #999; stroke-dasharray: 2 3 }
.run-svg .up { fill: #dbe7f3 } .run-svg .broker-up { fill: #d9ead3 }
.run-svg .down { fill: #f4cccc }
.run-svg .fault { stroke: #b45f06; stroke-width: 1.5 }
.run-svg .fault-label { fill: #b45f06; font-weight: 600 }
.run-svg .wrong { stroke: #cc0000; stroke-width: 2; stroke-dasharray: 5 3 }
.run-svg .flag { fill: #cc0000 }
.run-svg .flag-text { fill: #fff; font-weight: 700; text-anchor: middle }
.run-svg .thin { stroke: #b7c4d3 } .run-svg .thick { stroke: #a000c8; stroke-width: 2.5 }
.run-svg .thick-label { fill: #a000c8; font-weight: 700 }
.run-svg .publish { fill: #3c78d8 } .run-svg .acked { fill: #fff; stroke: #3c78d8 }
.run-svg .message { fill: #45818e } .run-svg .ack { fill: #38761d }
.run-svg .back { fill: #e69138 } .run-svg .bad { stroke: #cc0000; stroke-width: 2.5 }
.run-svg .log { stroke: #b45f06; stroke-width: 2.5 }
.run-svg .mine { stroke: #a000c8; stroke-width: 2.5 }
"""

SHAPES = {  # kind of event -> how its mark looks
    "publish": "publish", "acked": "acked", "message": "message", "settle": "ack",
    "refused": "bad", "put off": "back", "error": "bad", "not settled": "bad", "dies": "bad",
    "leaves": "back", "hangs": "bad", "forgets": "back", "unanswered": "bad", "stray": "bad",
    "bad frame": "back", "ask": "publish", "answered": "ack",
}  # fmt: skip


@attrs.define
class Axis:
    """Seconds to places: a long time without events is folded into a short one."""

    times: list[float]
    places: list[float]
    folds: list[tuple[float, float]]  # place, seconds that are not shown

    def x(self, at: float) -> float:
        i = bisect_right(self.times, at) - 1
        if i < 0:
            return self.places[0]
        if i + 1 >= len(self.times):
            return self.places[-1]
        low, high = self.times[i], self.times[i + 1]
        part = (at - low) / (high - low) if high > low else 0.0
        return self.places[i] + part * (self.places[i + 1] - self.places[i])


def axis(times: Sequence[float], width: float = PLOT) -> Axis:
    rising = sorted(set(times)) or [0.0]
    gaps = [high - low for low, high in pairwise(rising)]
    shown = _cap(gaps)
    total = sum(min(gap, shown) for gap in gaps) or 1.0
    places, folds, at = [0.0], [], 0.0
    for gap in gaps:
        step = min(gap, shown) / total * width
        if gap > 3 * shown:
            folds.append((at + step / 2, gap))
        at += step
        places.append(at)
    return Axis(rising, places, folds)


def _cap(gaps: Sequence[float]) -> float:
    """The longest gap that is drawn to scale: an eighth of all that are no longer."""
    if not gaps:
        return 1.0
    ordered = sorted(gaps)
    total = 0.0
    for n, gap in enumerate(ordered):
        rest = len(ordered) - n
        if gap * 8 > total + gap * rest and n > len(ordered) // 2:
            return max(ordered[n - 1], 1e-6)
        total += gap
    return ordered[-1]


def picture(events: Sequence[Event], violations: Sequence[Violation], key: str = "") -> str:
    """The run as one `<svg>` element. `key`: of the message to mark."""
    return _Picture(events, violations, key).draw()


class _Picture:
    def __init__(self, events: Sequence[Event], violations: Sequence[Violation], key: str) -> None:
        self.key = key
        self.events = [event for event in events if event.lane != "play"]
        self.violations = violations
        self.over = max((event.at for event in self.events), default=0.0)
        end = [min(violation.at, self.over) for violation in violations]
        self.axis = axis([0.0, *(event.at for event in self.events), *end])
        self.lanes = self._lanes()
        self.labels = self._label_rows()
        self.top = 30 + 16 * max(self.labels.values(), default=0) + 26
        self.height = self.top + LANE * len(self.lanes) + 40

    def _lanes(self) -> dict[str, int]:
        sources: dict[str, None] = {}
        clients: dict[str, None] = {}
        for event in self.events:
            for name in ("to", "from"):
                if isinstance(event.what.get(name), str) and event.kind in (
                    "publish", "message", "settle", "found",
                ):  # fmt: skip
                    sources[event.what[name]] = None
            if event.lane not in ("fault", "check", "broker"):
                clients[event.lane] = None
        publishers = {event.lane for event in self.events if event.kind == "publish"}
        first = [name for name in clients if name in publishers]
        last = [name for name in clients if name not in publishers]
        return {name: i for i, name in enumerate(["broker", *first, *sources, *last])}

    def x(self, at: float) -> float:
        return LEFT + self.axis.x(at)

    def y(self, lane: str) -> float:
        return self.top + LANE * self.lanes.get(lane, 0) + LANE / 2

    def _line(self, kind: str, x: float, y1: float, y2: float, title: str = "") -> str:
        """A line from above to below, over all lanes."""
        place = f'x1="{x:.1f}" y1="{y1}" x2="{x:.1f}" y2="{y2}"'
        return f'<line class="{kind}" {place}><title>{escape(title)}</title></line>'

    # -- the parts, from behind to before ---------------------------------------------------

    def draw(self) -> str:
        width = LEFT + PLOT + RIGHT
        parts = [
            '<svg class="run-svg" xmlns="http://www.w3.org/2000/svg" role="img"'
            f' viewBox="0 0 {width} {self.height:.0f}" width="{width}" height="{self.height:.0f}"'
            ' aria-label="the run, a lane per actor and client">',
            f"<style>{STYLE}</style>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="5"'
            ' markerHeight="5" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#a000c8"/></marker>'
            "</defs>",
        ]
        for draw in (
            self._ground, self._bars, self._arrows, self._faults, self._marks, self._mine,
            self._wrong,
        ):  # fmt: skip
            parts += draw()
        return "\n".join([*parts, "</svg>"])

    def _ground(self) -> Iterator[str]:
        bottom = self.top + LANE * len(self.lanes)
        for name in self.lanes:
            y = self.y(name)
            yield f'<line class="lane" x1="{LEFT}" y1="{y}" x2="{LEFT + PLOT}" y2="{y}"/>'
            shown = name if len(name) <= 21 else f"{name[:20]}…"
            yield f'<text class="name" x="8" y="{y + 4}">{escape(shown)}</text>'
        last = -100.0
        for at in [self.axis.times[0], *self._ticks(), self.axis.times[-1]]:
            x = self.x(at)
            if x - last < 60:
                continue
            last = x
            anchor = ' text-anchor="end"' if x > LEFT + PLOT - 20 else ""
            yield f'<text class="time" x="{x:.1f}" y="{bottom + 16}"{anchor}>{_seconds(at)}</text>'
        for place, seconds in self.axis.folds:
            x = LEFT + place
            yield self._line("fold", x, self.top, bottom)
            said = f"‖ {_seconds(seconds)}"
            yield f'<text class="time" x="{x - 14:.1f}" y="{bottom + 32}">{said}</text>'

    def _ticks(self) -> Iterator[float]:
        for n in range(1, 12):
            i = min(
                range(len(self.axis.places)), key=lambda i: abs(self.axis.places[i] - n * PLOT / 12)
            )
            yield self.axis.times[i]

    def _bars(self) -> Iterator[str]:
        """When the broker was up, and each client connected."""
        since: dict[str, float] = {}
        down: float | None = None
        for event in self.events:
            lane, kind = event.lane, event.kind
            if lane == "broker" and kind == "serves":
                since[lane] = event.at
                if down is not None:
                    yield self._bar(lane, down, event.at, "down")
                down = None
            elif lane == "broker" and kind in ("is gone", "ended") and lane in since:
                down = event.at
                yield self._bar(lane, since.pop(lane), event.at, "broker-up")
            elif kind == "connected":
                since[lane] = event.at
            elif kind == "lost" and lane in since:
                yield self._bar(lane, since.pop(lane), event.at, "up")
        for lane, at in since.items():
            yield self._bar(lane, at, self.over, "broker-up" if lane == "broker" else "up")
        if down is not None:
            yield self._bar("broker", down, self.over, "down")

    def _bar(self, lane: str, since: float, until: float, kind: str) -> str:
        x, width = self.x(since), max(1.5, self.x(until) - self.x(since))
        says = {"up": "connected", "broker-up": "serves", "down": "down"}[kind]
        return (
            f'<rect class="{kind}" x="{x:.1f}" y="{self.y(lane) - 9}" width="{width:.1f}"'
            f' height="18" rx="3"><title>{escape(lane)} {says} {_seconds(since)} to'
            f" {_seconds(until)}</title></rect>"
        )

    def _arrows(self) -> Iterator[str]:
        moves = [e for e in self.events if e.kind in ("publish", "message")]
        if len(moves) > ARROWS_MAX:
            return
        for event in moves:
            if event.what.get("key") != self.key:
                yield self._arrow(event, "thin")

    def _arrow(self, event: Event, kind: str) -> str:
        """From the client to the queue or back; what comes from a queue came a moment before."""
        x, here = self.x(event.at), self.y(event.lane)
        there = self.y(str(event.what.get("to") or event.what.get("from")))
        y1, y2 = (here, there) if event.kind == "publish" else (there, here)
        head = ' marker-end="url(#head)"' if kind == "thick" else ""
        return (
            f'<line class="{kind}" x1="{x:.1f}" y1="{y1}" x2="{x:.1f}" y2="{y2}"{head}>'
            f"<title>{escape(event.line().strip())}</title></line>"
        )

    def _marks(self) -> Iterator[str]:
        shown = [e for e in self.events if e.lane != "fault"]
        step = -(-len(shown) // MARKS_MAX)
        for n, event in enumerate(shown):
            kind = _shape(event)
            if not kind or (step > 1 and n % step and kind not in ("bad", "log")):
                continue
            mine = " mine" if self.key and event.what.get("key") == self.key else ""
            x, y = self.x(event.at), self.y(event.lane)
            title = f"<title>{escape(event.line().strip())}</title>"
            if kind in ("publish", "acked"):
                dy = 2 if kind == "acked" else -10
                shape = f'<path class="{kind}{mine}" d="M{x:.1f},{y + dy:.1f} l4,7 h-8 z">'
                yield f"{shape}{title}</path>"
            elif kind in ("bad", "log"):
                points = f"M{x - 4:.1f},{y - 4:.1f} l8,8 M{x - 4:.1f},{y + 4:.1f} l8,-8"
                yield f'<path class="{kind}" d="{points}">{title}</path>'
            else:
                dy = 6 if kind == "message" else -6
                place = f'cx="{x:.1f}" cy="{y + dy}" r="3.5"'
                yield f'<circle class="{kind}{mine}" {place}>{title}</circle>'

    def _mine(self) -> Iterator[str]:
        """The marked message's way, with what is said of it."""
        if not self.key:
            return
        rows: dict[str, float] = {}
        for event in self.events:
            if event.what.get("key") != self.key:
                continue
            if event.kind in ("publish", "message"):
                yield self._arrow(event, "thick")
            text = {
                "publish": "published", "acked": "acked", "message": "delivered",
                "settle": str(event.what.get("how")), "settled": "", "found": "",
            }.get(event.kind, event.kind)  # fmt: skip
            if not text:
                continue
            if event.kind == "message" and "attempt" in event.what:
                text += f", attempt {event.what['attempt']}"
            x = self.x(event.at) + 6
            if x < rows.get(event.lane, 0):
                continue
            rows[event.lane] = x + LABEL_WIDTH * len(text)
            above = event.kind == "publish" or event.kind == "settle"
            y = self.y(event.lane) + (-12 if above else 19)
            yield f'<text class="thick-label" x="{x:.1f}" y="{y}">{escape(text)}</text>'

    # -- faults and violations --------------------------------------------------------------

    def _fault_events(self) -> list[Event]:
        return [event for event in self.events if event.lane == "fault"]

    def _label(self, event: Event) -> str:
        victim = event.what.get("client") or event.what.get("actor") or event.what.get("queue")
        return f"{event.kind} {victim}" if victim else event.kind

    def _label_rows(self) -> dict[int, int]:
        """A row for each label, so that none lies over another; what finds none is left out."""
        ends: list[float] = []
        rows: dict[int, int] = {}
        for i, event in enumerate(self._fault_events()):
            x = self.x(event.at)
            width = LABEL_WIDTH * len(self._label(event)) + 14
            for row, end in enumerate(ends):
                if end <= x:
                    ends[row] = x + width
                    rows[i] = row
                    break
            else:
                if len(ends) < 6:
                    rows[i] = len(ends)
                    ends.append(x + width)
        return rows

    def _faults(self) -> Iterator[str]:
        bottom = self.top + LANE * len(self.lanes)
        for i, event in enumerate(self._fault_events()):
            x = self.x(event.at)
            row = self.labels.get(i)
            y = 24 + 16 * (row or 0)
            yield self._line("fault", x, y, bottom, event.line().strip())
            if row is not None:
                label = escape(f"⚡ {self._label(event)}")
                # at the right end there is no room to the right of the line
                end = x + LABEL_WIDTH * len(label) > LEFT + PLOT + RIGHT
                anchor = f'x="{x - 3:.1f}" text-anchor="end"' if end else f'x="{x + 3:.1f}"'
                yield f'<text class="fault-label" {anchor} y="{y + 4}">{label}</text>'

    def _wrong(self) -> Iterator[str]:
        bottom = self.top + LANE * len(self.lanes)
        taken: dict[tuple[int, float], int] = {}
        for n, violation in enumerate(self.violations[:9], 1):
            x = self.x(min(violation.at, self.over))
            y = self.y(violation.lane) if violation.lane in self.lanes else self.top - 12
            place = (round(x / 18), y)
            x_flag = min(x, LEFT + PLOT) - 18 * taken.get(place, 0)
            taken[place] = taken.get(place, 0) + 1
            if n == 1:
                yield self._line("wrong", x, self.top - 12, bottom)
            yield (
                f'<circle class="flag" cx="{x_flag:.1f}" cy="{y}" r="8.5">'
                f"<title>{escape(str(violation))}</title></circle>"
                f'<text class="flag-text" x="{x_flag:.1f}" y="{y + 4}">{n}</text>'
            )


def _shape(event: Event) -> str:
    if event.lane == "broker":
        return "log" if event.kind in ("warning", "error") else ""
    if event.kind == "settle" and event.what.get("how") != "ack":
        return "back"
    return SHAPES.get(event.kind, "")


def _seconds(at: float) -> str:
    return f"{at * 1000:.1f} ms" if at < 1 else f"{at:.2f} s"
