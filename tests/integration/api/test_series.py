"""Series: fields of readings over time, compared with numpy."""

import csv
import io
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

from integration.api.asking import JSON, Api, assert_error
from integration.api.asking import row as put_row
from integration.compaction.past import Past, Sent, each_second, noon
from iot_api.query import pausable_read, responses, series_rows, series_windows
from iot_api.routes import series as series_route
from iot_models.errors import UnavailableError
from iot_writer.writer import Writer
from support.draining import drain_all

BEGIN = noon(2)
"""Unix milliseconds."""
COUNT, EACH = 3000, 40
MINUTE = 60_000
Number = int | float


def _freeform(chance: random.Random, number: int) -> str:
    if number % 97 == 0:
        return chance.choice(["5", "null", '"rssi"', "[1]", '{"rssi":NaN,"epc96":"a"}', "{}"])
    content: dict[str, Any] = {
        "rssi": chance.choice([chance.randint(-85, -40), chance.uniform(-85, -40)]),
        "phase": 1e9 + chance.random(),
        "epc96": chance.choice(["a", "b", "c", "d, e"]),
        "antenna": chance.randint(1, 3),
        "engine": {"speed": number, "state": {"on": number % 2 == 0}},
        "a.b": number % 7,
    }
    if number % 5 == 0:
        content["text"] = chance.choice(["x", '"y"\n', "", -1.5, True, None])
    return json.dumps(content)


def _sent() -> list[Sent]:
    """Readings of 50 minutes, in segments that overlap in both times."""
    chance = random.Random(7)
    sent = []
    for number in range(COUNT):
        received = BEGIN + number * 1000 + chance.randint(0, 900)
        interrogator = (received - 30_000) * 1000 + chance.randint(-60_000_000, 999)
        sent.append((received, interrogator, number, _freeform(chance, number)))
    return sent


@pytest.fixture(scope="module")
def past(module_past: Past) -> Past:
    module_past.store(b"p", _sent(), each=EACH)
    return module_past


@pytest.fixture
def api(module_api: Api, past: Past) -> Api:
    del past
    return module_api


@pytest.fixture(scope="module")
def readings() -> list[tuple[int, int, dict[str, Any]]]:
    """Each reading's time of receipt, interrogator timestamp, and freeform without NaN."""
    sent = _sent()
    last = {place // EACH: received for place, (received, *_) in enumerate(sent)}
    parsed = [json.loads(text, parse_constant=lambda _: None) for *_, text in sent]
    return [
        (last[place // EACH], interrogator, content if isinstance(content, dict) else {})
        for place, ((_, interrogator, *_), content) in enumerate(zip(sent, parsed, strict=True))
    ]


PASSWORD = "p"


def series(api: Api, password: str = PASSWORD, **asked: Any) -> list[dict[str, Any]]:
    """Return the rows of a series."""
    named = {name.rstrip("_"): value for name, value in asked.items()}
    path = f"/api/iot/series?{urlencode(named, doseq=True)}"
    answer = api.ask("GET", path, headers={"X-Iot-Password": password})
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.get_json()["data"]
    return rows


NUMPY: dict[str, Callable[[list[Number]], Number | None]] = {
    "count": len,
    "mean": lambda values: float(np.mean(values)) if values else None,
    "stdev": lambda values: float(np.std(values, ddof=1)) if len(values) > 1 else None,
    "min": lambda values: min(values, default=None),
    "max": lambda values: max(values, default=None),
    "first": lambda values: values[0] if values else None,
    "last": lambda values: values[-1] if values else None,
}


@pytest.mark.parametrize("by", ["received", "interrogator"])
@pytest.mark.parametrize("agg", NUMPY)
def test_windows_equal_numpy(
    api: Api, readings: list[tuple[int, int, dict[str, Any]]], by: str, agg: str
) -> None:
    begin, end = BEGIN + 300_500, BEGIN + 2_300_500
    values: dict[tuple[int, str | None], dict[str, list[Number]]] = defaultdict(
        lambda: {"rssi": [], "phase": []}
    )
    placed = sorted(
        (received * 1000 if by == "received" else interrogator, place)
        for place, (received, interrogator, _) in enumerate(readings)
    )
    for at, place in placed:
        content = readings[place][2]
        if begin * 1000 <= at < end * 1000:
            window = values[at // 1000 // MINUTE * MINUTE, content.get("epc96")]
            for name in window:
                if content.get(name) is not None:
                    window[name].append(content[name])
    rows = series(api, fields="rssi,phase", group="epc96", step="1m", agg=agg, by=by,
                  from_=begin, to=end)  # fmt: skip
    assert len(rows) == len(values) > 100
    assert [list(row) for row in rows] == [["time", "epc96", "rssi", "phase"]] * len(rows)
    assert [(row["time"], row["epc96"]) for row in rows] == sorted(
        values, key=lambda key: (key[0], key[1] is None, key[1])
    )
    for row in rows:
        for name, found in values[row["time"], row["epc96"]].items():
            wanted = NUMPY[agg](found)
            assert (row[name] is None) == (wanted is None)
            if wanted is not None:
                assert row[name] == pytest.approx(wanted, rel=1e-12), (row, found)


@pytest.mark.parametrize("turn_seconds", [0.0, 3.0])
def test_one_window_counts_each_reading_once(
    api: Api, turn_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the read takes many turns, and many values wait for their window."""
    monkeypatch.setattr(pausable_read, "SLICE_SECONDS", turn_seconds)
    monkeypatch.setattr(pausable_read, "TURN_SECONDS", turn_seconds)
    monkeypatch.setattr(series_windows, "_PENDING", 100)
    (row,) = series(api, step="365000d", by="received")
    assert row == {"time": 0, "count": COUNT}
    (row,) = series(api, step="365000d", fields="rssi", agg="count", where="epc96:a")
    assert 0 < row["rssi"] < COUNT / 3


@pytest.mark.parametrize("by", ["received", "interrogator"])
def test_without_a_step_the_readings_are_the_rows(
    api: Api, readings: list[tuple[int, int, dict[str, Any]]], by: str
) -> None:
    rows = series(api, fields="rssi,text,missing,engine,a.b", by=by)
    in_order = sorted(range(COUNT), key=lambda place: (readings[place][1], place))
    assert len(rows) == COUNT
    for row, place in zip(rows, in_order, strict=True):
        received, interrogator, content = readings[place]
        assert row["time"] == (received if by == "received" else interrogator // 1000)
        assert [row[name] for name in ("rssi", "text", "missing", "a.b")] == [
            content.get(name) for name in ("rssi", "text", "missing", "a.b")
        ]
        engine = content.get("engine")
        assert row["engine"] == (engine and json.dumps(engine, separators=(",", ":")))


def test_a_path_leads_to_a_nested_member(api: Api) -> None:
    rows = series(api, fields="engine.speed,engine.state.on,engine.state.x.y,a.b,rssi.x")
    assert [row["engine.speed"] for row in rows if row["engine.state.on"] is True] != []
    for row in rows:
        if row["engine.speed"] is not None:
            assert row["a.b"] == row["engine.speed"] % 7
            assert row["engine.state.on"] == (row["engine.speed"] % 2 == 0)
        assert row["engine.state.x.y"] is None
        assert row["rssi.x"] is None


@pytest.mark.parametrize(
    ("where", "passes"),
    [
        (["epc96:a"], lambda each: each.get("epc96") == "a"),
        (["antenna:1"], lambda each: each.get("antenna") == 1),
        (
            ["antenna:1.0", "epc96:d, e"],
            lambda each: (each.get("antenna"), each.get("epc96")) == (1, "d, e"),
        ),
        (["text:true"], lambda each: each.get("text") is True),
        (["text:1"], lambda _: False),
        (["text:-1.5"], lambda each: each.get("text") == -1.5),
        (["text:"], lambda each: each.get("text") == ""),
        (["missing:None"], lambda _: False),
        (
            ["engine.state.on:false"],
            lambda each: "engine" in each and not each["engine"]["state"]["on"],
        ),
    ],
)  # fmt: skip
def test_conditions_select_readings(
    api: Api,
    readings: list[tuple[int, int, dict[str, Any]]],
    where: list[str],
    passes: Callable[[dict[str, Any]], object],
) -> None:
    wanted = sum(1 for *_, content in readings if passes(content))
    assert len(series(api, fields="rssi", where=where)) == wanted
    rows = series(api, step="1h", where=where)
    assert sum(row["count"] for row in rows) == wanted


@pytest.mark.parametrize("agg", ["count", "mean", "stdev", "min", "max", "first", "last"])
@pytest.mark.parametrize("by", ["received", "interrogator"])
def test_a_window_without_values_has_none(
    module_api: Api, module_writer: Writer, agg: str, by: str
) -> None:
    """Neither in a step of its own, nor if the field is missing everywhere, or holds a text."""
    texts = [{"rssi": 1}, {"rssi": 2}, {"temp": 1}, {"temp": "x"}]
    password = f"windows {agg} {by}"
    rows = [
        put_row(password, interrogator_time=number // 2 * MINUTE * 1000, freeform=text)
        for number, text in enumerate(texts)
    ]
    assert module_api.put(rows).status_code == 201
    drain_all(module_writer)
    asked = {"step": "1m", "by": by, "agg": agg}
    empty = 0 if agg == "count" else None
    assert {each["nope"] for each in series(module_api, password, fields="nope", **asked)} == {
        empty
    }
    found = [each["rssi"] for each in series(module_api, password, fields="rssi", **asked)]
    assert found[0] is not None
    if by == "interrogator":
        assert found[1] == empty


def test_without_fields_a_row_is_a_time(api: Api) -> None:
    assert {tuple(row) for row in series(api)} == {("time",)}
    assert len(series(api, group="epc96")) == COUNT


def test_groups_keep_values_of_different_types_apart(api: Api) -> None:
    rows = series(api, group="text,antenna", step="365000d")
    found = {(row["text"], row["antenna"]) for row in rows}
    assert {("true", 1), (-1.5, 1), (None, 1), ("", 1)} <= found
    assert sum(row["count"] for row in rows) == COUNT


def test_forms_hold_the_same_rows(api: Api) -> None:
    asked = "fields=rssi,text&group=epc96"
    headers = {"X-Iot-Password": "p"}
    rows = series(api, fields="rssi,text", group="epc96")

    def body(query: str, **more: str) -> tuple[str, str]:
        answer = api.ask("GET", f"/api/rssi/series?{asked}{query}", headers={**headers, **more})
        return str(answer.mimetype), answer.text

    kind, text = body("&format=ndjson")
    assert kind == "application/x-ndjson"
    assert [json.loads(line) for line in text.splitlines()] == rows
    assert body("", Accept="application/x-ndjson") == (kind, text)
    kind, text = body("&format=csv")
    assert kind == "text/csv"
    header, *lines = csv.reader(io.StringIO(text, newline=""))
    assert header == ["time", "epc96", "rssi", "text"]
    shown = {None: "", True: "true"}
    assert lines == [[shown.get(value, str(value)) for value in row.values()] for row in rows]
    assert body("", Accept="text/csv") == (kind, text)
    assert body("&format=json", Accept="text/csv")[0] == "application/json"


def test_the_password_may_come_in_a_header_or_a_body(api: Api) -> None:
    path = "/api/iot/series?step=1d"
    body = json.dumps({"data": {"db_password": "p"}})
    wanted = api.ask("GET", path, headers={"X-Iot-Password": "p"}).data
    assert json.loads(wanted)["data"]
    assert api.ask("POST", path, body, JSON).data == wanted
    assert api.ask("POST", path, headers={"X-Iot-Password": "p"}).data == wanted
    for nothing in (
        api.ask("GET", path),
        api.ask("GET", path, headers={"X-Iot-Password": "wrong"}),
        api.ask("POST", path, '{"data":{}}', JSON),
    ):
        assert (nothing.status_code, nothing.data) == (200, b'{"data":[]}\n')
    error = assert_error(
        api.ask("GET", path, headers={"X-Iot-Password": "caf\xe9"}), 400, "invalid_request"
    )
    assert error["error"] == ("X-Iot-Password is not UTF-8; POST the password in the body")


@pytest.mark.parametrize("name", ["password", "db_password", "X-Iot-Password"])
def test_a_password_in_the_url_is_refused(api: Api, name: str) -> None:
    for method in ("GET", "POST"):
        path = f"/api/iot/series?step=1d&{name}=secret"
        error = assert_error(api.ask(method, path), 400, "invalid_request")
        assert error["field"] == name
        assert "X-Iot-Password" in error["error"]
        assert "secret" not in json.dumps(error)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("fields=", "fields"), ("fields=a,,b", "fields"), ("fields=time", "fields"),
        ("fields=a,a", "fields"), ("fields=a&group=a", "fields"), ("group=count&step=1m", "fields"),
        ("fields=" + ",".join(map(str, range(21))), "fields"),
        ("fields=a&group=1,2,3,4,5", "group"),
        ("fields=a&step=0", "step"), ("fields=a&step=1w", "step"), ("fields=a&step=-1m", "step"),
        ("fields=a&step=1.5m", "step"), ("fields=a&agg=mean", "agg"),
        ("step=1m&agg=mean", "fields"),
        ("fields=a&step=1m&agg=median", "agg"), ("fields=a&where=b", "where"),
        ("fields=a&where=:b", "where"), ("fields=a&format=xml", "format"),
        ("fields=a&limit=5", "limit"),
        ("fields=a&from=x", "from"), ("fields=a&by=id", "by"), ("fields=a&stp=1m", "stp"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_named(api: Api, query: str, field: str) -> None:
    answer = api.ask("GET", f"/api/iot/series?{query}", headers={"X-Iot-Password": "p"})
    assert assert_error(answer, 400, "invalid_request")["field"] == field


def test_an_answer_is_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"X-Iot-Password": "p"}
    for name, limit, query in (
        ("MAX_VALUES", 50, "step=1s"),
        ("MAX_VALUES", 100, "step=365000d&group=engine.speed"),
        ("MAX_READINGS", 100, "step=365000d"),
        ("MAX_TEXT_BYTES", 100, "step=365000d&group=engine"),
        ("MAX_TEXT_BYTES", 20, "step=365000d&fields=engine&agg=last"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(series_windows, name, limit)
            answer = api.ask("GET", f"/api/iot/series?{query}", headers=headers)
            error = assert_error(answer, 400, "invalid_request")
            remedy = "a longer step, fewer groups or a shorter range"
            if name == "MAX_READINGS":  # all of them are read, whatever the step and the groups are
                remedy = "a shorter range"
            assert error["error"].endswith(f": choose {remedy}")


def test_numbers_may_be_strings_and_of_any_size(module_api: Api, module_writer: Writer) -> None:
    values = [1e300, "1.5", " 2", "x", True, 10**400, 10**30, -(10**30)]
    rows = [put_row("numbers", freeform={"v": v, "n": n}) for n, v in enumerate(values)]
    assert module_api.put(rows).status_code == 201
    drain_all(module_writer)
    shown = series(module_api, "numbers", fields="v")
    values[values.index(10**400)] = None  # beyond a double: no value
    assert [each["v"] for each in shown] == values

    def window(agg: str, **asked: Any) -> Any:
        (found,) = series(module_api, "numbers", fields="v", agg=agg, step="365000d", **asked)
        return found["v"]

    assert window("count") == len(values) - 1
    assert window("mean", where="n:1") == 1.5
    assert window("mean", where="n:2") is None
    assert window("max", where=["n:1"]) == 1.5
    assert window("first", where="n:4") is True
    assert window("max") == 1e300
    assert window("min") == -(10**30)
    assert window("mean") == pytest.approx(1e300 / 4)
    assert window("stdev") is None  # the squares are beyond a double


LARGE = 60_000


@pytest.fixture(scope="module")
def large(past: Past) -> list[Sent]:
    """Readings of 50 tags, one a second, under a password of their own."""
    sent = each_second(BEGIN, LARGE)
    past.store(b"large", sent, each=4000)
    return sent


def test_many_windows_equal_numpy(module_api: Api, large: list[Sent]) -> None:
    times = np.array([interrogator // 1000 // MINUTE * MINUTE for _, interrogator, *_ in large])
    contents = [json.loads(text) for *_, text in large]
    tags = np.array([content["epc96"] for content in contents])
    rssi = np.array([content["rssi"] for content in contents])
    keys, places = np.unique(np.stack([times.astype(str), tags]), axis=1, return_inverse=True)
    counts = np.bincount(places.ravel())
    means = np.bincount(places.ravel(), weights=rssi) / counts
    wanted = {(int(time), str(tag)): mean for time, tag, mean in zip(*keys, means, strict=True)}
    rows = series(module_api, "large", fields="rssi", group="epc96", step="1m", by="interrogator")
    assert len(rows) == len(wanted) > 30_000
    for each in rows:
        assert each["rssi"] == pytest.approx(wanted[each["time"], each["epc96"]], rel=1e-12)


def test_windows_cost_about_as_much_as_a_plain_read(module_api: Api, large: list[Sent]) -> None:
    """Measured: 0.9 times as much, and 1.3 s of CPU time for 1,000,000 readings."""

    def cost(read: Callable[[], object]) -> float:
        seconds = []
        for _ in range(4):
            began = time.process_time()
            read()
            seconds.append(time.process_time() - began)
        return min(seconds)

    assert len(module_api.read("", "large")) == len(large)
    plain = cost(lambda: module_api.post("/api/iot", "large").data)
    windows = cost(
        lambda: series(module_api, "large", fields="rssi", group="epc96", step="1h", agg="stdev")
    )
    assert windows < 2 * plain


@pytest.mark.parametrize("form", ["json", "ndjson", "csv"])
def test_a_streamed_series_is_the_same(
    api: Api, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent in pieces of few readings. Some pieces have no row."""
    paths = [
        f"/api/iot/series?format={form}&fields=rssi&{rest}"
        for rest in ("", "where=epc96:d, e", "where=epc96:none", "step=1m&group=epc96")
    ]

    def bodies() -> list[bytes]:
        return [api.ask("GET", path, headers={"X-Iot-Password": "p"}).data for path in paths]

    whole = bodies()
    monkeypatch.setattr(responses, "WHOLE_BYTES", 0)
    monkeypatch.setattr(responses, "CHUNK", 3)
    monkeypatch.setattr(responses, "RUN_CHUNK", 3)
    monkeypatch.setattr(series_rows, "ROWS", 3)
    assert bodies() == whole
    assert len({len(body) for body in whole}) == len(whole)


def test_windows_are_charged_as_memory_of_the_request(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    charged: list[int] = []
    monkeypatch.setattr(series_route, "charge_request", lambda _, count: charged.append(count))
    rows = series(api, step="1m", group="epc96")
    assert sum(charged) >= 200 * len(rows)

    def refuse(_: object, count: int) -> None:
        raise UnavailableError(f"this server is short of memory for {count} bytes", retry_after=1)

    monkeypatch.setattr(series_route, "charge_request", refuse)
    answer = api.ask("GET", "/api/iot/series?step=1m", headers={"X-Iot-Password": "p"})
    assert_error(answer, 503, "unavailable")
