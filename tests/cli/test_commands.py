"""Every command: what it asks, what it prints, how it leaves."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from msg import __version__
from msg.cli.common import refusal_code
from msg.cli.main import main
from msg.config import Limits
from msg.daemon import exits


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class TestPublish:
    def test_a_text_a_json_body_and_fields(self, cli, broker):
        assert cli("pub", "news", "hello world").out == "m1\n"
        options = [
            "--id",
            "a",
            "--delay",
            "2",
            "--priority",
            "9",
            "--header",
            "k=v=w",
            "--ttl",
            "60",
            "--durability",
            "os",
        ]
        assert cli("send", "jobs", '{"n": 1.0}', *options).out == "a\n"
        first, second = broker.actions("publish")
        assert (first["topic"], first["mode"], first["message"]) == (
            "news",
            "pubsub",
            "hello world",
        )
        assert second == {
            "action": "publish", "topic": "jobs", "mode": "queue", "message_id": "a", "delay": 2.0,
            "ttl": 60.0, "priority": 9, "durability": "os", "headers": {"k": "v=w"}, "id": "1",
            "message": {"n": 1.0},
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("text", "options", "body"),
        [
            ("null", [], None),
            ("12", [], 12),
            ("12", ["--string"], "12"),
            ("NaN", [], "NaN"),
            ('{\n "a":\n [1]}', [], {"a": [1]}),
            ("tä\n€", [], "tä\n€"),
            ("", [], ""),
        ],
    )
    def test_what_is_json_is_sent_as_json(self, cli, broker, text, options, body):
        assert cli("send", "q", *options, "--", text).code == 0
        assert broker.actions("publish")[0]["message"] == body

    def test_all_of_standard_input_is_one_message(self, cli, broker):
        assert cli("send", "q", stdin="two\nlines\n").code == 0
        assert cli("send", "q", "--binary", stdin=b"\xff\x00").code == 0
        first, second = broker.actions("publish")
        assert first["message"] == "two\nlines\n"
        assert (second["message"], second["encoding"]) == ("/wA=", "base64")

    def test_bodies_that_cannot_be_sent(self, cli, broker):
        assert cli("send", "q", "--json-body", "{").code == exits.USAGE
        assert cli("send", "q", stdin=b"\xff").code == exits.USAGE
        assert cli("send", "q", "x", "--string", "--binary").code == exits.USAGE
        assert cli("send", "q", "x", "--header", "novalue").code == exits.USAGE
        assert broker.received == []

    def test_what_the_broker_says_is_passed_on(self, cli, broker):
        broker.answers["publish"] = {"type": "ack", "message_id": "a", "duplicate": True,
                                     "receivers": 0}  # fmt: skip
        result = cli("pub", "t", "x", "--id", "a")
        assert (result.code, result.out) == (0, "a\n")
        assert "duplicate" in result.err
        assert "nobody hears" in result.err
        assert json.loads(cli("pub", "t", "x", "--json").out)["duplicate"] is True

    @pytest.mark.parametrize(
        ("code", "retry", "exit_"),
        [("bad_name", "never", 64), ("queue_full", "later", 75), ("too_large", "never", 65),
         ("forbidden", "never", 77), ("internal", "same_id", 70), ("draining", "later", 75)],
    )  # fmt: skip
    def test_refusals_have_exit_codes(self, cli, broker, code, retry, exit_):
        broker.answers["publish"] = {"type": "error", "code": code, "error": "No.", "retry": retry}
        result = cli("send", "q", "x")
        assert (result.code, result.err) == (exit_, f"trio-msg: No. ({code})\n")

    def test_lines_are_pipelined_in_order(self, cli, broker):
        count = 5000
        lines = "".join(f"line {n}\r\n" if n % 2 else f"{n}\n" for n in range(count)) + "last"
        result = cli("pub", "t", "-", stdin=lines)
        assert (result.code, result.out, result.err) == (0, "", "")
        bodies = [frame["message"] for frame in broker.actions("publish")]
        assert bodies == [f"line {n}" if n % 2 else n for n in range(count)] + ["last"]

    def test_lines_go_out_as_they_come(self, cli, broker):
        process = cli.start("send", "q", "-", "--json")
        for n in range(3):
            process.stdin.write(f"{n}\n")
            process.stdin.flush()
            assert broker.wait_for("publish")["message"] == n
            assert json.loads(process.stdout.readline())["message_id"] == f"m{n + 1}"
        process.stdin.close()
        assert process.wait(20) == 0

    def test_refused_lines_are_named_and_the_rest_is_sent(self, cli, broker):
        def answer(frame):
            if frame["message"] == "bad":
                return [{"type": "error", "code": "too_large", "error": "No.", "retry": "never"}]
            return [{"type": "ack", "message_id": "x"}]

        broker.answers["publish"] = answer
        result = cli("send", "q", "-", stdin="a\nbad\nc\n")
        assert (result.code, result.err) == (exits.DATA, "trio-msg: line 2: No. (too_large)\n")
        assert len(broker.received) == 3

    def test_a_connection_lost_among_lines_says_what_is_unknown(self, cli, broker):
        broker.hang_up_after = 3
        result = cli("send", "q", "-", stdin="x\n" * 2000)
        assert result.code == exits.UNAVAILABLE
        told = re.search(r"(\d) lines answered, \d+ may be kept or not, .* line (\d)", result.err)
        assert told is not None
        assert int(told[1]) <= 3  # a reset takes with it what had not been read
        assert int(told[2]) == int(told[1]) + 1

    def test_an_id_is_for_one_message(self, cli):
        assert cli("send", "q", "-", "--id", "a").code == exits.USAGE


class TestSub:
    def test_prints_bodies_and_leaves_after_n(self, cli, broker):
        broker.put("t", "hello", {"a": 1}, "unread")
        result = cli("sub", "t", "-n", "2", "--from", "all")
        assert (result.code, result.out) == (0, 'hello\n{"a":1}\n')
        assert broker.actions("subscribe")[0]["from"] == "all"

    def test_topics_are_shown_where_there_can_be_several(self, cli, broker):
        broker.put("a", "x")
        broker.put("b.c", "y")
        assert cli("sub", "a", "b.c", "-n", "2").out == "a\tx\nb.c\ty\n"

    def test_json_and_binary(self, cli, broker):
        broker.put("t", "/wA=", encoding="base64", seq=7)
        frame = json.loads(cli("sub", "t", "-n", "1", "--json", "--from", "12").out)
        assert (frame["seq"], frame["message"]) == (7, "/wA=")
        assert broker.actions("subscribe")[0]["from"] == 12

    def test_a_group_acks_after_printing(self, cli, broker):
        broker.put("t", "x", "y")
        assert cli("sub", "t", "--group", "g", "-n", "2").code == 0
        assert broker.actions("subscribe")[0]["group"] == "g"
        assert [frame["tag"] for frame in broker.actions("ack")] == [1, 2]

    def test_dropped_messages_are_told(self, cli, broker):
        broker.put("t", "x", dropped=17)
        assert "17 messages lost here" in cli("sub", "t", "-n", "1").err

    def test_the_brokers_end_is_exit_69(self, cli, broker):
        broker.answers["subscribe"] = [{"type": "subscribed"},
                                       {"type": "closing", "reason": "drain"}]  # fmt: skip
        broker.hang_up_after = 2  # hello, subscribe
        result = cli("sub", "t")
        assert result.code == exits.UNAVAILABLE
        assert "the broker is closing: drain" in result.err

    def test_ctrl_c_is_130_and_silent(self, cli, broker):
        process = cli.start("sub", "t")
        broker.wait_for("subscribe")
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == exits.INTERRUPTED

    def test_a_reader_that_leaves_is_no_traceback(self, cli, broker):
        broker.put("t", *["x" * 1000] * 300)
        read, write = os.pipe()
        process = cli.start("sub", "t", stdout=write)
        os.close(write)
        os.close(read)
        assert process.communicate(timeout=20)[1] == ""
        assert process.returncode == exits.PIPE_CLOSED


class TestGet:
    def test_takes_and_acks_after_printing(self, cli, broker):
        broker.put("q", "a", {"b": 2}, "c")
        assert cli("get", "q", "-n", "2").out == 'a\n{"b":2}\n'
        assert broker.actions("ack")[0]["tags"] == [1, 2]
        assert cli("get", "q", "--wait", "1", "--json").code == 0
        assert broker.actions("get")[1]["wait"] == 1.0

    def test_it_waits_for_the_first_only(self, cli, broker):
        """The broker's `wait` is for all that are wanted."""
        broker.put("q", "a", "b")
        assert cli("get", "q", "-n", "5", "--wait", "60").out == "a\nb\n"
        assert [(g["n"], g["wait"]) for g in broker.actions("get")] == [(1, 60.0), (4, 0.0)]

    def test_nothing_there_is_exit_1(self, cli, broker):
        result = cli("get", "q")
        assert (result.code, result.out, result.err) == (exits.NEGATIVE, "", "")

    def test_many_are_taken_in_batches(self, cli, broker):
        broker.put("q", *range(250))
        assert cli("get", "q", "-n", "1000").out.split() == [str(n) for n in range(250)]
        assert [len(frame["tags"]) for frame in broker.actions("ack")] == [100, 100, 50]

    def test_no_ack_gives_them_back_uncounted(self, cli, broker):
        broker.put("q", "a", "b")
        assert cli("get", "q", "-n", "5", "--no-ack").out == "a\nb\n"
        assert broker.actions("ack") == []
        (nack,) = broker.actions("nack")
        assert (nack["tags"], nack["count_attempt"], nack["delay"]) == ([1, 2], False, 0)

    def test_what_could_not_be_written_is_given_back(self, cli, broker):
        broker.put("q", "a")
        read, write = os.pipe()
        os.close(read)
        process = cli.start("get", "q", stdout=write)
        os.close(write)
        assert process.wait(20) == exits.PIPE_CLOSED
        assert broker.actions("ack") == []
        assert broker.actions("nack")[0]["tags"] == [1]

    def test_an_ack_that_came_too_late_is_told(self, cli, broker):
        broker.put("q", "a")
        broker.answers["ack"] = {"type": "acked", "count": 0,
                                 "failed": [{"tag": 1, "code": "not_held"}]}  # fmt: skip
        result = cli("get", "q")
        assert (result.code, result.out) == (exits.TEMPORARY, "a\n")
        assert "not_held" in result.err


WORD = [sys.executable, "-c"]


class TestWork:
    def test_exit_0_acks_else_nacks_with_stderr(self, cli, broker):
        broker.put("q", "good", {"bad": 1}, "mute", ack_timeout=30)
        script = (
            "import sys; body = sys.stdin.read(); print('got', body)\n"
            "if body != 'good': body == 'mute' or print('no good', file=sys.stderr); sys.exit(3)"
        )
        result = cli.run("work", "q", "-n", "3", "--name", "w", "--", *WORD, script)
        assert result.code == 0
        assert result.out == 'got good\ngot {"bad":1}\ngot mute\n'
        assert "no good" in result.err
        assert [frame["tag"] for frame in broker.actions("ack")] == [1]
        reasons = [(frame["tag"], frame["reason"]) for frame in broker.actions("nack")]
        assert reasons == [(2, "no good"), (3, "exit status 3")]
        subscribe = broker.actions("subscribe")[0]
        assert (subscribe["mode"], subscribe["prefetch"], subscribe["name"]) == ("queue", 1, "w")

    def test_the_environment_tells_which_message(self, cli, broker):
        broker.put("q", "x", ack_timeout=30)
        script = "import os; print(*(os.environ['TRIO_MSG_' + k] for k in ('TOPIC', 'MESSAGE_ID', "
        script += "'ATTEMPT')))"
        assert cli.run("work", "q", "-n", "1", "--", *WORD, script).out == "q m1 1\n"

    def test_leases_are_touched_while_a_command_runs(self, cli, broker):
        broker.put("q", "x", ack_timeout=0.3)
        slow = cli.start("work", "q", "--", *WORD, "import time; time.sleep(60)")
        assert broker.wait_for("touch")["tags"] == [1]
        assert broker.wait_for("touch")["tags"] == [1]
        slow.send_signal(signal.SIGTERM)
        broker.wait_for("unsubscribe")
        slow.send_signal(signal.SIGTERM)
        assert broker.wait_for("nack")["reason"] == "killed by signal 9"
        assert slow.wait(20) == 0

    def test_concurrency_runs_so_many_at_a_time(self, cli, broker, tmp_path):
        """Each command waits until the other is there: one at a time would never end."""
        broker.put("q", "a", "b", ack_timeout=30)
        script = (
            "import os, sys, time\n"
            f"d = {str(tmp_path)!r}; open(d + '/' + sys.stdin.read(), 'w').close()\n"
            "while len(os.listdir(d)) < 2: time.sleep(0.01)\n"
        )
        assert cli.run("work", "q", "-n", "2", "-c", "2", "--", *WORD, script).code == 0
        assert broker.actions("subscribe")[0]["prefetch"] == 2
        assert sorted(frame["tag"] for frame in broker.actions("ack")) == [1, 2]

    def test_a_stop_lets_commands_finish_and_gives_back_the_rest(self, cli, broker, tmp_path):
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        broker.put("q", "a", ack_timeout=30)
        process = cli.start("work", "q", "--", *WORD, f"open({str(fifo)!r}).read()")
        with open(fifo, "w"):  # opens when the command runs
            process.send_signal(signal.SIGTERM)
            broker.wait_for("unsubscribe")
        assert process.wait(20) == 0
        assert broker.actions("ack")[0]["tag"] == 1

    def test_a_command_that_takes_too_long_is_killed(self, cli, broker):
        broker.put("q", "a", ack_timeout=30)
        command = [*WORD, "import time; time.sleep(60)"]
        assert cli.run("work", "q", "-n", "1", "--timeout", "0.05", "--", *command).code == 0
        assert broker.actions("nack")[0]["reason"] == "killed after 0.05 s"

    def test_a_lost_broker_kills_commands_whose_messages_are_others_now(self, cli, broker):
        broker.put("q", "a", ack_timeout=30)
        script = "import time; print('up', flush=True); time.sleep(60)"
        process = cli.start("work", "q", "--", *WORD, script)
        assert process.stdout.readline() == "up\n"
        broker.hang_up()
        # its stdout is the command's too: that it ends shows that the command has
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (exits.UNAVAILABLE, "")
        assert "closed the connection" in err

    def test_results_as_json(self, cli, broker):
        broker.put("q", "a", "b", ack_timeout=30)
        script = "import sys; sys.exit(sys.stdin.read() == 'b')"
        out = cli.run("work", "q", "-n", "2", "--json", "--", *WORD, script).out.splitlines()
        told = {"topic": "q", "message_id": "m1", "attempt": 1, "result": "ack"}
        assert json.loads(out[0]) == told
        told |= {"message_id": "m2", "result": "nack", "reason": "exit status 1"}
        assert json.loads(out[1]) == told

    def test_no_such_command(self, cli, broker):
        result = cli.run("work", "q", "--", "no-such-command-here")
        assert (result.code, broker.received) == (exits.USAGE, [])


STATS = {
    "type": "stats",
    "queues": [{"name": "jobs", "state": "running", "ready": 3, "leased": 1, "delayed": 0,
                "dead": 2, "consumers": 1, "bytes": 1234, "paused": False},
               {"name": "x\x1b[31m", "state": "failed", "ready": 0, "leased": 0, "delayed": 0,
                "dead": 0, "consumers": 0, "bytes": 0, "paused": True}],
    "topics": [{"name": "news", "state": "running", "subscribers": 2, "kept": 0, "groups": ["a"]}],
    "connections": 1, "server": {},
}  # fmt: skip
TREE = {
    "type": "tree",
    "actors": [
        {"name": "root", "kind": "root", "state": "running", "age_s": 4000.0, "parent": None,
         "mailbox": {"depth": 0, "room": 64, "waiting": 0}, "restarts": 0, "last_error": None},
        {"name": "queue jobs", "kind": "queue", "state": "running", "age_s": 12.34,
         "parent": "queues", "mailbox": {"depth": 64, "room": 64, "waiting": 2}, "restarts": 1,
         "last_error": "ValueError: x", "handled": 17},
        {"name": "queues", "kind": "supervisor", "state": "running", "age_s": 100.0,
         "parent": "root", "restarts": 0},
    ],
}  # fmt: skip


class TestQuestions:
    def test_ping(self, cli):
        assert cli("ping", "-n", "2").out.count("pong from msg://127.0.0.1:") == 2
        assert json.loads(cli("ping", "--json").out)["ms"] >= 0

    def test_no_broker_is_exit_69(self, cli):
        result = cli("ping", "--url", f"127.0.0.1:{free_port()}")
        assert result.code == exits.UNAVAILABLE
        assert result.err.startswith("trio-msg: no broker at 127.0.0.1:")

    def test_a_broker_that_says_nothing_is_none(self, cli, broker):
        broker.answers["ping"] = []
        broker.hang_up_after = 1
        assert cli("ping").code == exits.UNAVAILABLE

    def test_something_else_on_the_port(self, cli):
        with socket.create_server(("127.0.0.1", 0)) as server:

            def answer():
                connection, _ = server.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            thread = threading.Thread(target=answer)
            thread.start()
            result = cli("ping", "-u", f"127.0.0.1:{server.getsockname()[1]}")
            thread.join()
        assert result.code == exits.UNAVAILABLE
        assert "not a broker" in result.err

    def test_an_answer_that_breaks_a_command_is_no_answer(self, cli, broker):
        broker.answers["limits"] = {"type": "limits"}  # of a broker that is not ours, say
        result = cli("limits")
        assert result.code == exits.SOFTWARE  # and not 1, which says that the answer is no
        assert "KeyError: 'limits'" in result.err

    def test_an_output_that_cannot_say_all_characters(self, cli):
        cli.env |= {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "COLUMNS": "40"}
        result = cli.run("pub", "--help")
        assert (result.code, result.err) == (0, "")
        assert "\\u2026" in result.out  # where the table cuts a word

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
    def test_help_that_cannot_be_written(self, cli):
        with open("/dev/full", "w") as full:
            process = cli.start("--help", stdout=full)
            _, err = process.communicate(timeout=30)
        assert process.returncode == exits.IO_ERROR
        assert err == "trio-msg: the output cannot be written: No space left on device\n"

    def test_queues_as_columns_and_json(self, cli, broker):
        broker.answers["stats"] = STATS
        lines = cli("queues").out.splitlines()
        assert lines[0].split() == ["queue", "state", "ready", "leased", "delayed", "dead",
                                    "consumers", "bytes"]  # fmt: skip
        assert lines[1].split() == ["jobs", "running", "3", "1", "0", "2", "1", "1234"]
        assert lines[2].split()[:2] == ["x\\x1b[31m", "paused"]
        assert json.loads(cli("queues", "--json").out) == STATS["queues"]

    def test_topics(self, cli, broker):
        broker.answers["stats"] = STATS
        assert cli("topics").out.splitlines()[1].split() == ["news", "running", "2", "1", "0"]

    def test_pages_are_joined(self, cli, broker):
        def answer(frame):
            n = int(frame.get("cursor", 0))
            page = {"type": "stats", "queues": [{"name": f"q{n}"}], "topics": []}
            return [page if n == 2 else {**page, "cursor": str(n + 1)}]

        broker.answers["stats"] = answer
        names = [queue["name"] for queue in json.loads(cli("queues", "--json").out)]
        assert names == ["q0", "q1", "q2"]

    def test_tree(self, cli, broker):
        broker.answers["tree"] = TREE
        lines = cli("tree").out.splitlines()
        assert [re.split(r"(?<=\S)  ", line)[0] for line in lines] == [
            "actor", "root", "└ queues", "  └ queue jobs",
        ]  # fmt: skip
        assert lines[3].split() == ["└", "queue", "jobs", "running", "64/64", "+2", "waiting",
                                    "12", "s", "17", "restarts", "1,", "ValueError:", "x"]  # fmt: skip
        assert json.loads(cli("tree", "--json").out)["actors"] == TREE["actors"]

    def test_limits(self, cli, broker):
        broker.answers["limits"] = {"type": "limits", "limits": Limits().numbers()}
        lines = dict(line.split(maxsplit=1) for line in cli("limits").out.splitlines())
        assert lines["frame_bytes"].split() == ["1048576", "1MiB"]
        assert lines["connections"].split() == ["20000"]

    def test_a_table_on_a_terminal_has_colour(self, cli, broker):
        broker.answers["stats"] = STATS
        master, slave = os.openpty()
        cli.env["TERM"] = "xterm-256color"
        process = cli.start("queues", stdout=slave)
        os.close(slave)
        shown = b""
        while b"1234" not in shown:
            shown += os.read(master, 4096)
        process.wait(20)
        os.close(master)
        assert b"\x1b[1m" in shown  # the head
        assert b"x\x1b[31m" not in shown  # a name cannot colour


class TestSettings:
    def test_config_show_says_where_each_value_is_from(self, cli, tmp_path):
        path = tmp_path / "msg.toml"
        path.write_text('log_level = "debug"\n[queues."jobs.*"]\nttl = "5m"\n')
        result = cli("config", "show", "--config", str(path), "--port", "1",
                     MSG_LIMITS_FRAME_BYTES="2MiB")  # fmt: skip
        rows = {line.split()[0]: line.split()[1:] for line in result.out.splitlines()}
        assert rows["port"] == ["1", "--port"]
        assert rows["log_level"] == ["debug", f"{path}:1"]
        assert rows['queues."jobs.*".ttl'] == ["300s", f"{path}:3"]
        assert rows["limits.frame_bytes"] == ["2MiB", "MSG_LIMITS_FRAME_BYTES"]
        assert rows["host"] == ["localhost", "default"]
        shown = json.loads(cli("config", "show", "--json", "--port", "1").out)
        assert shown["port"] == {"value": 1, "origin": "--port"}

    def test_config_check(self, cli, tmp_path):
        path = tmp_path / "msg.toml"
        path.write_text("port = 1\n")
        assert cli("config", "check", str(path)).out == f"{path}: good\n"
        path.write_text("\nprot = 1\n")
        result = cli("config", "check", str(path))
        assert result.code == exits.CONFIG
        problem = f"{path}:2: unknown key prot; did you mean port?"
        assert result.err == f"trio-msg: {problem}\n"
        result = cli("config", "check", "--json", str(path))
        assert json.loads(result.out) == {"good": False, "problems": [problem]}
        assert json.loads(cli("config", "check", "--json").out)["good"] is True


class TestTheRest:
    def test_version(self, cli):
        assert cli("--version").out == f"trio-msg {__version__}\n"
        assert cli("version").out.startswith(f"trio-msg {__version__}\npython ")
        assert json.loads(cli("version", "--json").out)["trio-msg"] == __version__

    @pytest.mark.parametrize("line", ["no-such", "pub", "ping --no-such", "get q -n 0", ""])
    def test_wrong_command_lines_are_64(self, line, capsys):
        with pytest.raises(SystemExit) as left:
            main(line.split())
        assert left.value.code == exits.USAGE

    def test_a_url_that_is_none(self, cli):
        result = cli("ping", "--url", "http://x")
        assert (result.code, "msg://host:port" in result.err) == (exits.USAGE, True)

    @pytest.mark.parametrize(
        "name",
        ["serve", "pub", "sub", "send", "get", "work", "queues", "topics", "tree", "ping",
         "limits", "config", "config show", "config check", "version"],
    )  # fmt: skip
    def test_every_command_has_help(self, name, capsys):
        with pytest.raises(SystemExit) as left:
            main([*name.split(), "--help"])
        assert left.value.code == 0
        assert f"trio-msg {name}" in capsys.readouterr().out

    def test_one_shot_commands_import_nothing_heavy(self, cli):
        script = (
            "import sys, msg.cli.main\n"
            "heavy = {'trio', 'rich', 'msgspec', 'cattrs', 'attrs', 'structlog', 'asyncio'}\n"
            "print(sorted(heavy & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
        assert done.stdout == b"[]\n"

    def test_codes_of_refusals(self):
        assert refusal_code("not_found", "never") == exits.NEGATIVE
        assert refusal_code("something_new", "later") == exits.TEMPORARY
        assert refusal_code("something_new", "never") == exits.DATA
