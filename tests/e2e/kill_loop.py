"""kill -9 under load, any number of times: `python -m tests.e2e.kill_loop --kills 1000`.

Four publishers send numbered messages under ids of their own and resend, after each restart,
what was not answered. Four consumers ack each message with an `id` and note the answer. What
must hold in the end: everything that was acked to a publisher was received (0 lost), nothing
was received that nobody sent (0 invented), and what the broker has confirmed as settled did
not come again. (It cannot see a missing sync: the page cache survives. The power cuts on the
simulated disk do.)
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

from msg.plain_client import PlainClient, Unavailable
from tests.e2e.process import Broker

WINDOW = 200
PREFETCH = 50
PAUSE_S = (0.15, 0.6)  # between a start and the next kill
DRAIN_S = 60.0


class Load:
    """What all clients noted. Each table is written by one thread only, and read at the end."""

    def __init__(self, port: int) -> None:
        self.url = f"msg://127.0.0.1:{port}"
        self.publishing = True
        self.consuming = True
        self.acked: list[set[str]] = [set() for _ in range(4)]
        self.sent = [0] * 4
        self.received: list[list[str]] = [[] for _ in range(4)]
        self.settled: list[set[str]] = [set() for _ in range(4)]
        self.again: list[list[str]] = [[] for _ in range(4)]
        self.bugs: list[str] = []

    def publish(self, who: int) -> None:
        unanswered: dict[str, int] = {}
        while self.publishing or unanswered:
            try:
                with PlainClient.connect(self.url) as client:
                    for message_id, n in unanswered.items():
                        self._send(client, message_id, n)
                    while self.publishing or unanswered:
                        while self.publishing and len(unanswered) < WINDOW:
                            n = self.sent[who]
                            message_id = f"p{who}-{n}"
                            unanswered[message_id] = n
                            self.sent[who] += 1
                            self._send(client, message_id, n)
                        self._hear(client, who, unanswered)
            except (Unavailable, OSError):
                time.sleep(0.01)

    def _send(self, client: PlainClient, message_id: str, n: int) -> None:
        client.send({"action": "publish", "topic": "jobs", "mode": "queue", "message": n,
                     "message_id": message_id})  # fmt: skip

    def _hear(self, client: PlainClient, who: int, unanswered: dict[str, int]) -> None:
        answer = client.receive()
        if answer["type"] == "ack":
            unanswered.pop(answer["message_id"], None)
            self.acked[who].add(answer["message_id"])
        elif answer["type"] == "error":
            self.bugs.append(f"publisher {who}: {answer}")
            self.publishing = False
            unanswered.clear()

    def consume(self, who: int) -> None:
        while self.consuming:
            try:
                with PlainClient.connect(self.url) as client:
                    client.send({"action": "subscribe", "topic": "jobs", "mode": "queue",
                                 "prefetch": PREFETCH})  # fmt: skip
                    asked: dict[str, str] = {}
                    while self.consuming:
                        self._take(client, who, asked)
            except (Unavailable, OSError):
                time.sleep(0.01)

    def _take(self, client: PlainClient, who: int, asked: dict[str, str]) -> None:
        frame = client.receive()
        if frame["type"] == "message":
            message_id = frame["message_id"]
            self.received[who].append(message_id)
            asked[str(frame["tag"])] = message_id
            client.send({"action": "ack", "tag": frame["tag"], "id": str(frame["tag"])})
        elif frame["type"] == "acked":
            message_id = asked.pop(frame["id"])
            if frame["count"] == 1:
                self.settled[who].add(message_id)
        elif frame["type"] == "error":
            self.bugs.append(f"consumer {who}: {frame}")

    def verdict(self) -> dict[str, int]:
        received = [m for part in self.received for m in part]
        acked = set().union(*self.acked)
        sent = {f"p{who}-{n}" for who in range(4) for n in range(self.sent[who])}
        settled_twice = sum([len(part) for part in self.settled]) - len(set().union(*self.settled))
        return {
            "acked": len(acked),
            "received": len(received),
            "lost": len(acked - set(received)),
            "invented": len(set(received) - sent),
            "settled_twice": settled_twice,
            "duplicates": len(received) - len(set(received)),
            "bugs": len(self.bugs),
        }


def kill_loop(folder: Path, kills: int, seed: int) -> tuple[dict[str, int], Load]:
    """So many kills, then the drain, then the books."""
    rng = random.Random(seed)
    broker = Broker(folder)
    load = Load(broker.port)
    publishers = [threading.Thread(target=load.publish, args=(i,), daemon=True) for i in range(4)]
    consumers = [threading.Thread(target=load.consume, args=(i,), daemon=True) for i in range(4)]
    try:
        for thread in publishers + consumers:
            thread.start()
        for _ in range(kills):
            time.sleep(rng.uniform(*PAUSE_S))
            broker.kill()
            broker.start()
        load.publishing = False
        for thread in publishers:
            thread.join(DRAIN_S)
        _drain(broker)
        load.consuming = False
    finally:
        broker.stop()
    for thread in consumers:
        thread.join(5)
    return load.verdict(), load


def _drain(broker: Broker) -> None:
    end = time.monotonic() + DRAIN_S
    while time.monotonic() < end:
        with broker.connect() as client:
            (queue,) = client.ask({"action": "stats"})["queues"]
        if not queue["ready"] + queue["leased"] + queue["delayed"]:
            return
        time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        verdict, load = kill_loop(Path(folder), args.kills, args.seed)
    print(f"{args.kills} kills:", *[f"{name} {count}" for name, count in verdict.items()])
    print(*load.bugs[:10], sep="\n")
    return 1 if verdict["lost"] or verdict["invented"] or verdict["bugs"] else 0


if __name__ == "__main__":
    sys.exit(main())
