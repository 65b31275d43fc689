"""Running a scenario: one seed on one engine, and what came of it."""

from typing import Any

import attrs
import trio

from msg.scenario.checker import Violation, judge
from msg.scenario.engine_sim import SimEngine, Watch
from msg.scenario.journal import Event, Journal
from msg.scenario.model import Scenario
from msg.scenario.play import Play
from msg.scenario.world import SimWorld, run_simulated


@attrs.define
class Outcome:
    """One run."""

    scenario: Scenario
    engine: str
    seed: int
    hash: str
    events: list[Event]
    violations: list[Violation]
    tree: list[dict[str, Any]]
    errors: list[BaseException] = attrs.field(factory=list)  # the broker's own, with tracebacks
    checks: int = 0  # of the books

    @property
    def holds(self) -> bool:
        return not self.violations


def run_sim(scenario: Scenario, seed: int | None = None) -> Outcome:
    """Run on the simulated engine."""
    chosen = scenario.seed if seed is None else seed
    watch = Watch()

    async def main(world: SimWorld) -> Outcome:
        begun = world.now()
        journal = Journal(lambda: trio.current_time() - begun)
        async with trio.open_nursery() as nursery:
            engine = SimEngine(scenario, world, journal, nursery, watch)
            play = Play(scenario, chosen, engine, journal)
            await play.run()
            nursery.cancel_scope.cancel("the play is over")
        violations = judge(scenario, journal.events, engine.problems())
        return Outcome(
            scenario, "sim", chosen, journal.hash, journal.events, violations,
            watch.tree or play.tree, engine.logger.errors, watch.checks,
        )  # fmt: skip

    return run_simulated(main, chosen, instruments=[watch])
