"""Pages of the site that are written by the program itself: the command line and the settings.

MkDocs calls `on_files`. Neither page lies in the repository, so neither can be out of date.
"""

from typing import Any

from typer import Context
from typer.cli import get_docs_for_click
from typer.main import get_command

from msg.cli.main import app
from msg.config.about import TABLES, keys


def cli_page() -> str:
    """What `--help` says of every command."""
    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=Context(command), name="trio-msg", title="trio-msg")
    about = (
        "The command line\n\nWhat `--help` says of every command. Of the exit codes, 0 is good,"
        " 1 means that the answer is no, and the others are those of sysexits.h."
    )
    return text.replace("trio-msg\n", about + "\n", 1)


def config_page() -> str:
    """Every setting: default, what may be written, what it does."""
    lines = [
        "# Settings",
        "",
        "From flags, the environment, a TOML file and the defaults, the first being the strongest."
        " `trio-msg init` writes a file with all of this as comments, `trio-msg config show` says"
        " what is in force and where each value is from, `trio-msg config check` checks a file.",
        "",
        "A **size** is a number of bytes or a text such as `16MiB`; a **time** a number of seconds"
        " or a text such as `500ms`, `30s`, `2m`, `7d`. In the environment a key is `MSG_PORT`, or"
        " `MSG_LIMITS_NAMES` for one of the limits.",
    ]
    for table, cls, about, what in TABLES:
        heading = {"": "The process", "limits": "`[limits]`"}.get(table, f'`[{table}."PATTERN"]`')
        lines += ["", f"## {heading}", "", what, ""]
        lines += ["| key | default | | what it does |", "|---|---|---|---|"]
        for key in keys(cls, about):
            kind = key.kind.replace(" | ", ", ")
            lines.append(f"| `{key.name}` | `{key.default}` | {kind} | {key.about} |")
    return "\n".join(lines) + "\n"


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for path, page in (("reference/cli.md", cli_page), ("reference/config.md", config_page)):
        files.append(File.generated(config, path, content=page()))
    return files
