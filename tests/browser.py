"""A real browser for tests: Chromium without a window, told what to do through its driver's own protocol (w3.org/TR/webdriver).

Installs nothing: where there is no Chromium, a test fails and says what is missing.
"""

import base64
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import until

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run", "--window-size=1200,1800"),
)


class Browser:
    """One window."""

    def __init__(self, driver: str, binary: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.url = f"http://127.0.0.1:{self._port()}/session"
        options = {"binary": binary, "args": [*_FLAGS, f"--user-data-dir={folder / 'profile'}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._send("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self.url += f"/{session['sessionId']}"

    def _port(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "successfully on port" in line:
                return line.rpartition(" ")[2].strip(" .\n")
        raise AssertionError("the browser's driver ended before it listened")

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:500]
            error.close()
            raise LookupError(said) from None

    def open(self, url: str) -> None:
        """Go to a page."""
        self._send("POST", "/url", {"url": url})

    def find(self, css: str) -> str:
        """Return the element, once it is there."""

        def there() -> Any:
            return self._send("POST", "/elements", {"using": "css selector", "value": css})

        return str(until(there, 10, what=lambda: f"{css} on {self.run('return document.body.innerText')}")[0][_ELEMENT])

    def type(self, css: str, text: str) -> None:
        """Replace what stands in a field, key by key."""
        element = self.find(css)
        self._send("POST", f"/element/{element}/clear", {})
        if text:
            self._send("POST", f"/element/{element}/value", {"text": text})

    def click(self, css: str) -> None:
        """Click on it."""
        self._send("POST", f"/element/{self.find(css)}/click", {})

    def text(self, css: str) -> str:
        """Return what people can read in it."""
        return str(self._send("GET", f"/element/{self.find(css)}/text"))

    def reads(self, css: str, text: str) -> None:
        """Wait until people can read this in it: a page may be on its way."""

        def there() -> bool:
            try:
                return text in self.text(css)
            except LookupError:  # the old page went away in between
                return False

        until(
            there,
            10,
            what=lambda: f"{text!r} in {css} of {self.run('return document.body.innerText')}, {self.errors()}",
        )

    def run(self, script: str) -> Any:
        """Run a script on the page."""
        return self._send("POST", "/execute/sync", {"script": script, "args": []})

    def errors(self) -> list[str]:
        """Return what the page has complained about since the last time."""
        entries = self._send("POST", "/se/log", {"type": "browser"})
        return [one["message"] for one in entries if one["level"] == "SEVERE" and "favicon.ico" not in one["message"]]

    def save_picture(self, path: Path) -> None:
        """Save what the window shows."""
        path.write_bytes(base64.b64decode(self._send("GET", "/screenshot")))

    def close(self) -> None:
        """End it."""
        try:
            self._send("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait(10)
            assert self.process.stdout is not None
            self.process.stdout.close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Give a window of a fresh browser."""
    driver, binary = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or binary is None:
        pytest.fail(
            "This test needs Chromium and its driver: apt-get install chromium chromium-driver (or -m 'not browser')."
        )
    opened = Browser(driver, binary, tmp_path)
    yield opened
    opened.close()
