"""The daemon as a process: the ready line, signals, exit codes. The broker is a stub."""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from msg.daemon import exits

ROOT = Path(__file__).parent.parent.parent
SECONDS = 20.0  # nothing here takes one; a hang is to be an error and not a hang


class Daemon:
    """A process of ours, with lines read as they come."""

    def __init__(self, tmp_path, *args, env=None, stderr=subprocess.PIPE):
        self.data = tmp_path / "data"
        command = [sys.executable, "-m", "tests.daemon.stub_daemon", "--port", "0",
                   "--host", "127.0.0.1", "--data-dir", str(self.data), *args]  # fmt: skip
        clean = {k: v for k, v in os.environ.items() if not k.upper().startswith("MSG_")}
        clean["MSG_HTTP"] = "off"  # the stub is no broker that a page could show
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**clean, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        self.readers: list[threading.Thread] = []
        self.out, self.log = (self._lines(s) for s in (self.process.stdout, self.process.stderr))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SECONDS)
        for reader in self.readers:
            reader.join(SECONDS)

    def _lines(self, stream):
        """Lines as they come; None at the end."""
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        def read():
            with stream or contextlib.nullcontext():
                for line in stream or ():
                    lines.put(line.rstrip("\n"))
            lines.put(None)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        self.readers.append(thread)
        return lines

    def line(self):
        return self.out.get(timeout=SECONDS)

    def log_until(self, event):
        """The JSON log up to an event, which is returned."""
        while line := self.log.get(timeout=SECONDS):
            entry = json.loads(line)
            if entry["event"].startswith(event):
                return entry
        raise AssertionError(f"{event!r} is not in the log")

    def ended(self):
        """The code, and all that was logged."""
        code = self.process.wait(SECONDS)
        lines = []
        while (line := self.log.get(timeout=SECONDS)) is not None:
            lines.append(line)
        return code, "\n".join(lines)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


def test_ready_line_port_file_and_a_clean_stop(tmp_path):
    port_file = tmp_path / "port"
    with Daemon(tmp_path, "--port-file", str(port_file)) as daemon:
        ready = daemon.line()
        port = int(port_file.read_text())
        assert ready.endswith(f"listening on 127.0.0.1:{port}, data in {daemon.data}")
        with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
            assert connection.recv(100) == b"hello\n"
        assert daemon.log_until("ready")["data_dir"] == str(daemon.data)
        assert daemon.data.stat().st_mode & 0o777 == 0o700
        assert daemon.stop() == exits.OK
        assert not port_file.exists()
        assert daemon.log_until("stopped")


def test_ctrl_c_drains_too(tmp_path):
    with Daemon(tmp_path) as daemon:
        daemon.line()
        assert daemon.stop(signal.SIGINT) == exits.OK


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_exits_at_once(tmp_path, number):
    with Daemon(tmp_path, env={"STUB_HANG": "1"}) as daemon:
        daemon.line()
        daemon.process.send_signal(signal.SIGTERM)
        daemon.log_until("draining")
        assert daemon.stop(number) == 128 + number


def test_a_stop_before_it_serves(tmp_path):
    with Daemon(tmp_path, env={"STUB_SLOW": "1"}) as daemon:
        assert daemon.line() == "slow"
        assert daemon.stop() == exits.OK


def test_sighup_reloads_what_can_be_reloaded(tmp_path):
    config = tmp_path / "msg.toml"
    config.write_text("drain_seconds = 1\n")
    with Daemon(tmp_path, "--config", str(config)) as daemon:
        daemon.line()
        config.write_text('drain_seconds = 2\nlog_format = "text"\nlog_level = "debug"\n')
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.line() == "reloaded 2.0"
        entry = daemon.log_until("settings reloaded")
        assert entry["changed"] == ["log_level: info -> debug", "drain_seconds: 1s -> 2s"]
        assert entry["need_restart"] == ["log_format: auto -> text"]
        config.write_text("drian_seconds = 3\n")
        daemon.process.send_signal(signal.SIGHUP)
        entry = daemon.log_until("settings not reloaded")
        assert "did you mean drain_seconds?" in entry["problems"][0]
        assert daemon.stop() == exits.OK


def test_sigusr1_dumps_the_tree(tmp_path):
    with Daemon(tmp_path, "--log-format", "text") as daemon:
        daemon.line()
        daemon.process.send_signal(signal.SIGUSR1)
        while "tree count=2" not in daemon.log.get(timeout=SECONDS):
            pass  # whatever this machine gave reason to warn of
        lines = [daemon.log.get(timeout=SECONDS) for _ in range(3)]
    assert [line.split()[0] for line in lines] == ["actor", "root", "└"]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("bug", exits.SOFTWARE, "ZeroDivisionError"),
        ("store", exits.IO_ERROR, "fdatasync failed"),
        ("both", exits.IO_ERROR, "ZeroDivisionError"),
        ("locked", exits.TEMPORARY, "process 17 holds"),
        ("newer", exits.DATA, "format 9 is newer"),
    ],
)
def test_each_end_has_its_code(tmp_path, error, code, said):
    with Daemon(tmp_path, env={"STUB_RAISE": error}) as daemon:
        ended, log = daemon.ended()
        assert ended == code
        assert said in log


def test_a_port_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with Daemon(tmp_path, "--port", port) as daemon:
            code, log = daemon.ended()
    assert code == exits.UNAVAILABLE
    assert "in use" in log


@pytest.mark.full
def test_refusals_before_the_start(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for args, code, said in [
        (["--data-dir", str(file / "x")], exits.CANT_CREATE, "data directory cannot be made"),
        (["--port-file", str(file / "x")], exits.CANT_CREATE, "port file"),
        (["--set", "limits.nmaes=1"], exits.CONFIG, "did you mean names?"),
        (["--host", "0.0.0.0"], exits.CONFIG, "--insecure"),
        (["--nope"], exits.USAGE, "No such option"),
        (["--port", "x"], exits.USAGE, "--port"),
    ]:
        with Daemon(tmp_path, *args) as daemon:
            ended, log = daemon.ended()
            assert (ended, said in log) == (code, True), (args, log)


def test_insecure_listens_everywhere(tmp_path):
    with Daemon(tmp_path, "--host", "0.0.0.0", "--insecure") as daemon:
        assert "listening on 0.0.0.0:" in daemon.line()


def test_systemd_is_told(tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(path)
        channel.settimeout(SECONDS)
        env = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "20000"}
        with Daemon(tmp_path, env=env) as daemon:
            ready = channel.recv(1000).decode().splitlines()
            assert ready[0] == "READY=1"
            assert ready[2] == f"MAINPID={daemon.process.pid}"
            assert channel.recv(1000) == b"WATCHDOG=1"
            daemon.process.send_signal(signal.SIGHUP)
            while (told := channel.recv(1000)) == b"WATCHDOG=1":
                pass
            assert told.startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            daemon.process.send_signal(signal.SIGTERM)
            while not (told := channel.recv(1000)).startswith(b"STOPPING=1"):
                pass
            assert daemon.process.wait(SECONDS) == exits.OK


@pytest.mark.parametrize("closed", [False, True])
def test_a_stderr_that_nobody_reads_stops_nobody(tmp_path, closed):
    """A full pipe (a debug log of reloads fills it), or one whose reader has left."""
    read, write = os.pipe()
    fill = b"x" * 4096
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, fill)
    os.set_blocking(write, True)
    if closed:
        os.close(read)
    with Daemon(tmp_path, stderr=write) as daemon:
        os.close(write)
        daemon.line()
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.line() == "reloaded 10.0"
        assert daemon.stop() == exits.OK
    if not closed:
        os.close(read)


def test_thread_switches_and_open_files(tmp_path):
    """Both were set in the process: read back through a tree dump would be too much."""
    import resource

    from msg.config import Limits, Settings
    from msg.daemon.process import SWITCH_SECONDS, raise_file_limit, share_the_interpreter

    before, old = sys.getswitchinterval(), resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        share_the_interpreter()
        assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, old[1]))
        settings = Settings(limits=Limits(connections=10, names=10))
        limit, needed = raise_file_limit(settings)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == limit == needed == 1034
    finally:
        sys.setswitchinterval(before)
        resource.setrlimit(resource.RLIMIT_NOFILE, old)


@pytest.mark.parametrize(
    ("files", "by_default", "as_chosen"),
    [(21_024, False, False), (20_000, False, True), (10_240, False, True), (4096, True, True)],
)
def test_a_limit_on_open_files_is_told_where_it_matters(files, by_default, as_chosen):
    from msg.config import load
    from msg.daemon.process import too_few_files

    assert too_few_files(load(), files, 21_024) is by_default
    chosen = load(sets=["limits.connections=20000"])
    assert too_few_files(chosen, files, 21_024) is as_chosen


def test_python_m_msg_serves():
    for module in ("msg", "msg.broker"):
        command = [sys.executable, "-m", module, "--help"]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert "trio-msg serve" in result.stdout
