"""Subscription: `for message in client.consume("jobs")`, in a program that blocks.

Messages are fetched from the loop's thread in batches, because each visit there costs as much
as ten messages. While those of a queue wait here their leases are kept, as those that wait in
the client are; at the end of the iteration they go back uncounted.
"""

from collections import deque
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import anyio

import msg.client
from msg.client import Closed
from msg.client.subscription import give_back_held
from msg.sync.message import Message

if TYPE_CHECKING:
    from msg.sync.client import Client

T = TypeVar("T")
Inner = msg.client.Message[Any]
BATCH = 64


class Subscription(Generic[T]):
    """Iterate it: `for message in subscription`. It blocks until there is a message.

    It subscribes at `with`, or at the first iteration, and ends with its `with`, with
    `close()`, or when nothing refers to it any more, as after a `break`. To be used by one
    thread; for work in several there is `client.run_worker`.
    """

    def __init__(self, client: "Client", inner: "msg.client.Subscription[T]") -> None:
        self._client = client  # it lives as long as its subscriptions
        self._loop = client._loop
        self._inner = inner
        inner._thread = client._loop.ident  # in which it may write, should it be collected there
        self._here: deque[msg.client.Message[T]] = deque()
        self._closed = False

    @property
    def dropped(self) -> int:
        """How many messages of a topic were missed, this program being too slow."""
        return self._inner.dropped

    def open(self) -> Self:
        """Subscribe now, and raise what the broker has against it."""
        self._loop.call(self._inner.open)
        return self

    def close(self) -> None:
        """No more messages; what waits here goes back."""
        if not self._closed:
            self._closed = True
            here, self._here, inner = self._here, deque(), self._inner
            if not self._loop.ended:
                self._loop.post(lambda: _close(inner, here))

    def next(self, timeout: float | None = None) -> Message[T]:
        """The next message. Raises TimeoutError when none comes within `timeout` seconds."""
        while True:
            if not self._here:
                self._fetch(timeout)
            try:
                message = self._here[0]
                if message.leased:
                    # From now on its deadline is the program's affair, or its `with`'s. Said
                    # before it is taken: Ctrl-C between the two must not keep a lease for ever.
                    self._loop.post(partial(_let_go, message))
                taken = self._here.popleft()
            except IndexError:  # another thread was faster, or has closed it
                continue
            if taken is not message:
                self._here.appendleft(taken)
                continue
            # (else its connection has ended meanwhile, and it comes again)
            if not message.leased or message.held:
                return Message(self._client, message)

    def _fetch(self, timeout: float | None) -> None:
        if self._closed:
            raise Closed("this subscription was closed")
        here = self._here
        try:
            # they come here in the loop's thread: on the way back Ctrl-C could lose them
            self._loop.call(lambda: _fetch(self._inner, timeout, here))
        except StopAsyncIteration:
            raise Closed("this subscription was closed") from None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message[T]:
        if self._closed:
            raise StopIteration
        try:
            return self.next()
        except Closed:
            if self._closed:  # by another thread, while this one waited
                raise StopIteration from None
            raise

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


# -- in the loop's thread ---------------------------------------------------------------------


async def _fetch(
    inner: "msg.client.Subscription[Any]", timeout: float | None, here: deque[Inner]
) -> None:
    with anyio.fail_after(timeout):
        messages = await inner.take(BATCH)
    for message in messages:
        if message.tag is not None and message._origin is not None:
            message._origin.link.handling[message.tag] = message
    here.extend(messages)


def _let_go(message: Inner) -> None:
    if message._origin is not None:
        message._origin.link.handling.pop(message.tag, None)


def _give_back(messages: list[Inner]) -> None:
    for message in messages:
        _let_go(message)
    give_back_held(messages)


def _close(inner: "msg.client.Subscription[Any]", here: deque[Inner]) -> None:
    inner.close()
    messages = list(here)
    here.clear()
    _give_back(messages)
