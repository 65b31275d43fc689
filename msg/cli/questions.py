"""`ping`, `queues`, `topics`, `limits`: what the broker says about itself."""

import time
from typing import Annotated, Any

import typer

from msg.cli.common import (
    URL,
    AsJson,
    Url,
    ask_all,
    command,
    connect,
    print_json,
    show_table,
    write_line,
)

STATES = {"failed": "bold red", "restarting": "red", "paused": "yellow", "draining": "yellow"}


def register(app: typer.Typer) -> None:
    for function in (ping, queues, topics, limits):
        app.command()(function)


@command
def ping(
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many.")] = 1,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Say whether a broker answers, and how soon. Exit 69 when none does."""
    with connect(url) as client:
        for _ in range(count):
            begun = time.perf_counter()
            client.ask({"action": "ping"})
            took = (time.perf_counter() - begun) * 1000
            if as_json:
                print_json({"url": url, "ms": round(took, 3)})
            else:
                write_line(f"pong from {url} in {took:.2f} ms".encode())


@command
def queues(url: Url = URL, as_json: AsJson = False) -> None:
    """List the queues and groups: what waits, who takes it."""
    with connect(url) as client:
        found: list[dict[str, Any]] = ask_all(client, "stats", "queues", "topics")["queues"]
    if as_json:
        print_json(found)
        return
    counts = ("ready", "leased", "delayed", "dead", "consumers", "bytes")
    rows = [
        (queue["name"], "paused" if queue.get("paused") else queue.get("state", ""),
         *(queue.get(count, 0) for count in counts))
        for queue in found
    ]  # fmt: skip
    show_table(("queue", "state", *counts), rows, right=counts, colours=STATES)


@command
def topics(url: Url = URL, as_json: AsJson = False) -> None:
    """List the topics: who hears them, what is kept."""
    with connect(url) as client:
        found: list[dict[str, Any]] = ask_all(client, "stats", "queues", "topics")["topics"]
    if as_json:
        print_json(found)
        return
    counts = ("subscribers", "groups", "kept")
    rows = [
        (topic["name"], topic.get("state", ""), *(_count(topic.get(count, 0)) for count in counts))
        for topic in found
    ]
    show_table(("topic", "state", *counts), rows, right=counts, colours=STATES)


def _count(value: object) -> object:
    return len(value) if isinstance(value, list) else value


@command
def limits(url: Url = URL, as_json: AsJson = False) -> None:
    """List every limit and its number, as the broker runs with it."""
    with connect(url) as client:
        found: dict[str, Any] = client.ask({"action": "limits"})["limits"]
    if as_json:
        print_json(found)
        return
    from msg.config import show_value

    rows = []
    for name, number in found.items():
        value = float(number) if name.endswith(("seconds", "percent")) else number
        shown = show_value(("limits", name), value)
        rows.append((name, number, "" if shown == str(number) else shown))
    show_table(("limit", "number", ""), rows, right=("number",))
