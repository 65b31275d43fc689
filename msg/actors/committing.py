"""Commits of one log: what has gathered, what is under way, and who waits for it.

A queue or a topic never waits for the store: one commit is in flight, the next gathers, and
beyond that its publishers' room is not given back. This is the part of an actor's state
that both share; it outlives a crashed incarnation.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from msg.core.batches import Failure, PublishBatch, Settlement
from msg.core.message import STORED, Message
from msg.errors import ClientError

if TYPE_CHECKING:
    from msg.actors.reply import Reply
    from msg.actors.storekeeper import ReplyTo, Storekeeper, Written
    from msg.store.log import Log


class Answerable(Protocol):
    def answer(self) -> None: ...


@attrs.frozen(eq=False)
class Settled:
    """A queue's part of a settlement, to be told when it is durable."""

    settlement: Settlement
    messages: Sequence[Message]
    failures: list[Failure]  # some of them, with the reasons

    def answer(self) -> None:
        self.settlement.part(len(self.messages) - len(self.failures), self.failures)

    def deny(self, code: str) -> None:
        self.settlement.part(0, [(None, m.id, code) for m in self.messages])


Waiting = PublishBatch | Settled | Answerable


class Releasable(Protocol):
    def post(self, item: Any) -> object: ...


@attrs.define(eq=False)
class Gathered:
    """What goes into one commit, and what waits for it."""

    logged: list[Message] = attrs.field(factory=list)
    waiting: list[Waiting] = attrs.field(factory=list)  # answered in this order
    releases: list[tuple[str, Releasable]] = attrs.field(factory=list)  # moves: key, target
    told: "list[Reply[None]]" = attrs.field(factory=list)  # who asked for something durable
    puts: int = 0  # whose room in the mailbox is given back afterwards
    sync: bool = False
    job: "Written | None" = None

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for it."""
        return bool(self.logged or self.waiting or self.releases or self.told)

    def add(self, messages: list[Message]) -> None:
        self.logged += messages
        self.sync = self.sync or STORED in [m.durability for m in messages]

    def postpone(self) -> "Gathered":
        """The disk was full: the publishes are refused, but their log keeps all the rest for
        the next commit. What waits for that, to be told then."""
        later = Gathered(sync=True)
        later.waiting = [item for item in self.waiting if not isinstance(item, PublishBatch)]
        later.releases = self.releases
        self.waiting = [item for item in self.waiting if isinstance(item, PublishBatch)]
        self.releases = []
        return later

    def precede(self, next: "Gathered") -> None:
        """What is in this one comes before what has gathered since."""
        next.waiting[:0] = self.waiting
        next.releases[:0] = self.releases
        next.sync = next.sync or self.sync

    def answer(self, error: ClientError | None = None) -> None:
        """All that waited has its outcome."""
        for item in self.waiting:
            item.answer()
        for reply in self.told:
            if error is None:
                reply.set(None)
            else:
                reply.fail(error)


@attrs.define(eq=False)
class Commits:
    """`next` gathers while `in_flight` is being written."""

    next: Gathered = attrs.field(factory=Gathered)
    in_flight: Gathered | None = None
    retry_at: float = 0.0  # after a commit that failed though it published nothing: not before
    log: "Log | None" = None

    def begin(self, storekeeper: "Storekeeper", reply_to: "ReplyTo") -> bool:
        """Hand what has gathered to the store; False if there is nothing to write.

        Those that waited for nothing but an earlier commit are answered then.
        """
        if self.log is None:
            return False
        commit = self.log.begin(self.next.sync)
        gathered, self.next = self.next, Gathered()
        if commit is None:
            self.next.puts = gathered.puts
            gathered.answer()
            return False
        gathered.job = storekeeper.commit(commit, reply_to)
        self.in_flight = gathered
        return True

    def outcome(self) -> tuple[Gathered, Exception | None]:
        """The commit under way has come back: what it was, and the error that undid it, if any.
        Nothing is changed yet: what the owner's rules make of it may fail."""
        gathered = self.in_flight
        if gathered is None or gathered.job is None:
            raise AssertionError("no commit is under way")
        return gathered, gathered.job.commit.error

    def finish(self) -> tuple[Gathered, Exception | None]:
        """The commit under way is done: its outcome, once more."""
        gathered, error = self.outcome()
        self.in_flight = None
        if self.log is None or gathered.job is None:
            raise AssertionError("it was begun from a log")
        self.log.finish(gathered.job.commit)
        return gathered, error

    def is_for(self, job: object) -> bool:
        """Whether this outcome is of the commit under way (and not of one long dealt with)."""
        return self.in_flight is not None and self.in_flight.job is job
