"""The index file of a sealed segment: its digest, so that a start need not read it.

It lies beside the segment (`….idx`), is written after it without a sync, and can always be
made again: a crc, the segment's size and the log's seed say whether it may be trusted. The
records themselves are checked when they are read ahead.
"""

import sys
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec

from msg.core.message import Attempt
from msg.store.records import Remembered
from msg.store.scan import Digest, Tried

if TYPE_CHECKING:
    from array import array

VERSION = 1
SUFFIX = ".idx"
_COLUMNS = (
    "seqs",
    "offsets",
    "lengths",
    "special_seqs",
    "special_dues",
    "moved_seqs",
    "settled",
)


class _Try(msgspec.Struct, array_like=True):
    seq: int
    attempts: int
    returned: str
    due: float
    attempt: Attempt | None
    case: tuple[Attempt, ...] | None


class _File(msgspec.Struct):
    version: int
    byteorder: str
    seed: int
    size: int
    next_seq: int
    newest_at: bytes
    columns: dict[str, bytes]
    special_priorities: bytes
    moved_keys: list[str]
    tried: list[_Try]
    ids: list[Remembered]
    state: dict[str, Any] | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_File).decode


def path_of(segment: str) -> str:
    """The index file of a segment."""
    return segment.removesuffix(".jsonl") + SUFFIX


def agree(one: Digest, other: Digest) -> bool:
    """Whether two digests say the same of the log."""
    return (
        all(getattr(one, name) == getattr(other, name) for name in _COLUMNS)
        and one.special_priorities == other.special_priorities
        and one.moved_keys == other.moved_keys
        and one.tried == other.tried
        and one.ids == other.ids
        and one.state == other.state
    )


def dump(digest: Digest, seed: int) -> bytes:
    """The file's bytes."""
    body = _encode(
        _File(
            VERSION,
            sys.byteorder,
            seed,
            digest.size,
            digest.next_seq,
            digest.newest_at,
            {name: getattr(digest, name).tobytes() for name in _COLUMNS},
            bytes(digest.special_priorities),
            digest.moved_keys,
            [_Try(t.seq, t.attempts, t.returned, t.due, t.attempt, t.case) for t in digest.tried],
            digest.ids,
            digest.state,
        )
    )
    return b"%b%08x" % (body, crc32(body))


def load(data: bytes, seed: int, size: int) -> Digest | None:
    """The digest of a segment of this size; None when the file cannot be trusted."""
    body = data[:-8]
    if data[-8:] != b"%08x" % crc32(body):
        return None
    try:
        file = _decode(body)
    except (ValueError, RecursionError):
        return None  # of another version, whose digest has another form
    if (file.version, file.byteorder, file.seed, file.size) != (
        VERSION,
        sys.byteorder,
        seed,
        size,
    ):
        return None
    digest = Digest(
        special_priorities=bytearray(file.special_priorities),
        moved_keys=file.moved_keys,
        tried=[Tried(t.seq, t.attempts, t.returned, t.due, t.attempt, t.case) for t in file.tried],
        ids=file.ids,
        state=file.state,
        next_seq=file.next_seq,
        size=file.size,
        newest_at=file.newest_at,
    )
    for name in _COLUMNS:
        column: array[int] | array[float] = getattr(digest, name)
        column.frombytes(file.columns[name])
    return digest
