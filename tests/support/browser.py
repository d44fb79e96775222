"""A real browser without a window, told over its debugging protocol what to open and to look at."""

import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.support.waiting import PATIENCE, wait_until

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
_START_S: Final = 60.0 * PATIENCE


class Page:
    """One page of the browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.complaints: list[str] = []
        self._call("Runtime.enable")
        self._call("Page.enable")
        self._call("Log.enable")

    def show(self, address: str, *, width: int, height: int, is_dark: bool) -> None:
        """Open an address in a window of this size."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self._call("Page.navigate", url=address)
        self.wait(f"location.href === {json.dumps(address)} && document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str, timeout_s: float = 30.0 * PATIENCE) -> Any:
        """The same, once it is true."""
        return wait_until(lambda: self.value(expression), expression, timeout_s)

    def picture(self) -> bytes:
        """What it looks like, as PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._connection.send(json.dumps(message))
        while True:
            answer = json.loads(self._connection.recv(timeout=30.0 * PATIENCE))
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(answer["params"])[:500])
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result


@contextmanager
def open_browser() -> Iterator[Page]:
    """An empty page; skips the test where there is no browser."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no browser is installed: one of " + ", ".join(BROWSERS))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                found,
                *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={profile}"),
                *("--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with connect(_address(Path(profile)), max_size=None) as connection:
                yield Page(connection)
        finally:
            process.terminate()
            process.wait()


def _address(profile: Path) -> str:
    """Where the browser's first page is debugged."""
    import urllib.request

    told = profile / "DevToolsActivePort"
    wait_until(lambda: told.exists() and told.read_text().count("\n") == 1, "the browser", _START_S)
    port = told.read_text().split("\n")[0]

    def page() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=20) as answer:
            found = [each for each in json.load(answer) if each["type"] == "page"]
        return str(found[0]["webSocketDebuggerUrl"]) if found else ""

    return wait_until(page, "a page", _START_S)
