"""`sub`, `get` and `work`: messages out. What is acked has been written, or worked on."""

import os
import sys
from typing import Annotated

import typer

from msg.cli.common import (
    URL,
    AsJson,
    Failed,
    Url,
    UsageError,
    body_bytes,
    command,
    complain,
    connect,
    counted,
    print_json,
    queue_names,
    topic_names,
    write_line,
)
from msg.daemon import exits
from msg.plain_client import Frame, PlainClient, Refused, Unavailable

GET_BATCH = 100
GROUP_PREFETCH = 64


def register(app: typer.Typer) -> None:
    for function in (sub, get, work):
        app.command()(function)


@command
def sub(
    topics: Annotated[
        list[str],
        typer.Argument(metavar="TOPIC…", help="May hold * and >.", autocompletion=topic_names),
    ],
    from_: Annotated[
        str | None,
        typer.Option("--from", help="new, last, all, a seq or a time: what was kept comes first."),
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Share the messages with the others of this durable group.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Leave after so many.")
    ] = None,
    show_topic: Annotated[
        bool | None,
        typer.Option("--show-topic/--no-show-topic", help="TOPIC and a tab before each body."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Shown to who asks who listens. [sub-PID]")
    ] = None,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Print what is published, a line each, until Ctrl-C.

    The topic stands before each body where there can be several.
    """
    if show_topic is None:
        show_topic = len(topics) > 1 or any(char in topics[0] for char in "*>")
    request: Frame = {"action": "subscribe"}
    if from_ is not None:
        request["from"] = int(from_) if from_.isdecimal() else from_
    if group is not None:
        request |= {"group": group, "prefetch": GROUP_PREFETCH}
    with connect(url) as client:
        client.ask({"action": "hello", "name": name or f"sub-{os.getpid()}"})
        for topic in topics:
            client.ask({**request, "topic": topic})
        printed = 0
        while count is None or printed < count:
            frame = client.receive()
            if _is_message(frame):
                if frame.get("dropped"):
                    complain(f"too slow: {counted(frame['dropped'], 'message')} lost here")
                _print_message(frame, as_json, show_topic)
                printed += 1
                if group is not None:  # after it is written: a crash repeats, never loses
                    client.send({"action": "ack", "tag": frame["tag"]})
        if group is not None:
            client.ask({"action": "ping"})  # the last acks have arrived


@command
def get(
    queue: Annotated[str, typer.Argument(help="The queue.", autocompletion=queue_names)],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="At most so many.")] = 1,
    ack: Annotated[
        bool, typer.Option("--ack/--no-ack", help="Take them, or only look and give them back.")
    ] = True,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the first.")] = 0.0,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Print messages of a queue, a line each. Exit 1 when there are none.

    Each is acked after it was written. With --no-ack they return to their places, and the
    look does not count as an attempt.
    """
    with connect(url) as client:
        left, got, held = count, 0, list[int]()
        try:
            while left:
                # the broker waits for as many as are wanted, and here it is the first that counts
                waits = wait > 0 and not got
                wanted = 1 if waits else min(left, GET_BATCH)
                frames = _fetch(client, queue, wanted, wait if waits else 0.0)
                for frame in frames:
                    held.append(frame["tag"])
                    _print_message(frame, as_json, show_topic=False)
                got += len(frames)
                left -= len(frames)
                if ack and held:
                    _settle(client, {"action": "ack", "tags": held})
                    held = []
                if len(frames) < wanted:
                    break
        finally:
            if held and not isinstance(sys.exception(), Unavailable):
                _give_back(client, held)
    if not got:
        raise Failed(exits.NEGATIVE)


def _fetch(client: PlainClient, queue: str, count: int, wait: float) -> list[Frame]:
    request = {"action": "get", "topic": queue, "mode": "queue", "n": count, "wait": wait}
    client.ask(request, timeout=wait + 10)
    return [frame for frame in client.take_kept() if _is_message(frame)]


def _settle(client: PlainClient, request: Frame) -> None:
    answer = client.ask(request)
    for failure in answer.get("failed") or []:
        complain(f"not acked, it will come again: {failure}")
    if answer.get("failed"):
        raise Failed(exits.TEMPORARY)


def _give_back(client: PlainClient, tags: list[int]) -> None:
    client.ask({"action": "nack", "tags": tags, "count_attempt": False, "delay": 0})


def _is_message(frame: Frame) -> bool:
    """Everything that is neither a message nor expected ends the command with its reason."""
    kind = frame.get("type")
    if kind == "error":
        raise Refused(frame)
    if kind == "closing":
        complain(f"the broker is closing: {frame.get('reason', 'no reason given')}")
    elif kind == "unsubscribed":
        raise Unavailable(f"unsubscribed: {frame.get('reason', 'no reason given')}")
    return kind == "message"


def _print_message(frame: Frame, as_json: bool, show_topic: bool) -> None:
    if as_json:
        print_json(frame)
        return
    body = body_bytes(frame)
    write_line(f"{frame['topic']}\t".encode() + body if show_topic else body)


@command
def work(
    queue: Annotated[str, typer.Argument(help="The queue.", autocompletion=queue_names)],
    command_line: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND…", help="Run once for each message.")
    ],
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, max=1000, help="Commands at a time.")
    ] = 1,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Leave after so many.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which a command is killed and nacked.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Shown to who asks who holds what.")] = None,
    url: Url = URL,
    as_json: Annotated[bool, typer.Option("--json", help="Print each result as JSON.")] = False,
) -> None:
    """Run COMMAND for each message of a queue, with the body on its standard input.

    Exit status 0 acks; any other nacks, with the end of its standard error as the reason.
    TRIO_MSG_TOPIC, TRIO_MSG_MESSAGE_ID and TRIO_MSG_ATTEMPT are in its environment. The
    first Ctrl-C or SIGTERM lets running commands finish, the second kills them.
    """
    import shutil

    from msg.cli.worker import Worker

    if shutil.which(command_line[0]) is None:
        raise UsageError(f"{command_line[0]}: no such command")
    with connect(url) as client:
        Worker(client, queue, command_line, concurrency, count, timeout, name, as_json).run()
