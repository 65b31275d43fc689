"""`page`: the web page's address, with the token that lets a browser write there."""

from typing import Annotated

import typer

from msg.cli.common import AsJson, Failed, command, print_json
from msg.cli.server import Config, DataDir, load_settings
from msg.daemon import exits

ANSWER_S = 5.0


def register(app: typer.Typer) -> None:
    app.command()(page)


@command
def page(
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Print the web page's address, with the token that lets it publish and change things.

    For whoever may read the broker's data directory. The page itself reads without it.
    """
    from msg.daemon.page import address_in, token_in

    flags: dict[str, object] = {"data_dir": data_dir, "config": config}
    given = {name: value for name, value in flags.items() if value is not None}
    folder = load_settings(given, None).data_dir
    address = address_in(folder)
    if address is None:
        raise Failed(
            exits.UNAVAILABLE,
            f"no broker with a page uses {folder}: start one with `trio-msg serve`, or name its"
            " directory with --data-dir",
        )
    if not _answers(address):
        raise Failed(exits.UNAVAILABLE, f"nothing answers at {address}: the broker has ended")
    token = token_in(folder)
    if token is None:
        raise Failed(
            exits.NO_PERMISSION, f"the token in {folder} cannot be read: are you its owner?"
        )
    url = f"{address}#token={token}"
    if as_json:
        print_json({"url": url, "address": address, "token": token})
    else:
        typer.echo(url)
    if open_it:
        import webbrowser

        webbrowser.open(url)


def _answers(address: str) -> bool:
    from http.client import HTTPConnection, HTTPException
    from urllib.parse import urlsplit

    parts = urlsplit(address)
    connection = HTTPConnection(parts.hostname or "", parts.port or 80, timeout=ANSWER_S)
    try:
        connection.request("GET", "/healthz")
        connection.getresponse().read()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    return True
