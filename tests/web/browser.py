"""A real headless Chromium, driven over its DevTools pipe: no driver, no port, no library.

    async with chromium(tmp_path) as browser:
        page = await browser.open("http://127.0.0.1:8889/")
        await page.until("document.querySelector('h1')")

What a page throws, logs as an error or is refused by its CSP is in `page.errors`.
"""

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--no-default-browser-check", "--disable-extensions",
    "--hide-scrollbars", "--mute-audio", "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE_S = 30.0  # a hang is to be an error that says what was seen
LOOK_S = 0.02
# the pipe is file descriptors 3 and 4, whatever they are here
LAUNCH = """
import fcntl, os, sys
into, out = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
os.dup2(into, 3)
os.dup2(out, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
END = b"\0"


def found() -> str:
    """The browser's path. Skips where there is none, but never in CI."""
    for name in NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    if os.environ.get("CI"):
        raise AssertionError(f"none of {NAMES} is installed: .ci/run installs chromium")
    pytest.skip("no chromium is installed here (apt-get install chromium)")


class Page:
    """One tab."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser = browser
        self._session = session
        self.errors: list[str] = []

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._browser.ask(method, self._session, **params)

    async def js(self, expression: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        answer = await self.ask(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True,
            userGesture=True,
        )  # fmt: skip
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise AssertionError(details.get("exception", details).get("description", details))
        return answer["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Wait until the expression is truthy; its value."""
        look = f"""(() => {{
            try {{
                const value = ({expression});
                return value instanceof Node ? true : value;
            }} catch {{ return false; }}
        }})()"""
        with trio.move_on_after(PATIENCE_S):
            # asked again from here: where scripts are forbidden, timers are too
            while not (value := await self.js(look)):  # noqa: ASYNC110
                await trio.sleep(LOOK_S)
            return value
        text = await self.js("document.body.innerText")
        raise AssertionError(f"never came: {expression}\n{self.errors}\n{text[:2000]}")

    async def shows(self, text: str) -> None:
        """Wait until this text is on the page."""
        await self.until(f"document.body.innerText.includes({json.dumps(text)})")

    async def click(self, text: str, within: str = "button, a") -> None:
        """Click what bears this text, when it is there."""
        wanted = json.dumps(text)
        find = (
            f"[...document.querySelectorAll({json.dumps(within)})]"
            f".find((node) => node.textContent.trim().startsWith({wanted}))"
        )
        await self.until(find)
        await self.js(f"{find}.click()")

    async def fill(self, selector: str, value: str) -> None:
        """Put a value into a field, as typing does."""
        await self.until(f"document.querySelector({json.dumps(selector)})")
        await self.js(
            f"{{ const field = document.querySelector({json.dumps(selector)});"
            f" field.value = {json.dumps(value)};"
            " field.dispatchEvent(new Event('input', {bubbles: true})); }"
        )

    async def look(self, *, width: int, height: int, dark: bool = False) -> None:
        """As a window of this size; phones are narrow."""
        await self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = "dark" if dark else "light"
        await self.ask(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    async def screenshot(self, path: Path, *, whole: bool = False) -> None:
        shot = await self.ask("Page.captureScreenshot", captureBeyondViewport=whole)
        await trio.Path(path).write_bytes(base64.b64decode(shot["data"]))

    async def close(self) -> None:
        await self.ask("Page.close")

    def hear(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                said = details.get("exception", {}).get("description") or details["text"]
                self.errors.append(said)
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
                self.errors.append(" ".join([str(arg.get("value")) for arg in params["args"]]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                entry = params["entry"]
                self.errors.append(f"{entry['text']} {entry.get('url', '')}")


class Browser:
    def __init__(self, into: trio.lowlevel.FdStream, out: trio.lowlevel.FdStream) -> None:
        self._into = into
        self._out = out
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._waiting: dict[int, trio.Event] = {}
        self._pages: dict[str, Page] = {}
        self._gone = False

    async def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        request: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            request["sessionId"] = session
        if self._gone:
            raise AssertionError("the browser has ended; see chromium.log")
        came = self._waiting[number] = trio.Event()
        await self._into.send_all(json.dumps(request).encode() + END)
        await came.wait()
        answer = self._answers.pop(number, {"error": "the browser has ended; see chromium.log"})
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def read(self) -> None:
        """Until the browser has gone."""
        buffer = bytearray()
        while True:
            data = await self._out.receive_some(1 << 16)
            if not data:
                break
            buffer += data
            *frames, rest = buffer.split(END)
            buffer = bytearray(rest)
            for frame in frames:
                self._take(json.loads(frame))
        self._gone = True
        for came in self._waiting.values():
            came.set()

    def _take(self, frame: dict[str, Any]) -> None:
        if "id" in frame:
            self._answers[frame["id"]] = frame
            self._waiting.pop(frame["id"]).set()
        elif frame.get("sessionId") in self._pages:
            self._pages[frame["sessionId"]].hear(frame["method"], frame["params"])

    async def open(self, url: str, *, width: int = 1280, height: int = 900) -> Page:
        """A new tab with this address."""
        target = await self.ask("Target.createTarget", url="about:blank")
        attached = await self.ask(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        page = self._pages[attached["sessionId"]] = Page(self, attached["sessionId"])
        for domain in ("Runtime", "Log", "Page"):
            await page.ask(f"{domain}.enable")
        await page.look(width=width, height=height)
        await page.ask("Page.navigate", url=url)
        return page


@asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Browser]:
    """A browser with a profile of its own, gone at the end."""
    path = found()
    read_by_it, ours_to_write = os.pipe()
    ours_to_read, written_by_it = os.pipe()
    command = [sys.executable, "-c", LAUNCH, str(read_by_it), str(written_by_it), path, *FLAGS,
               f"--user-data-dir={folder / 'profile'}", "about:blank"]  # fmt: skip
    with (folder / "chromium.log").open("wb") as log:
        process = await trio.lowlevel.open_process(
            command, pass_fds=(read_by_it, written_by_it), stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, env={**os.environ, "HOME": str(folder)},
        )  # fmt: skip
    os.close(read_by_it)
    os.close(written_by_it)
    into, out = trio.lowlevel.FdStream(ours_to_write), trio.lowlevel.FdStream(ours_to_read)
    async with into, out, trio.open_nursery() as nursery:
        browser = Browser(into, out)
        nursery.start_soon(browser.read)
        try:
            yield browser
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
            nursery.cancel_scope.cancel("the browser is closed")
