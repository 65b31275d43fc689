"""A sensor feed with history: who comes late sees the last readings first, and then the new ones.

python examples/sensors.py feed cellar 20      # so many readings
python examples/sensors.py watch               # of all sensors, from the kept ones on
python examples/sensors.py watch cellar 5      # five readings of one
"""

import random
import signal
import sys
from dataclasses import dataclass

import anyio

import msg

KEPT = 100


@dataclass
class Reading:
    celsius: float


async def feed(sensor: str, count: int) -> None:
    topic = f"sensors.{sensor}"
    async with msg.connect() as client:
        await client.declare(topic, mode="pubsub", settings={"history_messages": KEPT})
        for _ in range(count):
            # the last reading is what counts: nobody waits for a disk
            await client.publish(topic, Reading(round(random.gauss(19, 2), 1)), durability="memory")
            await anyio.sleep(0.05)
    print(f"{topic}: {count} readings")


async def watch(sensor: str, count: int) -> None:
    async with msg.connect(wait=30) as client:
        async for message in client.subscribe(f"sensors.{sensor}", from_="all", type=Reading):
            age = "kept" if message.replayed else "new"
            celsius = f"{message.body.celsius:5.1f} °C"
            print(f"{message.published:%H:%M:%S} {message.topic} {celsius} ({age})", flush=True)
            count -= 1
            if not count:
                break


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["feed", sensor, count]:
            anyio.run(feed, sensor, int(count))
        case ["watch", *options]:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once
            sensor, count = options if len(options) == 2 else ("*", "0")
            anyio.run(watch, sensor, int(count))
        case _:
            sys.exit(__doc__)
