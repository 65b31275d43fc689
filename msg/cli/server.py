"""`serve`, `config` and `version`: what concerns the broker on this machine."""

import os
from typing import Annotated, Any

import typer

from msg import __version__
from msg.cli.common import AsJson, Failed, command, print_json, show_table
from msg.daemon import exits

Host = Annotated[
    str | None,
    typer.Option(
        help="Address or name to listen on; without it localhost, on both of its addresses."
    ),
]
Port = Annotated[int | None, typer.Option(help="Port; 0 picks a free one. [8888]")]
PortFile = Annotated[str | None, typer.Option(help="Write the port there when listening.")]
DataDir = Annotated[str | None, typer.Option(help="The store's directory. [.msg_data]")]
Config = Annotated[str | None, typer.Option(help="TOML file with settings.")]
LogFormat = Annotated[str | None, typer.Option(help="text, json, or auto. [auto]")]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error. [info]")]
Http = Annotated[str | None, typer.Option(help="Address of the web page, or off.")]
Drain = Annotated[str | None, typer.Option("--drain-seconds", help="A stop waits so long. [10s]")]
Insecure = Annotated[
    bool | None,
    typer.Option("--insecure", help="Listen beyond this machine though nobody has to log in."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, as limits.frame_bytes=2MiB."),
]

config_app = typer.Typer(no_args_is_help=True, help="Settings and where each comes from.")


def register(app: typer.Typer) -> None:
    app.command()(serve)
    app.command()(version)
    app.add_typer(config_app, name="config")
    config_app.command("show")(config_show)
    config_app.command("check")(config_check)


@command
def serve(
    host: Host = None,
    port: Port = None,
    port_file: PortFile = None,
    data_dir: DataDir = None,
    config: Config = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
    http: Http = None,
    drain: Drain = None,
    insecure: Insecure = None,
    sets: Sets = None,
) -> None:
    """Run the broker until SIGTERM or Ctrl-C.

    Every option can also stand in the environment (MSG_PORT) or in the file (port = 8888).
    """
    from msg.daemon.serve import serve as run

    flags = _given(locals())
    raise Failed(run(flags, os.environ, sets or []))


@command
def config_show(
    host: Host = None,
    port: Port = None,
    port_file: PortFile = None,
    data_dir: DataDir = None,
    config: Config = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
    http: Http = None,
    drain: Drain = None,
    insecure: Insecure = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Print every setting, its value, and where the value comes from."""
    from msg.config import show_key, show_value

    settings = load_settings(_given(locals()), sets)
    values = [(where, value) for where, value in settings.values() if where != ("config",)]
    if as_json:
        print_json({
            show_key(where): {"value": value, "origin": settings.origin(*where)}
            for where, value in values
        })  # fmt: skip
        return
    rows = [
        (show_key(where), show_value(where, value), settings.origin(*where))
        for where, value in values
    ]
    show_table(("key", "value", "origin"), rows, colours={"default": "dim"})


@command
def config_check(
    config: Annotated[str | None, typer.Argument(help="TOML file; else MSG_CONFIG's.")] = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Check the settings: exit 0 when a broker would start with them, else 78."""
    from msg.config import ConfigError, load

    try:
        settings = load({"config": config} if config else {}, os.environ, sets or [])
    except ConfigError as error:
        if not as_json:
            raise Failed(exits.CONFIG, str(error)) from None
        print_json({"good": False, "problems": error.problems})
        raise Failed(exits.CONFIG) from None
    if as_json:
        print_json({"good": True, "problems": []})
    else:
        typer.echo(f"{settings.config or 'no file'}: good")


@command
def version(as_json: AsJson = False) -> None:
    """Print the versions of the program and of what it stands on."""
    import platform
    from importlib.metadata import version as installed

    versions = {"trio-msg": __version__, "python": platform.python_version()}
    versions |= {name: installed(name) for name in ("trio", "msgspec")}
    versions["system"] = platform.platform()
    if as_json:
        print_json(versions)
    else:
        for name, number in versions.items():
            typer.echo(f"{name} {number}")


_FLAGS = ("host", "port", "port_file", "data_dir", "config", "log_format", "log_level", "http",
          "insecure")  # fmt: skip


def _given(arguments: dict[str, Any]) -> dict[str, object]:
    flags = {name: arguments[name] for name in _FLAGS if arguments[name] is not None}
    if arguments["drain"] is not None:
        flags["drain_seconds"] = arguments["drain"]
    return flags


def load_settings(flags: dict[str, object], sets: list[str] | None) -> Any:
    """The settings as `serve` would have them."""
    from msg.config import ConfigError, load

    try:
        return load(flags, os.environ, sets or [])
    except ConfigError as error:
        raise Failed(exits.CONFIG, str(error)) from None
