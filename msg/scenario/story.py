"""What led to a violation: the life of its message, with the faults around it, in sentences."""

from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from msg.scenario.checker import Violation
from msg.scenario.journal import Event

LAST_EVENTS = 15  # where a violation names no message
FATES = {"ack": "acks {}", "nack": "gives {} back", "reject": "refuses {} for good"}
ENDS = {
    "dies": "loses its connection instead of acking {}",
    "leaves": "leaves with {} in hand",
    "hangs": "hangs with {} in hand",
}


@attrs.frozen
class Line:
    """One sentence. `tone`: "", "fault" or "wrong"."""

    at: float
    lane: str
    text: str
    tone: str = ""


def story(events: Sequence[Event], violation: Violation) -> list[Line]:
    """Told from the message's publication on; from a little before, where there is none."""
    key = violation.key
    keys = [one for one in (key, violation.other) if one]
    own = [event for event in events if any(_is_of(event, one) for one in keys)]
    if not own:
        before = [event for event in events if event.at <= violation.at and event.lane != "play"]
        told = [_plainly(event) for event in before[-LAST_EVENTS:]]
        return [*told, _end(violation)]
    lines: list[Line] = []
    holders: dict[str, None] = {}
    begun = own[0].at
    mine = set(map(id, own))
    for event in events:
        if event.at < begun:
            continue
        if id(event) in mine:
            lines += _of_message(event, key)
            if event.kind in ("message", "publish"):
                holders[event.lane] = None
        elif event.at <= violation.at:
            lines += _around(event, holders)
    lines.append(_end(violation))
    return sorted(_folded(lines), key=lambda line: line.at)


def _is_of(event: Event, key: str) -> bool:
    return event.what.get("key") == key or key in event.what.get("holding", ())


def _of_message(event: Event, key: str) -> Iterator[Line]:
    what, lane = event.what, event.lane
    it = "it" if what.get("key", key) == key else what["key"]
    text = {
        "publish": f"{lane} publishes {what.get('key')} to {what.get('to')}"
        + (f", for the {what['times']}. time" if "times" in what else ""),
        "acked": f"the broker acks {it} to {lane}"
        + (", as a duplicate" if what.get("duplicate") else ""),
        "refused": f"the broker refuses {it}: {what.get('code')}",
        "put off": f"the broker refuses {it} for now: {what.get('code')}",
        "unknown": f"{lane} will never know what became of {it}",
        "message": f"{lane} gets {it} from {what.get('from')}{_which(what)}",
        "settle": f"{lane} {FATES.get(str(what.get('how')), 'settles {}').format(it)}",
        "settled": f"the broker confirms that to {lane}",
        "not settled": f"the broker answers {lane}: {what.get('code')}",
        "forgets": f"{lane} forgets {it}",
        "found": f"at the end {it} lies in {what.get('from')}",
        "unanswered": f"{lane} has no answer to {it}",
    }.get(event.kind) or f"{lane} {ENDS.get(event.kind, event.kind).format(it)}"
    tone = "fault" if event.kind in ("refused", "put off", *ENDS) else ""
    yield Line(event.at, lane, text, tone)


def _which(what: dict[str, Any]) -> str:
    more = [f"attempt {what['attempt']}"] if "attempt" in what else []
    if what.get("returned"):
        more.append(f"it came back: {what['returned']}")
    if what.get("dropped"):
        more.append(f"it is told that it missed {what['dropped']}")
    if what.get("altered"):
        more.append("ALTERED")
    return f" ({', '.join(more)})" if more else ""


def _around(event: Event, holders: dict[str, None]) -> Iterator[Line]:
    """What befell the broker, and those who had to do with the message."""
    lane, kind = event.lane, event.kind
    if lane == "fault":
        victim = event.what.get("client")
        if victim is None or victim in holders:
            yield _fault(event)
    elif lane == "broker":
        if kind == "serves":
            yield Line(event.at, lane, "the broker serves")
        elif kind in ("is gone", "ended"):
            code = event.what.get("exit")
            yield Line(event.at, lane, f"the broker {kind}" + (f" with {code}" if code else ""),
                       "fault")  # fmt: skip
        elif kind in ("warning", "error"):
            yield Line(event.at, lane, f"the broker's log: {_more(event)}", "fault")
    elif lane in holders and kind == "lost":
        yield Line(event.at, lane, f"{lane} is disconnected", "fault")
    elif lane in holders and kind == "connected":
        yield Line(event.at, lane, f"{lane} is connected again")


def _fault(event: Event) -> Line:
    return Line(event.at, "fault", f"FAULT {event.kind} {_more(event)}".rstrip(), "fault")


def _more(event: Event) -> str:
    return " ".join(f"{name}={value}" for name, value in event.what.items())[:160]


def _plainly(event: Event) -> Line:
    if event.lane == "fault":
        return _fault(event)
    return Line(event.at, event.lane, f"{event.lane}: {event.kind} {_more(event)}".rstrip())


def _end(violation: Violation) -> Line:
    return Line(violation.at, violation.lane, str(violation), "wrong")


def _folded(lines: Sequence[Line]) -> Iterator[Line]:
    """The same again and again is said three times, and how often it was."""
    seen: dict[str, int] = {}
    for line in lines:
        seen[line.text] = seen.get(line.text, 0) + 1
        if seen[line.text] <= 3:
            yield line
    for text, count in seen.items():
        if count > 3:
            at = max(line.at for line in lines if line.text == text)
            yield Line(at, "", f"… {count - 3} times more: {text}")
