"""Intake: publishes become messages, or are refused, told that they are known, or parked.

Acks wait for the commit. Among publishes of one kind (memory-only, or written to the log)
what is answered at once may not overtake what waits, so it waits too.
"""

from collections.abc import Iterable, Sequence
from itertools import repeat
from math import inf
from weakref import ref

from msg.core.batches import PublishBatch
from msg.core.books import Books
from msg.core.commands import BarePublish
from msg.core.dedup import NEW, DedupWindow, fingerprint, has_topics
from msg.core.message import DURABILITIES, MEMORY, PRIORITY, Message
from msg.core.moves import Moves
from msg.core.parking import Parking, ParkingRules
from msg.core.waiting import Waiting
from msg.core.wire import Stamp, extras, json_string
from msg.errors import ClientError

WIRE_OVERHEAD = 128  # bytes that a wire adds to its publish, at most about
SWEEP_S = 1.0  # a full queue looks for expired messages this often


class Room:
    """What still fits under the limits."""

    __slots__ = ("bytes", "messages")

    def __init__(self, messages: float = 0, size: float = 0) -> None:
        self.messages = messages
        self.bytes = size

    def holds(self, messages: int, size: int) -> bool:
        return messages <= self.messages and size <= self.bytes


NO_ROOM = Room()


class Intake:
    """One queue's rules for publishes. `next_seq`: the first free place in line."""

    def __init__(
        self,
        books: Books,
        waiting: Waiting,
        moves: Moves,
        dedup: DedupWindow,
        next_seq: int,
        parking: ParkingRules,
    ) -> None:
        self.books = books
        self.waiting = waiting
        self.moves = moves
        self.dedup = dedup
        self.next_seq = next_seq
        self.held_off: ClientError | None = None  # why nothing is taken that needs the disk
        self.held_off_until = 0.0
        self.closed = ""  # why nothing is accepted any more
        self.committing: dict[int, Message] = {}  # given to the log, not yet durable
        self.parking = Parking(parking)
        self._swept_at = -inf
        # of each kind (memory-only, logged) the last batch that waits. Not kept alive: a
        # thousand idle queues would each hold their last megabyte
        self._last: list[ref[PublishBatch] | None] = [None, None]
        self._name_json = json_string(books.name)
        self._has_topics = has_topics(books.name)

    # -- publishing ---------------------------------------------------------------------

    def publish(self, batch: PublishBatch, stamp: Stamp) -> None:
        """Accept a batch: dedup, limits, a place in line. Answered now, or when committed."""
        settings = self.books.settings
        if batch.durability is None:
            batch.durability = settings.usual_durability
        if self.closed:
            self._accept(batch, stamp, NO_ROOM, ClientError("unavailable", self.closed))
        elif self.held_off is not None and batch.durability != MEMORY and self._is_held_off(stamp):
            self._accept(batch, stamp, NO_ROOM, self.held_off)
        elif batch.durability < DURABILITIES[settings.durability_min]:
            error = ClientError(
                "bad_field",
                f"queue {self.books.name!r} takes no publish with less durability than its"
                f" durability_min; ask for {settings.durability_min!r} or more",
            )
            self._accept(batch, stamp, NO_ROOM, error)
        elif self.parking.batches:
            self._park(batch, stamp)  # others wait already: no overtaking
        else:
            room = self._room(batch, stamp)
            if room is None and batch.bare and batch.wires is None and not settings.ttl:
                self._accept_bare(batch, stamp)
            elif (rest := self._accept(batch, stamp, room)) is not None:
                self._park(rest, stamp)

    def hold_off(self, error: ClientError, until: float) -> None:
        """The disk is full: refuse what needs it at once, until it is tried again (monotonic).
        Meanwhile acks are written without publishes, which a full disk would refuse with them."""
        self.held_off = error
        self.held_off_until = until

    def _is_held_off(self, stamp: Stamp) -> bool:
        if stamp.now < self.held_off_until:
            return True
        self.held_off = None
        return False

    def _accept_bare(self, batch: PublishBatch, stamp: Stamp) -> None:
        """The hot path: there is room, and nothing to ask of any of them."""
        durability = batch.durability or MEMORY
        ids, wires = stamp.name_all(self._name_json, batch.items)
        seqs = range(self.next_seq, self.next_seq + len(ids))
        messages = list(map(Message, seqs, ids, wires, repeat(PRIORITY), repeat(durability)))
        self._keep(batch, messages, ids, sum(map(len, wires)), stamp, alike=True)

    def _accept(
        self,
        batch: PublishBatch,
        stamp: Stamp,
        room: Room | None,
        refusal: ClientError | None = None,
    ) -> PublishBatch | None:
        """Take what fits into `room` (None: all), and refuse the rest; or, where the queue
        blocks and there is no other reason to refuse, return the rest to be parked.

        What was stored before is acked in any case.
        """
        batch.begin_anew()
        durability = batch.durability or MEMORY
        messages: list[Message] = []
        ids: list[str] = []
        given, wires = batch.ids, batch.wires
        if wires is None:
            given = stamp.take_ids(len(batch.items))
        head, middle = stamp.around_id(self._name_json)
        join = b"".join
        ttl = self.books.settings.ttl
        first = seq = self.next_seq
        size = print_ = 0
        for i, p in enumerate(batch.items):
            message_id = p.message_id
            if message_id is None:
                message_id = given[i]
                id_json = message_id.encode()
            else:
                print_ = fingerprint(bytes(p.message))
                if self._is_known(batch, i, p, print_, first, stamp):
                    ids.append(message_id)
                    continue
                id_json = json_string(message_id)[1:-1]
            if wires is None:
                wire = join([head, id_json, middle, p.message])
                if p.headers or p.reply_to or p.correlation_id or p.encoding:
                    wire += extras(p)
            else:
                wire = wires[i]
            if room is not None and not room.holds(len(messages) + 1, size + len(wire)):
                if refusal is None and self.books.overflow == "block":
                    if i == 0:
                        return batch
                    batch, rest = batch.split(i)
                    self._keep(batch, messages, ids, size, stamp)
                    return rest
                batch.fail(i, refusal or self._full(durability, len(messages), size))
                ids.append(p.message_id or "")
                continue
            message = Message(seq, message_id, wire, PRIORITY, durability)
            if p.priority is not None:
                message.priority = p.priority
            if p.delay or p.ttl is not None or ttl:
                error = self._set_times(message, p, stamp)
                if error is not None:
                    batch.fail(i, error)
                    ids.append(p.message_id or "")
                    continue
            if p.message_id is not None:
                self.dedup.add(
                    message_id, print_, seq, stamp.now,
                    volatile=durability == MEMORY, topic=p.topic if self._has_topics else None,
                )  # fmt: skip
                self.books.wake(stamp.now + self.dedup.seconds)
            ids.append(message_id)
            messages.append(message)
            size += len(wire)
            seq += 1
        self._keep(batch, messages, ids, size, stamp)
        return None

    def _set_times(self, message: Message, p: BarePublish, stamp: Stamp) -> ClientError | None:
        delay = p.delay or 0.0
        ttl = self.books.settings.ttl or None if p.ttl is None else p.ttl
        if delay:
            message.due = stamp.wall + delay
            message.until = stamp.now + delay
        if ttl is None:
            return None
        if p.ttl is None and ttl <= delay:
            return ClientError(
                "bad_field",
                f"delay {delay:g} s is not less than the queue's ttl of {ttl:g} s: it would"
                " never be delivered; name a longer ttl",
            )
        message.expires = stamp.wall + ttl
        self.waiting.expiring = True
        return None

    def _is_known(
        self,
        batch: PublishBatch,
        i: int,
        p: BarePublish,
        print_: int,
        first: int,
        stamp: Stamp,
    ) -> bool:
        """Whether item i needs no place: it was accepted before, or conflicts."""
        durability = batch.durability or MEMORY
        try:
            topic = p.topic if self._has_topics else None
            known = self.dedup.seen(p.message_id or "", print_, stamp.now, topic)
        except ClientError as error:
            batch.fail(i, error)
            return True
        if known == NEW:
            return False
        self.books.counts.duplicates += 1
        if batch.duplicates is None:
            batch.duplicates = []
        batch.duplicates.append(i)
        # where the first one is not yet promised: wait for it and share its answer
        if known in self.committing or (durability and known >= first):
            if batch.dup_of is None:
                batch.dup_of = {}
            batch.dup_of[i] = known
        return True

    def _keep(
        self,
        batch: PublishBatch,
        messages: list[Message],
        ids: list[str],
        size: int,
        stamp: Stamp,
        *,
        alike: bool = False,
    ) -> None:
        batch.ids = ids
        durability = batch.durability or MEMORY
        if batch.errors:
            self.books.counts.rejected += len(batch.errors)
        if messages:
            batch.first_seq = messages[0].seq
            self.next_seq = messages[-1].seq + 1
            self.books.accept(messages, size, durability)
            if durability == MEMORY:
                self.waiting.enter(messages, stamp, size if alike else None)
            else:
                self.committing.update({m.seq: m for m in messages})
            if self.books.overflow == "drop_oldest":
                self.trim()
        # a duplicate of what was written but not synced, when that is asked for now, waits too
        self._answer(
            batch,
            waits=bool(batch.dup_of or (durability and (messages or batch.duplicates))),
        )

    def _answer(self, batch: PublishBatch, *, waits: bool) -> None:
        """At once; or with the commit, also when one of its kind before it waits for that."""
        kind = 1 if batch.durability else 0
        before = self._last[kind]
        last = None if before is None else before()
        if waits or (last is not None and not last.answered):
            self._last[kind] = ref(batch)
            self.books.turn.waiting.append(batch)
        else:
            self._last[kind] = None
            self.books.turn.answers.append(batch)

    # -- commits ------------------------------------------------------------------------

    def committed(self, messages: Sequence[Message], stamp: Stamp) -> None:
        """These are durable: they may be delivered."""
        pop = self.committing.pop
        entering = [m for m in messages if pop(m.seq, None) is not None]
        if self.moves.unreleased and any([m.key for m in entering]):
            # one that moved in is handed out when its source's record is durable too
            self.moves.arrived.update({m.key: m for m in entering if m.key})
            entering = [m for m in entering if not m.key]
        self.waiting.enter(entering, stamp)
        self.trim()

    def failed(
        self, messages: Sequence[Message], waiting: Iterable[object], error: ClientError
    ) -> None:
        """These could not be written: they were never accepted, and their ids are free.

        `waiting` are all batches still to be answered: theirs, and those of duplicates that
        counted on them.
        """
        lost: set[int] = set()
        for message in messages:
            if self.committing.pop(message.seq, None) is None:
                continue
            lost.add(message.seq)
            self.books.undo(message)
            if message.key:
                self.moves.forget(message.key)
            else:
                self.dedup.forget_message(message, self.books.name)
        self.books.counts.rejected += len(lost)
        for batch in waiting:
            if isinstance(batch, PublishBatch):
                batch.lose(lost, error)

    # -- limits -------------------------------------------------------------------------

    def _full(self, durability: int, more: int = 0, size: int = 0) -> ClientError:
        """Which limit refuses a publish, where `more` messages of `size` bytes in all have been
        taken in this turn and are in no book yet."""
        books, settings = self.books, self.books.settings
        messages = books.live + books.dead_gauge.messages + more
        in_all = books.bytes + books.dead_gauge.bytes + size
        limit = settings.max_bytes
        if 0 < settings.max_messages <= messages:
            limit = settings.max_messages
        elif durability == MEMORY and (most := settings.max_memory_bytes):
            left = most - books.memory_bytes - size
            if not limit or left < limit - in_all:
                limit = most
        return ClientError(
            "queue_full",
            f"queue {books.name!r} is at a limit ({messages} messages of {in_all} bytes); consume"
            " from it or raise the limit, then publish again",
            limit=limit or None,
        )

    def _room(self, batch: PublishBatch, stamp: Stamp) -> Room | None:
        """What fits of this batch; None if all of it does, or pushes out older ones."""
        if self.books.overflow == "drop_oldest":
            return None
        room = self._left(batch)
        if room is not None and self.waiting.expiring and stamp.now >= self._swept_at + SWEEP_S:
            self._swept_at = stamp.now
            self._sweep(stamp)
            room = self._left(batch)
        return room

    def _left(self, batch: PublishBatch) -> Room | None:
        books, settings, count = self.books, self.books.settings, len(batch.items)
        messages = size = inf
        if settings.max_messages:
            messages = settings.max_messages - books.live - books.dead_gauge.messages
        if settings.max_bytes:
            size = settings.max_bytes - books.bytes - books.dead_gauge.bytes
        if batch.durability == MEMORY and settings.max_memory_bytes:
            size = min(size, settings.max_memory_bytes - books.memory_bytes)
        if count <= messages and batch.size + count * WIRE_OVERHEAD <= size:
            return None
        return Room(messages, size)

    def _sweep(self, stamp: Stamp) -> None:
        """What has expired makes room before anybody is refused."""
        for message in self.waiting.take_if(lambda m: 0 < m.expires <= stamp.wall):
            self.moves.expire(message, stamp)

    def trim(self) -> None:
        """Drop the oldest of what is over the limits, where that is the policy."""
        books, settings = self.books, self.books.settings
        if books.overflow != "drop_oldest":
            return
        gone: list[Message] = []
        back: list[Message] = []
        while True:
            count = books.live + books.dead_gauge.messages - settings.max_messages
            over = settings.max_messages > 0 and count > 0
            if not over:
                count = 1
                size = books.bytes + books.dead_gauge.bytes
                over = 0 < settings.max_bytes < size
            volatile = not over and 0 < settings.max_memory_bytes < books.memory_bytes
            taken = self.waiting.take_oldest(count) if over or volatile else []
            if not taken:
                break
            if volatile and taken[0].durability:
                back += taken  # only what is in memory alone makes room there
                continue
            books.counts.dropped += len(taken)
            books.uncount(taken)
            gone += taken
        for message in back:
            self.waiting.put_back(message)
        if gone:
            books.drop_counted(gone, "dropped: the queue was full")

    # -- parking ------------------------------------------------------------------------

    def _park(self, batch: PublishBatch, stamp: Stamp) -> None:
        if self.parking.park(batch, stamp.now):
            self.books.wake(self.parking.next_until)
            return
        for each in [*self.parking.take_of(batch.origin), batch]:
            self._accept(each, stamp, NO_ROOM, self._full(each.durability or MEMORY))

    def unpark(self, stamp: Stamp) -> None:
        """Let in what waits, as far as there is room."""
        parking = self.parking
        while parking.batches:
            until, batch = parking.batches[0]
            room = self._room(batch, stamp)
            if room is not None and not room.holds(1, 1):
                return
            parking.take_first()
            rest = self._accept(batch, stamp, room)
            if rest is not None:
                parking.put_first(until, rest)
                return

    def refuse_parked(self, error: ClientError, stamp: Stamp) -> None:
        """Nobody waits for room any more. What is known is acked all the same."""
        while self.parking.batches:
            self._accept(self.parking.take_first(), stamp, NO_ROOM, error)

    def end_parking(self, stamp: Stamp) -> None:
        """Refuse what has waited long enough."""
        parking = self.parking
        while parking.next_until <= stamp.now:
            batch = parking.take_first()
            self._accept(batch, stamp, NO_ROOM, self._full(batch.durability or MEMORY))
        self.books.wake(parking.next_until)
