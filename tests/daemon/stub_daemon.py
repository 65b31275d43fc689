"""`trio-msg serve` around a root actor that only listens: signals and codes without a broker.

STUB_RAISE names an error that it raises once it serves (`bind`, `bug`, `store`, `locked`,
`newer`, `both`), STUB_HANG makes a drain last for ever, STUB_SLOW a start.
"""

import os
import sys
import types
from functools import partial

import attrs
import trio

from msg.config import Settings
from msg.errors import StoreFailed, StoreLocked, StoreUnreadable

ERRORS = {
    "bug": lambda: ZeroDivisionError("a bug"),
    "store": lambda: StoreFailed("fdatasync failed: EIO"),
    "locked": lambda: StoreLocked("process 17 holds /data"),
    "newer": lambda: StoreUnreadable("format 9 is newer than 1"),
    "both": lambda: ExceptionGroup("", [ZeroDivisionError("a bug"), StoreFailed("EIO")]),
}


@attrs.define(slots=False)
class Handle:
    addresses: list[tuple[str, int]]
    drained: trio.Event
    settings: Settings

    def drain(self):
        if not os.environ.get("STUB_HANG"):
            self.drained.set()

    def reload(self, settings):
        self.settings = settings
        print("reloaded", settings.drain_seconds, flush=True)

    seen_alive = 0.0

    async def picture(self, *, keep):
        actors = [{"name": "root", "state": "running"}, {"name": "queue a", "parent": "root"}]
        return {"actors": actors, "count": len(actors), "waits": [], "knots": []}

    def healthy(self):
        return True


async def run_broker(settings, world, *, task_status=trio.TASK_STATUS_IGNORED):
    if os.environ.get("STUB_SLOW"):
        print("slow", flush=True)
        await trio.sleep_forever()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            partial(trio.serve_tcp, handle, settings.port, host=settings.host)
        )
        addresses = [listener.socket.getsockname()[:2] for listener in listeners]
        broker = Handle(addresses, trio.Event(), settings)
        task_status.started(broker)
        if error := os.environ.get("STUB_RAISE"):
            raise ERRORS[error]()
        await broker.drained.wait()
        nursery.cancel_scope.cancel()


async def handle(stream):
    await stream.send_all(b"hello\n")


if __name__ == "__main__":
    stub = types.ModuleType("msg.actors.broker")
    vars(stub)["run_broker"] = run_broker
    sys.modules["msg.actors.broker"] = stub
    from msg.cli.main import main

    main(["serve", *sys.argv[1:]])
