"""What is not restarted: a failure of store, directory or listener ends the broker, says which
actors there were, and loses nothing that was acked."""

import pytest
import trio

from msg.actors import directory as directories
from msg.actors.broker import Broker, run_broker
from msg.actors.listener import Connections
from msg.daemon import exits
from msg.scenario.engine_sim import exit_of
from tests.actors.cable import cable
from tests.actors.kit import Client, Log, SimWorld, running, settings


class Bug(Exception):
    """Ours."""


class Broken:
    """A mail that cannot be read."""

    def __getattr__(self, name: str) -> object:
        raise Bug(name)


async def break_directory(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.directory.mailbox.post(directories.Ended("queues", Broken()))  # type: ignore[arg-type]


async def break_store(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.storekeeper.commits.post(Broken())  # type: ignore[arg-type]


async def break_listener(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    def add(_: Connections, stream: trio.SocketStream, __: str) -> None:
        stream.socket.close()
        raise Bug("listener")

    monkeypatch.setattr(Connections, "add", add)
    stream = await trio.open_tcp_stream("127.0.0.1", broker.addresses[0][1])
    await stream.aclose()


@pytest.mark.parametrize("part", [break_directory, break_store, break_listener])
async def test_a_failure_of_what_is_not_restarted_ends_the_broker(part, monkeypatch):
    world, log = SimWorld(), Log()
    left: list[Client] = []

    async def serve(task_status: "trio.TaskStatus[Broker]") -> None:
        await run_broker(
            settings(host="127.0.0.1"), world, logger=log, listen=part is break_listener,
            task_status=task_status,
        )  # fmt: skip

    with pytest.RaisesGroup(Bug, flatten_subgroups=True) as raised:
        async with trio.open_nursery() as nursery:
            broker = await nursery.start(serve)
            ours, theirs = cable()
            broker.connect(theirs, "test")
            client = Client(ours)
            left.append(client)
            await client.publish("jobs", "kept")
            await part(broker, monkeypatch)
            await trio.sleep_forever()
    assert exit_of(raised.value) == exits.SOFTWARE
    (tree,) = log.said("the broker failed: its actors at that moment")
    named = {actor["name"] for actor in tree["actors"]}
    assert {"broker", "directory", "queue jobs", "connection 1"} <= named
    assert await left[0].closed() == []
    # a new broker on the same disk has what was acked, with no help of the page cache
    monkeypatch.undo()
    async with running(disk=world.disk.crash(world.rng, "none")) as again:
        client = again.client()
        await client.subscribe("jobs")
        assert await client.messages(1) == ["kept"]
