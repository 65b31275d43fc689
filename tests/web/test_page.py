"""The page in a real headless Chromium: what a person sees, and may do."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.actors.kit import Running, running, settled
from tests.web.browser import Browser, Page, chromium
from tests.web.kit import TOKEN, serving
from tests.web.test_api import filled

VIEWS = ("", "queues", "queue/jobs", "topics", "topic/audit", "connections", "connection/1",
         "tree", "live", "reports")  # fmt: skip
EVIL = '<img src=x onerror="document.title=1/0"><script>document.title=1/0</script>'


@asynccontextmanager
async def opened(
    folder, where: str = "", token: str = TOKEN
) -> AsyncIterator[tuple[Running, Browser, Page]]:
    """A broker with a little of everything, and its page in a browser."""
    reports = folder / "reports" / "disk-full-7"
    reports.mkdir(parents=True)
    (reports / "report.html").write_text(
        "<h1>It was the disk</h1><script>document.title='ran'</script>"
    )
    async with running() as broker:
        await filled(broker)
        async with (
            serving(broker, reports=str(folder / "reports")) as url,
            chromium(folder) as browser,
        ):
            page = await browser.open(f"{url}#token={token}" if token else url)
            await page.until("document.querySelector('.lock') && document.querySelector('.view')")
            if where:
                await page.js(f"location.hash = '#/{where}'")
            yield broker, browser, page
            assert page.errors == []
            await page.close()


async def test_every_view_shows_what_there_is_at_every_width(tmp_path):
    async with opened(tmp_path) as (_, browser, page):
        await page.shows("Needs a look")
        await page.shows("It is paused: nothing is handed out")
        shows = {
            "queues": "jobs.dead", "queue/jobs": "Dead letters", "topics": "audit",
            "topic/audit": "Nobody listens", "connections": "127.0.0.1", "connection/1": "Nothing",
            "tree": "directory", "live": "Publish", "reports": "disk-full-7",
        }  # fmt: skip
        shows["connections"] = shows["connection/1"] = "test"  # a client in this process
        for width, height, dark in ((1280, 900, False), (390, 844, True)):
            await page.look(width=width, height=height, dark=dark)
            for view in VIEWS:
                await page.js(f"location.hash = '#/{view}'")
                name = view.partition("/")[0] or "overview"
                await page.until(f"document.querySelector('.view.v-{name}')")
                await page.shows(shows.get(view, "Needs a look"))
                wide = await page.js("document.documentElement.scrollWidth")
                assert wide <= width, f"{view} is {wide} px wide in a window of {width}"
        await page.js("location.hash = '#/queue/nothing'")
        await page.shows("there is no queue")
        # that one is an error in the browser's own log, and meant
        assert all(["404" in error for error in page.errors])
        page.errors.clear()
        report = await browser.open(
            await page.js("new URL('reports/disk-full-7/report.html', location.origin).href")
        )
        await report.until("document.body.innerText.includes('It was the disk')")
        assert await report.js("document.title") != "ran"


async def test_a_body_is_text_whatever_it_holds(tmp_path):
    async with opened(tmp_path) as (broker, _, page):
        client = broker.client()
        await client.ask("purge", topic="jobs", mode="queue")
        await client.publish("jobs", EVIL, headers={"x": EVIL})
        await page.js("location.hash = '#/queue/jobs?tab=ready'")
        await page.until("document.querySelector('.message .line')")
        await page.js("document.querySelector('.message .line').click()")
        await page.until("document.querySelector('.inside pre')?.textContent.includes('onerror')")
        assert await page.js("document.querySelectorAll('main img, main script').length") == 0


async def test_any_name_and_any_address_that_was_typed_shows_a_page(tmp_path):
    names = ("100%", "a?b&c=d/e", "<svg/onload=alert(1)", "\N{RIGHT-TO-LEFT OVERRIDE}x", "%41")
    async with opened(tmp_path) as (broker, _, page):
        for name in names:
            await broker.client().publish(name, 1)
            await page.js("location.hash = '#/queues'")
            shown = json.dumps(name)
            link = f"[...document.querySelectorAll('th a')].find((a) => a.textContent === {shown})"
            await page.until(link)
            await page.js(f"{link}.click()")
            await page.until(f"document.querySelector('h1')?.textContent === {shown}")
            await page.shows("No consumer is attached")
        await page.js("location.hash = '#/constructor/x'")
        await page.shows("Delivered")  # the overview
        assert page.errors == []
        await page.js("location.hash = '#/queue/%E0%A4%A'")
        await page.shows("there is no queue or topic '%E0%A4%A'")
        assert all(["404" in error for error in page.errors])
        page.errors.clear()


@pytest.mark.full
async def test_dead_letters_are_retried_edited_and_dropped(tmp_path):
    async with opened(tmp_path, "queue/jobs?tab=dead") as (broker, _, page):
        await page.shows("no such order")
        await page.js("document.querySelector('.message .line').click()")
        await page.click("Edit …")
        await page.fill("dialog textarea", '{"n": 99}')
        await page.click("Send back", "dialog button")
        await page.shows("1 message sent back to jobs.")
        await page.shows("No dead letters")
        await settled()
        client = broker.client()
        ready = (await client.ask("peek", topic="jobs"))["messages"]
        assert {"n": 99} in [message["message"] for message in ready]


@pytest.mark.full
async def test_a_queue_is_paused_resumed_and_purged(tmp_path):
    async with opened(tmp_path, "queue/jobs") as (broker, _, page):
        await page.click("Pause")
        await page.shows("It is paused")
        assert broker.actor("jobs").ledger.paused
        await page.click("Resume")
        await page.until(
            "[...document.querySelectorAll('button')].some((b) => b.textContent === 'Pause')"
        )
        assert not broker.actor("jobs").ledger.paused
        await page.click("Purge …")
        await page.click("Cancel", "dialog button")
        assert broker.actor("jobs").ledger.states()["ready"] == 1
        await page.click("Purge …")
        await page.click("Purge", "dialog button[type=submit]")
        await page.shows("2 messages dropped.")


async def test_a_browser_publishes_and_listens_through_the_websocket(tmp_path):
    async with opened(tmp_path, "live") as (broker, _, page):
        listener = broker.client()
        await listener.send(action="subscribe", topic="news.>", id="s")
        await listener.expect("subscribed")
        await page.fill("#listen [name=pattern]", "news.*")
        await page.click("Listen", "#listen button")
        await page.until("document.querySelector('.listener .tag.ok')")
        await listener.publish("news.a", EVIL, mode="pubsub")
        await page.until("document.querySelector('.heard .body')?.textContent.includes('onerror')")
        await listener.expect("message")
        await page.click("Topic", ".segments span")
        await page.fill("#publish [name=to]", "news.b")
        await page.fill("#publish [name=body]", "not json, so a text")
        await page.click("Publish", "#publish button")
        await page.shows("Given to those who hear news.b")
        assert (await listener.expect("message"))["message"] == "not json, so a text"
        await page.until("document.querySelectorAll('.heard li').length === 2")
        await page.click("Stop", "#listen button")
        await page.click("Queue", ".segments span")
        await page.fill("#publish [name=to]", "orders")
        await page.fill("#publish [name=body]", '{"n": 5}')
        await page.click("Publish", "#publish button")
        await page.shows("Kept in orders")
        assert (await listener.ask("peek", topic="orders"))["messages"][0]["message"] == {"n": 5}


async def test_without_the_token_it_reads_and_says_how_to_write(tmp_path):
    async with opened(tmp_path, "live", token="") as (_, _, page):
        await page.shows("This page only reads")
        await page.click("enter the token")
        await page.fill("dialog input", "f" * 64)
        await page.click("Use it", "dialog button")
        await page.shows("That is not the token")
        await page.click("enter the token")
        await page.fill("dialog input", TOKEN)
        await page.click("Use it", "dialog button")
        await page.shows("This page may write now.")
        await page.until("document.querySelector('.lock.open')")


@pytest.mark.full
async def test_where_reading_needs_the_token_it_asks_for_it(tmp_path):
    async with (
        running() as broker,
        serving(broker, local=False) as url,
        chromium(tmp_path) as browser,
    ):
        page = await browser.open(url)
        await page.shows("that needs the token")
        assert "No answer" not in await page.js("document.body.innerText")  # it has answered
        await page.click("Enter the token")
        await page.fill("dialog input", TOKEN)
        await page.click("Use it", "dialog button")
        await page.shows("All is well")
        assert all(["401" in error for error in page.errors])


@pytest.mark.full
async def test_an_empty_broker_says_what_to_do(tmp_path):
    async with running() as broker, serving(broker) as url, chromium(tmp_path) as browser:
        page = await browser.open(url)
        await page.shows("Nothing has been published yet.")
        for view, text in (
            ("queues", "There is no queue yet."), ("topics", "There is no topic now."),
            ("connections", "Nobody is connected."), ("reports", "There are no reports."),
            ("live", "To publish and listen here it needs the token"), ("tree", "directory"),
        ):  # fmt: skip
            await page.js(f"location.hash = '#/{view}'")
            await page.shows(text)
        assert page.errors == []


@pytest.mark.full
async def test_three_thousand_queues_are_folded_and_found(tmp_path):
    async with running() as broker:
        client = broker.client()
        for n in range(3000):
            await client.publish(f"tenant{n:04}.jobs", n, durability="memory")
        async with serving(broker) as url, chromium(tmp_path) as browser:
            page = await browser.open(f"{url}#/queues")
            await page.shows("The 100 busiest of 3,000 queues are shown.")
            assert await page.js("document.querySelectorAll('tbody').length") == 100
            await page.fill("input[type=search]", "tenant2999")
            await page.until("document.querySelectorAll('tbody').length === 1")
            await page.js("location.hash = '#/tree'")
            await page.shows("2980 more queues")
            assert await page.js("document.querySelectorAll('.tree .actor').length") < 60
            assert page.errors == []
