"""Logs: never in the way, drops counted, repeats limited, nothing forged."""

import contextlib
import json
import logging
import os
import threading

import pytest
import structlog

from msg.daemon import logs as module
from msg.daemon.logs import LineWriter, RateLimit, TextRenderer, configure, render_json


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            assert fd is not None  # the test has closed it


class LogIntoPipe:
    """Configures the log into a pipe; `lines` ends it."""

    def __init__(self, read, write):
        self.read, self.write = read, write

    def __call__(self, log_format="json", level="info"):
        self.logs = configure(log_format, level, fd=self.write, out_fd=self.write)
        return structlog.get_logger(), self.logs

    def lines(self):
        self.logs.close()
        os.set_blocking(self.read, False)
        return os.read(self.read, 1 << 20).decode().splitlines()


@pytest.fixture
def log(pipe):
    """A log into a pipe, and structlog as it was afterwards."""
    before = structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield LogIntoPipe(*pipe)
    structlog.configure(**before)
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_is_one_line_an_event(log):
    logger, _ = log()
    logger.info("hello", queue="jobs", text='a "b"\n\x1b[31mred')
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("failed", conn=7)
    first, second = (json.loads(line) for line in log.lines())
    assert list(first)[:3] == ["time", "level", "event"]
    assert first["text"] == 'a "b"\n\x1b[31mred'
    assert second["level"] == "error"
    assert second["traceback"].endswith("ValueError: broken")


def test_text_cannot_be_forged(log):
    logger, _ = log("text")
    logger.warning("slow", name="x\n2026-01-01 error forged", colour="\x1b[31m", n=3, empty="")
    (line,) = log.lines()
    assert line.endswith(
        'warning slow name="x\\n2026-01-01 error forged" colour="\\u001b[31m" n=3 empty=""'
    )


def test_text_in_colour_and_with_a_traceback():
    line = TextRenderer(colour=True)(
        None, "", {"time": "2026-11-23T08:05:15.123Z", "level": "error", "event": "failed",
                   "queue": "jobs", "traceback": "Traceback:\n  oh\x1b no"},
    ).decode()  # fmt: skip
    assert line.startswith("\x1b[2m08:05:15.123\x1b[0m \x1b[31merror  \x1b[0m \x1b[1mfailed")
    assert line.splitlines()[1:] == ["    Traceback:", '    "  oh\\u001b no"']


def test_the_level_changes_at_once_for_bound_loggers_too(log):
    logger, logs = log()
    bound = logger.bind(actor="queue a")
    bound.debug("unheard")
    logs.set_level("debug")
    bound.debug("heard")
    assert [json.loads(line)["event"] for line in log.lines()] == ["heard"]


def test_long_values_are_cut(log):
    logger, _ = log()
    logger.info("x", value="y" * 5000)
    (line,) = log.lines()
    assert json.loads(line)["value"].endswith("y… (5000 characters)")


def test_repeats_are_limited_counted_and_told():
    now = 0.0
    limit = RateLimit(clock=lambda: now)

    def passes(event="same", method="info"):
        try:
            return limit(None, method, {"event": event})
        except structlog.DropEvent:
            return None

    assert sum(passes() is not None for _ in range(1000)) == module.BURST
    assert passes("other") == {"event": "other"}
    assert all(passes(method="debug") for _ in range(1000))
    now = 1.0
    assert passes() == {"event": "same", "suppressed": 1000 - module.BURST}
    assert passes() == {"event": "same"}


def test_at_debug_nothing_is_left_out():
    """A grep is a trace only if no line is missing."""
    gate = module.LevelGate(module.LEVELS["debug"])
    limit = RateLimit(clock=lambda: 0.0, gate=gate)
    for _ in range(10 * module.BURST):
        limit(None, "info", {"event": "attempt failed"})
    gate.level = module.LEVELS["info"]
    with pytest.raises(structlog.DropEvent):
        for _ in range(10 * module.BURST):
            limit(None, "info", {"event": "attempt failed"})


def test_a_full_pipe_drops_and_counts(pipe):
    read, write = pipe
    writer = LineWriter(write, lambda count: b"dropped %d\n" % count, bytes_max=1000)
    line = b"x" * 99 + b"\n"
    count = 65_536 // len(line) + 1000
    for _ in range(count):
        writer.put(line)  # would block for ever here, if it waited
    assert writer.dropped_total > 0
    got = b""
    os.set_blocking(read, False)
    while b"dropped" not in got:  # reading makes room; the next line that finds it tells
        with contextlib.suppress(BlockingIOError):
            got += os.read(read, 65_536)
        writer.put(b"last\n")
    told = [part for part in got.split(b"\n") if part.startswith(b"dropped")]
    assert 0 < int(told[0].split()[1]) <= writer.dropped_total
    os.close(read)
    writer.close()  # its thread must not meet the next test's pipe under the same number


def test_close_waits_for_what_is_there_but_not_for_ever(pipe):
    read, write = pipe
    writer = LineWriter(write, lambda count: b"dropped %d\n" % count, bytes_max=1 << 20)
    writer.put(b"x" * 500_000)  # more than the pipe takes, and nobody reads
    writer.close(seconds=0.01)
    writer.put(b"late")
    assert os.read(read, 10) == b"x" * 10
    os.close(read)
    writer.close()


def test_a_closed_reader_ends_the_writing_and_nothing_else(pipe):
    read, write = pipe
    os.close(read)
    writer = LineWriter(write, lambda count: b"dropped %d\n" % count)
    writer.put(b"into the void\n")
    writer.close(seconds=5)
    writer.put(b"and again\n")
    assert writer.dropped_total == 1


def test_many_threads_lose_no_line(pipe):
    read, write = pipe
    writer = LineWriter(write, lambda count: b"dropped %d\n" % count)

    def put(number):
        for n in range(100):
            writer.put(b"%d:%d\n" % (number, n))

    threads = [threading.Thread(target=put, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    lines = os.read(read, 1 << 16).split()
    assert len(lines) == 400
    for number in range(4):
        mine = [line for line in lines if line.startswith(b"%d:" % number)]
        assert mine == sorted(mine, key=lambda line: int(line.split(b":")[1]))


def test_the_standard_library_logs_alike(log):
    logger, _ = log()
    logging.getLogger("lib").warning("careful %s", 1)
    assert logger is not None
    (line,) = log.lines()
    entry = json.loads(line)
    assert (entry["event"], entry["logger"], entry["level"]) == ("careful 1", "lib", "warning")


def test_json_renders_what_json_does_not_know():
    line = render_json(None, "", {"event": "e", "level": "info", "time": "t", "path": object})
    assert json.loads(line)["path"] == "<class 'object'>"


def test_a_tree_and_a_stack_are_drawn_for_people_and_data_for_programs(log):
    actors = [{"name": "broker", "state": "running"},
              {"name": "queue a", "parent": "broker", "state": "stuck"}]  # fmt: skip
    logger, _ = log("text")
    logger.warning("tree", actors=actors, waits=[], knots=["cycle: a -> b -> a"])
    logger.error("actor stuck", stack=["actors/queue.py:1 run"])
    lines = log.lines()
    assert lines[0].endswith("warning tree count=2")
    assert [line.split()[0] for line in lines[1:4]] == ["actor", "broker", "└"]
    assert lines[4].strip() == "! cycle: a -> b -> a"
    assert lines[6] == "    actors/queue.py:1 run"
