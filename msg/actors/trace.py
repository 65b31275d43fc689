"""The life of one message: `trio-msg trace MESSAGE_ID`, also after a restart and a death.

Put together from what memory knows (where it is now, who was handed it lately) and from the
records of the logs, which are read through the storekeeper, a segment at a time. What nobody
knows any more is said: an answer that looks complete and is not would be worse than none.
"""

import re
from math import inf
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
import trio

from msg.actors.asking import Row, address_of, option
from msg.actors.glance import (
    connection_numbers,
    deadlines,
    delayed,
    ledger_of,
    moving_in,
    ready_ids,
    suspects,
)
from msg.actors.peek import read_messages, shown
from msg.actors.recent import LEASED
from msg.core.message import DURABILITY_NAMES, MEMORY, Attempt, Message
from msg.core.names import dead_name, is_dead
from msg.core.units import seconds, size
from msg.core.wire import rfc3339
from msg.errors import ClientError
from msg.store import records, story

if TYPE_CHECKING:
    from collections.abc import Iterator

    from msg.actors.context import Context
    from msg.actors.queue import Queue
    from msg.actors.topic import Topic
    from msg.core import commands
    from msg.store.log import Log

BUDGET_BYTES = 1 << 30  # of segments that one question reads
CLOCK_S = 10.0  # how far the time in an id may be from the one in its record

_BROKERS_ID = re.compile(r"[0-9a-f]{22}")  # msg.core.wire.IdSource
# what comes first; and in which order within a millisecond
_RANKS = {"accepted": 0, "stored": 1, "being_stored": 1, "failed_before": 1, "moved_in": 1,
          "leased": 2, "returned": 3}  # fmt: skip
LEASES, END = 2, 9
_WHY = {"nack": "was nacked", "deadline": "was not acked in time", "disconnect": "disconnected"}


@attrs.define
class Place:
    """One queue or topic that had the message, and what it knows of it."""

    kind: str
    name: str
    seq: int
    message: Message | None = None
    state: str = ""  # where it is in memory: ready, leased …
    now: str = ""  # a sentence
    events: list[Row] = attrs.field(factory=list)
    unknown: list[str] = attrs.field(factory=list)

    def tell(self, at: str | None, what: str, text: str, **fields: Any) -> None:
        self.events.append({"at": at, "what": what, "text": text, **fields})


async def trace(context: "Context", question: "commands.Question") -> Row:
    """All that is known of a message id, oldest first for each queue or topic that had it."""
    message_id = question.message_id
    if message_id is None:
        raise ClientError("bad_field", 'name the message in "message_id"')
    budget = option(question, "bytes", int, BUDGET_BYTES)
    tracer = Tracer(context, message_id, story.Search(), budget)
    handles = _handles(context, question)
    places = await tracer.in_memory([h for kind, h in handles if kind == "queue"])
    seen = {(place.kind, place.name, place.seq) for place in places}
    for kind, handle in handles:
        for place in await tracer.on_disk(kind, handle, places):
            if (kind, place.name, place.seq) not in seen:
                places.append(place)
    for place in places:
        await tracer.complete(place)
    _in_order(places)
    _say_once(places)
    answer: Row = {
        "message_id": message_id,
        "found": bool(places),
        "places": [_row(place) for place in places],
        "searched_bytes": tracer.search.read_bytes,
    }
    if not places:
        answer["unknown"] = list(tracer.why_not_found())
    if tracer.search.left_out:
        answer.setdefault("unknown", []).append(
            f"{size(tracer.search.left_out)} of older records were not searched: ask with"
            ' the option "bytes", or name the queue.'
        )
    if option(question, "body", bool, False):
        answer["message"] = await tracer.body(places)
    return answer


def _handles(context: "Context", question: "commands.Question") -> Any:
    """Where to look: in what the question names and its dead letters, or everywhere."""
    directory = context.directory
    if question.topic is not None:
        name = address_of(question)
        named: list[tuple[str, Any]] = [
            ("queue", directory.find_queue(name)),
            ("queue", directory.find_queue(dead_name(name))),
            ("topic", directory.find_topic(name)),
        ]
        found = [(kind, handle) for kind, handle in named if handle is not None]
        if not found:
            raise ClientError("not_found", f"there is no queue or topic {name!r}")
        return found
    return [
        *(("queue", queue) for _, queue in sorted(directory.queues.items())),
        *(("topic", topic) for _, topic in sorted(directory.topics.items())),
    ]


def _in_order(places: list[Place]) -> None:
    """Where it came from stands before where it went: a move's key names its source."""
    steps = {(place.name, place.seq): 0 for place in places}
    for _ in places:  # the longest chain has as many
        for place in places:
            key = place.message.key if place.message is not None else ""
            source, _, seq = key.rpartition(":")[0].rpartition(":")
            before = steps.get((source, int(seq) if seq.isdecimal() else 0), -1)
            steps[place.name, place.seq] = max(steps[place.name, place.seq], before + 1)
    places.sort(key=lambda place: (steps[place.name, place.seq], place.name, place.seq))


def _say_once(places: list[Place]) -> None:
    """A dead letter's case repeats what its queue's own records say, where those are there."""
    said = {(p.name, event.get("attempt")) for p in places for event in p.events
            if event["what"] == "returned"}  # fmt: skip
    for place in places:
        origin = next((e["origin"] for e in place.events if e["what"] == "moved_in"), "")
        place.events = [
            event
            for event in place.events
            if event["what"] != "failed_before" or (origin, event["attempt"]) not in said
        ]


def _order(event: Row) -> tuple[int, str, float, int]:
    """Events of one place in time. Its end has often no time of its own: it comes last."""
    rank = _RANKS.get(event["what"], END)
    phase = 0 if rank < LEASES else 2 if rank == END else 1
    at = (event["at"] or "") if phase == 1 else ""
    return phase, at, event.get("attempt", inf) if phase == 1 else 0, rank


def _number_leases(place: Place) -> None:
    """Which attempt each lease was: one more than had failed before. Of what happened within
    one millisecond, a lease comes before its own failure."""
    failed = [event["at"] for event in place.events if event["what"] == "returned"]
    leases = [event for event in place.events if event["what"] == "leased"]
    attempt = 0
    for lease in reversed(leases):  # they were told of newest first
        before = 1 + sum([at < lease["at"] for at in failed])
        until = 1 + sum([at <= lease["at"] for at in failed])
        attempt = lease["attempt"] = max(before, min(until, attempt + 1))
        lease["text"] += f", attempt {attempt}"


def _row(place: Place) -> Row:
    _number_leases(place)
    place.events.sort(key=_order)
    return {
        "kind": place.kind,
        "name": place.name,
        "seq": place.seq,
        "state": place.state,
        "now": place.now,
        "events": place.events,
        "unknown": place.unknown,
    }


@attrs.define
class Tracer:
    """One search."""

    context: "Context"
    message_id: str
    search: story.Search
    budget: int

    # -- memory -----------------------------------------------------------------------------

    async def in_memory(self, queues: "list[Queue]") -> list[Place]:
        """Every queue that has it in memory now."""
        places: list[Place] = []
        for i, queue in enumerate(queues):
            if i % 20 == 19 or queue.gauge.messages > 1000:
                await trio.lowlevel.checkpoint()
            for state, message, text in self._held_by(queue):
                place = Place("queue", queue.name, message.seq, message, state, text)
                if place.seq not in [p.seq for p in places if p.name == queue.name]:
                    places.append(place)
        return places

    def _held_by(self, queue: "Queue") -> "Iterator[tuple[str, Message, str]]":
        """(state, message, a sentence on where it is)."""
        ledger = ledger_of(queue)
        if ledger is None:
            return
        wanted = self.message_id
        world = self.context.world
        now = world.now()
        for consumer in ledger.consumers.values():
            for message, until in deadlines(queue, consumer):
                if message.id == wanted:
                    number = connection_numbers(self.context.broker).get(
                        getattr(consumer.port, "outbox", None)
                    )
                    text = f'It is leased by "{consumer.name}" (connection {number}), attempt'
                    text += f" {message.attempts + 1}"
                    if until:
                        text += f", deadline in {seconds(until - now)}"
                    elif consumer.ack_timeout:
                        text += ", its frame not yet written"
                    yield "leased", message, f"{text}."
        alone = {message.seq for message in suspects(ledger)}
        for place, message in ready_ids(ledger, wanted):
            text = "It is ready, and the next to be handed out." if not place else (
                f"It is ready, {place:,} before it.")  # fmt: skip
            if message.seq in alone:
                text = "It waits to be tried alone, since its consumers died of it or with it."
            yield "ready", message, text
        for due, _, message_or_none in delayed(ledger):
            if message_or_none is not None and message_or_none.id == wanted:
                at = rfc3339(world.wall() + due - now)
                text = f"It is delayed until {at}, {seconds(due - now)} from now."
                yield "delayed", message_or_none, text
        for message in ledger.committing.values():
            if message.id == wanted:
                yield "committing", message, "It is being written to the disk, not yet acked."
        for message, to, _ in ledger.leaving.values():
            if message.id == wanted:
                yield "leaving", message, f'It is on its way to queue "{to}".'
        for message in moving_in(ledger):
            if message.id == wanted:
                yield "arriving", message, "It has just moved in from another queue."

    # -- disk -------------------------------------------------------------------------------

    def accepted_at(self) -> float:
        """When it was accepted, if its id tells: those that the broker makes do. Else 0."""
        if _BROKERS_ID.fullmatch(self.message_id) is None:
            return 0.0
        at = int(self.message_id[:11], 16) / 1000
        return at if at < self.context.world.wall() + CLOCK_S else 0.0

    def _log(self, handle: "Queue | Topic") -> "Log | None":
        return getattr(handle.actor, "log", None)

    def _pieces(self, log: "Log") -> list[story.Piece]:
        """The log's segments, oldest first. The last one may have grown meanwhile."""
        return [story.Piece(segment.path, segment.size) for segment in log.segments]

    async def on_disk(self, kind: str, handle: "Queue | Topic", known: list[Place]) -> list[Place]:
        """Look for its `pub` records in a log, from the newest segment back. A message that
        came back from its dead queue has two."""
        log = self._log(handle)
        if log is None:
            return []
        found: dict[int, Place] = {}
        at = self.accepted_at()
        for place in known:
            if place.message is not None:
                at = records.seconds(records.published_at(place.message.wire))
        pieces = self._pieces(log)
        for i in range(len(pieces) - 1, -1, -1):
            piece = pieces[i]
            if self.search.read_bytes + piece.size > self.budget:
                self.search.left_out += sum([p.size for p in pieces[: i + 1]])
                break
            begun = await self._look(story.first_at, piece) if at else ""
            if begun and records.seconds(begun.encode()) > at + CLOCK_S:
                continue  # it is older than all of this segment
            pubs = await self._look(story.find_pubs, log.seed, piece, self.message_id, self.search)
            for message in pubs or ():
                found[message.seq] = Place(kind, handle.name, message.seq, message)
                at = records.seconds(records.published_at(message.wire))
            if begun:
                break  # older segments ended before it was accepted
        return list(found.values())

    async def _look(self, what: Any, *args: Any) -> Any:
        """Read in a disk thread. A segment that has just gone has nothing to tell."""
        try:
            return await self.context.services.storekeeper.look(lambda disk: what(disk, *args))
        except FileNotFoundError:
            return None

    async def _events(self, log: "Log", seq: int) -> list[story.Event]:
        """What is recorded of a seq, up to where it was settled."""
        events: list[story.Event] = []
        begun = False
        for piece in self._pieces(log):
            if self.search.read_bytes + piece.size > 2 * self.budget:
                self.search.left_out += piece.size
                continue
            found = await self._look(story.events_of, log.seed, piece, seq, 0, self.search)
            events += found or []
            begun = begun or bool(found)
            if any([event.op != "try" for event in found or ()]):
                break
        return events

    # -- putting it together ----------------------------------------------------------------

    async def complete(self, place: Place) -> None:
        """Fill in the events of one place."""
        directory = self.context.directory
        handle: Any = (
            directory.find_queue(place.name)
            if place.kind == "queue"
            else directory.find_topic(place.name)
        )
        log = self._log(handle)
        message = place.message
        if log is None or message is None:
            return
        self._accepted(place, message)
        if place.kind == "topic":
            self._of_topic(place, log, handle)
            return
        recorded: list[story.Event] = []
        live = bool(place.state) or log.is_live(place.seq)
        if not live:
            recorded = await self._events(log, place.seq)
        elif not place.state:
            place.state = "ready"
            place.now = "It is ready, in the part of the queue that is only on disk."
            message = next(iter(await read_messages(self.context, handle, [place.seq])), message)
        failed_here = self._attempts(place, message, recorded)
        self._handovers(place, live, failed_here, recorded)
        self._ends(place, recorded)
        if not live and not place.now and self._is_being_written(handle, log):
            place.state, place.now = "ending", "Its end is just being written: ask again."
        elif not live and not place.now:
            place.state, place.now = "gone", "It is gone, and its end is not recorded any more."
            place.unknown.append(
                "How it ended: the record of that is not there (with durability below"
                ' "stored", the last moments before a crash may be missing).'
            )

    def _is_being_written(self, handle: "Queue | Topic", log: "Log") -> bool:
        commits = handle.estate.commits if handle.estate is not None else None
        return log.has_gathered or (commits is not None and commits.in_flight is not None)

    def _accepted(self, place: Place, message: Message) -> None:
        at = records.published_at(message.wire).decode()
        kept = f"durability {DURABILITY_NAMES[message.durability]}"
        if message.key:
            origin = message.origin or message.key.rpartition(":")[0].rpartition(":")[0]
            case = _case_of(message)
            moved_at = case.get("at") if case is not None else None
            why = f": {case['reason']}" if case is not None and is_dead(place.name) else ""
            first = "accepted" if is_dead(place.name) else "accepted at first, it has come back"
            place.tell(at, "accepted", first)
            for attempt in (case or {}).get("attempts", ()):
                self._failed(place, msgspec.convert(attempt, Attempt), "failed_before")
            place.tell(
                moved_at, "moved_in",
                f'moved in from queue "{origin}" as number {place.seq}{why}', origin=origin,
            )  # fmt: skip
            return
        place.tell(
            at, "accepted", f"accepted as number {place.seq}, {kept}", seq=place.seq,
            durability=DURABILITY_NAMES[message.durability],
        )  # fmt: skip
        if message.durability != MEMORY:
            done = place.state != "committing"
            text = "stored" if done else "being stored"
            place.tell(at, text.replace(" ", "_"), text)

    def _failed(self, place: Place, attempt: Attempt, what: str = "returned") -> None:
        who = f'"{attempt.who}"' if attempt.who else "its consumer"
        lines = attempt.reason.strip().splitlines()  # a traceback's last line says it
        reason = f": {lines[-1]}" if lines else ""
        verb = _WHY.get(attempt.why, attempt.why)
        text = f"attempt {attempt.n} by {who} {verb}{reason}"
        if attempt.why == "disconnect":
            text = f"attempt {attempt.n} failed: {who} disconnected"
        place.tell(
            attempt.at, what, text, attempt=attempt.n, why=attempt.why, who=attempt.who,
            reason=attempt.reason,
        )  # fmt: skip

    def _attempts(self, place: Place, message: Message, recorded: list[story.Event]) -> int:
        attempts = list(message.case)
        for event in recorded:
            attempts += [a for a in event.attempts if a not in attempts]
        for attempt in attempts:
            self._failed(place, attempt)
        return len(attempts)

    def _handovers(
        self, place: Place, live: bool, failed_here: int, recorded: list[story.Event]
    ) -> None:
        """What is remembered of leases and settlements."""
        recent = self.context.services.recent
        leased = 0
        for handover in recent.of(place.name, place.seq):
            at = rfc3339(handover.wall)
            if handover.what == LEASED:
                leased += 1
                place.tell(at, "leased", f'leased to "{handover.who}"', who=handover.who)
            elif not live:
                place.state = "settled"
                place.now = f'It was acked by "{handover.who}" at {at}.'
                place.tell(at, "settled", f'acked by "{handover.who}"', who=handover.who)
        expected = failed_here + (place.state in ("leased", "settled"))
        moved = any([event.op == "dead" and not is_dead(event.to) for event in recorded])
        if leased < expected or (not live and not leased and not moved):
            since = recent.since(self.context.broker.since_wall)
            place.unknown.append(
                "First leases are not written to disk: who was handed it before"
                f" {rfc3339(since)} is known only where an attempt failed."
            )

    def _ends(self, place: Place, recorded: list[story.Event]) -> None:
        for event in recorded:
            around = {"after": event.after, "before": event.before}
            where = {"file": event.path, "offset": event.offset}
            between = _between(event)
            match event.op:
                case "ack" if place.state != "settled":
                    place.state = "settled"
                    place.now = f"It was acked{between}; by whom is not known any more."
                    place.tell(None, "settled", f"acked{between}", **around, **where)
                case "drop":
                    place.state = "dropped"
                    place.now = f"It was removed{between}: {event.why}."
                    place.tell(None, "dropped", f"removed: {event.why}", **around, **where)
                case "dead":
                    died = is_dead(event.to)
                    place.state = "dead" if died else "moved"
                    text = "died, and went to" if died else "went back to"
                    place.now = f'It {text} queue "{event.to}": {event.why}.'
                    place.tell(
                        None, place.state, f'{text} queue "{event.to}": {event.why}',
                        to=event.to, **around, **where,
                    )  # fmt: skip

    def _of_topic(self, place: Place, log: "Log", topic: "Topic") -> None:
        kept = log.is_live(place.seq)
        place.state = "kept" if kept else "gone"
        place.now = (
            f"It is kept in the topic as number {place.seq}."
            if kept
            else "It is no longer kept: it was delivered, ran out of the history, or expired."
        )
        place.unknown.append(
            "Which live subscribers had it is not recorded: to topics it goes without acks. Groups"
            " are queues and are listed by themselves."
        )

    async def body(self, places: list[Place]) -> Any:
        """The message itself, if anybody has it."""
        for place in places:
            if place.message is not None:
                return shown(place.message)
        return None

    def why_not_found(self) -> "Iterator[str]":
        """Nobody knows it: what that can mean."""
        at = self.accepted_at()
        if at:
            yield f"Its id says that this broker's kind made it at {rfc3339(at)}."
        started = rfc3339(self.context.broker.since_wall)
        yield (
            "No queue or topic has it in memory, and no record on disk names it"
            f" ({size(self.search.read_bytes)} read)."
        )
        yield (
            "It was settled long enough ago that its segment is gone, or it had durability"
            f" memory and was settled or lost with a stop (this broker runs since {started}), or"
            " it went to a topic that kept nothing, or the id is wrong."
        )


def _between(event: story.Event) -> str:
    """` between A and B`, ` after A`, or nothing."""
    if event.after and event.before:
        return f" between {event.after} and {event.before}"
    return f" after {event.after}" if event.after else ""


def _case_of(message: Message) -> Row | None:
    """A dead letter's case, which stands in its wire."""
    if b',"case":{' not in message.wire:
        return None
    case = msgspec.json.decode(b"{%b}" % message.wire).get("case")
    return case if isinstance(case, dict) else None
