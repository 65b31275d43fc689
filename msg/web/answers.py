"""What the answers of the HTTP API look like, as JSON Schema. `openapi` shows it, and a test
holds real answers against it."""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
ANY: Schema = {}  # a message's body
NUMBERS: Schema = {"type": "object", "additionalProperties": NUMBER}
LEVEL: Schema = {"enum": ["ok", "note", "slow", "stuck"]}


def maybe(schema: Schema) -> Schema:
    """It, or null."""
    return {"type": [schema["type"], "null"]}


def many(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def thing(optional: dict[str, Schema] | None = None, /, **required: Schema) -> Schema:
    """An object. `from_` stands for `from`. Others may be there too: only these are promised."""
    properties = {name.rstrip("_"): schema for name, schema in required.items()}
    return {"type": "object", "properties": properties | (optional or {}),
            "required": list(properties)}  # fmt: skip


CURSOR = {"cursor": {**TEXT, "description": "There is more: ask again with it."}}

CAUSE = thing(level=LEVEL, code=TEXT, text=TEXT, do=TEXT)
SUBJECT = thing(kind=TEXT, name=TEXT, level=LEVEL, causes=many(CAUSE))
ALERT = thing(kind=TEXT, name=TEXT, names=many(TEXT), count=WHOLE, level=LEVEL, causes=many(CAUSE))
STORE = thing(rounds=WHOLE, last_round_s=NUMBER, busy_s=NUMBER, disk_full=FLAG)
SERVER = thing(
    version=TEXT, draining=FLAG, uptime_s=NUMBER, outbound_bytes=WHOLE, backlog_bytes=WHOLE,
    loop_lag_s=NUMBER, store=STORE, connections_ever=WHOLE, connections_refused=WHOLE,
    connections_crashed=WHOLE, errors=WHOLE, dropped=WHOLE,
)  # fmt: skip
BROKER: dict[str, Schema] = {"connections": WHOLE, "server": SERVER}
RATES = thing(in_=NUMBER, out=NUMBER, acks=NUMBER)
PLOT = thing(in_=many(NUMBER), out=many(NUMBER), waits=many(WHOLE))
SEEN: dict[str, Schema] = {"level": LEVEL, "cause": TEXT, "rates": RATES, "plot": PLOT}

QUEUE_ROW: dict[str, Schema] = {  # an actor that is only starting has the first two
    "ready": WHOLE, "leased": WHOLE, "delayed": WHOLE, "pending": WHOLE, "dead": WHOLE,
    "consumers": WHOLE, "bytes": WHOLE, "memory_bytes": WHOLE, "disk_bytes": WHOLE,
    "paused": FLAG, "restarts": WHOLE, "counts": NUMBERS, "dedup": NUMBERS,
}  # fmt: skip
QUEUE = thing(QUEUE_ROW, name=TEXT, state=TEXT)
TOPIC_ROW: dict[str, Schema] = {
    "backlog": WHOLE, "history": WHOLE, "bytes": WHOLE, "replaying": WHOLE, "next_seq": WHOLE,
    "published": WHOLE, "dropped": WHOLE, "counts": NUMBERS,
}  # fmt: skip
TOPIC = thing(TOPIC_ROW, name=TEXT, state=TEXT, subscribers=WHOLE, kept=WHOLE, groups=WHOLE)
CONNECTION = thing(
    number=WHOLE, client=TEXT, peer=TEXT, age_s=NUMBER, subscriptions=many(TEXT),
    subscribed=WHOLE, published=WHOLE, held=WHOLE, to_send=WHOLE, read_bytes=WHOLE,
    written_bytes=WHOLE, level=LEVEL, cause=TEXT,
)  # fmt: skip

ATTEMPT = thing({"who": TEXT, "reason": TEXT}, n=WHOLE, at=TEXT, why=TEXT)
CASE = thing({"attempts": many(ATTEMPT)}, queue=TEXT, reason=TEXT, at=TEXT)
MESSAGE = thing(
    {"topic": TEXT, "message_id": TEXT, "published_at": TEXT, "message": ANY,
     "cut": {**FLAG, "description": "The body is long, and only its beginning is here, as a text."},
     "headers": {"type": "object", "additionalProperties": TEXT}, "bytes": WHOLE,
     "attempt": WHOLE, "durability": TEXT, "priority": WHOLE, "returned": TEXT, "consumer": TEXT,
     "since": TEXT, "deadline_s": NUMBER, "due": TEXT, "due_s": NUMBER, "case": CASE},
    seq=WHOLE, state=TEXT,
)  # fmt: skip
LEASE = thing(
    {"at_least": FLAG, "unwritten": FLAG}, queue=TEXT, message_id=TEXT, seq=WHOLE, attempt=WHOLE,
    consumer=TEXT, connection=maybe(WHOLE), since=maybe(TEXT), held_s=maybe(NUMBER),
    deadline_s=maybe(NUMBER),
)  # fmt: skip
ACTOR = thing(
    {"age_s": NUMBER, "restarts": WHOLE, "handled": WHOLE, "stack": many(TEXT), "folded": WHOLE,
     "mailbox": thing({"room": WHOLE, "free": WHOLE, "waiting": WHOLE}, depth=WHOLE)},
    name=TEXT, kind=TEXT, state=TEXT, parent=maybe(TEXT),
)  # fmt: skip
WAIT = thing(from_=TEXT, to=TEXT, what=TEXT, since_s=NUMBER)
PLACE = thing({"kind": TEXT, "name": TEXT, "now": TEXT, "events": many(thing())})
COUNTED = thing(topic=TEXT, count=WHOLE)
PAUSED = thing(topic=TEXT, paused=FLAG)

ANSWERS: dict[tuple[str, str], Schema] = {
    ("GET", "/stats"): thing(CURSOR, queues=many(QUEUE), topics=many(TOPIC), **BROKER),
    ("GET", "/api/why"): thing(CURSOR, subjects=many(SUBJECT)),
    ("GET", "/api/trace"): thing(
        {"unknown": many(TEXT)}, message_id=TEXT, found=FLAG, places=many(PLACE)
    ),
    ("GET", "/api/peek"): thing(CURSOR, topic=TEXT, messages=many(MESSAGE)),
    ("GET", "/api/held"): thing(CURSOR, held=many(LEASE)),
    ("GET", "/api/dead"): thing(
        {"topic": TEXT, "count": WHOLE, "messages": many(MESSAGE),
         "queues": many(thing(queue=TEXT, dead_queue=TEXT, messages=WHOLE, bytes=WHOLE)),
         **CURSOR}
    ),
    ("GET", "/api/limits"): thing(limits=NUMBERS),
    ("POST", "/api/dead/retry"): COUNTED,
    ("POST", "/api/dead/drop"): COUNTED,
    ("POST", "/api/dead/edit"): COUNTED,
    ("POST", "/api/pause"): PAUSED,
    ("POST", "/api/resume"): PAUSED,
    ("POST", "/api/purge"): COUNTED,
    ("POST", "/api/delete"): thing(topic=TEXT),
    ("POST", "/api/publish"): thing(
        {"duplicate": {**FLAG, "description": "It was stored before, and is not again."},
         "receivers": {**WHOLE, "description": "0: nobody heard it."}},
        message_id=TEXT,
    ),
    ("GET", "/healthz"): thing({"reasons": many(TEXT)}, ok=FLAG),
    ("GET", "/readyz"): thing(ready=FLAG, reasons=many(TEXT)),
    ("GET", "/tree"): thing(actors=many(ACTOR), waits=many(WAIT), knots=many(TEXT), count=WHOLE),
    ("GET", "/openapi.json"): thing(openapi=TEXT, info=thing(title=TEXT, version=TEXT)),
    ("GET", "/api/summary"): thing(level=LEVEL, alerts=WHOLE, **BROKER),
    ("GET", "/api/overview"): thing(
        {"queues": many(thing(QUEUE_ROW, name=TEXT, state=TEXT, **SEEN)), "queues_in_all": WHOLE,
         "topics": many(thing(TOPIC_ROW, name=TEXT, state=TEXT, **SEEN)), "topics_in_all": WHOLE,
         "connections": many(CONNECTION), "connections_in_all": WHOLE},
        at=NUMBER, level=LEVEL, alerts=many(ALERT), alerts_in_all=WHOLE,
        totals=thing(in_=NUMBER, out=NUMBER, acks=NUMBER, ready=WHOLE, leased=WHOLE,
                     delayed=WHOLE, dead=WHOLE),
        stats=thing(**BROKER),
    ),
    ("GET", "/api/history"): thing(
        age_s=many(NUMBER), in_=many(NUMBER), out=many(NUMBER), acks=many(NUMBER),
        waits=many(WHOLE),
    ),
    ("GET", "/api/may"): thing(write=FLAG),
    ("GET", "/api/reports"): thing(
        folder=TEXT, reports=many(thing(name=TEXT, files=many(TEXT)))
    ),
}  # fmt: skip
