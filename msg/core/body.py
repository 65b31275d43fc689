"""The body inside of a wire, and another in its place (a dead letter that a person edits)."""

import msgspec

_BODY = b'","message":'


class _Body(msgspec.Struct, gc=False):
    message: msgspec.Raw


class _Topic(msgspec.Struct, gc=False):
    topic: str


_decode = msgspec.json.Decoder(_Body).decode
_decode_topic = msgspec.json.Decoder(_Topic).decode


def topic_of(wire: bytes) -> str:
    """The topic or queue that it was published to."""
    return _decode_topic(b"{%b}" % wire).topic


def body_of(wire: bytes) -> bytes:
    """The body's bytes, as they came from the publisher."""
    return bytes(_decode(b"{%b}" % wire).message)


def with_body(wire: bytes, body: bytes) -> bytes:
    """The same message with another body: JSON in one line."""
    if b"\n" in body or b"\r" in body:
        raise ValueError("a body is one line")
    # quotes are escaped inside of the strings before it, so this is where the body begins
    start = wire.index(_BODY) + len(_BODY)
    return wire[:start] + body + wire[start + len(body_of(wire)) :]
