"""`trio-msg chaos --record` between real clients and a real broker; its file is replayed."""

import signal
import subprocess
import sys

import pytest

from msg.plain_client import PlainClient
from tests.e2e.process import ENV, ROOT, SECONDS, Broker

pytestmark = pytest.mark.process


@pytest.mark.full
def test_a_recording_of_real_connections_replays(tmp_path):
    file = tmp_path / "recorded.toml"
    with Broker(tmp_path) as broker:
        command = [sys.executable, "-m", "msg", "chaos", "--record", str(file)]
        recorder = subprocess.Popen([*command, "--url", broker.url], cwd=ROOT, env=ENV,
                                    stdout=subprocess.PIPE, text=True)  # fmt: skip
        assert recorder.stdout is not None
        url = recorder.stdout.readline().split()[3]
        with PlainClient.connect(url) as worker, PlainClient.connect(url) as producer:
            worker.ask({"action": "subscribe", "topic": "jobs", "mode": "queue", "prefetch": 3})
            for n in range(3):
                producer.ask({"action": "publish", "topic": "jobs", "mode": "queue", "message": n})
            for _ in range(3):
                worker.ask({"action": "ack", "tag": worker.receive()["tag"]})
        recorder.send_signal(signal.SIGINT)
        out, _ = recorder.communicate(timeout=SECONDS)
        assert recorder.returncode == 0
        assert f"2 clients, 9 lines; replay it with: trio-msg chaos {file}" in out
        again = subprocess.run([*command, "--url", broker.url], cwd=ROOT, env=ENV, check=False,
                               capture_output=True, text=True, timeout=SECONDS)  # fmt: skip
        assert again.returncode == 73
        assert "is there already" in again.stderr
    replay = subprocess.run([sys.executable, "-m", "msg", "chaos", str(file)], cwd=tmp_path,
                            env={**ENV, "PYTHONPATH": str(ROOT)}, check=False,
                            capture_output=True, text=True, timeout=SECONDS)  # fmt: skip
    assert replay.returncode == 0, replay.stdout
    assert "1 run: all hold" in replay.stdout


def test_no_broker_there_is_said_before_anything_is_recorded(tmp_path):
    done = subprocess.run([sys.executable, "-m", "msg", "chaos", "--record", "f.toml", "--url",
                           "msg://127.0.0.1:1"], cwd=tmp_path, check=False, capture_output=True,
                          env={**ENV, "PYTHONPATH": str(ROOT)}, timeout=SECONDS)  # fmt: skip
    assert done.returncode == 69
