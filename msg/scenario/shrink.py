"""Shrinking: from a scenario that fails to the smallest found that fails in the same way.

It works on the tables of the file, so that what comes out is a file. Each step leaves out or
lessens one thing and runs what remains; what still fails is kept. No chance and no clock: the
same failure always shrinks to the same scenario.
"""

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import attrs

from msg.config import parse_seconds
from msg.scenario.checker import Violation
from msg.scenario.reading import ScenarioError, parse_document
from msg.scenario.run import Outcome, run_sim

Document = dict[str, Any]
ROLES = ("publish", "consume", "subscribe", "request", "respond", "say")
NUMBERS = ("number", "count", "connections", "times", "window", "body_bytes")
KEEPS = ("name", "client", "queue", "topic", "group", "actor", "at", "frame", *ROLES)
MAX_EVENTS = 150_000  # of all runs together: half a minute or so
BESIDE = ("restarts_at_least", "duplicates_at_most", "attempts_at_most",
          "processed_twice_at_most", "memory_at_most", "ready_within")  # fmt: skip
# how the graver ones are called: what they say of itself names messages, which change
GRAVE = ("lost", "phantom", "two holders", "undurable", "duplicate", "attempts", "disorder",
         "early", "books", "crash", "memory", "late", "not drained")  # fmt: skip


@attrs.define
class Shrunk:
    """What came of it."""

    document: Document
    outcome: Outcome  # of the last run that failed
    runs: int = 0
    events: int = 0


def shrink(
    document: Document,
    outcome: Outcome,
    *,
    max_events: int = MAX_EVENTS,
    tell: Callable[[Shrunk], None] = lambda _: None,
) -> Shrunk:
    """The smallest found. `outcome` is the failure of `document`, whose seed it fixes."""
    shown = sign(outcome)
    best = Shrunk({**document, "seed": outcome.seed}, outcome)
    changed = True
    while changed and best.events < max_events:
        changed = False
        for step in _STEPS:
            place = 0
            while best.events < max_events:
                candidates = list(step(best.document))
                if place >= len(candidates):
                    break
                if _fails_alike(candidates[place], shown, best):
                    changed = True
                    tell(best)
                else:
                    place += 1
    return best


def sign(outcome: Outcome) -> str:
    """What is wrong in a failure, without what changes from run to run."""
    kinds = {violation.kind: violation for violation in reversed(outcome.violations)}
    for kind in GRAVE:
        if kind in kinds:
            return kind
    return _said(outcome.violations[0])


def _said(violation: Violation) -> str:
    return re.sub(r"\S*\d\S*", "#", str(violation))


def _fails_alike(candidate: Document, shown: str, best: Shrunk) -> bool:
    try:
        scenario = parse_document(candidate, best.outcome.scenario.path)
    except ScenarioError:
        return False  # a fault without its client, a client without a place
    outcome = run_sim(scenario)
    best.runs += 1
    best.events += len(outcome.events)
    kinds = {violation.kind for violation in outcome.violations}
    if shown not in kinds and shown not in map(_said, outcome.violations):
        return False
    best.document, best.outcome = candidate, outcome
    return True


# -- steps: each gives all documents that are one thing less ------------------------------------


def _without(kind: str) -> Callable[[Document], Iterator[Document]]:
    def step(document: Document) -> Iterator[Document]:
        rows = document.get(kind, [])
        for i in reversed(range(len(rows))):
            yield {**document, kind: rows[:i] + rows[i + 1 :]}

    return step


def _roles(document: Document) -> Iterator[Document]:
    for i, client in enumerate(document.get("client", [])):
        present = [role for role in ROLES if role in client]
        for role in present:
            rows = client[role] if isinstance(client[role], list) else [client[role]]
            for j in reversed(range(len(rows))):
                less = deepcopy(document)
                rest = rows[:j] + rows[j + 1 :]
                if rest:
                    less["client"][i][role] = rest
                elif len(present) > 1:
                    del less["client"][i][role]
                else:
                    continue
                yield less


def _tables(document: Document) -> Iterator[tuple[str | int, ...]]:
    """The paths of all tables of clients and faults."""

    def walk(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
        if isinstance(value, dict):
            yield path
            for key, inner in value.items():
                yield from walk(inner, (*path, key))
        elif isinstance(value, list):
            for i, inner in enumerate(value):
                yield from walk(inner, (*path, i))

    for kind in ("client", "fault"):
        yield from walk(document.get(kind, []), (kind,))


def _at(document: Document, path: tuple[str | int, ...]) -> Any:
    value: Any = document
    for part in path:
        value = value[part]
    return value


def _fewer(document: Document) -> Iterator[Document]:
    for path in _tables(document):
        table = _at(document, path)
        for key in NUMBERS:
            if key not in table:
                continue
            most = table[key]
            high = most[-1] if isinstance(most, list) else most
            if not isinstance(high, int) or "frame" in path:
                continue
            choices = sorted({1, high // 8, high // 4, high // 2, high * 3 // 4, high * 7 // 8})
            for number in choices:
                if 0 < number < high or (number == high and isinstance(most, list)):
                    less = deepcopy(document)
                    _at(less, path)[key] = number
                    yield less


def _plainer(document: Document) -> Iterator[Document]:
    """Without a key that has a default: delays, odds, sizes, the second of two times."""
    for path in _tables(document):
        table = _at(document, path)
        if "frame" in path:
            continue
        for key, value in table.items():
            less = deepcopy(document)
            if _may_go(path, key, value):
                del _at(less, path)[key]
                yield less
            elif key == "at" and isinstance(value, list):
                _at(less, path)[key] = value[0]
                yield less
    for key in ("lasts", "network", "disk", "broker"):
        if key in document:
            yield {name: value for name, value in document.items() if name != key}


def _expecting_less(document: Document) -> Iterator[Document]:
    """What a smaller story can no longer keep, and would be blamed for beside."""
    expect = document.get("expect", {})
    for key in BESIDE:
        if key in expect:
            rest = {name: value for name, value in expect.items() if name != key}
            yield {**document, "expect": rest}
    if "errors" in expect:
        rest = {name: value for name, value in expect.items() if name != "errors"}
        codes = [
            code for key in ("errors", "errors_allowed") if key in expect
            for code in (expect[key] if isinstance(expect[key], list) else [expect[key]])
        ]  # fmt: skip
        yield {**document, "expect": {**rest, "errors_allowed": codes}}


def _may_go(path: tuple[str | int, ...], key: str, value: Any) -> bool:
    if key in NUMBERS:
        return key != "window" and value == 1  # what it is anyway
    is_fault = path[0] == "fault" and len(path) == 2 and key != "every"
    return key not in KEEPS and not is_fault


def _earlier(document: Document) -> Iterator[Document]:
    """Faults sooner: less happens before them."""
    for i, fault in enumerate(document.get("fault", [])):
        at = fault.get("at")
        if not isinstance(at, str):
            continue
        for part in (0.25, 0.5, 0.75):
            ms = int(parse_seconds(at) * part * 1000)
            if ms > 0:
                less = deepcopy(document)
                less["fault"][i]["at"] = f"{ms}ms"
                yield less


_STEPS: tuple[Callable[[Document], Iterator[Document]], ...] = (
    _without("fault"), _without("client"), _roles, _fewer, _plainer, _earlier,
    _expecting_less,
)  # fmt: skip
