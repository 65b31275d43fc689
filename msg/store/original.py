"""Files of the original project: `queue_<name>.json` and `pubsub_<name>.json`.

Each is an array of `[message, id]`, oldest first. They are found in the data directory,
published into the log of that name, and moved to `quarantine/imported/` once all of it is
durable. A crash in between does no harm: each message moves in under a key of its own
(file, place, 1), and what is there already is passed by.
"""

import json
from random import Random
from typing import TYPE_CHECKING, Any

from msg.core.message import Message
from msg.errors import DiskFull
from msg.store import records
from msg.store.commit import commit_now
from msg.store.disk import Disk
from msg.store.log import QUEUES, TOPICS, Log
from msg.store.names import directory_of
from msg.store.quarantine import QUARANTINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from msg.store.recovery import Recovered

IMPORTED = f"{QUARANTINE}/imported"
BATCH = 1000
ID_BYTES_MAX = 128


def original_kind(file_name: str) -> tuple[str, str] | None:
    """(kind, destination) of a file of the original project; None for any other name."""
    for prefix, kind in (("queue_", QUEUES), ("pubsub_", TOPICS)):
        name = file_name.removeprefix(prefix).removesuffix(".json")
        if name and file_name == f"{prefix}{name}.json":
            return kind, name
    return None


def import_all(
    disk: Disk,
    recover: "Callable[[str, str], Recovered | None]",
    *,
    now_wall: float,
    rng: Random,
) -> list[str]:
    """Import every file that is there; returns a sentence about each for the operator.

    `recover` opens the log of a kind and directory that exists.
    """
    notes = []
    for file_name in disk.list(""):
        place = original_kind(file_name)
        if place is None:
            continue
        try:
            pairs = [(body, given) for body, given in json.loads(disk.read(file_name))]
        except (ValueError, TypeError, RecursionError) as error:
            notes.append(f"{file_name} is no list of [message, id] and was left alone: {error}")
            continue
        try:
            taken = _import(disk, recover, file_name, place, pairs, now_wall, rng)
        except DiskFull as error:
            notes.append(f"{file_name} was not imported, and will be at the next start: {error}")
            continue
        _put_away(disk, file_name)
        left = len(pairs) - taken
        rest = f"; {left} that are no valid JSON stay in {IMPORTED}/{file_name}" if left else ""
        notes.append(f"{file_name}: {taken} messages imported into {place[0]}/{place[1]}{rest}")
    return notes


def _import(
    disk: Disk,
    recover: "Callable[[str, str], Recovered | None]",
    file_name: str,
    place: tuple[str, str],
    pairs: list[tuple[Any, Any]],
    now_wall: float,
    rng: Random,
) -> int:
    """Have all of it in the log, durably; returns how many could be taken."""
    kind, name = place
    directory = directory_of(name)
    found = recover(kind, directory) if disk.exists(f"{kind}/{directory}") else None
    log = found.log if found else Log(kind, name, f"{rng.getrandbits(32):08x}")
    known = found.move_keys if found else {}
    at = records.rfc3339(now_wall)
    taken = 0
    batch: list[Message] = []
    for number, (body, given) in enumerate(pairs, 1):
        wire = _wire(name, body, given, number, at)
        if wire is None:
            continue
        taken += 1
        key = f"{file_name}:{number}:1"
        if key not in known:
            seq = log.next_seq + len(batch)
            batch.append(Message(seq, records.id_of(wire), wire, key=key))
        if len(batch) == BATCH:
            log.publish(batch)
            commit_now(disk, log)
            batch = []
    log.publish(batch)
    commit_now(disk, log)
    return taken


def _wire(name: str, body: Any, given: Any, number: int, at: str) -> bytes | None:
    """None when the body is nothing that could be delivered (a lone surrogate, NaN)."""
    try:
        text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return None
    message_id = given if isinstance(given, str) else f"{given}"
    if not message_id.isprintable() or not 0 < len(message_id.encode()) <= ID_BYTES_MAX:
        message_id = f"imported-{number}"
    return b'"topic":%b,"message_id":%b,"published_at":"%b","message":%b' % (
        records.encode(name),
        records.encode(message_id),
        at.encode(),
        text,
    )


def _put_away(disk: Disk, file_name: str) -> None:
    """Keep the file for a person, out of the way of the next start."""
    disk.mkdir(QUARANTINE)
    disk.mkdir(IMPORTED)
    path = f"{IMPORTED}/{file_name}"
    if disk.exists(path):  # of an import that was cut off here, or of an older file
        disk.unlink(path)
    file = disk.create(path)
    try:
        file.append(disk.read(file_name))
        file.datasync()
    finally:
        file.close()
    disk.sync_dir(IMPORTED)
    disk.sync_dir(QUARANTINE)
    disk.unlink(file_name)
    disk.sync_dir("")
