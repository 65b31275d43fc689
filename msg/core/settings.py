"""What may be set for one queue or one topic, with the defaults and where they come from."""

from functools import cached_property

import attrs

from msg.core.message import DURABILITIES

MIB = 1 << 20
GIB = 1 << 30


@attrs.frozen
class QueueSettings:
    """Settings of a queue or of a group. Times in seconds, sizes in bytes, 0 = no limit."""

    durability: str = "stored"  # of a publish that names none
    durability_min: str = "memory"  # the least that a publish may ask for
    max_deliveries: int = 5  # then dead-lettered; 0 = never
    backoff: tuple[float, ...] = (0.0, 1.0, 5.0, 30.0)  # wait after the n-th failed attempt
    ack_timeout: float = 30.0  # of a subscription that names none
    overflow: str = "reject"  # or "block", "drop_oldest"
    max_messages: int = 20_000_000
    max_bytes: int = 16 * GIB
    max_memory_bytes: int = 256 * MIB  # for messages of durability "memory"
    dead_letter_expired: bool = False
    dedup_window: float = 120.0
    dedup_ids: int = 1_000_000
    ttl: float = 0.0  # of a publish that names none

    @cached_property  # asked for with each batch
    def usual_durability(self) -> int:
        return _usual(self.durability, self.durability_min)


@attrs.frozen
class TopicSettings:
    """Settings of a topic: what is kept of it, and how durably."""

    durability: str = "os"  # of what is kept, for a publish that names none
    durability_min: str = "memory"
    backlog_messages: int = 1000  # kept while nobody hears
    backlog_bytes: int = MIB
    backlog_seconds: float = 86_400.0
    history_messages: int = 0  # kept whoever hears; all three 0 = no history
    history_bytes: int = 0
    history_seconds: float = 0.0
    dedup_window: float = 120.0
    dedup_ids: int = 1_000_000
    retained_bytes: int = MIB

    @cached_property  # asked for with each batch
    def usual_durability(self) -> int:
        return _usual(self.durability, self.durability_min)

    @property
    def history(self) -> bool:
        return bool(self.history_messages or self.history_bytes or self.history_seconds)


def _usual(durability: str, least: str) -> int:
    """Of a publish that names none: it did not ask for too little, so it is given enough."""
    return max(DURABILITIES[durability], DURABILITIES[least])
