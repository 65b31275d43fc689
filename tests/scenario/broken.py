"""Brokers that are broken on purpose: each breaks one promise, by a change that a bug could be.

Each names the shipped scenario that must catch it, and what the checker must call it. The
test fails when the scenario holds on the broken broker.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import pytest

from msg.actors.connection import Connection
from msg.actors.ports import TopicPort
from msg.actors.queue import QueueActor
from msg.core.dedup import NEW, DedupWindow
from msg.core.intake import Intake
from msg.core.leases import Leases
from msg.core.ready import Lane
from msg.core.waiting import Waiting
from msg.store import records
from msg.store.log import Log
from msg.store.simdisk import SimFile

if TYPE_CHECKING:
    from msg.core.message import Message

Patch = Callable[[pytest.MonkeyPatch], None]


@attrs.frozen
class Broken:
    """One broken broker: how, the scenario that catches it, and by which violation."""

    patch: Patch
    scenario: str
    kind: str


BROKEN: dict[str, Broken] = {}


def caught_by(scenario: str, kind: str) -> Callable[[Patch], Patch]:
    def enter(patch: Patch) -> Patch:
        BROKEN[patch.__name__] = Broken(patch, scenario, kind)
        return patch

    return enter


# -- promises to publishers -----------------------------------------------------------------


@caught_by("power-cut", "lost")
def acks_early(patch):
    """A publish is acked before it is written."""
    answer = Intake._answer
    patch.setattr(Intake, "_answer", lambda self, batch, *, waits: answer(self, batch, waits=False))


@caught_by("power-cut", "duplicate")
def never_syncs(patch):
    """The kernel has it: called stored. Survives kill -9, and no power cut."""
    patch.setattr(SimFile, "datasync", lambda self: None)


@caught_by("fsync-error", "exit")
def goes_on_after_a_failed_sync(patch):
    """Swallows the error and counts the second try, which says nothing."""
    datasync = SimFile.datasync

    def try_again(self):
        try:
            datasync(self)
        except OSError:
            datasync(self)

    patch.setattr(SimFile, "datasync", try_again)


@caught_by("lost-acks", "duplicate")
def forgets_the_ids(patch):
    """A publish that is sent again is another message."""
    patch.setattr(DedupWindow, "seen", lambda *_: NEW)


@caught_by("flood", "lost")
def drops_from_a_full_queue_in_silence(patch):
    """Takes what it has no room for, and throws away the oldest."""

    def drop(self, batch, stamp):
        for message in self.waiting.take_oldest(len(batch.items)):
            self.books.counts.dropped += 1
            self.books.drop([message], "no room")

    patch.setattr(Intake, "_room", drop)


# -- promises to consumers ------------------------------------------------------------------


@caught_by("consumer-crash", "lost")
def loses_on_disconnect(patch):
    """What a consumer held goes with it."""

    def detach(self, port, handed, stamp):
        consumer = self.consumers.by_port.get(port)
        if consumer is not None:
            self.consumers.remove(consumer)
            self.consumers.leased -= len(consumer.leases)
            self.books.settle(list(consumer.leases.values()))
            consumer.leases.clear()

    patch.setattr(Leases, "detach", detach)


@caught_by("leaving-consumer", "lost")
def loses_what_was_on_its_way(patch):
    """What was leased last when its consumer left, and so may not have come there, is forgotten.

    In the simulation a write that fails counts as handed over whole, so which of it was on its way
    cannot be told there; tests/actors/test_direct_writes.py does so on sockets."""
    detach = Leases.detach

    def forget(self, port, handed, stamp):
        consumer = self.consumers.by_port.get(port)
        if consumer is not None and consumer.leases:
            last = consumer.leases.pop(next(reversed(consumer.leases)))
            self.consumers.leased -= 1
            self.books.settle([last])
        detach(self, port, handed, stamp)

    patch.setattr(Leases, "detach", forget)


@caught_by("half-open", "not drained")
def trusts_a_silent_connection(patch):
    """Missed heartbeats cut nobody."""
    check_up = Connection._check_up

    def trust(self):
        self.limits = attrs.evolve(self.limits, heartbeats_missed=1 << 30)
        return check_up(self)

    patch.setattr(Connection, "_check_up", trust)


@caught_by("frozen-broker", "duplicate")
def lets_leases_run_while_it_stands_still(patch):
    """A stall of the broker's own is taken from its consumers' time."""
    patch.setattr(Leases, "extend", lambda self, seconds: None)


@caught_by("bit-flip", "phantom")
def does_not_look_at_checksums(patch):
    """A record that can be parsed is taken to be sound."""
    pub_of = records.pub_of

    def trust(seed, line):
        return pub_of(seed, records.close_line(seed, line[: -records.CRC_BYTES])[:-1])

    patch.setattr(records, "line_is_sound", lambda seed, line: True)
    patch.setattr(records, "pub_of", trust)


@caught_by("hung-consumer", "not drained")
def never_redelivers(patch):
    """No deadline ends a lease."""
    patch.setattr(Leases, "expire", lambda self, stamp: None)


@caught_by("queue-crash", "two holders")
def redelivers_to_two(patch):
    """A queue that comes back from a crash does not ask who holds what."""
    patch.setattr(QueueActor, "_held", lambda self, log: {})


@caught_by("consumer-crash", "two holders")
def ends_leases_too_soon(patch):
    """A deadline of milliseconds where seconds were promised."""
    written = Leases.written

    def hasty(self, port, messages, at):
        written(self, port, messages, at - 29.996)  # of the 30 s that there are

    patch.setattr(Leases, "written", hasty)


@caught_by("giving-back", "attempts")
def forgets_the_attempt_count(patch):
    """A message that comes back has never been tried."""
    give_back = Leases._return

    def blank(self, message, *args, **kwargs):
        message.attempts = 0
        give_back(self, message, *args, **kwargs)

    patch.setattr(Leases, "_return", blank)


@caught_by("stalled-link", "disorder")
def reorders(patch):
    """Takes the youngest of the line first."""

    def take(self, most, room):
        taken: list[Message] = []
        while self.fifo and len(taken) < most:
            taken.append(self.fifo.pop())
        size = sum(len(m.wire) for m in taken)
        self.bytes -= size
        return taken, size

    patch.setattr(Lane, "take", take)


@caught_by("kill-and-restart", "duplicate")
def forgets_acks(patch):
    """Acks are confirmed and not written."""
    patch.setattr(Log, "settle", lambda self, seqs: None)


@caught_by("power-cut", "undurable")
def delivers_what_is_not_stored(patch):
    """A message goes to a consumer while it is being written."""
    keep = Intake._keep

    def hurry(self, batch, messages, ids, size, stamp):
        keep(self, batch, messages, ids, size, stamp)
        early = [m for m in messages if self.committing.pop(m.seq, None) is not None]
        self.waiting.enter(early, stamp)

    patch.setattr(Intake, "_keep", hurry)


@caught_by("delayed", "early")
def delivers_before_it_is_due(patch):
    """Delays are forgotten."""
    patch.setattr(Waiting, "_delay_some", lambda self, messages, stamp: messages)


# -- promises to subscribers ----------------------------------------------------------------


@caught_by("slow-subscriber", "lost")
def drops_on_overflow_in_silence(patch):
    """A slow subscriber is not told what it missed."""
    drop = TopicPort._drop

    def quietly(self):
        drop(self)
        self._missed = 0

    patch.setattr(TopicPort, "_drop", quietly)
