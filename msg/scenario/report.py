"""The report of a run: a folder that explains itself to whoever was not there.

summary.txt    what did not hold, how it came about, how to replay it
report.html    the same with the picture, the tree and the timeline: one file, no network
run.svg        the picture alone
timeline.txt   every event, one line
tree.txt       the actors at the moment of failure
scenario.toml  the scenario with the seed of this run: it replays it
shrunk.toml    the smallest scenario found that fails in the same way
"""

from collections.abc import Iterator
from pathlib import Path

from msg.scenario.findings import Report, by_rank, chief, errors_of
from msg.scenario.page import page
from msg.scenario.picture import picture
from msg.show.tree_text import tree_text


def write_report(report: Report, folder: Path) -> None:
    """Make the folder and its files. What was there of an earlier one is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    small, outcome = report.small, report.outcome
    first = chief(small)
    drawn = picture(small.events, by_rank(small), first.key if first is not None else "")
    files = {
        "summary.txt": "\n".join(summary(report)) + "\n",
        "timeline.txt": "\n".join(event.line() for event in outcome.events) + "\n",
        "tree.txt": tree_text(report.tree) + "\n",
        "scenario.toml": report.scenario,
        "run.svg": drawn + "\n",
        "report.html": page(report, drawn),
    }
    if report.shrunk is not None:
        files["shrunk.toml"] = report.shrunk_scenario
    else:
        (folder / "shrunk.toml").unlink(missing_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def summary(report: Report) -> Iterator[str]:
    outcome = report.outcome
    scenario = outcome.scenario
    yield f"{scenario.name}: {scenario.title}"
    verdict = "holds" if outcome.holds else "DOES NOT HOLD"
    yield f"{verdict} on the {outcome.engine} engine with seed {outcome.seed}"
    if outcome.violations:
        yield "\nWhat did not hold:"
        yield from (f"  {n}. [{v.at:.4f} s] {v}" for n, v in enumerate(by_rank(outcome), 1))
    if report.told:
        of = "" if report.shrunk is None else ", in the shrunk scenario"
        yield f"\nHow it came about{of}:"
        yield from (f"  {line.at:10.4f}  {line.text}" for line in report.told)
    for text, count in errors_of(outcome).items():
        yield "\nAn error of the broker" + (f", {count} times:" if count > 1 else ":")
        yield text
    yield "\nReplay (here, in this folder):"
    if outcome.engine == "sim":
        yield f"  trio-msg chaos scenario.toml        # event for event: {outcome.hash}"
    else:
        yield "  trio-msg chaos scenario.toml --engine process"
    if report.shrunk is not None:
        yield (
            f"  trio-msg chaos shrunk.toml          # the smallest found, in {report.shrunk.runs}"
            f" runs: {len(report.shrunk.outcome.events)} events, not {len(outcome.events)}"
        )
