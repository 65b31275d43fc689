"""Settings: what may be set, where each value comes from, what can change while serving.

Sources, strongest first: flags, environment (`MSG_…`), the TOML file, defaults.

    [limits]
    frame_bytes = "2MiB"

    [queues."jobs.*"]
    ack_timeout = "2m"
    overflow = "block"

Tables for queues and topics go by name pattern. All that match are laid over each other,
the most specific last: a word is more specific than `*`, and `*` than `>`, from the left.
"""

from msg.config.reload import Change, Reload, reload
from msg.config.settings import ConfigError, Limits, Settings
from msg.config.sources import from_table, load
from msg.config.values import parse_seconds, parse_size, show_key, show_value, structure

__all__ = [
    "Change",
    "ConfigError",
    "Limits",
    "Reload",
    "Settings",
    "from_table",
    "load",
    "parse_seconds",
    "parse_size",
    "reload",
    "show_key",
    "show_value",
    "structure",
]
