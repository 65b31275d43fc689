"""`chaos`: replay fault scenarios on a simulated or a real broker, and record new ones."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from msg.cli.common import (
    URL,
    AsJson,
    Failed,
    Url,
    UsageError,
    command,
    on_terminal,
    print_json,
    show_table,
    write_line,
)
from msg.daemon import exits

if TYPE_CHECKING:
    from msg.cli.chaos_runs import Result
    from msg.scenario.model import Scenario
    from msg.scenario.shrink import Shrunk

FOLDER = "scenarios"
REPORTS = "chaos-report"
COLUMNS = ("scenario", "result", "seed", "events", "lasted", "took")
COLOURS = {"holds": "green", "FAILS": "bold red"}
FEW = 3  # so many runs are done before another process has begun
SHOWN = 5  # violations of a failure; the report has all


class Engine(StrEnum):
    """What `--engine` takes."""

    SIM = "sim"
    PROCESS = "process"


class Bodies(StrEnum):
    """What `--bodies` takes."""

    HASH = "hash"
    CUT = "cut"
    KEEP = "keep"


Paths = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[PATHS]", help="Scenario files, or folders of them (scenarios/)."),
]


def register(app: typer.Typer) -> None:
    app.command()(chaos)


@command
def chaos(
    paths: Paths = None,
    engine: Annotated[
        Engine, typer.Option(help="sim: the broker's actors on a virtual clock, network and disk."
                             " process: a real broker, really killed.")
    ] = Engine.SIM,
    seed: Annotated[int | None, typer.Option(help="Instead of the file's own seed.")] = None,
    seeds: Annotated[
        int, typer.Option(min=1, metavar="N", help="Run N seeds, one after the other from"
                          " --seed on; stop at the first failure.")
    ] = 1,
    shrink: Annotated[
        bool, typer.Option("--shrink/--no-shrink", help="Look for the smallest scenario that"
                           " fails in the same way (simulated only).")
    ] = True,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A report of each run, also of one that"
                                  f" holds. Without it: of what fails, in {REPORTS}/.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Processes side by side."
                                 " Simulated: one for each core.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead of running anything: stand"
                                  " before a real broker, and write what its clients say as a"
                                  " scenario that replays it.")
    ] = None,
    bodies: Annotated[
        Bodies, typer.Option(help="What is recorded of message bodies.")
    ] = Bodies.HASH,
    listen: Annotated[
        str, typer.Option(metavar="[HOST:]PORT", help="Where to record; 0 picks a free port.")
    ] = "0",
    seconds: Annotated[
        float | None, typer.Option("--for", min=0, metavar="SECONDS", help="Record so long,"
                                   " not until Ctrl-C.")
    ] = None,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Replay fault scenarios: clients, load, faults at times, and what must hold.

    On the simulated engine a seed is a run, event for event. What does not hold leaves a
    report (a picture, the tree of actors, the timeline) and a shrunk scenario. Exit 0 only
    if all hold.
    """
    if record is not None:
        if paths:
            raise UsageError("--record runs no scenarios: leave the paths out")
        from msg.cli.chaos_record import record_to

        record_to(record, url, listen, bodies.value, seconds)
        return
    from msg.cli.chaos_runs import Job, cores, run_jobs

    scenarios = read_all(paths or [Path(FOLDER)])
    wanted: list[Job] = []
    skipped: list[tuple[str, str]] = []
    for path, scenario in scenarios:
        if engine.value in scenario.not_on:
            skipped.append((scenario.name, scenario.not_on[engine.value]))
            continue
        first = scenario.seed if seed is None else seed
        anyway = report is not None and seeds == 1
        wanted += [
            Job(str(path), first + n, engine.value, str(report or REPORTS), anyway, shrink)
            for n in range(seeds)
        ]
    begun = time.perf_counter()
    processes = jobs or (cores() if engine is Engine.SIM and len(wanted) > FEW else 1)
    results: list[Result] = []
    with progress(len(wanted), as_json=as_json) as (advance, tell):
        for result in run_jobs(wanted, processes, tell):
            advance(result)
            if result.cannot:
                skipped.append((result.name, result.cannot))
                continue
            results.append(result)
            if seeds > 1 and not result.holds:
                break  # what was begun ends, and nothing more begins
    took = time.perf_counter() - begun
    if as_json:
        print_json(_as_json(results, skipped, took))
    else:
        _show(results, skipped, took, processes)
    if not all(result.holds for result in results):
        raise Failed(exits.NEGATIVE)


def read_all(paths: Sequence[Path]) -> "list[tuple[Path, Scenario]]":
    """Every file, read; all that is wrong in any of them is said before anything runs."""
    from msg.scenario.reading import ScenarioError, read_scenario

    found: list[tuple[Path, Scenario]] = []
    problems: list[str] = []
    for path in paths:
        files = sorted(path.glob("*.toml")) if path.is_dir() else [path]
        if not files:
            raise UsageError(f"{path}: there is no scenario (*.toml) in it")
        if not path.exists():
            raise UsageError(f"{path}: there is no such file or folder")
        for file in files:
            try:
                found.append((file, read_scenario(file)))
            except ScenarioError as error:
                problems += error.problems
    if problems:
        raise Failed(exits.DATA, "\n".join(problems))
    return found


# -- while it runs --------------------------------------------------------------------------


@contextlib.contextmanager
def progress(
    total: int, *, as_json: bool
) -> "Iterator[tuple[Callable[[Result], None], Callable[[Shrunk], None]]]":
    """A bar on a terminal, on stderr: the table is the output. Gives what moves it on, and
    what says how far the shrinking is."""
    if as_json or not (on_terminal() and sys.stderr.isatty()) or not total:
        yield lambda _: None, lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[rate]}"),
    )  # fmt: skip
    begun = time.perf_counter()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("chaos", total=total, rate="")
        failed = done = 0

        def advance(result: "Result") -> None:
            nonlocal failed, done
            failed += not result.holds
            done += 1
            rate = f"{done / (time.perf_counter() - begun):.1f} runs/s"
            if failed:
                rate += f", [red]{failed} failed[/red]"
            bar.update(task, advance=1, description=result.name, rate=rate)

        def tell(small: "Shrunk") -> None:
            bar.update(task, description=f"shrinking: {len(small.outcome.events)} events left")

        yield advance, tell


# -- what came of it ------------------------------------------------------------------------


def _show(
    results: "Sequence[Result]", skipped: Sequence[tuple[str, str]], took: float, processes: int
) -> None:
    rows = [_row(group) for group in _by_scenario(results)]
    rows += [(name, "not here", "", "", "", "") for name, _ in skipped]
    show_table(COLUMNS, rows, right=COLUMNS[2:], colours=COLOURS)
    for name, why in skipped:
        write_line(f"{name} is not on this engine: {why}".encode())
    for result in results:
        if not result.holds:
            _show_failure(result)
    write_line(_verdict(results, took, processes).encode())


def _verdict(results: "Sequence[Result]", took: float, processes: int) -> str:
    """The last line: how many, how fast."""
    failed = sum(not result.holds for result in results)
    seeds = len({result.job.seed for result in results}) > 1 and len(_by_scenario(results)) == 1
    what = "seed" if seeds else "run"
    runs = f"{len(results)} {what}{'s' if len(results) != 1 else ''}"
    verdict = f"{failed} of {runs} failed" if failed else f"{runs}: all hold"
    rate = f", {len(results) / took:.1f} {what}s/s" if results else ""
    side = f" in {processes} processes" if processes > 1 and rate else ""
    return f"{verdict} ({took:.1f} s{side}{rate})"


def _by_scenario(results: "Sequence[Result]") -> "list[list[Result]]":
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.job.path, []).append(result)
    return list(groups.values())


def _row(group: "Sequence[Result]") -> tuple[str, ...]:
    """One line for a scenario, however many seeds it ran with."""
    first, last = group[0].job.seed, group[-1].job.seed
    return (
        group[0].name,
        "holds" if all(result.holds for result in group) else "FAILS",
        str(first) if first == last else f"{first}-{last}",
        str(sum(result.events for result in group)),
        f"{sum(result.lasted for result in group):.1f} s",
        f"{sum(result.took for result in group):.2f} s",
    )


def _show_failure(result: "Result") -> None:
    lines = [f"\n{result.name} does not hold with seed {result.job.seed}:"]
    lines += [f"  {v['kind']}: {v['text']}" for v in result.violations[:SHOWN]]
    if len(result.violations) > SHOWN:
        lines.append(f"  … and {len(result.violations) - SHOWN} more")
    lines.append(f"  replay: {result.replay}")
    if result.shrunk_to is not None:
        shrunk = Path(result.report).with_name("shrunk.toml")
        lines.append(f"  shrunk: {shrunk}, {result.shrunk_to} of {result.events} events")
    if result.report:
        lines.append(f"  report: {result.report}")
    write_line("\n".join(lines).encode("utf-8", "surrogatepass"))


def _as_json(
    results: "Sequence[Result]", skipped: Sequence[tuple[str, str]], took: float
) -> dict[str, Any]:
    return {
        "holds": all(result.holds for result in results),
        "runs": [
            {
                "scenario": result.name, "path": result.job.path, "engine": result.job.engine,
                "seed": result.job.seed, "holds": result.holds, "hash": result.hash,
                "events": result.events, "lasted_s": round(result.lasted, 6),
                "took_s": round(result.took, 3), "violations": result.violations,
                "replay": result.replay, "report": result.report,
            }
            for result in results
        ],
        "not_here": [{"scenario": name, "why": why} for name, why in skipped],
        "took_s": round(took, 3),
        "runs_per_second": round(len(results) / took, 2),
    }  # fmt: skip
