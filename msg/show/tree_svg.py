"""The actor tree as a picture: an indented tree of boxes, arcs for who waits on whom.

One row an actor, so that thirty are as readable as three. All that comes from outside is
escaped; there is no script in it. `alone` brings colours along, for a file; on the web page
the page's own style sheet has them (its CSP allows no other).
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from msg.core.units import seconds
from msg.show.tree_text import SHOWN_S, facts_text, mailbox_text, tree_lines

ROW, BOX, HEIGHT, INDENT, WIDTH, MARGIN = 40, 250, 32, 30, 620, 12
NAME_MAX, FACTS_MAX = 32, 62
BAR = 46

STYLE = """
.tree-svg { background: #fff; font: 12px system-ui, sans-serif; }
.tree-svg .box { fill: #f8f9fa; stroke: #8b8d98; }
.tree-svg .name { fill: #1c2024; font-weight: 600; } .tree-svg .facts { fill: #60646c; }
.tree-svg .link { stroke: #cdced6; fill: none; }
.tree-svg .bar { fill: #e0e1e6; } .tree-svg .fill { fill: #3e63dd; }
.tree-svg .full { fill: #e5484d; }
.tree-svg .s-running .dot { fill: #30a46c; } .tree-svg .dot { fill: #8b8d98; }
.tree-svg .s-waiting .dot, .tree-svg .s-paused .dot { fill: #f5a623; }
.tree-svg .s-failed .dot, .tree-svg .s-stuck .dot { fill: #e5484d; }
.tree-svg .s-failed .box, .tree-svg .s-stuck .box { stroke: #e5484d; stroke-width: 2; }
.tree-svg .wait { stroke: #e5484d; stroke-width: 2; fill: none; }
.tree-svg .wait-text, .tree-svg .knot { fill: #ce2c31; } .tree-svg .arrow { fill: #e5484d; }
@media (prefers-color-scheme: dark) {
.tree-svg { background: #18191b; }
.tree-svg .box { fill: #212225; } .tree-svg .name { fill: #edeef0; }
.tree-svg .facts { fill: #b0b4ba; } .tree-svg .link { stroke: #43484e; }
.tree-svg .bar { fill: #363a3f; } .tree-svg .wait-text, .tree-svg .knot { fill: #ff9592; }
}
"""

Actor = Mapping[str, Any]


def tree_svg(
    actors: Sequence[Actor],
    waits: Sequence[Mapping[str, Any]],
    knots: Sequence[str] = (),
    *,
    alone: bool = True,
) -> str:
    """The picture as one `<svg>` element."""
    rows = [(_depth(name), actor) for name, actor in tree_lines(actors)]
    places = {actor["name"]: (MARGIN + depth * INDENT, MARGIN + i * ROW)
              for i, (depth, actor) in enumerate(rows)}  # fmt: skip
    outside: list[str] = []
    long = [wait for wait in waits if wait["since_s"] >= SHOWN_S and wait["from"] in places]
    for wait in long:  # the disk, a client: waited for, and no actor
        if wait["to"] not in places:
            places[wait["to"]] = (MARGIN + INDENT, MARGIN + (len(rows) + len(outside)) * ROW)
            outside.append(wait["to"])
    below = MARGIN + (len(rows) + len(outside)) * ROW
    height = below + 18 * len(knots) + MARGIN
    deepest = max([depth for depth, _ in rows], default=0)
    width = WIDTH + deepest * INDENT + 140
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tree-svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img" aria-label="the actor tree">'
    ]
    if alone:
        parts.append(f"<style>{STYLE}</style>")
    parts.append(
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path class="arrow" d="M0,0 L8,4 L0,8 z"/></marker></defs>'
    )
    for _, actor in rows:
        if actor.get("parent") in places and actor["parent"] != actor["name"]:
            parts.append(_link(places[actor["parent"]], places[actor["name"]]))
    parts += [_box(places[actor["name"]], actor) for _, actor in rows]
    parts += [_box(places[name], {"name": name, "state": "outside"}) for name in outside]
    parts += [_arc(places, wait, i) for i, wait in enumerate(long)]
    for i, knot in enumerate(knots):
        parts.append(f'<text class="knot" x="{MARGIN}" y="{below + 16 + 18 * i}">{_e(knot)}</text>')
    return "".join([*parts, "</svg>"])


def _depth(name: str) -> int:
    """How deep `tree_lines` has indented it: two characters a level."""
    return (len(name) - len(name.lstrip("│├└ "))) // 2


def _e(text: object) -> str:
    return escape("".join(c if c.isprintable() else "\ufffd" for c in str(text)))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _link(parent: tuple[int, int], child: tuple[int, int]) -> str:
    x, y = parent[0] + 14, parent[1] + HEIGHT
    return f'<path class="link" d="M{x},{y} V{child[1] + HEIGHT // 2} H{child[0]}"/>'


def _box(place: tuple[int, int], actor: Actor) -> str:
    x, y = place
    name, state = str(actor["name"]), str(actor.get("state", ""))
    facts = facts_text({**actor, "waits_on": ()})
    title = " · ".join([part for part in (name, state, facts) if part])
    parts = [
        f'<g class="actor k-{_e(actor.get("kind", "outside"))} s-{_e(state)}"'
        f' data-name="{_e(name)}">'
        f"<title>{_e(title)}</title>"
        f'<rect class="box" x="{x}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="6"/>'
        f'<circle class="dot" cx="{x + 13}" cy="{y + HEIGHT // 2}" r="4"/>'
        f'<text class="name" x="{x + 24}" y="{y + 20}">{_e(_cut(name, NAME_MAX))}</text>'
    ]
    if actor.get("mailbox") and "room" in actor["mailbox"]:
        parts.append(_mailbox(x + BOX - BAR - 8, y + 12, actor))
    if facts:
        text = _e(_cut(facts, FACTS_MAX))
        parts.append(f'<text class="facts" x="{x + BOX + 10}" y="{y + 20}">{text}</text>')
    return "".join([*parts, "</g>"])


def _mailbox(x: int, y: int, actor: Actor) -> str:
    """How full the mailbox is: puts that were not given back, or what was not yet taken."""
    box = actor["mailbox"]
    taken = max(box.get("depth", 0), box["room"] - box.get("free", box["room"]))
    share = min(1.0, taken / max(1, box["room"]))
    kind = "full" if share >= 1 else "fill"
    return (
        f"<g><title>mailbox {_e(mailbox_text(actor))}</title>"
        f'<rect class="bar" x="{x}" y="{y}" width="{BAR}" height="8" rx="4"/>'
        f'<rect class="{kind}" x="{x}" y="{y}" width="{BAR * share:.0f}" height="8" rx="4"/></g>'
    )


def _arc(places: Mapping[str, tuple[int, int]], wait: Mapping[str, Any], i: int) -> str:
    """From the left end of one box around to that of another, further out for each wait."""
    (x1, y1), (x2, y2) = places[wait["from"]], places[wait["to"]]
    y1, y2 = y1 + HEIGHT // 2, y2 + HEIGHT // 2
    x1, x2 = x1 + BOX, x2 + BOX
    out = max(x1, x2) + 60 + 14 * (i % 5)
    text = f"{wait['what']}, {seconds(wait['since_s'])}"
    return (
        f'<path class="wait" d="M{x1},{y1} C{out},{y1} {out},{y2} {x2},{y2}"'
        f' marker-end="url(#arrow)"><title>{_e(wait["from"])} waits on {_e(wait["to"])}'
        f" for {_e(text)}</title></path>"
        f'<text class="wait-text" x="{(max(x1, x2) + out) // 2 + 4}" y="{(y1 + y2) // 2}">'
        f"{_e(text)}</text>"
    )
