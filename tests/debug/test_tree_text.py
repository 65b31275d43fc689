"""The tree as text: whatever the dump holds, each actor is shown once."""

from hypothesis import given
from hypothesis import strategies as st

from msg.show.tree_text import mailbox_text, tree_lines, tree_text


def names(actors):
    return [name for name, _ in tree_lines(actors)]


def test_children_stand_under_their_parents():
    actors = [{"name": "root"}, {"name": "b", "parent": "a"}, {"name": "a", "parent": "root"},
              {"name": "c", "parent": "root"}, {"name": "lost", "parent": "gone"}]  # fmt: skip
    assert names(actors) == ["root", "├ a", "│ └ b", "└ c", "lost"]


def test_a_cycle_of_parents_is_shown_too():
    actors = [{"name": "a", "parent": "b"}, {"name": "b", "parent": "a"}]
    assert sorted(actor["name"] for _, actor in tree_lines(actors))[:1] == ["a"]
    assert {actor["name"] for _, actor in tree_lines(actors)} == {"a", "b"}


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([*"abcdef", None]))))
def test_no_dump_hides_an_actor(pairs):
    actors = [{"name": name, "parent": parent} for name, parent in dict(pairs).items()]
    shown = {actor["name"] for _, actor in tree_lines(actors)}
    assert shown == {actor["name"] for actor in actors}
    assert tree_text(actors).count("\n") >= len(actors)


def test_mailboxes():
    assert mailbox_text({}) == "-"
    assert mailbox_text({"mailbox": {"depth": 1, "room": 64}}) == "1/64"
    waiting = {"depth": 64, "room": 64, "waiting": ["conn 1", "conn 2"]}
    assert mailbox_text({"mailbox": waiting}) == "64/64 +2 waiting"
