"""A scenario's tables as a TOML file, in the form in which people write them."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

WIDTH = 98
TABLES = ("network", "disk", "expect")  # written as tables of their own, as [broker] is


def to_toml(document: Mapping[str, Any], comment: str = "") -> str:
    """The file. `document` is what `tomllib.loads` would make of it."""
    out = [f"# {line}".rstrip() for line in comment.splitlines()]
    plain = {
        key: value for key, value in document.items()
        if key not in ("client", "fault", "broker", *TABLES)
    }  # fmt: skip
    out += _pairs(plain)
    if "broker" in document:
        out += _table("broker", document["broker"])
    for key in ("network", "disk"):
        if key in document:
            out += ["", f"[{key}]", *_pairs(document[key])]
    for key in ("client", "fault"):
        rows = document.get(key, [])
        for row in rows if isinstance(rows, list) else [rows]:
            out += ["", f"[[{key}]]", *_pairs(row)]
    if "expect" in document:
        out += ["", "[expect]", *_pairs(document["expect"])]
    return "\n".join(out).strip("\n") + "\n"


def _table(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    if plain or not table:
        yield from ("", f"[{name}]", *_pairs(plain))
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _table(f"{name}.{_key(key)}", value)


def _pairs(table: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(value, len(key) + 3)}" for key, value in table.items()]


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _value(value: Any, taken: int = 0) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _string(value, taken)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    line = "[" + ", ".join(map(_value, value)) + "]"
    if len(line) + taken <= WIDTH or not any(isinstance(each, dict) for each in value):
        return line
    return "[\n" + "".join(f"    {_value(each)},\n" for each in value) + "]"


def _string(text: str, taken: int) -> str:
    long = taken and "\n" in text and '"""' not in text
    if long and text.replace("\n", "").isprintable() and "\\" not in text:
        return f'"""\n{text.lstrip(chr(10))}"""'
    # JSON's escapes are TOML's, but for DEL and the surrogates, which TOML text cannot hold
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
