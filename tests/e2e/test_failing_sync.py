"""A real process whose fdatasync really fails: no ack after it, exit 74, and the next start
serves what is durable. (A full disk, likewise really full: test_disk_full.py.)"""

import subprocess
import sys

import pytest

from msg.daemon.exits import IO_ERROR
from msg.plain_client import PlainClient, Unavailable
from tests.e2e.process import ENV, ROOT, SECONDS, Broker

pytestmark = pytest.mark.process

# From when the file `failing` is there, every sync fails, as that of a dying disk does.
FAILING = """
import errno, os, sys
from pathlib import Path
failing, real = Path(sys.argv.pop(1)), os.fdatasync
def fdatasync(fd):
    if failing.exists():
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    real(fd)
os.fdatasync = fdatasync
from msg.cli.main import main
main()
"""


def publish(n: int) -> dict[str, object]:
    return {"action": "publish", "topic": "jobs", "mode": "queue", "message": n,
            "message_id": f"m{n}"}  # fmt: skip


def test_no_ack_after_a_failed_sync_exit_74_and_the_next_start_serves_what_is_durable(tmp_path):
    failing = tmp_path / "failing"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", FAILING, str(failing), "serve", "--host", "127.0.0.1",
             "--port", "0", "--http", "off", "--data-dir", str(tmp_path / "data")],
            cwd=ROOT, env={**ENV, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
    assert process.stdout is not None
    try:
        ready = process.stdout.readline().decode()
        assert "listening on" in ready, (tmp_path / "log").read_text()
        port = int(ready.partition(",")[0].rpartition(":")[2])
        with PlainClient.connect(f"msg://127.0.0.1:{port}") as client:
            for n in range(5):
                assert client.ask(publish(n))["type"] == "ack"
            failing.touch()
            client.send({**publish(5), "id": "five"})
            client.send({**publish(6), "id": "six"})
            frames = []
            with pytest.raises(Unavailable, match=r"closed|lost"):
                while True:
                    frames.append(client.receive(SECONDS))
            answers = [frame for frame in frames if frame["type"] == "ack" or "id" in frame]
            assert answers == [], "their outcome is unknown, and nobody may say otherwise"
        assert process.wait(SECONDS) == IO_ERROR == 74
    finally:
        process.kill()
        process.wait(SECONDS)
        process.stdout.close()
    said = (tmp_path / "log").read_text()
    assert "disk" in said
    with Broker(tmp_path) as broker, broker.connect() as client:
        client.send({"action": "get", "topic": "jobs", "n": 10})
        got = []
        count = None
        while count is None or len(got) < count:
            frame = client.receive()
            if frame["type"] == "message":
                got.append(frame["message_id"])
            else:
                count = frame["count"]
        # the unanswered ones may be there: whoever published them does so again, by their id
        assert got[:5] == [f"m{n}" for n in range(5)]
        assert set(got[5:]) <= {"m5", "m6"}
        assert client.ask(publish(7))["type"] == "ack"
