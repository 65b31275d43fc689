"""From a scenario file to a `Scenario`, or to everything that is wrong with it.

cattrs makes the values; the walk over the tables is ours, so that each error names the line,
the key, and the nearest key that there is.
"""

import difflib
import re
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import cattrs

from msg.config import Settings, from_table, parse_seconds, parse_size
from msg.errors import BrokerError
from msg.scenario import model
from msg.scenario.model import (
    IMPOSSIBLE_ON_PROCESS,
    KINDS,
    Fault,
    Scenario,
    Several,
    Span,
)

Path_ = tuple[str | int, ...]  # ("client", 0, "publish", "count")

CHOICES: dict[tuple[type, str], tuple[str, ...]] = {
    (model.Publish, "durability"): ("memory", "os", "stored"),
    (model.Consume, "ack_by"): ("tag", "id"),
    (model.Consume, "on_poison"): ("crash", "nack", "reject", "hang"),
    (model.PowerCut, "survival"): ("mixed", "all", "none", "torn", "zeroed", "garbage"),
}
BAD_FRAMES = ("http", "tls", "garbage", "deep", "huge", "half", "lf", "surrogate")


class ScenarioError(BrokerError):
    """A file that is no scenario. `problems` holds one sentence each, with file and line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read_scenario(path: str | Path) -> Scenario:
    """Read one file. Raises ScenarioError with all that is wrong, not only the first."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError([f"{path}: cannot be read: {error}"]) from None
    return parse_scenario(text, str(path))


def parse_scenario(text: str, path: str = "scenario.toml") -> Scenario:
    """The scenario that this text is. Raises ScenarioError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line (\d+)", str(error))
        line = at.group(1) if at else text.count("\n") + 1
        raise ScenarioError([f"{path}:{line}: not valid TOML: {error}"]) from None
    return parse_document(document, path, _lines(text))


def parse_document(
    document: dict[str, Any], path: str, lines: Mapping[Path_, int] | None = None
) -> Scenario:
    """The scenario that these tables are. Raises ScenarioError."""
    reader = _Reader(path, lines or {})
    made = reader.table(Scenario, document, ())
    if made is not None:
        reader.look_through(made)
    if reader.problems or made is None:
        raise ScenarioError(sorted(reader.problems, key=_by_line))
    scenario: Scenario = attrs.evolve(made, path=path)
    return scenario


def _by_line(problem: str) -> int:
    found = re.search(r":(\d+): ", problem)
    return int(found.group(1)) if found else 0


# -- the walk -------------------------------------------------------------------------------


class _Reader:
    """Tables to classes. Collects problems; what is wrong is left at its default."""

    def __init__(self, path: str, lines: Mapping[Path_, int]) -> None:
        self.path = path
        self.lines = lines
        self.problems: list[str] = []
        self.places: dict[int, Path_] = {}  # id of a made object -> where it stands

    def wrong(self, where: Path_, text: str) -> None:
        place = where
        while place and place not in self.lines:
            place = place[:-1]
        line = self.lines.get(place, 1)
        self.problems.append(f"{self.path}:{line}: {_shown(where)}{text}")

    def table(self, cls: type[Any], table: object, where: Path_) -> Any:
        """An object of `cls`; None where a required key is not there."""
        if not isinstance(table, dict):
            self.wrong(where, f" must be a table, not {table!r}")
            return None
        if cls is Fault:
            return self._fault(table, where)
        fields = {_key(field.name): field for field in attrs.fields(cls) if field.name != "path"}
        values: dict[str, Any] = {}
        for key, value in table.items():
            field = fields.get(key)
            if field is None:
                self.wrong((*where, key), f": there is no such key{_nearest(key, fields)}")
                continue
            made = self.value(cls, field, value, (*where, key))
            if made is not _WRONG:
                values[field.name] = made
        missing = [
            key for key, field in fields.items()
            if field.default is attrs.NOTHING and key not in table
        ]  # fmt: skip
        for key in missing:
            self.wrong(where, f"{': ' if where else ''}{key!r} is missing")
        if missing or any(
            field.default is attrs.NOTHING and field.name not in values for field in fields.values()
        ):
            return None
        made = cls(**values)
        self.places[id(made)] = where
        return made

    def value(self, cls: type[Any], field: Any, value: object, where: Path_) -> Any:
        kind = _types(cls)[field.name]
        if cls is Scenario and field.name == "broker":
            return self._settings(value, where)
        inner = _element(kind)
        if inner is not None and attrs.has(inner):
            rows = value if isinstance(value, list) else [value]
            made = []
            for i, row in enumerate(rows):
                place = (*where, i) if isinstance(value, list) else where
                made.append(self.table(inner, row, place))
            return tuple(one for one in made if one is not None)
        if isinstance(kind, type) and attrs.has(kind) and kind not in (Span, Several):
            made_table = self.table(kind, value, where)
            return _WRONG if made_table is None else made_table
        try:
            result = _CONVERTER.structure(value, kind)
        except (ValueError, TypeError) as error:
            self.wrong(where, f": {error}")
            return _WRONG
        choices = CHOICES.get((cls, field.name))
        if choices and result not in choices:
            near = difflib.get_close_matches(str(result), choices, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            self.wrong(where, f": expected one of {', '.join(choices)}, not {value!r}{hint}")
            return _WRONG
        return result

    def _fault(self, table: dict[str, Any], where: Path_) -> Fault | None:
        own = {"at", "times", "every"}
        kinds = [key for key in table if key not in own]
        for key in [key for key in kinds if key not in KINDS]:
            self.wrong(
                (*where, key), f": there is no such fault{_nearest(key, {**KINDS, 'at': 0})}"
            )
        known = [key for key in kinds if key in KINDS]
        if len(known) != 1:
            if len(known) > 1:
                self.wrong(where, f": one fault each, not {' and '.join(known)}")
            elif not kinds:
                self.wrong(where, f": which fault? There are {', '.join(KINDS)}")
            return None
        what = self.table(KINDS[known[0]], table[known[0]], (*where, known[0]))
        values: dict[str, Any] = {}
        for field in attrs.fields(Fault):
            if field.name in table:
                made = self.value(Fault, field, table[field.name], (*where, field.name))
                if made is not _WRONG:
                    values[field.name] = made
        if "at" not in table:
            self.wrong(where, ": 'at' is missing")
        if what is None or "at" not in values:
            return None
        fault = Fault(what=what, **values)
        self.places[id(fault)] = where
        return fault

    def _settings(self, value: object, where: Path_) -> Settings | object:
        if not isinstance(value, dict):
            self.wrong(where, f" must be a table, not {value!r}")
            return _WRONG

        def origin(key: tuple[str, ...]) -> str:
            place: Path_ = (*where, *key)
            while place and place not in self.lines:
                place = place[:-1]
            return f"{self.path}:{self.lines.get(place, 1)}"

        settings, problems = from_table(value, origin)
        self.problems += problems
        return settings

    # -- what only the whole can tell ---------------------------------------------------------

    def look_through(self, scenario: Scenario) -> None:
        """Names that nobody has, roles without a place, faults that an engine cannot have."""
        names = [client.name for client in scenario.client]
        for i, client in enumerate(scenario.client):
            place: Path_ = ("client", i)
            if client.name in names[:i]:
                self.wrong((*place, "name"), f": there is a client {client.name!r} already")
            for role in ("publish", "consume", "request", "respond"):
                for j, one in enumerate(getattr(client, role)):
                    spot = self.places.get(id(one), (*place, role, j))
                    if bool(one.queue) == bool(one.topic):
                        self.wrong(spot, ": either 'queue' or 'topic' says where")
                    if role == "consume" and one.topic and not one.group:
                        self.wrong(
                            spot,
                            ": a topic is consumed by a 'group'; to listen only, use 'subscribe'",
                        )
        for i, fault in enumerate(scenario.fault):
            self._look_at(fault, ("fault", i), names, scenario)
        for engine in scenario.not_on:
            if engine not in model.ENGINES:
                near = _nearest(engine, dict.fromkeys(model.ENGINES))
                self.wrong(("not_on", engine), f": there is no such engine{near}")

    def _look_at(self, fault: Fault, place: Path_, names: list[str], scenario: Scenario) -> None:
        what, kind = fault.what, fault.kind
        client = getattr(what, "client", None)
        if client is not None:
            base = re.sub(r"-(\d+|\*)$", "", client)
            if base not in names and not any(_like(client, name) for name in names):
                self.wrong(
                    (*place, kind, "client"),
                    f": no client is called {client!r}{_nearest(client, dict.fromkeys(names))}",
                )
        why = IMPOSSIBLE_ON_PROCESS.get(kind)
        if why is not None and "process" not in scenario.not_on:
            self.wrong(
                (*place, kind),
                f" cannot be had on the process engine ({why}): say so at the top of the file,"
                ' as not_on = { process = "…" }',
            )
        if isinstance(what, model.CrashActor):
            first, _, rest = what.actor.partition(" ")
            kinds = {"queue": 1, "topic": 1, "connection": 1, "directory": 0, "store": 0}
            if first not in kinds or bool(rest) != bool(kinds[first]):
                self.wrong(
                    (*place, kind, "actor"),
                    f": {what.actor!r} is no actor; write 'queue NAME', 'topic NAME',"
                    " 'connection CLIENT', 'directory' or 'store'",
                )
        if isinstance(what, model.BadFrames):
            for name in what.kinds:
                if name not in BAD_FRAMES:
                    near = _nearest(name, dict.fromkeys(BAD_FRAMES))
                    self.wrong((*place, kind, "kinds"), f": there is no kind {name!r}{near}")
        if isinstance(what, model.Flood) and bool(what.queue) == bool(what.topic):
            self.wrong((*place, kind), ": either 'queue' or 'topic' says where")


def _like(pattern: str, name: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name) is not None


def _key(name: str) -> str:
    return name.removesuffix("_")


def _shown(where: Path_) -> str:
    text = ""
    for part in where:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f"{'.' if text else ''}{part}"
    return text


def _nearest(key: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(key, list(known), 1, 0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are {', '.join(known)}" if known else ""


# -- values ---------------------------------------------------------------------------------

_WRONG = object()


def _types(cls: type[Any]) -> dict[str, Any]:
    if cls not in _TYPES:
        _TYPES[cls] = typing.get_type_hints(cls)
    return _TYPES[cls]


_TYPES: dict[type[Any], dict[str, Any]] = {}


def _element(kind: Any) -> type[Any] | None:
    """X of `tuple[X, ...]`."""
    args = typing.get_args(kind)
    if typing.get_origin(kind) is tuple and len(args) == 2 and isinstance(args[0], type):
        element: type[Any] = args[0]
        return element
    return None


def _span(value: object) -> Span:
    if isinstance(value, list):
        if len(value) != 2:
            raise ValueError(
                f"expected a time such as '5ms', or two such as ['1ms', '9ms'], not {value!r}"
            )
        low, high = parse_seconds(value[0]), parse_seconds(value[1])
        if low > high:
            raise ValueError(f"expected the shorter time first, not {value!r}")
        return Span(low, high)
    time = parse_seconds(value)
    return Span(time, time)


def _maybe_span(value: object) -> Span | None:
    return None if value is False else _span(value)


def _several(value: object) -> Several:
    if isinstance(value, list) and len(value) == 2:
        low, high = _count(value[0]), _count(value[1])
        if low > high:
            raise ValueError(f"expected the smaller number first, not {value!r}")
        return Several(low, high)
    number = _count(value)
    return Several(number, number)


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"expected a whole number, 0 or more, not {value!r}")


def _whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"expected a whole number, not {value!r}")


def _odds(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise ValueError(f"expected odds from 0.0 to 1.0, not {value!r}")


def _jump(value: object) -> float:
    if isinstance(value, str) and value.startswith("-"):
        return -parse_seconds(value[1:])
    if isinstance(value, int | float) and value < 0:
        return float(value)
    return parse_seconds(value)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"expected a text in quotes, not {value!r}")


def _bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"expected true or false, not {value!r}")


def _frame(value: object) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise ValueError(f"expected a table: the frame's fields, not {value!r}")


def _reasons(value: object) -> dict[str, str]:
    if isinstance(value, dict) and all(isinstance(v, str) and v for v in value.values()):
        return value
    raise ValueError(f"expected an engine and why it cannot be, not {value!r}")


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter()
    plain: dict[Any, Callable[[object], Any]] = {
        Span: _span,
        Span | None: _maybe_span,
        Several: _several,
        model.Count: _count,
        model.Odds: _odds,
        model.Jump: _jump,
        model.Time: parse_seconds,
        model.Size: parse_size,
        model.Frame: _frame,
        dict[str, str]: _reasons,
        str: _text,
        bool: _bool,
        int: _whole,
    }

    def structure(value: object, kind: Any) -> Any:
        if kind in plain:
            return plain[kind](value)
        args = typing.get_args(kind)
        if typing.get_origin(kind) is tuple:
            values = value if isinstance(value, list) else [value]
            return tuple(structure(each, args[0]) for each in values)
        return structure(value, args[0])  # X | None: TOML has no null

    converter.register_structure_hook_func(lambda _: True, structure)
    for kind in (str, bool, int):  # cattrs has hooks for these, which take '3' for 3
        converter.register_structure_hook(kind, structure)
    return converter


_CONVERTER = _converter()


# -- lines ----------------------------------------------------------------------------------


def _lines(text: str) -> dict[Path_, int]:
    """The line on which each key of a valid TOML text begins, arrays of tables by index.

    A statement is the shortest run of lines that parses alone, so that tomllib itself finds
    where strings, arrays and inline tables end.
    """
    lines: dict[Path_, int] = {}
    counts: dict[Path_, int] = {}
    prefix: Path_ = ()
    pending, begins = "", 1
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not pending:
            begins = number
        pending += line
        try:
            statement = tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue
        head = pending.lstrip()
        pending = ""
        if head.startswith("["):
            prefix = _header(statement, head.startswith("[["), counts)
            for end in range(1, len(prefix) + 1):
                lines.setdefault(prefix[:end], begins)
        else:
            for path in _paths(statement, ()):
                lines.setdefault((*prefix, *path), begins)
    return lines


def _header(statement: dict[str, Any], is_array: bool, counts: dict[Path_, int]) -> Path_:
    """`[[client]]` the third time -> ("client", 2); `[client.publish]` below it likewise."""
    keys: list[str] = []
    node: Any = statement
    while node:
        node = node[0] if isinstance(node, list) else node
        if not node:
            break
        key = next(iter(node))
        keys.append(key)
        node = node[key]
    path: Path_ = ()
    for i, key in enumerate(keys):
        path = (*path, key)
        if is_array and i == len(keys) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _paths(value: object, path: Path_) -> Iterator[Path_]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from _paths(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            if isinstance(inner, dict):
                yield from _paths(inner, (*path, i))
