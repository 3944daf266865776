"""Series of names and texts that JSON escapes, of large texts, and of values of several types."""

import json

import pytest

from integration.api.asking import JSON, Api, assert_error
from integration.api.asking import row as put_row
from integration.api.test_series import MINUTE, series
from iot_api.limits.memory_budget import OverBudgetError
from iot_api.query import series_windows
from iot_api.routes import series as series_route
from iot_writer.writer import Writer
from support.draining import drain_all


@pytest.mark.parametrize("form", ["json", "ndjson", "csv"])
def test_half_of_a_surrogate_pair_becomes_a_replacement_character(
    module_api: Api, module_writer: Writer, form: str
) -> None:
    """Devices may send one. UTF-8 has none."""
    rows = (
        '[{"data": {"db_password": "half", "freeform": {"s": "a\\ud800", "n": {"\\udc00": [1]}}}}]'
    )
    assert module_api.ask("PUT", "/api/iot", rows, JSON).status_code == 201
    drain_all(module_writer)
    headers = {"X-Iot-Password": "half"}
    for query in ("fields=s,n", "fields=s&group=n&step=365000d&agg=last"):
        path = f"/api/iot/series?{query}&format={form}"
        answer = module_api.ask("GET", path, headers=headers)
        assert answer.status_code == 200, answer.text
        assert "a\ufffd" in answer.text


def test_a_field_may_have_any_name(module_api: Api, module_writer: Writer) -> None:
    content = {'a"b': 1, "a\\b": 2, "a\x00b": 3, "a.b": 4, "a\nb": {"c": 5}}
    assert module_api.put(put_row("names", freeform=content)).status_code == 201
    drain_all(module_writer)
    for name, value in (*content.items(), ("a\nb.c", 5)):
        if not isinstance(value, dict):
            (shown,) = series(module_api, "names", fields=name)
            assert shown[name] == value
            (shown,) = series(module_api, "names", where=f"{name}:{value}", fields="a.b")
            assert shown["a.b"] == 4


def test_the_depth_of_a_reading_fails_no_series(module_api: Api, module_writer: Writer) -> None:
    """A reading that is nested too deeply to be parsed again has no values."""
    statuses = []
    for depth in (*range(500, 1100, 3), *range(1100, 12_000, 100)):  # the limit depends on Python
        nested = "[" * depth + "]" * depth
        body = f'{{"data":{{"db_password":"deep","freeform":{{"s":"a\\ud800","d":{nested}}}}}}}'
        statuses.append(module_api.ask("PUT", "/api/iot", body, JSON).status_code)
    assert statuses == sorted(statuses)
    assert set(statuses) == {201, 400}, "the deepest JSON that a PUT accepts is among the readings"
    drain_all(module_writer)
    rows = series(module_api, "deep", fields="s,d")
    assert {"a\ufffd"} <= {row["s"] for row in rows} <= {"a\ufffd", None}
    assert "[" * 500 + "]" * 500 in {row["d"] for row in rows}
    assert series(module_api, "deep", fields="s", group="d", step="365000d", agg="last")


@pytest.mark.parametrize("text", ["\\ud83d\\ude00", "\\\\ud800", "\\\\\\ud83d\\uDE00x", "\\u00e9"])
def test_other_escapes_stay(module_api: Api, module_writer: Writer, text: str) -> None:
    """Beside half of a surrogate pair."""
    body = f'{{"data":{{"db_password":"{text}","freeform":{{"s":"{text}","t":"\\udfff"}}}}}}'
    assert module_api.ask("PUT", "/api/iot", body, JSON).status_code == 201
    drain_all(module_writer)
    password = json.loads(f'"{text}"')
    asked = json.dumps({"data": {"db_password": password}})
    answer = module_api.ask("POST", "/api/iot/series?fields=s,t", asked, JSON)
    assert answer.status_code == 200, answer.text
    (row,) = answer.get_json()["data"]
    assert (row["s"], row["t"]) == (password, "\ufffd")


def test_groups_are_numbers_then_texts_then_none(module_api: Api, module_writer: Writer) -> None:
    groups = [9, None, "b", -20, 100, True, 10, "10", -3, 2.5]
    rows = [
        put_row("order", interrogator_time=at, freeform={"g": group, "h": 1})
        for at in (0, MINUTE * 1000)
        for group in groups
    ]
    assert module_api.put(rows).status_code == 201
    drain_all(module_writer)
    wanted = [-20, -3, 2.5, 9, 10, 100, "10", "b", "true", None]
    for group in ("g", "h,g"):
        found = series(module_api, "order", group=group, step="1m", by="interrogator")
        assert [row["g"] for row in found] == wanted * 2
        assert [row["time"] for row in found] == [0] * 10 + [MINUTE] * 10


def test_large_texts_are_charged(
    module_api: Api, module_writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts of a window count once, however often its values are added.

    Each text is longer than those before, so texts are also charged while the answer is sent.
    """
    each = 2**20
    rows = [
        put_row("texts", interrogator_time=at, freeform={"v": [str(at) * (each + at)]})
        for at in range(9)
    ]
    assert module_api.put(rows).status_code == 201
    drain_all(module_writer)
    charged: list[int] = []
    monkeypatch.setattr(series_route, "charge_request", lambda _, count: charged.append(count))
    monkeypatch.setattr(series_windows, "_PENDING_BYTES", 2 * each)
    monkeypatch.setattr(series_windows, "MAX_TEXT_BYTES", 3 * each)
    (window,) = series(module_api, "texts", fields="v", agg="last", step="365000d")
    assert window["v"] == json.dumps(["8" * (each + 8)])
    assert sum(charged) >= 4 * each
    charged.clear()
    assert len(series(module_api, "texts", fields="v")) == len(rows)
    assert 4 * each <= sum(charged) < 8 * each

    def refuse(_: object, count: int) -> None:
        raise OverBudgetError(f"the request needs {count} bytes more than this server has")

    monkeypatch.setattr(series_route, "charge_request", refuse)
    path, headers = "/api/iot/series?fields=v&step=1d", {"X-Iot-Password": "texts"}
    error = assert_error(module_api.ask("GET", path, headers=headers), 400, "invalid_request")
    assert error["field"] == "step", "a repeated request would fail, too"
