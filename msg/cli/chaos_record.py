"""`chaos --record`: stand before a broker, note what clients say, and write the scenario."""

import math
import signal
from datetime import datetime
from pathlib import Path

import trio

from msg.cli.common import Failed, complain, write_line
from msg.daemon import exits
from msg.plain_client import PlainClient, parse_url
from msg.scenario.recorder import Bodies, Recording, record
from msg.scenario.writing import to_toml

HEAD = """\
Recorded by `trio-msg chaos --record`. Each client is one connection, each line of `say` what it
said, at its time. Give it a title that tells the story, add what else must hold (`[expect]`) and
what goes wrong (`[[fault]]`); scenarios/README.md says how. Of the broker's settings nothing is
known here: if yours has any that matter, add them as [broker]."""


def record_to(file: Path, url: str, listen: str, bodies: Bodies, seconds: float | None) -> None:
    """Until Ctrl-C, SIGTERM or `seconds` have passed; then the file is written."""
    if file.exists():
        raise Failed(exits.CANT_CREATE, f"{file} is there already")
    host, port = parse_url(url)
    PlainClient.connect(url).close()  # nobody there is to be said now
    at = listen if ":" in listen else f"127.0.0.1:{listen}"
    recording: Recording = trio.run(_record, host, port, parse_url(at), bodies, seconds)
    if not any(client.says for client in recording.clients):
        raise Failed(exits.NEGATIVE, "nothing was said: there is nothing to write")
    day = datetime.now().astimezone().isoformat(" ", "seconds")
    document = recording.document(
        f"Recorded on {day}",
        f"What {len(recording.clients)} connections to {url} said. Bodies: {bodies}.",
    )
    try:
        file.write_text(to_toml(document, HEAD), encoding="utf-8")
    except OSError as error:
        raise Failed(exits.CANT_CREATE, f"{file} cannot be written: {error}") from None
    if recording.full:
        complain(f"only the first {recording.lines} lines were noted")
    count = len(document["client"])
    write_line(
        f"{file}: {count} client{'s' if count != 1 else ''}, {recording.lines} lines;"
        f" replay it with: trio-msg chaos {file}".encode()
    )


async def _record(
    host: str, port: int, at: tuple[str, int], bodies: Bodies, seconds: float | None
) -> Recording:
    begun = trio.current_time()
    recording = Recording(bodies, lambda: trio.current_time() - begun)
    try:
        listeners = await trio.open_tcp_listeners(at[1], host=at[0])
    except OSError as error:
        raise Failed(exits.UNAVAILABLE, f"cannot listen on {at[0]}:{at[1]}: {error}") from None
    mine = listeners[0].socket.getsockname()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(record, listeners, host, port, recording)
            write_line(
                f"recording: connect to msg://{mine[0]}:{mine[1]} instead of {host}:{port};"
                " Ctrl-C ends it and writes the scenario".encode()
            )
            with trio.move_on_after(math.inf if seconds is None else seconds):
                async for _ in signals:
                    break
            nursery.cancel_scope.cancel("recorded")
    return recording
