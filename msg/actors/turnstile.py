"""Turnstile: where the readers of most connections wait for bytes, and pass a few at a time.

Owns   an epoll of its own, the readers that wait at it, and two lines of those that need not wait
       any more: who has said something, and who is going.
Hears  the kernel.
Tells  readers that they may read: in each pass of the loop some of either line, the first first.
Ends   when cancelled; `close` it when nobody waits any more.

Trio runs in one pass of its loop every task that has something to do, and looks at sockets
between two passes, at all of them. So when thousands of clients do something in one moment (a
proxy restarts, and all are gone), everybody else waits for thousands of tasks. Here Trio watches
one file descriptor only, that of our epoll, and how many readers run in a pass is ours to say.

Whom a reader in line serves is told at once that it is noticed, which takes a microsecond: it is
alive, or takes nothing more. Else a message that one of a thousand dying consumers has left
would be given to the next of them, and so on until its attempts are spent.

It costs a reader another pass of the loop, so only those wait here that are too many for one:
see `Connections`.
"""

import select
import sys
from collections import deque
from typing import Protocol

import trio

SPEAKING = 32  # readers of a pass who have something to read, at 50 to 100 us with what follows
LEAVING = 16  # and whose client is going: each costs as much again in the two passes that follow
NOTICED = 512  # in a pass, at 2 to 4 us each


class Reader(Protocol):
    task: trio.lowlevel.Task | None  # that waits

    def noticed(self, *, leaving: bool) -> None:
        """It is in line: there are bytes, or (also) an end behind them."""


_GOING = _ARMED = 0
if sys.platform == "linux":
    _GOING = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
    _ARMED = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT


class Turnstile:
    """See the module. `wait_readable` is for any number of tasks, `run` for one. Made on Linux
    only; others have no epoll, and their readers wait as the first do."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiting: dict[int, Reader] = {}  # by file descriptor; in line too
        # an entry that was cancelled stays, and is passed over
        self._speaking: deque[tuple[int, Reader]] = deque()
        self._leaving: deque[tuple[int, Reader]] = deque()

    async def run(self) -> None:
        while True:
            if self._speaking or self._leaving:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            self._notice()
            self._let_pass(self._speaking, SPEAKING)
            self._let_pass(self._leaving, LEAVING)

    def _notice(self) -> None:
        for fd, events in self._epoll.poll(0, NOTICED):
            reader = self._waiting.get(fd)
            if reader is None:
                continue  # cancelled: its socket is watched until it closes it
            leaving = bool(events & _GOING)
            reader.noticed(leaving=leaving)
            (self._leaving if leaving else self._speaking).append((fd, reader))

    def _let_pass(self, line: deque[tuple[int, Reader]], count: int) -> None:
        while line and count:
            fd, reader = line.popleft()
            if self._waiting.get(fd) is reader:
                del self._waiting[fd]
                assert reader.task is not None, "it waits"
                trio.lowlevel.reschedule(reader.task)
                count -= 1

    async def wait_readable(self, fd: int, reader: Reader) -> None:
        """As trio's, but may return without cause. Called in the reader's task, the only one
        that waits for this file descriptor, and that closes it."""
        try:
            self._epoll.modify(fd, _ARMED)
        except FileNotFoundError:  # the first time
            self._epoll.register(fd, _ARMED)
        self._waiting[fd] = reader

        def abort(_: object) -> trio.lowlevel.Abort:
            del self._waiting[fd]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def close(self) -> None:
        self._epoll.close()
