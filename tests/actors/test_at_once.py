"""Turns in a publisher's own task: when they are, and that nothing else is different."""

import pytest
import trio
import trio.testing

from msg.actors import fan_out
from msg.actors.mailbox import Mailbox
from msg.actors.topic import TopicActor
from msg.core.topic import TopicRules
from tests.actors.kit import running, settled
from tests.actors.test_crash import CRASHED, Plant


async def test_a_mailbox_hears_at_once_only_who_sends_alone():
    box: Mailbox[str] = Mailbox()
    turns: list[list[str]] = []

    async def own() -> None:
        while True:
            turns.append([f"task {item}" for item in await box.take(hear)])

    def hear(item: str) -> None:
        turns.append([f"at once {item}"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(own)
        await trio.testing.wait_all_tasks_blocked()
        await box.put("a", 7)
        await box.put("b", 7)  # the first one waits: this may not pass it
        await trio.testing.wait_all_tasks_blocked()
        assert turns == [["task a", "task b"]]
        await box.put("c", 7)
        await box.put("d", 7)
        assert turns[1:] == [["at once c"], ["at once d"]]
        await box.put("e", 8)  # another sender: there may be more to come
        await box.put("f")
        await trio.testing.wait_all_tasks_blocked()
        await box.put("g")  # no sender that is known: it does not send alone
        await trio.testing.wait_all_tasks_blocked()
        assert turns[3:] == [["task e", "task f"], ["task g"]]
        await box.put("h", 7)
        await trio.testing.wait_all_tasks_blocked()
        box.note("n")
        await box.put("i", 7)  # what is noted comes before it
        await trio.testing.wait_all_tasks_blocked()
        assert turns[5:] == [["task h"], ["task n", "task i"]]
        assert box.taken == 9
        assert box.depth == 0
        nursery.cancel_scope.cancel()
    await box.put("late", 7)  # its owner is gone, and does not wait any more
    assert box.take_nowait() == ["late"]


async def test_one_publisher_has_its_turns_in_its_own_task(autojump_clock, monkeypatch):
    tasks: list[str] = []
    turn = TopicActor.turn

    def noted(self, mails):
        if self.name == "news":
            tasks.append(trio.lowlevel.current_task().name.split()[0])
        return turn(self, mails)

    async with running() as broker:
        one, two, listener = broker.client(), broker.client(), broker.client()
        await listener.send(action="subscribe", topic="news", mode="pubsub", id="s")
        await listener.expect("subscribed")
        monkeypatch.setattr(TopicActor, "turn", noted)
        for client, message in ((one, 1), (one, 2), (one, 3), (two, 4), (one, 5)):
            await client.send(action="publish", topic="news", message=message)
            await client.expect("ack")
            await listener.expect("message", message=message)
        assert tasks == ["topic", "connection", "connection", "topic", "topic"]
        tasks.clear()
        await one.send_all(
            *[{"action": "publish", "topic": t, "message": 6} for t in ("news", "other")]
        )
        await listener.expect("message", message=6)
        assert tasks == ["topic"], "it publishes elsewhere too: no turn before the other's"


@pytest.mark.parametrize(
    ("method", "broken"), [("publish", True), ("go_on", False), ("end_turn", False)]
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_bug_in_such_a_turn_is_the_topics(
    autojump_clock, monkeypatch, method, after, broken
):
    """Its publisher's connection lives on; what the turn was to do is done anew."""
    async with running(errors=CRASHED) as broker:
        publisher, listener = broker.client(), broker.client()
        await listener.send(action="subscribe", topic="news", mode="pubsub", id="s")
        await listener.expect("subscribed")
        for message in (1, 2):
            await publisher.send(action="publish", topic="news", message=message)
            await publisher.expect("ack")
            await listener.expect("message", message=message)
        plant = Plant(monkeypatch, TopicRules, method, after=after)
        await publisher.send(action="publish", topic="news", message=3, id="p")
        if broken:
            await publisher.expect("error", code="internal", id="p")
        else:
            await publisher.expect("ack", id="p")
            await listener.expect("message", message=3)
        assert plant.hits == 1
        await publisher.send(action="publish", topic="news", message=4)
        await publisher.expect("ack")
        await listener.expect("message", message=4)
        await listener.silence(2)
        assert broker.broker.directory.topics["news"].restarts.count == 1


async def test_such_a_turn_leaves_a_long_fan_out_to_the_topic(autojump_clock, monkeypatch):
    monkeypatch.setattr(fan_out, "SLICE", 3)
    async with running() as broker:
        publisher, listeners = broker.client(), [broker.client() for _ in range(7)]
        for listener in listeners:
            await listener.send(action="subscribe", topic="news", mode="pubsub", id="s")
            await listener.expect("subscribed")
        for message in range(5):
            await publisher.send(action="publish", topic="news", message=message)
            await publisher.expect("ack")
        await settled()
        for listener in listeners:
            for message in range(5):
                await listener.expect("message", message=message)
