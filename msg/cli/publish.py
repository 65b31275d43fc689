"""`pub` and `send`: one message, or one for each line of standard input.

Lines are pipelined: up to WINDOW publishes are unanswered at a time, and a second thread
reads the answers, so that neither side's full buffer can stop both.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Self

import typer

from msg.cli.common import (
    URL,
    AsJson,
    Failed,
    Url,
    UsageError,
    command,
    complain,
    connect,
    print_json,
    queue_names,
    refusal_code,
    topic_names,
    write_line,
)
from msg.daemon import exits
from msg.plain_client import Frame, PlainClient, Refused, Unavailable

WINDOW = 1000
CHUNK = 1 << 16
LAST_ANSWERS_SECONDS = 5.0
COMPLAINTS = 10  # refused lines that are told one by one

Body = Callable[[bytes], bytes]  # a text as given -> the JSON that travels

Message = Annotated[
    str | None,
    typer.Argument(help="The body; - publishes each line of stdin; without it, all of stdin."),
]
Header = Annotated[
    list[str] | None,
    typer.Option("--header", metavar="NAME=VALUE", help="A header; as many as you like."),
]
Id = Annotated[str | None, typer.Option("--id", help="Message id: the same twice is one message.")]
Ttl = Annotated[float | None, typer.Option(help="Seconds until it expires.")]
Durability = Annotated[str | None, typer.Option(help="memory, os or stored: when it is acked.")]
ReplyTo = Annotated[str | None, typer.Option(help="Topic for the answer.")]
Correlation = Annotated[
    str | None, typer.Option("--correlation-id", help="Comes back in the answer.")
]
String = Annotated[bool, typer.Option("--string", help="Send a text, also where it is JSON.")]
JsonBody = Annotated[bool, typer.Option("--json-body", help="Refuse what is not JSON.")]
Binary = Annotated[bool, typer.Option("--binary", help="Send stdin's bytes as base64.")]


def register(app: typer.Typer) -> None:
    app.command()(pub)
    app.command()(send)


@command
def pub(
    topic: Annotated[str, typer.Argument(help="The topic.", autocompletion=topic_names)],
    message: Message = None,
    header: Header = None,
    id_: Id = None,
    ttl: Ttl = None,
    durability: Durability = None,
    retain: Annotated[bool, typer.Option("--retain", help="Keep it as the last value.")] = False,
    reply_to: ReplyTo = None,
    correlation_id: Correlation = None,
    string: String = False,
    json_body: JsonBody = False,
    binary: Binary = False,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Publish to a topic; its message id goes to standard output.

    A message is sent as JSON where it is valid JSON, else as a text.
    """
    fields = _fields(message_id=id_, ttl=ttl, durability=durability, retain=retain or None,
                     reply_to=reply_to, correlation_id=correlation_id, header=header)  # fmt: skip
    _publish(topic, "pubsub", message, fields, _body(string, json_body, binary), url, as_json)


@command
def send(
    queue: Annotated[str, typer.Argument(help="The queue.", autocompletion=queue_names)],
    message: Message = None,
    header: Header = None,
    id_: Id = None,
    delay: Annotated[float | None, typer.Option(help="Seconds until it may be taken.")] = None,
    ttl: Ttl = None,
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="9 goes first. [4]")] = None,
    durability: Durability = None,
    reply_to: ReplyTo = None,
    correlation_id: Correlation = None,
    string: String = False,
    json_body: JsonBody = False,
    binary: Binary = False,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Send to a queue; its message id goes to standard output when it is kept as promised.

    A message is sent as JSON where it is valid JSON, else as a text.
    """
    fields = _fields(message_id=id_, delay=delay, ttl=ttl, priority=priority, header=header,
                     durability=durability, reply_to=reply_to,
                     correlation_id=correlation_id)  # fmt: skip
    _publish(queue, "queue", message, fields, _body(string, json_body, binary), url, as_json)


def _fields(*, header: list[str] | None, **given: object) -> dict[str, object]:
    fields = {name: value for name, value in given.items() if value is not None}
    if header:
        headers = {}
        for text in header:
            name, equals, value = text.partition("=")
            if not equals:
                raise UsageError(f"--header {text}: expected NAME=VALUE")
            headers[name] = value
        fields["headers"] = headers
    return fields


# --- bodies ---------------------------------------------------------------------------


def _body(string: bool, json_body: bool, binary: bool) -> Body:
    if string + json_body + binary > 1:
        raise UsageError("--string, --json-body and --binary exclude each other")
    if binary:
        return _binary_body
    if string:
        return _text_body
    return _json_body if json_body else _guessed_body


def _binary_body(data: bytes) -> bytes:
    import base64

    return b'"' + base64.b64encode(data) + b'"'


def _text_body(data: bytes) -> bytes:
    try:
        return json.dumps(data.decode("utf-8"), ensure_ascii=False).encode()
    except UnicodeError:
        raise UsageError("the message is not UTF-8; --binary sends any bytes") from None


def _json_body(data: bytes) -> bytes:
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the message is not JSON: {error}") from None
    if b"\n" in data or b"\r" in data:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return data  # as it was written: 1.0 stays 1.0


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _guessed_body(data: bytes) -> bytes:
    try:
        return _json_body(data)
    except UsageError:
        return _text_body(data)


# --- publishing -----------------------------------------------------------------------


def _publish(
    topic: str,
    mode: str,
    message: str | None,
    fields: dict[str, object],
    body: Body,
    url: str,
    as_json: bool,
) -> None:
    common = {"action": "publish", "topic": topic, "mode": mode, **fields}
    if body is _binary_body:
        common["encoding"] = "base64"
    head = json.dumps(common, ensure_ascii=False).encode("utf-8", "surrogateescape")[:-1]
    if message == "-":
        if sys.stdin is None:
            raise UsageError("standard input is closed")
        if "message_id" in fields:
            raise UsageError("--id names one message; each line is one of its own")
        with connect(url) as client:
            Lines(client, head, body, as_json).run()
        return
    if message is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("no message: give it, or - for the lines of standard input")
        data = sys.stdin.buffer.read()
    else:
        data = message.encode("utf-8", "surrogateescape")
    line = head + b',"id":"1","message":' + body(data) + b"}\n"
    with connect(url) as client:
        client.send_raw(line)
        answer = _answer(client)
    if as_json:
        print_json(answer)
        return
    write_line(str(answer["message_id"]).encode())
    if answer.get("duplicate"):
        complain("a duplicate: it was already there, and is not stored again")
    if answer.get("receivers") == 0:
        complain("nobody hears this topic now")


def _answer(client: PlainClient) -> Frame:
    for answer in client.frames():
        if answer.get("type") == "error":
            raise Refused(answer)
        if answer.get("type") == "ack":
            return answer
    raise Unavailable("the connection ended without an answer: it may be kept, or not")


class Lines:
    """Publishes each line of standard input; ends with the gravest code of all answers."""

    def __init__(self, client: PlainClient, head: bytes, body: Body, as_json: bool) -> None:
        self._client = client
        self._head = head
        self._body = body
        self._as_json = as_json
        self._changed = threading.Condition()
        self._sent = 0
        self._answered = 0
        self._refused = 0
        self._code = exits.OK
        self._lost: BaseException | None = None
        self._progress: Progress | None = None

    def run(self) -> None:
        reader = threading.Thread(target=self._read_answers, name="answers", daemon=True)
        reader.start()
        with Progress() as self._progress:
            try:
                for lines in _line_chunks():
                    for begin in range(0, len(lines), WINDOW // 2):
                        self._send(lines[begin : begin + WINDOW // 2])
                    self._progress.advance(sum(map(len, lines)) + len(lines))
                self._wait_for_room(0)
            except Unavailable as error:
                # the answers that did arrive say how far it is known to have come
                reader.join(LAST_ANSWERS_SECONDS)
                self._lost = self._lost or error
        if self._lost is not None:
            unknown = self._sent - self._answered
            raise Unavailable(
                f"{self._lost}: {self._answered} lines answered, {unknown} may be kept or not, "
                f"beginning with line {self._answered + 1}"
            )
        if self._refused > COMPLAINTS:
            complain(f"{self._refused} of {self._sent} lines were refused")
        raise Failed(self._code)

    def _send(self, lines: list[bytes]) -> None:
        first = self._sent + 1
        frames = []
        for number, line in enumerate(lines, first):
            try:
                body = self._body(line)
            except UsageError as error:
                raise Failed(exits.DATA, f"line {number}: {error}") from None
            frames.append(b'%b,"id":"%d","message":%b}\n' % (self._head, number, body))
        self._wait_for_room(WINDOW - len(lines))
        self._sent += len(lines)
        self._client.send_raw(b"".join(frames))

    def _wait_for_room(self, unanswered_max: int) -> None:
        with self._changed:
            while self._sent - self._answered > unanswered_max:
                if self._lost is not None:
                    raise Unavailable(str(self._lost))
                self._changed.wait()

    def _read_answers(self) -> None:
        """In a thread. Whatever ends it is told to the sender."""
        try:
            while True:
                answers = [self._client.receive()]
                while self._client.has_frame():
                    answers.append(self._client.receive())
                for answer in answers:
                    self._take(answer)
                with self._changed:
                    self._answered += sum(
                        answer.get("type") in ("ack", "error") for answer in answers
                    )
                    self._changed.notify()
        except BaseException as error:
            with self._changed:
                self._lost = error
                self._changed.notify()

    def _take(self, answer: dict[str, Any]) -> None:
        if answer.get("type") == "error":
            self._refused += 1
            code = refusal_code(str(answer.get("code")), str(answer.get("retry")))
            self._code = max(self._code, code)
            if self._refused <= COMPLAINTS:
                complain(
                    f"line {answer.get('id', '?')}: {answer.get('error')} ({answer.get('code')})"
                )
        if self._as_json and answer.get("type") in ("ack", "error"):
            print_json(answer)


def _line_chunks() -> Iterator[list[bytes]]:
    """The lines of standard input, as many as are there: neither late nor one by one."""
    rest = b""
    fd = sys.stdin.fileno()
    while chunk := os.read(fd, CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield [line.removesuffix(b"\r") for line in lines]
    if rest:
        yield [rest]


class Progress:
    """A progress bar on standard error, where that is a terminal and stdin is not."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not sys.stdin.isatty():
            from rich.console import Console
            from rich.progress import Progress as Bar

            size = os.fstat(sys.stdin.fileno()).st_size
            self._bar = Bar(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("publishing", total=size or None)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        if self._bar is not None:
            self._bar.advance(self._task, count)
