"""`doctor`, `export`, `import`: looking after what is stored."""

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO, Self

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
    counted,
    print_json,
    refusal_code,
    show_table,
    write_line,
)
from msg.daemon import exits
from msg.plain_client import Frame, PlainClient

BATCH = 500  # messages of an import that are published before their answers are read
COPIED = ("headers", "reply_to", "correlation_id", "encoding", "priority", "durability")


def register(app: typer.Typer) -> None:
    app.command()(doctor)
    app.command()(export)
    app.command("import")(import_)


@command
def doctor(
    directory: Annotated[str, typer.Argument(help="The data directory, as of `serve`.")],
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Mend what is damaged; bad bytes stay in quarantine/."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read every byte of a data directory and say what is wrong. Exit 1 if anything is.

    Without --repair nothing is changed, and a broker may be using it.
    """
    import attrs

    from msg.errors import StoreLocked, StoreUnreadable
    from msg.store.disk import RealDisk
    from msg.store.doctor import examine

    if not os.path.isdir(directory):
        raise UsageError(f"{directory} is no directory")
    try:
        report = examine(RealDisk(directory), repair=repair, now_wall=time.time())
    except StoreLocked as error:
        raise Failed(exits.TEMPORARY, f"{error}; stop it first") from None
    except StoreUnreadable as error:
        raise Failed(exits.DATA, str(error)) from None
    except OSError as error:
        raise Failed(exits.IO_ERROR, str(error)) from None
    if as_json:
        print_json({**attrs.asdict(report), "healthy": report.healthy})
    else:
        _show(report)
    raise Failed(exits.OK if report.healthy else exits.NEGATIVE)


def _show(report: Any) -> None:
    if report.logs:
        rows = [
            (
                f"{log.kind}/{log.name or log.directory}",
                "good" if log.healthy else "damaged",
                log.live,
                log.records,
                log.segments,
                log.disk_bytes,
                log.torn_tail_bytes,
                len(log.damage),
            )
            for log in report.logs
        ]
        show_table(
            ("log", "state", "live", "records", "segments", "bytes", "torn", "damaged"),
            rows,
            right=("live", "records", "segments", "bytes", "torn", "damaged"),
            colours={"damaged": "bold red", "good": "green"},
        )
    lines = [f"mended: {text}" for text in report.mended] + list(report.notes)
    for log in report.logs:
        lines += [f"{log.kind}/{log.name or log.directory}: {note}" for note in log.notes]
        lines += [
            f"{bad.file}:{bad.offset}: {bad.length} bytes, seq {bad.seq or 'unknown'}: {bad.why}"
            for bad in log.damage
        ]
    quarantined = [name for name in report.quarantined if name != "imported"]
    if quarantined:
        lines.append(f"quarantine/ keeps bad bytes: {', '.join(quarantined[:10])}")
    if report.in_use_by:
        lines.append(f"in use by {report.in_use_by}: a torn tail may be a write under way")
    lines.append("healthy" if report.healthy else "not healthy; --repair mends what can be mended")
    for line in lines:
        write_line(line.encode())


@command
def export(
    queue: Annotated[str, typer.Argument(help="The queue or group (`pattern@group`).")],
    output: Annotated[str, typer.Option("--output", "-o", help="A file; - is stdout.")] = "-",
    url: Url = URL,
) -> None:
    """Write all messages of a queue as JSON lines, taking none. It may be served meanwhile."""
    with connect(url) as client, _writing(output) as out:
        total = _depth(client, queue)
        with Bar("exporting", total, output != "-" or not sys.stdout.isatty()) as bar:
            for messages in _pages(client, queue):
                lines = [json.dumps(m, ensure_ascii=False, separators=(",", ":")) for m in messages]
                out.write("".join([line + "\n" for line in lines]).encode("utf-8", "surrogatepass"))
                bar.advance(len(messages))
        out.flush()
        if output != "-":
            os.fsync(out.fileno())
            complain(f"{counted(bar.done, 'message')} exported to {output}")


def _writing(output: str) -> BinaryIO:
    if output == "-":
        return open(sys.stdout.fileno(), "wb", closefd=False)  # the caller's with
    try:
        return open(output, "wb")
    except OSError as error:
        raise Failed(exits.CANT_CREATE, str(error)) from None


def _pages(client: PlainClient, queue: str) -> Iterator[list[dict[str, Any]]]:
    after: int | None = 0
    while after is not None:
        answer = client.ask({"action": "peek", "topic": queue, "options": {"after": after}})
        if answer["messages"]:
            yield answer["messages"]
        after = answer.get("next")


def _depth(client: PlainClient, queue: str) -> int:
    cursor: str | None = ""
    while cursor is not None:
        frame: Frame = {"action": "stats"} | ({"cursor": cursor} if cursor else {})
        answer = client.ask(frame)
        for row in answer.get("queues", []):
            if row["name"] == queue:
                return sum([row.get(state, 0) for state in ("ready", "leased", "delayed")])
        cursor = answer.get("cursor")
    return 0


@command
def import_(
    queue: Annotated[str, typer.Argument(help="The queue.")],
    source: Annotated[str, typer.Argument(help="A file of JSON lines; - is stdin.")] = "-",
    new_ids: Annotated[
        bool,
        typer.Option("--new-ids", help="Give each message a new id, as if it were new."),
    ] = False,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Publish the lines of an export into a queue, each under its own id.

    An import that was cut off can be repeated within the dedup window (2 minutes by default):
    what is there already is not stored twice.
    """
    if source == "-" and sys.stdin is None:
        raise UsageError("standard input is closed")
    try:
        lines: BinaryIO = sys.stdin.buffer if source == "-" else open(source, "rb")  # noqa: SIM115
    except OSError as error:
        raise UsageError(f"{source}: {error.strerror}") from None
    with lines, connect(url) as client:
        size = os.fstat(lines.fileno()).st_size
        done = Import(client, queue, new_ids)
        with Bar("importing", size, source != "-") as bar:
            for batch in _batches(lines):
                done.publish(batch)
                bar.advance(sum([len(line) for line in batch]))
    if as_json:
        print_json({"imported": done.stored, "duplicates": done.duplicates,
                    "expired": done.expired, "refused": done.refused})  # fmt: skip
        raise Failed(done.code)
    complain(
        f"{counted(done.stored, 'message')} imported, {done.duplicates} were there already,"
        f" {done.expired} have expired, {done.refused} refused"
    )
    raise Failed(done.code)


def _batches(lines: BinaryIO) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for line in lines:
        if line.strip():
            batch.append(line)
        if len(batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


class Import:
    """One import: publishes batches, counts what became of them."""

    def __init__(self, client: PlainClient, queue: str, new_ids: bool) -> None:
        self._client = client
        self._queue = queue
        self._new_ids = new_ids
        self._number = 0
        self.stored = self.duplicates = self.expired = self.refused = 0
        self.code = exits.OK

    def publish(self, lines: list[bytes]) -> None:
        frames = [frame for line in lines if (frame := self._frame(line)) is not None]
        self._client.send_raw(b"".join(frames))
        for _ in frames:
            self._take(self._answer())

    def _frame(self, line: bytes) -> bytes | None:
        self._number += 1
        try:
            row = json.loads(line)
            body = row["message"]
        except (ValueError, KeyError, TypeError) as error:
            raise Failed(
                exits.DATA, f"line {self._number} is no exported message: {error}"
            ) from None
        frame = {"action": "publish", "topic": self._queue, "mode": "queue", "message": body}
        frame |= {name: row[name] for name in COPIED if name in row}
        frame["id"] = str(self._number)
        if not self._new_ids and "message_id" in row:
            frame["message_id"] = row["message_id"]
        now = time.time()
        if row.get("expires"):
            if row["expires"] <= now:
                self.expired += 1
                return None
            frame["ttl"] = row["expires"] - now
        if row.get("due", 0) > now:
            frame["delay"] = row["due"] - now
            if frame.get("ttl", frame["delay"] + 1) <= frame["delay"]:
                self.expired += 1
                return None
        return json.dumps(frame, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"

    def _answer(self) -> Frame:
        while True:
            answer = self._client.receive()
            if answer.get("type") in ("ack", "error"):
                return answer

    def _take(self, answer: Frame) -> None:
        if answer["type"] == "ack":
            if answer.get("duplicate"):
                self.duplicates += 1
            else:
                self.stored += 1
            return
        self.refused += 1
        self.code = max(self.code, refusal_code(str(answer.get("code")), str(answer.get("retry"))))
        if self.refused <= 10:
            complain(f"line {answer.get('id', '?')}: {answer.get('error')} ({answer.get('code')})")


class Bar:
    """A progress bar on standard error, where that is a terminal."""

    def __init__(self, what: str, total: int, wanted: bool) -> None:
        self._what = what
        self._total = total
        self._wanted = wanted and sys.stderr.isatty()
        self._bar: Any = None
        self.done = 0

    def __enter__(self) -> Self:
        if self._wanted:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._what, total=self._total or None)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        self.done += count
        if self._bar is not None:
            self._bar.advance(self._task, count)
