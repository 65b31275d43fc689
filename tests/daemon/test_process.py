"""The real broker as a process: what only a real process, disk and socket can show."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from msg.daemon import exits
from msg.daemon.process import show_address
from msg.plain_client import PlainClient, Unavailable

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent.parent
SECONDS = 30.0  # a hang is to be an error and not a hang
ENV = {k: v for k, v in os.environ.items() if not k.upper().startswith("MSG_")}


class Broker:
    """`trio-msg serve` on a free port; started again on the same data after a kill."""

    def __init__(self, folder):
        self.folder = folder
        self.start()

    def start(self, *args):
        self.log = open(self.folder / "log", "a+")  # noqa: SIM115
        command = [sys.executable, "-m", "msg", "--port", "0", "--data-dir",
                   str(self.folder / "data"), *args]  # fmt: skip
        self.process = subprocess.Popen(command, cwd=ROOT, env=ENV, text=True,
                                        stdout=subprocess.PIPE, stderr=self.log)  # fmt: skip
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline()
        if "listening on" not in self.ready:
            self.ended()
            raise AssertionError((self.folder / "log").read_text())
        self.port = int(self.ready.partition(",")[0].rpartition(":")[2])
        self.url = f"msg://localhost:{self.port}"

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.ended()

    def ended(self):
        code = self.process.wait(SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        return code

    def connect(self):
        return PlainClient.connect(self.url)

    def cli(self, *args, stdin=""):
        command = [sys.executable, "-c", "from msg.cli.main import main; main()", *args]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=ROOT,
                              timeout=SECONDS, env={**ENV, "MSG_URL": self.url},
                              check=False)  # fmt: skip
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout


@pytest.fixture
def broker(tmp_path):
    running = Broker(tmp_path)
    yield running
    if running.process.poll() is None:
        running.stop(signal.SIGKILL)


def test_the_command_line_end_to_end(broker):
    cli = broker.cli
    assert cli("ping")[0] == 0
    code, out = cli("send", "jobs", '{"n": 1}', "--id", "first")
    assert (code, out) == (0, "first\n")
    assert cli("send", "jobs", "-", stdin="two\n3\n")[0] == 0
    ((queue,),) = [json.loads(cli("queues", "--json")[1])]
    assert (queue["name"], queue["ready"]) == ("jobs", 3)
    assert cli("get", "jobs", "--no-ack", "-n", "5") == (0, '{"n":1}\ntwo\n3\n')
    assert cli("get", "jobs", "-n", "1", "--json")[1].count('"attempt":1') == 1
    script = "import sys; body = sys.stdin.read(); print(body); sys.exit(body != 'two')"
    assert cli("work", "jobs", "-n", "2", "--", sys.executable, "-c", script) == (0, "two\n3\n")
    assert cli("get", "empty")[0] == exits.NEGATIVE
    assert cli("pub", "news.a", "hello")[0] == 0
    assert cli("sub", "news.a", "-n", "1") == (0, "hello\n")
    names = [actor["name"] for actor in json.loads(cli("tree", "--json")[1])["actors"]]
    assert "queue jobs" in names
    assert json.loads(cli("limits", "--json")[1])["frame_bytes"] == 1 << 20
    assert json.loads(cli("topics", "--json")[1]) is not None
    assert cli("send", "bad name", "x")[0] == exits.USAGE


def test_clients_of_the_original_project_run_unchanged(broker):
    """Its README's code: no newline written, `read(1024)`, publish first and then subscribe."""

    async def publish(mode):
        reader, writer = await asyncio.open_connection("localhost", broker.port)
        message = {"action": "publish", "topic": "example_topic", "message": "Hello, World!",
                   "mode": mode}  # fmt: skip
        writer.write(json.dumps(message).encode())
        await writer.drain()
        response = await reader.read(1024)
        writer.close()
        await writer.wait_closed()
        return json.loads(response.decode())

    async def subscribe(mode):
        reader, writer = await asyncio.open_connection("localhost", broker.port)
        message = {"action": "subscribe", "topic": "example_topic", "mode": mode}
        writer.write(json.dumps(message).encode())
        await writer.drain()
        data = await reader.read(1024)
        answer = json.loads(data.decode())
        writer.write(json.dumps({"action": "ack", "message_id": answer["message_id"]}).encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        return answer

    for mode in ("pubsub", "queue"):
        ack = asyncio.run(publish(mode))
        assert ack["type"] == "ack"
        delivery = asyncio.run(subscribe(mode))
        assert delivery["type"] == "message"
        assert delivery["message"] == "Hello, World!"
        assert delivery["message_id"] == ack["message_id"]


def test_the_readmes_program_runs(broker):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    programs = [block.partition("```")[0] for block in readme.split("```python\n")[1:]]
    (program,) = [program for program in programs if '"localhost", 8888' in program]
    program = program.replace('"localhost", 8888', f'"localhost", {broker.port}')
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True,
                          text=True, timeout=SECONDS, check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "'type': 'ack'" in lines[0]
    assert "'type': 'subscribed'" in lines[1]
    assert lines[2] == "{'n': 1} attempt 1"
    assert "'type': 'acked'" in lines[3]
    assert "'count': 1" in lines[3]


def test_what_was_acked_survives_kill_9(broker):
    with broker.connect() as client:
        for n in range(200):
            client.send({"action": "publish", "topic": "jobs", "mode": "queue", "message": n,
                         "id": str(n)})  # fmt: skip
        for _ in range(200):
            assert client.receive(SECONDS)["type"] == "ack"
        client.ask({"action": "subscribe", "topic": "jobs", "mode": "queue", "prefetch": 3})
        tags = [client.receive(SECONDS)["tag"] for _ in range(3)]
        client.ask({"action": "ack", "tag": tags[0]})
        broker.stop(signal.SIGKILL)
    broker.start()
    with broker.connect() as client:
        client.ask({"action": "subscribe", "topic": "jobs", "mode": "queue", "prefetch": 500})
        got = [client.receive(SECONDS) for _ in range(199)]
    assert [frame["message"] for frame in got] == list(range(1, 200))
    assert {frame["attempt"] for frame in got} == {1}  # the crash was not the consumers'
    assert broker.stop() == exits.OK


def test_a_drain_takes_acks_refuses_publishes_and_says_so(broker):
    with broker.connect() as consumer, broker.connect() as publisher:
        publisher.ask({"action": "publish", "topic": "q", "mode": "queue", "message": 1})
        consumer.ask({"action": "subscribe", "topic": "q", "mode": "queue"})
        tag = consumer.receive(SECONDS)["tag"]
        broker.process.send_signal(signal.SIGTERM)
        assert consumer.receive(SECONDS)["type"] == "closing"
        assert publisher.receive(SECONDS)["type"] == "closing"
        publisher.send({"action": "publish", "topic": "q", "mode": "queue", "message": 2})
        assert publisher.receive(SECONDS)["code"] == "draining"
        consumer.ask({"action": "ack", "tag": tag})
        assert broker.ended() == exits.OK
        with pytest.raises(Unavailable):
            broker.connect()
    broker.start()
    assert broker.cli("get", "q")[0] == exits.NEGATIVE


def test_localhost_is_both_addresses_on_one_port(broker):
    reached = []
    for host in ("127.0.0.1", "::1"):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with contextlib.suppress(OSError), socket.create_server((host, 0), family=family):
            reached.append(host)  # this machine has such an address
    for host in reached:
        address = show_address(host, broker.port)
        with PlainClient.connect(f"msg://{address}") as client:
            assert client.ask({"action": "ping"})["type"] == "pong"
        assert address in broker.ready


def test_two_brokers_on_one_directory(broker):
    command = [sys.executable, "-m", "msg", "--port", "0", "--data-dir",
               str(broker.folder / "data")]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True,
                          timeout=SECONDS, check=False)  # fmt: skip
    assert done.returncode == exits.TEMPORARY
    assert str(broker.process.pid) in done.stderr


@pytest.mark.full
def test_sigusr1_and_sighup_of_the_real_tree(broker):
    broker.cli("send", "jobs", "x")
    broker.process.send_signal(signal.SIGUSR1)
    broker.process.send_signal(signal.SIGHUP)
    assert broker.cli("ping")[0] == 0
    assert broker.stop() == exits.OK
    events = [json.loads(line) for line in (broker.folder / "log").read_text().splitlines()]
    (tree,) = [event for event in events if event["event"] == "tree"]
    assert "queue jobs" in [actor["name"] for actor in tree["actors"]]
    assert tree["knots"] == []
    assert any(event["event"] == "settings reloaded" for event in events)
