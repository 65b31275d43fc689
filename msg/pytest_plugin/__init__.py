"""The pytest plugin, installed with the package: a real broker for a test, and its clock.

    async def test_bad_jobs_die(msg_broker, msg_clock):
        async with msg_broker.connect() as client:
            await client.send("jobs", {"n": 1})
            ...
        assert msg_broker.queue("jobs").dead[0].reason == "ValueError: no"

`msg_broker` is the broker itself, in this process, with a simulated disk and memory for a
network; `msg_clock` makes trio's time virtual, so that 30 s pass in no time; `msg_server` is
one with a port and a disk, for other processes. Nothing outlives its test.

Fault scenarios are tests too: the ini option `msg_scenarios` says which files they are.

Every pytest run on this machine imports this module, so it imports nothing of weight.
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio.testing import MockClock

    from msg.pytest_plugin.local import LocalBroker
    from msg.pytest_plugin.scenarios import ScenarioFile
    from msg.pytest_plugin.server import LocalServer

__all__ = ["msg_broker", "msg_clock", "msg_server"]


@pytest.fixture
def msg_clock() -> "MockClock":
    """Virtual time for a trio test: it jumps on when every task waits.

    pytest-trio finds it by its type. Under AnyIO's plugin: a fixture `anyio_backend` that
    returns `("trio", {"clock": msg_clock})`.
    """
    from trio.testing import MockClock

    return MockClock(autojump_threshold=0)


@pytest.fixture
def msg_broker(request: pytest.FixtureRequest) -> "Iterator[LocalBroker]":
    """A broker of this test's own: `async with msg_broker.connect() as client`.

    Under trio it runs in the test's own loop, in its time. Under asyncio, or in a test that
    is not async, it runs in a thread, without a port. Settings: `msg_broker.configure(…)`
    before the first connection. At the end its books are checked.
    """
    from msg.pytest_plugin.local import LocalBroker

    broker = LocalBroker(seed=request.node.nodeid)
    yield broker
    broker.finish()


@pytest.fixture
def msg_server(tmp_path: "Path") -> "Iterator[LocalServer]":
    """A broker with a real port and a real disk: `msg_server.url`, for any program."""
    from msg.pytest_plugin.server import LocalServer

    server = LocalServer(tmp_path / "msg_data")
    yield server
    server.finish()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "msg_scenarios",
        "Which files are fault scenarios of trio-msg, each a test: patterns, from the root.",
        type="args",
        default=[],
    )


def pytest_collect_file(file_path: "Path", parent: pytest.Collector) -> "ScenarioFile | None":
    patterns = parent.config.getini("msg_scenarios")
    root = parent.config.rootpath
    if not patterns or file_path.suffix != ".toml" or not file_path.is_relative_to(root):
        return None
    if not any(file_path.relative_to(root).match(pattern) for pattern in patterns):
        return None
    from msg.pytest_plugin.scenarios import ScenarioFile

    file: ScenarioFile = ScenarioFile.from_parent(parent, path=file_path)
    return file
