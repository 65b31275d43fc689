"""A broker of one thread per connection and no promises: enough for the command line's tests.

A subscription gets what its queue holds, `prefetch` unsettled at a time; nothing returns.

`received` holds every frame that came. `answers` replaces the answer to an action: a frame,
several, or a function of the request; the fake adds the request's id.
"""

import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Frame = dict[str, Any]
Answer = Frame | Sequence[Frame] | Callable[[Frame], Sequence[Frame]]


class FakeBroker:
    """Serves until `close`. Queues are lists of messages; nothing is ever redelivered."""

    def __init__(self) -> None:
        self.received: list[Frame] = []
        self.arrived: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self.answers: dict[str, Answer] = {}
        self.queues: dict[str, list[Frame]] = {}
        self.hang_up_after: int | None = None  # frames
        self._next_id = 0
        self._subscribed: str | None = None
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"msg://127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        thread.start()
        self._threads.append(thread)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join(5)

    def hang_up(self) -> None:
        """End all connections, as a broker that is gone."""
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it has left by itself

    def actions(self, action: str) -> list[Frame]:
        return [frame for frame in self.received if frame.get("action") == action]

    def wait_for(self, action: str) -> Frame:
        """The next frame with that action, which may be still to come."""
        while (frame := self.arrived.get(timeout=20)).get("action") != action:
            pass
        return frame

    def put(self, name: str, *bodies: object, **fields: object) -> None:
        """Messages into a queue, for `get` and for the next subscriber."""
        for body in bodies:
            self._next_id += 1
            frame = {"type": "message", "topic": name, "message": body,
                     "message_id": f"m{self._next_id}", "attempt": 1, **fields}  # fmt: skip
            self.queues.setdefault(name, []).append(frame)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        tags = iter(range(1, 1_000_000))
        with connection, connection.makefile("rb") as lines:
            try:
                for line in lines:
                    frame = json.loads(line)
                    self.received.append(frame)
                    self.arrived.put(frame)
                    out = b""
                    for answer in self._answer(frame, tags):
                        if "id" in frame and answer.get("type") != "message":
                            answer = {**answer, "id": frame["id"]}
                        out += json.dumps(answer).encode() + b"\n"
                    connection.sendall(out)
                    if self.hang_up_after is not None and len(self.received) >= self.hang_up_after:
                        return
            except OSError:
                return

    def _answer(self, frame: Frame, tags: Iterator[int]) -> Sequence[Frame]:
        action = frame["action"]
        given = self.answers.get(action)
        if callable(given):
            return given(frame)
        if given is not None:
            return [given] if isinstance(given, dict) else given
        if action == "publish":
            self._next_id += 1
            return [{"type": "ack", "message_id": frame.get("message_id", f"m{self._next_id}")}]
        if action == "get":
            taken = self._take(frame["topic"], frame["n"], tags)
            return [*taken, {"type": "got", "count": len(taken)}]
        if action == "subscribe":
            self._subscribed = frame["topic"]
            room = frame.get("prefetch", 1_000_000)
            return [{"type": "subscribed"}, *self._take(self._subscribed, room, tags)]
        if action == "unsubscribe":
            self._subscribed = None
            return [{"type": "unsubscribed"}]
        if action == "ping":
            return [{"type": "pong"}]
        count = len(frame.get("tags", [1]))
        answers: list[Frame] = []
        if "id" in frame:
            answers.append({"type": "acked", "count": count, "failed": []})
        if self._subscribed is not None and action in ("ack", "nack"):
            answers += self._take(self._subscribed, count, tags)
        return answers

    def _take(self, name: str, count: int, tags: Iterator[int]) -> list[Frame]:
        waiting = self.queues.get(name, [])
        taken = [{**message, "tag": next(tags)} for message in waiting[:count]]
        del waiting[:count]
        return taken
