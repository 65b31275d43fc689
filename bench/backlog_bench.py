"""A large backlog: memory, start-up and drain, against the same broker with an empty queue.

    python bench/backlog_bench.py --messages 5000000
    python bench/backlog_bench.py --queues 1000 --messages 1000000

Starts `trio-msg serve` on a data directory of its own, publishes (durable, confirmed, 200-byte
bodies), notes the broker's memory, kills it, starts it again on the backlog, and drains it with
one consumer that acks each message. Prints one JSON object.
"""

import argparse
import contextlib
import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
WINDOW = 4000
BATCH = 200
PREFETCH = 500
BODY = b'"' + b"x" * 198 + b'"'
ACK = b'"type":"ack"'
TAG = re.compile(rb'"tag":(\d+)')


class Broker:
    def __init__(self, data: Path) -> None:
        self.data = data
        self.started_s = 0.0
        self.port = 0
        self.start()

    def start(self) -> None:
        begun = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "msg", "--host", "127.0.0.1", "--port", "0", "--http", "off",
             "--data-dir", str(self.data)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.process.stdout is not None
        ready = self.process.stdout.readline().decode()
        self.port = int(ready.partition(",")[0].rpartition(":")[2])
        self.started_s = time.monotonic() - begun

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def peak_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), 60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def end(self, *, kill: bool = False) -> None:
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        self.process.wait(60)


def publish(broker: Broker, queues: list[str], total: int) -> float:
    """Durable publishes in rotation over the queues, so many unconfirmed; messages a second."""
    frames = [
        b'{"action":"publish","topic":"%b","mode":"queue","message":%b}\n' % (q.encode(), BODY)
        for q in queues
    ]
    blocks = [b"".join([frames[(i + j) % len(frames)] for j in range(BATCH)])
              for i in range(0, max(len(frames), 1), BATCH)]  # fmt: skip
    begun = time.monotonic()
    with broker.connect() as connection:
        connection.setblocking(False)
        sent = confirmed = 0
        pending = memoryview(b"")
        block = 0
        tail = b""
        while confirmed < total:
            if not pending and sent < total and sent - confirmed + BATCH <= WINDOW:
                pending = memoryview(blocks[block % len(blocks)])
                block += 1
                sent += BATCH
            select.select([connection], [connection] if pending else [], [], 5)
            if pending:
                with contextlib.suppress(BlockingIOError):
                    pending = pending[connection.send(pending) :]
            try:
                data = connection.recv(1 << 18)
            except BlockingIOError:
                continue
            assert data, "the broker closed the connection"
            assert b'"error"' not in data, data[:300]
            data = tail + data
            confirmed += data.count(ACK)
            tail = data[1 - len(ACK) :]
    return total / (time.monotonic() - begun)


def drain(broker: Broker, queues: list[str], total: int) -> tuple[float, float]:
    """(seconds to the first delivery, messages a second): one connection takes and acks all."""
    with broker.connect() as connection:
        begun = time.monotonic()
        connection.sendall(b"".join([
            b'{"action":"subscribe","topic":"%b","mode":"queue","prefetch":%d}\n'
            % (q.encode(), PREFETCH) for q in queues[:100]
        ]))  # fmt: skip
        first_s = 0.0
        taken = 0
        tail = b""
        while taken < total:
            data = connection.recv(1 << 18)
            assert data, "the broker closed the connection"
            first_s = first_s or time.monotonic() - begun
            data = tail + data
            end = data.rfind(b"\n") + 1
            tags = TAG.findall(data, 0, end)
            tail = data[end:]
            taken += len(tags)
            if tags:
                acks = b'}\n{"action":"ack","tag":'.join(tags)
                connection.sendall(b'{"action":"ack","tag":' + acks + b"}\n")
        return first_s, total / (time.monotonic() - begun - first_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=5_000_000)
    parser.add_argument("--queues", type=int, default=1)
    parser.add_argument("--reference", type=int, default=300_000, help="for the empty queue")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="backlog-"))
    result: dict[str, object] = {"messages": args.messages, "queues": args.queues,
                                 "cpus": os.cpu_count()}  # fmt: skip
    try:
        broker = Broker(folder / "data")
        names = [f"q{n}" for n in range(args.queues)]
        publish(broker, ["reference"], args.reference)
        result["reference_drain_per_s"] = round(drain(broker, ["reference"], args.reference)[1])
        result["base_rss_mib"] = round(broker.rss_mib(), 1)
        result["publish_per_s"] = round(publish(broker, names, args.messages))
        result["rss_mib"] = round(broker.rss_mib(), 1)
        result["peak_mib"] = round(broker.peak_mib(), 1)
        broker.end(kill=True)
        size = sum(f.stat().st_size for f in folder.rglob("*.jsonl"))
        result["disk_mib"] = round(size / (1 << 20))
        broker.start()
        result["start_s"] = round(broker.started_s, 2)
        result["rss_after_start_mib"] = round(broker.rss_mib(), 1)
        count = args.messages * min(len(names), 100) // len(names)
        first_s, rate = drain(broker, names, count)
        result["first_delivery_s"] = round(broker.started_s + first_s, 2)
        result["drain_per_s"] = round(rate)
        result["rss_after_drain_mib"] = round(broker.rss_mib(), 1)
        result["peak_after_drain_mib"] = round(broker.peak_mib(), 1)
        broker.end()
    finally:
        broker.process.kill()
        shutil.rmtree(folder)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
