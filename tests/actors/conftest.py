"""One seed for trio's scheduler: a test that fails once fails again. `MSG_TEST_SEED=7` tries
another order of the tasks; the private names are guarded by a test."""

import os

import pytest
import trio


@pytest.fixture(autouse=True)
def seeded_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trio._core._run
    monkeypatch.setattr(run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    run._r.seed(int(os.environ.get("MSG_TEST_SEED", "0")))
