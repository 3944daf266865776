"""Files of readings to import: what is a row, and which rows and files are refused."""

import bz2
import gzip
import json
import lzma
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import zstandard

from iot_api.ingest.ascii_json import escape_json
from iot_tools.transfer.import_format import ImportFileError
from iot_tools.transfer.import_row import ImportRow, OtherPasswordError, RowError, make_row
from iot_tools.transfer.import_sources import open_source
from iot_tools.transfer.importer import ImportReport
from support.tables import write_parquet

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
        ("absolute_timestamp,relative_time,relativetime", "relative_time, relativetime"),
    ],
)
def test_a_csv_file_that_names_a_column_twice(tmp_path: Path, names: str, twice: str) -> None:
    with pytest.raises(ImportFileError, match=f"the first line names a column twice: {twice};"):
        rows(tmp_path, f"{names}\n{AT},1,2\n")


@pytest.mark.parametrize("form", ["csv", "parquet", "ndjson"])
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        (" db_password", "db_password"),
        ("DB_Password", "db_password"),
        ("\ufefffreeform", "freeform"),
        ("id\t", "id"),
        ("Interrogator_Time", "interrogator_time"),
        ("ID", None),
        (" sensor", None),
    ],
)
def test_a_name_that_is_almost_the_name_of_another_column(
    tmp_path: Path, form: str, name: str, meant: str | None
) -> None:
    """A password, for example, would become a part of the reading."""
    if form == "parquet":
        write_parquet(tmp_path / "file", **{"absolute_timestamp": [AT], name: ["5"]})
        content = (tmp_path / "file").read_bytes()
    elif form == "csv":
        content = f'absolute_timestamp,"{name}"\n{AT},5\n'.encode()
    else:
        content = json.dumps({"absolute_timestamp": AT, name: 5}).encode()
    if meant is None:
        assert rows(tmp_path, content) == [-1]
    elif form == "ndjson":
        assert rows(tmp_path, content) == [
            f"has the member {name!r}: write {meant!r}, or rename the member"
        ]
    else:
        with pytest.raises(ImportFileError) as refused:
            rows(tmp_path, content)
        assert f"has the column {name!r}: write {meant!r}, or rename" in str(refused.value)


def test_a_csv_file_with_nul(tmp_path: Path) -> None:
    assert freeforms(tmp_path, f"absolute_timestamp,a\n{AT},x\0y\n") == [r'{"a": "x\u0000y"}']
    assert freeforms(tmp_path, f"absolute_timestamp,a\0\n{AT},1\n") == [r'{"a\u0000": 1}']


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


@pytest.mark.parametrize("form", ["csv", "ndjson", "parquet"])
def test_a_row_under_another_password_is_left(tmp_path: Path, form: str) -> None:
    """As in the service, the form of the password in Unicode makes no difference."""
    file = tmp_path / "file"
    given = {"relative_timestamp": 1, "interrogator_timestamp": 1, "absolute_timestamp": AT}
    passwords = ["b\u00fcro", "bu\u0308ro", "wrong"]
    if form == "csv":
        lines = [f"1,1,{AT},{each}" for each in passwords]
        file.write_text("\n".join([",".join([*given, "db_password"]), *lines]))
    elif form == "parquet":
        columns = {name: [value] * len(passwords) for name, value in given.items()}
        write_parquet(file, **columns, db_password=[each.encode() for each in passwords])
    else:
        objects = [{"data": {**given, "db_password": each}} for each in passwords]
        file.write_text("\n".join(map(json.dumps, objects)))
    for password in passwords[:2]:
        *found, other = open_source(file, None, password).rows()
        assert isinstance(other, OtherPasswordError)
        for row in found:
            assert isinstance(row, ImportRow)
            assert row.freeform == ('""' if form == "ndjson" else "{}")


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_an_answer_of_the_api(tmp_path: Path, indent: int | None, as_list: bool, mark: str) -> None:
    readings = [{"absolute_timestamp": AT, "relative_timestamp": n} for n in range(3)]
    content = json.dumps(readings if as_list else {"data": readings}, indent=indent)
    assert rows(tmp_path, mark + content) == [0, 1, 2]


@pytest.mark.parametrize(
    "page",
    [
        '{"data": [%s], "cursor": %s}',
        '{"cursor": %s, "data": [{"freeform": NaN}]}',
        '%s\n{"cursor": %s}\n',
    ],
)
def test_a_page_of_an_answer(tmp_path: Path, page: str) -> None:
    reading = json.dumps({"absolute_timestamp": AT, "relative_timestamp": 5})
    for cursor in ("null", '"x"'):
        values = (reading, cursor) if page.count("%s") == 2 else (cursor,)
        (tmp_path / "file").write_text(page % values)
        source = open_source(tmp_path / "file", None if len(values) == 2 else "json", PASSWORD)
        assert len(list(source.rows())) == 1
        assert source.more_pages is (cursor != "null")


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


@pytest.mark.parametrize(
    ("members", "row"),
    [
        ('"relative_time": 5, "interrogator_timestamp": 6, "freeform": "7"', (5, 6, "7")),
        ('"relative_timestamp": "5", "interrogator_time": 6, "freeform": {}', (5, 6, "{}")),
        ('"relative_timestamp": null, "relative_time": 5, "freeform": "7"', (5, -1, "7")),
        ('"relative_time": 5, "interrogator_time": 6, "freeform": "7"', (5, 6, '"7"')),
        ('"relative_time": 5, "freeform": 1.10, "sensor": "room-1"', (5, -1, "1.10")),
        ('"relative_time": 5', (5, -1, '""')),
        ('"interrogator_time": 1.710754759123456789e18', (-1, 1710754759123456789, '""')),
        (
            '"interrogatortime": 6, "id": 1, "db_password": "right", "a": 1.10, "b": null',
            (-1, 6, '{"a": 1.10, "b": null}'),
        ),
        ('"a": NaN, "b": 1.10', (-1, -1, '{"a": NaN, "b": 1.10}')),
        (r'"\ud800": 1.10, "\u00e9": "\uD800"', (-1, -1, r'{"\ud800": 1.10, "\u00e9": "\uD800"}')),
        ('"interrogator_time": 9007199254740993.5, "a": NaN', (-1, 2**53 + 1, '{"a": NaN}')),
        ('"relative_timestamp": 5, "relative_time": 5', "has the same time twice"),
    ],
)
def test_the_members_of_a_row(
    tmp_path: Path, members: str, row: tuple[int, int, str] | str
) -> None:
    """The import keeps each time and each value under all of its names."""
    reading = f'{{"absolute_timestamp": "{AT}", {members}}}'
    for content in (reading, f'{{"data": {reading}}}', f"[{reading}]"):
        (tmp_path / "file").write_text(content)
        (found,) = open_source(tmp_path / "file", None, PASSWORD).rows()
        if isinstance(row, str):
            assert row in str(found)
        else:
            assert found == make_row(AT, *row)


@pytest.mark.parametrize("text", WRITTEN)
def test_a_cell_keeps_its_digits(tmp_path: Path, text: str) -> None:
    quoted = text.replace('"', '""')
    csv = f'absolute_timestamp,a,b\n{AT},"{quoted}"," {quoted} "\n'
    assert freeforms(tmp_path, csv) == [f'{{"a": {text}, "b": {text}}}']


@pytest.mark.parametrize("other", ["1", "NaN", r'"\ud800"'])
@pytest.mark.parametrize("text", WRITTEN)
def test_a_reading_of_a_put_keeps_its_digits(tmp_path: Path, text: str, other: str) -> None:
    """JSON that only the dialect of old clients allows changes no other value of the file."""
    text = f'{{"a": {text}, "b": {other}}}'
    reading = f'{{"absolute_timestamp": "{AT}", "relative_time": 1, "freeform": {text}}}'
    put = f'{{"data": {reading}}}'
    for content in (f"\ufeff{put}\n{reading}\n", f"[{put},\n{reading}]"):
        assert freeforms(tmp_path, content) == [text, text]


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
        ("1711677599.9", "2024-03-29 01:59:59.900"),
        ("1711677599.0004", "2024-03-29 01:59:59"),
        ("2026-03-29 14:30:00.7509", "2026-03-29 14:30:00.750"),
        ("1969-12-31T23:59:59.999Z", "1969-12-31 23:59:59.999"),
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


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        (r'"\u00e9\ud83d\ude00\u2028\u007f"', '"\u00e9\U0001f600\u2028\x7f"'),
        ('"\u00e9\U0001f600"', '"\u00e9\U0001f600"'),
        (r'"\\u00e9\\\u00e9"', '"\\\\u00e9\\\\\u00e9"'),
        (r'"\u00E9\u0041\ud800\ud83d\uDE00"', r'"\u00E9\u0041\ud800\ud83d\uDE00"'),
    ],
)
def test_a_reading_is_sent_in_utf_8(text: str, sent: str) -> None:
    """The service escapes what it stores. An export of a large reading must fit into a request."""
    row = make_row(AT, 1, 1, text)
    assert row.body("p").endswith(b'"freeform":%b}}' % sent.encode())
    assert escape_json(sent.encode(), limit=100).decode() == row.freeform


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
