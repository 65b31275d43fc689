"""The web page's door: its address, its port, its token.

The default address gives way when it is taken (two brokers on one machine); one that was
asked for does not. The token is made once and lies in the data directory, for its owner only.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import attrs
import structlog
import trio

from msg.config import ConfigError, Settings
from msg.daemon.process import CannotCreate, is_loopback, show_address
from msg.world import World

log = structlog.get_logger()

OFF = ("off", "")
DEFAULT_PORT = 8889
NEXT_PORTS = 20  # tried when the default one is taken
TOKEN = "WEB_TOKEN"
ADDRESS = "WEB_ADDRESS"  # of the page that is served from this data directory
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # listened on; how one asks for it here
TOKEN_BITS = 256


@attrs.frozen
class Address:
    """Where the page is to be. `asked`: somebody has chosen it."""

    host: str
    port: int
    asked: bool

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def address_of(settings: Settings) -> Address | None:
    """What `--http` says; None: no page. Raises ConfigError."""
    text = settings.http.strip()
    if text.lower() in OFF:
        return None
    host, _, port = text.rpartition(":")
    if not host and port and not port.isdecimal():
        host, port = port, str(DEFAULT_PORT)
    if not port.isdecimal() or int(port) > 65_535:
        raise ConfigError([
            f"{settings.origin('http')}: http is an address such as 127.0.0.1:8889, or off, not"
            f" {text!r}"
        ])  # fmt: skip
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    address = Address(host, int(port), settings.origin("http") != "default")
    if not settings.insecure and not address.local:
        raise ConfigError([
            f"{settings.origin('http')}: http {text!r} can be reached from other machines, in"
            " plain text: add --insecure if that is meant"
        ])  # fmt: skip
    return address


async def listen(address: Address) -> list[trio.SocketListener]:
    """Listening sockets; none when all that may be tried are taken. Raises OSError when a port
    that was asked for is."""
    from msg.actors.listener import open_listeners

    tries = 1 if address.asked or not address.port else NEXT_PORTS
    for port in range(address.port, address.port + tries):
        try:
            listeners = await open_listeners(address.host, port)
        except OSError as error:
            if address.asked or error.errno != errno.EADDRINUSE:
                raise
            continue
        if port != address.port:
            log.warning("the page's port is taken: it is at the next free one", taken=address.port,
                        port=port)  # fmt: skip
        return listeners
    log.warning("no port is free for the page: there is none", tried=tries, first=address.port)
    return []


def token_of(data_dir: str, world: World) -> str:
    """The token for writes: made at the first start, then always the same."""
    path = os.path.join(data_dir, TOKEN)
    try:
        with open(path, encoding="ascii") as file:
            token = file.read().strip()
        if len(token) * 4 >= TOKEN_BITS and not os.stat(path).st_mode & 0o077:
            return token
        os.unlink(path)
    except FileNotFoundError:
        pass  # the first start
    except (OSError, ValueError) as error:
        raise CannotCreate(f"token file {path}: {error}") from error
    token = f"{world.rng.getrandbits(TOKEN_BITS):0{TOKEN_BITS // 4}x}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(fd, "w", encoding="ascii") as file:
            file.write(f"{token}\n")
    except OSError as error:
        raise CannotCreate(f"token file {path}: {error.strerror}") from error
    return token


async def start(
    broker: Any, listeners: list[trio.SocketListener], address: Address, settings: Settings,
    world: World,
) -> str | None:  # fmt: skip
    """Serve the page beside the broker, until that stops. Returns its address."""
    # a quarter of a second: not in the loop, and not for a broker without a page
    server = await trio.to_thread.run_sync(import_module, "msg.web.server")
    if broker.drained.is_set():
        return None
    host, port = listeners[0].socket.getsockname()[:2]
    url = f"http://{show_address(EVERYWHERE.get(host, host), port)}/"
    token = token_of(settings.data_dir, world)

    async def serve(task_status: "trio.TaskStatus[object]") -> None:
        with address_file(settings.data_dir, url):
            await serve_until_cancelled(task_status)

    async def serve_until_cancelled(task_status: "trio.TaskStatus[object]") -> None:
        await server.serve_web(
            broker, listeners, host=address.host, token=token, local=address.local,
            reports=settings.reports, task_status=task_status,
        )  # fmt: skip

    await broker.connections.nursery.start(serve, name="web")
    return url


@contextlib.contextmanager
def address_file(data_dir: str, url: str) -> Iterator[None]:
    """While the page is served its address stands in the data directory: for `trio-msg page`."""
    path = os.path.join(data_dir, ADDRESS)
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(f"{url}\n")
    except OSError as error:  # a disk that is full: the page is served all the same
        log.warning("the page's address cannot be written", file=path, error=error.strerror)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # gone already, or it was never there
            os.unlink(path)


def address_in(data_dir: str) -> str | None:
    """The address of the page that is served, or was when its broker was killed."""
    return _line_of(os.path.join(data_dir, ADDRESS))


def token_in(data_dir: str) -> str | None:
    """The token for writes, for those who may read it."""
    return _line_of(os.path.join(data_dir, TOKEN))


def _line_of(path: str) -> str | None:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip() or None
    except (OSError, ValueError):
        return None
