"""SIGHUP: what of a new configuration applies at once, and what waits for a restart."""

from typing import Any, Generic, TypeVar

import attrs

from msg.config.settings import Settings, Where
from msg.config.values import show_key, show_value

T = TypeVar("T")

RESTART = frozenset(
    {"host", "port", "port_file", "data_dir", "log_format", "http", "otel", "reports", "insecure"}
    | {"limits.disk_threads", "limits.segment_bytes"}
)


@attrs.frozen
class Change(Generic[T]):
    """One key that differs."""

    where: Where
    old: T
    new: T

    def __str__(self) -> str:
        old, new = (show_value(self.where, value) for value in (self.old, self.new))
        return f"{show_key(self.where)}: {old} -> {new}"


@attrs.frozen
class Reload:
    """What a new configuration means for a broker that runs.

    `settings` is what applies now: the new values, and the old ones where only a restart
    can change them (`restart`).
    """

    settings: Settings
    applied: tuple[Change[object], ...]
    restart: tuple[Change[object], ...]


def reload(old: Settings, new: Settings) -> Reload:
    """Compare two settings and tell what can change at run time from what cannot."""
    before, after = dict(old.values()), dict(new.values())
    keys = list(before) + [where for where in after if where not in before]
    changes = [
        Change(where, before.get(where, "default"), after.get(where, "default"))
        for where in keys
        if before.get(where, "default") != after.get(where, "default") and where != ("config",)
    ]
    restart = tuple(change for change in changes if ".".join(change.where) in RESTART)
    kept: dict[str, Any] = {
        change.where[0]: change.old for change in restart if len(change.where) == 1
    }
    kept_limits: dict[str, Any] = {
        change.where[1]: change.old for change in restart if len(change.where) == 2
    }
    settings = attrs.evolve(new, **kept, limits=attrs.evolve(new.limits, **kept_limits))
    applied = tuple(change for change in changes if change not in restart)
    return Reload(settings, applied, restart)
