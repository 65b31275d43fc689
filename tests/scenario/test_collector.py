"""Scenario files as tests of somebody's own project: `msg_scenarios` in its settings."""

import os
import subprocess
import sys

import pytest

from tests.scenario.hashes import SCENARIOS


def run(folder, *args: str) -> "subprocess.CompletedProcess[str]":
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *args]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True,
                          timeout=50, check=False)  # fmt: skip


def test_each_file_is_a_test_that_says_what_did_not_hold(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\nmsg_scenarios = stories/*.toml\n")
    (tmp_path / "other.toml").write_text("not = 'a scenario'\n")
    stories = tmp_path / "stories"
    stories.mkdir()
    text = (SCENARIOS / "consumer-crash.toml").read_text()
    (stories / "good.toml").write_text(text)
    (stories / "bad.toml").write_text(text.replace("at_most = 20", "at_most = 1"))
    (stories / "typo.toml").write_text(text.replace("count = 200", "cuont = 200"))
    (stories / "real.toml").write_text(text.replace("seed = 7", 'not_on = { sim = "why" }'))
    done = run(tmp_path, "-rs")
    assert done.returncode == 1
    assert "2 failed, 1 passed, 1 skipped" in done.stdout
    assert "duplicate: " in done.stdout
    assert "replay and report: trio-msg chaos stories/bad.toml --report DIR" in done.stdout
    assert "typo.toml:15: client[2].publish.cuont: there is no such key" in done.stdout
    assert "why" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.full
def test_without_the_setting_nothing_is_collected(tmp_path):
    (tmp_path / "one.toml").write_text((SCENARIOS / "consumer-crash.toml").read_text())
    assert run(tmp_path).returncode == 5
