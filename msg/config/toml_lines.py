"""On which line a key of a TOML text begins, which tomllib does not tell."""

import tomllib
from collections.abc import Iterator

from msg.config.settings import Where


def key_lines(text: str) -> dict[Where, int]:
    """The line on which each key of a valid TOML text begins.

    A statement is the shortest run of lines that parses alone, so that tomllib itself
    finds where strings, arrays and inline tables end.
    """
    lines: dict[Where, int] = {}
    prefix: Where = ()
    pending, begins = "", 1
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not pending:
            begins = number
        pending += line
        try:
            statement = tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue
        is_header = pending.lstrip().startswith("[")
        pending = ""
        paths = list(_all_paths(statement))
        if is_header and paths:
            prefix = paths[-1]
            for end in range(1, len(prefix) + 1):
                lines.setdefault(prefix[:end], begins)
        else:
            for path in paths:
                lines.setdefault((*prefix, *path), begins)
    return lines


def _all_paths(value: object, path: Where = ()) -> Iterator[Where]:
    if isinstance(value, list) and len(value) == 1:  # [[array of tables]]
        value = value[0]
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from _all_paths(inner, (*path, key))
