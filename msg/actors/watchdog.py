"""Watchdog: notices when an actor has not taken its mail for 5 s, and how late the loop is.

Owns   what it saw of each mailbox a second ago.
Hears  nobody; it looks at counters that the mailboxes keep anyway.
Tells  the log, once when an actor gets stuck (with the tree and its await stack) and once
       when it moves again.
Ends   when cancelled.

A loop that does not turn at all cannot be noticed from inside of it: `msg.daemon.stall` has
a thread for that.
"""

from typing import TYPE_CHECKING, Any

import trio

from msg.actors.tree import KEEP, describe, dump_tree, fold, senders_by_owner, stack_of, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from msg.actors.broker import Broker
    from msg.actors.mailbox import Mailbox

LOOK_S = 1.0
STUCK_S = 5.0
SLICE = 500  # mailboxes looked at in one turn


class Watchdog:
    """See the module. `stuck` is read by dumps: name -> since when (monotonic)."""

    def __init__(self) -> None:
        self.stuck: dict[str, float] = {}
        self.lag_s = 0.0  # how late the last look was
        self.lag_max_s = 0.0  # the latest ever
        self._told_full = False
        self._seen: dict[Mailbox[Any], tuple[int, float]] = {}  # taken, since when

    async def run(self, broker: "Broker") -> None:
        while True:
            due = broker.context.world.now() + LOOK_S
            await trio.sleep(LOOK_S)
            self.lag_s = max(0.0, broker.context.world.now() - due)
            self.lag_max_s = max(self.lag_max_s, self.lag_s)
            await self.look(broker)
            self._tell_of_disk(broker)
            if broker.storekeeper.disk_full:
                with trio.move_on_after(LOOK_S / 2):  # a disk that hangs is not waited for
                    await broker.storekeeper.recheck()

    async def look(self, broker: "Broker") -> None:
        """Compare each mailbox that holds something with how it was at the last look."""
        now = broker.context.world.now()
        seen: dict[Mailbox[Any], tuple[int, float]] = {}
        for i, mailbox in enumerate(_mailboxes(broker)):
            if i % SLICE == SLICE - 1:
                await trio.lowlevel.checkpoint()
            if mailbox.depth:
                taken, since = self._seen.get(mailbox, (-1, now))
                seen[mailbox] = (mailbox.taken, since if taken == mailbox.taken else now)
        self._seen = seen
        stuck = {m.owner: since for m, (_, since) in seen.items() if now - since >= STUCK_S}
        before, self.stuck = self.stuck, stuck
        log = broker.context.services.logger
        for name in before:
            if name not in stuck:
                log.info("actor moves again", actor=name, **_naming(name))
        new = [name for name in stuck if name not in before]
        if new:
            self._tell(broker, new, now)

    def _tell_of_disk(self, broker: "Broker") -> None:
        full = broker.storekeeper.disk_full
        if full == self._told_full:
            return
        self._told_full = full
        log = broker.context.services.logger
        if full:
            log.warning("disk full: durable publishes are refused, deliveries and acks go on")
        else:
            log.info("disk has room again")

    def _tell(self, broker: "Broker", names: list[str], now: float) -> None:
        log = broker.context.services.logger
        places = {place.name: place for place in walk(broker.root)}
        senders = senders_by_owner(list(places.values()))
        for name in names:
            place = places.get(name)
            row = describe(broker, place, senders) if place is not None else {}
            log.error(
                "actor stuck: it does not take its mail",
                actor=name,
                **_naming(name),
                seconds=round(now - self.stuck[name], 1),
                mailbox=row.get("mailbox"),
                waits_on=row.get("waits_on"),
                stack=stack_of(place.task) if place is not None else None,
            )
        log.warning("tree", why="actors are stuck", actors=fold(dump_tree(broker), KEEP))


def _mailboxes(broker: "Broker") -> "Iterator[Mailbox[Any]]":
    yield broker.storekeeper.commits
    yield broker.storekeeper.reads
    yield broker.directory.mailbox
    yield from [queue.mailbox for queue in broker.directory.queues.values()]
    yield from [topic.mailbox for topic in broker.directory.topics.values()]


def _naming(actor: str) -> dict[str, Any]:
    """The field by which a person greps: `queue=jobs`, `conn=7`."""
    kind, _, rest = actor.partition(" ")
    if kind == "connection" and rest.isdecimal():
        return {"conn": int(rest)}
    return {kind: rest} if kind in ("queue", "topic") and rest else {}
