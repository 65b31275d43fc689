"""Scenario files as tests: each one is run on the simulated engine, by its own seed.

A failing one says what did not hold, and the command that replays it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.pathlib import bestrelpath

from msg.scenario.reading import ScenarioError, read_scenario
from msg.scenario.run import run_sim


class Broken(Exception):
    """What a scenario expects did not hold."""


class ScenarioFile(pytest.File):
    """A `*.toml` that holds one scenario."""

    def collect(self) -> Iterator[pytest.Item]:
        yield ScenarioItem.from_parent(self, name=self.path.stem)


class ScenarioItem(pytest.Item):
    """One run of a scenario on the simulated engine."""

    obj = None  # no function: pytest-trio looks at every item's

    def runtest(self) -> None:
        scenario = read_scenario(self.path)
        if "sim" in scenario.not_on:
            pytest.skip(scenario.not_on["sim"])
        outcome = run_sim(scenario)
        if not outcome.holds:
            raise Broken("\n".join(str(violation) for violation in outcome.violations))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *_: Any) -> str:
        if isinstance(excinfo.value, ScenarioError):
            return str(excinfo.value)
        if isinstance(excinfo.value, Broken):
            shown = self._shown()
            return f"{excinfo.value}\n\nreplay and report: trio-msg chaos {shown} --report DIR"
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"scenario {self.path.stem}"

    def _shown(self) -> str:
        return bestrelpath(self.config.invocation_params.dir, self.path)
