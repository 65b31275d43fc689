"""One stuck message while gigabytes flow past it: what the disk holds, and what is written.

    python bench/stuck_bench.py [--gb 2] [--size 10000] [--small]

A consumer takes the first message and never acks it; a second one takes and acks all the rest
(each ack answered when durable), as a publisher sends it (durable, confirmed). Every quarter of
a second the segments are measured. The bound: 2 x live bytes + 2 segments; live are the stuck
message, what waits, and what is with the consumer, so at most the publisher's window and the
consumer's prefetch. Write amplification is what the kernel says the process wrote
(write_bytes in /proc/PID/io, whole pages), over the bodies' bytes.
"""

import argparse
import contextlib
import re
import select
import shutil
import tempfile
import time
from pathlib import Path

from backlog_bench import ACK, TAG, Broker

SEGMENT = 16 << 20
PREFETCH = 200


def written(broker: Broker) -> int:
    io = Path(f"/proc/{broker.process.pid}/io").read_text()
    blocks = re.search(r"^write_bytes: (\d+)", io, re.M)
    assert blocks is not None
    return int(blocks[1])


def disk_bytes(data: Path) -> tuple[int, int]:
    """(bytes, files) of the segments and their indexes."""
    total = files = 0
    for path in (data / "queues").rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                total += path.stat().st_size
                files += 1
    return total, files


def flow(broker: Broker, total: int, size: int, window: int) -> dict[str, float]:
    body = b'"' + b"x" * (size - 2) + b'"'
    frame = b'{"action":"publish","topic":"jobs","mode":"queue","message":%b}\n' % body
    subscribe = b'{"action":"subscribe","topic":"jobs","mode":"queue","prefetch":%d}\n'
    most = most_files = 0
    with broker.connect() as producer, broker.connect() as stuck, broker.connect() as consumer:
        stuck.sendall(subscribe % 1)
        producer.sendall(frame)
        held = b""
        while b'"tag":' not in held:
            held += stuck.recv(1 << 16)
        consumer.sendall(subscribe % PREFETCH)
        for connection in (producer, consumer):
            connection.setblocking(False)
        before = written(broker)
        begun = looked = time.monotonic()
        sent = confirmed = 1
        taken = settled = 0
        pending = memoryview(b"")
        acks = memoryview(b"")
        to_ack: list[bytes] = []
        heard = tail = b""
        while settled < total - 1:
            # publishes wait for the consumer too, so that what is live stays known
            if not pending and sent < total and sent - settled < window:
                pending = memoryview(frame)
                sent += 1
            if not acks and to_ack:
                acks = memoryview(b"".join(to_ack))
                to_ack.clear()
            writes = [c for c, data in ((producer, pending), (consumer, acks)) if data]
            select.select([producer, consumer], writes, [], 5)
            with contextlib.suppress(BlockingIOError):
                if pending:
                    pending = pending[producer.send(pending) :]
            with contextlib.suppress(BlockingIOError):
                if acks:
                    acks = acks[consumer.send(acks) :]
            with contextlib.suppress(BlockingIOError):
                data = producer.recv(1 << 18)
                assert data, "the broker closed the connection"
                assert b'"error"' not in data, data[:300]
                data = heard + data
                confirmed += data.count(ACK)
                heard = data[1 - len(ACK) :]
            with contextlib.suppress(BlockingIOError):
                data = consumer.recv(1 << 18)
                assert data, "the broker closed the connection"
                data = tail + data
                end = data.rfind(b"\n") + 1
                tags = TAG.findall(data, 0, end)
                settled += data.count(b'"acked"', 0, end)
                tail = data[end:]
                taken += len(tags)
                to_ack += [b'{"action":"ack","tag":%b,"id":"a"}\n' % tag for tag in tags]
            if time.monotonic() - looked > 0.25:
                looked = time.monotonic()
                now, files = disk_bytes(broker.data)
                most, most_files = max(most, now), max(most_files, files)
        took = time.monotonic() - begun
        after = written(broker)
        live = (window + 1) * (size + 200)
        end_bytes = disk_bytes(broker.data)[0]
    return {
        "messages": total,
        "flowed_mb": total * size / 1e6,
        "messages_per_s": total / took,
        "mb_per_s": total * size / took / 1e6,
        "live_at_most_mb": live / 1e6,
        "disk_at_most_mb": most / 1e6,
        "disk_bound_mb": (2 * live + 2 * SEGMENT) / 1e6,
        "disk_at_the_end_mb": end_bytes / 1e6,
        "files_at_most": most_files,
        "written_mb": (after - before) / 1e6,
        "write_amplification": (after - before) / (total * size),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--size", type=int, default=10_000, help="bytes of a body")
    parser.add_argument("--window", type=int, default=500, help="published and not yet acked")
    parser.add_argument("--small", action="store_true", help="100 MB: seconds")
    args = parser.parse_args()
    total = int((0.1 if args.small else args.gb) * 1e9 / args.size)
    folder = Path(tempfile.mkdtemp(prefix="stuck-"))
    broker = None
    try:
        broker = Broker(folder / "data")
        result = flow(broker, total, args.size, args.window)
        broker.end(kill=True)
        broker.start()
        with broker.connect() as connection:
            connection.sendall(b'{"action":"get","topic":"jobs","n":10}\n')
            answer = b""
            while b'"count"' not in answer:
                answer += connection.recv(1 << 18)
        # it was delivered before the kill, and never acked
        assert answer.count(b'"tag":') == 1, answer[:500]
        broker.end()
    finally:
        if broker is not None:
            broker.process.kill()
        shutil.rmtree(folder)
    for name, value in result.items():
        print(f"{name:24}{value:12,.2f}" if value < 100 else f"{name:24}{value:9,.0f}")
    met = result["disk_at_most_mb"] <= result["disk_bound_mb"]
    print(f"disk: at most 2 x live + 2 segments: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
