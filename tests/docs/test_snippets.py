"""Every program, command, setting and scenario that the documents show is tried."""

import tomllib
from typing import Any

import pytest
from typer.main import get_command

from msg.cli.main import app
from msg.config import from_table
from msg.scenario.reading import parse_scenario
from tests.docs.snippets import Shell, commands, need, snippets, told_wrong
from tests.docs.transcripts import DOCS
from tests.e2e.process import ROOT, Broker

pytestmark = pytest.mark.process
DOCUMENTS = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def of(*languages):
    return [snippet for path in DOCUMENTS for snippet in snippets(path, *languages)]


def kind_of(snippet):
    table = tomllib.loads(snippet.text)
    return "pytest" if "tool" in table else "scenario" if "client" in table else "settings"


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with Broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


# tests/debug/test_page.py runs it: its broker has settings, and is killed on the way
RUN_ELSEWHERE = DOCS / "debugging.md"


def documents_with(language):
    return [path for path in DOCUMENTS if snippets(path, language)]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.name, marks=() if path.name == "README.md" else pytest.mark.full)
        for path in documents_with("console")
        if path != RUN_ELSEWHERE
    ],
)
def test_commands_print_what_stands_below_them(path, tmp_path):
    if "jq" in path.read_text(encoding="utf-8"):
        need("jq")
    config = tmp_path / "msg.toml"
    config.write_text("".join(s.text for s in snippets(path, "toml") if kind_of(s) == "settings"))
    with (
        Broker(tmp_path, "--config", str(config)) as running,
        Shell(tmp_path, running.url) as shell,
    ):
        for snippet in snippets(path, "console"):
            came = shell.console(snippet.text)
            assert not told_wrong(snippet.text, came), f"{snippet}\n{came}"


@pytest.mark.full
@pytest.mark.parametrize("snippet", of("python"), ids=str)
def test_programs_run_and_print_what_is_told(snippet, broker, tmp_path):
    is_test = "def test_" in snippet.text
    is_program = "run(" in snippet.text or "msg.sync" in snippet.text
    assert is_test or is_program, "neither a program nor a test file"
    with Shell(tmp_path, broker.url) as shell:
        came = shell.program(snippet.text, test=is_test)
    if snippet.after:
        assert not told_wrong(snippet.after, came), came


@pytest.mark.parametrize("snippet", of("toml"), ids=str)
def test_settings_and_scenarios_are_read(snippet):
    if kind_of(snippet) == "pytest":
        options = tomllib.loads(snippet.text)["tool"]["pytest"]["ini_options"]
        assert options.keys() <= {"msg_scenarios"}
    elif kind_of(snippet) == "scenario":
        parse_scenario(snippet.text)
    else:
        _, problems = from_table(tomllib.loads(snippet.text), lambda where: ".".join(where))
        assert problems == []


@pytest.mark.parametrize("snippet", of("sh", "console"), ids=str)
def test_commands_and_their_options_exist(snippet):
    text = snippet.text
    if snippet.language == "console":  # what they print is no command
        text = "\n".join(line for line in text.splitlines() if line.startswith("$ "))
    for words in commands(text):
        command: Any = get_command(app)
        while words and getattr(command, "commands", None):
            if words[0].startswith("-"):
                break
            assert words[0] in command.commands, f"there is no command {words[0]}"
            command = command.commands[words.pop(0)]
        known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
        known |= {"--help", "-h", "--install-completion"}
        for word in words:
            if word == "--":
                break
            if word.startswith("-") and len(word) > 1 and not word[1].isdigit():
                assert word.partition("=")[0] in known, f"{command.name} has no {word}"


def test_the_judge_finds_what_is_wrong():
    assert told_wrong("$ x\n5\n", "$ x\n6\n")
    assert not told_wrong("$ x\n1a207c036b40019c6d0000 …\n", "$ x\n1a207c036b40019c6d1111 what\n")
    assert list(commands("a | trio-msg get jobs -n 3 | b; trio-msg ping  # trio-msg no")) == [
        ["get", "jobs", "-n", "3"],
        ["ping"],
    ]
