"""A note waits for the next mail, and is heard before it."""

import pytest
import trio
import trio.testing

from msg.actors.mailbox import Mailbox
from msg.actors.queue import Sent, Settle
from msg.actors.timer import Tick, Timer
from tests.actors.kit import running


async def test_a_note_wakes_nobody_and_goes_before_what_does(autojump_clock):
    mailbox = Mailbox[str]()
    mailbox.note("note")
    with pytest.raises(trio.TooSlowError):
        with trio.fail_after(1):
            await mailbox.take()
    mailbox.post("first")
    mailbox.post("second")
    assert await mailbox.take() == ["note", "first", "second"]
    mailbox.post("third")
    assert await mailbox.take() == ["third"]


async def test_notes_come_out_where_all_is_taken_and_not_after_the_end():
    mailbox = Mailbox[str]()
    mailbox.note("note")
    mailbox.post("mail")
    assert mailbox.close() == ["note", "mail"]
    mailbox.note("late")
    assert mailbox.take_nowait() == []


class Alarmed:
    """A mailbox, as the timer sees one."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes
        self.ticks: list[float] = []
        self.stalled: list[float] = []

    def post(self, item: Tick) -> None:
        self.ticks.append(trio.current_time())
        self.stalled.append(item.stalled)


async def test_a_nudge_comes_in_time_and_only_to_one_that_has_notes(autojump_clock):
    timer, noted, read = Timer(), Alarmed(["note"]), Alarmed(["note"])
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run)
        timer.nudge(noted, 0.25)
        timer.nudge(noted, 0.5)  # later than what is known
        timer.nudge(noted, 0.125)  # earlier
        timer.nudge(read, 0.25)
        read.notes.clear()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert noted.ticks == [start + 0.125]
    assert read.ticks == []


async def test_an_alarm_and_a_nudge_of_one_mailbox_do_not_replace_each_other(autojump_clock):
    timer, mailbox = Timer(), Alarmed(["note"])
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run)
        timer.arm(start + 0.5, mailbox)
        timer.nudge(mailbox, 0.25)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert mailbox.ticks == [start + 0.25, start + 0.5]


async def test_a_nudge_after_a_stall_does_not_hide_it(mock_clock):
    """The queue takes the last tick of a turn: it must say what the broker's own fault was."""
    timer, mailbox = Timer(), Alarmed(["note"])
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run)
        await trio.testing.wait_all_tasks_blocked()
        timer.arm(start + 0.1, mailbox)
        timer.nudge(mailbox, 0.25)
        mock_clock.jump(10)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(mailbox.stalled) == 2
    assert min(mailbox.stalled) > 9


@pytest.mark.parametrize("durability", ["memory", "stored"])
async def test_an_ack_that_changes_nothing_for_now_is_heard_soon(autojump_clock, durability):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs", prefetch=10)
        await client.publish("jobs", 1, durability=durability)
        tag = (await client.expect("message"))["tag"]
        queue = broker.queue("jobs")
        await trio.sleep(1)
        taken = queue.mailbox.taken
        await client.send(action="ack", tag=tag)
        await trio.sleep(0.015)
        assert queue.mailbox.taken == taken
        assert [type(note) for note in queue.mailbox.notes] == [Sent, Settle]
        assert queue.gauge.messages == 1
        await trio.sleep(0.3)
        assert (queue.gauge.messages, queue.leased) == (0, 0)


async def test_an_ack_that_makes_room_is_heard_at_once(autojump_clock):
    async with running() as broker:
        client = broker.client()
        publisher = broker.client()
        await client.subscribe("jobs", prefetch=1)
        for n in (1, 2):
            await publisher.publish("jobs", n, durability="memory")
        first = await client.expect("message")
        start = trio.current_time()
        await client.send(action="ack", tag=first["tag"])
        assert (await client.expect("message"))["message"] == 2
        assert trio.current_time() - start < 0.01


async def test_an_ack_is_read_before_the_publish_that_needs_its_room(autojump_clock):
    async with running() as broker:
        client = broker.client()
        settings = {"max_messages": 1}
        await client.send(action="declare", topic="jobs", mode="queue", settings=settings, id="d")
        await client.expect("declared")
        await client.subscribe("jobs", prefetch=10)
        for n in range(5):
            await client.publish("jobs", n, durability="memory")
            tag = (await client.expect("message"))["tag"]
            await client.send(action="ack", tag=tag)


async def test_an_ack_of_what_is_not_held_is_told_also_where_acks_may_wait(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs", prefetch=10, ack_timeout=1)
        await client.publish("jobs", 1, durability="memory")
        await client.expect("message")
        await client.publish("jobs", 2, durability="memory")
        held = await client.expect("message")
        await client.send(action="ack", tag=99)
        error = await client.expect("error")
        assert error["code"] == "not_held"
        await client.send(action="ack", tag=held["tag"])


async def test_an_offer_takes_room_and_does_not_wait_for_it(autojump_clock):
    mailbox = Mailbox[str](room=2)
    assert mailbox.offer("one")
    assert mailbox.offer("two")
    assert not mailbox.offer("three")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.put, "three")
        await trio.sleep(1)
        assert await mailbox.take() == ["one", "two"]
        mailbox.free(1)
        assert not mailbox.offer("four")  # the room is the waiting sender's
    assert await mailbox.take() == ["three"]
    mailbox.free(2)
    mailbox.close()
    assert not mailbox.offer("five")


async def test_of_two_ticks_in_one_turn_the_one_of_a_stall_counts(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs", prefetch=10, ack_timeout=10)
        await client.publish("jobs", 1)
        await client.expect("message")
        await trio.sleep(9)
        for stalled in (5.0, 0.0):
            broker.queue("jobs").post(Tick(stalled))
        await trio.sleep(4)
        assert broker.queue("jobs").leased == 1
        await trio.sleep(4)
        assert broker.queue("jobs").leased == 0


async def test_an_ack_does_not_overtake_the_touch_before_it(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.subscribe("jobs", prefetch=10)
        await client.publish("jobs", 1, durability="memory")
        tag = (await client.expect("message"))["tag"]
        await client.send_all(
            {"action": "touch", "tag": tag, "id": "t"}, {"action": "ack", "tag": tag}
        )
        await client.expect("acked", id="t", count=1, failed=[])
        await client.silence()
        assert broker.queue("jobs").gauge.messages == 0
