"""What a turn of a topic publishes, and what it wants done. See `msg.core.topic`."""

from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from msg.core.answers import Answer, Passing
    from msg.core.message import Message
    from msg.core.replay import Group, Reader


class Port(Protocol):
    """A live subscription's end in its connection. What is offered never waits, never fails."""

    suffix: bytes
    limit_count: int
    limit_bytes: int


class Run:
    """Messages that are published together: in one turn, to the same subscribers."""

    __slots__ = ("frames", "heard", "last", "need", "position", "replayable", "retains", "seqs",
                 "size", "wires")  # fmt: skip

    def __init__(self, position: int, *, heard: bool, replayable: bool) -> None:
        self.position = position  # what is kept below this seq comes before it
        self.heard = heard  # somebody listened when it was published; else it is only kept
        self.replayable = replayable  # its messages are in the history
        self.wires: list[bytes] = []
        self.seqs: list[int] | None = None  # of the wires, 0 for one that is not kept
        self.size = 0
        self.last = 0  # its highest seq; 0: nothing is kept
        self.need = 0  # must be written before it is delivered; 0: nothing of it is logged
        self.retains: list[Message | None] = []  # retained values, None to clear
        # by suffix: pieces of frames and their counts, made by whoever delivers them
        self.frames: dict[bytes, list[tuple[bytes, int]]] = {}

    def add(self, wire: bytes, seq: int) -> None:
        if self.seqs is not None:
            self.seqs.append(seq)
        elif seq:
            self.seqs = [*([0] * len(self.wires)), seq]
        self.wires.append(wire)
        self.size += len(wire)

    def add_unkept(self, wires: list[bytes]) -> None:
        if self.seqs is not None:
            self.seqs += [0] * len(wires)
        self.wires += wires
        self.size += sum(map(len, wires))

    def lose(self, lost: set[int]) -> None:
        """These could not be kept, and are not published either."""
        if self.seqs is not None:
            left = [i for i, seq in enumerate(self.seqs) if seq not in lost]
            self.wires = [self.wires[i] for i in left]
            self.seqs = [self.seqs[i] for i in left]
            self.size = sum(map(len, self.wires))
        self.retains = [m for m in self.retains if m is None or m.seq not in lost]


@attrs.define(slots=True, eq=False)
class Handing:
    """A piece of a replay, for one. `taken`: what of it is from the backlog. `page`: with it
    the room is used that was reserved for a page."""

    port: Port
    messages: "list[Message]" = attrs.field(factory=list)
    taken: list[int] = attrs.field(factory=list)
    missed: int = 0
    page: bool = False


@attrs.define(slots=True, eq=False)
class Copying:
    """A page of what was kept, for a new group."""

    group: "Group"
    messages: "list[Message]"
    taken: list[int]


@attrs.define(slots=True, eq=False)
class Changes:
    """What a turn changes of the topic itself: what is kept, who hears, what waits."""

    logged: "list[Message]" = attrs.field(factory=list)  # to the log
    kept: "list[Message]" = attrs.field(factory=list)  # to memory only
    settled: list[int] = attrs.field(factory=list)  # in the log: delivered
    drops: "list[tuple[str, Sequence[int]]]" = attrs.field(factory=list)  # why, seqs in the log
    unkept: list[int] = attrs.field(factory=list)  # leave memory
    state: bool = False  # what is remembered beside the messages has changed
    sync: bool = False
    passings: "list[tuple[Passing, Sequence[Group]]]" = attrs.field(factory=list)
    caught_up: "list[Group]" = attrs.field(factory=list)
    copies: list[Copying] = attrs.field(factory=list)
    waiting: "list[Answer]" = attrs.field(factory=list)  # until the log has them
    pages: "list[tuple[Reader, list[int]]]" = attrs.field(factory=list)  # to be read
    subs: dict[Port, None] = attrs.field(factory=dict)  # those that changed


class Turn:
    """What one turn of a topic wants done. The actor carries it out; nothing here waits.

    Most turns tell those who listen what was published, answer, and leave the topic as it was:
    they have no `changes`. Whatever changes something that outlives the turn calls `change`,
    though it may have nothing to write there.
    """

    __slots__ = ("changes", "deliveries", "owed")

    def __init__(self) -> None:
        # in this order: a run to many, or a piece of a replay to one
        self.deliveries: list[tuple[Run, Sequence[Port]] | Handing] = []
        self.owed: list[Answer] = []
        self.changes: Changes | None = None

    def change(self) -> Changes:
        if self.changes is None:
            self.changes = Changes()
        return self.changes

    @property
    def new_messages(self) -> "list[Message]":
        """What is kept of what was published."""
        return [] if self.changes is None else [*self.changes.logged, *self.changes.kept]
