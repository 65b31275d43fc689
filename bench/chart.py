"""The README's picture: trio-msg beside its peers, one panel for each workload.

    python bench/chart.py RUNS.jsonl [RUNS.jsonl …] bench/chart.svg

RUNS.jsonl is what `bench/peers/run.py --json` wrote. A bar is the median of a peer's runs. Of
throughput it shows what a message costs the broker in CPU time, all its processes together:
that is what one core's worth of messages is made of, and unlike a rate it can be compared when
the machine had other things to do.
"""

import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

PANELS = {  # workload -> title, unit
    "W1": ("Topic, 1 to 1", "CPU µs each (less is better)"),
    "W2": ("Topic, 1 to 50", "CPU µs each (less is better)"),
    "W3": ("Queue in memory, each acked", "CPU µs each (less is better)"),
    "W4": ("Queue, acked when on disk", "CPU µs each (less is better)"),
    "W5": ("Ping-pong through a topic, p50", "µs (less is better)"),
    "W5Q": ("Ping-pong through a queue, p50", "µs (less is better)"),
    "W6": ("An idle subscribed connection", "KiB (less is better)"),
    "W6B": ("A queued message in memory", "bytes (less is better)"),
}
COSTS = ("W1", "W2", "W3", "W4")  # CPU seconds per 100,000 -> microseconds each
COLUMNS, PANEL_W, BAR_H, LABEL_W, GAP = 2, 430, 18, 112, 14
OURS, THEIRS, INK, PALE = "#0b7285", "#adb5bd", "#212529", "#868e96"

Medians = dict[str, dict[str, float]]  # workload -> peer -> value


def medians(paths: Iterable[Path]) -> Medians:
    values: dict[str, dict[str, list[float]]] = {}
    for path in paths:
        for line in path.read_text().splitlines():
            run = json.loads(line)
            if "value" in run:
                workload = run["workload"]
                value = run["cpu100k"] * 10 if workload in COSTS else run["value"]
                values.setdefault(workload, {}).setdefault(run["peer"], []).append(value)
    return {w: {p: statistics.median(v) for p, v in peers.items()} for w, peers in values.items()}


def text(x: float, y: float, words: str, *, size: int = 12, fill: str = INK, more: str = "") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" {more}>{escape(words)}</text>'
    )


def panel(x: float, y: float, workload: str, peers: dict[str, float]) -> list[str]:
    title, unit = PANELS[workload]
    out = [
        text(x, y + 14, title, size=14, more='font-weight="600"'),
        text(x + PANEL_W, y + 14, unit, size=11, fill=PALE, more='text-anchor="end"'),
    ]
    most = max(peers.values())
    room = PANEL_W - LABEL_W - 78
    for i, (peer, value) in enumerate(sorted(peers.items(), key=lambda p: -p[1])):
        top = y + 24 + i * (BAR_H + 4)
        ours = peer == "trio-msg"
        width = max(2.0, room * value / most)
        weight = 'font-weight="600"' if ours else ""
        middle = top + BAR_H - 5
        out += [
            text(x + LABEL_W - 8, middle, peer, more=f'text-anchor="end" {weight}'),
            f'<rect x="{x + LABEL_W}" y="{top}" width="{width:.1f}" height="{BAR_H}" rx="2"'
            f' fill="{OURS if ours else THEIRS}"/>',
            text(x + LABEL_W + width + 6, middle, shown(value), more=weight),
        ]
    return out


def shown(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.2f} M"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def svg(found: Medians) -> str:
    workloads = [w for w in PANELS if found.get(w)]
    parts: list[str] = []
    top = 16.0
    for start in range(0, len(workloads), COLUMNS):
        row = workloads[start : start + COLUMNS]
        for column, workload in enumerate(row):
            x = 16 + column * (PANEL_W + 2 * GAP)
            parts += panel(x, top, workload, found[workload])
        top += 24 + max(len(found[w]) for w in row) * (BAR_H + 4) + 2 * GAP
    width = 32 + COLUMNS * PANEL_W + (COLUMNS - 1) * 2 * GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top:g}"'
            f' viewBox="0 0 {width} {top:g}" font-family="system-ui, sans-serif">',
            f'<rect width="{width}" height="{top:g}" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def main() -> None:
    *runs, out = map(Path, sys.argv[1:])
    out.write_text(svg(medians(runs)))


if __name__ == "__main__":
    main()
