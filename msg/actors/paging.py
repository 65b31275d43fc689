"""Paging: how what a topic kept comes from the log, a page at a time, for those who read it.

A subscriber's page is read when its port has reserved room for it, a few pages at a time for
one topic. Nothing here waits: room and pages come back as mail.
"""

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from msg.actors.storekeeper import Fetched
from msg.core.audience import published_at
from msg.core.replay import PAGE_BYTES, Reader, Sub
from msg.store.records import seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from msg.actors.mailbox import Mailbox
    from msg.actors.ports import TopicPort
    from msg.actors.storekeeper import Storekeeper
    from msg.core.message import Message
    from msg.store.log import Log, ReadPlan

READS_MAX = 4  # pages of one topic that are read at one time
SAMPLE = 512  # of so many messages one is read at the start, for its time


@attrs.frozen(eq=False)
class Roomy:
    """A port has reserved room for the next page of a replay."""

    port: "TopicPort"


@attrs.frozen(eq=False)
class Loaded:
    """A page of which nothing needs to be read from the disk."""

    reader: Reader
    seqs: list[int]


class Pages:
    """The pages that one incarnation of a topic reads."""

    def __init__(self, mailbox: "Mailbox[Any]", storekeeper: "Storekeeper") -> None:
        self._mailbox = mailbox
        self._storekeeper = storekeeper
        self._reads: dict[ReadPlan, tuple[Reader, list[int]]] = {}
        self._later: deque[tuple[Reader, list[int]]] = deque()

    @property
    def under_way(self) -> int:
        return len(self._reads)

    def claim(self, sub: Sub) -> bool:
        """Have room reserved in a subscriber's port; False: `Roomy` will tell."""
        port: Any = sub.port
        sub.claimed = port.claim(PAGE_BYTES, partial(self._mailbox.post, Roomy(port)))
        return sub.claimed

    def read(
        self, reader: Reader, seqs: list[int], log: "Log", memory: "dict[int, Message]"
    ) -> None:
        """This page is to be read, now or after others."""
        self._later.append((reader, seqs))
        self.go_on(log, memory)

    def go_on(self, log: "Log", memory: "dict[int, Message]") -> None:
        while self._later and len(self._reads) < READS_MAX:
            reader, seqs = self._later.popleft()
            plan = log.plan_read_seqs([s for s in seqs if s not in memory] if memory else seqs)
            if plan is None:
                self._mailbox.post(Loaded(reader, seqs))
                continue
            self._reads[plan] = (reader, seqs)
            self._storekeeper.read(plan, self._mailbox, ahead=False)

    def fetched(
        self, mail: Fetched, log: "Log", memory: "dict[int, Message]"
    ) -> "tuple[Reader, list[Message], int] | None":
        """Whose page it is, its messages, and up to which seq it is complete; None for one of
        the last incarnation."""
        plan = mail.plan
        asked = self._reads.pop(plan, None)
        if asked is None:
            return None
        if mail.error is not None:
            raise mail.error  # an unreadable segment: the restart reads it anew, or fails
        reader, seqs = asked
        messages = log.parse_read(plan, mail.blobs)
        # one that was copied ahead meanwhile is found by the next plan
        whole = plan.after >= plan.extents[-1].seqs[-1]
        upto = seqs[-1] if whole else max(plan.after, seqs[0] - 1)
        if memory:
            here = [memory[seq] for seq in seqs if seq <= upto and seq in memory]
            messages = sorted([*messages, *here], key=_seq)
        return reader, messages, upto

    async def kept_runs(
        self, log: "Log", memory: "Iterable[Message]", other_mail: list[Any]
    ) -> list[tuple[int, list[int], float]]:
        """What is kept, as runs with their sizes and a time, which is read from the last
        message of each. Mail that comes meanwhile goes into `other_mail`."""
        runs: list[tuple[int, list[int]]] = []
        for live in log.live_runs():
            for first in range(live.start, live.stop, SAMPLE):
                run = range(first, min(first + SAMPLE, live.stop))
                runs.append((first, [n for p in log.index.places(run) for n in p.lengths]))
        times: dict[int, float] = {}
        plan = log.plan_read_seqs([first + len(sizes) - 1 for first, sizes in runs])
        if plan is not None:
            self._storekeeper.read(plan, self._mailbox, ahead=False)
            fetched = await self._answer_to(plan, other_mail)
            if fetched.error is not None:
                raise fetched.error
            for message in log.parse_read(plan, fetched.blobs):
                times[message.seq] = seconds(published_at(message.wire))
        out: list[tuple[int, list[int], float]] = []
        at = 0.0
        for first, sizes in runs:
            at = times.get(first + len(sizes) - 1, at)
            out.append((first, sizes, at))
        for message in memory:
            out.append((message.seq, [len(message.wire)], seconds(published_at(message.wire))))
        out.sort(key=_first)
        return out

    async def _answer_to(self, plan: "ReadPlan", other_mail: list[Any]) -> Fetched:
        fetched: Fetched | None = None
        while fetched is None:
            for mail in await self._mailbox.take():
                if isinstance(mail, Fetched) and mail.plan is plan:
                    fetched = mail
                else:
                    other_mail.append(mail)
        return fetched


def _seq(message: "Message") -> int:
    return message.seq


def _first(run: tuple[int, list[int], float]) -> int:
    return run[0]
