"""The spread of latencies as a picture, the way HDR histograms are drawn: percentiles to the
right, each nine as wide as the one before, microseconds upwards, both logarithmic."""

from collections.abc import Sequence
from html import escape
from math import log10

from msg.bench.spread import Spread

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 64, 56
NINES_MAX = 5.0  # 99.999 %
TICKS = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
STYLE = """
svg { font: 13px system-ui, sans-serif; background: #fff; color: #1c2733; }
text { fill: currentColor; }
.title { font-size: 16px; font-weight: 600; }
.quiet { fill: #66727f; }
.grid { stroke: #dde3e9; }
.line { fill: none; stroke-width: 2.5; stroke-linejoin: round; }
.c0 { stroke: #0b6bcb; fill: #0b6bcb; } .c1 { stroke: #c4501b; fill: #c4501b; }
.line.c0, .line.c1 { fill: none; }
text.c0, text.c1 { stroke: none; }
@media (prefers-color-scheme: dark) {
  svg { background: #14191f; color: #e6ebf0; }
  .grid { stroke: #2b343d; } .quiet { fill: #95a1ad; }
  .c0 { stroke: #5aa9f5; fill: #5aa9f5; } .c1 { stroke: #f08a5b; fill: #f08a5b; }
}
"""


def nines(percent: float) -> float:
    """0 for 0 %, 1 for 90 %, 2 for 99 %, … at most `NINES_MAX`."""
    left = 1 - percent / 100
    return NINES_MAX if left <= 10**-NINES_MAX else -log10(left)


def show_us(microseconds: float) -> str:
    """`85 us`, `1.2 ms`, `3.4 s`."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if microseconds >= size:
            return f"{microseconds / size:.3g} {unit}"
    return f"{microseconds:.3g} us"


def picture(title: str, about: str, curves: Sequence[tuple[str, Spread]]) -> str:
    """An SVG of one curve or two; empty spreads are left out."""
    drawn = [(name, spread.curve()) for name, spread in curves if spread.counts]
    values = [us for _, curve in drawn for _, us in curve] or [1]
    low = 10 ** int(log10(max(1, min(values))))
    high = 10 ** (int(log10(max(1, max(values)))) + 1)

    def x(percent: float) -> float:
        return LEFT + nines(percent) / NINES_MAX * (WIDTH - LEFT - RIGHT)

    def y(us: float) -> float:
        share = log10(max(us, low) / low) / log10(high / low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="26">{escape(title)}</text>',
        f'<text class="quiet" x="{LEFT}" y="46">{escape(about)}</text>',
    ]
    for tick in TICKS:
        parts.append(
            f'<path class="grid" d="M{x(tick):.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
            f'<text class="quiet" text-anchor="middle" x="{x(tick):.1f}"'
            f' y="{HEIGHT - BOTTOM + 20}">{tick:g}</text>'
        )
    tick_us = low
    while tick_us <= high:
        parts.append(
            f'<path class="grid" d="M{LEFT} {y(tick_us):.1f}H{WIDTH - RIGHT}"/>'
            f'<text class="quiet" text-anchor="end" x="{LEFT - 8}" y="{y(tick_us) + 4:.1f}">'
            f"{show_us(tick_us)}</text>"
        )
        tick_us *= 10
    parts.append(
        f'<text class="quiet" text-anchor="middle" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}"'
        f' y="{HEIGHT - 14}">percent of the messages that were at least so fast</text>'
    )
    for number, (name, curve) in enumerate(drawn):
        points = [(x(0.0), y(curve[0][1])), *[(x(p), y(us)) for p, us in curve]]
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
        colour = f"c{number % 2}"
        parts.append(f'<path class="line {colour}" d="M{path}"/>')
        parts.append(
            f'<text class="{colour}" text-anchor="end" x="{WIDTH - RIGHT}"'
            f' y="{26 + 20 * number}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])
