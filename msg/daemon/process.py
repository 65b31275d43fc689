"""What a broker asks of its process: file descriptors, the thread switch, the port file."""

import contextlib
import ipaddress
import os
import socket
import sys
from collections.abc import Iterator

from msg.config import Settings
from msg.errors import BrokerError

# STORE.md rule 1: at the default of 5 ms a busy loop starves the commit thread
SWITCH_SECONDS = 0.0005
SPARE_FILES = 1024  # segments, sockets that close, logs, libraries


class CannotCreate(BrokerError):
    """A file of ours, other than the store's, could not be made (exit 73)."""


def raise_file_limit(settings: Settings) -> tuple[int, int]:
    """Raise the soft limit on open files as far as needed and allowed: (limit, needed)."""
    import resource

    # the store opens its files for each commit only: a few at a time
    needed = settings.limits.connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed, needed
    # macOS says that hard is infinite and then refuses more than OPEN_MAX
    for wanted in (needed, 10_240):
        target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if target <= soft:
            continue
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            return target, needed
    return soft, needed


def too_few_files(settings: Settings, limit: int, needed: int) -> bool:
    """Whether a person should hear of it: more were asked for, or far fewer are left than the
    20,000 connections that nobody asked for."""
    chosen = settings.origin("limits", "connections") != "default"
    return limit < (needed if chosen else needed // 4)


def share_the_interpreter() -> None:
    """Let other threads have the interpreter soon, the commit thread above all."""
    sys.setswitchinterval(SWITCH_SECONDS)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a socket that listens there."""
    if host in ("", "*"):
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return True  # it cannot be listened on either: that error says it better
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


@contextlib.contextmanager
def port_file(path: str, port: int) -> Iterator[None]:
    """The port, in a file that is whole from the moment it is there, until we stop."""
    if not path:
        yield
        return
    draft = f"{path}.{os.getpid()}"
    try:
        with open(draft, "w", encoding="ascii") as file:
            file.write(f"{port}\n")
        os.replace(draft, path)
    except OSError as error:
        raise CannotCreate(f"port file {path}: {error.strerror}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # gone, or replaced by somebody who will remove it
            os.unlink(path)


def show_address(host: str, port: int) -> str:
    """`127.0.0.1:8888`, `[::1]:8888`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
