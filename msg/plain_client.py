"""A client of one blocking socket and the standard library: for the command line and scripts.

It starts in no time, keeps no state that a reconnect could save, and shows frames as the
dicts that they are on the wire. `send` and `receive` may be used by two threads, one each.
"""

import contextlib
import json
import select
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from msg.errors import BrokerError

Frame = dict[str, Any]

DEFAULT_URL = "msg://localhost:8888"
PORT = 8888
CHUNK = 1 << 16


class Unavailable(BrokerError):
    """No broker there, or the connection ended before its answer came."""


class Refused(BrokerError):
    """The broker's `error` frame, as it came."""

    def __init__(self, frame: Frame) -> None:
        super().__init__(f"{frame.get('error', 'refused')} ({frame.get('code', 'no code')})")
        self.frame = frame
        self.code = str(frame.get("code", "internal"))
        self.retry = str(frame.get("retry", "never"))


def parse_url(url: str) -> tuple[str, int]:
    """`msg://host:port`, `host:port`, `host`, `msg://[::1]:8888` -> (host, port)."""
    text = url if "://" in url else f"msg://{url}"
    parts = urlsplit(text)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme != "msg" or not parts.hostname or port == -1 or parts.path not in ("", "/"):
        raise ValueError(f"expected msg://host:port, not {url!r}")
    return parts.hostname, PORT if port is None else port


class PlainClient:
    """One connection. A context manager; frames in the order they come."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._scanned = 0  # of the buffer, without a line end
        self._kept: deque[Frame] = deque()  # came while an answer was awaited
        self._asked = 0

    @classmethod
    def connect(cls, url: str = DEFAULT_URL, timeout: float = 5.0) -> Self:
        """Raises `Unavailable` with the reason, ValueError for a url that is none."""
        host, port = parse_url(url)
        try:
            connection = socket.create_connection((host, port), timeout)
        except OSError as error:
            reason = error.strerror or str(error)
            raise Unavailable(f"no broker at {host}:{port}: {reason}") from error
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.settimeout(None)
        return cls(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; what it holds goes back to its queues."""
        with contextlib.suppress(OSError):  # wakes a thread that waits in `receive`
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def send(self, frame: Mapping[str, object]) -> None:
        """One frame. `NaN` and the like are a ValueError: they are not JSON."""
        self.send_raw(encode(frame))

    def send_raw(self, lines: bytes) -> None:
        """Complete lines, as they are."""
        try:
            self._socket.sendall(lines)
        except OSError as error:
            raise Unavailable(f"connection lost: {error.strerror or error}") from error

    def ask(self, frame: Mapping[str, object], timeout: float | None = 10.0) -> Frame:
        """Send a request and wait for its answer; other frames are kept for `receive`.

        Raises `Refused` for an `error`, `Unavailable` when the answer does not come.
        """
        self._asked += 1
        request_id = f"ask-{self._asked}"
        self.send({**frame, "id": request_id})
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                answer = self._next(None if deadline is None else deadline - time.monotonic())
            except TimeoutError:
                action = frame.get("action")
                raise Unavailable(f"no answer to {action} within {timeout:g} s") from None
            if answer.get("id") == request_id:
                if answer.get("type") == "error":
                    raise Refused(answer)
                return answer
            if answer.get("type") == "error" and "id" not in answer and answer.get("closes"):
                raise Refused(answer)
            self._kept.append(answer)

    def receive(self, timeout: float | None = None) -> Frame:
        """The next frame. Raises TimeoutError, or `Unavailable` at the connection's end."""
        return self._kept.popleft() if self._kept else self._next(timeout)

    def take_kept(self) -> list[Frame]:
        """The frames that came while an answer was awaited, without waiting."""
        kept = list(self._kept)
        self._kept.clear()
        return kept

    def frames(self, timeout: float | None = None) -> Iterator[Frame]:
        """Frames until the connection ends; `timeout` is for each."""
        while True:
            try:
                yield self.receive(timeout)
            except Unavailable:
                return

    def has_frame(self) -> bool:
        """Whether `receive` would return without reading from the socket."""
        return bool(self._kept) or b"\n" in self._buffer

    def _next(self, timeout: float | None) -> Frame:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (end := self._buffer.find(b"\n", self._scanned)) < 0:
            self._scanned = len(self._buffer)
            try:
                if deadline is not None:
                    # not settimeout: another thread may be sending on the same socket
                    left = max(0.0, deadline - time.monotonic())
                    if not _readable(self._socket, left):
                        raise TimeoutError
                chunk = self._socket.recv(CHUNK)
            except TimeoutError:
                raise
            except (OSError, ValueError) as error:  # ValueError: closed by another thread
                raise Unavailable(f"connection lost: {error}") from error
            if not chunk:
                raise Unavailable("the broker closed the connection")
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._scanned = 0
        try:
            frame = json.loads(line)
        except (ValueError, RecursionError):
            frame = None
        if not isinstance(frame, dict):
            raise Unavailable(f"this is not a broker: it said {line[:80]!r}")
        return frame


def _readable(sock: socket.socket, seconds: float) -> bool:
    if hasattr(select, "poll"):  # `select` refuses file descriptors over 1,023
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    return bool(select.select([sock], [], [], seconds)[0])


def encode(frame: Mapping[str, object]) -> bytes:
    """One line of compact JSON."""
    text = json.dumps(frame, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8") + b"\n"
