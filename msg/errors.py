"""Errors: few classes, each a promise, each with its code on the wire.

`ClientError` is answered and the connection lives; `FatalClientError` is
answered and the connection is closed. Anything else is the broker's own bug
and is never caught near a client. The texts are one sentence that says what
to do.
"""

from typing import Literal, Self

Code = Literal[
    "bad_frame",
    "too_large",
    "unknown_action",
    "bad_field",
    "bad_name",
    "unauthorized",
    "forbidden",
    "queue_full",
    "too_many",
    "not_found",
    "not_held",
    "ambiguous",
    "id_conflict",
    "disk_full",
    "store_failed",
    "draining",
    "unsupported",
    "unavailable",
    "internal",
]
Retry = Literal["never", "same_id", "later"]

RETRY: dict[str, Retry] = {
    "queue_full": "later",
    "too_many": "later",
    "disk_full": "later",
    "draining": "later",
    "store_failed": "same_id",
    "unavailable": "same_id",
    "internal": "same_id",
}


class BrokerError(Exception):
    """The root of all errors that this package raises on purpose."""


class ClientError(BrokerError):
    """The client's mistake, or a limit: answered with one `error`; the connection lives.

    `code` is the wire's code, `str(error)` its sentence, `limit` the number that was
    exceeded where there is one.
    """

    closes = False

    def __init__(self, code: Code, text: str, *, limit: int | None = None) -> None:
        super().__init__(text)
        self.code: Code = code
        self.limit = limit

    @property
    def retry(self) -> Retry:
        """Whether sending the same again can help: never, with the same id, or later."""
        return RETRY.get(self.code, "never")

    def alone(self) -> Self:
        """Without the frames that it came through, and what it came of: to be kept in something
        that one of those frames holds. Else both wait for a full collection, with all that the
        frames hold: a read of 256 KiB, say."""
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self


class FatalClientError(ClientError):
    """As `ClientError`, but the connection cannot go on and is closed after the answer."""

    closes = True


class ActorStopped(BrokerError):
    """The actor behind this handle has ended; it will handle nothing more."""


class StoreFailed(BrokerError):
    """A sync failed, or the store lied: nothing after it may be acked (exit 74)."""


class StoreLocked(BrokerError):
    """Another process holds the data directory; the text names it."""


class StoreUnreadable(BrokerError):
    """The data directory is of a newer format, or not one of ours (exit 78 or 65)."""


class DiskFull(BrokerError):
    """A write found no room; it was undone, and nothing of it is kept."""
