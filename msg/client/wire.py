"""Frames as the client sees them: what is frequent has a class, the rest is a dict.

One C-level pass decodes all lines of a read. A frame that it does not know (a question's
answer, something that a later version says) sends its read through the slower way, line by
line; what is no frame at all is a `NotABroker`.
"""

from typing import Any

import msgspec

from msg.client import bodies
from msg.client.message import Message
from msg.errors import BrokerError

Frame = dict[str, Any]

DEFAULT_URL = "msg://localhost:8888"
PORT = 8888
DEPTH_MAX = 64  # of a frame, which is itself the first level
NAMED_MAX = 10_000  # tags in one frame
REASON_BYTES_MAX = 4096


class NotABroker(BrokerError):
    """Whoever answered there does not speak the protocol."""


class Ack(msgspec.Struct, tag_field="type", tag="ack", gc=False):
    """A publish is kept."""

    message_id: str
    id: str | None = None
    duplicate: bool = False
    receivers: int | None = None


class Pong(msgspec.Struct, tag_field="type", tag="pong", gc=False):
    id: str | None = None


class Ping(msgspec.Struct, tag_field="type", tag="ping", gc=False): ...


class Got(msgspec.Struct, tag_field="type", tag="got", gc=False):
    count: int
    id: str | None = None


Known = Message[Any] | Ack | Got | Ping | Pong

_decoder: msgspec.json.Decoder[Known] = msgspec.json.Decoder(Known)
_decode_lines = _decoder.decode_lines
_decode_line = _decoder.decode
encode_json = msgspec.json.encode
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode


def decode(lines: bytes) -> list[Any]:
    """Whole lines to frames, in order."""
    try:
        return _decode_lines(lines)
    except (msgspec.MsgspecError, RecursionError):
        return [_decode_one(line) for line in lines.split(b"\n") if line.strip()]


def _decode_one(line: bytes) -> Any:
    try:
        return _decode_line(line)
    except (msgspec.MsgspecError, RecursionError):
        try:
            frame = _decode_any(line)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise _not_a_broker(line) from error
    if not all([isinstance(frame.get(key, ""), str | None) for key in _TEXTS]):
        raise _not_a_broker(line)
    return frame


def _not_a_broker(line: bytes) -> NotABroker:
    return NotABroker(f"this is not a broker: it said {line[:80]!r}")


_TEXTS = ("type", "id", "sub", "message_id")  # where a frame belongs: by them it is looked up


def encode(frame: Frame) -> bytes:
    """One line; fields that are None are left out. Raises ValueError for NaN and infinities."""
    return bodies.encode({k: value for k, value in frame.items() if value is not None}) + b"\n"


def is_too_deep(line: bytes) -> bool:
    """Whether the broker would find it so."""
    if line.count(b"{") + line.count(b"[") <= DEPTH_MAX:
        return False
    from msg.protocol.codec import is_deeper

    return is_deeper(line, DEPTH_MAX)


def tagged(action: str, tags: list[int], **fields: object) -> bytes:
    """`ack`, `nack` or `touch` for many messages, as few frames as are allowed."""
    # (a delay that is no number is left out: a message that nobody settles is worse)
    more = {key: value for key, value in fields.items() if value is not None}
    if len(tags) == 1:
        return encode_json({"action": action, "tag": tags[0], **more}) + b"\n"
    return b"".join(
        encode_json({"action": action, "tags": tags[start : start + NAMED_MAX], **more}) + b"\n"
        for start in range(0, len(tags), NAMED_MAX)
    )


def clip(text: str, limit: int = REASON_BYTES_MAX) -> str:
    """As much of a text as fits into so many bytes of UTF-8."""
    data = text.encode("utf-8", "replace")
    return text if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "…"


class Publishing:
    """The frames of one `publish` or `publish_many`: what they share is encoded once."""

    __slots__ = ("_binary_tail", "_head", "_plain_tail")

    def __init__(self, topic: str, mode: str, fields: Frame) -> None:
        more = {key: value for key, value in fields.items() if value is not None}
        head: Frame = {"action": "publish", "topic": topic}
        if mode != "pubsub":
            head["mode"] = mode
        head.update(more)
        self._head = bodies.encode(head)[:-1] + b',"message_id":"'
        self._plain_tail = b"}\n"
        self._binary_tail = b',"encoding":"base64"}\n'

    def frame(self, message_id: bytes, body: bytes, *, binary: bool = False) -> bytes:
        """`message_id` as the inside of a JSON string."""
        tail = self._binary_tail if binary else self._plain_tail
        return b'%b%b","message":%b%b' % (self._head, message_id, body, tail)
