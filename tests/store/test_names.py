"""Names of destinations as names of directories."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msg.store.names import DIRECTORY_BYTES_MAX, directory_of, is_cut, name_of

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200)


@given(NAMES)
def test_a_directory_tells_its_name_or_that_it_was_cut(name):
    directory = directory_of(name)
    assert name_of(directory) == (None if is_cut(directory) else name)


@given(NAMES)
def test_a_directory_is_harmless_on_every_disk(name):
    directory = directory_of(name)
    assert len(directory) <= DIRECTORY_BYTES_MAX
    assert set(directory) <= set(string.ascii_lowercase + string.digits + "_.-%~")
    assert directory[0] not in ".-_~"
    assert not directory.endswith(".")


@given(NAMES, NAMES)
def test_two_names_never_share_a_directory(one, other):
    assert (directory_of(one) == directory_of(other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "directory"),
    [
        ("jobs", "jobs"),
        ("jobs.dead", "jobs.dead"),
        ("Jobs", "%4aobs"),
        ("a/b", "a%2fb"),
        ("jobs\n", "jobs%0a"),
        ("..", "%2e%2e"),
        ("a%41", "a%2541"),
        ("con", "%63on"),
        ("com1.x", "%63om1.x"),
        ("news.*@audit", "news.%2a%40audit"),
        ("ü", "%c3%bc"),
    ],
)
def test_what_a_person_sees(name, directory):
    assert directory_of(name) == directory


@pytest.mark.parametrize(
    "directory", ["", "Jobs", "%4A", "%zz", "a%", "%61", "a b", "..", "jobs\n"]
)
def test_no_directory_of_ours(directory):
    assert name_of(directory) is None
