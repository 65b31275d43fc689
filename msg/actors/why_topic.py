"""Why a topic's messages do not arrive: its causes. They only read."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from msg.actors.causes import Cause
from msg.actors.glance import called, connections_by_outbox, ledger_of
from msg.core.names import has_wildcard
from msg.core.units import count, seconds, size

if TYPE_CHECKING:
    from msg.actors.broker import Broker
    from msg.actors.connection import Connection
    from msg.actors.topic import Topic
    from msg.core.topic import TopicRules

NAMED_MAX = 5
COMMIT_SLOW_S = 1.0


def why_topic(broker: "Broker", topic: "Topic") -> list[Cause]:
    """All that keeps this topic from moving, or is worth knowing of it."""
    causes = list(_actor(broker, topic))
    rules: TopicRules | None = getattr(topic.actor, "rules", None)
    if rules is None or topic.restarts.failed:
        return causes
    causes += _store(broker, topic)
    causes += _heard(rules)
    causes += _subscribers(broker, rules)
    causes += _groups(rules)
    return causes


def _actor(broker: "Broker", topic: "Topic") -> Iterator[Cause]:
    name, restarts = topic.name, topic.restarts
    if restarts.failed:
        yield Cause(
            "stuck", "failed",
            f'The actor of topic "{name}" failed {count(restarts.count, "time")}, last with'
            f" {restarts.last_error}, and is out of service; what it keeps is safe on disk.",
            f"Look for topic={name} in the log and report it; a restart of the broker tries again.",
        )  # fmt: skip
        return
    if getattr(topic.actor, "rules", None) is None:
        yield Cause("slow", "starting", f'Topic "{name}" is reading its log and will serve soon.')
        return
    stuck = broker.watchdog.stuck.get(topic.mailbox.owner)
    if stuck is not None:
        now = broker.context.world.now()
        outgoing = topic.estate.outgoing if topic.estate is not None else ()
        if outgoing:
            group = outgoing[0][0].name
            yield Cause(
                "stuck", "waits_for_group",
                f'It waits for room in its group "{group}" and has taken no mail for'
                f" {seconds(now - stuck)}.",
                f"`trio-msg why {group}`",
            )  # fmt: skip
        else:
            yield Cause(
                "stuck", "takes_no_mail",
                f"Its actor has not taken its mail for {seconds(now - stuck)}:"
                f" {count(topic.mailbox.depth, 'item waits', 'items wait')} there.",
                "`trio-msg tree --stacks` shows where it stands; that is a bug to report.",
            )  # fmt: skip
    elif restarts.count:
        yield Cause(
            "note", "restarted",
            f"Its actor crashed {count(restarts.count, 'time')} and was started again, last after"
            f" {restarts.last_error}; nothing was lost.",
            "The log has the traceback; report it.",
        )  # fmt: skip


def _store(broker: "Broker", topic: "Topic") -> Iterator[Cause]:
    in_flight = topic.estate.commits.in_flight if topic.estate is not None else None
    if in_flight is not None and in_flight.job is not None:
        took = broker.context.world.now() - in_flight.job.since
        if took >= COMMIT_SLOW_S:
            yield Cause(
                "stuck", "disk_slow",
                f"The disk has not finished a commit of this topic for {seconds(took)};"
                f" {count(len(in_flight.logged), 'publish waits', 'publishes wait')} for it.",
                "Look at the disk (iostat -x 1, dmesg); `trio-msg tree` shows who else waits.",
            )  # fmt: skip
    if broker.storekeeper.disk_full:
        yield Cause(
            "slow", "disk_full",
            "Nothing can be kept because the disk is full; live subscribers are served.",
            "Free some space on the data directory's disk: it recovers by itself.",
        )  # fmt: skip


def _heard(rules: "TopicRules") -> Iterator[Cause]:
    backlog, most = rules.backlog.count, rules.settings.backlog_messages
    if rules.heard:
        if backlog and rules.taker is None:
            yield Cause(
                "note", "backlog_waits",
                f"{count(backlog, 'message is', 'messages are')} kept from when nobody listened,"
                ' for the first subscriber to this exact topic (or one with from="all").',
            )  # fmt: skip
        return
    full = most and backlog >= most
    kept = f"{count(backlog, 'message is', 'messages are')} kept (at most {most:,})"
    kept += " for who comes first"
    dropped = f", {rules.counts.dropped:,} were dropped" if rules.counts.dropped else ""
    yield Cause(
        "slow" if full else "note", "nobody_listens",
        f"Nobody listens: no subscription and no group matches it; {kept}{dropped}.",
        "Subscribe to it; a group (`--group NAME`) keeps everything while you are away.",
    )  # fmt: skip


def _subscribers(broker: "Broker", rules: "TopicRules") -> Iterator[Cause]:
    owners = connections_by_outbox(broker) if rules.subs else {}
    slow, recovered = [], 0
    behind = 0
    for port, sub in rules.subs.items():
        dropped = getattr(port, "dropped", 0)
        if dropped and getattr(port, "behind", False):
            slow.append((dropped, port))
        elif dropped:
            recovered += 1
        behind += not sub.live
    if slow:
        slow.sort(key=lambda entry: -entry[0])
        shown = []
        for dropped, port in slow[:NAMED_MAX]:
            owner = owners.get(getattr(port, "outbox", None))
            who = called(owner) if owner is not None else "a connection"
            waits = f"{getattr(port, 'count', 0):,} ({size(getattr(port, 'bytes', 0))}) wait"
            shown.append(f"{who}: {dropped:,} dropped, {waits}")
        more = f"; {len(slow) - NAMED_MAX} more" if len(slow) > NAMED_MAX else ""
        yield Cause(
            "slow", "slow_subscriber",
            f"{count(len(slow), 'subscriber does', 'subscribers do')} not keep up and lost messages"
            f" ({'; '.join(shown)}{more}). Publishers and the others do not wait for them.",
            f"`trio-msg why {_first(slow, owners)}` looks at it; a group keeps what a slow reader"
            " misses.",
        )  # fmt: skip
    if recovered:
        yield Cause(
            "note", "was_slow",
            f"{count(recovered, 'subscriber has', 'subscribers have')} lost messages before, and"
            f" {'keeps' if recovered == 1 else 'keep'} up now.",
        )  # fmt: skip
    if behind:
        yield Cause(
            "note", "replaying",
            f"{count(behind, 'subscriber is', 'subscribers are')} still reading what was kept.",
        )  # fmt: skip


def _first(slow: "list[tuple[int, Any]]", owners: "dict[object, Connection]") -> str:
    """The slowest one's connection number, for the command that looks at it."""
    owner = owners.get(getattr(slow[0][1], "outbox", None))
    return str(owner.number) if owner is not None else "CONNECTION"


def _groups(rules: "TopicRules") -> Iterator[Cause]:
    for name, group in rules.groups.items():
        if group.copy is not None:
            yield Cause(
                "note", "group_copies",
                f'Group "{name}" is being given what was kept before it was made.',
            )  # fmt: skip
        ledger = ledger_of(group.queue)
        if ledger is not None and not ledger.consumers and ledger.states()["ready"]:
            pattern = name.partition("@")[0]
            every = " (through its pattern)" if has_wildcard(pattern) else ""
            yield Cause(
                "slow", "group_alone",
                f'Group "{name}"{every} has no member; {count(ledger.states()["ready"], "message")}'
                " wait for one.",
                f"`trio-msg why {name}`",
            )  # fmt: skip
