"""Files of readings to import: what is a row, and which rows and files are refused."""

import bz2
import gzip
import json
import lzma
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zstandard

from iot_tools.transfer.import_format import ImportFileError
from iot_tools.transfer.import_row import ImportRow, OtherPasswordError, RowError, make_row
from iot_tools.transfer.import_sources import open_source
from iot_tools.transfer.importer import ImportReport

LEGACY_FILE = Path(__file__).parents[3] / "fixtures" / "legacy" / "encpassword.db"
PASSWORD = "right"
AT = "2020-01-01 00:00:00"
HEAD = "absolute_timestamp,relative_timestamp,freeform\n"


def rows(tmp_path: Path, content: bytes | str) -> list[object]:
    """Return the rows of a file: a reading's relative timestamp, or why it is refused."""
    file = tmp_path / "file"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return [
        row.relative if isinstance(row, ImportRow) else str(row)
        for row in open_source(file, None, PASSWORD).rows()
    ]


@pytest.mark.parametrize(
    ("names", "twice"),
    [
        ("absolute_timestamp,t,t", "t, t"),
        ("absolute_timestamp,relativetime,relative_timestamp", "relativetime, relative_timestamp"),
    ],
)
def test_a_csv_file_that_names_a_column_twice(tmp_path: Path, names: str, twice: str) -> None:
    with pytest.raises(ImportFileError, match=f"the first line names a column twice: {twice};"):
        rows(tmp_path, f"{names}\n{AT},1,2\n")


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_than_commas(tmp_path: Path, separator: str) -> None:
    names = ["absolute_timestamp", "temperature"]
    with pytest.raises(ImportFileError, match=r"absolute_timestamp: separate the columns by comma"):
        rows(tmp_path, separator.join(names) + f"\n{AT}{separator}21,5\n")


def test_a_first_line_without_names(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(f"\nabsolute_timestamp,a\n{AT},1\n")
    with pytest.raises(
        ImportFileError, match=r"the first line lacks the column absolute_timestamp$"
    ):
        list(open_source(file, "csv", PASSWORD).rows())


def test_a_quote_that_does_not_end(tmp_path: Path) -> None:
    """The reader continues where the missing quote shows."""
    good = f'{AT},%d,"{{""a"": 1}}"\n'
    content = HEAD + good % 1 + f'{AT},2,"broken\n' + good % 3 + good % 4
    assert rows(tmp_path, content) == [
        1,
        "is not CSV, or a quote is missing: lines 3 to 4 of the file: ',' expected after '\"'",
        4,
    ]
    content = HEAD + good % 1 + f'{AT},2,"broken\n{AT},3,1\n'
    assert rows(tmp_path, content) == [
        1, "is not CSV, or a quote is missing: lines 3 to 4 of the file: unexpected end of data",
    ]  # fmt: skip


def test_a_csv_row_has_as_many_fields_as_the_first_line(tmp_path: Path) -> None:
    assert rows(tmp_path, f"{HEAD}{AT}\n\n{AT},2,1\n{AT},3,1,1\n") == [
        "has fewer fields than the first line", 2, "has more fields than the first line",
    ]  # fmt: skip


def test_a_row_that_is_not_utf_8_does_not_refuse_the_others(tmp_path: Path) -> None:
    csv = [HEAD.encode(), f'{AT},1,"""\xe9"""\n'.encode("latin-1"), f"{AT},2,1\n".encode()]
    assert rows(tmp_path, b"".join(csv)) == ["is not UTF-8", 2]
    line = '{"absolute_timestamp": "%s", "relative_time": %d, "freeform": "\xe9"}\n'
    ndjson = [(line % (AT, 1)).encode(), (line % (AT, 2)).encode("latin-1")]
    assert rows(tmp_path, b"".join(ndjson)) == [1, "is not UTF-8"]
    with pytest.raises(ImportFileError, match="the first line is not UTF-8"):
        rows(tmp_path, "absolute_timestamp,gr\xf6\xdfe\n".encode("latin-1"))


def test_a_program_is_no_file_of_readings() -> None:
    with pytest.raises(ImportFileError, match="unknown format; name it with --format"):
        open_source(Path("/bin/ls"), None, PASSWORD)


@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_a_row_under_another_password_is_left(tmp_path: Path, form: str) -> None:
    file = tmp_path / "file"
    given = {"relative_timestamp": 1, "interrogator_timestamp": 1, "absolute_timestamp": AT}
    if form == "csv":
        names = ",".join([*given, "db_password"])
        file.write_text(f"{names}\n1,1,{AT},right\n1,1,{AT},wrong\n")
    else:
        lines = [{"data": {**given, "db_password": each}} for each in ("right", "wrong")]
        file.write_text("\n".join(map(json.dumps, lines)))
    first, second = open_source(file, None, PASSWORD).rows()
    assert isinstance(first, ImportRow)
    assert "right" not in first.freeform
    assert isinstance(second, OtherPasswordError)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_an_answer_of_the_api(tmp_path: Path, indent: int | None, as_list: bool, mark: str) -> None:
    readings = [{"absolute_timestamp": AT, "relative_timestamp": n} for n in range(3)]
    content = json.dumps(readings if as_list else {"data": readings}, indent=indent)
    assert rows(tmp_path, mark + content) == [0, 1, 2]


def test_json_that_is_no_answer_of_the_api(tmp_path: Path) -> None:
    with pytest.raises(ImportFileError, match=r"is not JSON: .*; use --format ndjson"):
        rows(tmp_path, "[1]\n[2]\n")
    (tmp_path / "file").write_text('{"error": "x"}')
    with pytest.raises(ImportFileError, match="is neither a JSON list nor"):
        list(open_source(tmp_path / "file", "json", PASSWORD).rows())
    assert rows(tmp_path, '{"cursor": null, "data": []}') == [
        "data is a list, as in a saved answer of the API; import such a file with --format json"
    ]


def test_the_time_of_receipt_is_required(tmp_path: Path) -> None:
    assert rows(tmp_path, f'{HEAD},1,1\n0001-01-01 00:00:00,2,1\n{{"relative_time": 1}},,\n') == [
        "absolute_timestamp is missing",
        2,
        "absolute_timestamp is not a date such as 2026-11-23 06:17:23: '{\"relative_time\": 1}'",
    ]
    assert rows(tmp_path, '{"relative_time": 1}') == ["absolute_timestamp is missing"]


def test_a_year_has_four_digits(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(f"{HEAD}0001-01-01 00:00:00,1,1\n")
    (row,) = open_source(file, None, PASSWORD).rows()
    assert isinstance(row, ImportRow)
    assert row.received == "0001-01-01 00:00:00"


def test_a_reason_keeps_its_times() -> None:
    report = ImportReport()
    report.refuse(1, "times from 1970-01-01 00:00:00 to 2026-01-01 00:00:00: 2999-01-01 00:00:00")
    assert dict(report.unusable) == {"times from 1970-01-01 00:00:00 to 2026-01-01 00:00:00": 1}


WRITTEN = [
    "1e400", "-1E400", "0.1234567890123456789012", "1.10", "12345678901234567890123", "NaN",
    '{"x":1,"x":2}', "[1.0, 2]", '"007"', "null", "true", "-0.0", "1e-320",
]  # fmt: skip


def freeforms(tmp_path: Path, content: str) -> list[str]:
    file = tmp_path / "file"
    file.write_text(content)
    found = list(open_source(file, None, PASSWORD).rows())
    return [row.freeform if isinstance(row, ImportRow) else str(row) for row in found]


@pytest.mark.parametrize("text", WRITTEN)
def test_a_cell_keeps_its_digits(tmp_path: Path, text: str) -> None:
    quoted = text.replace('"', '""')
    csv = f'absolute_timestamp,a,b\n{AT},"{quoted}"," {quoted} "\n'
    assert freeforms(tmp_path, csv) == [f'{{"a": {text}, "b": {text}}}']


@pytest.mark.parametrize("text", [each for each in WRITTEN if each != "NaN"])
def test_a_reading_of_a_put_keeps_its_digits(tmp_path: Path, text: str) -> None:
    reading = f'{{"absolute_timestamp": "{AT}", "relative_time": 1, "freeform": {text}}}'
    put = f'{{"data": {reading}}}'
    for content in (f"\ufeff{put}\n{reading}\n", f"[{put},\n{reading}]"):
        assert freeforms(tmp_path, content) == [text, text]


def test_nan_in_a_reading_of_a_put(tmp_path: Path) -> None:
    put = f'{{"data": {{"absolute_timestamp": "{AT}", "freeform": {{"a": NaN, "b": 1.10}}}}}}'
    assert freeforms(tmp_path, put) == ['{"a": NaN, "b": 1.1}']
    assert freeforms(tmp_path, f"[{put}]") == ['{"a": NaN, "b": 1.1}']


@pytest.mark.parametrize(
    ("date", "received"),
    [
        ("Sun, 29 Mar 2026 14:30:00 GMT", "2026-03-29 14:30:00"),
        ("Sun, 29 Mar 2026 14:30:00 +0200", "2026-03-29 12:30:00"),
        ("Sun, 29 Mar 2026 14:30:00", "2026-03-29 14:30:00"),
        ("Sun, 29 Mar 2026 14:30:00 -0000", "2026-03-29 14:30:00"),
        ("Sun, 29 Mar 2026 14:30:00 EST", "2026-03-29 19:30:00"),
        ("Sun, 29 Mar 2026 14:30:00 CET", None),
        ("Sun, 29 Mar 2026 14:30:00 CEST", None),
        ("Sun, 29 Mar 2026 14:30:00 (CET)", None),
        ("Sun, 29 Mar 2026 02:30 PM", None),
        ("2026-03-29 14:30:00 CET", None),
        ("2026-03-29 14:30:00+02:00", "2026-03-29 12:30:00"),
        ("2023-02-29 12:00:00", None),
        ("1999-01-01", None),
        ("1711677599000", None),
        ("123e-5", None),
        ("1711677599.9", "2024-03-29 01:59:59"),
    ],
)
def test_a_time_zone_is_applied_or_refused(tmp_path: Path, date: str, received: str | None) -> None:
    (tmp_path / "file").write_text(f'absolute_timestamp,a\n"{date}",1\n')
    (row,) = open_source(tmp_path / "file", None, PASSWORD).rows()
    if received is None:
        assert isinstance(row, RowError)
        assert str(row).endswith(f": {date!r}")
    else:
        assert isinstance(row, ImportRow)
        assert row.received == received


def parquet(tmp_path: Path, **columns: object) -> Path:
    import pyarrow as pa  # noqa: PLC0415 - it starts a thread: see `support/worker_server.py`
    import pyarrow.parquet as pq  # noqa: PLC0415

    file = tmp_path / "file.parquet"
    pq.write_table(pa.table(columns), file)
    return file


def test_a_parquet_file_of_your_own(tmp_path: Path) -> None:
    """Columns keep their types: a text of digits stays a text."""
    import pyarrow as pa  # noqa: PLC0415 - it starts a thread: see `support/worker_server.py`

    moments = [datetime(2020, 1, 1, 1, 2, 3, 4, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC)]
    file = parquet(
        tmp_path,
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


def test_parquet_values_that_python_can_t_hold(tmp_path: Path) -> None:
    """Only their rows are refused."""
    import pyarrow as pa  # noqa: PLC0415 - it starts a thread: see `support/worker_server.py`

    text = pa.array([b"a", b"\xff", b"c", b"d"])
    file = parquet(
        tmp_path,
        absolute_timestamp=["2020-01-01 00:00:00"] * 4,
        relative_timestamp=[1, 2, 3, 4],
        text=pa.Array.from_buffers(pa.string(), 4, text.buffers()),
        time=pa.array([0, 1, 2**60, 3], pa.timestamp("ms")),
        date=pa.array([0, 1, 2, 2**30], pa.date32()),
    )
    first, *refused = open_source(file, None, PASSWORD).rows()
    assert isinstance(first, ImportRow)
    assert [str(each).partition(": ")[0] for each in refused] == [
        "text has a value that can't be read",
        "time has a value that can't be read",
        "date has a value that can't be read",
    ]


def test_parquet_rows_that_are_refused(tmp_path: Path) -> None:
    file = parquet(
        tmp_path,
        absolute_timestamp=[AT, None, AT, AT],
        freeform=["1", "2", "{", "4"],
        db_password=[None, "", PASSWORD, "other"],
    )
    found = [str(row) for row in open_source(file, None, PASSWORD).rows()][1:]
    assert found == [
        "absolute_timestamp is missing", "freeform is not JSON", "is under another password",
    ]  # fmt: skip
    with pytest.raises(ImportFileError, match="the schema lacks the column absolute_timestamp"):
        list(open_source(parquet(tmp_path, a=[1]), None, PASSWORD).rows())
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ImportFileError, match="is not a Parquet file that can be read"):
        open_source(file, None, PASSWORD).count()


@pytest.mark.parametrize("form", ["csv", "ndjson", "json"])
def test_a_gzip_file_that_is_damaged(tmp_path: Path, form: str) -> None:
    line = f'{{"absolute_timestamp": "{AT}", "relative_time": 1}}'
    content = {"csv": f"{HEAD}{AT},1,1\n", "ndjson": line, "json": f"[{line}]"}[form]
    compressed = gzip.compress(content.encode())
    assert rows(tmp_path, compressed) == [1]
    assert rows(tmp_path, gzip.compress(content[:20].encode()) + gzip.compress(
        content[20:].encode()
    )) == [1]  # fmt: skip
    for damaged in (compressed[:-5], compressed[:-8] + bytes(8), compressed[:12] + bytes(30)):
        with pytest.raises(ImportFileError, match=r"/file: "):
            rows(tmp_path, damaged)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (zstandard.compress(b"{}"), "is compressed with zstd: unpack it first"),
        (lzma.compress(b"{}"), "is compressed with xz: unpack it first"),
        (bz2.compress(b"{}"), "is compressed with bzip2: unpack it first"),
        (b"PK\3\4", "is a ZIP archive or a spreadsheet: unpack it, or save it as CSV"),
        (HEAD.encode("utf-16"), "is UTF-16: save it as UTF-8"),
        (gzip.compress(b"PAR1"), "is compressed: unpack it first, for example with gunzip"),
        (gzip.compress(b"SQLite format 3\0"), "is compressed: unpack it first"),
    ],
    ids=["zstd", "xz", "bzip2", "zip", "utf16", "gzipped-parquet", "gzipped-sqlite"],
)
def test_a_file_that_must_be_unpacked_first(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(ImportFileError, match=f"/file {problem}"):
        rows(tmp_path, content)


def test_the_old_program_can_commit_during_an_import(tmp_path: Path) -> None:
    file = shutil.copy(LEGACY_FILE, tmp_path)
    found = open_source(Path(file), None, "encpassword").rows()
    next(found)
    columns = "absolute_timestamp, relative_timestamp, interrogator_timestamp, freeform"
    with closing(sqlite3.connect(file, timeout=0)) as database, database:
        database.execute(
            f"INSERT INTO IOTD ({columns}) SELECT {columns} FROM IOTD WHERE id = 1"  # noqa: S608
        )
    assert len(list(found)) == 65
