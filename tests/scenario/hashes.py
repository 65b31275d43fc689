"""Runs scenarios and prints the hash of each run: `python -m tests.scenario.hashes NAME:SEED …`."""

import sys
from pathlib import Path

from msg.scenario.reading import read_scenario
from msg.scenario.run import run_sim

SCENARIOS = Path(__file__).parent.parent.parent / "scenarios"


def main(runs: list[str]) -> None:
    for run in runs:
        name, _, seed = run.partition(":")
        outcome = run_sim(read_scenario(SCENARIOS / f"{name}.toml"), int(seed))
        print(name, seed, outcome.hash, len(outcome.events), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
