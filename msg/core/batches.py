"""What travels between actors: batches, and the requests that are answered in parts.

A batch is the unit: nothing here is made for a single message. Answers go back by the
batch's `origin`, which knows the wire; the rules only fill in what happened.
"""

from collections.abc import Sequence
from typing import Protocol

from msg.core.commands import BarePublish, are_bare
from msg.errors import ClientError

Failure = tuple[int | None, str | None, str]  # tag, message_id, code


class Origin(Protocol):
    """Where a batch came from, and where its outcome goes. Never waits, never fails."""

    def published(self, batch: "PublishBatch") -> None:
        """Every item of the batch has its outcome: answer them, in order."""


class PublishBatch:
    """Publishes to one destination with one durability, in order.

    `ids[i]` is the message id under which item i was accepted, or the one that it asked
    for; `errors[i]` says why it was not; `duplicates` are those that were stored before.
    What was accepted has rising seqs from `first_seq` on. `more`: it was split, and the rest
    is answered later.
    `bare`: none of them has more than a body. `size` is an upper bound of the items' bytes on
    the wire. Where a topic has made ids and wires already (for its groups), they are in `ids`
    and `wires`.
    """

    __slots__ = ("__weakref__", "answered", "bare", "dup_of", "duplicates", "durability",
                 "errors", "first_seq", "ids", "items", "more", "origin", "receivers", "size",
                 "wires")  # fmt: skip

    def __init__(
        self,
        origin: Origin,
        items: list[BarePublish],
        durability: int | None,
        size: int,
        *,
        bare: bool | None = None,
    ) -> None:
        self.origin = origin
        self.items = items
        self.bare = are_bare(items) if bare is None else bare
        self.durability = durability  # None: the destination's default
        self.size = size
        self.ids: list[str] = []
        self.wires: list[bytes] | None = None
        self.errors: dict[int, ClientError] | None = None
        self.duplicates: list[int] | None = None
        self.dup_of: dict[int, int] | None = None  # item -> seq that is not yet committed
        self.receivers: int | None = None
        self.first_seq = 0
        self.more = False
        self.answered = False

    def __len__(self) -> int:
        return len(self.items)

    def fail(self, index: int, error: ClientError) -> None:
        if self.errors is None:
            self.errors = {}
        self.errors[index] = error.alone()

    def fail_all(self, error: ClientError) -> None:
        """None of it was kept. Each error names the id that was asked for, if one was."""
        self.ids = [item.message_id or "" for item in self.items]
        self.errors = dict.fromkeys(range(len(self.items)), error.alone())
        self.duplicates = self.dup_of = None

    def begin_anew(self) -> None:
        """Forget what a turn that failed has noted here."""
        self.errors = self.duplicates = self.dup_of = None
        self.first_seq = 0

    def split(self, index: int) -> tuple["PublishBatch", "PublishBatch"]:
        """The items before `index`, with their outcome, and those from there on. This batch
        stays as it was: the turn may fail, and begin anew with it."""
        size = self.size * index // len(self.items)
        head = PublishBatch(self.origin, self.items[:index], self.durability, size, bare=self.bare)
        rest = PublishBatch(
            self.origin, self.items[index:], self.durability, self.size - size, bare=self.bare
        )
        if self.wires is not None:
            head.wires, head.ids = self.wires[:index], self.ids[:index]
            rest.wires, rest.ids = self.wires[index:], self.ids[index:]
        head.errors, head.duplicates, head.dup_of = self.errors, self.duplicates, self.dup_of
        head.more, rest.more = True, self.more
        return head, rest

    def lose(self, seqs: set[int], error: ClientError) -> None:
        """What has one of these seqs, or is a duplicate of such a one, was not kept."""
        refused, duplicates = set(self.errors or ()), set(self.duplicates or ())
        dup_of = self.dup_of or {}
        seq = self.first_seq
        for i in range(len(self.items)):
            if i in duplicates:
                if dup_of.get(i) in seqs:
                    self.fail(i, error)
            elif i not in refused:
                if seq in seqs:
                    self.fail(i, error)
                seq += 1
        self.duplicates = [i for i in self.duplicates or () if i not in (self.errors or ())]

    def answer(self) -> None:
        self.answered = True
        self.origin.published(self)


class Settlement:
    """One ack, nack or touch request; it may span several queues.

    Each queue reports its part, and the last part completes it. `left` is how many are out.
    """

    __slots__ = ("count", "counted", "failures", "left", "origin", "request_id", "tags")

    def __init__(self, origin: "SettlementOrigin", request_id: str | None) -> None:
        self.origin = origin
        self.request_id = request_id
        self.count = 0
        self.counted = False  # as a request whose answer the connection's end waits for
        self.failures: list[Failure] = []
        self.left = 0
        self.tags: dict[str, int] = {}  # of the messages that were named by tag

    def part(self, count: int, failures: Sequence[Failure]) -> None:
        self.count += count
        self.failures.extend(failures)
        self.left -= 1
        if self.left == 0:
            self.origin.settled(self)


class Unasked(Settlement):
    """Of acks that want no answer: one for all of a session's, since each is a part that is
    whole by itself, and only what fails is told."""

    __slots__ = ()

    def __init__(self, origin: "SettlementOrigin") -> None:
        super().__init__(origin, None)

    def part(self, count: int, failures: Sequence[Failure]) -> None:
        if failures:
            failed = Settlement(self.origin, None)
            failed.left = 1
            failed.part(count, failures)


class SettlementOrigin(Protocol):
    def settled(self, settlement: Settlement) -> None:
        """All parts are in: answer if an answer was asked for, or if something failed."""
