"""Errors in a scenario file: each with its line, its key, and what was probably meant."""

import pytest

from msg.scenario import model
from msg.scenario.model import Several, Span
from msg.scenario.reading import ScenarioError, parse_scenario, read_scenario

HEAD = 'title = "t"\nwhy = "w"\n'
WHOLE = (
    HEAD
    + """seed = 3

[broker.queues.jobs]
max_deliveries = 2

[[client]]
name = "worker"
number = 2
consume = { queue = "jobs", ack_after = ["1ms", "2ms"] }

[[client]]
name = "producer"
reconnect = false
[[client.publish]]
queue = "jobs"
count = 10
[[client.publish]]
topic = "news"
durability = "memory"

[[fault]]
at = "60ms"
times = [0, 2]
cut = { client = "worker-1" }

[expect]
dead = 2
"""
)


def problems(text: str) -> list[str]:
    with pytest.raises(ScenarioError) as failed:
        parse_scenario(text, "f.toml")
    return failed.value.problems


def test_a_whole_file():
    scenario = parse_scenario(WHOLE, "stories/f.toml")
    worker, producer = scenario.client
    assert scenario.name == "f"
    assert worker.consume[0].ack_after == Span(0.001, 0.002)
    assert producer.reconnect is None
    assert [role.topic or role.queue for role in producer.publish] == ["jobs", "news"]
    assert scenario.fault[0].what == model.Cut(client="worker-1")
    assert scenario.fault[0].times == Several(0, 2)
    assert scenario.expect.dead == Several(2, 2)
    assert scenario.broker.queue("jobs").max_deliveries == 2
    assert scenario.engines == ("sim", "process")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("seed", "sede", "f.toml:3: sede: there is no such key; did you mean 'seed'?"),
        ("count", "cuont", "f.toml:18: client[1].publish[0].cuont: there is no such key;"
         " did you mean 'count'?"),
        ("ack_after", "ack_aftr", "f.toml:11: client[0].consume.ack_aftr: there is no such key;"
         " did you mean 'ack_after'?"),
        ("cut =", "cutt =", "f.toml:26: fault[0].cutt: there is no such fault; did you mean 'cut'?"),
        ('"worker-1"', '"wroker"', "f.toml:26: fault[0].cut.client: no client is called 'wroker';"
         " did you mean 'worker'?"),
        ('"memory"', '"memroy"', "f.toml:21: client[1].publish[1].durability: expected one of"
         " memory, os, stored, not 'memroy'; did you mean 'memory'?"),
        ("count = 10", "count = -1", "f.toml:18: client[1].publish[0].count: expected a whole"
         " number, 0 or more, not -1"),
        ('"2ms"', '"2 fortnights"', "f.toml:11: client[0].consume.ack_after: "),
        ('["1ms", "2ms"]', '["2ms", "1ms"]', "f.toml:11: client[0].consume.ack_after: expected"
         " the shorter time first, not ['2ms', '1ms']"),
        ("times = [0, 2]", "times = [2, 0]", "f.toml:25: fault[0].times: expected the smaller"
         " number first, not [2, 0]"),
        ('name = "producer"', 'name = "worker"', "f.toml:14: client[1].name: there is a client"
         " 'worker' already"),
        ('at = "60ms"', "", "f.toml:23: fault[0]: 'at' is missing"),
        ('why = "w"', "", "f.toml:1: 'why' is missing"),
        ('queue = "jobs", ack', "ack", "f.toml:11: client[0].consume: either 'queue' or 'topic'"
         " says where"),
        ('topic = "news"', 'topic = "news"\nqueue = "q"', "f.toml:19: client[1].publish[1]:"
         " either 'queue' or 'topic' says where"),
        ("reconnect = false", "reconnect = true", "f.toml:15: client[1].reconnect: "),
        ("max_deliveries", "max_delivery", "f.toml:6: unknown key queues.jobs.max_delivery; did you mean max_deliveries?"),
        ("number = 2", 'number = "two"', "f.toml:10: client[0].number: expected a whole number"),
        ("[expect]", "[expects]", "f.toml:28: expects: there is no such key; did you mean"
         " 'expect'?"),
        ("dead = 2", "dead = [1, 2, 3]", "f.toml:29: expect.dead: expected a whole number"),
        ('cut = { client = "worker-1" }', "", "f.toml:23: fault[0]: which fault? There are cut,"),
        ('cut = { client = "worker-1" }', 'cut = { client = "worker-1" }\ndrain = {}',
         "f.toml:23: fault[0]: one fault each, not cut and drain"),
        ('cut = { client = "worker-1" }', "power_cut = {}", "f.toml:26: fault[0].power_cut cannot"
         " be had on the process engine (the page cache outlives any process"),
        ('cut = { client = "worker-1" }', 'crash_actor = { actor = "queu jobs" }',
         "f.toml:26: fault[0].crash_actor.actor: 'queu jobs' is no actor; write 'queue NAME'"),
        ('cut = { client = "worker-1" }', 'bad_frames = { kinds = ["htp"] }',
         "f.toml:26: fault[0].bad_frames.kinds: there is no kind 'htp'; did you mean 'http'?"),
        ('cut = { client = "worker-1" }', "flood = {}", "f.toml:26: fault[0].flood: either 'queue'"
         " or 'topic' says where"),
        ("seed = 3", 'seed = 3\nnot_on = { prosess = "no" }', "f.toml:4: not_on.prosess: there is"
         " no such engine; did you mean 'process'?"),
        ("seed = 3", 'seed = "3"', "f.toml:3: seed: expected a whole number, not '3'"),
        ('title = "t"', "title = 3", "f.toml:1: title: expected a text in quotes, not 3"),
        ("reconnect = false", 'reads = "no"', "f.toml:15: client[1].reads: expected true or false,"
         " not 'no'"),
        ("seed = 3", "client = 3", "f.toml:"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_line_and_key(old, new, problem):
    assert old in WHOLE
    found = problems(WHOLE.replace(old, new, 1))
    assert any(text.startswith(problem) for text in found), found


def test_all_that_is_wrong_is_said_in_order_of_lines():
    text = WHOLE.replace("seed", "sede").replace("queue =", "queeu =").replace("dead", "deed")
    lines = [int(problem.split(":")[1]) for problem in problems(text)]
    assert lines == sorted(lines)
    assert {3, 11, 17, 29} <= set(lines)


def test_no_toml_and_no_file(tmp_path):
    assert problems("title = \n")[0].startswith("f.toml:1: not valid TOML")
    with pytest.raises(ScenarioError, match="cannot be read"):
        read_scenario(tmp_path / "none.toml")


def test_a_group_is_needed_to_consume_a_topic():
    text = HEAD + '[[client]]\nname = "c"\nconsume = { topic = "t" }\n'
    assert problems(text) == [
        "f.toml:5: client[0].consume: a topic is consumed by a 'group'; to listen only, use"
        " 'subscribe'"
    ]
