"""LoopThread: an event loop in a thread, and how other threads get things done there.

`call` runs a coroutine function there and waits for its outcome; `post` runs a plain function
there and does not wait. Both are done in the order in which a thread asks for them.

The thread is a daemon: a program that forgets its client can end, and `stop` is called for it
at exit (by the client), while daemons still run.
"""

import asyncio
import contextvars
import logging
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, TypeVar

import anyio
import anyio.abc

from msg.client import Closed, Disconnected

T = TypeVar("T")

logger = logging.getLogger("msg.client")
STOP_S = 5.0  # longer than the client's own goodbye may take


class _Call:
    """One `call`: what to do, and what came of it."""

    def __init__(self, work: Callable[[], Awaitable[Any]], *, sends: bool) -> None:
        self.work = work
        self.sends = sends
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self.begun = False
        self.scope: anyio.CancelScope | None = None

    async def run(self) -> None:
        self.begun = True
        self.scope = anyio.CancelScope()
        try:
            with self.scope:
                self.result = await self.work()
                return
            self.error = Closed("this call was cancelled")
        except Exception as error:  # raised by the thread that called
            self.error = error
        except BaseException:  # the loop ends
            self.error = Closed("this client was closed")
            if self.sends:
                text = "this client was closed before the answer came: the outcome is not known"
                self.error = Disconnected(text)
            raise
        finally:
            self.done.set()

    def fail(self, error: BaseException) -> None:
        if not self.done.is_set():
            self.error = error
            self.done.set()


class LoopThread:
    """See the module. It runs until `stop`; `context` is held from its start to its end."""

    def __init__(self, context: AbstractAsyncContextManager[Any], name: str) -> None:
        self._context = context
        self._pid = os.getpid()
        self._posted: deque[Callable[[], object]] = deque()
        self._calls: set[_Call] = set()
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._over = False
        self._gone = False
        # a context of its own: it is no part of an event loop that its maker may run in
        run = contextvars.Context().run
        self._thread = threading.Thread(target=run, args=(self._main,), name=name, daemon=True)

    def start(self) -> None:
        """Until `context` is entered. Raises what that raises."""
        self._thread.start()
        try:
            self._started.wait()
        except BaseException:
            self._over = True
            self.post(self._end)
            raise
        if self._failure is not None:
            raise self._failure

    # -- for other threads ------------------------------------------------------------------

    def call(
        self,
        work: Callable[[], Awaitable[T]],
        undo: Callable[[T], object] | None = None,
        *,
        sends: bool = False,
    ) -> T:
        """The outcome of `work`, run in the loop. Raises `Closed` when that ends before.

        For what `sends` something that the broker may have done, that is `Disconnected`.

        Interrupted, it cancels that and waits for its end. If it has succeeded all the same,
        `undo` gets the result that nobody will have.
        """
        self._check()
        call = _Call(work, sends=sends)
        try:
            self._calls.add(call)
            self.post(lambda: self._begin(call))
            if self._over:  # it may have ended just now, and nobody looks at what is posted
                call.fail(self._closed())
            call.done.wait()
        except BaseException:
            self.post(lambda: self._cancel(call))
            call.done.wait(STOP_S)
            if undo is not None and call.done.is_set() and call.error is None:
                undo(call.result)
            raise
        finally:
            self._calls.discard(call)
        if call.error is not None:
            try:
                raise call.error
            finally:
                call.error = None  # a cycle through this frame would keep what it refers to
        result: T = call.result
        return result

    def post(self, work: Callable[[], object]) -> None:
        """Do this in the loop, soon. Raises `Closed` after a fork."""
        self._check_process()
        self._posted.append(work)
        with suppress(AttributeError, RuntimeError):  # before its beginning, or behind its end
            self._loop.call_soon_threadsafe(self._bell.set)

    def stop(self) -> None:
        """End it in good order, and wait for that. May be called twice, and by any thread."""
        if os.getpid() != self._pid or not self._thread.is_alive():
            return
        self._over = True
        self.post(self._end)
        if threading.current_thread() is not self._thread:
            self._thread.join(STOP_S)

    @property
    def ended(self) -> bool:
        """Nothing is done here any more; after a fork it is the other process's."""
        return self._over or os.getpid() != self._pid

    @property
    def ident(self) -> int:
        """Of the thread, as `threading.get_ident` has it."""
        assert self._thread.ident is not None
        return self._thread.ident

    @property
    def gone(self) -> bool:
        """Its thread is over: what is posted now is never done."""
        return self._gone and os.getpid() == self._pid

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise Closed("this client belongs to the process before the fork: connect anew")

    def _check(self) -> None:
        self._check_process()
        if self._over:
            raise self._closed() from self._failure
        if threading.current_thread() is self._thread:
            raise RuntimeError("a blocking call in the client's own thread would wait for ever")

    # -- in the loop ------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # the thread that waits for the start raises it
            self._failure = error
        finally:
            if self._failure is not None and self._started.is_set():  # a bug, and nobody waits
                logger.error("the client's thread has failed", exc_info=self._failure)
            self._over = True
            self._started.set()
            for call in list(self._calls):
                call.fail(self._closed())
            self._gone = True

    def _closed(self) -> Closed:
        if self._failure is None:
            return Closed("this client was closed")
        return Closed(f"this client has failed: {self._failure!r}")

    async def _serve(self) -> None:
        self._bell = asyncio.Event()
        self._stopping = anyio.Event()
        self._loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as self._group:
            self._group.start_soon(self._work_off)
            try:
                async with self._context, anyio.create_task_group() as self._calling:
                    self._started.set()
                    await self._stopping.wait()
                    self._calling.cancel_scope.cancel()
            except Exception as error:  # outside of the group, which would wrap it
                self._failure = error
            self._group.cancel_scope.cancel()

    async def _work_off(self) -> None:
        while True:
            self._bell.clear()
            while self._posted:
                try:
                    # in no variable: what the last one refers to would live on while this waits
                    self._posted.popleft()()
                except Exception:  # nobody waits for it; the others are to be served
                    logger.exception("what was posted to the client's thread has failed")
            await self._bell.wait()

    def _end(self) -> None:
        if self._started.is_set():
            self._stopping.set()
        else:
            self._group.cancel_scope.cancel()

    def _begin(self, call: _Call) -> None:
        if self._over:
            call.fail(self._closed())
        else:
            self._calling.start_soon(call.run)

    def _cancel(self, call: _Call) -> None:
        if call.scope is not None:
            call.scope.cancel()
        elif not call.begun:
            call.work = _nothing  # begun or not, it comes to nothing
            call.fail(Closed("this call was cancelled"))


async def _nothing() -> None: ...
