"""`top`: a live table of queues and topics: rates, depths, what is not as it should be.

Rates come from the differences of counters between two looks. On a terminal keys choose:
`<` and `>` the column that sorts, `r` the direction, `q` leaves.
"""

import contextlib
import os
import select
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from msg.cli.common import (
    URL,
    AsJson,
    Url,
    UsageError,
    ask_all,
    command,
    connect,
    on_terminal,
    print_json,
    show_table,
)
from msg.cli.looking import plain

COLUMNS = ("name", "kind", "state", "in/s", "out/s", "acks/s", "ready", "leased", "delayed", "dead",
           "heard by", "bytes")  # fmt: skip
RIGHT = COLUMNS[3:]
QUIT = ("q", "\x03", "\x1b")

Row = dict[str, Any]


def register(app: typer.Typer) -> None:
    app.command()(top)


@command
def top(
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Refresh.")] = 2.0,
    sort: Annotated[str, typer.Option(help=f"One of: {', '.join(COLUMNS)}.")] = "in/s",
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Leave after so many tables.")
    ] = None,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Show queues and topics live, the busiest first."""
    if sort not in COLUMNS:
        raise UsageError(f"--sort is one of {', '.join(COLUMNS)}, not {sort!r}")
    look = Look(sort)
    live = os.name == "posix" and on_terminal() and sys.stdin.isatty() and not as_json
    with connect(url) as client, _keys(live):
        while True:
            rows = look.rows(ask_all(client, "stats", "queues", "topics"), time.monotonic())
            if as_json:
                print_json(rows)
            elif live:
                look.draw(rows)
            else:
                show_table(COLUMNS, [_cells(row) for row in rows], right=RIGHT)
            look.drawn += 1
            if count is not None and look.drawn >= count:
                return
            if not _pause(look, rows, every, live):
                return


class Look:
    """What was seen last, and how it is to be sorted."""

    def __init__(self, sort: str) -> None:
        self.sort = COLUMNS.index(sort)
        self.up = sort in ("name", "kind", "state")
        self.drawn = 0
        self.answer: Row = {}
        self._seen: dict[tuple[str, str], tuple[float, Row]] = {}

    def rows(self, answer: Row, now: float) -> list[Row]:
        """One row a queue or topic, sorted."""
        self.answer = answer
        seen: dict[tuple[str, str], tuple[float, Row]] = {}
        rows = []
        for kind, things in (("queue", answer["queues"]), ("topic", answer["topics"])):
            for thing in things:
                key = (kind, str(thing["name"]))
                counts = thing.get("counts") or {}
                seen[key] = (now, counts)
                rows.append(_row(kind, thing, counts, self._seen.get(key), now))
        self._seen = seen
        return self.sorted(rows)

    def sorted(self, rows: list[Row]) -> list[Row]:
        column = COLUMNS[self.sort]
        return sorted(rows, key=lambda row: (row[column], row["name"]), reverse=not self.up)

    def draw(self, rows: list[Row]) -> None:
        """The whole screen."""
        size = os.get_terminal_size()
        server = self.answer.get("server") or {}
        store = server.get("store") or {}
        head = (
            f"trio-msg {server.get('version', '')}  {self.answer.get('connections', 0)} connections"
            f"  {server.get('outbound_bytes', 0):,} bytes to send"
            f"  last commit {store.get('last_round_s', 0) * 1000:.1f} ms"
            + ("  DISK FULL" if store.get("disk_full") else "")
        )
        cells = [[plain(str(cell)) for cell in _cells(row)] for row in rows[: size.lines - 5]]
        titles = [
            f"{name}{'▲' if self.up else '▼'}" if n == self.sort else name
            for n, name in enumerate(COLUMNS)
        ]
        widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
        lines = [plain(head)[: size.columns], ""]
        for n, row in enumerate([titles, *cells]):
            parts = [
                cell.rjust(width) if column in RIGHT else cell.ljust(width)
                for column, cell, width in zip(COLUMNS, row, widths, strict=True)
            ]
            line = "  ".join(parts)[: size.columns]
            lines.append(f"\x1b[1m{line}\x1b[0m" if n == 0 else line)
        lines.append("\x1b[2m< > column   r direction   q leave\x1b[0m")
        sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\r\n" for line in lines) + "\x1b[J")
        sys.stdout.flush()


def _row(kind: str, thing: Row, counts: Row, before: tuple[float, Row] | None, now: float) -> Row:
    def rate(*names: str) -> float:
        if before is None or now <= before[0]:
            return 0.0
        # a restarted actor counts anew
        grown: int = sum(max(0, counts.get(n, 0) - before[1].get(n, 0)) for n in names)
        return round(grown / (now - before[0]), 1)

    state = "paused" if thing.get("paused") else thing.get("state", "")
    return {
        "name": thing["name"],
        "kind": kind,
        "state": state,
        "in/s": rate("accepted", "published"),
        "out/s": rate("delivered"),
        "acks/s": rate("settled"),
        "ready": thing.get("ready", thing.get("kept", 0)),
        "leased": thing.get("leased", 0),
        "delayed": thing.get("delayed", 0),
        "dead": thing.get("dead", 0),
        "heard by": thing.get("consumers", thing.get("subscribers", 0)),
        "bytes": thing.get("bytes", 0),
    }


def _cells(row: Mapping[str, Any]) -> Sequence[object]:
    return [
        f"{row[name]:,.1f}" if name.endswith("/s") else
        f"{row[name]:,}" if isinstance(row[name], int) else row[name]
        for name in COLUMNS
    ]  # fmt: skip


def _pause(look: Look, rows: list[Row], seconds: float, live: bool) -> bool:
    """Wait for the next look; keys are heard meanwhile. False: leave."""
    if not live:
        time.sleep(seconds)
        return True
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if not select.select([sys.stdin], [], [], left)[0]:
            break
        key = os.read(sys.stdin.fileno(), 8).decode(errors="replace")
        if key in QUIT or not key:
            return False
        if key in "<>":
            look.sort = (look.sort + (1 if key == ">" else -1)) % len(COLUMNS)
        elif key == "r":
            look.up = not look.up
        look.draw(look.sorted(rows))
    return True


@contextlib.contextmanager
def _keys(live: bool) -> Iterator[None]:
    """Keys one by one and unseen, on a screen of its own; all as it was afterwards."""
    if not live:
        yield
        return
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        sys.stdout.write("\x1b[?1049h\x1b[?25l")
        yield
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
