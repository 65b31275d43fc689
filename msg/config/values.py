"""Single values: what a person may write for a size, a time, a choice, and how it is shown.

cattrs does the structuring. A number's unit stands in its field's name (see STYLE), not in
its type, so that tests may write `Limits(frame_bytes=4096)`; `_kind` turns the name into
the type that the converter knows.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NewType

import attrs
import cattrs

from msg.config.settings import KIB, TABLES, Where
from msg.core.settings import GIB, MIB

SIZES = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": 1 << 40,
         "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}  # fmt: skip
TIMES = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}

Size = NewType("Size", int)  # bytes: 1048576 or "1MiB"
Seconds = NewType("Seconds", float)  # 30, 0.5, "30s", "500ms"
Count = NewType("Count", int)
Percent = NewType("Percent", float)
Times = NewType("Times", tuple[float, ...])  # [0, 1, "5s"] or, in the environment, "0, 1, 5s"

CHOICES: Mapping[str, tuple[str, ...]] = {
    "durability": ("memory", "os", "stored"),
    "durability_min": ("memory", "os", "stored"),
    "overflow": ("reject", "block", "drop_oldest"),
    "log_format": ("auto", "text", "json"),
    "log_level": ("debug", "info", "warning", "error"),
    "otel": ("off", "headers", "all"),
}
AT_LEAST = {"frame_bytes": KIB, "segment_bytes": 64 * KIB,
            "connections": 1, "names": 1, "disk_threads": 1, "in_flight": 1, "errors_in_a_row": 1,
            "subscriptions": 1, "gets": 1, "heartbeats_missed": 1}  # fmt: skip


def parse_size(value: object) -> int:
    """Bytes: a number, or a text such as `16MiB` or `1.5 GB`."""
    return round(_parse_unit(value, SIZES, "a size such as 65536 or 16MiB"))


def parse_seconds(value: object) -> float:
    """Seconds: a number, or a text such as `30s`, `500ms`, `2m`, `24h`, `7d`."""
    return _parse_unit(value, TIMES, "a time such as 30, 30s or 500ms")


def _parse_unit(value: object, units: Mapping[str, float], wanted: str) -> float:
    match = None
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", value.strip())
        number, unit = match.groups() if match else ("nan", "")
        result = float(number) * units.get(unit, math.nan if unit else 1.0)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        result = float(value)
    else:
        result = math.nan
    if not math.isfinite(result) or result < 0:
        raise ValueError(f"expected {wanted}, not {value!r}")
    return result


def _parse_count(value: object) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"expected a whole number, 0 or more, not {value!r}")


def _parse_percent(value: object) -> float:
    try:
        number = float(str(value).strip().removesuffix("%"))
    except ValueError:
        number = math.nan
    if isinstance(value, bool) or not 0 <= number <= 100:
        raise ValueError(f"expected a percentage from 0 to 100, not {value!r}")
    return number


def _parse_bool(value: object) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True,
             "false": False, "no": False, "off": False, "0": False}  # fmt: skip
    result = value if isinstance(value, bool) else words.get(str(value).strip().lower())
    if result is None or type(value) in (int, float):
        raise ValueError(f"expected true or false, not {value!r}")
    return result


def _parse_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text in quotes, not {value!r}")
    return value


def _parse_times(value: object) -> tuple[float, ...]:
    parts = value.strip("[] ").split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not parts:
        raise ValueError(f"expected times such as [0, 1, 5, 30], not {value!r}")
    return tuple(parse_seconds(part) for part in parts)


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter()

    def use(parse: Callable[[object], object], kind: Any) -> None:
        converter.register_structure_hook(kind, lambda value, _: parse(value))

    use(parse_size, Size)
    use(parse_seconds, Seconds)
    use(_parse_count, Count)
    use(_parse_percent, Percent)
    use(_parse_bool, bool)
    use(_parse_text, str)
    use(_parse_times, Times)
    return converter


_CONVERTER = _converter()


def _kind(field: "attrs.Attribute[Any]") -> Any:
    """What a field holds: a number's unit stands in its name (see STYLE), not in its type."""
    if field.type is int:
        return Size if field.name.endswith("bytes") or "_bytes_" in field.name else Count
    if field.type is float:
        return Percent if field.name.endswith("percent") else Seconds
    return Times if field.type == tuple[float, ...] else field.type


def structure(cls: type[attrs.AttrsInstance], key: str, value: object) -> object:
    """One value for field `key` of `cls`, or a ValueError that says what is expected."""
    result: object = _CONVERTER.structure(value, _kind(attrs.fields_dict(cls)[key]))
    choices = CHOICES.get(key)
    if choices and result not in choices:
        raise ValueError(f"expected one of {', '.join(choices)}, not {value!r}")
    if key == "port" and isinstance(result, int) and result > 65_535:
        raise ValueError(f"expected a port from 0 to 65535, not {value!r}")
    least = AT_LEAST.get(key)
    if least is not None and isinstance(result, int) and result < least:
        raise ValueError(f"expected at least {least}, not {value!r}")
    return result


def show_value(where: Where, value: object) -> str:
    """A value as a person would write it in the file."""
    key = where[-1]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and ("bytes" in key):
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            if value and value % SIZES[unit] == 0:
                return f"{value // SIZES[unit]}{unit}"
    if isinstance(value, float):
        return f"{value:g}" + ("%" if key.endswith("percent") else "s")
    if isinstance(value, tuple):
        return "[" + ", ".join(f"{part:g}" for part in value) + "]"
    return str(value)


def as_toml(where: Where, value: object) -> str:
    """A value as the file has it, with the largest unit that leaves a whole number."""
    key = where[-1]
    if isinstance(value, float):
        if key.endswith("percent"):
            return f"{value:g}"
        units = ((unit, TIMES[unit]) for unit in ("d", "h", "m", "s", "ms"))
        unit, size = next((u for u in units if value and value % u[1] == 0), ("s", 1.0))
        return f'"{value / size:g}{unit}"'
    shown = show_value(where, value)
    if isinstance(value, bool | tuple) or shown.isdecimal():
        return shown
    return json.dumps(shown, ensure_ascii=False)


def kind_of(field: "attrs.Attribute[Any]") -> str:
    """What a person may write for a field, in a word."""
    kind = _kind(field)
    words = {Size: "size", Seconds: "time", Count: "number", Percent: "percentage",
             Times: "list of times", bool: "true | false"}  # fmt: skip
    return words.get(kind, "text")


def split_key(key: str) -> Where:
    """`queues."jobs.*".ttl` -> ("queues", "jobs.*", "ttl"); dots of a pattern need no quotes."""
    parts = key.replace('"', "").split(".")
    if parts[0] in TABLES and len(parts) > 3:
        return (parts[0], ".".join(parts[1:-1]), parts[-1])
    return tuple(parts)


def show_key(where: Where) -> str:
    """A key as the file would name it."""
    return ".".join(
        part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"' for part in where
    )
