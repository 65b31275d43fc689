"""Shrinking, and the report: from a broken broker to a page that says why."""

import tomllib
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from msg.scenario.checker import Violation
from msg.scenario.findings import Report, by_rank, chief
from msg.scenario.journal import Journal
from msg.scenario.picture import axis, picture
from msg.scenario.reading import parse_scenario, read_scenario
from msg.scenario.report import write_report
from msg.scenario.run import Outcome, run_sim
from msg.scenario.shrink import shrink, sign
from msg.scenario.story import story
from msg.scenario.writing import to_toml
from tests.scenario.broken import BROKEN
from tests.scenario.hashes import SCENARIOS


def document(name: str):
    return tomllib.loads((SCENARIOS / f"{name}.toml").read_text(encoding="utf-8"))


def broken_run(name: str, monkeypatch) -> tuple[Outcome, dict[str, Any]]:
    broken = BROKEN[name]
    broken.patch(monkeypatch)
    path = SCENARIOS / f"{broken.scenario}.toml"
    return run_sim(read_scenario(path)), document(broken.scenario)


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.toml")), ids=lambda path: path.stem)
def test_what_is_written_reads_as_what_it_was(path):
    tables = document(path.stem)
    assert tomllib.loads(to_toml(tables, "a comment\nof two lines")) == tables


def test_hard_texts_are_written_so_that_they_read_the_same():
    tables = {
        "title": 'quotes " and \\ and \x7f and \x00 and ü',
        "why": 'several\nlines "with" \\ all',
        "why2": "several\nplain lines",
        "broker": {"port": 1, "queues": {"a.*": {"ttl": "1s"}, ">": {"max_messages": 3}}},
        "client": [{"name": "x", "say": [{"at": "0s", "frame": {"a b": [1, {"c": True}]}}]}],
    }
    assert tomllib.loads(to_toml(tables)) == tables


@pytest.mark.full
def test_a_failure_shrinks_to_little_and_replays_from_its_file(monkeypatch):
    outcome, tables = broken_run("loses_on_disconnect", monkeypatch)
    small = shrink(tables, outcome)
    assert sign(small.outcome) == sign(outcome) == "lost"
    assert [fault.kind for fault in small.outcome.scenario.fault] == ["cut"]
    assert {client.name for client in small.outcome.scenario.client} == {"worker-a", "producer"}
    assert len(small.outcome.events) < len(outcome.events) / 10
    again = run_sim(parse_scenario(to_toml(small.document)))
    assert again.hash == small.outcome.hash
    assert shrink(tables, outcome).document == small.document
    monkeypatch.undo()
    assert run_sim(parse_scenario(to_toml(small.document))).holds, "it is the broker's fault"


def test_shrinking_ends_where_it_is_told_to(monkeypatch):
    outcome, tables = broken_run("loses_on_disconnect", monkeypatch)
    assert shrink(tables, outcome, max_events=1).runs == 1


def test_the_report_says_what_why_and_how_to_replay(monkeypatch, tmp_path):
    outcome, tables = broken_run("loses_on_disconnect", monkeypatch)
    small = shrink(tables, outcome)
    first = chief(small.outcome)
    assert first is not None
    seen = run_sim(small.outcome.scenario, small.outcome.seed, look_at=first.at)
    assert seen.hash == small.outcome.hash, "looking changes nothing"
    write_report(Report(outcome, tables, small, seen.tree), tmp_path / "deep" / "r")
    files = {path.name: path.read_text("utf-8") for path in (tmp_path / "deep" / "r").iterdir()}
    assert set(files) == {
        "summary.txt", "report.html", "run.svg", "timeline.txt", "tree.txt", "scenario.toml",
        "shrunk.toml",
    }  # fmt: skip
    told = files["summary.txt"]
    begun = told.index("How it came about")
    for answered in ("acks it", "gets it"):  # they happen side by side
        steps = ["publishes producer/0", answered, "FAULT cut", "is disconnected", "lost:"]
        places = [told.index(step, begun) for step in steps]
        assert places == sorted(places)
    assert files["timeline.txt"].count("\n") == len(outcome.events)
    assert "queue jobs" in files["tree.txt"]
    assert parse_scenario(files["scenario.toml"]).seed == outcome.seed
    assert run_sim(parse_scenario(files["shrunk.toml"])).hash == small.outcome.hash
    root = ET.fromstring(files["run.svg"])
    lanes = [node.text for node in root.iter() if node.get("class") == "name"]
    assert lanes == ["broker", "producer", "queue jobs", "worker-a"]
    assert [node for node in root.iter() if node.get("class") == "flag"]
    assert "cut worker-a" in files["run.svg"]
    assert "http://" not in files["report.html"].replace("http://www.w3.org/2000/svg", "")


def test_a_report_of_a_run_that_holds(tmp_path):
    outcome = run_sim(read_scenario(SCENARIOS / "consumer-crash.toml"))
    write_report(Report(outcome, document("consumer-crash"), tree=outcome.tree), tmp_path)
    assert "holds on the sim engine with seed 7" in (tmp_path / "summary.txt").read_text()
    assert not (tmp_path / "shrunk.toml").exists()


def test_the_gravest_is_told_first():
    outcome = Outcome(parse_scenario('title = "t"\nwhy = "w"\n'), "sim", 1, "", [], [], [])
    outcome.violations = [Violation("errors", "e", 1.0), Violation("lost", "l", 2.0)]
    assert [violation.kind for violation in by_rank(outcome)] == ["lost", "errors"]


def test_names_from_outside_stay_text():
    journal = Journal(lambda: 0.5)
    evil = '<script>alert("x")</script>&'
    journal.note(evil, "publish", key=evil, to=f"queue {evil}")
    journal.note("fault", "cut", client=evil)
    violation = Violation("lost", f"{evil} is gone", 0.5, evil, evil)
    ET.fromstring(picture(journal.events, [violation], evil))
    outcome = Outcome(
        parse_scenario('title = "<b>"\nwhy = "<i>"\n'), "sim", 1, "", journal.events,
        [violation], [],
    )  # fmt: skip
    from msg.scenario.page import page

    text = page(Report(outcome, {"title": "<b>", "why": "<i>"}), "")
    assert "<script" not in text
    assert "<b>" not in text.replace('<b style="', "").replace("<b>numbers", "")


def test_time_without_events_is_folded():
    times = [n * 0.001 for n in range(100)] + [60.0, 60.001]
    made = axis(times)
    assert [round(seconds) for _, seconds in made.folds] == [60]
    assert made.x(0.1) < made.x(59) < made.x(60.0)
    assert made.x(0.099) > 0.8 * made.places[-1]
    assert axis([]).x(3) == 0.0


def test_a_story_without_a_message_tells_what_came_before():
    journal = Journal(lambda: 1.0)
    for n in range(40):
        journal.note("a", "connected", n=n)
    lines = story(journal.events, Violation("exit", "it ended", 1.0))
    assert len(lines) == 16
    assert lines[-1].text == "exit: it ended"


def test_a_run_that_never_ends_is_ended(monkeypatch):
    """Something that goes round and round without time passing: the run says so."""
    import trio

    from msg.scenario import onlooker
    from msg.scenario.play import Play

    async def spin(self: Play) -> None:
        while True:
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(onlooker, "SPIN_STEPS", 1000)
    monkeypatch.setattr(Play, "run", spin)
    outcome = run_sim(read_scenario(SCENARIOS / "consumer-crash.toml"))
    assert any("something spins" in str(violation) for violation in outcome.violations)


def test_a_run_on_a_real_broker_is_told_without_a_hash(tmp_path):
    scenario = read_scenario(SCENARIOS / "consumer-crash.toml")
    violation = Violation("lost", "it is gone", 1.0)
    outcome = Outcome(scenario, "process", 7, "abc", [], [violation], [], [OSError("disk")])
    write_report(Report(outcome, document("consumer-crash")), tmp_path)
    told = (tmp_path / "summary.txt").read_text("utf-8")
    assert "DOES NOT HOLD on the process engine with seed 7" in told
    assert "trio-msg chaos scenario.toml --engine process" in told
    assert "abc" not in told
    assert "OSError: disk" in (tmp_path / "report.html").read_text("utf-8")
