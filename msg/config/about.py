"""A sentence for every setting: the comments of `trio-msg init`, and the reference's text.

Each says what the value does and which special value there is; a test holds that no key is
without one and that none is left of a key that is gone.
"""

import textwrap
from collections.abc import Iterator, Mapping

import attrs

from msg.config.settings import Limits, Settings
from msg.config.values import CHOICES, as_toml, kind_of
from msg.core.settings import QueueSettings, TopicSettings

SETTINGS: Mapping[str, str] = {
    "host": "Name or address to listen on. Beyond this machine only together with insecure.",
    "port": "TCP port for clients; 0 lets the system pick one.",
    "port_file": "Write the port there once the broker listens; empty writes none.",
    "data_dir": "Directory of the store. One broker at a time may have it open.",
    "log_format": "Form of the log on stderr; auto is text on a terminal and JSON elsewhere.",
    "log_level": "The least level that is logged.",
    "http": "Address of the web page, the metrics and the WebSocket; off for none.",
    "reports": "Directory of chaos reports that the web page lists; empty for none.",
    "otel": "OpenTelemetry spans: of messages that carry a traceparent header, or of all.",
    "insecure": "Listen beyond this machine although nobody has to log in.",
    "drain_seconds": "How long a stop waits for the acks of what consumers hold.",
}
LIMITS: Mapping[str, str] = {
    "connections": "Clients at a time; one more is told so and closed.",
    "subscriptions": "Subscriptions of one connection.",
    "gets": "Unanswered `get`s of one connection.",
    "names": "Queues, topics and groups together.",
    "frame_bytes": "One frame from a client, which is one message with all its fields.",
    "partial_frame_seconds": "How long a frame may stay unfinished before its client is cut.",
    "broken_frame_seconds": "The same for one whose brackets close but that is no JSON.",
    "errors_in_a_row": "After so many faults without one good frame the connection is closed.",
    "answer_bytes": "Answers that a client has not read; then it is not read from either.",
    "outbound_bytes": "Unsent bytes of one connection, deliveries included.",
    "outbound_bytes_all": "Unsent bytes of all connections together.",
    "write_stall_seconds": "A client that takes no byte for so long, its limit reached, is cut.",
    "heartbeats_missed": "A client that asked for heartbeats is cut after so many in silence.",
    "keepalive_seconds": "TCP keep-alive, which finds half-open connections.",
    "in_flight": "Unsettled messages of one consumer: the largest prefetch.",
    "parked_bytes": 'Publishes of one connection that wait for room (overflow = "block").',
    "parked_seconds": "How long they may wait; then they are refused with queue_full.",
    "subscriber_messages": "Pending messages of a slow subscriber; then its oldest are dropped.",
    "subscriber_bytes": "The same in bytes.",
    "backlog_bytes_all": "What is kept of all topics that nobody hears.",
    "group_idle_seconds": "A durable group without a member for so long is removed.",
    "disk_floor_bytes": "Free disk space that is left alone: below it publishes are refused.",
    "disk_floor_percent": "The same as a share of the disk; the lesser of both counts.",
    "disk_threads": "Threads for file operations.",
    "segment_bytes": "Size at which a log begins its next file.",
}
QUEUES: Mapping[str, str] = {
    "durability": "When a publish that names none is acked: in memory, in the system, on disk.",
    "durability_min": "The least that a publish may ask for.",
    "max_deliveries": "Attempts before a message is dead-lettered; 0 = never.",
    "backoff": "Wait before the next attempt, after the first, second, … failed one.",
    "ack_timeout": "How long a consumer may hold a message; 0 = until it disconnects.",
    "overflow": "What a full queue does with a publish.",
    "max_messages": "Messages in the queue, its dead ones included; 0 = no limit.",
    "max_bytes": "The same in bytes.",
    "max_memory_bytes": 'Bytes of messages that are in memory only (durability = "memory").',
    "dead_letter_expired": "Whether expired messages are dead-lettered instead of dropped.",
    "dedup_window": "How long a message_id is remembered, so that a resend is no second message.",
    "dedup_ids": "How many are remembered at most.",
    "ttl": "Lifetime of a message that names none; 0 = for ever.",
}
TOPICS: Mapping[str, str] = {
    "durability": "How safely that is kept which is kept, for a publish that names none.",
    "durability_min": "The least that a publish may ask for.",
    "backlog_messages": "Kept while nobody hears the topic, for who comes first.",
    "backlog_bytes": "The same in bytes.",
    "backlog_seconds": "The same in time.",
    "history_messages": "The last N messages kept whoever hears; all three 0 = no history.",
    "history_bytes": "The same in bytes.",
    "history_seconds": "The same in time.",
    "dedup_window": "How long a message_id is remembered, so that a resend is no second message.",
    "dedup_ids": "How many are remembered at most.",
    "retained_bytes": "The largest message that may be retained.",
}
TABLES: tuple[tuple[str, type[attrs.AttrsInstance], Mapping[str, str], str], ...] = (
    ("", Settings, SETTINGS, "The process."),
    ("limits", Limits, LIMITS, "Every limit that has a number; `trio-msg limits` shows them live."),
    (
        "queues",
        QueueSettings,
        QUEUES,
        "Queues and groups, by name pattern. All that match a name are laid over each other, the "
        "most specific last. A group is called pattern@group.",
    ),
    ("topics", TopicSettings, TOPICS, "Topics, by name pattern."),
)


@attrs.frozen
class Key:
    """One setting, as it is told to a person."""

    name: str
    about: str
    kind: str  # "size", "time", "number", …; or the choices
    default: str  # as the file would have it

    @property
    def line(self) -> str:
        return f"{self.name} = {self.default}"


def keys(cls: type[attrs.AttrsInstance], about: Mapping[str, str]) -> Iterator[Key]:
    """The settings of one table in their order."""
    for field in attrs.fields(cls):
        if field.name in about:
            kind = " | ".join(CHOICES[field.name]) if field.name in CHOICES else kind_of(field)
            default = as_toml((field.name,), field.default)
            yield Key(field.name, about[field.name], kind, default)


def commented() -> str:
    """A configuration file with every key at its default, each a comment that says what it is.

    As it stands it changes nothing; a person takes the `#` away where a value is to differ.
    """
    lines = [
        "# Settings of trio-msg. Every key is here with its default: take the # away to change it.",
        "# Stronger than this file are flags (--port) and the environment (MSG_PORT,",
        "# MSG_LIMITS_NAMES). Sizes are bytes or texts such as 16MiB, times seconds or texts such",
        "# as 500ms, 30s, 2m, 7d. `trio-msg config check FILE` checks it, `config show --config",
        "# FILE` says what is in force, and SIGHUP makes a running broker read it again.",
    ]
    for table, cls, about, what in TABLES:
        header = {"": "", "limits": "[limits]"}.get(table, f'[{table}.">"]')
        lines += ["", *_wrapped(what), *([header] if header else [])]
        for key in keys(cls, about):
            lines += ["", *_wrapped(f"{key.about} ({key.kind})"), f"# {key.line}"]
    return "\n".join(lines) + "\n"


def _wrapped(text: str, width: int = 98) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, width)]
