"""Numbers as a person says them: spans, moments, counts, sizes."""

from math import inf

from msg.core.wire import rfc3339


def seconds(value: float) -> str:
    """A span as a person says it: `0.4 s`, `94 s`, `12 min`, `3 h 20 min`, `4 days`."""
    if value == inf:
        return "for ever"
    value = max(0.0, value)
    if value < 9.95:
        return f"{value:.1f} s"
    if value < 180:
        return f"{value:.0f} s"
    if value < 3 * 3600:
        return f"{value / 60:.0f} min"
    if value < 48 * 3600:
        return f"{int(value // 3600)} h {int(value % 3600 // 60)} min"
    return f"{value / 86_400:.0f} days"


def clock(wall: float) -> str:
    """A moment: the time of day, UTC."""
    return rfc3339(wall)[11:19] + "Z"


def count(number: int, one: str, many: str = "") -> str:
    """`1 message`, `1,200 messages`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(value: float) -> str:
    """Bytes: `312 B`, `4.0 KiB`, `16 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")
