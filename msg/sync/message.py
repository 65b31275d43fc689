"""Message: one delivery for a program that blocks. `with message:` settles it."""

from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

if TYPE_CHECKING:
    from datetime import datetime

    import msg.client
    from msg.sync.client import Client

T = TypeVar("T")


class Message(Generic[T]):
    """A delivery. `with message:` acks it at the end, or nacks it with the error.

    Its fields are those of `msg.Message`: topic, body, headers, attempt, …
    """

    __slots__ = ("_client", "_message")

    if TYPE_CHECKING:  # they are the other's
        topic: str
        message_id: str
        body: T
        headers: dict[str, str]
        mode: str
        attempt: int
        returned: str | None
        seq: int | None
        replayed: bool
        dropped: int
        group: str | None
        reply_to: str | None
        correlation_id: str | None
        ack_timeout: float
        case: dict[str, Any] | None
        published_at: str
        published: "datetime"
        leased: bool
        held: bool

    def __init__(self, client: "Client", message: "msg.client.Message[T]") -> None:
        self._client = client  # it lives as long as something can be settled through it
        self._message = message

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._message, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(n for n in dir(self._message) if n[0] != "_")})

    def __repr__(self) -> str:
        return repr(self._message)

    # -- settling ---------------------------------------------------------------------------

    def ack(self, *, confirm: bool = False) -> None:
        """It is done. `confirm` waits until the broker has made that durable."""
        self._client._loop.call(lambda: self._message.ack(confirm=confirm), sends=confirm)

    def nack(
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
        self._client._loop.call(
            lambda: self._message.nack(
                reason, delay=delay, requeue=requeue, count_attempt=count_attempt, confirm=confirm
            )
        )

    def touch(self) -> None:
        """Begin its deadline anew. Inside `with message` that is done by itself."""
        self._client._loop.call(self._message.touch)

    def __enter__(self) -> Self:
        if self._message.leased:
            self._client._loop.post(lambda: _hold(self._message))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        if not self._message.leased:
            return
        loop = self._client._loop
        if loop.gone:  # closed before the end of the block, which is too late: the log says so
            _step(self._message.__aexit__(kind, error, None))
        else:
            loop.post(lambda: _step(self._message.__aexit__(kind, error, None)))

    def reply(self, body: Any, **options: Any) -> None:
        """Answer a request; `options` as for `publish`. Raises ValueError if it is none."""
        self._client._loop.call(lambda: self._message.reply(body, **options))


def _hold(message: "msg.client.Message[Any]") -> None:
    if message.held:
        _step(message.__aenter__())


def _step(coroutine: Any) -> None:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("this was to be a coroutine that never waits")
