"""A mailbox: one inbox with two doors, so that an actor needs one receive loop.

`put` waits for room (`offer` says that there is none) and carries load: publishes. `post` never
waits and carries facts: acks, departures, ticks, commits. The channel is unbounded because the
room bounds what `put` may add, and each kind of post is bounded by what it is about: acks by what
was delivered, departures and attachments by connections, one tick per timer, one commit per
queue. Room is given back by `free`, not by `take`: a queue frees the room of a durable publish
when it is committed, so that a stalled disk stops the publishers and nobody else.
"""

from collections.abc import Sequence
from math import inf
from typing import Generic, TypeVar

import trio

from msg.actors.waits import waiting
from msg.errors import ActorStopped

T = TypeVar("T")


class Mailbox(Generic[T]):
    """One actor's inbox. It outlives the actor's incarnations, until `close`."""

    def __init__(self, room: int = 64, owner: str = "") -> None:
        self.owner = owner  # the actor whose inbox this is, as dumps name it
        self.room = room  # how many puts may be untaken, or taken and not yet freed
        self.free_room = room  # of it, what is free; none is while senders wait for some
        self._senders = trio.lowlevel.ParkingLot()
        self._send, self._receive = trio.open_memory_channel[T](inf)
        self._notes: list[T] = []
        self.depth = 0
        self.taken = 0  # items ever taken: a dump sees from it whether the actor moves on
        self.closed = False

    def offer(self, item: T) -> bool:
        """Hand over where there is room, and else say that there is none, or no owner."""
        if self.closed or not self.free_room:
            return False
        self.free_room -= 1
        self._send.send_nowait(item)
        self.depth += 1
        return True

    async def put(self, item: T) -> None:
        """Wait for room, then hand over. Raises ActorStopped when the mailbox is closed."""
        if self.offer(item):
            return  # no checkpoint: the sender's next read is one
        if self.closed:
            raise ActorStopped
        with waiting(self.owner, "room in its mailbox"):
            await self._senders.park()  # whoever frees room gives it to the first
        if self.closed:
            raise ActorStopped
        self._send.send_nowait(item)
        self.depth += 1

    def post(self, item: T) -> bool:
        """Hand over without waiting. False: the mailbox is closed, and needs no facts."""
        try:
            self._send.send_nowait(item)
        except trio.BrokenResourceError:
            return False
        self.depth += 1
        return True

    def note(self, item: T) -> bool:
        """Hand over a fact that may wait: it wakes nobody, and is taken before what comes next.
        False: the mailbox is closed."""
        if not self.closed:
            self._notes.append(item)
        return not self.closed

    async def take(self) -> list[T]:
        """Wait, then take all that is there: one checkpoint a turn, not a message."""
        first = await self._receive.receive()
        self.depth -= 1
        self.taken += 1
        if not (self._notes or self.depth):
            return [first]
        notes, self._notes = self._notes, []
        notes.append(first)
        if self.depth:
            notes += self.take_nowait()
        return notes

    def take_nowait(self) -> list[T]:
        """All that is there, without waiting."""
        items, self._notes = self._notes, []
        items += [self._receive.receive_nowait() for _ in range(self.depth)]
        self.taken += self.depth
        self.depth = 0
        return items

    def free(self, puts: int) -> None:
        """The room of so many puts is free again."""
        woken = len(self._senders.unpark(count=puts)) if self._senders else 0
        self.free_room += puts - woken
        assert self.free_room <= self.room, "freed more than was put"

    def close(self) -> list[T]:
        """Refuse all further items; return those that were never taken."""
        rest = self.take_nowait()
        self.closed = True
        self._receive.close()
        self._senders.unpark_all()
        return rest

    @property
    def notes(self) -> Sequence[T]:
        """Facts that wait for the next mail. To be looked at only."""
        return self._notes

    @property
    def waiting(self) -> int:
        """How many senders wait for room."""
        return len(self._senders)
