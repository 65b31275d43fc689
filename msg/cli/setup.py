"""`init` and `completion`: what is done once on a machine."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from msg.cli.common import Failed, command
from msg.daemon import exits


def register(app: typer.Typer) -> None:
    app.command()(init)
    app.command()(completion)


@command
def init(
    file: Annotated[str, typer.Argument(help="Where to write it; - is standard output.")] = (
        "msg.toml"
    ),
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> None:
    """Write a settings file: every key with its default and what it does, all commented out.

    As written it changes nothing. `serve --config FILE` uses it, `config check FILE` checks it.
    """
    from msg.config.about import commented

    text = commented()
    if file == "-":
        sys.stdout.write(text)
        return
    try:
        with Path(file).open("w" if force else "x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise Failed(exits.CANT_CREATE, f"{file} is there already; --force overwrites it") from None
    except OSError as error:
        raise Failed(exits.CANT_CREATE, f"{file}: {error.strerror}") from None
    typer.echo(f"wrote {file}; start with: trio-msg serve --config {file}")


@command
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="For which shell.")],
) -> None:
    """Print the script that makes a shell complete trio-msg's commands and options.

    For packages and dotfiles: `eval "$(trio-msg completion bash)"`. For oneself,
    `trio-msg --install-completion` writes it where the shell looks.
    """
    # the library's own script, also where it cannot find out which shell runs it
    from typer._completion_shared import get_completion_script

    typer.echo(
        get_completion_script(prog_name="trio-msg", complete_var="_TRIO_MSG_COMPLETE", shell=shell)
    )
