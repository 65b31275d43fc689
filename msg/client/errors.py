"""What can go wrong for a client: few classes, and the wire's codes on those that have one.

`Refused` and its children are the broker's own answer (`code`, `retry`, `limit`); the others
are found out on this side. All of them are `msg.errors.BrokerError`s.
"""

from typing import Any

from msg.errors import RETRY, BrokerError

Frame = dict[str, Any]


class Refused(BrokerError):
    """The broker's `error`: `str()` is its sentence, `code` the wire's code.

    `retry` says whether sending the same again can help: "never", "same_id" or "later".
    The codes that programs react to have classes of their own, such as `QueueFull`.
    """

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.code = str(frame.get("code", "internal"))
        self.retry = str(frame.get("retry", RETRY.get(self.code, "never")))
        self.limit: int | None = frame.get("limit")
        self.message_id: str | None = frame.get("message_id")
        super().__init__(f"{frame.get('error', 'refused')} ({self.code})")


class QueueFull(Refused):
    """The queue has reached one of its limits; later there may be room."""


class NotFound(Refused):
    """There is nothing of that name or id."""


class NotHeld(Refused):
    """The message is not leased to this client, or no longer: it will be delivered again."""


class IdConflict(Refused):
    """This message id was used before, with another body."""


class Unauthorized(Refused):
    """The broker wants to know who this is, or does not believe it."""


class Forbidden(Refused):
    """Known, and not allowed."""


class Draining(Refused):
    """The broker is stopping and takes nothing new."""


_BY_CODE: dict[str, type[Refused]] = {
    "queue_full": QueueFull,
    "not_found": NotFound,
    "not_held": NotHeld,
    "id_conflict": IdConflict,
    "unauthorized": Unauthorized,
    "forbidden": Forbidden,
    "draining": Draining,
}


def refusal(frame: Frame) -> Refused:
    """The exception for an `error` frame."""
    return _BY_CODE.get(str(frame.get("code")), Refused)(frame)


class Disconnected(BrokerError):
    """No connection, or it ended before the answer came: the outcome is not known.

    A publish is not among the calls that raise this at a mere disconnect: it waits for the
    next connection and goes out again under its id.
    """


class Closed(BrokerError):
    """The client, or this subscription of it, was closed before."""


class Unsubscribed(BrokerError):
    """The broker has ended this subscription, for instance because the queue was deleted."""


class AlreadySettled(BrokerError):
    """This message was acked or nacked before, by this program."""


class NoResponders(BrokerError):
    """A request that nobody heard: no subscription matches its topic."""


class BodyMismatch(BrokerError):
    """A body that is not what was asked for by `type=`; the text says where and why."""


class PublishFailed(BrokerError):
    """Some messages of a `publish_many` were refused.

    `failures` maps their places in the input, from 0, to the refusals; `accepted` is how
    many of the others are kept. Nothing behind the first refusal was sent except for what
    was on its way already.
    """

    def __init__(self, failures: dict[int, Refused], accepted: int) -> None:
        self.failures = failures
        self.accepted = accepted
        place, first = next(iter(failures.items()))
        more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
        super().__init__(f"message {place} was refused: {first}{more}; {accepted} are kept")


class Retry(BrokerError):
    """Raise it in a handler: the message is to come again, after `delay` seconds if given.

    `count=False` for a reason that is not the message's fault, such as a lock that is taken.
    """

    def __init__(self, reason: str = "", *, delay: float | None = None, count: bool = True) -> None:
        super().__init__(reason or "to be tried again")
        self.delay = delay
        self.count = count


class Reject(BrokerError):
    """Raise it in a handler: the message is bad and goes to the dead letters at once."""
