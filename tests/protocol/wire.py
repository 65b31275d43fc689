"""Helpers of the wire's tests: feed bytes in pieces, and results that can be compared."""

from itertools import pairwise

import msgspec

from msg.protocol.codec import Decoder, Rejected

HELLO = b'{"action":"ping","id":"hello"}\n'  # a good first frame: later errors need not close
GREETED = ("Ping", {"id": "hello"})


def plain(item):
    """An item as values that compare: a Raw becomes its bytes."""
    if isinstance(item, Rejected):
        error = item.error
        return (
            "error",
            error.code,
            str(error),
            error.closes,
            error.limit,
            item.id,
            item.message_id,
        )
    values = {
        name: bytes(value) if isinstance(value, msgspec.Raw) else value
        for name, value in msgspec.structs.asdict(item).items()
    }
    return (type(item).__name__, values)


def read(*pieces, eof=False, **options):
    """All that these pieces give, one after the other, and the decoder that gave it."""
    decoder = Decoder(**options)
    items = [plain(item) for piece in pieces for item in decoder.feed(piece)]
    if eof:
        items += [plain(item) for item in decoder.eof()]
    return items, decoder


def after_hello(*pieces, **options):
    items, decoder = read(HELLO, *pieces, **options)
    assert items[0] == GREETED
    return items[1:], decoder


def cut(data, places):
    """The bytes cut at these indices."""
    edges = [0, *sorted(places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def kinds(items):
    """Names of commands and codes of errors; a fatal error has a `!`."""
    return [
        f"{item[1]}{'!' if item[3] else ''}" if item[0] == "error" else item[0] for item in items
    ]
