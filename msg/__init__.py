"""A message broker on Trio: topics and durable queues over plain JSON lines."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msg import sync as sync
    from msg.client import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """`msg.connect` and the client's other names, imported when first used.

    Most of what imports this package is the command line, which is to start at once.
    """
    if name.startswith("_"):
        raise AttributeError(name)
    if name == "sync":
        import msg.sync

        return msg.sync
    import msg.client

    try:
        return getattr(msg.client, name)
    except AttributeError:
        raise AttributeError(f"module 'msg' has no attribute {name!r}") from None
