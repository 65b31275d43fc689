"""The stories that were asked for are there; each says why it matters, and where it cannot be."""

import pytest

from msg.scenario.model import IMPOSSIBLE_ON_PROCESS, Scenario
from msg.scenario.reading import read_scenario
from tests.scenario.hashes import SCENARIOS

# the story -> its file, and the fault or the behaviour that it must have
STORIES = {
    "consumer crash with unacked messages": ("consumer-crash", "cut"),
    "consumer that disconnects between the check and the send": ("leaving-consumer", ""),
    "reset in the middle of a frame": ("reset-inside-frame", "cut"),
    "half-open TCP": ("half-open", "half_open"),
    "slow subscriber among fast ones": ("slow-subscriber", ""),
    "publisher that never reads": ("publisher-never-reads", ""),
    "poison message to the dead-letter queue": ("poison-message", ""),
    "queue actor crash under load": ("queue-crash", "crash_actor"),
    "topic actor crash": ("topic-crash", "crash_actor"),
    "connection bug": ("connection-bug", "crash_actor"),
    "restart storm that escalates": ("restart-storm", "crash_actor"),
    "kill -9 and restart": ("kill-and-restart", "kill_broker"),
    "power cut with unsynced data": ("power-cut", "power_cut"),
    "disk full and recovery": ("disk-full", "disk_full"),
    "failing fsync": ("fsync-error", "fsync_error"),
    "slow fsync": ("slow-fsync", "slow_fsync"),
    "torn tail": ("torn-tail", "torn_write"),
    "bit flip": ("bit-flip", "bit_flip"),
    "clock jump": ("clock-jump", "clock_jump"),
    "flood over the limits": ("flood", "flood"),
    "duplicate publish after a lost ack": ("lost-acks", "cut"),
    "drain on SIGTERM with work in flight": ("drain", "drain"),
    "thundering herd of reconnects": ("thundering-herd", "kill_broker"),
}
ALL = {path.stem: read_scenario(path) for path in sorted(SCENARIOS.glob("*.toml"))}


@pytest.mark.parametrize("story", STORIES)
def test_the_story_is_told(story):
    name, kind = STORIES[story]
    scenario = ALL[name]
    assert not kind or kind in [fault.kind for fault in scenario.fault]
    assert "sim" in scenario.engines


@pytest.mark.parametrize("name", ALL)
def test_each_says_what_it_is_for_and_expects_something(name):
    scenario = ALL[name]
    assert len(scenario.title) > 15
    assert len(scenario.why) > 80
    assert scenario.expect.drained_within is not None


def test_only_what_is_impossible_is_not_on_a_real_broker():
    missing = {name: scenario for name, scenario in ALL.items() if scenario.not_on}
    assert all(len(why) > 20 for scenario in missing.values() for why in scenario.not_on.values())
    assert {name for name in missing if not _has_impossible_fault(missing[name])} == set()


def _has_impossible_fault(scenario: Scenario) -> bool:
    return any(fault.kind in IMPOSSIBLE_ON_PROCESS for fault in scenario.fault)


def test_seeds_and_titles_are_their_own():
    for what in ("title", "seed"):
        found = [getattr(scenario, what) for scenario in ALL.values()]
        assert sorted(found) == sorted(set(found))
