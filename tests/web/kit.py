"""The page's application around a broker in this process, asked without sockets.

    async with running() as broker:
        site = Site(broker)
        answer = await site.get("/healthz")

And `serving`, the same with a real port, for a browser.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import attrs
import trio

from msg.web.app import Web
from msg.web.guard import DENIAL, App, Guard
from msg.web.server import hosts_of, serve_web
from tests.actors.kit import Running

TOKEN = "0123456789abcdef" * 4
HOST = "127.0.0.1:8889"


@attrs.frozen
class Answer:
    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json", self
        return json.loads(self.data)

    @property
    def text(self) -> str:
        return self.data.decode()


class Site:
    """The whole application, guards included, as a browser of this machine meets it."""

    def __init__(self, ran: Running, *, local: bool = True, reports: str = "") -> None:
        hosts = hosts_of("127.0.0.1", 8889) if local else None
        asked = Guard(_nothing, hosts, TOKEN)
        self.web = Web(ran.broker, lambda scope: asked.has_token(scope, _headers(scope)), reports)
        self.app = Guard(self.web.app(), hosts, TOKEN)
        self.answered: Answer | None = None  # the last one

    async def get(
        self, path: str, /, headers: dict[str, str] | None = None, **query: Any
    ) -> Answer:
        return await self.ask("GET", path, headers=headers, query=query)

    async def post(
        self, path: str, body: Any = None, *, token: str | None = TOKEN,
        headers: dict[str, str] | None = None, whole: bool = True,
    ) -> Answer:  # fmt: skip
        """Not `whole`: the client leaves behind this much of the body."""
        said = {} if token is None else {"authorization": f"Bearer {token}"}
        data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        return await self.ask(
            "POST", path, headers={**said, **(headers or {})}, body=data, whole=whole
        )

    async def ask(
        self, method: str, path: str, *, headers: dict[str, str] | None = None,
        query: dict[str, Any] | None = None, body: bytes = b"", whole: bool = True,
    ) -> Answer:  # fmt: skip
        sent = {"host": HOST, **(headers or {})}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "path": path, "raw_path": path.encode(), "query_string": urlencode(query or {}).encode(),
            "headers": _encoded(sent), "client": ("127.0.0.1", 5000), "scheme": "http",
            "server": ("127.0.0.1", 8889), "root_path": "",
        }  # fmt: skip
        requests: list[Any] = [{"type": "http.disconnect"}] if not whole else []
        requests.append({"type": "http.request", "body": body, "more_body": not whole})
        answers: list[Any] = []

        async def receive() -> Any:
            if requests:
                return requests.pop()
            await trio.sleep_forever()

        async def send(message: Any) -> None:
            answers.append(message)

        try:
            await self.app(scope, receive, send)
        finally:
            answered = self.answered = _answer(answers)
        return answered

    @asynccontextmanager
    async def socket(
        self, path: str = "/ws", *, token: str | None = TOKEN, **headers: str
    ) -> AsyncIterator["WebSocket"]:
        """A WebSocket, open or refused."""
        protocols = ["msg.v1", *([f"msg.token.{token}"] if token is not None else [])]
        scope = {
            "type": "websocket", "asgi": {"version": "3.0"}, "http_version": "1.1", "path": path,
            "raw_path": path.encode(), "query_string": b"", "headers": _encoded({"host": HOST, **headers}),
            "client": ("127.0.0.1", 5000), "scheme": "ws", "server": ("127.0.0.1", 8889),
            "subprotocols": protocols, "root_path": "", "extensions": {DENIAL: {}},
        }  # fmt: skip
        socket = WebSocket()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(socket.run, self.app, scope)
            await socket.begin()
            yield socket
            socket.leave()
            with trio.fail_after(10):
                await socket.left.wait()
            nursery.cancel_scope.cancel("the test is over")


class WebSocket:
    """The browser's end."""

    def __init__(self) -> None:
        self._to_app, self._app_hears = trio.open_memory_channel[Any](100)
        self._from_app, self._we_hear = trio.open_memory_channel[Any](100)
        self.left = trio.Event()
        self.subprotocol: str | None = None
        self.refused: tuple[int, str] | None = None

    async def run(self, app: App, scope: Any) -> None:
        await app(scope, self.receive, self.send)
        self.left.set()

    async def receive(self) -> Any:
        return await self._app_hears.receive()

    async def send(self, message: Any) -> None:
        await self._from_app.send(message)

    async def begin(self) -> None:
        self._to_app.send_nowait({"type": "websocket.connect"})
        first = await self._we_hear.receive()
        if first["type"] == f"{DENIAL}.start":
            answer = _answer([first, await self._we_hear.receive()])
            self.refused = (answer.status, answer.json["error"])
            return
        self.subprotocol = first["subprotocol"]

    async def say(self, **frame: Any) -> None:
        await self.say_text(json.dumps(frame))

    async def say_text(self, text: str) -> None:
        await self._to_app.send({"type": "websocket.receive", "text": text})

    async def hear(self) -> Any:
        """The next frame."""
        with trio.fail_after(100):
            message = await self._we_hear.receive()
        assert message["type"] == "websocket.send", message
        return json.loads(message["text"])

    async def closed(self) -> None:
        with trio.fail_after(100):
            message = await self._we_hear.receive()
        assert message["type"] == "websocket.close", message

    def leave(self) -> None:
        self._to_app.send_nowait({"type": "websocket.disconnect", "code": 1001})


@asynccontextmanager
async def serving(ran: Running, *, reports: str = "", local: bool = True) -> AsyncIterator[str]:
    """The page on a real port. Its address. Not `local`: reading needs the token, too."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:

        async def serve(task_status: "trio.TaskStatus[Web]") -> None:
            await serve_web(
                ran.broker, listeners, host="127.0.0.1", token=TOKEN, local=local,
                reports=reports, task_status=task_status,
            )  # fmt: skip

        await nursery.start(serve)
        yield f"http://127.0.0.1:{port}/"
        nursery.cancel_scope.cancel("the test is over")


def _answer(messages: list[Any]) -> Answer:
    start, *parts = messages
    got = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], got, b"".join([part.get("body", b"") for part in parts]))


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("only asked for its opinion")


def _headers(scope: Any) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in scope["headers"]}


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
