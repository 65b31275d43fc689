"""What a turn writes itself: the same bytes in the same order, and the writer for all that waits.

`written` notes each write to a real socket, with the task that did it.
"""

import gc
import os
import socket
import weakref
from collections.abc import Iterator
from itertools import count

import attrs
import pytest
import trio

from msg.actors.connection import untaken
from msg.actors.outbox import DIRECT_BYTES, DIRECT_MOST, Outbound, Outbox
from tests.actors.kit import Client, Running, SimWorld, running, settings, settled


@attrs.define
class Write:
    fd: int
    task: str
    data: bytes


@attrs.define(eq=False)
class Kernel:
    """`os.write`, watched. `script`: for the next writes to `fd`, how many bytes are taken, or
    the error that they end with."""

    writes: list[Write] = attrs.field(factory=list)
    fd: int = -1
    script: Iterator[int | Exception] = attrs.field(factory=lambda: iter(()))

    def write(self, fd: int, data: bytes | memoryview) -> int:
        most: int | Exception = len(data)
        if fd == self.fd:
            most = next(self.script, most)
        if isinstance(most, Exception):
            raise type(most)(*most.args)  # a new one: it will hold the frames that it passes
        taken = os_write(fd, data[:most])
        self.writes.append(Write(fd, trio.lowlevel.current_task().name, bytes(data[:taken])))
        return taken

    def by(self, client: "Pair") -> list[str]:
        """Who wrote to this client, since last asked."""
        tasks = [w.task for w in self.writes if w.fd == client.fd]
        self.writes = [w for w in self.writes if w.fd != client.fd]
        return tasks


os_write = os.write


@pytest.fixture
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    kernel = Kernel()
    monkeypatch.setattr("msg.actors.connection.os.write", kernel.write)
    yield kernel
    while opened:
        opened.pop().close()


opened: list[socket.socket] = []


class Pair(Client):
    """A client on a real pair of sockets."""

    def __init__(self, broker: Running) -> None:
        pair = socket.socketpair()
        opened.append(pair[0])
        ours, self.theirs = (
            trio.SocketStream(trio.socket.from_stdlib_socket(each)) for each in pair
        )
        super().__init__(ours)
        self.fd = self.theirs.socket.fileno()
        broker.broker.connect(self.theirs, "pair")


async def send(client: Client, message: object, topic: str = "jobs", mode: str = "queue") -> None:
    await client.send(
        action="publish", topic=topic, mode=mode, message=message, durability="memory"
    )


async def test_a_turn_writes_the_delivery_and_then_the_answer(autojump_clock, kernel):
    async with running() as broker:
        publisher, consumer = Pair(broker), Pair(broker)
        await consumer.subscribe("jobs", prefetch=100)
        for n in range(3):
            kernel.writes.clear()
            await send(publisher, n)
            await consumer.expect("message", message=n)
            await publisher.expect("ack")
            assert [w.fd for w in kernel.writes] == [consumer.fd, publisher.fd]
            assert {w.task for w in kernel.writes} == {"queue jobs"}
        broker.check()


async def test_so_does_a_topic(autojump_clock, kernel):
    async with running() as broker:
        publisher, subscriber = Pair(broker), Pair(broker)
        await subscriber.subscribe("news", "pubsub")
        await settled()
        kernel.writes.clear()
        await send(publisher, 1, "news", "pubsub")
        await subscriber.expect("message", message=1)
        await publisher.expect("ack")
        assert [w.fd for w in kernel.writes] == [subscriber.fd, publisher.fd]
        assert {w.task for w in kernel.writes} == {"topic news"}


async def test_so_does_the_turn_that_hears_of_a_commit(autojump_clock, kernel):
    async with running() as broker:
        publisher, consumer = Pair(broker), Pair(broker)
        await consumer.subscribe("jobs", prefetch=100)
        kernel.writes.clear()
        await publisher.publish("jobs", 1, durability="stored")
        await consumer.expect("message", message=1)
        assert {w.task for w in kernel.writes} == {"queue jobs"}


async def test_a_fake_stream_is_written_by_its_writer_only(autojump_clock, kernel):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs")
        assert broker.connection(1).outbox.direct is None
        await client.publish("jobs", 1)
        assert not kernel.writes


async def test_what_is_large_is_left_to_the_writer(autojump_clock, kernel):
    async with running() as broker:
        publisher, consumer = Pair(broker), Pair(broker)
        await consumer.subscribe("jobs", prefetch=100)
        for size, task in ((DIRECT_BYTES - 500, "queue jobs"), (DIRECT_BYTES, "writer 2")):
            kernel.by(consumer)
            await send(publisher, "x" * size)
            await consumer.expect("message")
            assert kernel.by(consumer) == [task]


async def test_many_queues_that_deliver_to_one_client_share_a_write(autojump_clock, kernel):
    async with running() as broker:
        publisher, consumer = Pair(broker), Pair(broker)
        for n in range(50):
            await consumer.subscribe(f"jobs.{n}")
        await settled()
        kernel.writes.clear()
        await publisher.send_all(
            *(
                {"action": "publish", "topic": f"jobs.{n}", "mode": "queue", "message": n,
                 "durability": "memory"}
                for n in range(50)
            )
        )  # fmt: skip
        assert sorted(await consumer.messages(50)) == list(range(50))
        first, *rest = kernel.by(consumer)
        assert first.startswith("queue jobs.")
        assert rest == ["writer 2"]
        for _ in range(50):
            await publisher.expect("ack")
        broker.check()


async def test_a_wide_fan_out_wakes_writers_too(autojump_clock, kernel):
    async with running() as broker:
        publisher = Pair(broker)
        subscribers = [Pair(broker) for _ in range(DIRECT_MOST + 20)]
        for subscriber in subscribers:
            await subscriber.subscribe("news", "pubsub")
        await settled()
        kernel.writes.clear()
        await send(publisher, 1, "news", "pubsub")
        for subscriber in subscribers:
            await subscriber.expect("message", message=1)
        await publisher.expect("ack")
        tasks = [w.task for w in kernel.writes]
        assert tasks.count("topic news") == DIRECT_MOST
        assert len(tasks) == len(subscribers) + 1


async def test_the_writer_writes_the_rest(autojump_clock, kernel):
    """However little of it the kernel takes, and wherever that ends."""
    async with running() as broker:
        publisher, consumer = Pair(broker), Pair(broker)
        await consumer.subscribe("jobs", prefetch=100)
        kernel.fd = consumer.fd
        for n, taken in enumerate((1, 40, 300, BlockingIOError())):
            kernel.by(consumer)
            kernel.script = iter([taken, 2, BlockingIOError(), BlockingIOError(), 5])
            await send(publisher, [n, "x" * 1000])
            assert (await consumer.expect("message", attempt=1))["message"][0] == n
            tasks = kernel.by(consumer)
            assert tasks[-3:] == ["writer 2"] * 3
            assert tasks[:-3] == ([] if isinstance(taken, Exception) else ["queue jobs"])
            assert (await consumer.ask("ack", tag=n + 1))["count"] == 1
        assert broker.connection(2).outbox.empty
        broker.check()


async def test_more_may_come_while_the_rest_waits(autojump_clock, kernel):
    async with running() as broker:
        publisher, consumer = Pair(broker), Pair(broker)
        await consumer.subscribe("jobs", prefetch=100)
        kernel.fd = consumer.fd
        kernel.script = iter([10, *[1] * 200])
        for n in range(20):
            await send(publisher, n)
        assert await consumer.messages(20) == list(range(20))
        broker.check()


async def test_a_client_that_takes_nothing_is_cut(autojump_clock, kernel):
    """The stall is counted from the turn's own write on."""
    limits = {"outbound_bytes": 500, "write_stall_seconds": 30}
    async with running(settings(limits=limits, drain_seconds=0.0)) as broker:
        publisher, other, consumer = broker.client(), broker.client(), Pair(broker)
        await consumer.subscribe("jobs", prefetch=100)
        fill(consumer.theirs)
        await send(publisher, "x" * 600)
        await publisher.expect("ack")
        await publisher.silence(29)
        assert 3 in broker.broker.connections.open
        await publisher.silence(2)
        assert 3 not in broker.broker.connections.open
        await other.subscribe("jobs")
        await other.expect("message", attempt=1)  # nothing of it was handed over


async def test_a_client_that_takes_a_little_is_not_cut(autojump_clock, kernel, monkeypatch):
    """Less than the kernel waits for until it takes more of us."""
    limits = {"outbound_bytes": 500, "write_stall_seconds": 30}
    held = 1_000_000
    monkeypatch.setattr("msg.actors.connection.untaken", lambda _fd: held)
    async with running(settings(limits=limits, drain_seconds=0.0)) as broker:
        publisher, consumer = broker.client(), Pair(broker)
        await consumer.subscribe("jobs", prefetch=100)
        fill(consumer.theirs)
        await send(publisher, "x" * 600)
        await publisher.expect("ack")
        for _ in range(10):
            await publisher.silence(29)
            held -= 1
        assert 2 in broker.broker.connections.open
        await publisher.silence(26)  # and then it takes nothing
        assert 2 in broker.broker.connections.open
        await publisher.silence(8)
        assert 2 not in broker.broker.connections.open


def test_what_a_client_has_not_taken_is_known():
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    with ours, theirs:
        ours.setblocking(False)
        assert untaken(ours.fileno()) == 0
        with pytest.raises(BlockingIOError):
            while True:
                ours.send(bytes(1 << 16))
        full = untaken(ours.fileno())
        assert full > 0
        while untaken(ours.fileno()) == full:  # it takes some before we may send more
            assert theirs.recv(1 << 16)
    assert untaken(-1) == -1


def fill(stream: trio.SocketStream) -> None:
    """The peer does not read, and no buffer has any room left."""
    fd = stream.socket.fileno()
    for size in (1 << 16, 1):
        try:
            while True:
                os_write(fd, b"\n" * size)
        except BlockingIOError:
            pass


@pytest.mark.parametrize("early", [False, True])
async def test_reset_in_the_middle_of_it(autojump_clock, kernel, early: bool):
    """What the kernel had counts as an attempt, what it did not have does not; also when it is
    the turn's own write that fails."""
    async with running() as broker:
        publisher, other, consumer = broker.client(), broker.client(), Pair(broker)
        await consumer.subscribe("jobs", prefetch=100)
        kernel.fd = consumer.fd
        reset = ConnectionResetError("Connection reset by peer")
        kernel.script = iter([reset] if early else [300, reset])
        await publisher.send_all(
            *(
                {"action": "publish", "topic": "jobs", "mode": "queue", "message": n,
                 "durability": "memory"}
                for n in range(10)
            )
        )  # fmt: skip
        await settled()
        assert 3 not in broker.broker.connections.open
        (line,) = [f for f in broker.log.said("disconnected") if f["conn"] == 3]
        assert line["why"] == "reset: Connection reset by peer"
        await other.subscribe("jobs", prefetch=10)
        frames = [await other.expect("message", message=n) for n in range(10)]
        assert [f["attempt"] for f in frames] == [1 if early else 2] + [1] * 9
        broker.check()


async def test_a_turn_that_meets_a_reset_leaves_no_cycle(autojump_clock, kernel, no_collections):
    async with running() as broker:
        publisher, consumer = broker.client(), Pair(broker)
        await consumer.subscribe("jobs", prefetch=100)
        kernel.fd = consumer.fd
        kernel.script = iter([ConnectionResetError("Connection reset by peer")])
        gc.collect()  # from here on all of it is old
        left = weakref.ref(broker.connection(2))
        await send(publisher, 1)
        await publisher.expect("ack")
        await publisher.silence(100)
        assert 2 not in broker.broker.connections.open
        gc.collect(1)
        assert left() is None


async def test_the_end_of_the_input_waits_for_the_rest(autojump_clock, kernel):
    """What was published is answered, whoever writes it and however long that takes."""
    async with running() as broker:
        publisher = Pair(broker)
        kernel.fd = publisher.fd
        kernel.script = iter([3, *[1] * 200])
        await send(publisher, 1)
        assert isinstance(publisher.stream, trio.SocketStream)
        await publisher.stream.send_eof()
        await publisher.expect("ack")
        with pytest.raises(EOFError):
            await publisher.read()


# -- the gathering itself ---------------------------------------------------------------------


@attrs.define(eq=False)
class Rig:
    """An outbox whose writer waits, and what was written directly."""

    outbound: Outbound
    name: str
    said: list[str]
    outbox: Outbox = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.outbox = Outbox(1 << 20, self.outbound)
        self.outbox.direct = self.write

    def write(self) -> None:
        self.said.append(f"{self.name} {self.outbox.take().decode()}")
        self.outbox.wrote(SimWorld())

    async def wait(self) -> None:
        await self.outbox.wait()
        self.said.append(f"{self.name} woken")


@pytest.fixture
async def rigs() -> tuple[Rig, Rig]:
    outbound, said = Outbound(1 << 20), list[str]()
    return Rig(outbound, "a", said), Rig(outbound, "b", said)


async def waiting(nursery: trio.Nursery, *rigs: Rig) -> None:
    for rig in rigs:
        nursery.start_soon(rig.wait)
    await settled()


async def test_a_turn_that_breaks_has_told_what_it_told(rigs):
    a, _ = rigs
    async with trio.open_nursery() as nursery:
        await waiting(nursery, a)
        with pytest.raises(ZeroDivisionError), a.outbound:
            a.outbox.answer(b"told")
            assert not a.said
            raise ZeroDivisionError
        assert a.said == ["a told"]
        nursery.cancel_scope.cancel()


async def test_once_between_two_reads(rigs):
    a, b = rigs
    async with trio.open_nursery() as nursery:
        await waiting(nursery, a, b)
        for n in count():
            with a.outbound:
                a.outbox.answer(b"%d" % n)
            if n == 2:
                break
            a.outbound.reads += n == 0
        assert a.said == ["a 0", "a 1"]
        await settled()
        assert a.said[2:] == ["a woken"]
        with b.outbound:
            b.outbox.answer(b"x")
        assert b.said[3:] == ["b x"]
        nursery.cancel_scope.cancel()


async def test_outside_of_a_turn_the_bell_is_rung_at_once(rigs):
    a, _ = rigs
    async with trio.open_nursery() as nursery:
        await waiting(nursery, a)
        a.outbox.answer(b"x")
        await settled()
        assert a.said == ["a woken"]
        nursery.cancel_scope.cancel()


async def test_a_bug_in_it_ends_that_connection_alone(rigs):
    a, b = rigs
    faults: list[Exception] = []
    a.outbox.on_fault = faults.append
    a.outbox.direct = lambda: 1 // 0  # type: ignore[assignment]
    async with trio.open_nursery() as nursery:
        await waiting(nursery, a, b)
        with a.outbound:
            a.outbox.answer(b"x")
            b.outbox.answer(b"y")
        assert [type(fault) for fault in faults] == [ZeroDivisionError]
        assert b.said == ["b y"]
        nursery.cancel_scope.cancel()


async def test_an_outbox_that_is_closed_meanwhile_wakes_its_writer(rigs):
    a, _ = rigs
    async with trio.open_nursery() as nursery:
        await waiting(nursery, a)
        with a.outbound:
            a.outbox.answer(b"x")
            a.outbox.close()
        await settled()
        assert a.said == ["a woken"]
        nursery.cancel_scope.cancel()
