"""Peer benchmark: `python bench/peers/run.py --peers nats,redis --workloads W1,W3 --n 3`.

Workloads (payload: one JSON string, 200 bytes by default)
  W1   publish/subscribe, 1 -> 1, at most once             msgs/s received
  W2   fan-out, 1 -> 50, at most once                      deliveries/s
  W3   queue in memory, publisher confirms (window 1000),
       1 consumer that acks every message                  msgs/s acked
  W4   as W3, confirmed only when stored                   msgs/s acked
  W5   one message in flight through a topic               us, publish to receipt
  W5Q  the same through a queue with confirm and ack       us, publish to receipt
  W6   idle subscribed connections                         KiB of RSS each
  W6B  100,000 queued messages, no consumer                bytes of RSS each

The broker is pinned to one CPU and all generators to another.  Every point
starts a fresh broker; the runs alternate between the peers.
"""

import argparse
import contextlib
import json
import os
import platform
import queue
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import brokers
import load
from load import CONF, GO, PUBS, RECV, SENT, STOP, SUBS

KIND = {
    "W1": "pubsub",
    "W2": "pubsub",
    "W3": "queue",
    "W4": "durable",
    "W5": "pubsub",
    "W5Q": "queue",
    "W6": "pubsub",
    "W6B": "queue",
}
UNIT = {
    "W1": "msg/s",
    "W2": "deliveries/s",
    "W3": "msg/s",
    "W4": "msg/s",
    "W5": "us p50",
    "W5Q": "us p50",
    "W6": "KiB/conn",
    "W6B": "B/msg",
}
TITLE = {
    "W1": "pub/sub 1 to 1, at most once",
    "W2": "fan-out 1 to {fan}, at most once",
    "W3": "queue, in memory, confirms + per-message acks",
    "W4": "queue, confirmed when persisted",
    "W5": "ping-pong through a topic",
    "W5Q": "ping-pong through a queue (confirm + ack)",
    "W6": "{conns} idle subscribed connections",
    "W6B": "{backlog} queued messages without a consumer",
}


def wait(pred, secs, out=None):
    end = time.monotonic() + secs
    while not pred():
        if time.monotonic() > end:
            return False
        if out is not None:
            raise_errors(out)
        time.sleep(0.005)
    return True


def raise_errors(out):
    try:
        m = out.get_nowait()
    except queue.Empty:
        return
    if m[0] == "error":
        raise RuntimeError(m[1])
    out.put(m)


def collect(out, n, secs):
    res, end = {}, time.monotonic() + secs
    while len(res) < n:
        try:
            m = out.get(timeout=max(0.01, end - time.monotonic()))
        except queue.Empty:
            raise RuntimeError(f"a generator gave no result in {secs} s") from None
        if m[0] == "error":
            raise RuntimeError(m[1])
        res[m[0]] = m[1:]
    return res


def throughput(b, ad, subs, a):
    ad.setup()
    sh, out = load.shared(), load.CTX.Queue()
    total = a.warm + a.seconds
    cons = load.start(load.consumer, ad, sh, out, a.load_cpu, subs, total + 60)
    procs = [cons]
    try:
        if not wait(lambda: sh[SUBS] == subs, 30, out):
            raise RuntimeError("subscribers not ready")
        e2e = a.lag if subs == 1 else max(100, a.lag // 10)
        prod = load.start(
            load.producer, ad, sh, out, a.load_cpu, subs, e2e, a.max_count or 10**12, total + 0.2
        )
        procs.append(prod)
        if not wait(lambda: sh[PUBS], 30, out):
            raise RuntimeError("publisher not ready")
        time.sleep(0.2)

        def snap():
            return (
                time.monotonic(),
                sh[RECV],
                b.cpu_seconds(),
                brokers.cpu_of(prod.pid),
                brokers.cpu_of(cons.pid),
            )

        zero = snap()
        sh[GO] = 1
        if not a.max_count:
            time.sleep(a.warm)
            zero = snap()
        if a.max_count:
            wait(lambda: sh[RECV] >= a.max_count * subs, a.seconds, out)
        else:
            end = time.monotonic() + a.seconds
            while time.monotonic() < end:
                time.sleep(min(0.5, max(0.001, end - time.monotonic())))
                raise_errors(out)
        one = snap()
        sent, still = -1, time.monotonic()
        while time.monotonic() - still < 1:  # until the publisher sends no more
            if sh[SENT] != sent:
                sent, still = sh[SENT], time.monotonic()
            if a.max_count and sent >= a.max_count:
                break
            time.sleep(0.02)
        last, still = -1, time.monotonic()
        while sh[RECV] < sh[SENT] * subs and time.monotonic() - still < 2:
            if sh[RECV] != last:
                last, still = sh[RECV], time.monotonic()
            time.sleep(0.01)
        sh[STOP] = 1
        r = collect(out, 2, 15)
        dt, n = one[0] - zero[0], one[1] - zero[1]
        if n <= 0:
            raise RuntimeError("nothing received")
        return {
            "value": n / dt,
            "cpu100k": (one[2] - zero[2]) / n * 1e5,
            "broker_cpu": (one[2] - zero[2]) / dt,
            "pub_cpu": (one[3] - zero[3]) / dt,
            "sub_cpu": (one[4] - zero[4]) / dt,
            "lost": r["pub"][0] * subs - r["sub"][0],
            "n": n,
        }
    finally:
        sh[STOP] = 1
        load.finish(procs)


def latency(b, ad, a):
    ad.prefetch = 1
    ad.setup()
    out = load.CTX.Queue()
    c0, t0 = b.cpu_seconds(), time.monotonic()
    p = load.start(load.pingpong, ad, out, a.load_cpu, a.rounds, 20)
    try:
        us = sorted(collect(out, 1, 40)["lat"][0])
        n = len(us)
        c = b.cpu_seconds() - c0
        return {
            "value": us[n // 2],
            "p99": us[min(n - 1, n * 99 // 100)],
            "n": n,
            "cpu100k": c / (n + 200) * 1e5,
            "broker_cpu": c / (time.monotonic() - t0),
        }
    finally:
        load.finish([p])


def idle(b, ad, a):
    ad.setup()
    ad.prefetch = 1 if ad.__class__ is load.BeanstalkAdapter else ad.prefetch
    time.sleep(1)
    r0 = b.rss()
    sh, out = load.shared(), load.CTX.Queue()
    p = load.start(load.idle_subs, ad, sh, out, a.load_cpu, a.conns)
    try:
        wait(lambda: sh[SUBS] >= a.conns, 120, out)
        n = sh[SUBS]
        time.sleep(2)
        r1 = b.rss()
        c, t = b.cpu_seconds(), time.monotonic()
        time.sleep(2)
        cpu = (b.cpu_seconds() - c) / (time.monotonic() - t)
        return {
            "value": (r1[1] - r0[1]) / n,
            "vmrss": (r1[0] - r0[0]) / n,
            "base_mib": r0[0] / 1024,
            "n": n,
            "broker_cpu": cpu,
        }
    finally:
        sh[STOP] = 1
        load.finish([p])
        time.sleep(1)  # a broker that measures itself (bench/turns.py) is to see them all leave


def backlog(b, ad, a):
    ad.setup()
    if ad.keep_backlog:
        ad.keep_backlog()
    time.sleep(1)
    r0, c0 = b.rss(), b.cpu_seconds()
    sh, out = load.shared(), load.CTX.Queue()
    p = load.start(load.producer, ad, sh, out, a.load_cpu, 1, 0, a.backlog, 25)
    try:
        wait(lambda: sh[PUBS], 15, out)
        sh[GO] = 1
        n = collect(out, 1, 60)["pub"][1] or sh[CONF]
        time.sleep(2)
        r1, cpu = b.rss(), b.cpu_seconds() - c0
        return {
            "drained": drain(ad, n),
            "value": (r1[1] - r0[1]) * 1024 / n,
            "vmrss": (r1[0] - r0[0]) * 1024 / n,
            "base_mib": r0[0] / 1024,
            "n": n,
            "cpu100k": cpu / n * 1e5,
        }
    finally:
        sh[STOP] = 1
        load.finish([p])


def drain(ad, n, secs=15):
    """How many of n queued messages a consumer really gets."""
    s, parse, got, end = ad.open_backlog(), ad.parser(), 0, time.monotonic() + secs
    s.settimeout(3)
    try:
        while got < n and time.monotonic() < end:
            d = s.recv(load.CHUNK)
            if not d:
                break
            k, reply = parse(d)
            got += k
            if reply:
                s.sendall(reply)
    except OSError:
        pass
    s.close()
    return got


def point(cls, w, a):
    kind = KIND[w]
    if kind not in cls.kinds:
        kind = cls.kinds[0]
    with cls(durable=kind == "durable", cpu=a.broker_cpu) as b:
        ad = load.ADAPTERS[cls.adapter](b.port, kind, a.size)
        if w in ("W1", "W3", "W4"):
            return throughput(b, ad, 1, a)
        if w == "W2":
            return throughput(b, ad, a.fan, a)
        if w in ("W5", "W5Q"):
            return latency(b, ad, a)
        return idle(b, ad, a) if w == "W6" else backlog(b, ad, a)


def num(x):
    if x is None:
        return ""
    return (
        f"{x:,.0f}"
        if abs(x) >= 100
        else f"{x:.3f}"
        if abs(x) < 1
        else f"{x:.2f}"
        if abs(x) < 10
        else f"{x:.1f}"
    )


def table(w, peers, runs, a):
    md = [f"### {w}: {TITLE[w].format(fan=a.fan, conns=a.conns, backlog=f'{a.backlog:,}')}", ""]
    thr, lat = w in ("W1", "W2", "W3", "W4"), w in ("W5", "W5Q")
    head = ["peer", "setting", f"median {UNIT[w]}", "min-max"]
    head += (
        ["broker CPU s / 100k", "broker CPU %", "generator CPU % (pub+sub)", "limited by", "lost"]
        if thr
        else ["p99 (median)", "broker CPU s / 100k", "rounds"]
        if lat
        else ["VmRSS-based", "base RSS MiB", "idle CPU %", "n"]
        if w == "W6"
        else ["VmRSS-based", "base RSS MiB", "broker CPU s / 100k", "n", "drained"]
    )
    md += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for p in peers:
        rs = runs.get((w, p))
        if not rs:
            continue
        ok = [r for r in rs if "error" not in r]
        cls = brokers.PEERS[p]
        note = cls.notes.get(KIND[w] if KIND[w] in cls.kinds else cls.kinds[0], "")
        if not ok:
            md.append(f"| {p} | {note} | failed: {rs[0]['error'][:80]} |" + " |" * (len(head) - 3))
            continue

        def med(k, ok=ok):
            v = [r[k] for r in ok if r.get(k) is not None]
            return statistics.median(v) if v else None

        vals = [r["value"] for r in ok]
        row = [p, note, num(med("value")), f"{num(min(vals))}-{num(max(vals))}"]
        if thr:
            gen, brk = med("pub_cpu") + med("sub_cpu"), med("broker_cpu")
            limit = ["broker"] * (brk >= 0.88) + ["generator"] * (gen >= 0.88)
            if not limit:  # neither CPU is full: what waits is ...
                limit = [
                    "one in flight"
                    if load.ADAPTERS[cls.adapter].window == 1
                    else "disk"
                    if w == "W4"
                    else "window"
                ]
            if limit in (["generator"], ["window"]):
                row[2] = ">= " + row[2]  # a lower bound for the broker
            row += [
                num(med("cpu100k")),
                f"{med('broker_cpu') * 100:.0f}",
                f"{med('pub_cpu') * 100:.0f}+{med('sub_cpu') * 100:.0f}",
                "+".join(limit),
                str(max(r["lost"] for r in ok)),
            ]
        elif lat:
            row += [num(med("p99")), num(med("cpu100k")), str(min(r["n"] for r in ok))]
        elif w == "W6":
            row += [
                num(med("vmrss")),
                num(med("base_mib")),
                f"{med('broker_cpu') * 100:.1f}",
                str(min(r["n"] for r in ok)),
            ]
        else:
            row += [
                num(med("vmrss")),
                num(med("base_mib")),
                num(med("cpu100k")),
                str(min(r["n"] for r in ok)),
                str(min((r["drained"] for r in ok if "drained" in r), default="")),
            ]
        if len(ok) < len(rs):
            row[3] += f" ({len(ok)} of {len(rs)} runs)"
        md.append("| " + " | ".join(row) + " |")
    return "\n".join(md) + "\n"


def main():
    ap = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ap.add_argument("--peers", default=",".join(brokers.PEERS))
    ap.add_argument("--workloads", default=",".join(KIND))
    ap.add_argument("--n", type=int, default=3, help="runs per point, alternating between peers")
    ap.add_argument("--seconds", type=float, default=2.5, help="measured seconds per point")
    ap.add_argument("--warm", type=float, default=0.5, help="seconds before measuring")
    ap.add_argument(
        "--max-count", type=int, default=0, help="stop each point after this many messages"
    )
    ap.add_argument("--size", type=int, default=200, help="payload bytes")
    ap.add_argument("--lag", type=int, default=10000, help="messages the consumer may be behind")
    ap.add_argument("--rounds", type=int, default=5000)
    ap.add_argument("--fan", type=int, default=50)
    ap.add_argument("--conns", type=int, default=2000)
    ap.add_argument("--backlog", type=int, default=100000)
    ap.add_argument("--broker-cpu", type=int, default=0)
    ap.add_argument("--load-cpu", type=int, default=1)
    ap.add_argument("--json", help="append every single run to this file, one JSON object a line")
    ap.add_argument(
        "--from-json",
        action="append",
        default=[],
        help="measure nothing: print the tables of these --json files",
    )
    a = ap.parse_args()
    if a.from_json:
        runs, peers = {}, []
        for name in a.from_json:
            with open(name) as f:
                for line in f:
                    r = json.loads(line)
                    runs.setdefault((r["workload"], r["peer"]), []).append(r)
        peers = [p for p in a.peers.split(",") if any(k[1] == p for k in runs)]
        return report(a, peers, runs)
    if (os.cpu_count() or 1) < 2:
        a.broker_cpu = a.load_cpu = None
    peers = []
    for p in a.peers.split(","):
        if brokers.PEERS[p].available():
            peers.append(p)
        else:
            print(f"skipped, not installed: {p}", file=sys.stderr)
    runs = {}
    for w in a.workloads.split(","):
        who = [
            p
            for p in peers
            if KIND[w] in brokers.PEERS[p].kinds or (w == "W6" and p == "beanstalkd")
        ]
        for r in range(a.n):
            k = r % len(who) if who else 0
            for p in who[k:] + who[:k]:
                t = time.monotonic()
                try:
                    res = point(brokers.PEERS[p], w, a)
                except Exception as e:  # one peer's failure must not end the rest
                    res = {"error": f"{type(e).__name__}: {e}"}
                res.update(load1=os.getloadavg()[0], took=time.monotonic() - t)
                runs.setdefault((w, p), []).append(res)
                short = {k: round(v, 3) if isinstance(v, float) else v for k, v in res.items()}
                print(f"{w} {p} #{r + 1} {short}", file=sys.stderr, flush=True)
                if a.json:
                    with open(a.json, "a") as f:
                        f.write(json.dumps({"workload": w, "peer": p, "run": r, **res}) + "\n")
    report(a, peers, runs)


def machine():
    """What it was measured on."""
    model = "unknown CPU"
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as f:
        names = [line.partition(":")[2].strip() for line in f if line.startswith("model name")]
        model = names[0] if names else model
    return f"{os.cpu_count()} x {model}, {platform.system()} {platform.release()}"


def report(a, peers, runs):
    print(
        f"{time.strftime('%d %B %Y')}, {machine()}, Python {platform.python_version()}; "
        f"payload {a.size} B, n={a.n}, {a.seconds} s per point\n"
    )
    for p in peers:
        cls = brokers.PEERS[p]
        version = cls.version() if cls.available() else "version unknown"
        settings = "; ".join(f"{kind}: {note}" for kind, note in cls.notes.items())
        print(f"- {p}: {version} ({settings})")
    print()
    for w in a.workloads.split(","):
        print(table(w, peers, runs, a))


if __name__ == "__main__":
    main()
