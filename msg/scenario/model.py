"""What a scenario file may say, as classes: the names of the fields are the keys of the file.

`scenarios/README.md` is the text for people; what is said here of a field is what it shows
of it. A field `for_` is written `for`, and `from_` is written `from`.
"""

import random
from typing import Any, Literal, NewType

import attrs

Time = NewType("Time", float)  # seconds; "300ms"
Jump = NewType("Jump", float)  # seconds, also backwards; "-1h"
Count = NewType("Count", int)
Size = NewType("Size", int)  # bytes; "64KiB"
Odds = NewType("Odds", float)  # 0 to 1
Frame = NewType("Frame", dict[str, Any])
Engine = Literal["sim", "process"]
ENGINES: tuple[Engine, ...] = ("sim", "process")


@attrs.frozen
class Span:
    """A time, or two of which the seed picks one between: `"5ms"`, `["1ms", "20ms"]`."""

    low: float
    high: float

    def pick(self, rng: random.Random) -> float:
        return self.low if self.low == self.high else rng.uniform(self.low, self.high)


@attrs.frozen
class Several:
    """A number, or two: `3`, `[0, 5]`."""

    low: int
    high: int

    def pick(self, rng: random.Random) -> int:
        return self.low if self.low == self.high else rng.randint(self.low, self.high)

    def __contains__(self, number: int) -> bool:
        return self.low <= number <= self.high

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low} to {self.high}"


NOW = Span(0, 0)

# -- clients --------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Publish:
    """Publishes, each with an id of its own; one without an answer is sent again."""

    queue: str = ""
    topic: str = ""
    count: Count = Count(1)
    every: Span = NOW  # time between two
    start: Span = NOW  # before the first
    body_bytes: Size = Size(0)  # a filling of so many bytes
    window: Count = Count(100)  # published and not yet answered, at most
    durability: str = ""
    delay: Span | None = None
    ttl: Time | None = None
    priority: tuple[Count, ...] = ()  # picked from
    ids: bool = True  # false: no message_id, so never sent again
    again: Odds = Odds(0.0)  # of being published twice with the same id
    retry: bool = True  # false: what was refused is given up
    retry_after: Span = Span(0.1, 0.1)  # when the broker said "later"; then longer each time


@attrs.frozen(kw_only=True)
class Consume:
    """Takes from a queue, or from a topic's group, one message after the other."""

    queue: str = ""
    topic: str = ""
    group: str = ""
    prefetch: Count = Count(1)
    ack_after: Span = NOW  # what the work on one message takes
    ack_timeout: Time | None = None
    ack_by: str = "tag"  # or "id"
    confirm: bool = False  # asks for an answer to each ack
    poison: tuple[Count, ...] = ()  # the publisher's numbers (from 0) that it fails on
    on_poison: str = "crash"  # or "nack", "reject" (nack without requeue), "hang"
    nack: Odds = Odds(0.0)
    crash: Odds = Odds(0.0)  # of losing its connection instead of acking
    forget: Odds = Odds(0.0)  # of never acking, and going on
    leave_after: Count = Count(0)  # closes its connection at the n-th message, not acked
    latency_at_most: Time | None = None  # from the publisher's sending to its arrival
    from_: str = ""  # of a new group


@attrs.frozen(kw_only=True)
class Subscribe:
    """Listens to a topic, or to a pattern."""

    topic: str
    from_: str = ""
    latency_at_most: Time | None = None


@attrs.frozen(kw_only=True)
class Request:
    """Asks by a message with `reply_to`, and waits for the answer."""

    queue: str = ""
    topic: str = ""
    count: Count = Count(1)
    every: Span = NOW
    timeout: Time = Time(5.0)


@attrs.frozen(kw_only=True)
class Respond:
    """Answers requests."""

    queue: str = ""
    topic: str = ""
    after: Span = NOW


@attrs.frozen(kw_only=True)
class Say:
    """One thing that a recorded client said: a frame, or bytes that are none."""

    at: Time
    frame: Frame | None = None
    text: str | None = None  # sent as it is
    base64: str | None = None
    close: bool = False  # it ended the connection here
    reset: bool = False


@attrs.frozen(kw_only=True)
class Client:
    """One client, or `number` of them that are alike: then they are called NAME-1, NAME-2 …"""

    name: str
    number: Count = Count(1)
    start: Span = NOW
    stop: Time | None = None  # leaves in good order
    reconnect: Span | None = Span(0.05, 0.05)  # false: never
    leaves: bool = False  # when it has nothing more to do
    reads: bool = True  # false: never reads what the broker says
    bytes_per_second: Count | None = None  # what it says arrives no faster
    split_bytes: Count = Count(0)  # its bytes arrive in pieces of at most so many
    heartbeat: Time | None = None
    publish: tuple[Publish, ...] = ()
    consume: tuple[Consume, ...] = ()
    subscribe: tuple[Subscribe, ...] = ()
    request: tuple[Request, ...] = ()
    respond: tuple[Respond, ...] = ()
    say: tuple[Say, ...] = ()


# -- faults ---------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Cut:
    """A client's connection is reset."""

    client: str  # a name, or a pattern such as "worker-*": then one of those
    inside_frame: bool = False  # in the middle of the next thing that the client says


@attrs.frozen(kw_only=True)
class Stall:
    """Nothing gets through between a client and the broker, for a while."""

    client: str
    for_: Span


@attrs.frozen(kw_only=True)
class HalfOpen:
    """A client's machine dies: the broker is told nothing. The client comes back anew."""

    client: str


@attrs.frozen(kw_only=True)
class SplitBytes:
    """Bytes arrive in small pieces."""

    client: str
    size: Count = Count(1)
    for_: Span | None = None


@attrs.frozen(kw_only=True)
class SlowReader:
    """A client's link carries no more than so much of what the broker says."""

    client: str
    bytes_per_second: Count = Count(1000)
    for_: Span | None = None


@attrs.frozen(kw_only=True)
class CrashActor:
    """A bug in one actor: `queue NAME`, `topic NAME`, `connection CLIENT`, `directory`, `store`."""

    actor: str


@attrs.frozen(kw_only=True)
class KillBroker:
    """kill -9."""

    restart_after: Span | None = Span(0.1, 0.1)


@attrs.frozen(kw_only=True)
class PowerCut:
    """The machine is without power: what was not synced may be lost, whole or in part."""

    restart_after: Span | None = Span(0.1, 0.1)
    survival: str = "mixed"  # of what was not synced; or "none", "all", "torn", "zeroed", "garbage"
    inside_write: bool = False  # between two operations of the store's next writing


@attrs.frozen(kw_only=True)
class FreezeBroker:
    """SIGSTOP, and SIGCONT a while later."""

    for_: Span


@attrs.frozen(kw_only=True)
class DiskFull:
    """No write finds room."""

    for_: Span | None = None


@attrs.frozen(kw_only=True)
class FsyncError:
    """The disk fails to sync, and says so once."""

    count: Count = Count(1)


@attrs.frozen(kw_only=True)
class SlowFsync:
    """Each sync takes so long."""

    to: Time
    for_: Span | None = None


@attrs.frozen(kw_only=True)
class TornWrite:
    """kill -9, and half a record at the end of a queue's file."""

    queue: str
    restart_after: Span = Span(0.1, 0.1)


@attrs.frozen(kw_only=True)
class BitFlip:
    """kill -9, and one flipped bit in a record of a queue's file."""

    queue: str
    restart_after: Span = Span(0.1, 0.1)


@attrs.frozen(kw_only=True)
class ClockJump:
    """The wall clock is set."""

    by: Jump


@attrs.frozen(kw_only=True)
class Flood:
    """Connections that publish as fast as they can, each `count` messages, and then leave."""

    queue: str = ""
    topic: str = ""
    connections: Count = Count(10)
    count: Count = Count(1000)
    body_bytes: Size = Size(0)
    reads: bool = True


@attrs.frozen(kw_only=True)
class BadFrames:
    """Connections that say what is no frame; each gets one error and is closed."""

    kinds: tuple[str, ...] = ("http", "tls", "garbage", "deep", "huge", "half", "lf", "surrogate")
    connections: Count = Count(8)


@attrs.frozen(kw_only=True)
class Drain:
    """SIGTERM: the broker ends in good order."""

    restart_after: Span | None = None


@attrs.frozen(kw_only=True)
class Restart:
    """The broker, if it is down, is started again."""


@attrs.frozen(kw_only=True)
class Send:
    """An operator says this to the broker."""

    frame: Frame


What = (
    Cut | Stall | HalfOpen | SplitBytes | SlowReader | CrashActor | KillBroker | PowerCut
    | FreezeBroker | DiskFull | FsyncError | SlowFsync | TornWrite | BitFlip | ClockJump
    | Flood | BadFrames | Drain | Restart | Send
)  # fmt: skip

KINDS: dict[str, type[What]] = {
    "cut": Cut, "stall": Stall, "half_open": HalfOpen, "split_bytes": SplitBytes,
    "slow_reader": SlowReader, "crash_actor": CrashActor, "kill_broker": KillBroker,
    "power_cut": PowerCut, "freeze_broker": FreezeBroker, "disk_full": DiskFull,
    "fsync_error": FsyncError, "slow_fsync": SlowFsync, "torn_write": TornWrite,
    "bit_flip": BitFlip, "clock_jump": ClockJump, "flood": Flood, "bad_frames": BadFrames,
    "drain": Drain, "restart": Restart, "send": Send,
}  # fmt: skip
KIND_OF = {cls: kind for kind, cls in KINDS.items()}

# faults that no real process can be made to have from outside, and why
IMPOSSIBLE_ON_PROCESS: dict[str, str] = {
    "power_cut": "the page cache outlives any process: only a simulated disk forgets",
}


@attrs.frozen(kw_only=True)
class Fault:
    """Something that goes wrong, `times` times from `at` on."""

    at: Span
    times: Several = Several(1, 1)
    every: Span = Span(0.1, 0.1)
    what: What

    @property
    def kind(self) -> str:
        return KIND_OF[type(self.what)]


# -- surroundings and expectations ----------------------------------------------------------


@attrs.frozen(kw_only=True)
class Network:
    """The simulated network."""

    latency: Time = Time(0.000_2)  # one way; each packet takes half of it to one and a half


@attrs.frozen(kw_only=True)
class Disk:
    """The disk: of a size (a small file system on the process engine), and of a speed."""

    size: Size | None = None
    sync: Time | None = None  # what a sync takes (simulated)
    short_writes: bool = False


@attrs.frozen(kw_only=True)
class Expect:
    """What must hold. What is not said here must not happen: losses, phantoms, disorder, two
    holders, errors, a broker that ends by itself."""

    lost: Several = Several(0, 0)
    phantom: Count = Count(0)
    out_of_order: Count = Count(0)
    held_by_two: Count = Count(0)
    duplicates_at_most: Count | None = None  # deliveries of a message beyond its first
    processed_twice_at_most: Count | None = None  # messages that were acked more than once
    attempts_at_most: Count | None = None
    drained_within: Time | None = None  # after the last publish, fault and restart
    dead: Several | None = None  # dead letters at the end
    left: Several | None = None  # messages in the queues at the end
    dropped: Several | None = None  # what slow subscribers were told to have missed
    errors: tuple[str, ...] = ()  # codes that clients must have seen
    errors_allowed: tuple[str, ...] = ()  # codes that they may have seen
    exits: tuple[Count, ...] = ()  # codes with which the broker ended by itself, in order
    restarts_at_least: Count = Count(0)  # of actors, by their supervisors
    unanswered_at_most: Count = Count(0)  # requests
    damaged: Several = Several(0, 0)  # records that the store named as damaged
    memory_at_most: Size | None = None  # process: its peak; sim: messages and outbound bytes
    ready_within: Time | None = None  # a (re)start until it serves


@attrs.frozen(kw_only=True)
class Scenario:
    """One story."""

    title: str
    why: str
    seed: int = 1
    lasts: Time = Time(0.0)  # at least
    not_on: dict[str, str] = attrs.field(factory=dict)  # engine -> why not
    broker: Any = None  # settings; the keys of the config file
    network: Network = Network()
    disk: Disk = Disk()
    client: tuple[Client, ...] = ()
    fault: tuple[Fault, ...] = ()
    expect: Expect = Expect()
    path: str = attrs.field(default="", eq=False)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2].removesuffix(".toml") or "scenario"

    @property
    def engines(self) -> tuple[Engine, ...]:
        return tuple(engine for engine in ENGINES if engine not in self.not_on)
