"""The HTTP API: answers, refusals, and that the description tells the truth about them."""

import re
from typing import Any

import pytest
import trio
from starlette.routing import Route

import msg.web.app as module
from msg.config import Settings
from msg.web.api import ENDPOINTS, question_of
from msg.web.app import LOOKS, LOOKS_AT_ONCE, page_files
from tests.actors.kit import Running, running, settled
from tests.web.kit import Site

PAGE = re.compile(r"/|/static/.*|/ws|/reports/.*")  # files, and what OpenAPI cannot describe


async def filled(broker: Running) -> None:
    """A little of everything: ready, held, delayed and dead messages, a topic, a paused queue."""
    client, worker = broker.client(), broker.client()
    await client.ask("declare", topic="jobs", mode="queue", settings={"max_deliveries": 1})
    await client.publish("jobs", {"n": 1}, message_id="bad")
    await worker.subscribe("jobs", name="worker-a")
    tag = (await worker.expect("message"))["tag"]
    await worker.send(action="nack", tag=tag, reason="no such order")
    await settled()
    await client.publish("jobs", {"n": 2}, message_id="held")
    await worker.expect("message")
    await client.publish("jobs", "<img src=x onerror=alert(1)>", message_id="ready")
    await client.publish("jobs", "later", delay=60)
    await client.publish("audit", 1, mode="pubsub")
    await client.publish("stopped", 1)
    await client.ask("pause", topic="stopped", mode="queue")
    await settled()


# -- the description ----------------------------------------------------------------------------


async def test_every_route_is_in_the_description(autojump_clock):
    async with running() as broker:
        site = Site(broker)
        described = {
            (method.upper(), path)
            for path, of in (await site.get("/openapi.json")).json["paths"].items()
            for method in of
        }
        served = {
            (method, route.path)
            for route in site.web.app().routes
            if isinstance(route, Route) and not PAGE.fullmatch(route.path)
            for method in route.methods or ()
            if method != "HEAD"
        }
        assert described == served
        assert len(served) > 20


ASKED: dict[str, dict[str, Any]] = {  # what a GET that requires something is asked
    "/api/trace": {"message_id": "bad"}, "/api/peek": {"queue": "jobs"},
    "/api/history": {"kind": "queue", "name": "jobs"}, "/api/dead": {"queue": "jobs"},
}  # fmt: skip
POSTED = {
    "/api/dead/retry": {"queue": "jobs", "message_ids": ["nothing"]},
    "/api/dead/drop": {"queue": "jobs", "message_ids": ["nothing"]},
    "/api/dead/edit": {"queue": "jobs", "message_id": "bad", "message": 2},
    "/api/pause": {"queue": "jobs"}, "/api/resume": {"queue": "jobs"},
    "/api/purge": {"queue": "jobs", "mode": "queue"},
    "/api/delete": {"queue": "stopped", "mode": "queue"},
    "/api/publish": {"topic": "jobs", "mode": "queue", "message": None},
}  # fmt: skip


async def test_answers_are_as_described(autojump_clock):
    async with running() as broker:
        await filled(broker)
        site = Site(broker)
        await site.web.history.sample(broker.broker)
        paths = (await site.get("/openapi.json")).json["paths"]
        for path, of in paths.items():
            for method, operation in of.items():
                if method == "get":
                    answer = await site.get(path, **ASKED.get(path, {}))
                else:
                    answer = await site.post(path, POSTED[path])
                assert answer.status == 200, (path, answer)
                content = operation["responses"]["200"]["content"]
                kind = answer.headers["content-type"].partition(";")[0]
                assert kind in content, path
                schema = content[kind].get("schema")
                if kind == "application/json":
                    assert schema["properties"], f"{path}: the description says nothing of it"
                    fits(answer.json, schema, path)


async def test_refusals_are_as_described(autojump_clock):
    async with running() as broker:
        site = Site(broker)
        description = (await site.get("/openapi.json")).json
        schema = description["components"]["responses"]["Error"]["content"]["application/json"][
            "schema"
        ]
        for answer, status in (
            (await site.get("/api/peek", queue="none"), 404),
            (await site.get("/api/peek"), 400),
            (await site.get("/stats", nonsense=1), 400),
            (await site.get("/api/peek", queue="jobs", n="many"), 400),
            (await site.post("/api/publish", b"{"), 400),
            (await site.post("/api/publish", b"[]"), 400),
            (await site.post("/api/publish", {"topic": "a b", "message": 1}), 400),
            (
                await site.post(
                    "/api/publish", {"topic": "jobs.dead", "mode": "queue", "message": 1}
                ),
                400,
            ),
            (await site.post("/api/publish", b"x" * 2_000_000), 413),
            (await site.get("/nothing"), 404),
            (await site.get("/api/history"), 400),
            (await site.get("/api/history", kind="connection"), 400),
            (await site.get("/ws"), 404),
            (await site.get("/api/publish"), 405),
            (await site.get("/tree", fold="9" * 5000), 400),
            (await site.get("/stats", headers={"host": "evil.example"}), 421),
            (await site.post("/api/publish", {}, token=None), 401),
        ):
            assert answer.status == status, answer
            fits(answer.json, schema, "Error")
            assert {"code", "error", "retry"} <= set(answer.json), answer


async def test_a_bug_is_answered_and_raised_for_the_log(autojump_clock, monkeypatch):
    async with running() as broker:
        site = Site(broker)

        async def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("msg.web.app.summary", broken)
        with pytest.raises(ZeroDivisionError):
            await site.get("/api/summary")
        assert site.answered is not None
        assert site.answered.status == 500
        assert site.answered.json["code"] == "internal"


async def test_who_leaves_in_the_middle_of_a_request_is_no_error(autojump_clock):
    async with running() as broker:
        answer = await Site(broker).post("/api/publish", b'{"topic": ', whole=False)
        assert answer.status == 400
        assert broker.broker.directory.queues == {}


def fits(value: Any, schema: dict[str, Any], where: str) -> None:
    """A value against the part of JSON Schema that the description uses."""
    known = {"type", "properties", "required", "items", "enum", "description",
             "additionalProperties"}  # fmt: skip
    assert set(schema) <= known, f"{where}: {set(schema) - known} is not checked here"
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int,
             "number": (int, float), "null": type(None)}  # fmt: skip
    wanted = schema.get("type")
    if wanted is not None:
        of = [wanted] if isinstance(wanted, str) else wanted
        fitting = [kind for kind in of if isinstance(value, kinds[kind])]
        assert fitting, f"{where}: {value!r} is no {wanted}"
        if isinstance(value, bool):
            assert "boolean" in of, f"{where}: {value!r} is no {wanted}"
    if "enum" in schema:
        assert value in schema["enum"], f"{where}: {value!r}"
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            assert name in value, f"{where}.{name} is missing in {value}"
        for name, inner in value.items():
            if name in schema.get("properties", {}):
                fits(inner, schema["properties"][name], f"{where}.{name}")
            elif "additionalProperties" in schema:
                fits(inner, schema["additionalProperties"], f"{where}.{name}")
    if isinstance(value, list) and "items" in schema:
        for i, inner in enumerate(value):
            fits(inner, schema["items"], f"{where}[{i}]")


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: f"{e.method} {e.path}")
def test_every_parameter_reaches_its_question(endpoint):
    samples: dict[str, Any] = {"string": "ready", "integer": 1, "number": 1.5, "boolean": True, "array": ["a"],
               "any": {"a": 1}}  # fmt: skip
    given = {p.name: samples[p.type] for p in endpoint.params}
    given |= {"mode": "queue"} if "mode" in given else {}
    given |= {"cursor": "0"} if "cursor" in given else {}
    question = question_of(endpoint, given)
    for param in endpoint.params:
        if param.to:
            assert getattr(question, param.to) == given[param.name]
        else:
            assert question.options is not None
            assert question.options[param.name] == given[param.name]


async def test_few_look_at_everything_at_a_time(autojump_clock, monkeypatch):
    """So a hundred requests for it do not make each pass of the loop a hundred slices long."""
    under_way = most = 0

    async def summary(*_: object) -> dict[str, Any]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await settled()
        under_way -= 1
        return {}

    monkeypatch.setattr(module, "summary", summary)
    async with running() as broker:
        site = Site(broker)
        routes = site.web.app().routes
        assert set(LOOKS) <= {route.path for route in routes if isinstance(route, Route)}
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(site.get, "/api/summary")
        assert most == LOOKS_AT_ONCE


# -- for machines -------------------------------------------------------------------------------


async def test_healthz_and_readyz_say_why_not(autojump_clock):
    async with running() as broker:
        site = Site(broker)
        assert (await site.get("/healthz")).json == {"ok": True}
        assert (await site.get("/readyz")).json == {"ready": True, "reasons": []}
        await filled(broker)  # a stuck queue does not make a broker unready
        assert (await site.get("/readyz")).status == 200
        broker.broker.context.draining = True
        answer = await site.get("/readyz")
        assert answer.status == 503
        assert answer.json["reasons"] == ["The broker is stopping: it takes no new publishes."]
        broker.broker.context.draining = False


async def test_readyz_tells_of_a_disk_that_hangs_and_healthz_later(autojump_clock):
    async with running() as broker:
        site, client = Site(broker), broker.client()
        broker.world.hold_disk()
        await client.send(action="publish", topic="jobs", mode="queue", message=1)
        await settled()
        autojump_clock.jump(5)
        await settled()  # the loop turns
        ready, alive = await site.get("/readyz"), await site.get("/healthz")
        autojump_clock.jump(60)
        await settled()
        dead = await site.get("/healthz")
        broker.world.free_disk()  # before anything can fail: the end waits for it
        await client.expect("ack")
        assert ready.status == 503
        assert "The disk has not finished" in ready.json["reasons"][0]
        assert alive.status == 200
        assert dead.status == 503
        assert dead.json["reasons"]


@pytest.mark.parametrize(
    ("how", "kind", "holds"),
    [
        ("json", "application/json", '"name":"queue jobs"'),
        ("text", "text/plain; charset=utf-8", "jobs.dead"),
        ("svg", "image/svg+xml", "<svg"),
        ("dot", "text/vnd.graphviz; charset=utf-8", "digraph"),
    ],
)
async def test_the_tree_in_every_form(autojump_clock, how, kind, holds):
    async with running() as broker:
        await filled(broker)
        answer = await Site(broker).get("/tree", format=how)
        assert answer.headers["content-type"] == kind
        assert holds in answer.text


async def test_the_tree_folds_and_opens(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(30):
            await client.publish(f"q{n}", 1)
        site = Site(broker)
        folded = (await site.get("/tree", fold=5)).json["actors"]
        assert len([a for a in folded if a["kind"] == "queue"]) == 6
        opened = (await site.get("/tree", fold=5, expand="queue")).json["actors"]
        assert len([a for a in opened if a["kind"] == "queue"]) == 30
        assert (await site.get("/tree", format="png")).status == 400


# -- what the page asks -------------------------------------------------------------------------


async def test_the_overview_names_what_is_wrong_worst_first(autojump_clock):
    async with running() as broker:
        await filled(broker)
        site = Site(broker)
        seen = (await site.get("/api/overview")).json
        assert seen["level"] == "stuck"
        assert (seen["alerts"][0]["kind"], seen["alerts"][0]["name"]) == ("queue", "stopped")
        assert {row["name"]: row["level"] for row in seen["queues"]} == {
            "jobs": "slow", "jobs.dead": "note", "stopped": "stuck",
        }  # fmt: skip
        jobs = seen["queues"][0]
        assert (jobs["ready"], jobs["leased"], jobs["delayed"], jobs["dead"]) == (1, 1, 1, 1)
        assert jobs["cause"]
        assert [row["client"] for row in seen["connections"]] == ["", ""]
        summary = (await site.get("/api/summary")).json
        assert (summary["level"], summary["alerts"]) == ("stuck", seen["alerts_in_all"])


async def test_what_is_alike_is_one_alert_and_hides_nothing(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(300):
            await client.publish(f"q{n:03}", 1, durability="memory")
        await client.publish("stopped", 1)
        await client.ask("pause", topic="stopped", mode="queue")
        await settled()
        seen = (await Site(broker).get("/api/overview", n=1)).json
        assert [(a["count"], a["name"]) for a in seen["alerts"]] == [(300, "q000"), (1, "stopped")]
        assert seen["alerts"][0]["names"][:2] == ["q000", "q001"]
        assert seen["alerts_in_all"] == 301


async def test_the_overview_finds_and_limits(autojump_clock):
    async with running() as broker:
        client = broker.client()
        for n in range(40):
            await client.publish(f"tenant{n}.jobs", 1)
        site = Site(broker)
        await site.web.history.sample(broker.broker)
        autojump_clock.jump(2)
        await client.publish("tenant7.jobs", 2)
        await site.web.history.sample(broker.broker)
        seen = (await site.get("/api/overview", n=3, kinds="queues")).json
        assert "topics" not in seen
        assert seen["queues_in_all"] == 40
        assert "tenant7.jobs" in [row["name"] for row in seen["queues"]]  # it moves
        assert len(seen["queues"]) == 3
        found = (await site.get("/api/overview", find="tenant12")).json["queues"]
        assert [row["name"] for row in found] == ["tenant12.jobs"]
        assert (await site.get("/api/overview", kinds="gods")).status == 400
        assert (await site.get("/api/overview", n="-1")).status == 400


async def test_the_overview_tells_who_hears_a_topic(autojump_clock):
    async with running() as broker:
        for pattern in ("news.>", "news.today", "other"):
            listener = broker.client()
            await listener.send(action="hello", name=pattern)
            await listener.send(action="subscribe", topic=pattern, id="s")
            await listener.until("subscribed")
        site = Site(broker)
        heard = (await site.get("/api/overview", kinds="connections", hears="news.today")).json
        assert [row["client"] for row in heard["connections"]] == ["news.>", "news.today"]
        one = (await site.get("/api/overview", kinds="connections", number=3)).json["connections"]
        assert [row["client"] for row in one] == ["other"]
        none = (await site.get("/api/overview", kinds="connections", number=99)).json
        assert none["connections"] == []


async def test_dead_letters_are_listed_edited_retried_and_dropped(autojump_clock):
    async with running() as broker:
        await filled(broker)
        site, client = Site(broker), broker.client()
        assert (await site.get("/api/dead")).json["queues"][0]["queue"] == "jobs"
        listed = (await site.get("/api/dead", queue="jobs", reason="no such")).json
        assert [m["message_id"] for m in listed["messages"]] == ["bad"]
        assert listed["messages"][0]["case"]["attempts"][0]["who"] == "worker-a"
        edit = {"queue": "jobs", "message_id": "bad", "message": {"n": 7}}
        assert (await site.post("/api/dead/edit", edit)).json["count"] == 1
        await settled()
        ready = (await site.get("/api/peek", queue="jobs")).json["messages"]
        assert {"n": 7} in [m["message"] for m in ready]
        refused = await site.post("/api/dead/drop", {"queue": "stopped"})
        assert refused.json.get("count") == 0  # it never had any
        assert (await client.ask("stats", topic="jobs"))["queues"][0]["dead"] == 0


async def test_a_publish_by_post_is_acked_as_the_wire_acks(autojump_clock):
    async with running() as broker:
        site = Site(broker)
        body = {"topic": "jobs", "mode": "queue", "message": {"a": [1]}, "message_id": "m1"}
        assert (await site.post("/api/publish", body)).json == {"message_id": "m1"}
        assert (await site.post("/api/publish", body)).json["duplicate"] is True
        other = await site.post("/api/publish", {**body, "message": 2})
        assert (other.status, other.json["code"]) == (409, "id_conflict")
        heard = await site.post("/api/publish", {"topic": "news", "message": 1})
        assert heard.json["receivers"] == 0
        await settled()
        assert broker.broker.connections.open == {}  # none of them is left behind


# -- reports ------------------------------------------------------------------------------------


async def test_reports_are_listed_and_shown_without_their_scripts(autojump_clock, tmp_path):
    run = tmp_path / "reports" / "disk-full"
    run.mkdir(parents=True)
    (run / "report.html").write_text("<script>alert(1)</script>")
    (run / "timeline.txt").write_text("it began")
    (run / "core").write_text("not shown")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "reports" / "link").symlink_to(tmp_path)
    async with running() as broker:
        site = Site(broker, reports=str(tmp_path / "reports"))
        listed = (await site.get("/api/reports")).json["reports"]
        assert {"name": "disk-full", "files": ["report.html", "timeline.txt"]} in listed
        page = await site.get("/reports/disk-full/report.html")
        assert page.status == 200
        assert "sandbox" in page.headers["content-security-policy"]
        assert "script-src" not in page.headers["content-security-policy"]
        for path in (
            "../secret.txt", "disk-full/../../secret.txt", "link/secret.txt", "disk-full/core",
            "disk-full", "", "/etc/passwd", "disk-full/none.txt", "disk-full/report.html/x.txt",
            "disk-full/\0.txt", f"disk-full/{'x' * 300}.txt",
        ):  # fmt: skip
            assert (await site.get(f"/reports/{path}")).status == 404, path
    async with running() as broker:
        assert (await Site(broker).get("/api/reports")).json["reports"] == []


def test_the_page_asks_no_other_host():
    files = {path: data.decode() for path, data, _ in page_files()}
    assert "/" in files
    assert "/static/app.js" in files
    for path, text in files.items():
        text = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.[a-z]", text), path
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert sink not in text, (path, sink)
    assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|style=", files["/"])
    for name in re.findall(r'"\./(\w+\.js)"', "".join(files.values())):
        assert f"/static/{name}" in files


def test_the_default_address_is_on_loopback():
    assert Settings().http == "127.0.0.1:8889"
