"""A broker with the known faults of the original project, and none of its framing.

It stands in for it, so that each test of `test_faults_of_the_original` can show that it fails
on such a broker. What it does wrong is what the original does: everything published is kept
for ever and sent whole to each new subscriber; a queue message is taken out before it is
written, and is gone if the write fails; a consumer's handler stops reading, so that its end is
not noticed; nobody hears `ack`; files are written, and synced, on the event loop.
"""

import asyncio
import json
import os
import sys
from collections import defaultdict, deque
from typing import Any

Kept = dict[str, list[tuple[Any, str]]]


class Naive:
    """`folder`: where it keeps its file."""

    def __init__(self, folder: str) -> None:
        self.file = os.open(os.path.join(folder, "naive"), os.O_CREAT | os.O_WRONLY, 0o600)
        self.kept: Kept = defaultdict(list)
        self.queues: dict[str, deque[tuple[Any, str]]] = defaultdict(deque)
        self.listeners: dict[str, list[asyncio.StreamWriter]] = defaultdict(list)
        self.consumers: dict[str, list[asyncio.StreamWriter]] = defaultdict(list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            frame = json.loads(line)
            topic, queue = frame.get("topic"), frame.get("mode") == "queue"
            match frame["action"]:
                case "publish":
                    await self._publish(topic, queue, frame["message"], frame.get("message_id"))
                case "subscribe" if queue:
                    self.consumers[topic].append(writer)
                    self._answer(writer, frame, "subscribed")
                    while self.queues[topic] and await self._hand_out(topic):
                        pass
                    await asyncio.Event().wait()  # it reads nothing more
                case "subscribe":
                    self.listeners[topic].append(writer)
                    self._answer(writer, frame, "subscribed")
                    for body, message_id in self.kept[topic]:
                        await self._deliver(writer, topic, body, message_id)
                    await asyncio.Event().wait()
            self._answer(writer, frame, "pong" if frame["action"] == "ping" else "ack")
            await writer.drain()

    async def _publish(self, topic: str, queue: bool, body: Any, message_id: str | None) -> None:
        entry = (body, message_id or "made")
        if queue:
            self.queues[topic].append(entry)
            await self._hand_out(topic)
        else:
            self.kept[topic].append(entry)
            for writer in list(self.listeners[topic]):
                await self._deliver(writer, topic, *entry)
        os.fdatasync(self.file)

    async def _hand_out(self, topic: str) -> bool:
        """The check, and then the send; in between, anything may happen."""
        if not self.consumers[topic]:
            return False
        body, message_id = self.queues[topic].popleft()
        consumer = self.consumers[topic][0]
        try:
            await self._deliver(consumer, topic, body, message_id)
        except OSError:
            self.consumers[topic].remove(consumer)
        return True

    async def _deliver(self, to: asyncio.StreamWriter, topic: str, body: Any, id_: str) -> None:
        self._say(to, {"type": "message", "topic": topic, "message": body, "message_id": id_,
                       "tag": 1, "attempt": 1})  # fmt: skip
        await to.drain()

    def _answer(self, to: asyncio.StreamWriter, frame: dict[str, Any], type_: str) -> None:
        self._say(to, {"type": type_, "id": frame.get("id")})

    def _say(self, to: asyncio.StreamWriter, frame: dict[str, Any]) -> None:
        to.write(json.dumps(frame).encode() + b"\n")


async def main(folder: str) -> None:
    server = await asyncio.start_server(Naive(folder).serve, "127.0.0.1", 0, limit=1 << 24)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]},", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
