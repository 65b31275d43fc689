"""Scenarios on a real broker: processes, sockets and files, in real time.

Two by default, and what shows that the engine sees what is wrong. All of them behind `full`,
four at a time: they wait more than they work.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import attrs
import pytest

from msg.core.settings import MIB
from msg.scenario.engine_process import reserved_port, toml_of
from msg.scenario.reading import parse_scenario, read_scenario
from msg.scenario.run import run_process, with_leisure
from msg.scenario.volume import CannotHurt, SmallVolume

pytestmark = pytest.mark.process
FOLDER = Path(__file__).parent.parent.parent / "scenarios"
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))
FEW = ("consumer-crash", "fsync-error")
AT_ONCE = 4


def run(name: str) -> str:
    """What did not hold, and how it came to it; nothing when all held. In any process."""
    try:
        outcome = run_process(read_scenario(FOLDER / f"{name}.toml"))
    except CannotHurt as error:
        return f"cannot: {error}"
    if outcome.holds:
        return ""
    timeline = [event.line() for event in outcome.events]
    return "\n".join([*map(str, outcome.violations), "", *timeline])


def judge(said: str) -> None:
    if said.startswith("cannot: ") and not os.environ.get("CI"):
        pytest.skip(said)
    if said:
        pytest.fail(said, pytrace=False)


@pytest.mark.parametrize("name", FEW)
def test_holds(name):
    judge(run(name))


@pytest.fixture(scope="session")
def all_runs() -> Iterator[dict[str, "Future[str]"]]:
    """Every scenario, begun."""
    with ProcessPoolExecutor(AT_ONCE, mp_context=get_context("spawn")) as pool:
        yield {name: pool.submit(run, name) for name in NAMES if possible(name)}


def possible(name: str) -> bool:
    return "process" in read_scenario(FOLDER / f"{name}.toml").engines


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in NAMES if possible(name)])
def test_holds_on_a_real_broker(name, all_runs):
    judge(all_runs[name].result())


def test_what_a_process_cannot_be_made_to_have_is_refused():
    with pytest.raises(CannotHurt, match="only a simulated disk forgets"):
        run_process(read_scenario(FOLDER / "power-cut.toml"))


# -- it can see what is wrong ---------------------------------------------------------------

STORY = """
title = "t"
why = "w"
[[client]]
name = "producer"
publish = { queue = "jobs", count = 20, every = "1ms" }
[[client]]
name = "worker"
consume = { queue = "jobs", prefetch = 5 }
"""


@pytest.mark.full
def test_a_broker_that_ends_by_itself_is_seen():
    outcome = run_process(parse_scenario(STORY + '[[fault]]\nat = "0ms"\nfsync_error = {}'))
    found = {violation.kind: violation.text for violation in outcome.violations}
    assert "ended with [74], expected []" in found["exit"]
    assert "Input/output error" in found["exit"]
    assert "nobody could look" not in "".join(found.values())  # it was started for the last look


@pytest.mark.full
def test_a_bug_that_nobody_expected_is_seen():
    """Behind the checker's back, so that it does not count as asked for."""
    scenario = parse_scenario(STORY + '[[fault]]\nat = "10ms"\ncrash_actor = { actor = "store" }')
    outcome = run_process(scenario)
    kinds = [violation.kind for violation in outcome.violations]
    assert kinds == ["exit"]
    assert "expected []: msg.scenario.bugs.Bug: a bug in store" in outcome.violations[0].text
    assert any("a bug in store" in str(error) for error in outcome.errors)  # its traceback


@pytest.mark.full
def test_memory_is_measured_and_the_actors_are_seen():
    outcome = run_process(parse_scenario(STORY + '[expect]\nmemory_at_most = "1KiB"'))
    assert [violation.kind for violation in outcome.violations] == ["memory"]
    assert "at most 1024 may be" in outcome.violations[0].text
    assert {"queue jobs", "store", "directory"} <= {actor["name"] for actor in outcome.tree}


def test_a_run_that_hangs_is_ended_and_says_so(monkeypatch):
    monkeypatch.setattr("msg.scenario.run.RUN_S", 0.2)  # the broker has not begun to serve then
    outcome = run_process(parse_scenario(STORY))
    assert [violation.kind for violation in outcome.violations] == ["lost", "hung"]
    assert "nobody could look" in outcome.violations[0].text


def test_times_are_longer_than_on_a_machine_of_ones_own():
    scenario = with_leisure(
        parse_scenario(
            STORY
            + """
[[client]]
name = "listener"
subscribe = { topic = "t", latency_at_most = "100ms" }
[expect]
drained_within = "2s"
"""
        )
    )
    assert scenario.expect.drained_within == 10.0
    assert scenario.expect.ready_within is None
    assert scenario.client[2].subscribe[0].latency_at_most == 0.5
    assert scenario.client[1].consume[0].latency_at_most is None


# -- its parts ------------------------------------------------------------------------------


def test_the_settings_reach_the_broker(tmp_path):
    text = """
[broker]
drain_seconds = "3s"
[broker.limits]
connections = 15
disk_floor_percent = "2%"
[broker.queues."jobs.>"]
backoff = ["0s", "20ms"]
overflow = "block"
dead_letter_expired = true
[broker.topics."a.é"]
history_messages = 7
"""
    from msg.config import load

    scenario = parse_scenario(STORY + text)
    path = tmp_path / "msg.toml"
    path.write_text(toml_of(scenario.broker))
    assert load({"config": str(path)}, {}) == attrs.evolve(scenario.broker, config=str(path))


def test_no_two_engines_take_one_port(monkeypatch):
    """A broker that is down for a while must find its port free again."""
    with reserved_port() as token:
        monkeypatch.setattr("msg.scenario.engine_process.PORTS", [token.getsockname()[1]])
        with pytest.raises(OSError, match="no free port"):
            reserved_port()


def test_a_small_volume_is_full_and_has_room_again(tmp_path):
    try:
        volume = SmallVolume(tmp_path, MIB)
    except CannotHurt as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    try:
        volume.fill()
        with pytest.raises(OSError, match="No space left"):
            (volume.path / "data").write_bytes(b"x")
        volume.make_room()
        (volume.path / "data").write_bytes(b"x" * 1000)
    finally:
        volume.close()
    assert list(tmp_path.iterdir()) == []  # it was in a namespace of its own
