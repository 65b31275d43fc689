"""The rules of a topic, story by story."""

import json
import random

import pytest

from msg.core.answers import KeptInPart
from msg.core.batches import PublishBatch
from tests.core.topic_rig import Port, Rig, publish


def test_a_live_subscriber_hears_each_message_once_in_order():
    rig = Rig()
    one, two = rig.join(), rig.join(exact=False)
    rig.send(1, 2)
    batch = rig.send(3)
    assert one.bodies == two.bodies == [1, 2, 3]
    assert one.got[0] == (1, 0, False), "what is not kept has no seq"
    assert batch.receivers is None
    assert rig.owner.batches[-1] is batch
    assert not rig.log


def test_unheard_messages_wait_for_the_first_exact_subscriber():
    rig = Rig()
    batch = rig.send(1, 2)
    assert batch.receivers == 0
    assert not rig.owner.batches, "acked when it is written"
    rig.commit()
    assert rig.owner.batches == [batch]
    wild = rig.join(exact=False)
    rig.send(3)
    first, second = rig.join(), rig.join()
    rig.send(4)
    rig.settle()
    assert wild.bodies == [3, 4]
    assert first.got == [(1, 1, True), (2, 2, True), (4, 0, False)]
    assert second.bodies == [4]
    rig.write(first)
    rig.check()
    assert not rig.log, "delivered"


def test_a_wildcard_subscription_takes_the_backlog_only_with_all():
    rig = Rig()
    rig.send(1)
    rig.commit()
    assert rig.join("last", exact=False).bodies == []
    port = rig.join("all", exact=False)
    rig.settle()
    assert port.bodies == [1]


def test_new_leaves_the_backlog_alone():
    rig = Rig()
    rig.send(1)
    rig.commit()
    new = rig.join("new")
    rig.settle()
    rig.send(2)
    assert new.bodies == [2]
    port = rig.join()
    rig.settle()
    assert port.bodies == [1]


def test_what_was_not_written_when_the_taker_leaves_stays():
    rig = Rig()
    rig.send(*["x" * 30_000 for _ in range(5)])  # two pages
    rig.commit()
    port = rig.join()
    rig.settle()
    assert len(port.got) == 5
    assert len(port.unwritten) == 2
    rig.write(port)
    rig.leave(port)
    again = rig.join()
    rig.settle()
    assert [seq for _, seq, _ in again.got] == [4, 5]


def test_a_second_subscriber_is_not_given_what_the_first_is_being_given():
    rig = Rig()
    rig.send(1, 2)
    rig.commit()
    first = rig.join()
    second = rig.join("all")
    rig.settle()
    assert first.bodies == [1, 2]
    assert second.bodies == []


def test_what_is_published_during_a_replay_comes_after_it():
    rig = Rig()
    rig.send(1, 2)
    rig.commit()
    port = rig.join()
    rig.send(3)
    rig.grant()
    rig.send(4)
    assert port.bodies == []
    rig.load()
    assert port.bodies == [1, 2, 3, 4]
    rig.send(5)
    assert port.bodies == [1, 2, 3, 4, 5]


def test_a_subscriber_that_comes_while_its_backlog_is_being_written_gets_it():
    rig = Rig()
    rig.publish(publish(1))
    port = rig.attach(Port())
    rig.publish(publish(2))
    rig.turn()
    assert port.bodies == []
    rig.settle()
    assert port.bodies == [1, 2]


def test_the_backlog_keeps_the_newest_messages_and_counts_the_others():
    rig = Rig(backlog_messages=3)
    rig.send(1, 2)
    rig.send(3, 4, 5)
    rig.commit()
    rig.check()
    assert rig.rules.counts.dropped == 2
    port = rig.join()
    rig.settle()
    assert port.bodies == [3, 4, 5]


def test_the_backlog_is_bounded_in_bytes_and_in_time():
    rig = Rig(backlog_bytes=1000, backlog_seconds=100)
    rig.send(*["x" * 300 for _ in range(4)])
    rig.check()
    assert rig.rules.backlog.seqs() == [3, 4]
    rig.now += 99
    rig.send("later")
    rig.now += 2
    rig.rules.tick(rig.stamp())
    rig.turn()
    rig.check()
    assert rig.rules.backlog.seqs() == [5]


def test_the_broker_has_only_so_much_for_all_backlogs():
    rig = Rig()
    rig.rules.kept.backlog_room = lambda: 250
    rig.send("x" * 10, "y" * 10, "z" * 10)
    rig.check()
    assert rig.rules.backlog.seqs() == [2, 3]


def test_ttl_zero_is_live_only():
    rig = Rig(history_messages=10)
    rig.send(1, ttl=0)
    rig.commit()
    port = rig.join("all")
    rig.send(2, ttl=0)
    rig.settle()
    assert port.got == [(2, 0, False)]
    assert not rig.log


def test_what_has_expired_is_not_delivered():
    rig = Rig()
    rig.send(1, ttl=5)
    rig.send(2)
    rig.commit()
    rig.now += 6
    port = rig.join()
    rig.settle()
    assert port.bodies == [2]
    assert rig.rules.counts.expired == 1


def test_history_is_kept_whoever_hears_and_bounded():
    rig = Rig(history_messages=3)
    live = rig.join()
    rig.send(1, 2)
    assert live.bodies == [], "heard when it is written, so that nobody sees a seq that goes"
    rig.commit()
    rig.send(3, 4)
    rig.settle()
    assert live.got == [(1, 1, False), (2, 2, False), (3, 3, False), (4, 4, False)]
    port = rig.join("all")
    rig.settle()
    assert port.got == [(2, 2, True), (3, 3, True), (4, 4, True)]
    rig.check()


@pytest.mark.parametrize(
    ("start", "bodies"),
    [("all", [1, 2, 3]), ("last", [3]), (2, [2, 3]), (99, []), (None, []), ("new", [])],
)
def test_from(start, bodies):
    rig = Rig(history_messages=10)
    rig.join()
    rig.send(1, 2, 3)
    rig.commit()
    port = rig.join(start)
    rig.settle()
    assert port.bodies == bodies
    rig.send(4)
    rig.settle()
    assert port.bodies == [*bodies, 4]


def test_from_a_time():
    rig = Rig(history_messages=10)
    rig.join()
    for body in range(5):
        rig.send(body)
        rig.now += 10
    rig.commit()
    start = rig.now + 1_764_000_000.0 - 25.0
    port = rig.join(start)
    rig.settle()
    assert port.bodies == [3, 4]


def test_history_of_seconds():
    rig = Rig(history_seconds=60)
    rig.join()
    rig.send(1)
    rig.now += 50
    rig.send(2)
    rig.now += 20
    rig.rules.tick(rig.stamp())
    rig.settle()
    assert rig.rules.kept.history is not None
    assert rig.rules.kept.history.seqs() == [2]
    rig.check()


def test_nobody_hears_what_could_not_be_written():
    rig = Rig(history_messages=10)
    port = rig.join()
    lost = rig.send(1, message_id="a")
    rig.commit(fail=True)
    rig.send(2)
    rig.commit()
    assert port.got == [(2, 2, False)]
    assert lost.errors is not None
    assert lost.errors[0].code == "disk_full"
    rig.send(1, message_id="a")
    rig.commit()
    assert port.bodies == [2, 1], "its id was free again"
    rig.check()


def test_a_duplicate_is_acked_and_not_heard_again():
    rig = Rig()
    port = rig.join()
    rig.send(1, message_id="a")
    again = rig.send(1, message_id="a")
    other = rig.send(2, message_id="a")
    assert port.bodies == [1]
    assert again.duplicates == [0]
    assert other.errors is not None
    assert other.errors[0].code == "id_conflict"


def test_a_duplicate_of_what_is_not_yet_written_shares_its_fate():
    rig = Rig()
    first = rig.send(1, message_id="a")
    rig.begin()
    again = rig.send(1, message_id="a")
    assert rig.owner.batches == []
    rig.finish(fail=True)
    rig.commit()
    for batch in (first, again):
        assert batch.errors is not None
        assert batch.errors[0].code == "disk_full"
    assert not again.duplicates
    retry = rig.send(1, message_id="a")
    rig.commit()
    assert not retry.errors
    assert not retry.duplicates


def test_answers_of_one_durability_keep_their_order():
    rig = Rig()
    first = rig.send(1)
    rig.join()
    second = rig.send(2)
    third = rig.send(3, durability="memory")
    assert rig.owner.batches == []
    rig.commit()
    assert rig.owner.batches[0] is first
    assert rig.owner.batches.index(second) < 3
    assert third in rig.owner.batches


def test_the_retained_value_comes_to_each_new_subscriber():
    rig = Rig()
    rig.join()
    rig.send("old", retain=True)
    rig.send("now", retain=True)
    rig.commit()
    rig.check()
    assert len(rig.log) == 1
    port, new = rig.join(exact=False), rig.join("new")
    rig.settle()
    assert port.got == [("now", 2, True)]
    assert new.got == []
    rig.send(None, retain=True)
    rig.settle()
    rig.check()
    assert rig.join().got == []
    assert not rig.log


def test_a_retained_value_that_cannot_be_written_leaves_the_old_one():
    rig = Rig()
    rig.join()
    rig.send("old", retain=True)
    rig.commit()
    rig.send("now", retain=True)
    rig.commit(fail=True)
    rig.check()
    port = rig.join()
    assert port.bodies == ["old"]


def test_an_inbox_keeps_nothing():
    rig = Rig(history_messages=5)
    rig.rules = type(rig.rules)("_inbox.x", rig.settings, answers=rig.answers)
    batch = rig.send(1, retain=True)
    assert batch.receivers == 0
    assert rig.owner.batches == [batch]
    assert not rig.log
    rig.check()


def test_delay_is_refused():
    rig = Rig()
    batch = rig.publish(publish(1, delay=5), publish(2))
    rig.turn()
    rig.commit()
    assert batch.errors is not None
    assert list(batch.errors) == [0]
    assert batch.errors[0].code == "unsupported"
    assert rig.rules.backlog.count == 1


def test_memory_is_kept_in_memory_only_and_in_order():
    rig = Rig(history_messages=10)
    port = rig.join()
    rig.send(1, durability="stored")
    rig.send(2, durability="memory")
    assert port.bodies == [], "in order, even where it need not wait for itself"
    rig.commit()
    assert port.bodies == [1, 2]
    assert list(rig.memory) == [2]
    late = rig.join("all")
    rig.settle()
    assert late.bodies == [1, 2]
    rig.check()


def test_durability_min():
    rig = Rig(durability_min="os")
    batch = rig.send(1, durability="memory")
    assert batch.errors is not None
    assert batch.errors[0].code == "bad_field"


def test_a_publish_that_names_no_durability_gets_the_least():
    rig = Rig(durability_min="stored")  # more than a topic's usual one
    assert rig.send(1).errors is None
    assert len(rig.log) == 1


# -- groups ---------------------------------------------------------------------------------


def test_a_group_makes_a_topic_heard_and_is_waited_for():
    rig = Rig()
    group = rig.add_group("news@g")
    rig.turn()
    batch = rig.send(1, 2)
    assert not rig.log
    assert rig.owner.batches == []
    group.answer()
    assert rig.owner.batches == [batch]
    assert batch.receivers is None
    assert group.stored == [1, 2]


def test_a_new_group_gets_the_backlog_before_what_comes():
    rig = Rig()
    rig.send(1, 2)
    rig.commit()
    group = rig.add_group("news@g")
    rig.publish(publish(3))
    rig.turn()
    assert not group.waiting
    rig.settle()
    assert group.stored == [1, 2, 3]
    rig.check()
    assert not rig.log


def test_a_wildcard_group_leaves_the_backlog_unless_it_asks_for_all():
    rig = Rig()
    rig.send(1)
    rig.commit()
    rig.add_group("n*@g")
    rig.turn()
    rig.settle()
    assert rig.groups["n*@g"].stored == []
    rig.add_group(">@all", "all")
    rig.turn()
    rig.settle()
    assert rig.groups[">@all"].stored == [1]


def test_a_group_that_cannot_take_its_page_gets_it_later():
    rig = Rig(history_messages=10)
    rig.join()
    rig.send(1, 2)
    rig.commit()
    group = rig.add_group("news@g", "all")
    rig.turn()
    rig.load()
    rig.copy(refuse=True)
    rig.send(3)
    rig.settle()
    assert group.stored == [1, 2, 3]


@pytest.mark.parametrize("refuse", [False, True])
def test_a_page_that_a_group_has_not_taken_is_its_own_after_a_restart(refuse: bool):
    rig = Rig(history_messages=10)
    rig.join()
    rig.send(1, 2)
    rig.commit()
    rig.add_group("news@g", "all")
    rig.turn()
    rig.load()
    if refuse:
        rig.copy(refuse=True)
    rig.commit()
    rig.restart()
    group = rig.add_group("news@g", "new")  # it is not new
    rig.turn()
    rig.settle()
    assert group.stored == [1, 2]


def test_what_one_group_could_not_take_is_completed_by_a_retry():
    rig = Rig()
    live = rig.join()
    good, bad = rig.add_group("news@good"), rig.add_group("news@bad")
    rig.turn()
    batch = rig.send(1)
    good.answer()
    bad.answer(refuse=True)
    assert batch.errors is not None
    assert isinstance(batch.errors[0], KeptInPart)
    assert batch.errors[0].retry == "same_id"
    retry = rig.send(1, message_id=batch.ids[0])
    assert not good.waiting
    bad.answer()
    assert not retry.errors
    assert not retry.duplicates, "it was new to one of them"
    assert live.bodies == good.stored == bad.stored == [1]
    again = rig.send(1, message_id=batch.ids[0])  # the answer was lost on its way
    assert not good.waiting
    assert not bad.waiting
    assert again.duplicates == [0]
    assert live.bodies == good.stored == bad.stored == [1]
    rig.now += rig.settings.dedup_window + 1
    rig.rules.tick(rig.stamp())
    assert not rig.answers.in_part


def test_a_client_s_own_id_completes_what_is_missing_too():
    rig = Rig()
    good, bad = rig.add_group("news@good"), rig.add_group("news@bad")
    rig.turn()
    rig.send(1, message_id="a")
    good.answer()
    bad.answer(refuse=True)
    rig.send(1, message_id="a")
    rig.settle()
    assert good.stored == bad.stored == [1]


def test_what_all_groups_have_is_a_duplicate_though_the_topic_has_forgotten_it():
    """It keeps nothing itself, so after a stop of the broker only its groups know the id."""
    rig = Rig()
    one, two = rig.add_group("news@one"), rig.add_group("news@two")
    rig.turn()
    one.ids["a"] = two.ids["a"] = one.ids["b"] = rig.now
    both = rig.send(1, message_id="a")
    half = rig.send(2, message_id="b")
    rig.settle()
    assert both.duplicates == [0]
    assert not half.duplicates, "it was new to one of them"
    assert (one.stored, two.stored) == ([], [2])


def test_what_the_topic_keeps_now_is_no_duplicate():
    rig = Rig(history_messages=5)
    group = rig.add_group("news@g")
    rig.turn()
    group.ids["a"] = rig.now
    batch = rig.send(1, message_id="a")
    rig.settle()
    rig.commit()
    assert not batch.errors
    assert not batch.duplicates


def test_an_error_of_all_is_that_error():
    rig = Rig()
    rig.add_group("news@g")
    rig.turn()
    batch = rig.send(1)
    rig.groups["news@g"].answer(refuse=True)
    assert batch.errors is not None
    assert not isinstance(batch.errors[0], KeptInPart)


def test_publishes_of_one_turn_go_to_a_group_as_one_batch():
    rig = Rig()
    group = rig.add_group("news@g")
    rig.turn()
    batches = [rig.publish(publish(i), publish(-i, message_id=f"m{i}")) for i in range(5)]
    rig.turn()
    assert len(group.waiting) == 1
    group.waiting.extend(group.waiting.popleft().split(3))  # a group that has to park some
    group.answer(refuse=True)
    assert rig.owner.batches == []
    group.answer()
    assert rig.owner.batches == batches
    errors = [list(b.errors or ()) for b in batches]
    assert errors == [[0, 1], [0], [], [], []]


# -- over restarts --------------------------------------------------------------------------


def test_a_restart_keeps_the_backlog():
    rig = Rig()
    rig.send(1, 2)
    rig.commit()
    rig.send(3)
    rig.restart()
    rig.check()
    port = rig.join()
    rig.settle()
    assert port.bodies == [1, 2]


def test_a_restart_knows_what_of_a_history_nobody_had_heard():
    rig = Rig(history_messages=10)
    rig.send(1)
    port = rig.join("new")
    rig.send(2)
    rig.commit()
    rig.leave(port)
    rig.send(3)
    rig.commit()
    rig.restart()
    rig.check()
    assert rig.rules.backlog.seqs() == [1, 3]
    port = rig.join()
    rig.settle()
    assert port.bodies == [1, 3]
    everything = rig.join("all")
    rig.settle()
    assert everything.bodies == [1, 2, 3]


def test_a_restart_keeps_the_retained_value_and_not_what_it_replaced():
    rig = Rig()
    rig.join()
    rig.send("old", retain=True)
    rig.commit()
    rig.send("now", retain=True)
    rig.begin()
    assert rig.in_flight is not None
    rig._write(rig.in_flight)  # and the word of it is lost
    rig.restart()
    rig.check()
    port = rig.join()
    rig.settle()
    assert port.bodies == ["now"]


def test_a_crash_loses_no_subscriber_and_no_message():
    rig = Rig()
    rig.send(1, 2)
    rig.commit()
    first = rig.join()
    rig.send(3)
    rig.grant()
    rig.crash()
    rig.send(4)
    rig.settle()
    assert first.bodies == [1, 2, 3, 4]
    rig.check()


def test_settings_may_change():
    rig = Rig()
    port = rig.join()
    rig.send(1)
    rig.settings = type(rig.settings)(history_messages=5)
    rig.rules.change(rig.settings, rig.stamp())
    rig.send(2)
    rig.settle()
    late = rig.join("all")
    rig.settle()
    assert port.bodies == [1, 2]
    assert late.bodies == [2]
    rig.settings = type(rig.settings)()
    rig.rules.change(rig.settings, rig.stamp())
    rig.turn()
    rig.check()
    assert not rig.log


def test_a_new_window_holds_for_the_ids_that_are_there():
    rig = Rig()
    port = rig.join()
    rig.send(1, message_id="a")
    rig.settings = type(rig.settings)(dedup_window=5.0)
    rig.rules.change(rig.settings, rig.stamp())
    assert rig.send(1, message_id="a").duplicates == [0]
    rig.now += 6.0
    assert not rig.send(2, message_id="a").errors
    assert port.bodies == [1, 2]


def test_clear_drops_all_that_is_kept():
    rig = Rig(history_messages=5)
    rig.send(1, 2)
    rig.send(3, retain=True)
    rig.commit()
    assert rig.rules.kept.clear() == 3
    rig.turn()
    rig.check()
    assert not rig.log


def test_state_is_json():
    rig = Rig(history_messages=5)
    rig.send(1)
    rig.add_group("news@g", "all")
    rig.turn()
    state = json.loads(json.dumps(rig.rules.state()))
    assert state["unheard"] == [[1, 1]], "what comes now is heard"
    assert state["copies"]["news@g"]["until"] == 2


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("history", [{}, {"history_messages": 1000}], ids=["live", "history"])
def test_publishes_that_are_sent_again_and_again_are_one_each(part: int, history: dict[str, int]):
    """Whichever groups refuse, and whichever answers are lost."""
    for seed in range(part * 50, part * 50 + 50):
        rng = random.Random(seed)
        rig = Rig(**history)
        live = rig.join() if rng.random() < 0.5 else None
        groups = [rig.add_group(f"news@{n}") for n in range(3)]
        rig.turn()
        rig.settle()
        sent: dict[int, PublishBatch] = {}  # the last of each body
        acked: set[int] = set()
        for _ in range(60):
            match rng.choice(["new", "again", "answer", "answer", "answer", "commit"]):
                case "new":
                    body = len(sent)
                    named = {"message_id": f"m{body}"} if rng.random() < 0.4 else {}
                    sent[body] = rig.send(body, **named)
                case "again" if sent:
                    body = rng.choice(list(sent))
                    before = sent[body]
                    # a publisher knows an id that the broker made from the answer only
                    told = before in rig.owner.batches and before.errors and before.ids[0]
                    if before.items[0].message_id or told:
                        sent[body] = rig.send(body, message_id=before.ids[0])
                case "answer":
                    waiting = [group for group in groups if group.waiting]
                    if waiting:
                        rng.choice(waiting).answer(refuse=rng.random() < 0.4)
                case "commit":
                    rig.commit(fail=rng.random() < 0.3)
            acked |= {b for b, batch in sent.items() if is_acked(rig, batch)}
        rig.settle()
        acked |= {b for b, batch in sent.items() if is_acked(rig, batch)}
        for heard in (*([live.bodies] if live else []), *[group.stored for group in groups]):
            assert len(heard) == len(set(heard)), seed
            assert acked <= set(heard), seed


def is_acked(rig: Rig, batch: PublishBatch) -> bool:
    return batch in rig.owner.batches and not batch.errors
