"""Reads by absolute time: `from`, `to` and `by`."""

from datetime import UTC, datetime
from urllib.parse import quote

import pytest

from integration.api.asking import Api, Row, assert_error, row
from integration.compaction.past import Past, Sent, noon
from iot_writer.writer import Writer
from support.draining import drain_all

BEGIN = noon(2)
"""Unix milliseconds."""
COUNT, EACH = 400, 20
STEP = 1000
"""Milliseconds between two readings."""
DAYS = "/seconds/800000"


def _sent() -> list[Sent]:
    """Readings whose clocks run 7 s behind the time of receipt, in overlapping segments."""
    moments = [BEGIN + number * STEP for number in range(COUNT)]
    for place in range(0, COUNT, 70):
        moments[place] += 3 * EACH * STEP
    return [
        (at, (at - 7_000) * 1000 + 456, number, f'{{"n":{number}}}')
        for number, at in enumerate(moments)
    ]


@pytest.fixture(scope="module")
def past(module_past: Past) -> Past:
    module_past.store(b"p", _sent(), each=EACH)
    return module_past


@pytest.fixture
def readings(past: Past) -> list[tuple[Row, int]]:
    """All readings in order, with their times of receipt."""
    received = {
        reading.id: segment_received
        for reading, segment_received in zip(past.readings(b"p"), _received(past), strict=True)
    }
    return [
        (
            {
                "absolute_timestamp": each.absolute_timestamp,
                "freeform": each.freeform,
                "id": each.id,
                "interrogator_timestamp": each.interrogator_timestamp,
                "relative_timestamp": each.relative_timestamp,
            },
            received[each.id],
        )
        for each in past.readings(b"p")
    ]


def _received(past: Past) -> list[int]:
    """Return the times of receipt of all readings, in order: that of the last one of a segment."""
    last = {place // EACH: at for place, (at, *_) in enumerate(_sent())}
    return [last[each.relative_timestamp // EACH] for each in past.readings(b"p")]


def _expected(
    readings: list[tuple[Row, int]], by: str, begin: float | None, end: float | None
) -> list[Row]:
    return [
        row
        for row, received in readings
        for at in [received if by == "received" else row["interrogator_timestamp"] / 1000]
        if (begin is None or begin <= at) and (end is None or at < end)
    ]


RANGES: list[tuple[float | None, float | None]] = [
    (None, None),
    (BEGIN + 100_000, None),
    (None, BEGIN + 100_000),
    (BEGIN + 119_000, BEGIN + 239_000),
    (BEGIN + 119_000, BEGIN + 119_001),
    (BEGIN + 53_000.456, BEGIN + 53_000.457),
    (BEGIN - 10**9, BEGIN - 10**8),
    (BEGIN + 10**8, BEGIN + 10**9),
]


@pytest.mark.parametrize("by", ["received", "interrogator"])
@pytest.mark.parametrize(("begin", "end"), RANGES)
def test_each_read_can_be_limited_to_a_range_of_time(
    module_api: Api,
    readings: list[tuple[Row, int]],
    by: str,
    begin: float | None,
    end: float | None,
) -> None:
    bounds = {"from": begin, "to": end, "by": by}
    query = "&".join(f"{name}={value}" for name, value in bounds.items() if value is not None)
    wanted = _expected(readings, by, begin, end)
    assert module_api.read(f"?{query}", "p") == wanted
    assert module_api.read(f"{DAYS}?{query}", "p") == wanted
    assert module_api.read(f"?order=desc&{query}", "p") == wanted[::-1]
    above = [each for each in wanted if each["relative_timestamp"] >= 100]
    assert module_api.read(f"/100?{query}", "p") == above
    assert module_api.read(f"/100/1e9?{query}", "p") == above
    assert module_api.read(f"/last/30?{query}", "p") == wanted[-30:]
    assert module_api.read(f"/last/30?order=desc&{query}", "p") == wanted[-30:][::-1]


@pytest.mark.parametrize("by", ["received", "interrogator"])
@pytest.mark.parametrize("path", ["", "/100", DAYS, "/last/200"])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_stay_within_the_range(
    module_api: Api, past: Past, by: str, path: str, order: str
) -> None:
    del past
    query = f"from={BEGIN + 53_000}&to={BEGIN + 301_000}&by={by}"
    wanted = module_api.read(f"{path}?order={order}&{query}", "p")
    assert 150 < len(wanted) < 300
    found: list[Row] = []
    asked = f"limit=17&order={order}"
    while asked:
        page = module_api.post(f"/api/iot{path}?{query}&{asked}", "p").get_json()
        found += page["data"]
        asked = page["cursor"] and f"limit=17&cursor={page['cursor']}"
    assert found == wanted


def test_a_cursor_is_refused_for_another_range(module_api: Api, past: Past) -> None:
    del past
    cursor = module_api.post(f"/api/iot?limit=1&from={BEGIN}", "p").get_json()["cursor"]
    for query in ("", f"&from={BEGIN + 1}", f"&from={BEGIN}&by=interrogator"):
        answer = module_api.post(f"/api/iot?limit=1&cursor={cursor}{query}", "p")
        assert_error(answer, 400, "invalid_request")


@pytest.mark.parametrize("by", ["received", "interrogator"])
@pytest.mark.parametrize("path", ["", "/0", DAYS, "/last/1000"])
def test_only_segments_of_the_range_are_opened(
    module_api: Api, past: Past, opened_segments: list[int], by: str, path: str
) -> None:
    del past
    query = f"from={BEGIN + 200_000}&to={BEGIN + 240_000}&by={by}"
    assert module_api.read(f"{path}?{query}", "p")
    assert len(opened_segments) <= (6 if path != "/last/1000" else 12)


def test_the_hot_window_answers_ranges_too(module_api: Api, module_writer: Writer) -> None:
    for number in range(3):
        module_api.put(row("hot", freeform=number, interrogator_time=number * 1000))
        drain_all(module_writer)
    path = "/seconds/60?by=interrogator&from=1&to=2"
    assert [each["freeform"] for each in module_api.read(path, "hot")] == ["1"]
    assert module_api.read("/seconds/60?to=2000-01-01T00:00:00Z", "hot") == []
    assert len(module_api.read("/seconds/60?from=2000-01-01T00:00:00Z", "hot")) == 3


@pytest.mark.parametrize("zone", ["Z", "+00:00", "", "z"])
def test_times_may_be_rfc_3339(module_api: Api, past: Past, zone: str) -> None:
    del past
    at = datetime.fromtimestamp(BEGIN / 1000 + 100, UTC).strftime("%Y-%m-%dT%H:%M:%S.250") + zone
    wanted = module_api.read(f"?from={BEGIN + 100_250}", "p")
    assert 0 < len(wanted) < COUNT
    assert module_api.read(f"?from={quote(at)}", "p") == wanted
    assert module_api.read(f"?from={at}", "p") == wanted  # "+" is a space here


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=yesterday", "from"), ("from=", "from"), ("to=1e3", "to"),
        ("to=2026-13-01T00:00:00Z", "to"),
        ("from=999999999999999", "from"), ("to=2026-11-28", "to"), ("by=id", "by"), ("by=", "by"),
        ("from=5&to=5", "from"), ("from=6&to=5", "from"), ("from=nan", "from"),
    ],
)  # fmt: skip
def test_a_wrong_range_is_named(module_api: Api, query: str, field: str) -> None:
    for path in ("", "/5", "/seconds/5", "/last/5"):
        error = assert_error(module_api.post(f"/api/iot{path}?{query}"), 400, "invalid_request")
        assert error["field"] == field
        assert error["error"].startswith(f"{field}: must be")


def test_every_interrogator_timestamp_can_be_a_bound(
    module_api: Api, module_writer: Writer
) -> None:
    """For example of devices that send nanoseconds."""
    module_api.put(row("ns", interrogator_time=1_763_877_000_123_456_789))
    drain_all(module_writer)
    query = "by=interrogator&from=1763877000123456.789"
    assert len(module_api.read(f"?{query}&to=1763877000123456.790", "ns")) == 1
    assert len(module_api.read(f"?{query}&to={2**63 // 1000}", "ns")) == 1
    assert module_api.read("?by=interrogator&from=1763877000123456.790", "ns") == []
    refused = module_api.post(f"/api/iot?{query}&to={2**63 // 1000 + 1}", "ns")
    assert refused.get_json()["error"] == "to: in microseconds since 1970, is beyond 64 bits"
    refused = module_api.post("/api/iot?to=1763877000123456", "ns")
    assert refused.get_json()["error"] == "to: must be in the years 1 to 9999"


@pytest.mark.parametrize("path", ["", "/seconds/60", "/series"])
@pytest.mark.parametrize("by", ["received", "interrogator"])
def test_the_last_moment_of_the_year_9999_is_accepted(module_api: Api, path: str, by: str) -> None:
    for moment in ("253402300799999.5", "9999-12-31T23:59:59.999999Z"):
        query = f"from={moment}&by={by}&step=1h" if path == "/series" else f"from={moment}&by={by}"
        assert module_api.read(f"{path}?{query}", "p") == []
