"""Durable publishes to many queues at once, against one busy queue, on one broker.

    python bench/busy_queues_bench.py [--small]

Each publisher is a connection of its own that keeps `--window` publishes unanswered; an answer
means synced (durability "stored"). The shapes take turns, `--rounds` times, on one running
broker, and the medians are compared: what the machine does beside it hits all of them alike.

    one queue     one publisher                       the reference
    one queue     as many publishers as queues        what the connections cost
    50 queues     one publisher each                  the bound: at least half of the reference
    50 queues     one publisher, in rotation          small batches: what a queue's turn costs
"""

import argparse
import contextlib
import selectors
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from backlog_bench import ACK, BODY, Broker

CHUNK = 200  # messages that a publisher sends at once
BOUND = 0.5


class Publisher:
    """One connection that keeps its window full."""

    def __init__(self, broker: Broker, queues: list[str], total: int, window: int) -> None:
        frames = [
            b'{"action":"publish","topic":"%b","mode":"queue","message":%b}\n' % (q.encode(), BODY)
            for q in queues
        ]
        self.blocks = [
            b"".join([frames[(at + i) % len(frames)] for i in range(CHUNK)])
            for at in range(0, len(frames), CHUNK)
        ]
        self.total = total
        self.window = window
        self.sent = self.confirmed = self.turn = 0
        self.pending = memoryview(b"")
        self.tail = b""
        self.connection = broker.connect()
        self.connection.setblocking(False)

    @property
    def wants_to_write(self) -> bool:
        room = self.window - (self.sent - self.confirmed)
        if not self.pending and self.sent < self.total and room >= CHUNK:
            self.pending = memoryview(self.blocks[self.turn % len(self.blocks)])
            self.turn += 1
            self.sent += CHUNK
        return bool(self.pending)

    def write(self) -> None:
        while self.wants_to_write:
            try:
                self.pending = self.pending[self.connection.send(self.pending) :]
            except BlockingIOError:
                return

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = self.connection.recv(1 << 18)
            assert data, "the broker closed the connection"
            assert b'"error"' not in data, data[:300]
            data = self.tail + data
            self.confirmed += data.count(ACK)
            self.tail = data[1 - len(ACK) :]


def publish(broker: Broker, plan: list[list[str]], total: int, window: int) -> float:
    """One publisher for each list of queues; messages a second, all confirmed."""
    share = -(-total // len(plan) // CHUNK) * CHUNK
    publishers = [Publisher(broker, queues, share, window) for queues in plan]
    selector = selectors.DefaultSelector()
    for each in publishers:
        selector.register(each.connection, selectors.EVENT_READ, each)
    left = len(publishers)
    begun = time.monotonic()
    for each in publishers:
        each.write()
    while left:
        for key, _ in selector.select(0.05):
            each = key.data
            each.read()
            if each.confirmed >= each.total:
                selector.unregister(each.connection)
                left -= 1
                continue
        for each in publishers:
            each.write()
    took = time.monotonic() - begun
    for each in publishers:
        each.connection.close()
    return share * len(publishers) / took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=150_000, help="a shape and round")
    parser.add_argument("--queues", type=int, default=50)
    parser.add_argument("--window", type=int, default=2000, help="unanswered, a publisher")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="seconds, and no verdict")
    args = parser.parse_args()
    if args.small:
        args.messages, args.rounds = 10_000, 1
    many = [f"q{n}" for n in range(args.queues)]
    shapes = {
        "one queue, one publisher": [["one"]],
        f"one queue, {args.queues} publishers": [["one"]] * args.queues,
        f"{args.queues} queues, {args.queues} publishers": [[name] for name in many],
        f"{args.queues} queues, one publisher": [many],
    }
    rates: dict[str, list[float]] = {name: [] for name in shapes}
    folder = Path(tempfile.mkdtemp(prefix="busy-"))
    broker = None
    try:
        broker = Broker(folder / "data")
        publish(broker, [["one"], many], args.messages // 10, args.window)  # warm
        for _ in range(args.rounds):
            for name, plan in shapes.items():
                rates[name].append(publish(broker, plan, args.messages, args.window))
        broker.end()
    finally:
        if broker is not None:
            broker.process.kill()
        shutil.rmtree(folder)
    reference = statistics.median(rates["one queue, one publisher"])
    print(f"{'':32}{'messages/s':>12}{'of the first':>14}   each round")
    for name, found in rates.items():
        middle = statistics.median(found)
        each = " ".join([f"{rate:,.0f}" for rate in found])
        print(f"{name:32}{middle:12,.0f}{middle / reference:13.0%}    {each}")
    if args.small:
        return 0
    share = statistics.median(rates[list(shapes)[2]]) / reference
    print(f"bound: {BOUND:.0%}, found: {share:.0%}: {'met' if share >= BOUND else 'MISSED'}")
    return 0 if share >= BOUND else 1


if __name__ == "__main__":
    raise SystemExit(main())
