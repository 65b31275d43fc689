"""OpenTelemetry: a message's spans join its sender's trace, and without the setting none are made."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from msg.config import Settings
from tests.actors.kit import Client, running, settings, settled
from tests.e2e import process

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from msg.spans import Spans

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tenant": "a"}


class Seen:
    """What was exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test")

    def spans(self) -> list[ReadableSpan]:
        return sorted(self.exporter.get_finished_spans(), key=lambda s: (s.start_time or 0, s.name))

    def names(self) -> list[str]:
        return [span.name for span in self.spans()]

    def one(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.spans() if span.name == name]
        return found

    def watch(self, broker: Any, *, every: bool = False) -> None:
        broker.broker.context.services.watchers.append(Spans(self.tracer, every=every))


@pytest.fixture
def seen() -> Iterator[Seen]:
    found = Seen()
    yield found
    found.exporter.shutdown()


async def taken(client: Client, **fields: Any) -> dict[str, Any]:
    """One message published and delivered."""
    await client.subscribe("jobs", name="worker-a")
    await client.publish("jobs", 1, headers=HEADERS, **fields)
    return await client.expect("message")


async def test_publish_deliver_and_settle_are_one_trace(autojump_clock, seen):
    async with running() as broker:
        seen.watch(broker)
        client = broker.client()
        delivery = await taken(client)
        assert delivery["headers"] == HEADERS  # carried as it came
        autojump_clock.jump(3)
        await client.ask("ack", "acked", tag=1)
        await settled()
    publish, deliver, settle = (
        seen.one(f"{what} jobs") for what in ("publish", "deliver", "settle")
    )
    assert publish.parent is not None
    assert f"{publish.parent.span_id:016x}" == PARENT
    for child, parent in ((deliver, publish), (settle, deliver)):
        assert child.parent is not None
        assert child.parent.span_id == parent.context.span_id
    assert {f"{span.context.trace_id:032x}" for span in (publish, deliver, settle)} == {TRACE}
    assert deliver.attributes is not None
    assert deliver.attributes["messaging.message.id"] == delivery["message_id"]
    assert deliver.attributes["messaging.consumer.name"] == "worker-a"
    assert deliver.attributes["msg.attempt"] == 1
    assert (deliver.end_time or 0) - (deliver.start_time or 0) == pytest.approx(3e9, rel=0.01)
    assert settle.attributes is not None
    assert settle.attributes["msg.settled"] == "ack"


@pytest.mark.parametrize("durability", ["memory", "os", "stored"])
async def test_a_publish_ends_when_it_is_kept_as_promised(autojump_clock, seen, durability):
    async with running() as broker:
        seen.watch(broker)
        await broker.client().publish("jobs", 1, headers=HEADERS, durability=durability)
        assert seen.names() == ["publish jobs"]


async def test_a_publish_that_waits_for_the_disk_is_a_long_span(autojump_clock, seen):
    async with running() as broker:
        seen.watch(broker)
        client = broker.client()
        broker.world.hold_disk()
        await client.send(action="publish", topic="jobs", mode="queue", message=1, headers=HEADERS)
        await settled()
        assert seen.names() == []
        autojump_clock.jump(2)
        broker.world.free_disk()
        await client.expect("ack")
        span = seen.one("publish jobs")
        assert (span.end_time or 0) - (span.start_time or 0) >= 2e9


async def test_each_attempt_has_its_span_and_a_failed_one_says_why(autojump_clock, seen):
    async with running(settings(queues={"jobs": {"max_deliveries": 2}})) as broker:
        seen.watch(broker)
        client = broker.client()
        await taken(client)
        await client.ask("nack", "acked", tag=1, reason="Traceback\nKeyError: 'cat'\n", delay=0)
        await client.expect("message")
        await client.ask("nack", "acked", tag=2, reason="again")
        await settled()
    first, second = [span for span in seen.spans() if span.name == "deliver jobs"]
    assert first.status.status_code is StatusCode.ERROR
    assert first.status.description == "nack: KeyError: 'cat'"
    assert second.attributes is not None
    assert second.attributes["msg.attempt"] == 2
    dead = seen.one("publish jobs.dead")  # it went on, in the same trace
    assert f"{dead.context.trace_id:032x}" == TRACE


async def test_a_consumer_that_leaves_and_a_restarted_broker(autojump_clock, seen):
    async with running() as broker:
        disk = broker.world.disk
        seen.watch(broker)
        worker = broker.client()
        await taken(worker)
        worker.close()
        await settled()
        assert seen.one("settle jobs").status.status_code is StatusCode.ERROR
    async with running(disk=disk) as broker:
        later = Seen()
        later.watch(broker)
        client = broker.client()
        await client.subscribe("jobs", name="worker-b")
        await client.expect("message")
        await client.ask("ack", "acked", tag=1)
        deliver = later.one("deliver jobs")
        assert deliver.parent is not None
        assert f"{deliver.parent.span_id:016x}" == PARENT


async def test_topics_have_publish_spans(autojump_clock, seen):
    async with running() as broker:
        seen.watch(broker)
        client = broker.client()
        await client.subscribe("news", mode="pubsub")
        await client.publish("news", 1, mode="pubsub", headers=HEADERS)
        assert (await client.expect("message"))["headers"] == HEADERS
        await client.publish("unheard", 1, mode="pubsub", headers=HEADERS)
    assert set(seen.names()) == {"publish news", "publish unheard"}


async def test_only_messages_with_a_traceparent_or_every_one(autojump_clock, seen):
    bad = {"traceparent": "nonsense"}
    async with running() as broker:
        seen.watch(broker)
        client = broker.client()
        await client.publish("jobs", {"traceparent": "in the body"})
        await client.publish("jobs", 1, headers=bad)
        assert seen.names() == []
    async with running() as broker:
        seen.watch(broker, every=True)
        await broker.client().publish("jobs", 1)
        assert seen.one("publish jobs").parent is None


async def test_what_is_open_is_bounded_and_ends_with_the_broker(autojump_clock, seen, monkeypatch):
    monkeypatch.setattr("msg.spans.OPEN_MAX", 3)
    async with running(settings(drain_seconds=0.0)) as broker:
        spans = Spans(seen.tracer)
        broker.broker.context.services.watchers.append(spans)
        client, worker = broker.client(), broker.client()
        await worker.subscribe("jobs", prefetch=10)
        for n in range(5):
            await client.publish("jobs", n, headers=HEADERS)
        for _ in range(5):
            await worker.expect("message")
        assert seen.names().count("deliver jobs") == 2
        spans.close()
        assert seen.names().count("deliver jobs") == 5


def test_spans_without_the_library_are_refused_with_what_to_install(monkeypatch):
    from msg.config import ConfigError
    from msg.daemon import tracing

    tracing.check(Settings(otel="headers"))
    monkeypatch.setattr(tracing, "LIBRARY", "opentelemetry.exporter.nowhere.trace_exporter")
    tracing.check(Settings(otel="off"))
    with pytest.raises(ConfigError, match=r"pip install 'trio-msg\[otel\]'"):
        tracing.check(Settings(otel="all"))


@pytest.mark.process
def test_a_broker_exports_to_a_collector(tmp_path, monkeypatch):
    """`serve` with `otel = headers`, and a collector that keeps what it is sent."""
    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setitem(process.ENV, "OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    try:
        with (
            process.Broker(tmp_path, "--set", "otel=headers") as broker,
            broker.connect() as client,
        ):
            frame = {"action": "publish", "topic": "jobs", "mode": "queue", "message": 1}
            client.ask({**frame, "headers": HEADERS})
    finally:  # the stop has flushed
        server.shutdown()
        server.server_close()
    ((path, body),) = got
    assert path == "/v1/traces"
    assert b"publish jobs" in body
    assert bytes.fromhex(TRACE) in body
