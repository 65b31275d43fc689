"""From what the segments say to what the log's owner must know."""

from array import array
from collections.abc import Iterable, Iterator
from itertools import pairwise

from msg.core.message import PRIORITY
from msg.store import records
from msg.store.disk import Disk
from msg.store.index import TRIED, Index, Segment
from msg.store.layout import tries_after
from msg.store.log import Log
from msg.store.records import Remembered
from msg.store.scan import Digest


class Specials:
    """Rows (seq, priority, due), rising by seq: 17 bytes each."""

    def __init__(self, rows: Iterable[tuple[int, int, float]] = ()) -> None:
        self.seqs = array("Q")
        self.priorities = bytearray()
        self.dues = array("d")
        for seq, priority, due in rows:
            self.seqs.append(seq)
            self.priorities.append(priority)
            self.dues.append(due)

    def __len__(self) -> int:
        return len(self.seqs)

    def __iter__(self) -> Iterator[tuple[int, int, float]]:
        return zip(self.seqs, self.priorities, self.dues, strict=True)


class Ids:
    """The dedup window, oldest first, as columns: a million ids are not a million objects."""

    def __init__(self, entries: Iterable[Remembered] = ()) -> None:
        self._ids: list[str] = []
        self._numbers = array("Q")  # length and crc, as the window's fingerprint
        self._ats = array("d")
        self._seqs = array("Q")
        for entry in entries:
            self._ids.append(entry.id)
            self._numbers.append(entry.length << 32 | entry.crc)
            self._ats.append(entry.at)
            self._seqs.append(entry.seq)

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[Remembered]:
        for message_id, number, at, seq in zip(
            self._ids, self._numbers, self._ats, self._seqs, strict=True
        ):
            yield Remembered(message_id, number >> 32, number & 0xFFFFFFFF, at, seq)


class Replay:
    """A log's state, from its segments' digests, oldest first. Keeps of each only what is
    needed to the end, so that memory is bounded by the index and not by the backlog."""

    def __init__(self, log: Log, since: bytes, ids_max: int) -> None:
        self.log = log
        self.since = since  # the dedup window's beginning, as it stands in wires
        self.ids_max = ids_max
        log.index = Index(keep_gone=True)
        self._special = Digest()  # all segments' special and moved columns
        self._ids: list[Remembered] = []
        self._recent: list[tuple[Segment, Digest]] = []  # which the window may reach
        self._recent_pubs = 0

    def add(self, number: int, digest: Digest) -> None:
        log, index = self.log, self.log.index
        segment = Segment(number, log.path_of(number), len(log.segments) + 1, digest.size)
        log.segments.append(segment)
        index.segments[segment.ordinal] = segment
        index.put(digest.seqs, digest.offsets, digest.lengths, segment.ordinal)
        if digest.seqs:
            segment.has_ids(min(digest.seqs), max(digest.seqs))
        for entry in digest.ids:
            segment.has_ids(entry.seq, entry.seq)
        for run in digest.settled_runs():
            index.settle(run)
        for tried in digest.tried:
            if index.mark(tried.seq, TRIED):
                log.tries[tried.seq] = tries_after(log.tries.get(tried.seq), tried)
        if digest.state is not None:
            log.state = digest.state
        log.next_seq = max(log.next_seq, digest.next_seq)
        self._special.take_options(digest)
        self._ids += digest.ids
        if digest.newest_at >= self.since:
            self._recent.append((segment, digest))
            self._recent_pubs += len(digest.seqs)
            while self._recent_pubs - len(self._recent[0][1].seqs) >= self.ids_max:
                self._recent_pubs -= len(self._recent.pop(0)[1].seqs)

    def specials(self) -> Specials:
        log, special = self.log, self._special
        log.tries = {seq: tries for seq, tries in log.tries.items() if log.is_live(seq)}
        waits = {seq: tries.due for seq, tries in log.tries.items() if tries.due}
        rows = [row for row in special.specials() if log.is_live(row[0])]
        rows += [(seq, PRIORITY, 0.0) for seq in waits.keys() - {row[0] for row in rows}]
        rows.sort()
        # a message that was copied ahead stands here twice
        once = [row for row, after in pairwise((*rows, (0, 0, 0.0))) if row[0] != after[0]]
        return Specials((seq, priority, waits.get(seq, due)) for seq, priority, due in once)

    def move_keys(self) -> dict[str, int]:
        special, is_live = self._special, self.log.is_live
        rows = zip(special.moved_keys, special.moved_seqs, strict=True)
        return {key: seq for key, seq in rows if is_live(seq)}

    def window(self, disk: Disk) -> Ids:
        """The ids that clients chose, accepted since the window began, at most `ids_max`."""
        seconds = _Seconds()
        since = seconds[self.since]
        found = {entry.seq: entry for entry in self._ids if entry.at >= since}
        for segment, digest in reversed(self._recent):
            data = disk.read(segment.path)
            if not records.may_hold_client_ids(data, seconds):
                continue
            for start, length in zip(digest.offsets, digest.lengths, strict=True):
                line = data[start : start + length - 1]
                if not records.line_is_sound(self.log.seed, line):
                    continue  # what an index file says of it is checked, itself it is not
                entry = records.remembered(line, seconds, self.log.name)
                if entry is not None and entry.at >= since:
                    found.setdefault(entry.seq, entry)
            if len(found) >= self.ids_max:
                break
        entries = [found[seq] for seq in sorted(found)][-self.ids_max :]
        self.log.window_from = entries[0].seq if entries else self.log.next_seq
        return Ids(entries)


class _Seconds(dict[bytes, float]):
    """Seconds since the epoch by RFC 3339 text: a thousand messages share a millisecond."""

    def __missing__(self, at: bytes) -> float:
        self[at] = seconds = records.seconds(at)
        return seconds
