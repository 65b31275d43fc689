"""The pytest plugin as a project of somebody else's sees it: in a pytest of its own."""

import os
import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

HEAVY = ["trio", "msgspec", "anyio", "attrs", "cattrs", "structlog", "hypercorn", "msg.actors"]


@pytest.fixture
def project(pytester, monkeypatch):
    """A project that has installed the package, and knows nothing of this one's settings."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makefile(".ini", pytest="[pytest]\nfilterwarnings = error\n")
    return pytester


def run(project, *plugins: str):
    options = [option for plugin in ("msg.pytest_plugin", *plugins) for option in ("-p", plugin)]
    return project.runpytest_subprocess(*options, "-q", timeout=50)


def test_it_is_found_by_its_entry_point_and_lists_its_fixtures(pytester):
    result = pytester.runpytest_subprocess("--fixtures", "-q", timeout=50)
    result.stdout.fnmatch_lines(["msg_clock*", "msg_broker*", "msg_server*"])


def test_a_project_that_does_not_use_it_pays_nothing(project):
    """The import of the plugin is of the package, itself, and pytest: no loop, no broker."""
    project.makepyfile(f"""
        import sys

        def test_nothing_was_imported():
            assert [name for name in {HEAVY} if name in sys.modules] == []
            assert sorted(m for m in sys.modules if m.partition(".")[0] == "msg") == [
                "msg", "msg.pytest_plugin"
            ]
    """)
    run(project).assert_outcomes(passed=1)


def test_its_import_costs_little():
    """Counted in modules, because time is for benchmarks."""
    code = "import sys, pytest; a = set(sys.modules); import msg.pytest_plugin; print(*set(sys.modules) - a)"
    new = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(new.stdout.split()) == ["msg", "msg.pytest_plugin"]


def test_under_trio_with_a_virtual_clock(project):
    """What the README promises: 30 s pass in no time, and a dead letter says why it died."""
    project.makepyfile("""
        import time
        import pytest
        import trio

        @pytest.mark.trio
        async def test_a_lease_runs_out(msg_broker, msg_clock):
            began = time.perf_counter()
            async with msg_broker.connect() as client:
                await client.send("jobs", {"n": 1})
                (message,) = await client.get("jobs", ack_timeout=30)
                await trio.sleep(31)
                (again,) = await client.get("jobs")
                assert (again.attempt, again.returned) == (2, "deadline")
            assert trio.current_time() > 31
            assert time.perf_counter() - began < 30

        @pytest.mark.trio
        async def test_bad_jobs_die(msg_broker, msg_clock):
            msg_broker.configure(queues={"jobs": {"max_deliveries": 2}})
            async with msg_broker.connect() as client:
                await client.send("jobs", {"n": 1})
                jobs = client.consume("jobs")
                for _ in range(2):
                    with pytest.raises(ValueError):
                        async with await anext(jobs) as message:
                            raise ValueError(f"no {message.body['n']}")
                await msg_broker.idle()
            (letter,) = msg_broker.queue("jobs").dead
            assert letter.reason == "ValueError: no 1"
            assert letter.died_of == "2 failed attempts, the last: nack"
            assert [attempt.why for attempt in letter.attempts] == ["nack", "nack"]
            assert letter.body == {"n": 1}
    """)
    run(project, "pytest_trio.plugin").assert_outcomes(passed=2)


def test_after_idle_an_ack_has_been_dealt_with(project):
    project.makepyfile("""
        import pytest

        @pytest.mark.trio
        @pytest.mark.parametrize("durability", ["memory", "stored"])
        async def test_it(msg_broker, durability):
            async with msg_broker.connect() as client:
                await client.send("jobs", 1, durability=durability)
                jobs = client.consume("jobs", prefetch=10)
                await (await anext(jobs)).ack()
                await msg_broker.idle()
                assert msg_broker.queue("jobs").settled == 1

        def test_sync(msg_broker):
            with msg_broker.connect_sync() as client:
                client.send("jobs", 1, durability="memory")
                client.get("jobs")[0].ack()
                assert msg_broker.queue("jobs").empty
    """)
    run(project, "pytest_trio.plugin").assert_outcomes(passed=3)


ASYNCIO_TESTS = """
    import asyncio
    import socket
    import pytest

    @pytest.mark.{mark}
    async def test_jobs(msg_broker, monkeypatch):
        def no_port(*args):
            raise AssertionError("a port")
        monkeypatch.setattr(socket.socket, "bind", no_port)
        monkeypatch.setattr(socket.socket, "listen", no_port)
        assert isinstance(asyncio.get_running_loop(), asyncio.AbstractEventLoop)
        async with msg_broker.connect() as client:
            await client.send("jobs", 1)
            async for message in client.consume("jobs"):
                async with message:
                    break
        assert msg_broker.queue("jobs").settled == 1

    @pytest.mark.{mark}
    async def test_over_tcp(msg_server):
        async with msg_server.connect() as client:
            await client.send("jobs", 1)
        assert msg_server.queue("jobs").bodies == [1]

    @pytest.mark.{mark}
    async def test_of_the_projects_own():
        await asyncio.sleep(0)

    def test_that_is_not_async(msg_broker):
        with msg_broker.connect_sync() as client:
            client.send("jobs", 1)
        assert msg_broker.queue("jobs").bodies == [1]
"""


def asyncio_plugin() -> str:
    if not os.environ.get("CI"):  # there it has to be there
        pytest.importorskip("pytest_asyncio.plugin", reason="pytest-asyncio is not installed")
    return "pytest_asyncio.plugin"


def test_beside_pytest_asyncio(project):
    project.makefile(
        ".ini",
        pytest="[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n",
    )
    project.makepyfile(ASYNCIO_TESTS.format(mark="asyncio"))
    run(project, asyncio_plugin()).assert_outcomes(passed=4)


@pytest.mark.full
def test_beside_pytest_asyncio_in_its_auto_mode_and_with_a_loop_for_all_tests(project):
    project.makefile(
        ".ini",
        pytest="[pytest]\nfilterwarnings = error\nasyncio_mode = auto\n"
        "asyncio_default_fixture_loop_scope = session\nasyncio_default_test_loop_scope = session\n",
    )
    project.makepyfile(ASYNCIO_TESTS.format(mark="skipif(False, reason='')"))
    run(project, asyncio_plugin()).assert_outcomes(passed=4)


@pytest.mark.full
def test_beside_anyios_plugin_in_both_loops(project):
    project.makepyfile("""
        import pytest

        @pytest.fixture(params=["asyncio", "trio"])
        def anyio_backend(request):
            return request.param

        @pytest.mark.anyio
        async def test_jobs(msg_broker):
            async with msg_broker.connect() as client:
                await client.send("jobs", 1)
            assert msg_broker.queue("jobs").bodies == [1]
    """)
    run(project, "anyio.pytest_plugin").assert_outcomes(passed=2)


@pytest.mark.full
def test_the_virtual_clock_beside_anyios_plugin(project):
    """As the fixture's docstring says."""
    project.makepyfile("""
        import anyio
        import pytest

        @pytest.fixture
        def anyio_backend(msg_clock):
            return "trio", {"clock": msg_clock}

        @pytest.mark.anyio
        async def test_delays(msg_broker):
            async with msg_broker.connect() as client:
                await client.send("jobs", 1, delay=3600)
                assert await client.get("jobs") == []
                (message,) = await client.get("jobs", wait=7200)
                assert message.body == 1
                assert anyio.current_time() > 3600
    """)
    run(project, "anyio.pytest_plugin").assert_outcomes(passed=1)


@pytest.mark.full
def test_nothing_is_left_for_the_next_test(project):
    """No message, no thread, no task, no file; also after a test that fails in the middle."""
    project.makepyfile("""
        import threading
        import pytest

        THREADS = set(threading.enumerate())

        @pytest.mark.trio
        @pytest.mark.parametrize("n", [1, 2])
        async def test_trio(msg_broker, n):
            assert msg_broker.queue("jobs").bodies == []
            async with msg_broker.connect() as client:
                assert msg_broker.topic("news").exists is False
                await client.send("jobs", n)
                await client.publish("news", n)
                raise KeyError("in the middle")

        @pytest.mark.parametrize("n", [1, 2])
        def test_threads(msg_broker, msg_server, n):
            with msg_broker.connect_sync() as client:
                assert client.get("jobs") == []
                client.send("jobs", n)
                client.get("jobs")  # leased, and never settled
            assert msg_server.queue("jobs").exists is False

        def test_the_end():
            left = {thread.name for thread in set(threading.enumerate()) - THREADS}
            assert not [name for name in left if not name.startswith("Trio thread")]  # its cache
    """)
    result = run(project, "pytest_trio.plugin")
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(["*KeyError: 'in the middle'*"])
    result.stdout.no_fnmatch_line("*RuntimeWarning*")


@pytest.mark.full
def test_a_broker_that_fails_fails_the_test(project):
    """What goes wrong inside of it is not kept from the test that used it."""
    project.makepyfile("""
        def test_it(msg_broker):
            with msg_broker.connect_sync() as client:
                client.send("jobs", 1)
            msg_broker._running.do(lambda broker: setattr(
                broker.directory.queues["jobs"].actor.ledger.customers, "leased", 2
            ))
    """)
    result = run(project)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*AssertionError: queue 'jobs': 1 live, but*"])


@pytest.mark.full
def test_assertions_show_what_is_there(project):
    """The view of a queue prints its letters, so that pytest's own explanation says enough."""
    project.makepyfile("""
        def test_it(msg_broker):
            with msg_broker.connect_sync() as client:
                client.send("jobs", {"n": 1})
            assert msg_broker.queue("jobs").empty
    """)
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*QueueView(name='jobs'*body={'n': 1}*"])


@pytest.mark.full
def test_the_settings_are_those_of_the_configuration_file(project):
    project.makepyfile("""
        import pytest

        def test_a_wrong_one(msg_broker):
            with pytest.raises(Exception, match="unknown key queues.jobs.max_attempts"):
                msg_broker.configure(queues={"jobs": {"max_attempts": 2}})

        def test_too_late(msg_broker):
            with msg_broker.connect_sync(), pytest.raises(RuntimeError, match="before the first"):
                msg_broker.configure(queues={})
    """)
    run(project).assert_outcomes(passed=2)
