"""Frames: what comes in any order and of any kind, and what goes out."""

import json

import pytest

from msg.client import wire
from msg.client.message import Message
from tests.client.kit import message


def lines(*frames):
    return b"".join(json.dumps(frame).encode() + b"\n" for frame in frames)


def test_frequent_frames_have_classes_and_others_are_dicts():
    frames = wire.decode(
        lines(
            {"type": "ack", "message_id": "a", "duplicate": True},
            message(tag=1, headers={"h": "v"}, future="field"),
            {"type": "got", "count": 1, "id": "r1"},
            {"type": "ping"},
            {"type": "pong"},
        )
    )
    assert [type(frame) for frame in frames] == [
        wire.Ack, Message, wire.Got, wire.Ping, wire.Pong,
    ]  # fmt: skip
    mixed = wire.decode(lines({"type": "subscribed", "id": "1"}, {"type": "pong"}, {"type": "new"}))
    assert mixed[0] == {"type": "subscribed", "id": "1"}
    assert isinstance(mixed[1], wire.Pong)
    assert mixed[2] == {"type": "new"}


def test_what_is_no_frame_is_no_broker():
    with pytest.raises(wire.NotABroker, match=r"HTTP/1\.1 400"):
        wire.decode(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(wire.NotABroker):
        wire.decode(b"[1]\n")


def test_many_tags_are_split_into_frames_that_are_allowed():
    frames = [json.loads(line) for line in wire.tagged("ack", list(range(25_000))).splitlines()]
    assert [len(frame["tags"]) for frame in frames] == [10_000, 10_000, 5_000]
    assert json.loads(wire.tagged("nack", [7], delay=1.5, reason=None)) == {
        "action": "nack", "tag": 7, "delay": 1.5,
    }  # fmt: skip


def test_a_publish_is_what_json_would_have_made_of_it():
    publishing = wire.Publishing("jobs", "queue", {"headers": {"a": "ü"}, "ttl": None})
    frame = publishing.frame(b"id1", b'{"n":1}')
    assert frame.endswith(b"}\n")
    assert json.loads(frame) == {
        "action": "publish", "topic": "jobs", "mode": "queue", "headers": {"a": "ü"},
        "message_id": "id1", "message": {"n": 1},
    }  # fmt: skip
    assert json.loads(publishing.frame(b"id1", b'"AA=="', binary=True))["encoding"] == "base64"


@pytest.mark.parametrize("text", ["short", "ü" * 5000, "x" * 4096, "x" * 4097])
def test_reasons_are_clipped_to_what_the_broker_takes(text):
    clipped = wire.clip(text)
    assert len(clipped.encode()) <= wire.REASON_BYTES_MAX
    assert clipped == text or clipped.endswith("…")
