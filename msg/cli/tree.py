"""`tree`: the actors of a running broker, who waits on whom, and where each stands."""

import os
import sys
import time
from enum import StrEnum
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
    table_lines,
    write_line,
)
from msg.cli.looking import plain
from msg.plain_client import PlainClient

COLOURS = {"failed": "bold red", "stuck": "bold red", "waiting": "yellow", "paused": "yellow",
           "draining": "yellow", "starting": "yellow", "folded": "dim"}  # fmt: skip
FOLD = 20


class Format(StrEnum):
    """What `--format` takes."""

    TEXT = "text"
    JSON = "json"
    DOT = "dot"
    SVG = "svg"


def register(app: typer.Typer) -> None:
    app.command()(tree)


@command
def tree(
    stacks: Annotated[bool, typer.Option("--stacks", help="Show where each actor waits.")] = False,
    expand: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Do not fold this kind of actor, or below this one."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Fold nothing.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Draw it again and again.")] = False,
    every: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="So often, with --watch.")
    ] = 1.0,
    as_format: Annotated[
        Format, typer.Option("--format", help="text, json, dot (Graphviz) or svg.")
    ] = Format.TEXT,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Draw the tree of actors: state, mailbox, age, and who waits on whom.

    Many actors of one kind are folded; those that wait or hold the most are shown.
    """
    if as_json:
        as_format = Format.JSON
    options: dict[str, Any] = {"stacks": stacks}
    if not everything:
        options |= {"fold": FOLD, "expand": expand or []}
    if watch and as_format in (Format.DOT, Format.SVG):
        raise UsageError("--watch draws text or JSON; for a picture use the web page")
    with connect(url) as client:
        while True:
            drawn = _ask(client, options)
            if watch and on_terminal() and as_format is Format.TEXT:
                _redraw(drawn)
            else:
                _show(drawn, as_format)
            if not watch:
                return
            time.sleep(every)


def _ask(client: PlainClient, options: dict[str, Any]) -> dict[str, Any]:
    return ask_all(client, "tree", "actors", options=options)


def _show(drawn: dict[str, Any], as_format: Format) -> None:
    actors, waits = drawn["actors"], drawn.get("waits", [])
    knots = drawn.get("knots", [])
    match as_format:
        case Format.JSON:
            print_json({"actors": actors, "waits": waits, "knots": knots,
                        "count": drawn.get("count", len(actors))})  # fmt: skip
        case Format.DOT:
            from msg.show.tree_dot import tree_dot

            write_line(tree_dot(actors, waits).encode())
        case Format.SVG:
            from msg.show.tree_svg import tree_svg

            write_line(tree_svg(actors, waits, knots).encode())
        case Format.TEXT:
            _show_text(actors, waits, knots)


def _redraw(drawn: dict[str, Any]) -> None:
    """What the screen has room for, over what was there: no flicker, and nothing scrolls."""
    from msg.show.tree_text import COLUMNS, RIGHT, notes_text, row_of, tree_lines

    actors = drawn["actors"]
    rows = [row_of(name, actor) for name, actor in tree_lines(actors)]
    notes = notes_text(drawn.get("waits", []), drawn.get("knots", []))
    size = os.get_terminal_size()
    # what is wrong stands below the tree, and is not what falls off the screen
    notes = [plain(line)[: size.columns] for line in notes[: size.lines // 2]]
    room = max(1, size.lines - 1 - len(notes))
    lines = table_lines(COLUMNS, rows, right=RIGHT, colours=COLOURS, width=size.columns)
    if len(lines) > room:
        hidden = len(lines) - room + 1
        lines = [*lines[: room - 1], f"… {hidden} more lines; make the window higher"]
    text = "".join(f"{line}\x1b[K\n" for line in [*lines, *notes])
    sys.stdout.write(f"\x1b[H{text}\x1b[J")
    sys.stdout.flush()


def _show_text(actors: list[dict[str, Any]], waits: list[dict[str, Any]], knots: list[str]) -> None:
    from msg.show.tree_text import COLUMNS, RIGHT, notes_text, row_of, tree_lines, tree_text

    if any("stack" in actor for actor in actors) or not on_terminal():
        for line in tree_text(actors, waits, knots).splitlines():
            write_line(plain(line).encode())
        return
    rows = [row_of(name, actor) for name, actor in tree_lines(actors)]
    show_table(COLUMNS, rows, right=RIGHT, colours=COLOURS)
    for line in notes_text(waits, knots):
        write_line(plain(line).encode())
