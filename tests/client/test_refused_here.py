"""What the broker could refuse only without saying to whom: it is refused on this side.

Its error would name no id, and who waits for the answer would wait for ever; for a line that
is too long it ends the connection, which came back with the same line again and again.
"""

from math import inf, nan
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from msg.client import Outgoing, PublishFailed, Refused
from msg.client import link as link_module
from tests.client.kit import Stage, both, until


def nested(levels: int) -> Any:
    body: Any = 1
    for _ in range(levels):
        body = [body]
    return body


@both
async def test_a_body_that_is_too_large_is_refused_and_the_connection_stays(msg_broker):
    async with msg_broker.connect() as client:
        with pytest.raises(Refused, match="1,048,576 bytes") as refused:
            await client.send("jobs", "x" * (1 << 20))
        assert refused.value.code == "too_large"
        with pytest.raises(PublishFailed) as failed:
            await client.publish_many("jobs", [1, "x" * (1 << 20)], mode="queue")
        assert [(p, e.code) for p, e in failed.value.failures.items()] == [(1, "too_large")]
        with pytest.raises(Refused, match="1,048,576 bytes"):
            await client.ask("stats", name="x" * (1 << 20))
        with pytest.raises(Refused, match="1,048,576 bytes"):
            await client.subscribe("x" * (1 << 20)).open()
        assert client.counts.connections == 1
    assert msg_broker.queue("jobs").bodies == [1]


@both
async def test_the_largest_frame_that_the_broker_takes_is_sent(msg_broker):
    async with msg_broker.connect() as client:
        sizes = []
        for message_id in ("a", "b"):  # the second is one byte too long
            frame = (
                b'{"action":"publish","topic":"jobs","mode":"queue","message_id":"a","message":""}'
            )
            sizes.append((1 << 20) - len(frame) + len(sizes))
            try:
                await client.send("jobs", "x" * sizes[-1], message_id=message_id)
            except Refused as error:
                assert (message_id, error.code) == ("b", "too_large")
            else:
                assert message_id == "a"
        assert client.counts.connections == 1


@both
async def test_a_body_that_is_too_large_is_refused_when_the_connection_comes_back():
    stage = Stage(greet=False)
    limits = {"type": "hello", "id": "hello", "limits": {"frame_bytes": 1000}}
    async with anyio.create_task_group() as tasks:

        async def greet() -> None:
            await stage.accepted()
            await stage.say(limits)

        tasks.start_soon(greet)
        async with stage.connect() as client:
            await stage.hang_up()
            await until(lambda: not client.connected)
            tasks.start_soon(greet)
            with pytest.raises(Refused, match="1,000 bytes"):
                await client.publish("news", "x" * 1000)


@both
async def test_a_body_that_is_too_deep_is_refused(msg_broker):
    async with msg_broker.connect() as client:
        await client.send("jobs", nested(63))
        with pytest.raises(Refused, match="64 deep"):
            await client.send("jobs", nested(64))
        with pytest.raises(Refused, match="64 deep"):
            await client.ask("stats", options=nested(64))
        await client.send("jobs", "[" * 100)
    assert len(msg_broker.queue("jobs").bodies) == 2


@both
@pytest.mark.parametrize("message_id", ["x" * 129, "two\nlines", "é" * 65])
async def test_an_id_that_is_none_is_refused(msg_broker, message_id):
    async with msg_broker.connect() as client:
        with pytest.raises(Refused, match="message_id"):
            await client.send("jobs", 1, message_id=message_id)
        with pytest.raises(Refused, match="message_id"):
            await client.publish_many("jobs", [Outgoing(1, message_id)], mode="queue")
        assert await client.get("jobs") == []


@both
@pytest.mark.parametrize("seconds", [nan, inf])
async def test_a_time_that_json_cannot_say_is_no_time_at_all(msg_broker, seconds):
    async with msg_broker.connect() as client:
        with pytest.raises(ValueError, match="JSON"):
            await client.send("jobs", 1, delay=seconds)
        with pytest.raises(ValueError, match="JSON"):
            await client.get("jobs", wait=seconds)
        with pytest.raises(ValueError, match="JSON"):
            await client.consume("jobs", ack_timeout=seconds).open()
        assert await client.get("jobs") == []


@both
async def test_a_lost_connection_with_a_full_buffer_does_not_stop_the_loop(monkeypatch):
    monkeypatch.setattr(link_module, "BUFFER_BYTES", 1000)
    stage = Stage()
    async with stage.connect() as client, anyio.create_task_group() as tasks:
        await stage.accepted()
        link = client.link
        assert link is not None

        async def send(_: bytes) -> None:
            await anyio.sleep_forever()  # a broker that does not read

        monkeypatch.setattr(link.stream, "send", send)
        tasks.start_soon(client.publish_many, "jobs", ["x" * 100] * 600)
        await until(lambda: link.full)
        for _ in range(10):  # it waits for room now
            await anyio.lowlevel.checkpoint()
        await stage.hang_up()
        await stage.accepted()
        for _ in range(600):
            frame = await stage.heard()
            await stage.say({"type": "ack", "message_id": frame["message_id"]})


@both
async def test_draining_does_not_hide_that_a_publish_was_sent_before():
    stage = Stage()
    async with stage.connect() as client, anyio.create_task_group() as tasks:
        failures: list[Exception] = []

        async def publish() -> None:
            try:
                await client.send("jobs", 1)
            except Exception as error:
                failures.append(error)

        await stage.accepted()
        tasks.start_soon(publish)
        frame = await stage.heard()  # and kept, perhaps
        await stage.hang_up()
        await stage.accepted()
        assert await stage.heard() == frame
        await stage.say(
            {"type": "error", "code": "draining", "error": "no", "message_id": frame["message_id"]}
        )
        client._publisher.resend_s = -1  # meanwhile the broker's window has passed
        await stage.hang_up()
        await stage.accepted()
        await until(lambda: failures)
        assert "might be there twice" in str(failures[0])
