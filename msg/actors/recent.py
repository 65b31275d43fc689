"""What was handed over lately: who was given which messages, and who settled them.

First leases are not on disk, and an `ack` record does not say whose it was. So the broker
remembers its last hand-overs, of all queues together: an entry is a whole delivery or a whole
read's acks, not a message. It costs an append; only `trace` and `held` read it.
"""

from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msg.core.message import Message

ENTRIES_MAX = 20_000  # 4 MB when each is a lone message, or a run of them

LEASED, SETTLED = "leased", "settled"


class Handover(NamedTuple):
    wall: float
    queue: str
    what: str
    who: str  # the consumer's name
    seqs: Sequence[int]


class Recent:
    """The last hand-overs, oldest first."""

    __slots__ = ("_entries",)

    def __init__(self, most: int = ENTRIES_MAX) -> None:
        self._entries: deque[tuple[float, str, str, str, Sequence[int]]] = deque(maxlen=most)

    def leased(self, wall: float, queue: str, who: str, messages: Sequence[Message]) -> None:
        if len(messages) == 1:
            self._entries.append((wall, queue, LEASED, who, (messages[0].seq,)))
            return
        first, last = messages[0], messages[-1]
        seqs: Sequence[int] = range(first.seq, last.seq + 1)
        # dispatch is in order of priority and seq: of one priority, they only rise
        if len(seqs) != len(messages) or first.priority != last.priority:
            seqs = array("Q", [m.seq for m in messages])
        self._entries.append((wall, queue, LEASED, who, seqs))

    def settled(self, wall: float, queue: str, who: str, messages: Sequence[Message]) -> None:
        if len(messages) == 1:
            self._entries.append((wall, queue, SETTLED, who, (messages[0].seq,)))
            return
        seqs = [m.seq for m in messages]
        run = range(seqs[0], seqs[-1] + 1)
        # as a rule acks come in order. A list would keep 40 bytes for each of up to millions
        packed = run if len(run) == len(seqs) and seqs == list(run) else array("Q", seqs)
        self._entries.append((wall, queue, SETTLED, who, packed))

    def of(self, queue: str, seq: int) -> Iterator[Handover]:
        """What is remembered of one message, newest first."""
        for entry in reversed(self._entries):
            if entry[1] == queue and seq in entry[4]:
                yield Handover(*entry)

    def leases_of(self, queue: str) -> Iterator[Handover]:
        """All deliveries of one queue, newest first."""
        for entry in reversed(self._entries):
            if entry[1] == queue and entry[2] == LEASED:
                yield Handover(*entry)

    def since(self, default: float) -> float:
        """From when on everything is remembered."""
        entries = self._entries
        full = entries.maxlen is not None and len(entries) >= entries.maxlen
        return entries[0][0] if full else default
