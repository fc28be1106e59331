"""A small driver of Chromium: DevTools messages over a pipe, with nothing but the standard library.

The browser is found as ``chromium``, ``chromium-browser`` or ``google-chrome``, or named by ``RFT3D_BROWSER``. Without
one these tests are skipped, or fail where ``RFT3D_BROWSER_REQUIRED=1``.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 20.0
"""Seconds that anything may take."""
BUTTONS = {"none": 0, "left": 1, "right": 2}
SHIFT = 8

# The browser reads messages from descriptor 3 and writes to 4; theirs may be any numbers here, even those two.
LAUNCH = """
import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""

OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # it opens nothing but our own pages, and in containers there is none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--mute-audio",
)


class Chromium:
    """A browser process: messages out, answers and events in."""

    def __init__(self, program: str) -> None:
        self.profile = tempfile.TemporaryDirectory(prefix="rft3d-browser-", ignore_cleanup_errors=True)
        reads, self.out = os.pipe()
        self.into, writes = os.pipe()
        arguments = [program, *OPTIONS, f"--user-data-dir={self.profile.name}", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", LAUNCH, str(reads), str(writes), *arguments],
            pass_fds=(reads, writes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(reads)
        os.close(writes)
        self.rest = b""
        self.last = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send a message and wait for its answer; events that come before it are kept."""
        number = self.send(method, session, params)
        deadline = time.monotonic() + PATIENCE
        while True:
            found = self.receive(deadline, f"the answer to {method}")
            if found.get("id") == number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']['message']}")
                return found["result"]
            if found.get("method") == "Page.javascriptDialogOpening":
                # The page stands still until somebody answers.
                self.send("Page.handleJavaScriptDialog", found["sessionId"], {"accept": False})
            if "method" in found:
                self.events.append(found)

    def send(self, method: str, session: str | None, params: dict[str, Any]) -> int:
        """Send a message, and return its number."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.out, data) :]
        return self.last

    def receive(self, deadline: float, what: str) -> dict[str, Any]:
        """The next message."""
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.into], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"{what} did not come in {PATIENCE:g} s")
            data = os.read(self.into, 1 << 20)
            if not data:
                raise RuntimeError(f"the browser ended before {what} came")
            self.rest += data
        line, self.rest = self.rest.split(b"\0", 1)
        return json.loads(line)

    def close(self) -> None:
        """End the process and all that it started, and remove its profile."""
        with contextlib.suppress(Exception):
            self.call("Browser.close")
            self.process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(5)
        os.close(self.out)
        os.close(self.into)
        self.profile.cleanup()


class Tab:
    """A page in the browser, and what it complained about and asked the network for."""

    def __init__(self, browser: Chromium) -> None:
        self.browser = browser
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        self.target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        result = self.browser.call(method, self.session, **params)
        self.collect()
        return result

    def collect(self) -> None:
        """Sort the events that came."""
        mine = [event for event in self.browser.events if event.get("sessionId") == self.session]
        self.browser.events.clear()
        for event in mine:
            params = event["params"]
            match event["method"]:
                case "Runtime.exceptionThrown":
                    details = params["exceptionDetails"]
                    self.complaints.append(details.get("exception", {}).get("description", details["text"]))
                case "Runtime.consoleAPICalled":
                    self.complaints.append(" ".join(str(one.get("value")) for one in params["args"]))
                case "Log.entryAdded":
                    self.complaints.append(params["entry"]["text"])
                case "Network.requestWillBeSent" if not params["request"]["url"].startswith("data:"):
                    self.requests.append(params["request"]["url"])
                case "Page.javascriptDialogOpening":
                    self.dialogs.append(params["message"])

    def open(self, path: Path) -> None:
        """Open a file and wait until it has loaded and been drawn."""
        self.url = path.resolve().as_uri()
        trouble = self.call("Page.navigate", url=self.url).get("errorText")
        if trouble:
            raise RuntimeError(f"{self.url}: {trouble}")
        self.until("document.readyState === 'complete' && location.href.startsWith('file:')")
        self.drawn()

    def evaluate(self, script: str) -> Any:
        """The value of an expression; promises are awaited."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", script))
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + PATIENCE
        while not self.evaluate(f"Boolean({script})"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not true after {PATIENCE:g} s: {script}")
            time.sleep(0.02)

    def drawn(self) -> None:
        """Wait until what was asked for has been painted."""
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")

    def middle(self, selector: str) -> tuple[float, float]:
        """Where an element is, scrolled into sight."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{element}.scrollIntoView({{block: 'nearest'}})")
        place = "((r) => [r.x, r.y, r.width, r.height])"
        x, y, w, h = self.evaluate(f"{place}({element}.getBoundingClientRect())")
        return x + w / 2, y + h / 2

    def mouse(self, kind: str, x: float, y: float, button: str = "none", **more: Any) -> None:
        clicks = 1 if kind in ("mousePressed", "mouseReleased") else 0
        held = 0 if kind == "mouseReleased" else BUTTONS[button]
        more = {"button": button, "buttons": held, "clickCount": clicks, **more}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, selector: str) -> None:
        self.click_at(*self.middle(selector))

    def click_at(self, x: float, y: float) -> None:
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, "left")
        self.mouse("mouseReleased", x, y, "left")
        self.drawn()

    def drag(self, selector: str, dx: float, dy: float, button: str = "left", shift: bool = False) -> None:
        """Press in the middle of an element, move and let go."""
        x, y = self.middle(selector)
        keys = {"modifiers": SHIFT if shift else 0}
        self.mouse("mousePressed", x, y, button, **keys)
        for part in (0.25, 0.5, 0.75, 1.0):
            self.mouse("mouseMoved", x + dx * part, y + dy * part, button, **keys)
        self.mouse("mouseReleased", x + dx, y + dy, button, **keys)
        self.drawn()

    def wheel(self, selector: str, amount: float) -> None:
        x, y = self.middle(selector)
        self.mouse("mouseWheel", x, y, deltaX=0, deltaY=amount)
        self.drawn()

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        touched = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        self.call("Input.dispatchTouchEvent", type=kind, touchPoints=touched)

    def key(self, key: str, shift: bool = False) -> None:
        keys: dict[str, Any] = {"key": key, "modifiers": SHIFT if shift else 0}
        if len(key) == 1:
            keys["text"] = key
        self.call("Input.dispatchKeyEvent", type="keyDown", **keys)
        self.call("Input.dispatchKeyEvent", type="keyUp", **keys)
        self.drawn()

    def size(self, width: int, height: int, scale: float = 1.0, mobile: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )

    def scheme(self, name: str) -> None:
        """``dark`` or ``light``."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def clean(self) -> None:
        """Nothing went wrong: no error, no dialog, and nothing loaded but the page itself."""
        self.drawn()
        assert self.complaints == []
        assert self.dialogs == []
        assert set(self.requests) == {self.url}

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self.target)


def program() -> str | None:
    """The browser's program."""
    named = os.environ.get("RFT3D_BROWSER")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    found = program()
    if found is None:
        why = f"no browser: none of {', '.join(NAMES)} is installed (Debian: apt-get install chromium)"
        if os.environ.get("RFT3D_BROWSER"):
            why = f"no browser: RFT3D_BROWSER={os.environ['RFT3D_BROWSER']} is no program"
        if os.environ.get("RFT3D_BROWSER_REQUIRED") == "1":
            pytest.fail(why)
        pytest.skip(why)
    browser = Chromium(found)
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture
def tab(chromium: Chromium) -> Iterator[Tab]:
    one = Tab(chromium)
    one.size(1024, 768)
    one.scheme("light")
    try:
        yield one
    finally:
        one.close()
