"""One-shot commands start at once: they import the standard library and typer, no more.

Time itself is not judged here (a busy machine would fail it); what is imported decides it. With
trio, rich and the broker's parts `ping` takes three times as long.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from msg.daemon import exits

HEAVY = {
    "trio", "anyio", "asyncio", "attr", "cattrs", "msgspec", "structlog", "rich", "pygments",
    "starlette", "hypercorn", "prometheus_client", "pydantic",
}  # fmt: skip
OURS = {"msg", "msg.cli", "msg.daemon", "msg.daemon.exits", "msg.plain_client", "msg.errors"}
PROBE = """
import sys
from pathlib import Path
from msg.cli.main import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "command",
    [
        ["ping"],
        ["send", "jobs", "hello"],
        ["pub", "news", "hello"],
        ["get", "jobs"],
        ["version"],
    ],
    ids=lambda command: command[0],
)
def test_a_one_shot_command_imports_only_what_it_needs(broker, command):
    broker.put("jobs", "a body")
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *command],
        env={"MSG_URL": broker.url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    modules = done.stderr.split()
    assert {name.partition(".")[0] for name in modules} & HEAVY == set()
    ours = {name for name in modules if name == "msg" or name.startswith("msg.")}
    assert {name for name in ours - OURS if not name.startswith("msg.cli.")} == set()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
@pytest.mark.parametrize("output", [">/dev/full", ">&-"])
def test_an_output_that_takes_nothing_is_one_sentence_and_not_an_answer(output):
    """Not exit 1, which says "none", nor a traceback."""
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m msg version {output}', sys.executable],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == exits.IO_ERROR
    assert done.stderr.startswith("trio-msg: ")
    assert done.stderr.count("\n") == 1
