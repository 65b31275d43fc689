"""`msg.sync`: the client's calls from a program that blocks."""

import asyncio
import gc
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import anyio
import attrs
import pytest
import trio

import msg
from msg.client.publisher import Batch
from msg.sync.client import _Many
from msg.sync.thread import LoopThread


@pytest.fixture
def client(msg_broker):
    with msg_broker.connect_sync() as client:
        yield client


@attrs.frozen
class Article:
    title: str
    stars: int = 0


def test_a_message_is_acked_at_the_end_of_its_block(msg_broker):
    with msg_broker.connect_sync() as client:
        receipt = client.send("jobs", {"n": 1}, headers={"from": "here"})
        for message in client.consume("jobs"):
            with message:
                assert message.body == {"n": 1}
                assert (message.message_id, message.attempt) == (receipt.message_id, 1)
                assert message.headers == {"from": "here"}
            break
    assert msg_broker.queue("jobs").settled == 1


def test_one_that_raises_is_nacked_with_the_errors_text(msg_broker):
    msg_broker.configure(queues={"jobs": {"max_deliveries": 1}})
    with msg_broker.connect_sync() as client, client.consume("jobs") as messages:
        client.send("jobs", 1)
        with pytest.raises(ValueError, match="no such file"), messages.next():
            raise ValueError("no such file")
    assert msg_broker.queue("jobs").dead[0].reason == "ValueError: no such file"


def test_settling_by_hand(msg_broker):
    with msg_broker.connect_sync() as client:
        client.publish_many("jobs", range(3), mode="queue")
        first, second, third = client.get("jobs", n=3)
        first.ack(confirm=True)
        with pytest.raises(msg.AlreadySettled):
            first.ack()
        second.touch()
        second.nack("not today", delay=0)
        third.nack(requeue=False)
        (again,) = client.get("jobs", wait=5)
        assert (again.body, again.attempt, again.returned) == (1, 2, "nack")
        again.ack()
    assert [letter.body for letter in msg_broker.queue("jobs").dead] == [2]


def test_topics_types_and_history(msg_broker):
    msg_broker.configure(topics={"news.>": {"history_messages": 10}})
    with msg_broker.connect_sync() as client:
        client.publish("news.sport", Article("Cup", 4))
        client.publish("news.sport", {"title": 5})
        with client.subscribe("news.*", type=Article, from_="all") as articles:
            assert articles.next().body == Article("Cup", 4)
            with pytest.raises(msg.BodyMismatch, match="no Article: expected str, not int"):
                _ = articles.next().body
            with pytest.raises(TimeoutError):
                articles.next(timeout=0.01)
        with pytest.raises(msg.Closed):
            articles.next()
        assert list(articles) == []


def test_a_request_is_answered(msg_broker):
    with msg_broker.connect_sync() as client, client.subscribe("add") as requests:

        def serve() -> None:
            message = requests.next()
            message.reply(sum(message.body))

        thread = threading.Thread(target=serve)
        thread.start()
        assert client.request("add", [1, 2]).body == 3
        thread.join()
    with msg_broker.connect_sync() as client, pytest.raises(msg.NoResponders):
        client.request("add", [1, 2])


def test_refusals_come_out_as_they_are(client):
    with pytest.raises(msg.Refused) as caught:
        client.publish("no spaces please", 1)
    assert caught.value.code == "bad_name"
    with pytest.raises(TypeError):
        client.publish("news", object())
    assert client.ask("stats")["type"] == "stats"
    assert client.declare("jobs", settings={"max_deliveries": 3})["settings"]["max_deliveries"] == 3


def test_no_broker_is_said_at_once():
    before = threading.active_count()
    with pytest.raises(msg.Disconnected, match=r"no broker at 127\.0\.0\.1:1: .*refused"):
        msg.sync.connect("msg://127.0.0.1:1")
    assert threading.active_count() == before


# -- publish_many -----------------------------------------------------------------------------


def test_many_are_taken_from_their_iterator_in_the_thread_that_calls(msg_broker):
    threads, told = set(), []

    def bodies():
        for n in range(5000):
            threads.add(threading.current_thread())
            yield n

    def progress(kept: int) -> None:
        threads.add(threading.current_thread())
        told.append(kept)

    with msg_broker.connect_sync() as client:
        done = client.publish_many("jobs", bodies(), mode="queue", on_progress=progress)
    assert done.count == 5000
    assert threads == {threading.current_thread()}
    assert told[-1] == 5000
    assert told == sorted(set(told))
    assert msg_broker.queue("jobs").bodies == list(range(5000))


def test_many_stop_at_a_refusal_and_at_an_error_of_their_iterator(msg_broker):
    msg_broker.configure(queues={"small": {"max_messages": 100}})
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield len(taken)

    def failing():
        yield from range(1500)
        raise OSError("the file has ended early")

    with msg_broker.connect_sync() as client:
        with pytest.raises(msg.PublishFailed) as caught:
            client.publish_many("small", endless(), mode="queue")
        assert caught.value.accepted == 100
        assert isinstance(caught.value.failures[100], msg.QueueFull)
        with pytest.raises(OSError, match="ended early"):
            client.publish_many("jobs", failing(), mode="queue")
        client.send("jobs", "after")
    bodies = msg_broker.queue("jobs").bodies
    assert bodies == [*range(len(bodies) - 1), "after"]


# -- leases -----------------------------------------------------------------------------------


def test_what_was_not_begun_goes_back_uncounted(msg_broker):
    with msg_broker.connect_sync() as client:
        client.publish_many("jobs", range(10), mode="queue")
        for message in client.consume("jobs"):
            with message:
                break
        assert sorted((m.body, m.attempt) for m in client.get("jobs", n=10, wait=1)) == [
            (n, 1) for n in range(1, 10)
        ]


def test_what_waits_here_keeps_its_lease_and_so_does_what_is_handled(msg_broker):
    with msg_broker.connect_sync() as client:

        def touched() -> list[int]:
            """The tags that the client would touch now."""

            async def ask() -> list[int]:
                inner: msg.Client = client._client
                assert inner.link is not None
                return inner.tags_in_use(inner.link, [30.0])

            return sorted(client._loop.call(ask))

        client.publish_many("jobs", range(3), mode="queue")
        with client.consume("jobs", ack_timeout=30) as messages:
            first = messages.next()
            wait_until(lambda: touched() == [2, 3])  # the others have come, and wait
            with first:
                assert touched() == [1, 2, 3]
            assert touched() == [2, 3]
            assert messages.next().body == 1  # taken and not begun: its deadline runs
            assert touched() == [3]
        assert touched() == []
    assert msg_broker.queue("jobs").settled == 1


def test_what_waits_here_when_the_connection_ends_comes_again_once(msg_broker):
    with msg_broker.connect_sync() as client:
        client.publish_many("jobs", range(5), mode="queue")
        seen = []
        with client.consume("jobs") as messages:
            for message in messages:
                with message:
                    seen.append(message.body)
                    if message.body == 0 and message.attempt == 1:
                        msg_broker.cut()
                        wait_until(lambda: client.counts.connections == 2 and client.connected)
                if {*seen} == {*range(5)}:
                    break
    assert sorted(seen) == [0, 0, 1, 2, 3, 4]


def wait_until(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# -- threads and loops ------------------------------------------------------------------------


def test_one_client_serves_many_threads(msg_broker):
    with msg_broker.connect_sync() as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: client.send("jobs", n), range(200)))
    assert sorted(msg_broker.queue("jobs").bodies) == list(range(200))


@pytest.mark.parametrize("run", [asyncio.run, trio.run], ids=["asyncio", "trio"])
def test_it_works_where_an_event_loop_runs_already_as_in_a_notebook(msg_broker, run):
    async def cell() -> None:
        with msg_broker.connect_sync() as client:
            client.send("jobs", 1)
            (message,) = client.get("jobs")
            with message:
                assert message.body == 1

    run(cell) if run is trio.run else run(cell())
    assert msg_broker.queue("jobs").settled == 1


def test_a_closed_client_says_so(msg_broker):
    client = msg_broker.connect_sync(name="short")
    assert repr(client).endswith(", connected>")
    client.close()
    client.close()
    assert repr(client).endswith(", closed>")
    with pytest.raises(msg.Closed):
        client.publish("news", 1)


def test_closing_ends_what_other_threads_wait_for(msg_broker):
    client = msg_broker.connect_sync()
    messages = client.consume("jobs").open()
    outcome = []

    def wait() -> None:
        try:
            messages.next()
        except msg.Closed as error:
            outcome.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: client._loop._calls)
    client.close()
    thread.join()
    assert outcome == ["this client was closed"]


def test_a_client_that_nobody_refers_to_is_closed(msg_broker):
    def names() -> set[str]:
        return {thread.name for thread in threading.enumerate()}

    client = msg_broker.connect_sync(name="first")
    assert "msg client first" in names()
    client = msg_broker.connect_sync(name="second")
    wait_until(lambda: "msg client first" not in names())
    client.close()
    assert "msg client second" not in names()


# -- interruptions ----------------------------------------------------------------------------


@pytest.fixture
def interrupt_when():
    """SIGINT for the main thread, as Ctrl-C sends it, as soon as this is true."""
    threads = []

    def later(true) -> None:
        def wait() -> None:
            wait_until(true)
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)

        threads.append(threading.Thread(target=wait))
        threads[-1].start()

    yield later
    for thread in threads:
        thread.join()


def test_an_interrupted_call_ends_and_the_client_goes_on(msg_broker, interrupt_when):
    with msg_broker.connect_sync() as client:
        messages = client.consume("jobs").open()
        interrupt_when(lambda: client._loop._calls)
        with pytest.raises(KeyboardInterrupt):
            messages.next()
        assert not client._loop._calls
        client.send("jobs", 1)
        with messages.next() as message:
            assert (message.body, message.attempt) == (1, 1)
    assert msg_broker.queue("jobs").settled == 1


def test_what_an_interrupted_call_got_all_the_same_is_not_lost(interrupt_when):
    undone: list[str] = []
    begun = threading.Event()
    loop = LoopThread(anyio.Lock(), "test")  # any context will do
    loop.start()

    async def stubborn() -> str:
        begun.set()  # before that there is nothing to undo
        try:
            await anyio.sleep_forever()
        finally:
            return "got"  # noqa: B012

    interrupt_when(begun.is_set)
    with pytest.raises(KeyboardInterrupt):
        loop.call(stubborn, undo=undone.append)
    assert undone == ["got"]
    loop.stop()


def test_an_interrupted_block_returns_its_message_uncounted(msg_broker):
    with msg_broker.connect_sync() as client:
        client.send("jobs", 1)
        with client.consume("jobs") as messages:
            with pytest.raises(KeyboardInterrupt), messages.next():
                raise KeyboardInterrupt
            with messages.next() as again:
                assert again.attempt == 1


# -- workers ----------------------------------------------------------------------------------


def test_a_worker_calls_its_handler_in_threads(msg_broker):
    msg_broker.configure(queues={"jobs": {"max_deliveries": 1}})
    together = threading.Barrier(3)
    names = set()
    client = msg_broker.connect_sync()

    def handle(message: msg.sync.Message[int]) -> None:
        together.wait(10)  # only three at a time get over this
        names.add(threading.current_thread().name)
        if message.body == 5:
            raise ValueError("five")
        client.send("done", message.body)
        if message.body == 8:
            client.stop_workers()

    with client:
        client.publish_many("jobs", range(9), mode="queue")
        client.run_worker("jobs", handle, concurrency=3)
        assert not client._workers
    assert threading.current_thread().name not in names
    assert sorted(msg_broker.queue("done").bodies) == [0, 1, 2, 3, 4, 6, 7, 8]
    assert msg_broker.queue("jobs").dead[0].reason == "ValueError: five"


def heard_stop(client) -> threading.Event:
    """Set once a worker of this client was told to stop."""
    heard, post = threading.Event(), client._loop.post

    def spy(work) -> None:
        post(work)
        if getattr(work, "__qualname__", "") == "_Stop.set":
            post(heard.set)

    client._loop.post = spy
    return heard


def test_ctrl_c_lets_a_worker_finish_what_it_has_begun(msg_broker, interrupt_when):
    begun, finished = threading.Event(), []
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with msg_broker.connect_sync() as client:
        stop = heard_stop(client)

        def handle(message) -> None:
            begun.set()
            assert stop.wait(20)
            finished.append(message.body)

        client.publish_many("jobs", range(5), mode="queue")
        interrupt_when(begun.is_set)
        client.run_worker("jobs", handle)
    assert finished == [0]
    queue = msg_broker.queue("jobs")
    assert (queue.settled, queue.bodies) == (1, [1, 2, 3, 4])
    assert all(letter.attempt == 1 for letter in queue.ready)
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_the_second_ctrl_c_does_not_wait(msg_broker, interrupt_when):
    begun, go_on = threading.Event(), threading.Event()

    def handle(_message) -> None:
        begun.set()
        go_on.wait(20)

    with msg_broker.connect_sync() as client:
        client.send("jobs", 1)
        stop = heard_stop(client)
        interrupt_when(begun.is_set)
        interrupt_when(stop.is_set)
        with pytest.raises(KeyboardInterrupt):
            client.run_worker("jobs", handle)
        go_on.set()
        (again,) = client.get("jobs", wait=5)
        assert again.attempt == 1


def test_a_client_that_nothing_refers_to_is_closed(msg_broker):
    client = msg_broker.connect_sync()
    client.send("jobs", 1)  # the last call keeps it no longer than it lasts
    thread, gone = client._loop._thread, weakref.ref(client)
    del client
    thread.join(20)
    assert not thread.is_alive()
    assert gone() is None


def test_a_subscription_or_a_message_keeps_its_client(msg_broker):
    msg_broker.connect_sync().publish_many("jobs", range(2), mode="queue")
    for message in msg_broker.connect_sync().consume("jobs"):
        with message:
            assert message.body == 0
        break
    del message
    (message,) = msg_broker.connect_sync().get("jobs", wait=20)
    gc.collect()
    with message:
        assert message.held
    client = message._client
    client.close()
    assert msg_broker.queue("jobs").settled == 2


def test_a_block_that_ends_behind_its_client_is_told_of(msg_broker, caplog):
    with msg_broker.connect_sync() as client:
        client.send("jobs", 1)
        (message,) = client.get("jobs")
    with message:
        assert not message.held
    assert "was handled, but its connection had ended" in caplog.text
    assert client.counts.leases_lost == 1


def test_a_publish_that_a_close_cuts_off_is_not_known_to_be_kept(msg_broker):
    msg_broker.configure(queues={"full": {"max_messages": 1, "overflow": "block"}})
    client = msg_broker.connect_sync()
    client.send("full", 1)
    with ThreadPoolExecutor() as threads:
        one = threads.submit(client.send, "full", 2)
        many = threads.submit(client.publish_many, "full", [3], mode="queue")
        waits = threads.submit(client.get, "none", wait=60)
        wait_until(lambda: len(client._client._publisher) == 2 and client._client._requests.gets)
        client.close()
        for publish in (one, many):
            with pytest.raises(msg.Disconnected, match="not known"):
                publish.result()
        with pytest.raises(msg.Closed):
            waits.result()
    with pytest.raises(msg.Closed):
        client.publish_many("full", [4], mode="queue")


def test_why_a_client_has_failed_is_told_to_its_next_caller(client, caplog, monkeypatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(client._client, "_heard", fail)
    link = client._client.link
    client._loop.post(lambda: link.lose("so that the next one has the bug"))
    client._loop._thread.join(20)
    with pytest.raises(msg.Closed, match="a bug"):
        client.ask("stats")
    assert "the client's thread has failed" in caplog.text


def test_publish_many_takes_large_bodies_a_few_at_a_time(msg_broker, monkeypatch):
    sizes, put = [], _Many.put

    async def spy(many: _Many, some: Batch) -> bool:
        sizes.append(len(some))
        return await put(many, some)

    monkeypatch.setattr(_Many, "put", spy)
    with msg_broker.connect_sync(window_bytes=100_000) as client:
        bodies = ("x" * 10_000 for _ in range(200))
        assert client.publish_many("jobs", bodies, mode="queue").count == 200
    assert max(sizes) <= 16  # and 3, as soon as it is known how long they are


@pytest.mark.parametrize("step", ["call", "post"])
def test_ctrl_c_on_the_way_back_from_the_loop_loses_no_message(msg_broker, monkeypatch, step):
    with msg_broker.connect_sync() as client:
        client.publish_many("jobs", range(2), mode="queue")
        messages = client.consume("jobs").open()
        do = getattr(client._loop, step)

        def interrupted(work, **kwargs) -> None:
            do(work, **kwargs)
            if step == "post" and not isinstance(work, partial):
                return  # of the call; the message is taken after the next one
            monkeypatch.setattr(client._loop, step, do)
            raise KeyboardInterrupt

        monkeypatch.setattr(client._loop, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            messages.next()
        for n in range(2):
            with messages.next(timeout=20) as message:
                assert (message.body, message.attempt) == (n, 1)
        client.ask("ping")  # behind all that was posted
        assert not client._client.link.handling
