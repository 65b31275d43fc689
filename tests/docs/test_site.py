"""The pages of the site that the program writes are whole; .ci/run builds all of it, strictly."""

import importlib.util

import pytest
from typer.main import get_command

from msg.cli.main import app
from msg.config.about import TABLES
from tests.docs.transcripts import DOCS


@pytest.fixture
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_and_every_setting_has_its_place(hooks):
    cli = hooks.cli_page()
    command = get_command(app)
    assert [name for name in command.commands if f"## `trio-msg {name}`" not in cli] == []  # type: ignore[attr-defined]
    config = hooks.config_page()
    assert [
        key for _, _, about, _ in TABLES for key in about if f"| `{key}` | `" not in config
    ] == []
    assert '| `frame_bytes` | `"1MiB"` | size | ' in config
