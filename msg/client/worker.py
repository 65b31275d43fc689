"""Workers: a handler for each message of a queue, several at a time, until told to stop.

Stopping is graceful: nothing new is begun, what runs may finish within `grace` seconds,
what waits goes back to the queue uncounted.
"""

import logging
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio

from msg.client.errors import Reject, Retry
from msg.client.message import Message
from msg.client.subscription import Subscription, give_back_held
from msg.errors import BrokerError

if TYPE_CHECKING:
    from msg.client.client import Client

Handler = Callable[[Message[Any]], Awaitable[object]]
GRACE_S = 30.0

logger = logging.getLogger("msg.client")


async def run_worker(
    client: "Client",
    queue: str,
    handler: Handler,
    *,
    concurrency: int = 1,
    prefetch: int | None = None,
    group: str | None = None,
    stop: anyio.Event | None = None,
    signals: bool = True,
    grace: float = GRACE_S,
    **options: Any,
) -> None:
    """Call `handler` with each message of `queue` (of `group`, then of a topic).

    A handler that returns acks its message. One that raises nacks it with the error's text:
    it comes again after the back-off, and after the last attempt lies in the dead letters.
    `Retry` and `Reject` say so more exactly. No error of a handler ends the worker.

    It returns when `stop` is set or, with `signals` and in the main thread, at the first
    SIGINT or SIGTERM, after what runs has finished, or was cancelled after `grace` seconds.
    """
    if concurrency < 1:
        raise ValueError("concurrency is at least 1")
    prefetch = prefetch or 2 * concurrency
    if group is None:
        messages = client.consume(queue, prefetch=prefetch, **options)
    else:
        messages = client.subscribe(queue, group=group, prefetch=prefetch, **options)
    worker = _Worker(messages, handler, stop or anyio.Event(), grace)
    hear = signals and threading.current_thread() is threading.main_thread()
    if hear:
        client.on_signals(worker.signalled)
    try:
        async with messages:
            await worker.run(concurrency)
    finally:
        if hear:
            client.off_signals(worker.signalled)


class _Worker:
    """The tasks of one `run_worker`."""

    def __init__(
        self, messages: Subscription[Any], handler: Handler, stop: anyio.Event, grace: float
    ) -> None:
        self.messages = messages
        self.handler = handler
        self.stop = stop
        self.grace = grace
        self.running = 0
        self.failure: BrokerError | None = None
        self.scope = anyio.CancelScope()

    def signalled(self) -> None:
        """The first time it stops gracefully, the second time at once."""
        if self.stop.is_set():
            self.scope.cancel()
        self.stop.set()

    async def run(self, concurrency: int) -> None:
        self.running = concurrency
        with self.scope:
            async with anyio.create_task_group() as tasks:
                for _ in range(concurrency):
                    tasks.start_soon(self._work)
                tasks.start_soon(self._stop_gracefully)
        if self.failure is not None:
            raise self.failure

    async def _work(self) -> None:
        try:
            async for message in self.messages:
                if self.stop.is_set():  # just now, and nothing new is to be begun
                    give_back_held([message])
                    break
                await self._handle(message)
        except BrokerError as error:  # of the subscription: a handler's are dealt with
            self.failure = error
        self.running -= 1
        if not self.running:
            self.scope.cancel()

    async def _handle(self, message: Message[Any]) -> None:
        try:
            async with message:
                await self.handler(message)
        except (Retry, Reject) as verdict:
            logger.info("%r: %s", message, verdict)
        # the broker keeps the reason, this log the traceback, and the worker goes on
        except Exception:
            logger.exception("the handler of %r failed", message)

    async def _stop_gracefully(self) -> None:
        await self.stop.wait()
        self.messages.close()
        self.scope.deadline = anyio.current_time() + self.grace
