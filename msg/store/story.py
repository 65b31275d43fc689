"""The story of one message, as far as a log's segments tell it. Read only; in a disk thread.

    first_at    when a segment begins, to pass by those that are too young for an id
    find_pubs   the `pub` records of an id in one segment
    events_of   every record of a segment that names its seq: attempts, moves, acks, drops

Segments may be gone (all that was in them is settled, and the dedup window has passed it);
then the story is not known any more, and the caller says so. A settlement has no time of its
own: it lies between the publishes that stand before and behind it.
"""

import re
from collections.abc import Iterator

import attrs

from msg.core.message import Attempt, Message
from msg.core.wire import json_string
from msg.store import records
from msg.store.disk import Disk

CHUNK_BYTES = 4 << 20
HEAD_BYTES = 64 << 10  # of a segment, in which its first publish is looked for

_AT = re.compile(rb'","published_at":"(\d{4}-[0-9T:.\-]{18}Z)"')
_OTHER = re.compile(rb'^\{"op":"(?:ack|drop|dead|try)".*$', re.MULTILINE)


@attrs.frozen
class Piece:
    """A segment: its path in the store, and its bytes."""

    path: str
    size: int


@attrs.frozen
class Event:
    """A later record of that message. `after` and `before`: publishes around it (RFC 3339)."""

    op: str  # ack, drop, dead, try
    path: str
    offset: int
    why: str = ""
    to: str = ""
    key: str = ""
    attempts: tuple[Attempt, ...] = ()
    due: float = 0.0
    after: str = ""
    before: str = ""


@attrs.define
class Search:
    """What a search has read, and what it left out."""

    read_bytes: int = 0
    left_out: int = 0  # bytes


def first_at(disk: Disk, piece: Piece) -> str:
    """When the first publish of a segment was accepted; "" when there is none in its head."""
    found = _AT.search(disk.read(piece.path, 0, min(HEAD_BYTES, piece.size)))
    return found[1].decode() if found else ""


def find_pubs(
    disk: Disk, seed: int, piece: Piece, message_id: str, search: Search
) -> list[Message]:
    """What the segment has of this id: one publish, or more where a message came back."""
    found: list[Message] = []
    needle = b'"message_id":"%b","published_at"' % json_string(message_id)[1:-1]
    for _, chunk in _chunks(disk, piece, search):
        start = chunk.find(needle)
        while start >= 0:
            line_at = chunk.rfind(b"\n", 0, start) + 1
            line = chunk[line_at : chunk.find(b"\n", start)]
            # the text may stand in another message's body
            if line.startswith(records.PUB) and records.line_is_sound(seed, line):
                message = records.message_of(line)
                if message.id == message_id:
                    found.append(message)
            start = chunk.find(needle, start + 1)
    return found


def events_of(
    disk: Disk, seed: int, piece: Piece, seq: int, start: int, search: Search
) -> list[Event]:
    """What a segment's records say of a seq, from an offset on."""
    events: list[Event] = []
    number = b"%d" % seq
    last_at = ""
    for offset, chunk in _chunks(disk, piece, search):
        for found in _OTHER.finditer(chunk):
            line_at = offset + found.start()
            if line_at < start:
                continue
            line = found[0]
            if number not in line and b'"first":' not in line:
                continue
            event = _event(seed, line, seq, piece.path, line_at)
            if event is not None:
                before = _AT.search(chunk, found.end())
                events.append(
                    attrs.evolve(
                        event,
                        after=_last_at(chunk, found.start()) or last_at,
                        before=before[1].decode() if before else "",
                    )
                )
        last_at = _last_at(chunk, len(chunk)) or last_at
    return events


def _event(seed: int, line: bytes, seq: int, path: str, offset: int) -> Event | None:
    if not records.line_is_sound(seed, line):
        return None
    record = records.other_of(line)
    if record.op in ("ack", "drop"):
        if seq in record.seqs or (record.first and record.first <= seq <= record.last):
            return Event(record.op, path, offset, why=record.why)
        return None
    if record.seq != seq:
        return None
    if record.op == "dead":
        return Event("dead", path, offset, why=record.why, to=record.to, key=record.key)
    attempts = record.case if record.case is not None else ()
    if record.attempt is not None:
        attempts = (record.attempt,)
    return Event("try", path, offset, attempts=tuple(attempts), due=record.due)


def _last_at(chunk: bytes, end: int) -> str:
    """The time of the last publish before `end`."""
    at = chunk.rfind(b'","published_at":"', 0, end)
    found = _AT.match(chunk, at) if at >= 0 else None
    return found[1].decode() if found else ""


def _chunks(disk: Disk, piece: Piece, search: Search) -> Iterator[tuple[int, bytes]]:
    """Whole lines, some megabytes at a time, with their offset in the segment."""
    offset, rest = 0, b""
    while offset + len(rest) < piece.size:
        at = offset + len(rest)
        data = disk.read(piece.path, at, min(CHUNK_BYTES, piece.size - at))
        if not data:
            return
        search.read_bytes += len(data)
        data = rest + data
        end = data.rfind(b"\n") + 1
        if end:
            yield offset, data[:end]
        rest = data[end:]
        offset += end
