"""`trio-msg bench`: every kind, against a broker of its own and against one that runs."""

import json
import socket

import pytest

from msg.bench.generators import Load
from msg.daemon import exits
from msg.plain_client import PlainClient
from tests.cli.conftest import Cli
from tests.e2e.process import Broker

pytestmark = pytest.mark.process

SHORT = ("-s", "0.2", "--json")


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with Broker(tmp_path_factory.mktemp("bench")) as running:
        yield running


@pytest.fixture(scope="module")
def bench(broker):
    cli = Cli(broker.url)

    def run(*args, code=0):
        result = cli("bench", *args)
        assert result.code == code, result.err
        return result

    return run


SAMPLE = ("pub", "latency")  # of the kinds, by default


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(args, id=" ".join(args), marks=() if args[0] in SAMPLE else pytest.mark.full)
        for args in (
            ("pub", "--topics", "3", "--producers", "2"),
            ("queue", "--queues", "2", "-p", "2", "-c", "2", "--durability", "memory"),
            ("queue", "--queues", "5", "-c", "2", "--rate", "2000"),
            ("fanout", "-n", "3"),
            ("latency",),
            ("latency", "--topic"),
            ("connections", "-n", "30"),
        )
    ],
)
def test_each_kind_against_a_running_broker(bench, broker, args):
    found = json.loads(bench(*args, "--url", broker.url, *SHORT).out)
    assert found["lost"] == 0
    assert found["broker_cpu_us_per_message"] is None  # it is not ours
    if args[0] != "connections":
        assert found["per_second"] > 0
        timed = found["confirm_us"] if args[0] == "pub" else found["latency_us"]
        assert 0 < timed["p50"] <= timed["p99"] <= timed["max"]
    with PlainClient.connect(broker.url) as client:
        left = client.ask({"action": "stats"})
        assert [q["name"] for q in left["queues"] if q["name"].startswith("bench.")] == []


def test_with_a_broker_of_its_own_and_a_picture(bench, tmp_path):
    path = tmp_path / "spread.svg"
    out = bench("queue", "-c", "2", "-s", "0.3", "--picture", str(path)).out
    for word in ("1 -> 2 through a queue", "messages/s", "us of CPU each", "fairness", "p99.9"):
        assert word in out
    assert path.read_text().startswith("<svg")


def test_what_cannot_be_measured_is_said(bench):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"msg://127.0.0.1:{server.getsockname()[1]}"
    assert "no broker at" in bench("pub", "--url", url, code=exits.UNAVAILABLE).err
    said = bench("queue", "--queues", "300", code=exits.USAGE).err
    assert "take --consumers 3 or more" in said
    assert 'not "disk"' in bench("queue", "-d", "disk", code=exits.USAGE).err


def test_the_brokers_refusal_is_the_reason(bench, broker):
    said = bench("queue", "--url", broker.url, "--prefetch", "20000", code=exits.TEMPORARY).err
    assert "no figure" in said
    assert "prefetch" in said


def test_consumers_share_the_destinations():
    load = Load(names=5, consumers=2)
    assert [load.heard_by(c) for c in range(2)] == [[0, 2, 4], [1, 3]]
    assert [Load(names=2, consumers=3).heard_by(c) for c in range(3)] == [[0], [1], [0]]
    assert Load(mode="pubsub", names=2).heard_by(7) == [0, 1]
    for size in (21, 200):
        body = len(b"".join([Load(size=size).tail(), b"0" * 19])) - len(b'"}\n') + 2
        assert body == size
