"""Message: one delivery, and what can be done with it.

It is decoded straight from the wire. A message that was leased (from a queue or a group)
carries the connection it came over: only there can it be settled. Nothing here waits: acks
are gathered and written by the connection's writer, so they cannot be cut in two by a
cancellation.
"""

import traceback
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

import msgspec

from msg.client.bodies import decode_binary
from msg.client.errors import AlreadySettled, NotHeld, Reject, Retry, refusal

if TYPE_CHECKING:
    from msg.client.link import Origin

T = TypeVar("T")
_UNREAD: Any = msgspec.UNSET
State = Literal["open", "acked", "nacked"]


class Message(msgspec.Struct, Generic[T], tag_field="type", tag="message", eq=False):
    """A delivery. `async with message:` acks it at the end, or nacks it with the error.

    attempt    1 for the first delivery
    returned   why it came back the last time
    seq        its place, on topics that keep their messages; `replayed` if it was kept
    dropped    how many this subscription missed just before, being too slow
    case       of a dead letter: where, when and why it died
    """

    topic: str
    raw: msgspec.Raw = msgspec.field(name="message")
    message_id: str
    published_at: str = ""  # RFC 3339, UTC
    tag: int | None = None
    attempt: int = 1
    mode: str = "pubsub"
    ack_timeout: float = 0.0
    sub: str | None = None
    group: str | None = None
    headers: dict[str, str] = {}
    reply_to: str | None = None
    correlation_id: str | None = None
    returned: str | None = None
    seq: int | None = None
    replayed: bool = False
    dropped: int = 0
    encoding: str | None = None
    case: dict[str, Any] | None = None
    # ours, under names that no broker's frame has; `_origin` is an Origin, or None
    _origin: Any = msgspec.field(default=None, name=" origin")
    _body: Any = msgspec.field(default=_UNREAD, name=" body")
    _state: State = msgspec.field(default="open", name=" state")

    @property
    def body(self) -> T:
        """The body, as the type that was asked for. Raises `BodyMismatch`."""
        if self._body is _UNREAD:
            if self.encoding == "base64":
                self._body = decode_binary(msgspec.json.decode(self.raw))
            else:
                assert self._origin is not None
                try:
                    self._body = self._origin.decode(self.raw)
                except Exception as error:
                    error.add_note(f"in message {self.message_id} from {self.topic!r}")
                    raise
        return self._body  # type: ignore[no-any-return]

    @property
    def published(self) -> datetime:
        """When the broker accepted it."""
        return datetime.fromisoformat(self.published_at)

    @property
    def leased(self) -> bool:
        """Whether it has to be settled: it is from a queue or a group, without auto ack."""
        return self.tag is not None

    @property
    def held(self) -> bool:
        """Whether it can still be settled here: leased, not settled, its connection is up."""
        return (
            self.tag is not None
            and self._state == "open"
            and self._origin is not None
            and not self._origin.link.lost
        )

    def __repr__(self) -> str:
        body = bytes(self.raw)
        shown = body[:60].decode("utf-8", "replace") + ("…" if len(body) > 60 else "")
        return f"<Message {self.message_id} from {self.topic!r}, attempt {self.attempt}: {shown}>"

    # -- settling ---------------------------------------------------------------------------

    def _lease(self) -> "tuple[Origin, int]":
        """Raises unless the message can be settled, once."""
        if self.tag is None or self._origin is None:
            raise AlreadySettled("this message is not leased: there is nothing to settle")
        if self._state != "open":
            raise AlreadySettled(f"message {self.message_id} was {self._state} before")
        if self._origin.link.lost:
            raise NotHeld({
                "code": "not_held",
                "error": f"the connection that held message {self.message_id} has ended"
                f" ({self._origin.link.lost}); it is delivered again",
            })  # fmt: skip
        return self._origin, self.tag

    async def ack(self, *, confirm: bool = False) -> None:
        """It is done. `confirm` waits until the broker has made that durable.

        Without it a crash of the broker may bring the message back. Raises `NotHeld` when
        the lease is gone, `AlreadySettled` at the second time.
        """
        origin, tag = self._lease()
        self._state = "acked"
        if confirm:
            await origin.settle("ack", tag)
        else:
            origin.link.ack(tag)

    async def nack(
        self,
        reason: str | None = None,
        *,
        delay: float | None = None,
        requeue: bool = True,
        count_attempt: bool = True,
        confirm: bool = False,
    ) -> None:
        """It is not done, and comes again: after `delay` seconds, else after the back-off.

        `requeue=False` sends it to the dead letters at once.
        """
        origin, tag = self._lease()
        self._state = "nacked"
        fields = _nacking(reason, delay=delay, requeue=requeue, count_attempt=count_attempt)
        if confirm:
            await origin.settle("nack", tag, **fields)
        else:
            origin.link.nack([tag], **fields)

    async def touch(self) -> None:
        """Begin its deadline anew. Inside `async with message` that is done by itself."""
        origin, tag = self._lease()
        origin.link.touch([tag])

    async def __aenter__(self) -> Self:
        if self.tag is not None and self._origin is not None:
            self._origin.link.handling[self.tag] = self
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        tag, origin = self.tag, self._origin
        if tag is None or origin is None:
            return
        link = origin.link
        link.handling.pop(tag, None)
        if self._state != "open":
            return
        if link.lost:
            link.gave_up(self, error)
        elif error is None:
            self._state = "acked"
            link.ack(tag)
        else:
            self._state = "nacked"
            link.nack([tag], **_verdict(error))

    # -- answering --------------------------------------------------------------------------

    async def reply(self, body: Any, **options: Any) -> None:
        """Answer a request; `options` as for `publish`. Raises ValueError if it is none."""
        if self.reply_to is None or self._origin is None:
            raise ValueError(f"message {self.message_id} asks for no reply")
        options.setdefault("correlation_id", self.correlation_id or self.message_id)
        await self._origin.link.client.publish(self.reply_to, body, **options)


def _nacking(
    reason: str | None, *, delay: float | None, requeue: bool, count_attempt: bool
) -> dict[str, Any]:
    """Only what differs from the wire's defaults."""
    return {
        "reason": reason or None,
        "delay": delay,
        "requeue": None if requeue else False,
        "count_attempt": None if count_attempt else False,
    }


def _verdict(error: BaseException) -> dict[str, Any]:
    """How a message is nacked whose handler ended with this."""
    match error:
        case Retry():
            return _nacking(str(error), delay=error.delay, requeue=True, count_attempt=error.count)
        case Reject():
            return _nacking(str(error), delay=None, requeue=False, count_attempt=True)
        case Exception():
            return _nacking(told(error), delay=None, requeue=True, count_attempt=True)
        case _:  # cancelled, or the program ends: not the message's fault
            return _nacking("the handler was stopped", delay=0, requeue=True, count_attempt=False)


def told(error: BaseException) -> str:
    """An exception in one line, as tracebacks end with it: `ValueError: no such file`."""
    lines = "".join(traceback.format_exception_only(error)).splitlines()
    return "; ".join(line.strip() for line in lines if line.strip())


def not_held(code: str, message_id: str) -> Exception:
    """The refusal of one settlement, as an exception."""
    return refusal({
        "code": code,
        "error": f"message {message_id} could not be settled; it is delivered again",
    })  # fmt: skip
