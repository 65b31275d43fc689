"""The log of one destination: what is on disk, what is to be written, and where.

Pure bookkeeping, owned by one actor; it never touches the disk. The owner publishes and
settles; `begin` lays out what has gathered as one `Commit` with definite offsets, which
`commit.execute` carries out in a disk thread; `finish` takes the outcome. Meanwhile the next
commit gathers.

    publish, settle, tried, dead, drop …  ──►  begin ──► Commit ──► execute (disk thread)
                                                 ▲                     │
                                                 └────── finish ◄──────┘

A commit writes to one segment and is rolled back whole when the disk is full: its publishes
are forgotten, everything else in it is kept for the next one. Records only ever point
backwards, and segments go oldest first, so what is left is always a suffix that makes sense.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from msg.core.message import PRIORITY, STORED, Attempt, Message
from msg.store import records
from msg.store.index import TRIED, Index, Segment
from msg.store.layout import Commit, Copy, Tries, runs_of, tried_of, tries_after
from msg.store.names import directory_of, is_cut
from msg.store.readahead import Extent, ReadPlan, plan_after, plan_seqs
from msg.store.records import Remembered
from msg.store.scan import Damage, Digest

__all__ = ["QUEUES", "SEGMENT_BYTES", "SUFFIX", "TOPICS", "Commit", "Log", "ReadPlan"]

QUEUES, TOPICS = "queues", "topics"
SEGMENT_BYTES = 16 << 20
CRAMPED_BYTES = 256 << 10  # on a full disk a segment may be finished from this size on
COPY_BYTES = 256 << 10  # of old live messages that one commit copies ahead, or its own size
PARSED_TOGETHER = 512  # records; one that is not like the others makes so many take longer
DROPS_MAX = 8  # segments that one commit deletes; each costs a directory sync
SUFFIX = ".jsonl"
DAMAGED = "a record's crc does not fit"


class Log:
    """One destination's log. `next_seq` is the first free place in line; its owner moves it.

    `durable_seq`: every message published up to it has been kept as its durability says.
    `window_from`: the lowest seq that the dedup window still holds (`next_seq`: none), kept
    up to date by the owner; None where there is no window. No segment goes before what the
    window needs of it has been written anew (`ids_due`, `remember_ids`).
    """

    def __init__(
        self,
        kind: str,
        name: str,
        incarnation: str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self.kind = kind
        self.name = name
        self.incarnation = incarnation
        self.directory = f"{kind}/{directory_of(name)}"
        self.seed = records.seed_of(name, incarnation)
        self.segment_bytes = segment_bytes
        self.next_seq = 1
        self.durable_seq = 0
        self.window_from: int | None = None
        self.state: dict[str, Any] = {}
        self.index = Index()
        self.segments: list[Segment] = []
        self.tries: dict[int, Tries] = {}
        self.disk_bytes = 0  # of all segments
        self.bytes_written = 0  # by this object, for the write amplification
        self.bytes_published = 0
        self._pubs: list[bytes] = []  # two pieces of each line
        self._pub_seqs: list[int] = []
        self._pub_lengths = array("I")
        self._pub_bytes = 0
        self._must_sync = False  # a "stored" publish has gathered
        self._settled: list[int] = []  # not yet applied to the index
        self._others: list[bytes] = []
        self._noted = Digest()  # what has gathered says, beside its pubs' places
        self.digest = Digest()  # of the last segment
        self._other_bytes = 0
        self._state_dirty = False
        self._bad: list[Damage] = []  # found while reading ahead
        self._unsynced = False  # written with durability "os" only
        self._in_flight: Commit | None = None
        self._cramped = False  # the disk was full, and no segment has been begun since
        self._has_directory = False
        # the ids in segments up to this ordinal are written anew: gathered, and durable
        self._ids_gathered = 0
        self._ids_ready = 0
        self._ids_bytes = 0  # of the `ids` records that have gathered
        self._victim: Segment | None = None  # whose live messages are being copied ahead
        self._to_copy: list[int] = []  # seqs, the next one last

    def __repr__(self) -> str:
        return f"<Log {self.kind}/{self.name} live={self.live_count} next={self.next_seq}>"

    # -- what the owner tells ------------------------------------------------------------

    def publish(self, batch: Sequence[Message]) -> None:
        """New messages of durability "os" or "stored", with rising seqs."""
        if not batch:
            return
        unusual = records.unusual(batch)
        pieces = records.pub_pieces(self.seed, batch, usual=not unusual)
        newest = batch[-1]
        if newest.key:  # what was moved here is as old as it is: it says nothing of the others
            newest = next((m for m in reversed(batch) if not m.key), newest)
        self._noted.newest_at = max(self._noted.newest_at, records.published_at(newest.wire))
        seqs = [m.seq for m in batch]
        lengths = array("I", [len(text) + records.END_BYTES for text in pieces[::2]])
        assert seqs[0] > (self._pub_seqs[-1] if self._pub_seqs else 0), "seqs rise"
        self._pubs += pieces
        self._pub_seqs += seqs
        self._pub_lengths += lengths
        size = sum(lengths)
        self._pub_bytes += size
        self.bytes_published += size
        self.index.add(seqs, lengths, size)
        if not self._must_sync:
            usual = len(unusual) < len(batch)
            self._must_sync = usual or STORED in [m.durability for m in unusual]
        for m in [m for m in unusual if m.due or m.key or m.attempts or m.priority != PRIORITY]:
            self._noted.note_options(m)
            if m.attempts:
                self._note_try(m, None)
        if seqs[-1] >= self.next_seq:
            self.next_seq = seqs[-1] + 1

    def settle(self, seqs: Iterable[int]) -> None:
        """Acked by a consumer. What is not live is passed over."""
        self._settled += seqs

    def tried(self, message: Message, attempt: Attempt | None) -> None:
        """An attempt failed, or, without one, only the message's state changed.
        `message.attempts`, `returned`, `due` and `case` hold already."""
        self._note_try(message, attempt)

    def dead(self, seq: int, to: str, key: str, why: str) -> None:
        """Moved to another destination, which has it durably: settles it here."""
        self._gather(records.dead_line(self.seed, seq, to, key, why))
        self._noted.note_settled(range(seq, seq + 1))
        self._gone((seq,))

    def drop(self, seqs: Iterable[int], why: str) -> None:
        """Expired, overflowed, purged, dropped, lost: settles them, and says why."""
        rising = seqs if isinstance(seqs, range) else sorted(set(seqs))
        self._settle("drop", rising, why)

    def put_state(self, state: dict[str, Any]) -> None:
        """Settings, paused, a group's `from` …: JSON types; replaces what was there."""
        self.state = dict(state)
        self._state_dirty = True

    def remember_ids(self, due: range, entries: Sequence[Remembered]) -> None:
        """The answer to `ids_due`: all that the dedup window holds of that range of seqs."""
        for segment in self.segments[:-1][:DROPS_MAX]:  # the last one is where they go to
            gathered = segment.ordinal <= self._ids_gathered or self._is_past_window(segment)
            if segment.live or not (gathered or segment.ids_high < due.stop):
                break
            self._ids_gathered = max(self._ids_gathered, segment.ordinal)
        if not entries:
            self._ids_ready = self._ids_gathered
            return
        for line in records.ids_lines(self.seed, entries):
            self._gather(line)
            self._ids_bytes += len(line)
        self._noted.ids += entries

    # -- what the owner asks --------------------------------------------------------------

    @property
    def live_count(self) -> int:
        """Messages published and not settled, durable or not."""
        self._apply_settled()
        return self.index.live_count

    @property
    def live_bytes(self) -> int:
        """What their records take on disk."""
        self._apply_settled()
        return self.index.live_bytes

    @property
    def gathered_bytes(self) -> int:
        """About what the next commits will write."""
        return self._pub_bytes + self._other_bytes + 8 * len(self._settled)

    @property
    def has_gathered(self) -> bool:
        """Whether `begin` would have something to do."""
        return bool(
            self._pubs
            or self._others
            or self._settled
            or self._state_dirty
            or (len(self.segments) > 1 and (self._droppable() or self._is_wasteful()))
        )

    @property
    def ids_due(self) -> range | None:
        """The seqs whose dedup entries must be written anew (`remember_ids`) before the
        oldest segment can go; None when nothing waits for that."""
        if len(self.segments) < 2:  # the usual case, asked for in each turn
            return None
        low = high = 0
        for segment in self.segments[:DROPS_MAX]:
            if segment.live or segment is self.segments[-1]:
                break
            if segment.ordinal > self._ids_gathered and not self._is_past_window(segment):
                low = min(low or segment.ids_low, segment.ids_low)
                high = max(high, segment.ids_high)
        return range(low, high + 1) if high else None

    def is_live(self, seq: int) -> bool:
        self._apply_settled()
        return self.index.flags(seq) != 0

    def live_after(self, after_seq: int, most: int) -> list[int]:
        """Up to `most` seqs of live messages on disk, rising."""
        self._apply_settled()
        out: list[int] = []
        for run in self.index.runs(after_seq):
            if self.index.where(run[-1]) is None:  # not on disk yet, nor is what follows
                run = range(run.start, 1 + max(self.durable_seq, run.start - 1))
            out.extend(run[: most - len(out)])
            if len(out) >= most:
                break
        return out

    def live_runs(self, after_seq: int = 0) -> list[range]:
        """All live seqs above one, as ranges; also those that are still to be written."""
        self._apply_settled()
        return list(self.index.runs(after_seq))

    # -- reading ahead --------------------------------------------------------------------

    def plan_read(self, after_seq: int, max_messages: int, max_bytes: int) -> ReadPlan | None:
        """The next live messages on disk after a seq, whatever their priority or due time.
        At least one, however large."""
        self._apply_settled()
        return plan_after(self.index, after_seq, max_messages, max_bytes)

    def plan_read_seqs(self, seqs: Iterable[int]) -> ReadPlan | None:
        """Single messages: due now, of another priority, asked for by a person."""
        self._apply_settled()
        return plan_seqs(self.index, seqs)

    def parse_read(self, plan: ReadPlan, blobs: Sequence[bytes]) -> list[Message]:
        """The messages that were read. What is damaged is named in `plan.damaged`, and
        settled as lost; what was settled meanwhile is left out. `plan.after` moves on."""
        self._apply_settled()
        out: list[Message] = []
        # as a rule what is acked meanwhile stands before all that is read ahead
        all_live = (
            plan.settled == self.index.settled
            or self.index.highest_settled < plan.extents[0].seqs[0]
        )
        pubs_of, seed = records.pubs_of, self.seed
        for part, blob in _parts(plan, blobs):
            starts = [offset - part.offset for offset in part.offsets]
            found = pubs_of(seed, blob, part.seqs, starts, part.lengths)
            whole = True
            if found is None:
                found, whole = self._parse_each(plan, part, blob)
            else:
                plan.after = max(plan.after, part.seqs[-1])
            out += found if all_live else [m for m in found if self.index.flags(m.seq)]
            if not whole:
                break
        if self.tries:
            for message in [m for m in out if m.seq in self.tries]:
                self._add_tries(message)
        if plan.damaged:
            self._bad += plan.damaged
            self.drop([d.seq for d in plan.damaged], "damaged on disk")
        return out

    def _parse_each(self, plan: ReadPlan, part: Extent, blob: bytes) -> tuple[list[Message], bool]:
        """One by one: some are damaged, or not alike. And whether all have been looked at."""
        out: list[Message] = []
        for seq, offset, length in zip(part.seqs, part.offsets, part.lengths, strict=True):
            start = offset - part.offset
            message = records.pub_of(self.seed, blob[start : start + length - 1])
            if message is not None and message.seq == seq:
                out.append(message)
            elif (where := self.index.where(seq)) is not None:
                if (where[0].path, where[1]) != (part.path, offset):
                    # it was copied ahead meanwhile: the next plan finds it there
                    return out, False
                plan.damaged.append(Damage(part.path, offset, length, seq, DAMAGED))
            plan.after = max(plan.after, seq)
        return out, True

    def _add_tries(self, message: Message) -> None:
        tries = self.tries[message.seq]
        message.attempts = tries.attempts
        message.returned = tries.returned
        message.case = tries.case
        if tries.due:
            message.due = tries.due

    # -- committing -----------------------------------------------------------------------

    def begin(self, sync: bool = True) -> Commit | None:
        """Lay out what has gathered; None when there is nothing to do.

        Without `sync` it is only written, unless a "stored" publish is in it. With `sync` and
        nothing gathered, what was only written before is synced.
        """
        assert self._in_flight is None, "one commit of a log at a time"
        self._apply_settled()
        pubs, seqs, lengths = self._pubs, self._pub_seqs, self._pub_lengths
        self._pubs, self._pub_seqs, self._pub_lengths = [], [], array("I")
        others, self._others, self._other_bytes = self._others, [], 0
        dropped = self._droppable()
        copies = self._choose_copies(len(dropped), self._pub_bytes)
        # what is written anew lets a segment go: that may not be durable before this is
        must_sync = self._must_sync or bool(copies or self._noted.ids)
        self._pub_bytes, self._must_sync = 0, False
        writes = bool(pubs or others or copies or self._state_dirty)
        syncs = self._unsynced and sync
        if not (writes or dropped or syncs):
            return None
        new = writes and (not self.segments or self._is_full(self.segments[-1], bool(pubs)))
        if new:
            segment = self._new_segment(seqs[0] if pubs else self.next_seq)
            head, tail = self.head(instead_of=0), others
        else:
            segment = self.segments[-1]
            head, tail = b"", others
            if self._state_dirty:
                line = records.state_line(self.seed, self.next_seq, self.state)
                tail = [*others, line]
        commit = Commit(
            self,
            segment,
            offset=segment.size,
            offset_of_pubs=segment.size + len(head),
            data=_joined(head, pubs, tail, len(seqs)),
            sync=new or syncs or (writes and (sync or must_sync)),
            new_segment=new,
            new_directory=new and not self._has_directory,
            before=self.segments[-1].path if new and self.segments else "",
            seal=new and self._unsynced,
            unlinks=[s.path for s in dropped],
            seqs=seqs,
            lengths=lengths,
            others=others,
            with_state=self._state_dirty,
            noted=self._noted,
            sealed=self.digest if new and self.segments else None,
            ids_ready=self._ids_gathered,
            ids_bytes=self._ids_bytes,
            dropped=dropped,
            bad=self._bad,
        )
        self._bad, self._ids_bytes = [], 0
        if head or self._state_dirty:
            commit.noted.state = self.state
        self._state_dirty = False
        self._noted = Digest()
        if copies:
            self._lay_out(commit, copies)
        self._in_flight = commit
        return commit

    def _is_full(self, segment: Segment, publishes: bool) -> bool:
        """Whether the next record begins a new segment. After the disk was full that is so
        sooner, once most of what is in it has been settled: only finished segments go.

        Ids that were written anew do not count: a window of more bytes than a segment has would
        finish each that it is written to, and be written again for that, without end."""
        size = segment.size - segment.ids_bytes
        if size >= self.segment_bytes:
            return True
        return (
            self._cramped
            and not publishes
            and size > CRAMPED_BYTES
            and 2 * segment.live_bytes < size
        )

    def finish(self, commit: Commit) -> None:
        """The outcome of a commit that was executed."""
        assert commit is self._in_flight, "it was begun, and is finished once"
        self._in_flight = None
        for segment in commit.dropped:  # also when the disk was full: they made room
            self.segments.remove(segment)
            self.disk_bytes -= segment.size
            del self.index.segments[segment.ordinal]
        if commit.error is not None:
            self._roll_back(commit)
            return
        segment = commit.segment
        if commit.new_segment:
            self._cramped = False
            self.segments.append(segment)
            self.index.segments[segment.ordinal] = segment
            self._has_directory = True
        segment.size = commit.offset + commit.size
        segment.ids_bytes += commit.ids_bytes
        self.bytes_written += commit.size
        self.disk_bytes += commit.size
        offsets = array("I")
        if commit.seqs:
            ends = list(accumulate(commit.lengths, initial=commit.offset_of_pubs))
            offsets.fromlist(ends[:-1])
            self.index.place(commit.seqs, offsets, commit.lengths, segment.ordinal)
            segment.has_ids(commit.seqs[0], commit.seqs[-1])
            self.durable_seq = max(self.durable_seq, commit.seqs[-1])
        for copy in commit.copies:
            self.index.move(copy.seq, segment.ordinal, copy.target, copy.length)
            segment.has_ids(copy.seq, copy.seq)
        for entry in commit.noted.ids:
            segment.has_ids(entry.seq, entry.seq)
        self._digested(commit, offsets)
        self._ids_ready = max(self._ids_ready, commit.ids_ready)
        self._unsynced = (self._unsynced or commit.size > 0) and not commit.sync
        if commit.damaged:
            self.drop([copy.seq for copy in commit.damaged], "damaged on disk")

    def path_of(self, number: int) -> str:
        """The path of the segment with this number."""
        return f"{self.directory}/{number:020d}{SUFFIX}"

    def adopt(self, tail: Digest) -> None:
        """Recovery has filled the index: go on behind what the last segment says."""
        self.digest = tail
        self.disk_bytes = sum([s.size for s in self.segments])
        self.durable_seq = self.next_seq - 1
        self._has_directory = True

    def _digested(self, commit: Commit, offsets: "array[int]") -> None:
        """What was written becomes part of what the last segment says."""
        if commit.new_segment:
            self.digest = Digest()
        digest, noted = self.digest, commit.noted
        digest.seqs.extend(commit.seqs)
        digest.offsets.extend(offsets)
        digest.lengths.extend(commit.lengths)
        for copy in commit.copies:
            digest.seqs.append(copy.seq)
            digest.offsets.append(copy.target)
            digest.lengths.append(copy.length)
        digest.take_settled(noted)
        digest.take_options(noted)
        if noted.state is not None:
            digest.state = noted.state
        digest.next_seq = max(digest.next_seq, self.next_seq)
        digest.size = commit.segment.size

    def head(self, *, instead_of: int) -> bytes:
        """The first record of a segment. Where the directory's name is cut, it stands twice:
        nothing else could tell the true name if a bit of it flipped."""
        line = records.head_line(
            self.kind, self.name, self.incarnation, self.next_seq, instead_of, self.state
        )
        return line * 2 if is_cut(self.directory.rpartition("/")[2]) else line

    # -- inside ---------------------------------------------------------------------------

    def _gather(self, line: bytes) -> None:
        self._others.append(line)
        self._other_bytes += len(line)

    def _gone(self, rising: Sequence[int]) -> None:
        for seq in self.index.settle(rising):
            self.tries.pop(seq, None)

    def _apply_settled(self) -> None:
        """Acks are taken in by the thousand: sorted, they are runs, and cheap."""
        if not self._settled:
            return
        seqs: Sequence[int] = sorted(self._settled)
        self._settled = []
        run = range(seqs[0], seqs[-1] + 1)
        if len(run) == len(seqs) and seqs == list(run):
            seqs = run
        elif any(map(int.__eq__, seqs, seqs[1:])):
            seqs = sorted(set(seqs))
        self._settle("ack", seqs, "")

    def _settle(self, op: str, rising: Sequence[int], why: str) -> None:
        for run in runs_of(rising, records.SEQS_PER_LINE_MAX):
            self._noted.note_settled(run)
        for line in records.settle_lines(self.seed, op, rising, why):
            self._gather(line)
        self._gone(rising)

    def _note_try(self, message: Message, attempt: Attempt | None) -> None:
        if not self.index.mark(message.seq, TRIED):
            return
        self._gather(records.try_line(self.seed, message, attempt))
        tried = tried_of(message, attempt)
        self._noted.tried.append(tried)
        self.tries[message.seq] = tries_after(self.tries.get(message.seq), tried)

    def _new_segment(self, first_seq: int) -> Segment:
        number, ordinal = first_seq, 1
        if self.segments:
            # without a publish in between two would have one name: then it only sorts
            number = max(first_seq, self.segments[-1].number + 1)
            ordinal = self.segments[-1].ordinal + 1
        return Segment(number, self.path_of(number), ordinal)

    def _is_past_window(self, segment: Segment) -> bool:
        return self.window_from is None or segment.ids_high < self.window_from

    def _droppable(self) -> list[Segment]:
        """Oldest segments with nothing live, and no id that the dedup window needs."""
        out: list[Segment] = []
        if len(self.segments) < 2:
            return out
        for segment in self.segments[: min(DROPS_MAX, len(self.segments) - 1)]:
            if segment.live or not (
                segment.ordinal <= self._ids_ready or self._is_past_window(segment)
            ):
                break
            out.append(segment)
        return out

    def _is_wasteful(self) -> bool:
        """Whether the oldest segment's few live messages pin more than they are worth."""
        return (
            len(self.segments) > 1
            and self.segments[0].live > 0
            and self.disk_bytes > 2 * self.index.live_bytes + self.segment_bytes
        )

    def _choose_copies(self, dropped: int, size: int) -> list[tuple[int, int, int]]:
        """(seq, offset, length) of live messages to write again at the head, so that the
        oldest segment can go. What is freed is worth what is copied: the disk holds more dead
        bytes than live ones whenever this begins."""
        if dropped or not self._is_wasteful():
            return []
        victim = self.segments[0]
        if self._victim is not victim:
            self._victim = victim
            self._to_copy = self.index.in_segment(victim)[::-1]
        out: list[tuple[int, int, int]] = []
        room = max(COPY_BYTES, size)
        while self._to_copy and room > 0:
            where = self.index.where(seq := self._to_copy.pop())
            if where is not None and where[0] is victim:
                out.append((seq, where[1], where[2]))
                room -= where[2]
        if not self._to_copy:
            self._victim = None  # what a full disk undid is found again
        return out

    def _lay_out(self, commit: Commit, copies: list[tuple[int, int, int]]) -> None:
        target = commit.offset + len(commit.data)
        source = self.segments[0].path
        for seq, offset, length in copies:
            commit.copies.append(Copy(seq, source, offset, length, target))
            target += length
            tries = self.tries.get(seq)
            if tries is not None:
                message = Message(
                    seq,
                    "",
                    b"",
                    due=tries.due,
                    attempts=tries.attempts,
                    returned=tries.returned,
                    case=tries.case,
                )
                commit.copied += records.try_line(self.seed, message, None)
                commit.noted.tried.append(tried_of(message, None))

    def _roll_back(self, commit: Commit) -> None:
        """The disk was full: nothing of it is there. Its publishes never were; the rest of
        it waits for the next commit."""
        self._cramped = True
        live = [seq for seq in commit.seqs if self.index.flags(seq)]
        self._gone(live)
        self._others = commit.others + self._others
        self._other_bytes = sum(map(len, self._others))
        self._ids_bytes += commit.ids_bytes
        self._state_dirty = self._state_dirty or commit.with_state
        noted, self._noted = self._noted, Digest()
        self._noted.take_settled(commit.noted)
        self._noted.take_settled(noted)
        self._noted.take_options(noted)
        self._victim = None


def _parts(plan: ReadPlan, blobs: Sequence[bytes]) -> Iterator[tuple[Extent, bytes]]:
    """The extents with what was read of each, so many records at a time."""
    for e, blob in zip(plan.extents, blobs, strict=True):
        for at in range(0, len(e.seqs), PARSED_TOGETHER):
            part = slice(at, at + PARSED_TOGETHER)
            yield (
                Extent(e.path, e.offset, e.length, e.seqs[part], e.offsets[part], e.lengths[part]),
                blob,
            )


def _joined(head: bytes, pubs: list[bytes], others: list[bytes], count: int) -> bytes:
    """One write, `count` pubs in it. The one place that writes asserts what all readers rely
    on: one record, one line, whatever the bodies hold."""
    data = b"".join([head, *pubs, *others])
    lines = head.count(b"\n") + count + len(others)
    # for this `count` looks at each byte, and `replace` only at what it finds: a quarter
    assert len(data) - len(data.replace(b"\n", b"")) == lines, "a raw LF inside a record"
    assert b"\r" not in data, "a raw CR inside a record"
    return data
