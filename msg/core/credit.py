"""Who gets the next message: consumers, their credit, and whose turn it is.

The next message goes to the consumer with the largest *share* of free credit, ties in
rotation. By share and not by number, or a consumer with prefetch 10 would starve beside
one with 1,000.
"""

import heapq
from collections.abc import Sequence
from itertools import islice
from math import ceil
from typing import Protocol

from msg.core.message import Message
from msg.errors import ClientError

HALVINGS = 20  # of the level that shares are brought down to; the rest goes one at a time


class Port(Protocol):
    """The queue's end of a consumer's session. Its doors never wait and never fail."""

    @property
    def room(self) -> int:
        """Bytes that may still be handed over before the connection's limit."""

    def deliver(self, messages: list[Message], size: int) -> None:
        """Take these, to be written in order; `size` is their bytes."""

    def holdings(self) -> list[Message]:
        """All that was delivered here and is not settled."""

    def lapse(self, messages: Sequence[Message]) -> None:
        """The leases of these ran out."""

    def got(self, count: int) -> None:
        """A `get` is over."""

    def ended(self, reason: str) -> None:
        """The queue is gone: tell the client."""

    def refuse(self, error: ClientError) -> None:
        """The subscription cannot be."""


class Consumer:
    """A subscription as its queue sees it: its credit and what it holds."""

    __slots__ = ("ack_timeout", "auto", "dry", "leases", "name", "port", "prefetch",
                 "pull_behind", "pull_left", "pull_until", "shuffled", "solo", "suspended",
                 "turn")  # fmt: skip

    def __init__(
        self,
        port: Port,
        *,
        prefetch: int = 1,
        ack_timeout: float = 30.0,
        auto: bool = False,
        name: str = "",
        pull: tuple[int, float] | None = None,
    ) -> None:
        self.port = port
        self.prefetch = prefetch
        self.ack_timeout = ack_timeout  # seconds; 0 = until disconnect
        self.auto = auto
        self.name = name
        # in order of deadline, unless `shuffled`: leased in order, and a touch moves to the end
        self.leases: dict[int, Message] = {}
        self.shuffled = False
        self.suspended = False  # a lease expired: nothing new until it shows life
        self.solo = False  # holds a suspect, alone
        self.dry = False  # gets nothing until it holds nothing, to take a suspect
        self.turn = 0  # when it was last served, for the rotation
        # of a `get`: what it still wants, and until when; 0 also when it takes nothing more
        self.pull_left = -1 if pull is None else pull[0]
        self.pull_until = 0.0 if pull is None else pull[1]
        self.pull_behind = 0  # publishes of lower seqs came before it

    def anew(self) -> "Consumer":
        """The same subscription for a new incarnation of its queue, holding nothing yet."""
        again = Consumer(
            self.port,
            prefetch=self.prefetch,
            ack_timeout=self.ack_timeout,
            auto=self.auto,
            name=self.name,
        )
        again.suspended = self.suspended
        again.pull_left, again.pull_until = self.pull_left, self.pull_until
        again.pull_behind = self.pull_behind
        return again

    @property
    def credit(self) -> int:
        """How many messages may be handed to it now."""
        if self.suspended or self.solo or self.dry:
            return 0
        free = self.prefetch - len(self.leases)
        return free if self.pull_left < 0 else min(free, self.pull_left)


class Consumers:
    """All consumers of one queue, and which of them can be served.

    `idle` hold nothing, and so have all of their credit; `hungry` may have a part of it. Both
    are in rotation, and a thousand idle ones cost a message nothing.
    """

    __slots__ = ("_turns", "by_port", "hungry", "idle", "leased", "pulling")

    def __init__(self) -> None:
        self.by_port: dict[Port, Consumer] = {}
        self.idle: dict[Consumer, None] = {}
        self.hungry: dict[Consumer, None] = {}
        self.pulling: dict[Consumer, None] = {}  # `get`s under way
        self.leased = 0
        self._turns = 0

    def attach(self, consumer: Consumer) -> Consumer:
        """A new subscription, or a known one whose prefetch and deadline change."""
        known = self.by_port.get(consumer.port)
        if known is None:
            known = self.by_port[consumer.port] = consumer
            self._turns += 1
            known.turn = self._turns
            if known.pull_left > 0:
                self.pulling[known] = None
        else:
            known.prefetch = consumer.prefetch
            if known.ack_timeout != consumer.ack_timeout:
                known.ack_timeout = consumer.ack_timeout
                known.shuffled = bool(known.leases)
        if known.pull_left:
            self.freed(known)
        return known

    def remove(self, consumer: Consumer) -> None:
        self.by_port.pop(consumer.port, None)
        self.idle.pop(consumer, None)
        self.hungry.pop(consumer, None)
        self.pulling.pop(consumer, None)
        consumer.dry = False

    def stop(self, consumer: Consumer) -> None:
        """It takes nothing more, and goes when it holds nothing."""
        consumer.pull_left = 0
        self.pulling.pop(consumer, None)
        self.freed(consumer)

    def freed(self, consumer: Consumer) -> None:
        """Leases of this consumer ended, or it has got credit or room in another way."""
        if consumer.leases:
            self.idle.pop(consumer, None)
            if consumer.credit > 0:
                self.hungry[consumer] = None
            else:
                self.hungry.pop(consumer, None)
            return
        consumer.solo = consumer.dry = consumer.shuffled = False
        self.hungry.pop(consumer, None)
        if consumer.pull_left == 0:
            self.remove(consumer)
        elif consumer.suspended:
            self.idle.pop(consumer, None)
        else:
            self.idle[consumer] = None

    def lease(self, consumer: Consumer, messages: list[Message]) -> None:
        """It is given these now."""
        self._turns += 1
        consumer.turn = self._turns
        if consumer.pull_left > 0:
            consumer.pull_left -= len(messages)
        self.restore(consumer, messages)

    def restore(self, consumer: Consumer, messages: list[Message]) -> None:
        """It holds these."""
        consumer.leases.update({m.seq: m for m in messages})
        self.leased += len(messages)
        self.freed(consumer)

    def suspend(self, consumer: Consumer) -> None:
        """A lease of it ran out: nothing new until it shows life."""
        consumer.suspended = True
        self.freed(consumer)

    def shares(self, ready: int) -> list[tuple[Consumer, int]]:
        """Share `ready` messages out: (consumer, how many), in the order of their turns."""
        if ready <= len(self.idle):
            # all have the same share, and there is none larger
            one_each = [(c, 1) for c in islice(self.idle, ready)]
            if all([c.port.room > 0 for c, _ in one_each]):
                return one_each
        able = [c for line in (self.idle, self.hungry) for c in line
                if c.credit > 0 and c.port.room > 0]  # fmt: skip
        return allot(able, ready)


def allot(able: list[Consumer], ready: int) -> list[tuple[Consumer, int]]:
    """Share `ready` messages out among those with credit, one at a time to the largest share."""
    if not able or not ready:
        return []
    credits = [c.credit for c in able]
    if len(able) == 1:
        return [(able[0], min(credits[0], ready))]
    if ready >= sum(credits):
        return sorted(zip(able, credits, strict=True), key=_turn)
    given = [0] * len(able)
    left = ready
    if ready > 4 * len(able):
        given = _level(able, credits, ready)
        left -= sum(given)
    last = max([c.turn for c in able])
    heap = [
        (-(credit - given[i]) / c.prefetch, c.turn, i)
        for i, (c, credit) in enumerate(zip(able, credits, strict=True))
        if credit > given[i]
    ]
    heapq.heapify(heap)
    for _ in range(left):
        _, _, i = heap[0]
        given[i] += 1
        last += 1
        rest = credits[i] - given[i]
        if rest:
            heapq.heapreplace(heap, (-rest / able[i].prefetch, last, i))
        else:
            heapq.heappop(heap)
    return sorted([(c, n) for c, n in zip(able, given, strict=True) if n], key=_turn)


def _level(able: list[Consumer], credits: list[int], ready: int) -> list[int]:
    """What each gets while all with a larger share are brought down to one level: the same
    as one at a time, but for the last few."""
    low, high = 0.0, 1.0
    given = [0] * len(able)
    for _ in range(HALVINGS):
        level = (low + high) / 2
        gives = [
            max(0, ceil(credit - level * c.prefetch))
            for c, credit in zip(able, credits, strict=True)
        ]
        if sum(gives) <= ready:
            high, given = level, gives
        else:
            low = level
    return given


def _turn(share: tuple[Consumer, int]) -> int:
    return share[0].turn
