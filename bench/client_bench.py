"""What one client process does a second, over TCP, against a broker on the other core.

    python bench/client_bench.py [--loop trio|asyncio|both|sync] [--durability memory|os|stored]
                                 [--messages 100000] [--body 100] [--rounds 5] [--window 10000]

It starts `trio-msg serve` on a free port with its data in a temporary folder, puts it on one
core and itself on another, and prints best and median of a few rounds, and the client's own
processor time for a message (what is less than the whole was spent waiting for the broker):

    publish   publish_many to a queue, until all are confirmed
    consume   `async for message in consume(…)` with `async with message`, each acked
    take      the same in batches, with `take()` and `ack()`

`--loop sync` measures `msg.sync`, whose loop is in another thread of this process.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

import msg
import msg.sync

ROOT = Path(__file__).parent.parent
QUEUE = "bench"
PREFETCH = 1000


async def publish(client: msg.Client, bodies: list[object], **options: object) -> None:
    done = await client.publish_many(QUEUE, bodies, mode="queue", **options)
    assert done.count == len(bodies)


async def consume(client: msg.Client, count: int) -> None:
    async with client.consume(QUEUE, prefetch=PREFETCH) as messages:
        left = count
        async for message in messages:
            async with message:
                assert message.body is not None
            left -= 1
            if not left:
                break
    await settled(client)


async def take(client: msg.Client, count: int) -> None:
    async with client.consume(QUEUE, prefetch=PREFETCH) as messages:
        left = count
        while left:
            for message in await messages.take():
                assert message.body is not None
                await message.ack()
                left -= 1
    await settled(client)


async def settled(client: msg.Client) -> None:
    """Acks go before a question on the same connection: they count as part of the work."""
    answer = await client.ask("stats", topic=QUEUE, mode="queue")
    assert answer is not None


async def measure(url: str, options: argparse.Namespace) -> None:
    body = "x" * (options.body - 2)
    bodies: list[object] = [body] * options.messages
    record = Record(options.messages)

    async def timed(what: str, work: Callable[[], Awaitable[None]]) -> None:
        with record.timed(what):
            await work()

    async with msg.connect(url, window=options.window) as client:
        for _ in range(options.rounds):
            await timed("publish", lambda: publish(client, bodies, durability=options.durability))
            await timed("consume", lambda: consume(client, options.messages))
            await publish(client, bodies, durability=options.durability)
            await timed("take", lambda: take(client, options.messages))
    record.show()


def measure_sync(url: str, options: argparse.Namespace) -> None:
    bodies = ["x" * (options.body - 2)] * options.messages
    record = Record(options.messages)
    with msg.sync.connect(url, window=options.window) as client:
        for _ in range(options.rounds):
            with record.timed("publish"):
                client.publish_many(QUEUE, bodies, mode="queue", durability=options.durability)
            with record.timed("consume"), client.consume(QUEUE, prefetch=PREFETCH) as messages:
                for _, message in zip(bodies, messages, strict=False):
                    with message:
                        assert message.body is not None
    record.show()


class Record:
    """How long each kind of round took, of the clock and of this process."""

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.rates: dict[str, list[float]] = {}
        self.costs: dict[str, list[float]] = {}

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        began, used = time.perf_counter(), time.process_time()
        yield
        self.rates.setdefault(what, []).append(self.messages / (time.perf_counter() - began))
        self.costs.setdefault(what, []).append((time.process_time() - used) / self.messages)

    def show(self) -> None:
        for what, of in self.rates.items():
            print(
                f"  {what:8}{max(of):>9,.0f}/s best{statistics.median(of):>9,.0f}/s median,"
                f" {statistics.median(self.costs[what]) * 1e6:4.1f} µs of this process for each"
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", default="both", choices=["trio", "asyncio", "both", "sync"])
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--body", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--window", type=int, default=10_000)
    parser.add_argument("--durability", default="memory", choices=["memory", "os", "stored"])
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "msg", "--host", "127.0.0.1", "--port", "0",
                   "--http", "off", "--data-dir", folder]  # fmt: skip
        broker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert broker.stdout is not None
            port = broker.stdout.readline().partition(",")[0].rpartition(":")[2]
            os.sched_setaffinity(broker.pid, {cores[-1]})
            os.sched_setaffinity(0, {cores[0]})
            for loop in ["trio", "asyncio"] if options.loop == "both" else [options.loop]:
                print(f"{loop}: {options.body} bytes, durability {options.durability}")
                url = f"msg://127.0.0.1:{port}"
                if loop == "sync":
                    measure_sync(url, options)
                else:
                    anyio.run(measure, url, options, backend=loop)
        finally:
            broker.terminate()
            broker.wait(30)


main()
