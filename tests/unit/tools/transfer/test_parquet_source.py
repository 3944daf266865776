"""Parquet files to import: their values become the same values in JSON, or a row is refused."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from iot_tools.transfer.import_format import ImportFileError
from iot_tools.transfer.import_row import ImportRow, make_row
from iot_tools.transfer.import_sources import open_source
from support.tables import write_parquet

PASSWORD = "right"
AT = "2020-01-01 00:00:00"


def test_a_parquet_file_of_your_own(tmp_path: Path) -> None:
    """Columns keep their types: a text of digits stays a text."""
    import pyarrow as pa  # noqa: PLC0415 - it starts a thread: see `support/worker_server.py`

    moments = [datetime(2020, 1, 1, 1, 2, 3, 4, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC)]
    file = write_parquet(
        tmp_path / "file",
        absolute_timestamp=pa.array(moments, pa.timestamp("ns", "Europe/Berlin")),
        interrogator_timestamp=pa.array(moments, pa.timestamp("us", "UTC")),
        relative_timestamp=pa.array([5, None], pa.int64()),
        id=[1, 2],
        text=["12", None],
        number=[1.5, 2.0],
        values=[[1, 2], None],
    )
    assert list(open_source(file, None, PASSWORD).rows()) == [
        make_row("2020-01-01 01:02:03", 5, 1577840523000004,
                 '{"text": "12", "number": 1.5, "values": [1, 2]}'),
        make_row("2020-01-02 00:00:00", -1, 1577923200000000, '{"number": 2.0}'),
    ]  # fmt: skip


def test_parquet_values_keep_their_digits_and_types(tmp_path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415 - it starts a thread: see `support/worker_server.py`

    number = Decimal("12345678901234567890.10")
    values = {
        "decimal": (pa.array([number]), "12345678901234567890.10"),
        "nested": (pa.array([{"list": [number], "b": b"x"}]),
                   '{"list": [12345678901234567890.10], "b": "x"}'),
        "map": (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), '[["k", 1]]'),
        "binary": (pa.array(["ü".encode()]), r'"\u00fc"'),
        "bool": (pa.array([True]), "true"),
        "half": (pa.array([1.5]).cast(pa.float16()), "1.5"),
        "nan": (pa.array([float("nan")]), "NaN"),
        "date": (pa.array([1], pa.date32()), '"1970-01-02"'),
        "clock": (pa.array([1_500_000_999], pa.time64("ns")), '"00:00:01.500000"'),
        "local": (pa.array([1_500], pa.timestamp("ms")), '"1970-01-01 00:00:01.500000"'),
        "span": (pa.array([90_000_000_000_999], pa.duration("ns")), '"P1DT3600S"'),
        "times": (pa.array([[1_999]], pa.list_(pa.timestamp("ns"))),
                  '["1970-01-01 00:00:00.000001"]'),
    }  # fmt: skip
    columns = {name: array for name, (array, _) in values.items()}
    times: dict[str, object] = {"absolute_timestamp": pa.array([Decimal("1577836800.50")])}
    times["interrogator_timestamp"] = pa.array([Decimal("1577836800000001.9")])
    times["relative_timestamp"] = pa.array([b"5"])
    (row,) = open_source(
        write_parquet(tmp_path / "file", **times, **columns), None, PASSWORD
    ).rows()
    text = ", ".join(f'"{name}": {text}' for name, (_, text) in values.items())
    assert row == make_row(f"{AT}.5", 5, 1577836800000001, f"{{{text}}}")
    (row,) = open_source(
        write_parquet(tmp_path / "file", **times, freeform=[b"[1]"]), None, PASSWORD
    ).rows()
    assert row == make_row(f"{AT}.5", 5, 1577836800000001, "[1]")


def test_parquet_values_that_python_can_t_hold(tmp_path: Path) -> None:
    """Only their rows are refused."""
    import pyarrow as pa  # noqa: PLC0415 - it starts a thread: see `support/worker_server.py`

    text = pa.array([b"a", b"\xff", b"c", b"d", b"e"])
    file = write_parquet(
        tmp_path / "file",
        absolute_timestamp=[AT] * 5,
        relative_timestamp=[1, 2, 3, 4, 5],
        binary=[b"", b"", b"", b"", b"\xff"],
        text=pa.Array.from_buffers(pa.string(), 5, text.buffers()),
        time=pa.array([0, 1, 2**60, 3, 4], pa.timestamp("ms")),
        date=pa.array([0, 1, 2, 2**30, 4], pa.date32()),
    )
    first, *refused = open_source(file, None, PASSWORD).rows()
    assert isinstance(first, ImportRow)
    assert [str(each).partition(": ")[0] for each in refused] == [
        "text has a value that can't be read",
        "time has a value that can't be read",
        "date has a value that can't be read",
        "binary has a value that can't be read",
    ]


def test_parquet_rows_that_are_refused(tmp_path: Path) -> None:
    file = write_parquet(
        tmp_path / "file",
        absolute_timestamp=[AT, None, AT, AT],
        freeform=["1", "2", "{", "4"],
        db_password=[None, "", PASSWORD, "other"],
    )
    found = [str(row) for row in open_source(file, None, PASSWORD).rows()][1:]
    assert found == [
        "absolute_timestamp is missing", "freeform is not JSON", "is under another password",
    ]  # fmt: skip
    with pytest.raises(ImportFileError, match="the schema lacks the column absolute_timestamp"):
        list(open_source(write_parquet(tmp_path / "file", a=[1]), None, PASSWORD).rows())
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ImportFileError, match="is not a Parquet file that can be read"):
        open_source(file, None, PASSWORD).count()
