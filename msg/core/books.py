"""The books of one queue: what became of every message, and what is now to be done about it.

    accepted = committing + ready + leased + delayed + leaving + arriving
             + settled + dead + moved + expired + dropped + purged + lost

`accepted` counts what was kept, from the moment it was numbered. All other rules write into
`turn` through here, so that no message ends uncounted and none is counted twice.
"""

from collections.abc import Collection, Sequence
from math import inf
from typing import TYPE_CHECKING, ClassVar

import attrs

from msg.core.credit import Port
from msg.core.lazily import Lazily
from msg.core.message import Attempt, Message
from msg.core.packed import Packed
from msg.core.settings import QueueSettings

if TYPE_CHECKING:
    from msg.core.batches import PublishBatch
    from msg.core.deep import Repacking

Leaving = tuple[Message, str, Message]  # the message here, where it goes, the message there


class Turn(Lazily):
    """What one turn of a queue wants done. The actor carries it out; nothing here waits."""

    __slots__ = ("answers", "arrived", "dead", "deliveries", "drops", "kept", "lapsed", "leaving",
                 "left", "logged", "moves", "parked", "pulled", "released", "repacked", "settled",
                 "tried", "unkept", "waiting")  # fmt: skip
    RARE: ClassVar[dict[str, type]] = {
        "tried": list, "drops": list, "dead": list, "moves": list, "leaving": dict, "left": list,
        "arrived": list, "released": list, "lapsed": list, "pulled": list,
    }  # fmt: skip

    # None: not an attempt, but the message's state changed
    tried: list[tuple[Message, Attempt | None]]
    drops: list[tuple[str, Sequence[int]]]  # why, seqs in the log
    dead: list[tuple[int, str, str, str]]  # seq, to, key, why
    moves: list[tuple[str, str, Message]]  # to, key, message
    leaving: dict[str, Leaving]  # moves that began
    left: list[str]  # keys of moves that ended
    arrived: list[str]  # keys that their source still holds
    released: list[str]  # and those it holds no longer
    lapsed: list[tuple[Port, list[Message]]]  # leases that expired
    pulled: list[tuple[Port, int]]  # a `get` is over: how many

    def __init__(self) -> None:
        self.rare = False
        self.logged: list[Message] = []  # to the log
        self.kept: list[Message] = []  # to memory only
        self.settled: list[int] = []  # in the log
        self.repacked: Sequence[Repacking] = ()  # of what is kept, in this order
        self.unkept: list[int] = []  # leave memory; after all this
        self.answers: list[PublishBatch] = []  # at once
        self.waiting: list[PublishBatch] = []  # when committed
        self.deliveries: list[tuple[Port, list[Message], int]] = []  # and bytes
        # what is parked from now on, if that changed; with the time until which it may be
        self.parked: list[tuple[float, PublishBatch]] | None = None


@attrs.define(slots=True)
class Counts:
    """What became of all that was accepted, since this ledger began."""

    accepted: int = 0
    settled: int = 0
    dead: int = 0
    moved: int = 0
    expired: int = 0
    dropped: int = 0
    purged: int = 0
    lost: int = 0  # damaged on disk, named in the log
    redelivered: int = 0
    duplicates: int = 0
    rejected: int = 0
    delivered: int = 0


@attrs.define(slots=True)
class Gauge:
    """Messages and bytes of a dead queue, read by its parent: they count in its limits."""

    messages: int = 0
    bytes: int = 0


class Books:
    """Shared by all the rules of one queue. `wake_at`: the earliest deadline, monotonic,
    that was made since the last tick. `overflow`: what happens to publishes at a limit."""

    __slots__ = ("_away", "_away_bytes", "_known", "counts", "dead_gauge", "dead_name",
                 "memory_bytes", "move_keys", "name", "overflow", "recalled", "settings",
                 "turn", "wake_at")  # fmt: skip

    def __init__(self, name: str, settings: QueueSettings, dead_name: str) -> None:
        self.name = name
        self.adopt(settings)
        self.dead_name = dead_name  # "" for a dead queue itself
        self.turn = Turn()
        self.counts = Counts()
        self.recalled = 0  # of those accepted: they were here when this ledger began
        self.dead_gauge = Gauge()
        self.move_keys: dict[str, int] = {}  # moved in and still here: key -> seq
        self.memory_bytes = 0  # of live messages with durability "memory"
        self.wake_at = inf
        self._known = 0  # bytes of live messages in memory
        # messages that are only in the log, and about their bytes: after a start only the
        # sum is known, so one that comes to memory is taken for an average one
        self._away = 0
        self._away_bytes = 0

    def adopt(self, settings: QueueSettings) -> None:
        """New settings, from now on. A group never refuses its topic's publishers."""
        self.settings = settings
        self.overflow = "drop_oldest" if "@" in self.name else settings.overflow

    @property
    def live(self) -> int:
        """Messages that are not settled, whatever state they are in."""
        c = self.counts
        gone = c.settled + c.dead + c.moved + c.expired + c.dropped + c.purged + c.lost
        return c.accepted - gone

    @property
    def bytes(self) -> int:
        """Of all live messages' wires."""
        return self._known + self._away_bytes

    def wake(self, at: float) -> None:
        if at < self.wake_at:
            self.wake_at = at

    # -- coming -------------------------------------------------------------------------

    def accept(self, messages: list[Message], size: int, durability: int) -> None:
        """New messages of one durability, `size` bytes in all."""
        self.counts.accepted += len(messages)
        self._known += size
        if durability:
            self.turn.logged += messages
        else:
            self.memory_bytes += size
            self.turn.kept += messages

    def recall(
        self, logged: int, size: int, kept: Collection[Message], packed: Collection[Packed]
    ) -> None:
        """Begin with these: so many in the log, of so many bytes, and some in memory only."""
        self.recalled = self.counts.accepted = logged + len(kept) + sum(map(len, packed))
        self._away, self._away_bytes = logged, size
        self.memory_bytes = sum([len(m.wire) for m in kept]) + sum([r.bytes for r in packed])
        self._known = self.memory_bytes

    def send_away(self, messages: Sequence[Message]) -> None:
        """These are only in the log from now on."""
        size = sum([len(m.wire) for m in messages])
        self._known -= size
        self._away += len(messages)
        self._away_bytes += size

    def bring_back(self, messages: Sequence[Message]) -> None:
        """These were only in the log, and are in memory now."""
        self.forget_away(len(messages))
        self._known += sum([len(m.wire) for m in messages])

    def forget_away(self, n: int) -> None:
        """So many that were only in the log are not counted there any more."""
        if n:
            self._away_bytes -= self._away_bytes * n // self._away
            self._away -= n

    # -- going --------------------------------------------------------------------------

    def undo(self, message: Message) -> None:
        """It could not be written: it was never accepted."""
        self.counts.accepted -= 1
        self.uncount([message])

    def settle(self, messages: list[Message]) -> None:
        """Acked by a consumer."""
        self.counts.settled += len(messages)
        logged = [m.seq for m in messages if m.durability]
        self.uncount(messages, kept=not logged)
        if logged:
            self.turn.settled += logged
            if len(logged) == len(messages):
                return
            messages = [m for m in messages if not m.durability]
        self.turn.unkept += [m.seq for m in messages]

    def drop(self, messages: Sequence[Message], why: str) -> None:
        """Dropped, expired or purged; the caller counts as which."""
        self.uncount(messages)
        self.drop_counted(messages, why)

    def drop_counted(self, messages: Sequence[Message], why: str) -> None:
        logged = [m.seq for m in messages if m.durability]
        if logged:
            self.turn.drops.append((why, logged))
        self.turn.unkept += [m.seq for m in messages if not m.durability]

    def leave(self, message: Message, to: str, key: str, why: str) -> None:
        """Another queue has it, durably."""
        if to == self.dead_name:
            self.counts.dead += 1
        else:
            self.counts.moved += 1
        self.uncount([message])
        if message.durability:
            self.turn.dead.append((message.seq, to, key, why))
        else:
            self.turn.unkept.append(message.seq)

    def purge(self, messages: Sequence[Message], packed: Sequence[Packed], away: int) -> int:
        """All of these are dropped, and so many that are only in the log. Returns the number;
        what is in the log is the caller's to record."""
        self.uncount(messages)
        size = sum([run.bytes for run in packed])
        self._known -= size
        self.memory_bytes -= size
        self.forget_away(away)
        self.turn.unkept += [m.seq for m in messages if not m.durability]
        count = len(messages) + sum(map(len, packed)) + away
        self.counts.purged += count
        return count

    def uncount(self, messages: Sequence[Message], *, kept: bool = False) -> None:
        """They are here no more. `kept`: it is known that all are in memory only."""
        size = sum([len(m.wire) for m in messages])
        self._known -= size
        if kept:
            self.memory_bytes -= size
        elif self.memory_bytes:
            self.memory_bytes -= sum([len(m.wire) for m in messages if not m.durability])
        if self.move_keys:
            for key in [m.key for m in messages if m.key]:
                self.move_keys.pop(key, None)
