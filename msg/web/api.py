"""The JSON API as a table: each endpoint is a question or an order of the wire.

So HTTP and wire give the same answers, by the same code; `openapi` describes the same table,
which a test holds against the routes.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from msg.core import commands
from msg.errors import ClientError
from msg.protocol.checks import Checks

if TYPE_CHECKING:
    from msg.actors.broker import Broker

STATUS = {
    "not_found": 404, "forbidden": 403, "unauthorized": 401, "too_large": 413, "queue_full": 429,
    "too_many": 429, "id_conflict": 409, "disk_full": 507, "draining": 503, "unavailable": 503,
    "store_failed": 503, "internal": 500,
}  # fmt: skip


@attrs.frozen
class Param:
    """One parameter: in the query of a GET, in the JSON object of a POST."""

    name: str
    type: str  # string, integer, number, boolean, array (of strings), any
    text: str
    to: str = ""  # the question's field; "" = an option of the same name
    required: bool = False


@attrs.frozen
class Endpoint:
    method: str
    path: str
    question: type[commands.Question]
    summary: str
    params: tuple[Param, ...] = ()
    fixed: Mapping[str, Any] = attrs.field(factory=dict)  # options


CURSOR = Param("cursor", "string", "From an answer that had more to say.", "cursor")
QUEUE = Param("queue", "string", "A queue, or PATTERN@GROUP.", "topic", required=True)
MODE = Param("mode", "string", "`queue` (default) or `pubsub`.", "mode")
FILTER = (
    Param("message_ids", "array", "These.", "message_ids"),
    Param("reason", "string", "The reason of the death or of an attempt holds this text."),
    Param("consumer", "string", "This consumer failed on it."),
    Param("contains", "string", "The body's JSON holds this text."),
    Param("older_s", "number", "Died longer ago."),
    Param("newer_s", "number", "Died since."),
    Param("n", "integer", "At most so many.", "n"),
)

ENDPOINTS = (
    Endpoint("GET", "/stats", commands.Stats, "Every number of queues, topics and the broker.",
             (Param("name", "string", "Of this queue or topic only.", "topic"), CURSOR)),
    Endpoint("GET", "/api/why", commands.Why, "Why something does not move, in sentences.",
             (Param("name", "string", "A queue, topic or connection; none: all.", "name"), CURSOR)),
    Endpoint("GET", "/api/trace", commands.Trace, "The life of one message.",
             (Param("message_id", "string", "Its id.", "message_id", required=True),
              Param("queue", "string", "Look there only.", "topic"),
              Param("body", "boolean", "With the message itself."))),
    Endpoint("GET", "/api/peek", commands.Peek, "Messages, without taking them.",
             (QUEUE, Param("state", "string", "ready, leased, delayed, committing, leaving, all."),
              Param("skip", "integer", "Begin after so many."),
              Param("n", "integer", "How many.", "n"), CURSOR)),
    Endpoint("GET", "/api/held", commands.Held, "Who holds what, since when, until when.",
             (Param("queue", "string", "Of this queue only.", "topic"), CURSOR)),
    Endpoint("GET", "/api/dead", commands.Dead, "Dead letters; without a queue, who has any.",
             (attrs.evolve(QUEUE, required=False), *FILTER,
              Param("skip", "integer", "Begin after so many."), CURSOR),
             {"do": "list"}),
    Endpoint("GET", "/api/limits", commands.Limits, "Every limit and its number."),
    Endpoint("POST", "/api/dead/retry", commands.Dead, "Send dead letters back to their queue.",
             (QUEUE, *FILTER), {"do": "retry"}),
    Endpoint("POST", "/api/dead/drop", commands.Dead, "Drop dead letters for ever.",
             (QUEUE, *FILTER, Param("all", "boolean", "Every one of them.")), {"do": "drop"}),
    Endpoint("POST", "/api/dead/edit", commands.Dead,
             "Give one dead letter another body and send it back.",
             (QUEUE, Param("message_id", "string", "Which.", "message_id", required=True),
              Param("message", "any", "The new body.", required=True)), {"do": "edit"}),
    Endpoint("POST", "/api/pause", commands.Pause, "Hand out nothing more from a queue.", (QUEUE,)),
    Endpoint("POST", "/api/resume", commands.Resume, "Hand out again.", (QUEUE,)),
    Endpoint("POST", "/api/purge", commands.Purge, "Drop what is ready or delayed.",
             (attrs.evolve(QUEUE, text="A queue, group or topic."), MODE)),
    Endpoint("POST", "/api/delete", commands.Delete, "Delete a queue, group or topic.",
             (attrs.evolve(QUEUE, text="A queue, group or topic."), MODE)),
)  # fmt: skip


async def answer(broker: "Broker", endpoint: Endpoint, given: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the question with these parameters. Raises ClientError."""
    question = question_of(endpoint, given)
    fields: dict[str, Any] = await broker.context.questions.fields(None, question)
    return fields


def question_of(endpoint: Endpoint, given: Mapping[str, Any]) -> commands.Question:
    """The command that a request asks, checked as one that came over the wire."""
    known = {param.name: param for param in endpoint.params}
    fields: dict[str, Any] = {}
    options: dict[str, Any] = dict(endpoint.fixed)
    for name, value in given.items():
        param = known.get(name)
        if param is None:
            raise ClientError(
                "bad_field", f"there is no parameter {name!r} here; see /openapi.json"
            )
        (fields if param.to else options)[param.to or name] = value
    missing = [
        param.name for param in endpoint.params if param.required and param.name not in given
    ]
    if missing:
        raise ClientError("bad_field", f"the parameter {missing[0]!r} is missing")
    if options:
        fields["options"] = options
    try:
        question = msgspec.convert(fields, endpoint.question)
    except msgspec.ValidationError as error:
        raise ClientError("bad_field", f"a parameter is not of its type: {error}") from None
    Checks().check(question)
    return question


def query_values(endpoint: Endpoint, query: Mapping[str, list[str]]) -> dict[str, Any]:
    """The texts of a query as the types that the table names."""
    kinds = {param.name: param.type for param in endpoint.params}
    return {name: _value(name, kinds.get(name, "string"), texts) for name, texts in query.items()}


def _value(name: str, kind: str, texts: list[str]) -> Any:
    text = texts[-1]
    try:
        match kind:
            case "integer":
                return int(text)
            case "number":
                return float(text)
            case "boolean":
                return {"true": True, "1": True, "": True, "false": False, "0": False}[text.lower()]
            case "array":
                return [part for each in texts for part in each.split(",") if part]
    except (ValueError, KeyError):
        raise ClientError("bad_field", f"the parameter {name!r} is {kind}, not {text!r}") from None
    return text


def error_of(error: ClientError) -> tuple[int, dict[str, Any]]:
    """(status, body) of a refusal."""
    return STATUS.get(error.code, 400), {
        "code": error.code,
        "error": str(error),
        "retry": error.retry,
    }
