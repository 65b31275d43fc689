"""systemd: READY, STOPPING, RELOADING and WATCHDOG over NOTIFY_SOCKET, without a library.

Everything here is a no-op where systemd did not start us.
"""

import os
import socket
import time
from collections.abc import Mapping

import attrs
import structlog

log = structlog.get_logger()


@attrs.frozen
class Notifier:
    """`address` is NOTIFY_SOCKET's; empty: nobody to tell."""

    address: str = ""
    watchdog_seconds: float = 0.0  # tell at least that often that we live; 0 = never

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> "Notifier":
        """As sd_notify(3) and sd_watchdog_enabled(3) define them."""
        pid = env.get("WATCHDOG_PID", "")
        usec = env.get("WATCHDOG_USEC", "")
        watched = usec.isdecimal() and (not pid or pid == str(os.getpid()))
        return cls(env.get("NOTIFY_SOCKET", ""), int(usec) / 1e6 if watched else 0.0)

    def send(self, *lines: str) -> None:
        """Never waits: a datagram that finds no room is lost, and said to be."""
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.setblocking(False)
                channel.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.warning("systemd not told", lines=lines, error=str(error))

    def ready(self, status: str) -> None:
        self.send("READY=1", f"STATUS={status}", f"MAINPID={os.getpid()}")

    def stopping(self) -> None:
        self.send("STOPPING=1", "STATUS=waiting for acks")

    def reloading(self) -> None:
        self.send(
            "RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
        )

    def alive(self) -> None:
        self.send("WATCHDOG=1")
