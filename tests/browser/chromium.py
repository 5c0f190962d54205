"""Drives a headless Chromium over the DevTools protocol: a web socket with JSON messages, from the standard library."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from waiting import wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome")
_KEY_CODES = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Escape": 27, "Tab": 9}
# Seconds after which a page is taken to be stuck; the slowest wait takes less than one on an idle machine.
_PATIENCE = 60.0
_LOCAL = ("file:", "data:", "blob:", "about:")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--hide-scrollbars",
          "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0")


def find_chromium() -> str | None:
    """Return the path of a Chromium, None if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class WebSocket:
    """A client of a web socket on this machine; RFC 6455, texts only."""

    def __init__(self, url: str) -> None:
        host, port, path = re.fullmatch(r"ws://([^:/]+):(\d+)(/.*)", url).groups()
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
                             "Connection: Upgrade\r\n"
                             f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        self._stream = self._socket.makefile("rb")
        while self._stream.readline() not in (b"\r\n", b""):
            pass

    def send(self, text: str) -> None:
        """Send a text in one masked frame."""
        data, mask = text.encode(), os.urandom(4)
        size = len(data)
        length = (struct.pack("!B", 0x80 | size) if size < 126 else struct.pack("!BH", 0x80 | 126, size)
                  if size < 1 << 16 else struct.pack("!BQ", 0x80 | 127, size))
        repeated = mask * (size // 4 + 1)
        masked = (int.from_bytes(data, "big") ^ int.from_bytes(repeated[:size], "big")).to_bytes(size, "big")
        self._socket.sendall(b"\x81" + length + mask + masked)

    def receive(self) -> str:
        """Return the next text, whose frames are joined."""
        parts = []
        while True:
            first, second = self._stream.read(2)
            size = second & 127
            if size > 125:
                size = int.from_bytes(self._stream.read(2 if size == 126 else 8), "big")
            contents = self._stream.read(size)
            if first & 15 in (0, 1):
                parts.append(contents)
                if first & 128:
                    return b"".join(parts).decode()

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


class Browser:
    """One page of a headless Chromium; `problems` collects errors of scripts and requests to a network."""

    def __init__(self, executable: str, folder: Path) -> None:
        """Start the browser with a profile in `folder`."""
        self.problems: list[str] = []
        self._log = (folder / "log").open("w+b")
        self._process = subprocess.Popen([executable, *_FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"],
                                         stdout=subprocess.DEVNULL, stderr=self._log)
        wait_until(lambda: bool(self._find_port(folder)), self._process)
        port = self._find_port(folder)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=60) as reply:
            targets = json.load(reply)
        self._socket = WebSocket(next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page"))
        self._number = 0
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.call(f"{domain}.enable")

    @staticmethod
    def _find_port(folder: Path) -> str:
        listening = re.search(r"DevTools listening on ws://[^:]+:(\d+)/", (folder / "log").read_text(errors="replace"))
        return listening[1] if listening else ""

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; events that come before it are looked at."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.receive())
            if message.get("id") == self._number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._handle_event(message)

    def _handle_event(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(_LOCAL):
                self.problems.append(f"request to {url}")

    def open(self, url: str, *, width: int = 1280, height: int = 900, is_dark: bool = False) -> None:
        """Open a page of a size in a colour scheme, and wait until it has loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 500)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}])
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.wait_for(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url[:20])})")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, of a promise when it is fulfilled."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, (expression, result["exceptionDetails"])
        return result["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true. Raises AssertionError if it never is."""
        deadline = time.monotonic() + _PATIENCE
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, (expression, self.problems)
            time.sleep(0.002)

    def press(self, key: str) -> None:
        """Press and release a key, such as "ArrowLeft" or "x"."""
        text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        code = {"windowsVirtualKeyCode": _KEY_CODES[key]} if key in _KEY_CODES else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **code)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def type(self, text: str) -> None:
        """Insert a text where the focus is."""
        self.call("Input.insertText", text=text)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag the mouse from one position to another."""
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def close(self) -> None:
        """End the browser."""
        self._socket.close()
        self._process.terminate()
        self._process.wait(timeout=60)
        self._log.close()
