"""Requests: what is asked with an `id` and answered once; `get`s; replies to the inbox."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import attrs

from msg.client import wire
from msg.client.bodies import decode_json
from msg.client.errors import Disconnected, NoResponders, Refused
from msg.client.link import Link, Origin
from msg.client.message import Message
from msg.client.subscription import give_back_held

if TYPE_CHECKING:
    from msg.client.bodies import Decode
    from msg.client.client import Client

Frame = dict[str, Any]
INBOX_SUB = "replies"
HELLO = "hello"

# they change nothing, or the same the second time: asked again on the next connection
REPEATABLE = frozenset(
    ["get", "declare", "ping", "stats", "tree", "peek", "held", "why", "trace", "limits", "help",
     "pause", "resume"]
)  # fmt: skip


@attrs.define(eq=False)
class Ask:
    """One request that waits for its answer."""

    frame: Frame
    line: bytes = b""  # the frame with its id, as it is sent
    done: anyio.Event = attrs.field(factory=anyio.Event)
    answer: Frame | None = None
    error: Exception | None = None

    def settle(self, answer: Frame | None, error: Exception | None = None) -> None:
        if self.done.is_set():
            return
        self.answer, self.error = answer, error
        self.done.set()

    async def wait(self) -> Frame:
        await self.done.wait()
        if self.error is not None:
            raise self.error
        return self.answer or {}


@attrs.define(eq=False)
class Get(Ask):
    """A `get`: its messages come first, then the answer that counts them."""

    origin_decode: "Decode" = decode_json
    messages: list[Message[Any]] = attrs.field(factory=list)
    abandoned: bool = False

    def arrived(self, link: Link, messages: list[Message[Any]]) -> None:
        """They belong to this `get`: its request id is their `sub`."""
        origin = Origin(link, self.origin_decode)
        for message in messages:
            message._origin = origin
        link.leased(messages[0].ack_timeout)
        self.messages += messages


@attrs.define(eq=False)
class Reply(Ask):
    """A request to another client, which waits for the first message that answers it."""

    decode: "Decode" = decode_json
    message: Message[Any] | None = None


class Requests:
    """Everything that is asked and not yet answered, over all connections."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._asks: dict[str, Ask] = {}
        self.gets: dict[str, Get] = {}  # those among them whose messages may be coming
        self._count = 0
        self._replies: dict[str, Reply] = {}
        self._listening = False  # to the inbox of this connection

    # -- for who asks -----------------------------------------------------------------------

    async def ask(self, frame: Frame) -> Frame:
        """Raises the refusal, or `Disconnected` for what cannot be asked twice."""
        return await self._wait(Ask(frame))

    async def get(self, frame: Frame, decode: "Decode") -> list[Message[Any]]:
        """Cancelled, what comes all the same is given back."""
        get = Get(frame, origin_decode=decode)
        try:
            await self._wait(get)
        except BaseException:
            get.abandoned = True
            give_back_held(get.messages)
            raise
        return get.messages

    async def wait_for_abandoned(self) -> None:
        """Until cancelled `get`s are answered and given back, but for those that wait there.

        The end of the connection would count it as an attempt of what is on its way.
        """
        for get in list(self.gets.values()):
            if get.abandoned and not get.frame["wait"]:
                await get.done.wait()

    async def _wait(self, ask: Ask) -> Frame:
        client = self._client
        client.raise_if_closed()
        self._count += 1
        request_id = f"r{self._count}"
        if isinstance(ask, Get):
            ask.frame["sub"] = request_id
        ask.line = wire.encode({**ask.frame, "id": request_id})
        self._asks[request_id] = ask
        if isinstance(ask, Get):
            self.gets[request_id] = ask
        sent = False
        try:
            if client.link is not None:
                await client.link.wait_for_room()
            if client.link is not None and not ask.done.is_set():
                if refused := client.link.refusal(ask.line):
                    raise refused
                client.link.write(ask.line)
                sent = True
            elif ask.frame["action"] not in REPEATABLE:
                raise Disconnected(f"{ask.frame['action']}: there is no connection")
            return await ask.wait()
        finally:
            # a `get` that was cancelled stays: its messages may come all the same
            if not (isinstance(ask, Get) and sent) or ask.done.is_set():
                self._forget(request_id)

    async def request(
        self, publish: Callable[[str, str], Any], correlation_id: str, decode: "Decode"
    ) -> Message[Any]:
        """Publish with the inbox as `reply_to`, and wait for what comes there."""
        link = await self._client.wait_connected()
        reply = Reply({"action": "request"}, decode=decode)
        self._replies[correlation_id] = reply
        inbox = f"{link.inbox}.{INBOX_SUB}"
        if not self._listening:
            self._listening = True
            link.write(wire.encode({"action": "subscribe", "topic": inbox, "sub": INBOX_SUB}))
        try:
            receipt = await publish(inbox, correlation_id)
            if receipt.receivers == 0:
                raise NoResponders("nobody hears this topic, so nobody will reply")
            await reply.wait()
            assert reply.message is not None
            return reply.message
        finally:
            del self._replies[correlation_id]

    # -- for the link -----------------------------------------------------------------------

    def answered(self, request_id: str, answer: Frame, error: Refused | None) -> bool:
        """False: nobody waits for this one (any more)."""
        ask = self._asks.get(request_id)
        if ask is None:
            return False
        if isinstance(ask, Get):
            self._forget(request_id)
            if ask.abandoned:
                give_back_held(ask.messages)
        ask.settle(answer, error)
        return True

    def replied(self, link: Link, messages: list[Message[Any]]) -> None:
        for message in messages:
            reply = self._replies.get(message.correlation_id or "")
            if reply is not None and reply.message is None:
                message._origin = Origin(link, reply.decode)
                reply.message = message
                reply.settle({})

    def greeting(self) -> Ask:
        """What waits for the answer to `hello`."""
        ask = self._asks[HELLO] = Ask({"action": "hello"})
        return ask

    def greeting_failed(self, error: Exception) -> None:
        """Nothing will answer it: refused, or the connection ended."""
        ask = self._asks.pop(HELLO, None)
        if ask is not None:
            ask.settle(None, error)

    def connected(self, link: Link) -> None:
        """Ask again what may be asked again."""
        self._asks.pop(HELLO, None)
        for ask in self._asks.values():
            if refused := link.refusal(ask.line):
                ask.settle(None, refused)
            else:
                link.write(ask.line)

    def disconnected(self, reason: str) -> None:
        self._listening = False
        for reply in self._replies.values():
            reply.settle(None, Disconnected(f"the reply, if there was one, is lost: {reason}"))
        for request_id, ask in list(self._asks.items()):
            if isinstance(ask, Get):
                ask.messages.clear()  # the broker gives them out again
                if ask.abandoned:
                    self._forget(request_id)
                    ask.settle(None, Disconnected(reason))
            elif ask.frame["action"] not in REPEATABLE:
                self._forget(request_id)
                ask.settle(None, Disconnected(f"{ask.frame['action']} was not answered: {reason}"))

    def close(self, error: Exception) -> None:
        for ask in [*self._asks.values(), *self._replies.values()]:
            ask.settle(None, error)
        self._asks.clear()
        self.gets.clear()

    def _forget(self, request_id: str) -> None:
        self._asks.pop(request_id, None)
        self.gets.pop(request_id, None)
