"""What is told of a run: the run, the smallest that fails alike, and what is chief in them."""

import traceback
from typing import Any

import attrs

from msg.scenario.checker import Violation
from msg.scenario.run import Outcome
from msg.scenario.shrink import GRAVE, Shrunk
from msg.scenario.story import Line, story
from msg.scenario.writing import to_toml


@attrs.define
class Report:
    """All that is told of a run. `document`: the tables of its file."""

    outcome: Outcome
    document: dict[str, Any]
    shrunk: Shrunk | None = None
    tree: list[dict[str, Any]] = attrs.field(factory=list)

    @property
    def small(self) -> Outcome:
        """The run that is told: the shrunk one, where there is one."""
        return self.shrunk.outcome if self.shrunk is not None else self.outcome

    @property
    def scenario(self) -> str:
        head = f"seed {self.outcome.seed}: trio-msg chaos scenario.toml"
        return to_toml({**self.document, "seed": self.outcome.seed}, head)

    @property
    def shrunk_scenario(self) -> str:
        if self.shrunk is None:
            return ""
        head = (
            "The smallest scenario found that fails in the same way.\n"
            "Replay it, and see the report of it: trio-msg chaos shrunk.toml --report DIR"
        )
        return to_toml(self.shrunk.document, head)

    @property
    def told(self) -> list[Line]:
        found = chief(self.small)
        return story(self.small.events, found) if found is not None else []


def chief(outcome: Outcome) -> Violation | None:
    """The violation that is told of: the gravest, the first of its kind."""
    order = {kind: n for n, kind in enumerate(GRAVE)}
    ranked = sorted(outcome.violations, key=lambda v: order.get(v.kind, len(order)))
    return ranked[0] if ranked else None


def by_rank(outcome: Outcome) -> list[Violation]:
    """All of them, the chief first: in this order they are numbered."""
    first = chief(outcome)
    return sorted(outcome.violations, key=lambda violation: violation is not first)


def errors_of(outcome: Outcome) -> dict[str, int]:
    """The broker's own errors as tracebacks, and how often there was each."""
    counts: dict[str, int] = {}
    for error in outcome.errors:
        text = "".join(traceback.format_exception(error)).rstrip()
        counts[text] = counts.get(text, 0) + 1
    return counts
