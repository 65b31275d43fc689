"""The programs in `examples/`, each run as its docstring says, against a broker with a port."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SECONDS = 40
pytestmark = pytest.mark.process


@pytest.fixture
def example(msg_server):
    """Start `examples/NAME.py ARGS`; what is still running at the end is killed."""
    programs: list[subprocess.Popen[str]] = []

    def start(name: str, *args: str) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            [sys.executable, "-W", "error", f"examples/{name}.py", *args],
            cwd=ROOT, env={**os.environ, "MSG_URL": msg_server.url, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        programs.append(program)
        return program

    yield start
    for program in programs:
        program.kill()
        program.communicate()


def output(program: subprocess.Popen[str], code: int = 0) -> str:
    """All that it says until its end, which is to be a good one."""
    out, err = program.communicate(timeout=SECONDS)
    assert (program.returncode, err) == (code, "")
    return out


def lines(program: subprocess.Popen[str], count: int) -> list[str]:
    assert program.stdout is not None
    return [program.stdout.readline().rstrip("\n") for _ in range(count)]


def say(program: subprocess.Popen[str], text: str) -> None:
    assert program.stdin is not None
    program.stdin.write(text + "\n")
    program.stdin.flush()


def test_a_work_queue_with_retries(example, msg_server):
    worker = example("work_queue", "worker")
    assert lines(worker, 1)[0].startswith("waiting for jobs")
    assert output(example("work_queue", "send", "4", "9", "16", "-1")) == "sent 4\n"
    # whatever comes again in between: each is done in the end
    assert sorted(lines(worker, 3)) == [f"the square root of {n * n} is {n}" for n in (4, 2, 3)]
    deadline = time.monotonic() + SECONDS
    while not msg_server.queue("roots").dead:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker.send_signal(signal.SIGINT)
    out, _ = worker.communicate(timeout=SECONDS)
    assert (worker.returncode, out) == (0, "")
    assert output(example("work_queue", "dead")) == (
        "{'number': -1.0} died of a negative number has no square root\n"
    )
    assert msg_server.queue("roots").empty


def test_a_chat_over_topics(example):
    ada, bob, eve = (
        example("chat", who, room) for who, room in (("ada", "kitchen"), ("bob", "kitchen"), ("eve", "*"))
    )  # fmt: skip
    for program in (ada, bob, eve):
        assert lines(program, 1)[0].startswith("in ")
    say(ada, "is there coffee?")
    assert lines(bob, 1) == ["[kitchen] ada: is there coffee?"]
    say(bob, "always")
    assert lines(ada, 1) == ["[kitchen] bob: always"]
    assert lines(eve, 2) == ["[kitchen] ada: is there coffee?", "[kitchen] bob: always"]
    for program in (ada, bob):
        say(program, "")
        assert output(program) == ""
    eve.send_signal(signal.SIGINT)
    assert output(eve, -signal.SIGINT) == ""


def test_a_request_reply_service(example):
    services = [example("service", "serve") for _ in range(2)]
    for service in services:
        assert lines(service, 1) == ["serving"]
    assert output(example("service", "ask", "1", "2", "3.5")) == "6.5\n"
    assert "expected float, not str" in output(example("service", "ask", "1", "two"))
    for service in services:
        service.send_signal(signal.SIGTERM)
        assert output(service) == ""


def test_a_sensor_feed_with_history(example):
    assert output(example("sensors", "feed", "cellar", "3")) == "sensors.cellar: 3 readings\n"
    watch = example("sensors", "watch", "*", "5")
    early = lines(watch, 3)
    assert all("sensors.cellar" in line and line.endswith("(kept)") for line in early)
    output(example("sensors", "feed", "attic", "2"))
    late = output(watch).splitlines()
    assert len(late) == 2
    assert all("sensors.attic" in line and line.endswith("(new)") for line in late)
    watch = example("sensors", "watch")
    lines(watch, 5)
    watch.send_signal(signal.SIGINT)
    assert output(watch, -signal.SIGINT) == ""


def test_an_import_with_a_progress_bar(example, msg_server, tmp_path):
    file = tmp_path / "people.csv"
    file.write_text("name,born\n" + "".join(f"P{n},{1900 + n % 100}\n" for n in range(3000)))
    assert output(example("import_csv", str(file))).endswith(
        "3000 rows are kept, 0 of them were before\n"
    )
    again = output(example("import_csv", str(file)))
    assert "people.csv" in again
    assert "100%" in again
    assert again.endswith("3000 rows are kept, 3000 of them were before\n")
    bodies = msg_server.queue("people").bodies
    assert len(bodies) == 3000
    assert bodies[0] == {"name": "P0", "born": "1900"}


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_each_says_how_it_is_used(path):
    program = subprocess.run([sys.executable, path], capture_output=True, text=True, cwd=ROOT)
    assert program.returncode == 1
    assert f"python examples/{path.name}" in program.stderr
