"""What commands share: the connection, one place that turns errors into exit codes, output."""

import errno
import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from msg.daemon import exits
from msg.plain_client import DEFAULT_URL, Frame, PlainClient, Refused, Unavailable

if TYPE_CHECKING:
    from rich.table import Table

P = ParamSpec("P")

Url = Annotated[
    str,
    typer.Option("--url", "-u", envvar="MSG_URL", help="The broker.", show_default=True),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
URL = DEFAULT_URL
COMPLETION_SECONDS = 0.5


class UsageError(Exception):
    """The command line is wrong in a way that the parser cannot see (exit 64)."""


class Failed(Exception):
    """The command ends with this code; the reason has been said, or is the text."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text)
        self.code = code


REFUSALS: Mapping[str, int] = {
    "not_found": exits.NEGATIVE,
    "bad_name": exits.USAGE,
    "bad_field": exits.USAGE,
    "unknown_action": exits.USAGE,
    "unsupported": exits.USAGE,
    "unauthorized": exits.NO_PERMISSION,
    "forbidden": exits.NO_PERMISSION,
    "internal": exits.SOFTWARE,
}


def refusal_code(code: str, retry: str) -> int:
    """The exit code for an `error` from the broker."""
    if code in REFUSALS:
        return REFUSALS[code]
    return exits.DATA if retry == "never" else exits.TEMPORARY


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Every end of a command is an exit code and at most one sentence."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        if sys.stdout is None:  # closed before we began: no message is taken to be lost there
            raise _left(exits.IO_ERROR, "standard output is closed; open it, to /dev/null say")
        try:
            function(*args, **kwargs)
            sys.stdout.flush()
        except Failed as failed:
            raise _left(failed.code, str(failed)) from None
        except (UsageError, ValueError) as error:
            raise _left(exits.USAGE, str(error)) from None
        except Refused as refused:
            raise _left(refusal_code(refused.code, refused.retry), str(refused)) from None
        except Unavailable as error:
            raise _left(exits.UNAVAILABLE, str(error)) from None
        except OSError as error:
            code = output_lost(error)
            if code is None:
                raise  # a bug
            raise typer.Exit(code) from None
        except KeyboardInterrupt:
            raise _left(exits.INTERRUPTED) from None

    return run


def output_lost(error: OSError) -> int | None:
    """The code for an output that takes nothing any more; None for any other error."""
    if isinstance(error, BrokenPipeError):
        _give_up_output()
        return exits.PIPE_CLOSED
    if error.filename is not None or error.errno not in _OUTPUT_LOST:
        return None
    _give_up_output()
    complain(f"the output cannot be written: {error.strerror}")
    return exits.IO_ERROR


_OUTPUT_LOST = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


def _give_up_output() -> None:
    """Or the interpreter's own flush would complain at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _left(code: int, text: str = "") -> typer.Exit:
    if text:
        complain(text)
    return typer.Exit(code)


def complain(text: str) -> None:
    """One line for the person, never among the output."""
    print(f"trio-msg: {text}", file=sys.stderr, flush=True)


def queue_names(incomplete: str) -> list[str]:
    """For the shell's completion: the queues that the broker has, if one answers at once."""
    return _names("queues", incomplete)


def topic_names(incomplete: str) -> list[str]:
    """The same for topics."""
    return _names("topics", incomplete)


def _names(kind: str, incomplete: str) -> list[str]:
    url = os.environ.get("MSG_URL") or URL
    try:
        with PlainClient.connect(url, timeout=COMPLETION_SECONDS) as client:
            answer = client.ask({"action": "stats"}, timeout=COMPLETION_SECONDS)
    except (Unavailable, Refused, ValueError):
        return []  # a word that cannot be completed is not a fault to tell
    return [name for item in answer.get(kind, []) if (name := item["name"]).startswith(incomplete)]


def connect(url: str) -> PlainClient:
    return PlainClient.connect(url)


def on_terminal() -> bool:
    """Whether output is for a person: colour and tables, else plain columns."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def print_json(value: object) -> None:
    """One line of JSON; as UTF-8, whatever the locale."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    write_line(text.encode("utf-8", "surrogatepass"))


def counted(number: int, one: str) -> str:
    """`1 message`, `1,200 messages`."""
    from msg.show.units import count  # here: most commands count nothing

    return count(number, one)


def write_line(line: bytes) -> None:
    out = sys.stdout.buffer
    out.write(line + b"\n")
    out.flush()


def body_bytes(frame: Frame) -> bytes:
    """A message's body as a program wants it: a text as it is, bytes decoded, else JSON."""
    body = frame.get("message")
    if isinstance(body, str):
        if frame.get("encoding") == "base64":
            import base64
            import binascii

            try:
                return base64.b64decode(body, validate=True)
            except binascii.Error:
                return body.encode()  # it claims to be what it is not: shown as it came
        return body.encode("utf-8", "surrogatepass")
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def ask_all(client: PlainClient, action: str, *lists: str, **fields: Any) -> dict[str, Any]:
    """A question whose answer may be paged: the pages' lists joined, the rest as in the last."""
    joined: dict[str, list[Any]] = {name: [] for name in lists}
    frame: Frame = {"action": action, **fields}
    while True:
        answer = client.ask(frame)
        for name in lists:
            joined[name].extend(answer.get(name) or [])
        cursor = answer.get("cursor")
        if not cursor:
            return {**answer, **joined}
        frame["cursor"] = cursor


def show_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Sequence[str] = (),
    colours: Mapping[str, str] | None = None,
) -> None:
    """A table for a person, or plain columns for a pipe (never cut or wrapped).

    `right` names columns that are numbers; `colours` maps a cell's text to a colour.
    """
    cells = [["" if cell is None else _printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    if on_terminal():
        _show_in_colour(columns, cells, widths, right, colours or {})
        return
    for row in (columns, *cells):
        parts = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, cell, width in zip(columns, row, widths, strict=True)
        ]
        write_line("  ".join(parts).rstrip().encode())


def _show_in_colour(
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    widths: Sequence[int],
    right: Sequence[str],
    colours: Mapping[str, str],
) -> None:
    from rich.console import Console

    needed = sum(width + 2 for width in widths[:-1]) + _room_for_last(widths) + 4  # and the edges
    width = max(Console().width, needed)
    Console(highlight=False, width=width).print(_drawn(columns, cells, widths, right, colours))


def table_lines(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Sequence[str],
    colours: Mapping[str, str],
    width: int,
) -> list[str]:
    """A table in colour, each row one line that is cut at the width of the screen."""
    from rich.console import Console

    cells = [["" if cell is None else _printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    console = Console(highlight=False, width=sum(widths) + 2 * len(widths) + 4)
    table = _drawn(columns, cells, widths, right, colours)
    lines = console.render_lines(table, console.options, pad=False)
    from rich.segment import Segment

    return [
        "".join(
            segment.style.render(segment.text) if segment.style else segment.text
            for segment in Segment.adjust_line_length(line, width, pad=False)
        )
        for line in lines
    ]


def _room_for_last(widths: Sequence[int]) -> int:
    return min(widths[-1], 30)


def _drawn(
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    widths: Sequence[int],
    right: Sequence[str],
    colours: Mapping[str, str],
) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    *whole, last = zip(columns, widths, strict=True)
    for column, width in whole:  # a name that is cut names nothing
        table.add_column(column, justify="right" if column in right else "left", min_width=width,
                         no_wrap=True)  # fmt: skip
    table.add_column(last[0], justify="right" if last[0] in right else "left", overflow="fold",
                     min_width=_room_for_last(widths))  # fmt: skip
    for row in cells:
        # Text, not markup: names come from outside
        table.add_row(*(Text(cell, colours.get(cell, "")) for cell in row))
    return table


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
