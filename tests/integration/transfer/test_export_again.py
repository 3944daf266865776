"""What an export has written is imported unchanged; an export that is killed is continued."""

import csv
import errno
import gzip
import json
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from iot_models.errors import IotError
from iot_models.reading import Reading
from iot_sensor_client import Client
from iot_tools.transfer import export_writers, exporter
from iot_tools.transfer.export_spool import ExportSpool
from iot_tools.transfer.exporter import Exporter, ExportForm
from iot_tools.transfer.service_pages import ServicePages
from support.stack import Stack

from .conftest import Command
from .test_export import stored
from .test_import import without_ids


def test_an_export_that_is_killed_between_renames_continues(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is on the disk before it gets its final name, but a test can't cut the power."""
    synced: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda file: synced.add(os.fstat(file).st_ino))
    stored(command, tmp_path / "in.db", "renames", [(7 * n, n) for n in range(5)])
    lines = [
        {"absolute_timestamp": "2020-01-01 00:00:00", "interrogator_timestamp": number,
         "relative_timestamp": -number, "freeform": str(number)}
        for number in range(5)
    ]  # fmt: skip
    (tmp_path / "in.ndjson").write_text("\n".join(map(json.dumps, lines)))
    assert command("import", tmp_path / "in.ndjson", password="renames")[0] == 0
    out, options = tmp_path / "out" / "run.csv", ("--split-runs",)
    out.parent.mkdir()
    replace = Path.replace

    def die(self: Path, target: Path) -> Path:
        assert self.stat().st_ino in synced
        if target.stem.endswith("-002"):
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as killing:
        killing.setattr(Path, "replace", die)
        assert command("export", out, *options, password="renames")[0] == 130
    assert [each.name for each in out.parent.glob("run-*")] == ["run-001.csv"]
    status, said, _ = command("export", out, *options, password="renames")
    assert (status, said.splitlines()[0]) == (0, "10 readings")
    files = sorted(out.parent.iterdir())
    assert said.splitlines()[1:] == [str(each) for each in files]
    assert synced == {each.stat().st_ino for each in (*files, out.parent)}
    rows = [row for each in files for row in csv.DictReader(each.read_text().splitlines())]
    assert len(rows) == 10


def test_an_export_that_is_killed_after_its_renames_serves_only_its_own_password(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iot_tools.transfer.service_pages._FIRST_LIMIT", 10)  # one page, no cursor
    stored(command, tmp_path / "in.db", "killed", [(n, n) for n in range(3)])
    stored(command, tmp_path / "other.db", "other", [(1, "other")])
    file = tmp_path / "out.csv"

    def die(_: Path) -> None:
        raise KeyboardInterrupt

    def kill() -> None:
        with monkeypatch.context() as killing:
            killing.setattr(exporter, "sync_folder", die)
            assert command("export", file, password="killed")[0] == 130
        assert file.exists()

    kill()
    status, _, error = command("export", file, password="other")
    assert (status, error) == (1, f"{file} exists: choose another name, or delete it\n")
    file.unlink()
    assert command("export", file, password="other")[1] == f"1 reading\n{file}\n"
    assert '"other"' in file.read_text()
    file.unlink()
    kill()
    stored(command, tmp_path / "more.db", "killed", [(3, 3)])
    assert command("export", file, password="killed")[1] == f"3 readings\n{file}\n"
    assert len(file.read_text().splitlines()) == 4


def test_an_export_in_another_form_discards_the_files_of_a_killed_one(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    def export_and_die(form: str, place: object, name: str) -> None:
        with monkeypatch.context() as killing:
            killing.setattr(place, name, die)
            assert command("export", file, "--format", form, password="forms")[0] == 130

    stored(command, tmp_path / "in.db", "forms", [(n, n) for n in range(3)])
    file = tmp_path / "out" / "x"
    file.parent.mkdir()
    export_and_die("csv", Path, "replace")
    export_and_die("ndjson", export_writers.NdjsonWriter, "write")
    assert [each.name for each in file.parent.iterdir()] == ["x.part"]
    assert command("export", file, "--format", "csv", password="forms")[0] == 0
    assert len(file.read_text().splitlines()) == 4


@pytest.mark.parametrize("form", ["csv", "ndjson", "parquet"])
@pytest.mark.parametrize("options", [(), ("--flatten",)])
def test_what_is_exported_is_imported_unchanged(
    service: Stack, command: Command, tmp_path: Path, form: str, options: tuple[str, ...]
) -> None:
    texts = [
        '{"n": ' + "9" * 5_000 + "}", '{"x": 1.10, "x": 2}', r'"Stra\u00dfe\u2028\ud83d\ude00"',
        '{"data": 5}', '{"data": [1, 2]}', '{"db_password": "secret"}', '{"relativetime": 5}',
        '{"interrogatortime": 5, "id": 1, "freeform": 2}', r'"\ud800"', "1e400", "null",
        '{"relative_time": 1, "Interrogator_Time": 2, " db_password": 3, "ID": 4}',
        r'{"nul": "a\u0000b", "nul\u0000": 1}', r'"\u00DF \\u00df \\\u00df \u007f \ud83d"',
    ]  # fmt: skip
    lines = [
        {"absolute_timestamp": "2020-01-01 00:00:00", "interrogator_timestamp": number,
         "relative_timestamp": number, "freeform": text}
        for number, text in enumerate(texts)
    ]  # fmt: skip
    (tmp_path / "in.ndjson").write_text("\n".join(map(json.dumps, lines)))
    one, two = f"one {form}{options}", f"two {form}{options}"
    assert command("import", tmp_path / "in.ndjson", password=one)[0] == 0
    assert [row["freeform"] for row in service.read(one)] == texts
    out = tmp_path / f"out.{form}"
    assert command("export", out, *options, password=one)[0] == 0
    assert command("import", out, password=two)[0] == 0
    assert without_ids(service.read(two)) == without_ids(service.read(one))
    said = command("import", out, password=two)[1].splitlines()
    assert said[1:] == ["0 imported", f"{len(texts)} were in the service before"]


@pytest.mark.parametrize("form", ["csv", "ndjson", "parquet", "db"])
def test_only_the_owner_can_read_an_exported_file(
    command: Command, tmp_path: Path, form: str
) -> None:
    row = {"absolute_timestamp": "2020-01-01 00:00:00", "relative_time": 1, "freeform": 1}
    (tmp_path / "in.ndjson").write_text(json.dumps(row))
    assert command("import", tmp_path / "in.ndjson", password="mode")[0] in {0, 1}
    out = tmp_path / f"out.{form}"
    before = os.umask(0o022)
    try:
        assert command("export", out, password="mode")[0] == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_an_exported_file_that_was_compressed_can_be_imported(
    service: Stack, command: Command, tmp_path: Path, form: str
) -> None:
    one, two, out = f"whole {form}", f"compressed {form}", tmp_path / f"out.{form}"
    row = {"absolute_timestamp": "2020-01-01 00:00:00", "relative_time": 1, "freeform": {"a": "ü"}}
    (tmp_path / "in.ndjson").write_text(json.dumps(row))
    assert command("import", tmp_path / "in.ndjson", password=one)[0] == 0
    status, _, error = command("export", tmp_path / f"out.{form}.gz", password=one)
    assert (status, error) == (
        2, f"{out}.gz: exported files are not compressed; export {out}, then compress it\n",
    )  # fmt: skip
    assert command("export", out, password=one)[0] == 0
    out.with_suffix(".gz").write_bytes(gzip.compress(out.read_bytes()))
    assert command("import", out.with_suffix(".gz"), password=two)[0] == 0
    assert without_ids(service.read(two)) == without_ids(service.read(one))


def test_a_folder_that_can_t_be_synced_does_not_stop_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems refuse to sync folders. The files have their final names by then."""

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse_folders)
    file = tmp_path / "out.csv"
    with closing(ExportSpool(file, {})) as spool, Client("http://127.0.0.1:1") as client:
        spool.append([Reading("2020-01-01 00:00:00", "1", 1, 1, 1)], None)
        export = Exporter(ServicePages(client, ""), spool, lambda *_: None, "")
        assert export.write(file, ExportForm("csv")) == [file]
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_at_the_start_is_one_sentence(service: Stack, tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    with closing(ExportSpool(file, {})) as spool:
        spool.append([Reading("2020-01-01 00:00:00", "1", 1, 1, 1)], None)

    def refuse(change: str) -> None:
        with closing(sqlite3.connect(spool.path)) as database, database:
            full = f"BEFORE {change} BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
            database.execute(f"CREATE TRIGGER full_{change[:3]} {full}")

    refuse("DELETE ON readings")
    with (
        closing(ExportSpool(file, {})) as spool,
        Client(service.url) as client,
        pytest.raises(IotError, match="writing failed: disk is full"),
    ):
        Exporter(ServicePages(client, "full"), spool, lambda *_: None, "full").fetch(
            ExportForm("csv")
        )
    refuse("INSERT ON state")
    with pytest.raises(IotError, match=r"out\.csv\.part can't be opened: disk is full"):
        ExportSpool(file, {})


def test_a_complete_spool_of_an_earlier_build_is_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    with closing(ExportSpool(file, {})) as spool:
        spool.append([Reading("2020-01-01 00:00:00", "1", 1, 1, 1)], "cursor")
    with closing(sqlite3.connect(spool.path)) as database, database:
        database.execute("INSERT INTO state VALUES ('complete', 'yes')")
    with closing(ExportSpool(file, {})) as spool:
        assert (len(spool), spool.cursor, spool.complete) == (0, None, False)


def test_a_spool_without_readings_blocks_no_other_export(tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    with sqlite3.connect(tmp_path / "out.csv.part") as database:
        database.execute("CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT)")
        database.execute("INSERT INTO state VALUES ('selection', 'killed'), ('last_page', '0')")
    database.close()
    with closing(ExportSpool(file, {"query": "corrected"})) as spool:
        assert not spool.complete
    assert not list(tmp_path.iterdir())
