"""The history: the range, the lines and the table that the page shows."""

import time

from integration.api.asking import row
from support.stack import Stack
from system.page.conftest import HOUR, PHONE, stored
from system.page.watched_page import SERIES, OpenPage, WatchedPage, loaded, steps

LABELS = """(increment) => import("/assets/plots.js").then(({timeLabels}) => {
    const times = [new Date(2025, 11, 31), new Date(2026, 0, 1), new Date(2026, 0, 1, 8, 30)];
    return timeLabels(null, times.map(Number), 0, 0, increment);
})"""


def lines_drawn(page: WatchedPage) -> int:
    """Return the number of plots that say which values they show."""
    shown = page.page.locator(".plot .readout").all_text_contents()
    return sum("…" in text for text in shown)


def test_history_follows_the_range(module_stack: Stack, open_page: OpenPage) -> None:
    """The page shows a range of the past, and asks for finer steps as it becomes shorter."""
    begin = time.time() - 24 * HOUR
    stored(module_stack, "secret past", begin, 900, 60)
    page = open_page(module_stack.port)
    page.open("secret past")
    page.page.select_option("#by", "interrogator")
    page.page.check("#mode-history", force=True)
    page.page.select_option("#last", str(86_400))
    page.wait_for("() => [...document.querySelectorAll('.readout')].some((e) => e.textContent)")
    loaded(page)
    assert lines_drawn(page) == 3
    page.wait_for_text("#tags-items", "room-3")
    page.see("history")
    first = steps(page)[-1]
    assert first > 60_000
    # The readings of the live window were all in the stream.
    assert min(steps(page)) > 1000
    page.page.focus("#plots")
    for _ in range(6):
        page.page.keyboard.press("ArrowLeft")
        page.page.keyboard.press("+")
    loaded(page)
    assert steps(page)[-1] < first
    # Changed choices interrupt a load. The page shows that the next one is still under way.
    page.page.route(SERIES, lambda _: None)  # requests wait until the route is removed
    with page.page.expect_request(SERIES):
        page.page.click("#wider")
    with page.page.expect_request(SERIES):
        page.view("view.choose({})")
    assert page.page.get_attribute("#plots", "data-loading") == "true"
    page.wait_for_text("#notice", "a browser opens at most six connections")
    page.page.unroute(SERIES)
    page.page.wait_for_selector("#notice", state="hidden")
    loaded(page)
    page.page.set_viewport_size(PHONE)
    page.see("history-phone")
    page.page.click("#later")
    page.page.fill("#from", "2001-01-01T00:00:00")
    page.page.fill("#to", "2001-01-02T00:00:00")
    page.wait_for_text("#notice", "No readings in this range")
    page.see("history-empty")
    page.page.get_by_role("button", name="Go there").click()
    page.page.wait_for_selector("#notice", state="hidden")
    page.page.click("#lock")
    page.open("secret past")
    page.wait_for_text("#status-text", "Live")
    assert page.page.is_checked("#mode-live")
    page.wait_for_text("#table-body", "room-1")


def test_what_does_not_change_the_time_on_the_axis(
    module_stack: Stack, open_page: OpenPage
) -> None:
    """Neither a look at old readings nor their arrival. The table has those of the range."""
    begin = int(time.time()) - 24 * HOUR
    stored(module_stack, "secret axis", begin, 60, 60)
    stored(module_stack, "secret axis", time.time() - 7, 70, 0.1)
    page = open_page(module_stack.port)
    page.open("secret axis")
    page.wait_for_text("#table-note", "of 130")
    page.page.check("#mode-history", force=True)
    page.view(f"view.show({1000 * begin}, {1000 * (begin + HOUR)})")
    page.wait_for_text("#table-note", "The newest 60,")
    loaded(page)
    # The lines of the next range are loaded already, and its table is not.
    asked = len(steps(page))
    page.view("view.pan(-0.25)")
    page.wait_for_text("#table-note", "The newest 45,")
    assert len(steps(page)) == asked
    stored(module_stack, "secret axis", begin, 60, 60)
    page.wait_for("() => import('/assets/main.js').then(({view}) => view.recent.count === 190)")
    assert page.view("view.by") == "interrogator"
    page.page.focus("#plots")
    page.page.keyboard.press("Escape")
    page.wait_for_text("#table-note", "of 190")
    assert page.page.is_checked("#mode-live")
    assert page.view("view.by") == "received"
    # A person who chooses Automatic again does change it.
    page.page.select_option("#by", "interrogator")
    page.page.click("#pause")
    page.page.select_option("#by", "")
    assert page.view("view.by") == "received"


def test_fields_without_a_history(module_stack: Stack, open_page: OpenPage) -> None:
    """More fields than a request may have, and fields that have no series: the page says which."""
    at = time.time() - 24 * HOUR
    odd = ["time", "", "pressure, hPa", "x" * 257]
    freeforms = [
        dict.fromkeys([f"field {n}" for n in range(25)] + odd, number) | {"a, b": "text"}
        for number in range(3)
    ]
    rows = [
        row("secret odd", freeform=each, interrogator_time=round((at + n * 60) * 1_000_000))
        for n, each in enumerate([*freeforms, 21.5])
    ]
    rows.append(row("secret odd", freeform={}, interrogator_time=2**63 - 1))
    assert module_stack.put(rows).status == 201
    page = open_page(module_stack.port, timezone_id="Europe/Berlin")
    page.open("secret odd")
    page.wait_for_text("#table-note", "The newest 5")
    assert "NaN" not in page.page.inner_text("#table-body")
    page.page.select_option("#by", "interrogator")
    page.view("view.choose({fields: new Map(view.fields.numbers.map((each) => [each, true]))})")
    page.page.check("#mode-history", force=True)
    page.page.select_option("#last", str(7 * 86_400))
    page.wait_for_text("#notice", "No history of ")
    for name in ["time", "", "pressure, hPa", "x" * 40 + "…", "(whole freeform)"]:
        assert f"“{name}”" in page.page.inner_text("#notice")
    readout = "document.querySelector('.plot[data-field=\"field 24\"] .readout')"
    for number in range(25):
        page.page.locator(f'.plot[data-field="field {number}"]').scroll_into_view_if_needed()
        page.wait_for_text(f'.plot[data-field="field {number}"] .readout', "0 … 2")
    page.see("history-odd")
    plot = page.page.locator('.plot[data-field="field 24"] .u-over')
    width = plot.evaluate("(element) => element.clientWidth")
    plot.hover(position={"x": width * 6 / 7, "y": 50})
    page.wait_for(f"() => /^\\d{{4}}-.* [012]$/.test({readout}.textContent)")
    # An end that is not edited keeps its time, also in the hour that occurs twice.
    page.view("view.show(Date.parse('2026-10-25T01:20Z'), Date.parse('2026-10-25T03:20Z'))")
    page.page.fill("#to", "2026-10-25T04:30:00")
    range_now = page.view("Object.values(view.range).map((at) => new Date(at).toISOString())")
    assert range_now == ["2026-10-25T01:20:00.000Z", "2026-10-25T03:30:00.000Z"]
    page.page.fill("#from", "2026-10-26T01:00:00")  # after the other end, which is edited next
    page.page.focus("#to")
    page.view("view.onChange()")
    page.page.fill("#to", "2026-10-26T02:00:00")
    range_now = page.view("Object.values(view.range).map((at) => new Date(at).toISOString())")
    assert range_now == ["2026-10-26T00:00:00.000Z", "2026-10-26T01:00:00.000Z"]
    day = 24 * HOUR * 1000
    assert page.page.evaluate(LABELS, 365 * day) == ["2025", "2026", "2026"]
    assert page.page.evaluate(LABELS, 31 * day) == ["2025-12", "2026-01", "2026-01"]
    assert page.page.evaluate(LABELS, day)[:2] == ["12-31", "2026-01-01"]
    assert page.page.evaluate(LABELS, day // 48) == ["12-31", "2026-01-01", "08:30"]
    page.page.check("#mode-live", force=True)
    page.page.wait_for_selector("#notice", state="hidden")
