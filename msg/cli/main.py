"""`trio-msg`: the commands, gathered. Imports only what every command needs.

A one-shot command is to start in well under 0.3 s, so the broker, rich and the settings are
imported by the commands that use them.
"""

import io
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from msg import __version__
from msg.cli import (
    bench,
    chaos,
    consume,
    dead,
    looking,
    orders,
    page,
    publish,
    questions,
    server,
    setup,
    storage,
    tap,
    top,
    tree,
)
from msg.cli.common import output_lost
from msg.daemon import exits

app = typer.Typer(
    name="trio-msg",
    help="A message broker: topics and durable queues over plain JSON lines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a bug's traceback is for us, whole and plain
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trio-msg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version_wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A message broker: topics and durable queues over plain JSON lines."""


for module in (
    server, publish, consume, questions, tree, looking, dead, orders, top, tap, page, storage,
    setup, bench, chaos,
):  # fmt: skip
    module.register(app)

PANELS = {  # what `trio-msg --help` puts together, in the order of a person's questions
    "Messages": ("pub", "send", "sub", "get", "work"),
    "What is there": ("queues", "topics", "top", "stats", "limits", "page", "ping"),
    "Who holds my message, and why is it stuck": ("why", "held", "trace", "peek", "tap", "tree"),
    "Putting it right": ("dead", "pause", "resume", "purge", "delete"),
    "The broker and its store": (
        "serve", "init", "config", "doctor", "export", "import", "bench", "chaos", "completion",
        "version",
    ),
}  # fmt: skip


def _arrange() -> None:
    panels = {name: panel for panel, names in PANELS.items() for name in names}
    order = list(panels)

    def place(info: Any) -> int:
        name = info.name or info.callback.__name__
        info.rich_help_panel = panels.get(name)  # one that is new and not placed: "Commands"
        return order.index(name) if name in panels else len(order)

    app.registered_commands.sort(key=place)
    app.registered_groups.sort(key=place)


_arrange()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave with its code."""
    _open_up_output()
    try:
        app(args=None if arguments is None else list(arguments), prog_name="trio-msg")
    except SystemExit as leaving:
        # whatever the library calls a wrong command line, ours is EX_USAGE
        sys.exit(exits.USAGE if leaving.code == 2 else leaving.code)
    except Exception as error:
        # commands see to their own output; the library writes their help
        code = output_lost(error) if isinstance(error, OSError) else None
        if code is None:
            traceback.print_exc()
            code = exits.SOFTWARE  # not the interpreter's 1, which says that the answer is no
        sys.exit(code)
    sys.exit(exits.OK)


def _open_up_output() -> None:
    """What a terminal's or a file's encoding cannot say is written as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
