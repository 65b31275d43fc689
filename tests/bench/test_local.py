"""The benchmark's own broker: gone with its folder, however it ends."""

import pytest

from msg.bench.local import LocalBroker


@pytest.mark.process
def test_ctrl_c_while_it_starts_leaves_nothing_behind(monkeypatch):
    def interrupted(_: LocalBroker) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalBroker, "_port_when_ready", interrupted)
    broker = LocalBroker()
    with pytest.raises(KeyboardInterrupt), broker:
        raise AssertionError("it has not begun")
    assert broker.process.returncode is not None
    assert not broker.folder.exists()
