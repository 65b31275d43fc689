"""Who may ask, and what a browser may do with the answer.

Any page of the web can send requests to a port of this machine, so (reliability.md 4.11):

- `Host` must be one of ours (DNS rebinding brings a stranger's name);
- a browser's write, and a WebSocket, must come from our own page (`Origin`);
- writes, and `/ws`, need the token in the `Authorization` header (there are no cookies that a
  strange page could ride on). A browser cannot set that header for a WebSocket and names
  `msg.token.TOKEN` among the subprotocols;
- answers allow no script, frame or connection but our own (CSP), and are never cached.

Where the page is reachable from other machines, reading needs the token too.
"""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import attrs
import msgspec

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

READS = ("GET", "HEAD")
OPEN = ("/healthz", "/readyz", "/", "/static/")  # what holds no data: never needs the token
TOKEN_PROTOCOL = "msg.token."
DENIAL = "websocket.http.response"  # an answer to who asked for a WebSocket

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# a report is a file of somebody's: shown, but without scripts, and of no origin
REPORT_CSP = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none';"
    " base-uri 'none'; form-action 'none'; sandbox"
)
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


@attrs.frozen
class Guard:
    """An ASGI application around another. `hosts` are all that `Host` may say; None: any
    (reachable from elsewhere, under names that we cannot know), and then reads need the token."""

    app: App
    hosts: frozenset[str] | None
    token: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1")
                   for name, value in scope["headers"]}  # fmt: skip
        refusal = self.refusal(scope, headers)
        if refusal is None:
            await self.app(scope, receive, _with_headers(scope, send))
        elif scope["type"] == "http":
            await _refuse(send, "http.response", *refusal)
        elif DENIAL in scope.get("extensions", ()):
            await _refuse(send, DENIAL, *refusal)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": refusal[1]})

    def refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """(status, reason) when this request is not to be answered."""
        host = headers.get("host", "").lower()
        if self.hosts is not None and host not in self.hosts:
            return 421, f"this broker does not answer as {host[:100]!r}: ask it by its address"
        socket = scope["type"] == "websocket"
        writes = socket or scope["method"] not in READS
        origin = headers.get("origin")
        if writes and origin is not None:
            scheme, _, origin_host = origin.lower().partition("://")
            if scheme not in ("http", "https") or origin_host != host:
                return 403, "another site's page may not do that"
        if writes and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "another site's page may not do that"
        needs = writes or self.hosts is None
        if needs and not socket and scope["method"] in READS and _is_open(scope["path"]):
            needs = False
        if needs and not self.has_token(scope, headers):
            return 401, (
                "that needs the token: `trio-msg page` shows the address with it, and it is in"
                " the file WEB_TOKEN of the data directory"
            )
        return None

    def has_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        given = [credentials.strip() if scheme.lower() == "bearer" else scheme]
        given += [
            name.removeprefix(TOKEN_PROTOCOL)
            for name in scope.get("subprotocols", ())
            if name.startswith(TOKEN_PROTOCOL)
        ]
        mine = self.token.encode()
        return any([hmac.compare_digest(text.encode(), mine) for text in given])


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith("/static/")


def _with_headers(scope: Scope, send: Send) -> Send:
    """Each answer with the headers above, and a CSP if it brings none."""

    async def guarded(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            names = {name for name, _ in headers}
            more = [header for header in HEADERS if header[0] not in names]
            if b"content-security-policy" not in names:
                more.append((b"content-security-policy", CSP.encode()))
            message = {**message, "headers": headers + more}
        await send(message)

    return guarded


async def _refuse(send: Send, kind: str, status: int, reason: str) -> None:
    body = msgspec.json.encode({"code": "forbidden", "error": reason, "retry": "never"})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    headers += [*HEADERS, (b"content-security-policy", CSP.encode())]
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
