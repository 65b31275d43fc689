"""All that may be set, as classes; and which of a table's patterns apply to a name."""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from msg.core.settings import MIB, QueueSettings, TopicSettings
from msg.errors import BrokerError

KIB = 1 << 10
Where = tuple[str, ...]  # a key: ("limits", "frame_bytes")


class ConfigError(BrokerError):
    """Settings that cannot be used (exit 78). `problems` holds one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@attrs.frozen
class Limits:
    """Every limit that has a number. Times in seconds, sizes in bytes."""

    connections: int = 20_000
    subscriptions: int = 100  # of one connection
    gets: int = 1000  # of one connection, under way at one time
    names: int = 10_000  # queues, topics and groups
    frame_bytes: int = MIB
    partial_frame_seconds: float = 30.0
    broken_frame_seconds: float = 1.0  # balanced but wrong: the LF that ends it is awaited
    errors_in_a_row: int = 100
    answer_bytes: int = MIB  # answers that a client does not read; then it is not read either
    outbound_bytes: int = 16 * MIB  # of one connection, deliveries included
    outbound_bytes_all: int = 256 * MIB
    write_stall_seconds: float = 30.0  # no byte taken while its limit is reached: cut
    heartbeats_missed: int = 2
    keepalive_seconds: float = 60.0
    in_flight: int = 10_000  # of one consumer
    parked_bytes: int = MIB  # publishes that wait for room (overflow = "block")
    parked_seconds: float = 30.0
    subscriber_messages: int = 65_536  # pending at a slow subscriber, then the oldest go
    subscriber_bytes: int = 16 * MIB
    backlog_bytes_all: int = 64 * MIB  # of all topics that nobody hears
    group_idle_seconds: float = 7 * 86_400.0  # without a member, then the group is removed
    disk_floor_bytes: int = 256 * MIB  # free space kept, or disk_floor_percent, the lesser
    disk_floor_percent: float = 5.0
    disk_threads: int = 8
    segment_bytes: int = 16 * MIB

    def numbers(self) -> dict[str, float]:
        """All of them by name, as the `limits` action answers."""
        return attrs.asdict(self)


Overrides = Mapping[str, object]  # of one pattern: field name -> value, checked


@attrs.frozen
class Settings:
    """All that may be set. Made by `load`, or directly (in tests)."""

    host: str = "localhost"
    port: int = 8888  # 0 = the system picks one
    port_file: str = ""  # the port is written there once the broker listens
    data_dir: str = ".msg_data"
    log_format: str = "auto"  # text on a terminal, JSON elsewhere
    log_level: str = "info"
    http: str = "127.0.0.1:8889"  # address of the web page and metrics, or off
    reports: str = "reports"  # folder of scenario reports that the page shows
    otel: str = "off"  # which messages have spans
    insecure: bool = False  # listen beyond this machine although nobody has to log in
    drain_seconds: float = 10.0  # a stop waits that long for acks
    limits: Limits = attrs.field(factory=Limits)
    queues: Mapping[str, Overrides] = attrs.field(factory=dict)
    topics: Mapping[str, Overrides] = attrs.field(factory=dict)
    config: str = attrs.field(default="", eq=False)  # the file that was read
    origins: Mapping[Where, str] = attrs.field(factory=dict, eq=False, repr=False)

    def queue(self, name: str) -> QueueSettings:
        """The settings of one queue or group (`pattern@group`)."""
        return attrs.evolve(QueueSettings(), **_laid_over(self.queues, name))

    def topic(self, name: str) -> TopicSettings:
        """The settings of one topic."""
        return attrs.evolve(TopicSettings(), **_laid_over(self.topics, name))

    def origin(self, *where: str) -> str:
        """Where a value came from: `default`, `--port`, `MSG_PORT`, `msg.toml:3`."""
        return self.origins.get(where, "default")

    def values(self) -> Iterator[tuple[Where, object]]:
        """Every value by its key, in the order of the classes above."""
        for field in attrs.fields(Settings):
            value = getattr(self, field.name)
            if field.name == "origins":
                continue
            if field.name == "limits":
                yield from ((("limits", name), number) for name, number in value.numbers().items())
            elif field.name in TABLES:
                for pattern, overrides in value.items():
                    yield from (((field.name, pattern, key), v) for key, v in overrides.items())
            else:
                yield (field.name,), value


TABLES: Mapping[str, type[QueueSettings | TopicSettings]] = {
    "queues": QueueSettings,
    "topics": TopicSettings,
}


def _laid_over(tables: Mapping[str, Overrides], name: str) -> dict[str, Any]:
    matching = [pattern for pattern in tables if pattern == name or _matches(pattern, name)]
    merged: dict[str, Any] = {}
    for pattern in sorted(matching, key=_specificity, reverse=True):
        merged.update(tables[pattern])
    merged.update(tables.get(name, {}))  # its own name wins, also where it holds a wildcard
    return merged


def _specificity(pattern: str) -> list[int]:
    """Sorts the more specific first. No two patterns that match one name are equal in it."""
    return [{"*": 1, ">": 2}.get(token, 0) for token in pattern.split(".")]


def _matches(pattern: str, name: str) -> bool:
    # the tables take broker names (_…) too, which a subscription's wildcard would not
    tokens, words = pattern.split("."), name.split(".")
    if tokens[-1] == ">":
        tokens.pop()
        if len(words) <= len(tokens):
            return False
    elif len(words) != len(tokens):
        return False
    return all(token in ("*", word) for token, word in zip(tokens, words, strict=False))
