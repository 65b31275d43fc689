"""What all questions share: their options, pages of long answers, and asking a queue."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import trio

from msg.actors.queue import Ask, Queue
from msg.actors.reply import Reply
from msg.core import commands
from msg.core.names import dead_name, group_address, is_dead
from msg.errors import ClientError

if TYPE_CHECKING:
    from msg.actors.context import Context
    from msg.actors.queue import QueueActor
    from msg.core.wire import Stamp

PAGE_BYTES = 512 << 10  # of a list in one answer: half of what a frame may have
SLICE = 200  # rows made in one turn

T = TypeVar("T")
Row = dict[str, Any]
Rows = Iterable[tuple[str, Callable[[], Row]]]


def option(question: commands.Question, name: str, kind: type[T], default: T) -> T:
    """One of a question's options, checked. A whole number does for a float."""
    value = (question.options or {}).get(name, default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if value is default or (isinstance(value, kind) and (kind is bool or value is not True)):
        return value
    raise ClientError("bad_field", f'the option "{name}" is {kind.__name__}, not {value!r}')


def texts(question: commands.Question, name: str) -> list[str]:
    """An option that is a list of texts."""
    value = option(question, name, list, [])
    if not all([isinstance(text, str) for text in value]):
        raise ClientError("bad_field", f'the option "{name}" is a list of texts')
    return value


def choice(question: commands.Question, name: str, among: Iterable[str], default: str) -> str:
    """An option that is one of a few words."""
    value = option(question, name, str, default)
    words = list(among)
    if value not in words:
        raise ClientError("bad_field", f'the option "{name}" is one of {", ".join(words)}')
    return value


async def paged(rows: Rows, cursor: str | None, *names: str) -> Row:
    """Lists of these names, filled from where `cursor` says; with a `cursor` if there is more."""
    try:
        start = int(cursor) if cursor else 0
    except ValueError:
        raise ClientError("bad_field", '"cursor" must be one that an answer gave') from None
    page: Row = {name: [] for name in names}
    size = 0
    for i, (name, make) in enumerate(rows):
        if i < start:
            continue
        if (i - start) % SLICE == SLICE - 1:
            await trio.lowlevel.checkpoint()
        row = make()
        size += len(msgspec.json.encode(row))
        if size > PAGE_BYTES and any([page[key] for key in names]):
            page["cursor"] = str(i)
            break
        page[name].append(row)
    return page


def rows_of(name: str, rows: Iterable[Row]) -> Rows:
    """Rows that are there already."""
    for row in rows:
        yield name, lambda row=row: row  # type: ignore[misc]


def address_of(question: commands.Question) -> str:
    """The queue or group that a question names."""
    if question.topic is None:
        raise ClientError("bad_field", 'name the queue in "topic"')
    if question.group is not None:
        return group_address(question.topic, question.group)
    return question.topic


def queue_of(context: "Context", question: commands.Question) -> Queue:
    """The queue that a question is about. Raises ClientError (not_found)."""
    name = address_of(question)
    queue = context.directory.find_queue(name)
    if queue is None:
        raise ClientError("not_found", f"there is no queue {name!r}")
    return queue


def dead_queue_of(context: "Context", question: commands.Question) -> Queue | None:
    """The dead queue of the queue that is named, or that itself; None if nothing died yet."""
    name = address_of(question)
    if is_dead(name):
        return queue_of(context, question)
    queue = context.directory.find_queue(dead_name(name))
    if queue is None:
        queue_of(context, question)  # a wrong name is an error, and no dead letters is none
    return queue


async def ask(queue: Queue, what: "Callable[[QueueActor, Stamp], Any]") -> Any:
    """Run `what` on the queue's actor between two of its turns."""
    reply: Reply[Any] = Reply(queue.mailbox.owner)
    if not queue.post(Ask(what, reply)):
        raise ClientError("not_found", f"queue {queue.name!r} has just ended")
    return await reply.wait()


class Slot:
    """A mailbox for one thing: what the storekeeper answers to somebody who is no actor."""

    def __init__(self) -> None:
        self.reply: Reply[Any] = Reply("store")

    def post(self, item: Any) -> bool:
        self.reply.set(item)
        return True
