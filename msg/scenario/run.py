"""Running a scenario: one seed on one engine, and what came of it."""

from typing import Any

import attrs
import trio

from msg.scenario.checker import Violation, judge
from msg.scenario.engine_process import process_engine
from msg.scenario.engine_sim import SimEngine, Watch
from msg.scenario.journal import Event, Journal
from msg.scenario.model import Scenario
from msg.scenario.onlooker import Onlooker
from msg.scenario.play import Play
from msg.scenario.volume import CannotHurt
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


def run_sim(
    scenario: Scenario, seed: int | None = None, *, look_at: float | None = None
) -> Outcome:
    """Run on the simulated engine. `look_at`: the moment of which the tree is wanted, in
    seconds since the beginning; without it, the end."""
    chosen = scenario.seed if seed is None else seed
    watch = Watch()
    onlooker = Onlooker(look_at)

    async def main(world: SimWorld) -> Outcome:
        begun = world.now()
        journal = Journal(lambda: trio.current_time() - begun)
        async with trio.open_nursery() as nursery:
            engine = SimEngine(scenario, world, journal, nursery, watch)
            play = Play(scenario, chosen, engine, journal)

            def spins() -> None:
                journal.note("check", "spins")
                onlooker.tree = engine.tree()
                nursery.cancel_scope.cancel("it spins")

            onlooker.clock, onlooker.look, onlooker.on_spin = journal.clock, engine.tree, spins
            await play.run()
            nursery.cancel_scope.cancel("the play is over")
        violations = judge(scenario, journal.events, engine.problems())
        return Outcome(
            scenario, "sim", chosen, journal.hash, journal.events, violations,
            onlooker.tree or watch.tree or play.tree, engine.logger.errors, watch.checks,
        )  # fmt: skip

    return run_simulated(main, chosen, instruments=[watch, onlooker])


LEISURE = 5.0
RUN_S = 300.0  # a real broker may leave an answer out; in simulated time nobody waits so long


def with_leisure(scenario: Scenario) -> Scenario:
    """The same with longer times, where it says how much may pass at most."""

    def longer(of: Any, *names: str) -> Any:
        known = {name: getattr(of, name) for name in names}
        return attrs.evolve(of, **{n: v * LEISURE for n, v in known.items() if v is not None})

    clients = [
        attrs.evolve(
            client,
            consume=tuple(longer(role, "latency_at_most") for role in client.consume),
            subscribe=tuple(longer(role, "latency_at_most") for role in client.subscribe),
        )
        for client in scenario.client
    ]
    expect = longer(scenario.expect, "drained_within", "ready_within")
    return attrs.evolve(scenario, client=tuple(clients), expect=expect)


def run_process(scenario: Scenario, seed: int | None = None) -> Outcome:
    """Run on the process engine: real processes, sockets and files, in real time.

    Raises CannotHurt when this machine does not let us do what the scenario asks for. A seed
    decides what goes wrong and when, but no two runs are the same. Times that may pass at most
    are five times those of the file: the machine has more to do than this.
    """
    chosen = scenario.seed if seed is None else seed
    if "process" in scenario.not_on:
        raise CannotHurt(scenario.not_on["process"])
    told = with_leisure(scenario)

    async def main() -> Outcome:
        begun = trio.current_time()
        journal = Journal(lambda: trio.current_time() - begun)
        async with process_engine(scenario, chosen, journal) as engine:
            play = Play(told, chosen, engine, journal)
            with trio.move_on_after(RUN_S) as scope:
                await play.run()
            if scope.cancelled_caught:
                journal.note("play", "not swept")
            violations = judge(told, journal.events, engine.problems())
            if scope.cancelled_caught:
                text = f"the run was not over after {RUN_S:g} s: somebody waits for ever"
                violations.append(Violation("hung", text, journal.clock()))
            return Outcome(
                scenario, "process", chosen, journal.hash, journal.events, violations,
                play.tree, engine.errors,
            )  # fmt: skip

    return trio.run(main)
