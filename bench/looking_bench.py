"""What it costs the broker that people look at it: CPU per message, with lookers and without.

    python bench/looking_bench.py [--rounds 3] [--seconds 2] [--durability memory]

One producer (window 1,000, bodies of 200 bytes), one consumer that acks each message, and
beside them none, one, or all of the live tools. A fresh broker for each run, all shapes in
turn, `--rounds` times; the medians are compared, since what the machine does beside it hits all
of them alike. The broker's CPU is its process's own, from /proc, for the whole run.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

CLI = [sys.executable, "-c", "from msg.cli.main import main; main()"]
WATCH = ["tree", "--watch", "--every", "1", "--json"]
TOP = ["top", "--every", "2", "--json"]
TAP = ["tap", ">", "--json"]  # 100 messages a second of all that flow
WHY = ["why"]  # again and again, once a second
SHAPES: dict[str, tuple[list[list[str]], list[str]]] = {  # lookers, flags of the broker
    "nobody looks": ([], []),
    "tree --watch": ([WATCH], []),
    "top": ([TOP], []),
    "tap": ([TAP], []),
    "why, each second": ([WHY], []),
    "all of them": ([WATCH, TOP, TAP, WHY], []),
    "otel = headers": ([], ["--set", "otel=headers"]),
}


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def broker(flags: list[str]) -> Iterator[tuple[int, str]]:
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [*CLI, "serve", "--host", "127.0.0.1", "--port", "0", "--http", "off",
             "--data-dir", folder, *flags],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            ready = process.stdout.readline().decode()
            yield process.pid, "msg://127.0.0.1:" + ready.partition(",")[0].rpartition(":")[2]
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def lookers(commands: list[list[str]], url: str) -> Iterator[None]:
    started = []
    for command in commands:
        line = [*CLI, *command]
        if command is WHY:
            again = "import subprocess, sys, time\nwhile True:\n"
            again += "    subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
            again += "    time.sleep(1)\n"
            line = [sys.executable, "-c", again, *line]
        started.append(
            subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             env={**os.environ, "MSG_URL": url}, start_new_session=True)
        )  # fmt: skip
    if started:
        time.sleep(0.5)  # they have their first look
    try:
        yield
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def measure(shape: str, seconds: float, durability: str) -> tuple[float, float]:
    """CPU microseconds of the broker per message, and messages a second."""
    commands, flags = SHAPES[shape]
    with broker(flags) as (pid, url), lookers(commands, url):
        before = cpu_seconds(pid)
        done = subprocess.run(
            [*CLI, "bench", "queue", "-s", str(seconds), "-d", durability, "--json", "--url", url],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        used = cpu_seconds(pid) - before
    result = json.loads(done.stdout)
    return used / result["received"] * 1e6, result["per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--durability", default="memory")
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {shape: [] for shape in SHAPES}
    for _ in range(options.rounds):
        for shape in SHAPES:
            found[shape].append(measure(shape, options.seconds, options.durability))
    print(f"{'':18} {'µs CPU/message':>14} {'lowest to highest':>18} {'messages/s':>11}")
    for shape, runs in found.items():
        cpu = [each for each, _ in runs]
        rate = statistics.median([each for _, each in runs])
        spread = f"{min(cpu):.2f} to {max(cpu):.2f}"
        print(f"{shape:18} {statistics.median(cpu):14.2f} {spread:>18} {rate:11,.0f}")


if __name__ == "__main__":
    main()
