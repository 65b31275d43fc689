"""The systemd unit and the container's recipe: what they name is what the program has."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from msg.cli.main import app
from msg.config import Settings, load
from msg.daemon import exits

ROOT = Path(__file__).parent.parent.parent
UNIT = ROOT / "deploy" / "trio-msg.service"
RECIPE = ROOT / "deploy" / "Containerfile"
COMMANDS = {getattr(command.callback, "__name__", "") for command in app.registered_commands}


@pytest.fixture
def service():
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read(UNIT, encoding="utf-8")
    assert parser.sections() == ["Unit", "Service", "Install"]
    return parser["Service"]


class TestUnit:
    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
    def test_systemd_finds_nothing_wrong(self, tmp_path):
        """With a program that is here instead of /opt's."""
        program = tmp_path / "trio-msg"
        program.symlink_to(sys.executable)
        unit = tmp_path / UNIT.name
        unit.write_text(UNIT.read_text().replace("/opt/trio-msg/bin/trio-msg", str(program)))
        done = subprocess.run(
            ["systemd-analyze", "verify", "--recursive-errors=no", str(unit)],
            capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip
        # a container's own units may be at fault; ours may not
        ours = [line for line in done.stderr.splitlines() if UNIT.name in line]
        assert ours == []
        assert done.returncode == 0, done.stderr

    def test_what_it_starts_is_a_command_with_these_options(self, service):
        program, command, *options = shlex.split(service["ExecStart"])
        assert program == "/opt/trio-msg/bin/trio-msg"
        assert command in COMMANDS
        assert options == ["--config", "/etc/trio-msg/msg.toml"]

    def test_a_stop_is_given_longer_than_a_drain_takes(self, service):
        assert int(service["TimeoutStopSec"]) > 2 * Settings().drain_seconds

    def test_it_is_not_started_again_where_that_cannot_help(self, service):
        never = {int(code) for code in service["RestartPreventExitStatus"].split()}
        assert never == {exits.USAGE, exits.NO_PERMISSION, exits.CONFIG}

    def test_the_state_directory_becomes_the_data_directory(self, service):
        assert service["StateDirectory"] == "trio-msg"
        settings = load({}, {"STATE_DIRECTORY": "/var/lib/trio-msg"})
        assert settings.data_dir == "/var/lib/trio-msg"


def instructions():
    """(word, rest) of each, with continued lines joined."""
    text = re.sub(r"^#.*\n", "", RECIPE.read_text(), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


class TestContainer:
    def env(self):
        (value,) = (rest for word, rest in instructions() if word == "ENV")
        return dict(pair.split("=", 1) for pair in shlex.split(value))

    def only(self, wanted):
        (rest,) = (rest for word, rest in instructions() if word == wanted)
        return rest

    def test_there_are_only_instructions_that_builders_know(self):
        words = [word for word, _ in instructions()]
        assert words[0] == "FROM"
        assert set(words) <= {"FROM", "COPY", "RUN", "USER", "WORKDIR", "VOLUME", "ENV", "EXPOSE",
                              "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}  # fmt: skip

    def test_what_is_copied_is_there_and_not_ignored(self):
        copied = [rest.split()[:-1] for word, rest in instructions()
                  if word == "COPY" and "--from" not in rest]  # fmt: skip
        ignore = (ROOT / ".containerignore").read_text().splitlines()
        for source in [name for names in copied for name in names]:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignore

    def test_what_the_package_is_built_from_is_copied(self):
        """The README and the licence too: pyproject.toml names them."""
        copied = " ".join(rest for word, rest in instructions() if word == "COPY")
        for name in ("pyproject.toml", "README.md", "LICENSE", "msg"):
            assert name in copied.split()

    def test_the_environment_is_settings_that_a_broker_starts_with(self):
        env = self.env()
        settings = load({}, {k: v for k, v in env.items() if k.startswith("MSG_")})
        assert (settings.host, settings.insecure) == ("0.0.0.0", True)
        assert settings.data_dir.startswith(self.only("VOLUME") + "/")
        assert self.only("EXPOSE").split() == [str(settings.port), settings.http.rpartition(":")[2]]
        assert env["PATH"].startswith("/opt/trio-msg/bin:")

    def test_the_commands_are_ours(self):
        assert json.loads(self.only("ENTRYPOINT")) == ["trio-msg"]
        (serve,) = json.loads(self.only("CMD"))
        health = json.loads(self.only("HEALTHCHECK").partition("CMD ")[2])
        assert serve in COMMANDS
        assert health[0] == "trio-msg"
        assert health[1] in COMMANDS
        assert self.only("STOPSIGNAL") == "SIGTERM"

    def test_it_does_not_run_as_root(self):
        user = self.only("USER")
        assert any(f" {user}" in rest for word, rest in instructions()
                   if word == "RUN" and "useradd" in rest)  # fmt: skip
