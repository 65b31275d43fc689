"""The client: for programs on trio or asyncio. `msg.connect` is the way in."""

from msg.client.client import Client, Counts, connect
from msg.client.errors import (
    AlreadySettled,
    BodyMismatch,
    Closed,
    Disconnected,
    Draining,
    Forbidden,
    IdConflict,
    NoResponders,
    NotFound,
    NotHeld,
    PublishFailed,
    QueueFull,
    Refused,
    Reject,
    Retry,
    Unauthorized,
    Unsubscribed,
)
from msg.client.message import Message
from msg.client.publisher import Outgoing, Published, Receipt
from msg.client.subscription import Subscription

__all__ = [
    "AlreadySettled",
    "BodyMismatch",
    "Client",
    "Closed",
    "Counts",
    "Disconnected",
    "Draining",
    "Forbidden",
    "IdConflict",
    "Message",
    "NoResponders",
    "NotFound",
    "NotHeld",
    "Outgoing",
    "PublishFailed",
    "Published",
    "QueueFull",
    "Receipt",
    "Refused",
    "Reject",
    "Retry",
    "Subscription",
    "Unauthorized",
    "Unsubscribed",
    "connect",
]
