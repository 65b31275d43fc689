"""`doctor`, `export` and `import` against a real broker and real files."""

import json
import subprocess
import sys

import pytest

from tests.e2e.process import ENV, ROOT, Broker

pytestmark = pytest.mark.process


def run(*args, url="", stdin=b""):
    env = {**ENV, "MSG_URL": url} if url else ENV
    return subprocess.run([sys.executable, "-m", "msg", *args], cwd=ROOT, env=env, input=stdin,
                          capture_output=True, timeout=60, check=False)  # fmt: skip


@pytest.fixture
def broker(tmp_path):
    with Broker(tmp_path) as running:
        yield running


def publish(client, topic, count, **fields):
    for n in range(count):
        client.send({"action": "publish", "topic": topic, "mode": "queue", "message": {"n": n},
                     **fields})  # fmt: skip
    for _ in range(count):
        assert client.receive()["type"] == "ack"


@pytest.mark.full
def test_an_export_comes_back_whole_by_an_import(broker, tmp_path):
    with broker.connect() as client:
        publish(client, "jobs", 1500)
        publish(client, "jobs", 2, durability="memory")
        publish(client, "jobs", 1, priority=9, headers={"k": "v"})
        publish(client, "jobs", 1, delay=1000)
    file = tmp_path / "backup.jsonl"
    exported = run("export", "jobs", "-o", str(file), url=broker.url)
    assert exported.returncode == 0, exported.stderr
    rows = [json.loads(line) for line in file.read_bytes().splitlines()]
    assert len(rows) == 1504
    assert [row["seq"] for row in rows] == list(range(1, 1505))
    assert rows[1502]["headers"] == {"k": "v"}
    assert rows[1502]["priority"] == 9
    first = run("import", "copy", str(file), url=broker.url)
    assert first.returncode == 0, first.stderr
    assert b"1,504 messages imported" in first.stderr
    again = run("import", "copy", url=broker.url, stdin=file.read_bytes())
    assert b"0 messages imported, 1504 were there already" in again.stderr
    copied = run("export", "copy", url=broker.url)
    bodies = [json.loads(line)["message"] for line in copied.stdout.splitlines()]
    assert bodies == [row["message"] for row in rows]


def test_an_import_of_nothing_says_so(broker, tmp_path):
    missing = run("import", "jobs", str(tmp_path / "none"), url=broker.url)
    assert missing.returncode == 64
    assert missing.stderr == f"trio-msg: {tmp_path / 'none'}: No such file or directory\n".encode()
    shell = 'exec "$0" -m msg import jobs -u "$1" <&-'
    closed = subprocess.run(["sh", "-c", shell, sys.executable, broker.url], capture_output=True,
                            timeout=30, check=False)  # fmt: skip
    assert closed.returncode == 64
    assert closed.stderr == b"trio-msg: standard input is closed\n"


def test_an_import_of_something_else_says_which_line(broker, tmp_path):
    refused = run("import", "jobs", url=broker.url, stdin=b'{"message":1}\nnot JSON\n')
    assert refused.returncode == 65
    assert b"line 2" in refused.stderr


@pytest.mark.full
def test_doctor_finds_a_damaged_record_and_mends_it(tmp_path):
    with Broker(tmp_path) as broker, broker.connect() as client:
        publish(client, "jobs", 20)
    folder = tmp_path / "data"
    good = run("doctor", str(folder))
    assert good.returncode == 0, good.stdout
    assert b"healthy" in good.stdout
    segment = sorted((folder / "queues" / "jobs").glob("*.jsonl"))[0]
    data = segment.read_bytes()
    segment.write_bytes(data.replace(b'"message":{"n":7}', b'"message":{"n":8}'))
    bad = run("doctor", str(folder), "--json")
    assert bad.returncode == 1
    report = json.loads(bad.stdout)
    (log,) = report["logs"]
    (damage,) = log["damage"]
    assert damage["seq"] == 8
    assert damage["file"].endswith(segment.name)
    assert log["live"] == 19
    mended = run("doctor", str(folder), "--repair")
    assert mended.returncode == 0, mended.stdout
    assert b"mended" in mended.stdout
    with Broker(tmp_path) as broker, broker.connect() as client:
        answer = client.ask({"action": "peek", "topic": "jobs", "n": 100})
        assert [m["message"]["n"] for m in answer["messages"]] == [n for n in range(20) if n != 7]


def test_doctor_does_not_mend_under_a_broker(broker, tmp_path):
    refused = run("doctor", str(tmp_path / "data"), "--repair")
    assert refused.returncode == 75
    assert str(broker.process.pid).encode() in refused.stderr


def test_files_of_the_original_project_are_imported_at_the_start(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (folder / "queue_old.json").write_text('[["hi","169a"],[{"a":1},"169b"]]')
    (folder / "pubsub_news.json").write_text('[["p1","x1"]]')
    with Broker(tmp_path) as broker, broker.connect() as client:
        client.send({"action": "get", "topic": "old", "n": 5})
        assert [client.receive()["message"] for _ in range(2)] == ["hi", {"a": 1}]
        assert client.receive()["count"] == 2
        client.send({"action": "subscribe", "topic": "news"})
        assert client.receive()["message"] == "p1"
    assert not (folder / "queue_old.json").exists()
    assert (folder / "quarantine" / "imported" / "queue_old.json").exists()
