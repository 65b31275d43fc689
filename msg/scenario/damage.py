"""Damage to the store's files while no broker has them: torn tails and flipped bits."""

import random

from msg.store.disk import Disk
from msg.store.names import directory_of


def last_segment(disk: Disk, queue: str) -> str | None:
    """The path of the file that this queue wrote to last; None if it has none."""
    directory = f"queues/{directory_of(queue)}"
    if not disk.exists(directory):
        return None
    segments = [name for name in disk.list(directory) if name.endswith(".jsonl")]
    return f"{directory}/{segments[-1]}" if segments else None


def torn(data: bytes, rng: random.Random) -> bytes:
    """The same with a part of one more record at its end: a write that was cut off."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return b'{"op":"pub","seq":'
    line = rng.choice(lines)
    return data + line[: rng.randint(1, max(1, len(line) - 2))]


def flipped(data: bytes, rng: random.Random) -> tuple[bytes, int]:
    """The same with one bit of one message's record changed; and where."""
    places = []
    offset = 0
    for line in data.splitlines(keepends=True):
        if b'"op":"pub"' in line:
            places.append((offset, len(line) - 1))
        offset += len(line)
    if not places:
        return data, -1
    start, length = rng.choice(places)
    at = start + rng.randrange(length)
    changed = bytearray(data)
    changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed), at
