"""The trie of patterns: what matches, in which order, at what cost."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msg.core.patterns import PatternTrie, matches

CASES = [
    ("a", "a", True),
    ("a", "b", False),
    ("a", "a.b", False),
    ("a.b", "a", False),
    ("*", "a", True),
    ("*", "a.b", False),
    ("a.*", "a.b", True),
    ("a.*", "a", False),
    ("a.*", "a.b.c", False),
    ("*.b", "a.b", True),
    ("a.*.c", "a.b.c", True),
    (">", "a", True),
    (">", "a.b.c", True),
    ("a.>", "a", False),
    ("a.>", "a.b", True),
    ("a.>", "a.b.c", True),
    ("a.*.>", "a.b", False),
    ("a.*.>", "a.b.c.d", True),
    ("*", "_a", False),
    ("*.b", "$a.b", False),
    (">", "_a.b", False),
    ("_a.*", "_a.b", True),
    ("_a.>", "_a.$b.c", True),
    ("a.*", "a._b", True),
    ("$a", "$a", True),
]


@pytest.mark.parametrize(("pattern", "name", "expected"), CASES)
def test_one_pattern(pattern, name, expected):
    assert matches(pattern, name) is expected
    trie = PatternTrie[int]()
    trie.add(pattern, 1)
    assert trie.match(name) == ([1] if expected else [])


def test_values_come_in_the_order_they_were_added():
    trie = PatternTrie[str]()
    for pattern in (">", "a.b", "*.b", "a.*", "a.>"):
        trie.add(pattern, pattern)
    assert trie.match("a.b") == [">", "a.b", "*.b", "a.*", "a.>"]
    trie.add("a.b", "again")
    trie.add(">", ">")  # has its place already
    assert trie.match("a.b") == [">", "a.b", "*.b", "a.*", "a.>", "again"]
    assert trie.remove(">", ">")
    trie.add(">", ">")
    assert trie.match("a.b")[-1] == ">"


def test_a_value_is_given_once_for_each_of_its_patterns():
    trie = PatternTrie[str]()
    trie.add("a.*", "x")
    trie.add("*.b", "x")
    assert trie.match("a.b") == ["x", "x"]


def test_what_is_removed_leaves_nothing_behind():
    trie = PatternTrie[int]()
    for number in range(100):
        trie.add(f"a.b{number}.*.c.>", number)
    trie.add("a.b7", 7)
    assert len(trie) == 101
    assert not trie.remove("a.b7", 8)
    assert not trie.remove("a.x.y", 7)
    assert not trie.remove("a", 7)
    for number in range(100):
        assert trie.remove(f"a.b{number}.*.c.>", number)
    assert trie.match("a.b7") == [7]
    assert trie.remove("a.b7", 7)
    assert len(trie) == 0
    assert trie._root.children == {}


def test_patterns_that_do_not_match_are_not_looked_at():
    """The nodes visited are counted, not timed: the same with 10 patterns and with 10,000."""

    class Counting(dict[str, Any]):
        gets = 0

        def get(self, key, default=None):
            Counting.gets += 1
            return super().get(key, default)

    def visits(others):
        trie = PatternTrie[int]()
        for number in range(others):
            trie.add(f"t{number}.*", number)
            trie.add(f"*.t{number}.>", number)
            trie.add(f"t{number}.x.y", number)
        trie.add("jobs.*", -1)
        pending = [trie._root]
        while pending:
            node = pending.pop()
            node.children = Counting(node.children)
            pending += node.children.values()
        Counting.gets = 0
        assert trie.match("jobs.new") == [-1]
        return Counting.gets

    assert visits(10_000) == visits(10)


tokens = st.sampled_from(["a", "b", "_c"])
wild_tokens = st.sampled_from(["a", "b", "_c", "*"])
patterns = st.tuples(st.lists(wild_tokens, max_size=3), st.booleans()).map(
    lambda parts: ".".join([*parts[0], *([">"] if parts[1] or not parts[0] else [])])
)
names = st.lists(tokens, min_size=1, max_size=4).map(".".join)


@given(st.lists(st.tuples(patterns, st.booleans()), max_size=20), st.lists(names, max_size=5))
@settings(max_examples=200)
def test_the_trie_agrees_with_one_pattern_at_a_time(steps, asked):
    trie, model = PatternTrie[str](), list[str]()
    for pattern, adding in steps:
        if adding:
            trie.add(pattern, pattern)
            if pattern not in model:
                model.append(pattern)
        else:
            assert trie.remove(pattern, pattern) is (pattern in model)
            if pattern in model:
                model.remove(pattern)
    assert len(trie) == len(model)
    for name in asked:
        assert trie.match(name) == [pattern for pattern in model if matches(pattern, name)]
