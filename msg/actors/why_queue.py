"""Why a queue or a group stands still: its causes, the gravest first.

Each function looks at one thing and names at most a few causes. They only read.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from msg.actors.causes import Cause
from msg.actors.glance import (
    connection_numbers,
    failing,
    leases,
    ledger_of,
    next_due,
    parked,
    ready_in_memory,
    suspects,
)
from msg.core.names import dead_name, is_dead, parent_of
from msg.core.units import clock, count, seconds, size

if TYPE_CHECKING:
    from msg.actors.broker import Broker
    from msg.actors.queue import Queue
    from msg.core.credit import Consumer
    from msg.core.ledger import QueueLedger

COMMIT_SLOW_S = 1.0
NAMES_MAX = 5  # consumers that are named in one sentence


def why_queue(broker: "Broker", queue: "Queue", *, deep: bool = True) -> list[Cause]:
    """All that keeps this queue from moving, or is worth knowing of it. Without `deep` what
    takes a search is left out: for a page that shows hundreds."""
    causes = list(_actor(broker, queue))
    ledger = ledger_of(queue)
    if ledger is None or queue.restarts.failed:
        return causes
    causes += _stopped(queue, ledger)
    causes += _store(broker, queue)
    causes += _consumers(broker, queue, ledger)
    causes += _held(broker, queue, ledger, deep)
    causes += _limits(broker, queue, ledger)
    causes += _waiting(broker, ledger)
    causes += _trouble(broker, queue, ledger)
    return causes


def _actor(broker: "Broker", queue: "Queue") -> Iterator[Cause]:
    name, restarts = queue.name, queue.restarts
    if restarts.failed:
        yield Cause(
            "stuck", "failed",
            f'The actor of queue "{name}" failed {count(restarts.count, "time")}, last with'
            f" {restarts.last_error}, and is out of service; what it holds is safe on disk.",
            f"Look for queue={name} in the log and report it; a restart of the broker tries again.",
        )  # fmt: skip
        return
    if ledger_of(queue) is None:
        yield Cause("slow", "starting", f'Queue "{name}" is reading its log and will serve soon.')
        return
    stuck = broker.watchdog.stuck.get(queue.mailbox.owner)
    if stuck is not None:
        now = broker.context.world.now()
        yield Cause(
            "stuck", "takes_no_mail",
            f"Its actor has not taken its mail for {seconds(now - stuck)}:"
            f" {count(queue.mailbox.depth, 'item waits', 'items wait')} there.",
            "`trio-msg tree --stacks` shows where it stands; that is a bug to report.",
        )  # fmt: skip
    elif restarts.count:
        yield Cause(
            "note", "restarted",
            f"Its actor crashed {count(restarts.count, 'time')} and was started again, last after"
            f" {restarts.last_error}; nothing was lost.",
            "The log has the traceback; report it.",
        )  # fmt: skip


def _stopped(queue: "Queue", ledger: "QueueLedger") -> Iterator[Cause]:
    if ledger.paused:
        waiting = ledger.states()["ready"]
        yield Cause(
            "stuck" if waiting else "note", "paused",
            f"It is paused: nothing is handed out, {_waits(waiting)}.",
            f"`trio-msg resume {queue.name}`",
        )  # fmt: skip
    if ledger.draining:
        yield Cause(
            "slow", "draining",
            "The broker is stopping: nothing is handed out any more, acks are still taken.",
        )  # fmt: skip
    elif ledger.closed:
        yield Cause("stuck", "closed", f"{ledger.closed[0].upper()}{ledger.closed[1:]}.")


def _store(broker: "Broker", queue: "Queue") -> Iterator[Cause]:
    world = broker.context.world
    actor = queue.actor
    in_flight = actor.estate.commits.in_flight if actor is not None else None
    if in_flight is not None and in_flight.job is not None:
        took = world.now() - in_flight.job.since
        if took >= COMMIT_SLOW_S:
            n = len(in_flight.logged)
            yield Cause(
                "stuck", "disk_slow",
                f"The disk has not finished a commit of this queue for {seconds(took)};"
                f" {count(n, 'publish waits', 'publishes wait')} for it unanswered.",
                "Look at the disk (iostat -x 1, dmesg); `trio-msg tree` shows who else waits.",
            )  # fmt: skip
    if broker.storekeeper.disk_full:
        yield Cause(
            "stuck", "disk_full",
            "The store takes no publishes because the disk is full; what is there is still"
            " handed out and acked.",
            "Free some space on the data directory's disk: it recovers by itself.",
        )  # fmt: skip


def _consumers(broker: "Broker", queue: "Queue", ledger: "QueueLedger") -> Iterator[Cause]:
    ready = ledger.states()["ready"]
    consumers = list(ledger.consumers.values())
    if not consumers:
        if is_dead(queue.name):
            if ready:
                parent = parent_of(queue.name)
                yield Cause(
                    "note", "dead_letters",
                    f'It holds the {count(ready, "dead letter")} of queue "{parent}", for a'
                    " person to look at.",
                    f"`trio-msg dead list {parent}`, then `dead retry` or `dead drop`",
                )  # fmt: skip
            return
        yield Cause(
            "stuck" if ready else "note", "no_consumers",
            f"No consumer is attached; {_waits(ready)}."
            if ready else "No consumer is attached, and nothing waits.",
            f"Start one: `trio-msg work {queue.name} -- COMMAND`, or look at why yours does not"
            " connect." if ready else "",
        )  # fmt: skip
        return
    if not ready or ledger.paused or ledger.draining:
        return
    hung = [c for c in consumers if c.suspended]
    unread = [c for c in consumers if not c.suspended and c.port.room <= 0]
    full = [c for c in consumers if c.credit <= 0 and c not in hung and c not in unread]
    able = len(consumers) - len(hung) - len(unread) - len(full)
    level = "slow" if able else "stuck"
    numbers = connection_numbers(broker)
    if hung:
        yield Cause(
            level, "consumer_hung",
            f"{_named(hung, numbers)} let a lease expire and get nothing new until they ack,"
            " nack or touch something." if len(hung) > 1 else
            f"{_named(hung, numbers)} let a lease expire and gets nothing new until it acks, nacks"
            " or touches something.",
            "Restart that consumer; ask for a longer ack_timeout, or touch, if work takes long.",
        )  # fmt: skip
    if unread:
        waits = sum([getattr(c.port, "bytes", 0) for c in unread])
        yield Cause(
            level, "consumer_unread",
            f"{_named(unread, numbers)} {'do' if len(unread) > 1 else 'does'} not read from the"
            f" connection: {size(waits)} wait to be sent.",
            "See what that client is busy with; `trio-msg why` on its connection says more.",
        )  # fmt: skip
    if full and not able:
        held = sum([len(c.leases) for c in full])
        every = "The only consumer is" if len(consumers) == 1 else (
            ("Both" if len(full) == 2 else f"All {len(full)}") + " consumers are"
            if len(full) == len(consumers) else f"The other {len(full)} consumers are")  # fmt: skip
        yield Cause(
            "slow", "at_prefetch",
            f"{every} at the prefetch: {count(held, 'message')} held unsettled,"
            f" {_waits(ready)}.",
            "Add consumers, raise their prefetch, or see what the longest held one is doing:"
            f" `trio-msg held {queue.name}`",
        )  # fmt: skip


def _waits(number: int) -> str:
    return count(number, "message waits", "messages wait")


def _named(consumers: "list[Consumer]", numbers: dict[object, int]) -> str:
    """`"worker-a" (connection 12), "worker-b" and 3 more`."""
    texts = []
    for consumer in consumers[:NAMES_MAX]:
        number = numbers.get(getattr(consumer.port, "outbox", None))
        where = f" (connection {number})" if number is not None else ""
        texts.append(f'"{consumer.name}"{where}')
    if len(consumers) > NAMES_MAX:
        texts.append(f"{len(consumers) - NAMES_MAX} more")
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _held(broker: "Broker", queue: "Queue", ledger: "QueueLedger", deep: bool) -> Iterator[Cause]:
    if not ledger.leased:
        return
    now = broker.context.world.now()
    found = leases(broker, queue, exact=deep)
    if not found:
        return
    head = found[0]
    held_s = now - head.since if head.since is not None else None
    until = head.until
    late = bool(held_s is not None and until and held_s > head.consumer.ack_timeout / 2)
    text = f"{count(len(found), 'message is', 'messages are')} leased"
    text += f"; the longest held by {_named([head.consumer], connection_numbers(broker))}"
    if held_s is not None:
        text += f" for {seconds(held_s)}{'' if head.exact else ' at least'}"
    if until:
        text += f", deadline in {seconds(until - now)}."
    elif head.consumer.ack_timeout:
        text += ", its frame not yet written."
    else:
        text += ", until it acks or disconnects (no deadline)."
    stuck = ledger.states()["ready"] and not any([c.credit > 0 for c in ledger.consumers.values()])
    yield Cause(
        "slow" if late and stuck else "note", "leased", text,
        f"`trio-msg held {queue.name}` lists them all." if len(found) > 1 or late else "",
    )  # fmt: skip


def _limits(broker: "Broker", queue: "Queue", ledger: "QueueLedger") -> Iterator[Cause]:
    settings = ledger.settings
    gauge = ledger.dead_gauge
    held = ledger.live + gauge.messages
    waiting, until = parked(ledger)
    which = ""
    if settings.max_messages and held >= settings.max_messages:
        which = f"max_messages ({settings.max_messages:,})"
    elif settings.max_bytes and ledger.bytes + gauge.bytes >= settings.max_bytes:
        which = f"max_bytes ({size(settings.max_bytes)})"
    elif settings.max_memory_bytes and ledger.memory_bytes >= settings.max_memory_bytes:
        which = f"max_memory_bytes ({size(settings.max_memory_bytes)})"
    if which:
        does = {
            "reject": f"publishes are refused, {ledger.counts.rejected:,} so far",
            "block": f"publishes wait, {waiting:,} now, and are refused after"
            f" {seconds(broker.context.settings.limits.parked_seconds)}",
            "drop_oldest": f"the oldest are dropped, {ledger.counts.dropped:,} so far",
        }[settings.overflow]
        dead = f", {gauge.messages:,} of them dead letters" if gauge.messages else ""
        yield Cause(
            "stuck" if settings.overflow != "drop_oldest" else "slow", "over_limit",
            f"It is at its limit {which} with {count(held, 'message')}{dead}: {does}.",
            "Consume from it, drop its dead letters, or raise the limit in the settings.",
        )  # fmt: skip
    elif waiting and until is not None:
        left = until - broker.context.world.now()
        yield Cause(
            "slow", "parked",
            f"{count(waiting, 'publish waits', 'publishes wait')} for room, the first for another"
            f" {seconds(left)}.",
        )  # fmt: skip
    elif ledger.counts.dropped:
        yield Cause(
            "note", "dropped",
            f"{count(ledger.counts.dropped, 'message was', 'messages were')} dropped because it was"
            " full.",
        )  # fmt: skip


def _waiting(broker: "Broker", ledger: "QueueLedger") -> Iterator[Cause]:
    states = ledger.states()
    due = next_due(ledger)
    if states["delayed"] and due is not None:
        world = broker.context.world
        at = world.wall() + due - world.now()
        again = failing(ledger)
        what = f"{again:,} of them failed before and wait for another attempt; " if again else ""
        yield Cause(
            "note", "delayed",
            f"{count(states['delayed'], 'message is', 'messages are')} delayed; {what}the next is"
            f" due at {clock(at)}, in {seconds(due - world.now())}.",
        )  # fmt: skip
    alone = suspects(ledger)
    if alone:
        yield Cause(
            "slow", "suspects",
            f"{count(len(alone), 'message')}, whose consumers died, can only go to a consumer that"
            " holds nothing.",
            f"Look at the first: `trio-msg trace {alone[0].id}`",
        )  # fmt: skip


def _trouble(broker: "Broker", queue: "Queue", ledger: "QueueLedger") -> Iterator[Cause]:
    head = next(ready_in_memory(ledger), None)
    if head is not None and head.attempts:
        most = ledger.settings.max_deliveries
        last = head.case[-1] if head.case else None
        reason = f': "{last.reason[:200]}"' if last is not None and last.reason else ""
        of = f" of {most}" if most and not is_dead(queue.name) else ""
        yield Cause(
            "note", "failing",
            f"The next message has failed {head.attempts}{of} attempts, the last by"
            f" {head.returned or 'a nack'}{reason}.",
            f"`trio-msg trace {head.id}`",
        )  # fmt: skip
    dead = broker.directory.queues.get(dead_name(queue.name))
    if dead is not None and dead.gauge.messages and not is_dead(queue.name):
        yield Cause(
            "note", "has_dead_letters",
            f"{count(dead.gauge.messages, 'message has', 'messages have')} died here:"
            f' see "{dead.name}".',
            f"`trio-msg dead list {queue.name}`",
        )  # fmt: skip
    states = ledger.states()
    if states["leaving"]:
        yield Cause(
            "note", "moving",
            f"{count(states['leaving'], 'message is', 'messages are')} on the way to another"
            " queue.",
        )  # fmt: skip
    if ledger.counts.expired:
        yield Cause(
            "note", "expired",
            f"{count(ledger.counts.expired, 'message')} reached the end of their ttl unread.",
        )  # fmt: skip
