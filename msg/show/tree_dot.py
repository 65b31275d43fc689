"""The actor tree for Graphviz: grey lines for who runs under whom, red for who waits on whom."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from msg.core.units import seconds
from msg.show.tree_text import SHOWN_S, facts_text, mailbox_text

COLOURS = {"failed": "#e5484d", "stuck": "#e5484d", "waiting": "#f5a623", "paused": "#f5a623",
           "starting": "#8b8d98", "folded": "#8b8d98"}  # fmt: skip


def tree_dot(actors: Sequence[Mapping[str, Any]], waits: Sequence[Mapping[str, Any]]) -> str:
    """A digraph, as `dot -Tsvg` takes it."""
    known = {actor["name"] for actor in actors}
    lines = [
        "digraph broker {",
        '  rankdir=LR; node [shape=box style=rounded fontname="sans-serif" fontsize=10];',
        '  edge [fontname="sans-serif" fontsize=9];',
    ]
    for actor in actors:
        label = [str(actor["name"])]
        if actor.get("mailbox"):
            label.append(f"mailbox {mailbox_text(actor)}")
        facts = facts_text({**actor, "waits_on": ()})
        if facts:
            label.append(facts)
        colour = COLOURS.get(str(actor.get("state")), "#30a46c")
        lines.append(f"  {_quoted(actor['name'])} [label={_label(label)} color={_quoted(colour)}];")
    for actor in actors:
        if actor.get("parent") in known:
            ends = f"{_quoted(actor['parent'])} -> {_quoted(actor['name'])}"
            lines.append(f'  {ends} [color="#b0b4ba" arrowhead=none];')
    for wait in waits:
        if wait["since_s"] < SHOWN_S or wait["from"] not in known:
            continue
        if wait["to"] not in known:
            known.add(wait["to"])
            lines.append(f"  {_quoted(wait['to'])} [style=dashed];")
        label = [wait["what"], seconds(wait["since_s"])]
        lines.append(
            f"  {_quoted(wait['from'])} -> {_quoted(wait['to'])}"
            f' [color="#e5484d" penwidth=2 constraint=false label={_label(label)}];'
        )
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _label(lines: Sequence[str]) -> str:
    """Lines of a label: each escaped, `\\n` between them."""
    return '"' + "\\n".join(_quoted(line)[1:-1] for line in lines) + '"'
