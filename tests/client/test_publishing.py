"""Publishing: what a receipt says, how far ahead it goes, and what a refusal does."""

import anyio
import attrs
import pytest

from msg.client import (
    Closed,
    IdConflict,
    Outgoing,
    Published,
    PublishFailed,
    QueueFull,
    Receipt,
    Refused,
    connect,
)
from msg.client.client import ConnectOptions, Options
from tests.client.kit import Stage, both, until


@both
async def test_a_publish_is_kept_and_its_receipt_names_it(msg_broker):
    async with msg_broker.connect() as client:
        receipt = await client.send("jobs", {"n": 1}, headers={"h": "v"})
        assert msg_broker.queue("jobs").ready[0].message_id == receipt.message_id
        assert msg_broker.queue("jobs").ready[0].headers == {"h": "v"}
        assert await client.send("jobs", 2, message_id="two") == Receipt("two")
        assert await client.send("jobs", 2, message_id="two") == Receipt("two", duplicate=True)
        assert (await client.publish("news", "x")).receivers == 0
    assert msg_broker.queue("jobs").bodies == [{"n": 1}, 2]


@both
async def test_refusals_are_exceptions_with_the_wires_code(msg_broker):
    msg_broker.configure(queues={"small": {"max_messages": 1}})
    async with msg_broker.connect() as client:
        await client.send("small", 1)
        with pytest.raises(QueueFull) as full:
            await client.send("small", 2)
        assert (full.value.code, full.value.retry) == ("queue_full", "later")
        assert full.value.message_id is not None
        with pytest.raises(Refused) as bad:
            await client.publish("no blanks", 1)
        assert (bad.value.code, bad.value.retry) == ("bad_name", "never")
        await client.send("jobs", 1, message_id="one")
        with pytest.raises(IdConflict):
            await client.send("jobs", "another body", message_id="one")
        with pytest.raises(TypeError, match="JSON"):
            await client.send("jobs", object())
        assert await client.send("jobs", "still there")


@both
async def test_fields_of_a_publish_reach_the_consumer(msg_broker):
    async with msg_broker.connect() as client:
        await client.send(
            "jobs",
            b"\x00\xff",
            headers={"a": "b"},
            priority=9,
            ttl=60,
            durability="memory",
            reply_to="back",
            correlation_id="c1",
        )
        [message] = await client.get("jobs")
        assert message.body == b"\x00\xff"
        assert (message.headers, message.reply_to, message.correlation_id) == (
            {"a": "b"}, "back", "c1",
        )  # fmt: skip
        assert message.published.tzinfo is not None
        await message.ack()


@both
async def test_publish_many_keeps_the_order_and_counts(msg_broker):
    async with msg_broker.connect(window=50) as client:
        told: list[int] = []
        done = await client.publish_many("jobs", range(1000), mode="queue", on_progress=told.append)
        assert done == Published(1000)
        assert told == sorted(told)
        assert told[-1] == 1000
        assert msg_broker.queue("jobs").bodies == list(range(1000))
        assert (await client.publish_many("jobs", [], mode="queue")).count == 0
        assert (await client.publish_many("news", [1, 2])).unheard == 2


@both
async def test_publish_many_takes_no_more_of_its_input_than_the_window_has_bytes_for():
    stage, taken = Stage(), 0

    def bodies():
        nonlocal taken
        for _ in range(200):
            taken += 1
            yield "x" * 10_000

    async with stage.connect(window_bytes=100_000) as client, anyio.create_task_group() as tasks:
        await stage.accepted()
        tasks.start_soon(client.publish_many, "jobs", bodies())
        for many, total in ((16, 16), (10, 26)):  # of the first ones nothing is known
            heard = [await stage.heard() for _ in range(many)]
            await until(lambda: client._publisher._room is not None)  # it waits for answers
            assert taken == total
            await stage.say(*({"type": "ack", "message_id": f["message_id"]} for f in heard))
        tasks.cancel_scope.cancel()


@both
async def test_publish_many_takes_async_input_and_items_with_ids(msg_broker):
    async def items():
        for n in range(3):
            await anyio.lowlevel.checkpoint()
            yield Outgoing(n, message_id=f"id-{n}", headers={"n": str(n)}, priority=n)
        yield Outgoing(2, message_id="id-2")
        yield b"bytes"

    async with msg_broker.connect() as client:
        done = await client.publish_many("jobs", items(), mode="queue", priority=1)
        assert done == Published(5, duplicates=1)
        letters = msg_broker.queue("jobs").ready
        assert [(m.message_id, m.headers) for m in letters[:1]] == [("id-2", {"n": "2"})]
        assert len(letters) == 4


@both
async def test_publish_many_tells_which_were_refused(msg_broker):
    msg_broker.configure(queues={"small": {"max_messages": 10}})
    async with msg_broker.connect(window=5) as client:
        with pytest.raises(PublishFailed) as failed:
            await client.publish_many("small", range(100), mode="queue")
        assert failed.value.accepted == 10
        assert min(failed.value.failures) == 10
        assert isinstance(failed.value.failures[10], QueueFull)
        # nothing behind what was on its way, and nothing is left behind
        assert max(failed.value.failures) < 20
        assert len(client._publisher) == 0


@both
async def test_a_body_that_cannot_be_sent_ends_publish_many_cleanly(msg_broker):
    async with msg_broker.connect() as client:
        with pytest.raises(TypeError):
            await client.publish_many("jobs", [1, object(), 3], mode="queue")
        assert len(client._publisher) == 0
        await client.send("jobs", "later")


@both
async def test_two_publishes_under_one_id_go_one_after_the_other():
    stage = Stage()
    async with stage.connect() as client, anyio.create_task_group() as tasks:
        receipts: list[Receipt] = []

        async def publish(topic: str) -> None:
            receipts.append(await client.publish(topic, 1, message_id="same"))

        await stage.accepted()
        tasks.start_soon(publish, "a")
        first = await stage.heard()
        tasks.start_soon(publish, "b")
        await anyio.wait_all_tasks_blocked()
        await stage.say({"type": "ack", "message_id": "same", "duplicate": True})
        second = await stage.heard()
        await stage.say({"type": "ack", "message_id": "same"})
        assert {first["topic"], second["topic"]} == {"a", "b"}
        with anyio.fail_after(5):
            while len(receipts) < 2:
                await anyio.lowlevel.checkpoint()
        assert [receipt.duplicate for receipt in receipts] == [True, False]


@both
async def test_the_window_bounds_what_is_unconfirmed():
    stage = Stage()
    async with stage.connect(window=10, window_bytes=100_000) as client:
        await stage.accepted()
        async with anyio.create_task_group() as tasks:

            async def publish() -> None:
                await client.publish_many("jobs", range(100), mode="queue")
                tasks.cancel_scope.cancel()

            tasks.start_soon(publish)
            await anyio.wait_all_tasks_blocked()
            assert len(client._publisher) == 10
            confirmed = 0
            while confirmed < 100:
                frame = await stage.heard()
                assert len(client._publisher) <= 10
                confirmed += 1
                await stage.say({"type": "ack", "message_id": frame["message_id"]})
        assert len(client._publisher) == 0


@both
async def test_large_messages_are_bounded_in_bytes():
    stage = Stage()
    async with stage.connect(window_bytes=10_000) as client:
        await stage.accepted()
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(client.publish, "jobs", "x" * 4000)
            await anyio.wait_all_tasks_blocked()
            assert len(client._publisher) == 2
            for _ in range(5):
                frame = await stage.heard()
                await stage.say({"type": "ack", "message_id": frame["message_id"]})
            # one that is larger than the window goes alone
            tasks.start_soon(client.publish, "jobs", "x" * 20_000)
            frame = await stage.heard()
            await stage.say({"type": "ack", "message_id": frame["message_id"]})


@both
async def test_a_cancelled_publish_is_forgotten():
    stage = Stage()
    async with stage.connect() as client:
        await stage.accepted()
        with anyio.move_on_after(0.01):
            await client.publish("jobs", 1)
        assert len(client._publisher) == 0
        with anyio.move_on_after(0.01):
            await client.publish_many("jobs", range(10))
        assert len(client._publisher) == 0
        # answers to what was cancelled harm nobody
        for _ in range(11):
            frame = await stage.heard()
            await stage.say({"type": "ack", "message_id": frame["message_id"]})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.publish, "jobs", 2)
            frame = await stage.heard()
            assert frame["message"] == 2
            await stage.say({"type": "ack", "message_id": frame["message_id"]})


@both
async def test_one_refusal_in_a_pipeline_is_its_own():
    stage = Stage()
    async with stage.connect() as client:
        await stage.accepted()
        outcomes: dict[int, object] = {}

        async def publish(n: int) -> None:
            try:
                outcomes[n] = await client.publish("jobs", n)
            except Refused as error:
                outcomes[n] = error.code

        async with anyio.create_task_group() as tasks:
            for n in range(3):
                tasks.start_soon(publish, n)
            frames = [await stage.heard() for _ in range(3)]
            for frame in frames:
                answer = {"message_id": frame["message_id"]}
                if frame["message"] == 1:
                    answer |= {"type": "error", "code": "queue_full", "error": "Full."}
                else:
                    answer |= {"type": "ack"}
                await stage.say(answer)
        assert outcomes[1] == "queue_full"
        assert all(isinstance(outcomes[n], Receipt) for n in (0, 2))


@both
async def test_a_client_is_entered_once_and_used_inside():
    client = connect("msg://nowhere.test")
    with pytest.raises(Closed, match="enter"):
        await client.publish("a", 1)
    stage = Stage()
    async with stage.connect() as client:
        pass
    with pytest.raises(Closed):
        await client.publish("a", 1)
    with pytest.raises(Closed):
        async with client:
            pass


@both
async def test_a_client_shows_what_state_it_is_in(msg_broker):
    client = msg_broker.connect(name="shop")
    assert repr(client) == "<msg.Client shop of msg-broker.test:8888, not entered>"
    async with client:
        assert repr(client).endswith(", connected>")
    assert repr(client).endswith(", over: this client was closed>")


def test_options_that_are_none_are_refused_with_the_one_that_was_meant():
    with pytest.raises(TypeError, match=r"connect\(\) has no option 'nmae'; did you mean 'name'\?"):
        connect("localhost", nmae="shop")


def test_the_options_that_type_checkers_know_are_all_there_are():
    known = set(ConnectOptions.__annotations__)
    assert {field.name for field in attrs.fields(Options)} - known == {"host", "port"}
    words = connect.__doc__.partition("Options:")[2].replace(",", " ").split()
    assert [name for name in sorted(known) if name not in words] == []
