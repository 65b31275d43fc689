"""The plots' figures: right, bounded, and of what moves."""

from msg.web import history as module
from msg.web.history import History
from tests.actors.kit import running


async def test_rates_and_depth_over_time(autojump_clock):
    async with running() as broker:
        client, history = broker.client(), History()
        await history.sample(broker.broker)
        for n in range(10):
            await client.publish("jobs", n)
        await client.publish("news", 1, mode="pubsub")
        autojump_clock.jump(2)
        await history.sample(broker.broker)
        for n in range(4):
            await client.publish("jobs", n)
        autojump_clock.jump(2)
        await history.sample(broker.broker)
        plot = history.plot("queue", "jobs")
        assert plot["in"] == [5.0, 2.0]  # the first ones made it
        assert plot["waits"] == [10, 14]
        assert history.rates("queue", "jobs") == {"in": 2.0, "out": 0.0, "acks": 0.0}
        everything = history.plot("broker", "")
        assert everything["waits"] == [10, 14]
        assert everything["in"] == [5.5, 2.0]
        assert everything["age_s"] == [2.0, 0.0]
        assert history.totals.ready == 14
        assert history.plot("queue", "none") == {
            "age_s": [], "in": [], "out": [], "acks": [], "waits": [],
        }  # fmt: skip


async def test_what_is_there_at_the_first_look_has_not_come_since(autojump_clock):
    async with running() as broker:
        history = History()
        await broker.client().publish("jobs", 1)
        for _ in range(2):
            autojump_clock.jump(2)
            await history.sample(broker.broker)
        assert history.plot("queue", "jobs")["in"] == [0.0]
        assert history.plot("broker", "")["in"] == [0.0]


async def test_one_that_begins_to_move_takes_the_place_of_one_that_does_not(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(module, "KEPT_MAX", 6)
    async with running() as broker:
        client, history = broker.client(), History()
        for n in range(20):
            await client.publish(f"q{n:02}", 1)
        for _ in range(3):
            autojump_clock.jump(2)
            await history.sample(broker.broker)
        assert history.plot("queue", "q19")["in"] == []
        for _ in range(2):
            await client.publish("q19", 1)
            autojump_clock.jump(2)
            await history.sample(broker.broker)
        assert history.plot("queue", "q19")["in"] == [0.5, 0.5]
        assert history.movement("queue", "q19") == 0.5
        assert len(history._samples) <= 6
        for n in range(20):  # all move: whoever was first stays, nothing grows
            await client.publish(f"q{n:02}", 1)
        autojump_clock.jump(2)
        await history.sample(broker.broker)
        assert len(history._samples) <= 6
        assert history.movement("queue", "q03") == 0.5


async def test_what_is_gone_is_forgotten_and_a_restart_counts_nothing_twice(autojump_clock):
    async with running(errors=("actor crashed",)) as broker:
        client, history = broker.client(), History()
        await client.publish("gone", 1)
        for _ in range(2):
            autojump_clock.jump(2)
            await history.sample(broker.broker)
        assert history.plot("queue", "gone")["in"] == [0.0]
        await client.ask("delete", topic="gone", mode="queue")
        autojump_clock.jump(2)
        await history.sample(broker.broker)
        assert history.plot("queue", "gone")["in"] == []
        assert min(history.plot("broker", "")["in"]) == 0.0
