"""Runs of memory-only messages in one piece: what a long line is made of.

A message of its own is an object, a wire, an id and an entry in a table: some 450 bytes
beside its body. A run keeps what differs between its messages, line by line, and the rest
once. Those that were accepted in one turn share their time and most of their ids: a section.

    section   stem, lines joined by line feeds
    stem      beginning of the ids, time     019dbc2a3f8000b7c4 2026-11-23T08:05:15.123Z
    line      rest of the id, \\1, body      0001, what comes behind `"message":` in the wire

It is done by cutting off what all wires of a section begin with, and by replacing the text
between id and body by one byte. So it can be undone if neither was there before. All of a run
are of one topic.
"""

from array import array
from collections.abc import Sequence
from itertools import accumulate, repeat
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

from msg.core.message import MEMORY, PRIORITY, Message

ID, SHARED = 22, 18  # characters of an id of ours, and those of one turn have in common
APART = 32 << 10  # bytes of a piece that is not in the heap
LARGE = 4096  # bytes of a wire, on average: from here on packing saves next to nothing

_MARK = b',"message_id":"'
_AT = b'","published_at":"'
_TIME = 24  # characters of a time
_BODY = b'","message":'


class Packed:
    """Some messages that follow each other in a line; never changed. `bytes`: their wires'."""

    __slots__ = ("_ends", "_head", "_shared", "_text", "_width", "bytes", "expires", "seqs")

    def __init__(
        self,
        seqs: Sequence[int],
        size: int,
        expires: "array[float] | None",
        head: bytes,
        width: int,
        shared: int,
        sections: list[bytes],
    ) -> None:
        self.seqs = seqs  # rising
        self.bytes = size
        self.expires = expires  # of each; None: they do not
        self._head = head  # of all wires, up to the id
        self._width = width  # of each id; 0: they differ
        self._shared = shared  # characters of each id that are in the stem
        self._ends = array("I", accumulate(map(len, sections)))
        self._text = _apart(b"".join(sections))

    def __len__(self) -> int:
        return len(self.seqs)

    @property
    def first(self) -> int:
        return self.seqs[0]

    @property
    def last(self) -> int:
        return self.seqs[-1]

    def unpack(self) -> list[Message]:
        """Its messages, made anew."""
        head, text, shared = self._head, self._text, self._shared
        wires: list[bytes] = []
        begin = 0
        for end in self._ends:
            wires += _open(head, text[begin:end], shared)
            begin = end
        ids = _ids(wires, len(self._head), self._width)
        messages = list(map(Message, self.seqs, ids, wires, repeat(PRIORITY), repeat(MEMORY)))
        if self.expires is not None:
            for message, expires in zip(messages, self.expires, strict=True):
                message.expires = expires
        return messages

    def may_have(self, message_id: str) -> bool:
        """False if none of its messages has this id."""
        name = message_id.encode()
        return self._text.find(name[: self._shared] or name) >= 0


def pack(messages: Sequence[Message]) -> Packed | None:
    """These as one run. None if one of them is not of memory only or not plain, and where
    there is nothing to gain."""
    if any([
        m.durability or m.attempts or m.due or m.until or m.key or m.returned or m.case
        or m.origin or m.priority != PRIORITY
        for m in messages
    ]):  # fmt: skip
        return None
    wires = [m.wire for m in messages]
    size = sum(map(len, wires))
    if size >= LARGE * len(wires):
        return None
    ids = [m.id for m in messages]
    widths = {*map(len, ids)}
    width = widths.pop() if len(widths) == 1 and "".join(ids).isascii() else 0
    head = wires[0][: wires[0].find(_MARK) + len(_MARK)]
    if _ids(wires, len(head), width) != ids:  # it has quotes in it, say
        return None
    shared = SHARED if width == ID else 0
    sections = _sections(head, wires, shared)
    if sections is None and shared:  # a client's, which have nothing in common
        shared = 0
        sections = _sections(head, wires, shared)
    if sections is None:
        return None
    seqs: Sequence[int] = [m.seq for m in messages]
    if seqs[-1] - seqs[0] == len(seqs) - 1:
        seqs = range(seqs[0], seqs[-1] + 1)
    else:
        seqs = array("Q", seqs)
    times = [m.expires for m in messages]
    expires = array("d", times) if any(times) else None
    return Packed(seqs, size, expires, head, width, shared, sections)


def _ids(wires: list[bytes], at: int, width: int) -> list[str]:
    """The ids as they stand in the wires."""
    if width:
        end = at + width
        names = [wire[at:end] for wire in wires]
    else:
        names = [wire[at : wire.find(b'"', at)] for wire in wires]
    return b"\n".join(names).decode(errors="replace").split("\n")


def _sections(head: bytes, wires: list[bytes], shared: int) -> list[bytes] | None:
    """Of ids that share so many characters with their neighbours. None if that cannot be."""
    sections: list[bytes] = []
    n = len(wires)
    first = 0
    while first < n:
        wire = wires[first]
        before = wire[: len(head) + shared]
        if not before.startswith(head):
            return None  # of another topic: a group of a pattern has them of several
        at = wire.find(_AT, len(before)) + len(_AT)
        time = wire[at : at + _TIME]
        after = _AT + time + _BODY
        end = first + 1
        step = 1
        while step:  # ever wider, then narrower: ids and times rise, as a rule
            k = end + step - 1
            if k < n and wires[k].startswith(before) and after in wires[k]:
                end = k + 1
                step *= 2
            else:
                step //= 2
        lines = _close(before, after, wires[first:end])
        if lines is None:
            return None
        sections.append(before[len(head) :] + time + lines)
        first = end
    return sections


def _close(before: bytes, after: bytes, wires: list[bytes]) -> bytes | None:
    """The lines of a section; None if they could not be opened again."""
    cut = len(before)
    text = b"\n".join([wire[cut:] for wire in wires])
    if (
        b"\1" in text
        or text.count(b"\n") != len(wires) - 1
        or not all(map(bytes.startswith, wires, repeat(before)))
    ):
        return None
    return text.replace(after, b"\1")  # in a body too: it is put back there too


def _open(head: bytes, section: bytes, shared: int) -> list[bytes]:
    """The wires of a section."""
    stem = shared + _TIME
    before, after = head + section[:shared], _AT + section[shared:stem] + _BODY
    lines = section[stem:].replace(b"\n", b"\n" + before).replace(b"\1", after)
    return (before + lines).split(b"\n")


def _apart(data: bytes) -> bytes | mmap:
    """Where a large piece goes back to the system when it is not needed any more: it does not
    from the heap, as long as anything lives behind it."""
    if len(data) < APART:
        return data
    piece = mmap(-1, len(data), flags=MAP_PRIVATE | MAP_ANONYMOUS)
    piece[:] = data
    return piece
