"""What is on its way from a topic to its groups.

Publishes go to a group's queue through its door for publishers, in order, and the topic waits
there for room. A new group is first given what was kept, page by page; what is published
meanwhile is `pending`, so that its publishers are not answered before the group has it.
"""

from collections import deque
from typing import TYPE_CHECKING, Any

import attrs
from msgspec import Raw

from msg.core.answers import Answers, Part
from msg.core.batches import PublishBatch
from msg.core.body import body_of
from msg.core.commands import BarePublish, Publish
from msg.errors import ActorStopped, ClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from msg.actors.queue import Queue
    from msg.core.message import Message
    from msg.core.runs import Changes, Copying


@attrs.frozen(eq=False)
class Copied:
    """A group has a page of what was kept, or could not take it."""

    page: "Copying"
    error: ClientError | None


class CopyOrigin:
    """Where the outcome of a copied page goes: back into the topic's mailbox."""

    __slots__ = ("_copying", "_error", "_left", "_post")

    def __init__(self, post: "Callable[[Any], object]", copying: "Copying") -> None:
        self._post = post
        self._copying = copying
        self._left = len(copying.messages)
        self._error: ClientError | None = None

    def published(self, batch: PublishBatch) -> None:
        if batch.errors:
            self._error = next(iter(batch.errors.values()))
        self._left -= len(batch.items)
        if self._left == 0:
            self._post(Copied(self._copying, self._error))

    def gone(self) -> None:
        """The group is no more."""


class GroupFeed:
    """It outlives a crashed incarnation of its topic."""

    def __init__(self) -> None:
        self.outgoing: deque[tuple[Queue, PublishBatch]] = deque()
        self.pending: dict[str, deque[PublishBatch]] = {}

    def add(
        self,
        changes: "Changes",
        removed: "Iterable[str]",
        answers: Answers,
        copy_of: "Callable[[Copying], PublishBatch]",
    ) -> None:
        """What a turn wants passed on."""
        for name in removed:
            self.drop(name)
        for group in changes.caught_up:
            waited = self.pending.pop(group.name, ())
            self.outgoing.extend([(group.queue, batch) for batch in waited])
        for passing, groups in changes.passings:
            for group in groups:
                batch = passing.batch_for(group.name, answers)
                if group.removed:
                    _nobody(batch)  # in the turn that published this
                elif group.copy is None:
                    self.outgoing.append((group.queue, batch))
                else:
                    self.pending.setdefault(group.name, deque()).append(batch)
        for copying in changes.copies:
            self.outgoing.append((copying.group.queue, copy_of(copying)))

    async def send(self) -> None:
        """To the groups: the one place where a topic waits for another actor."""
        while self.outgoing:
            queue, batch = self.outgoing[0]
            try:
                await queue.publish(batch)
            except ActorStopped:
                _nobody(batch)  # it was deleted: the directory's word is on its way
            self.outgoing.popleft()

    def drop_pending(self) -> None:
        for name in list(self.pending):
            self.drop(name)

    def drop(self, name: str) -> None:
        for batch in self.pending.pop(name, ()):
            _nobody(batch)


def _nobody(batch: PublishBatch) -> None:
    """The group that this was for is no more: nothing is owed to it."""
    origin = batch.origin
    if isinstance(origin, Part | CopyOrigin):
        origin.gone()


def copy_batch(
    topic: str,
    copying: "Copying",
    wall: float,
    remembers: "Callable[[Message], bool]",
    post: "Callable[[Any], object]",
) -> PublishBatch:
    """A page of what was kept, as publishes to a group; under its own id where its publisher
    may still retry it, so that the group knows it then."""
    messages = copying.messages
    items: list[BarePublish] = [
        Publish(
            topic=topic,
            message=Raw(body_of(m.wire)),
            message_id=m.id if remembers(m) else None,
            ttl=max(m.expires - wall, 0.001) if m.expires else None,
        )
        for m in messages
    ]
    size = sum([len(m.wire) for m in messages])
    batch = PublishBatch(CopyOrigin(post, copying), items, None, size)
    batch.ids = [m.id for m in messages]
    batch.wires = [m.wire for m in messages]
    return batch
