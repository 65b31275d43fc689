"""`bench`: how fast it is here. Load from processes of its own, figures, and a picture.

Without `--url` it starts a broker of its own on a free port, with its data in a temporary
folder: so nothing of a running broker is touched, and its CPU time is counted.
"""

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from msg.cli.common import AsJson, Failed, UsageError, command, on_terminal, print_json, write_line
from msg.daemon import exits
from msg.plain_client import PlainClient, Refused, parse_url

if TYPE_CHECKING:
    from msg.bench.generators import Load
    from msg.bench.measure import Result

SETTLE_S = 2.0  # before memory is looked at
PERCENTS = ("p50", "p90", "p99", "p99.9", "max")

Url = Annotated[
    str,
    typer.Option("--url", "-u", help="A running broker; without it, one is started for this."),
]
Seconds = Annotated[float, typer.Option("--seconds", "-s", min=0.1, help="How long.")]
Size = Annotated[int, typer.Option("--size", min=21, help="Bytes of a body.")]
Window = Annotated[
    int, typer.Option("--window", min=1, help="Publishes not yet acked, per connection.")
]
Prefetch = Annotated[int, typer.Option("--prefetch", min=1, help="Of each consumer.")]
Producers = Annotated[int, typer.Option("--producers", "-p", min=1, help="Connections.")]
Consumers = Annotated[int, typer.Option("--consumers", "-c", min=1, help="Connections.")]
Durability = Annotated[
    str, typer.Option("--durability", "-d", help="memory, os or stored; else the broker's own.")
]
Rate = Annotated[
    int, typer.Option("--rate", min=0, help="Messages a second; 0: as fast as it goes.")
]
Picture = Annotated[
    str, typer.Option("--picture", help="Write the spread of the latencies to this file (SVG).")
]

app = typer.Typer(no_args_is_help=True, help="Measure how fast it is here.")


def register(parent: typer.Typer) -> None:
    parent.add_typer(app, name="bench")


@app.command()
@command
def pub(
    topics: Annotated[int, typer.Option("--topics", min=1, help="Spread over so many.")] = 1,
    producers: Producers = 1,
    size: Size = 200,
    window: Window = 1000,
    seconds: Seconds = 5.0,
    rate: Rate = 0,
    url: Url = "",
    picture: Picture = "",
    as_json: AsJson = False,
) -> None:
    """Publish to topics that nobody hears; each publish is acked."""
    load = _load(mode="pubsub", names=topics, producers=producers, consumers=0, size=size,
                 window=window, rate=rate)  # fmt: skip
    _run("pub", load, url, seconds, picture, as_json)


@app.command()
@command
def queue(
    queues: Annotated[int, typer.Option("--queues", min=1, help="Spread over so many.")] = 1,
    producers: Producers = 1,
    consumers: Consumers = 1,
    durability: Durability = "stored",
    size: Size = 200,
    window: Window = 1000,
    prefetch: Prefetch = 1000,
    seconds: Seconds = 5.0,
    rate: Rate = 0,
    url: Url = "",
    picture: Picture = "",
    as_json: AsJson = False,
) -> None:
    """Publish to queues, consume, and ack every message by itself."""
    load = _load(names=queues, producers=producers, consumers=consumers, size=size,
                 durability=durability, window=window, prefetch=prefetch, rate=rate)  # fmt: skip
    _run("flow", load, url, seconds, picture, as_json)


@app.command()
@command
def fanout(
    subscribers: Annotated[int, typer.Option("--subscribers", "-n", min=1, help="How many.")] = 50,
    size: Size = 200,
    window: Window = 1000,
    seconds: Seconds = 5.0,
    rate: Rate = 0,
    url: Url = "",
    picture: Picture = "",
    as_json: AsJson = False,
) -> None:
    """Publish to one topic that many hear; deliveries are counted."""
    load = _load(mode="pubsub", consumers=subscribers, size=size, window=window, rate=rate)
    _run("flow", load, url, seconds, picture, as_json)


@app.command()
@command
def latency(
    topic: Annotated[
        bool, typer.Option("--topic", help="Through a topic instead of a queue.")
    ] = False,
    durability: Durability = "memory",
    size: Size = 200,
    seconds: Seconds = 5.0,
    rate: Rate = 0,
    url: Url = "",
    picture: Picture = "",
    as_json: AsJson = False,
) -> None:
    """One message at a time: from the publish to its arrival."""
    load = _load(mode="pubsub" if topic else "queue", size=size,
                 durability="" if topic else durability, rate=rate)  # fmt: skip
    _run("latency", load, url, seconds, picture, as_json)


@app.command()
@command
def connections(
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many.")] = 1000,
    seconds: Seconds = 2.0,
    url: Url = "",
    as_json: AsJson = False,
) -> None:
    """Subscribe with many connections that then do nothing: memory and idle CPU."""
    load = _load(mode="pubsub", consumers=count)
    _run("connections", load, url, seconds, "", as_json)


def _load(**fields: object) -> "Load":
    from msg.bench.generators import Load

    load = Load(run=f"{os.getpid():x}", **fields)  # type: ignore[arg-type]
    if load.durability not in ("", "memory", "os", "stored"):
        raise UsageError(f'--durability is memory, os or stored, not "{load.durability}"')
    if load.mode == "queue" and load.names > 100 * load.consumers:
        raise UsageError(
            f"{load.names} queues are more than {load.consumers} consumers may subscribe to"
            f" (100 each); take --consumers {-(-load.names // 100)} or more"
        )
    return load


def _run(kind: str, load: "Load", url: str, seconds: float, picture: str, as_json: bool) -> None:
    from msg.bench.measure import BenchFailed, measure

    _more_files(load.producers + load.consumers)
    try:
        with _broker(url, load) as (host, port, pid), _bar(seconds) as progress:
            result = measure(
                kind, load, host, port, seconds=seconds, pid=pid, progress=progress,
                settle=SETTLE_S if kind == "connections" else 0.0,
            )  # fmt: skip
    except BenchFailed as error:
        raise Failed(exits.TEMPORARY, f"no figure: {error}") from None
    except OSError as error:
        raise Failed(exits.UNAVAILABLE, str(error)) from None
    if picture:
        _draw(picture, result)
    if as_json:
        print_json(result.as_json())
    else:
        for line in lines_of(result):
            write_line(line.encode())
    if result.lost:
        raise Failed(exits.NEGATIVE, f"{result.lost} messages did not arrive")


@contextlib.contextmanager
def _broker(url: str, load: "Load") -> Iterator[tuple[str, int, int | None]]:
    """Host, port, and where it is ours its process."""
    if not url:
        from msg.bench.local import LocalBroker

        with LocalBroker() as broker:
            yield "127.0.0.1", broker.port, broker.pid
        return
    host, port = parse_url(url)
    PlainClient.connect(url).close()  # says plainly when there is none
    try:
        yield host, port, None
    finally:
        with PlainClient.connect(url) as client:
            for number in range(load.names):  # nothing of ours stays
                with contextlib.suppress(Refused):
                    client.ask({"action": "delete", "topic": load.name(number),
                                "mode": load.mode})  # fmt: skip


def _more_files(connections: int) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        wanted = connections + 100 if hard == resource.RLIM_INFINITY else hard
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    if connections + 100 > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
        raise UsageError(f"{connections} connections are more than the system lets one open")


@contextlib.contextmanager
def _bar(seconds: float) -> Iterator[Callable[[float, int], None] | None]:
    """A progress bar on a terminal, on stderr: the figures are the output."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    shown = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]:>12,}"),
        TimeRemainingColumn(), console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with shown:
        task = shown.add_task("measuring", total=seconds, count=0)
        yield lambda done, count: shown.update(task, completed=done, count=count)


def _draw(path: str, result: "Result") -> None:
    from msg.bench.picture import picture

    about = f"{result.load.size} bytes, {result.rate:,.0f} messages/s, {socket.gethostname()}"
    curves = [("until it arrived", result.latency_us), ("until it was acked", result.confirm_us)]
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(picture(f"trio-msg bench {_name(result)}", about, curves))
    except OSError as error:
        raise Failed(exits.CANT_CREATE, f"cannot write {path}: {error.strerror}") from None


def _name(result: "Result") -> str:
    if result.kind == "flow":
        return "queue" if result.load.mode == "queue" else "fanout"
    return result.kind


def lines_of(result: "Result") -> Iterator[str]:
    """The figures, for a person."""
    from msg.bench.picture import show_us

    load = result.load
    if result.kind == "connections":
        yield f"{load.consumers:,} connections, subscribed and idle for {result.seconds:.1f} s"
        if result.rss_bytes is not None:
            yield f"memory     {result.rss_bytes / load.consumers / 1024:10.1f} KiB each"
        if result.cpu_share is not None:
            yield f"idle CPU   {result.cpu_share:10.1%} of one core"
        return
    sides = f"{load.producers} -> {load.consumers}" if load.consumers else f"{load.producers} -> 0"
    where = "queue" if load.mode == "queue" else "topic"
    through = f" over {load.names:,} {where}s" if load.names > 1 else f" through a {where}"
    durability = f", durability {load.durability}" if load.durability else ""
    yield f"{sides}{through}, {load.size} bytes{durability}, {result.seconds:.1f} s"
    unit = "deliveries/s" if load.mode == "pubsub" and load.consumers > 1 else "messages/s"
    yield f"rate       {result.rate:12,.0f} {unit}"
    if result.cpu_us is not None and result.cpu_share is not None:
        yield (f"broker     {result.cpu_us:12.2f} us of CPU each"
               f" ({result.cpu_share:.0%} of one core)")  # fmt: skip
    if result.fairness is not None:
        yield f"fairness   {result.fairness:12.0%} of the mean for the slowest consumer"
    columns = "".join(f"{percent:>10}" for percent in PERCENTS)
    rows = [("acked", result.confirm_us), ("arrived", result.latency_us)]
    if any(spread.counts for _, spread in rows):
        yield f"{'until':<10}{columns}"
    for name, spread in rows:
        if spread.counts:
            summary = spread.summary()
            yield f"{name:<10}" + "".join(f"{show_us(summary[p]):>10}" for p in PERCENTS)
            if on_terminal():
                yield f"{'':<10}{_bars(spread.curve())}"


def _bars(curve: list[tuple[float, int]]) -> str:
    """How many messages took how long, as a line of bars from the fastest to the slowest."""
    from math import log2

    low, high = curve[0][1], curve[-1][1]
    width = 50
    step = max(log2(max(2, high) / max(1, low)) / width, 1e-9)
    heights = [0.0] * width
    before = 0.0
    for percent, us in curve:
        place = min(width - 1, int(log2(max(1, us) / max(1, low)) / step))
        heights[place] += percent - before
        before = percent
    top = max(heights)
    return "".join(" ▁▂▃▄▅▆▇█"[-(-int(8 * h * 1000) // int(top * 1000))] for h in heights)
