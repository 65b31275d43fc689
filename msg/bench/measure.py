"""One measurement: start the generators, look twice, and say what happened in between."""

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import attrs

from msg.bench import generators
from msg.bench.generators import CONFIRMED, CONSUMERS, DONE, GO, READY, RECEIVED, SENT, STOP, Load
from msg.bench.local import cpu_seconds, rss_bytes
from msg.bench.spread import Spread

START_S = 120.0  # to connect and subscribe
END_S = 60.0  # to ack and receive the rest
LOOK_S = 0.05
Progress = Callable[[float, int], None]  # seconds done, messages so far


class BenchFailed(Exception):
    """No figure came of it; why."""


@attrs.frozen(kw_only=True)
class Result:
    """What was measured. Latencies in microseconds, and to 3 %; rates a second."""

    kind: str
    load: Load
    seconds: float
    published: int
    confirmed: int
    received: int
    rate: float  # confirmed, or received where somebody receives
    cpu_us: float | None  # of the broker, for each message that `rate` counts
    cpu_share: float | None  # of one core
    confirm_us: Spread  # from the sending to the ack
    latency_us: Spread  # from the sending to its arrival
    per_consumer: tuple[int, ...] = ()
    rss_bytes: int | None = None  # the broker's growth
    lost: int = 0

    @property
    def fairness(self) -> float | None:
        """What the slowest consumer got, of the mean."""
        if len(self.per_consumer) < 2 or not sum(self.per_consumer):
            return None
        return min(self.per_consumer) * len(self.per_consumer) / sum(self.per_consumer)

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            **{k: v for k, v in attrs.asdict(self.load).items() if k != "run"},
            "seconds": round(self.seconds, 3),
            "published": self.published,
            "confirmed": self.confirmed,
            "received": self.received,
            "lost": self.lost,
            "per_second": round(self.rate),
            "broker_cpu_us_per_message": _round(self.cpu_us),
            "broker_cpu_share": _round(self.cpu_share),
            "broker_rss_growth_bytes": self.rss_bytes,
            "fairness": _round(self.fairness),
            "confirm_us": self.confirm_us.summary(),
            "latency_us": self.latency_us.summary(),
        }


def _round(number: float | None) -> float | None:
    return None if number is None else round(number, 3)


@attrs.frozen
class _Look:
    at: float
    counts: tuple[int, ...]
    cpu: float | None


def measure(
    kind: str,
    load: Load,
    host: str,
    port: int,
    *,
    seconds: float = 5.0,
    warm_up: float = 0.5,
    pid: int | None = None,
    progress: Progress | None = None,
    settle: float = 0.0,
) -> Result:
    """Run the load of this kind (a key of `generators.ROLES`) for so long.

    `pid`: the broker's, where it is on this machine and its CPU is to be counted.
    `settle`: wait so long before the last look (for memory). Raises BenchFailed.
    """
    context = multiprocessing.get_context("spawn")
    board: Any = context.Array("q", CONSUMERS + max(1, load.consumers), lock=False)
    rss = rss_bytes(pid) if pid else None
    running = []
    try:
        for role in generators.ROLES[kind]:
            here, there = context.Pipe(duplex=False)
            process = context.Process(
                target=role, args=(load, host, port, board, there), daemon=True
            )
            process.start()
            there.close()
            running.append((process, here))
        _until(board, READY, len(running), running)
        board[GO] = 1
        time.sleep(warm_up)
        first = _look(board, pid)
        while (done := time.monotonic() - first.at) < seconds:
            if progress is not None:
                progress(done, board[RECEIVED] if load.consumers else board[CONFIRMED])
            _raise_errors(running)
            time.sleep(min(LOOK_S, max(0.0, seconds - done)))
        last = _look(board, pid)
        if settle:
            time.sleep(settle)
        grown = rss_bytes(pid) if pid else None
        board[STOP] = 1
        answers = [_answer(process, pipe) for process, pipe in running]
    finally:
        board[STOP] = board[DONE] = board[GO] = 1
        for process, pipe in running:
            process.join(1)
            if process.is_alive():
                process.terminate()
                process.join()
            pipe.close()
    return _result(kind, load, first, last, answers, (rss, grown), board)


def _look(board: Any, pid: int | None) -> _Look:
    return _Look(time.monotonic(), tuple(board), cpu_seconds(pid) if pid else None)


def _until(board: Any, place: int, value: int, running: list[Any]) -> None:
    until = time.monotonic() + START_S
    while board[place] < value:
        _raise_errors(running)
        if time.monotonic() > until:
            raise BenchFailed(f"the generators were not ready within {START_S:g} s")
        time.sleep(0.005)


def _raise_errors(running: list[Any]) -> None:
    for process, pipe in running:
        if pipe.poll():
            _answer(process, pipe)  # before its time: it can only be an error
            raise BenchFailed("a generator ended by itself")


def _answer(process: Any, pipe: Any) -> dict[str, Any]:
    if not pipe.poll(END_S):
        raise BenchFailed(f"a generator had not ended {END_S:g} s after it was told to")
    try:
        answer: dict[str, Any] = pipe.recv()
    except EOFError:
        raise BenchFailed("a generator died; its traceback is above") from None
    if "error" in answer:
        raise BenchFailed(answer["error"])
    return answer


def _result(
    kind: str,
    load: Load,
    first: _Look,
    last: _Look,
    answers: list[dict[str, Any]],
    rss: tuple[int | None, int | None],
    board: Any,
) -> Result:
    seconds = last.at - first.at
    grown = [b - a for a, b in zip(first.counts, last.counts, strict=True)]
    counted = grown[RECEIVED] if load.consumers else grown[CONFIRMED]
    spreads = [Spread(answer["spread"]) for answer in answers]
    flows = {"pub": (spreads[0], Spread()), "flow": (spreads[-1], spreads[0])}
    confirm, latency = flows.get(kind, (Spread(), spreads[0]))
    cpu = None if first.cpu is None or last.cpu is None else last.cpu - first.cpu
    each = 1 if load.mode == "queue" else load.consumers
    before, after = rss
    return Result(
        kind=kind,
        load=load,
        seconds=seconds,
        published=grown[SENT],
        confirmed=grown[CONFIRMED],
        received=grown[RECEIVED],
        rate=counted / seconds,
        cpu_us=None if cpu is None or not counted else cpu / counted * 1e6,
        cpu_share=None if cpu is None else cpu / seconds,
        confirm_us=confirm,
        latency_us=latency,
        per_consumer=tuple(grown[CONSUMERS:]) if kind == "flow" else (),
        rss_bytes=None if before is None or after is None else after - before,
        lost=board[SENT] * each - board[RECEIVED] if kind == "flow" else 0,
    )
