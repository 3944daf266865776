"""Debian's Chromium, and devices that send readings."""

import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ViewportSize, sync_playwright

from integration.api.asking import Row, row
from iot_cipher.tokens import new_tokens_text, with_token
from support.stack import Stack
from system.page.watched_page import OpenPage, WatchedPage

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PHONE: ViewportSize = {"width": 390, "height": 844}
HOUR = 3600
Freeform = Callable[[int], Any]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless browser."""
    if CHROMIUM is None:
        pytest.skip("needs chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--enable-precise-memory-info"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """A function that opens the page of the service at a port, without a password."""
    pages: list[WatchedPage] = []

    def open_one(port: int, **options: Any) -> WatchedPage:
        pages.append(WatchedPage(browser, port, **options))
        return pages[-1]

    yield open_one
    for page in pages:
        page.close("secret")


def store_old(stack: Stack, password: str, freeform: object, count: int = 1, **times: int) -> None:
    """Store equal readings that were received ten minutes ago."""
    received = datetime.now(UTC) - timedelta(minutes=10)
    old = row(password, freeform=freeform, absolute_timestamp=received.isoformat(), **times)
    headers = {"Content-Type": "application/json"}
    path = "/api/iot?received=original&ack=stored"
    assert stack.request("PUT", path, json.dumps([old] * count), headers).status == 201


def wave(number: int) -> Row:
    """Return what one of three thermometers measures."""
    at = number / 30
    return {
        "sensor": f"room-{number % 3 + 1}",
        "temperature": round(21 + number % 3 + 1.5 * math.sin(at + number % 3), 2),
        "humidity": round(45 + 6 * math.cos(at / 2 + number % 3), 1),
        "co2": round(600 + 150 * math.sin(at / 3) + 40 * (number % 3)),
    }


def stored(stack: Stack, password: str, begin: float, count: int, step: float) -> None:
    """Store readings whose devices' clocks tell times of the past."""
    rows = [
        row(password, freeform=wave(n), interrogator_time=round((begin + n * step) * 1_000_000))
        for n in range(count)
    ]
    assert stack.put(rows).status == 201


class Device:
    """Sends numbered readings at a rate from a thread."""

    def __init__(self, stack: Stack, password: str, rate: float, freeform: Freeform) -> None:
        self._stack = stack
        self._password = password
        self._rate = rate
        self._freeform = freeform
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.sent = 0

    def reading(self) -> Row:
        """Return the next reading."""
        now = round(time.time() * 1_000_000)
        made = row(self._password, freeform=self._freeform(self.sent), interrogator_time=now)
        self.sent += 1
        return made

    def _send(self) -> None:
        begin = time.monotonic()
        while not self._stop.is_set():
            due = int((time.monotonic() - begin) * self._rate) - self.sent
            if due > 0:
                answer = self._stack.put([self.reading() for _ in range(min(due, 500))])
                assert answer.status == 201, answer
            self._stop.wait(0.05)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send during the block."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()


@pytest.fixture
def tokens(tmp_path: Path) -> tuple[str, str, str]:
    """A tokens file, a token of a device and reader, and one of an operator."""
    text, token = with_token(new_tokens_text(), "someone", ["ingest", "read"])
    text, admin = with_token(text, "operator", ["admin"])
    path = tmp_path / "tokens.json"
    path.write_text(text, encoding="utf-8")
    return str(path), token, admin
