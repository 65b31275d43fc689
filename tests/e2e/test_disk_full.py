"""A really full disk (a small tmpfs): publishes are refused, the rest goes on, and it heals."""

import os
import subprocess

import pytest

from msg.plain_client import Refused
from tests.e2e.process import Broker

pytestmark = pytest.mark.process

SIZE = 6 << 20
BODY = "x" * 10_000


@pytest.fixture
def small_disk(tmp_path):
    """`tmp_path/data` as a file system of 6 MiB."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    mounted = os.geteuid() == 0 and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(data)],
        capture_output=True, check=False,
    ).returncode  # fmt: skip
    if not mounted:
        pytest.skip("only root may mount a small disk; the simulated one is tested without")
    yield tmp_path
    subprocess.run(["umount", "-l", str(data)], check=True)


def publish(client, n):
    return client.ask({"action": "publish", "topic": "jobs", "mode": "queue", "message": [n, BODY],
                       "message_id": f"m{n}"})  # fmt: skip


def test_a_full_disk_refuses_publishes_and_nothing_else_and_heals_by_itself(small_disk):
    with Broker(small_disk) as broker, broker.connect() as producer:
        acked: list[str] = []
        refused = None
        while refused is None:
            try:
                acked.append(publish(producer, len(acked))["message_id"])
            except Refused as error:
                refused = error
            assert len(acked) < 2 * SIZE // len(BODY), "the disk does not get full"
        assert refused.code == "disk_full"
        assert refused.retry == "later"
        assert len(acked) > 100
        # a refusal waits for nothing: nobody consumes, nothing else is published, no room comes
        for n in range(20):
            with pytest.raises(Refused) as again:
                publish(producer, 10_000 + n)
            assert again.value.code == "disk_full"
        # memory-only publishes need no disk
        memory = producer.ask({"action": "publish", "topic": "other", "mode": "queue",
                               "message": 1, "durability": "memory"})  # fmt: skip
        assert memory["type"] == "ack"
        taken: list[str] = []
        with broker.connect() as consumer:
            consumer.send({"action": "subscribe", "topic": "jobs", "mode": "queue",
                           "prefetch": 10})  # fmt: skip
            while len(taken) < len(acked):
                frame = consumer.receive()
                if frame["type"] == "message":
                    taken.append(frame["message_id"])
                    consumer.send({"action": "ack", "tag": frame["tag"]})
            consumer.ask({"action": "ping"})
            assert taken == acked
            # settled segments go, and there is room again, without anybody's doing
            for n in range(len(acked), len(acked) + 400):
                while True:
                    try:
                        publish(producer, n)
                    except Refused as error:
                        assert error.code == "disk_full"
                        continue
                    break
                frame = consumer.receive()
                assert frame["message_id"] == f"m{n}"
                consumer.ask({"action": "ack", "tag": frame["tag"]})  # answered when durable
        broker.kill()
        broker.start()
        with broker.connect() as client:
            client.send({"action": "get", "topic": "jobs", "n": 5})
            assert client.receive()["count"] == 0
