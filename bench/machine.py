"""How fast this machine runs Trio: the figures that bounds in microseconds were set with, here.

    python bench/machine.py

`growth.py` prints the first of them beside its tables: a cost in checkpoints can be compared
between machines, one in microseconds cannot.
"""

import json
import time
from collections.abc import Awaitable, Callable

import msgspec
import trio
from msgspec import Raw

ROUNDS = 7  # the best of them: noise only ever adds
LINE = b'{"action":"publish","topic":"jobs","message":"%s","mode":"queue"}\n' % (b"x" * 198)
# of the machine where the bounds were set ("measured here", in the guide), microseconds
THERE = {
    "checkpoint": "3-4",
    "channel send + receive": "6-10",
    "cancel scope": "5-15",
    "thread hop": "100",
    "msgspec decode_lines, a frame": "0.16",
    "json.loads, a frame": "2",
}


class _Publish(msgspec.Struct, tag_field="action", tag="publish"):
    topic: str
    message: Raw
    mode: str = ""


def checkpoint_us() -> float:
    """CPU microseconds of one `trio.lowlevel.checkpoint`."""
    return trio.run(_best_async, _checkpoints, 20_000)


def measure() -> dict[str, float]:
    """All of them, in the order of `THERE`."""
    decode_lines = msgspec.json.Decoder(_Publish).decode_lines
    chunk = LINE * 1000
    return {
        "checkpoint": checkpoint_us(),
        "channel send + receive": trio.run(_best_async, _channel, 20_000),
        "cancel scope": trio.run(_best_async, _scopes, 20_000),
        "thread hop": trio.run(_best_async, _hops, 1000),
        "msgspec decode_lines, a frame": _best(lambda: decode_lines(chunk), 1000),
        "json.loads, a frame": _best(lambda: [json.loads(LINE) for _ in range(1000)], 1000),
    }


def _best(work: Callable[[], object], count: int) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        work()
        best = min(best, (time.process_time() - begun) / count * 1e6)
    return best


async def _best_async(work: Callable[[int], Awaitable[None]], count: int) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        await work(count)
        best = min(best, (time.process_time() - begun) / count * 1e6)
    return best


async def _checkpoints(count: int) -> None:
    for _ in range(count):
        await trio.lowlevel.checkpoint()


async def _channel(count: int) -> None:
    send, receive = trio.open_memory_channel[int](1)

    async def take() -> None:
        async for _ in receive:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        for i in range(count):
            await send.send(i)
        send.close()


async def _scopes(count: int) -> None:
    for _ in range(count):
        with trio.move_on_after(1):  # noqa: ASYNC100  # the scope is what is measured
            pass


async def _hops(count: int) -> None:
    for _ in range(count):
        await trio.to_thread.run_sync(int)


def main() -> None:
    print("| CPU microseconds | here | where the bounds were set |\n|---|---:|---:|")
    for name, value in measure().items():
        print(f"| {name} | {value:.2f} | {THERE[name]} |")


if __name__ == "__main__":
    main()
