"""Numbers as a person says them, for those who may not see the broker's rules."""

from msg.core.units import count, seconds, size

__all__ = ["count", "seconds", "size"]
