"""Framing, answers and the end of a connection, as a client meets them."""

import json

from tests.actors.kit import running, settings


async def test_a_frame_needs_no_newline_and_several_may_come_at_once(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.raw(b'{"action":"ping"}{"action":"ping","id":"2"}\n\r\n{"action":"pi')
        await client.expect("pong")
        await client.expect("pong", id="2")
        await client.raw(b'ng","id":"3"}')
        await client.expect("pong", id="3")


async def test_answers_end_in_one_newline_and_have_no_blanks(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.raw(b'{"action":"ping","id":"x"}')
        assert await client.stream.receive_some() == b'{"type":"pong","id":"x"}\n'


async def test_what_was_sent_before_eof_is_executed_and_answered(autojump_clock):
    """`echo '{"action":"publish",…}' | nc -N localhost 8888`."""
    async with running() as broker:
        client = broker.client()
        broker.world.hold_disk()
        await client.send(action="publish", topic="jobs", mode="queue", message=1)
        await client.eof()
        await client.silence(3)
        broker.world.free_disk()
        frames = await client.closed()
        assert [frame["type"] for frame in frames] == ["ack"]
        other = broker.client()
        await other.subscribe("jobs")
        await other.expect("message", message=1)


async def test_leases_return_after_eof_when_all_is_answered(autojump_clock):
    async with running() as broker:
        one, two = broker.client(), broker.client()
        await one.publish("jobs", 1)
        await one.subscribe("jobs")
        await two.subscribe("jobs")
        await one.expect("message", attempt=1)
        await one.eof()
        assert await one.closed() == []
        await two.expect("message", message=1, attempt=2, returned="disconnect")


async def test_eof_inside_a_frame_is_answered_and_ends(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.raw(b'{"action":"ping"}\n{"action":"pi')
        await client.eof()
        frames = await client.closed()
        assert [f["type"] for f in frames] == ["pong", "error"]
        assert frames[1]["code"] == "bad_frame"
        assert frames[1]["closes"] is True


async def test_a_partial_frame_lives_for_30_seconds(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.raw(b'{"action":"ping"}{"action":')
        await client.expect("pong")
        await client.silence(29)
        await client.raw(b'"pi')  # more of it does not prolong it
        [error] = await client.closed()
        assert (error["code"], error["closes"]) == ("bad_frame", True)


async def test_a_partial_frame_that_is_completed_in_time_is_a_frame(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.raw(b'{"action":"ping","id":')
        await client.silence(29)
        await client.raw(b'"a"}{"action":')
        await client.expect("pong", id="a")
        await client.silence(29)  # the next one has its own 30 s
        await client.raw(b'"ping","id":"b"}')
        await client.expect("pong", id="b")
        await client.silence(100)


async def test_deliveries_go_on_while_a_frame_is_partial(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        await client.subscribe("jobs")
        await client.raw(b'{"action":')
        await other.publish("jobs", 1)
        await client.expect("message", message=1)
        await client.raw(b'"ack","tag":1,"id":"a"}')
        await client.expect("acked", id="a", count=1)


async def test_a_broken_frame_without_its_newline_is_given_one_second(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.raw(b'{"action":"ping"}')
        await client.expect("pong")
        await client.raw(b'{"action":ping}')
        await client.silence(0.9)
        [error] = await client.closed()
        assert (error["code"], error["closes"]) == ("bad_frame", True)


async def test_a_broken_frame_with_its_newline_costs_only_itself(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.raw(b'{"action":"ping"}\n{"action":ping}\n{"action":"ping","id":"after"}\n')
        await client.expect("pong")
        await client.expect("error", code="bad_frame", closes=False)
        await client.expect("pong", id="after")


async def test_a_first_frame_that_is_no_json_closes_and_nothing_after_it_is_done(autojump_clock):
    async with running() as broker:
        client = broker.client()
        publish = json.dumps({"action": "publish", "topic": "a", "mode": "queue", "message": 1})
        await client.raw(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n" + publish.encode())
        [error] = await client.closed()
        assert (error["code"], error["closes"], error["retry"]) == ("bad_frame", True, "never")
        assert broker.broker.directory.queues == {}


async def test_an_unknown_action_never_closes_even_first(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.send(action="dance", id="1")
        await client.expect("error", code="unknown_action", closes=False, id="1")
        await client.send(action="publish", id="2")
        await client.expect("error", code="bad_field", closes=False, id="2")
        await client.send(action="ping", id="3")
        await client.expect("pong", id="3")


async def test_the_hundredth_error_in_a_row_closes(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.raw(b'{"action":"x"}\n' * 99 + b'{"action":"ping"}\n')
        for _ in range(99):
            await client.expect("error", code="unknown_action", closes=False)
        await client.expect("pong")
        await client.raw(b'{"action":"x"}\n' * 101)
        errors = await client.closed()
        assert len(errors) == 100
        assert [e["closes"] for e in errors] == [False] * 99 + [True]


async def test_a_frame_over_the_limit_closes(autojump_clock):
    async with running(settings(limits={"frame_bytes": 2000})) as broker:
        client = broker.client()
        await client.send(action="publish", topic="a", mode="queue", message="x" * 1800)
        await client.expect("ack")
        await client.send(action="publish", topic="a", mode="queue", message="x" * 2800)
        [error] = await client.closed()
        assert (error["code"], error["limit"], error["closes"]) == ("too_large", 2000, True)


async def test_the_client_may_read_the_error_although_it_has_sent_more(autojump_clock):
    """Closing with unread bytes would reset the connection under the answer."""
    async with running() as broker:
        client = broker.client()
        await client.raw(b"GET / HTTP/1.1\n" + b"x" * 200_000)
        [error] = await client.closed()
        assert error["code"] == "bad_frame"


async def test_an_id_is_repeated_by_exactly_one_answer(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.send_all(
            {"action": "publish", "topic": "q", "mode": "queue", "message": 1, "id": "p"},
            {"action": "subscribe", "topic": "q", "mode": "queue", "id": "s"},
            {"action": "ping", "id": "pi"},
            {"action": "hello", "id": "h"},
            {"action": "declare", "topic": "q", "mode": "queue", "id": "d"},
            {"action": "stats", "id": "st"},
            {"action": "get", "topic": "other", "id": "g"},
            {"action": "ack", "tag": 77, "id": "a"},
            {"action": "nack", "tag": 78, "id": "n"},
            {"action": "touch", "tag": 79, "id": "t"},
            {"action": "unsubscribe", "topic": "q", "mode": "queue", "id": "u"},
            {"action": "nonsense", "id": "e"},
        )
        await client.eof()
        ids = [frame.get("id") for frame in await client.closed() if frame["type"] != "message"]
        assert sorted(ids) == sorted(["p", "s", "pi", "h", "d", "st", "g", "a", "n", "t", "u", "e"])


async def test_without_an_id_only_publishes_and_faults_are_answered(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.send_all(
            {"action": "subscribe", "topic": "q", "mode": "queue"},
            {"action": "publish", "topic": "other", "mode": "queue", "message": 1},
        )
        await client.expect("ack")
        await client.send_all({"action": "unsubscribe", "topic": "q", "mode": "queue"})
        await client.send(action="ack", tag=9)
        error = await client.expect("error", code="not_held")
        assert "id" not in error
        await client.silence()


async def test_an_id_may_be_any_128_printable_bytes(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for id_ in ('"\\', "é" * 64, "x" * 128, "%d%s"):
            await client.send(action="ping", id=id_)
            await client.expect("pong", id=id_)
        for id_ in ("", "x" * 129, "é" * 65, "a\nb", 7):
            await client.send(action="ping", id=id_)
            error = await client.expect("error", code="bad_field")
            assert "id" not in error
