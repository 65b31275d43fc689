"""`why`, `trace`, `peek`, `held`, `stats`: why something is stuck, and who holds a message."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from msg.cli.common import (
    URL,
    AsJson,
    Failed,
    Url,
    ask_all,
    body_bytes,
    command,
    connect,
    on_terminal,
    print_json,
    queue_names,
    show_table,
    write_line,
)
from msg.daemon import exits

MARKS = {"stuck": "✗", "slow": "!", "note": "·", "ok": "✓"}
COLOURS = {"stuck": "31;1", "slow": "33;1", "note": "2", "ok": "32"}
BODY_SHOWN = 60
TRACE_SECONDS = 120.0

Queue = Annotated[
    str,
    typer.Argument(metavar="QUEUE", help="A queue, or PATTERN@GROUP.", autocompletion=queue_names),
]


class State(StrEnum):
    """What `--state` takes."""

    READY = "ready"
    LEASED = "leased"
    DELAYED = "delayed"
    COMMITTING = "committing"
    LEAVING = "leaving"
    ALL = "all"


def register(app: typer.Typer) -> None:
    for function in (why, trace, peek, held, stats):
        app.command()(function)


@command
def why(
    name: Annotated[
        str | None,
        typer.Argument(help="A queue, a topic, or a connection (number, client name, address)."),
    ] = None,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Say in plain sentences why something does not move, and what to do.

    Without a name: the broker, and everything in it that is not as it should be. Exit 1 if
    something is stuck.
    """
    fields = {} if name is None else {"name": name}
    with connect(url) as client:
        subjects = ask_all(client, "why", "subjects", **fields)["subjects"]
    if as_json:
        print_json(subjects)
    else:
        for subject in subjects:
            _show_subject(subject)
    if any(subject["level"] == "stuck" for subject in subjects):
        raise Failed(exits.NEGATIVE)


def _show_subject(subject: dict[str, Any]) -> None:
    level = subject["level"]
    title = (
        subject["name"] if subject["kind"] == "broker" else f"{subject['kind']} {subject['name']}"
    )
    who = subject.get("client") or subject.get("peer")
    if who:
        title = f"{title} ({who})"
    well = "" if level != "ok" else ": nothing is in its way"
    _line(f" {title}{well}", _mark(level))
    for cause in subject["causes"]:
        _line(f" {cause['text']}", f"  {_mark(cause['level'])}")
        if cause["do"]:
            _line(f"      -> {cause['do']}")


def _mark(level: str) -> str:
    mark = MARKS.get(level, "?")
    return f"\x1b[{COLOURS[level]}m{mark}\x1b[0m" if on_terminal() and level in COLOURS else mark


def _line(text: str, before: str = "") -> None:
    """A line; what comes from outside cannot move the cursor. `before` is our own."""
    write_line(f"{before}{plain(text)}".encode())


def plain(text: str) -> str:
    """The text without control characters."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


@command
def trace(
    message_id: Annotated[
        str, typer.Argument(metavar="MESSAGE_ID", help="As `send` and `pub` print it.")
    ],
    queue: Annotated[
        str | None, typer.Option("--queue", "-q", help="Look there only (and in its dead letters).")
    ] = None,
    body: Annotated[bool, typer.Option("--body", help="Show the message too.")] = False,
    search_bytes: Annotated[
        int | None,
        typer.Option("--bytes", min=1, help="Read so much of the store at most. [1 GiB]"),
    ] = None,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Tell the life of one message: accepted, stored, leased, returned, settled or dead.

    Also after a restart and after its death; what nobody knows any more is said. Exit 1 when
    nothing is known of it.
    """
    frame: dict[str, Any] = {"action": "trace", "message_id": message_id, "options": {"body": body}}
    if search_bytes is not None:
        frame["options"]["bytes"] = search_bytes
    if queue is not None:
        frame["topic"] = queue
    with connect(url) as client:
        answer = client.ask(frame, timeout=TRACE_SECONDS)
    if as_json:
        print_json({key: value for key, value in answer.items() if key not in ("type", "id")})
    else:
        _show_trace(answer)
    if not answer["found"]:
        raise Failed(exits.NEGATIVE)


def _show_trace(answer: dict[str, Any]) -> None:
    if not answer["found"]:
        _line(f"nothing is known of {answer['message_id']}")
    for place in answer["places"]:
        _line(f"{place['kind']} {place['name']}, number {place['seq']}: {place['now']}")
        rows = [(_time_of(event), event["text"]) for event in place["events"]]
        width = max((len(at) for at, _ in rows), default=0)
        for at, text in rows:
            _line(f"  {at.ljust(width)}  {text}")
        for text in place["unknown"]:
            _line(f"  not known: {text}")
    for text in answer.get("unknown", ()):
        _line(f"  {text}")
    if answer.get("message"):
        write_line(body_bytes(answer["message"]))


def _time_of(event: dict[str, Any]) -> str:
    """Its own time, or what is known of it."""
    if event["at"]:
        return str(event["at"])
    if event.get("after"):
        return f"after {event['after']}"
    return "at some time"


@command
def peek(
    queue: Queue,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many.")] = 10,
    state: Annotated[State, typer.Option(help="Which messages.")] = State.READY,
    skip: Annotated[int, typer.Option(min=0, help="Begin after so many.")] = 0,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Look at messages without taking them: nothing is consumed, no attempt is counted."""
    with connect(url) as client:
        found = ask_all(
            client, "peek", "messages", topic=queue, n=count,
            options={"state": state.value, "skip": skip},
        )["messages"]  # fmt: skip
    if as_json:
        for message in found:
            print_json(message)
        return
    show_messages(found)


def show_messages(found: list[dict[str, Any]]) -> None:
    """Messages as a table: where each stands and how it begins."""
    rows = [
        (message["seq"], message["message_id"], message.get("state", ""), message["attempt"],
         message["published_at"], _more(message), preview(message))
        for message in found
    ]  # fmt: skip
    columns = ("number", "message_id", "state", "attempt", "published_at", "", "body")
    show_table(columns, rows, right=("number", "attempt"))


def _more(message: dict[str, Any]) -> str:
    """What is special about where it stands."""
    if "consumer" in message:
        return f"held by {message['consumer']}"
    if "due" in message:
        return f"due {message['due']}"
    if "to" in message:
        return f"to {message['to']}"
    return f"returned: {message['returned']}" if message.get("returned") else ""


def preview(message: dict[str, Any]) -> str:
    """The beginning of a body, on one line."""
    body = message["message"]
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return text if len(text) <= BODY_SHOWN else f"{text[: BODY_SHOWN - 1]}…"


@command
def held(
    queue: Annotated[
        str | None, typer.Argument(metavar="[QUEUE]", help="Of this queue only.")
    ] = None,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """List the messages in consumers' hands: who, since when, until when; longest held first."""
    fields = {} if queue is None else {"topic": queue}
    with connect(url) as client:
        found = ask_all(client, "held", "held", **fields)["held"]
    if as_json:
        print_json(found)
        return
    from msg.show.units import seconds

    rows = []
    for lease in found:
        left, since = lease["deadline_s"], lease["held_s"]
        rows.append((
            lease["queue"], lease["message_id"], lease["attempt"], lease["consumer"],
            lease["connection"],
            "?" if since is None else ("> " if lease.get("at_least") else "") + seconds(since),
            "not yet sent" if lease.get("unwritten") else
            "none" if left is None else f"in {seconds(left)}",
        ))  # fmt: skip
    columns = ("queue", "message_id", "attempt", "consumer", "conn", "held for", "deadline")
    show_table(columns, rows, right=("attempt", "conn", "held for"))


@command
def stats(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A queue, a group, or a topic.")
    ] = None,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Every number of the broker, or of one queue or topic."""
    fields = {} if name is None else {"topic": name}
    with connect(url) as client:
        found = ask_all(client, "stats", "queues", "topics", **fields)
    found = {key: value for key, value in found.items() if key not in ("type", "id", "cursor")}
    if as_json:
        print_json(found)
        return
    rows: list[tuple[str, Any]] = []
    for kind in ("queues", "topics"):
        for thing in found[kind]:
            rows += _flat(f"{kind[:-1]} {thing['name']}", thing)
    if name is None:
        rows += [("connections", found["connections"]), *_flat("server", found["server"])]
    show_table(("number of", "value"), rows)


def _flat(prefix: str, value: dict[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, inner in value.items():
        if isinstance(inner, dict):
            rows += _flat(f"{prefix} {key}", inner)
        elif key != "name":
            rows.append((f"{prefix} {key}", inner))
    return rows
