"""Knots: what is wrong with who waits on whom. A cycle waits for ever; a chain that is longer
than the architecture's own (connection, topic, queue, store, disk) says that an arrow was
drawn which should not be. Plain functions over the rows of a dump.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SHOWN_S = 0.1  # shorter waits are a busy moment and no knot
CHAIN_MAX = 4  # waits in a row: connection -> topic -> queue -> store -> disk

Edge = dict[str, Any]  # from, to, what, since_s


def edges_of(rows: Iterable[Mapping[str, Any]]) -> list[Edge]:
    """Who waits on whom, the longest wait first."""
    edges = [
        {"from": row["name"], "to": wait["on"], "what": wait["what"], "since_s": wait["since_s"]}
        for row in rows
        for wait in row.get("waits_on", ())
    ]
    edges.sort(key=lambda edge: -edge["since_s"])
    return edges


def knots_of(edges: Iterable[Edge]) -> list[str]:
    """A sentence for each cycle, and one for the longest chain if it is too long."""
    ahead: dict[str, list[str]] = {}
    for edge in edges:
        if edge["since_s"] >= SHOWN_S and edge["to"] not in ahead.setdefault(edge["from"], []):
            ahead[edge["from"]].append(edge["to"])
    cycles = _cycles(ahead)
    notes = [f"cycle, these wait for each other: {' -> '.join([*c, c[0]])}" for c in cycles]
    chain = _longest(ahead, {name for cycle in cycles for name in cycle})
    if len(chain) - 1 > CHAIN_MAX:
        notes.append(
            f"chain of {len(chain) - 1} waits, longer than the {CHAIN_MAX} that can be:"
            f" {' -> '.join(chain)}"
        )
    return notes


def _cycles(ahead: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Each cycle that a walk from every actor meets, once."""
    done: dict[str, bool] = {}
    found: list[list[str]] = []
    for start in ahead:
        path: dict[str, None] = {}
        stack = [(start, 0)]
        while stack:
            name, i = stack.pop()
            if i == 0:
                if name in path:
                    names = list(path)
                    found.append(names[names.index(name) :])
                    continue
                if name in done:
                    continue
                path[name] = None
            targets = ahead.get(name, ())
            if i < len(targets):
                stack.append((name, i + 1))
                stack.append((targets[i], 0))
            else:
                done[name] = True
                path.pop(name, None)
    return found


def _longest(ahead: Mapping[str, Sequence[str]], knotted: set[str]) -> list[str]:
    """The longest chain of waits that no cycle is part of."""
    best: dict[str, list[str]] = {}
    free = [name for name in ahead if name not in knotted]
    return max([_chain(name, ahead, knotted, best) for name in free], key=len, default=[])


def _chain(
    name: str, ahead: Mapping[str, Sequence[str]], knotted: set[str], best: dict[str, list[str]]
) -> list[str]:
    """The longest from here. `best`: those that are known."""
    if name not in best:
        best[name] = [name]  # also what ends a recursion that should not be
        free = [target for target in ahead.get(name, ()) if target not in knotted]
        tails = [_chain(target, ahead, knotted, best) for target in free]
        best[name] = [name, *max(tails, key=len, default=[])]
    return best[name]
