"""A large backlog: memory, start-up and drain, against the same broker with an empty queue.

    python bench/backlog_bench.py --messages 5000000
    python bench/backlog_bench.py --queues 1000 --messages 1000000
    python bench/backlog_bench.py --small

Starts `trio-msg serve` on a data directory of its own, publishes (durable, confirmed, 200-byte
bodies), notes the broker's memory, kills it under load (kill -9), starts it again on the backlog,
and drains all of it, acking each message. Many queues are filled one after the other, for the
filling is not what is measured. The bounds: 400 MB at any time, 10 s from the start to the
first delivery, and half the speed of an empty queue (filled just before, with so few messages
that its window holds a good part of them). With --json one object instead of the table.
"""

import argparse
import contextlib
import json
import re
import select
import selectors
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
PREFETCH = 500  # of one queue's consumer
PREFETCH_OF_MANY = 100
SUBSCRIPTIONS = 100  # a connection; more queues take more connections
RSS_MB, START_S, DRAIN_SHARE = 400, 10.0, 0.5
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

    def rss_mb(self) -> float:
        return self._memory("VmRSS")

    def peak_mb(self) -> float:
        return self._memory("VmHWM")

    def _memory(self, what: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{what}:\s+(\d+)", status)[1]) * 1024 / 1e6

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
    """Durable publishes, so many unconfirmed, to one queue after the other; messages a second."""
    blocks = [
        b'{"action":"publish","topic":"%b","mode":"queue","message":%b}\n' % (q.encode(), BODY)
        for q in queues
    ]
    share = total // len(queues)
    begun = time.monotonic()
    with broker.connect() as connection:
        connection.setblocking(False)
        sent = confirmed = 0
        pending = memoryview(b"")
        tail = b""
        while confirmed < total:
            if not pending and sent < total and sent - confirmed + BATCH <= WINDOW:
                pending = memoryview(blocks[sent // share] * BATCH)
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
    """(seconds to the first delivery, messages a second): all is taken and acked."""
    begun = time.monotonic()
    first_s = 0.0
    taken = 0
    tails: dict[socket.socket, bytes] = {}
    prefetch = PREFETCH if len(queues) == 1 else PREFETCH_OF_MANY
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for at in range(0, len(queues), SUBSCRIPTIONS):
            connection = stack.enter_context(broker.connect())
            connection.sendall(b"".join([
                b'{"action":"subscribe","topic":"%b","mode":"queue","prefetch":%d}\n'
                % (q.encode(), prefetch) for q in queues[at : at + SUBSCRIPTIONS]
            ]))  # fmt: skip
            selector.register(connection, selectors.EVENT_READ)
            tails[connection] = b""
        import os
        if os.environ.get("SPY") and len(queues) > 1:
            subprocess.Popen(["py-spy","record","-r","500","-d","8","-f","raw","-o","/tmp/drain.raw","--nonblocking","-p",str(broker.process.pid)],stdout=subprocess.DEVNULL,stderr=subprocess.DEVNULL)
        while taken < total:
            for key, _ in selector.select(60):
                connection = key.fileobj  # type: ignore[assignment]
                data = connection.recv(1 << 18)
                assert data, "the broker closed the connection"
                data = tails[connection] + data
                end = data.rfind(b"\n") + 1
                tags = TAG.findall(data, 0, end)
                tails[connection] = data[end:]
                if tags:
                    first_s = first_s or time.monotonic() - begun
                    taken += len(tags)
                    acks = b'}\n{"action":"ack","tag":'.join(tags)
                    connection.sendall(b'{"action":"ack","tag":' + acks + b"}\n")
    return first_s, total / (time.monotonic() - begun - first_s)


def measure(broker: Broker, args: argparse.Namespace) -> dict[str, float]:
    """Fill, kill, start, drain; the figures."""
    result: dict[str, float] = {"messages": args.messages, "queues": args.queues}
    names = [f"q{n}" for n in range(args.queues)]
    publish(broker, ["reference"], args.reference)
    result["empty_queue_drain_per_s"] = drain(broker, ["reference"], args.reference)[1]
    result["rss_before_mb"] = broker.rss_mb()
    result["publish_per_s"] = publish(broker, names, args.messages)
    result["rss_full_mb"] = broker.rss_mb()
    result["rss_full_peak_mb"] = broker.peak_mb()
    result["bytes_a_message"] = (
        (result["rss_full_mb"] - result["rss_before_mb"]) * 1e6 / args.messages
    )
    broker.end(kill=True)
    result["disk_mb"] = sum(f.stat().st_size for f in broker.data.rglob("*.jsonl")) / 1e6
    broker.start()
    result["start_s"] = broker.started_s
    result["rss_after_start_mb"] = broker.rss_mb()
    result["rss_start_peak_mb"] = broker.peak_mb()
    first_s, rate = drain(broker, names, args.messages)
    result["first_delivery_s"] = broker.started_s + first_s
    result["drain_per_s"] = rate
    result["drain_share"] = rate / result["empty_queue_drain_per_s"]
    result["rss_peak_mb"] = broker.peak_mb()
    broker.end()
    return result


def missed(result: dict[str, float]) -> list[str]:
    """Which bounds do not hold."""
    out = []
    for name in ("rss_full_peak_mb", "rss_peak_mb"):
        if result[name] >= RSS_MB:
            out.append(f"{name} is not under {RSS_MB}")
    if result["first_delivery_s"] >= START_S:
        out.append(f"first_delivery_s is not under {START_S:.0f}")
    if result["drain_share"] < DRAIN_SHARE:
        out.append(f"drain_share is under {DRAIN_SHARE}")
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=5_000_000)
    parser.add_argument("--queues", type=int, default=1)
    parser.add_argument("--reference", type=int, default=300_000, help="for the empty queue")
    parser.add_argument("--small", action="store_true", help="seconds, and no verdict")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.small:
        args.messages, args.queues, args.reference = 20_000, 20, 10_000
    folder = Path(tempfile.mkdtemp(prefix="backlog-"))
    broker = None
    try:
        broker = Broker(folder / "data")
        result = measure(broker, args)
    finally:
        if broker is not None:
            broker.process.kill()
        shutil.rmtree(folder)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        for name, value in result.items():
            print(f"{name:28}{value:14,.2f}" if value < 100 else f"{name:28}{value:11,.0f}")
    if args.small:
        return 0
    bad = missed(result)
    print(*[f"MISSED: {text}" for text in bad] or ["all bounds met"], sep="\n", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
