"""docs/debugging.md: its problems are made, and the broker says of them what the page shows.

What looks (`why`, `held`, …) is asked until it says so, for a worker takes a moment to start.
"""

import time

import pytest

from tests.debug.page import SKIP, Stage, Step, same, stage, steps_of
from tests.e2e.process import ROOT

PAGE = ROOT / "docs" / "debugging.md"
PATIENCE_S = 30.0


def shows(here: Stage, step: Step) -> None:
    """The command prints what the page says."""
    expected = same(step.output)
    until = time.monotonic() + PATIENCE_S
    while True:
        printed = here.run(step.command)
        if step.output.strip() == SKIP or same(printed) == expected:
            return
        if not step.looks or time.monotonic() > until:
            assert same(printed) == expected, f"$ {step.command}\n{printed}"
        time.sleep(0.1)


@pytest.mark.full  # 12 s; tests/debug has each of its answers too
@pytest.mark.process
@pytest.mark.timeout(180)
def test_the_broker_says_what_the_page_shows(tmp_path):
    steps = steps_of(PAGE.read_text(encoding="utf-8"))
    assert sum(step.looks for step in steps) >= 15
    with stage(tmp_path) as here:
        for step in steps:
            shows(here, step)


def test_the_readme_shows_what_the_page_shows():
    """So what it says the broker says has been said: the page is played above."""
    page = {(step.command, step.output) for step in steps_of(PAGE.read_text(encoding="utf-8"))}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Debugging with trio-msg\n")[2].partition("\n## ")[0]
    shown = steps_of(section.replace("```text", "```console"))
    assert len(shown) >= 5
    assert [step.command for step in shown if (step.command, step.output) not in page] == []


def test_a_page_is_read_as_commands_and_what_they_print():
    text = "text\n\n```console\n$ one &\n$ two\nprinted\n\nmore\n```\n\n```sh\n$ no\n```\n"
    one, two = steps_of(text)
    assert (one.command, one.output) == ("one &", "")
    assert text[two.start : two.end] == two.output == "printed\n\nmore\n"
    assert same("held  12.5 s by connection 9") == same("held 3 s by connection 10")
    assert same("2 messages wait") != same("3 messages wait")
