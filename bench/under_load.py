"""How long a message takes while the broker is busy: a ping-pong beside W4 at half its peak.

    python bench/under_load.py [--seconds 5] [--share 0.5] [--rounds 3] [--json]

First the peak of W4 (one durable queue, one publisher, one consumer that acks each message, 200
bytes) is measured alone. Then, on a fresh broker each, a ping-pong runs through another queue
beside that load, paced at `--share` of the peak: in memory, and durable. Rounds alternate; each
row is its best round by p99, and says how they were spread, since noise only ever adds. The rows
without load are what the same ping-pong takes on an idle broker.

Neither the broker nor the generators are pinned: on one core the commit thread could not be
starved by the loop, which is what this would show.
"""

import argparse
import json
import sys
import threading
from collections.abc import Iterator
from typing import Any

import attrs

from msg.bench.generators import Load
from msg.bench.local import LocalBroker
from msg.bench.measure import Result, measure

W4 = Load(run="load", durability="stored")
SETTLED_S = 1.0  # the load runs so long before the ping-pong is measured
BOUNDS_MS = {"memory": 5.0, "stored": 15.0}


@attrs.frozen
class Row:
    """A ping-pong, and what ran beside it."""

    durability: str
    beside: int  # messages a second, asked for; 0: nothing
    result: Result
    load: Result | None
    p99s_ms: tuple[float, ...] = ()  # of all its rounds

    @property
    def p99_ms(self) -> float:
        return self.result.latency_us.percentile(99) / 1000

    def as_json(self) -> dict[str, Any]:
        return {
            "durability": self.durability,
            "beside_per_second": self.beside,
            "p99_ms_of_rounds": self.p99s_ms,
            "ping_pong": self.result.as_json(),
            "load": None if self.load is None else self.load.as_json(),
        }


def peak(seconds: float, rounds: int) -> float:
    """Messages a second that W4 reaches alone."""
    rates = []
    for _ in range(rounds):
        with LocalBroker() as broker:
            rates.append(measure("flow", W4, "127.0.0.1", broker.port, seconds=seconds).rate)
    return max(rates)


def ping_pong(durability: str, beside: int, seconds: float) -> Row:
    """One round on a broker of its own."""
    load = Load(run="ping", durability=durability)
    with LocalBroker() as broker:
        where = ("127.0.0.1", broker.port)
        if not beside:
            alone = measure("latency", load, *where, seconds=seconds, pid=broker.pid)
            return Row(durability, 0, alone, None)
        found: list[Result] = []

        def run() -> None:
            paced = attrs.evolve(W4, rate=beside)
            found.append(
                measure("flow", paced, *where, seconds=seconds + 2 * SETTLED_S, pid=broker.pid)
            )

        other = threading.Thread(target=run)
        other.start()
        result = measure("latency", load, *where, seconds=seconds, warm_up=SETTLED_S)
        other.join()
        if not found:
            raise SystemExit("the load beside it failed; its error is above")
        return Row(durability, beside, result, found[0])


def rows(share: float, seconds: float, rounds: int) -> Iterator[Row]:
    most = peak(seconds / 2, rounds)
    print(f"W4 alone: {most:,.0f} messages/s", file=sys.stderr, flush=True)
    cases = [(d, b) for d in BOUNDS_MS for b in (0, int(most * share))]
    found: dict[tuple[str, int], list[Row]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            found[case].append(ping_pong(*case, seconds))
    for some in found.values():
        best = min(some, key=lambda row: row.p99_ms)
        yield attrs.evolve(best, p99s_ms=tuple([round(row.p99_ms, 2) for row in some]))


def show(row: Row) -> str:
    spread = row.result.latency_us
    p50, p99, top = (spread.percentile(p) / 1000 for p in (50, 99, 100))
    load = row.load
    beside = "nothing" if load is None else f"{load.rate:,.0f}/s of {row.beside:,}"
    share = "" if load is None or load.cpu_share is None else f"{load.cpu_share:.0%}"
    bound = f"< {BOUNDS_MS[row.durability]:g}" if load else ""
    return (
        f"| {row.durability} | {beside} | {p50:.2f} | {p99:.2f} | {top:.1f} | {bound}"
        f" | {min(row.p99s_ms):.2f}-{max(row.p99s_ms):.2f} | {share} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each ping-pong")
    parser.add_argument("--share", type=float, default=0.5, help="of W4's peak")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = list(rows(given.share, given.seconds, given.rounds))
    if given.json:
        print(json.dumps([row.as_json() for row in found], indent=1))
        return
    print(
        "| ping-pong | beside | p50 ms | p99 ms | max ms | bound | p99 of all rounds | broker CPU |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for row in found:
        print(show(row))


if __name__ == "__main__":
    main()
