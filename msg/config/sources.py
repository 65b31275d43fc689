"""Where settings come from: flags, environment, file; each value with its origin.

An unknown key is an error with file, line and the nearest name, never a silent nothing: a
setting that is not applied is found out in production. All problems are told at once.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from msg.config.settings import TABLES, ConfigError, Limits, Settings, Where
from msg.config.toml_lines import key_lines
from msg.config.values import CHOICES, show_key, split_key, structure
from msg.core.names import validate_address, validate_pattern
from msg.core.settings import QueueSettings, TopicSettings
from msg.errors import ClientError

# not from a file or the environment: they name the file, or are ours
_NOT_KEYS = {"origins", "limits", "queues", "topics", "config"}
# names in the environment that begin with MSG_ and are not settings
_FOREIGN = re.compile(r"MSG_(URL|CONFIG|SERVICE_.*|PORT_\d+_.*)")


@attrs.define
class _Found:
    """What the sources say so far: later, stronger ones replace earlier ones."""

    values: dict[Where, object] = attrs.field(factory=dict)
    origins: dict[Where, str] = attrs.field(factory=dict)
    problems: list[str] = attrs.field(factory=list)

    def put(self, where: Where, value: object, origin: str) -> None:
        """Check one value of one source; a wrong one is a problem, wherever it would rank."""
        cls = _class_of(where)
        key = where[-1]
        shown = show_key(where)
        known = list(attrs.fields_dict(cls)) if cls else []
        if cls is Settings:
            known = [name for name in known if name not in _NOT_KEYS]
        if cls is None or key not in known:
            hint = _nearest(where)
            if hint == f"; did you mean {where[0]}?":  # known, and a value stands there
                table = where[0] if where[0] == "limits" else f"{where[0]}.NAME"
                self.problems.append(f"{origin}: {shown}: expected a table, [{table}]")
            else:
                self.problems.append(f"{origin}: unknown key {shown}{hint}")
            return
        try:
            self.values[where] = structure(cls, key, value)
        except (ValueError, TypeError) as error:
            self.problems.append(f"{origin}: {shown}: {error}")
            return
        self.origins[where] = origin

    def settings(self, config: str) -> Settings:
        top: dict[str, Any] = {}
        limits: dict[str, Any] = {}
        tables: dict[str, Any] = {name: {} for name in TABLES}
        for where, value in self.values.items():
            if where[0] == "limits":
                limits[where[1]] = value
            elif where[0] in TABLES:
                tables[where[0]].setdefault(where[1], {})[where[2]] = value
            else:
                top[where[0]] = value
        settings = Settings(
            **top, **tables, limits=Limits(**limits), config=config, origins=self.origins
        )
        self.problems.extend(_impossible_names(settings))
        self.problems.extend(_contradictions(settings))
        if self.problems:
            raise ConfigError(self.problems)
        return settings


def load(
    flags: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
) -> Settings:
    """Settings from all sources. `flags` holds only those that were given.

    `sets` are `KEY=VALUE` texts (flag `--set`). The file is `flags["config"]`, else
    `MSG_CONFIG`, else none. Raises `ConfigError` with all that is wrong, not only the first.
    """
    flags, env = dict(flags or {}), env or {}
    found = _Found()
    state_directory = env.get("STATE_DIRECTORY", "").partition(":")[0]
    if state_directory:
        found.put(("data_dir",), state_directory, "STATE_DIRECTORY")
    config = str(flags.pop("config", None) or env.get("MSG_CONFIG", ""))
    if config:
        _read_file(found, config)
    _read_environment(found, env)
    for text in sets:
        key, equals, value = text.partition("=")
        if equals:
            found.put(split_key(key.strip()), value.strip(), f"--set {key.strip()}")
        else:
            found.problems.append(f"--set {text}: expected KEY=VALUE")
    for name, given in flags.items():
        found.put((name,), given, "--" + name.replace("_", "-"))
    return found.settings(config)


def from_table(
    table: Mapping[str, object], origin: Callable[[Where], str]
) -> tuple[Settings, list[str]]:
    """Settings from one table, such as a part of another file, and all that is wrong in it.

    `origin` says where a key stands.
    """
    found = _Found()
    for where, value in _leaves(table):
        found.put(where, value, origin(where))
    try:
        return found.settings(""), []
    except ConfigError as error:
        return Settings(), error.problems


def _read_environment(found: _Found, env: Mapping[str, str]) -> None:
    if "msg_DATA_DIR" in env:  # the original project's name for it
        found.put(("data_dir",), env["msg_DATA_DIR"], "msg_DATA_DIR")
    names: dict[str, Where] = {}
    for field in attrs.fields(Settings):
        if field.name not in _NOT_KEYS:
            names["MSG_" + field.name.upper()] = (field.name,)
    for field in attrs.fields(Limits):
        names["MSG_LIMITS_" + field.name.upper()] = ("limits", field.name)
    for name in sorted(env):
        if not name.startswith("MSG_") or _FOREIGN.fullmatch(name):
            continue
        if name == "MSG_PORT" and "://" in env[name]:
            continue  # Kubernetes sets it so beside a service that is called msg
        if name in names:
            found.put(names[name], env[name], name)
        else:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            found.problems.append(f"environment: unknown variable {name}{hint}")


def _read_file(found: _Found, config: str) -> None:
    try:
        text = Path(config).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        found.problems.append(f"{config}: cannot be read: {error}")
        return
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        place = line.group(1) if line else str(text.count("\n") + 1)
        found.problems.append(f"{config}:{place}: not valid TOML: {error}")
        return
    lines = key_lines(text)
    for where, value in _leaves(document):
        found.put(where, value, f"{config}:{lines.get(where, 1)}")


def _leaves(table: Mapping[str, object], path: Where = ()) -> Iterator[tuple[Where, object]]:
    """Every value by its key. A table stands for itself where a value should be, or if empty."""
    for key, value in table.items():
        where = (*path, key)
        if isinstance(value, dict) and _is_table(where):
            yield from _leaves(value, where)
        else:
            yield where, value


def _is_table(where: Where) -> bool:
    return where == ("limits",) or (where[0] in TABLES and len(where) <= 2)


def _class_of(where: Where) -> type[attrs.AttrsInstance] | None:
    if len(where) == 1:
        return Settings
    if len(where) == 2 and where[0] == "limits":
        return Limits
    if len(where) == 3:
        return TABLES.get(where[0])
    return None


def _nearest(where: Where) -> str:
    """What was meant: the same word in this or another table comes first, then a like one."""
    candidates: dict[str, str] = {}
    for cls, prefix in (
        (Settings, ""),
        (Limits, "limits."),
        (QueueSettings, 'queues."NAME".'),
        (TopicSettings, 'topics."NAME".'),
    ):
        for name in attrs.fields_dict(cls):
            if cls is not Settings or name not in _NOT_KEYS - {"limits", "queues", "topics"}:
                candidates.setdefault(prefix + name, name)
    own = _class_of(where)
    if own is not None and own is not Settings:
        near = difflib.get_close_matches(where[-1], attrs.fields_dict(own), n=1)
        if near:
            return f"; did you mean {near[0]}?"
    same = [full for full, name in candidates.items() if name == where[-1]]
    near = difflib.get_close_matches(where[0] if own is None else where[-1],
                                     candidates.values(), n=1)  # fmt: skip
    if not same and near:
        same = [full for full, name in candidates.items() if name == near[0]]
    return f"; did you mean {same[0]}?" if same else ""


def _impossible_names(settings: Settings) -> Iterator[str]:
    """Tables that nothing can ever be called by: their settings would hold nowhere."""
    for table in TABLES:
        for name, overrides in getattr(settings, table).items():
            try:
                if table == "queues" and "@" in name:
                    validate_address(name, "group's pattern")
                else:
                    validate_pattern(name, "name or pattern")
            except ClientError as error:
                origin = settings.origin(table, name, next(iter(overrides)))
                hint = ""
                if table == "topics" and "@" in name:
                    hint = " Groups have their settings in the table queues."
                yield f"{origin}: {table}.{name!r}: no {table[:-1]} can be called so. {error}{hint}"


def _contradictions(settings: Settings) -> Iterator[str]:
    order = CHOICES["durability"]
    for table, resolve in (("queues", settings.queue), ("topics", settings.topic)):
        for pattern in getattr(settings, table):
            resolved: QueueSettings | TopicSettings = resolve(pattern)
            if order.index(resolved.durability) < order.index(resolved.durability_min):
                where = (table, pattern, "durability_min")
                origin = settings.origins.get(where) or settings.origin(
                    table, pattern, "durability"
                )
                yield (
                    f"{origin}: {table}.{pattern!r}: durability {resolved.durability!r} is less "
                    f"than durability_min {resolved.durability_min!r}"
                )
