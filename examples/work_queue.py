"""A work queue with retries: jobs are done once, failures come again, hopeless ones are put aside.

python examples/work_queue.py worker            # as many of them as you like
python examples/work_queue.py send 4 9 -1 pear
python examples/work_queue.py dead              # what failed for good, and why
"""

import math
import random
import sys
from dataclasses import dataclass

import anyio

import msg

QUEUE = "roots"


@dataclass
class Job:
    number: float


async def handle(message: msg.Message[Job]) -> None:
    job = message.body  # BodyMismatch, if it is no Job: an error like any other
    if job.number < 0:
        raise msg.Reject("a negative number has no square root")  # trying again will not help
    if random.random() < 0.3:
        raise ConnectionError("the calculator is busy")  # comes again after the back-off
    print(f"the square root of {job.number:g} is {math.sqrt(job.number):g}", flush=True)


async def worker() -> None:
    async with msg.connect(wait=30) as client:
        await client.declare(QUEUE, settings={"max_deliveries": 8, "backoff": [0.1, 0.5, 2]})
        print("waiting for jobs; Ctrl-C finishes what runs and stops", flush=True)
        await client.run_worker(QUEUE, handle, concurrency=4, type=Job)


async def send(numbers: list[str]) -> None:
    async with msg.connect() as client:
        for text in numbers:
            body = Job(float(text)) if text.lstrip("-").isdecimal() else {"number": text}
            await client.send(QUEUE, body)
    print(f"sent {len(numbers)}")


async def dead() -> None:
    async with msg.connect() as client:
        for message in (await client.ask("peek", topic=f"{QUEUE}.dead", n=100))["messages"]:
            print(message["message"], "died of", message["case"]["attempts"][-1]["reason"])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["worker"]:
            anyio.run(worker)
        case ["send", *numbers]:
            anyio.run(send, numbers)
        case ["dead"]:
            anyio.run(dead)
        case _:
            sys.exit(__doc__)
