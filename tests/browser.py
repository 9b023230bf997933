"""A headless Chromium for tests, driven through its own pipe: no driver, no port, no network.

Protocol: https://chromedevtools.github.io/devtools-protocol/; with ``--remote-debugging-pipe`` the
browser reads commands from descriptor 3 and answers on 4, JSON ended by a zero byte each.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # tests may run as root in a container
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)
PATIENCE_S = 60.0  # for one answer; only a hang takes so long


def find_browser() -> str | None:
    """Path of a Chromium, or of what ``MAMMOFM_BROWSER`` names."""
    named = os.environ.get("MAMMOFM_BROWSER")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One browser with one page; close it."""

    def __init__(self, path: str) -> None:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.events: list[dict[str, Any]] = []
        self._number = 0
        self._buffer = b""
        self._start(path)
        target = self._call("Target.createTarget", {"url": "about:blank"}, None)["targetId"]
        attached = {"targetId": target, "flatten": True}
        self._session = self._call("Target.attachToTarget", attached, None)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM", "Accessibility"):
            self.call(f"{domain}.enable")

    def _start(self, path: str) -> None:
        commands_in, commands_out = os.pipe()
        answers_in, answers_out = os.pipe()

        def descriptors() -> None:
            kept = [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (commands_in, answers_out)]
            os.dup2(kept[0], 3)
            os.dup2(kept[1], 4)

        self._process = subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={self._folder.name}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=descriptors,
        )
        os.close(commands_in)
        os.close(answers_out)
        self._commands, self._answers = commands_out, answers_in

    def close(self) -> None:
        os.close(self._commands)  # the browser ends with its pipe
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._answers)
        self._folder.cleanup()

    # -------------------- protocol

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        """A command to the page; its result."""
        return self._call(method, given, self._session)

    def _call(self, method: str, given: dict[str, Any], session: str | None) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": given}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], PATIENCE_S)
            data = os.read(self._answers, 1 << 20) if ready else b""
            if not data:
                raise RuntimeError("the browser does not answer")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def wait_for(self, method: str) -> None:
        """Until an event comes that `events` does not hold yet."""
        end = time.monotonic() + PATIENCE_S
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._receive())
            assert time.monotonic() < end, method

    # -------------------- what tests do

    def open(self, path: Path, width: int = 1440, height: int = 1000) -> None:
        """Load a file; `events` then holds what happened since."""
        self.resize(width, height)
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        self.wait_for("Page.loadEventFired")

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def run(self, script: str) -> Any:
        """The value of an expression, promises awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """A key down and up in what has the focus."""
        typed = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        letters = {"text": typed} if typed else {}
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
        code = {"windowsVirtualKeyCode": codes[key]} if key in codes else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **letters, **code)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def place(self, selector: str) -> tuple[float, float]:
        """Centre of an element on the screen, scrolled into view."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        return x, y

    def click(self, selector: str) -> None:
        x, y = self.place(selector)
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def drag(self, selector: str, right: float, down: float, modifiers: int = 0) -> None:
        """From the middle of an element; modifiers: 2 Ctrl, 8 Shift."""
        x, y = self.place(selector)
        self.mouse("mousePressed", x, y, modifiers)
        self.mouse("mouseMoved", x + right / 2, y + down / 2, modifiers)
        self.mouse("mouseMoved", x + right, y + down, modifiers)
        self.mouse("mouseReleased", x + right, y + down, modifiers)

    def mouse(self, kind: str, x: float, y: float, modifiers: int = 0) -> None:
        self.call(
            "Input.dispatchMouseEvent",
            type=kind, x=x, y=y, button="left", buttons=1, clickCount=1, modifiers=modifiers,
        )  # fmt: skip

    def wheel(self, selector: str, down: float, modifiers: int = 0) -> None:
        x, y = self.place(selector)
        self.call(
            "Input.dispatchMouseEvent",
            type="mouseWheel", x=x, y=y, deltaX=0, deltaY=down, modifiers=modifiers,
        )  # fmt: skip

    def screenshot(self, selector: str | None = None) -> bytes:
        """PNG of the window, or of one element."""
        given: dict[str, Any] = {"format": "png"}
        if selector:
            self.place(selector)
            x, y, width, height = self.run(
                f"(() => {{ const r = document.querySelector({json.dumps(selector)})"
                ".getBoundingClientRect();"
                "return [r.x + scrollX, r.y + scrollY, r.width, r.height]; })()"
            )
            given["clip"] = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        return base64.b64decode(self.call("Page.captureScreenshot", **given)["data"])

    def pdf(self) -> bytes:
        """What is printed on paper of the page's own choice."""
        printed = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        return base64.b64decode(printed["data"])

    def problems(self) -> list[str]:
        """Errors and warnings of the page since it was opened: exceptions, refused content."""
        found = []
        for event in self.events:
            given = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(json.dumps(given["exceptionDetails"])[:500])
            if event.get("method") == "Log.entryAdded" and given["entry"]["level"] != "verbose":
                found.append(given["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """Addresses asked for since the page was opened, pictures inside of it left out."""
        urls = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith("data:")]


def main() -> None:
    """``python tests/browser.py PAGE.html PICTURE.png``: how the page looks at first."""
    from PIL import Image

    page, picture = (Path(argument).resolve() for argument in sys.argv[1:])
    path = find_browser()
    if path is None:
        sys.exit("no Chromium found: apt-get install chromium, or set MAMMOFM_BROWSER")
    browser = Browser(path)
    try:
        browser.open(page, 1440, 1120)
        clip = {"x": 0, "y": 0, "width": 1440, "height": 1330, "scale": 1}
        shown = browser.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        shot = Image.open(BytesIO(base64.b64decode(shown["data"]))).convert("RGB")
        few = shot.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(picture, optimize=True)
    finally:
        browser.close()


if __name__ == "__main__":
    main()
