"""The tree: what runs under whom, who waits on whom, knots in it, and folding."""

from typing import Any

import trio

from msg.actors.knots import edges_of, knots_of
from msg.actors.tree import fold
from msg.actors.waits import waiting
from tests.actors.kit import Client, running, settled


async def rows(client: Client, **options: Any) -> dict[str, dict[str, Any]]:
    answer = await client.ask("tree", "tree", options=options)
    return {row["name"]: row for row in answer["actors"]}


async def test_parents_stand_before_children_and_every_actor_is_there(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        await client.publish("news", 1, mode="pubsub")
        answer = await client.ask("tree", "tree")
        names = [row["name"] for row in answer["actors"]]
        assert names[0] == "broker"
        assert {"store", "timer", "directory", "queue jobs", "topic news", "connection 1",
                "writer 1", "watchdog"} <= set(names)  # fmt: skip
        for row in answer["actors"][1:]:
            assert row["parent"] in names[: names.index(row["name"])]
        assert answer["count"] == len(names)
        assert (answer["waits"], answer["knots"]) == ([], [])


async def test_what_a_row_says_of_queues_and_connections(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.ask("hello", "hello", name="worker-a")
        await client.subscribe("jobs", prefetch=3)
        await client.publish("jobs", 1)
        await client.expect("message")
        found = await rows(client)
        queue = found["queue jobs"]
        assert (queue["ready"], queue["leased"], queue["delayed"], queue["dead"]) == (0, 1, 0, 0)
        assert queue["mailbox"]["room"] == queue["mailbox"]["free"] == 64
        assert queue["handled"] > 0
        connection = found["connection 1"]
        assert (connection["client"], connection["peer"]) == ("worker-a", "test")
        assert (connection["credit"], connection["leased"]) == (2, 1)


async def test_a_stalled_disk_as_a_chain_of_waits_from_client_to_disk(autojump_clock):
    async with running() as broker:
        client, looker = broker.client(), broker.client()
        await client.publish("jobs", 0)
        broker.world.hold_disk()
        for n in range(80):  # more than the mailbox has room for
            await client.send(action="publish", topic="jobs", mode="queue", message=n)
            await settled()
        autojump_clock.jump(3)
        answer = await looker.ask("tree", "tree")
        waits = {(edge["from"], edge["to"]): edge for edge in answer["waits"]}
        assert set(waits) == {
            ("connection 1", "queue jobs"), ("queue jobs", "store"), ("store", "disk"),
        }  # fmt: skip
        assert waits["connection 1", "queue jobs"]["what"] == "room in its mailbox"
        assert all([edge["since_s"] == 3.0 for edge in answer["waits"]])
        found = {row["name"]: row for row in answer["actors"]}
        assert found["connection 1"]["state"] == "waiting"
        assert found["queue jobs"]["mailbox"]["waiting"] == 1
        assert found["queue jobs"]["mailbox"]["senders"] == [
            {"name": "connection 1", "since_s": 3.0}
        ]
        assert answer["knots"] == []
        broker.world.free_disk()
        for _ in range(80):
            await client.expect("ack")


async def test_a_client_that_takes_no_bytes_is_waited_for(autojump_clock):
    async with running() as broker:
        client, deaf = broker.client(), broker.client(window=10)
        await client.ask("ping", "pong")
        await deaf.send(action="ping")
        await settled()
        autojump_clock.jump(2)
        answer = await client.ask("tree", "tree")
        assert [(e["from"], e["to"]) for e in answer["waits"]] == [
            ("connection 2", "client test"), ("writer 2", "client test"),
        ]  # fmt: skip


async def test_folded_a_writer_is_half_of_its_connection(autojump_clock):
    async with running() as broker:
        client, deaf = broker.client(), broker.client(window=10)
        await client.ask("ping", "pong")
        await deaf.send(action="ping")
        await settled()
        autojump_clock.jump(2)
        answer = await client.ask("tree", "tree", options={"fold": 20})
        assert [(e["from"], e["to"]) for e in answer["waits"]] == [("connection 2", "client test")]
        assert not [row for row in answer["actors"] if row["kind"] == "writer"]


async def test_every_actor_has_an_age(autojump_clock):
    async with running() as broker:
        autojump_clock.jump(1)
        client = broker.client()
        await client.publish("jobs", 1)
        await client.publish("news", 1, mode="pubsub")
        await trio.sleep(3)
        answer = await client.ask("tree", "tree")
        assert [row["name"] for row in answer["actors"] if "age_s" not in row] == []


async def test_await_stacks(autojump_clock):
    async with running() as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        stack = (await rows(client, stacks=True))["queue jobs"]["stack"]
        assert stack[-1] == "trio/_channel.py:412 receive" or stack[-1].startswith("trio/")
        assert any(
            line.startswith("actors/mailbox.py:") and line.endswith(" take") for line in stack
        )


async def test_a_thousand_actors_are_folded_and_do_not_stop_the_loop(autojump_clock):
    async with running() as broker:
        client = broker.client()
        others = [broker.client() for _ in range(400)]
        await settled()
        await others[300].subscribe("jobs", prefetch=5)
        for _ in range(5):
            await client.publish("jobs", 1)
        await others[300].messages(5)
        answer = await client.ask("tree", "tree", options={"fold": 20})
        found = answer["actors"]
        assert answer["count"] > 800
        assert len(found) < 50
        rest = next(row for row in found if row["state"] == "folded")
        assert (rest["name"], rest["folded"]) == ("381 more connections", 381)
        assert rest["parent"] == "broker"
        # the telling ones first
        assert next(r["name"] for r in found if r["kind"] == "connection") == "connection 302"
        wide = await rows(client, fold=20, expand=["connection"])
        assert len([name for name in wide if name.startswith("connection ")]) == 401
        one = await rows(client, fold=20, expand=["connection 390"])
        assert "connection 390" in one
        slices = 0

        async def turn() -> None:
            nonlocal slices
            while True:
                await trio.lowlevel.checkpoint()
                slices += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn)
            await broker.broker.picture(stacks=True)
            nursery.cancel_scope.cancel()
        assert slices >= answer["count"] // 50 - 2


async def test_an_answer_too_long_for_a_frame_is_paged(autojump_clock, monkeypatch):
    monkeypatch.setattr("msg.actors.asking.PAGE_BYTES", 10_000)
    async with running() as broker:
        client = broker.client()
        for _ in range(50):
            broker.client()
        await settled()
        names: list[str] = []
        cursor: dict[str, str] = {}
        pages = 0
        while True:
            answer = await client.ask("tree", "tree", **cursor)
            names += [row["name"] for row in answer["actors"]]
            pages += 1
            if "cursor" not in answer:
                break
            cursor = {"cursor": answer["cursor"]}
        assert pages > 1
        assert len(names) == len(set(names)) == answer["count"]


async def test_the_watchdog_tells_of_an_actor_that_takes_no_mail(autojump_clock):
    """Once when it is stuck, with its stack and the tree, and once when it moves again."""
    async with running(errors=("actor stuck: it does not take its mail",)) as broker:
        client = broker.client()
        await client.publish("jobs", 1)
        mailbox = broker.broker.storekeeper.commits
        broker.world.hold_disk()
        for name in ("jobs", "other", "third"):  # two rounds are under way, the next ones wait
            await client.send(action="publish", topic=name, mode="queue", message=2)
            await settled()
        assert mailbox.depth
        await trio.sleep(8)
        told = broker.log.said("actor stuck: it does not take its mail")
        assert [line["actor"] for line in told] == ["store"]
        assert told[0]["waits_on"][0]["on"] == "disk"
        assert any("storekeeper.py" in line for line in told[0]["stack"])
        tree = broker.log.said("tree")[0]["actors"]
        assert {row["name"]: row["state"] for row in tree}["store"] == "stuck"
        broker.world.free_disk()
        await trio.sleep(2)
        assert [line["actor"] for line in broker.log.said("actor moves again")] == ["store"]


async def test_waits_are_forgotten_when_they_end(autojump_clock):
    from msg.actors.waits import waits

    before = len(list(waits()))
    with trio.move_on_after(1), waiting("queue jobs", "room"):
        assert [wait.on for _, wait in waits()][-1] == "queue jobs"
        await trio.sleep_forever()
    assert len(list(waits())) == before


def edge(a: str, b: str, since: float = 5.0) -> dict[str, Any]:
    return {"from": a, "to": b, "what": "room", "since_s": since}


def test_a_cycle_is_pointed_out_once():
    notes = knots_of([edge("a", "b"), edge("b", "c"), edge("c", "a"), edge("x", "a")])
    assert notes == ["cycle, these wait for each other: a -> b -> c -> a"]


def test_a_chain_as_long_as_the_architecture_is_well_and_a_longer_one_is_not():
    chain = [edge("connection 1", "topic t"), edge("topic t", "queue q"),
             edge("queue q", "store"), edge("store", "disk")]  # fmt: skip
    assert knots_of(chain) == []
    notes = knots_of([edge("client", "connection 1"), *chain])
    assert len(notes) == 1
    assert notes[0].startswith("chain of 5 waits, longer than the 4 that can be: client -> ")


def test_what_has_waited_a_moment_only_is_no_knot():
    assert knots_of([edge("a", "b", 0.01), edge("b", "a", 0.01)]) == []


def test_edges_are_read_from_rows_the_longest_wait_first():
    found = edges_of([
        {"name": "a", "waits_on": [{"on": "b", "what": "room", "since_s": 1}]},
        {"name": "b"},
        {"name": "c", "waits_on": [{"on": "b", "what": "room", "since_s": 2}]},
    ])  # fmt: skip
    assert [(e["from"], e["to"]) for e in found] == [("c", "b"), ("a", "b")]


def test_folding_keeps_what_is_wrong_and_sums_up_the_rest():
    actors: list[dict[str, Any]] = [
        {"name": "broker", "kind": "broker", "state": "running", "parent": None}
    ]
    for n in range(30):
        box = {"depth": n, "waiting": 0}
        actors.append({"name": f"queue q{n}", "kind": "queue", "state": "running",
                       "parent": "broker", "mailbox": box, "ready": 1})  # fmt: skip
    actors[3]["state"] = "failed"
    shown = fold(actors, 3)
    assert [row["name"] for row in shown] == [
        "broker", "queue q2", "queue q29", "queue q28", "27 more queues",
    ]  # fmt: skip
    assert shown[-1]["ready"] == 27
    assert shown[-1]["mailbox"] == {"depth": sum(range(28)) - 2, "max": 27}
