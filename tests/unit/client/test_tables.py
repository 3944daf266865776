"""Readings as tables, page by page."""

import json
from collections.abc import Iterator

import pytest

from iot_sensor_client import Client, tables
from unit.client.conftest import Server

ROWS = [
    {
        "id": 2**52 + number,
        "absolute_timestamp": "2026-11-28 07:00:00",
        "relative_timestamp": -1,
        "interrogator_timestamp": 2**60 + number,
        "freeform": freeform,
    }
    for number, freeform in enumerate(
        ['{"rssi":-61,"tag":"a","mixed":1}', '{"rssi":-60.5,"mixed":"x","id":7}', "[1]"]
    )
]
COLUMNS = ["id", "absolute_timestamp", "relative_timestamp", "interrogator_timestamp"]


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    server.body = json.dumps({"data": ROWS, "cursor": None}).encode()
    with Client(server.url, "secret") as made:
        yield made


def test_arrow(client: Client) -> None:
    table = client.readings().to_arrow()
    assert table.column_names == [*COLUMNS, "freeform"]
    types = ["int64", "timestamp[s, tz=UTC]", "int64", "int64", "string"]
    assert [str(each) for each in table.schema.types] == types
    assert table["interrogator_timestamp"].to_pylist() == [2**60, 2**60 + 1, 2**60 + 2]
    assert str(table["absolute_timestamp"][0].as_py()) == "2026-11-28 07:00:00+00:00"
    assert table["freeform"].to_pylist() == [row["freeform"] for row in ROWS]


def test_arrow_flattened(client: Client) -> None:
    table = client.readings().to_arrow(flatten=True)
    members = ["freeform.rssi", "freeform.tag", "freeform.mixed", "freeform.id", "freeform"]
    assert table.column_names == [*COLUMNS, *members]
    assert table["freeform.rssi"].to_pylist() == [-61, -60.5, None]
    assert table["freeform.tag"].to_pylist() == ["a", None, None]
    assert table["freeform.mixed"].to_pylist() == ["1", '"x"', None]
    assert table["freeform.id"].to_pylist() == [None, 7, None]
    assert table["freeform"].to_pylist() == [None, None, [1]]


def test_pandas(client: Client) -> None:
    frame = client.readings().to_pandas(flatten=True)
    assert list(frame.columns[:4]) == COLUMNS
    assert [str(each) for each in frame.dtypes[:4]][::2] == ["int64", "int64"]
    assert str(frame["absolute_timestamp"].dt.tz) == "UTC"
    assert frame["interrogator_timestamp"].tolist() == [2**60, 2**60 + 1, 2**60 + 2]
    assert frame["freeform.rssi"].tolist()[:2] == [-61, -60.5]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (5, "float64"),
        (2**53, "float64"),
        (2**53 + 1, "Int64"),
        (-(2**63), "Int64"),
        (2**64, "object"),
    ],
)
def test_pandas_rounds_no_integer_beside_a_missing_one(
    client: Client, server: Server, number: int, kind: str
) -> None:
    texts = (f'{{"n":{number}}}', "{}", '{"n":null}')
    server.body = json.dumps({"data": [{**ROWS[0], "freeform": each} for each in texts]}).encode()
    column = client.readings().to_pandas(flatten=True)["freeform.n"]
    assert str(column.dtype) == kind
    assert int(column[0]) == number
    assert column.isna().tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("freeform", "column", "value"),
    [
        (r'{"t":"a\ud800"}', "freeform.t", r"a\ud800"),
        (r'"\ud800"', "freeform", r"\ud800"),
        (r'{"\ud800":1}', r"freeform.\ud800", 1),
        (r'{"t":["\udfff",{"\ud800":"\ud83d\ude00"}]}', "freeform.t", None),
        (f'{{"t":{"9" * 5000}}}', "freeform.t", "9" * 5000),
        (f'{{"t":[-{"9" * 5000}]}}', "freeform.t", None),
        (f'{{"t":{"9" * 400}}}', "freeform.t", "9" * 400),
        ('{"t":' + "[" * 400 + "]" * 400 + "}", "freeform.t", None),
    ],
)
@pytest.mark.parametrize("others", [[], ['{"t":1}'], ['{"t":"b"}'], ['{"t":[1]}'], ['{"t":{}}']])
def test_one_odd_reading_fails_no_table(
    client: Client, server: Server, freeform: str, column: str, value: object, others: list[str]
) -> None:
    rows = [{**ROWS[0], "freeform": each} for each in (freeform, *others)]
    server.body = json.dumps({"data": rows}).encode()
    table = client.readings().to_arrow(flatten=True)
    frame = client.readings().to_pandas(flatten=True)
    assert table.num_rows == len(frame) == len(rows)
    assert column in table.column_names
    assert column in frame.columns
    if value is not None:
        shown = table[column].to_pylist()[0]
        assert shown in {value, json.dumps(value)}
        assert str(frame[column].tolist()[0]) in {
            str(value),
            str(float(value)) if value == 1 else "",
        }


def test_no_reading_is_an_empty_table(client: Client, server: Server) -> None:
    server.body = b'{"data": []}'
    assert client.readings().to_arrow().num_rows == 0
    assert list(client.readings().to_pandas().columns) == [*COLUMNS, "freeform"]


def test_a_missing_package_is_named_with_its_extra(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(tables, "import_module", missing)
    with pytest.raises(ImportError, match=r"pyarrow.*iot-sensor-client\[arrow\]"):
        client.readings().to_arrow()
