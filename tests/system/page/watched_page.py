"""The live page in a browser, watched: errors, requests to other hosts, traces of passwords."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

IMAGES = Path(__file__).parents[3] / "build/page"
"""Each screenshot of the tests."""
PATIENCE_MS = 120_000
SERIES = re.compile(r"/api/iot/series\?")
_VIEW = 'import("/assets/main.js").then(({view}) => %s)'


def series_of(request: Request) -> dict[str, str]:
    """Return the parameters of a request for a series; {} for another request."""
    return dict(parse_qsl(urlsplit(request.url).query)) if SERIES.search(request.url) else {}


class WatchedPage:
    """A page of its own browser context."""

    def __init__(self, browser: Browser, port: int, **options: Any) -> None:
        self._origin = f"http://127.0.0.1:{port}"
        self.context: BrowserContext = browser.new_context(
            viewport={"width": 1440, "height": 900}, **options
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.requests: list[Request] = []
        self.errors: list[str] = []
        self.expected: set[str] = set()
        """Words of console messages that the browser itself writes about a refused request."""
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._note_request)
        self.page.goto(self._origin)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not any(
            words in message.text for words in self.expected
        ):
            self.errors.append(message.text)

    def _note_request(self, request: Request) -> None:
        self.requests.append(request)

    def open(self, password: str, token: str = "") -> None:
        """Enter a password, and wait for its readings."""
        self.submit(password, token)
        self.page.wait_for_selector("#readings:not([hidden])")

    def submit(self, password: str, token: str = "") -> None:
        """Enter a password."""
        self.page.fill("#password", password)
        if token:
            self.page.fill("#token", token)
        self.page.click("#open")

    def wait_for(self, condition: str, argument: object = None) -> None:
        """Wait until a script is true. It is asked in each frame."""
        self.page.wait_for_function(condition, arg=argument, polling="raf")

    def wait_for_text(self, selector: str, text: str) -> None:
        """Wait until an element that is shown has a text."""
        self.page.locator(selector).filter(has_text=text).first.wait_for()

    def view(self, expression: str) -> Any:
        """Evaluate a script with the `view` of the page."""
        return self.page.evaluate(_VIEW % expression)

    def count(self, field: str = "n") -> list[int]:
        """Return a number of each reading that the page holds, in the order of their arrival."""
        texts = self.view("[...view.recent.newest()].map(({freeform}) => freeform)")
        return [json.loads(text)[field] for text in reversed(texts)]

    def see(self, name: str, *, full: bool = False) -> None:
        """Take a screenshot, and check that axe finds no violation."""
        IMAGES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=IMAGES / f"{name}.png", full_page=full)
        results = Axe().run(self.page)
        assert results.violations_count == 0, f"{name}: {results.generate_report()}"

    def close(self, *passwords: str) -> None:
        """Check what the page did, and close it."""
        stored = self.page.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location])"
        )
        urls = [each.url for each in self.requests]
        self.context.close()
        assert not self.errors, self.errors
        own = (f"{self._origin}/", f"blob:{self._origin}/")
        foreign = {url for url in urls if not url.startswith(own)}
        assert not foreign
        for password in passwords:
            assert password not in stored
            assert not [url for url in urls if password in unquote_plus(url)]


def steps(page: WatchedPage) -> list[int]:
    """Return the step of each series that the page has asked for."""
    return [int(query["step"]) for query in map(series_of, page.requests) if query]


def loaded(page: WatchedPage) -> None:
    """Wait until the page has the history of the range."""
    page.wait_for("() => document.querySelector('#plots').dataset.loading === 'false'")


OpenPage = Callable[..., WatchedPage]
