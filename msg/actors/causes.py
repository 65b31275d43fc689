"""A cause: one plain sentence of why something does not move, and what to do about it."""

from collections.abc import Iterable

import attrs

# stuck: nothing moves until somebody does something; slow: it moves less than it could;
# note: worth knowing, and nothing is wrong
LEVELS = ("ok", "note", "slow", "stuck")


@attrs.frozen
class Cause:
    level: str
    code: str  # stable, for programs
    text: str
    do: str = ""


def worst(causes: Iterable[Cause]) -> str:
    """The level of a subject with these causes."""
    return max([cause.level for cause in causes], key=LEVELS.index, default="ok")
