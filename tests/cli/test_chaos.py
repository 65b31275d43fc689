"""`trio-msg chaos`: tables, seeds, failures and their reports, JSON, and files that are wrong."""

import io
import json
import sys
from pathlib import Path

import pytest

from msg.cli import chaos as module
from tests.cli.conftest import Cli
from tests.scenario.broken import BROKEN

SCENARIOS = Path(__file__).parent.parent.parent / "scenarios"
CRASH = str(SCENARIOS / "consumer-crash.toml")
QUICK = str(SCENARIOS / "split-bytes.toml")


@pytest.fixture
def cli(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return Cli("msg://localhost:1")  # no broker is asked


def test_what_holds_is_a_table_and_exit_0(cli, tmp_path):
    result = cli("chaos", CRASH, QUICK)
    assert result.code == 0
    header, *rows = result.out.splitlines()
    assert header.split() == ["scenario", "result", "seed", "events", "lasted", "took"]
    assert [row.split()[:3] for row in rows[:2]] == [
        ["consumer-crash", "holds", "7"], ["split-bytes", "holds", "28"],
    ]  # fmt: skip
    assert rows[2].startswith("2 runs: all hold (")
    assert list(tmp_path.iterdir()) == []


def test_what_fails_is_exit_1_with_a_report_and_the_command_that_replays_it(
    cli, tmp_path, monkeypatch
):
    BROKEN["loses_on_disconnect"].patch(monkeypatch)
    result = cli("chaos", CRASH)
    assert result.code == 1
    assert "lost: " in result.out
    assert f"replay: trio-msg chaos {CRASH} --seed 7" in result.out
    assert "1 of 1 run failed" in result.out
    folder = tmp_path / "chaos-report" / "consumer-crash-7"
    assert (folder / "report.html").exists()
    again = cli("chaos", str(folder / "shrunk.toml"), "--no-shrink", "--report", "other")
    assert again.code == 1
    assert (tmp_path / "other" / "shrunk-7" / "summary.txt").exists()
    assert not (tmp_path / "other" / "shrunk-7" / "shrunk.toml").exists()


def test_seeds_stop_at_the_first_failure(cli, monkeypatch):
    BROKEN["loses_on_disconnect"].patch(monkeypatch)
    result = cli("chaos", CRASH, "--seeds", "50", "--seed", "3", "--no-shrink", "-j", "1", "--json")
    assert result.code == 1
    told = json.loads(result.out)
    assert [run["seed"] for run in told["runs"]] == [3]
    assert told["runs"][0]["replay"] == f"trio-msg chaos {CRASH} --seed 3"
    assert told["runs"][0]["violations"][0]["kind"] == "lost"
    assert told["holds"] is False


@pytest.mark.full
def test_seeds_in_two_processes_are_the_runs_that_they_are_in_one(cli):
    one, two = (
        json.loads(cli("chaos", QUICK, "--seeds", "4", "-j", jobs, "--json").out)
        for jobs in ("1", "2")
    )
    assert [run["seed"] for run in two["runs"]] == [28, 29, 30, 31]
    assert [run["hash"] for run in one["runs"]] == [run["hash"] for run in two["runs"]]
    table = cli("chaos", QUICK, "--seeds", "2").out.splitlines()
    assert table[1].split()[:3] == ["split-bytes", "holds", "28-29"]
    assert "2 seeds: all hold" in table[2]
    assert "seeds/s)" in table[2]


def test_a_report_is_written_of_what_holds_when_it_is_asked_for(cli, tmp_path):
    assert cli("chaos", QUICK, "--report", "r").code == 0
    assert "holds" in (tmp_path / "r" / "split-bytes-28" / "summary.txt").read_text()


def test_files_that_are_wrong_are_said_all_together(cli, tmp_path):
    (tmp_path / "a.toml").write_text('title = "t"\nwhy = "w"\nsede = 1\n')
    (tmp_path / "b.toml").write_text('title = "t"\n')
    result = cli("chaos", str(tmp_path))
    assert result.code == 65
    assert f"{tmp_path}/a.toml:3: sede: there is no such key; did you mean 'seed'?" in result.err
    assert f"{tmp_path}/b.toml:1: 'why' is missing" in result.err


@pytest.mark.parametrize("path", ["none.toml", "."])
def test_no_scenario_there(cli, path):
    result = cli("chaos", path)
    assert result.code == 64
    assert "there is no" in result.err


def test_what_an_engine_cannot_have_is_said(cli, tmp_path):
    text = Path(QUICK).read_text().replace("seed = 28", 'seed = 28\nnot_on = { sim = "because" }')
    (tmp_path / "only.toml").write_text(text)
    result = cli("chaos", "only.toml")
    assert result.code == 0
    assert "only is not on this engine: because" in result.out


def test_a_bar_shows_how_far_it_is(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(module, "on_terminal", lambda: True)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    from msg.cli.chaos_runs import Job, run_job

    with module.progress(2, as_json=False) as (advance, _):
        advance(run_job(Job(QUICK, 28, "sim")))
    shown = terminal.getvalue()
    assert "split-bytes" in shown
    assert "1/2" in shown
    assert "runs/s" in shown


@pytest.mark.full
@pytest.mark.process
def test_a_real_broker_is_one_engine_of_two(cli):
    told = json.loads(cli("chaos", QUICK, "--engine", "process", "--json").out)
    assert told["holds"] is True
    assert told["runs"][0]["engine"] == "process"
    assert told["runs"][0]["replay"].endswith("--engine process")


def test_what_this_machine_cannot_do_is_no_failure(cli, monkeypatch):
    from msg.scenario import run
    from msg.scenario.volume import CannotHurt

    def cannot(*_):
        raise CannotHurt("only root may mount")

    monkeypatch.setattr(run, "run_process", cannot)
    result = cli("chaos", QUICK, "--engine", "process")
    assert result.code == 0
    assert "split-bytes is not on this engine: only root may mount" in result.out
