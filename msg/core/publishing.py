"""How a topic publishes: the way of a batch from its publisher to the line, and out of it.

Each message is checked, given its id and its wire, and, where it is kept, its seq; it joins
the line, and is passed to the groups. It is released, to whoever hears it then, when all
before it are, and when it is written if it is to be logged. What the publisher is owed waits
for all of that. This is one half of `TopicRules`; see `msg.core.topic`.
"""

from collections import deque
from typing import TYPE_CHECKING

from msg.core.answers import Answer, Answers, Passing
from msg.core.audience import Audience
from msg.core.body import body_of
from msg.core.dedup import NEW, DedupWindow, fingerprint
from msg.core.kept import Kept
from msg.core.message import DURABILITIES, MEMORY, PRIORITY, STORED, Message
from msg.core.runs import Run, Turn
from msg.core.wire import extras, json_string
from msg.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from msg.core.batches import PublishBatch
    from msg.core.commands import BarePublish
    from msg.core.settings import TopicSettings
    from msg.core.wire import Stamp

INBOX = "_inbox."


class Publishing:
    """What is published, and not yet released or not yet answered."""

    def __init__(
        self,
        name: str,
        settings: "TopicSettings",
        *,
        next_seq: int = 1,
        dedup: DedupWindow | None = None,
        answers: Answers | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        window = DedupWindow(settings.dedup_window, settings.dedup_ids)
        self.dedup = window if dedup is None else dedup  # an empty one is false
        self.answers = answers or Answers()
        self.kept = Kept(settings, keeps=not name.startswith(INBOX), next_seq=next_seq)
        self.counts = self.kept.counts
        self.audience = Audience(self.kept)
        self.turn = self.kept.turn = self.audience.turn = Turn()
        self.pending: dict[str, int] = {}  # clients' ids of what is not yet written -> seq
        self.line: deque[Run] = deque()  # published, not yet released
        self.logged_to = 0  # the highest seq that was given to the log
        self.known = 0  # the outcome is known of all that was logged up to this
        self.closed = ""  # why nothing is accepted any more
        self.draining = False
        self._run: Run | None = None  # the last of the line, while it may be added to
        self._passing: Passing | None = None  # the same for what goes to the groups
        self._name_json = json_string(name)

    @property
    def heard(self) -> bool:
        """Whether anybody listens, or a group keeps it: else it is kept here."""
        return bool(self.audience.subs or self.audience.groups)

    # -- coming in --------------------------------------------------------------------------

    def publish(self, batch: "PublishBatch", stamp: "Stamp") -> None:
        """Accept a batch. It is owed an answer, now or when all logs have it."""
        batch.begin_anew()
        self.answers.now = stamp.now
        heard = bool(self.audience.subs or self.audience.groups)
        batch.receivers = None
        durability = batch.durability
        if durability is None:
            durability = self.settings.usual_durability
        refusal = self._refusal(durability)
        if refusal is not None:
            self.counts.rejected += len(batch)
            batch.fail_all(refusal)
            self.turn.owed.append(Answer(batch, self.answers, owned=False))
            return
        self.counts.published += len(batch)
        if not heard:
            batch.receivers = 0
        if heard and batch.bare and self.kept.history is None:
            self._pass_through(batch, stamp)
        else:
            self._accept(batch, durability, heard, stamp)

    def _refusal(self, durability: int) -> ClientError | None:
        if self.closed:
            return ClientError("unavailable", self.closed)
        if self.draining:
            return ClientError("draining", "the broker is stopping; publish to its successor")
        least = self.settings.durability_min
        if durability < DURABILITIES[least]:
            return ClientError(
                "bad_field",
                f"topic {self.name!r} takes no publish with less durability than its"
                f" durability_min; ask for {least!r} or more",
            )
        return None

    def _pass_through(self, batch: "PublishBatch", stamp: "Stamp") -> None:
        """The hot path: nothing is kept, nothing is special; a wire each, and on."""
        batch.ids, wires = stamp.name_all(self._name_json, batch.items)
        subscribed = bool(self.audience.subs)
        answer = Answer(batch, self.answers, owned=subscribed)
        if subscribed:
            self._run_for(heard=True, replayable=False, logged=False).add_unkept(wires)
        self._own_part(answer)
        if self.audience.groups:
            self._pass(answer, None, wires, ())
        self.turn.owed.append(answer)

    def _accept(self, batch: "PublishBatch", durability: int, heard: bool, stamp: "Stamp") -> None:
        kept = self.kept
        history = kept.history is not None
        answer = Answer(batch, self.answers, owned=bool(self.audience.subs))
        ids = batch.ids = []
        wires: list[bytes] = []  # of all items, for the groups
        passed: list[int] = []
        retried: list[tuple[int, tuple[str, ...]]] = []
        messages: list[Message] = []
        kept_here: list[int] = []
        seqs: dict[int, int] = {}
        cleared = False
        around = stamp.around_id(self._name_json)
        for i, p in enumerate(batch.items):
            ids.append(p.message_id or "")
            wires.append(b"")
            try:
                known, without = self._check(p, stamp)
                message_id, wire = self._wire(p, around, stamp)
            except ClientError as error:
                batch.fail(i, error)
                continue
            ids[i], wires[i] = message_id, wire
            if without is not None:
                retried.append((i, without))
            if p.ttl != 0 and without is None:
                passed.append(i)
            if known:
                self._note_duplicate(batch, i, message_id)
                continue
            keep, retain = self._what_to_keep(p, heard)
            seq = kept.next_seq if keep else 0
            if p.message_id is not None:
                self._remember(p, seq, durability, stamp)
            logged = keep and durability != MEMORY
            run = self._run_for(heard=heard, replayable=keep and history, logged=logged)
            if keep:
                message = Message(seq, message_id, wire, PRIORITY, durability)
                if p.ttl is not None:
                    message.expires = stamp.wall + p.ttl
                self._keep(run, message)
                messages.append(message)
                kept_here.append(i)
                if logged:
                    seqs[i] = seq
                if retain:
                    kept.retain(seq)
                    run.retains.append(message)
                wire = b'%b,"seq":%d' % (wire, seq)
            elif retain:
                kept.retain(0)
                run.retains.append(None)
                cleared = cleared or durability != MEMORY
            if heard:
                run.add(wire, seq)
        if batch.errors:
            self.counts.rejected += len(batch.errors)
        if messages:
            answer.owned = True
            answer.seqs, answer.kept = seqs, kept_here
            self.audience.left_history(kept.shelve(messages, heard, stamp))
        if cleared and durability == STORED:
            self.turn.change().sync = True
        self._own_part(answer, cleared=cleared)
        if self.audience.groups:
            if passed:
                self._pass(answer, passed if len(passed) < len(batch) else None, wires, ())
            for i, without in retried:
                if batch.items[i].ttl != 0:
                    self._pass(answer, [i], wires, without)
        if retried:
            answer.retried = [i for i, _ in retried]
        self.turn.owed.append(answer)

    def _check(self, p: "BarePublish", stamp: "Stamp") -> tuple[bool, tuple[str, ...] | None]:
        """Whether this topic has had it; and, if it was kept in part, which groups have."""
        if p.delay:
            raise ClientError(
                "unsupported",
                'a topic does not delay; leave "delay" out, or publish to a queue',
            )
        if p.message_id is None:
            return False, None
        self.turn.change()  # the window lets go of ids at a look too
        print_ = fingerprint(bytes(p.message))
        self.answers.forget_before(stamp.now - self.settings.dedup_window)
        known = self.dedup.seen(p.message_id, print_, stamp.now) != NEW
        part = self.answers.in_part.get(p.message_id)
        if part is None:
            return known, None
        if part.print != print_:
            raise ClientError(
                "id_conflict",
                f"message_id {p.message_id!r} was used for another body; use a new id",
            )
        return known or part.own, part.groups

    def _wire(
        self, p: "BarePublish", around: tuple[bytes, bytes], stamp: "Stamp"
    ) -> tuple[str, bytes]:
        """Its id, and its constant part."""
        message_id = p.message_id
        if message_id is None:
            message_id = stamp.next_id()
            id_json = message_id.encode()
        else:
            id_json = json_string(message_id)[1:-1]
        wire = around[0] + id_json + around[1] + p.message
        if p.headers or p.reply_to or p.correlation_id or p.encoding:
            wire += extras(p)
        most = self.settings.retained_bytes
        if p.retain and most and len(wire) > most:
            raise ClientError(
                "too_large",
                f'a retained message of {self.name!r} may have {most} bytes; leave "retain"'
                " out, or send less",
                limit=most,
            )
        return message_id, wire

    def _what_to_keep(self, p: "BarePublish", heard: bool) -> tuple[bool, bool]:
        """Whether it is kept, and whether it is, or clears, the retained value."""
        if not self.kept.keeps or p.ttl == 0:
            return False, False
        retain = bool(p.retain)
        clears = retain and bytes(p.message) == b"null"
        keep = not heard or self.kept.history is not None or (retain and not clears)
        return keep, retain

    def _note_duplicate(self, batch: "PublishBatch", i: int, message_id: str) -> None:
        self.counts.duplicates += 1
        if batch.duplicates is None:
            batch.duplicates = []
        batch.duplicates.append(i)
        if message_id in self.pending:
            # the first one is not yet promised: wait for it and share its answer
            if batch.dup_of is None:
                batch.dup_of = {}
            batch.dup_of[i] = self.pending[message_id]

    def _remember(self, p: "BarePublish", seq: int, durability: int, stamp: "Stamp") -> None:
        """A client's own id enters the window; under the next seq, if it is not kept."""
        if p.message_id is None:
            return
        print_ = fingerprint(bytes(p.message))
        volatile = seq > 0 and durability == MEMORY
        at_seq = seq or self.kept.next_seq
        self.dedup.add(p.message_id, print_, at_seq, stamp.now, volatile=volatile)
        if seq and not volatile:
            self.pending[p.message_id] = seq

    def _run_for(self, *, heard: bool, replayable: bool, logged: bool) -> Run:
        """The end of the line, if what comes now may go together with that: what needs not
        be written does not wait for what comes behind it."""
        run = self._run
        if (
            run is None
            or run.heard != heard
            or run.replayable != replayable
            or (logged and not run.need)
        ):
            run = self._run = Run(self.kept.next_seq, heard=heard, replayable=replayable)
            self.line.append(run)
        return run

    def _keep(self, run: Run, message: Message) -> None:
        self.kept.next_seq += 1
        run.last = message.seq
        if message.durability == MEMORY:
            self.kept.memory[message.seq] = message
            self.turn.change().kept.append(message)
        else:
            self.turn.change().logged.append(message)
            run.need = self.logged_to = message.seq

    def _own_part(self, answer: Answer, *, cleared: bool = False) -> None:
        """Whether the topic's own part of an answer waits for the log."""
        answer.clears = cleared
        if self.logged_to > self.known or answer.batch.dup_of or cleared:
            answer.left += 1
            self.turn.change().waiting.append(answer)

    def _pass(
        self,
        answer: Answer,
        passed: list[int] | None,
        wires: list[bytes],
        without: tuple[str, ...],
    ) -> None:
        """To the groups, except those that have it already."""
        groups = [g for name, g in self.audience.groups.items() if name not in without]
        if not groups:
            return
        batch = answer.batch
        passing = self._passing
        if passing is None or passing.durability != batch.durability or passing.without != without:
            passing = self._passing = Passing(batch.durability, without)
            self.turn.change().passings.append((passing, groups))
        passing.add(answer, passed, wires)
        answer.left += len(groups)

    # -- the log's outcome ------------------------------------------------------------------

    def committed(self, messages: "Sequence[Message]") -> None:
        """These are as durable as they were to be."""
        self.turn.change()  # what waited for them in the line is released
        if messages:
            self.known = max(self.known, messages[-1].seq)
        for message in messages if self.pending else ():
            if self.pending.get(message.id) == message.seq:
                del self.pending[message.id]

    def failed(
        self,
        messages: "Sequence[Message]",
        waiting: "Iterable[object]",
        error: ClientError,
    ) -> None:
        """These could not be written: they were never published, and their ids are free.

        `waiting` are the answers still owed: theirs, and those of duplicates that counted
        on them.
        """
        self.committed(messages)
        lost = {m.seq for m in messages}
        for message in messages:
            self.dedup.forget(message.id, message.seq)
        self.kept.lose(sorted(lost))
        for run in self.line:
            run.lose(lost)
        for answer in waiting:
            if isinstance(answer, Answer):
                answer.lose(lost, error)

    def remembers(self, message: Message, stamp: "Stamp") -> bool:
        """Whether this message's id is one that a publisher may still retry."""
        try:
            print_ = fingerprint(body_of(message.wire))
            return self.dedup.seen(message.id, print_, stamp.now) == message.seq
        except ClientError:
            return False  # the id has been used again, for another body

    def release(self) -> None:
        """Publish what is written, in order, to whoever listens now."""
        line = self.line
        last = 0
        while line and line[0].need <= self.known:
            run = line.popleft()
            for message in run.retains:
                self.kept.retained_is(message)
            last = run.last or last
            if run.heard and run.wires:
                self.audience.publish(run)
        if not line:
            self._run = None
        if last:
            self.audience.released_to(last)

    def cut(self) -> None:
        """Who hears changes: what comes now goes another way than what came before."""
        self.release()
        self._run = None
        self._passing = None
        changes = self.turn.change()
        if self.kept.history is not None:
            changes.state = True  # whether what comes is heard
