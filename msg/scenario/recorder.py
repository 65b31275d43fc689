"""A recorder: a proxy before a broker that notes what clients say, for a scenario to replay.

    client ─► recorder ─► broker

What goes through is not changed. What is noted is: bodies are hashed or cut, since they are
nobody's business, header values hashed, what a client logs in with left out; what only this
broker could know (its message ids, inboxes) is replaced by what a replay can know.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Literal

import attrs
import msgspec
import trio

from msg.errors import ClientError
from msg.protocol.framing import Framer

_decode = msgspec.json.decode
_encode = msgspec.json.encode
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
READ_BYTES = 1 << 16
LINES_MAX = 100_000  # noted in all; what comes after goes through and is not noted
BEGINNING = 40  # characters of a body that is cut
SECRETS = ("token", "user", "password")

Bodies = Literal["hash", "cut", "keep"]
Frame = dict[str, Any]


@attrs.define(eq=False)
class Recording:
    """Everything noted so far. `clock`: seconds since it began."""

    bodies: Bodies
    clock: Callable[[], float]
    clients: "list[Recorded]" = attrs.field(factory=list)
    errors: dict[str, None] = attrs.field(factory=dict)  # codes that clients were told
    inboxes: dict[str, str] = attrs.field(factory=dict)  # prefix -> whose
    ids: dict[str, None] = attrs.field(factory=dict)  # message ids that clients chose
    lines: int = 0
    lasted: float = 0.0  # until the last line

    @property
    def full(self) -> bool:
        return self.lines >= LINES_MAX

    def connected(self) -> "Recorded":
        client = Recorded(self, f"client-{len(self.clients) + 1}", self.clock())
        self.clients.append(client)
        return client

    def document(self, title: str, why: str) -> Frame:
        """The tables of a scenario that says the same."""
        return {
            "title": title,
            "why": why,
            "seed": 1,
            "lasts": _time(self.lasted),
            "client": [client.table() for client in self.clients if client.says],
            "expect": {"errors_allowed": list(self.errors)} if self.errors else {},
        }


@attrs.define(eq=False)
class Recorded:
    """One connection, as what was said on it. `heard` is what the broker answered."""

    recording: Recording
    name: str
    since: float
    says: list[Frame] = attrs.field(factory=list)
    published: int = 0
    tags: dict[str, int] = attrs.field(factory=dict)  # message id -> tag of its last delivery
    _up: Framer = attrs.field(factory=Framer)
    _down: Framer = attrs.field(factory=lambda: Framer(1 << 30))
    _raw: bytes = b""  # said, and not yet part of a frame
    _broken: bool = False  # what comes now cannot be told into frames

    def table(self) -> Frame:
        return {
            "name": self.name, "start": _time(self.since), "reconnect": False, "say": self.says,
        }  # fmt: skip

    # -- what the client says ---------------------------------------------------------------

    def said(self, data: bytes) -> None:
        """More bytes came from the client."""
        self._raw += data
        if self._broken:
            self._say_raw()
            return
        self._up.push(data)
        while (frame := self._up.pull()) is not None:
            if isinstance(frame, ClientError):
                self._broken = True
                self._say_raw()
                return
            self._up.started = True
            end = self._raw.find(frame) + len(frame)
            self._raw = self._raw[end:]
            self._say_frame(frame)

    def ended(self, how: Literal["close", "reset"]) -> None:
        """It ended the connection, in good order or not."""
        if self._raw.strip():
            self._say_raw()
        self._note({how: True})

    def _say_raw(self) -> None:
        raw, self._raw = self._raw, b""
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            import base64

            self._note({"base64": base64.b64encode(raw).decode()})
        else:
            self._note({"text": text})

    def _say_frame(self, raw: bytes) -> None:
        try:
            frame = _decode(raw)
        except (msgspec.DecodeError, RecursionError):
            self._note({"text": raw.decode("utf-8", "replace") + "\n"})
            return
        told = self._told(frame)
        if _has_null(told):  # TOML has none
            self._note({"text": _encode(told).decode() + "\n"})
        else:
            self._note({"frame": told})

    def _note(self, what: Frame) -> None:
        if self.recording.full:
            return
        recording = self.recording
        recording.lines += 1
        recording.lasted = recording.clock()
        self.says.append({"at": _time(recording.lasted - self.since), **what})

    # -- what of it is told -----------------------------------------------------------------

    def _told(self, frame: Frame) -> Frame:
        action = frame.get("action", frame.get("type"))
        told = {key: value for key, value in frame.items() if key not in SECRETS}
        if action == "publish" and "message" in frame:
            told = self._publish(told)
        elif action in ("ack", "nack", "touch"):
            told = self._settle(told)
        told = {key: self._without_inbox(value) for key, value in told.items()}
        headers = told.get("headers")
        if isinstance(headers, dict) and self.recording.bodies != "keep":
            told["headers"] = {name: _hash(value) for name, value in headers.items()}
        return told

    def _publish(self, frame: Frame) -> Frame:
        message_id = frame.get("message_id")
        key = f"{self.name}/{self.published}"
        self.published += 1
        if isinstance(message_id, str):
            self.recording.ids[message_id] = None
            key = message_id
        elif "id" not in frame:
            frame["id"] = key  # so that the replay knows the answer of each
        if frame["message"] is None and frame.get("retain"):
            return frame  # it clears the retained value
        body = frame["message"]
        encoded = _encode(body)
        kind = self.recording.bodies
        if kind == "keep":
            frame["message"] = {"k": key, "body": body}
        else:
            frame.pop("encoding", None)
            frame["message"] = {"k": key, "bytes": len(encoded)}
            if kind == "hash":
                frame["message"]["sha256"] = _hash(body)
            else:
                frame["message"]["begins"] = encoded.decode()[:BEGINNING]
        return frame

    def _settle(self, frame: Frame) -> Frame:
        """By tag, where the id is one that a replay's broker will not choose again."""
        ids = frame.get("message_ids") or [frame.get("message_id")]
        if all(isinstance(i, str) and i not in self.recording.ids for i in ids):
            tags = [self.tags[i] for i in ids if i in self.tags]
            if len(tags) == len(ids):
                frame.pop("message_id", None)
                frame.pop("message_ids", None)
                frame |= {"tags": tags} if len(tags) > 1 else {"tag": tags[0]}
        return frame

    def _without_inbox(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._without_inbox(inner) for key, inner in value.items()}
        if isinstance(value, str):
            for prefix, name in self.recording.inboxes.items():
                if value.startswith(prefix):
                    return f"{{inbox {name}}}{value[len(prefix) :]}"
        return value

    # -- what the broker answers ------------------------------------------------------------

    def heard(self, data: bytes) -> None:
        """More bytes came from the broker."""
        self._down.push(data)
        while (raw := self._down.pull()) is not None:
            if isinstance(raw, ClientError):
                return  # not a broker of ours: nothing of it is needed
            self._down.started = True
            frame = _decode(raw)
            kind = frame.get("type")
            if kind == "message" and "tag" in frame:
                self.tags[frame["message_id"]] = frame["tag"]
            elif kind == "hello" and frame.get("inbox"):
                self.recording.inboxes[frame["inbox"]] = self.name
            elif kind == "error":
                self.recording.errors[frame.get("code", "internal")] = None


async def record(
    listeners: list[trio.SocketListener], host: str, port: int, recording: Recording
) -> None:
    """Pass on all connections to the broker at `host`, and note them, until cancelled."""

    async def serve(client: trio.SocketStream) -> None:
        try:
            broker = await trio.open_tcp_stream(host, port)
        except OSError:
            await trio.aclose_forcefully(client)
            return
        await _pass_on(client, broker, recording.connected())

    await trio.serve_listeners(serve, listeners)


async def _pass_on(client: trio.SocketStream, broker: trio.SocketStream, noted: Recorded) -> None:
    async def upward() -> None:
        try:
            while data := await client.receive_some(READ_BYTES):
                noted.said(data)
                await broker.send_all(data)
            noted.ended("close")
            await broker.send_eof()
        except GONE as error:
            if not isinstance(error, trio.ClosedResourceError):
                noted.ended("reset")
            nursery.cancel_scope.cancel("the client is gone")

    async def downward() -> None:
        try:
            while data := await broker.receive_some(READ_BYTES):
                noted.heard(data)
                await client.send_all(data)
        except GONE:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel("the broker has ended it")

    async with broker, client, trio.open_nursery() as nursery:
        nursery.start_soon(upward)
        nursery.start_soon(downward)


def _has_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_null(inner) for inner in value.values())
    return value is None or (isinstance(value, list) and any(map(_has_null, value)))


def _hash(value: Any) -> str:
    return hashlib.sha256(_encode(value)).hexdigest()[:16]


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.3f}ms"
