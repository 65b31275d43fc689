"""Hello, heartbeats, cuts, limits on connections: a connection from its first to its last byte."""

import pytest
import structlog.testing
import trio
import trio.testing

from msg.actors.listener import Connections, open_listeners
from msg.daemon import exits
from msg.daemon.serve import exit_code
from tests.actors.kit import running, settings, settled


async def test_hello_says_who_the_broker_is(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.send(action="hello", name="me", id="h")
        frame = await client.expect("hello", server="trio-msg", protocol=1, id="h")
        assert frame["inbox"].startswith("_inbox.")
        assert frame["limits"]["frame_bytes"] == 1 << 20
        assert frame["version"]
        assert "ack_by_id" in frame["features"]
        assert "fdatasync" in frame["stored"]


async def test_each_connection_has_an_inbox_of_its_own(autojump_clock):
    async with running() as broker:
        frames = [await broker.client().ask("hello") for _ in range(3)]
        assert len({frame["inbox"] for frame in frames}) == 3


async def test_the_broker_never_speaks_first(autojump_clock):
    async with running() as broker:
        await broker.client().silence(1000)


async def test_a_heartbeat_pings_a_silent_client_and_cuts_it_after_two(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        await client.publish("jobs", 1)
        await client.subscribe("jobs", ack_timeout=0)
        await client.expect("message")
        await client.ask("hello", heartbeat=10)
        await other.subscribe("jobs")
        await client.silence(9.9)
        await client.expect("ping")
        await client.silence(9.5)
        assert await client.closed() == []
        await other.expect("message", message=1, attempt=2, returned="disconnect")


async def test_any_bytes_count_as_life(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.ask("hello", heartbeat=10)
        for _ in range(20):
            await client.silence(9)
            await client.raw(b"\n")
        await client.silence(9)
        await client.send(action="pong")
        await client.silence(9)


async def test_a_ping_that_is_answered_keeps_the_connection(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.ask("hello", heartbeat=5)
        for _ in range(10):
            await client.expect("ping")
            await client.send(action="pong")
        assert (await client.ask("ping"))["type"] == "pong"


async def test_a_cut_cable_is_found_by_the_heartbeat(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        await client.publish("jobs", 1)
        await client.subscribe("jobs", ack_timeout=0)
        await client.expect("message")
        await client.ask("hello", heartbeat=1)
        client.end.cut()
        await other.subscribe("jobs")
        await other.expect("message", message=1, attempt=2, returned="disconnect")
        assert list(broker.broker.connections.open) == [2]


async def test_a_hello_may_change_or_stop_the_heartbeat(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.ask("hello", heartbeat=1)
        await client.ask("hello", heartbeat=0)
        await client.silence(1000)
        await client.ask("hello", "error", heartbeat=0.01)


async def test_one_connection_too_many_is_told_so(autojump_clock):
    async with running(settings(limits={"connections": 2})) as broker:
        one, two = broker.client(), broker.client()
        await one.ask("ping")
        await two.ask("ping")
        three = broker.client()
        [error] = await three.closed()
        assert (error["code"], error["limit"], error["closes"], error["retry"]) == (
            "too_many", 2, True, "later",
        )  # fmt: skip
        one.close()
        await two.silence(1)
        await broker.client().ask("ping")


async def test_a_client_that_takes_no_bytes_at_its_limit_is_cut_after_30_seconds(autojump_clock):
    async with running(settings(limits={"outbound_bytes": 50_000})) as broker:
        client, other = broker.client(window=1000), broker.client()
        for n in range(20):
            await other.publish("jobs", [n, "x" * 10_000])
        await client.send(
            action="subscribe", topic="jobs", mode="queue", prefetch=20, ack_timeout=0
        )
        await other.silence(29)
        assert 1 in broker.broker.connections.open
        await other.silence(2)
        assert 1 not in broker.broker.connections.open
        await other.subscribe("jobs", prefetch=20)
        assert [m[0] for m in await other.messages(20)] == list(range(20))


async def test_a_client_within_its_limit_may_stall_for_ever(autojump_clock):
    async with running() as broker:
        client, other = broker.client(window=1000), broker.client()
        for n in range(5):
            await other.publish("jobs", [n, "x" * 1000])
        await client.send(action="subscribe", topic="jobs", mode="queue", prefetch=5, ack_timeout=0)
        await other.silence(1000)
        assert [m[0] for m in await client.messages(5)] == list(range(5))


async def test_deliveries_stop_at_the_outbound_limit_and_that_cuts_nobody(autojump_clock):
    """Bytes are credit: the rest goes to others, and comes when there is room again."""
    async with running(settings(limits={"outbound_bytes": 50_000})) as broker:
        client, other = broker.client(window=1000), broker.client()
        for n in range(20):
            await other.publish("jobs", [n, "x" * 10_000])
        await client.send(
            action="subscribe", topic="jobs", mode="queue", prefetch=20, ack_timeout=0
        )
        await other.silence(20)
        assert broker.connection(1).outbox.bytes < 70_000
        assert [m[0] for m in await client.messages(20)] == list(range(20))
        await client.silence(100)


async def test_all_outboxes_together_have_a_limit(autojump_clock):
    async with running(
        settings(limits={"outbound_bytes": 100_000, "outbound_bytes_all": 150_000})
    ) as broker:
        publisher = broker.client()
        for n in range(60):
            await publisher.publish("jobs", [n, "x" * 10_000])
        slow = [broker.client(window=1000) for _ in range(5)]
        for client in slow:
            await client.send(
                action="subscribe", topic="jobs", mode="queue", prefetch=20, ack_timeout=0
            )
        await publisher.silence(10)
        assert broker.broker.context.outbound.used < 180_000
        got = []
        async with trio.open_nursery() as nursery:

            async def read(client) -> None:
                while True:
                    frame = await client.read()
                    got.append(frame["message"][0])
                    await client.send(action="ack", tag=frame["tag"])
                    if len(got) == 60:
                        nursery.cancel_scope.cancel()

            for client in slow:
                nursery.start_soon(read, client)
        assert sorted(got) == list(range(60))


async def test_unread_answers_stop_the_reading_of_a_connection(autojump_clock):
    """A client that sends and never reads fills its own TCP window, not our memory."""
    async with running(settings(limits={"answer_bytes": 20_000})) as broker:
        client, other = broker.client(window=5000), broker.client()
        sent = 0
        with trio.move_on_after(20):
            while True:
                await client.raw(b'{"action":"ping","id":"%d"}\n' % sent)
                sent += 1
        assert sent < 20_000
        outbox = broker.connection(1).outbox
        assert outbox.answer_bytes < 200_000
        await other.ask("ping")  # nobody else minds
        answers = 0
        with trio.move_on_after(5):
            while answers < sent:
                await client.expect("pong", id=str(answers))
                answers += 1
        assert answers == sent


async def test_a_client_that_never_reads_its_answers_is_cut(autojump_clock):
    async with running(settings(limits={"answer_bytes": 20_000})) as broker:
        client, other = broker.client(window=5000), broker.client()
        with trio.move_on_after(100):
            try:
                while True:
                    await client.raw(b'{"action":"ping","id":"x"}\n' * 10)
            except trio.BrokenResourceError:
                pass
        await other.ask("ping")
        assert list(broker.broker.connections.open) == [2]


async def test_a_reset_ends_at_once(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        await client.publish("jobs", 1)
        await client.subscribe("jobs")
        await client.expect("message")
        broker.world.hold_disk()
        await client.send(action="publish", topic="jobs", mode="queue", message=2)
        await settled()
        client.reset()
        await settled()
        assert list(broker.broker.connections.open) == [2]
        broker.world.free_disk()
        await other.subscribe("jobs", prefetch=5)
        assert await other.messages(2) == [1, 2]


async def test_eof_ends_a_subscriber_too(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs")
        await client.eof()
        assert await client.closed() == []


async def test_eof_is_not_kept_waiting_by_a_client_that_does_not_read(autojump_clock):
    async with running() as broker:
        client, other = broker.client(window=100), broker.client()
        await client.send_all(*[{"action": "ping", "id": str(n)} for n in range(50)])
        await client.eof()
        await other.silence(20)
        assert list(broker.broker.connections.open) == [2]


async def test_after_eof_a_slow_client_still_reads_all(autojump_clock):
    async with running() as broker:
        client, other = broker.client(window=50_000), broker.client()
        for n in range(40):
            await other.publish("jobs", [n, "x" * 25_000])
        await client.send(action="get", topic="jobs", mode="queue", n=40, id="g")
        await client.eof()
        client.end.read_limit = 50_000
        for n in range(40):
            assert (await client.expect("message"))["message"][0] == n
            await trio.sleep(0.3)
        await client.expect("got", count=40, id="g")
        assert await client.closed() == []


@pytest.mark.parametrize("heartbeat", [0, 3])
async def test_eof_is_not_kept_waiting_by_a_topic_that_gives_more_than_is_read(
    autojump_clock, heartbeat
):
    async with running() as broker:
        client, other = broker.client(window=50_000), broker.client()
        await client.ask("hello", heartbeat=heartbeat)
        await client.subscribe("news", mode="pubsub")
        client.end.read_limit = 50_000

        async def feed() -> None:
            while True:
                for _ in range(4):
                    await other.publish("news", "x" * 25_000, mode="pubsub")
                await trio.sleep(0.5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed)
            await trio.sleep(5)
            await client.eof()
            await trio.sleep(1)
            assert 1 in broker.broker.connections.open, "it is still being written to"
            with trio.fail_after(60):
                while 1 in broker.broker.connections.open:
                    await trio.sleep(0.5)
                    with trio.move_on_after(0.1):
                        await client._fill()
            nursery.cancel_scope.cancel()


async def test_after_eof_no_heartbeat_is_missed(autojump_clock):
    """A `get` that waits is still answered; the client is pinged, and cannot say anything."""
    async with running() as broker:
        client = broker.client()
        await client.ask("hello", heartbeat=10)
        await client.send(action="get", topic="jobs", mode="queue", wait=55, id="g")
        await client.eof()
        frames = [f["type"] for f in await client.closed()]
        assert frames == ["ping"] * 5 + ["got"]


async def test_after_eof_half_a_frame_does_not_end_what_came_before_it(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.send(action="get", topic="jobs", mode="queue", wait=55, id="g")
        await client.raw(b'{"action":')
        await trio.sleep(1)
        await client.eof()
        await client.expect("error", code="bad_frame")
        await client.expect("got", count=0, id="g")
        assert await client.closed() == []


async def test_a_drain_tells_clients_takes_acks_and_refuses_publishes(autojump_clock):
    async with running(settings(drain_seconds=10.0)) as broker:
        client, other = broker.client(), broker.client()
        for n in range(3):
            await client.publish("jobs", n)
        await client.subscribe("jobs")
        await client.expect("message", message=0)
        broker.broker.drain()
        await client.expect("closing")
        assert client.seen[-1]["reason"]
        await other.expect("closing")
        await other.send(action="publish", topic="jobs", mode="queue", message=9, id="p")
        await other.expect("error", code="draining", retry="later", id="p")
        await client.silence(2)
        assert (await client.ask("ack", tag=1))["count"] == 1
        assert await client.closed() == []  # all is acked: it does not wait the rest of 10 s
        assert trio.current_time() < 5
        disk = broker.world.disk
    async with running(disk=disk) as broker:
        client = broker.client()
        await client.subscribe("jobs", prefetch=5)
        assert await client.messages(2) == [1, 2]


async def test_who_connects_during_a_drain_is_refused_at_once():
    """It would stand in the listener's backlog until the drain is over, and then be reset."""
    [listener] = await open_listeners("127.0.0.1", 0)
    port = listener.socket.getsockname()[1]
    async with running() as broker, trio.open_nursery() as nursery:
        connections = Connections(broker.broker.context, nursery)
        nursery.start_soon(connections.accept_from, listener)
        await trio.testing.wait_all_tasks_blocked()
        connections.stop_accepting()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(OSError, match="attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", port)


async def test_what_was_held_at_a_stop_comes_back_uncounted(autojump_clock):
    async with running(settings(drain_seconds=3.0)) as broker:
        client = broker.client()
        await client.publish("jobs", 0)
        await client.publish("jobs", 1, durability="os")
        await client.subscribe("jobs", prefetch=2)
        await client.messages(2)
        broker.broker.drain()
        await client.expect("closing")
        assert await client.closed() == []
        assert 2.9 < trio.current_time() < 5
        disk = broker.world.disk
    async with running(disk=disk.crash(broker.world.rng, "none")) as broker:
        client = broker.client()
        await client.subscribe("jobs", prefetch=2)
        for n in range(2):
            frame = await client.expect("message", message=n, attempt=1)
            assert "returned" not in frame


async def test_a_drain_ends_publishes_that_wait_for_room(autojump_clock):
    full = {"jobs": {"max_messages": 1, "overflow": "block"}}
    async with running(settings(drain_seconds=10.0, queues=full)) as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.send(action="publish", topic="jobs", mode="queue", message=2, id="p")
        await settled()
        broker.broker.drain()
        frames = await client.closed()
        assert [(f["type"], f.get("code"), f.get("id")) for f in frames] in (
            [("closing", None, None), ("error", "draining", "p")],
            [("error", "draining", "p"), ("closing", None, None)],
        )
        assert trio.current_time() < 5  # it waits for no room


async def test_a_drain_ends_gets_that_wait(autojump_clock):
    async with running(settings(drain_seconds=10.0)) as broker:
        client = broker.client()
        await client.send(action="get", topic="jobs", wait=1000, id="g")
        await settled()
        broker.broker.drain()
        frames = await client.closed()
        assert {f["type"] for f in frames} == {"closing", "got"}
        assert trio.current_time() < 5


async def test_a_subscribe_while_draining_is_answered_and_gets_nothing(autojump_clock):
    async with running(settings(drain_seconds=5.0)) as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.publish("jobs", 2)
        await client.subscribe("jobs")
        await client.expect("message")
        broker.broker.drain()
        await client.expect("closing")
        await client.subscribe("jobs", sub="2")
        await client.silence(1)


async def test_a_host_that_cannot_be_listened_on_is_named():
    with pytest.raises(OSError, match=r"cannot listen on no such host: .*known"):
        await open_listeners("no such host", 0)


async def test_a_port_that_is_taken_is_named_without_the_systems_number():
    [listener] = await open_listeners("127.0.0.1", 0)
    async with listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(OSError, match="cannot listen on") as taken:
            await open_listeners("127.0.0.1", port)
    with structlog.testing.capture_logs() as logs:
        assert exit_code(taken.value) == exits.UNAVAILABLE
    assert logs[0]["error"] == f"cannot listen on 127.0.0.1:{port}: Address already in use"
