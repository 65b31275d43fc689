"""Reading a segment: which lines are sound, what they say, and where the damage is.

One reader for everybody: recovery, doctor and the index files' rebuilding. A `Digest` is
what a segment says, in compact columns; a log's state is its digests, replayed in order.
"""

import re
from array import array
from collections.abc import Iterator
from typing import Any

import attrs

from msg.core.message import PRIORITY, Attempt, Message
from msg.store import records
from msg.store.records import Other, Remembered

_SEQ = re.compile(rb'"seq":(\d{1,19}),')
_PUB = re.compile(rb'"op":"pub"|"message_id":"|"topic":"|"published_at":"')


@attrs.frozen
class Damage:
    """Bytes that are not what was written there."""

    file: str
    offset: int
    length: int
    seq: int = 0  # 0: not known
    why: str = ""


@attrs.define(slots=True)
class Tried:
    """One `try` record: `case` replaces what was known, `attempt` adds to it."""

    seq: int
    attempts: int
    returned: str
    due: float
    attempt: Attempt | None
    case: tuple[Attempt, ...] | None


def _longs() -> "array[int]":
    return array("Q")


def _ints() -> "array[int]":
    return array("I")


def _doubles() -> "array[float]":
    return array("d")


@attrs.define(slots=True, eq=False)
class Digest:
    """What one segment says. Its pubs, settlements and attempts may be replayed one kind
    after the other: no record settles a message that a later pub of the segment brings.

    The columns belong together: `seqs`, `offsets`, `lengths` of all pubs; `special_…` of
    those with another priority or a due time; `moved_…` of those that were moved here.
    """

    seqs: "array[int]" = attrs.field(factory=_longs)
    offsets: "array[int]" = attrs.field(factory=_ints)
    lengths: "array[int]" = attrs.field(factory=_ints)
    special_seqs: "array[int]" = attrs.field(factory=_longs)
    special_priorities: bytearray = attrs.field(factory=bytearray)
    special_dues: "array[float]" = attrs.field(factory=_doubles)
    moved_seqs: "array[int]" = attrs.field(factory=_longs)
    moved_keys: list[str] = attrs.field(factory=list)
    settled: "array[int]" = attrs.field(factory=_longs)  # first, last, first, last …
    tried: list[Tried] = attrs.field(factory=list)
    ids: list[Remembered] = attrs.field(factory=list)
    state: dict[str, Any] | None = None
    next_seq: int = 1
    size: int = 0  # where the last sound record ends
    newest_at: bytes = b""  # published_at of the newest pub, as it stands in its wire
    damage: list[Damage] = attrs.field(factory=list)

    def note_options(self, m: Message) -> None:
        """What stands in a pub beside its seq and wire, and concerns its place in line."""
        if m.priority != PRIORITY or m.due:
            self.special_seqs.append(m.seq)
            self.special_priorities.append(m.priority)
            self.special_dues.append(m.due)
        if m.key:
            self.moved_seqs.append(m.seq)
            self.moved_keys.append(m.key)

    def note_settled(self, run: range) -> None:
        self.settled.extend((run.start, run.stop - 1))

    def settled_runs(self) -> Iterator[range]:
        for first, last in zip(self.settled[::2], self.settled[1::2], strict=True):
            yield range(first, last + 1)

    def specials(self) -> Iterator[tuple[int, int, float]]:
        return zip(self.special_seqs, self.special_priorities, self.special_dues, strict=True)

    def take_settled(self, other: "Digest") -> None:
        """Add what the other says of messages that are there already."""
        self.settled.extend(other.settled)
        self.tried += other.tried
        self.ids += other.ids

    def take_options(self, other: "Digest") -> None:
        """Add what the other says of its own pubs, but for their places."""
        self.special_seqs.extend(other.special_seqs)
        self.special_priorities += other.special_priorities
        self.special_dues.extend(other.special_dues)
        self.moved_seqs.extend(other.moved_seqs)
        self.moved_keys += other.moved_keys
        self.newest_at = max(self.newest_at, other.newest_at)


def head_in(data: bytes) -> Other | None:
    """The head of a segment; None when it is damaged or missing."""
    return records.head_of(data[: max(0, data.find(b"\n"))])


def scan(
    path: str, data: bytes, seed: int, *, last: bool, sound_lines: list[bytes] | None = None
) -> Digest:
    """Read a whole segment, from its first byte to its last.

    In the `last` segment of a log, bad bytes with nothing sound behind them are a torn tail:
    `size` ends before them, and they are no damage. `sound_lines` takes all records but heads.
    """
    digest = Digest()
    seqs, offsets, lengths = digest.seqs, digest.offsets, digest.lengths
    sound, pub, topic = records.line_is_sound, records.PUB, b'"topic":'
    stretches: list[tuple[int, int, int]] = []  # of bad bytes: start, end, pubs before it
    newest_seq = 0  # copies of older messages may stand behind it
    offset = 0
    lines = data.split(b"\n")
    unfinished = lines.pop()
    for line in lines:
        end = offset + len(line) + 1
        if sound(seed, line):
            parts: tuple[bytes, ...] = (line,)
        else:
            parts = records.split_at_seam(seed, line)
        if not parts:
            _stretch(stretches, offset, end, len(seqs))
        for part in parts:
            if part.startswith(pub):
                comma = part.index(b",", 18)
                seq = int(part[18:comma])
                seqs.append(seq)
                offsets.append(offset)
                lengths.append(len(part) + 1)
                if not part.startswith(topic, comma + 1):
                    digest.note_options(records.message_of(part))
                if seq > newest_seq:
                    newest_seq = seq
            else:
                _other(digest, part)
            if sound_lines is not None and not part.startswith(b'{"op":"head"'):
                sound_lines.append(part)
            offset += len(part) + 1
            digest.size = end
        offset = end
    if unfinished:
        _stretch(stretches, offset, len(data), len(seqs))
    for start, end, before in stretches:
        if not (last and start >= digest.size):
            digest.damage.append(_damage(path, data, start, end, seqs, before, seed))
    if newest_seq:
        digest.next_seq = max(digest.next_seq, newest_seq + 1)
        digest.newest_at = records.newest_published_at(data)
    return digest


def _stretch(stretches: list[tuple[int, int, int]], start: int, end: int, pubs: int) -> None:
    """Bad bytes; those that touch are one stretch."""
    if stretches and stretches[-1][1] == start:
        start = stretches.pop()[0]
    stretches.append((start, end, pubs))


def _damage(
    path: str, data: bytes, start: int, end: int, seqs: "array[int]", before: int, seed: int
) -> Damage:
    """What the bad bytes were, as far as can be told: the neighbours say it surest."""
    previous = seqs[before - 1] if before else 0
    following = seqs[before] if before < len(seqs) else 0
    guess = _SEQ.search(data, start, end)
    seq = int(guess[1]) if guess else 0
    neighbours = [n for n in (previous + 1, following - 1) if n > 0]
    if previous and following == previous + 2:
        seq = previous + 1
    elif not guess and _PUB.search(data, start, end):
        seq = neighbours[0]
    elif guess:
        # was it the number itself that was hit? then the crc fits with the right one
        first, last = guess.span(1)
        for number in neighbours:
            line = b"%b%d%b" % (data[start:first], number, data[last:end])
            if records.line_is_sound(seed, line.removesuffix(b"\n")):
                seq = number
    return Damage(path, start, end - start, seq, "a record's crc does not fit")


def _other(digest: Digest, line: bytes) -> None:
    record = records.other_of(line)
    match record.op:
        case "ack" | "drop":
            if record.first:
                digest.note_settled(range(record.first, record.last + 1))
            for seq in record.seqs:
                digest.note_settled(range(seq, seq + 1))
        case "dead":
            digest.note_settled(range(record.seq, record.seq + 1))
        case "try":
            digest.tried.append(
                Tried(
                    record.seq,
                    record.attempts,
                    record.returned,
                    record.due,
                    record.attempt,
                    record.case,
                )
            )
        case "ids":
            digest.ids += record.ids
        case "head" | "state":
            digest.state = record.state
            digest.next_seq = max(digest.next_seq, record.next_seq)
        case _:
            # of a later version 1.x: this one can do without it, and it stays in its file
            pass
