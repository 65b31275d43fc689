"""Start and stop each peer broker as a child process, on a free loopback port,
with its data in a fresh temporary directory.

Nothing here installs anything.  Binaries are found on PATH (or, for the
RabbitMQ launcher, in the distribution's library directory).  Peers that have
no binary are given by environment variables and are skipped when unset:

  NATS_NEW         a second nats-server binary (2.10 or newer)
  RABBITMQ_LAUNCHER  the launcher, where it is not the Debian package's
  AMQTT_PYTHON     a Python interpreter that has `amqtt` installed
  ADELRA_MSG_SRC   the `src` directory of a checkout of the original `msg`
  ADELRA_PYTHON    a Python interpreter that has `typer` (default: AMQTT_PYTHON)
  TRIO_MSG         the command that runs trio-msg (default: "trio-msg")

Only processes that this module started are ever signalled, each by its pid.
"""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import ClassVar

HOST = "127.0.0.1"
_TICK = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as s:
        s.bind((HOST, 0))
        return s.getsockname()[1]


def wait_port(port, timeout, proc):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if proc.poll() is not None:
            raise RuntimeError(f"broker exited with {proc.returncode} before it listened")
        try:
            socket.create_connection((HOST, port), 0.5).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port} after {timeout} s")


def tree(pid):
    """pid and all its living descendants."""
    kids = {}
    for e in os.listdir("/proc"):
        if e.isdigit():
            try:
                with open(f"/proc/{e}/stat") as f:
                    ppid = int(f.read().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            kids.setdefault(ppid, []).append(int(e))
    out, todo = [], [pid]
    while todo:
        p = todo.pop()
        out.append(p)
        todo += kids.get(p, [])
    return out


def cpu_of(pid):
    """utime+stime of one process and of its reaped children, in seconds."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            v = f.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(x) for x in v[11:15]) / _TICK


def rss_of(pid):
    """(VmRSS, RssAnon) in KiB."""
    rss = anon = 0
    try:
        with open(f"/proc/{pid}/status") as f:
            for line in f:
                if line.startswith("VmRSS"):
                    rss = int(line.split()[1])
                elif line.startswith("RssAnon"):
                    anon = int(line.split()[1])
    except OSError:
        pass
    return rss, anon


class Broker:
    """One peer.  Use as a context manager: `with Nats(durable=False, cpu=0) as b`."""

    name = "?"
    adapter = "?"  # name of the class in load.py that speaks to it
    kinds = ("pubsub", "queue", "durable")
    start_timeout = 30
    graceful = True  # SIGTERM first, SIGKILL after 3 s
    notes: ClassVar[dict[str, str]] = {}

    def __init__(self, durable=False, cpu=None):
        self.durable, self.cpu = durable, cpu
        self.dir = self.proc = self.port = None
        self.extra = []  # helper processes that are not part of the measured tree

    @classmethod
    def available(cls):
        return True

    @classmethod
    def version(cls):
        return ""

    def argv(self):
        raise NotImplementedError

    def env(self):
        return {}

    def before(self):
        pass

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text):
        with open(self.path(name), "w") as f:
            f.write(text)
        return self.path(name)

    def spawn(self, argv, env=None, log="log"):
        cpu = self.cpu

        def pin():
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})

        with open(self.path(log), "ab") as f:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=f,
                stderr=f,
                cwd=self.dir,
                env={**os.environ, **(env or {})},
                preexec_fn=pin,
                start_new_session=True,
            )

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix=f"peer-{self.name}-")
        self.port = free_port()
        try:
            self.before()
            self.proc = self.spawn(self.argv(), self.env())
            wait_port(self.port, self.start_timeout, self.proc)
            self.after()
        except BaseException:
            self.tail()
            self.__exit__(None, None, None)
            raise
        return self

    def after(self):
        pass

    def tail(self):
        try:
            with open(self.path("log"), errors="replace") as f:
                sys.stderr.write(f"--- {self.name} log\n" + f.read()[-3000:] + "\n")
        except OSError:
            pass

    def __exit__(self, *exc):
        for p in [self.proc, *self.extra]:
            if p is None:
                continue
            pids = tree(p.pid) if p.poll() is None else []
            if pids and self.graceful:
                p.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    p.wait(3)
            for pid in pids:
                if pid == p.pid and p.poll() is not None:
                    continue
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                p.wait(5)
        self.proc, self.extra = None, []
        if self.dir and not os.environ.get("PEERS_KEEP"):
            shutil.rmtree(self.dir, ignore_errors=True)

    def cpu_seconds(self):
        return sum(cpu_of(p) for p in tree(self.proc.pid))

    def rss(self):
        r = [rss_of(p) for p in tree(self.proc.pid)]
        return sum(x[0] for x in r), sum(x[1] for x in r)


def _out(*argv):
    try:
        r = subprocess.run(argv, capture_output=True, text=True, timeout=20)
        return (r.stdout + r.stderr).strip().splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return ""


class Nats(Broker):
    name = "nats"
    adapter = "NatsAdapter"
    notes: ClassVar[dict[str, str]] = {
        "pubsub": "core",
        "queue": "JetStream memory",
        "durable": "JetStream file, sync 2 min",
    }

    @classmethod
    def binary(cls):
        return shutil.which("nats-server")

    @classmethod
    def available(cls):
        return cls.binary()

    @classmethod
    def version(cls):
        return _out(cls.binary(), "--version")

    def conf(self, sync=""):
        return (
            f'host: "{HOST}"\nport: {self.port}\nping_interval: "1h"\n'
            f'jetstream {{ store_dir: "{self.path("js")}"\n'
            f"  max_memory_store: 4GB\n  max_file_store: 8GB\n{sync}}}\n"
        )

    def before(self):
        # sync_interval: always came with 2.10; older servers refuse the setting
        self.sync_always = False
        if self.durable:
            c = self.write("try.conf", self.conf("  sync_interval: always\n"))
            r = subprocess.run([self.binary(), "-c", c, "-t"], capture_output=True, timeout=10)
            self.sync_always = r.returncode == 0
        self.write("nats.conf", self.conf("  sync_interval: always\n" if self.sync_always else ""))

    def argv(self):
        return [self.binary(), "-c", self.path("nats.conf")]


class NatsNew(Nats):
    """A second, newer nats-server, where NATS_NEW names its binary."""

    name = "nats-new"
    notes: ClassVar[dict[str, str]] = {**Nats.notes, "durable": "JetStream file, sync always"}

    @classmethod
    def binary(cls):
        return os.environ.get("NATS_NEW")


class Redis(Broker):
    name = "redis"
    adapter = "RedisAdapter"
    notes: ClassVar[dict[str, str]] = {
        "pubsub": "PUBLISH",
        "queue": "Streams",
        "durable": "Streams, AOF always",
    }

    @classmethod
    def available(cls):
        return shutil.which("redis-server")

    @classmethod
    def version(cls):
        return _out("redis-server", "--version")

    def argv(self):
        return [
            "redis-server",
            "--port",
            str(self.port),
            "--bind",
            HOST,
            "--save",
            "",
            "--dir",
            self.dir,
            "--maxclients",
            "10000",
            "--client-output-buffer-limit",
            "pubsub 0 0 0",
            "--appendonly",
            "yes" if self.durable else "no",
            "--appendfsync",
            "always",
        ]


class Rabbit(Broker):
    name = "rabbitmq"
    adapter = "AmqpAdapter"
    start_timeout = 90
    graceful = False
    notes: ClassVar[dict[str, str]] = {
        "pubsub": "fanout, no-ack",
        "queue": "classic transient",
        "durable": "classic durable, persistent",
    }

    @staticmethod
    def launcher():
        # the one on PATH changes to another user; the package's own does not
        if not shutil.which("rabbitmq-server"):
            return None
        r = subprocess.run(["dpkg-query", "-L", "rabbitmq-server"], capture_output=True, text=True)
        own = [p for p in r.stdout.split() if p.endswith("/lib/rabbitmq/bin/rabbitmq-server")]
        return os.environ.get("RABBITMQ_LAUNCHER") or (own or [shutil.which("rabbitmq-server")])[0]

    @classmethod
    def available(cls):
        return cls.launcher() and shutil.which("epmd")

    @classmethod
    def version(cls):
        return _out("dpkg-query", "-W", "-f", "rabbitmq-server ${Version}", "rabbitmq-server")

    def before(self):
        self.epmd = free_port()
        self.write(
            "rabbitmq.conf",
            f"listeners.tcp.1 = {HOST}:{self.port}\n"
            "log.console.level = error\nlog.file.level = error\n"
            "disk_free_limit.absolute = 50MB\ntcp_listen_options.backlog = 4096\n"
            "tcp_listen_options.nodelay = true\n",
        )
        self.write("plugins", "[].\n")
        self.extra.append(
            self.spawn(["epmd", "-port", str(self.epmd), "-address", HOST], log="epmd.log")
        )
        wait_port(self.epmd, 10, self.extra[0])

    def env(self):
        return {
            "HOME": self.dir,
            "ERL_EPMD_PORT": str(self.epmd),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": f"peer{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": self.path("mnesia"),
            "RABBITMQ_LOG_BASE": self.path("logs"),
            "RABBITMQ_CONFIG_FILE": self.path("rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": self.path("none"),
            "RABBITMQ_PID_FILE": self.path("pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.path("plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def argv(self):
        return [self.launcher()]

    def after(self):
        # the listener opens before the node has finished booting
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with open(self.path("log"), errors="replace") as f:
                if "completed with" in f.read() or os.path.exists(self.path("pid")):
                    break
            time.sleep(0.1)
        time.sleep(1)


class RabbitQuorum(Rabbit):
    name = "rabbitmq-quorum"
    adapter = "AmqpQuorumAdapter"
    kinds = ("durable",)
    notes: ClassVar[dict[str, str]] = {"durable": "quorum queue, 1 node"}


class Mosquitto(Broker):
    name = "mosquitto"
    adapter = "MqttAdapter"
    kinds = ("pubsub", "queue")
    notes: ClassVar[dict[str, str]] = {"pubsub": "QoS 0", "queue": "QoS 1 topic"}

    @classmethod
    def available(cls):
        return shutil.which("mosquitto")

    @classmethod
    def version(cls):
        return _out("mosquitto", "-h")

    def before(self):
        self.write(
            "mosquitto.conf",
            f"listener {self.port} {HOST}\nallow_anonymous true\n"
            "persistence false\nmax_inflight_messages 1000\nmax_queued_messages 0\n"
            "set_tcp_nodelay true\nsys_interval 0\nuser root\nlog_type error\n",
        )

    def argv(self):
        return ["mosquitto", "-c", self.path("mosquitto.conf")]


class Amqtt(Broker):
    name = "amqtt"
    adapter = "MqttAdapter"
    kinds = ("pubsub", "queue")
    notes: ClassVar[dict[str, str]] = {"pubsub": "QoS 0", "queue": "QoS 1 topic"}

    @classmethod
    def available(cls):
        return os.environ.get("AMQTT_PYTHON")

    @classmethod
    def version(cls):
        return "amqtt " + _out(
            os.environ["AMQTT_PYTHON"],
            "-c",
            "import importlib.metadata as m;print(m.version('amqtt'))",
        )

    def before(self):
        self.write(
            "amqtt.yaml",
            "listeners:\n  default:\n    type: tcp\n"
            f"    bind: {HOST}:{self.port}\n    max_connections: 10000\nplugins:\n"
            "  amqtt.plugins.authentication.AnonymousAuthPlugin:\n"
            "    allow_anonymous: false\n",
        )

    def argv(self):
        return [
            os.environ["AMQTT_PYTHON"],
            "-c",
            "import sys; from amqtt.scripts.broker_script import main; sys.exit(main())",
            "-c",
            self.path("amqtt.yaml"),
        ]


class Beanstalkd(Broker):
    name = "beanstalkd"
    adapter = "BeanstalkAdapter"
    kinds = ("queue", "durable")
    notes: ClassVar[dict[str, str]] = {"queue": "no binlog", "durable": "-b DIR -f0"}

    @classmethod
    def available(cls):
        return shutil.which("beanstalkd")

    @classmethod
    def version(cls):
        return _out("beanstalkd", "-v")

    def argv(self):
        a = ["beanstalkd", "-l", HOST, "-p", str(self.port)]
        if self.durable:
            os.mkdir(self.path("wal"))
            a += ["-b", self.path("wal"), "-f0"]
        return a


class AdelraMsg(Broker):
    """The original asyncio `msg`.  It always rewrites a JSON file per publish."""

    name = "adelra-msg"
    adapter = "AdelraAdapter"
    kinds = ("pubsub", "queue")
    notes: ClassVar[dict[str, str]] = {
        "pubsub": "as shipped, window 1",
        "queue": "as shipped, window 1",
    }

    @classmethod
    def available(cls):
        return os.environ.get("ADELRA_MSG_SRC")

    @classmethod
    def version(cls):
        return "msg (checkout)"

    def env(self):
        return {"PYTHONPATH": os.environ["ADELRA_MSG_SRC"], "msg_DATA_DIR": self.path("data")}

    def argv(self):
        py = os.environ.get("ADELRA_PYTHON") or os.environ.get("AMQTT_PYTHON") or sys.executable
        return [py, "-m", "msg", "--host", HOST, "--port", str(self.port)]


class TrioMsg(Broker):
    """`trio-msg serve`; the publisher asks for the durability, the store is always on."""

    name = "trio-msg"
    adapter = "TrioMsgAdapter"
    notes: ClassVar[dict[str, str]] = {
        "pubsub": "NDJSON",
        "queue": "in memory",
        "durable": "fsync before ack",
    }

    @staticmethod
    def command():
        return shlex.split(os.environ.get("TRIO_MSG", "trio-msg"))

    @classmethod
    def available(cls):
        return shutil.which(cls.command()[0])

    @classmethod
    def version(cls):
        return _out(*cls.command(), "version")

    def argv(self):
        return [
            *self.command(),
            "serve",
            "--host",
            HOST,
            "--port",
            str(self.port),
            "--data-dir",
            self.path("data"),
        ]


PEERS = {
    c.name: c
    for c in (
        Nats,
        NatsNew,
        Redis,
        Rabbit,
        RabbitQuorum,
        Mosquitto,
        Amqtt,
        Beanstalkd,
        AdelraMsg,
        TrioMsg,
    )
}
