"""`init` and `completion`: the settings file, and what a shell is told."""

import os
import shutil
import subprocess
import sys

import pytest

from msg.config import Settings, load
from msg.config.about import commented
from msg.daemon import exits


class TestInit:
    def test_writes_a_file_that_a_broker_takes(self, cli, tmp_path):
        path = tmp_path / "msg.toml"
        assert cli("init", str(path)).code == 0
        assert load({"config": str(path)}) == Settings()
        assert cli("config", "check", str(path)).out == f"{path}: good\n"

    def test_never_overwrites_unless_told_to(self, cli, tmp_path):
        path = tmp_path / "msg.toml"
        path.write_text("port = 1\n")
        result = cli("init", str(path))
        assert result.code == exits.CANT_CREATE
        assert "--force" in result.err
        assert path.read_text() == "port = 1\n"
        assert cli("init", str(path), "--force").code == 0
        assert path.read_text() == commented()

    def test_standard_output_and_a_place_that_is_none(self, cli, tmp_path):
        assert cli("init", "-").out == commented()
        result = cli("init", str(tmp_path / "none" / "msg.toml"))
        assert result.code == exits.CANT_CREATE
        assert "No such file" in result.err


def complete(tmp_path, url, script, line):
    """What bash offers after this line, by the script that it was given."""
    on_path = tmp_path / "trio-msg"
    on_path.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "from msg.cli.main import main; main()" "$@"\n'
    )
    on_path.chmod(0o755)
    words = line.split(" ")
    done = subprocess.run(
        ["bash", "--norc", "-c",
         script + '\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
         '_trio_msg_completion trio-msg; printf "%s\\n" "${COMPREPLY[@]}"', "bash", *words],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "MSG_URL": url,
             "PYTHONPATH": os.getcwd(), "HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
class TestCompletion:
    def test_bash_completes_commands_options_and_names(self, cli, broker, tmp_path):
        script = cli("completion", "bash").out
        broker.answers["stats"] = {
            "type": "stats",
            "queues": [{"name": "jobs"}, {"name": "job.mail"}, {"name": "other"}],
            "topics": [{"name": "jolly"}],
        }
        assert complete(tmp_path, broker.url, script, "trio-msg qu") == ["queues"]
        assert "--priority" in complete(tmp_path, broker.url, script, "trio-msg send --p")
        assert complete(tmp_path, broker.url, script, "trio-msg config c") == ["check"]
        assert complete(tmp_path, broker.url, script, "trio-msg work jo") == ["jobs", "job.mail"]
        assert complete(tmp_path, broker.url, script, "trio-msg pub jo") == ["jolly"]

    def test_without_a_broker_there_are_no_names_and_no_complaint(self, cli, tmp_path):
        script = cli("completion", "bash").out
        nobody = "msg://127.0.0.1:1"
        assert complete(tmp_path, nobody, script, "trio-msg work jo") == []


@pytest.mark.parametrize(
    ("shell", "says"),
    [("bash", "complete -o default -F"), ("zsh", "#compdef trio-msg"), ("fish", "complete --comm")],
)
def test_each_shell_has_its_script(cli, shell, says):
    result = cli("completion", shell)
    assert result.code == 0
    assert says in result.out
    assert "_TRIO_MSG_COMPLETE" in result.out


def test_a_shell_that_there_is_none_for(cli):
    assert cli("completion", "ksh").code == exits.USAGE


def test_install_completion_writes_what_bash_reads(tmp_path):
    """As a person runs it: the library asks which shell this is, so it runs under one."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    program = f'{sys.executable} -c "from msg.cli.main import main; main()"'
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{program} --install-completion; true"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": os.getcwd()},
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert "installed in" in done.stdout
    written = (tmp_path / ".bash_completions" / "trio-msg.sh").read_text()
    assert "_TRIO_MSG_COMPLETE=complete_bash" in written
    assert "trio-msg.sh" in (tmp_path / ".bashrc").read_text()
