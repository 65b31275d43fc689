"""All that waits in a queue: ready, aside, suspect, delayed, in memory or only in the log.

A suspect is a message that consumers have died of: it is tried alone, so that it does not
spend its neighbours' attempts. A message whose lease expired may still be acked by the one
that had it, as long as it waits here: `late` knows whose it was.
"""

import heapq
from collections.abc import Callable, Container, Iterator, Sequence

from msg.core.books import Books
from msg.core.cold import Cold
from msg.core.credit import Port
from msg.core.deep import Packing
from msg.core.delayed import Delayed
from msg.core.message import PRIORITY, Message
from msg.core.packed import Packed
from msg.core.ready import ReadyLine
from msg.core.wire import Stamp

ALONE_FROM = 2  # failed attempts after which a message lost to a disconnect is a suspect


def is_suspect(message: Message) -> bool:
    return message.returned == "disconnect" and message.attempts >= ALONE_FROM


class Waiting:
    """See the module. Messages come in once, and leave once."""

    __slots__ = ("_suspects", "books", "cold", "delayed", "expiring", "late", "ready")

    def __init__(self, books: Books, hot_bytes: int, packing: Packing) -> None:
        self.books = books
        self.ready = ReadyLine(packing)
        self.cold = Cold(hot_bytes)
        self.delayed = Delayed()
        self.late: dict[int, tuple[Port, Message]] = {}
        self.expiring = False  # whether a message that expires was ever seen
        self._suspects: list[tuple[int, int, Message]] = []  # heap by (9 - priority, seq)

    # -- coming -------------------------------------------------------------------------

    def enter(self, messages: list[Message], stamp: Stamp, size: int | None = None) -> None:
        """First deliveries of one durability take their places, in order of seq: delayed,
        ready, or cold. `size`: their bytes, where it is known that none has a delay or a
        priority."""
        alike = size is not None or not any([m.due or m.priority != PRIORITY for m in messages])
        if not alike:
            messages = self._delay_some(messages, stamp)
        if not messages:
            return
        cold, main = self.cold, self.ready.main
        if (
            not alike
            or cold.count
            or (
                messages[0].durability
                and main.bytes + len(messages) * len(messages[0].wire) >= cold.hot_bytes  # about
            )
        ):
            away: list[Message] = []
            for message in messages:
                if message.durability and cold.takes(message, self.ready):
                    away.append(message)
                elif not self._stands_aside(message):
                    self.ready.lane(message.priority).append([message])
            self.books.send_away(away)
            return
        main.append(messages, size)
        last = messages[-1]
        if last.durability:
            cold.to = max(cold.to, last.seq)

    def enter_run(self, run: Packed) -> None:
        """After a crash: those that were packed. Behind all that have entered so far."""
        if not self.cold.count or run.last <= self.cold.to:
            self.ready.main.append_run(run)
            return
        for message in self.ready.packer.open(run):
            if not self._stands_aside(message):
                self.ready.main.append([message])

    def _delay_some(self, messages: list[Message], stamp: Stamp) -> list[Message]:
        ready: list[Message] = []
        for message in messages:
            # `until` was made from the same clock as `now`: a wall that jumped is no matter
            due = message.until or stamp.now + message.due - stamp.wall
            if message.due and due > stamp.now:
                self.delay(message, due)
            else:
                message.until = 0.0
                ready.append(message)
        return ready

    def delay(self, message: Message, due: float) -> None:
        """It waits until `due` (monotonic). A lot of them wait in the log only."""
        self.books.wake(due)
        delayed = self.delayed
        if (
            message.durability
            and delayed.bytes > self.cold.hot_bytes
            and message.seq not in self.late
        ):
            delayed.push_seq(due, message.seq, message.priority)
            self.books.send_away([message])
        else:
            message.until = due
            delayed.push(due, message)

    def put_back(self, message: Message) -> None:
        """To its original place: returned, or due."""
        message.until = 0.0
        if is_suspect(message):
            if message.durability:
                self.cold.note(message)
            heapq.heappush(self._suspects, (9 - message.priority, message.seq, message))
        elif not self._stands_aside(message):
            self.ready.insert(message)

    def _stands_aside(self, message: Message) -> bool:
        """Whether it has to wait in memory for cold ones that go before it."""
        cold = self.cold
        if message.durability:
            cold.note(message)
        if not cold.is_before(message):
            return False
        cold.set_aside(message)
        return True

    def come_due(self, now: float) -> None:
        for seq, priority, message in self.delayed.pop_due(now):
            if message is None:
                self.cold.want(seq, priority)
                continue
            if not message.durability:
                message.due = 0.0  # done with: after a crash the wall is not asked again
            self.put_back(message)

    # -- coming from the log ------------------------------------------------------------

    def loaded(
        self, messages: list[Message], up_to: int, held_back: Container[str]
    ) -> list[Message]:
        """Read ahead: those that are new to memory. `admit` what is to be handed out."""
        fresh = self.cold.loaded(messages, up_to, held_back)
        self.books.bring_back(fresh)
        return fresh

    def loaded_seqs(self, messages: list[Message]) -> list[Message]:
        """Read by seq: those that are new to memory. `admit` what is to be handed out."""
        fresh = sorted(self.cold.loaded_seqs(messages), key=lambda m: m.seq)
        self.books.bring_back(fresh)
        for message in fresh:
            self.cold.note(message)
        return fresh

    def admit(self, messages: list[Message]) -> None:
        """Those read from the log take their places, and with them what stood aside."""
        cold = self.cold
        if (
            messages[-1:]
            and messages[-1].seq <= cold.to
            and not any([m.attempts or m.priority != PRIORITY for m in messages])
        ):
            self.ready.main.append(messages)  # read in order, up to the border, and never tried
        else:
            line: list[Message] = []
            for message in messages:
                if is_suspect(message):
                    self.put_back(message)
                elif not self._stands_aside(message):
                    line.append(message)
            self.ready.append(line)
        for message in self.cold.no_longer_aside():
            self.ready.insert(message)

    def lose(self, seq: int) -> bool:
        """The log cannot read this one. False if it is not known to be only there."""
        return self.cold.lose(seq) or self.delayed.lose(seq)

    # -- going --------------------------------------------------------------------------

    @property
    def deliverable(self) -> int:
        """How many `take` can take now: what is in line, and not below what is to be read."""
        floor = self.cold.floor
        return len(self.ready) if floor < 0 else self.ready.count(floor)

    def take(self, most: int, room: int) -> tuple[list[Message], int]:
        """The next ready ones, to be handed out, and their bytes (see `ReadyLine.take`)."""
        messages, size = self.ready.take(most, room, self.cold.floor)
        if self.late:
            self._not_late(messages)
        return messages, size

    @property
    def suspects(self) -> list[Message]:
        """Those that wait to be tried alone, in order."""
        return [entry[2] for entry in sorted(self._suspects)]

    @property
    def has_suspects(self) -> bool:
        return bool(self._suspects)

    def take_suspect(self) -> Message:
        message = heapq.heappop(self._suspects)[2]
        self.late.pop(message.seq, None)
        return message

    def take_late(self, port: Port, message: Message) -> Message | None:
        """This one, if it was `port`'s until its lease expired and waits still."""
        seq = message.seq
        entry = self.late.get(seq)
        if entry is None or entry[0] is not port:
            return None
        del self.late[seq]
        waiting = entry[1]
        if seq in self.delayed.hot:
            self.delayed.discard(seq)
        elif not self.cold.take_aside(waiting):
            self.ready.discard(waiting)
        return waiting

    def take_if(self, leaves: Callable[[Message], bool]) -> list[Message]:
        """All that match of those in memory that are ready, in line or not."""
        out = [m for m in self.suspects if leaves(m)]
        if out:
            gone = {m.seq for m in out}
            self._suspects = [entry for entry in self._suspects if entry[1] not in gone]
            heapq.heapify(self._suspects)
        out += self.ready.remove_if(leaves)
        out += [m for m in self.cold.asides if leaves(m) and self.cold.take_aside(m)]
        self._not_late(out)
        return out

    def take_oldest(self, most: int) -> list[Message]:
        """What a full queue drops: the oldest that are ready, else what waits longest to be.
        None while older ones are still to be read from the log."""
        out = self.ready.take_oldest(most)
        if not out and not len(self.cold):
            out = [self.take_suspect() for _ in range(min(most, len(self._suspects)))]
            out = out or [self.delayed.discard(m.seq) for m in self.delayed.next_ones(most)]
        self._not_late(out)
        return out

    def clear(self, up_to: int) -> tuple[list[Message], list[Packed], int]:
        """All goes: those in memory, those packed, and how many were only in the log."""
        away = len(self.cold) + len(self.delayed) - len(self.delayed.hot)
        out, runs = self.ready.clear()
        out += self.suspects + self.cold.asides
        self._suspects.clear()
        out += self.delayed.clear()
        self.cold.clear(up_to)
        self.late.clear()
        return out, runs, away

    def _not_late(self, messages: Sequence[Message]) -> None:
        if self.late:
            for message in messages:
                self.late.pop(message.seq, None)

    # -- looking ------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many are ready, wherever they are."""
        return self.in_memory + len(self.cold)

    @property
    def in_memory(self) -> int:
        return len(self.ready) + len(self._suspects) + len(self.cold.asides)

    def __iter__(self) -> Iterator[Message]:
        """Ready ones in memory, in the order of delivery."""
        yield from self.suspects
        yield from self.ready
        yield from self.cold.asides

    def holds(self, seq: int) -> bool:
        """Whether this one is in memory here. Walks."""
        asides = [m.seq for m in (*self.suspects, *self.cold.asides)]
        return seq in self.delayed.hot or seq in asides or seq in self.ready.seqs()

    def seqs(self) -> Iterator[int]:
        """Of the ready ones in memory, in no order."""
        yield from [m.seq for m in self.suspects]
        yield from self.ready.seqs()
        yield from [m.seq for m in self.cold.asides]

    def find(self, message_id: str) -> Iterator[tuple[int, Message]]:
        """The ready ones in memory with this id, each with how many stand before it."""
        for place, message in enumerate(self.suspects):
            if message.id == message_id:
                yield place, message
        before = len(self._suspects)
        for place, message in self.ready.find(message_id):
            yield before + place, message
        for place, message in enumerate(self.cold.asides, before + len(self.ready)):
            if message.id == message_id:
                yield place, message
