"""What a message costs as everything else grows: the broker's CPU time for each, side by side.

    python bench/growth.py [--small] [--only backlog,held] [--seconds 3] [--out FOLDER]

Each row is one fresh broker with so many idle queues, connections, patterns and so on around
the same traffic; the cost is its CPU time a message (noise of the machine is mostly in bare
rates), and `×` compares with the first row of its table. Plots go to FOLDER as SVG.
"""

import argparse
import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
from machine import checkpoint_us

from msg.bench.generators import RECEIVE_BYTES, Lines, Load, dial
from msg.bench.local import LocalBroker
from msg.bench.measure import BenchFailed, Result, measure
from msg.plain_client import PlainClient, encode

CHUNK = 1000  # requests in one write
ROUNDS = 2
LONG = 1_000_000  # messages that take long to publish
Prepare = Callable[[LocalBroker, contextlib.ExitStack], None]


@attrs.frozen
class Row:
    """One point: how much there was, and what came of it."""

    label: str
    size: float
    result: Result


@attrs.frozen
class Table:
    """One thing that grows."""

    name: str
    title: str
    rows: list[Row]
    most: float = 1.2  # times the first row
    most_us: float = 0.0  # or so much
    per_byte: bool = False

    def factor(self, row: Row) -> float:
        return cost(row.result) / cost(self.rows[0].result)


def cost(result: Result) -> float:
    assert result.cpu_us is not None
    return result.cpu_us


def connect(broker: LocalBroker) -> PlainClient:
    return PlainClient.connect(f"msg://127.0.0.1:{broker.port}", timeout=30)


def ask_many(client: PlainClient, frames: Iterable[Mapping[str, object]]) -> None:
    """Requests with ids, pipelined; each must be answered well."""
    batch: list[bytes] = []

    def flush() -> None:
        client.send_raw(b"".join(batch))
        for _ in batch:
            answer = client.receive(60)
            assert answer["type"] != "error", answer
        batch.clear()

    for n, frame in enumerate(frames):
        batch.append(encode({**frame, "id": str(n)}))
        if len(batch) == CHUNK:
            flush()
    if batch:
        flush()


# -- what is around the traffic -------------------------------------------------------------


def idle_queues(count: int) -> Prepare:
    def prepare(broker: LocalBroker, stack: contextlib.ExitStack) -> None:
        with connect(broker) as client:
            ask_many(
                client,
                ({"action": "publish", "topic": f"idle.{n}", "mode": "queue", "message": n}
                 for n in range(count)),
            )  # fmt: skip

    return prepare


def idle_connections(count: int) -> Prepare:
    def prepare(broker: LocalBroker, stack: contextlib.ExitStack) -> None:
        frame = encode({"action": "subscribe", "topic": "elsewhere", "id": "s"})
        for _ in range(count):
            connection = stack.enter_context(dial("127.0.0.1", broker.port))
            connection.sendall(frame)
            assert b'"subscribed"' in connection.recv(RECEIVE_BYTES)

    return prepare


def patterns(count: int) -> Prepare:
    """Patterns that do not match, of the shapes that people use, 100 for each connection."""

    def prepare(broker: LocalBroker, stack: contextlib.ExitStack) -> None:
        for first in range(0, count, 100):
            client = stack.enter_context(connect(broker))
            ask_many(
                client,
                ({"action": "subscribe",
                  "topic": (f"site{n}.*.temperature", f"site{n}.>", f"*.floor{n}.>")[n % 3]}
                 for n in range(first, min(first + 100, count))),
            )  # fmt: skip

    return prepare


def backlog(count: int, run: str) -> Prepare:
    def prepare(broker: LocalBroker, stack: contextlib.ExitStack) -> None:
        line = encode({"action": "publish", "topic": f"bench.{run}.0", "mode": "queue",
                       "durability": "os", "message": "x" * 200})  # fmt: skip
        fill(broker, line * CHUNK, count // CHUNK)

    return prepare


def fill(broker: LocalBroker, data: bytes, times: int, ahead: int = 4) -> None:
    """Publish so much, as fast as the broker takes it: the answers are only counted."""
    acks, lines = 0, Lines()
    with dial("127.0.0.1", broker.port) as connection:
        for sent in range(1, times + 1):
            connection.sendall(data)
            wanted = sent - ahead if sent < times else sent
            while acks < wanted * CHUNK:
                acks += lines.whole(connection.recv(RECEIVE_BYTES)).count(b'"type":"ack"')


def held(count: int, run: str) -> Prepare:
    """Messages in the hands of consumers who do nothing, 10,000 for each."""

    def prepare(broker: LocalBroker, stack: contextlib.ExitStack) -> None:
        topic = {"topic": f"bench.{run}.0", "mode": "queue"}
        waiting = []
        for first in range(0, count, 10_000):
            client = stack.enter_context(connect(broker))
            some = min(10_000, count - first)
            client.ask({"action": "subscribe", **topic, "prefetch": some, "ack_timeout": 0})
            waiting.append((client, some))
        with connect(broker) as client:
            frame = {"action": "publish", **topic, "durability": "memory", "message": "x" * 200}
            ask_many(client, (frame for _ in range(count)))
        for client, some in waiting:
            for _ in range(some):
                assert client.receive(60)["type"] == "message"

    return prepare


def nothing(broker: LocalBroker, stack: contextlib.ExitStack) -> None:
    """The traffic alone."""


# -- measuring ------------------------------------------------------------------------------


def point(kind: str, load: Load, prepare: Prepare, seconds: float, long: bool = False) -> Result:
    """The better of two rounds: noise only ever adds. Each has a broker of its own, unless the
    preparation takes `long`."""
    results: list[Result] = []
    while len(results) < ROUNDS:
        with LocalBroker() as broker, contextlib.ExitStack() as stack:
            prepare(broker, stack)
            time.sleep(0.5)
            for _ in range(ROUNDS if long else 1):
                results.append(
                    measure(kind, load, "127.0.0.1", broker.port, seconds=seconds, pid=broker.pid)
                )
    return min(results, key=cost)


def tables(small: bool, seconds: float, only: Sequence[str]) -> Iterator[Table]:
    big = 10 if small else 1
    queue = Load(run="g", durability="memory")
    ten = attrs.evolve(queue, names=10)

    def table(
        name: str,
        title: str,
        sizes: Sequence[int],
        make: Callable[[int], tuple[str, Load, Prepare]],
        most: float = 1.2,
        per_byte: bool = False,
        most_us: float = 0.0,
    ) -> Iterator[Table]:
        if only and name not in only:
            return
        rows = []
        for size in sizes:
            kind, load, prepare = make(size)
            begun = time.monotonic()
            try:
                result = point(kind, load, prepare, seconds, long=size >= LONG and not per_byte)
                rows.append(Row(f"{size:,}", size, result))
            except (BenchFailed, OSError) as error:
                print(f"  {name} {size:,}: {error}", file=sys.stderr)
            took = time.monotonic() - begun
            print(f"  {name} {size:,}: {took:.0f} s", file=sys.stderr, flush=True)
        yield Table(name, title, rows, most, most_us, per_byte)

    yield from table(
        "names", "idle queues around 10 busy ones", [0, 1000 // big, 9900 // big],
        lambda n: ("flow", ten, idle_queues(n)),
    )  # fmt: skip
    yield from table(
        "connections", "idle connections", [0, 1000 // big, 10_000 // big],
        lambda n: ("flow", queue, idle_connections(n)),
    )  # fmt: skip
    yield from table(
        "subscribers", "subscribers of the topic (each delivery counts)", [1, 10, 100, 1000 // big],
        lambda n: ("flow", Load(run="g", mode="pubsub", consumers=n), nothing),
    )  # fmt: skip
    yield from table(
        "patterns", "patterns that others listen to", [0, 1000 // big, 10_000 // big],
        lambda n: ("flow", Load(run="g", mode="pubsub", names=10), patterns(n)),
    )  # fmt: skip
    yield from table(
        "backlog", "messages that wait in the queue", [0, 100_000, 10_000_000 // big],
        lambda n: ("flow", attrs.evolve(queue, durability="os"), backlog(n, "g")),
    )  # fmt: skip
    yield from table(
        "held", "messages in others' hands", [0, 1000, 100_000 // big],
        lambda n: ("flow", queue, held(n, "g")),
    )  # fmt: skip
    yield from table(
        "body", "bytes of a body", [21, 200, 2000, 20_000, 200_000, 1_000_000],
        lambda n: ("flow", attrs.evolve(queue, size=n, window=max(2, min(1000, 2_000_000 // n)),
                                        prefetch=max(2, min(1000, 4_000_000 // n))), nothing),
        per_byte=True,
    )  # fmt: skip
    yield from table(
        "busy", "busy queues (nothing to gain from batches)", [1, 10, 100, 1000],
        lambda n: ("flow", attrs.evolve(queue, names=n, consumers=max(1, n // 100)), nothing),
        most=0, most_us=60,
    )  # fmt: skip
    yield from table(
        "pairs", "producers and as many consumers on one queue", [1, 10, 50],
        lambda n: ("flow", attrs.evolve(queue, producers=n, consumers=n), nothing),
        most=1 / 0.7,
    )  # fmt: skip
    yield from table(
        "own pairs", "producers and consumers, each pair on a queue of its own", [1, 10, 50],
        lambda n: ("flow", attrs.evolve(queue, producers=n, consumers=n, names=n), nothing),
        most=1 / 0.7,
    )  # fmt: skip


def show(table: Table) -> None:
    print(f"\n### {table.title}\n")
    print("| | us of CPU each | × | messages/s | p99 ms | slowest consumer |")
    print("|---:|---:|---:|---:|---:|---:|")
    for row in table.rows:
        result = row.result
        fair = "" if result.fairness is None else f"{result.fairness:.0%}"
        p99 = result.latency_us.percentile(99) / 1000
        print(
            f"| {row.label} | {cost(result):.2f} | {table.factor(row):.2f} | {result.rate:,.0f}"
            f" | {p99:.1f} | {fair} |"
        )
    if table.per_byte:
        first, last = table.rows[0], table.rows[-1]
        each = (cost(last.result) - cost(first.result)) * 1000 / (last.size - first.size)
        copy = copy_ns_per_byte()
        print(
            f"\n{each:.3f} ns for each byte more; one copy in memory takes {copy:.3f} ns here:"
            f" as much as {each / copy:.1f} copies, the kernel's two among them."
        )
    if table.most_us:
        each, checkpoint = cost(table.rows[-1].result), checkpoint_us()
        print(
            f"\nA checkpoint of Trio takes {checkpoint:.1f} us here, and the last row"
            f" {each / checkpoint:.0f} of them; where the bound of {table.most_us:g} us was set it"
            " took 3-4 us (`python bench/machine.py`)."
        )


def copy_ns_per_byte(size: int = 1_000_000, times: int = 500) -> float:
    source = bytearray(size)
    begun = time.process_time()
    for _ in range(times):
        bytes(source)
    return (time.process_time() - begun) * 1e9 / size / times


def plot(table: Table) -> str:
    """The cost over what grows, as an SVG."""
    from msg.bench.picture import STYLE

    width, height, left, top, bottom = 560, 260, 60, 44, 40
    most = max([*(cost(row.result) for row in table.rows), 1e-9]) * 1.15
    step = (width - left - 40) / max(1, len(table.rows) - 1)
    points = [
        (left + 20 + i * step, height - bottom - cost(row.result) / most * (height - top - bottom))
        for i, row in enumerate(table.rows)
    ]
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    labels = "".join(
        f'<text class="quiet" text-anchor="middle" x="{x:.1f}" y="{height - 16}">{row.label}</text>'
        f'<circle class="c0" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
        f'<text text-anchor="middle" x="{x:.1f}" y="{y - 10:.1f}">{cost(row.result):.3g}</text>'
        for (x, y), row in zip(points, table.rows, strict=True)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
        f"<style>{STYLE}</style>"
        f'<text class="title" x="16" y="24">us of CPU a message, by {table.title}</text>'
        f'<path class="grid" d="M{left} {height - bottom}H{width - 16}"/>'
        f'<path class="line c0" d="M{line}"/>{labels}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a tenth of the sizes: minutes less")
    parser.add_argument("--only", default="", help="names of tables, by commas")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--out", type=Path, help="a folder for the plots and growth.json")
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found: dict[str, list[dict[str, object]]] = {}
    over = []
    for table in tables(given.small, given.seconds, [n for n in given.only.split(",") if n]):
        if not table.rows:
            continue
        show(table)
        sys.stdout.flush()
        found[table.name] = [{"size": r.size, **r.result.as_json()} for r in table.rows]
        over += [
            f"{table.name} {r.label}: {cost(r.result):.1f} us, the bound is {table.most_us:g}"
            for r in table.rows
            if table.most_us and cost(r.result) > table.most_us
        ]
        if table.most and not table.per_byte:
            over += [
                f"{table.name} {r.label}: × {table.factor(r):.2f}, the bound is {table.most:.2f}"
                for r in table.rows
                if table.factor(r) > table.most
            ]
        if given.out:
            given.out.mkdir(parents=True, exist_ok=True)
            (given.out / f"growth-{table.name.replace(' ', '-')}.svg").write_text(plot(table))
            (given.out / "growth.json").write_text(json.dumps(found, indent=1))
    print("\n" + ("\n".join(over) if over else "nothing grows beyond its bound"))


if __name__ == "__main__":
    main()
