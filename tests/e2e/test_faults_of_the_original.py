"""The known faults of the original project: each check holds here and fails on a broker that
has them (`naive`), so none of them is a check that cannot fail."""

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msg.plain_client import PlainClient, Unavailable, encode
from tests.e2e.process import ENV, ROOT, SECONDS

pytestmark = pytest.mark.process

# A disk that stands still: each sync waits until the file `stalled` is gone.
STALLING = """
import os, sys, time
from pathlib import Path
stalled, real = Path(sys.argv.pop(1)), os.fdatasync
def fdatasync(fd):
    while stalled.exists():
        time.sleep(0.01)
    real(fd)
os.fdatasync = fdatasync
"""
START = {
    "trio-msg": STALLING + "from msg.cli.main import main; main()",
    "naive": STALLING + "import asyncio; from tests.e2e.naive import main;"
    "asyncio.run(main(sys.argv[1]))",
}
PATIENCE_S = 10.0  # what has not come by then will not come
NAIVE_PATIENCE_S = 1.0  # it is expected not to come; whoever is wrong here fails the test


class Running:
    """One of the two, in a process of its own."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.patience = PATIENCE_S if kind == "trio-msg" else NAIVE_PATIENCE_S
        self.stalled = folder / "stalled"
        (folder / "data").mkdir(mode=0o700)
        args = [str(folder / "data")]
        if kind == "trio-msg":
            args = ["serve", "--host", "127.0.0.1", "--port", "0", "--http", "off",
                    "--data-dir", *args]  # fmt: skip
        self.log = open(folder / "log", "wb")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-c", START[kind], str(self.stalled), *args],
            cwd=ROOT, env={**ENV, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=self.log,
        )  # fmt: skip
        assert self.process.stdout is not None
        ready = self.process.stdout.readline().decode()
        assert "listening on" in ready, (folder / "log").read_text()
        self.port = int(ready.partition(",")[0].rpartition(":")[2])

    def connect(self) -> PlainClient:
        return PlainClient.connect(f"msg://127.0.0.1:{self.port}")

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), SECONDS)

    def rss(self) -> int:
        """Bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def end(self) -> None:
        self.stalled.unlink(missing_ok=True)
        self.process.kill()
        self.process.wait(SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()


Check = Callable[[Running], None]


@pytest.fixture
def holds_here_and_fails_there(tmp_path: Path) -> Callable[[Check], None]:
    def judge(check: Check) -> None:
        for kind in ("trio-msg", "naive"):
            (tmp_path / kind).mkdir()
            running = Running(kind, tmp_path / kind)
            try:
                if kind == "trio-msg":
                    check(running)
                else:
                    with pytest.raises((AssertionError, TimeoutError, Unavailable)):
                        check(running)
            finally:
                running.end()

    return judge


def queue(action: str, **fields: Any) -> dict[str, Any]:
    return {"action": action, "topic": "jobs", "mode": "queue", **fields}


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def the_next_consumer_gets_it(broker: Running) -> None:
    with broker.connect() as consumer:
        consumer.ask(queue("subscribe"), broker.patience)
        assert consumer.receive(broker.patience)["message_id"] == "m1"


def test_memory_does_not_grow_with_what_nobody_hears(holds_here_and_fails_there):
    def check(broker: Running) -> None:
        body, count = "x" * 10_000, 6000  # 60 MB
        line = encode({"action": "publish", "topic": "news", "message": body})
        with broker.connect() as publisher:
            publisher.ask({"action": "ping"})
            before = broker.rss()
            for _ in range(count // 50):
                publisher.send_raw(line * 50)
                for _ in range(50):
                    assert publisher.receive(broker.patience)["type"] == "ack"
        assert broker.rss() - before < 30 << 20

    holds_here_and_fails_there(check)


def test_a_message_in_the_hands_of_a_consumer_that_dies_is_delivered_again(
    holds_here_and_fails_there,
):
    def check(broker: Running) -> None:
        with broker.connect() as producer:
            producer.ask(queue("publish", message=1, message_id="m1"))
        with broker.connect() as consumer:
            consumer.ask(queue("subscribe"))
            assert consumer.receive(broker.patience)["message_id"] == "m1"
        the_next_consumer_gets_it(broker)

    holds_here_and_fails_there(check)


def test_a_new_subscriber_is_not_sent_all_that_was_ever_heard(holds_here_and_fails_there):
    def check(broker: Running) -> None:
        with broker.connect() as first, broker.connect() as publisher:
            first.ask({"action": "subscribe", "topic": "news"})
            for n in range(100):
                publisher.ask({"action": "publish", "topic": "news", "message": n})
                assert first.receive(broker.patience)["message"] == n
            with broker.connect() as second:
                second.ask({"action": "subscribe", "topic": "news"})
                publisher.ask({"action": "publish", "topic": "news", "message": "new"})
                assert second.receive(broker.patience)["message"] == "new"

    holds_here_and_fails_there(check)


def test_a_consumer_that_is_gone_between_the_check_and_the_send_loses_nothing(
    holds_here_and_fails_there,
):
    def check(broker: Running) -> None:
        with broker.connect() as producer:
            consumer = broker.socket()
            consumer.sendall(encode(queue("subscribe", id="1")))
            consumer.recv(1000)
            # in one breath: the broker still believes in it when the message comes
            reset(consumer)
            producer.ask(queue("publish", message=1, message_id="m1"))
        the_next_consumer_gets_it(broker)

    holds_here_and_fails_there(check)


def test_a_reset_in_the_middle_of_a_write_loses_nothing(holds_here_and_fails_there):
    def check(broker: Running) -> None:
        with broker.connect() as producer:
            consumer = broker.socket()
            consumer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            consumer.sendall(encode(queue("subscribe", id="1")))
            consumer.recv(1000)
            producer.send(queue("publish", message="x" * 1_000_000, message_id="m1"))
            assert len(consumer.recv(1000)) > 0  # it has begun, and cannot end
            reset(consumer)
        the_next_consumer_gets_it(broker)

    holds_here_and_fails_there(check)


def test_a_stalled_disk_stalls_nobody_who_does_not_need_it(holds_here_and_fails_there):
    def check(broker: Running) -> None:
        with broker.connect() as producer, broker.connect() as other:
            other.ask({"action": "ping"})
            broker.stalled.touch()
            producer.send(queue("publish", message=1, durability="stored"))
            for _ in range(200):
                other.ask({"action": "ping"}, broker.patience)
            with pytest.raises(TimeoutError):  # all this time it was not acked
                producer.receive(0)
            broker.stalled.unlink()
            assert producer.receive(broker.patience)["type"] == "ack"

    holds_here_and_fails_there(check)


@pytest.mark.full
@pytest.mark.parametrize("count", [30_000, 100_000])
def test_a_long_history_is_paged_and_stalls_no_other(count, tmp_path):
    """The original replays no such history in this form: its list is kept in memory, and sent
    in one go. Here the reader of the history reads nothing at all, and the others go on."""
    running = Running("trio-msg", tmp_path)
    try:
        with running.connect() as publisher, running.connect() as other:
            publisher.ask({"action": "declare", "topic": "news", "mode": "pubsub",
                           "settings": {"history_messages": count}})  # fmt: skip
            frame = {"action": "publish", "topic": "news", "message": "x" * 200}
            lines = encode({**frame, "durability": "os"}) * 1000

            def acks() -> None:
                for _ in range(count):
                    publisher.receive(SECONDS)

            reader = threading.Thread(target=acks)
            reader.start()
            for _ in range(count // 1000):
                publisher.send_raw(lines)
            reader.join()
            before = running.rss()
            lazy = [running.connect() for _ in range(10)]
            for each in lazy:
                each.send({"action": "subscribe", "topic": "news", "from": "all"})
            for n in range(100):  # they are being served, or wait for their readers
                other.ask({"action": "ping"}, PATIENCE_S)
                other.ask({**frame, "topic": "other", "message": n}, PATIENCE_S)
            # ten times 12 or 40 MB are to be sent; what waits in memory is a page or two of each:
            # 25 MB, or up to 70 where other programs leave it little time
            assert running.rss() - before < 96 << 20
            got = [lazy[0].receive(SECONDS)["seq"] for _ in range(count)]
            assert got == list(range(got[0], got[0] + count))
            for each in lazy:
                each.close()
    finally:
        running.end()
