"""The order in which a queue's messages are handed out.

By (priority, seq): higher priority first, then the original place. Messages of a priority
that were never given out stand in a FIFO; those that came back, or became due, in a heap
beside it, so that a return costs a push and not a search, and both are merged as they are
taken. What is settled while it waits here (a late ack) is skipped when its turn comes.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from msg.core.message import PRIORITY, Message


class Lane:
    """The ready messages of one priority, in memory. `bytes` are their wires'."""

    __slots__ = ("back", "bytes", "fifo", "gone")

    def __init__(self) -> None:
        self.fifo: deque[Message] = deque()  # first deliveries, rising
        self.back: list[tuple[int, Message]] = []  # heap by seq: returned, or due
        self.gone: set[int] = set()  # of `back`: settled while in line; never walked
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.fifo) + len(self.back) - len(self.gone)

    def __iter__(self) -> Iterator[Message]:
        """In the order of delivery, taking nothing."""
        if not self.back:
            return iter(self.fifo)
        back = sorted([entry for entry in self.back if entry[0] not in self.gone])
        return heapq.merge(self.fifo, [entry[1] for entry in back], key=_seq)

    def append(self, messages: list[Message]) -> None:
        """Messages not yet given out, rising; normally behind all that are here."""
        fifo = self.fifo
        self.bytes += sum([len(m.wire) for m in messages])
        if fifo and messages[0].seq < fifo[-1].seq:
            for message in messages:
                heapq.heappush(self.back, (message.seq, message))
        else:
            fifo.extend(messages)

    def insert(self, message: Message) -> None:
        self.bytes += len(message.wire)
        heapq.heappush(self.back, (message.seq, message))

    def take(self, most: int, room: int) -> tuple[list[Message], int]:
        """The next ones, at most `most`, and their bytes: at most `room`, but at least one."""
        if self.back:
            return self._take_merged(most, room)
        fifo = self.fifo
        if self.bytes > room:
            most = self._fitting(most, room)
        if most >= len(fifo):
            taken = list(fifo)
            fifo.clear()
            size, self.bytes = self.bytes, 0
            return taken, size
        popleft = fifo.popleft
        taken = [popleft() for _ in range(most)]
        size = sum([len(m.wire) for m in taken])
        self.bytes -= size
        return taken, size

    def _fitting(self, most: int, room: int) -> int:
        """How many of the FIFO fit into `room` bytes; at least one."""
        size = 0
        for n, message in enumerate(islice(self.fifo, most)):
            size += len(message.wire)
            if size > room:
                return max(n, 1)
        return most

    def _take_merged(self, most: int, room: int) -> tuple[list[Message], int]:
        taken: list[Message] = []
        size = 0
        while len(taken) < most and (message := self.head()) is not None:
            length = len(message.wire)
            if taken and size + length > room:
                break
            if self.fifo and message is self.fifo[0]:
                self.fifo.popleft()
            else:
                heapq.heappop(self.back)
            taken.append(message)
            size += length
        self.bytes -= size
        return taken, size

    def head(self) -> Message | None:
        """The next one, taking nothing."""
        back, gone = self.back, self.gone
        while back and back[0][0] in gone:
            gone.discard(heapq.heappop(back)[0])
        if back and not (self.fifo and self.fifo[0].seq < back[0][0]):
            return back[0][1]
        return self.fifo[0] if self.fifo else None

    def discard(self, message: Message) -> None:
        """Skip this one when its turn comes: it is settled. It must have been inserted."""
        self.gone.add(message.seq)
        self.bytes -= len(message.wire)

    def take_after(self, seq: int) -> list[Message]:
        """Take out all behind this place."""
        if not self.back:
            out: list[Message] = []
            while self.fifo and self.fifo[-1].seq > seq:
                out.append(self.fifo.pop())
            self.bytes -= sum([len(m.wire) for m in out])
            return out
        return self.remove_if(lambda m: m.seq > seq)

    def remove_if(self, leaves: Callable[[Message], bool]) -> list[Message]:
        """Take out all that match, in order: walks the lane once."""
        out = [m for m in self if leaves(m)]
        if out:
            gone = self.gone.union([m.seq for m in out])
            self.fifo = deque([m for m in self.fifo if m.seq not in gone])
            self.back = [entry for entry in self.back if entry[0] not in gone]
            heapq.heapify(self.back)
            self.gone = set()
            self.bytes -= sum([len(m.wire) for m in out])
        return out


def _seq(message: Message) -> int:
    return message.seq


class ReadyLine:
    """Ready messages in memory, by priority. Never holds a message twice."""

    __slots__ = ("_others", "lanes", "main")

    def __init__(self) -> None:
        self.main = Lane()  # of the default priority
        self.lanes: dict[int, Lane] = {PRIORITY: self.main}  # highest priority first
        self._others = False  # whether any other priority has been seen

    def __len__(self) -> int:
        if not self._others:
            return len(self.main)
        return sum([len(lane) for lane in self.lanes.values()])

    def __iter__(self) -> Iterator[Message]:
        """In the order of delivery, taking nothing."""
        for lane in self.lanes.values():
            yield from lane

    @property
    def bytes(self) -> int:
        if not self._others:
            return self.main.bytes
        return sum([lane.bytes for lane in self.lanes.values()])

    def lane(self, priority: int) -> Lane:
        lane = self.lanes.get(priority)
        if lane is None:
            self.lanes[priority] = lane = Lane()
            self.lanes = dict(sorted(self.lanes.items(), reverse=True))
            self._others = True
        return lane

    def append(self, messages: list[Message]) -> None:
        """First deliveries of any priority, in order of seq."""
        if not any([m.priority != PRIORITY for m in messages]):
            if messages:
                self.main.append(messages)
            return
        for message in messages:
            self.lane(message.priority).append([message])

    def insert(self, message: Message) -> None:
        """To its original place: returned, or due."""
        self.lane(message.priority).insert(message)

    def count(self, floor: int) -> int:
        """How many have at least this priority."""
        return sum([len(lane) for priority, lane in self.lanes.items() if priority >= floor])

    def take(self, most: int, room: int, floor: int = -1) -> tuple[list[Message], int]:
        """The next messages in order, at most `most`, none below priority `floor`, and their
        bytes: at most `room`, but at least one message."""
        if not self._others and floor <= PRIORITY:
            return self.main.take(most, room)
        taken: list[Message] = []
        size = 0
        for priority, lane in self.lanes.items():
            if priority < floor:
                break
            head = lane.head()
            if head is None:
                continue
            if taken and size + len(head.wire) > room:
                break
            messages, length = lane.take(most - len(taken), room - size)
            taken += messages
            size += length
            if len(taken) == most or len(lane):
                break
        return taken, size

    def take_oldest(self, most: int) -> list[Message]:
        """The lowest seqs of all priorities: what a full queue drops."""
        if not self._others:
            return self.main.take(most, self.main.bytes)[0]
        out: list[Message] = []
        while len(out) < most:
            heads = [head for lane in self.lanes.values() if (head := lane.head()) is not None]
            if not heads:
                break
            out += self.lanes[min(heads, key=_seq).priority].take(1, 1)[0]
        return out

    def discard(self, message: Message) -> None:
        """Skip this one when its turn comes: it is settled. It must have been inserted."""
        self.lanes[message.priority].discard(message)

    def remove_if(self, leaves: Callable[[Message], bool]) -> list[Message]:
        """Take out all that match, in order of delivery."""
        return [m for lane in self.lanes.values() for m in lane.remove_if(leaves)]
