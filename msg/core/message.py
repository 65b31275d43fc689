"""A message, as the broker's rules see it: a place in line and an opaque piece of text.

`wire` is made once, when the message is accepted, and is never encoded again. It is
the part of a JSON object that stays the same for the message's whole life, without
braces, always beginning with these members in this order:

    "topic":"jobs","message_id":"…","published_at":"2026-11-23T08:05:15.123Z","message":BODY

followed by whichever of `headers`, `reply_to`, `correlation_id`, `encoding`, `case` it
has. A delivery is `{"type":"message",` + wire + what changes + `}`; a record in the
store is `{"op":"pub","seq":17,` + wire + `,"crc":"…"}`.
"""

import msgspec

MEMORY, OS, STORED = 0, 1, 2
DURABILITIES = {"memory": MEMORY, "os": OS, "stored": STORED}
DURABILITY_NAMES = {number: name for name, number in DURABILITIES.items()}
PRIORITY = 4  # of a publish that names none; 9 goes first


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One attempt that failed, for the case file. `at` is RFC 3339 UTC."""

    n: int
    at: str
    why: str  # "nack", "deadline", "disconnect"
    who: str = ""  # the consumer's name
    reason: str = ""  # the consumer's own words (nack)


class Message(msgspec.Struct, gc=False, eq=False):
    """One message in one queue (or in a topic's log). No cycles: gc need not see it.

    Times are wall-clock seconds since the epoch, 0 = none: they must outlive a restart.
    """

    seq: int  # place in line: 1, 2, 3 … for each queue, never used twice
    id: str
    wire: bytes
    priority: int = PRIORITY
    durability: int = STORED
    due: float = 0.0  # not delivered before
    expires: float = 0.0  # not delivered after
    attempts: int = 0  # failed ones that count
    returned: str = ""  # why it came back last, for the consumer
    case: tuple[Attempt, ...] = ()
    key: str = ""  # of a move: "source:seq:n"; "" for a publish
    origin: str = ""  # of a dead letter: the queue it died in
    until: float = 0.0  # monotonic deadline of the lease; 0 = its clock does not run yet
