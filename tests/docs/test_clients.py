"""The clients in shell and Node, run against a broker as a person would run them."""

import json
import os
import signal
import subprocess

import pytest

from msg.plain_client import PlainClient
from tests.docs.snippets import need
from tests.docs.transcripts import DOCS
from tests.e2e.process import ENV, SECONDS, Broker

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with Broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


class Script:
    """One of the clients, with a broker to talk to."""

    def __init__(self, command, broker):
        self.command = command
        self.env = {**ENV, "MSG_HOST": "127.0.0.1", "MSG_PORT": str(broker.port),
                    "MSG_URL": broker.url}  # fmt: skip

    def __call__(self, *args):
        done = subprocess.run(
            [*self.command, *args], env=self.env, capture_output=True, text=True, timeout=SECONDS,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def start(self, *args):
        return subprocess.Popen(
            [*self.command, *args], env=self.env, stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip


@pytest.fixture(params=["shell", "node"])
def script(request, broker):
    if request.param == "shell":
        need("bash", "nc", "jq")
        return Script(["bash", str(DOCS / "clients" / "msg.sh")], broker)
    need("node")
    return Script(["node", str(DOCS / "clients" / "msg.mjs")], broker)


def until_heard(client, topic):
    """A `sub` was started: until the broker knows of it."""
    while not client.ask({"action": "stats", "topic": topic}, SECONDS)["topics"][0]["subscribers"]:
        pass


def end(process):
    os.killpg(process.pid, signal.SIGTERM)
    assert process.stdout is not None
    process.stdout.close()
    process.wait(SECONDS)


def test_send_and_get(script, broker, request):
    queue = f"jobs.{request.node.callspec.id}"
    code, out, err = script("send", queue, '{"text":"tä€\\n","n":1.5}')
    assert (code, err) == (0, "")
    assert out.strip()
    assert script("get", queue) == (0, '{"text":"tä€\\n","n":1.5}\n', "")
    assert script("get", queue) == (1, "", ""), "it was acked"


def test_an_error_is_told_and_is_the_exit_code(script):
    code, out, err = script("send", "jobs.dead", "1")
    assert (code, out) == (65, "")
    assert err.startswith("bad_name: ")


def test_listening_to_a_topic(script, broker, request):
    topic = f"news.{request.node.callspec.id}"
    with PlainClient.connect(broker.url) as client:
        client.ask({"action": "declare", "topic": topic, "mode": "pubsub"})
        listener = script.start("sub", topic, "2")
        until_heard(client, topic)
        assert script("pub", topic, '{"n":1}')[0] == 0
        assert script("pub", topic, '"two"')[0] == 0
        out, _ = listener.communicate(timeout=SECONDS)
    assert (listener.returncode, out) == (0, '{"n":1}\n"two"\n')


def test_a_shell_worker_acks_what_succeeds_and_gives_back_what_fails(broker, tmp_path):
    need("bash", "nc", "jq")
    script = Script(["bash", str(DOCS / "clients" / "msg.sh")], broker)
    command = tmp_path / "handle"
    command.write_text('#!/bin/sh\nread -r body\necho "$body"\n[ "$body" != \'"bad"\' ]\n')
    command.chmod(0o755)
    with PlainClient.connect(broker.url) as client:
        client.ask({"action": "declare", "topic": "shell.work", "settings": {"max_deliveries": 2}})
        for body in ("good", "bad"):
            client.ask({"action": "publish", "topic": "shell.work", "mode": "queue",
                        "message": body})  # fmt: skip
        client.ask({"action": "subscribe", "topic": "shell.work.dead", "mode": "queue"})
        worker = script.start("work", "shell.work", str(command))
        try:
            letter = client.receive(SECONDS)
        finally:
            end(worker)
    assert letter["message"] == "bad"
    assert [attempt["reason"] for attempt in letter["case"]["attempts"]] == [
        f"{command} left with 1"
    ] * 2


NODE = """
import { connect, Refused } from "%s";

const client = await connect();
const other = await connect();
const name = "node.work";

// a worker: the first attempt fails, the second is acked
await client.ask({ action: "declare", topic: name, settings: { backoff: [0] } });
await Promise.all([client.send(name, "a", { message_id: "one" }),
                   client.send(name, "a", { message_id: "one" })]);
const seen = [];
for await (const message of client.consume(name)) {
  seen.push([message.body, message.attempt]);
  if (message.attempt === 1) await message.nack("not yet");
  else { await message.ack(); break; }
}

// a service, and who asks it
const doubler = (async () => {
  for await (const message of other.subscribe("math.double")) {
    await message.reply(message.body * 2);
    break;
  }
})();
while ((await client.ask({ action: "stats" })).topics.every((t) => t.name !== "math.double" || !t.subscribers));
const answer = await client.request("math.double", 21);
await doubler;
const nobody = await client.request("math.nobody", 1).catch((error) => error.message);
const refused = await client.send("a b", 1).catch((error) => [error instanceof Refused, error.code]);
client.close();
other.close();
console.log(JSON.stringify({ seen, answer, nobody, refused }));
"""


def test_node_as_a_library(broker, tmp_path):
    need("node")
    program = tmp_path / "program.mjs"
    program.write_text(NODE % (DOCS / "clients" / "msg.mjs").as_uri())
    code, out, err = Script(["node", str(program)], broker)()
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "seen": [["a", 1], ["a", 2]],
        "answer": 42,
        "nobody": "nobody serves math.nobody",
        "refused": [True, "bad_name"],
    }
