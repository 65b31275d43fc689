"""A request/reply service: adds numbers, and says what is wrong with those that it cannot add.

python examples/service.py serve                # several of them share the requests
python examples/service.py ask 1 2 3.5
"""

import sys
from dataclasses import dataclass

import anyio

import msg

QUEUE = "sums"


@dataclass
class Sum:
    total: float | None = None
    error: str | None = None


async def add(request: msg.Message[list[float]]) -> None:
    try:
        answer = Sum(total=sum(request.body))
    except msg.BodyMismatch as mismatch:  # it is the asker who is to know
        answer = Sum(error=str(mismatch))
    await request.reply(answer)


async def serve() -> None:
    async with msg.connect(wait=30) as client:
        print("serving", flush=True)
        await client.run_worker(QUEUE, add, concurrency=8, type=list[float])


async def ask(numbers: list[object]) -> None:
    async with msg.connect() as client:
        try:
            reply = await client.request(QUEUE, numbers, mode="queue", type=Sum, timeout=10)
        except TimeoutError:
            sys.exit("no service has answered within 10 s")
        answer = reply.body
        print(answer.error if answer.total is None else f"{answer.total:g}")


def number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            anyio.run(serve)
        case ["ask", *texts]:
            anyio.run(ask, [number(text) for text in texts])
        case _:
            sys.exit(__doc__)
