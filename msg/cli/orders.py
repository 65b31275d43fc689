"""`pause`, `resume`, `purge`, `delete`: an operator's orders. What is lost for ever asks first."""

import sys
from typing import Annotated, Any

import typer

from msg.cli.common import (
    URL,
    AsJson,
    Failed,
    Url,
    command,
    connect,
    counted,
    on_terminal,
    print_json,
    queue_names,
    write_line,
)
from msg.daemon import exits
from msg.plain_client import PlainClient

Queue = Annotated[
    str,
    typer.Argument(metavar="QUEUE", help="A queue, or PATTERN@GROUP.", autocompletion=queue_names),
]
IsTopic = Annotated[bool, typer.Option("--topic", help="It is a topic and not a queue.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    for function in (pause, resume, purge, delete):
        app.command()(function)


@command
def pause(queue: Queue, url: Url = URL, as_json: AsJson = False) -> None:
    """Hand out nothing more from a queue; it still takes publishes and acks. Survives restarts."""
    _order(url, {"action": "pause", "topic": queue}, as_json, f"{queue} is paused")


@command
def resume(queue: Queue, url: Url = URL, as_json: AsJson = False) -> None:
    """Hand out again."""
    _order(url, {"action": "resume", "topic": queue}, as_json, f"{queue} is handed out again")


@command
def purge(
    name: Queue, topic: IsTopic = False, yes: Yes = False, url: Url = URL, as_json: AsJson = False
) -> None:
    """Drop what is ready or delayed in a queue (or kept by a topic). Leased ones stay."""
    confirm(yes, f"Drop all messages of {name!r} that nobody holds?")
    mode = "pubsub" if topic else "queue"
    with connect(url) as client:
        answer = client.ask({"action": "purge", "topic": name, "mode": mode})
    _say(answer, as_json, f"{counted(answer['count'], 'message')} dropped from {name}")


@command
def delete(
    name: Queue, topic: IsTopic = False, yes: Yes = False, url: Url = URL, as_json: AsJson = False
) -> None:
    """Delete a queue, group or topic with all that it holds."""
    with connect(url) as client:
        confirm(yes, f"Delete {name!r} {_contents(client, name)}for ever?")
        mode = "pubsub" if topic else "queue"
        answer = client.ask({"action": "delete", "topic": name, "mode": mode})
    _say(answer, as_json, f"{name} is deleted")


def _contents(client: PlainClient, name: str) -> str:
    """What would be lost: for the question."""
    if not sys.stdin.isatty():
        return ""
    found = client.ask({"action": "stats", "topic": name})
    for queue in found.get("queues", []):
        total = sum(queue.get(state, 0) for state in ("ready", "leased", "delayed"))
        return f"with its {counted(total, 'message')} "
    return ""


def confirm(yes: bool, question: str) -> None:
    """On a terminal a person says yes; elsewhere the command line is the word."""
    if yes or not (sys.stdin.isatty() and on_terminal()):
        return
    if not typer.confirm(question):
        raise Failed(exits.NEGATIVE, "nothing was done")


def _order(url: str, frame: dict[str, Any], as_json: bool, text: str) -> None:
    with connect(url) as client:
        answer = client.ask(frame)
    _say(answer, as_json, text)


def _say(answer: dict[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        print_json({key: value for key, value in answer.items() if key not in ("type", "id")})
    else:
        write_line(text.encode())
