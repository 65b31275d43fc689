"""Messages that wait for a time: delayed publishes, and returned ones between attempts.

Most are in memory; past a limit only (when, seq, priority) is, packed into one int of 40
bytes, and the message is read from the log when its time has come.
"""

import heapq
from math import ceil, inf

from msg.core.message import Message

_PRIORITY_BITS = 4
_SEQ_BITS = 60  # with the priority
_SEQ = (1 << _SEQ_BITS) - 1


def _pack(due: float, seq: int, priority: int) -> int:
    # up, so that nothing is due early
    return ceil(due * 1e6) << _SEQ_BITS | seq << _PRIORITY_BITS | priority


class Delayed:
    """By due time. `bytes` are the wires' of those in memory."""

    __slots__ = ("_ended", "_heap", "bytes", "hot")

    def __init__(self) -> None:
        self._heap: list[int] = []
        self._ended: set[int] = set()  # settled while they waited; never walked
        self.hot: dict[int, Message] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._heap) - len(self._ended)

    @property
    def next_due(self) -> float:
        """Monotonic; of one that has ended, perhaps."""
        return (self._heap[0] >> _SEQ_BITS) / 1e6 if self._heap else inf

    def push(self, due: float, message: Message) -> None:
        heapq.heappush(self._heap, _pack(due, message.seq, message.priority))
        self.hot[message.seq] = message
        self.bytes += len(message.wire)

    def push_seq(self, due: float, seq: int, priority: int) -> None:
        """One that is only in the log."""
        heapq.heappush(self._heap, _pack(due, seq, priority))

    def pop_due(self, now: float) -> list[tuple[int, int, Message | None]]:
        """(seq, priority, message or None if it is only in the log) of all that are due."""
        out: list[tuple[int, int, Message | None]] = []
        limit = (int(now * 1e6 + 0.5) + 1) << _SEQ_BITS
        while self._heap and self._heap[0] < limit:
            packed = heapq.heappop(self._heap) & _SEQ
            seq, priority = packed >> _PRIORITY_BITS, packed & 15
            if seq in self._ended:
                self._ended.discard(seq)
                continue
            message = self.hot.pop(seq, None)
            if message is not None:
                self.bytes -= len(message.wire)
            out.append((seq, priority, message))
        return out

    def discard(self, seq: int) -> Message:
        """This one, which is in memory, is settled."""
        message = self.hot.pop(seq)
        self.bytes -= len(message.wire)
        self._ended.add(seq)
        return message

    def lose(self, seq: int) -> bool:
        """The log cannot read this one. False if it does not wait here, unread. Walks."""
        if seq in self.hot or seq not in self.cold_seqs():
            return False
        self._ended.add(seq)
        return True

    def cold_seqs(self) -> list[int]:
        """Those that are only in the log, in no order. Walks."""
        seqs = [(packed & _SEQ) >> _PRIORITY_BITS for packed in self._heap]
        return [seq for seq in seqs if seq not in self.hot and seq not in self._ended]

    def next_ones(self, most: int) -> list[Message]:
        """Those in memory that are due first. Walks."""
        seqs = [(packed & _SEQ) >> _PRIORITY_BITS for packed in sorted(self._heap)]
        return [self.hot[seq] for seq in seqs if seq in self.hot][:most]

    def entries(self) -> list[tuple[float, int, Message | None]]:
        """(due, seq, message or None if it is only in the log), the next one first. Walks."""
        out: list[tuple[float, int, Message | None]] = []
        for packed in sorted(self._heap):
            seq = (packed & _SEQ) >> _PRIORITY_BITS
            if seq not in self._ended:
                out.append(((packed >> _SEQ_BITS) / 1e6, seq, self.hot.get(seq)))
        return out

    def clear(self) -> list[Message]:
        """All go; returns those in memory."""
        out = list(self.hot.values())
        self._heap.clear()
        self._ended.clear()
        self.hot.clear()
        self.bytes = 0
        return out
