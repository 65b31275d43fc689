"""The order in which a queue's messages are handed out.

By (priority, seq): higher priority first, then the original place. Messages of a priority
that were never given out stand in a FIFO; those that came back, or became due, in a heap
beside it, so that a return costs a push and not a search, and both are merged as they are
taken. What is settled while it waits here (a late ack) is skipped when its turn comes. The
far part of a long FIFO is packed (`msg.core.deep`).
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from msg.core.deep import Deep, Packer, Packing
from msg.core.message import PRIORITY, Message
from msg.core.packed import Packed


class Lane:
    """The ready messages of one priority, in memory. `bytes` are their wires'."""

    __slots__ = ("_still", "back", "bytes", "deep", "fifo", "gone", "packer")

    def __init__(self, packer: Packer | None = None) -> None:
        self.fifo: deque[Message] = deque()  # first deliveries, rising
        self.deep: Deep | None = None  # more of them; if so, the FIFO is not empty either
        self.packer = packer  # None: never packed
        self._still = 0  # so many came since one was taken
        self.back: list[tuple[int, Message]] = []  # heap by seq: returned, or due
        self.gone: set[int] = set()  # of `back`: settled while in line; never walked
        self.bytes = 0

    def __len__(self) -> int:
        near = len(self.fifo) + len(self.back) - len(self.gone)
        return near if self.deep is None else near + self.deep.count

    def __iter__(self) -> Iterator[Message]:
        """In the order of delivery, taking nothing."""
        fifo: Iterable[Message] = self.fifo if self.deep is None else chain(self.fifo, self.deep)
        if not self.back:
            return iter(fifo)
        back = sorted([entry for entry in self.back if entry[0] not in self.gone])
        return heapq.merge(fifo, [entry[1] for entry in back], key=_seq)

    def append(self, messages: list[Message], size: int | None = None) -> None:
        """Messages not yet given out, rising; normally behind all that are here. `size`: their
        bytes, where they are known."""
        fifo, deep = self.fifo, self.deep
        self.bytes += sum([len(m.wire) for m in messages]) if size is None else size
        if fifo and messages[0].seq < (fifo[-1].seq if deep is None else deep.last):
            for message in messages:
                heapq.heappush(self.back, (message.seq, message))
            return
        if deep is None:
            fifo.extend(messages)
        else:
            deep.append(messages)
        self._still += len(messages)
        packer = self.packer
        if packer is not None and (deep is not None or len(fifo) >= packer.least):
            self._pack(packer, len(messages))

    def _pack(self, packer: Packer, came: int) -> None:
        """Pack what is far from its turn: not all at once, but faster than more comes."""
        rules = packer.rules
        if self._still <= rules.still and len(self) <= rules.above:
            return
        deep = self.deep
        if deep is None:
            if self.fifo[-1].durability:
                return
            line = list(self.fifo)
            deep = self.deep = Deep(packer)
            deep.append(line[rules.head :])
            self.fifo = deque(line[: rules.head])
        deep.pack(2 + came // rules.run)

    def append_run(self, run: Packed) -> None:
        """A run that was made before, behind all first deliveries that are here."""
        if self.packer is None:
            raise AssertionError("this lane is never packed")
        if self.fifo and self.last < run.first:
            self.bytes += run.bytes
            if self.deep is None:
                self.deep = Deep(self.packer)
            self.deep.append_run(run)
        else:
            self.append(self.packer.open(run))

    @property
    def last(self) -> int:
        """No first delivery here has a higher seq."""
        return self.deep.last if self.deep is not None else self.fifo[-1].seq

    def _refill(self) -> None:
        """The FIFO is empty: the next ones of those far away come near."""
        if self.deep is not None:
            self.fifo.extend(self.deep.take_next())
            if not self.deep.count:
                self.deep = None

    def insert(self, message: Message) -> None:
        self.bytes += len(message.wire)
        heapq.heappush(self.back, (message.seq, message))

    def take(self, most: int, room: int) -> tuple[list[Message], int]:
        """The next ones, at most `most`, and their bytes: at most `room`, but at least one."""
        self._still = 0
        if self.back:
            return self._take_merged(most, room)
        taken, size = self._take_near(most, room)
        while not self.fifo and self.deep is not None:
            self._refill()
            if len(taken) < most and size + len(self.fifo[0].wire) <= room:
                more, length = self._take_near(most - len(taken), room - size)
                taken += more
                size += length
        return taken, size

    def _take_near(self, most: int, room: int) -> tuple[list[Message], int]:
        fifo = self.fifo
        if self.bytes > room:  # not many more than fit, by their average
            most = min(most, 1 + 2 * room * len(self) // self.bytes)
        if most >= len(fifo):
            taken = list(fifo)
            fifo.clear()
        else:
            popleft = fifo.popleft
            taken = [popleft() for _ in range(most)]
        if fifo or self.back or self.deep is not None:
            size = sum([len(m.wire) for m in taken])
        else:
            size = self.bytes  # that was all
        while size > room and len(taken) > 1:
            fifo.appendleft(taken.pop())
            size -= len(fifo[0].wire)
        self.bytes -= size
        return taken, size

    def _take_merged(self, most: int, room: int) -> tuple[list[Message], int]:
        taken: list[Message] = []
        size = 0
        while len(taken) < most and (message := self.head()) is not None:
            length = len(message.wire)
            if taken and size + length > room:
                break
            if self.fifo and message is self.fifo[0]:
                self.fifo.popleft()
                if not self.fifo:
                    self._refill()
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
        if self.back:
            return self.remove_if(lambda m: m.seq > seq)
        out: list[Message] = []
        if self.deep is not None and self.deep.last > seq:
            out = self.deep.take_after(seq)
            if not self.deep.count:
                self.deep = None
        while self.fifo and self.fifo[-1].seq > seq:
            out.append(self.fifo.pop())
        self.bytes -= sum([len(m.wire) for m in out])
        return out

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
            if self.deep is not None:
                self.deep.take_out([m.seq for m in out])
                if not self.deep.count:
                    self.deep = None
                elif not self.fifo:
                    self._refill()
        return out

    def seqs(self) -> Iterator[int]:
        """Of all, in no order."""
        yield from [m.seq for m in self.fifo]
        yield from [seq for seq, _ in self.back if seq not in self.gone]
        for run in self.deep.runs() if self.deep is not None else ():
            yield from run.seqs if isinstance(run, Packed) else [m.seq for m in run]

    def count_before(self, seq: int) -> int:
        """How many are handed out before this place. Walks."""
        return sum([s < seq for s in self.seqs()])

    def candidates(self, message_id: str) -> Iterator[Message]:
        """All that may have this id, in no order. Opens nothing that cannot have it."""
        yield from self.fifo
        yield from [message for seq, message in self.back if seq not in self.gone]
        for run in self.deep.runs() if self.deep is not None else ():
            if not isinstance(run, Packed):
                yield from run
            elif run.may_have(message_id):
                yield from run.unpack()

    def clear(self) -> tuple[list[Message], list[Packed]]:
        """Take out all: what is packed as it is."""
        runs: list[Packed] = []
        deep, self.deep = self.deep, None
        if deep is not None:
            runs = [run for run in deep.runs() if isinstance(run, Packed)]
            for run in runs:
                deep.packer.drop(run)
                self.bytes -= run.bytes
            for messages in deep.runs():
                if not isinstance(messages, Packed):
                    self.fifo.extend(messages)
        return self.remove_if(lambda _: True), runs


def _seq(message: Message) -> int:
    return message.seq


class ReadyLine:
    """Ready messages in memory, by priority. Never holds a message twice."""

    __slots__ = ("_others", "lanes", "main", "packer")

    def __init__(self, packing: Packing) -> None:
        self.packer = Packer(packing)
        self.main = Lane(self.packer)  # of the default priority
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

    def clear(self) -> tuple[list[Message], list[Packed]]:
        """Take out all: what is packed as it is."""
        cleared = [lane.clear() for lane in self.lanes.values()]
        return [m for each in cleared for m in each[0]], [r for each in cleared for r in each[1]]

    def find(self, message_id: str) -> Iterator[tuple[int, Message]]:
        """Those with this id, each with how many stand before it. Walks, but opens nothing
        that cannot have it."""
        before = 0
        for lane in self.lanes.values():
            for message in lane.candidates(message_id):
                if message.id == message_id:
                    yield before + lane.count_before(message.seq), message
            before += len(lane)

    def seqs(self) -> Iterator[int]:
        """Of all, in no order."""
        for lane in self.lanes.values():
            yield from lane.seqs()
