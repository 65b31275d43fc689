"""Names of queues and topics, patterns, groups and ids: what may be one, and what it means.

A name is 1-128 bytes of UTF-8: tokens joined by dots, without blanks, control characters
and the characters that patterns, groups, other protocols and JSON need for themselves.
These functions look at text only; what exists is the directory's business.
"""

import re
from typing import NamedTuple

from msg.errors import ClientError

NAME_BYTES_MAX = 128
ID_BYTES_MAX = 128
DEAD_SUFFIX = ".dead"

_TOKEN = r'[^\s\x00-\x1f\x7f-\x9f*>@#+"\\.]+'
_NAME = re.compile(rf"{_TOKEN}(?:\.{_TOKEN})*")
_PATTERN = re.compile(rf"(?:(?:{_TOKEN}|\*)(?:\.(?:{_TOKEN}|\*))*(?:\.>)?|>)")


class Target(NamedTuple):
    """What an address means: a plain name or pattern, perhaps a group of it, perhaps the
    dead letters of either."""

    pattern: str
    group: str | None
    dead: bool


def validate_name(name: str, what: str = "name") -> None:
    """`bad_name` unless this names one queue or topic (`x.dead` is a name too)."""
    if not _NAME.fullmatch(name) or not _fits(name):
        raise ClientError("bad_name", _complaint(name, what))


def validate_pattern(pattern: str, what: str = "topic") -> None:
    """`bad_name` unless this is a name, or one with `*` or a last `>` as whole tokens."""
    if not _PATTERN.fullmatch(pattern) or not _fits(pattern):
        raise ClientError("bad_name", _complaint(pattern, what, wildcards=True))


def validate_group(group: str) -> None:
    """`bad_name` unless this may stand behind the `@`; `.dead` there is the broker's."""
    validate_name(group, "group")
    if is_dead(group):
        raise ClientError("bad_name", f'A group\'s name may not end in "{DEAD_SUFFIX}".')


def validate_address(address: str, what: str = "topic") -> Target:
    """What `name`, `name.dead`, `pattern@group` or `pattern@group.dead` means, or `bad_name`."""
    pattern, group = split_group(address)
    if group is None:
        validate_name(address, what)
        return Target(address, None, is_dead(address))
    validate_pattern(pattern, what)
    dead = is_dead(group)
    group = parent_of(group) if dead else group
    validate_group(group)
    return Target(pattern, group, dead)


def split_group(address: str) -> tuple[str, str | None]:
    """`pattern@group` as its two parts; a plain name has no group."""
    pattern, at, group = address.partition("@")
    return pattern, (group if at else None)


def group_address(pattern: str, group: str) -> str:
    return f"{pattern}@{group}"


def has_wildcard(pattern: str) -> bool:
    """Whether this pattern can match more than one name. (A name holds neither character.)"""
    return "*" in pattern or ">" in pattern


def is_broker_name(name: str) -> bool:
    """Whether the first token is the broker's own: not matched by a wildcard there."""
    return name.startswith(("_", "$"))


def refuse_broker_name(name: str) -> None:
    """Raise `forbidden` for what only the broker makes."""
    if is_broker_name(name):
        raise ClientError("forbidden", f"names like {name!r} are the broker's own; use another")


def is_dead(name: str) -> bool:
    """Whether this queue holds another's dead letters: read and retried, never published to."""
    return name.endswith(DEAD_SUFFIX)


def dead_name(name: str) -> str:
    """Where the dead letters of this queue go; also of a group's address."""
    return name + DEAD_SUFFIX


def parent_of(dead: str) -> str:
    """The queue whose dead letters these are."""
    return dead.removesuffix(DEAD_SUFFIX)


def is_id(text: str) -> bool:
    """Whether this may be a message's or a request's id: 1-128 printable bytes."""
    return (
        0 < len(text) <= ID_BYTES_MAX
        and text.isprintable()
        and (text.isascii() or len(text.encode()) <= ID_BYTES_MAX)
    )


def _fits(name: str) -> bool:
    """Dead letters of the longest name have a name, too."""
    most = NAME_BYTES_MAX + len(DEAD_SUFFIX) if is_dead(name) else NAME_BYTES_MAX
    return len(name) <= most and (name.isascii() or len(name.encode()) <= most)


def _complaint(name: str, what: str, *, wildcards: bool = False) -> str:
    """One sentence on what is wrong with this name; it never repeats the name's own bytes."""
    if not name:
        return f"A {what} may not be empty."
    if not _fits(name):
        return f"A {what} may have {NAME_BYTES_MAX} bytes; this one has {len(name.encode())}."
    if name.startswith(".") or name.endswith(".") or ".." in name:
        return f"A {what} is made of tokens joined by single dots, none of them empty."
    if wildcards:
        return (
            f"A {what} may have * for one token or > for the rest as whole tokens, and no"
            ' blanks, control characters or any of @ # + " \\ elsewhere.'
        )
    return f'A {what} may not hold blanks, control characters or any of * > @ # + " \\.'
