"""A short benchmark: the broker's CPU time a message, beside what was recorded before.

    python bench/short.py [--seconds 1.5] [--record]

CI prints it and never fails by it: these machines are shared, and a figure says something only
beside others of the same run. `--record` writes the figures to `bench/recorded.json`.
"""

import argparse
import json
import platform
from datetime import UTC, datetime
from pathlib import Path

from msg import __version__
from msg.bench.generators import Load
from msg.bench.local import LocalBroker
from msg.bench.measure import measure

RECORDED = Path(__file__).parent / "recorded.json"
POINTS = {
    "topic 1 -> 1, acked": ("flow", Load(mode="pubsub")),
    "topic 1 -> 50": ("flow", Load(mode="pubsub", consumers=50)),
    "queue in memory": ("flow", Load(durability="memory")),
    "queue, fdatasync": ("flow", Load(durability="stored")),
    "queue, 50 x 50": ("flow", Load(durability="memory", producers=50, consumers=50)),
    "100 queues": ("flow", Load(durability="memory", names=100)),
    "queue ping-pong": ("latency", Load(durability="memory")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--record", action="store_true", help=f"write {RECORDED.name}")
    given = parser.parse_args()
    before = json.loads(RECORDED.read_text()) if RECORDED.exists() else {"us": {}}
    found: dict[str, float] = {}
    print(f"{'us of broker CPU a message':<28}{'now':>9}{'recorded':>10}{'ratio':>8}{'p99':>11}")
    for name, (kind, load) in POINTS.items():
        with LocalBroker() as broker:
            result = measure(
                kind, load, "127.0.0.1", broker.port, seconds=given.seconds, pid=broker.pid
            )
        if result.cpu_us is None:
            print("this system does not tell the CPU time of another process: nothing to compare")
            return
        found[name] = round(result.cpu_us, 2)
        old = before["us"].get(name)
        beside = f"{old:>10.2f}{result.cpu_us / old:>8.2f}" if old else f"{'-':>10}{'-':>8}"
        p99 = result.latency_us.percentile(99) / 1000
        print(f"{name:<28}{result.cpu_us:>9.2f}{beside}{p99:>8.1f} ms", flush=True)
    if before["us"]:
        print(f"recorded: {before['when']}, {before['machine']}, trio-msg {before['version']}")
    if given.record:
        RECORDED.write_text(
            json.dumps(
                {
                    "when": datetime.now(UTC).date().isoformat(),
                    "machine": f"{platform.machine()}, Python {platform.python_version()}",
                    "version": __version__,
                    "us": found,
                },
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
