"""Fan-out: the frames of a run, encoded once, to every port that it is for."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import trio

from msg.core.replay import PAGE_BYTES
from msg.core.runs import Handing
from msg.protocol import encode

if TYPE_CHECKING:
    from msg.core.runs import Run

FRAME_BYTES = 32  # of a frame around its wire and suffix, about
SLICE = 1000  # deliveries between two checkpoints: about a millisecond

Deliveries = Sequence["tuple[Run, Sequence[Any]] | Handing"]
Gone = Callable[[Any, list[int]], Callable[[bool], None]]


def is_long(deliveries: Deliveries) -> bool:
    """Whether these are too many for one turn of the loop."""
    if len(deliveries) == 1 and isinstance(deliveries[0], tuple):
        return len(deliveries[0][1]) > SLICE
    return sum([1 if isinstance(d, Handing) else len(d[1]) for d in deliveries]) > SLICE


def deliver(deliveries: Deliveries, gone: Gone) -> None:
    """In their order. `gone(port, seqs)` makes what is called when a piece of the backlog has
    left its port."""
    for entry in deliveries:
        if isinstance(entry, Handing):
            _hand(entry, gone)
        else:
            _fan_out(*entry)


async def deliver_in_slices(deliveries: Deliveries, gone: Gone) -> None:
    """The same for thousands of ports: others have their turns in between."""
    done = 0
    for entry in deliveries:
        if isinstance(entry, Handing):
            _hand(entry, gone)
            done += 1
        else:
            run, ports = entry
            for start in range(0, len(ports), SLICE):
                _fan_out(run, ports[start : start + SLICE])
                await trio.lowlevel.checkpoint()
        if done >= SLICE:
            done = 0
            await trio.lowlevel.checkpoint()


def _hand(handing: Handing, gone: Gone) -> None:
    """A piece of a replay."""
    port: Any = handing.port
    if handing.missed:
        port.miss(handing.missed)
    if handing.page:
        port.unclaim(PAGE_BYTES)
    if handing.messages:
        frames = encode.kept(handing.messages, port.suffix, replayed=True)
        left = gone(port, handing.taken) if handing.taken else None
        port.deliver(frames, len(handing.messages), left)


def _fan_out(run: "Run", ports: Sequence[Any]) -> None:
    made = run.frames
    for port in ports:
        pieces = made.get(port.suffix)
        if pieces is None:
            pieces = made[port.suffix] = pieces_of(run.wires, run.size, port.suffix)
        try:
            for frames, count in pieces:
                port.offer(frames, count)
        except Exception as error:  # it ends that connection, and not the topic whose turn it is
            port.outbox.fail(error)


def pieces_of(wires: Sequence[bytes], size: int, suffix: bytes) -> list[tuple[bytes, int]]:
    """Frames of at most about PAGE_BYTES together, so that a slow subscriber loses few at a
    time; and how many they are."""
    each = len(suffix) + FRAME_BYTES
    if size + each * len(wires) <= PAGE_BYTES:
        return [(encode.heard(wires, suffix), len(wires))]
    pieces: list[tuple[bytes, int]] = []
    start = size = 0
    for i, wire in enumerate(wires):
        size += len(wire) + each
        if size >= PAGE_BYTES:
            pieces.append((encode.heard(wires[start : i + 1], suffix), i + 1 - start))
            start, size = i + 1, 0
    if start < len(wires):
        pieces.append((encode.heard(wires[start:], suffix), len(wires) - start))
    return pieces
