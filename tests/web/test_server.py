"""The page of a real `trio-msg serve`: its port, its token, its command, its end."""

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from msg.daemon import exits
from tests.e2e.process import ENV, ROOT

pytestmark = pytest.mark.process
SECONDS = 30.0
DEFAULT = ("127.0.0.1", 8889)


@contextmanager
def served(folder: Path, *args: str):
    """A broker: (process, the line that tells of the page, data directory)."""
    data = folder / "data"
    command = [sys.executable, "-m", "msg", "--host", "127.0.0.1", "--port", "0", "--data-dir",
               str(data), *args]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=ENV, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    try:
        assert b"listening on" in process.stdout.readline(), (folder / "log").read_text()
        yield process, process.stdout, data
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(SECONDS)
        finally:
            process.kill()
            process.stdout.close()


def address(stdout) -> str:
    line = stdout.readline().decode()
    assert line.startswith("web page at http://"), line
    return str(line.split()[3])


def ask(url: str, path: str, method: str = "GET", body: object = None, **headers: str):
    """(status, headers, body) of one request on a connection of its own."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=SECONDS)
    data = None if body is None else json.dumps(body).encode()
    connection.request(
        method, path, body=data, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    answer = connection.getresponse()
    read = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), read


def cli(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from msg.cli.main import main; main()", *args]
    return subprocess.run(
        command, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=SECONDS
    )


def test_page_command_gives_the_address_that_writes(tmp_path):
    with served(tmp_path, "--http", "127.0.0.1:0") as (process, stdout, data):
        url = address(stdout)
        token_file = data / "WEB_TOKEN"
        assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
        said = cli("page", "--data-dir", str(data))
        assert said.returncode == 0, said.stderr
        shown, _, token = said.stdout.strip().partition("#token=")
        assert shown == url
        assert token == token_file.read_text().strip()
        publish = {"topic": "jobs", "mode": "queue", "message": {"n": 1}}
        assert ask(url, "/api/publish", "POST", publish)[0] == 401
        status, _, body = ask(url, "/api/publish", "POST", publish, authorization=f"Bearer {token}")
        assert (status, list(json.loads(body))) == (200, ["message_id"])
        assert json.loads(ask(url, "/stats")[2])["queues"][0]["ready"] == 1
        assert b"msg_queue_ready" in ask(url, "/metrics")[2]
        assert ask(url, "/", host="evil.example")[0] == 421
        status, headers, _ = ask(url, "/")
        assert status == 200
        assert "server" not in {name.lower() for name in headers}
        # a stop does not wait for a browser that keeps its connection open
        lingering = http.client.HTTPConnection(
            "127.0.0.1", urlsplit(url).port or 0, timeout=SECONDS
        )
        lingering.request("GET", "/healthz")
        lingering.getresponse().read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
        lingering.close()
    assert not (data / "WEB_ADDRESS").exists()
    gone = cli("page", "--data-dir", str(data))
    assert gone.returncode == exits.UNAVAILABLE
    assert "no broker with a page" in gone.stderr
    assert cli("doctor", str(data)).returncode == 0  # our files are known to it
    with served(tmp_path, "--http", "127.0.0.1:0") as (_, stdout, _):
        address(stdout)
        assert token_file.read_text().strip() == token  # the same after a restart


@pytest.mark.full
def test_the_default_port_gives_way_when_it_is_taken(tmp_path):
    with socket.socket() as taken:
        try:
            taken.bind(DEFAULT)
            taken.listen()
        except OSError:
            pass  # somebody else has it: as good
        with served(tmp_path) as (_, stdout, _):
            url = address(stdout)
            port = urlsplit(url).port or 0
            assert DEFAULT[1] < port < DEFAULT[1] + 20
            assert ask(url, "/healthz")[0] == 200
        assert "the page's port is taken" in (tmp_path / "log").read_text()


@pytest.mark.full
def test_the_tree_names_each_listener_and_tells_no_age_that_it_does_not_know(tmp_path):
    with served(tmp_path, "--http", "localhost:0") as (_, stdout, _):
        actors = json.loads(ask(address(stdout), "/tree")[2])["actors"]
        names = [actor["name"] for actor in actors]
        assert "web listener 127.0.0.1" in names
        assert len(names) == len(set(names))
        (ours,) = [actor for actor in actors if actor["name"].startswith("web connection")]
        assert "age_s" not in ours  # it was the broker's


def test_a_port_that_was_asked_for_and_is_taken_is_an_error(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "msg", "--port", "0", "--http", f"127.0.0.1:{port}",
             "--data-dir", str(tmp_path / "data")],
            cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        assert ended.returncode == exits.UNAVAILABLE
        assert f"127.0.0.1:{port}" in ended.stderr


@pytest.mark.parametrize("http", ["127.0.0.1:web", "0.0.0.0:8889", "127.0.0.1:99999"])
def test_an_address_that_cannot_be_is_refused_before_anything_starts(tmp_path, http):
    ended = subprocess.run(
        [sys.executable, "-m", "msg", "--port", "0", "--http", http, "--data-dir",
         str(tmp_path / "data")],
        cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert ended.returncode == exits.CONFIG
    assert "http" in ended.stderr
    assert not (tmp_path / "data").exists()


def test_off_means_no_port_and_no_file(tmp_path):
    with served(tmp_path, "--http", "off") as (process, _, data):
        assert cli("page", "--data-dir", str(data)).returncode == exits.UNAVAILABLE
        assert not (data / "WEB_TOKEN").exists()
        if sys.platform == "linux":
            sockets = Path(f"/proc/{process.pid}/net/tcp").read_text()
            inodes = {os.readlink(f"/proc/{process.pid}/fd/{fd}")
                      for fd in os.listdir(f"/proc/{process.pid}/fd")}  # fmt: skip
            listening = [line for line in sockets.splitlines()[1:]
                         if line.split()[3] == "0A" and f"socket:[{line.split()[9]}]" in inodes]  # fmt: skip
            assert len(listening) == 1  # the broker's own port
