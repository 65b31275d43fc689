"""Recording: what clients say to a broker becomes a scenario that says it again."""

import json
import tomllib
from typing import Any

import pytest

from msg.scenario.reading import parse_scenario
from msg.scenario.recorder import Recorded, Recording
from msg.scenario.run import run_sim
from msg.scenario.writing import to_toml


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


def wire(*frames: Any) -> bytes:
    return b"".join(json.dumps(frame).encode() + b"\n" for frame in frames)


def replay(recording: Recording):
    text = to_toml(recording.document("t", "w"))
    return run_sim(parse_scenario(text))


def of_kind(outcome, kind: str) -> list[dict[str, Any]]:
    return [event.what for event in outcome.events if event.kind == kind]


@pytest.fixture
def recording() -> Recording:
    return Recording("hash", Clock())


def publish(body: Any, **fields: Any) -> dict[str, Any]:
    return {"action": "publish", "topic": "jobs", "mode": "queue", "message": body, **fields}


def test_a_job_that_was_done_is_done_again(recording):
    producer, worker = recording.connected(), recording.connected()
    subscribe = {"action": "subscribe", "topic": "jobs", "mode": "queue", "id": "s"}
    worker.said(wire(subscribe))
    producer.said(wire(publish({"secret": 1}), publish("x" * 500, message_id="mine")))
    for tag, message_id in ((1, "broker-made-1"), (2, "mine")):
        worker.heard(wire({"type": "message", "topic": "jobs", "message": 1, "tag": tag,
                           "message_id": message_id}))  # fmt: skip
        worker.said(wire({"type": "ack", "message_id": message_id}))
    producer.ended("close")
    worker.ended("reset")
    outcome = replay(recording)
    assert outcome.violations == []
    assert [what["key"] for what in of_kind(outcome, "acked")] == ["client-1/0", "mine"]
    assert [what["key"] for what in of_kind(outcome, "settle")] == ["client-1/0", "mine"]
    assert of_kind(outcome, "found") == []
    again = replay(recording)
    assert again.hash == outcome.hash


def test_what_was_left_is_left_again(recording):
    producer = recording.connected()
    producer.said(wire(publish(1), publish(2)))
    outcome = replay(recording)
    assert outcome.violations == []
    assert [what["key"] for what in of_kind(outcome, "found")] == ["client-1/0", "client-1/1"]


@pytest.mark.parametrize("bodies", ["hash", "cut", "keep"])
def test_bodies_headers_and_secrets(bodies):
    recording = Recording(bodies, Clock())
    client = recording.connected()
    client.said(wire({"action": "hello", "token": "s3cret", "name": "me"}))
    client.said(wire(publish({"card": "4711 0815 4711 0815 4711 0815 and more"},
                             headers={"who": "alice"})))  # fmt: skip
    text = to_toml(recording.document("t", "w"))
    hello, frame = [line["frame"] for line in tomllib.loads(text)["client"][0]["say"]]
    assert hello == {"action": "hello", "name": "me"}
    assert "s3cret" not in text
    body = frame["message"]
    assert body["k"] == "client-1/0"
    assert ("alice" in text) is (bodies == "keep")
    if bodies == "hash":
        assert set(body) == {"k", "bytes", "sha256"}
        assert "4711" not in text
    elif bodies == "cut":
        assert body["begins"].startswith('{"card":"4711')
        assert "and more" not in text
    else:
        assert body["body"] == {"card": "4711 0815 4711 0815 4711 0815 and more"}
    assert replay(recording).violations == []


def test_frames_in_pieces_without_newlines_and_with_null(recording):
    client = recording.connected()
    data = json.dumps(publish(None)).encode() + json.dumps(publish(2, ttl=None)).encode()
    for n in range(0, len(data), 7):
        client.said(data[n : n + 7])
    assert [set(line) for line in client.says] == [{"at", "frame"}, {"at", "text"}]
    outcome = replay(recording)
    assert outcome.violations == []
    assert len(of_kind(outcome, "acked")) == 2


def test_what_is_no_frame_is_said_as_it_was(recording):
    web, noise, half = (recording.connected() for _ in range(3))
    web.said(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    web.heard(wire({"type": "error", "code": "bad_frame", "closes": True}))
    noise.said(b"\xff\xfe\x00")
    half.said(b'{"action":"publish","topic":"t","mess')
    half.ended("reset")
    said = [line for client in (web, noise, half) for line in client.says]
    assert said[0]["text"].startswith("GET /")
    assert said[1]["base64"] == "//4A"
    assert said[2]["text"] == '{"action":"publish","topic":"t","mess'
    assert said[3]["reset"] is True
    outcome = replay(recording)
    assert outcome.violations == []
    assert [what["code"] for what in of_kind(outcome, "error")] == ["bad_frame", "bad_frame"]


def test_an_inbox_is_the_asker_s_own(recording):
    asker, answerer = recording.connected(), recording.connected()
    answerer.said(wire({"action": "subscribe", "topic": "ask", "mode": "queue"}))
    asker.said(wire({"action": "hello"}))
    asker.heard(wire({"type": "hello", "inbox": "_inbox.77"}))
    asker.said(wire({"action": "subscribe", "topic": "_inbox.77.a"}))
    asker.said(wire({**publish("?"), "topic": "ask", "reply_to": "_inbox.77.a"}))
    answerer.heard(wire({"type": "message", "topic": "ask", "message": 1, "tag": 1,
                         "message_id": "made", "reply_to": "_inbox.77.a"}))  # fmt: skip
    answerer.said(wire({"action": "publish", "topic": "_inbox.77.a", "message": "!"}))
    answerer.said(wire({"action": "ack", "tag": 1}))
    text = to_toml(recording.document("t", "w"))
    assert "_inbox.77" not in text
    assert text.count("{inbox client-1}.a") == 3
    outcome = replay(recording)
    assert outcome.violations == []
    assert [what["key"] for what in of_kind(outcome, "message")] == ["client-1/0", "client-2/0"]


def test_an_ack_waits_for_its_delivery(recording):
    """Though the replay's broker is slower than the one that was there."""
    worker, producer = recording.connected(), recording.connected()
    worker.said(wire({"action": "subscribe", "topic": "jobs", "mode": "queue"}))
    worker.heard(wire({"type": "message", "topic": "jobs", "message": 1, "tag": 1,
                       "message_id": "made"}))  # fmt: skip
    worker.said(wire({"action": "ack", "tag": 1}))
    recording.clock.now += 1.0
    producer.said(wire(publish(1)))
    outcome = replay(recording)
    assert outcome.violations == []
    kinds = [e.kind for e in outcome.events if e.kind in ("message", "settle")]
    assert kinds == ["message", "settle"]


def test_a_recording_has_a_limit(recording, monkeypatch):
    from msg.scenario import recorder

    monkeypatch.setattr(recorder, "LINES_MAX", 2)
    client: Recorded = recording.connected()
    client.said(wire(publish(1), publish(2), publish(3)))
    assert len(client.says) == 2
    assert recording.full
