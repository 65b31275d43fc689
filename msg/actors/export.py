"""All of a queue's messages, page by page by seq, while it is served: for a backup.

A page is by seq and not by position, so it stays right while messages come and go. Bodies are
the bytes that came in; nothing is decoded.
"""

from typing import TYPE_CHECKING

import msgspec

from msg.actors.asking import PAGE_BYTES, Row, ask, option, queue_of
from msg.actors.peek import read_messages
from msg.core.message import DURABILITY_NAMES, PRIORITY, Message

if TYPE_CHECKING:
    from msg.actors.context import Context
    from msg.actors.queue import QueueActor
    from msg.core import commands
    from msg.core.wire import Stamp

EXPORT_MAX = 1000  # messages in one page


async def export(context: "Context", question: "commands.Question") -> Row:
    """The live messages after the option `after`, in order of seq, in whatever state.

    `next` is what the following page begins after; without it there are no more.
    """
    queue = queue_of(context, question)
    after = option(question, "after", int, 0)
    most = min(question.n or EXPORT_MAX, EXPORT_MAX)

    def seqs_after(actor: "QueueActor", _: "Stamp") -> tuple[list[int], list[Message]]:
        logged: list[int] = []
        for run in actor.log.live_runs(after):
            logged += run[: most - len(logged)]
            if len(logged) >= most:
                break
        return logged, actor.estate.in_memory_after(after, most)

    logged, kept = await ask(queue, seqs_after)
    last = sorted([*logged, *[m.seq for m in kept]])[:most]
    wanted = set(last)
    messages = await read_messages(context, queue, [seq for seq in logged if seq in wanted])
    messages += [m for m in kept if m.seq in wanted]
    messages.sort(key=_seq)
    rows: list[msgspec.Raw] = []
    size = 0
    for message in messages:
        row = _row(message)
        size += len(row)
        if rows and size > PAGE_BYTES:
            break
        rows.append(msgspec.Raw(row))
        after = message.seq
    else:
        after = last[-1] if last else after  # also past those that were settled meanwhile
    return {"topic": queue.name, "messages": rows, "next": after if last else None}


def _seq(message: Message) -> int:
    return message.seq


def _row(message: Message) -> bytes:
    """One message with all that a later `import` needs."""
    facts = b'"seq":%d,"durability":"%b"' % (
        message.seq,
        DURABILITY_NAMES[message.durability].encode(),
    )
    if message.priority != PRIORITY:
        facts += b',"priority":%d' % message.priority
    if message.due:
        facts += b',"due":%b' % msgspec.json.encode(message.due)
    if message.expires:
        facts += b',"expires":%b' % msgspec.json.encode(message.expires)
    if message.attempts:
        facts += b',"attempts":%d' % message.attempts
    return b"{%b,%b}" % (facts, message.wire)
