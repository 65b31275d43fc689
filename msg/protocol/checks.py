"""What each field of a command must be beyond its type: ranges, names and combinations.

A refusal is `bad_field` or `bad_name` with a sentence that names the field; it never closes
the connection. What only the broker's state can decide (does it exist, is it allowed, is
the sequence number still kept) is not asked here.
"""

import re
from datetime import datetime
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, NoReturn

from msg.core import commands
from msg.core.commands import (
    Ack,
    Acks,
    BareAck,
    BarePublish,
    Command,
    Nack,
    Publish,
    Publishes,
    Question,
    Touch,
)
from msg.core.names import (
    ID_BYTES_MAX,
    has_wildcard,
    is_dead,
    is_id,
    validate_address,
    validate_group,
    validate_name,
    validate_pattern,
)
from msg.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PREFETCH_MAX = 10_000  # in flight per consumer
NAMED_MAX = 10_000  # tags or message ids in one ack
SECONDS_MAX = 10 * 365 * 86_400  # of any delay: ten years is a mistake in the unit
TAG_MAX = 2**53 - 1  # what a JavaScript client can count to
HEADERS_MAX = 64
HEADERS_BYTES_MAX = 16 * 1024
HEADER_NAME_BYTES_MAX = 128
REASON_BYTES_MAX = 4096
SECRET_BYTES_MAX = 1024
HEARTBEAT_MIN = 0.1
NAMES_REMEMBERED = 1024

_TEXT: Final = "a string of 1-128 printable bytes"
_SECONDS: Final = "a number of seconds, 0 or more"

# By field, to follow "must be" in a sentence.
EXPECTED: Final[dict[str, str]] = {
    "ack": '"manual" or "auto"',
    "ack_timeout": f"{_SECONDS} (0: until disconnect)",
    "correlation_id": _TEXT,
    "count_attempt": "true or false",
    "cursor": _TEXT,
    "delay": _SECONDS,
    "delete": "true or false",
    "durability": '"memory", "os" or "stored"',
    "encoding": '"base64", and then the message a string',
    "from": '"new", "last", "all", a sequence number or a time such as "2026-11-23T08:05:15Z"',
    "group": "a group's name, a string",
    "headers": "an object of strings",
    "heartbeat": f"a number of seconds, 0 (none) or at least {HEARTBEAT_MIN}",
    "id": _TEXT,
    "message": "the body, any JSON",
    "message_id": _TEXT,
    "message_ids": f"an array of at most {NAMED_MAX:,} message ids",
    "mode": '"pubsub" or "queue"',
    "n": "an integer, 1 or more",
    "name": _TEXT,
    "options": "an object",
    "passive": "true or false",
    "password": f"a string of at most {SECRET_BYTES_MAX:,} bytes",
    "prefetch": "an integer, 1 or more",
    "priority": "an integer from 0 to 9",
    "reason": f"a string of at most {REASON_BYTES_MAX:,} bytes",
    "reply_to": "the name of a topic, a string",
    "requeue": "true or false",
    "retain": "true or false",
    "settings": "an object",
    "sub": _TEXT,
    "tag": "the integer that came with the message",
    "tags": f"an array of at most {NAMED_MAX:,} integers",
    "token": f"a string of at most {SECRET_BYTES_MAX:,} bytes",
    "topic": "the name of a topic or queue, a string",
    "ttl": _SECONDS,
    "user": _TEXT,
    "wait": _SECONDS,
}

_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)


class From(NamedTuple):
    """Where a subscription begins: `value` is the sequence number or the epoch seconds."""

    kind: Literal["new", "last", "all", "seq", "time"]
    value: float = 0


def parse_from(value: str | int | None) -> From:
    """The field `from` as it is meant; absent means "new"."""
    match value:
        case None | "new":
            return From("new")
        case "last":
            return From("last")
        case "all":
            return From("all")
        case int() if 0 <= value <= TAG_MAX:
            return From("seq", value)
        case str() if _RFC_3339.fullmatch(value):
            # microseconds are all that datetime takes
            text = re.sub(r"(\.\d{6})\d+", r"\1", value.upper())
            try:
                return From("time", datetime.fromisoformat(text).timestamp())
            except (ValueError, OverflowError):
                _refuse("from")
        case _:
            _refuse("from")


class Checks:
    """The checks of one connection; it remembers names that it has found good.

    `Checks().check` is what a `Decoder` takes.
    """

    def __init__(self, *, prefetch_max: int = PREFETCH_MAX) -> None:
        self._prefetch_max = prefetch_max
        self._publishable: set[str] = set()

    def check(self, command: Command) -> None:
        """Return, or raise a `ClientError` that says which field is wrong and how."""
        if command.__class__ is Publish:
            assert isinstance(command, Publish)
            if command.topic not in self._publishable:
                self._publish_to(command.topic)
            self._publish(command)
        elif command.__class__ is Ack:
            assert isinstance(command, Ack)
            self._settlement(command)
        elif isinstance(command, Question):
            self._question(command)
        else:
            _OTHERS[command.__class__](self, command)

    def gather(
        self, publishes: "Sequence[BarePublish]", acks: "Sequence[BareAck]"
    ) -> "list[Publishes | Acks] | None":
        """Where all of these are right: the same as few commands. None: one of them is not, or
        goes to a name that was not seen before, and `check` says of each what it is.

        It looks at a field of all of them at a time: a third of the time of a `check` each.
        """
        out: list[Publishes | Acks] = []
        if publishes:
            known = self._publishable
            for run in _by_destination(publishes):
                if run.topic not in known:
                    return None
                out.append(run)
        if acks:
            usual = _usual_acks(acks)
            if usual is None:
                return None
            out.append(usual)
        return out

    def _publish_to(self, topic: str) -> None:
        if has_wildcard(topic) or "@" in topic:
            raise ClientError("bad_name", "A publish goes to one name, not to a pattern or group.")
        validate_name(topic, "topic")
        if is_dead(topic):
            raise ClientError(
                "bad_name", "Dead letters are the broker's; publish to the queue itself."
            )
        if len(self._publishable) >= NAMES_REMEMBERED:
            self._publishable.clear()
        self._publishable.add(topic)

    def _publish(self, command: Publish) -> None:
        _check_id("id", command.id)
        _check_id("message_id", command.message_id)
        _check_id("correlation_id", command.correlation_id)
        _check_seconds("delay", command.delay)
        _check_seconds("ttl", command.ttl)
        _check_range("priority", command.priority, 0, 9)
        delay = command.delay or 0.0
        # On a topic ttl 0 says "never kept"; in a queue nothing could be delivered.
        if command.ttl is not None and (delay or command.mode == "queue") and command.ttl <= delay:
            raise ClientError("bad_field", '"ttl" must be more than "delay", or it never arrives.')
        if command.headers is not None:
            _check_headers(command.headers)
        if command.reply_to is not None:
            validate_name(command.reply_to, "reply_to")
        if command.retain and command.mode == "queue":
            raise ClientError("bad_field", '"retain" is for topics; a queue keeps what it is sent.')
        if command.encoding is not None and (
            command.encoding != "base64" or not bytes(command.message).startswith(b'"')
        ):
            _refuse("encoding")

    def _subscribe(self, command: commands.Subscribe) -> None:
        _check_id("id", command.id)
        _check_id("sub", command.sub)
        _check_id("name", command.name)
        group = _check_source(command.topic, command.mode, command.group)
        _check_range("prefetch", command.prefetch, 1, self._prefetch_max)
        _check_seconds("ack_timeout", command.ack_timeout)
        if command.from_ is not None:
            parse_from(command.from_)
            if command.mode == "queue" and not group:
                raise ClientError("bad_field", '"from" is for topics; a queue has one order.')
        if command.ack == "manual" and command.mode == "pubsub" and not group:
            raise ClientError(
                "bad_field", 'A topic is not acknowledged; name a "group" for "ack":"manual".'
            )

    def _unsubscribe(self, command: commands.Unsubscribe) -> None:
        _check_id("id", command.id)
        if (command.sub is None) == (command.topic is None):
            raise ClientError("bad_field", '"unsubscribe" needs either "sub" or "topic".')
        _check_id("sub", command.sub)
        if command.topic is not None:
            group = _check_source(command.topic, command.mode, command.group)
            if command.delete and not group:
                raise ClientError("bad_field", '"delete" removes a group; name it in "group".')

    def _get(self, command: commands.Get) -> None:
        _check_id("sub", command.sub)
        _check_id("id", command.id)
        if not _check_source(command.topic, command.mode, command.group) and (
            command.mode == "pubsub"
        ):
            raise ClientError("bad_field", '"get" takes from a queue or a group; name a "group".')
        _check_range("n", command.n, 1, self._prefetch_max)
        _check_seconds("wait", command.wait)
        _check_seconds("ack_timeout", command.ack_timeout)

    def _settlement(self, command: Ack | Nack | Touch) -> None:
        message_id, ways = command.message_id, 0
        if message_id is not None:
            ways = 1
            if not is_id(message_id):
                _refuse("message_id")
        if command.tag is not None:
            ways += 1
            _check_range("tag", command.tag, 1, TAG_MAX)
        if command.tags is not None:
            ways += 1
            _check_length("tags", len(command.tags))
            for tag in command.tags:
                _check_range("tags", tag, 1, TAG_MAX)
        if command.message_ids is not None:
            ways += 1
            _check_length("message_ids", len(command.message_ids))
            for each in command.message_ids:
                _check_id("message_ids", each)
        if ways != 1:
            raise ClientError(
                "bad_field",
                'Name what is meant in one of "tag", "tags", "message_id" and "message_ids".',
            )
        if command.id is not None:
            _check_id("id", command.id)

    def _nack(self, command: Nack) -> None:
        self._settlement(command)
        _check_seconds("delay", command.delay)
        _check_bytes("reason", command.reason, REASON_BYTES_MAX)

    def _declare(self, command: commands.Declare) -> None:
        _check_id("id", command.id)
        group = _check_source(command.topic, command.mode, command.group, exact=True)
        if command.from_ is not None:
            parse_from(command.from_)
            if not group:
                raise ClientError("bad_field", '"from" is for a group; name it in "group".')

    def _hello(self, command: commands.Hello) -> None:
        _check_id("id", command.id)
        _check_id("name", command.name)
        _check_id("user", command.user)
        _check_bytes("token", command.token, SECRET_BYTES_MAX)
        _check_bytes("password", command.password, SECRET_BYTES_MAX)
        if (command.user is None) != (command.password is None):
            raise ClientError("bad_field", '"user" and "password" belong together.')
        _check_seconds("heartbeat", command.heartbeat)
        if command.heartbeat is not None and 0 < command.heartbeat < HEARTBEAT_MIN:
            _refuse("heartbeat")

    def _question(self, command: Question) -> None:
        _check_id("id", command.id)
        if command.name is not None and not is_id(command.name):
            if not isinstance(command, commands.Why):
                _refuse("name")
            validate_address(command.name, "name")  # an address may be longer than an id
        _check_id("cursor", command.cursor)
        _check_id("message_id", command.message_id)
        _check_range("n", command.n, 1, NAMED_MAX)
        if command.topic is not None:
            if command.group is None and "@" not in command.topic:
                validate_pattern(command.topic)  # one may ask about many at once
            else:
                _check_source(command.topic, command.mode, command.group)
        if command.message_ids is not None:
            _check_length("message_ids", len(command.message_ids))
            for each in command.message_ids:
                _check_id("message_ids", each)

    def _id_only(self, command: commands.Ping | commands.Pong) -> None:
        _check_id("id", command.id)


# of functions and not of methods: those would make each connection a cycle, of 1.2 KiB
_OTHERS: "dict[type[Command], Callable[[Checks, Any], None]]" = {
    commands.Subscribe: Checks._subscribe,
    commands.Unsubscribe: Checks._unsubscribe,
    commands.Get: Checks._get,
    commands.Nack: Checks._nack,
    commands.Touch: Checks._settlement,
    commands.Declare: Checks._declare,
    commands.Hello: Checks._hello,
    commands.Ping: Checks._id_only,
    commands.Pong: Checks._id_only,
}


def _by_destination(publishes: "Sequence[BarePublish]") -> "list[Publishes]":
    """As a rule all have the same."""
    first = publishes[0]
    topic, mode, durability = first.topic, first.mode, first.durability
    if len(publishes) == 1 or not [
        p for p in publishes if p.topic != topic or p.mode != mode or p.durability is not durability
    ]:
        return [Publishes(topic, mode, durability, list(publishes))]
    runs: dict[tuple[str, str, str | None], Publishes] = {}
    for p in publishes:
        run = runs.get((p.mode, p.topic, p.durability))
        if run is None:
            runs[p.mode, p.topic, p.durability] = Publishes(p.topic, p.mode, p.durability, [p])
        else:
            run.items.append(p)
    return list(runs.values())


def _usual_acks(acks: "Sequence[BareAck]") -> Acks | None:
    """Where all of these name a message by its id, or all by its tag."""
    ids, tags = [a.message_id for a in acks], [a.tag for a in acks]
    if all(ids) and tags.count(None) == len(tags):  # none is None, and none is empty
        text = "".join(ids)  # type: ignore[arg-type]
        usual = text.isascii() and text.isprintable()
        if usual and max(map(len, ids)) <= ID_BYTES_MAX:  # type: ignore[arg-type]
            return Acks(ids, [])  # type: ignore[arg-type]
        return None
    if not all(tags) or ids.count(None) < len(ids):
        return None
    right = min(tags) > 0 and max(tags) <= TAG_MAX  # type: ignore[type-var,operator]
    return Acks([], tags) if right else None  # type: ignore[arg-type]


def _check_source(topic: str, mode: str, group: str | None, *, exact: bool = False) -> bool:
    """What is read from: a queue, a topic's name or pattern, or a group; whether a group.

    `exact`: a pattern without a group is refused even for topics.
    """
    if "@" in topic:
        if group is not None:
            raise ClientError("bad_field", 'Name the group behind the @ or in "group", not both.')
        validate_address(topic)
        return True
    if group is not None:
        validate_pattern(topic)
        validate_group(group)
        return True
    if mode == "pubsub" and not exact:
        validate_pattern(topic)
    elif has_wildcard(topic):
        meant = 'name a "group"' if exact else 'add "mode":"pubsub" or name a "group"'
        raise ClientError("bad_name", f"A pattern stands for many names here; {meant}.")
    else:
        validate_name(topic, "queue" if mode == "queue" else "topic")
    return False


def _refuse(field: str, limit: int | None = None) -> NoReturn:
    text = f'"{field}" must be {EXPECTED[field]}'
    raise ClientError(
        "bad_field", f"{text}, at most {limit:,}." if limit is not None else f"{text}.", limit=limit
    )


def _check_id(field: str, text: str | None) -> None:
    if text is not None and not is_id(text):
        _refuse(field)


def _check_bytes(field: str, text: str | None, bytes_max: int) -> None:
    if text is not None and len(text.encode()) > bytes_max:
        raise ClientError("bad_field", f'"{field}" must be {EXPECTED[field]}.', limit=bytes_max)


def _check_seconds(field: str, seconds: float | None) -> None:
    if seconds is None or 0 <= seconds <= SECONDS_MAX:
        return
    _refuse(field, SECONDS_MAX if SECONDS_MAX < seconds < inf else None)


def _check_range(field: str, number: int | None, least: int, most: int) -> None:
    if number is None or least <= number <= most:
        return
    _refuse(field, most if number > most and field != "priority" else None)


def _check_length(field: str, length: int) -> None:
    if length > NAMED_MAX:
        raise ClientError("bad_field", f'"{field}" must be {EXPECTED[field]}.', limit=NAMED_MAX)


def _check_headers(headers: dict[str, str]) -> None:
    if len(headers) > HEADERS_MAX:
        raise ClientError(
            "bad_field", f'"headers" may have {HEADERS_MAX} entries.', limit=HEADERS_MAX
        )
    size = 0
    for name, value in headers.items():
        if not is_id(name):
            raise ClientError("bad_field", f'A name in "headers" must be {_TEXT}.')
        size += len(name.encode()) + len(value.encode())
    if size > HEADERS_BYTES_MAX:
        raise ClientError(
            "bad_field",
            f'"headers" may have {HEADERS_BYTES_MAX:,} bytes in all; the rest belongs in'
            " the message.",
            limit=HEADERS_BYTES_MAX,
        )
