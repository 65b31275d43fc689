"""Names, patterns, groups and ids: every rule of the protocol's "Names and ids"."""

import pytest

from msg.core.names import (
    Target,
    dead_name,
    group_address,
    has_wildcard,
    is_broker_name,
    is_dead,
    is_id,
    parent_of,
    split_group,
    validate_address,
    validate_group,
    validate_name,
    validate_pattern,
)
from msg.errors import ClientError

GOOD = [
    "a",
    "jobs",
    "a.b.c",
    "A-1_2.ü",
    "news/de.köln",
    "日本.語",
    "\U0001f600",
    "_inbox.17",
    "$sys",
    "x.dead",
    "{}:;,!?'=&%~|<",
    "x" * 128,
    "é" * 64,
    "a." * 63 + "bc",
    "x" * 128 + ".dead",
    "é" * 64 + ".dead",
]
BAD_ANYWHERE = [
    "",
    ".",
    ".a",
    "a.",
    "a..b",
    " a",
    "a b",
    "a\tb",
    "a\n",
    "\na",
    "a\r",
    "a\x00",
    "a\x7f",
    "a\x85b",
    "a\x9f",
    "a\xa0b",
    "a\u2028b",
    "a\u3000b",
    "a@b",
    "a#",
    "a+b",
    'a"b',
    "a\\b",
    "x" * 129,
    "é" * 65,
    "x" * 129 + ".dead",
    "é" * 65 + ".dead",
]
WILD = ["*", ">", "a.*", "*.b", "a.*.c", "a.>", "*.>", "*.*", "a.*.>"]
BAD_WILD = ["a*", "*a", "a.b*", "**", ">.a", "a.>.b", ">>", "a>", "a.>b", "*>", ".>", "a..>", "*."]


@pytest.mark.parametrize("name", GOOD)
def test_good_names_are_patterns_too(name):
    validate_name(name)
    validate_pattern(name)
    assert not has_wildcard(name)


@pytest.mark.parametrize("name", [*BAD_ANYWHERE, *WILD, *BAD_WILD])
def test_bad_names(name):
    with pytest.raises(ClientError) as caught:
        validate_name(name, "topic")
    assert caught.value.code == "bad_name"
    assert not caught.value.closes
    text = str(caught.value)
    assert "topic" in text
    assert text.isprintable()
    assert len(text) < 200


@pytest.mark.parametrize("pattern", WILD)
def test_good_patterns(pattern):
    validate_pattern(pattern)
    assert has_wildcard(pattern)


@pytest.mark.parametrize("pattern", [*BAD_ANYWHERE, *BAD_WILD])
def test_bad_patterns(pattern):
    with pytest.raises(ClientError) as caught:
        validate_pattern(pattern)
    assert caught.value.code == "bad_name"


@pytest.mark.parametrize("group", ["", "*", "a.dead", ".dead", "g@h", "x" * 129])
def test_bad_groups(group):
    with pytest.raises(ClientError):
        validate_group(group)


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("jobs", Target("jobs", None, False)),
        ("jobs.dead", Target("jobs.dead", None, True)),
        ("news.*@mail", Target("news.*", "mail", False)),
        (">@g.h", Target(">", "g.h", False)),
        ("news.*@mail.dead", Target("news.*", "mail", True)),
    ],
)
def test_addresses(address, target):
    assert validate_address(address) == target


@pytest.mark.parametrize("address", ["", "a.*", "@g", "a@", "a@b@c", "a@.dead", "a@*", "a b@g"])
def test_bad_addresses(address):
    with pytest.raises(ClientError):
        validate_address(address)


def test_groups_are_put_together_and_taken_apart():
    assert split_group("a.*@g") == ("a.*", "g")
    assert split_group("a.b") == ("a.b", None)
    assert group_address("a.*", "g") == "a.*@g"


def test_dead_letters_have_a_name_of_their_own():
    for name in ("jobs", "a.*@g"):
        assert is_dead(dead_name(name))
        assert parent_of(dead_name(name)) == name
        assert not is_dead(name)
    assert not is_dead("dead")
    assert not is_dead("undead")


def test_the_brokers_own_names():
    assert is_broker_name("_inbox.1")
    assert is_broker_name("$sys")
    assert not is_broker_name("a._b")


def test_ids():
    for good in ("a", " ", 'a"\\b', "é" * 64, "x" * 128, "\U0001f600" * 32):
        assert is_id(good)
    for bad in (
        "",
        "\n",
        "a\x00",
        "\x7f",
        "x" * 129,
        "é" * 65,
        "\u202e",
        "\u2028",
        "\U0001f600" * 33,
    ):
        assert not is_id(bad)
