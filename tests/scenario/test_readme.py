"""scenarios/README.md is enough to write a scenario: all keys are in it, and its examples run."""

import re
import typing

import attrs
import pytest

from msg.scenario import model
from msg.scenario.reading import BAD_FRAMES, CHOICES, parse_scenario
from msg.scenario.run import run_sim
from tests.scenario.hashes import SCENARIOS

TEXT = (SCENARIOS / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", TEXT, re.S)
SECTIONS = {
    model.Scenario: "## The file",
    model.Client: "### `[[client]]`",
    model.Publish: "#### `publish`",
    model.Consume: "#### `consume`",
    model.Subscribe: "#### `subscribe`",
    model.Request: "#### `request` and `respond`",
    model.Respond: "#### `request` and `respond`",
    model.Say: "#### `say`",
    model.Fault: "### `[[fault]]`",
    model.Expect: "### `[expect]`",
    model.Network: "### `[network]` and `[disk]`",
    model.Disk: "### `[network]` and `[disk]`",
}


def keys_of(cls: type[attrs.AttrsInstance]) -> list[str]:
    own = [field.name.removesuffix("_") for field in attrs.fields(cls)]
    return [key for key in own if key not in ("path", "what")]


def section(heading: str) -> str:
    assert TEXT.count(f"\n{heading}\n") == 1, heading
    rest = TEXT.split(f"\n{heading}\n")[1]
    return re.split(r"\n#+ ", rest)[0]


@pytest.mark.parametrize("cls", SECTIONS, ids=lambda cls: cls.__name__)
def test_every_key_is_documented_where_it_belongs(cls):
    shown = re.findall(r"`([^`]+)`", section(SECTIONS[cls]))
    assert [key for key in keys_of(cls) if key not in shown] == []


@pytest.mark.parametrize("kind", model.KINDS)
def test_every_kind_of_fault_is_documented_with_its_keys(kind):
    lines = section(SECTIONS[model.Fault]).splitlines()
    rows = [line for line in lines if line.startswith(f"| `{kind}` |")]
    assert len(rows) == 1
    around = rows[0] + "`client`" + "`restart_after`" * (kind == "drain")
    assert [key for key in keys_of(model.KINDS[kind]) if f"`{key}`" not in around] == []


def test_no_key_is_documented_that_there_is_not():
    classes = [*SECTIONS, *model.KINDS.values()]
    known = {key for cls in classes for key in keys_of(cls)} | set(model.KINDS)
    rows = re.findall(r"^\| ((?:`\w+`(?:,? (?:or |and )?)?)+) \|", TEXT, re.M)
    named = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert len(named) > 80
    assert named - known == set()


def test_every_choice_is_documented():
    choices = [choice for some in CHOICES.values() for choice in some]
    assert [c for c in (*choices, *BAD_FRAMES) if f'"{c}"' not in TEXT] == []
    assert all(engine in TEXT for engine in typing.get_args(model.Engine))


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_hold(number):
    assert run_sim(parse_scenario(EXAMPLES[number])).violations == []


def test_there_are_examples():
    assert len(EXAMPLES) == 2
