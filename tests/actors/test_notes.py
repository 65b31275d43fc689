"""A note waits for the next mail, and is heard before it."""

import pytest
import trio

from msg.actors.mailbox import Mailbox


async def test_a_note_wakes_nobody_and_goes_before_what_does(autojump_clock):
    mailbox = Mailbox[str]()
    mailbox.note("note")
    with pytest.raises(trio.TooSlowError):
        with trio.fail_after(1):
            await mailbox.take()
    mailbox.post("first")
    mailbox.post("second")
    assert await mailbox.take() == ["note", "first", "second"]
    mailbox.post("third")
    assert await mailbox.take() == ["third"]


async def test_notes_come_out_where_all_is_taken_and_not_after_the_end():
    mailbox = Mailbox[str]()
    mailbox.note("note")
    mailbox.post("mail")
    assert mailbox.close() == ["note", "mail"]
    mailbox.note("late")
    assert mailbox.take_nowait() == []
