"""A real Chromium without a window, driven over the pipe of its DevTools protocol.

Source of the protocol: chromedevtools.github.io/devtools-protocol; with
`--remote-debugging-pipe` messages are JSON, ended by a zero byte, on descriptors 3 and 4.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_PATIENCE_SECONDS = 60


class Page:
    """One page; what it wrote to its console is in `complaints`."""

    def __init__(self, requests: int, answers: int) -> None:
        self._requests, self._answers = requests, answers
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._session = ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    @property
    def complaints(self) -> list[dict[str, Any]]:
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [event for event in self.events if event["method"] in kinds]

    @property
    def loaded(self) -> list[str]:
        """The addresses of everything that the page asked for."""
        sent = [e for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def open(self, path: Path, *, width: int = 1100, height: int = 900, dark: bool = False) -> None:
        """Until the page is loaded and its first picture is drawn."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._receive()
        self.drawn()

    def drawn(self) -> None:
        """Until what was asked to be drawn is."""
        twice = "requestAnimationFrame(() => requestAnimationFrame(done))"
        self.evaluate(f"new Promise((done) => {twice})")

    def evaluate(self, expression: str) -> Any:
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wheel(self, x: float, y: float, delta: float) -> None:
        self._mouse("mouseWheel", x, y, deltaX=0, deltaY=delta)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self._mouse("mousePressed", *start, button="left", buttons=1, clickCount=1)
        self._mouse("mouseMoved", *end, button="left", buttons=1)
        self._mouse("mouseReleased", *end, button="left", clickCount=1)

    def _mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)
        self.drawn()

    def screenshot(self, path: Path) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session and method != "Browser.close":
            message["sessionId"] = self._session
        os.write(self._requests, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer)
                return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], _PATIENCE_SECONDS)
            part = os.read(self._answers, 1 << 20) if ready else b""
            assert part, "chromium fell silent"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message


@contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """A page in a browser of its own, whose files go to `folder`."""
    assert CHROMIUM is not None
    (child_in, our_out), (our_in, child_out) = os.pipe(), os.pipe()
    log = os.open(folder / "chromium.log", os.O_WRONLY | os.O_CREAT)
    # No sandbox: checks run as root in containers, where it cannot start.  The page is ours.
    arguments = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "about:blank",
    ]  # fmt: skip
    process = os.posix_spawn(
        CHROMIUM,
        arguments,
        {**os.environ, "HOME": str(folder)},
        file_actions=[
            # Aside first: 3 and 4 may be what these pipes themselves are.
            (os.POSIX_SPAWN_DUP2, child_in, 103),
            (os.POSIX_SPAWN_DUP2, child_out, 104),
            (os.POSIX_SPAWN_DUP2, log, 2),
            (os.POSIX_SPAWN_DUP2, 103, 3),
            (os.POSIX_SPAWN_DUP2, 104, 4),
            (os.POSIX_SPAWN_CLOSE, 103),
            (os.POSIX_SPAWN_CLOSE, 104),
        ],
        setpgroup=0,
    )
    for descriptor in (child_in, child_out, log):
        os.close(descriptor)
    try:
        page = Page(our_out, our_in)
        yield page
        page.call("Browser.close")
    finally:
        _end(process)
        os.close(our_out)
        os.close(our_in)


def _end(process: int) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if os.waitpid(process, os.WNOHANG)[0]:
            return
        select.select([], [], [], 0.05)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
