"""What a log hands to the disk's thread, and what comes back: commits, laid out to the byte."""

from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from msg.core.message import Attempt, Message
from msg.errors import DiskFull
from msg.store.index import Segment
from msg.store.scan import Damage, Digest, Tried

if TYPE_CHECKING:
    from msg.store.log import Log


@attrs.define(slots=True, eq=False)
class Copy:
    """A live message of an old segment, to be written again at the head."""

    seq: int
    path: str
    source: int
    length: int
    target: int  # offset in the new segment


@attrs.define(slots=True, eq=False)
class Commit:
    """What a log wants done on disk in one step. Made by `begin`, done by `commit.execute`.

    The owner may keep whatever waits for the outcome in `waiting`. `error` is None when all
    of it is done, or the DiskFull that undid it.
    """

    log: "Log"
    segment: Segment  # the one file that it appends to
    offset: int  # where it begins in there
    offset_of_pubs: int
    data: bytes
    sync: bool
    new_segment: bool = False
    new_directory: bool = False
    before: str = ""  # the segment before a new one, which is finished
    seal: bool = False  # it is to be synced before the new one begins
    copies: list[Copy] = attrs.field(factory=list)  # behind `data`
    copied: bytes = b""  # `try` records of the copies, behind them
    unlinks: list[str] = attrs.field(factory=list)  # segments, oldest first
    bad: list[Damage] = attrs.field(factory=list)  # to quarantine, before any segment goes
    waiting: list[Any] = attrs.field(factory=list)
    error: DiskFull | None = None
    damaged: list[Copy] = attrs.field(factory=list)  # copies whose source was found bad
    # for `finish`
    seqs: Sequence[int] = ()
    lengths: "array[int]" = attrs.field(factory=lambda: array("I"))
    others: list[bytes] = attrs.field(factory=list)
    with_state: bool = False
    noted: Digest = attrs.field(factory=Digest)  # what `data` and the copies say
    sealed: Digest | None = None  # of the segment before: to its index file
    ids_ready: int = 0
    ids_bytes: int = 0
    dropped: list[Segment] = attrs.field(factory=list)

    @property
    def directory(self) -> str:
        return self.log.directory

    @property
    def path(self) -> str:
        return self.segment.path

    @property
    def publishes(self) -> int:
        """How many; a commit without any may use what is kept free for acks."""
        return len(self.seqs)

    @property
    def size(self) -> int:
        """Bytes that it appends."""
        return len(self.data) + sum([c.length for c in self.copies]) + len(self.copied)


@attrs.frozen
class Tries:
    """What `try` records said of one live message."""

    attempts: int
    returned: str
    due: float
    case: tuple[Attempt, ...]


def tries_after(before: Tries | None, tried: Tried) -> Tries:
    """What is known of a message after one more `try` record."""
    case = tried.case
    if case is None:
        case = before.case if before else ()
        # a segment that was written anew, and is there twice after a crash, says it twice
        if tried.attempt is not None and tried.attempt not in case:
            case = (*case, tried.attempt)
    return Tries(tried.attempts, tried.returned, tried.due, case)


def tried_of(message: Message, attempt: Attempt | None) -> Tried:
    """What the `try` record of this attempt says (None: of the whole case)."""
    return Tried(
        message.seq,
        message.attempts,
        message.returned,
        message.due,
        attempt,
        message.case if attempt is None else None,
    )


def runs_of(rising: Sequence[int], step: int) -> Iterator[range]:
    """Rising, distinct seqs as ranges; quick where they are consecutive."""
    for at in range(0, len(rising), step):
        part = rising[at : at + step]
        if part[-1] - part[0] == len(part) - 1:
            yield range(part[0], part[-1] + 1)
        else:
            for seq in part:
                yield range(seq, seq + 1)
