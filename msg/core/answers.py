"""What a topic owes its publishers: one answer for a publish that several logs take.

A publish is acked when all have it: the topic's own log where something is kept, and each
group. Each of them reports its part, the last one completes the answer, and the answers of
one durability go out in the order of their requests.

Where some have it and some could not take it, the publish is an error that names the
message's id; a retry under that id completes what is missing. Ids that clients chose are in
each log's dedup window; those that the broker made are remembered here, for such publishes
only, with who has them; also when all do, since the answer that said so may not have arrived.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from msg.core.batches import PublishBatch
from msg.core.dedup import fingerprint
from msg.errors import ClientError, Retry

if TYPE_CHECKING:
    from msg.core.commands import BarePublish

IN_PART_MAX = 10_000  # publishes kept in part that are remembered


class KeptInPart(ClientError):
    """Some of the logs have it: sending the same again under its id completes the rest."""

    def __init__(self, cause: ClientError) -> None:
        super().__init__(
            cause.code,
            f"{cause}; part of it is kept, so send it again with this message_id",
            limit=cause.limit,
        )

    @property
    def retry(self) -> Retry:
        return "same_id"


@attrs.frozen
class InPart:
    """Who has a publish that not all could take at first."""

    print: int  # fingerprint of its body
    own: bool  # the topic: its log, or its subscribers
    groups: tuple[str, ...]
    at: float  # monotonic, about when


@attrs.define(eq=False)
class _GroupPart:
    """What became of a batch in one group, by the batch's own indices."""

    group: str
    passed: Sequence[int] | None  # the items that it was given; None: all
    refused: dict[int, ClientError]
    duplicates: set[int]


class Answer:
    """What is owed for one batch. `left` parts are still out."""

    __slots__ = (
        "_absent",
        "_desk",
        "_parts",
        "batch",
        "clears",
        "kept",
        "left",
        "owned",
        "retried",
        "seqs",
    )  # fmt: skip

    def __init__(self, batch: PublishBatch, desk: "Answers", *, owned: bool) -> None:
        self.batch = batch
        self._desk = desk
        self.left = 0
        self.owned = owned  # the topic itself keeps or delivers it
        self.retried: list[int] | None = None  # items that were kept in part before
        self.seqs: dict[int, int] | None = None  # of the items that are logged
        self.kept: list[int] | None = None  # items that the topic itself keeps
        self.clears = False  # a retained value: it waits for that to be written
        self._absent: dict[int, ClientError] | None = None  # what some group could not take
        self._parts: list[_GroupPart] | None = None

    def answer(self) -> None:
        """The topic's own part is done."""
        self.left -= 1
        self._desk.check(self)

    @property
    def goes_on_waiting(self) -> bool:
        """Whether a commit that failed leaves it to the next one."""
        return self.clears and not self.seqs and not self.batch.dup_of

    def lose(self, lost: set[int], error: ClientError) -> None:
        """What was logged under these seqs, or is a duplicate of such a one, was not kept."""
        batch = self.batch
        seqs = {**(self.seqs or {}), **(batch.dup_of or {})}
        for i in [i for i, seq in seqs.items() if seq in lost]:
            batch.fail(i, error)
            if batch.duplicates and i in batch.duplicates:
                batch.duplicates.remove(i)

    def part(
        self,
        group: str,
        passed: Sequence[int] | None,
        refused: dict[int, ClientError],
        duplicates: set[int],
    ) -> None:
        """One group's outcome, by the batch's own indices."""
        self.left -= 1
        if self._parts is None:
            self._parts = []
        self._parts.append(_GroupPart(group, passed, refused, duplicates))
        if refused:
            if self._absent is None:
                self._absent = {}
            for i, error in refused.items():
                self._absent.setdefault(i, error)

    def settle(self, note: Callable[[str, InPart], None]) -> None:
        """All parts are in: the batch says what became of each item. `note` keeps who has
        what."""
        batch = self.batch
        if self._parts is None and not batch.errors and not self.retried:
            return  # as a rule: no groups, and nothing went wrong
        own = batch.errors or {}
        for i in self.retried or ():
            if i not in own and i not in (self._absent or ()):
                note(batch.ids[i], self._in_part(i, own=self.owned))
        if self._parts and (batch.duplicates or any([p.duplicates for p in self._parts])):
            batch.duplicates = self._stored_before(self._parts)
        for i in sorted({*own, *(self._absent or ())}):
            error = own.get(i) or (self._absent or {})[i]
            part = self._in_part(i, own=self.owned and i not in own)
            if not part.groups and not part.own:
                batch.fail(i, error)
                continue
            batch.fail(i, KeptInPart(error))
            if batch.duplicates and i in batch.duplicates:
                batch.duplicates.remove(i)
            note(batch.ids[i], part)

    def _in_part(self, i: int, *, own: bool) -> InPart:
        """Who took item i now."""
        having = tuple(
            p.group
            for p in self._parts or ()
            if i not in p.refused and (p.passed is None or i in p.passed)
        )
        item: BarePublish = self.batch.items[i]
        return InPart(fingerprint(bytes(item.message)), own, having, 0.0)

    def _stored_before(self, parts: "Sequence[_GroupPart]") -> list[int]:
        """What is a duplicate everywhere. A topic that keeps nothing itself forgets its ids at
        a stop of the broker, and its groups do not."""
        batch = self.batch
        had = {i for p in parts for i in p.duplicates}
        had.difference_update(self.kept or (), batch.errors or (), self._absent or ())
        had.update(batch.duplicates or ())
        for p in parts:
            taken = range(len(batch.items)) if p.passed is None else p.passed
            had.difference_update(
                [i for i in taken if i not in p.duplicates and i not in p.refused]
            )
        return sorted(had)


class Answers:
    """All that is owed, in order. It outlives a crashed incarnation of its topic."""

    def __init__(self) -> None:
        self._lines: dict[int | None, deque[Answer]] = {}
        self.now = 0.0  # of the last turn
        self.in_part: dict[str, InPart] = {}

    @property
    def outstanding(self) -> int:
        return sum([len(line) for line in self._lines.values()])

    def owe(self, answer: Answer) -> None:
        """In the order of the requests. One that waits for nothing is answered at once."""
        line = self._lines.get(answer.batch.durability)
        if line is None:
            line = self._lines[answer.batch.durability] = deque()
        if answer.left or line:
            line.append(answer)
        else:
            self._give(answer)

    def check(self, answer: Answer) -> None:
        """One of its parts has come in; it may not be owed yet."""
        line = self._lines.get(answer.batch.durability)
        if not answer.left and line is not None:
            self._advance(line)

    def abandon(self, error: ClientError) -> None:
        """Nobody will do any of it any more."""
        lines, self._lines = self._lines, {d: deque[Answer]() for d in self._lines}
        for line in lines.values():
            for answer in line:
                answer.batch.fail_all(error)
                answer.batch.answer()

    def _advance(self, line: deque[Answer]) -> None:
        while line and not line[0].left:
            self._give(line.popleft())

    def _give(self, answer: Answer) -> None:
        answer.settle(self._note)
        answer.batch.answer()

    def forget_before(self, at: float) -> None:
        """Who has what is remembered for as long as ids are."""
        while self.in_part:
            message_id, entry = next(iter(self.in_part.items()))
            if entry.at > at:
                return
            del self.in_part[message_id]

    def _note(self, message_id: str, entry: InPart) -> None:
        before = self.in_part.pop(message_id, None)
        own, groups = entry.own, entry.groups
        if before is not None:
            own = own or before.own
            groups = (*before.groups, *[g for g in groups if g not in before.groups])
        self.in_part[message_id] = InPart(entry.print, own, groups, self.now)
        if len(self.in_part) > IN_PART_MAX:
            del self.in_part[next(iter(self.in_part))]


class Passing:
    """Publishes of one turn on their way to the groups, of several publishers together."""

    __slots__ = ("durability", "ids", "items", "size", "spans", "wires", "without")

    def __init__(self, durability: int | None, without: tuple[str, ...]) -> None:
        self.durability = durability
        self.without = without  # groups that have it already
        self.items: list[BarePublish] = []
        self.ids: list[str] = []
        self.wires: list[bytes] = []
        self.size = 0
        # where each answer's items begin here, and which of its items they are (None: all)
        self.spans: list[tuple[Answer, int, Sequence[int] | None]] = []

    def add(self, answer: Answer, passed: Sequence[int] | None, wires: Sequence[bytes]) -> None:
        """These items of a batch too (None: all of it)."""
        batch = answer.batch
        self.spans.append((answer, len(self.items), passed))
        self.size += batch.size
        if passed is None:
            self.items += batch.items
            self.ids += batch.ids
            self.wires += wires
        else:
            self.items += [batch.items[i] for i in passed]
            self.ids += [batch.ids[i] for i in passed]
            self.wires += [wires[i] for i in passed]

    def batch_for(self, group: str, answers: Answers) -> PublishBatch:
        """The batch for one group; it reports to the answers."""
        origin = Part(group, self, answers)
        batch = PublishBatch(origin, list(self.items), self.durability, self.size, bare=False)
        batch.ids = list(self.ids)
        batch.wires = list(self.wires)
        return batch


class Part:
    """The origin of one batch to one group. A group may split it and answer in pieces."""

    __slots__ = ("_answers", "_duplicates", "_group", "_left", "_passing", "_refused")

    def __init__(self, group: str, passing: Passing, answers: Answers) -> None:
        self._group = group
        self._passing = passing
        self._answers = answers
        self._left = len(passing.items)
        self._refused: dict[int, ClientError] = {}
        self._duplicates: set[int] = set()

    def published(self, batch: PublishBatch) -> None:
        if batch.errors or batch.duplicates:
            start = 0
            if batch.items[0] is not self._passing.items[0]:
                first = batch.items[0]
                start = next(i for i, p in enumerate(self._passing.items) if p is first)
            for i, error in (batch.errors or {}).items():
                self._refused[start + i] = error
            self._duplicates.update([start + i for i in batch.duplicates or ()])
        self._left -= len(batch.items)
        if self._left == 0:
            self._report()

    def gone(self) -> None:
        """The group is no more: nothing is owed to it."""
        self._refused.clear()
        self._report()

    def _report(self) -> None:
        spans = self._passing.spans
        for n, (answer, start, passed) in enumerate(spans):
            end = spans[n + 1][1] if n + 1 < len(spans) else len(self._passing.items)
            refused, duplicates = self._refused, self._duplicates
            if start or passed is not None or n + 1 < len(spans):
                refused = {
                    (i - start if passed is None else passed[i - start]): error
                    for i, error in self._refused.items()
                    if start <= i < end
                }
                duplicates = {
                    i - start if passed is None else passed[i - start]
                    for i in self._duplicates
                    if start <= i < end
                }
            answer.part(self._group, passed, refused, duplicates)
            self._answers.check(answer)
