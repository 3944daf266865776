"""Exported files: what a file says is what an import reads."""

import csv
from pathlib import Path

import pytest

from iot_models.reading import Reading
from iot_tools.transfer.export_columns import Columns, flattened_columns
from iot_tools.transfer.export_writers import CsvWriter, ParquetWriter
from iot_tools.transfer.import_row import row_of_csv

FREEFORMS = (
    '{"a": 1.5, "b": 1e-320}', '{"a": NaN}', '{"a": Infinity}', '{"a": -Infinity, "b": -0.0}',
    '{"c": true, "d": 12345678901234567890, "e": "x"}',
)  # fmt: skip


def test_the_columns_of_a_flattened_csv_file_hold_all_values(tmp_path: Path) -> None:
    """A file without the column `freeform` is imported with the same values."""
    readings = [
        Reading("2026-11-28 07:00:00", text, number, -1, -1)
        for number, text in enumerate(FREEFORMS)
    ]
    writer = CsvWriter(tmp_path / "out.csv", flattened_columns(readings))
    for reading in readings:
        writer.write(reading)
    writer.close()
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row_of_csv({**row, "freeform": ""}).freeform for row in rows] == list(FREEFORMS)


def test_large_readings_make_small_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row group is collected in memory."""
    import pyarrow.parquet as pq  # noqa: PLC0415 -- it starts threads

    monkeypatch.setattr("iot_tools.transfer.export_writers._ROW_GROUP_BYTES", 100)
    writer = ParquetWriter(tmp_path / "out.parquet", Columns())
    for number in range(5):
        writer.write(Reading("2026-11-28 07:00:00", f'"{"x" * 48}"', number, -1, -1))
    writer.close()
    written = pq.ParquetFile(tmp_path / "out.parquet")
    assert [written.metadata.row_group(n).num_rows for n in range(3)] == [2, 2, 1]
    assert written.read()["id"].to_pylist() == [0, 1, 2, 3, 4]
