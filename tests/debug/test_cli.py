"""The debugging commands against a real broker: what a person sees and a program gets.

One broker for all, in a thread of this process; each command is a process of its own, as a
person starts it. `process`: real sockets.
"""

import json
import re
import subprocess
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from msg.actors.broker import Broker, run_broker
from msg.config import Settings
from msg.daemon import exits
from msg.plain_client import PlainClient
from msg.store.disk import RealDisk
from msg.world import RealWorld
from tests.cli.conftest import Cli

pytestmark = pytest.mark.process


class Quiet:
    """A logger that says nothing."""

    def debug(self, event: str, **fields: Any) -> None: ...

    info = warning = error = debug


@attrs.define
class Live:
    """The broker in its thread, its command line, and clients that hold messages."""

    url: str
    cli: Cli

    def client(self, name: str = "") -> PlainClient:
        client = PlainClient.connect(self.url)
        if name:
            client.ask({"action": "hello", "name": name})
        return client

    def ids(self, queue: str, *bodies: object) -> list[str]:
        with self.client() as client:
            return [
                client.ask({"action": "publish", "topic": queue, "mode": "queue", "message": body})[
                    "message_id"
                ]
                for body in bodies
            ]

    def kill(self, queue: str, reason: str, *bodies: object) -> list[str]:
        """Messages that die at their first attempt."""
        with self.client("worker-a") as client:
            client.ask({"action": "declare", "topic": queue, "settings": {"max_deliveries": 1}})
            ids = self.ids(queue, *bodies)
            client.ask({"action": "subscribe", "topic": queue, "mode": "queue", "prefetch": 9})
            for _ in ids:
                tag = client.receive(5)["tag"]
                client.ask({"action": "nack", "tag": tag, "reason": reason})
            dead = {"action": "dead", "topic": queue}
            while len(client.ask(dead)["messages"]) < len(ids):  # a move takes two commits
                client.ask({"action": "ping"})
        return ids


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory = str(tmp_path_factory.mktemp("data"))
    ready = threading.Event()
    found: list[Any] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            settings = Settings(host="127.0.0.1", port=0, data_dir=directory, drain_seconds=0.0)
            world = RealWorld(RealDisk(directory))
            run = partial(run_broker, settings, world, logger=Quiet())
            broker: Broker = await nursery.start(run)
            found.extend([broker, trio.lowlevel.current_trio_token()])
            ready.set()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(20)
    broker, token = found
    cli = Cli(f"msg://127.0.0.1:{broker.addresses[0][1]}")
    yield Live(cli.env["MSG_URL"], cli)
    cli.close()
    token.run_sync_soon(broker.drain)
    thread.join(20)


def test_why_says_what_is_stuck_and_leaves_with_1(live):
    live.ids("lonely", 1, 2)
    result = live.cli("why", "lonely")
    assert result.code == exits.NEGATIVE
    assert result.out.splitlines() == [
        "✗ queue lonely",
        "  ✗ No consumer is attached; 2 messages wait.",
        "      -> Start one: `trio-msg work lonely -- COMMAND`, or look at why yours does not"
        " connect.",
    ]
    causes = json.loads(live.cli("why", "lonely", "--json").out)[0]["causes"]
    assert causes[0]["code"] == "no_consumers"
    assert live.cli("why", "no.such.thing").code == exits.NEGATIVE


def test_why_of_all_names_everything_that_is_not_well(live):
    live.ids("forgotten", 1)
    lines = live.cli("why").out.splitlines()
    assert lines[0] == "✓ broker: nothing is in its way"
    assert "✗ queue forgotten" in lines


def test_trace_of_a_death(live):
    (dead,) = live.kill("doomed", "Traceback\nKeyError: 'cat'", {"cat": None})
    lines = live.cli("trace", dead, "--body").out.splitlines()
    assert lines[0].startswith('queue doomed, number 1: It died, and went to queue "doomed.dead"')
    assert lines[3].endswith('leased to "worker-a", attempt 1')
    assert lines[4].endswith("attempt 1 by \"worker-a\" was nacked: KeyError: 'cat'")
    assert lines[-1] == '{"cat":null}'
    answer = json.loads(live.cli("trace", dead, "--queue", "doomed", "--json").out)
    assert [place["state"] for place in answer["places"]] == ["dead", "ready"]
    nothing = live.cli("trace", "nobody-knows-this")
    assert nothing.code == exits.NEGATIVE
    assert nothing.out.startswith("nothing is known of nobody-knows-this\n")


def test_peek_and_held(live):
    with live.client("worker-b") as client:
        client.ask({"action": "subscribe", "topic": "looked.at", "mode": "queue"})
        live.ids("looked.at", {"n": 1}, {"n": 2}, "x" * 200)
        client.receive(5)
        rows = [line.split() for line in live.cli("peek", "looked.at").out.splitlines()]
        assert rows[0] == ["number", "message_id", "state", "attempt", "published_at", "body"]
        assert rows[1][-2:] == ['{"n":', "2}"]
        assert rows[2][-1].endswith("x…")
        leased = live.cli("peek", "looked.at", "--state", "leased").out.splitlines()
        assert "held by worker-b" in leased[1]
        one = json.loads(live.cli("peek", "looked.at", "-n", "1", "--skip", "1", "--json").out)
        assert one["message"] == "x" * 200
        held = live.cli("held", "looked.at").out.splitlines()
        assert re.split(r"\s{2,}", held[1])[:4:3] == ["looked.at", "worker-b"]
        assert json.loads(live.cli("held", "--json").out)[0]["deadline_s"] <= 30


def test_dead_letters_from_the_list_to_the_end(live):
    first, second = live.kill("mortal", "KeyError: 'tom'", {"cat": "tom"}, {"cat": "kit"})
    assert any("mortal" in line for line in live.cli("dead", "list").out.splitlines())
    rows = live.cli("dead", "list", "mortal", "--contains", "kit").out.splitlines()
    assert [row.split()[0] for row in rows] == ["message_id", second]
    assert "KeyError: 'tom'" in rows[1]
    assert live.cli("dead", "list", "mortal", "--older", "1h").out.count("\n") == 1
    shown = live.cli("dead", "show", "mortal", first).out
    assert "attempt 1 at " in shown
    assert shown.endswith('body:\n{\n  "cat": "tom"\n}\n')
    assert live.cli("dead", "drop", "mortal").code == exits.USAGE
    edited = live.cli("dead", "edit", "mortal", first, "--message", '{"cat": "Tom"}')
    assert edited.out == f"{first} was changed and sent back to mortal\n"
    got = live.cli("get", "mortal", "--wait", "5")
    assert got.out == '{"cat":"Tom"}\n'
    dropped = live.cli("dead", "drop", "mortal", second)
    assert (dropped.code, dropped.out) == (exits.OK, "1 dead letter dropped\n")
    assert live.cli("dead", "retry", "mortal").code == exits.NEGATIVE
    assert live.cli("dead", "show", "mortal", second).code == exits.NEGATIVE


def test_dead_edit_asks_an_editor(live, tmp_path):
    (dead,) = live.kill("typos", "no", {"cat": "tmo"})
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i s/tmo/tom/ $1\n")
    editor.chmod(0o755)
    assert live.cli("dead", "edit", "typos", dead, VISUAL=str(editor)).code == exits.OK
    assert live.cli("get", "typos", "--wait", "5").out == '{"cat":"tom"}\n'


def test_pause_resume_purge_delete(live):
    live.ids("ordered", 1, 2)
    assert live.cli("pause", "ordered").out == "ordered is paused\n"
    assert "paused" in live.cli("queues").out
    assert live.cli("resume", "ordered").out == "ordered is handed out again\n"
    assert live.cli("purge", "ordered").out == "2 messages dropped from ordered\n"
    live.ids("ordered", 3)
    assert live.cli("purge", "ordered").out == "1 message dropped from ordered\n"
    assert json.loads(live.cli("delete", "ordered", "--json").out) == {"topic": "ordered"}
    assert live.cli("delete", "ordered").code == exits.NEGATIVE


def test_delete_asks_on_a_terminal(live):
    import os

    live.ids("precious", 1, 2)
    master, slave = os.openpty()
    live.cli.env["TERM"] = "dumb"
    process = live.cli.start("delete", "precious", stdin=slave, stdout=slave, stderr=slave)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(master, 4096)
    assert b"Delete 'precious' with its 2 messages for ever?" in shown
    os.write(master, b"n\n")
    assert process.wait(20) == exits.NEGATIVE
    os.close(slave)
    os.close(master)
    assert "precious" in live.cli("queues").out


def test_tree_in_every_format(live):
    live.ids("planted", 1)
    text = live.cli("tree").out
    assert re.search(r"├ queue planted +running +0/64", text)
    drawn = json.loads(live.cli("tree", "--format", "json", "--all").out)
    assert drawn["count"] == len(drawn["actors"])
    svg = ET.fromstring(live.cli("tree", "--format", "svg").out)
    names = [g.get("data-name") for g in svg.iter("{http://www.w3.org/2000/svg}g")]
    assert "queue planted" in names
    dot = live.cli("tree", "--format", "dot").out
    assert '"directory" -> "queue planted"' in dot
    stacks = live.cli("tree", "--stacks").out
    assert re.search(r"^ +actors/mailbox.py:\d+ take$", stacks, re.MULTILINE)
    assert live.cli("tree", "--watch", "--format", "svg").code == exits.USAGE


def test_tree_is_watched_on_a_terminal_without_scrolling(live):
    import fcntl
    import os
    import struct
    import termios

    live.ids("watched", 1)
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 8, 60, 0, 0))
    live.cli.env["TERM"] = "xterm"
    process = live.cli.start(
        "tree", "--watch", "--every", "0.1", stdin=slave, stdout=slave, stderr=slave
    )
    shown = b""
    while shown.count(b"\x1b[J") < 2:
        shown += os.read(master, 4096)
    drawn = shown.split(b"\x1b[H")[1].decode().replace("\r", "")
    lines = drawn.split("\n")
    assert len(lines) == 8
    assert "more lines; make the window higher" in lines[-2]
    plain = [re.sub(r"\x1b\[[0-9;]*[mKJ]", "", line) for line in lines]
    assert max(map(len, plain)) <= 60
    process.send_signal(2)
    os.set_blocking(master, False)
    assert process.wait(20) == exits.INTERRUPTED
    os.close(slave)
    os.close(master)


def test_every_debugging_command_has_its_place_in_the_help(capsys):
    from msg.cli.main import main

    with pytest.raises(SystemExit):
        main(["--help"])
    panels = capsys.readouterr().out.split("╭─ ")
    stuck = next(panel for panel in panels if panel.startswith("Who holds my message"))
    assert re.findall(r"^│ (\w+) ", stuck, re.MULTILINE) == [
        "why", "held", "trace", "peek", "tap", "tree",
    ]  # fmt: skip


def test_top_shows_rates_between_two_looks(live):
    live.ids("busy", 1)
    out = live.cli("top", "-n", "2", "--every", "0.1", "--sort", "name").out.splitlines()
    heads = [n for n, line in enumerate(out) if line.startswith("name")]
    assert len(heads) == 2
    row = next(line.split() for line in out if line.startswith("busy"))
    assert row[:3] == ["busy", "queue", "running"]
    rows = json.loads(live.cli("top", "-n", "1", "--json").out)
    assert {"name", "in/s", "ready"} <= rows[0].keys()
    assert live.cli("top", "--sort", "beauty").code == exits.USAGE


def test_top_on_a_terminal_hears_keys(live):
    import fcntl
    import os
    import struct
    import termios

    live.ids("seen", 1)
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    live.cli.env["TERM"] = "xterm"
    process = live.cli.start("top", "--every", "60", stdin=slave, stdout=slave, stderr=slave)
    shown = b""
    while b"q leave" not in shown:
        shown += os.read(master, 4096)
    assert "in/s▼".encode() in shown
    os.write(master, b"r")
    while "in/s▲".encode() not in shown:
        shown += os.read(master, 4096)
    os.write(master, b"q")
    assert process.wait(20) == 0
    os.close(slave)
    os.close(master)


def test_tap_prints_what_passes(live):
    process = live.cli.start("tap", "tapped.*", "-n", "2", "-e", "published")
    with live.client() as client:
        while True:  # until it listens
            client.ask({"action": "publish", "topic": "tapped.a", "message": "hello"})
            try:
                process.wait(0.05)
                break
            except subprocess.TimeoutExpired:
                continue
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"published  tapped\.a  \w+  hello", lines[0])


def test_stats_of_one_and_of_all(live):
    live.ids("counted", 1)
    assert re.search(r"queue counted counts accepted +1\n", live.cli("stats", "counted").out)
    found = json.loads(live.cli("stats", "--json").out)
    assert found["server"]["store"]["disk_full"] is False


@pytest.mark.parametrize(
    "name",
    ["why", "trace", "peek", "held", "stats", "tree", "top", "tap", "pause", "resume", "purge",
     "delete", "dead", "dead list", "dead show", "dead retry", "dead edit", "dead drop"],
)  # fmt: skip
def test_every_command_has_help(name, capsys):
    from msg.cli.main import main

    with pytest.raises(SystemExit) as left:
        main([*name.split(), "--help"])
    assert left.value.code == 0
    assert f"trio-msg {name}" in capsys.readouterr().out


def test_every_argument_and_option_says_what_it_is():
    from typer.main import get_command

    from msg.cli.main import app

    mute: list[str] = []

    def look(command: Any, path: str) -> None:
        mute.extend(f"{path} {p.name}" for p in command.params if not getattr(p, "help", None))
        for name, below in getattr(command, "commands", {}).items():
            look(below, f"{path} {name}")

    look(get_command(app), "trio-msg")
    assert mute == []


NO_JSON = {  # command -> why it has no --json
    "serve": "it serves", "init": "it writes a file", "completion": "it prints a script",
    "export": "JSON lines are what it prints",
}  # fmt: skip


def test_every_command_prints_json_for_programs():
    import inspect

    import typer

    from msg.cli.main import app

    def missing(group: typer.Typer, before: str = "") -> Iterator[str]:
        for command in group.registered_commands:
            assert command.callback is not None
            name = before + (command.name or command.callback.__name__)
            parameters = inspect.signature(inspect.unwrap(command.callback)).parameters
            if "as_json" not in parameters and name not in NO_JSON:
                yield name
        for inner in group.registered_groups:
            assert inner.typer_instance is not None
            yield from missing(inner.typer_instance, f"{before}{inner.name} ")

    assert list(missing(app)) == []
