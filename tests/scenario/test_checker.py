"""The checker's judgement, on journals made by hand: what it names, and what it lets pass."""

import pytest

from msg.scenario.checker import judge
from msg.scenario.journal import Journal
from msg.scenario.reading import parse_scenario

STORY = """
title = "t"
why = "w"
[[client]]
name = "p"
publish = { queue = "q", count = 10 }
[[client]]
name = "a"
consume = { queue = "q", prefetch = 10 }
[[client]]
name = "b"
consume = { queue = "q", prefetch = 10 }
[[client]]
name = "s"
subscribe = { topic = "t.>" }
"""


class Tale:
    """A journal, written line by line; its clock is set by hand."""

    def __init__(self, expect: str = "", story: str = STORY) -> None:
        self.scenario = parse_scenario(f"{story}\n[expect]\n{expect}")
        self.now = 0.0
        self.journal = Journal(lambda: self.now)
        for name in ("p", "a", "b", "s"):
            self.note(name, "connected")
        self.note("s", "subscribed", id="sub-s0")

    def note(self, lane: str, kind: str, **what: object) -> None:
        self.now += 0.01
        self.journal.note(lane, kind, **what)

    def publish(self, *numbers: int, to: str = "queue q", acked: bool = True, **what) -> None:
        for n in numbers:
            self.note("p", "publish", key=f"p/{n}", to=to, **what)
            if acked:
                self.note("p", "acked", key=f"p/{n}")

    def message(self, client: str, n: int, tag: int = 0, attempt: int = 1, **what) -> None:
        shown = {"from": "queue q", "tag": tag or n + 1, "attempt": attempt, "sub": "c0", **what}
        self.note(client, "message", key=f"p/{n}", mid=f"p/{n}", **shown)

    def heard(self, n: int, **what) -> None:
        self.note("s", "message", key=f"p/{n}", **{"from": "topic t.>", "sub": "s0", **what})

    def settle(self, client: str, n: int, tag: int = 0, how: str = "ack", done: bool = True):
        what = {"how": how, "key": f"p/{n}", "from": "queue q"}
        self.note(client, "settle", tag=tag or n + 1, **what)
        if done:
            self.note(client, "settled", **what)

    def found(self, n: int, source: str = "queue q", **what) -> None:
        self.note("play", "found", key=f"p/{n}", **{"from": source, "attempt": 1, **what})

    def fault(self, kind: str, **what) -> None:
        self.note("fault", kind, **what)

    def restart(self) -> None:
        self.note("broker", "is gone")
        for name in ("p", "a", "b", "s"):
            self.note(name, "lost")
        self.note("broker", "starts")
        for name in ("p", "a", "b", "s"):
            self.note(name, "connected")
        self.note("s", "subscribed", id="sub-s0")

    def verdict(self) -> list[str]:
        if not any(event.kind == "over" for event in self.journal.events):
            self.note("play", "over")
        return [str(violation) for violation in judge(self.scenario, self.journal.events)]


@pytest.fixture
def tale() -> Tale:
    return Tale()


def test_a_quiet_life_is_fine(tale):
    tale.publish(0, 1)
    tale.message("a", 0)
    tale.message("b", 1)
    tale.settle("a", 0)
    tale.settle("b", 1)
    assert tale.verdict() == []


def test_lost(tale):
    tale.publish(0, 1, 2)
    tale.publish(3, acked=False)  # nobody promised this one
    tale.message("a", 0)
    tale.settle("a", 0)
    tale.found(1)
    assert tale.verdict() == [
        "lost: 1 acked and gone: neither settled by a consumer nor in a queue at the end: p/2"
    ]


@pytest.mark.parametrize(
    ("durability", "fault", "fine"),
    [("memory", "kill", True), ("os", "kill", False), ("os", "power", True), ("", "power", False)],
)
def test_what_was_promised_for_less_may_be_lost_by_more(durability, fault, fine):
    tale = Tale()
    tale.publish(0, **({"durability": durability} if durability else {}))
    if fault == "power":
        tale.fault("power_cut")
    tale.restart()
    assert (tale.verdict() == []) is fine


def test_a_loss_that_may_be(tale):
    tale = Tale("lost = [0, 2]")
    tale.publish(0, 1)
    assert tale.verdict() == []


def test_nobody_looked_at_the_end(tale):
    tale.note("play", "not swept")
    assert tale.verdict() == ["lost: nobody could look into the queues at the end"]


def test_phantoms(tale):
    tale.publish(0)
    tale.message("a", 0, altered=True)
    tale.message("a", 1, unknown=True)
    tale.note("p", "publish", key="p/2", to="queue other")
    tale.note("p", "acked", key="p/2")
    tale.message("a", 2)
    tale.note("p", "publish", key="p/3", to="queue q")
    tale.note("p", "refused", key="p/3", code="queue_full")
    tale.message("a", 3)
    tale.note("a", "stray", frame={})
    tale.settle("a", 0)
    tale.settle("a", 2)
    texts = [text for text in tale.verdict() if text.startswith("phantom")]
    assert texts == [
        "phantom: a got p/0, altered",
        "phantom: a got p/1, which nobody published",
        "phantom: a got p/2 from queue q, published to queue other",
        "phantom: a got p/3, refused with queue_full before",
        "phantom: a got what no subscription of its asked for",
    ]


def test_two_holders(tale):
    tale.publish(0)
    tale.message("a", 0)
    tale.message("b", 0, attempt=2, returned="disconnect")
    tale.settle("a", 0, done=False)
    assert tale.verdict() == ["two holders: b got p/0 of queue q while a held it"]


@pytest.mark.parametrize("end", ["settle", "lost", "deadline", "stall", "restart"])
def test_one_holder_after_the_other(tale, end):
    tale.publish(0)
    tale.message("a", 0, **({"ack_timeout": 0.005} if end == "deadline" else {}))
    if end == "settle":
        tale.settle("a", 0, how="nack", done=False)
    elif end == "lost":
        tale.note("a", "lost")
    elif end == "stall":
        tale.fault("stall", client="a")
    elif end == "restart":
        tale.restart()
    tale.message("b", 0, attempt=2, returned="nack")
    tale.settle("b", 0)
    assert tale.verdict() == []


def test_delivered_after_its_ack_was_confirmed(tale):
    tale.publish(0)
    tale.message("a", 0)
    tale.settle("a", 0)
    tale.note("broker", "is gone")
    tale.message("b", 0, returned="restart")
    assert tale.verdict() == []  # it may have been sent before the broker died …
    tale.note("b", "lost")
    tale.note("b", "connected")
    tale.message("b", 0, attempt=2, returned="restart")
    assert "duplicate: p/0 was delivered after its ack had been confirmed" in tale.verdict()


def test_too_many_duplicates():
    tale = Tale("duplicates_at_most = 0\nprocessed_twice_at_most = 0")
    tale.publish(0)
    tale.message("a", 0)
    tale.settle("a", 0, done=False)
    tale.note("a", "lost")
    tale.message("b", 0, attempt=2, returned="disconnect")
    tale.settle("b", 0)
    assert tale.verdict() == [
        "duplicate: 1 deliveries beyond a message's first, at most 0 may be: p/0 first",
        "duplicate: 1 messages were processed twice, at most 0 may be: p/0 first",
    ]


def test_disorder(tale):
    tale.publish(0, 1)
    tale.message("a", 1)
    tale.message("a", 0)
    for n in (0, 1):
        tale.settle("a", n)
    assert tale.verdict() == ["disorder: a got p/0 after p/1, published before it"]


def test_order_is_not_judged_over_what_came_back(tale):
    tale.publish(0, 1)
    tale.message("a", 1)
    tale.note("b", "lost")
    tale.message("a", 0, attempt=2, returned="disconnect")
    for n in (0, 1):
        tale.settle("a", n)
    assert tale.verdict() == []


def test_a_forgotten_attempt(tale):
    tale.publish(0)
    tale.message("a", 0)
    tale.settle("a", 0, how="nack")
    tale.message("a", 0, tag=7, attempt=1, returned="nack")
    tale.settle("a", 0, tag=7)
    assert tale.verdict() == ["attempts: a got p/0 in attempt 1 after attempt 1 was nacked"]


def test_delivered_before_it_was_stored(tale):
    tale.publish(0, acked=False)
    tale.message("a", 0)
    tale.restart()
    tale.note("p", "publish", key="p/0", to="queue q", times=2)
    tale.note("p", "acked", key="p/0")
    tale.message("a", 0)
    tale.settle("a", 0)
    assert [text.partition(":")[0] for text in tale.verdict()] == ["undurable"]


def test_known_after_the_restart_is_stored_before(tale):
    tale.publish(0, acked=False)
    tale.message("a", 0)
    tale.restart()
    tale.note("p", "publish", key="p/0", to="queue q", times=2)
    tale.note("p", "acked", key="p/0", duplicate=True)
    tale.message("a", 0, returned="restart")
    tale.settle("a", 0)
    assert tale.verdict() == []


def test_before_its_delay(tale):
    tale.publish(0, delay=1.0)
    tale.message("a", 0)
    tale.settle("a", 0)
    assert [text.partition(":")[0] for text in tale.verdict()] == ["early"]


def test_a_subscriber_that_missed_something_and_was_not_told(tale):
    tale.publish(0, 1, 2, to="topic t.x")
    tale.heard(0)
    tale.heard(2)
    assert tale.verdict() == ["lost: s missed 1 messages of t.> and was told of 0: p/1"]


def test_what_a_subscriber_was_told_of_is_counted():
    tale = Tale("dropped = 1")
    tale.publish(0, 1, 2, to="topic t.x")
    tale.heard(0)
    tale.heard(2, dropped=1)
    assert tale.verdict() == []
    tale = Tale()
    tale.publish(0, to="topic t.x")
    tale.heard(0, dropped=1)
    assert tale.verdict() == ["dropped: subscribers missed 1, expected 0"]


def test_heard_twice(tale):
    tale.publish(0, to="topic t.x")
    tale.heard(0)
    tale.heard(0)
    assert tale.verdict() == ["duplicate: s heard p/0 twice on one subscription"]


def test_dead_letters_errors_exits_and_crashes_are_to_be_expected():
    tale = Tale('dead = 1\nerrors = ["disk_full"]\nexits = [74]\nrestarts_at_least = 1')
    tale.publish(0)
    tale.found(0, "queue q.dead")
    tale.note("p", "put off", key="p/0", code="disk_full")
    tale.note("broker", "ended", exit=74, error="StoreFailed")
    tale.fault("crash_actor", actor="queue q")
    tale.note("broker", "error", event="actor crashed", actor="queue q", error="Bug")
    assert tale.verdict() == []


def test_dead_letters_errors_exits_and_crashes_that_nobody_expected(tale):
    tale.publish(0)
    tale.found(0, "queue q.dead")
    tale.note("p", "put off", key="p/0", code="disk_full")
    tale.note("broker", "ended", exit=70, error="Bug: no")
    tale.note("broker", "error", event="actor crashed", actor="queue q", error="Bug")
    assert tale.verdict() == [
        "errors: p got the error disk_full: ",
        "exit: the broker ended with [70], expected []: Bug: no",
        "crash: queue q crashed by itself: Bug",
        "dead: 1 dead letters, expected 0: p/0",
    ]


def test_not_drained_and_not_answered_and_too_late():
    story = STORY.replace("prefetch = 10 }", 'prefetch = 10, latency_at_most = "10ms" }', 1)
    tale = Tale('drained_within = "1s"', story)
    tale.publish(0)
    tale.now += 1
    tale.message("a", 0)
    tale.settle("a", 0)
    tale.note("p", "unanswered", key="p/1")
    tale.note("play", "not drained", waiting=1, unfinished=["p"])
    kinds = [text.partition(":")[0] for text in tale.verdict()]
    assert kinds == ["late", "unanswered", "not drained"]


def test_a_bad_frame_gets_one_error_and_the_end(tale):
    tale.note("bad-http-0", "bad frame", codes=["bad_frame"], closed=True)
    tale.note("bad-lf-1", "bad frame", codes=[], closed=True)
    assert tale.verdict() == ["errors: bad-lf-1 was answered [], and the connection was closed"]


def test_the_books_of_the_broker_itself(tale):
    tale.note("check", "books")
    tale.note("play", "over")
    found = judge(tale.scenario, tale.journal.events, ["books of q: 3 accepted, 2 known"])
    assert [str(violation) for violation in found] == ["books: books of q: 3 accepted, 2 known"]
