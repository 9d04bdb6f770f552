"""A headless Chromium, driven over its DevTools protocol as a user drives it: real mouse and key events."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
KEYS = {
    "Enter": 13,
    "Escape": 27,
    "Tab": 9,
    "ArrowDown": 40,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowLeft": 37,
}


def chromium() -> str | None:
    """The browser that is installed; None without one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One tab. ``said``: what the page wrote to the console as errors, and exceptions of its scripts."""

    def __init__(self, width: int = 1280, height: int = 900):
        self.folder = tempfile.mkdtemp(prefix="diffadapt-browser-")
        self.loop, self.ids, self.said = asyncio.new_event_loop(), itertools.count(1), []
        self.process = subprocess.Popen(
            [
                chromium() or "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
                "--hide-scrollbars", "--remote-debugging-port=0", f"--user-data-dir={self.folder}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            self.loop.run_until_complete(self._connect())
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
            self.size(width, height)
        except BaseException:
            self.close()
            raise

    async def _connect(self) -> None:
        file, end = Path(self.folder) / "DevToolsActivePort", time.monotonic() + 60
        while not (file.exists() and file.read_text().strip()):
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError("Chromium did not begin to listen within a minute.")
            await asyncio.sleep(0.05)
        port = file.read_text().split()[0]
        self.session = aiohttp.ClientSession()
        async with self.session.get(f"http://127.0.0.1:{port}/json") as reply:
            pages = [p for p in await reply.json(content_type=None) if p["type"] == "page"]
        self.socket = await self.session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.loop.run_until_complete(self._call(method, parameters))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        number = next(self.ids)
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = json.loads((await asyncio.wait_for(self.socket.receive(), 60)).data)
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            if message.get("method") == "Runtime.exceptionThrown":
                self.said.append(str(message["params"]["exceptionDetails"].get("exception", message)))
            elif message.get("method") == "Log.entryAdded":
                entry = message["params"]["entry"]
                if entry["level"] == "error":
                    self.said.append(f"{entry['text']} {entry.get('url', '')}")

    def size(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)  # fmt: skip

    def dark(self, dark: bool) -> None:
        value = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def eval(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 20.0) -> Any:
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + seconds
        while True:
            try:
                if value := self.eval(script):
                    return value
            except RuntimeError as error:  # a page that is just being replaced
                if time.monotonic() > end:
                    raise error
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds:g} s: {script}\n{self.text()}\n{self.said}")
            time.sleep(0.05)

    def text(self, selector: str = "body") -> str:
        return self.eval(f"(document.querySelector({json.dumps(selector)}) || {{}}).innerText || ''")

    def click(self, selector: str, words: str = "") -> None:
        """The middle of the first visible element of the selector, whose text holds ``words``."""
        place = self.wait(
            f"""(() => {{ const e = [...document.querySelectorAll({json.dumps(selector)})].find(
                (e) => e.getClientRects().length && e.innerText.includes({json.dumps(words)}));
                if (!e) return null; e.scrollIntoView({{block: "center"}});
                const r = e.getBoundingClientRect();
                return [r.x + r.width / 2, r.y + r.height / 2]; }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1
            )

    def press(self, *keys: str) -> None:
        for key in keys:
            more = {"text": key} if len(key) == 1 else {"windowsVirtualKeyCode": KEYS[key]}
            if key == "Enter":
                more["text"] = "\r"
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **more)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def type(self, text: str) -> None:
        self.press(*text)

    def choose(self, selector: str, value: str) -> None:
        """An option of a select, which headless browsers open outside the page."""
        self.eval(
            f"""(() => {{ const e = document.querySelector({json.dumps(selector)});
                e.value = {json.dumps(value)};
                e.dispatchEvent(new Event("change", {{bubbles: true}})); }})()"""
        )

    def shot(self, file: str | os.PathLike[str], whole: bool = False) -> None:
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        Path(file).write_bytes(base64.b64decode(data))

    def close(self) -> None:
        async def end() -> None:
            for thing in (getattr(self, "socket", None), getattr(self, "session", None)):
                if thing is not None:
                    await thing.close()

        self.loop.run_until_complete(end())
        self.loop.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)  # the group that it leads
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
