"""The runs of `trio-msg chaos`: each a scenario with a seed, in this process or in several.

What fails leaves a report, written where it ran: only there are its events.
"""

import os
import signal
import time
import tomllib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import attrs

from msg.scenario import run
from msg.scenario.findings import Report, by_rank, chief
from msg.scenario.reading import read_scenario
from msg.scenario.report import write_report
from msg.scenario.shrink import Shrunk, shrink
from msg.scenario.volume import CannotHurt

AHEAD = 4  # runs that wait for each process: few, so that a failure stops soon


@attrs.frozen
class Job:
    """One run to be done."""

    path: str
    seed: int
    engine: str
    report: str = ""  # the folder of reports; "" for none
    report_anyway: bool = False  # also when it holds
    shrink: bool = True


@attrs.frozen
class Result:
    """What came of it."""

    job: Job
    name: str
    violations: list[dict[str, Any]]
    hash: str
    events: int
    lasted: float  # seconds of the run's own clock
    took: float  # seconds here
    report: str = ""
    shrunk_to: int | None = None  # events
    cannot: str = ""  # why this machine cannot do what it asks for

    @property
    def holds(self) -> bool:
        return not self.violations

    @property
    def replay(self) -> str:
        """The command that runs this again."""
        engine = "" if self.job.engine == "sim" else f" --engine {self.job.engine}"
        return f"trio-msg chaos {self.job.path} --seed {self.job.seed}{engine}"


def run_job(job: Job, tell: Callable[[Shrunk], None] = lambda _: None) -> Result:
    """Run it, and write its report if it is to have one."""
    scenario = read_scenario(job.path)
    begun = time.perf_counter()
    runner = run.run_process if job.engine == "process" else run.run_sim
    try:
        outcome = runner(scenario, job.seed)
    except CannotHurt as error:
        return Result(job, scenario.name, [], "", 0, 0.0, 0.0, cannot=str(error))
    took = time.perf_counter() - begun
    report, small = "", None
    if job.report and (job.report_anyway or not outcome.holds):
        folder = Path(job.report) / f"{scenario.name}-{job.seed}"
        small = _write(job, outcome, folder, tell)
        report = str(folder / "report.html")
    return Result(
        job, scenario.name,
        [{"kind": v.kind, "text": v.text, "at": v.at, "message": v.key} for v in by_rank(outcome)],
        outcome.hash, len(outcome.events), outcome.events[-1].at if outcome.events else 0.0, took,
        report, None if small is None else len(small.outcome.events),
    )  # fmt: skip


def _write(
    job: Job, outcome: run.Outcome, folder: Path, tell: Callable[[Shrunk], None]
) -> Shrunk | None:
    document = tomllib.loads(Path(job.path).read_text(encoding="utf-8"))
    small, tree = None, outcome.tree
    if job.engine == "sim" and not outcome.holds:
        if job.shrink:
            small = shrink(document, outcome, tell=tell)
        told = outcome if small is None else small.outcome
        first = chief(told)
        if first is not None:  # the same run again, looked at when it went wrong
            tree = run.run_sim(told.scenario, told.seed, look_at=first.at).tree
    write_report(Report(outcome, document, small, tree), folder)
    return small


def run_jobs(
    jobs: Sequence[Job], processes: int, tell: Callable[[Shrunk], None]
) -> Iterator[Result]:
    """All of them, in their order. What is left undone when the caller stops is not begun."""
    if processes <= 1 or len(jobs) == 1:
        yield from (run_job(job, tell) for job in jobs)
        return
    # spawned, not forked: a progress bar has a thread
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    try:
        waiting: deque[Future[Result]] = deque()
        for job in jobs:
            with _children_are_deaf():
                waiting.append(pool.submit(run_job, job))
            if len(waiting) >= processes * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _children_are_deaf() -> Iterator[None]:
    """Ctrl-C reaches every process of the terminal, and only one should speak of it. A process
    that is started while we ignore it goes on ignoring it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def cores() -> int:
    """How many processes can run side by side."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
