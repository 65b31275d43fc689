"""Ready messages that are only in the log: memory holds a window of a queue, not all of it.

The usual ones (default priority, never delayed) are a number and a border: all that the log
has after it, but for what is known to be elsewhere, is cold and still to be read, in order
and in big pieces. The others are listed by seq, 8 bytes each, and read by seq. What must stay
in memory but stands behind the border (memory-only, returned) waits aside, so that the order
is one.
"""

import heapq
from array import array
from collections.abc import Container, Iterator

from msg.core.message import PRIORITY, Message
from msg.core.ready import ReadyLine

READ_SEQS = 256  # in one reading by seq
FEW_BYTES = 16 << 10  # in memory of a queue that nobody consumes from
OTHERS = 8  # a priority other than the default may hold hot_bytes / OTHERS in memory


class SeqLine:
    """Seqs, first in, first out; they stay until they are removed."""

    __slots__ = ("_head", "_seqs")

    def __init__(self) -> None:
        self._seqs = array("Q")
        self._head = 0

    def __len__(self) -> int:
        return len(self._seqs) - self._head

    def __iter__(self) -> Iterator[int]:
        return iter(self._seqs[self._head :])

    def append(self, seq: int) -> None:
        self._seqs.append(seq)

    def first(self, most: int) -> list[int]:
        return self._seqs[self._head : self._head + most].tolist()

    def remove(self, seq: int) -> bool:
        """Take this one out; False if it is not there. Cheap in order of arrival."""
        if self._head < len(self._seqs) and self._seqs[self._head] == seq:
            self._head += 1
            if self._head * 2 > len(self._seqs):
                del self._seqs[: self._head]
                self._head = 0
            return True
        try:
            del self._seqs[self._seqs.index(seq, self._head)]
        except ValueError:
            return False
        return True


class Cold:
    """Which ready messages are only in the log, and how far the reading has come."""

    __slots__ = ("aside", "count", "due", "hot_bytes", "lines", "reading", "skip", "to")

    def __init__(self, hot_bytes: int) -> None:
        self.hot_bytes = hot_bytes
        self.count = 0  # of the usual ones
        # the border: all usual ones up to this seq have been in memory
        self.to = 0
        self.skip: set[int] = set()  # usual ones past the border that are not cold
        self.lines: dict[int, SeqLine] = {}  # other priorities; never empty ones
        self.due: dict[int, SeqLine] = {}  # came due, or were released, by priority
        self.reading = False  # by seq
        # by priority, a heap by seq: in memory, but not before what is cold
        self.aside: dict[int, list[tuple[int, Message]]] = {}

    def __len__(self) -> int:
        listed = [len(line) for lines in (self.lines, self.due) for line in lines.values()]
        return self.count + sum(listed)

    @property
    def is_empty(self) -> bool:
        """Whether all that is ready is in memory."""
        return not (self.count or self.lines or self.due)

    @property
    def floor(self) -> int:
        """The highest priority that has cold messages: lower ones wait until those are read.
        -1: there are none."""
        if not (self.count or self.lines or self.due):
            return -1
        return max(PRIORITY if self.count else -1, *self.lines, *self.due, -1)

    @property
    def asides(self) -> list[Message]:
        """Those that stand aside, in order of delivery."""
        heaps = [self.aside[priority] for priority in sorted(self.aside, reverse=True)]
        return [entry[1] for heap in heaps for entry in sorted(heap)]

    # -- putting away -------------------------------------------------------------------

    def takes(self, message: Message, ready: ReadyLine) -> bool:
        """Whether this ready message, which is in the log, is left to it from now on."""
        priority = message.priority
        if priority != PRIORITY:
            line = self.lines.get(priority)
            if line is None and ready.lane(priority).bytes < self.hot_bytes // OTHERS:
                return False
            if line is None:
                line = self.lines[priority] = SeqLine()
                self._set_aside_all(ready.lane(priority).take_after(message.seq))
            line.append(message.seq)
            return True
        if not self.count and ready.main.bytes < self.hot_bytes:
            return False
        if message.due:
            self.due.setdefault(priority, SeqLine()).append(message.seq)
            return True
        if message.seq <= self.to:
            return False  # others behind it have been in memory already
        if not self.count:
            self.to = message.seq - 1
            # those of memory only did not wait for the disk: they go behind it all the same
            self._set_aside_all(ready.main.take_after(message.seq))
        self.count += 1
        return True

    def note(self, message: Message) -> None:
        """This one, which is in the log, is in memory: the reading must pass it by."""
        if message.priority != PRIORITY or message.seq <= self.to:
            return
        if self.count:
            self.skip.add(message.seq)
        else:
            self.to = message.seq

    def is_before(self, message: Message) -> bool:
        """Whether there are cold messages that go before this one."""
        if message.priority == PRIORITY:
            return self.count > 0 and message.seq > self.to
        line = self.lines.get(message.priority)
        return line is not None and message.seq > line.first(1)[0]

    def set_aside(self, message: Message) -> None:
        heap = self.aside.setdefault(message.priority, [])
        heapq.heappush(heap, (message.seq, message))

    def _set_aside_all(self, messages: list[Message]) -> None:
        for message in messages:
            self.set_aside(message)

    def take_aside(self, message: Message) -> bool:
        """Take it away, if it stands aside."""
        heap = self.aside.get(message.priority)
        if heap is None or (message.seq, message) not in heap:
            return False
        heap.remove((message.seq, message))
        heapq.heapify(heap)
        if not heap:
            del self.aside[message.priority]
        return True

    def no_longer_aside(self) -> list[Message]:
        """Those that nothing cold goes before any more."""
        out: list[Message] = []
        for priority, heap in list(self.aside.items()):
            while heap and not self.is_before(heap[0][1]):
                out.append(heapq.heappop(heap)[1])
            if not heap:
                del self.aside[priority]
        return out

    def want(self, seq: int, priority: int) -> None:
        """Came due, and is not in memory: read it soon."""
        self.due.setdefault(priority, SeqLine()).append(seq)

    def release(self, seq: int, priority: int) -> None:
        """Moved in, is not in memory, and may be handed out from now on."""
        if priority == PRIORITY and self.count and seq > self.to:
            self.skip.discard(seq)  # after a start it was passed by, since it was held back
            self.count += 1
            return
        if priority == PRIORITY:
            self.to = max(self.to, seq)
        self.want(seq, priority)

    # -- reading ahead ------------------------------------------------------------------

    def wants(self, ready: ReadyLine, *, anybody: bool) -> tuple[int, int] | None:
        """(after which seq, how many bytes) to read ahead from the log, if it is time."""
        held = ready.main.bytes
        if not self.count or held > self.hot_bytes // 2:
            return None
        if not anybody:  # a few in memory are enough: what is to be dropped is taken from them
            return None if held else (self.to, min(self.hot_bytes, FEW_BYTES))
        return self.to, self.hot_bytes - held

    def wants_seqs(self, ready: ReadyLine) -> list[int]:
        """Seqs to read: those that came due and those of other priorities, highest first."""
        if self.reading or not (self.due or self.lines):
            return []
        for priority in range(9, -1, -1):
            line = self.due.get(priority) or self.lines.get(priority)
            share = self.hot_bytes if priority == PRIORITY else self.hot_bytes // OTHERS
            if line and ready.lane(priority).bytes <= share:
                self.reading = True
                return line.first(READ_SEQS)
        return []

    def loaded(
        self, messages: list[Message], up_to: int, held_back: Container[str]
    ) -> list[Message]:
        """The cold ones of what was read; all up to seq `up_to` have been looked at.

        `held_back` are keys of messages that moved in and may not yet be handed out.
        """
        out = messages
        if (
            self.skip
            or (messages and messages[0].seq <= self.to)
            or any([m.priority != PRIORITY or m.due or m.key for m in messages])
        ):
            out = []
            for message in messages:
                if message.seq in self.skip:
                    self.skip.discard(message.seq)
                elif (
                    message.seq > self.to
                    and message.priority == PRIORITY
                    and not message.due
                    and message.key not in held_back  # no publish has the key ""
                ):
                    out.append(message)
        self.to = max(self.to, up_to)
        self._less(len(out))
        return out

    def loaded_seqs(self, messages: list[Message]) -> list[Message]:
        """Those of what was read by seq that are still wanted. What was asked for and did not
        come is asked for again, unless it is `lost` or gone."""
        self.reading = False
        return [m for m in messages if self._remove(m.seq, m.priority)]

    def list_seq(self, seq: int, priority: int) -> None:
        """After a start: one of another priority. Rising."""
        self.lines.setdefault(priority, SeqLine()).append(seq)

    def recall(self, usual: int, elsewhere: list[int]) -> None:
        """After a start: so many usual ones are cold, and these in the log are not."""
        self.count = usual
        self.to = 0
        self.skip = set(elsewhere) if usual else set()

    def is_usual(self, seq: int) -> bool:
        """Whether this one, if it is cold at all, is one of the usual ones."""
        return self.count > 0 and seq > self.to and seq not in self.skip

    def lose(self, seq: int) -> bool:
        """The log cannot read this one. False if it is not one of those listed here."""
        return any(self._remove(seq, priority) for priority in range(10))

    def lose_usual(self) -> None:
        """The log cannot read one of the usual ones."""
        self._less(1)

    def clear(self, up_to: int) -> None:
        """All that is cold is dropped; what is aside goes with it."""
        self.count = 0
        self.to = up_to
        self.skip.clear()
        self.lines.clear()
        self.due.clear()
        self.aside.clear()

    def _less(self, n: int) -> None:
        self.count -= n
        if not self.count:
            self.skip.clear()

    def _remove(self, seq: int, priority: int) -> bool:
        for lines in (self.due, self.lines):
            line = lines.get(priority)
            if line is not None and line.remove(seq):
                if not line:
                    del lines[priority]
                return True
        return False
