"""Forms of `from`, and what a connection's checks remember. (Refusals: test_errors.py.)"""

import pytest

from msg.core.commands import Command
from msg.core.names import validate_name
from msg.errors import ClientError
from msg.protocol import checks
from msg.protocol.checks import Checks, From, parse_from
from msg.protocol.codec import Decoder


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, From("new")),
        ("new", From("new")),
        ("last", From("last")),
        ("all", From("all")),
        (0, From("seq", 0)),
        (17, From("seq", 17)),
        ("1970-01-01T00:00:00Z", From("time", 0)),
        ("1970-01-01t00:00:01z", From("time", 1)),
        ("1970-01-01 01:00:00+01:00", From("time", 0)),
        ("1970-01-01T00:00:00.5-00:00", From("time", 0.5)),
        ("2026-11-23T08:05:15.123Z", From("time", 1795421115.123)),
        ("2026-11-23T08:05:15.123456789Z", From("time", 1795421115.123456)),
    ],
)
def test_where_a_subscription_begins(value, expected):
    assert parse_from(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "NEW",
        "17",
        -1,
        2**53,
        "2026-11-23",
        "2026-11-23T08:05:15",  # of which zone?
        "2026-11-23T08:05Z",
        "20261123T080515Z",
        "2026-W48-1T08:05:15Z",
        "2026-13-01T00:00:00Z",
        "2026-11-23T25:00:00Z",
        "2026-11-23T08:05:15.Z",
        "2026-11-23T08:05:15+24:00",
        "２026-11-23T08:05:15Z",
        "2026-11-23T08:05:15Z\n",
    ],
)
def test_what_it_cannot_begin_with(value):
    with pytest.raises(ClientError) as caught:
        parse_from(value)
    assert caught.value.code == "bad_field"


def commands(*frames):
    items = Decoder().feed("\n".join(frames).encode() + b"\n")
    return [item for item in items if isinstance(item, Command)]


def publishes(*topics):
    return commands(*(f'{{"action":"publish","topic":"{topic}","message":1}}' for topic in topics))


def test_a_good_name_is_looked_at_once(monkeypatch):
    seen = []

    def validate(name, what):
        seen.append(name)
        validate_name(name, what)

    monkeypatch.setattr(checks, "validate_name", validate)
    checking = Checks()
    for command in publishes("a", "b", "a", "a", "b"):
        checking.check(command)
    assert seen == ["a", "b"]


def test_a_bad_name_is_not_remembered_and_good_ones_are_bounded(monkeypatch):
    monkeypatch.setattr(checks, "NAMES_REMEMBERED", 3)
    checking = Checks()
    for command in publishes("a b", "a b"):
        with pytest.raises(ClientError):
            checking.check(command)
    for command in publishes(*"abcdefgh"):
        checking.check(command)
    assert len(checking._publishable) <= 3


def test_the_prefetch_limit_is_the_brokers_to_set():
    (command,) = commands('{"action":"subscribe","topic":"a","prefetch":6}')
    Checks(prefetch_max=6).check(command)
    with pytest.raises(ClientError, match="at most 5") as caught:
        Checks(prefetch_max=5).check(command)
    assert caught.value.limit == 5
