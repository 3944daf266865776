"""Each state of the live page: what it shows, a screenshot, and no violation that axe finds."""

import csv
import json
import time

from playwright.sync_api import Route, ViewportSize
from redis import Redis

from integration.api.asking import row
from support.keys import KEYS
from support.stack import Stack
from system.page.conftest import HOUR, PHONE, Device, store_old, stored, wave
from system.page.watched_page import SERIES, OpenPage, loaded, series_of, steps

WIDE: ViewportSize = {"width": 1920, "height": 1080}
BAR_WIDTH = """(text) => {
    document.querySelector("#status-text").textContent = text;
    return document.documentElement.scrollWidth;
}"""
END_SHOWN = """(title) => title.lastChild.textContent === "a long name "
    && title.lastChild.getBoundingClientRect().right <= title.getBoundingClientRect().right"""
TAG_FIELDS = """(freeforms) => import("/assets/readings.js").then(({Fields}) => {
    const fields = new Fields();
    return freeforms.map((content) => {
        fields.learn({content});
        return fields.tagField()?.name ?? null;
    });
})"""


def test_the_states_without_readings(module_stack: Stack, open_page: OpenPage) -> None:
    page = open_page(module_stack.port)
    page.see("entry")
    page.page.emulate_media(color_scheme="dark")
    page.see("entry-dark")
    page.page.click("#theme")
    page.page.route("**/api/iot/live", lambda _: None)  # requests wait until the route is removed
    page.submit("secret quiet")
    page.wait_for_text("#entry-message", "Still waiting for the service")
    page.see("entry-slow")
    page.page.click("#open")
    page.page.unroute("**/api/iot/live")
    store_old(module_stack, "secret quiet", wave(0))
    store_old(module_stack, "secret quiet", wave(1), 60, interrogator_time=2**63 - 1)
    page.open("secret quiet")
    page.wait_for_text("#notice", "No readings in the last minute")
    page.wait_for_text("#table-body", "room-2")
    page.see("empty")
    page.page.get_by_role("button", name="Go there").click()
    # The 60 readings with the newest device time are not the only ones whose lines are shown.
    page.wait_for_text("#tags-items", "room-1")
    page.wait_for_text(".plot .readout", "21")
    # The page offers no range in which a reading without a valid device time is not found.
    before = len(page.requests)
    page.page.select_option("#by", "interrogator")
    page.wait_for_text("#notice", "The newest reading has no device time that the page can show")
    assert not [each.url for each in page.requests[before:] if each.url.endswith("/last/60")]
    assert page.page.locator("#notice button").count() == 0
    page.page.focus("#plots")
    page.page.keyboard.press("Escape")
    page.wait_for_text("#notice", "No readings in the last minute")
    page.page.click("#pause")
    page.page.check("input[name=window][value='300']", force=True)
    page.wait_for_text("#status-text", "Live")
    page.wait_for_text("#notice", "No readings in the last minute")
    page.page.select_option("#by", "received")
    page.page.get_by_role("button", name="Go there").wait_for()


def test_readings_without_numbers(module_stack: Stack, open_page: OpenPage) -> None:
    """There is no plot, so there is no list of lines."""
    stored_texts = [row("secret texts", freeform={"door": text}) for text in ("open", "closed")]
    assert module_stack.put(stored_texts).status == 201
    page = open_page(module_stack.port)
    page.open("secret texts")
    page.wait_for_text("#table-body", "closed")
    page.wait_for("() => !document.querySelector('#tags').hidden")
    assert not page.page.locator("#tags").is_visible()
    page.wait_for_text("#no-plots", "Nothing to plot")
    page.see("texts")
    # The next table may have the same columns. The page forgets the readings all the same.
    page.page.select_option("#tag-field", label="One line")
    page.wait_for("() => !document.querySelector('#table-head').textContent.includes('door')")
    page.page.click("#lock")
    assert page.page.text_content("#table-body") == ""


def test_long_names_and_texts_leave_room(module_stack: Stack, open_page: OpenPage) -> None:
    """A long name used to hide the range of its plot, and a long text all columns after it."""
    now = round(time.time() * 1_000_000)
    freeform = {"a long name " * 20: 0, "text": "x" * 5_000, "after": 1}
    rows = [
        row("secret long", freeform=freeform | {"a long name " * 20: n}, interrogator_time=now + n)
        for n in range(5)
    ]
    assert module_stack.put(rows).status == 201
    page = open_page(module_stack.port)
    page.open("secret long")
    page.wait_for_text(".plot .readout", "0 … 4")
    page.wait_for_text("#table-body", "xxx")
    cut = "(all) => all.filter((each) => each.scrollWidth > each.clientWidth).length"
    assert page.page.locator(".plot .readout").evaluate_all(cut) == 0
    widths = "(all) => Math.max(...all.map((each) => each.offsetWidth))"
    assert page.page.locator(".newest th, .newest td").evaluate_all(widths) <= 460
    title = page.page.locator(".plot h3[title*='long name']")
    assert title.get_attribute("title") == "a long name " * 20
    assert title.evaluate(END_SHOWN)


def test_live_readings(module_stack: Stack, open_page: OpenPage) -> None:
    device = Device(module_stack, "secret live", 60, wave)
    stored(module_stack, "secret live", time.time() - 40, 900, 40 / 900)
    with device.sending():
        page = open_page(module_stack.port)
        page.open("secret live")
        page.wait_for_text("#tags-items", "room-3")
        page.wait_for("() => document.querySelectorAll('.plot canvas').length === 3")
        page.see("light")
        page.page.emulate_media(color_scheme="dark")
        page.see("dark", full=True)
        page.page.set_viewport_size(WIDE)
        page.see("wide-dark")
        page.page.click("#theme")
        page.see("wide")
        page.page.set_viewport_size(PHONE)
        page.see("phone", full=True)
        assert page.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        page.page.focus("#plots")
        page.page.keyboard.press("Space")
        page.wait_for_text("#status-text", "Paused")
        page.page.keyboard.press("+")
        page.wait_for_text("#range", "30 s")
        page.see("phone-paused")
        page.page.keyboard.press("Escape")
        page.wait_for_text("#status-text", "Live")
        for width in (PHONE["width"], 360, 320):
            page.page.set_viewport_size({"width": width, "height": 700})
            assert page.page.evaluate(BAR_WIDTH, "Disconnected") == width
        # A clock that is years ahead does not move the window.
        ahead = round((time.time() + 10 * 365 * 24 * HOUR) * 1_000_000)
        for by in ("", "interrogator"):
            page.page.select_option("#by", by)
            fast = row("secret live", freeform={"fast": f"clock {by}"}, interrogator_time=ahead)
            assert module_stack.put([fast]).status == 201
            page.wait_for_text("#table-body", f"clock {by}")
            assert page.view("view.by") == "interrogator"
            assert page.view("view.current().to - view.now()") < 60_000


def test_fields_that_share_a_name_or_a_type(module_stack: Stack, open_page: OpenPage) -> None:
    """Each field has its own plot, also if its first value is a text or its name is not unique."""
    freeforms: list[object] = [
        {"reading": "n/a", "tag": "a", "": 1},
        {"reading": 21, "value": 7, "relative_timestamp": 3, "serial": "12"},
        {"serial": "12-b"} | {f"field {n}": n for n in range(100)},
        5,
    ]
    assert module_stack.put([row("secret names", freeform=f) for f in freeforms]).status == 201
    page = open_page(module_stack.port)
    page.open("secret names")
    page.wait_for_text("#fields-summary", "of 108")
    page.page.click("#fields-summary")
    names = ["“”", "reading", "value", "relative_timestamp", "serial", "field 99"]
    names += ["(whole freeform)", "relative_timestamp (column)"]
    page.view("view.choose({fields: new Map(view.fields.numbers.map((each) => [each, false]))})")
    page.wait_for_text("#fields-summary", "Plots 0 of")
    for name in names:
        page.page.get_by_label(name, exact=True).check()
    page.wait_for_text("#fields-summary", "Plots 8 of")
    assert sorted(page.page.locator(".plot h3").all_text_contents()) == sorted(names)
    page.wait_for_text(".plot[data-field=value] .readout", "7")
    page.wait_for_text(".plot[data-field=reading] .readout", "21")
    options = page.page.locator("#tag-field option").all_inner_texts()
    assert options == ["One line", "reading", "tag", "serial"]
    assert page.view("view.tagField.name") == "tag"
    page.page.select_option("#tag-field", label="One line")
    page.wait_for("() => document.querySelector('#tags').hidden")
    page.page.select_option("#tag-field", label="serial")
    page.wait_for_text("#tags-items", "12-b")
    # The service can't group by a field that it also returns: the history of the others is shown.
    page.page.check("#mode-history", force=True)
    page.wait_for_text("#notice", "No history of ")
    assert "“serial”" in page.page.inner_text("#notice")
    page.wait_for_text(".plot[data-field=value] .readout", "7")


def test_the_field_that_names_the_lines(module_stack: Stack, open_page: OpenPage) -> None:
    """A few numbers do not change it, but a measurement that begins with a text is no name."""
    page = open_page(module_stack.port)
    rooms: list[dict[str, object]] = [{"room": "kitchen"}] * 10
    chosen = page.page.evaluate(TAG_FIELDS, [*rooms, {"room": 5}, {"id": 5}, {"id": "5-b"}])
    assert chosen == ["room"] * 12 + ["id"]
    assert page.page.evaluate(TAG_FIELDS, [{"level": "n/a"}, {"level": 5}]) == ["level", None]


def test_names_that_are_ids(module_stack: Stack, open_page: OpenPage) -> None:
    """New fields that are not plotted leave the plots as they are."""
    rows = [row("secret ids", freeform={"level": n}) for n in range(30)]
    assert module_stack.put(rows).status == 201
    page = open_page(module_stack.port)
    page.open("secret ids")
    page.wait_for_text(".plot .readout", "0 … 29")
    page.page.evaluate("document.querySelector('.plot canvas').dataset.first = ''")
    for number in range(3):
        rows = [row("secret ids", freeform={f"id {number}": -60})]
        assert module_stack.put(rows).status == 201
        page.wait_for_text("#fields-summary", f"Plots 1 of {number + 4}")
    assert page.page.locator(".plot canvas[data-first]").count() == 1
    rows = [row("secret ids", freeform={f"id {number}": -60 for number in range(1000)})]
    assert module_stack.put(rows).status == 201
    note = "Fields after the first 1000 (numbers and texts) are not offered."
    page.wait_for(
        "(note) => document.querySelector('#fields-items').textContent.endsWith(note)", note
    )


def test_search_and_csv(module_stack: Stack, open_page: OpenPage) -> None:
    stored(module_stack, "secret table", time.time() - 20, 200, 0.1)
    page = open_page(module_stack.port)
    page.open("secret table")
    page.wait_for_text("#table-note", "of 200")
    page.page.focus("#plots")
    page.page.keyboard.press("/")
    page.page.keyboard.type("room-2")
    page.wait_for_text("#table-note", "that match")
    page.wait_for(
        """() => [...document.querySelectorAll("#table-body td.mono")].every(
        (cell) => cell.textContent === "room-2")"""
    )
    page.page.fill("#search", "nothing like this")
    page.wait_for_text("#table-note", "None of the newest 200 readings matches")
    page.page.select_option("#by", "received")
    with page.page.expect_download() as download:
        page.page.click("#download")
    with download.value.path().open(encoding="utf-8", newline="") as file:
        found = sorted(int(line["id"]) for line in csv.DictReader(file))
    assert found == sorted(each["id"] for each in module_stack.read("secret table"))
    # While the plots are paused, the search works, and the table keeps its readings.
    page.page.click("#pause")
    page.page.fill("#search", "room-3")
    page.wait_for_text("#table-note", "that match")
    assert module_stack.put([row("secret table", freeform={"sensor": "room-3 new"})]).status == 201
    page.wait_for("() => import('/assets/main.js').then(({view}) => view.recent.count === 201)")
    page.view("view.choose({fields: new Map(view.fields.numbers.map((each) => [each, false]))})")
    page.wait_for_text("#fields-summary", "Plots 0 of")
    assert "room-3 new" not in page.page.inner_text("#table-body")
    page.page.click("#pause")
    page.wait_for_text("#table-body", "room-3 new")
    # The next password is not searched for the same words.
    page.page.click("#lock")
    assert page.page.input_value("#search") == ""


def test_dead_letters_are_replayed_and_dropped(
    module_environment: dict[str, str], module_stack: Stack, open_page: OpenPage
) -> None:
    with Redis.from_url(module_environment["IOT_REDIS_URL"]) as redis:
        redis.xadd(KEYS.stream(0), {"e": b"planted", "t": 0})
        page = open_page(module_stack.port)
        page.page.click("#show-operator")
        buttons = page.page.locator("#operator-letters button")
        first = buttons.first.get_attribute("data-id")
        buttons.filter(has_text="Replay").click()
        page.wait_for_text("#operator-ordered", f"Dead letter {first} was replayed")
        # Nobody can open the entry: a writer sets it aside again, under another id.
        page.wait_for(
            f"() => document.querySelector('#operator-letters button:not([data-id=\"{first}\"])')"
        )
        page.see("letters")
        buttons.filter(has_text="Drop").click()
        second = page.page.text_content("#drop-id")
        page.wait_for_text("#drop-what", "unknown format")
        page.see("letters-drop")
        page.page.emulate_media(color_scheme="dark")
        page.see("letters-drop-dark")
        page.page.keyboard.press("Escape")
        page.see("letters-dark")
        page.page.set_viewport_size(PHONE)
        page.see("letters-phone", full=True)
        assert redis.xlen(KEYS.dead_letters) == 1
        buttons.filter(has_text="Drop").click()
        page.see("letters-drop-phone")
        page.page.click("#drop-yes")
        page.wait_for_text("#operator-ordered", f"Dead letter {second} was dropped")
        page.wait_for_text("#operator-cards", "dead letters0")
        assert redis.xlen(KEYS.dead_letters) == 0


def test_hundreds_of_tags(module_stack: Stack, open_page: OpenPage) -> None:
    rows = [
        row(
            "secret many",
            freeform={"device": f"sensor-{n % 300:03d}"} | dict.fromkeys(["level", *"abcd"], n),
        )
        for n in range(600)
    ]
    assert module_stack.put(rows).status == 201
    page = open_page(module_stack.port)
    page.open("secret many")
    page.wait_for_text("#tags-count", "8 of 300 shown")
    page.see("many-tags")
    page.page.fill("#tags-search", "sensor-29")
    assert page.page.locator("#tags-items li").count() == 10
    page.page.get_by_role("button", name="Show only sensor-298").click()
    page.wait_for_text("#tags-count", "1 of 300 shown")
    page.wait_for_text(".plot .readout", "298 … 598")
    # The page requests the history of all 300 tags, not only of the one that it shows. Most tags
    # have no value in most windows, so the page first asks for as many windows as it needs.
    with page.page.expect_request(SERIES) as request:
        page.page.check("#mode-history", force=True)
    query = series_of(request.value)
    windows = (int(query["to"]) - int(query["from"])) / int(query["step"])
    assert 150 < windows <= 200
    loaded(page)
    # A small move does not cancel the load of another line.
    page.page.route(SERIES, lambda _: None)  # requests wait until the route is removed
    with page.page.expect_request(SERIES):
        page.page.get_by_role("button", name="Show only sensor-299").click()
    page.view("view.pan(0.25)")
    assert page.page.get_attribute("#plots", "data-loading") == "true"
    page.page.unroute(SERIES)
    loaded(page)
    page.wait_for_text(".plot .readout", "299 … 599")
    # If the answer would have too many values, the service refuses the step.
    page.expected = {"400 (Bad Request)"}
    refusal = {"error": "the answer has more than 500000 values", "field": "step"}
    page.page.route(SERIES, lambda route: route.fulfill(status=400, json=refusal), times=1)
    page.page.click("#wider")
    loaded(page)
    refused, accepted, _ = steps(page)[-3:]
    assert accepted == 4 * refused
    assert page.page.locator("#notice").is_hidden()
    page.wait_for_text(".plot .readout", "299 … 599")
    # 503 says nothing about the step, so the page does not repeat the request.
    page.expected = {"503 (Service Unavailable)"}
    asked = len(steps(page))
    page.page.route(SERIES, lambda route: route.fulfill(status=503, json={"error": "no memory"}))
    page.page.click("#wider")
    page.wait_for_text("#notice", "no memory")
    assert len(steps(page)) == asked + 1


def test_a_vault_that_is_erased(module_stack: Stack, open_page: OpenPage) -> None:
    assert module_stack.put([row("secret gone", freeform={"x": 1})]).status == 201
    page = open_page(module_stack.port)
    page.expected = {"404 (NOT FOUND)"}
    page.open("secret gone")
    body = json.dumps({"data": {"db_password": "secret gone"}})
    headers = {"Content-Type": "application/json"}
    assert module_stack.request("DELETE", "/api/vault", body, headers).status == 200
    page.wait_for_text("#entry-message", "No readings under this password")
    # Devices send again before the page reconnects.
    assert module_stack.put([row("secret gone", freeform={"x": 2})]).status == 201
    page.expected = {"400 (BAD REQUEST)"}
    page.open("secret gone")

    def send_first(route: Route) -> None:
        assert module_stack.put([row("secret gone", freeform={"x": 3})]).status == 201
        route.continue_()

    page.page.route("**/api/iot/live", send_first)
    assert module_stack.request("DELETE", "/api/vault", body, headers).status == 200
    page.wait_for_text("#entry-message", "was changed, or they were erased")
    page.see("changed-password")
