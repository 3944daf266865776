"""The files in docs/grafana: the query format of the Infinity plugin, and rows as Grafana needs."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from integration.api.asking import Api, row
from iot_writer.writer import Writer
from support.draining import drain_all

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs" / "grafana"
FORMAT = json.loads((ROOT / "tests/fixtures/infinity_query.json").read_text(encoding="utf-8"))
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
QUERIES = {
    f"{panel['title']} {target['refId']}": target
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
KINDS: dict[str, type] = {"string": str, "array": list, "object": dict}
BEGIN = 1_795_414_643_286
PASSWORD = "grafana"
SHOWN: dict[str, type | tuple[type, ...]] = {
    "timestamp_epoch": int,
    "number": (int, float),
    "string": str,
}
"""The types of JSON that the plugin converts into a column."""


def check(part: dict[str, Any], kind: str) -> None:
    """Check a part of a query against the types of the plugin."""
    for name, value in part.items():
        allowed = FORMAT[kind][name]
        if isinstance(allowed, list):
            assert value in allowed, (name, value)
        else:
            assert isinstance(value, KINDS[allowed]), (name, value)


@pytest.fixture(scope="module")
def filled(module_api: Api, module_writer: Writer) -> Api:
    module_api.put(
        [
            row(PASSWORD, freeform={"rssi": -60 - n, "epc96": f"tag {n % 2}", "antenna": n % 3},
                interrogator_time=(BEGIN + n * 1000) * 1000)
            for n in range(30)
        ]
    )  # fmt: skip
    drain_all(module_writer)
    return module_api


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_has_the_format_of_the_plugin(name: str) -> None:
    query = QUERIES[name]
    check(query, "query")
    check(query["url_options"], "url_options")
    for each in query["url_options"]["params"]:
        check(each, "param")
    for each in query["columns"]:
        check(each, "column")
    assert query["datasource"]["type"] == "yesoreyeram-infinity-datasource"
    assert query["parser"] == "backend"  # the data source keeps the password from browsers


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_gets_rows_that_grafana_can_show(filled: Api, name: str) -> None:
    query = QUERIES[name]
    variables = {"${__from}": "0", "${__to}": str(2**42), "${__interval_ms}": "15000"}
    params = {each["key"]: each["value"] for each in query["url_options"]["params"]}
    answer = filled.app.test_client().open(
        query["url"],
        method=query["url_options"]["method"],
        query_string={key: variables.get(value, value) for key, value in params.items()},
        headers={"X-Iot-Password": PASSWORD},
    )
    assert answer.status_code == 200, answer.text
    rows = answer.get_json()[query["root_selector"]]
    assert rows
    # The plugin makes a series of each group only if the times ascend.
    times = [each["time"] for each in rows]
    assert times == sorted(times)
    for column in query["columns"]:
        values = [each[column["selector"]] for each in rows]
        assert all(isinstance(value, SHOWN[column["type"]]) for value in values), column


def test_the_data_source_is_that_of_the_dashboard() -> None:
    (source,) = yaml.safe_load((FOLDER / "datasource.yaml").read_text(encoding="utf-8"))[
        "datasources"
    ]
    assert {query["datasource"]["uid"] for query in QUERIES.values()} == {source["uid"]}
    assert {query["datasource"]["type"] for query in QUERIES.values()} == {source["type"]}
    assert set(source["jsonData"]) <= set(FORMAT["settings"])
    assert set(source["secureJsonData"]) <= set(FORMAT["secure_settings"])
    assert source["jsonData"]["httpHeaderName1"] == "X-Iot-Password"
    assert source["secureJsonData"]["httpHeaderValue1"].startswith("$")
    (provider,) = yaml.safe_load((FOLDER / "dashboards.yaml").read_text(encoding="utf-8"))[
        "providers"
    ]
    assert provider["type"] == "file"
