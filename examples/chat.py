"""A chat over topics: each room is a topic, and who asks for `chat.*` hears all of them.

python examples/chat.py ada kitchen
python examples/chat.py bob kitchen             # in another terminal
python examples/chat.py eve '*'                 # hears every room, says nothing
"""

import signal
import sys

import anyio
from anyio.abc import TaskStatus

import msg


async def listen(client: msg.Client, me: str, room: str, *, task_status: TaskStatus[None]) -> None:
    async with client.subscribe(f"chat.{room}") as messages:
        task_status.started()
        async for message in messages:
            said = message.body
            if said["who"] != me:
                print(
                    f"[{message.topic.removeprefix('chat.')}] {said['who']}: {said['text']}",
                    flush=True,
                )


async def chat(me: str, room: str) -> None:
    async with msg.connect(name=me) as client, anyio.create_task_group() as tasks:
        await tasks.start(listen, client, me, room)
        print(f"in {room}; an empty line or the end of the input leaves", flush=True)
        while text := (await anyio.to_thread.run_sync(sys.stdin.readline)).strip():
            if room != "*":
                receipt = await client.publish(f"chat.{room}", {"who": me, "text": text})
                if receipt.receivers == 0:
                    print("(nobody is here)", flush=True)
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    _, me, room = sys.argv
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C need not wait for a line's end
    anyio.run(chat, me, room)
