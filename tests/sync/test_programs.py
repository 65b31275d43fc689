"""`msg.sync` in programs of their own: how they end, what they leave behind, the prompt."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.process
SECONDS = 30

FORGETFUL = """
import msg.sync

client = msg.sync.connect()
client.publish_many("jobs", range(5), mode="queue")
for message in client.consume("jobs"):
    with message:
        print("did", message.body)
    if message.body == 1:
        break
waiting = client.consume("jobs").open()
"""


def python(*args: str, url: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", *args], cwd=ROOT, env={**os.environ, "MSG_URL": url},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_a_program_that_forgets_its_client_ends_cleanly(msg_server):
    program = python("-c", FORGETFUL, url=msg_server.url)
    out, err = program.communicate(timeout=SECONDS)
    assert (program.returncode, out, err) == (0, "did 0\ndid 1\n", "")
    queue = msg_server.queue("jobs")
    # what was acked last is acked, and what waited went back as if nothing had been
    assert (queue.settled, queue.leased, queue.bodies) == (2, (), [2, 3, 4])
    assert all(letter.attempt == 1 for letter in queue.ready)


def test_a_program_that_fails_ends_cleanly_too(msg_server):
    program = python("-c", FORGETFUL + "raise SystemExit(3)", url=msg_server.url)
    assert program.communicate(timeout=SECONDS)[1] == ""
    assert program.returncode == 3
    assert msg_server.queue("jobs").bodies == [2, 3, 4]


def test_the_prompt(msg_server):
    """Line by line, as one types it; an error leaves the client usable."""
    lines = [
        "import msg",
        "client = msg.sync.connect()",
        "client.publish('no name at all', 1)",
        "client.send('jobs', {'n': 1}).duplicate",
        "message = client.get('jobs')[0]",
        "message.body",
        "with message: pass",
        "",
        "exit()",
    ]
    program = python("-i", "-q", url=msg_server.url)
    out, err = program.communicate("\n".join(lines) + "\n", timeout=SECONDS)
    assert out.splitlines() == ["False", "{'n': 1}"]
    assert "Refused" in err
    assert program.returncode == 0
    assert msg_server.queue("jobs").settled == 1


def test_ctrl_c_ends_a_program_that_waits(msg_server):
    """With Python's own traceback and exit code, and nothing left leased."""
    code = """
import msg.sync
with msg.sync.connect() as client:
    messages = client.consume("jobs").open()
    print("waiting", flush=True)
    for message in messages:
        print("never")
"""
    program = python("-c", code, url=msg_server.url)
    assert program.stdout is not None
    assert program.stdout.readline() == "waiting\n"
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=SECONDS)
    assert out == ""
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert err.count("Traceback") == 1
    assert program.returncode == -signal.SIGINT
    assert msg_server.queue("jobs").consumers == ()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_stop_finishes_its_message(msg_server, number):
    code = """
import msg.sync
def handle(message):
    print("begun", flush=True)
    input()
    print("done", message.body, flush=True)
with msg.sync.connect() as client:
    client.publish_many("jobs", range(3), mode="queue")
    client.run_worker("jobs", handle)
    print("stopped")
"""
    program = python("-c", code, url=msg_server.url)
    assert program.stdout is not None
    assert program.stdout.readline() == "begun\n"
    program.send_signal(number)
    # what waited for its turn goes back once it has heard; only then may the handler end
    deadline = time.monotonic() + SECONDS
    while msg_server.queue("jobs").bodies != [1, 2]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    out, err = program.communicate("go on\n", timeout=SECONDS)
    assert (program.returncode, out, err) == (0, "done 0\nstopped\n", "")
    queue = msg_server.queue("jobs")
    assert (queue.settled, queue.bodies) == (1, [1, 2])


def test_after_a_fork_the_child_needs_its_own(msg_server):
    code = """
import os, msg, msg.sync
client = msg.sync.connect()
child = os.fork()
if not child:
    try:
        client.publish("news", 1)
    except msg.Closed as error:
        print(error, flush=True)
    client.close()
    with msg.sync.connect() as mine:
        mine.send("jobs", "from the child")
    os._exit(0)
os.waitpid(child, 0)
client.send("jobs", "from the parent")
"""
    program = python("-c", code, url=msg_server.url)
    out, _err = program.communicate(timeout=SECONDS)
    assert out == "this client belongs to the process before the fork: connect anew\n"
    assert program.returncode == 0
    assert msg_server.queue("jobs").bodies == ["from the child", "from the parent"]
