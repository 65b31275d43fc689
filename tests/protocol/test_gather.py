"""What the checks make of many frames at once is what they say of each."""

import pytest
from msgspec import Raw
from msgspec.structs import asdict

from msg.core.commands import Ack, Acks, BarePublish, Publish, Publishes
from msg.errors import ClientError
from msg.protocol.checks import TAG_MAX, Checks
from msg.protocol.codec import Decoder, Rejected


def frames(*lines: str) -> bytes:
    return "".join([line + "\n" for line in lines]).encode()


def publish(topic: str = "jobs", more: str = "") -> str:
    return f'{{"action":"publish","topic":"{topic}","mode":"queue","message":1{more}}}'


def ack(named: str) -> str:
    return f'{{"action":"ack",{named}}}'


def knowing(*topics: str) -> Checks:
    """Checks that have found these names good before."""
    checks = Checks()
    for item in Decoder().feed(frames(*map(publish, topics))):
        assert isinstance(item, Publish)
        checks.check(item)
    return checks


def gathered(checks: Checks, *lines: str) -> list[Publishes | Acks] | None:
    """What a decoder gathers of one read; None, if each frame was looked at by itself. Then it
    is as without gathering."""
    by_itself = Decoder(check=copy(checks).check).feed(frames(*lines))
    items = Decoder(check=checks.check, gather=checks.gather).feed(frames(*lines))
    if any([isinstance(item, Publishes | Acks) for item in items]):
        assert all([isinstance(item, Publishes | Acks) for item in items]), items
        return items  # type: ignore[return-value]
    assert list(map(shown, items)) == list(map(shown, by_itself))
    return None


def shown(item: object) -> str:
    """All of it; a body by its bytes."""
    if isinstance(item, Publish):
        return str({**asdict(item), "message": bytes(item.message)})
    return f"{item} {item.error!r}" if isinstance(item, Rejected) else str(item)


def copy(checks: Checks) -> Checks:
    return knowing(*checks._publishable)


def test_bare_publishes_are_one_command_for_each_destination():
    out = gathered(knowing("jobs", "mail"), publish(), publish("mail"), publish(), publish())
    assert [(run.topic, len(run.items)) for run in out or ()] == [("jobs", 3), ("mail", 1)]  # type: ignore[union-attr]


def test_acks_of_one_each_are_one_command_by_id_or_by_tag():
    checks = Checks()
    by_id = gathered(checks, ack('"message_id":"a"'), ack('"message_id":"b"'))
    assert by_id == [Acks(["a", "b"], [])]
    assert gathered(checks, ack('"tag":7'), ack('"tag":9')) == [Acks([], [7, 9])]


@pytest.mark.parametrize(
    "line",
    [
        publish(),
        publish("never.seen"),
        publish("a b"),
        publish(more=',"durability":"memory"'),
        publish(more=',"mode":"pubsub"'),
        publish(more=',"id":"x"'),
        ack('"tag":7'),
        ack('"message_id":"a"'),
        ack('"tag":0'),
    ],
)
def test_one_alone_is_as_one_of_many(line: str):
    """One of any kind beside it: each is gathered, or neither is."""
    alone = gathered(knowing("jobs"), line)
    same = gathered(knowing("jobs"), line, line)
    if alone is None:
        assert same is None
        return
    assert same is not None
    (one,), (two,) = alone, same
    for name in one.__struct_fields__:
        many = getattr(two, name)
        value = getattr(one, name)
        assert many == (value * 2 if isinstance(value, list) else value)


def test_publishes_and_acks_of_one_read_are_two():
    out = gathered(knowing("jobs"), ack('"tag":7'), publish(), ack('"tag":8'))
    assert [type(run) for run in out or ()] == [Publishes, Acks]


@pytest.mark.parametrize(
    "line",
    [
        publish("never.seen"),
        publish("a b"),
        publish(more=',"message_id":"x"'),
        publish(more=',"id":"x"'),
        publish(more=',"ttl":0'),
        publish(more=',"delay":-1'),
        publish(more=',"priority":0'),
        publish(more=',"headers":{}'),
        publish(more=',"retain":false'),
        publish(more=',"encoding":"base64"'),
        ack('"message_id":""'),
        ack('"message_id":"a\\u0007"'),
        ack(f'"message_id":"{"x" * 129}"'),
        ack('"message_id":"é"'),
        ack('"message_id":"a","id":"x"'),
        ack('"message_id":"a","tag":1'),
        ack('"tag":0'),
        ack(f'"tag":{TAG_MAX + 1}'),
        ack('"tags":[1]'),
        ack('"message_ids":["a"]'),
        ack('"id":"x"'),
    ],
)
def test_one_that_is_special_or_wrong_leaves_all_to_the_check_of_each(line):
    usual = publish() if "publish" in line else ack('"message_id":"a"')
    for lines in ([line], [usual, line], [line, usual]):
        assert gathered(knowing("jobs"), *lines) is None


def test_acks_by_id_and_by_tag_in_one_read_are_checked_one_by_one():
    assert gathered(Checks(), ack('"tag":1'), ack('"message_id":"a"')) is None


def test_whoever_sends_special_ones_is_read_as_usual_again_after_a_usual_one():
    checks = knowing("jobs")
    decoder = Decoder(check=checks.check, gather=checks.gather)
    special, usual = publish(more=',"id":"x"'), publish()
    kinds = [
        [type(item) for item in decoder.feed(frames(*lines))]
        for lines in ([usual], [special], [usual], [usual], [special, usual], [ack('"tag":1')])
    ]
    assert kinds == [[Publishes], [Publish], [Publish], [Publishes], [Publish, Publish], [Acks]]


def test_a_bare_publish_reads_as_one_that_names_nothing_more():
    bare, full = BarePublish("jobs", Raw(b"1")), Publish("jobs", Raw(b"1"))
    names = Publish.__struct_fields__
    assert [getattr(bare, name) for name in names if name != "message"] == [
        getattr(full, name) for name in names if name != "message"
    ]


def test_what_is_gathered_would_pass_the_check_of_each():
    checks = knowing("jobs")
    lines = [publish(), ack('"tag":1'), ack(f'"tag":{TAG_MAX}')]
    assert gathered(checks, *lines) is not None
    for item in Decoder().feed(frames(*lines)):
        checks.check(item)  # type: ignore[arg-type]
    with pytest.raises(ClientError):
        checks.check(Ack(tag=TAG_MAX + 1))


@pytest.mark.parametrize("lines", [[publish()], [publish()] * 2, [ack('"tag":7')] * 2])
def test_nothing_that_follows_a_fatal_error_in_its_read_is_taken(lines: list[str]):
    """One line or several: an object that began in the read before is too large."""
    checks = knowing("jobs")
    decoder = Decoder(600, check=checks.check, gather=checks.gather)
    assert len(decoder.feed(frames(publish()) + b'{"a":"')) == 1
    (refused,) = decoder.feed(frames("x" * 600 + '"}', *lines))
    assert isinstance(refused, Rejected)
    assert refused.error.code == "too_large"
    assert decoder.closed
