"""Who hears a topic: subscriptions, live or still reading, and groups.

The first who comes to a backlog is its taker: nobody else is given any of it until all that
was handed out has been written, or the taker has left. What was not written then is still in
the backlog.
"""

from typing import TYPE_CHECKING, Any

from msg.core.message import Message
from msg.core.names import has_wildcard
from msg.core.replay import Group, Reader, Sub
from msg.core.runs import Copying, Handing, Port, Run, Turn
from msg.core.wire import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from msg.core.kept import Kept
    from msg.core.wire import Stamp
    from msg.errors import ClientError

Start = str | int | float | None  # `from`: new, last, all, a seq, a wall time; None: not given

COPY_AGAIN_S = 1.0  # after a group could not take a page
_AT = b'","published_at":"'


class Audience:
    """Subscriptions and groups of one topic. `released`: what is kept up to this seq has been
    published; readers go no further."""

    def __init__(self, kept: "Kept") -> None:
        self.kept = kept
        self.turn = Turn()
        self.released = kept.next_seq - 1
        self.subs: dict[Port, Sub] = {}
        self.readers: dict[Sub, None] = {}  # those that are not live yet
        self.groups: dict[str, Group] = {}
        self.taker: Reader | None = None  # who is being given the backlog
        self.copies: dict[str, dict[str, int]] = {}  # groups whose copy a restart cut off
        self._groups_ever = 0
        self._live: tuple[Port, ...] | None = None
        self.due: dict[Reader, None] = {}  # may be able to go on

    @property
    def live(self) -> tuple[Port, ...]:
        """Whom a message reaches at once."""
        if self._live is None:
            self._live = tuple([port for port, sub in self.subs.items() if sub.live])
        return self._live

    # -- subscriptions ----------------------------------------------------------------------

    def attach(self, port: Port, exact: bool, start: Start) -> None:
        """A subscription begins; what was published before it is not for it, unless kept."""
        sub = self.subs[port] = Sub(port, self.kept.next_seq, exact=exact)
        self.turn.change().subs[port] = None
        self._live = None
        self._aim(sub, exact or start == "all", start)
        if not sub.wants_something or self._give_retained(sub):
            sub.live = True
        else:
            self.readers[sub] = None
            self.due[sub] = None

    def _aim(self, reader: Reader, takes: bool, start: Start) -> None:
        """What a reader is to have of what is kept."""
        if start == "new":
            return
        history, backlog = self.kept.history, self.kept.backlog
        reader.retained = self.kept.retained
        if takes and backlog and self.taker is None:
            reader.takes = True
            self.taker = reader
        if start is None:
            return
        if start == "all":
            low = high = 1
        elif start == "last":
            low = high = max(
                backlog.at_most(self.released) if reader.takes else 0,
                history.at_most(self.released) if history is not None else 0,
                1,
            )
        elif isinstance(start, int):
            low = high = max(start, 1)
        else:
            at = float(start)
            reader.since = rfc3339(at).encode()
            low = backlog.since(at) or reader.floor
            high = (history.since(at) if history is not None else 0) or reader.floor
        reader.low = low
        if history is not None:
            reader.history_from = high

    def _give_retained(self, sub: Sub) -> bool:
        """Where the retained value is all that it is to have, and is at hand: now."""
        message = self.kept.retained_message
        if message is None or sub.takes or sub.history_from:
            return False
        self.turn.deliveries.append(Handing(sub.port, [message]))
        return True

    def detach(self, port: Port) -> None:
        sub = self.subs.pop(port, None)
        if sub is None:
            return
        self.turn.change().subs[port] = None
        self._live = None
        self.readers.pop(sub, None)
        self.due.pop(sub, None)
        if self.taker is sub:
            self.taker = None

    def written(self, port: Port, seqs: "Sequence[int]", *, kept: bool) -> None:
        """A piece of the backlog has left its port: written, or (`kept`) dropped there."""
        if not kept:
            self.kept.take(seqs, None)
        sub = self.subs.get(port)
        if sub is not None:
            sub.pieces -= 1
            self.turn.change().subs[port] = None
            self._end_taking(sub)

    def _end_taking(self, sub: Sub) -> None:
        if self.taker is sub and sub.live and sub.pieces <= 0:
            self.taker = None

    def roomy(self, port: Port) -> None:
        """Room for a page has been reserved in this port."""
        sub = self.subs.get(port)
        if sub is None:
            return
        if sub.claimed or sub.live:  # asked for once more after a crash, or no longer needed
            self.turn.deliveries.append(Handing(port, page=True))
            return
        sub.claimed = True
        sub.busy = False
        self.turn.change().subs[port] = None
        self.due[sub] = None

    # -- groups -----------------------------------------------------------------------------

    def add_group(self, queue: Any, name: str, start: Start) -> Group:
        """A durable group that this topic feeds. A new one first gets what it asked for."""
        group = self.groups.get(name)
        if group is not None:
            group.queue = queue
            return group
        self._groups_ever += 1
        group = self.groups[name] = Group(queue, name, self._groups_ever)
        reader = Reader(self.kept.next_seq)
        cut_off = self.copies.pop(name, None)
        if cut_off is None:
            exact = not has_wildcard(name.partition("@")[0])
            self._aim(reader, exact or start == "all", start)
            if start not in ("all", "last"):
                reader.retained = 0
        else:
            reader.next, reader.low = cut_off["next"], cut_off["low"]
            reader.history_from = cut_off["history_from"]
            reader.floor = reader.until = cut_off["until"]
            if cut_off["takes"] and self.taker is None:
                reader.takes = True
                self.taker = reader
        if reader.wants_something:
            group.copy = reader
            self.due[reader] = None
            self.turn.change().state = True
        return group

    def remove_group(self, name: str) -> None:
        group = self.groups.pop(name, None)
        if group is not None:
            group.removed = True
        if self.copies.pop(name, None) is not None:
            self.turn.change().state = True
        if group is not None and group.copy is not None:
            if self.taker is group.copy:
                self.taker = None
            self.due.pop(group.copy, None)
            self.turn.change().state = True

    def copied(self, page: Copying, error: "ClientError | None", now: float) -> None:
        """A group has its page, or could not take it: then it is tried again a little later."""
        self.turn.change()
        group = self.groups.get(page.group.name)
        if error is None:
            self.kept.take(page.taken, None)
        if group is None or group.copy is None or group.number != page.group.number:
            return
        group.copy.busy = group.given = False
        if error is None:
            group.copy.next = group.copy.wanted + 1
            self.turn.change().state = True
            self.due[group.copy] = None
        else:
            group.retry_at = now + COPY_AGAIN_S

    def copies_in_hand(self) -> dict[str, dict[str, int]]:
        """Of groups that do not have all yet, for a restart."""
        copies = dict(self.copies)
        for name, group in self.groups.items():
            if group.copy is not None:
                copies[name] = {
                    "next": group.copy.next,
                    "until": group.copy.until,
                    "low": group.copy.low,
                    "history_from": group.copy.history_from,
                    "takes": int(group.copy.takes),
                }
        return copies

    # -- what is published ------------------------------------------------------------------

    def publish(self, run: Run) -> None:
        """This is released: to those who are live, and later to those who are reading."""
        if self.live:
            self.turn.deliveries.append((run, self.live))
        for sub in self.readers:
            if not sub.will_read(run):
                sub.hold(run)
                self.turn.change().subs[sub.port] = None

    def released_to(self, seq: int) -> None:
        """What is kept up to this seq is released: who waited for it may go on."""
        self.released = seq
        if self.readers or self.groups:
            self.due.update(dict.fromkeys(self.readers))
            self.due.update({g.copy: None for g in self.groups.values() if g.copy is not None})

    def left_history(self, runs: "Iterable[range]") -> None:
        backlog = self.kept.backlog
        for run in runs:
            for sub in self.readers:
                if sub.takes and backlog:  # what is there too still comes
                    for seq in run:
                        if seq not in backlog:
                            sub.lost(range(seq, seq + 1))
                else:
                    sub.lost(run)
                self.turn.change().subs[sub.port] = None

    def history_is_off(self) -> None:
        for sub in self.readers:
            sub.history_from = 0
            sub.until = sub.until or self.kept.next_seq

    # -- replay -----------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        for group in self.groups.values():
            if group.copy is not None and 0 < group.retry_at <= now:
                group.retry_at = 0.0
                self.due[group.copy] = None

    def go_on(self) -> None:
        """End of a turn: readers that may read on do so, and those at the end are live."""
        due, self.due = self.due, {}
        groups = {g.copy: g for g in self.groups.values() if g.copy is not None}
        for reader in due:
            if not reader.busy:
                self._advance(reader, groups.get(reader))

    def _advance(self, reader: Reader, group: Group | None) -> None:
        if group is not None and group.retry_at:
            return
        seqs, more = reader.page(self.kept.backlog, self.kept.history, self.released)
        complete = self.released >= reader.floor - 1
        if seqs:
            if not more and complete and not reader.until:
                reader.until = self.released + 1  # it joins: from here on all is held for it
            reader.busy = True
            reader.wanted = seqs[-1]
            if isinstance(reader, Sub):
                self.turn.change().subs[reader.port] = None
            self.turn.change().pages.append((reader, seqs))
        elif not complete or self.released < reader.until - 1:
            return  # it goes on when more is released
        elif group is not None:
            group.copy = None
            if self.taker is reader:
                self.taker = None
            self.turn.change().caught_up.append(group)
            self.turn.change().state = True
        elif isinstance(reader, Sub):
            self._join(reader)

    def _join(self, sub: Sub) -> None:
        """It has read all that it was to read: what was held, and then it is live."""
        sub.count_gone()
        if sub.missed or sub.claimed:
            self.turn.deliveries.append(Handing(sub.port, missed=sub.missed, page=sub.claimed))
            sub.missed, sub.claimed = 0, False
        for run in sub.let_go():
            self.turn.deliveries.append((run, (sub.port,)))
        sub.live = True
        del self.readers[sub]
        self._live = None
        self.turn.change().subs[sub.port] = None
        self._end_taking(sub)

    def loaded(self, reader: Reader, messages: list[Message], upto: int, stamp: "Stamp") -> None:
        """A page has come: its messages, rising, of all the wanted seqs up to `upto`."""
        group = next((g for g in self.groups.values() if g.copy is reader), None)
        if group is None and not (isinstance(reader, Sub) and reader in self.readers):
            return  # it has left
        reader.busy = False
        reader.count_gone([m.seq for m in messages] if reader.gone else ())
        expired = [m.seq for m in messages if m.expires and m.expires <= stamp.wall]
        if expired:
            self.kept.counts.expired += len(expired)
            if reader.takes:
                self.kept.take(expired, "expired")
            messages = [m for m in messages if not m.expires or m.expires > stamp.wall]
        if reader.since:
            messages = [
                m
                for m in messages
                if published_at(m.wire) >= reader.since or m.seq == reader.retained
            ]
        taken = [m.seq for m in messages if m.seq in self.kept.backlog] if reader.takes else []
        if group is not None and messages:
            # it goes on from there when the group has the page: until then a restart gives it
            # that once more
            reader.busy = group.given = True
            self.turn.change().copies.append(Copying(group, messages, taken))
            return
        reader.next = upto + 1
        self.due[reader] = None
        if group is not None:
            self.turn.change().state = True
        elif isinstance(reader, Sub):
            self._hand(reader, messages, upto, taken)

    def _hand(self, sub: Sub, messages: list[Message], upto: int, taken: list[int]) -> None:
        """Give a page to a subscription, and what was held for it at its places in between."""
        self.turn.change().subs[sub.port] = None
        while messages and 0 < sub.next_held <= messages[-1].seq:
            position = sub.next_held
            before = [m for m in messages if m.seq < position]
            if before:
                self._hand_piece(sub, before, [s for s in taken if s < position])
                messages = messages[len(before) :]
                taken = [s for s in taken if s >= position]
            for run in sub.let_go(position):
                self.turn.deliveries.append((run, (sub.port,)))
        self._hand_piece(sub, messages, taken, page=True)
        sub.claimed = False
        if not sub.until:
            for run in sub.let_go(upto + 1):
                self.turn.deliveries.append((run, (sub.port,)))

    def _hand_piece(
        self, sub: Sub, messages: list[Message], taken: list[int], *, page: bool = False
    ) -> None:
        if taken:
            sub.pieces += 1
        self.turn.deliveries.append(Handing(sub.port, messages, taken, sub.missed, page))
        sub.missed = 0

    # -- after a crash ----------------------------------------------------------------------

    def restore(self, subs: "Iterable[Sub]", groups: "Iterable[Group]") -> None:
        """Those that were here, as they were after the last whole turn."""
        for snapshot in subs:
            sub = snapshot.restored()
            self.subs[sub.port] = sub
            if sub.takes and (not sub.live or sub.pieces > 0):
                self.taker = sub
            if not sub.live:
                self.readers[sub] = None
                self.due[sub] = None
        for group in groups:
            group = self.groups[group.name] = group.snapshot()
            self.copies.pop(group.name, None)  # it has its own
            self._groups_ever = max(self._groups_ever, group.number)
            if group.copy is not None:
                self.due[group.copy] = None
                if group.copy.takes:
                    self.taker = group.copy


def published_at(wire: bytes) -> bytes:
    """RFC 3339 in UTC, of one width: these compare as their times do."""
    start = wire.index(_AT) + len(_AT)
    return wire[start : wire.index(b'"', start)]
