"""LocalServer: a broker of this process with a real port and a real disk, for any client."""

from pathlib import Path
from typing import Any

from msg.client import Client, connect
from msg.config import Settings
from msg.pytest_plugin.running import Events, Running
from msg.pytest_plugin.views import QueueView, TopicView, view_queue, view_topic
from msg.store.disk import RealDisk
from msg.world import RealWorld


class LocalServer:
    """It runs in a thread from the start of the test to its end."""

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self.data_dir = data_dir
        self.events = Events()
        settings = Settings(host="127.0.0.1", port=0, data_dir=str(data_dir), drain_seconds=0.5)
        world = RealWorld(RealDisk(str(data_dir)))
        self._running = Running(settings, world, self.events, listen=True)
        broker = self._running.start_thread()
        self.host, self.port = broker.addresses[0]

    @property
    def url(self) -> str:
        return f"msg://{self.host}:{self.port}"

    def connect(self, **options: Any) -> Client:
        """A client of this server, over TCP."""
        return connect(self.url, **options)

    def queue(self, name: str) -> QueueView:
        return self._running.look(lambda broker: view_queue(broker, name))

    def topic(self, name: str) -> TopicView:
        return self._running.look(lambda broker: view_topic(broker, name))

    def finish(self) -> None:
        """Drain and stop."""
        self._running.stop_thread()
        if self._running.failure is not None:
            raise RuntimeError("the broker of this test has failed") from self._running.failure
