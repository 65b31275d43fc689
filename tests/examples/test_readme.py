"""The README's Python, run as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## From Python\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
pytest_plugins = ["pytester"]


@pytest.mark.process
@pytest.mark.parametrize(("n", "says"), [(0, "done\n"), (1, "1\n")])
def test_programs(msg_server, n, says):
    code = BLOCKS[n].replace("msg://localhost:8888", msg_server.url)
    program = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, env=os.environ,
        capture_output=True, text=True, timeout=40,
    )  # fmt: skip
    assert (program.returncode, program.stdout, program.stderr) == (0, says, "")
    assert msg_server.queue("jobs").empty


def test_the_test(pytester):
    pytester.makepyfile(BLOCKS[2])
    pytester.makefile(".ini", pytest="[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    pytester.runpytest_subprocess("-p", "no:asyncio", timeout=40).assert_outcomes(passed=1)
