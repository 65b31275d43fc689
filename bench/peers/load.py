"""Cheap load generators: one adapter per wire protocol, and the processes that
drive them.

The generator must cost less than the broker it measures, so: plain sockets,
frames encoded once before the clock starts and sent in batches, receivers that
count a marker inside the payload (bytes.count) instead of decoding, and acks
built by one join over the ids that a regular expression finds.

A workload kind is "pubsub" (at most once), "queue" (in memory, publisher
confirms, one ack per message) or "durable" (the same, confirmed once stored).
"""

import json
import multiprocessing as mp
import os
import re
import select
import socket
import struct
import time

HOST = "127.0.0.1"
MARK = b'~~~~~~~~"'  # ends every payload, occurs nowhere else
CHUNK = 1 << 16


def make_payload(size):
    """A JSON string of exactly `size` bytes, quotes included."""
    return b'"' + b"x" * (size - 1 - len(MARK)) + MARK


def connect(port):
    s = socket.create_connection((HOST, port), 10)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def read_until(s, pred, timeout=15):
    """Read until pred(everything read); returns what was read."""
    s.settimeout(timeout)
    data = b""
    while not pred(data):
        d = s.recv(CHUNK)
        if not d:
            raise ConnectionError(f"closed by broker after {data[-200:]!r}")
        data += d
    return data


def token_counter(token, bad=None):
    """f(data) -> how often token occurred, across chunk borders."""
    tail, keep = b"", len(token) - 1

    def f(data):
        nonlocal tail
        if bad and bad in data:
            raise RuntimeError(f"broker error: {data[:300]!r}")
        data = tail + data
        n = data.count(token)
        tail = data[-keep:] if keep else b""
        return n

    return f


def id_parser(regex, make_reply, end=MARK):
    """f(data) -> (n, reply): ids of the complete messages in data, and the
    acks for them in one piece.  `end` is what completes a message."""
    find, tail, lend = re.compile(regex, re.S).findall, b"", len(end)

    def f(data):
        nonlocal tail
        data = tail + data
        i = data.rfind(end) + lend
        if i < lend:
            tail = data
            return 0, b""
        ids = find(data, 0, i)
        tail = data[i:]
        return len(ids), make_reply(ids)

    return f


class Adapter:
    batch = 50  # frames per send
    window = 1000  # unconfirmed at most
    prefetch = 500  # unacknowledged deliveries at most
    keep_backlog = None  # called before a backlog test, where a consumer must exist

    def __init__(self, port, kind, size=200, prefetch=None):
        self.port, self.kind, self.size = port, kind, size
        self.payload = make_payload(size)
        self.q = kind != "pubsub"
        if prefetch:
            self.prefetch = prefetch

    def setup(self):
        """Declare streams and queues; once per broker start."""

    def open_pub(self):
        return connect(self.port)

    def frames(self):
        """(one blob of equally long frames, how many); sent round and round."""
        raise NotImplementedError

    def confirms(self):
        """None, or f(data) -> newly confirmed publishes."""
        return None

    def open_sub(self, i=0):
        raise NotImplementedError

    def open_backlog(self):
        """The consumer that takes the messages queued before it came."""
        return self.open_sub(0)

    def parser(self):
        """f(data) -> (deliveries, bytes to send back)."""
        c = token_counter(MARK)
        return lambda data: (c(data), b"")


# --------------------------------------------------------------- NATS


class NatsAdapter(Adapter):
    def hello(self, s):
        read_until(s, lambda d: d.startswith(b"INFO ") and d.endswith(b"\r\n"))
        s.sendall(b'CONNECT {"verbose":false,"pedantic":false,"name":"b"}\r\nPING\r\n')
        read_until(s, lambda d: b"PONG\r\n" in d)
        return s

    def api(self, s, subject, body):
        b = json.dumps(body).encode()
        s.sendall(b"SUB _A.1 1\r\nUNSUB 1 1\r\nPUB %s _A.1 %d\r\n%s\r\n" % (subject, len(b), b))
        r = read_until(s, lambda d: d.count(b"\r\n") >= 2)
        if b'"error"' in r:
            raise RuntimeError(r.decode())

    def setup(self):
        if not self.q:
            return
        s = self.hello(connect(self.port))
        self.api(
            s,
            b"$JS.API.STREAM.CREATE.S",
            {
                "name": "S",
                "subjects": ["jobs"],
                "retention": "workqueue",
                "num_replicas": 1,
                "storage": "file" if self.kind == "durable" else "memory",
                "discard": "old",
            },
        )
        self.api(
            s,
            b"$JS.API.CONSUMER.DURABLE.CREATE.S.C",
            {
                "stream_name": "S",
                "config": {
                    "durable_name": "C",
                    "deliver_subject": "_D.C",
                    "ack_policy": "explicit",
                    "ack_wait": 600 * 10**9,
                    "max_ack_pending": self.prefetch,
                    "deliver_policy": "all",
                    "replay_policy": "instant",
                },
            },
        )
        s.close()

    def open_pub(self):
        s = self.hello(connect(self.port))
        if self.q:
            s.sendall(b"SUB _R.1 1\r\nPING\r\n")
            read_until(s, lambda d: b"PONG\r\n" in d)
        return s

    def frames(self):
        reply = b" _R.1" if self.q else b""
        f = b"PUB jobs%s %d\r\n%s\r\n" % (reply, self.size, self.payload)
        return f * self.batch, self.batch

    def confirms(self):
        return token_counter(b'"seq":', b'"error"') if self.q else None

    def open_sub(self, i=0):
        s = self.hello(connect(self.port))
        s.sendall(b"SUB %s 1\r\nPING\r\n" % (b"_D.C" if self.q else b"jobs"))
        if self.q:  # a delivery may overtake nothing: the PONG is read by the parser
            return s
        read_until(s, lambda d: b"PONG\r\n" in d)
        return s

    def parser(self):
        if not self.q:
            return super().parser()
        return id_parser(
            rb"(\$JS\.ACK\.\S+) ",
            lambda ids: b"PUB " + b" 0\r\n\r\nPUB ".join(ids) + b" 0\r\n\r\n" if ids else b"",
        )


# --------------------------------------------------------------- Redis


def resp(*args):
    args = [a if isinstance(a, bytes) else str(a).encode() for a in args]
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(a), a) for a in args)


class RedisAdapter(Adapter):
    maxlen = True

    def setup(self):
        if self.q:
            s = connect(self.port)
            s.sendall(resp("XGROUP", "CREATE", "jobs", "g", "$", "MKSTREAM"))
            read_until(s, lambda d: d == b"+OK\r\n")
            s.close()

    def keep_backlog(self):
        self.maxlen = False

    def open_pub(self):
        s = connect(self.port)
        if not self.q:  # fire and forget: no reply per PUBLISH
            s.sendall(resp("CLIENT", "REPLY", "OFF"))
        return s

    def frames(self):
        if not self.q:
            f = resp("PUBLISH", "jobs", self.payload)
        elif self.maxlen:
            f = resp("XADD", "jobs", "MAXLEN", "~", "100000", "*", "m", self.payload)
        else:
            f = resp("XADD", "jobs", "*", "m", self.payload)
        return f * self.batch, self.batch

    def confirms(self):
        return token_counter(b"$", b"-ERR") if self.q else None

    def read_cmd(self):
        return resp(
            "XREADGROUP",
            "GROUP",
            "g",
            "c",
            "COUNT",
            self.prefetch,
            "BLOCK",
            2000,
            "STREAMS",
            "jobs",
            ">",
        )

    def open_sub(self, i=0):
        s = connect(self.port)
        if self.q:
            s.sendall(self.read_cmd())
        else:
            s.sendall(resp("SUBSCRIBE", "jobs"))
            read_until(s, lambda d: d.endswith(b":1\r\n"))
        return s

    def parser(self):
        if not self.q:
            return super().parser()
        head = re.compile(rb"\$4\r\njobs\r\n\*(\d+)\r\n")
        find = re.compile(rb"\r\n(\d+-\d+)\r\n").findall
        again, tail = self.read_cmd(), b""
        pre = {n: b"*4\r\n$4\r\nXACK\r\n$4\r\njobs\r\n$1\r\ng\r\n$%d\r\n" % n for n in range(60)}

        def f(data):
            nonlocal tail
            tail += data
            if b"*-1\r\n" in tail[-5:]:  # BLOCK ran out: ask again
                tail = b""
                return 0, again
            m = head.search(tail)
            if not m or tail.count(MARK) < int(m[1]) or not tail.endswith(b"\r\n"):
                return 0, b""
            ids = find(tail)
            tail = b""
            return len(ids), b"".join([pre[len(i)] + i + b"\r\n" for i in ids]) + again

        return f


# --------------------------------------------------------------- AMQP 0-9-1


def amqp_frame(typ, ch, body):
    return struct.pack(">BHI", typ, ch, len(body)) + body + b"\xce"


def amqp_method(ch, cls, meth, args=b""):
    return amqp_frame(1, ch, struct.pack(">HH", cls, meth) + args)


def sstr(b):
    return bytes([len(b)]) + b


class AmqpAdapter(Adapter):
    queue_type = b"classic"

    def read_method(self, s, cls, meth):
        def exactly(n):
            d = b""
            while len(d) < n:
                x = s.recv(n - len(d))
                if not x:
                    raise ConnectionError("closed by broker")
                d += x
            return d

        s.settimeout(30)
        _, _, n = struct.unpack(">BHI", exactly(7))
        body = exactly(n + 1)
        got = struct.unpack(">HH", body[:4])
        if got != (cls, meth):
            raise RuntimeError(f"expected {cls},{meth}, got {got}: {body!r}")
        return body[4:-1]

    def call(self, s, ch, cls, meth, args, rmeth):
        s.sendall(amqp_method(ch, cls, meth, args))
        return self.read_method(s, cls, rmeth)

    def hello(self):
        s = connect(self.port)
        s.sendall(b"AMQP\x00\x00\x09\x01")
        self.read_method(s, 10, 10)
        sasl = b"\0guest\0guest"
        s.sendall(
            amqp_method(
                0,
                10,
                11,
                b"\0\0\0\0" + sstr(b"PLAIN") + struct.pack(">I", len(sasl)) + sasl + sstr(b"en_US"),
            )
        )
        chmax, fmax, _ = struct.unpack(">HIH", self.read_method(s, 10, 30))
        s.sendall(amqp_method(0, 10, 31, struct.pack(">HIH", chmax, fmax, 0)))
        self.call(s, 0, 10, 40, sstr(b"/") + sstr(b"") + b"\0", 41)
        self.call(s, 1, 20, 10, sstr(b""), 11)
        return s

    def declare(self, s, name, durable, exclusive=False):
        t = b""
        if durable:
            t = (
                sstr(b"x-queue-type")
                + b"S"
                + struct.pack(">I", len(self.queue_type))
                + self.queue_type
            )
        bits = (2 if durable else 0) | (4 | 8 if exclusive else 0)
        r = self.call(
            s, 1, 50, 10, b"\0\0" + sstr(name) + bytes([bits]) + struct.pack(">I", len(t)) + t, 11
        )
        return r[1 : 1 + r[0]]

    def setup(self):
        s = self.hello()
        if self.q:
            self.declare(s, b"jobs", self.kind == "durable")
        else:
            self.call(
                s, 1, 40, 10, b"\0\0" + sstr(b"fan") + sstr(b"fanout") + b"\0" + b"\0" * 4, 11
            )
        s.close()

    def open_pub(self):
        s = self.hello()
        if self.q:
            self.call(s, 1, 85, 10, b"\0", 11)
        return s

    def frames(self):
        ex, rk = (b"", b"jobs") if self.q else (b"fan", b"jobs")
        f = amqp_method(1, 60, 40, b"\0\0" + sstr(ex) + sstr(rk) + b"\0")
        mode = 2 if self.kind == "durable" else 1
        f += amqp_frame(2, 1, struct.pack(">HHQHB", 60, 0, self.size, 0x1000, mode))
        f += amqp_frame(3, 1, self.payload)
        return f * self.batch, self.batch

    def confirms(self):
        if not self.q:
            return None
        tail, low, early = b"", 0, set()
        unpack = struct.Struct(">7xHHQBx").iter_unpack

        def f(data):
            nonlocal tail, low, early
            data = tail + data
            n = len(data) // 21 * 21  # basic.ack frames are 21 bytes each
            tail = data[n:]
            was = low
            for cls, meth, tag, multiple in unpack(data[:n]):
                if cls != 60 or meth != 80:
                    raise RuntimeError(f"not an ack: {cls},{meth} {data[:300]!r}")
                if multiple:
                    if tag > low:
                        low = tag
                elif tag == low + 1:
                    low = tag
                else:
                    early.add(tag)
                    continue
                if early:
                    while low + 1 in early:
                        low += 1
                        early.discard(low)
                    if multiple:
                        early = {t for t in early if t > low}
            return low - was

        return f

    def open_sub(self, i=0):
        s = self.hello()
        if self.q:
            self.call(s, 1, 60, 10, struct.pack(">IHB", 0, self.prefetch, 0), 11)
            name, noack = b"jobs", 0
        else:
            name, noack = self.declare(s, b"", False, True), 2
            self.call(
                s,
                1,
                50,
                20,
                b"\0\0" + sstr(name) + sstr(b"fan") + sstr(b"jobs") + b"\0" + b"\0" * 4,
                21,
            )
        self.call(s, 1, 60, 20, b"\0\0" + sstr(name) + sstr(b"c") + bytes([noack]) + b"\0" * 4, 21)
        return s

    def parser(self):
        count = token_counter(MARK)
        if not self.q:
            return lambda data: (count(data), b"")
        # delivery tags run 1, 2, 3 ...: the ack frames are made ahead, one per tag
        tag, blob, base, per = 0, b"", 0, 50000
        mk = struct.Struct(">BHIHHQBB").pack

        def f(data):
            nonlocal tag, blob, base
            n = count(data)
            if not n:
                return 0, b""
            if tag + n > base + per or not blob:
                base = tag
                blob = b"".join(
                    [mk(1, 1, 13, 60, 80, t, 0, 0xCE) for t in range(base + 1, base + per + 1)]
                )
            a = (tag - base) * 21
            tag += n
            return n, blob[a : a + n * 21]

        return f


class AmqpQuorumAdapter(AmqpAdapter):
    queue_type = b"quorum"


# --------------------------------------------------------------- MQTT 3.1.1


def mqtt_len(n):
    out = b""
    while True:
        n, d = divmod(n, 128)
        out += bytes([d | (128 if n else 0)])
        if not n:
            return out


def mqtt_str(b):
    return struct.pack(">H", len(b)) + b


class MqttAdapter(Adapter):
    def hello(self, cid, clean=True):
        s = connect(self.port)
        # with a name: amqtt keeps no messages for the sessions of anonymous clients
        b = (
            mqtt_str(b"MQTT")
            + bytes([4, 0xC0 | (2 if clean else 0)])
            + b"\0\0"
            + mqtt_str(cid)
            + mqtt_str(b"u")
            + mqtt_str(b"p")
        )
        s.sendall(b"\x10" + mqtt_len(len(b)) + b)
        r = read_until(s, lambda d: len(d) >= 4)
        if r[:1] != b"\x20" or r[3]:
            raise RuntimeError(f"CONNACK {r!r}")
        return s

    def open_pub(self):
        return self.hello(b"pub%d" % os.getpid())

    def frames(self):
        if not self.q:
            b = mqtt_str(b"jobs") + self.payload
            return (b"\x30" + mqtt_len(len(b)) + b) * self.batch, self.batch
        n = 60000 // self.batch * self.batch  # packet ids 1..n, round and round
        ln = mqtt_len(8 + len(self.payload))
        return b"".join(
            [b"\x32" + ln + b"\0\4jobs" + struct.pack(">H", i + 1) + self.payload for i in range(n)]
        ), n

    def confirms(self):
        if not self.q:
            return None
        left = 0

        def f(data):  # a PUBACK is 4 bytes
            nonlocal left
            n, left = divmod(left + len(data), 4)
            return n

        return f

    def subscribe(self, s):
        b = b"\0\1" + mqtt_str(b"jobs") + bytes([1 if self.q else 0])
        s.sendall(b"\x82" + mqtt_len(len(b)) + b)
        r = read_until(s, lambda d: len(d) >= 5)
        if r[:1] != b"\x90" or r[4] == 0x80:
            raise RuntimeError(f"SUBACK {r!r}")
        return s

    def keep_backlog(self):
        s = self.subscribe(self.hello(b"away", clean=False))
        s.sendall(b"\xe0\x00")
        time.sleep(0.2)
        s.close()

    def open_backlog(self):
        return self.hello(b"away", clean=False)

    def open_sub(self, i=0):
        return self.subscribe(self.hello(b"sub%d-%d" % (os.getpid(), i)))

    def parser(self):
        if not self.q:
            return super().parser()
        return id_parser(
            rb"\x00\x04jobs(..)", lambda ids: b"\x40\x02" + b"\x40\x02".join(ids) if ids else b""
        )


# --------------------------------------------------------------- beanstalkd


class BeanstalkAdapter(Adapter):
    prefetch = 100  # here: reserve commands in flight

    def open_pub(self):
        s = connect(self.port)
        s.sendall(b"use jobs\r\n")
        read_until(s, lambda d: d == b"USING jobs\r\n")
        return s

    def frames(self):
        f = b"put 0 0 600 %d\r\n%s\r\n" % (self.size, self.payload)
        return f * self.batch, self.batch

    def confirms(self):
        return token_counter(b"INSERTED")

    def open_sub(self, i=0):
        s = connect(self.port)
        s.sendall(b"watch jobs\r\nignore default\r\n")
        read_until(s, lambda d: d.endswith(b"WATCHING 1\r\n"))
        s.sendall(b"reserve\r\n" * self.prefetch)
        return s

    def parser(self):
        return id_parser(
            rb"RESERVED (\d+) ",
            lambda ids: (
                b"delete " + b"\r\ndelete ".join(ids) + b"\r\n" + b"reserve\r\n" * len(ids)
                if ids
                else b""
            ),
        )


# --------------------------------------------------------------- JSON brokers


class AdelraAdapter(Adapter):
    """The original msg reads one JSON document per read(1024), without framing:
    only one publish may be in flight, and a consumer's acks are never read."""

    batch = window = 1

    def mode(self):
        return b"queue" if self.q else b"pubsub"

    def frames(self):
        return (
            b'{"action": "publish", "topic": "jobs", "message": %s, "mode": "%s"}'
            % (self.payload, self.mode())
        ), 1

    def confirms(self):
        return token_counter(b'"ack"', b'"error"')

    def open_sub(self, i=0):
        s = connect(self.port)
        s.sendall(b'{"action": "subscribe", "topic": "jobs", "mode": "%s"}' % self.mode())
        time.sleep(0.02 if i < 60 else 0)
        return s


class TrioMsgAdapter(Adapter):
    """trio-msg: newline-delimited JSON; replies have no blanks after : and ,"""

    PUB = b'{"action":"publish","topic":"jobs","message":%s,"mode":"%s"%s}\n'
    SUB = b'{"action":"subscribe","topic":"jobs","mode":"%s"%s}\n'
    ACK = b'{"action":"ack","message_id":"', b'"}\n'
    ACK_TOKEN = b'"type":"ack"'
    ERR_TOKEN = b'"type":"error"'
    ID = rb'"message_id":"([^"]+)"'
    pubsub_is_acked = True
    subscribe_is_acked = False

    @property
    def sub_options(self):
        return b',"prefetch":%d' % self.prefetch

    @property
    def pub_options(self):
        return {"queue": b',"durability":"memory"', "durable": b',"durability":"stored"'}.get(
            self.kind, b""
        )

    def mode(self):
        return b"queue" if self.q else b"pubsub"

    def frames(self):
        return self.PUB % (self.payload, self.mode(), self.pub_options) * self.batch, self.batch

    def confirms(self):
        return (
            token_counter(self.ACK_TOKEN, self.ERR_TOKEN)
            if self.q or self.pubsub_is_acked
            else None
        )

    def open_sub(self, i=0):
        s = connect(self.port)
        s.sendall(self.SUB % (self.mode(), self.sub_options if self.q else b""))
        if self.subscribe_is_acked:
            read_until(s, lambda d: d.endswith(b"\n"))
        return s

    def parser(self):
        if not self.q:
            return super().parser()
        a, z = self.ACK
        # a whole line is a whole message, wherever its id stands
        return id_parser(self.ID, lambda ids: a + (z + a).join(ids) + z if ids else b"", b"\n")


ADAPTERS = {
    c.__name__: c
    for c in (
        NatsAdapter,
        RedisAdapter,
        AmqpAdapter,
        AmqpQuorumAdapter,
        MqttAdapter,
        BeanstalkAdapter,
        AdelraAdapter,
        TrioMsgAdapter,
    )
}

# --------------------------------------------------------------- processes

SUBS, PUBS, GO, SENT, RECV, CONF, STOP = range(7)  # slots of the shared array
CTX = mp.get_context("fork")


def _enter(cpu):
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})


def producer(ad, sh, out, cpu, fan, e2e, max_count, max_secs):
    """Publish until max_count or max_secs or STOP.  At most `window`
    unconfirmed, and at most e2e*fan deliveries behind the consumer (0: no
    consumer), so that nothing overflows and nothing is dropped."""
    try:
        _enter(cpu)
        blob, nf = ad.frames()
        flen, batch = len(blob) // nf, ad.batch
        mv, conf = memoryview(blob), ad.confirms()
        s = ad.open_pub()
        s.setblocking(False)
        sh[PUBS] = 1
        while not sh[GO]:
            time.sleep(0.001)
        end = time.monotonic() + max_secs
        sent = confirmed = pos = 0
        rest = None
        poll = select.poll()
        poll.register(s, select.POLLIN)
        more = True
        while True:
            moved = False
            if rest is None and more:
                if sent >= max_count or sh[STOP] or time.monotonic() > end:
                    more = False
                elif (conf is None or sent - confirmed + batch <= ad.window) and (
                    not e2e or sent * fan - sh[RECV] <= e2e * fan
                ):
                    k = min(batch, max_count - sent)
                    rest = mv[pos * flen : (pos + k) * flen]
                    pos = (pos + k) % nf
                    sent += k
            if rest is not None:
                try:
                    n = s.send(rest)
                    rest = rest[n:] if n < len(rest) else None
                    moved = True
                except BlockingIOError:
                    pass
            if rest is None:
                sh[SENT] = sent
            if conf:
                try:
                    d = s.recv(CHUNK)
                    if not d:
                        raise ConnectionError("closed by broker")
                    confirmed += conf(d)
                    sh[CONF] = confirmed
                    moved = True
                except BlockingIOError:
                    pass
            if not more and rest is None and (conf is None or confirmed >= sent):
                break
            if time.monotonic() > end + 15:
                break
            if not moved:
                if rest is not None:
                    poll.modify(s, select.POLLIN | select.POLLOUT)
                    poll.poll(100)
                    poll.modify(s, select.POLLIN)
                elif (conf and sent - confirmed + batch > ad.window) or not more:
                    poll.poll(100)
                else:
                    time.sleep(0.0002)  # the consumer is behind
        out.put(("pub", sent, confirmed if conf else None))
        # some brokers drop what they have read but not routed when the publisher leaves
        end = time.monotonic() + 20
        while not sh[STOP] and time.monotonic() < end:
            time.sleep(0.01)
        s.close()
    except BaseException as e:
        out.put(("error", f"producer: {e!r}", None))
        raise


def consumer(ad, sh, out, cpu, nsubs, max_secs):
    """Open nsubs subscriptions, then count (and ack) until STOP or max_secs."""
    try:
        _enter(cpu)
        socks = {}
        ep = select.epoll()
        for i in range(nsubs):
            s = ad.open_sub(i)
            s.settimeout(10)
            socks[s.fileno()] = (s, ad.parser())
            ep.register(s.fileno(), select.EPOLLIN)
        sh[SUBS] = nsubs
        got, end = 0, time.monotonic() + max_secs
        while not sh[STOP] and time.monotonic() < end:
            for fd, _ in ep.poll(0.1):
                s, parse = socks[fd]
                d = s.recv(CHUNK)
                if not d:
                    raise ConnectionError("closed by broker")
                n, reply = parse(d)
                if reply:
                    s.sendall(reply)
                if n:
                    got += n
                    sh[RECV] = got
        out.put(("sub", got, None))
        for s, _ in socks.values():
            s.close()
    except BaseException as e:
        out.put(("error", f"consumer: {e!r}", None))
        raise


def pingpong(ad, out, cpu, rounds, max_secs):
    """One message in flight: publish, receive (, ack, wait for the confirm)."""
    try:
        _enter(cpu)
        ad.batch = 1
        blob, nf = ad.frames()
        flen = len(blob) // nf
        sub = ad.open_sub()
        sub.settimeout(5)
        parse = ad.parser()
        pub = ad.open_pub()
        pub.settimeout(5)
        conf, us = ad.confirms(), []
        time.sleep(0.3)
        end = time.monotonic() + max_secs
        clock = time.perf_counter_ns
        for r in range(rounds + 200):
            i = r % nf
            f = blob[i * flen : (i + 1) * flen]
            n = c = 0
            t = clock()
            pub.sendall(f)
            while not n:
                d = sub.recv(CHUNK)
                if not d:
                    raise ConnectionError("closed by broker")
                n, reply = parse(d)
                if reply and not n:
                    sub.sendall(reply)
            us.append((clock() - t) / 1000)
            if reply:
                sub.sendall(reply)
            while conf and c < 1:
                c += conf(pub.recv(CHUNK))
            if time.monotonic() > end:
                break
        out.put(("lat", us[200:] if len(us) > 400 else us, None))
    except BaseException as e:
        out.put(("error", f"pingpong: {e!r}", None))
        raise


def idle_subs(ad, sh, out, cpu, n):
    """Open n subscriptions and keep them until STOP."""
    try:
        _enter(cpu)
        socks, end = [], time.monotonic() + 120
        for i in range(n):
            socks.append(ad.open_sub(i))
            sh[SUBS] = i + 1
            if time.monotonic() > end:
                break
        while not sh[STOP] and time.monotonic() < end + 60:
            time.sleep(0.05)
        for s in socks:
            s.close()
        out.put(("idle", len(socks), None))
    except BaseException as e:
        out.put(("error", f"idle: {e!r}", None))
        raise


def shared():
    return CTX.RawArray("q", 16)


def start(fn, *args):
    p = CTX.Process(target=fn, args=args, daemon=True)
    p.start()
    return p


def finish(procs):
    for p in procs:
        p.join(3)
        if p.is_alive():
            p.terminate()
            p.join(3)
        if p.is_alive():
            p.kill()
