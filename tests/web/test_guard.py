"""Who may ask the page, and what a browser may do with the answer."""

import pytest

from tests.actors.kit import running
from tests.web.kit import TOKEN, Site


async def test_a_strangers_name_for_this_machine_is_refused(autojump_clock):
    """DNS rebinding: evil.example resolves to 127.0.0.1, and the browser says so in Host."""
    async with running() as broker:
        site = Site(broker)
        for host in ("evil.example", "evil.example:8889", "127.0.0.1", "127.0.0.1:1", ""):
            answer = await site.get("/api/overview", headers={"host": host})
            assert answer.status == 421, host
            assert "ask it by its address" in answer.json["error"]
        for host in ("127.0.0.1:8889", "localhost:8889", "[::1]:8889", "LOCALHOST:8889"):
            assert (await site.get("/stats", headers={"host": host})).status == 200, host


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8890"},  # another program of this machine
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_another_sites_page_may_not_write_even_with_the_token(autojump_clock, headers):
    async with running() as broker:
        site = Site(broker)
        publish = {"topic": "jobs", "mode": "queue", "message": 1}
        assert (await site.post("/api/publish", publish, headers=headers)).status == 403
        async with site.socket(**headers) as socket:
            assert socket.refused == (403, "another site's page may not do that")
        assert broker.broker.directory.queues == {}


async def test_our_own_page_may_write_with_the_token_only(autojump_clock):
    async with running() as broker:
        site = Site(broker)
        publish = {"topic": "jobs", "mode": "queue", "message": 1}
        own = {"origin": "http://127.0.0.1:8889", "sec-fetch-site": "same-origin"}
        for token in (None, "", "wrong", TOKEN[:-1], TOKEN + "0", "\xe9"):
            refused = await site.post("/api/publish", publish, token=token, headers=own)
            assert refused.status == 401, token
            assert refused.headers["www-authenticate"] == "Bearer"
            assert "trio-msg page" in refused.json["error"]
        async with site.socket(token=None) as socket:
            assert socket.refused is not None
            assert socket.refused[0] == 401
            assert "trio-msg page" in socket.refused[1]
        assert broker.broker.directory.queues == {}
        assert (await site.post("/api/publish", publish, headers=own)).status == 200
        assert (await site.get("/api/may")).json == {"write": False}
        for scheme in ("Bearer ", "bearer ", "BEARER  ", ""):  # its case is nobody's business
            told = await site.get("/api/may", headers={"authorization": f"{scheme}{TOKEN}"})
            assert told.json == {"write": True}, scheme


async def test_every_write_needs_the_token(autojump_clock):
    async with running() as broker:
        site = Site(broker)
        described = (await site.get("/openapi.json")).json["paths"]
        writes = [path for path, of in described.items() if "post" in of]
        assert len(writes) > 6
        for path in writes:
            assert (await site.post(path, {}, token=None)).status == 401, path


async def test_beyond_loopback_reading_needs_the_token_too(autojump_clock):
    async with running() as broker:
        site = Site(broker, local=False)
        anywhere = {"host": "broker.example:8889"}
        for path in ("/", "/static/app.js", "/healthz", "/readyz"):  # no data in these
            assert (await site.get(path, headers=anywhere)).status == 200, path
        for path in (
            "/stats",
            "/tree",
            "/metrics",
            "/api/overview",
            "/api/peek",
            "/reports/a/b.html",
        ):
            assert (await site.get(path, headers=anywhere)).status == 401, path
        given = {**anywhere, "authorization": f"Bearer {TOKEN}"}
        assert (await site.get("/stats", headers=given)).status == 200


async def test_answers_keep_a_browser_in_bounds(autojump_clock):
    async with running() as broker:
        site = Site(broker)
        for path in ("/", "/static/app.js", "/stats", "/metrics", "/nowhere"):
            headers = (await site.get(path)).headers
            csp = headers["content-security-policy"]
            assert "default-src 'none'" in csp
            assert "unsafe" not in csp
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["cache-control"] == "no-store"
            assert not [name for name in headers if name.startswith("access-control")]


async def test_a_preflight_of_another_site_gets_no_leave(autojump_clock):
    async with running() as broker:
        asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
        answer = await Site(broker).ask("OPTIONS", "/api/publish", headers=asked)
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers
