"""Frames to commands: what came over the wire, decoded, in order, errors in their places.

The fast path takes complete lines. One C-level pass (`map(decode, lines)`) turns each line
into its command; since every line is decoded by itself, nothing can span two lines and
nothing but blanks can follow a frame. What msgspec does not look at is then checked per
chunk: UTF-8, raw CRs, and the bodies of publishes, which it skips over as `Raw`. It does
check grammar, escapes, surrogate pairs and control characters there (a test guards that).

Most frames are of two forms: a publish with a body only, and an ack of one message. Where all
of a read are, they are decoded as those (`_usually`), with less fields to fill and to look at.

Whatever is refused or doubtful goes line by line through the `Framer` and `decode_frame`,
which say exactly what is wrong. Both give the same results, which a test shows.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from io import BytesIO
from typing import Any, get_args

import msgspec
from msgspec import Raw

from msg.core import commands
from msg.core.commands import Ack, Acks, BareAck, BarePublish, Command, Publish, Publishes, are_bare
from msg.core.names import is_id
from msg.errors import ClientError
from msg.protocol.checks import EXPECTED
from msg.protocol.framing import (
    FRAME_BYTES_MAX,
    Framer,
    brackets_of,
    fatal,
    without_pairs,
)

DEPTH_MAX = 64  # the frame itself counts as 1
INT_DIGITS_MAX = 4300  # Python's own limit against quadratic conversion
ERRORS_IN_A_ROW_MAX = 100

_DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)

# Without the classes that hold free-form objects (`settings`, `options`): msgspec decodes
# those to any depth, so that `decode_frame` has to look first.
_Frequent = (
    commands.Publish
    | commands.Subscribe
    | commands.Unsubscribe
    | commands.Get
    | commands.Ack
    | commands.Nack
    | commands.Touch
    | commands.Hello
    | commands.Ping
    | commands.Pong
)
_decode = msgspec.json.Decoder(_Frequent).decode
_decode_usual = msgspec.json.Decoder(commands.BarePublish | commands.BareAck).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_STRING_OR_NUMBER = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|-?[0-9][0-9.eE+-]*+', re.DOTALL)
# An exponent of two digits or more; the literal first makes each search five times as fast.
_EXPONENTS = (
    re.compile(rb"e(?<=[0-9.]e)\+?[0-9]{2}"),
    re.compile(rb"E(?<=[0-9.]E)\+?[0-9]{2}"),
)
_THREE_DIGITS = re.compile(rb"[0-9]{3}")
_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"000000000")
_MANTISSA_MAX = 300
_LONG_NUMBER = b"0" * _MANTISSA_MAX
_NOT_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
_OPENING = frozenset(b"{[")
_QUOTE = b'"'[0]


class Rejected(msgspec.Struct):
    """What stands in the place of a frame that was refused: the answer to send.

    `error.closes` says that the connection ends with it. `id` and `message_id` are the
    frame's own, where it could be read far enough.
    """

    error: ClientError
    id: str | None = None
    message_id: str | None = None


Item = Command | Rejected | Publishes | Acks
Check = Callable[[Command], None]
Gather = Callable[[Sequence[BarePublish], Sequence[BareAck]], list[Publishes | Acks] | None]


class Decoder:
    """One connection's incoming side: bytes in, commands and refusals out, in order.

    No I/O and no clock: the connection gives a `partial` frame 30 s from the time that
    `taken` last changed and a `broken` one 1 s, then calls `expire`.

    `check`, where given, is called with each command and refuses it by raising a
    `ClientError` (see `msg.protocol.checks`); doing it here keeps order and the count of
    errors in a row exact. `gather`, where given, says of many of the usual forms at once that
    `check` would pass them all, and makes them few commands; it may decline any.

    A `Publish.message` is a view into its own line (not into the whole read): it keeps
    that line alive, about 100 bytes more than the body. Consumers copy what they keep.

    `stepwise` gives at most one item per `feed`, so that a `hello` can raise `limit`
    before what follows it is judged; ask for the next with `feed(b"")`.
    """

    def __init__(
        self,
        limit: int = FRAME_BYTES_MAX,
        *,
        check: Check | None = None,
        gather: Gather | None = None,
        stepwise: bool = False,
        errors_max: int = ERRORS_IN_A_ROW_MAX,
    ) -> None:
        self.stepwise = stepwise
        self._errors_max = errors_max
        self.taken = 0  # frames and refusals so far
        self._check = check
        self._gather = gather
        self._framer = Framer(limit)
        self._errors_in_a_row = 0
        self._usual = gather is not None  # what came last was of a usual form: so may the next be

    @property
    def closed(self) -> bool:
        """After a fatal error or the end: nothing more comes."""
        return self._framer.closed

    @property
    def limit(self) -> int:
        """The most bytes that a frame may have; may be changed at any time."""
        return self._framer.limit

    @limit.setter
    def limit(self, frame_bytes_max: int) -> None:
        self._framer.limit = frame_bytes_max

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and is not complete."""
        return self._framer.partial

    @property
    def broken(self) -> bool:
        """Whether something wrong awaits the LF that would end it."""
        return self._framer.broken

    @property
    def pending(self) -> bool:
        """Whether it is partial or broken."""
        return self._framer.pending

    @property
    def pending_bytes(self) -> int:
        return self._framer.pending_bytes

    def feed(self, data: bytes) -> list[Item]:
        out: list[Item] = []
        framer = self._framer
        if self.stepwise:
            framer.push(data)
            self._pull(out, 1)
            return out
        if framer.busy:
            end = data.find(b"\n") + 1
            line = framer.take_line(data[:end]) if end else None
            if line is not None and self._whole(line, out):
                framer.drop()
            else:
                end = end or len(data)
                framer.push(data[:end])
                self._pull(out)
            data = data[end:]
        end = data.rfind(b"\n") + 1
        if end:
            # one line alone has a shorter way: 3 us less
            if data.find(b"\n") + 1 < len(data) or not self._whole(data, out):
                self._lines(data if end == len(data) else data[:end], out)
            data = data[end:]
        if data and not self._whole(data, out):
            framer.push(data)
            self._pull(out)
        return out

    def eof(self) -> list[Item]:
        """No more bytes come: what was given whole is returned, then what is left over."""
        out: list[Item] = []
        self._pull(out)
        error = self._framer.end()
        if error is not None:
            self._refuse(Rejected(error), out)
        return out

    def expire(self) -> list[Item]:
        """The time for the pending bytes is over: the error to close with."""
        out: list[Item] = []
        if not self.closed:
            self._refuse(Rejected(self._framer.expire()), out)
        return out

    def _lines(self, chunk: bytes, out: list[Item]) -> None:
        """Complete lines, the framer being between frames before and after."""
        if self._framer.closed:  # by what the same read began with
            return
        rows = BytesIO(chunk).readlines()
        if not self._plain(chunk, rows):
            self._exactly(chunk, out)
            return
        if self._usual and self._usually(rows, out):
            return
        done, rest = 0, iter(rows)
        while done < len(rows) and not self.closed:
            batch: list[Command] = []
            failed = False
            try:
                batch.extend(map(_decode, rest))
            except _DECODE_ERRORS:
                failed = True  # `batch` holds what came before; `rest` goes on behind it
            if _bodies_are_sound(_bodies(batch)):
                self._accept(batch, out)
            else:
                self._exactly(b"".join(rows[done : done + len(batch)]), out)
            done += len(batch)
            if failed and rows[done].strip(b" \t\r\n"):
                self._exactly(rows[done], out)
                done += 1
            elif failed:  # an exception for each would make blank lines dear: all of them go
                rows = [row for row in rest if row.strip(b" \t\r\n")]
                done, rest = 0, iter(rows)

    def _plain(self, chunk: bytes, rows: Sequence[bytes]) -> bool:
        """Whether lines of this chunk may be believed once msgspec has decoded them."""
        if len(chunk) > self._framer.limit and max(map(len, rows)) > self._framer.limit:
            return False
        if not chunk.isascii() and not _is_utf8(chunk):
            return False
        return b"\r" not in chunk or chunk.count(b"\r") == chunk.count(b"\r\n")

    def _whole(self, data: bytes, out: list[Item]) -> bool:
        """Take what is exactly one complete frame, with or without its LF."""
        if (
            self._framer.closed
            or not data.endswith((b"}", b"\n"))
            or not self._plain(data, (data,))
        ):
            return False
        if self._usual and self._usually((data,), out):
            return True
        try:
            command = _decode(data)
        except _DECODE_ERRORS:
            return False  # the framer says what it is
        if not _bodies_are_sound(_bodies((command,))):
            return False
        self._accept((command,), out)
        return True

    def _usually(self, rows: Sequence[bytes], out: list[Item]) -> bool:
        """Take these if all of them are of the usual forms, and right. Else nothing happened."""
        assert self._gather is not None
        try:
            batch = list(map(_decode_usual, rows))
        except _DECODE_ERRORS:
            self._usual = False
            return False
        publishes: Sequence[BarePublish] = ()
        acks: Sequence[BareAck] = ()
        kinds = (batch[0].__class__,) if len(batch) == 1 else set(map(type, batch))
        if len(kinds) == 2:
            publishes = [c for c in batch if isinstance(c, BarePublish)]
            acks = [c for c in batch if isinstance(c, BareAck)]
        elif BareAck in kinds:
            acks = batch
        else:
            publishes = batch
        if publishes and not _bodies_are_sound([p.message for p in publishes]):
            return False
        items = self._gather(publishes, acks)
        if items is None:
            return False
        self._framer.started = True
        self._errors_in_a_row = 0
        self.taken += len(batch)
        out += items
        return True

    def _exactly(self, chunk: bytes, out: list[Item]) -> None:
        self._framer.push(chunk)
        self._pull(out)

    def _pull(self, out: list[Item], most: int = -1) -> None:
        """Frame by frame, with exact errors."""
        framer = self._framer
        while not self.closed and len(out) != most:
            frame = framer.pull()
            if frame is None:
                return
            if isinstance(frame, ClientError):
                self._refuse(Rejected(frame), out)
                continue
            item = decode_frame(frame)
            if isinstance(item, Command):
                self._accept([item], out)
            elif item.error.code != "bad_frame":
                framer.started = True
                self._refuse(item, out)
            elif framer.started:
                framer.distrust(item.error)
            else:
                item.error = fatal(item.error)
                self._refuse(item, out)

    def _accept(self, batch: Sequence[Command], out: list[Item]) -> None:
        if not batch:
            return
        self._framer.started = True
        if self._check is None:
            self._errors_in_a_row = 0
            self.taken += len(batch)
            out += batch
            return
        for command in batch:
            try:
                self._check(command)
            except ClientError as error:
                self._refuse(_rejected(command, error), out)
                if self.closed:
                    return
            else:
                self._errors_in_a_row = 0
                self.taken += 1
                out.append(command)
        self._usual = self._gather is not None and _is_usual(batch[-1])

    def _refuse(self, item: Rejected, out: list[Item]) -> None:
        self._errors_in_a_row += 1
        item.error.alone()
        if self._errors_in_a_row >= self._errors_max:
            item.error = fatal(item.error)
        self.taken += 1
        out.append(item)
        if item.error.closes:
            self._framer.close()


def decode_frame(frame: bytes) -> Command | Rejected:
    """One frame, begun by `{` and ended by the bracket that closes it, without its LF.

    `bad_frame` stands for what is not one JSON object after all; every other code means
    that the frame was understood and its contents refused.
    """
    flaw = _flaw(frame)
    if flaw is not None:
        return _bad_frame(flaw)
    try:
        command: Command = _decode(frame)
        return command
    except _DECODE_ERRORS:
        pass  # the reasons are told apart below, field by field
    try:
        fields = _decode_fields(frame)
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        if "truncated" in reason:  # msgspec's word for a lone surrogate or a cut escape
            reason = "it ends inside a string or number"
        return _bad_frame(f"This is not JSON ({reason}); send one complete object per line.")
    except (ValueError, RecursionError) as error:
        return _bad_frame(f"This is not JSON that can be read ({error}).")
    try:
        return _command(fields)
    except ClientError as error:
        return Rejected(error, _id(fields.get("id")), _id(fields.get("message_id")))


def _command(fields: dict[str, Raw]) -> Command:
    """The command that these fields make; of duplicate keys the last is here already."""
    class_ = _class_named(fields)
    known, values = _fields_of(class_), {}
    for name, raw in fields.items():
        field = known.get(name)
        # null is the same as absent, but for a body, where it is a value
        if field is None or (name != "message" and bytes(raw) == b"null"):
            continue
        values[field.name] = _value(name, field.type, raw)
    action = class_.__struct_config__.tag
    for field in known.values():
        if field.required and field.name not in values:
            name = field.encode_name
            raise ClientError("bad_field", f'"{action}" needs "{name}": {EXPECTED[name]}.')
    return class_(**values)


def _class_named(fields: dict[str, Raw]) -> type[Command]:
    if "action" in fields:
        raw = fields["action"]
    elif "type" in fields:  # the original project's README says {"type":"ack",…}
        raw = fields["type"]
    else:
        raise ClientError("unknown_action", f'A frame needs "action": one of {_actions()}.')
    try:
        name = _decode_text(raw)
    except _DECODE_ERRORS:
        raise ClientError(
            "unknown_action", f'"action" must be a string: one of {_actions()}.'
        ) from None
    class_ = commands_by_action().get(name)
    if class_ is None:
        shown = "".join(c if c.isprintable() else "?" for c in name[:40])
        raise ClientError(
            "unknown_action", f'There is no action "{shown}"; there are {_actions()}.'
        )
    return class_


def _value(name: str, type_: Any, raw: Raw) -> Any:
    if type_ is Raw:
        return raw
    try:
        return _decoder(type_).decode(raw)
    except _DECODE_ERRORS:
        pass
    if int in get_args(type_) or type_ is int or list[int] in get_args(type_):
        try:
            return _whole_numbers(_decoder(int | float | list[int | float]).decode(raw), type_)
        except _DECODE_ERRORS:
            pass
    raise ClientError("bad_field", f'"{name}" must be {EXPECTED[name]}.')


def _whole_numbers(value: Any, type_: Any) -> Any:
    """4.0 where an integer is expected: JSON knows no difference, some languages' writers too."""
    if isinstance(value, list) != (list[int] in get_args(type_)):
        raise ValueError
    if isinstance(value, list):
        return [_whole_numbers(item, int) for item in value]
    if isinstance(value, float) and not value.is_integer():
        raise ValueError
    return int(value)


@cache
def _decoder(type_: Any) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(type_)


@cache
def _fields_of(class_: type[Command]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(class_)}


@cache
def commands_by_action() -> dict[str, type[Command]]:
    """Every command by its action, in the order of `msg.core.commands`."""

    def all_below(class_: type[Command]) -> Iterator[type[Command]]:
        for below in class_.__subclasses__():
            yield below
            yield from all_below(below)

    named = {str(c.__struct_config__.tag): c for c in all_below(Command)}
    named.pop("Question", None)  # the common part of several, not an action
    return named


def _actions() -> str:
    return ", ".join(commands_by_action())


def _bad_frame(text: str) -> Rejected:
    return Rejected(ClientError("bad_frame", text))


def _rejected(command: Command, error: ClientError) -> Rejected:
    own = getattr(command, "id", None), getattr(command, "message_id", None)
    id_, message_id = (text if text is not None and is_id(text) else None for text in own)
    return Rejected(error, id_, message_id)


def _id(raw: Raw | None) -> str | None:
    """An id to repeat in an error: only one that is valid itself."""
    if raw is None:
        return None
    try:
        text = _decode_text(raw)
    except _DECODE_ERRORS:
        return None
    return text if is_id(text) else None


def _is_utf8(data: bytes) -> bool:
    try:
        str(data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_usual(command: Command) -> bool:
    if isinstance(command, Publish):
        return are_bare((command,))
    return isinstance(command, Ack) and not (command.id or command.tags or command.message_ids)


def _bodies(batch: Sequence[Command]) -> list[Raw]:
    return [c.message for c in batch if isinstance(c, BarePublish)]


def _bodies_are_sound(bodies: Sequence[Raw]) -> bool:
    """Depth and numbers of the bodies, which msgspec has only skipped over.

    A string has neither, and no other JSON value begins with a byte below its quote or equal
    to it: if the greatest of them is a string, all are (0.06 us a body; it is measured, so
    keep it odd). Lines have no LF inside, so a LF can join bodies and tell them apart.
    """
    if not bodies:
        return True
    if len(bodies) == 1 and memoryview(bodies[0])[0] == _QUOTE:
        return True  # as below, for one
    texts = BytesIO(b"\n".join(bodies)).readlines()
    if max(texts) < b"#":
        return True
    texts = [text for text in texts if text[0] != _QUOTE]
    joined = b"".join(texts)
    if _perhaps_huge(joined) and not _numbers_are_finite(joined):
        return False
    deep = DEPTH_MAX - 1  # the frame around it is the first level
    if joined.count(b"{") + joined.count(b"[") <= deep:
        return True
    return not any(is_deeper(text, deep) for text in texts if len(text) > 2 * deep)


def _flaw(frame: bytes) -> str | None:
    """What is wrong with a frame that a JSON parser may not notice, as a sentence."""
    if not frame.isascii() and not _is_utf8(frame):
        return "A frame must be UTF-8; encode the text before sending it."
    if b"\r" in frame:
        return "A frame may not hold a raw CR; write it as \\r in strings."
    if is_deeper(frame, DEPTH_MAX):
        return f"A frame may be nested {DEPTH_MAX} deep; flatten it, or send it as a string."
    if _perhaps_huge(frame) and not _numbers_are_finite(frame):
        return "A number is out of range; send it as a string."
    return None


def is_deeper(text: bytes, depth_max: int) -> bool:
    if text.count(b"{") + text.count(b"[") <= depth_max:
        return False
    brackets, _ = brackets_of(text)
    if brackets is not None and not without_pairs(brackets, depth_max):
        return False
    depth = 0
    for bracket in _STRING.sub(b"", text).translate(None, _NOT_BRACKETS):
        if bracket in _OPENING:
            depth += 1
            if depth > depth_max:
                return True
        else:
            depth -= 1
    return False


def _perhaps_huge(text: bytes) -> bool:
    """Whether a number here may be out of a double's range, 1.8e308. Cheap, and never wrong
    when it says no.

    With an exponent of one digit that takes 300 digits in a row, and those show three
    digits where only every hundredth byte is looked at. Exponents also occur in
    hexadecimal ids, so what stands before the digits must be what stands before a number.
    """
    if (
        len(text) >= _MANTISSA_MAX
        and _THREE_DIGITS.search(text[::100]) is not None
        and _LONG_NUMBER in text.translate(_DIGITS_ALIKE)
    ):
        return True
    for exponents in _EXPONENTS:
        for exponent in exponents.finditer(text):
            start = exponent.start()
            before = text[max(0, start - _MANTISSA_MAX) : start].rstrip(b"0123456789.")
            before = before.removesuffix(b"-")
            if not before or before.endswith((b":", b",", b"[", b" ", b"\n", b"\t")):
                return True
    return False


def _numbers_are_finite(text: bytes) -> bool:
    """Every number in this JSON text is a finite double or an integer that can be read."""
    for token in _STRING_OR_NUMBER.findall(text):
        if token.startswith(b'"'):
            continue
        if token.lstrip(b"-").isdigit():
            if len(token.lstrip(b"-")) > INT_DIGITS_MAX:
                return False
            continue
        try:
            number = float(token)
        except ValueError:
            continue  # not a number at all: the parser says so
        if number in (float("inf"), float("-inf")):
            return False
    return True
