"""`dead list|show|retry|edit|drop`: what is done with messages that failed too often."""

import json
import os
import shlex
import subprocess
import tempfile
from typing import Annotated, Any

import typer

from msg.cli.common import (
    URL,
    AsJson,
    Failed,
    Url,
    UsageError,
    ask_all,
    command,
    connect,
    counted,
    print_json,
    show_table,
    write_line,
)
from msg.cli.looking import plain, preview
from msg.cli.orders import Yes, confirm
from msg.daemon import exits
from msg.plain_client import PlainClient

dead_app = typer.Typer(no_args_is_help=True, help="Messages that failed too often: QUEUE.dead.")

Queue = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue where they died.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[MESSAGE_ID…]", help="Only these.")]
Reason = Annotated[str | None, typer.Option(help="The reason holds this text.")]
Consumer = Annotated[str | None, typer.Option(help="This consumer failed on it.")]
Contains = Annotated[str | None, typer.Option(help="The body's JSON holds this text.")]
Older = Annotated[str | None, typer.Option(metavar="TIME", help="Died longer ago: 10m, 2h, 3d.")]
Newer = Annotated[str | None, typer.Option(metavar="TIME", help="Died since.")]
Count = Annotated[int | None, typer.Option("--count", "-n", min=1, help="At most so many.")]


def register(app: typer.Typer) -> None:
    app.add_typer(dead_app, name="dead")
    dead_app.command("list")(dead_list)
    for name, function in (("show", show), ("retry", retry), ("drop", drop), ("edit", edit)):
        dead_app.command(name)(function)


def _frame(
    queue: str,
    do: str,
    ids: list[str] | None = None,
    count: int | None = None,
    **filters: str | None,
) -> dict[str, Any]:
    """The question, with the filter that the options describe."""
    from msg.config import parse_seconds

    options: dict[str, Any] = {"do": do}
    for name, value in filters.items():
        if value is not None:
            age = name in ("older", "newer")
            options[f"{name}_s" if age else name] = parse_seconds(value) if age else value
    frame: dict[str, Any] = {"topic": queue, "options": options}
    if ids:
        frame["message_ids"] = ids
    if count is not None:
        frame["n"] = count
    return frame


@command
def dead_list(
    queue: Annotated[
        str | None, typer.Argument(metavar="[QUEUE]", help="The queue where they died.")
    ] = None,
    reason: Reason = None,
    consumer: Consumer = None,
    contains: Contains = None,
    older: Older = None,
    newer: Newer = None,
    count: Count = None,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """List dead letters with the last reason; without a queue, which queues have any."""
    with connect(url) as client:
        if queue is None:
            found = ask_all(client, "dead", "queues")["queues"]
            rows = [(row["queue"], row["messages"], row["bytes"]) for row in found]
            columns: tuple[str, ...] = ("queue", "dead", "bytes")
        else:
            frame = _frame(queue, "list", None, count, reason=reason, consumer=consumer,
                           contains=contains, older=older, newer=newer)  # fmt: skip
            found = ask_all(client, "dead", "messages", **frame)["messages"]
            rows = [_row(message) for message in found]
            columns = ("message_id", "died", "attempts", "by", "reason", "body")
    if as_json:
        print_json(found)
        return
    show_table(columns, rows, right=("dead", "bytes", "attempts"))


def _row(message: dict[str, Any]) -> tuple[Any, ...]:
    case = message.get("case") or {}
    attempts = case.get("attempts") or []
    last = attempts[-1] if attempts else {}
    reason = last.get("reason") or case.get("reason", "")
    short = reason.strip().splitlines()[-1] if reason.strip() else ""
    return (message["message_id"], case.get("at", ""), len(attempts), last.get("who", ""), short,
            preview(message))  # fmt: skip


@command
def show(
    queue: Queue,
    message_id: Annotated[str, typer.Argument(metavar="MESSAGE_ID", help="Its id.")],
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: its body, and each attempt with who, when and why."""
    with connect(url) as client:
        message = _one(client, queue, message_id)
    if as_json:
        print_json(message)
        return
    case = message.get("case") or {}
    lines = [
        f"message {message['message_id']}, published {message['published_at']}",
        f"died in {case.get('queue', '?')} at {case.get('at', '?')}: {case.get('reason', '?')}",
    ]
    for attempt in case.get("attempts") or []:
        lines.append(
            f"  attempt {attempt['n']} at {attempt['at']} by {attempt.get('who') or '?'}:"
            f" {attempt['why']}"
        )
        lines += [f"      {line}" for line in attempt.get("reason", "").splitlines()]
    for name, value in (message.get("headers") or {}).items():
        lines.append(f"header {name}: {value}")
    lines.append("body:")
    lines += json.dumps(message["message"], indent=2, ensure_ascii=False).splitlines()
    for line in lines:
        write_line(plain(line).encode("utf-8", "backslashreplace"))


def _one(client: PlainClient, queue: str, message_id: str) -> dict[str, Any]:
    answer = client.ask({"action": "dead", **_frame(queue, "show", [message_id])})
    found: list[dict[str, Any]] = answer["messages"]
    if not found:
        raise Failed(exits.NEGATIVE, f"no dead letter {message_id} in {queue}")
    return found[0]


@command
def retry(
    queue: Queue,
    ids: Ids = None,
    reason: Reason = None,
    consumer: Consumer = None,
    contains: Contains = None,
    older: Older = None,
    newer: Newer = None,
    count: Count = None,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Send dead letters back to their queue, attempts reset: by id, by filter, or all."""
    frame = _frame(queue, "retry", ids, count, reason=reason, consumer=consumer,
                   contains=contains, older=older, newer=newer)  # fmt: skip
    _done(url, frame, as_json, "sent back")


@command
def drop(
    queue: Queue,
    ids: Ids = None,
    reason: Reason = None,
    consumer: Consumer = None,
    contains: Contains = None,
    older: Older = None,
    newer: Newer = None,
    count: Count = None,
    everything: Annotated[bool, typer.Option("--all", help="Every one of them.")] = False,
    yes: Yes = False,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Drop dead letters for ever: by id, by filter, or `--all`."""
    frame = _frame(queue, "drop", ids, count, reason=reason, consumer=consumer,
                   contains=contains, older=older, newer=newer)  # fmt: skip
    if everything:
        frame["options"]["all"] = True
    elif not ids and len(frame["options"]) == 1:
        raise UsageError("say which: message ids, a filter, or --all")
    confirm(yes, f"Drop these dead letters of {queue!r} for ever?")
    _done(url, frame, as_json, "dropped")


def _done(url: str, frame: dict[str, Any], as_json: bool, what: str) -> None:
    with connect(url) as client:
        answer = client.ask({"action": "dead", **frame})
    if as_json:
        print_json({"count": answer["count"]})
    else:
        write_line(f"{counted(answer['count'], 'dead letter')} {what}".encode())
    if not answer["count"]:
        raise Failed(exits.NEGATIVE)


@command
def edit(
    queue: Queue,
    message_id: Annotated[str, typer.Argument(metavar="MESSAGE_ID", help="Its id.")],
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="The new body, JSON; else $EDITOR asks.")
    ] = None,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Give one dead letter another body and send it back to its queue."""
    with connect(url) as client:
        before = _one(client, queue, message_id)["message"]
        text = message if message is not None else _edited(before)
        try:
            body = json.loads(text)
        except ValueError as error:
            raise UsageError(f"the new body is not JSON: {error}") from None
        if message is None and body == before:
            raise Failed(exits.NEGATIVE, "nothing was changed, nothing was done")
        frame = _frame(queue, "edit", [message_id])
        frame["options"]["message"] = body
        answer = client.ask({"action": "dead", **frame})
    if as_json:
        print_json({"count": answer["count"]})
    else:
        write_line(f"{message_id} was changed and sent back to {queue}".encode())


def _edited(body: object) -> str:
    """What the person's editor makes of the body."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.NamedTemporaryFile("w+", suffix=".json", encoding="utf-8") as file:
        json.dump(body, file, indent=2, ensure_ascii=False)
        file.flush()
        code = subprocess.run([*shlex.split(editor), file.name], check=False).returncode
        if code:
            raise Failed(exits.NEGATIVE, f"the editor left with {code}; nothing was done")
        with open(file.name, encoding="utf-8") as changed:  # some write a new file
            return changed.read()
