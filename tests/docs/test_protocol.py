"""docs/protocol.md tells what a broker says: every transcript is played, every action has one."""

from typing import get_args

import pytest

from msg.actors.questions import _ANSWERS
from msg.core.commands import Question
from msg.errors import Code
from msg.protocol.codec import commands_by_action
from tests.docs.transcripts import DOCS, blocks, differs, merged, play

PROTOCOL = DOCS / "protocol.md"
ALL = [block for path in sorted(DOCS.rglob("*.md")) for block in blocks(path)]


@pytest.mark.parametrize("block", ALL, ids=str)
async def test_a_transcript_is_what_comes(block, autojump_clock):
    came = await play(block)
    assert not differs(block.text, came), f"python -m tests.docs.transcripts writes:\n{came}"


def test_every_action_has_a_transcript():
    shown = {str(frame["action"]) for block in blocks(PROTOCOL) for frame in block.sent
             if "action" in frame}  # fmt: skip
    actions = commands_by_action()
    told = {a for a, c in actions.items() if not issubclass(c, Question) or c in _ANSWERS}
    assert shown >= told >= {"publish", "ack", "stats"}


def test_every_code_is_told():
    text = PROTOCOL.read_text(encoding="utf-8")
    assert [code for code in get_args(Code) if f"`{code}`" not in text] == []


def test_a_transcript_that_is_wrong_is_found():
    """The judge itself: a changed answer, a missing and a further line, and what … may stand for."""
    came = '→ {"a":1}\n← {"b":2,"c":3}\n'
    assert not differs(came, came)
    assert not differs('→ {"a":1}\n← {"b":2,…}\n', came)
    assert differs('→ {"a":1}\n← {"b":3,…}\n', came)
    assert differs('→ {"a":1}\n← {"b":2}\n', came)
    assert differs('→ {"a":1}\n', came)
    assert differs(came + "← {}\n", came)
    assert merged('→ {"a":1}\n← {"b":2,…}\n', came) == '→ {"a":1}\n← {"b":2,…}\n'
    assert merged('→ {"a":1}\n← {"d":2,…}\n', came) == came
