"""The checker: what clients sent and heard, against what a broker promises.

It reads the journal of a run and nothing else. Of the broker's side it takes only that it
stopped or crashed (a cut that both sides know of), never what it claims to hold.

    lost        acked to its publisher; not settled by a consumer, and not there at the end
    phantom     delivered and never published, or altered, or refused for good before
    duplicate   a second delivery; where it was settled before and that was confirmed, always wrong
    disorder    one publisher's first deliveries to one consumer, not in the order published
    two holders delivered while another held it, was connected, and had time left
    early       delivered before its delay had passed
    undurable   delivered, and unknown to the broker that came after a stop: not yet written

What cannot be known is not judged: a publish without an answer may be there or not, order is
not judged over a disturbance that may have returned messages unseen.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import inf
from typing import Any

import attrs

from msg.core.patterns import matches
from msg.scenario import model
from msg.scenario.journal import Event
from msg.scenario.model import Scenario
from msg.scenario.play import feeds

# a refusal with one of these says for certain that nothing was kept
ROUNDING_S = 0.005  # of times on the wire
CERTAIN = ("queue_full", "disk_full", "draining", "too_many", "forbidden", "bad_field", "bad_name")


@attrs.frozen
class Violation:
    """Something that must not be: what, in one sentence, and when it showed."""

    kind: str
    text: str
    at: float
    key: str = ""
    lane: str = ""
    other: str = ""  # the second message that it is about

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@attrs.define(eq=False)
class Publication:
    """One message, as its publisher knows it."""

    key: str
    to: str
    client: str
    sent: float
    number: int
    sends: int = 1
    acked: float | None = None
    acked_in: float = 0.0  # since when the connection stood that the answer came on
    known: bool = False  # acked as a duplicate: the broker had it already
    unheard: bool = False
    refusals: list[str] = attrs.field(factory=list)
    over: bool = False  # refused for good
    durability: str = ""
    delay: float = 0.0
    ttl: bool = False
    priority: int = 4


@attrs.define(eq=False)
class Delivery:
    """One message, as a consumer got it."""

    key: str
    source: str
    client: str
    session: int
    at: float
    what: dict[str, Any]
    settled: float = inf
    how: str = ""

    @property
    def attempt(self) -> int:
        return int(self.what.get("attempt", 0))

    @property
    def is_first(self) -> bool:
        return self.attempt == 1 and "returned" not in self.what


@attrs.define(eq=False)
class Listening:
    """One subscription to a topic on one connection."""

    client: str
    pattern: str
    since: float = inf
    until: float = inf
    got: list[Delivery] = attrs.field(factory=list)

    @property
    def dropped(self) -> int:
        return sum(int(d.what.get("dropped", 0)) for d in self.got)


@attrs.define(eq=False)
class Evidence:
    """The journal, by what the questions are about."""

    publications: dict[str, Publication] = attrs.field(factory=dict)
    deliveries: dict[tuple[str, str], list[Delivery]] = attrs.field(factory=dict)
    settled: dict[tuple[str, str], list[float]] = attrs.field(factory=dict)  # acks that were sent
    rejected: dict[tuple[str, str], None] = attrs.field(factory=dict)
    confirmed: dict[tuple[str, str], float] = attrs.field(factory=dict)
    found: dict[tuple[str, str], Event] = attrs.field(factory=dict)
    listening: list[Listening] = attrs.field(factory=list)
    begins: dict[tuple[str, int], float] = attrs.field(factory=dict)  # of sessions
    ends: dict[tuple[str, int], float] = attrs.field(factory=dict)
    stops: list[float] = attrs.field(factory=list)  # of the broker, however it stopped
    cuts: list[float] = attrs.field(factory=list)  # of the power
    hurt: dict[str, list[float]] = attrs.field(factory=dict)  # faults on a client's link
    disturbed: dict[str, list[float]] = attrs.field(factory=dict)  # a source's consumers left …
    groups: dict[str, float] = attrs.field(factory=dict)  # since when it was there for certain
    sends: list[float] = attrs.field(factory=list)  # orders of the operator
    over: float = inf

    def may_be_late(self, d: Delivery) -> bool:
        """Whether it may have been under way for long: sent before what arrived before it."""
        if any(at <= d.at for at in self.hurt.get(d.client, ())):
            return True
        begun = self.begins.get((d.client, d.session), 0.0)
        return any(begun <= at <= d.at for at in self.stops)


def judge(
    scenario: Scenario, events: Sequence[Event], problems: Sequence[str] = ()
) -> list[Violation]:
    """All that must not be, in the order of its showing."""
    evidence = gather(scenario, events)
    found: list[Violation] = []
    for question in _QUESTIONS:
        found += question(scenario, evidence, events)
    at = next((e.at for e in events if e.lane == "check"), 0.0)
    found += [Violation("books", problem, at) for problem in problems[:1]]
    return sorted(found, key=lambda violation: violation.at)


# -- gathering ------------------------------------------------------------------------------


def gather(scenario: Scenario, events: Sequence[Event]) -> Evidence:
    """Sort the journal."""
    e = Evidence()
    sessions: dict[str, int] = {}
    held: dict[tuple[str, int, str, int], Delivery] = {}  # client, session, sub's source, tag
    listening: dict[tuple[str, str], Listening] = {}
    patterns = _patterns(scenario)
    sources = _sources(scenario)
    stopped = False

    def disturb(source: str, at: float) -> None:
        e.disturbed.setdefault(source, []).append(at)

    for event in events:
        what, lane, at = event.what, event.lane, event.at
        session = sessions.get(lane, 0)
        match event.kind:
            case "publish":
                pub = e.publications.get(what["key"])
                if pub is not None:
                    pub.sends += 1
                    continue
                e.publications[what["key"]] = Publication(
                    what["key"], what["to"], lane, at, len(e.publications),
                    durability=what.get("durability") or _weaker(scenario, what["to"]),
                    delay=what.get("delay", 0.0),
                    ttl="ttl" in what, priority=what.get("priority", 4),
                )  # fmt: skip
            case "acked":
                pub = e.publications[what["key"]]
                if pub.acked is None:
                    pub.acked = at
                    pub.acked_in = e.begins.get((lane, session), 0.0)
                    pub.known = bool(what.get("duplicate"))
                    pub.unheard = bool(what.get("unheard"))
            case "refused" | "put off":
                pub = e.publications[what["key"]]
                pub.refusals.append(what.get("code", ""))
                pub.over = pub.over or event.kind == "refused"
            case "connected":
                sessions[lane] = session + 1
                e.begins[lane, session + 1] = at
            case "lost" | "dies" | "leaves" | "left":
                e.ends.setdefault((lane, session), at)
                for source in sources.get(lane, ()):
                    disturb(source, at)
                for pair in [pair for pair in listening if pair[0] == lane]:
                    listening.pop(pair).until = at
            case "subscribed":
                sub = str(what.get("id", ""))[4:]
                if (lane, sub) in patterns:
                    one = Listening(lane, patterns[lane, sub], at)
                    listening[lane, sub] = one
                    e.listening.append(one)
                elif "group" in what:
                    e.groups.setdefault(f"group {what['topic']}@{what['group']}", at)
            case "message":
                source = what["from"]
                one_delivery = Delivery(what["key"], source, lane, session, at, what)
                if source.startswith("topic "):
                    if (lane, what["sub"]) in listening:
                        listening[lane, what["sub"]].got.append(one_delivery)
                    continue
                e.deliveries.setdefault((source, what["key"]), []).append(one_delivery)
                if "tag" in what:
                    held[lane, session, source, what["tag"]] = one_delivery
            case "settle":
                pair = (what["from"], what["key"])
                if what["how"] == "ack":
                    e.settled.setdefault(pair, []).append(at)
                elif what["how"] == "reject":
                    e.rejected[pair] = None
                mine = held.get((lane, session, what["from"], what["tag"]))
                if mine is not None:
                    mine.settled, mine.how = at, what["how"]
            case "settled" if what["how"] == "ack":
                e.confirmed.setdefault((what["from"], what["key"]), at)
            case "found":
                e.found[what["from"], what["key"]] = event
            case "is gone" | "ended":
                e.stops.append(at)
                stopped = True
            case "starts" if stopped:
                e.stops.append(at)
            case "over":
                e.over = at
            case _ if lane == "fault":
                if "client" in what:
                    e.hurt.setdefault(what["client"], []).append(at)
                if event.kind in ("power_cut", "power is cut"):
                    e.cuts.append(at)
                if event.kind in ("send", "crash_actor"):
                    e.sends.append(at)
    for one in e.listening:
        one.until = min(one.until, e.over)
    return e


def _weaker(scenario: Scenario, to: str) -> str:
    """The durability of a publish that names none, where its queue promises less than all."""
    if scenario.broker is None or not to.startswith("queue "):
        return ""
    durability: str = scenario.broker.queue(to[6:]).durability
    return "" if durability == "stored" else durability


def _patterns(scenario: Scenario) -> dict[tuple[str, str], str]:
    """(client, sub) -> pattern, of those that listen to topics."""
    return {
        (name, f"s{i}"): role.topic
        for client in scenario.client
        for name in _names(client)
        for i, role in enumerate(client.subscribe)
    }


def _sources(scenario: Scenario) -> dict[str, list[str]]:
    return {
        name: [
            f"queue {role.queue}" if role.queue else f"group {role.topic}@{role.group}"
            for role in client.consume
        ]
        for client in scenario.client
        for name in _names(client)
    }


def _listening_roles(
    client: model.Client,
) -> Iterator[tuple[str, int, model.Consume | model.Subscribe]]:
    """With the letter and number that make the name of each one's subscription."""
    for i, consume in enumerate(client.consume):
        yield "c", i, consume
    for i, subscribe in enumerate(client.subscribe):
        yield "s", i, subscribe


def _names(client: model.Client) -> list[str]:
    if client.number == 1:
        return [client.name]
    return [f"{client.name}-{n}" for n in range(1, client.number + 1)]


# -- questions ------------------------------------------------------------------------------

Question = Callable[[Scenario, Evidence, Sequence[Event]], Iterator[Violation]]


def _some(
    kind: str, keys: list[str], allowed: model.Several, text: str, at: float
) -> Violation | None:
    """One violation for many messages alike, with the first few named."""
    if len(keys) in allowed:
        return None
    named = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
    wanted = "" if allowed == model.Several(0, 0) else f", and {allowed} may be"
    first = keys[0] if keys else ""
    return Violation(kind, f"{len(keys)} {text}{wanted}: {named}", at, first)


def lost(scenario: Scenario, e: Evidence, events: Sequence[Event]) -> Iterator[Violation]:
    """What was acked is settled, or there."""
    missing: list[str] = []
    swept = not any(event.kind == "not swept" for event in events)
    unreachable = {event.what["source"] for event in events if event.kind == "unreachable"}
    sources: dict[str, float | None]
    sources = {f"queue {p.to[6:]}": None for p in e.publications.values() if p.to[:6] == "queue "}
    sources |= e.groups
    dead = {source: f"{source}.dead" for source in sources}
    for pub in e.publications.values():
        if pub.acked is None or pub.ttl or not swept:
            continue
        for source, since in sources.items():
            if not feeds(pub.to, source) or source in unreachable or dead[source] in unreachable:
                continue
            if since is not None and pub.sent <= since:
                continue  # the group was perhaps not there
            pair = (source, pub.key)
            if pair in e.settled or pair in e.found or (dead[source], pub.key) in e.found:
                continue
            if pub.durability == "memory" and any(at >= pub.acked for at in e.stops):
                continue
            if pub.durability == "os" and any(at >= pub.acked for at in e.cuts):
                continue
            if pair in e.rejected and source.endswith(".dead"):
                continue
            missing.append(pub.key)
    violation = _some(
        "lost", missing, scenario.expect.lost,
        "acked and gone: neither settled by a consumer nor in a queue at the end", e.over,
    )  # fmt: skip
    if violation is not None:
        yield violation
    if not swept:
        yield Violation("lost", "nobody could look into the queues at the end", e.over)


def unheard_subscribers(
    scenario: Scenario, e: Evidence, events: Sequence[Event]
) -> Iterator[Violation]:
    """A subscriber that stayed connected got everything, or was told how much it missed."""
    slow = {
        name for client in scenario.client for name in _names(client)
        if client.bytes_per_second is not None or not client.reads
    }  # fmt: skip
    for one in e.listening:
        if one.until < e.over:
            continue
        got = {d.key for d in one.got}
        due = [
            pub for pub in e.publications.values()
            if pub.acked is not None and pub.to.startswith("topic ")
            and matches(one.pattern, pub.to[6:]) and pub.sent > one.since and pub.key not in got
        ]  # fmt: skip
        if one.client in slow or one.client in e.hurt:
            last = e.publications[one.got[-1].key].sent if one.got else -inf
            due = [pub for pub in due if pub.sent < last]  # the rest is perhaps on its way
        if len(due) > one.dropped:
            yield Violation(
                "lost",
                f"{one.client} missed {len(due)} messages of {one.pattern} and was told of"
                f" {one.dropped}: {', '.join(pub.key for pub in due[:5])}",
                e.over, due[0].key, one.client,
            )  # fmt: skip


def dropped(scenario: Scenario, e: Evidence, events: Sequence[Event]) -> Iterator[Violation]:
    """What slow subscribers were told to have missed."""
    total = sum(one.dropped for one in e.listening)
    allowed = scenario.expect.dropped
    if allowed is None:
        allowed = model.Several(0, 0)
    if total not in allowed:
        yield Violation("dropped", f"subscribers missed {total}, expected {allowed}", e.over)


def phantom(scenario: Scenario, e: Evidence, events: Sequence[Event]) -> Iterator[Violation]:
    """Nothing is delivered that nobody published, or other than it was published."""
    wrong: list[Violation] = []
    for event in events:
        if event.kind == "stray":
            wrong.append(Violation("phantom", f"{event.lane} got what no subscription of its"
                                   " asked for", event.at, "", event.lane))  # fmt: skip
        if event.kind not in ("message", "found"):
            continue
        what, key = event.what, event.what["key"]
        pub = e.publications.get(key)
        source = what["from"].removesuffix(".dead")
        if what.get("altered"):
            text = f"{event.lane} got {key}, altered"
        elif what.get("unknown"):
            text = f"{event.lane} got {key}, which nobody published"
        elif pub is None:
            continue  # a request or an answer
        elif not _comes_from(pub.to, source):
            text = f"{event.lane} got {key} from {source}, published to {pub.to}"
        elif pub.over and pub.acked is None and pub.refusals[-1] in CERTAIN and pub.sends == 1:
            text = f"{event.lane} got {key}, refused with {pub.refusals[-1]} before"
        else:
            continue
        wrong.append(Violation("phantom", text, event.at, key, event.lane))
    if len(wrong) > scenario.expect.phantom:
        yield from wrong


def _comes_from(to: str, source: str) -> bool:
    if source.startswith("topic "):
        return to.startswith("topic ") and matches(source[6:], to[6:])
    return feeds(to, source)


def duplicates(scenario: Scenario, e: Evidence, events: Sequence[Event]) -> Iterator[Violation]:
    """Deliveries beyond the first, messages processed twice, and what came back from the dead."""
    expect = scenario.expect
    extra = sum(len(found) - 1 for found in e.deliveries.values())
    if expect.duplicates_at_most is not None and extra > expect.duplicates_at_most:
        first = next(found[1] for found in e.deliveries.values() if len(found) > 1)
        yield Violation(
            "duplicate",
            f"{extra} deliveries beyond a message's first, at most {expect.duplicates_at_most}"
            f" may be: {first.key} first",
            first.at, first.key, first.client,
        )  # fmt: skip
    twice = [(pair, times) for pair, times in e.settled.items() if len(times) > 1]
    if expect.processed_twice_at_most is not None and len(twice) > expect.processed_twice_at_most:
        (_, key), times = twice[0]
        yield Violation(
            "duplicate",
            f"{len(twice)} messages were processed twice, at most"
            f" {expect.processed_twice_at_most} may be: {key} first",
            times[1], key,
        )  # fmt: skip
    for pair, at in e.confirmed.items():
        pub = e.publications.get(pair[1])
        if pub is not None and pub.durability in ("memory", "os") and e.cuts:
            continue
        for delivery in e.deliveries.get(pair, ()):
            if delivery.at > at and not e.may_be_late(delivery):
                yield Violation(
                    "duplicate", f"{pair[1]} was delivered after its ack had been confirmed",
                    delivery.at, pair[1], delivery.client,
                )  # fmt: skip
                break
        if pair in e.found and e.found[pair].at > at:
            yield Violation(
                "duplicate", f"{pair[1]} was in the queue after its ack had been confirmed",
                e.found[pair].at, pair[1],
            )  # fmt: skip
    for one in e.listening:
        seen: dict[str, None] = {}
        for d in one.got:
            if d.key in seen and not d.what.get("replayed"):
                yield Violation(
                    "duplicate", f"{one.client} heard {d.key} twice on one subscription",
                    d.at, d.key, one.client,
                )  # fmt: skip
            seen[d.key] = None


def disorder(scenario: Scenario, e: Evidence, events: Sequence[Event]) -> Iterator[Violation]:
    """One publisher's messages reach one consumer in order, unless they came back."""
    wrong: list[Violation] = []
    last: dict[tuple[str, int, str, str, str, int], Publication] = {}
    seen: dict[tuple[str, str], None] = {}
    order = sorted(
        (d for found in e.deliveries.values() for d in found), key=lambda d: (d.at, d.what["tag"])
    )
    for d in order:
        pub = e.publications.get(d.key)
        pair = (d.source, d.key)
        fresh = d.is_first and pair not in seen
        seen[pair] = None
        if pub is None or not fresh or pub.sends > 1 or pub.delay or pub.refusals:
            continue
        line = (d.client, d.session, d.source, pub.client, pub.to, pub.priority)
        before = last.get(line)
        if before is not None and pub.number < before.number:
            if not _between(e.disturbed.get(d.source, []) + e.stops + e.sends, pub.sent, d.at):
                wrong.append(_out_of_order(d.client, pub, before, d.at))
        else:
            last[line] = pub
    for one in e.listening:
        previous: dict[str, Publication] = {}
        for d in one.got:
            pub = e.publications.get(d.key)
            if pub is None or pub.sends > 1 or pub.delay or d.what.get("replayed") or pub.refusals:
                continue
            line_before = previous.get(f"{pub.client} {pub.to}")
            if line_before is not None and pub.number < line_before.number:
                wrong.append(_out_of_order(one.client, pub, line_before, d.at))
            previous[f"{pub.client} {pub.to}"] = pub
    if len(wrong) > scenario.expect.out_of_order:
        yield from wrong[:3]


def _out_of_order(client: str, late: Publication, early: Publication, at: float) -> Violation:
    return Violation(
        "disorder", f"{client} got {late.key} after {early.key}, published before it",
        at, late.key, client, early.key,
    )  # fmt: skip


def _between(times: Sequence[float], low: float, high: float) -> bool:
    return any(low <= at <= high for at in times)


def held_by_two(scenario: Scenario, e: Evidence, events: Sequence[Event]) -> Iterator[Violation]:
    """A message is with one consumer at a time."""
    wrong: list[Violation] = []
    for (source, key), found in e.deliveries.items():
        pub = e.publications.get(key)
        written = pub.sent if pub is not None else found[0].at
        for first, second in pairwise(found):
            until = min(first.settled, e.ends.get((first.client, first.session), inf))
            timeout = first.what.get("ack_timeout", 0)
            if timeout:
                until = min(until, written + timeout)
            written = first.at
            disturbances = [*e.stops, *e.hurt.get(first.client, ())]
            until = min([until, *(at for at in disturbances if at >= first.at)])
            if second.at < until and not e.may_be_late(second):
                who = "again" if first.client == second.client else f"while {first.client} held it"
                wrong.append(Violation(
                    "two holders", f"{second.client} got {key} of {source} {who}",
                    second.at, key, second.client,
                ))  # fmt: skip
    if len(wrong) > scenario.expect.held_by_two:
        yield from wrong[:3]


def undurable(scenario: Scenario, e: Evidence, events: Sequence[Event]) -> Iterator[Violation]:
    """What was delivered was written before: a broker that comes after knows its id."""
    if any(isinstance(fault.what, model.BitFlip) for fault in scenario.fault):
        return  # the record that held the id may be the damaged one
    for (source, key), found in e.deliveries.items():
        pub = e.publications.get(key)
        if pub is None or pub.acked is None or pub.known or pub.to != source or pub.durability:
            continue
        for stop in e.stops:
            if found[0].at <= stop < pub.acked_in and pub.acked_in > pub.sent:
                yield Violation(
                    "undurable",
                    f"{found[0].client} got {key}, the broker stopped, and the next one did not"
                    " know it: it was delivered before it was stored",
                    pub.acked, key, found[0].client,
                )  # fmt: skip
                return


def early(scenario: Scenario, e: Evidence, events: Sequence[Event]) -> Iterator[Violation]:
    """What is delayed comes when it is due, and not before."""
    if any(isinstance(fault.what, model.ClockJump) for fault in scenario.fault) and e.stops:
        return  # over a restart only the wall clock tells, and it was set
    for found in e.deliveries.values():
        pub = e.publications.get(found[0].key)
        if pub is not None and pub.delay and found[0].at < pub.sent + pub.delay - ROUNDING_S:
            yield Violation(
                "early",
                f"{found[0].client} got {pub.key} after {found[0].at - pub.sent:.3f} s, delayed by"
                f" {pub.delay:g} s",
                found[0].at, pub.key, found[0].client,
            )  # fmt: skip
            return


def attempts(scenario: Scenario, e: Evidence, events: Sequence[Event]) -> Iterator[Violation]:
    """Attempts rise: by one at least for each nack, and nobody forgets them."""
    most = scenario.expect.attempts_at_most
    for (_, key), found in e.deliveries.items():
        for d in found:
            if most is not None and d.attempt > most:
                yield Violation(
                    "attempts", f"{d.client} got {key} in attempt {d.attempt}, at most {most}"
                    " may be", d.at, key, d.client,
                )  # fmt: skip
                return
        for first, second in pairwise(found):
            if _between(e.stops + e.sends, first.at, second.at) or e.may_be_late(second):
                continue
            nacked = first.how == "nack" and first.settled < second.at
            if second.attempt < first.attempt + nacked:
                yield Violation(
                    "attempts",
                    f"{second.client} got {key} in attempt {second.attempt} after attempt"
                    f" {first.attempt}" + (" was nacked" if nacked else ""),
                    second.at, key, second.client,
                )  # fmt: skip
                return


def ended_well(scenario: Scenario, e: Evidence, events: Sequence[Event]) -> Iterator[Violation]:
    """Drained in time, as many dead and left as expected, exits and errors as expected."""
    expect = scenario.expect
    dead = [key for source, key in e.found if source.endswith(".dead")]
    if len(dead) not in (expect.dead or model.Several(0, 0)):
        yield Violation(
            "dead", f"{len(dead)} dead letters, expected {expect.dead or 0}: {', '.join(dead[:5])}",
            e.over,
        )  # fmt: skip
    left = [key for source, key in e.found if not source.endswith(".dead")]
    if expect.left is not None and len(left) not in expect.left:
        yield Violation("left", f"{len(left)} messages were left, expected {expect.left}", e.over)
    if expect.drained_within is not None:
        for event in events:
            if event.lane == "play" and event.kind == "not drained":
                what = event.what
                yield Violation(
                    "not drained",
                    f"{what['waiting']} messages were not settled {expect.drained_within:g} s after"
                    " the last publish and fault"
                    + ("; unfinished: " * bool(what["unfinished"]))
                    + ", ".join(what["unfinished"]),
                    event.at,
                )  # fmt: skip
    exits = [event for event in events if event.kind == "ended" and event.what["exit"]]
    if [event.what["exit"] for event in exits] != list(expect.exits):
        yield Violation(
            "exit",
            f"the broker ended with {[e.what['exit'] for e in exits]}, expected"
            f" {list(expect.exits)}" + "".join(f": {e.what.get('error')}" for e in exits[:1]),
            exits[0].at if exits else e.over,
        )  # fmt: skip


def errors(scenario: Scenario, e: Evidence, events: Sequence[Event]) -> Iterator[Violation]:
    """Clients saw the errors that they should see, and no others."""
    expect = scenario.expect
    seen: dict[str, Event] = {}
    for event in events:
        code = event.what.get("code")
        if code and event.kind in ("error", "refused", "put off", "not settled"):
            seen.setdefault(code, event)
    for code in expect.errors:
        if code not in seen:
            yield Violation("errors", f"nobody saw the error {code}", e.over)
    for code, event in seen.items():
        if code not in (*expect.errors, *expect.errors_allowed):
            yield Violation(
                "errors", f"{event.lane} got the error {code}: {event.what.get('error', '')}",
                event.at, event.what.get("key") or "", event.lane,
            )  # fmt: skip
    for event in events:
        if event.kind == "bad frame":
            what = event.what
            if not what["closed"] or what["codes"] not in (["bad_frame"], ["too_large"]):
                yield Violation(
                    "errors", f"{event.lane} was answered {what['codes']}, and the connection was"
                    f" {'closed' if what['closed'] else 'not closed'}", event.at, "", event.lane,
                )  # fmt: skip


def crashes(scenario: Scenario, e: Evidence, events: Sequence[Event]) -> Iterator[Violation]:
    """Nothing crashed but what the scenario crashed, and that was restarted."""
    for event in events:
        if event.kind == "spins":
            yield Violation("crash", "something spins: a million steps of tasks, and no time"
                            " passed", event.at, "", "broker")  # fmt: skip
    asked = sum(1 for event in events if event.kind == "crash_actor")
    crashed = [
        event for event in events
        if event.lane == "broker"
        and event.what.get("event") in ("actor crashed", "connection crashed")
    ]  # fmt: skip
    if len(crashed) > asked:
        event = crashed[asked]
        yield Violation(
            "crash", f"{event.what.get('actor') or 'a connection'} crashed by itself:"
            f" {event.what.get('error')}", event.at, "", "broker",
        )  # fmt: skip
    restarts = sum(1 for event in crashed if event.what["event"] == "actor crashed")
    if restarts < scenario.expect.restarts_at_least:
        yield Violation("crash", f"{restarts} restarts of actors, at least"
                        f" {scenario.expect.restarts_at_least} expected", e.over)  # fmt: skip
    damaged = sum(1 for event in events if event.what.get("event") == "record damaged")
    if damaged not in scenario.expect.damaged:
        yield Violation("damage", f"the store named {damaged} damaged records, expected"
                        f" {scenario.expect.damaged}", e.over)  # fmt: skip


def in_time(scenario: Scenario, e: Evidence, events: Sequence[Event]) -> Iterator[Violation]:
    """Latencies, requests answered, starts, memory."""
    expect = scenario.expect
    unanswered = [event for event in events if event.kind == "unanswered"]
    if len(unanswered) > expect.unanswered_at_most:
        yield Violation("unanswered", f"{len(unanswered)} requests, at most"
                        f" {expect.unanswered_at_most} may be", unanswered[0].at)  # fmt: skip
    for event in events:
        most: float | None = expect.ready_within
        if event.kind == "serves" and most is not None and event.what["after"] > most:
            yield Violation(
                "slow start", f"the broker took {event.what['after']:g} s to serve", event.at
            )
        most = expect.memory_at_most
        if event.kind == "memory" and most is not None and event.what["bytes"] > most:
            yield Violation(
                "memory", f"the broker held {event.what['bytes']} bytes, at most {most} may be",
                event.at,
            )  # fmt: skip
    limits = {
        (name, f"{letter}{i}"): role.latency_at_most
        for client in scenario.client
        for letter, i, role in _listening_roles(client)
        if role.latency_at_most is not None
        for name in _names(client)
    }
    for event in events:
        if event.kind != "message" or event.what.get("attempt", 1) != 1:
            continue
        limit = limits.get((event.lane, event.what["sub"]))
        pub = e.publications.get(event.what["key"])
        if limit is not None and pub is not None and not pub.delay and pub.sends == 1:
            took = event.at - pub.sent
            if took > limit:
                yield Violation(
                    "late", f"{event.lane} got {pub.key} after {took:.3f} s, at most {limit:g} s"
                    " may be", event.at, pub.key, event.lane,
                )  # fmt: skip
                return


_QUESTIONS: Sequence[Question] = (
    lost, unheard_subscribers, dropped, phantom, duplicates, disorder, held_by_two, undurable,
    early, attempts, ended_well, errors, crashes, in_time,
)  # fmt: skip
