"""The stall watch: a loop that does not turn is told of by a thread, with where it stands."""

import threading

from msg.daemon import stall
from msg.daemon.stall import LOOKS, StallWatch


class Told:
    """A log that lets a test wait for a line."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []
        self.changed = threading.Event()

    def error(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields))
        self.changed.set()

    info = error


def test_a_loop_that_stands_still_is_told_once_with_its_stack(monkeypatch):
    told = Told()
    monkeypatch.setattr(stall, "log", told)
    beats = [0.0]
    looks = threading.Semaphore(0)

    def beat() -> float:
        looks.release()
        return beats[0]

    def somewhere_slow() -> None:
        assert told.changed.wait(20)

    with StallWatch(beat, look_s=0.001):
        somewhere_slow()
        event, fields = told.lines[0]
        assert event == "the loop stands still"
        assert isinstance(fields["stack"], list)
        assert any("somewhere_slow" in line for line in fields["stack"])
        for _ in range(3 * LOOKS):
            looks.acquire()
        assert len(told.lines) == 1
        told.changed.clear()
        beats[0] = 1.0
        assert told.changed.wait(20)
        assert told.lines[1][0] == "the loop turns again"


def test_no_loop_yet_is_no_stall(monkeypatch):
    told = Told()
    monkeypatch.setattr(stall, "log", told)
    looks = threading.Semaphore(0)

    def beat() -> None:
        looks.release()

    with StallWatch(beat, look_s=0.001):
        for _ in range(3 * LOOKS):
            looks.acquire()
    assert told.lines == []
