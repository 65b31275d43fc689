"""The client for programs without an event loop: scripts, notebooks, the Python prompt.

    import msg.sync

    with msg.sync.connect("msg://localhost:8888") as client:
        client.publish("news.sport", {"title": "Cup"})
        for message in client.consume("jobs"):
            with message:  # acked at its end, nacked with the error's text
                work(message.body)

The calls are those of `msg.Client` and do the same, only that they block. In a notebook,
`client = msg.sync.connect()` will do: it is closed by `client.close()`, when nothing refers to
it, its subscriptions and its messages any more, or at the end of the program. Ctrl-C ends
whatever call waits, and the client can be used further.

A client may be used by several threads. Behind it is one thread with an event loop of its
own, which keeps the connection, the leases and the heartbeat while the program does other
things. After a fork the child makes a client of its own.
"""

from msg.sync.client import Client, connect
from msg.sync.message import Message
from msg.sync.subscription import Subscription

__all__ = ["Client", "Message", "Subscription", "connect"]
