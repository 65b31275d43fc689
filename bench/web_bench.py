"""What the web page costs the broker: queue throughput and CPU a message with `--http off`, with
the page served and nobody looking, and with a page that is looked at and scraped.

    python bench/web_bench.py [--seconds 6] [--rounds 3]

Compare the CPU microseconds a message: on a shared machine the throughput is anybody's. "Looked
at" asks what an open overview asks every two seconds, and for the metrics as often.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

ASKED = ("api/summary", "api/overview?n=8", "api/history?kind=broker", "metrics")
EVERY_S = 2.0
IDLE_S = 10.0
TICKS = os.sysconf("SC_CLK_TCK")


def look(url: str, stop: threading.Event) -> None:
    while not stop.wait(EVERY_S):
        for path in ASKED:
            with urllib.request.urlopen(url + path) as answer:
                answer.read()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mib(pid: int) -> float:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in x)
    return int(line.split()[1]) / 1024


def measure(http: str, looked_at: bool, seconds: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "msg", "--host", "127.0.0.1", "--port", "0", "--http", http,
             "--data-dir", f"{folder}/data", "--port-file", f"{folder}/port"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        stop = threading.Event()
        watcher = None
        try:
            process.stdout.readline()
            port = Path(f"{folder}/port").read_text().strip()
            if http != "off":
                url = process.stdout.readline().split()[3]
            rss, before = rss_mib(process.pid), cpu_s(process.pid)
            time.sleep(IDLE_S)
            idle = (cpu_s(process.pid) - before) / IDLE_S * 100
            if looked_at:
                watcher = threading.Thread(target=look, args=(url, stop))
                watcher.start()
            before = cpu_s(process.pid)
            ran = subprocess.run(
                [sys.executable, "-c", "from msg.cli.main import main; main()", "bench", "queue",
                 "--url", f"msg://127.0.0.1:{port}", "--seconds", str(seconds), "--json"],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            used = cpu_s(process.pid) - before
            told: dict[str, Any] = json.loads(ran.stdout)
        finally:
            stop.set()
            if watcher is not None:
                watcher.join()
            process.terminate()
            process.wait()
            process.stdout.close()
    cpu_us = used / told["received"] * 1e6
    return {"per_s": told["per_second"], "cpu_us": cpu_us, "rss_mib": rss, "idle_percent": idle}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    port = "127.0.0.1:0"
    ways = {"off": ("off", False), "served": (port, False), "looked at": (port, True)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(given.rounds):  # in turn, so that a slower minute is everybody's
        for name, (http, looked_at) in ways.items():
            found[name].append(measure(http, looked_at, given.seconds))
    print("page        messages/s   CPU us/message   MiB at start   idle CPU %")
    for name, rows in found.items():
        middle = {key: statistics.median([row[key] for row in rows]) for key in rows[0]}
        print(f"{name:10} {middle['per_s']:11,.0f} {middle['cpu_us']:16.1f}"
              f" {middle['rss_mib']:14.1f} {middle['idle_percent']:12.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
