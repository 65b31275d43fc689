"""The process engine: a real `trio-msg serve`, with a real port and a real disk.

    clients ─► proxy ─► 127.0.0.1:port ─► python -m msg serve … (one process after the other)
                                            │ stderr: its log, into the journal
                                            └ a socket of orders, to `child.py` underneath it

Owns   the broker's processes, one after the other, their volume, and the proxy.
Hears  the faults of the play.
Tells  the journal what the broker logged, how it ended and how much memory it took.
Ends   with the play; a process that still runs is killed.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import msgspec
import trio

from msg.config import Limits, Settings, show_key
from msg.plain_client import PlainClient, Refused, Unavailable
from msg.scenario import model
from msg.scenario.damage import flipped, last_segment, torn
from msg.scenario.journal import Journal
from msg.scenario.model import Scenario
from msg.scenario.proxy import GONE, Link, Proxy
from msg.scenario.volume import DEFAULT_BYTES, SmallVolume, Volume
from msg.store.disk import RealDisk

ROOT = Path(__file__).parent.parent.parent
PORTS = range(20_000, 32_000)  # below those that systems hand out: nobody takes ours meanwhile
END_S = 30.0  # more than `drain_seconds`; then it is killed
ORDER_S = 30.0
TREE_S = 2.0
TOP_UP_S = 0.02  # a full disk is filled up again so often
AGAIN_S = 0.01  # what was not there is looked for again
NOT_SHOWN = ("time", "level", "event", "actors", "block", "traceback", "waits", "knots")
OURS = ("host", "port", "port_file", "data_dir", "log_format", "log_level", "http", "config")


class Logged(Exception):
    """An error of the broker's, as its log tells it: a traceback."""


@attrs.define(eq=False)
class Life:
    """One process."""

    process: trio.Process
    orders: trio.SocketStream
    known: trio.Event = attrs.field(factory=trio.Event)  # it serves, or it has ended
    ended: trio.Event = attrs.field(factory=trio.Event)
    serving: bool = False
    killed: bool = False
    why: str = ""  # the last error that it logged
    left: bytes = b""  # of the orders' answers


class ProcessEngine:
    """See the module. Made by `process_engine`; its nursery reads the processes' logs."""

    name = "process"
    poll_s = 0.002
    sweep_s = 40.0

    def __init__(
        self, scenario: Scenario, seed: int, journal: Journal, nursery: trio.Nursery,
        folder: Path, volume: Volume, port: int,
    ) -> None:  # fmt: skip
        self.scenario = scenario
        self.journal = journal
        self.nursery = nursery
        self.folder = folder
        self.volume = volume
        self.rng = random.Random(f"{seed}/engine")
        self.port = port
        self.proxy = Proxy(("127.0.0.1", self.port))
        self.links: dict[str, Link] = {}
        self.life: Life | None = None
        self.errors: list[BaseException] = []
        self.found: list[str] = []  # by the watch over the books
        self.slow = 0.0  # what a sync takes
        self.clock = 0.0  # what the wall clock is ahead
        self.memory = 0  # the peak of all processes
        self._frozen = False
        self._full = False
        self._order = trio.Lock()
        (folder / "msg.toml").write_text(toml_of(scenario.broker or Settings()), encoding="utf-8")

    # -- the broker's lives -----------------------------------------------------------------

    @property
    def up(self) -> bool:
        life = self.life
        return life is not None and life.serving and not life.ended.is_set()

    @property
    def _down(self) -> bool:
        """There is no process; `up` is less: it is not so while it starts."""
        return self.life is None or self.life.ended.is_set()

    async def start(self) -> None:
        self.journal.note("broker", "starts")
        begun = self.journal.clock()
        ours, theirs = socket.socketpair()
        with theirs:
            process = await self._spawn(theirs.fileno())
        orders = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        life = self.life = Life(process, orders)
        self.nursery.start_soon(self._live, life, name=f"broker {process.pid}")
        await life.known.wait()
        if life.serving:
            self.journal.note("broker", "serves", after=round(self.journal.clock() - begun, 6))

    async def _spawn(self, orders: int) -> trio.Process:
        how = {"fd": orders, "slow": self.slow, "clock": self.clock,
               "short_writes": self.scenario.disk.short_writes}  # fmt: skip
        return await trio.lowlevel.open_process(
            [
                *self.volume.prefix, sys.executable, "-m", "msg.scenario.child", json.dumps(how),
                "serve", "--host", "127.0.0.1", "--port", str(self.port), "--http", "off",
                "--config", str(self.folder / "msg.toml"), "--log-format", "json",
                "--log-level", "info", "--data-dir", str(self.volume.inside / "data"),
            ],
            cwd=self.folder, env=environment(), pass_fds=(orders,),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    async def _live(self, life: Life) -> None:
        try:
            async for line in lines_of(life.process):
                self._hear(line, life)
            await life.process.wait()
        finally:
            if life.process.returncode is None:
                life.process.kill()
            with trio.CancelScope(shield=True):
                await life.process.wait()
                await trio.aclose_forcefully(life.orders)
        code = life.process.returncode
        life.ended.set()
        life.known.set()
        if life.killed:
            self.journal.note("broker", "is gone")
            return
        assert code is not None
        code = code if code >= 0 else 128 - code  # as shells count a signal
        what = {"error": life.why} if code else {}
        self.journal.note("broker", "ended", exit=code, **what)

    def _hear(self, line: bytes, life: Life) -> None:
        """One line of its log."""
        try:
            event = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:  # not from the logger: what Python says at its worst
            life.why = line.decode(errors="replace")
            self.journal.note("broker", "says", text=life.why)
            return
        level, name = event.get("level", ""), event.get("event", "")
        shown = {
            key: value if isinstance(value, str | int | float) or value is None else str(value)
            for key, value in event.items()
            if key not in NOT_SHOWN
        }
        if level in ("error", "critical"):
            life.why = str(event.get("error", name))
        if "traceback" in event:
            self.errors.append(Logged(event["traceback"]))
            life.why = last_words(event["traceback"])
        if name == "books do not balance":
            self.found.append(f"{shown.get('actor')}: {shown.get('error')}")
            self.journal.note("check", "books", error=shown.get("error"))
        elif name == "ready":
            life.serving = True
            life.known.set()
        else:
            self.journal.note("broker", level, event=name, **shown)

    async def _kill(self) -> None:
        life = self.life
        if life is None or self._down:
            return
        self._weigh(life)
        life.killed = True
        self._frozen = False
        life.process.kill()
        await life.ended.wait()

    async def end(self) -> None:
        """SIGTERM; SIGKILL when it takes too long, which is a wrong ending."""
        life = self.life
        if life is None or self._down:
            return
        self._weigh(life)
        life.process.terminate()
        with trio.move_on_after(END_S) as scope:
            await life.ended.wait()
        if scope.cancelled_caught:
            life.why = f"it had not ended {END_S:g} s after SIGTERM"
            life.process.kill()
            await life.ended.wait()

    def _weigh(self, life: Life) -> None:
        """Note the most memory that it ever had, where the system counts it."""
        with suppress(OSError):
            status = Path(f"/proc/{life.process.pid}/status").read_text(encoding="ascii")
            for line in status.splitlines():
                if line.startswith("VmHWM:"):
                    self.memory = max(self.memory, int(line.split()[1]) << 10)
            self.journal.note("broker", "memory", bytes=self.memory)

    # -- links ------------------------------------------------------------------------------

    async def dial(self, client: str) -> trio.abc.HalfCloseableStream:
        stream, link = await self.proxy.dial(client)
        self.links.pop(client, None)  # to the end: links stand in the order of connecting
        self.links[client] = link
        return stream

    def link(self, client: str) -> Link | None:
        return self.links.get(client)

    def clients(self) -> list[str]:
        return [name for name, link in self.links.items() if link.alive and name != "operator"]

    # -- faults -----------------------------------------------------------------------------

    async def strike(self, what: model.What) -> None:
        match what:
            case model.KillBroker(restart_after=span):
                await self._kill()
                await self._start_after(span)
            case model.TornWrite() | model.BitFlip():
                await self._kill()
                self._damage(what)
                await self._start_after(what.restart_after)
            case model.Drain(restart_after=span):
                await self.end()
                await self._start_after(span)
            case model.Restart():
                if self._down:
                    await self.start()
            case model.FreezeBroker(for_=span):
                await self._freeze(span.pick(self.rng))
            case model.CrashActor(actor=actor):
                await self._crash(actor)
            case model.ClockJump(by=by):
                self.clock += by
                await self._tell("clock", self.clock)
            case model.DiskFull(for_=span):
                await self._fill_disk(span)
            case model.FsyncError(count=count):
                await self._tell("fsync_error", count)
            case model.SlowFsync(to=to, for_=span):
                await self._slow_down(to)
                if span is not None:
                    await trio.sleep(span.pick(self.rng))
                    await self._slow_down(0.0)
            case _:
                kind = model.KIND_OF[type(what)]
                raise AssertionError(model.IMPOSSIBLE_ON_PROCESS.get(kind, f"{kind}: the play's"))

    async def _start_after(self, span: model.Span | None) -> None:
        if span is not None:
            await trio.sleep(span.pick(self.rng))
            if self._down:
                await self.start()

    async def _freeze(self, seconds: float) -> None:
        life = self.life
        if life is None or self._down:
            return
        life.process.send_signal(signal.SIGSTOP)
        self._frozen = True
        await trio.sleep(seconds)
        if self._frozen:
            self._thaw(life)

    def _thaw(self, life: Life) -> None:
        self._frozen = False
        if not life.ended.is_set():
            life.process.send_signal(signal.SIGCONT)
            self.journal.note("fault", "broker goes on")

    async def _crash(self, actor: str) -> None:
        """Put a bug into it, once it is there: on a busy machine it may come late."""
        with trio.move_on_after(ORDER_S):
            while True:
                named = self._as_the_broker_names(actor)
                if named and (await self._tell("bug", named)).get("there"):
                    return
                await trio.sleep(AGAIN_S)
        self.journal.note("fault", "missed", actor=actor)

    def _as_the_broker_names(self, actor: str) -> str:
        """A connection by its address; "" when there is none."""
        kind, _, name = actor.partition(" ")
        if kind != "connection":
            return actor
        link = self.links.get(name)
        if link is None or not link.alive:
            return ""
        host, port = link.broker_sees
        return f"connection {host}:{port}"

    async def _fill_disk(self, span: model.Span | None) -> None:
        """Fill it, and fill it again where the broker made room, for that time."""
        self._full = True
        self.volume.fill()
        self.nursery.start_soon(self._keep_full)
        if span is not None:
            await trio.sleep(span.pick(self.rng))
            self._make_room()

    async def _keep_full(self) -> None:
        while self._full:
            self.volume.fill()
            await trio.sleep(TOP_UP_S)

    def _make_room(self) -> None:
        if self._full:
            self._full = False
            self.volume.make_room()

    async def _slow_down(self, seconds: float) -> None:
        self.slow = seconds
        await self._tell("slow_fsync", seconds)

    def _damage(self, what: model.TornWrite | model.BitFlip) -> None:
        root = self.volume.path / "data"
        disk = RealDisk(root)
        try:
            path = last_segment(disk, what.queue)
        finally:
            disk.close()
        if path is None:
            self.journal.note("fault", "nothing to damage", queue=what.queue)
            return
        data = (root / path).read_bytes()
        if isinstance(what, model.TornWrite):
            (root / path).write_bytes(torn(data, self.rng))
            return
        changed, at = flipped(data, self.rng)
        (root / path).write_bytes(changed)
        self.journal.note("fault", "flipped", file=path, offset=at)

    async def _tell(self, what: str, value: object) -> dict[str, Any]:
        """An order to what lies under the broker; {} when there is no broker, or it ends."""
        async with self._order:
            life = self.life
            if life is None or self._down:
                return {}
            order = json.dumps({"what": what, "value": value}).encode() + b"\n"
            with suppress(*GONE), trio.move_on_after(ORDER_S):
                await life.orders.send_all(order)
                while b"\n" not in life.left:
                    data = await life.orders.receive_some()
                    if not data:
                        return {}
                    life.left += data
                line, _, life.left = life.left.partition(b"\n")
                answer: dict[str, Any] = json.loads(line)
                return answer
        return {}

    async def heal(self) -> None:
        if self._frozen and self.life is not None:
            self._thaw(self.life)
        self._make_room()
        await self._slow_down(0.0)
        await self._tell("fsync_error", 0)

    # -- looking ----------------------------------------------------------------------------

    def tree(self) -> list[dict[str, Any]]:
        """By a question, as anybody may ask it."""
        if not self.up or self._frozen:
            return []
        frame: dict[str, Any] = {"action": "tree"}
        actors: list[dict[str, Any]] = []
        try:
            with PlainClient.connect(f"127.0.0.1:{self.port}", TREE_S) as client:
                while True:
                    answer = client.ask(frame, TREE_S)
                    actors += answer.get("actors") or []
                    if not answer.get("cursor"):
                        return actors
                    frame["cursor"] = answer["cursor"]
        except (Unavailable, Refused):
            return actors

    def problems(self) -> list[str]:
        return self.found


@asynccontextmanager
async def process_engine(
    scenario: Scenario, seed: int, journal: Journal
) -> AsyncIterator[ProcessEngine]:
    """An engine with its proxy and its volume; all is gone afterwards. Raises CannotHurt."""
    with tempfile.TemporaryDirectory(prefix="msg-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        volume = make_volume(scenario, folder / "disk")
        token = reserved_port()
        port = token.getsockname()[1]
        try:
            async with trio.open_nursery() as nursery:
                engine = ProcessEngine(scenario, seed, journal, nursery, folder, volume, port)
                await nursery.start(engine.proxy.run)
                yield engine
                nursery.cancel_scope.cancel("the play is over")
        finally:
            token.close()
            volume.close()


def make_volume(scenario: Scenario, path: Path) -> Volume:
    """A small file system where the scenario fills the disk or says how large it is."""
    path.mkdir(mode=0o700)
    fills = any(isinstance(fault.what, model.DiskFull) for fault in scenario.fault)
    size = scenario.disk.size
    return SmallVolume(path, size or DEFAULT_BYTES) if fills or size else Volume(path)


def environment() -> dict[str, str]:
    """Ours, without settings for a broker, and with this very program to be found first."""
    kept = {key: value for key, value in os.environ.items() if not key.upper().startswith("MSG_")}
    paths = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


def reserved_port() -> socket.socket:
    """A UDP socket whose port is free for TCP too, and is ours as long as it is open: another
    engine takes no port that is reserved so, also while our broker is down."""
    chance = random.SystemRandom()
    for _ in range(100):
        address = ("127.0.0.1", chance.choice(PORTS))
        token = socket.socket(type=socket.SOCK_DGRAM)
        try:
            token.bind(address)
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(address)
        except OSError:
            token.close()
        else:
            return token
    raise OSError("no free port found")


def toml_of(settings: Settings) -> str:
    """The file that gives these settings; what the engine itself decides is left out."""
    default = Settings()
    lines: dict[str, list[str]] = {"": []}
    for where, value in settings.values():
        *table, key = where
        if where[0] in OURS or (where[0] == "limits" and value == getattr(Limits(), key)):
            continue
        if not table and value == getattr(default, key):
            continue
        name = show_key(tuple(table)) if table else ""
        lines.setdefault(name, []).append(f"{key} = {_toml_value(value)}")
    parts = [
        "\n".join([f"[{name}]", *entries] if name else entries) for name, entries in lines.items()
    ]
    return "\n".join(parts) + "\n"


def _toml_value(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(part) for part in value) + "]"
    return json.dumps(value)


def last_words(traceback: str) -> str:
    """What was raised: the last line that is not a frame's border, as groups have them."""
    lines = [line.strip(" |+-") for line in traceback.splitlines()]
    return next((line for line in reversed(lines) if line), traceback)


async def lines_of(process: trio.Process) -> AsyncIterator[bytes]:
    """The lines of its stderr, to the end."""
    assert process.stderr is not None
    left = b""
    async for data in process.stderr:
        *lines, left = (left + bytes(data)).split(b"\n")
        for line in _not_empty(lines):
            yield line
    for line in _not_empty([left]):
        yield line


def _not_empty(lines: list[bytes]) -> Iterator[bytes]:
    return (line for line in lines if line.strip())
