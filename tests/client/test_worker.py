"""run_worker: handlers side by side, and that it stops gracefully."""

import logging
import os
import signal

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing

from msg.client import Refused, Reject, Retry, Unsubscribed
from tests.client.kit import both, until


@both
async def test_handlers_run_side_by_side_and_ack(msg_broker):
    together, most = 0, 0
    stop = anyio.Event()

    async def handle(message) -> None:
        nonlocal together, most
        together += 1
        most = max(most, together)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        together -= 1
        if message.body == 19:
            stop.set()

    async with msg_broker.connect() as client:
        await client.publish_many("jobs", range(20), mode="queue")
        await client.run_worker("jobs", handle, concurrency=4, stop=stop)
    assert most == 4
    queue = msg_broker.queue("jobs")
    assert queue.settled + len(queue.ready) == 20
    assert queue.settled >= 17


@both
async def test_a_handlers_errors_are_the_messages_and_not_the_workers(msg_broker, caplog):
    msg_broker.configure(queues={"jobs": {"max_deliveries": 2, "backoff": [0]}})
    stop, seen = anyio.Event(), []

    async def handle(message) -> None:
        seen.append((message.body, message.attempt))
        match message.body:
            case "bad":
                raise ValueError("bad input")
            case "hopeless":
                raise Reject("no such customer")
            case "busy" if message.attempt == 1:
                raise Retry("locked", delay=0)
            case "last":
                stop.set()

    async with msg_broker.connect() as client:
        await client.publish_many("jobs", ["bad", "hopeless", "busy"], mode="queue")
        with caplog.at_level(logging.INFO, logger="msg.client"):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: client.run_worker("jobs", handle, stop=stop))
                await until(lambda: len(seen) == 5)
                await client.send("jobs", "last")
    assert sorted(seen) == [
        ("bad", 1), ("bad", 2), ("busy", 1), ("busy", 2), ("hopeless", 1), ("last", 1),
    ]  # fmt: skip
    reasons = {letter.body: letter.reason for letter in msg_broker.queue("jobs").dead}
    assert reasons == {"bad": "ValueError: bad input", "hopeless": "no such customer"}
    # the traceback is in the log, once for each attempt that failed, and of no verdict
    assert caplog.text.count("Traceback") == 2


@both
async def test_at_its_end_what_runs_finishes_and_what_waits_goes_back(msg_broker):
    stop, begun, go_on, finished = anyio.Event(), anyio.Event(), anyio.Event(), []

    async def handle(message) -> None:
        begun.set()
        await go_on.wait()
        finished.append(message.body)

    async with msg_broker.connect() as client, anyio.create_task_group() as tasks:
        await client.publish_many("jobs", range(10), mode="queue")
        tasks.start_soon(lambda: client.run_worker("jobs", handle, stop=stop, prefetch=5))
        await begun.wait()
        stop.set()
        await until(lambda: msg_broker.queue("jobs").bodies == list(range(1, 10)))
        assert finished == []
        go_on.set()
    assert finished == [0]
    queue = msg_broker.queue("jobs")
    assert (queue.settled, queue.bodies) == (1, list(range(1, 10)))
    assert all(letter.attempt == 1 for letter in queue.ready)


async def test_after_its_grace_what_runs_is_cancelled(msg_broker, msg_clock):
    stop, begun = anyio.Event(), anyio.Event()

    async def handle(message) -> None:
        begun.set()
        await anyio.sleep_forever()

    async with msg_broker.connect() as client:
        await client.send("jobs", 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.run_worker("jobs", handle, stop=stop, grace=7))
            await begun.wait()
            stop.set()
            began = trio.current_time()
        assert trio.current_time() - began == 7
        assert [m.attempt for m in await client.get("jobs")] == [1]


async def test_a_handler_of_any_length_keeps_its_message(msg_broker, msg_clock):
    stop = anyio.Event()

    async def handle(message) -> None:
        await anyio.sleep(30)
        stop.set()

    async with msg_broker.connect() as client:
        await client.send("jobs", 1)
        await client.run_worker("jobs", handle, stop=stop, ack_timeout=2, grace=1)
    assert (msg_broker.queue("jobs").settled, msg_broker.queue("jobs").ready) == (1, ())


@both
async def test_a_group_of_a_topic_has_workers_too(msg_broker):
    stop, seen = anyio.Event(), []

    async def handle(message) -> None:
        seen.append(message.body)
        stop.set()

    async with msg_broker.connect() as client, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: client.run_worker("news.*", handle, group="mail", stop=stop))
        await until(lambda: msg_broker.queue("news.*@mail").exists)
        await client.publish("news.sport", "Cup")
    assert seen == ["Cup"]
    assert msg_broker.queue("news.*@mail").settled == 1


@both
async def test_what_the_broker_has_against_it_ends_it(msg_broker):
    async def handle(_message) -> None: ...

    async with msg_broker.connect() as client:
        with pytest.raises(Refused) as caught:
            await client.run_worker("no name", handle)
        assert caught.value.code == "bad_name"
        with pytest.raises(ValueError, match="at least 1"):
            await client.run_worker("jobs", handle, concurrency=0)
        async with anyio.create_task_group() as tasks:

            async def work() -> None:
                with pytest.raises(Unsubscribed, match="deleted"):
                    await client.run_worker("jobs", handle)

            tasks.start_soon(work)
            await until(lambda: msg_broker.queue("jobs").consumers)
            await client.ask("delete", topic="jobs", mode="queue")


@both
async def test_signals_stop_all_workers_of_a_client_and_are_then_as_before(msg_broker):
    before = signal.getsignal(signal.SIGTERM)
    finished, begun = [], []
    async with msg_broker.connect() as client:

        async def handle(message) -> None:
            begun.append(1)
            await until(lambda: told)
            finished.append(message.body)

        told: list[int] = []

        def hear() -> None:
            told.append(1)

        async with anyio.create_task_group() as tasks:
            for queue in ("jobs", "mails"):
                await client.send(queue, queue)
                tasks.start_soon(client.run_worker, queue, handle)
            await until(lambda: len(begun) == 2)
            await until(lambda: len(client._stops) == 2)
            await until(lambda: signal.getsignal(signal.SIGTERM) != before)
            client.on_signals(hear)
            os.kill(os.getpid(), signal.SIGTERM)
        client.off_signals(hear)
        await until(lambda: signal.getsignal(signal.SIGTERM) == before)
        assert client.counts.settlements_failed == 0
    assert sorted(finished) == ["jobs", "mails"]
