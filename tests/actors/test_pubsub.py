"""Topics over the wire: fan-out, wildcards, backlog, history, retained values, slow subscribers."""

import pytest
import trio

from msg.actors.ports import TopicPort
from msg.core.topic import TopicRules
from tests.actors.kit import Client, running, settings, settled
from tests.actors.test_crash import CRASHED, Plant


async def pub(client: Client, topic: str, message: object, **more) -> dict:
    return await client.publish(topic, message, mode="pubsub", **more)


async def sub(client: Client, topic: str, **more) -> dict:
    return await client.subscribe(topic, mode="pubsub", **more)


async def test_every_subscription_gets_each_message_once_in_order(autojump_clock):
    async with running() as broker:
        clients = [broker.client() for _ in range(3)]
        for client in clients:
            await sub(client, "news")
        publisher = broker.client()
        for n in range(20):
            await pub(publisher, "news", n)
        for client in clients:
            assert await client.messages(20) == list(range(20))
            frame = client.seen[-1]
            assert frame.keys() == {"type", "topic", "message_id", "message", "published_at"}
            await client.silence(1)


async def test_pubsub_is_the_default_mode(autojump_clock):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        await client.send(action="subscribe", topic="news")
        await settled()
        await publisher.send(action="publish", topic="news", message={"a": 1})
        await publisher.expect("ack")
        await client.expect("message", topic="news", message={"a": 1})


async def test_a_publish_that_nobody_hears_says_so(autojump_clock):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        assert (await pub(publisher, "news", 1, ttl=0))["receivers"] == 0
        await sub(client, "news")
        assert "receivers" not in await pub(publisher, "news", 2)


async def test_a_publisher_hears_itself_if_it_subscribes(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await sub(client, "news")
        await client.send(action="publish", topic="news", message=1)
        assert {(await client.read())["type"] for _ in range(2)} == {"ack", "message"}


async def test_wildcards_one_token_and_the_rest(autojump_clock):
    async with running() as broker:
        star, rest, deep, publisher = (broker.client() for _ in range(4))
        await sub(star, "a.*")
        await sub(rest, "a.>")
        await sub(deep, "*.b.>")
        for topic in ("a", "a.b", "a.b.c", "x.b.c.d", "b.a"):
            await pub(publisher, topic, topic)
        assert await star.messages(1) == ["a.b"]
        assert await rest.messages(2) == ["a.b", "a.b.c"]
        assert await deep.messages(2) == ["a.b.c", "x.b.c.d"]
        for client in (star, rest, deep):
            await client.silence(1)
        assert star.seen[-1]["topic"] == "a.b"


async def test_one_copy_per_subscription_and_one_per_connection_that_has_two(autojump_clock):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        await sub(client, "a.b", sub="exact")
        await sub(client, "a.*", sub="star")
        await pub(publisher, "a.b", 1)
        frames = [await client.expect("message", message=1) for _ in range(2)]
        assert {f["sub"] for f in frames} == {"exact", "star"}
        await client.silence(1)


async def test_the_same_subscription_twice_is_one(autojump_clock):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        for topic in ("news", "n.*"):
            await sub(client, topic)
            await sub(client, topic)
        await pub(publisher, "news", 1)
        await pub(publisher, "n.x", 2)
        assert await client.messages(2) == [1, 2]
        await client.silence(1)


@pytest.mark.parametrize("pattern", ["news", "n.*"])
async def test_two_requests_for_one_subscription_are_answered_in_order(autojump_clock, pattern):
    async with running() as broker:
        client = broker.client()
        await client.send_all(
            *[{"action": "subscribe", "topic": pattern, "id": id_} for id_ in "abc"]
        )
        for id_ in "abc":
            await client.expect("subscribed", id=id_)
        await client.silence(1)


async def test_names_of_the_broker_are_not_matched_by_wildcards(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        await sub(client, ">")
        inbox = (await other.ask("hello"))["inbox"]
        await sub(other, f"{inbox}.>")
        await pub(client, f"{inbox}.1", "private")
        await other.expect("message", message="private")
        await client.silence(1)


async def test_an_inbox_is_heard_by_its_own_connection_only_and_keeps_nothing(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        inbox = (await client.ask("hello"))["inbox"]
        for topic in (f"{inbox}.x", f"{inbox}.>", "_inbox.>"):
            await other.send(action="subscribe", topic=topic, id="s")
            await other.expect("error", code="forbidden", id="s")
        await pub(other, f"{inbox}.x", "lost")
        await sub(client, f"{inbox}.x")
        await client.silence(1)
        await pub(other, f"{inbox}.x", "heard")
        await client.expect("message", message="heard")


async def test_nobody_gets_at_an_inbox_by_a_group_a_queue_or_a_declaration(autojump_clock):
    async with running() as broker:
        client, other = broker.client(), broker.client()
        inbox = (await client.ask("hello"))["inbox"]
        for asked in (
            {"action": "subscribe", "topic": inbox, "group": "g"},
            {"action": "subscribe", "topic": "_inbox.>", "group": "g"},
            {"action": "subscribe", "topic": "_inbox.>@g"},
            {"action": "subscribe", "topic": inbox, "mode": "queue"},
            {"action": "subscribe", "topic": "$sys", "mode": "queue"},
            {"action": "get", "topic": inbox, "group": "g"},
            {"action": "get", "topic": "_jobs"},
            {"action": "declare", "topic": "_inbox.>", "group": "g"},
            {"action": "declare", "topic": inbox, "mode": "pubsub"},
            {"action": "declare", "topic": "_jobs"},
        ):
            refused = await other.ask(**asked)
            assert (refused["type"], refused.get("code")) == ("error", "forbidden"), asked
        await sub(other, ">", group="g")  # which does not match it
        await sub(client, f"{inbox}.>")
        await pub(other, f"{inbox}.x", "private")
        await client.expect("message", message="private")
        await other.silence(1)
        assert not broker.broker.directory.queues.keys() - {">@g"}


async def test_a_request_and_its_answer_by_inbox(autojump_clock):
    async with running() as broker:
        asker, server = broker.client(), broker.client()
        await sub(server, "service")
        inbox = (await asker.ask("hello"))["inbox"]
        await sub(asker, f"{inbox}.>")
        await pub(asker, "service", "q", reply_to=f"{inbox}.7", correlation_id="c")
        question = await server.expect("message", message="q", correlation_id="c")
        await pub(server, question["reply_to"], "a", correlation_id="c")
        await asker.expect("message", message="a", correlation_id="c")


async def test_unsubscribe_ends_it_before_its_answer(autojump_clock):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        for topic, pattern in (("a.b", "a.b"), ("a.c", "a.*")):
            await sub(client, pattern)
            await pub(publisher, topic, 1)
            await client.expect("message")
            await client.ask("unsubscribe", "unsubscribed", topic=pattern)
            await pub(publisher, topic, 2, ttl=0)
            await client.silence(1)


# -- backlog --------------------------------------------------------------------------------


async def test_what_nobody_heard_waits_for_the_first_subscriber(autojump_clock):
    async with running() as broker:
        one, two, publisher = broker.client(), broker.client(), broker.client()
        for n in range(5):
            assert (await pub(publisher, "news", n))["receivers"] == 0
        await sub(one, "news")
        assert await one.messages(5) == [0, 1, 2, 3, 4]
        assert one.seen[-1]["replayed"] is True
        assert one.seen[-1]["seq"] >= 1
        await sub(two, "news")
        await pub(publisher, "news", 5)
        assert await two.messages(1) == [5]  # it was taken
        assert await one.messages(1) == [5]


async def test_the_backlog_survives_a_restart(autojump_clock):
    async with running() as broker:
        publisher = broker.client()
        for n in range(3):
            await pub(publisher, "news", n)
        disk = broker.world.disk
    async with running(disk=disk) as broker:
        client = broker.client()
        await sub(client, "news")
        assert await client.messages(3) == [0, 1, 2]


async def test_the_backlog_keeps_the_newest(autojump_clock):
    async with running(settings(topics={"news": {"backlog_messages": 3}})) as broker:
        client, publisher = broker.client(), broker.client()
        for n in range(10):
            await pub(publisher, "news", n)
        await sub(client, "news")
        assert await client.messages(3) == [7, 8, 9]


async def test_from_new_leaves_the_backlog_alone(autojump_clock):
    async with running() as broker:
        one, two, publisher = broker.client(), broker.client(), broker.client()
        await pub(publisher, "news", "old")
        await sub(one, "news", from_="new")
        await pub(publisher, "news", "live")
        assert await one.messages(1) == ["live"]
        one.close()
        await settled()
        await sub(two, "news")
        assert "old" in await two.messages(1)


async def test_a_wildcard_takes_backlogs_only_from_all(autojump_clock):
    async with running() as broker:
        one, two, publisher = broker.client(), broker.client(), broker.client()
        for topic in ("a.x", "a.y"):
            for n in range(2):
                await pub(publisher, topic, [topic, n])
        await sub(one, "a.*")
        await one.silence(1)
        one.close()
        await settled()
        await sub(two, "a.*", from_="all")
        got = await two.messages(4)
        assert [m for m in got if m[0] == "a.x"] == [["a.x", 0], ["a.x", 1]]
        assert [m for m in got if m[0] == "a.y"] == [["a.y", 0], ["a.y", 1]]


async def test_ttl_0_is_live_only(autojump_clock):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        await pub(publisher, "news", "never kept", ttl=0)
        await pub(publisher, "news", "kept")
        await sub(client, "news")
        assert await client.messages(1) == ["kept"]
        await client.silence(1)


async def test_what_expired_in_the_backlog_is_not_delivered(autojump_clock):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        await pub(publisher, "news", "short", ttl=5)
        await pub(publisher, "news", "long", ttl=500)
        await client.silence(10)
        await sub(client, "news")
        assert await client.messages(1) == ["long"]


async def test_the_rest_of_a_backlog_stays_for_the_next_when_the_first_leaves(autojump_clock):
    """What was not yet sent stays; what was may come twice, never not at all."""
    async with running() as broker:
        one, two, publisher = broker.client(window=3000), broker.client(), broker.client()
        for n in range(60):
            await pub(publisher, "news", [n, "x" * 5000])
        await one.send(action="subscribe", topic="news")
        await publisher.silence(1)
        one.reset()
        await settled()
        await sub(two, "news")
        with trio.move_on_after(5):
            while True:
                await two.read()
        got = [f["message"][0] for f in two.seen if f["type"] == "message"]
        assert got == list(range(got[0], 60))
        assert got[0] < 60


# -- history, retain ------------------------------------------------------------------------

HISTORY = {"news": {"history_messages": 100}}


async def test_history_is_replayed_from_where_it_is_asked_for(autojump_clock):
    async with running(settings(topics=HISTORY)) as broker:
        publisher, live = broker.client(), broker.client()
        await sub(live, "news")
        for n in range(6):
            await pub(publisher, "news", n)
        await live.messages(6)
        seqs = [f["seq"] for f in live.seen if f["type"] == "message"]
        for start, expected in (
            ("all", [0, 1, 2, 3, 4, 5]), ("last", [5]), ("new", []), (seqs[3], [3, 4, 5]),
        ):  # fmt: skip
            client = broker.client()
            await sub(client, "news", from_=start)
            assert await client.messages(len(expected)) == expected
            await client.silence(1)
            await pub(publisher, "news", 6, ttl=0)
            assert await client.messages(1) == [6]
            assert "replayed" not in client.seen[-1]
            client.close()


async def test_history_from_a_time(autojump_clock):
    async with running(settings(topics=HISTORY)) as broker:
        publisher, client = broker.client(), broker.client()
        times = []
        for n in range(4):
            await pub(publisher, "news", n)
            await publisher.silence(60)
        await sub(client, "news", from_="all")
        await client.messages(4)
        times = [f["published_at"] for f in client.seen if f["type"] == "message"]
        other = broker.client()
        await sub(other, "news", from_=times[2])
        assert await other.messages(2) == [2, 3]


async def test_history_survives_a_restart_and_goes_on_counting(autojump_clock):
    async with running(settings(topics=HISTORY)) as broker:
        for n in range(3):
            await pub(broker.client(), "news", n)
        disk = broker.world.disk
    async with running(settings(topics=HISTORY), disk=disk) as broker:
        client = broker.client()
        await sub(client, "news", from_="all")
        assert await client.messages(3) == [0, 1, 2]
        await pub(broker.client(), "news", 3)
        await client.expect("message", message=3)
        seqs = [f["seq"] for f in client.seen if f["type"] == "message"]
        assert seqs == sorted(set(seqs))


async def test_a_replay_goes_over_into_the_live_stream_without_gap_or_repeat(autojump_clock):
    async with running(settings(topics={"news": {"history_messages": 10_000}})) as broker:
        publisher = broker.client()
        for n in range(300):
            await pub(publisher, "news", [n, "x" * 2000])
        client = broker.client(window=4000)

        async def publish() -> None:
            for n in range(300, 500):
                await pub(publisher, "news", [n, "y" * 2000])
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            await sub(client, "news", from_="all")
            got = [m[0] for m in await client.messages(500)]
        assert got == list(range(500))


async def test_retain_gives_each_new_subscriber_the_last_value(autojump_clock):
    async with running() as broker:
        publisher = broker.client()
        live = broker.client()
        await sub(live, "lamp")
        await pub(publisher, "lamp", "on", retain=True)
        await pub(publisher, "lamp", "flicker")
        for pattern in ("lamp", "*", ">"):
            client = broker.client()
            await sub(client, pattern)
            await client.expect("message", message="on", replayed=True)
            await client.silence(1)
        fresh = broker.client()
        await sub(fresh, "lamp", from_="new")
        await fresh.silence(1)
        disk = broker.world.disk
    async with running(disk=disk) as broker:
        client = broker.client()
        await sub(client, "lamp")
        await client.expect("message", message="on", replayed=True)
        await pub(broker.client(), "lamp", None, retain=True)
        await client.expect("message", message=None)
        other = broker.client()
        await sub(other, "lamp")
        await other.silence(1)


# -- slow ones, dedup, ends -----------------------------------------------------------------


async def test_a_slow_subscriber_loses_its_oldest_and_is_told_how_many(autojump_clock):
    async with running(settings(limits={"subscriber_messages": 10})) as broker:
        slow, fast, publisher = broker.client(window=500), broker.client(), broker.client()
        await sub(slow, "news")
        await sub(fast, "news")
        for n in range(100):
            await pub(publisher, "news", [n, "x" * 300])
        assert [m[0] for m in await fast.messages(100)] == list(range(100))
        got, dropped = [], 0
        with trio.move_on_after(5):
            while True:
                frame = await slow.expect("message")
                dropped += frame.get("dropped", 0)
                got.append(frame["message"][0])
        assert dropped == 100 - len(got) > 50
        assert (await publisher.ask("stats"))["server"]["dropped"] == dropped
        assert got == sorted(got)
        assert got[-1] == 99


async def test_a_subscriber_that_never_reads_holds_a_bounded_number_of_bytes(autojump_clock):
    async with running(settings(limits={"subscriber_bytes": 50_000})) as broker:
        slow, publisher = broker.client(window=100), broker.client()
        await slow.send(action="subscribe", topic="news")
        await settled()
        for n in range(100):
            await pub(publisher, "news", [n, "x" * 5000])
            assert broker.broker.context.outbound.used < 350_000


async def test_a_publish_with_a_seen_id_is_not_delivered_again(autojump_clock):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        await sub(client, "news")
        await pub(publisher, "news", 1, message_id="m")
        assert (await pub(publisher, "news", 1, message_id="m"))["duplicate"]
        await publisher.send(action="publish", topic="news", message=2, message_id="m")
        await publisher.expect("error", code="id_conflict", message_id="m")
        assert await client.messages(1) == [1]
        await client.silence(1)


async def test_an_idle_topic_is_removed(autojump_clock):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        await sub(client, "news")
        await pub(publisher, "news", 1)
        await client.messages(1)
        assert "news" in broker.broker.directory.topics
        client.close()
        await settled()
        assert "news" not in broker.broker.directory.topics
        await pub(publisher, "other", 1, ttl=0)
        await publisher.silence(5)
        assert "other" not in broker.broker.directory.topics


async def test_an_idle_topic_on_a_full_disk_goes_when_there_is_room(autojump_clock):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        await pub(publisher, "news", 1)
        await sub(client, "news")
        await client.messages(1)
        broker.world.disk.fill()
        client.close()
        await publisher.silence(30)
        broker.world.disk.make_room()
        await publisher.silence(30)
        again = broker.client()
        await sub(again, "news")
        await pub(publisher, "news", 2)
        assert await again.messages(1) == [2]
        assert not broker.broker.directory.topics["news"].restarts.failed


async def test_topics_that_come_and_go_under_load_lose_no_answers(autojump_clock):
    async with running() as broker:

        async def one(client: Client, n: int) -> None:
            for i in range(30):
                topic = f"t.{(n + i) % 3}"
                answer = await client.ask("publish", topic=topic, message=i, ttl=0)
                assert answer["type"] == "ack"
                await client.ask("subscribe", "subscribed", topic=topic, from_="new")
                await client.ask("unsubscribe", "unsubscribed", topic=topic)

        async with trio.open_nursery() as nursery:
            for n in range(6):
                nursery.start_soon(one, broker.client(), n)


async def test_names_of_topics_count_against_the_limit(autojump_clock):
    async with running(settings(limits={"names": 2})) as broker:
        client = broker.client()
        await pub(client, "a", 1)
        await pub(client, "b", 1)
        await client.send(action="publish", topic="c", message=1, id="p")
        await client.expect("error", code="too_many", id="p", limit=2)
        await client.send(action="subscribe", topic="c", id="s")
        await client.expect("error", code="too_many", id="s")
        await client.eof()  # nothing is open
        assert await client.closed() == []


async def test_delete_removes_a_topic_with_all_it_keeps(autojump_clock):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        for n in range(3):
            await pub(publisher, "news", n)
        wild, exact = broker.client(), broker.client()
        await sub(wild, "*")
        await sub(exact, "news", from_="new")
        assert (await client.ask("delete", topic="news", mode="pubsub"))["type"] == "delete"
        frame = await exact.expect("unsubscribed", topic="news", mode="pubsub")
        assert "deleted" in frame["reason"]
        await pub(publisher, "news", "anew", ttl=0)
        assert await wild.messages(1) == ["anew"]
        await sub(client, "news")
        await client.silence(1)
        assert broker.world.disk.list("topics") == []


async def test_a_topic_deleted_while_the_disk_is_full_leaves_nobody_without_an_answer(
    autojump_clock,
):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        await pub(publisher, "news", "old", retain=True, durability="stored")
        await sub(client, "news", from_="new")
        broker.world.disk.fill()
        clear = {"topic": "news", "message": None, "retain": True, "durability": "stored"}
        await publisher.send(clear, action="publish", id="clear")
        await publisher.send(clear, action="publish", id="behind", retain=False)
        await publisher.silence(0.5)  # the value is there until the disk knows that it is not
        broker.world.disk.fill(room=1)  # enough for a tombstone
        assert (await client.ask("delete", topic="news", mode="pubsub"))["type"] == "delete"
        answers = await publisher.answers("clear", "behind")
        assert [answer["type"] for answer in answers] == ["ack", "ack"]
        broker.world.disk.make_room()
        late = broker.client()
        await sub(late, "news")
        await late.silence()


@pytest.mark.parametrize("bugs", [0, 1, 2])
async def test_a_topic_that_fails_at_its_end_ends_all_the_same(autojump_clock, monkeypatch, bugs):
    """What was being written when it was deleted is answered, and so is who deletes it."""
    async with running(errors=CRASHED) as broker:
        client, publisher, world = broker.client(), broker.client(), broker.world
        await client.ask("declare", topic="news", mode="pubsub", settings={"history_messages": 9})
        await sub(client, "news")
        at_once = world.in_disk_thread

        async def slowly(work):
            if "_do_erase" not in repr(work):
                await trio.sleep(5)
            return await at_once(work)

        monkeypatch.setattr(world, "in_disk_thread", slowly)
        await publisher.send(action="publish", topic="news", message=1, durability="stored")
        await publisher.silence(1)
        plant = Plant(monkeypatch, TopicRules, "committed", times=bugs)
        await publisher.ask("delete", "delete", topic="news", mode="pubsub")
        assert plant.hits == bugs
        await publisher.expect("ack")
        await client.until("unsubscribed")
        assert (await publisher.ask("stats"))["topics"] == []


async def test_declare_gives_a_topic_a_history_at_run_time(autojump_clock):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        answer = await client.ask(
            "declare", "declared", topic="news", mode="pubsub", settings={"history_messages": 2}
        )
        assert answer["settings"]["history_messages"] == 2
        live = broker.client()
        await sub(live, "news")
        for n in range(4):
            await pub(publisher, "news", n)
        await sub(client, "news", from_="all")
        assert await client.messages(2) == [2, 3]
        disk = broker.world.disk
    async with running(disk=disk) as broker:
        client = broker.client()
        answer = await client.ask("declare", "declared", topic="news", mode="pubsub", passive=True)
        assert answer["settings"]["history_messages"] == 2


@pytest.mark.parametrize("durability", ["memory", "os", "stored"])
async def test_what_is_kept_is_acked_at_its_durability(autojump_clock, durability):
    async with running() as broker:
        client = broker.client()
        await pub(client, "news", 0)
        broker.world.hold_disk()
        await client.send(action="publish", topic="news", message=1, durability=durability)
        if durability != "memory":
            await client.silence()
            broker.world.free_disk()
        await client.expect("ack")
        broker.world.free_disk()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_bug_in_a_subscribers_port_is_its_connections_own(
    autojump_clock, monkeypatch, after
):
    async with running(errors=("connection crashed",)) as broker:
        publisher, one, two = (broker.client() for _ in range(3))
        await sub(one, "news")
        await sub(two, "news")
        Plant(monkeypatch, TopicPort, "offer", after=after)
        await pub(publisher, "news", 1)
        await one.closed()
        await two.expect("message", message=1)
        await pub(publisher, "news", 2)
        await two.expect("message", message=2)
        assert broker.broker.directory.topics["news"].restarts.count == 0


# -- what a replay missed -------------------------------------------------------------------


async def heard_and_dropped(client: Client) -> tuple[int, int]:
    """How many messages came, and how many are said to have been dropped."""
    heard = dropped = 0
    with trio.move_on_after(5):
        while True:
            frame = await client.read()
            heard += frame["type"] == "message"
            dropped += frame.get("dropped", 0)
    return heard, dropped


async def test_what_came_with_a_page_was_not_dropped_though_the_history_has_let_it_go(
    autojump_clock,
):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        await client.ask("declare", topic="news", mode="pubsub", settings={"history_messages": 5})
        for n in range(5):
            await pub(publisher, "news", n)
        broker.world.hold_disk()
        await client.send(action="subscribe", topic="news", from_="all")
        await settled()
        for n in range(5, 9):
            await publisher.send(action="publish", topic="news", message=n, durability="memory")
        await settled()
        broker.world.free_disk()
        await settled()
        await pub_until_acked(publisher, "news", 9)
        assert await heard_and_dropped(client) == (10, 0)


async def pub_until_acked(client: Client, topic: str, message: object) -> None:
    """Publish, and take the answers to this and to all before it."""
    await client.send(action="publish", topic=topic, message=message, id="last")
    await client.answers("last")


async def test_what_the_backlog_still_has_is_not_missed_when_the_history_lets_it_go(
    autojump_clock,
):
    async with running() as broker:
        client, publisher = broker.client(), broker.client()
        await client.ask("declare", topic="news", mode="pubsub", settings={"history_messages": 99})
        for n in range(99):
            await pub(publisher, "news", "x" * 2000 + str(n))
        broker.world.hold_disk()
        await client.send(action="subscribe", topic="news", from_="all")
        await settled()
        for n in range(50):
            await publisher.send(action="publish", topic="news", message=n, durability="memory")
        await settled()
        broker.world.free_disk()
        await pub_until_acked(publisher, "news", 9)
        assert await heard_and_dropped(client) == (150, 0)


@pytest.mark.parametrize("kept", [2, 0])
async def test_what_a_shorter_history_takes_from_a_replay_is_counted(autojump_clock, kept):
    async with running() as broker:
        client, publisher, operator = broker.client(), broker.client(), broker.client()
        await sub(client, "news")  # somebody hears it: there is no backlog
        await client.ask("declare", topic="news", mode="pubsub", settings={"history_messages": 99})
        for n in range(99):
            await pub(publisher, "news", "x" * 2000 + str(n))
        reader = broker.client()
        broker.world.hold_disk()
        await reader.send(action="subscribe", topic="news", from_="all")
        await settled()
        await operator.send(
            action="declare", topic="news", mode="pubsub", settings={"history_messages": kept}
        )
        await settled()
        broker.world.free_disk()
        await settled()
        await pub_until_acked(publisher, "news", 9)
        heard, dropped = await heard_and_dropped(reader)
        assert heard + dropped == 100
        assert dropped > 0
        assert (await operator.ask("stats"))["server"]["dropped"] == dropped
