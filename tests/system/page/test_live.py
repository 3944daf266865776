"""The live page shows what devices send, at once and without a gap."""

import json
import re
import time

from playwright.sync_api import Request, Route

from integration.api.asking import row
from support.stack import Stack
from support.waiting import stretched, wait_until
from system.faults.proxy import Proxy
from system.page.conftest import Device, store_old
from system.page.watched_page import SERIES, OpenPage, series_of

CUT_SECONDS, RATE = 10, 20
LIVE = "**/api/iot/live"
CATCH_SLOW = """window.slow = [];
    const begin = setTimeout;
    window.setTimeout = (act, ms) => (ms === 5000 ? slow.push(act) : begin(act, ms));"""


def test_a_reading_appears_within_a_second(module_stack: Stack, open_page: OpenPage) -> None:
    first = row("secret 1", freeform={"tag": "a", "temperature": 20})
    assert module_stack.put([first]).status == 201
    page = open_page(module_stack.port)
    page.open("secret 1")
    page.wait_for_text(".plot[data-field=temperature] .readout", "20")
    for temperature in (31, 32, 33):
        rows = [row("secret 1", freeform={"tag": "b", "temperature": temperature})]
        assert module_stack.put(rows).status == 201
        acknowledged = time.monotonic()
        page.wait_for(
            """(text) => document.querySelector(".plot .readout").textContent.endsWith(text)
            && document.querySelector("#table-body tr").textContent.includes(text)""",
            str(temperature),
        )
        assert time.monotonic() - acknowledged < stretched(1)
    page.wait_for_text("#tags-items", "b")


def test_a_wrong_password_says_so(module_stack: Stack, open_page: OpenPage) -> None:
    assert module_stack.put([row("secret 2", freeform=1)]).status == 201
    page = open_page(module_stack.port)
    page.expected = {"404 (NOT FOUND)"}
    page.submit("secret 3")
    page.wait_for_text("#entry-message", "No readings under this password")
    assert page.page.locator("#password").get_attribute("aria-invalid") == "true"
    page.see("wrong-password")
    page.open("secret 2")


def test_a_cut_connection_misses_nothing(module_stack: Stack, open_page: OpenPage) -> None:
    """Readings that are sent while the connection is cut appear afterwards, each once."""
    device = Device(module_stack, "secret 4", RATE, lambda n: {"n": n, "level": n % 7})
    with Proxy(module_stack.port) as proxy, device.sending():
        assert wait_until(lambda: device.sent > 0)
        page = open_page(proxy.port)
        page.expected = {"net::ERR_"}
        page.open("secret 4")
        page.wait_for_text(".plot[data-field=level] .readout", "…")
        cut_at = device.sent
        proxy.cut(cutting=True)
        page.wait_for_text("#notice", "The connection is lost")
        page.see("reconnecting")
        page.wait_for_text("#notice", "Disconnected")
        page.see("disconnected")
        assert wait_until(lambda: device.sent - cut_at > CUT_SECONDS * RATE)
        button = page.page.get_by_role("button", name="Try now")
        button.focus()
        text = page.page.inner_text("#notice")
        page.wait_for(f"() => document.querySelector('#notice').innerText !== {json.dumps(text)}")
        assert page.page.evaluate("document.activeElement.textContent") == "Try now"
        proxy.cut(cutting=False)
        page.page.keyboard.press("Enter")  # unless the page connects by itself before
        page.wait_for_text("#status-text", "Live")
        until = device.sent
        assert wait_until(lambda: page.count()[-1] >= until)
        numbers = page.count()
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert numbers[0] <= cut_at
        assert numbers[-1] >= until
        assert page.page.locator("#notice").is_hidden()


def test_readings_that_the_stream_leaves_out(module_stack: Stack, open_page: OpenPage) -> None:
    """The page says how many readings a summary leaves out, reads them for the plots, and connects
    again by itself."""
    now = round(time.time() * 1000)
    behind = 20_000
    reading = row("secret 6", freeform={"x": 4}, interrogator_time=1000 * (now - behind))
    assert module_stack.put([reading]).status == 201
    summary = {"skipped": 1234, "from": now - 5000, "to": now}
    opened = {"time": now, "heartbeat": 15}
    events = (
        f"retry: 100\nevent: open\ndata: {json.dumps(opened)}\n\n"
        f"event: summary\ndata: {json.dumps(summary)}\n\n"
    )
    page = open_page(module_stack.port)
    page.page.add_init_script(CATCH_SLOW)
    page.page.reload()
    page.page.route(LIVE, lambda _: None)  # requests wait until the route is removed
    page.page.route(
        LIVE,
        lambda route: route.fulfill(content_type="text/event-stream", body=events),
        times=1,
    )
    with page.page.expect_request(
        lambda _: sum(each.url.endswith("/live") for each in page.requests) == 2
    ):
        page.open("secret 6")
    page.page.evaluate("slow.at(-1)()")  # the service takes long to answer
    page.wait_for_text("#notice", "The connection is lost")
    assert page.page.inner_text("#status-text") == "Reconnecting"
    page.page.unroute(LIVE)
    page.wait_for_text("#notice", "1,234 readings were left out")
    page.wait_for_text("#status-text", "Live")
    page.wait_for_text(".plot .readout", "4")
    page.see("skipped")

    def covers(request: Request) -> bool:
        query = series_of(request)
        return (
            query.get("by") == "interrogator"
            and int(query["from"]) <= now - 5000 - behind
            and int(query["to"]) > now
        )

    # The page does not hold all readings of the last minute any more.
    page.page.focus("#plots")
    with page.page.expect_request(SERIES):
        page.page.keyboard.press("Space")
    page.page.keyboard.press("Escape")
    page.page.select_option("#by", "interrogator")
    with page.page.expect_request(covers):
        page.page.check("input[name=window][value='300']", force=True)
    with page.page.expect_request(covers):
        page.view(f"view.skipped({json.dumps(summary)})")


def test_a_browser_whose_clock_is_slow(module_stack: Stack, open_page: OpenPage) -> None:
    """The page reads what the stream did not send of a longer window."""
    assert module_stack.put([row("secret 8", freeform={"x": 4})]).status == 201
    page = open_page(module_stack.port)
    page.page.add_init_script("const now = Date.now; Date.now = () => now() - 600_000")
    page.page.reload()
    page.open("secret 8")
    page.wait_for_text(".plot .readout", "4")
    with page.page.expect_request(SERIES):
        page.page.check("input[name=window][value='300']", force=True)


def test_clocks_that_are_far_ahead(module_stack: Stack, open_page: OpenPage) -> None:
    """Their readings replace no others of their line, and the page still knows what it holds."""
    now = round(time.time() * 1_000_000)
    good = [row("secret 9", freeform={"x": n % 20}, interrogator_time=now) for n in range(1800)]
    # These readings would fill each slot of the line.
    fast = [now + 65_000_000 + n * 50_000 for n in range(1500)]
    fast.append(now + 10 * 365 * 86_400 * 1_000_000)
    ahead = [row("secret 9", freeform={"x": 99}, interrogator_time=at) for at in fast]
    assert module_stack.put(good).status == 201
    assert module_stack.put(ahead).status == 201
    page = open_page(module_stack.port)
    page.open("secret 9")
    page.wait_for_text("#table-note", f"of {len(good) + len(ahead):,}")
    page.wait_for_text(".plot .readout", "0 … 19")
    assert page.view("view.by") == "interrogator"
    page.view("view.show(view.now() - 30_000, view.now())")
    assert page.page.get_attribute("#plots", "data-loading") == "false"
    assert not any(map(series_of, page.requests))


def test_late_answers_for_an_earlier_password(module_stack: Stack, open_page: OpenPage) -> None:
    """The page ignores them."""
    earlier = {"tag": "earlier", "x": 4}
    store_old(module_stack, "secret earlier", earlier)
    assert module_stack.put([row("secret earlier", freeform=earlier)]).status == 201
    store_old(module_stack, "secret later", {"tag": "later", "y": 5})
    page = open_page(module_stack.port)
    page.open("secret earlier")
    page.wait_for_text(".plot .readout", "4")
    held: list[Route] = []

    def hold(route: Route) -> None:
        if len(held) < 3:
            held.append(route)
        else:
            route.continue_()

    page.page.route(re.compile("/api/iot/(last|series)"), hold)
    with page.page.expect_request(SERIES):
        page.page.check("input[name=window][value='900']", force=True)
    with page.page.expect_request("**/last/60"):
        page.view("void view.showNewest()")
    page.page.click("#lock")
    page.open("secret later")
    page.wait_for_text("#table-body", "later")
    for route in held:
        with page.page.expect_response(route.request.url):
            route.continue_()
    assert module_stack.put([row("secret later", freeform={"tag": "later", "y": 6})]).status == 201
    page.wait_for_text("#table-body", '"y": 6')
    assert page.page.inner_text("#tags-items").splitlines() == ["later", "only"]
    assert page.view("!view.fields.numbers.some(({name}) => name === 'x')")


def test_a_field_has_the_name_of_a_member_of_every_object(
    module_stack: Stack, open_page: OpenPage
) -> None:
    """A reading that lacks the field has no value for it, and no text of the browser."""
    names = ("constructor", "toString", "__proto__")
    rows = [row("secret 7", freeform={name: number}) for number, name in enumerate(names)]
    assert module_stack.put([*rows, row("secret 7", freeform={"tag": "a"})]).status == 201
    page = open_page(module_stack.port)
    page.open("secret 7")
    page.wait_for_text("#table-body", "a")
    for name in names:
        page.wait_for_text("#table-head", name)
    values = page.page.locator("#table-body td").all_inner_texts()
    assert not {"{}", "[object Object]"}.intersection(values)
    assert not [each for each in values if "native code" in each]
