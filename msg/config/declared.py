"""Settings that clients declare for one queue or topic: between the defaults and the file."""

import difflib
from collections.abc import Mapping
from typing import Any

import attrs

from msg.config.settings import TABLES, Settings, _laid_over
from msg.config.values import structure
from msg.core.settings import QueueSettings, TopicSettings
from msg.errors import ClientError


def checked(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a client declared, as JSON types again; `bad_field` names what is wrong."""
    cls = TABLES[kind]
    names = [field.name for field in attrs.fields(cls)]
    for name, value in values.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"
            raise ClientError("bad_field", f"there is no setting {name!r} for {kind}{hint}")
        try:
            structure(cls, name, value)
        except ValueError as error:
            raise ClientError("bad_field", f"setting {name!r}: {error}") from None
    return dict(values)


def in_force(
    settings: Settings, kind: str, name: str, chosen: Mapping[str, Any]
) -> QueueSettings | TopicSettings:
    """Defaults < declared < the config file, which wins."""
    cls = TABLES[kind]
    values: dict[str, Any] = {key: structure(cls, key, value) for key, value in chosen.items()}
    if kind == "queues" and "@" in name:
        values.setdefault("overflow", "drop_oldest")  # a forgotten group refuses no publisher
    tables = settings.queues if kind == "queues" else settings.topics
    values.update(_laid_over(tables, name))
    return attrs.evolve(cls(), **values)
