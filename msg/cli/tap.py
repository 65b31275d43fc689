"""`tap`: a copy of what flows through queues and topics, for a person to look at."""

import time
from typing import Annotated, Any

import typer

from msg.cli.common import URL, AsJson, Url, command, complain, connect, print_json, write_line
from msg.cli.looking import plain, preview

TELL_SECONDS = 1.0  # a flood leaves something out before each line; told is the sum


def register(app: typer.Typer) -> None:
    app.command()(tap)


@command
def tap(
    name: Annotated[str, typer.Argument(metavar="TOPIC|QUEUE", help="May hold * and >.")],
    events: Annotated[
        list[str] | None,
        typer.Option("--event", "-e", help="published, leased, settled, returned or moved. [all]"),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Show each n-th message.")] = 1,
    rate: Annotated[float, typer.Option(min=0.1, help="At most so many a second.")] = 100.0,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Leave after so many.")
    ] = None,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Watch messages pass, without taking part: nobody is slowed, nothing is taken or counted."""
    options: dict[str, Any] = {"every": every, "rate": rate}
    if events:
        options["events"] = events
    with connect(url) as client:
        client.ask({"action": "tap", "topic": name, "name": "tap", "options": options})
        shown = left_out = 0
        told_at = 0.0
        while count is None or shown < count:
            frame = client.receive()
            told = frame.get("tap")
            if not isinstance(told, dict):
                continue
            shown += 1
            left_out += told.get("skipped", 0) + frame.get("dropped", 0)
            if left_out and time.monotonic() >= told_at + TELL_SECONDS:
                complain(f"{left_out:,} more passed unseen (--rate, --every)")
                left_out, told_at = 0, time.monotonic()
            if as_json:
                print_json(frame)
            else:
                _show(frame, told)


def _show(frame: dict[str, Any], told: dict[str, Any]) -> None:
    where = told.get("queue") or told.get("topic") or frame["topic"]
    parts = [told["event"].ljust(9), where, frame["message_id"]]
    if told.get("consumer"):
        parts.append(f"by {told['consumer']}")
    if told.get("why"):
        parts.append(told["why"])
    if told.get("reason"):
        parts.append(f"({told['reason'].strip().splitlines()[-1]})")
    if told.get("to"):
        parts.append(f"to {told['to']}")
    write_line(plain(f"{'  '.join(parts)}  {preview(frame)}").encode())
