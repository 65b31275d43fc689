"""Nothing that was acked is lost when the broker is killed under load, again and again."""

import pytest

from tests.e2e.kill_loop import kill_loop


def judge(folder, kills):
    verdict, load = kill_loop(folder, kills, seed=kills)
    assert load.bugs == []
    assert verdict["acked"] > 100 * kills
    assert (verdict["lost"], verdict["invented"]) == (0, 0), verdict
    assert verdict["settled_twice"] == 0, verdict


@pytest.mark.full
@pytest.mark.process
def test_three_kills(tmp_path):
    judge(tmp_path, 3)


@pytest.mark.process
@pytest.mark.full
@pytest.mark.timeout(300)
def test_twenty_five_kills(tmp_path):
    judge(tmp_path, 25)
