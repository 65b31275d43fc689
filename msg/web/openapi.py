"""The API's description, made from the table that the API is made from."""

from typing import Any

from msg import __version__
from msg.web.answers import ANSWERS
from msg.web.api import ENDPOINTS, Endpoint, Param

SCHEMAS = {"array": {"type": "array", "items": {"type": "string"}}, "any": {}}
ERROR = {"$ref": "#/components/responses/Error"}
JSON = "application/json"

# what is not a question of the wire: (method, path) -> summary, parameters, content type
OTHERS: dict[tuple[str, str], tuple[str, tuple[Param, ...], str]] = {
    ("GET", "/healthz"): ("Whether the loop turns: 200, else 503 with the reason.", (), JSON),
    ("GET", "/readyz"): ("Whether publishes are taken: 200, else 503 with the reasons.", (), JSON),
    ("GET", "/metrics"): ("For Prometheus.", (), "text/plain"),
    ("GET", "/tree"): (
        "The actors: who runs under whom, who waits on whom.",
        (Param("fold", "integer", "At most so many of a kind under one actor; 0: all."),
         Param("expand", "array", "Do not fold these kinds, or below these actors."),
         Param("stacks", "boolean", "Where each actor waits."),
         Param("format", "string", "json (default), text, dot or svg.")), JSON),
    ("GET", "/openapi.json"): ("This description.", (), JSON),
    ("GET", "/api/overview"): (
        "All that the page shows: levels, rates, causes.",
        (Param("find", "string", "Only names that hold this text."),
         Param("n", "integer", "At most so many of a kind, the busiest; 100 if not said."),
         Param("kinds", "array", "Of queues, topics and connections; all if not said."),
         Param("hears", "string", "Connections that subscribe to this topic."),
         Param("number", "integer", "This connection.")), JSON),
    ("GET", "/api/summary"): (
        "How all is: the gravest level, how many alerts, the broker's numbers.", (), JSON),
    ("GET", "/api/history"): (
        "Rates and depth of the last five minutes.",
        (Param("kind", "string", "queue, topic, or broker for all together.", required=True),
         Param("name", "string", "Its name.")), JSON),
    ("GET", "/api/may"): ("Whether the request has the token.", (), JSON),
    ("GET", "/api/reports"): ("Reports of fault scenarios.", (), JSON),
    ("POST", "/api/publish"): (
        "Publish one message; the fields are those of the wire.",
        (Param("topic", "string", "Where to.", required=True),
         Param("message", "any", "The body.", required=True),
         Param("mode", "string", "`pubsub` (default) or `queue`."),
         Param("message_id", "string", "The same id twice is one message."),
         Param("headers", "any", "An object of texts."),
         Param("delay", "number", "Seconds."), Param("ttl", "number", "Seconds."),
         Param("priority", "integer", "0 to 9, 9 first."),
         Param("durability", "string", "memory, os or stored."),
         Param("retain", "boolean", "Keep it as the topic's last value.")), JSON),
}  # fmt: skip


def description() -> dict[str, Any]:
    """OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _of(endpoint)
    for (method, path), (summary, params, content) in OTHERS.items():
        operation = _operation(method, path, summary, params, content)
        paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "trio-msg",
            "version": __version__,
            "description": "The broker's HTTP API. Reads are open on loopback; writes need the"
            " token. `/ws` is a WebSocket that takes and gives the frames of the TCP protocol,"
            " one a message (subprotocol `msg.v1`).",
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Error": {
                    "description": "Refused; `error` says what to do.",
                    "content": {JSON: {"schema": {
                        "type": "object",
                        "properties": {"code": {"type": "string"}, "error": {"type": "string"},
                                       "retry": {"enum": ["never", "same_id", "later"]}},
                    }}},
                }
            },
        },
    }  # fmt: skip


def _of(endpoint: Endpoint) -> dict[str, Any]:
    return _operation(endpoint.method, endpoint.path, endpoint.summary, endpoint.params, JSON)


def _operation(
    method: str, path: str, summary: str, params: tuple[Param, ...], content: str
) -> dict[str, Any]:
    schema = {"schema": ANSWERS[method, path]} if content == JSON else {}
    operation: dict[str, Any] = {
        "operationId": "_".join([method.lower(), *path.strip("/").replace(".", "/").split("/")]),
        "summary": summary,
        "responses": {
            "200": {"description": "The answer.", "content": {content: schema}},
            "default": ERROR,
        },
    }
    if method == "GET":
        if params:
            operation["parameters"] = [
                {"name": p.name, "in": "query", "required": p.required, "description": p.text,
                 "schema": SCHEMAS.get(p.type, {"type": p.type})}
                for p in params
            ]  # fmt: skip
        return operation
    operation["security"] = [{"token": []}]
    properties = {
        p.name: {**SCHEMAS.get(p.type, {"type": p.type}), "description": p.text} for p in params
    }
    operation["requestBody"] = {
        "required": True,
        "content": {JSON: {"schema": {
            "type": "object",
            "properties": properties,
            "required": [p.name for p in params if p.required],
        }}},
    }  # fmt: skip
    return operation
