"""The broker's frames: compact, one line each, and what goes in comes out of any parser."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msg.core.commands import Publish
from msg.core.message import Message
from msg.errors import ClientError, FatalClientError
from msg.protocol import encode
from msg.protocol.codec import decode_frame

text = st.text(st.characters(exclude_categories=["Cs"]))
AT = b"2026-11-23T08:05:15.123Z"


def lines(data):
    """The frames, checked for what every frame of the broker must be."""
    assert data.endswith(b"\n")
    frames = data[:-1].split(b"\n")
    for frame in frames:
        assert b"\r" not in frame
        parsed = json.loads(frame)
        assert json.dumps(parsed, ensure_ascii=False, separators=(",", ":")).encode() == frame
        assert next(iter(parsed)) == "type"
    return [json.loads(frame) for frame in frames]


@given(text)
def test_json_string(value):
    encoded = encode.json_string(value)
    assert json.loads(encoded) == value
    assert b"\n" not in encoded
    assert b"\r" not in encoded


@given(st.lists(text.filter(bool)))
def test_many_acks(ids):
    expected = b"".join(b'{"type":"ack","message_id":%b}\n' % encode.json_string(i) for i in ids)
    if all(i.isprintable() for i in ids):  # as ids are
        assert encode.accepted(ids) == expected
    assert encode.accepted([encode.json_string(i)[1:-1] for i in ids]) == expected


class TestAnswers:
    def test_an_ack_says_only_what_there_is_to_say(self):
        assert encode.ack("m") == b'{"type":"ack","message_id":"m"}\n'
        assert encode.ack("m", '"', duplicate=True, receivers=0) == (
            b'{"type":"ack","message_id":"m","id":"\\"","duplicate":true,"receivers":0}\n'
        )

    def test_errors(self):
        error = ClientError("queue_full", "The queue is full; send later.", limit=3)
        assert encode.error(error, "7", "m") == (
            b'{"type":"error","code":"queue_full","error":"The queue is full; send later.",'
            b'"retry":"later","closes":false,"limit":3,"message_id":"m","id":"7"}\n'
        )
        error = FatalClientError("bad_frame", 'A "frame"\n.')
        assert encode.error(error) == (
            b'{"type":"error","code":"bad_frame","error":"A \\"frame\\"\\n.","retry":"never",'
            b'"closes":true}\n'
        )

    @pytest.mark.parametrize(
        ("frame", "expected"),
        [
            (encode.PING, {"type": "ping"}),
            (encode.PONG, {"type": "pong"}),
            (encode.pong(), {"type": "pong"}),
            (encode.pong("1"), {"type": "pong", "id": "1"}),
            (encode.got(0, "1"), {"type": "got", "id": "1", "count": 0}),
            (encode.closing("draining"), {"type": "closing", "reason": "draining"}),
            (encode.acked(3), {"type": "acked", "count": 3, "failed": []}),
            (
                encode.acked(0, [(7, "not_held"), ("m", "ambiguous")], "é"),
                {
                    "type": "acked",
                    "id": "é",
                    "count": 0,
                    "failed": [
                        {"tag": 7, "code": "not_held"},
                        {"message_id": "m", "code": "ambiguous"},
                    ],
                },
            ),
            (
                encode.subscribed("a.*", "pubsub", sub="s", group="g", id="1", created=True),
                {
                    "type": "subscribed",
                    "id": "1",
                    "topic": "a.*",
                    "mode": "pubsub",
                    "sub": "s",
                    "group": "g",
                    "created": True,
                },
            ),
            (
                encode.unsubscribed("q", "queue", reason="deleted"),
                {"type": "unsubscribed", "topic": "q", "mode": "queue", "reason": "deleted"},
            ),
            (
                encode.declared({"ttl": None, "backoff": [0, 1]}, {"ready": 0}, "1"),
                {
                    "type": "declared",
                    "id": "1",
                    "settings": {"ttl": None, "backoff": [0, 1]},
                    "counts": {"ready": 0},
                },
            ),
            (
                encode.hello(
                    server="msg", version="1", features=["f"], limits={"n": 1}, inbox="_inbox.1"
                ),
                {
                    "type": "hello",
                    "server": "msg",
                    "version": "1",
                    "protocol": 1,
                    "features": ["f"],
                    "limits": {"n": 1},
                    "inbox": "_inbox.1",
                },
            ),
            (encode.answer("stats", id=None, n=1, x=0), {"type": "stats", "n": 1, "x": 0}),
        ],
    )
    def test_the_others(self, frame, expected):
        assert lines(frame) == [expected]


class TestWire:
    def make(self, fields, **more):
        command = decode_frame(json.dumps({"action": "publish", **fields}).encode())
        assert isinstance(command, Publish)
        return encode.wire(command, "m", AT, **more)

    def test_the_fixed_members_come_first(self):
        assert self.make({"topic": "jobs", "message": {"a": 1}}) == (
            b'"topic":"jobs","message_id":"m","published_at":"2026-11-23T08:05:15.123Z",'
            b'"message":{"a": 1}'  # the body as it came, blanks and all
        )

    def test_then_whatever_it_has(self):
        fields = {
            "topic": 'a"',
            "message": "AA==",
            "headers": {"a": '"\n'},
            "reply_to": "r",
            "correlation_id": "c",
            "encoding": "base64",
        }
        fragment = self.make(fields, case=b'{"attempts":[]}')
        assert json.loads(b"{" + fragment + b"}") == {
            **fields,
            "message_id": "m",
            "published_at": AT.decode(),
            "case": {"attempts": []},
        }
        assert list(json.loads(b"{" + fragment + b"}"))[4:] == [
            "headers",
            "reply_to",
            "correlation_id",
            "encoding",
            "case",
        ]

    def test_empty_headers_are_kept(self):
        assert self.make({"topic": "t", "message": 1, "headers": {}}).endswith(b',"headers":{}')

    def test_the_topic_may_be_encoded_already(self):
        fields = {"topic": "é", "message": 1}
        assert self.make(fields, topic=encode.json_string("é")) == self.make(fields)


def message(number, **fields):
    return Message(
        number,
        f"m{number}",
        b'"topic":"t","message_id":"m%d","message":%d' % (number, number),
        **fields,
    )


class TestDeliveries:
    def test_leased(self):
        suffix = encode.subscription_suffix("queue", sub='100% "s"', group=None, ack_timeout=30.0)
        frames = lines(encode.leased([message(1), message(2)], 17, suffix))
        assert frames == [
            {
                "type": "message",
                "topic": "t",
                "message_id": f"m{n}",
                "message": n,
                "tag": 16 + n,
                "attempt": 1,
                "mode": "queue",
                "sub": '100% "s"',
                "ack_timeout": 30,
            }
            for n in (1, 2)
        ]

    def test_leased_again(self):
        batch = [
            message(1),
            message(2, attempts=2, returned="nack"),
            message(3, returned="disconnect"),
        ]
        frames = lines(encode.leased(batch, 5, b',"mode":"100%d"'))
        assert [(f["tag"], f["attempt"], f.get("returned"), f["mode"]) for f in frames] == [
            (5, 1, None, "100%d"),
            (6, 3, "nack", "100%d"),
            (7, 1, "disconnect", "100%d"),
        ]

    def test_one_alone_is_as_one_of_many(self):
        suffix = encode.subscription_suffix("queue", sub='100% "s"', group=None, ack_timeout=30.0)
        for one in (
            message(1),
            Message(1, "m", b'"message":"%s%d%b%%"'),
            message(1, attempts=2),
            message(1, returned="nack"),
        ):
            many = encode.leased([one, message(2, attempts=1)], 7, suffix)
            assert encode.leased([one], 7, suffix) == many.splitlines(keepends=True)[0]

    def test_percent_signs_are_only_text(self):
        odd = Message(1, "m", b'"message":"%s%d%b%%"')
        for batch in ([odd], [odd, message(2, attempts=1)]):
            assert lines(encode.leased(batch, 1, b',"sub":"%b%"'))[0] == {
                "type": "message",
                "message": "%s%d%b%%",
                "tag": 1,
                "attempt": 1,
                "sub": "%b%",
            }

    def test_heard(self):
        wires = [b'"message":%d' % n for n in range(3)]
        suffix = encode.subscription_suffix("pubsub")
        assert lines(encode.heard(wires, suffix)) == [
            {"type": "message", "message": n, "mode": "pubsub"} for n in range(3)
        ]
        frames = lines(encode.heard(wires, suffix, dropped=9))
        assert [frame.get("dropped") for frame in frames] == [9, None, None]
        assert lines(encode.heard(wires))[2] == {"type": "message", "message": 2}

    def test_kept(self):
        frames = lines(
            encode.kept([message(4), message(5)], b',"sub":"s"', replayed=True, dropped=1)
        )
        assert [(f["seq"], f["replayed"], f["sub"], f.get("dropped")) for f in frames] == [
            (4, True, "s", 1),
            (5, True, "s", None),
        ]
        assert "replayed" not in lines(encode.kept([message(4)]))[0]

    def test_nothing_is_nothing(self):
        assert encode.leased([], 1) == encode.heard([]) == encode.kept([]) == b""
        assert encode.accepted([]) == b""

    def test_a_fraction_of_a_second_is_kept(self):
        assert encode.subscription_suffix("queue", ack_timeout=0.5).endswith(b'"ack_timeout":0.5')
        assert encode.subscription_suffix("queue", ack_timeout=0.0).endswith(b'"ack_timeout":0')
