"""`work`: a queue's messages through a command, several at a time.

The main thread reads frames, touches leases before their deadlines and hears signals; each
running command has a thread that waits for it and settles its message. Commands run in
sessions of their own: a Ctrl-C on the terminal is for us, who let them finish.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType

import attrs

from msg.cli.common import Failed, body_bytes, complain, print_json
from msg.daemon import exits
from msg.plain_client import Frame, PlainClient, Refused, Unavailable

SUB = "work"
POLL_SECONDS = 0.2  # how soon a signal is seen
TOUCHES = 3  # per lease, so that two may be late
REASON_MAX = 1000  # characters of a command's standard error, from its end


@attrs.define(eq=False)
class Job:
    """One message whose command runs."""

    frame: Frame
    touch_every: float  # 0: the lease has no deadline
    touch_at: float
    thread: threading.Thread | None = None
    process: subprocess.Popen[bytes] | None = None


class Worker:
    """Runs until stopped by a signal, by `count`, or by the connection's end."""

    def __init__(
        self,
        client: PlainClient,
        queue: str,
        command: Sequence[str],
        concurrency: int,
        count: int | None,
        timeout: float | None,
        name: str | None,
        as_json: bool = False,
    ) -> None:
        self._client = client
        self._queue = queue
        self._command = list(command)
        self._concurrency = concurrency
        self._left = count
        self._timeout = timeout
        self._name = name or f"work-{os.getpid()}"
        self._as_json = as_json
        self._jobs: list[Job] = []
        self._lock = threading.Lock()  # of sending, and of the list of jobs
        self._signals: list[int] = []
        self._subscribed = False

    def run(self) -> None:
        """Ends with 0 after `count` or SIGTERM, 130 after Ctrl-C, 69 without its broker."""
        with self._signals_heard():
            try:
                self._subscribe()
                while self._subscribed or self._jobs:
                    self._turn()
                self._ask({"action": "ping"})  # every settlement before it has arrived
            except (Unavailable, Refused):
                self._kill()  # the messages are others' now: two must not run one
                raise
        if signal.SIGINT in self._signals:
            raise Failed(exits.INTERRUPTED)

    def _subscribe(self) -> None:
        prefetch = self._concurrency if self._left is None else min(self._concurrency, self._left)
        self._ask({"action": "subscribe", "topic": self._queue, "mode": "queue", "sub": SUB,
                   "prefetch": prefetch, "name": self._name})  # fmt: skip
        self._subscribed = True

    def _turn(self) -> None:
        if self._subscribed and (self._signals or self._left == 0):
            # before the next message is looked at: what came meanwhile goes back uncounted
            self._ask({"action": "unsubscribe", "sub": SUB})
            self._subscribed = False
        if len(self._signals) > 1:
            self._kill()
        with contextlib.suppress(TimeoutError):
            self._take(self._client.receive(POLL_SECONDS))
        self._touch_due()
        with self._lock:
            self._jobs = [job for job in self._jobs if job.thread and job.thread.is_alive()]

    def _take(self, frame: Frame) -> None:
        kind = frame.get("type")
        if kind == "message" and self._subscribed and self._left != 0 and not self._signals:
            if self._left is not None:
                self._left -= 1
            self._start(frame)
        elif kind == "message":
            self._send({"action": "nack", "tag": frame["tag"], "count_attempt": False, "delay": 0})
        elif kind == "error":
            if frame.get("closes"):
                raise Refused(frame)
            complain(f"{frame.get('error')} ({frame.get('code')})")  # a lease that was lost
        elif kind == "closing":
            complain(f"the broker is closing: {frame.get('reason', 'no reason given')}")
        elif kind == "unsubscribed" and "id" not in frame:
            raise Unavailable(f"unsubscribed: {frame.get('reason', 'no reason given')}")

    def _start(self, frame: Frame) -> None:
        every = float(frame.get("ack_timeout") or 0) / TOUCHES
        job = Job(frame, every, time.monotonic() + every)
        job.thread = threading.Thread(target=self._work, args=(job,), daemon=True)
        with self._lock:
            self._jobs.append(job)
        job.thread.start()

    def _touch_due(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = [job for job in self._jobs if job.touch_every and job.touch_at <= now]
        if due:
            self._send({"action": "touch", "tags": [job.frame["tag"] for job in due]})
            for job in due:
                job.touch_at = now + job.touch_every

    # --- in a job's thread -----------------------------------------------------------

    def _work(self, job: Job) -> None:
        reason = self._run_command(job)
        settle: Frame = {"action": "ack", "tag": job.frame["tag"]}
        if reason is not None:
            settle |= {"action": "nack", "reason": reason}
            complain(f"{job.frame.get('message_id')}: {reason}")
        if self._as_json:
            self._report(job, settle)
        with contextlib.suppress(Unavailable):  # the main thread sees and says it
            self._send(settle)

    def _report(self, job: Job, settle: Frame) -> None:
        told = {key: job.frame.get(key) for key in ("topic", "message_id", "attempt")}
        told |= {"result": settle["action"], "reason": settle.get("reason")}
        with self._lock:  # whole lines
            print_json({key: value for key, value in told.items() if value is not None})

    def _run_command(self, job: Job) -> str | None:
        """None when it went well, else why not."""
        environment = {
            **os.environ,
            "TRIO_MSG_TOPIC": str(job.frame.get("topic", "")),
            "TRIO_MSG_MESSAGE_ID": str(job.frame.get("message_id", "")),
            "TRIO_MSG_ATTEMPT": str(job.frame.get("attempt", 1)),
        }
        try:
            process = subprocess.Popen(self._command, stdin=subprocess.PIPE,
                                       stderr=subprocess.PIPE, env=environment,
                                       start_new_session=True)  # fmt: skip
        except OSError as error:
            return f"cannot run {self._command[0]}: {error.strerror}"
        job.process = process
        tail = bytearray()
        listener = threading.Thread(target=_forward, args=(process, tail), daemon=True)
        listener.start()
        timed_out = threading.Event()

        def too_late() -> None:
            timed_out.set()
            _kill(process)

        alarm = threading.Timer(self._timeout or 0, too_late)
        if self._timeout is not None:
            alarm.daemon = True
            alarm.start()
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it need not read what it does not want
            process.stdin.write(body_bytes(job.frame))
            process.stdin.flush()
        with contextlib.suppress(OSError):
            process.stdin.close()
        status = process.wait()
        alarm.cancel()
        listener.join(1.0)  # a grandchild may keep it open
        if timed_out.is_set():
            return f"killed after {self._timeout:g} s"
        if status == 0:
            return None
        text = bytes(tail).decode("utf-8", "replace").strip()[-REASON_MAX:]
        if text:
            return text
        return f"exit status {status}" if status > 0 else f"killed by signal {-status}"

    # --- both ------------------------------------------------------------------------

    def _send(self, frame: Frame) -> None:
        with self._lock:
            self._client.send(frame)

    def _ask(self, frame: Frame) -> Frame:
        """As the client's, but other threads may send while the answer is awaited."""
        self._send({**frame, "id": SUB})
        deadline = time.monotonic() + 10
        while True:
            try:
                answer = self._client.receive(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise Unavailable(f"no answer to {frame['action']}") from None
            if answer.get("id") != SUB:
                self._take(answer)
            elif answer.get("type") == "error":
                raise Refused(answer)
            else:
                return answer

    def _kill(self) -> None:
        with self._lock:
            processes = [job.process for job in self._jobs if job.process is not None]
        for process in processes:
            _kill(process)

    @contextlib.contextmanager
    def _signals_heard(self) -> Iterator[None]:
        def heard(number: int, _frame: FrameType | None) -> None:
            self._signals.append(number)

        before = {
            number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The command and what it started; both are ours, in a session of their own."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)


def _forward(process: subprocess.Popen[bytes], tail: bytearray) -> None:
    """Standard error goes on to ours as it comes; its end is kept, no more."""
    assert process.stderr is not None
    while chunk := process.stderr.read1(1 << 16):  # type: ignore[attr-defined]
        sys.stderr.buffer.write(chunk)
        sys.stderr.flush()
        tail += chunk
        del tail[: -4 * REASON_MAX]
