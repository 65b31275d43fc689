"""The actor tree as text: for `trio-msg tree`, and for the dump in the log."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msg.core.units import count, seconds, size

Actor = Mapping[str, Any]

COLUMNS = ("actor", "state", "mailbox", "age", "handled", "what there is to know")
RIGHT = ("mailbox", "age", "handled")
SHOWN_S = 0.1  # shorter waits are a busy moment


def tree_lines(actors: Sequence[Actor]) -> Iterator[tuple[str, Actor]]:
    """Each actor with its indented name, children under their parents, in the given order.

    An actor whose parent is not there (paged away, just gone) stands at the top: a dump is
    for finding what is wrong, so it leaves nothing out.
    """
    names = {actor["name"] for actor in actors}
    children: dict[str, list[Actor]] = {}
    tops = []
    for actor in actors:
        parent = actor.get("parent")
        if isinstance(parent, str) and parent in names and parent != actor["name"]:
            children.setdefault(parent, []).append(actor)
        else:
            tops.append(actor)
    shown: set[str] = set()

    def walk(actor: Actor, before: str, joint: str, after: str) -> Iterator[tuple[str, Actor]]:
        yield before + joint + str(actor["name"]), actor
        if actor["name"] in shown:
            return
        shown.add(actor["name"])
        below = children.get(actor["name"], [])
        for child in below:
            last = child is below[-1]
            yield from walk(child, before + after, *(("└ ", "  ") if last else ("├ ", "│ ")))

    for actor in tops:
        yield from walk(actor, "", "", "")
    for actor in actors:  # a cycle of parents has no top
        if actor["name"] not in shown:
            yield from walk(actor, "", "", "")


def mailbox_text(actor: Actor) -> str:
    """Depth, room and who waits: `3/64`, `64/64 +2 waiting`, `-` where there is none."""
    mailbox = actor.get("mailbox")
    if not mailbox:
        return "-"
    text = f"{mailbox.get('depth', 0)}/{mailbox['room']}" if "room" in mailbox else str(
        mailbox.get("depth", 0))  # fmt: skip
    waiting = mailbox.get("waiting", 0)
    senders = len(waiting) if isinstance(waiting, list) else waiting
    return f"{text} +{senders} waiting" if senders else text


def facts_text(actor: Actor) -> str:
    """What else a row knows, in a few words; what is wrong first."""
    parts: list[str] = []
    for wait in actor.get("waits_on", ()):
        parts.append(f"waits {seconds(wait['since_s'])} on {wait['on']} for {wait['what']}")
    if actor.get("restarts"):
        parts.append(f"restarts {actor['restarts']}")
    if actor.get("last_error"):
        parts.append(str(actor["last_error"]))
    if actor.get("disk_full"):
        parts.append("disk full")
    for key in ("ready", "leased", "delayed", "dead"):
        if actor.get(key) and actor.get("kind") != "connection":
            parts.append(f"{actor[key]:,} {key}")
    if actor.get("kind") == "queue" and "consumers" in actor:
        parts.append(count(actor["consumers"], "consumer"))
    if "subscribers" in actor:
        parts.append(count(actor["subscribers"], "subscriber"))
    if actor.get("groups"):
        parts.append(count(actor["groups"], "group"))
    if actor.get("kept"):
        parts.append(f"{actor['kept']:,} kept")
    if "peer" in actor:
        name = f'"{actor["client"]}" ' if actor.get("client") else ""
        parts.append(f"{name}{actor['peer']}")
        if actor.get("leased") or actor.get("credit"):
            parts.append(f"holds {actor.get('leased', 0):,}, credit {actor.get('credit', 0):,}")
        if actor.get("unanswered"):
            parts.append(f"{actor['unanswered']:,} unanswered")
    if actor.get("outbound_bytes"):
        parts.append(f"{size(actor['outbound_bytes'])} to send")
    if actor.get("rounds"):
        parts.append(f"{actor['rounds']:,} rounds, the last {actor['last_round_s'] * 1000:.1f} ms")
    if actor.get("parked"):
        parts.append(f"{len(actor['parked'])} parked")
    return ", ".join(parts)


def row_of(name: str, actor: Actor) -> tuple[str, ...]:
    """One actor in the columns."""
    age = actor.get("age_s")
    handled = actor.get("handled")
    return (
        name,
        str(actor.get("state", "")),
        mailbox_text(actor),
        seconds(age) if age is not None else "",
        f"{handled:,}" if handled is not None else "",
        facts_text(actor),
    )


def notes_text(waits: Sequence[Mapping[str, Any]], knots: Sequence[str]) -> list[str]:
    """Who waits on whom, and what is wrong with it: lines below the tree."""
    long = [wait for wait in waits if wait["since_s"] >= SHOWN_S]
    lines = []
    if long:
        lines.append("who waits on whom:")
        lines += [
            f"  {wait['from']} -> {wait['to']}: {wait['what']}, {seconds(wait['since_s'])}"
            for wait in long
        ]
    lines += [f"! {knot}" for knot in knots]
    return lines


def waits_of(actors: Sequence[Actor]) -> list[dict[str, Any]]:
    """The edges that rows hold, the longest first."""
    waits = [
        {"from": actor["name"], "to": wait["on"], "what": wait["what"], "since_s": wait["since_s"]}
        for actor in actors
        for wait in actor.get("waits_on", ())
    ]
    return sorted(waits, key=lambda wait: -wait["since_s"])


def tree_text(
    actors: Sequence[Actor],
    waits: Sequence[Mapping[str, Any]] | None = None,
    knots: Sequence[str] = (),
) -> str:
    """The whole tree, one line an actor, in columns; stacks and waits below."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    stacks: list[tuple[str, ...]] = [()]
    for name, actor in tree_lines(actors):
        rows.append(row_of(name, actor))
        stacks.append(tuple(actor.get("stack") or ()))
    last = len(COLUMNS) - 1
    widths = [max(len(row[column]) for row in rows) for column in range(last)]
    lines = []
    for row, stack in zip(rows, stacks, strict=True):
        cells = [
            cell.rjust(width) if column in RIGHT else cell.ljust(width)
            for column, cell, width in zip(COLUMNS, row, widths, strict=False)
        ]
        lines.append("  ".join([*cells, row[last]]).rstrip())
        lines += [f"      {place}" for place in stack]
    return "\n".join([*lines, *notes_text(waits_of(actors) if waits is None else waits, knots)])
