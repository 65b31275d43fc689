"""Messages that leave for another queue, and those that come from one.

Dead letters, expired ones where that is set, and retried ones. The target writes first, under
the move's own key, then the source; the target hands out only when the source's record is
durable, so that a crash in between is neither a loss nor a duplicate:

    source: bury ─► leaving ──── moved ─► record ── durable ─┐
    target:           └─► arrive ─► durable ─┘               └─► release ─► ready
"""

from collections import deque
from collections.abc import Callable, Mapping
from copy import copy

from msg.core.books import Books, Leaving
from msg.core.message import Message
from msg.core.waiting import Waiting
from msg.core.wire import Stamp, with_case, without_case

Select = Callable[[Message], bool]
Act = Callable[[Message], None]
Edit = Callable[[bytes], bytes]  # of a wire

RESEND_S = 1.0  # a move that its target refused (disk full) is tried again after this


class Moves:
    """One queue's moves, in both directions."""

    __slots__ = ("_resend", "_sweeping", "arrived", "books", "leaving", "unread", "unreleased",
                 "waiting")  # fmt: skip

    def __init__(self, books: Books, waiting: Waiting) -> None:
        self.books = books
        self.waiting = waiting
        self.leaving: dict[str, Leaving] = {}
        self.unreleased: set[str] = set()  # keys moved in whose source still holds them
        self.arrived: dict[str, Message] = {}  # those of them that are durable here
        self.unread: dict[str, tuple[int, int]] = {}  # and only in the log: seq, priority
        self._resend: deque[tuple[float, str]] = deque()  # when, key
        # a standing order: which, how many more, up to which seq, and what to do with them
        self._sweeping: tuple[Select, int, int, Act] | None = None

    def __len__(self) -> int:
        """How many have arrived and are not released."""
        return len(self.arrived) + len(self.unread)

    # -- out ----------------------------------------------------------------------------

    def is_spent(self, message: Message) -> bool:
        """Whether it has had all the attempts that it gets."""
        most = self.books.settings.max_deliveries
        return bool(most and self.books.dead_name) and message.attempts >= most

    def bury_spent(self, message: Message, why: str, stamp: Stamp) -> None:
        self.bury(message, f"{message.attempts} failed attempts, the last: {why}", stamp)

    def bury(self, message: Message, reason: str, stamp: Stamp) -> None:
        """Dead letter: off to the dead queue, with its case. A dead queue's own are dropped."""
        books = self.books
        if not books.dead_name:
            books.counts.dropped += 1
            books.drop([message], f"dropped from a dead queue: {reason}")
            return
        wire = with_case(message.wire, books.name, reason, stamp.text, message.case)
        self._send(message, books.dead_name, wire, reason)

    def expire(self, message: Message, stamp: Stamp) -> None:
        books = self.books
        if books.settings.dead_letter_expired and books.dead_name:
            self.bury(message, "expired", stamp)
        else:
            books.counts.expired += 1
            books.drop([message], "expired")

    def _send(self, message: Message, to: str, wire: bytes, reason: str) -> None:
        books = self.books
        key = f"{books.name}:{message.seq}:{message.attempts}"
        message = copy(message)  # a turn that fails must leave no trace
        message.returned = reason
        moved = Message(0, message.id, wire, message.priority, message.durability, key=key)
        moved.origin = books.name
        self.leaving[key] = books.turn.leaving[key] = (message, to, moved)
        books.turn.moves.append((to, key, moved))

    def moved(self, key: str) -> None:
        """The target has it, durably: our record may follow."""
        entry = self.leaving.pop(key, None)
        if entry is not None:
            message, to, _ = entry
            self.books.turn.left.append(key)
            self.books.leave(message, to, key, message.returned)

    def failed(self, key: str, stamp: Stamp) -> None:
        """The target could not take it (its disk is full, say): it is sent again soon."""
        if key in self.leaving:
            self._resend.append((stamp.now + RESEND_S, key))
            self.books.wake(stamp.now + RESEND_S)

    def send_again(self, now: float) -> None:
        while self._resend and self._resend[0][0] <= now:
            self._send_again(self._resend.popleft()[1])
        if self._resend:
            self.books.wake(self._resend[0][0])

    def _send_again(self, key: str) -> None:
        if key in self.leaving:
            _, to, moved = self.leaving[key]
            self.books.turn.moves.append((to, key, moved))

    # -- in -----------------------------------------------------------------------------

    def arrive(self, key: str, moved: Message, seq: int) -> Message | None:
        """A message moves in, as number `seq`. None: it is here already."""
        books = self.books
        if key in books.move_keys:
            return None
        message = copy(moved)
        message.seq = seq
        books.move_keys[key] = seq
        self.unreleased.add(key)
        books.turn.arrived.append(key)
        books.accept([message], len(message.wire), message.durability)
        if not message.durability:
            self.arrived[key] = message
        return message

    def forget(self, key: str) -> None:
        """It could not be written here."""
        self.books.move_keys.pop(key, None)
        if key in self.unreleased:
            self.unreleased.discard(key)
            self.books.turn.released.append(key)

    def lose(self, seq: int) -> bool:
        """The log cannot read this one. False if it has not arrived, unread."""
        for key, (unread, _) in list(self.unread.items()):
            if unread == seq:
                del self.unread[key]
                self.forget(key)
                return True
        return False

    def release(self, key: str, stamp: Stamp) -> None:
        """The source's record is durable: what moved in under this key may be handed out."""
        if key in self.unreleased:
            self.unreleased.discard(key)
            self.books.turn.released.append(key)
        message = self.arrived.pop(key, None)
        if message is not None:
            self.waiting.enter([message], stamp)
        elif key in self.unread:
            self.waiting.cold.release(*self.unread.pop(key))

    # -- back ---------------------------------------------------------------------------

    def sweep(self, select: Select, most: int, up_to: int, act: Act) -> int:
        """Do this with all that match: dead letters that are retried or dropped. Those that
        are only in the log follow as they are read. Returns how many there were at once."""
        self._sweeping = (select, most, up_to, act)
        chosen = self.waiting.take_if(self.picks)
        for message in chosen:
            act(message)
        if not len(self.waiting.cold):
            self._sweeping = None
        return len(chosen)

    def picks(self, message: Message) -> bool:
        """Whether the standing order is for this one; counts it. `sweep_one` is to follow."""
        if self._sweeping is None:
            return False
        select, left, up_to, act = self._sweeping
        if left < 1 or message.seq > up_to or not select(message):
            return False
        self._sweeping = (select, left - 1, up_to, act)
        return True

    def sweep_one(self, message: Message) -> None:
        if self._sweeping is None:
            raise AssertionError("it was picked by a standing order")
        self._sweeping[3](message)

    def send_back(self, message: Message, edited: Edit | None = None) -> None:
        """A dead letter, back to where it died, attempts reset."""
        wire = without_case(message.wire)
        if edited is None:
            self._send(message, message.origin, wire, "retried")
        else:
            self._send(message, message.origin, edited(wire), "edited and retried")

    def remove(self, message: Message, why: str) -> None:
        """An operator wants it gone: a record and a count, as for all that is dropped."""
        self.books.counts.dropped += 1
        self.books.drop([message], why)

    @property
    def has_order(self) -> bool:
        """Whether a standing order may be for what is read now."""
        return self._sweeping is not None

    @property
    def sweeping(self) -> bool:
        """Whether a standing order waits for messages that are only in the log."""
        if self._sweeping is None:
            return False
        cold = self.waiting.cold
        if self._sweeping[1] < 1 or not len(cold) or cold.to >= self._sweeping[2]:
            self._sweeping = None
        return self._sweeping is not None

    # -- after a crash ------------------------------------------------------------------

    def recall(
        self,
        leaving: Mapping[str, Leaving],
        unreleased: set[str],
        kept: Mapping[int, Message],
        move_keys: Mapping[str, int],
        priorities: Mapping[int, int],
    ) -> None:
        """The moves that were under way: those out are sent again, those in wait on."""
        books = self.books
        books.move_keys = dict(move_keys)
        books.move_keys.update({m.key: m.seq for m in kept.values() if m.key})
        self.leaving = dict(leaving)
        for key in leaving:
            self._send_again(key)
        for key in sorted(unreleased):
            seq = books.move_keys.get(key)
            if seq is None:
                books.turn.released.append(key)  # it was never written here
                continue
            self.unreleased.add(key)
            message = kept.get(seq)
            if message is not None:
                self.arrived[key] = message
            else:
                self.unread[key] = (seq, priorities.get(seq, 4))
