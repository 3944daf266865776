"""`iot-sensor export`, against a running service."""

import csv
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from iot_models.errors import IotError
from iot_sensor_client import Client
from iot_tools.transfer.export_lock import ExportLock
from iot_tools.transfer.export_spool import ExportSpool
from iot_tools.transfer.exporter import Exporter, ExportForm
from iot_tools.transfer.service_pages import ServicePages
from support.stack import Stack
from support.tables import read_csv, read_csv_with_polars, read_parquet

from .conftest import LEGACY_FILE, LEGACY_READINGS, Command
from .test_import import legacy_file, without_ids

SCHEMA = "SELECT sql FROM sqlite_master"
ROWS = (
    "SELECT absolute_timestamp, relative_timestamp, interrogator_timestamp, freeform,"
    " typeof(freeform) FROM IOTD ORDER BY interrogator_timestamp, id"
)


def query(path: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(statement).fetchall()


def stored(command: Command, path: Path, password: str, rows: Any) -> None:
    """Import (time, freeform) rows; the relative time is a seventh of the interrogator time."""
    file = legacy_file(path, [(password, "2020-02-29 12:00:00", *row) for row in rows])
    assert command("import", file, password=password)[0] == 0


def test_the_old_form_is_the_old_file_and_can_be_imported(
    service: Stack, command: Command, tmp_path: Path
) -> None:
    assert command("import", LEGACY_FILE)[0] == 0
    before = service.read("encpassword")
    file = tmp_path / "again.db"
    status, said, _ = command("export", file)
    assert (status, said) == (0, f"{LEGACY_READINGS} readings\n{file}\n")
    assert list(tmp_path.iterdir()) == [file]
    assert query(file, SCHEMA) == query(LEGACY_FILE, SCHEMA)
    assert query(file, ROWS) == query(LEGACY_FILE, ROWS), "to the byte"
    with Client(service.url, "encpassword") as client:
        client.erase_vault()
    assert f"{LEGACY_READINGS} imported" in command("import", file)[1]
    assert without_ids(service.read("encpassword")) == without_ids(before)


MIXED = [
    (10, {"rssi": -70, "epc96": "0001", "temp": 20, "ok": True, "at": {"x": 1, "y": None}}),
    (20, {"rssi": -71, "epc96": "0002", "temp": 20.5, "ok": False, "at": {"x": 2}, "id": 7,
          "freeform": {"id": 8}}),
    (30, {"rssi": "none", "list": [1, "é"], "big": 2**70}),
    (40, "a text, with a comma\nand a \"line\""),
]  # fmt: skip
FLAT = {
    "rssi": ["-70", "-71", "none", None],
    "epc96": ["0001", "0002", None, None],
    "temp": [20.0, 20.5, None, None],
    "ok": [True, False, None, None],
    "at.x": [1, 2, None, None],
    "freeform.id": [None, 7, None, None],
    "freeform.freeform.id": [None, 8, None, None],
    "list": [None, None, '[1, "\\u00e9"]', None],
    "big": [None, None, str(2**70), None],
}


@pytest.mark.parametrize("flatten", [False, True])
def test_tables_hold_types_and_values(
    service: Stack, command: Command, tmp_path: Path, flatten: bool
) -> None:
    password = f"types {flatten}"
    stored(command, tmp_path / "in.db", password, MIXED)
    options = ["--flatten"] if flatten else []
    for name in ("out.parquet", "out.csv", "out.ndjson"):
        assert command("export", tmp_path / name, *options, password=password)[0] == 0
    rows = service.read(password)
    table = read_parquet(tmp_path / "out.parquet")
    own = ["id", "absolute_timestamp", "relative_timestamp", "interrogator_timestamp", "freeform"]
    assert table.column_names == own + (list(FLAT) if flatten else [])
    found = table.to_pydict()
    for name in ("id", "relative_timestamp", "interrogator_timestamp", "freeform"):
        assert found[name] == [row[name] for row in rows]
    assert found["absolute_timestamp"] == [datetime(2020, 2, 29, 12, tzinfo=UTC)] * 4
    with (tmp_path / "out.csv").open(newline="") as opened:
        texts = list(csv.DictReader(opened))
    lines = [json.loads(line) for line in (tmp_path / "out.ndjson").read_text().splitlines()]
    if not flatten:
        assert lines == rows
        assert texts == [{name: str(row[name]) for name in own} for row in rows]
        return
    assert {name: found[name] for name in FLAT} == FLAT
    assert [line.get("temp") for line in lines] == FLAT["temp"]
    assert [text["ok"] for text in texts] == ["true", "false", "", ""]
    for name in ("out.csv", "out.ndjson"):
        said = command("import", tmp_path / name, "--dry-run", password=password)[1]
        assert said == "4 rows\n0 would be imported\n4 were in the service before\n", name


def test_a_new_run_begins_a_new_file(command: Command, tmp_path: Path) -> None:
    lines = [
        {"absolute_timestamp": "2020-01-01 00:00:00", "interrogator_timestamp": number,
         "relative_timestamp": relative, "freeform": str(number)}
        for number, relative in enumerate([5, 6, 6, 0, 1, 0, 9])
    ]  # fmt: skip
    (tmp_path / "in.ndjson").write_text("\n".join(map(json.dumps, lines)))
    assert command("import", tmp_path / "in.ndjson", password="runs")[0] == 0
    status, said, _ = command("export", tmp_path / "out.db", "--split-runs", password="runs")
    files = [tmp_path / f"out-00{number}.db" for number in (1, 2, 3)]
    assert (status, said.splitlines()) == (0, ["7 readings", *map(str, files)])
    times = [[time for (time,) in query(each, "SELECT relative_timestamp FROM IOTD ORDER BY id")]
             for each in files]  # fmt: skip
    assert times == [[5, 6, 6], [0, 1], [0, 9]]


def test_a_range_of_time(command: Command, tmp_path: Path) -> None:
    lines = [
        {"absolute_timestamp": f"2020-01-0{day} 12:00:00", "interrogator_timestamp": day,
         "relative_timestamp": day, "freeform": "0"}
        for day in range(1, 7)
    ]  # fmt: skip
    (tmp_path / "in.ndjson").write_text("\n".join(map(json.dumps, lines)))
    assert command("import", tmp_path / "in.ndjson", password="range")[0] == 0

    def exported(*options: str) -> list[int]:
        out = tmp_path / "out.csv"
        assert command("export", out, *options, password="range")[0] == 0
        found: list[int] = read_csv_with_polars(out)["relative_timestamp"].to_list()
        out.unlink()
        return found

    assert exported("--from", "2020-01-02T12:00:00Z", "--to", "2020-01-05T14:00:00+02:00") == [
        2,
        3,
        4,
    ]
    assert exported("--from", "2020-01-05T12:00:00Z") == [5, 6]
    by = ("--by", "interrogator")
    assert exported("--to", "1970-01-01T00:00:00.000003Z", *by) == [1, 2]


class KilledError(Exception):
    """Stands for SIGKILL of the exporter."""


class CountingClient(Client):
    """A client that counts its requests."""

    requests = 0

    def request(self, *arguments: Any, **options: Any) -> Any:
        self.requests += 1
        return super().request(*arguments, **options)


@pytest.mark.parametrize("form", ["out.csv", "out.parquet"])
def test_a_killed_export_continues(
    service: Stack,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    monkeypatch.setattr("iot_tools.transfer.service_pages._FIRST_LIMIT", 10)
    monkeypatch.setattr("iot_tools.transfer.service_pages._MAX_LIMIT", 10)
    stored(command, tmp_path / "in.db", form, [(n, {"n": n}) for n in range(45)])
    url = service.url
    spool = ExportSpool(tmp_path / form, {"url": url, "query": ""})
    reads: list[int] = []

    def die(_what: str, done: int, _total: int | None) -> None:
        reads.append(done)
        if done == 30:
            raise KilledError

    with Client(url) as client:
        pages = ServicePages(client, form)
        with pytest.raises(KilledError):
            Exporter(pages, spool, die, form).fetch(ExportForm("csv"))
    assert reads == [10, 20, 30]
    spool.close()
    assert (tmp_path / f"{form}.part").stat().st_mode & 0o077 == 0
    status, _, error = command("export", tmp_path / form, password="mistyped")
    assert status == 1
    assert "no vault has this password" in error
    with (
        CountingClient(url) as client,
        closing(ExportSpool(tmp_path / form, {"url": url, "query": ""})) as spool,
    ):
        exporter = Exporter(ServicePages(client, form), spool, lambda *_: None, form)
        assert exporter.fetch(ExportForm("csv")) == 45
        assert client.requests == 2, "it began at the first reading"
        stored(command, tmp_path / "later.db", form, [(45, {"n": 45})])
        assert exporter.fetch(ExportForm("csv")) == 46
        assert client.requests == 3, "it repeats the last page only"
    status, said, _ = command("export", tmp_path / form, password=form)
    assert (status, said.splitlines()[0]) == (0, "46 readings")
    table = read_parquet if form.endswith("parquet") else read_csv
    found = table(tmp_path / form)["relative_timestamp"]
    assert [int(str(each)) for each in found] == [n // 7 for n in range(46)]
    assert {each.name for each in tmp_path.iterdir()} == {"in.db", "later.db", form}


def test_a_write_that_is_interrupted_is_repeated(
    service: Stack, command: Command, tmp_path: Path
) -> None:
    stored(command, tmp_path / "in.db", "write", [(n, n) for n in range(5)])
    url = service.url
    with (
        Client(url) as client,
        closing(ExportSpool(tmp_path / "out.csv", {"url": url, "query": ""})) as spool,
    ):

        def die(what: str, _done: int, _total: int | None) -> None:
            if what == "writing":
                raise KilledError

        exporter = Exporter(ServicePages(client, "write"), spool, die, "write")
        assert exporter.fetch(ExportForm("csv")) == 5
        with pytest.raises(KilledError):
            exporter.write(tmp_path / "out.csv", ExportForm("csv"))
    assert not (tmp_path / "out.csv").exists()
    assert command("export", tmp_path / "out.csv", password="write")[0] == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 6


@pytest.mark.parametrize("readings", [5, 15], ids=["one page", "two pages"])
def test_a_complete_spool_serves_only_its_own_password(
    service: Stack,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    readings: int,
) -> None:
    monkeypatch.setattr("iot_tools.transfer.service_pages._FIRST_LIMIT", 10)
    owner, other, file = f"owner {readings}", f"other {readings}", tmp_path / "out.csv"
    stored(command, tmp_path / "in.db", owner, [(n, n) for n in range(readings)])
    stored(command, tmp_path / "other.db", other, [(1, "other")])
    url = service.url
    with Client(url) as client, closing(ExportSpool(file, {"url": url, "query": ""})) as spool:
        exporter = Exporter(ServicePages(client, owner), spool, lambda *_: None, owner)
        assert exporter.fetch(ExportForm("csv")) == readings
    if readings > 10:
        status, _, error = command("export", file, password="mistyped")
        assert status == 1
        assert "no vault has this password" in error
        assert not file.exists()
    status, _, error = command("export", file, password=other)
    if readings > 10:
        assert status == 1
        assert "cursor: must be from an answer to the same call" in error
        assert f"{file}.part can't be continued: " in error
        assert "if the vault was erased, delete the file" in error
        with Client(url, owner) as client:
            client.change_password(f"{owner} now")
        said = command("export", file, password=f"{owner} now")[1]
        assert said.startswith(f"{readings} readings")
    else:
        assert status == 0, error
        assert read_csv(file)["freeform"].to_list() == ['"other"']


_LIMITED = """
import resource, sys
from iot_tools.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("form", "kib"), [("csv", 4), ("csv", 64), ("csv", 600), ("parquet", 600), ("db", 600)]
)
def test_a_full_disk_is_one_sentence_and_the_export_continues(
    service: Stack, command: Command, tmp_path: Path, form: str, kib: int
) -> None:
    """Files may have 4 KiB (no spool), 64 KiB (a part of it), or the spool but not the file."""
    password = f"full {form} {kib}"
    rows = [(n, {"text": os.urandom(400).hex()}) for n in range(600)]
    stored(command, tmp_path / "in.db", password, rows)
    file = tmp_path / f"out.{form}"
    url = service.url
    arguments = ["export", str(file), "--url", url] + ["--flatten"] * (form != "db")
    limited = subprocess.run(
        [sys.executable, "-B", "-c", _LIMITED, str(kib * 1024), *arguments],
        env=os.environ | {"IOT_PASSWORD": password},
        capture_output=True,
        text=True,
        check=False,
    )
    assert limited.returncode == 1, limited
    assert limited.stderr.count("\n") == 1, limited.stderr
    assert "can't be opened" in limited.stderr or "run the export again" in limited.stderr
    assert not file.exists()
    status, said, error = command("export", file, password=password)
    assert (status, said.splitlines()[:1]) == (0, ["600 readings"]), error


def test_a_second_export_into_the_same_file_is_refused(
    service: Stack, command: Command, tmp_path: Path
) -> None:
    stored(command, tmp_path / "in.db", "twice", [(1, 1)])
    file = tmp_path / "out.csv"
    selection = {"url": service.url, "query": ""}
    with closing(ExportSpool(file, selection)):
        refused = (1, "", f"another export writes {file}: wait until it has ended\n")
        assert command("export", file, password="twice") == refused
        assert command("export", tmp_path / "other.csv", password="twice")[0] == 0
    assert command("export", file, password="twice")[0] == 0
    assert {each.name for each in tmp_path.iterdir()} == {"in.db", "other.csv", "out.csv"}


def test_a_lock_file_that_its_holder_deleted_is_no_lock(tmp_path: Path) -> None:
    target, path = tmp_path / "out.csv", tmp_path / ".out.csv.lock"
    opened = os.open

    def open_then_release(*arguments: Any) -> int:
        descriptor = opened(*arguments)
        if first is not None:
            first.release()
        return descriptor

    first: ExportLock | None = ExportLock(target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", open_then_release)
        second = ExportLock(target)
    first = None
    assert path.exists()
    with pytest.raises(IotError, match="another export"):
        ExportLock(target)
    second.release()
    assert not path.exists()


HALF = "\ud800"
UNUSUAL = [
    {HALF: 1, "text": f"a{HALF}b", "list": [HALF], "lines": "a\rb"},
    {"big": 10**4000, "inner": {HALF: {"x": True}}},
    {"text": HALF},
]  # fmt: skip


def test_all_accepted_readings_can_be_flattened(
    service: Stack, command: Command, tmp_path: Path
) -> None:
    deep = '{"a":' * 400 + "1" + "}" * 400
    body = [json.dumps(freeform) for freeform in UNUSUAL]
    body += ['{"big": ' + "7" * 5000 + "}", deep]
    text = ",".join(
        f'{{"data": {{"db_password": "unusual", "relative_time": {number},'
        f' "interrogator_time": {number}, "freeform": {freeform}}}}}'
        for number, freeform in enumerate(body)
    )
    headers = {"Content-Type": "application/json"}
    answer = service.request("PUT", "/api/iot?ack=stored", f"[{text}]", headers)
    assert answer.status == 201, answer.body
    for name in ("out.parquet", "out.csv", "out.ndjson"):
        status, _, error = command("export", tmp_path / name, "--flatten", password="unusual")
        assert status == 0, error
    table = read_parquet(tmp_path / "out.parquet").to_pydict()
    with (tmp_path / "out.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    parsed = [json.loads(line) for line in (tmp_path / "out.ndjson").read_text().splitlines()]
    assert table["freeform"] == [row["freeform"] for row in service.read("unusual")]
    assert table["\\ud800"] == [1, None, None, None, None]
    assert table["inner.\\ud800.x"] == [None, True, None, None, None]
    texts = ["a\\ud800b", None, "\\ud800", None, None]
    assert table["text"] == texts
    assert [row["text"] or None for row in rows] == texts
    assert [line.get("text") for line in parsed] == texts
    assert table["list"][0] == '["\\ud800"]'
    assert rows[0]["lines"] == "a\rb"
    assert table["big"] == [None, "1" + "0" * 4000, None, "7" * 5000, None]
    assert table[".".join("a" * 100)][4] == '{"a": ' * 300 + "1" + "}" * 300


def test_a_refused_command_leaves_nothing_behind(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {"absolute_timestamp": "2020-01-01 00:00:00", "interrogator_timestamp": 1,
             "relative_timestamp": 1, "freeform": "1"}  # fmt: skip
    (tmp_path / "in.ndjson").write_text(json.dumps(lines))
    assert command("import", tmp_path / "in.ndjson", password="refused")[0] == 0
    (tmp_path / "in.ndjson").unlink()
    file = tmp_path / "run.csv"

    def refused(*options: str, name: Path = file) -> tuple[int, str]:
        status, _, error = command("export", name, *options, password="refused")
        return status, error

    time = "must be RFC 3339, such as 2026-11-28T07:00:00Z, or Unix milliseconds"
    assert refused("--from", "yesterday") == (2, f"--from: {time}\n")
    assert refused("--to", "2026-13-01T00:00:00Z") == (2, f"--to: {time}\n")
    assert refused("--from", "2000", "--to", "1970-01-01T00:00:02Z") == (
        2, "--from: must be before --to\n",
    )  # fmt: skip
    # Only the service refuses this one.
    assert refused("--to", "9" * 15)[0] == 1
    status, error = refused("--to", "2000")
    assert (status, error.endswith(": no readings in this range; nothing written\n")) == (1, True)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        assert "pip install pyarrow" in refused(name=tmp_path / "run.parquet")[1]
    assert not list(tmp_path.iterdir())
    (tmp_path / "run-001.csv").touch()
    assert refused("--split-runs") == (
        1, f"{tmp_path}/run-001.csv exists: choose another name, or delete it\n",
    )  # fmt: skip
    file.symlink_to(tmp_path / "nowhere")
    assert refused()[1] == f"{file} is a symbolic link: name the file that it points to\n"
    file.unlink()
    status, error = refused("--format", "csv", name=Path("-"))
    assert (status, "standard output is not supported" in error) == (2, True)
    assert [each.name for each in tmp_path.iterdir()] == ["run-001.csv"]


def test_refusals(command: Command, tmp_path: Path) -> None:
    (tmp_path / "there.csv").touch()
    assert command("export", tmp_path / "there.csv")[2] == (
        f"{tmp_path}/there.csv exists: choose another name, or delete it\n"
    )
    assert "unknown extension" in command("export", tmp_path / "out.xls")[2]
    for folder in (".", "/", ".."):
        assert "is a folder: name a file" in command("export", folder, "--format", "csv")[2]
    assert command("export", tmp_path / "out.db", "--flatten")[0] == 2
    status, _, error = command("export", tmp_path / "out.csv", password="nobody")
    assert (status, error.endswith("no readings under this password; nothing written\n")) == (
        1, True,
    )  # fmt: skip
    assert [each.name for each in tmp_path.iterdir()] == ["there.csv"]
