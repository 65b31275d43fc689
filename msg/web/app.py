"""Routes: what is answered where. Each handler is a few lines around a question of the wire."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from importlib.resources import files
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from msg.actors.tree import KEEP
from msg.actors.why import why_broker
from msg.errors import ClientError
from msg.metrics import CONTENT_TYPE_LATEST, Metrics
from msg.show.tree_dot import tree_dot
from msg.show.tree_svg import tree_svg
from msg.show.tree_text import tree_text
from msg.web import gateway
from msg.web.api import ENDPOINTS, Endpoint, answer, error_of, query_values
from msg.web.guard import REPORT_CSP
from msg.web.history import History
from msg.web.openapi import description
from msg.web.overview import KINDS, SHOWN, SHOWN_MAX, Alerts, Wanted, overview, summary

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from msg.actors.broker import Broker

PAGE_TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
}  # fmt: skip
INDEX = "index.html"
REPORT_TYPES = {
    ".html": "text/html; charset=utf-8", ".svg": "image/svg+xml", ".json": "application/json",
    **dict.fromkeys((".txt", ".toml", ".md", ".jsonl", ".log"), "text/plain; charset=utf-8"),
}  # fmt: skip
REPORTS_MAX = 200
REPORT_BYTES_MAX = 32 << 20
BODY_OVERHEAD = 4096  # around a message in a POST
DISK_LOOK_S = 2.0
PLOTTED = ("queue", "topic", "broker")
DIGITS_MAX = 18  # of a whole number
# these read the state of thousands of actors, a slice in each pass of the loop: of many such
# requests at a time so many are under way, or each pass would be long, for everybody
LOOKS = ("/stats", "/tree", "/api/why", "/api/summary", "/api/overview")
LOOKS_AT_ONCE = 2

Handler = Callable[[Request], Awaitable[Response]]


class Web:
    """The handlers, around one broker. `may` says whether a request has the token; `reports` is
    a folder of scenario reports, "" for none."""

    def __init__(self, broker: "Broker", may: Callable[[Any], bool], reports: str) -> None:
        self.broker = broker
        self.may = may
        self.reports = reports
        self.history = History()
        self.alerts = Alerts(broker)
        self.metrics = Metrics(broker)
        self.scraping = trio.Lock()
        self.looking = trio.CapacityLimiter(LOOKS_AT_ONCE)

    def app(self) -> Starlette:
        routes: list[Any] = [
            Route(path, _safe(partial(self._page, data, kind))) for path, data, kind in page_files()
        ]
        routes += [
            Route(e.path, self._answering(e.path, partial(self._endpoint, e)), methods=[e.method])
            for e in ENDPOINTS
        ]
        others: list[tuple[str, str, Handler]] = [
            ("GET", "/healthz", self._healthz),
            ("GET", "/readyz", self._readyz),
            ("GET", "/metrics", self._metrics),
            ("GET", "/tree", self._tree),
            ("GET", "/openapi.json", self._openapi),
            ("GET", "/api/summary", self._summary),
            ("GET", "/api/overview", self._overview),
            ("GET", "/api/history", self._history),
            ("GET", "/api/may", self._may),
            ("GET", "/api/reports", self._list_reports),
            ("POST", "/api/publish", self._publish),
            ("GET", "/reports/{path:path}", self._report),
        ]
        routes += [
            Route(path, self._answering(path, do), methods=[method]) for method, path, do in others
        ]
        routes.append(WebSocketRoute("/ws", self._websocket))
        routes.append(WebSocketRoute("/{path:path}", _no_websocket))
        answers: Any = {HTTPException: _no_such_route, Exception: _failed}
        return Starlette(routes=routes, exception_handlers=answers)

    def _answering(self, path: str, handler: Handler) -> Handler:
        if path not in LOOKS:
            return _safe(handler)

        async def look(request: Request) -> Response:
            async with self.looking:
                return await handler(request)

        return _safe(look)

    # -- the page and its data --------------------------------------------------------------

    async def _page(self, data: bytes, kind: str, _: Request) -> Response:
        return Response(data, media_type=kind)

    async def _endpoint(self, endpoint: Endpoint, request: Request) -> Response:
        given = query_values(endpoint, _query(request))
        if endpoint.method != "GET":
            given |= await self._body(request)
        return _json(await answer(self.broker, endpoint, given))

    async def _summary(self, _: Request) -> Response:
        return _json(await summary(self.broker, self.alerts))

    async def _overview(self, request: Request) -> Response:
        query = request.query_params
        kinds = [kind for kind in query.get("kinds", ",".join(KINDS)).split(",") if kind]
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise ClientError("bad_field", f"kinds are {', '.join(KINDS)}, not {unknown[0]!r}")
        wanted = Wanted(
            find=query.get("find", ""),
            most=max(1, min(_number(request, "n", SHOWN), SHOWN_MAX)),
            kinds=kinds,
            hears=query.get("hears", ""),
            number=_number(request, "number", 0) if "number" in query else None,
        )
        return _json(await overview(self.broker, self.history, self.alerts, wanted))

    async def _history(self, request: Request) -> Response:
        kind, name = (request.query_params.get(key, "") for key in ("kind", "name"))
        if kind not in PLOTTED:
            raise ClientError("bad_field", f"kind is {', '.join(PLOTTED)}, not {kind!r}")
        return _json(self.history.plot(kind, name))

    async def _may(self, request: Request) -> Response:
        return _json({"write": self.may(request.scope)})

    async def _publish(self, request: Request) -> Response:
        frame = await self._body(request)
        for name in ("topic", "message"):
            if name not in frame:
                raise ClientError("bad_field", f"the parameter {name!r} is missing")
        client = request.client
        peer = f"http {client.host}:{client.port}" if client else "http"
        found = await gateway.ask(self.broker, {**frame, "action": "publish"}, peer)
        if found["type"] != "error":
            return _json({key: found[key] for key in found if key not in ("type", "id")})
        error = ClientError(found["code"], found["error"], limit=found.get("limit"))
        status, body = error_of(error)
        return _json(body, status)

    async def _websocket(self, socket: "WebSocket") -> None:
        await gateway.websocket(self.broker, socket)

    async def _body(self, request: Request) -> dict[str, Any]:
        """A POST's JSON object, within the limit of a frame."""
        most = self.broker.context.settings.limits.frame_bytes + BODY_OVERHEAD
        data = bytearray()
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                data += chunk
                if len(data) > most:
                    text = f"a request has at most {most} bytes"
                    raise ClientError("too_large", text, limit=most)
        try:
            body = msgspec.json.decode(data or b"{}")
        except (ValueError, RecursionError) as error:
            raise ClientError("bad_frame", f"the request is not JSON: {error}") from None
        if not isinstance(body, dict):
            raise ClientError("bad_frame", "the request is a JSON object")
        return body

    # -- for machines -----------------------------------------------------------------------

    async def _healthz(self, _: Request) -> Response:
        if self.broker.healthy():
            return _json({"ok": True})
        return _json({"ok": False, "reasons": ["the loop is late, or the disk hangs"]}, 503)

    async def _readyz(self, _: Request) -> Response:
        broker = self.broker
        if broker.storekeeper.disk_full:
            with trio.move_on_after(DISK_LOOK_S):
                await broker.storekeeper.recheck()
        reasons = [
            cause.text for cause in why_broker(broker)
            if cause.level == "stuck" or cause.code == "draining"
        ]  # fmt: skip
        return _json({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def _metrics(self, _: Request) -> Response:
        async with self.scraping:
            for _slice in self.metrics.readings():
                await trio.lowlevel.checkpoint()
            text = await trio.to_thread.run_sync(self.metrics.text)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    async def _openapi(self, _: Request) -> Response:
        return _json(description())

    async def _tree(self, request: Request) -> Response:
        query = request.query_params
        fold = _number(request, "fold", KEEP)
        expand = [name for name in query.get("expand", "").split(",") if name]
        drawn = await self.broker.picture(
            stacks=query.get("stacks", "") in ("1", "true"), keep=fold or None, expand=expand
        )
        actors, waits, knots = drawn["actors"], drawn["waits"], drawn["knots"]
        form = query.get("format", "json")
        if form == "json":
            return _json(drawn)
        alone = query.get("alone", "1") != "0"
        # in a thread: ten thousand actors take the half of a second
        match form:
            case "text":
                text = await trio.to_thread.run_sync(tree_text, actors, waits, knots)
                return Response(text, media_type="text/plain")
            case "dot":
                text = await trio.to_thread.run_sync(tree_dot, actors, waits)
                return Response(text, media_type="text/vnd.graphviz; charset=utf-8")
            case "svg":
                draw = partial(tree_svg, actors, waits, knots, alone=alone)
                text = await trio.to_thread.run_sync(draw)
                headers = {"content-security-policy": REPORT_CSP}
                return Response(text, media_type="image/svg+xml", headers=headers)
            case other:
                raise ClientError("bad_field", f"format is json, text, dot or svg, not {other!r}")

    # -- scenario reports -------------------------------------------------------------------

    async def _list_reports(self, _: Request) -> Response:
        folder = trio.Path(self.reports) if self.reports else None
        found: list[dict[str, Any]] = []
        if folder is not None and await folder.is_dir():
            entries = sorted(await folder.iterdir(), key=lambda path: path.name, reverse=True)
            for entry in entries[:REPORTS_MAX]:
                if await entry.is_dir():
                    inside = sorted(await entry.iterdir())
                    names = [p.name for p in inside if PurePosixPath(p.name).suffix in REPORT_TYPES]
                    found.append({"name": entry.name, "files": names})
        return _json({"folder": self.reports, "reports": found})

    async def _report(self, request: Request) -> Response:
        """A file of a report, as a file: no script of it runs, whatever it holds."""
        parts = PurePosixPath(request.path_params["path"]).parts
        kind = REPORT_TYPES.get(PurePosixPath(parts[-1]).suffix) if parts else None
        missing = ClientError("not_found", "there is no such report")
        if not self.reports or kind is None or len(parts) != 2 or ".." in parts:
            raise missing
        try:
            root = await trio.Path(self.reports).resolve()
            path = await root.joinpath(*parts).resolve()
            if root not in path.parents or not await path.is_file():
                raise missing
        except (OSError, ValueError) as error:  # no file can have such a name
            raise missing from error
        if (await path.stat()).st_size > REPORT_BYTES_MAX:
            raise ClientError("too_large", "this report is too large to be shown")
        headers = {"content-security-policy": REPORT_CSP}
        return Response(await path.read_bytes(), media_type=kind, headers=headers)


def page_files() -> list[tuple[str, bytes, str]]:
    """(path, content, type) of each file of the page."""
    found = []
    for file in sorted(files("msg.web").joinpath("page").iterdir(), key=lambda file: file.name):
        kind = PAGE_TYPES.get(PurePosixPath(file.name).suffix)
        if kind is not None:
            path = "/" if file.name == INDEX else f"/static/{file.name}"
            found.append((path, file.read_bytes(), kind))
    return found


def _safe(handler: Handler) -> Handler:
    """Refusals as JSON with their status."""

    async def answered(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientError as error:
            status, body = error_of(error)
            return _json(body, status)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it

    return answered


async def _no_such_route(request: Request, error: HTTPException) -> Response:
    """Nothing is there, or not with this method."""
    path, allowed = request.url.path, (error.headers or {}).get("Allow")
    if path == "/ws":
        refusal = ClientError("not_found", "/ws is a WebSocket: ask for one (Upgrade: websocket)")
    elif allowed:
        text = f"{path} does not take {request.method}, but {allowed}"
        refusal = ClientError("unknown_action", text)
    else:
        text = f"there is nothing at {path}; what there is stands in /openapi.json"
        refusal = ClientError("not_found", text)
    body = msgspec.json.encode(error_of(refusal)[1])
    return Response(body, error.status_code, error.headers, "application/json")


async def _no_websocket(socket: "WebSocket") -> None:
    refusal = ClientError("not_found", f"there is no WebSocket at {socket.url.path}, but at /ws")
    await socket.send_denial_response(_json(error_of(refusal)[1], 404))


async def _failed(_request: Request, _error: Exception) -> Response:
    """A bug, which is logged by whoever called us."""
    status, body = error_of(ClientError("internal", "the broker has a bug here: its log says more"))
    return _json(body, status)


def _query(request: Request) -> Mapping[str, list[str]]:
    return {name: request.query_params.getlist(name) for name in request.query_params}


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > DIGITS_MAX:
        raise ClientError("bad_field", f"the parameter {name!r} is a whole number, not {text!r}")
    return int(text)


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
