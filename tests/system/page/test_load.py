"""The live page stays smooth, and keeps its memory, at 1,000 readings/s."""

import json
import math
import os
import time
from typing import Any

from playwright.sync_api import Browser

from integration.api.asking import Row, row
from support.stack import Stack
from support.waiting import wait_until
from system.page.conftest import Device
from system.page.watched_page import OpenPage, WatchedPage

SECONDS = int(os.environ.get("PAGE_SECONDS", "10"))
RATE = 1000
FRAME_MS = 100
MAX_SHARE = 0.5
"""Part of the time in which the main thread may be busy."""
PHASES = 4096
HEAP_GROWTH = 4 * 2**20
"""Bytes by which the page's heap may grow; the readings of the run take more."""
FILLED = 11_000
"""Readings that fill what the page keeps."""
_FRAMES = """() => {
  window.frames = [];
  let last = performance.now();
  const note = (now) => {
    window.frames.push(now - last);
    last = now;
    requestAnimationFrame(note);
  };
  requestAnimationFrame(note);
}"""


def measure(number: int) -> Row:
    """Return what one of ten tags measures."""
    angle = number / 700
    tag = number % 10
    return {
        "tag": f"tag-{tag}",
        "rssi": round(-60 + 15 * math.sin(angle + tag), 1),
        "doppler": round(30 * math.cos(angle * 2 + tag)),
        "phase": number % PHASES,
        "temperature": round(20 + math.sin(angle / 3) + tag / 10, 2),
    }


def heap(page: WatchedPage) -> int:
    """Return the bytes of the page's heap after a garbage collection."""
    session = page.context.new_cdp_session(page.page)
    session.send("HeapProfiler.collectGarbage")
    used: int = session.send("Runtime.getHeapUsage")["usedSize"]
    session.detach()
    return used


def tasks_of(trace: dict[str, Any]) -> list[float]:
    """Return the CPU times of the tasks of the page's main thread, in milliseconds.

    A frame is a task. Its CPU time does not depend on what else this machine does, as the time
    between frames does.
    """
    events = trace["traceEvents"]
    mains = {
        (each["pid"], each["tid"])
        for each in events
        if each["name"] == "thread_name" and each["args"]["name"] == "CrRendererMain"
    }
    return [
        float(each.get("tdur", 0)) / 1000
        for each in events
        if each["name"].endswith("RunTask") and (each["pid"], each["tid"]) in mains
    ]


def test_the_page_stays_smooth(module_stack: Stack, open_page: OpenPage, browser: Browser) -> None:
    device = Device(module_stack, "secret load", RATE, measure)
    for _ in range(FILLED // 1000):
        rows = [row("secret load", freeform=measure(number)) for number in range(1000)]
        assert module_stack.put(rows).status == 201
    page = open_page(module_stack.port)
    page.open("secret load")
    assert wait_until(lambda: page.view("view.recent.count") >= FILLED)
    with device.sending():
        assert wait_until(lambda: device.sent > RATE)
        before = heap(page)
        page.page.evaluate(_FRAMES)
        browser.start_tracing(page=page.page, categories=["toplevel"])
        begin = device.sent
        began = time.monotonic()
        wait_until(lambda: device.sent - begin > SECONDS * RATE, seconds=12 * SECONDS)
        seconds = time.monotonic() - began
        trace = json.loads(browser.stop_tracing())
        frames = sorted(page.page.evaluate("window.frames"))
        grown = heap(page) - before
    tasks = tasks_of(trace)
    notice = page.page.locator("#notice").text_content()
    print(f"{len(frames)} frames, half within {frames[len(frames) // 2]:.0f} ms,", end=" ")
    print(f"longest {frames[-1]:.0f} ms on this machine; notice: {notice or 'none'}")
    print(f"longest task {max(tasks):.0f} ms of CPU, all {sum(tasks):.0f} ms in {seconds:.0f} s;")
    print(f"heap {before >> 10} KiB + {grown >> 10} KiB")
    assert len(tasks) > SECONDS
    assert max(tasks) < FRAME_MS
    assert sum(tasks) < seconds * 1000 * MAX_SHARE
    assert grown < HEAP_GROWTH
    last = (device.sent - 1) % PHASES
    newest = "view.recent.newest().next().value.content.phase"
    assert wait_until(lambda: page.view(newest) == last)
