"""When full collections happen: seldom and in quiet moments, unless memory runs away."""

import gc
import socket
import sys

import pytest

from msg.bench.local import LocalBroker, rss_bytes
from msg.daemon import collector
from msg.daemon.collector import OFTEN_S, TOO_MANY, Collector
from msg.plain_client import PlainClient

BLOCKS = 1_000_000
MUCH = int(2 * BLOCKS + TOO_MANY) + 1


@pytest.fixture
def kept(monkeypatch):
    """A collector that has just settled at so many blocks, at 0 s."""
    monkeypatch.setattr(gc, "collect", lambda: None)
    monkeypatch.setattr(sys, "getallocatedblocks", lambda: BLOCKS)
    return Collector(blocks=BLOCKS, at=0.0, busy=100.0)


@pytest.mark.parametrize(
    ("after_s", "blocks", "busy_s", "collects"),
    [
        (OFTEN_S, BLOCKS * 1.3, 0.01, True),
        (OFTEN_S, BLOCKS * 1.3, 0.5, False),  # busy: somebody would wait
        (OFTEN_S, BLOCKS * 1.2, 0.01, False),  # nothing has come to it
        (OFTEN_S - 1, BLOCKS * 1.3, 0.01, False),  # a moment ago
        (1, MUCH, 0.01, True),  # memory runs away
        (1, MUCH, 0.9, True),
        (1, MUCH - 1, 0.9, False),
        (1, BLOCKS / 2, 0.9, False),
    ],
)
def test_it_collects_when(kept, after_s, blocks, busy_s, collects):
    assert kept.look(after_s, int(blocks), 100.0 + busy_s) is collects
    assert kept.busy == 100.0 + busy_s
    assert kept.at == (after_s if collects else 0.0)


def test_what_counts_is_what_came_since(kept, monkeypatch):
    monkeypatch.setattr(sys, "getallocatedblocks", lambda: 3 * BLOCKS)
    assert kept.look(OFTEN_S, 2 * BLOCKS, 100.0)
    assert not kept.look(OFTEN_S * 2, 3 * BLOCKS, 100.0)
    assert kept.look(OFTEN_S * 2 + 1, 4 * BLOCKS, 100.0)


def test_the_automatic_full_collection_is_off_and_the_young_ones_are_not():
    before = gc.get_threshold()
    try:
        Collector().settle()
        assert gc.isenabled()
        assert gc.get_threshold() == (*before[:2], collector.NEVER)
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


@pytest.mark.full
@pytest.mark.process
def test_memory_levels_off_as_connections_come_and_go():
    """Seven waves of 1,000 at a time: what the second took is enough for the last."""
    with LocalBroker() as broker:
        after = []
        for _ in range(7):
            some = [connected(broker.port, number) for number in range(1000)]
            for connection in some:
                connection.close()
            wait_until_nobody_is_left(broker.port)
            after.append(memory_of(broker))
        assert after[6] < after[1] * 1.05, after


def memory_of(broker):
    found = rss_bytes(broker.pid)
    if found is None:
        pytest.skip("no /proc on this system")
    return found


def connected(port, number):
    mode = b"queue" if number % 2 else b"pubsub"
    connection = socket.create_connection(("127.0.0.1", port), 30)
    frame = b'{"action":"subscribe","topic":"t%d","mode":"%b","id":"s"}\n'
    connection.sendall(frame % (number % 5, mode))
    assert b'"subscribed"' in connection.recv(1 << 16)
    return connection


def wait_until_nobody_is_left(port):
    with PlainClient.connect(f"msg://127.0.0.1:{port}") as client:
        while client.ask({"action": "stats"})["connections"] > 1:
            pass
