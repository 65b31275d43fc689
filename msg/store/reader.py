"""The segments of one log, read from the disk on the way to its digests, and mended.

Recovery's hands: torn tails are cut, damage goes to quarantine, the last segment is written
anew when a sync has failed before the stop. Each step is safe to be cut off, and is then
done again.

Here we depart from STORE.md, rule 3, which has the last segment written anew after any unclean
stop. The page cache lies only after a failed sync: then the file TRUSTED is gone, and we do as
the rule says. Where it is there (a kill -9), the tail is cut and synced, and served as it is:
with 1,000 queues the start took 9.5 s instead of 23.8 s until the first delivery. A power cut
takes the page cache with it, so there is nothing left that could lie.
"""

from array import array
from bisect import insort
from collections import Counter

import attrs

from msg.store import indexfile, records
from msg.store.commit import disk_must_work, no_room, throw_ballast, write_index
from msg.store.disk import Disk, File
from msg.store.log import SUFFIX, Log
from msg.store.quarantine import QUARANTINE, quarantine
from msg.store.scan import Damage, Digest, head_in, scan

QUARANTINED_MAX = 100  # files for one segment; the rest is only counted
VOTE_BYTES = 1 << 18  # of a segment whose head is damaged


class Reader:
    """The segments of one log on disk, on the way to its digests."""

    def __init__(
        self,
        disk: Disk,
        folder: str,
        numbers: list[int],
        damage: list[Damage],
        notes: list[str],
        later: "Rewrites | None" = None,
    ) -> None:
        self.disk = disk
        self.later = later
        self.folder = folder
        self.numbers = numbers
        self.damage = damage
        self.notes = notes
        self.name: str | None = None
        self.incarnation = ""

    def path(self, number: int) -> str:
        return f"{self.folder}/{number:020d}{SUFFIX}"

    def remove(self, number: int) -> None:
        index = indexfile.path_of(self.path(number))
        if self.disk.exists(index):
            self.disk.unlink(index)
        self.disk.unlink(self.path(number))
        self.disk.sync_dir(self.folder)
        self.numbers.remove(number)

    def drop_unfinished(self) -> None:
        """A rewrite that was cut off is made again: nothing was served from it."""
        for number in self.unfinished():
            self.remove(number)

    def unfinished(self) -> list[int]:
        """Segments that stand in for one that is still there, the newest first."""
        out = []
        for number in reversed(self.numbers):
            head = self.head(number)
            if head is not None and head.instead_of in self.numbers:
                out.append(number)
        return out

    def head(self, number: int) -> records.Other | None:
        # a head holds the state, and that a retained message: it may be long
        data = self.disk.read(self.path(number), 0, 1 << 16)
        if b"\n" not in data:
            data = self.disk.read(self.path(number))
        return head_in(data)

    def find_identity(self, name: str | None) -> None:
        """Whose log it is. `name` is what the directory says, None where that was cut."""
        for number in reversed(self.numbers):
            head = self.head(number)
            if head is not None:
                self.name, self.incarnation = head.name, head.incarnation
                return
        if name is None:
            return
        # every head is damaged: the lines themselves say what their crc was seeded with
        votes: Counter[int] = Counter()
        for number in self.numbers:
            lines = self.disk.read(self.path(number), 0, VOTE_BYTES).split(b"\n")[1:-1]
            votes.update(seed for line in lines if (seed := records.seed_behind(line)) is not None)
        for seed, count in votes.most_common(1):
            if count > 1:
                self.name, self.incarnation = name, records.incarnation_of(name, seed)
                self.notes.append(f"{self.folder}: no head is readable; its records agree on one")

    def give_up(self) -> None:
        """No segment says whose it is. One that was being made when the power went is
        empty of promises; anything else is kept in quarantine."""
        for number in list(self.numbers):
            path = self.path(number)
            size = self.disk.size(path)
            if size:
                self.notes.append(f"{path}: nothing in it is readable; it is in {QUARANTINE}/")
                self.quarantine(Damage(path, 0, size, 0, "no readable head"))
            self.remove(number)
        if not self.disk.list(self.folder):
            self.disk.rmdir(self.folder)
            self.disk.sync_dir(self.folder.rpartition("/")[0])

    def quarantine(self, bad: Damage) -> None:
        if not quarantine(self.disk, bad):
            self.notes.append(f"no room to quarantine {bad.file}:{bad.offset}")

    def read_tail(self, seed: int, *, cut: bool) -> tuple[Digest, bytes]:
        """The last segment's digest, and its bytes."""
        while True:
            number = self.numbers[-1]
            data = self.disk.read(self.path(number))
            tail = scan(self.path(number), data, seed, last=True)
            self._end(number, data, tail, cut=cut)
            if tail.size:
                self._report(tail)
                return tail, data
            # a last segment without one sound record was never promised to anybody; there is
            # one before it, for some head told us whose log this is
            self.remove(number)

    def sealed(self, number: int, log: Log, *, repair: bool) -> tuple[int, Digest]:
        """What a finished segment says: from its index file, or by reading it. To `repair`
        is to write one that is damaged anew, without what is bad."""
        path = self.path(number)
        index = indexfile.path_of(path)
        if self.disk.exists(index) and not repair:
            digest = indexfile.load(self.disk.read(index), log.seed, self.disk.size(path))
            if digest is not None:
                return number, digest
        lines: list[bytes] = []
        data = self.disk.read(path)
        digest = scan(path, data, log.seed, last=False, sound_lines=lines)
        self._report(digest)
        if digest.damage and repair and number + 1 not in self.numbers:
            log.state = log.state if digest.state is None else digest.state
            number += 1
            digest = self.rewrite(log, number - 1, number, digest, lines)
        if not digest.damage:  # damage is to be reported at each start
            write_index(self.disk, self.path(number), digest, log.seed)
        return number, digest

    def _report(self, digest: Digest) -> None:
        self.damage += digest.damage
        for bad in digest.damage[:QUARANTINED_MAX]:
            self.quarantine(bad)

    def _end(self, number: int, data: bytes, tail: Digest, *, cut: bool) -> None:
        """Deal with a torn tail: keep it for a person, and cut it off."""
        if tail.size == len(data):
            return
        path = self.path(number)
        self.notes.append(f"{path}: a torn tail of {len(data) - tail.size} bytes was cut off")
        self.quarantine(Damage(path, tail.size, len(data) - tail.size))
        if cut:
            self.cut(path, tail.size)

    def cut(self, path: str, size: int) -> None:
        file = self.disk.open(path)
        try:
            if file.size() > size:
                file.truncate(size)
            file.datasync()
        finally:
            file.close()

    def keep_tail(self, tail: Digest) -> None:
        """After a stop that was not clean and no failed sync: what the page cache shows is
        true, but not all of it is on the medium."""
        self.cut(self.path(self.numbers[-1]), tail.size)
        self.disk.sync_dir(self.folder)

    def rewritten(self, log: Log, tail: Digest, data: bytes) -> Digest:
        """The last segment once more in a new file, if there is room for it."""
        old = self.numbers[-1]
        lines: list[bytes] = []
        scan(self.path(old), data, log.seed, last=True, sound_lines=lines)
        try:
            return self.rewrite(log, old, max(log.next_seq, old + 1), tail, lines)
        except OSError as error:
            if not no_room(error):
                raise
        if throw_ballast(self.disk):
            return self.rewritten(log, tail, data)
        # a full disk must not stop a start: consumers are to make room. What was kept is
        # safe all the same, unless the stop was for a failed sync
        self.notes.append(f"{self.path(old)}: no room to write it anew after the unclean stop")
        if self.later is not None:
            self.later.refused = True
        self.keep_tail(tail)
        return tail

    def rewrite(
        self, log: Log, old: int, number: int, digest: Digest, lines: list[bytes]
    ) -> Digest:
        """What we can read now of a segment, durably in a new file in its place (with `later`:
        as soon as that has run)."""
        path = log.path_of(number)
        head = log.head(instead_of=old)
        file = self.disk.create(path)
        try:
            file.append(b"".join([head, *[b"%b\n" % line for line in lines]]))
        except OSError:
            file.close()
            self.disk.unlink(path)
            raise
        insort(self.numbers, number)
        self.numbers.remove(old)
        rewrites = Rewrites(self.disk) if self.later is None else self.later
        rewrites.add(file, self.folder, self.path(old))
        if self.later is None:
            rewrites.end()
        offset = len(head)
        offsets = array("I")
        for line in lines:
            if line.startswith(records.PUB):
                offsets.append(offset)
            offset += len(line) + 1
        return attrs.evolve(
            digest,
            offsets=offsets,
            state=log.state,
            next_seq=max(digest.next_seq, log.next_seq),
            size=offset,
            damage=[],
        )


class Rewrites:
    """Segments that were written anew, many logs' at a time: first all of them are synced,
    then their names, then the old ones go. Done one by one, each would wait for three journal
    commits of the file system; together they share them."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._files: list[File] = []
        self._folders: dict[str, None] = {}
        self._old: list[str] = []
        self.refused = False  # some had no room

    def __len__(self) -> int:
        return len(self._files)

    def add(self, file: File, folder: str, old: str) -> None:
        self._files.append(file)
        self._folders[folder] = None
        self._old.append(old)

    def end(self) -> None:
        """Nothing may be served from the new segments before this. An error is final."""
        disk = self._disk
        with disk_must_work(disk):
            try:
                for file in self._files:
                    file.datasync()
            finally:
                self.close()
            for folder in self._folders:
                disk.sync_dir(folder)
            for path in self._old:
                index = indexfile.path_of(path)
                if disk.exists(index):
                    disk.unlink(index)
                disk.unlink(path)
            for folder in self._folders:
                disk.sync_dir(folder)
        self._folders, self._old = {}, []

    def close(self) -> None:
        """Let go of the files, synced or not."""
        while self._files:
            self._files.pop().close()
