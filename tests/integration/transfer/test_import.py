"""`iot-sensor import`, against a running service."""

import csv
import dataclasses
import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from integration.api.test_legacy_transcript import READINGS, READS, comparable
from iot_sensor_client import Client, RejectedError, Response
from iot_tools.cli.main import main
from iot_tools.transfer.import_sources import CsvFile, LegacySqlite, NdjsonFile
from iot_tools.transfer.importer import Importer
from iot_tools.transfer.legacy_cipher import LegacyCipher
from support.stack import Stack

from .conftest import LEGACY_FILE, LEGACY_PASSWORD, Command

RECORDED = json.loads(READS[3].response)["data"]
"""All readings, as the old server returned them."""


def without_ids(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "id"} for row in rows]


def test_the_old_database_reads_back_as_recorded(service: Stack, command: Command) -> None:
    status, said, errors = command("import", LEGACY_FILE, "--dry-run")
    assert (status, errors) == (0, "")
    assert said == "65 rows\n65 would be imported\n0 were in the service before\n"
    assert service.read(LEGACY_PASSWORD) == []
    status, said, _ = command("import", LEGACY_FILE)
    assert (status, said) == (0, "65 rows\n65 imported\n0 were in the service before\n")
    stored = service.read(LEGACY_PASSWORD)
    assert without_ids(stored) == without_ids(RECORDED), "times of receipt included"
    for read in READS[:-2]:
        answer = service.request(read.method, read.path, read.body, read.headers)
        if read.method == "POST" and "seconds" not in read.path:
            assert comparable(answer.body) == comparable(read.response), read.path
    status, said, _ = command("import", LEGACY_FILE)
    assert (status, said) == (0, "65 rows\n0 imported\n65 were in the service before\n")
    assert service.read(LEGACY_PASSWORD) == stored, "the second import changed something"


def test_a_wrong_password_imports_nothing(service: Stack, command: Command) -> None:
    status, said, error = command("import", LEGACY_FILE, password="wrong")
    assert status == 1
    assert "65 skipped: under another password, or damaged" in said
    assert error == (f"{LEGACY_FILE}: no row is under this password; nothing was imported\n")
    assert service.read("wrong") == []


def legacy_file(path: Path, rows: Sequence[tuple[str, str, int, object]]) -> Path:
    """Write a file of the old program: password, time of receipt, interrogator time, freeform."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TABLE IOTD(id INTEGER PRIMARY KEY, absolute_timestamp DATETIME DEFAULT"
            " CURRENT_TIMESTAMP, relative_timestamp BIGINT, interrogator_timestamp BIGINT,"
            " freeform TEXT)"
        )
        for password, received, time, freeform in rows:
            stored = LegacyCipher(password).encrypt(json.dumps(freeform).encode(), time)
            database.execute(
                "INSERT INTO IOTD (absolute_timestamp, relative_timestamp,"
                " interrogator_timestamp, freeform) VALUES (?, ?, ?, ?)",
                (received, time // 7, time, stored),
            )
    return path


def test_rows_under_another_password_are_left_for_another_run(
    service: Stack, command: Command, tmp_path: Path
) -> None:
    rows = [(f"two-{n % 2}", "2014-03-18 10:59:19", 10 + n, {"n": n}) for n in range(9)]
    file = legacy_file(tmp_path / "two.db", rows)
    status, said, _ = command("import", file, password="two-0")
    assert status == 0
    assert "9 rows\n5 imported\n" in said
    assert "4 skipped: under another password" in said
    assert [json.loads(each["freeform"])["n"] for each in service.read("two-0")] == [0, 2, 4, 6, 8]
    assert service.read("two-1") == []
    assert "4 imported" in command("import", file, password="two-1")[1]
    assert [json.loads(each["freeform"])["n"] for each in service.read("two-1")] == [1, 3, 5, 7]


def test_a_text_of_the_old_database_that_is_not_utf_8_is_left(
    service: Stack, command: Command, tmp_path: Path
) -> None:
    file = legacy_file(
        tmp_path / "damaged.db", [("text", "2020-01-01 00:00:00", n, n) for n in range(4)]
    )
    with closing(sqlite3.connect(file)) as database, database:
        for column, row in (("absolute_timestamp", 2), ("freeform", 3)):
            text = "CAST(x'ff' AS TEXT)"
            database.execute(f"UPDATE IOTD SET {column} = {text} WHERE id = {row}")  # noqa: S608
    status, said, error = command("import", file, password="text")
    assert (status, error) == (1, "")
    assert "4 rows\n2 imported\n" in said
    assert "1 skipped: under another password, or damaged" in said
    assert "  row 2: absolute_timestamp is not a date" in said
    assert [each["freeform"] for each in service.read("text")] == ["0", "3"]


def test_equal_readings_are_all_imported_and_a_grown_file_continues(
    service: Stack, command: Command, tmp_path: Path
) -> None:
    """Equal readings are not one, and the file of the old program may still grow."""
    row = ("grown", "2020-02-29 00:00:00", 5, "same")
    file = legacy_file(tmp_path / "a.db", [row, row])
    assert "2 imported" in command("import", file, password="grown")[1]
    other = ("grown", "2020-03-01 00:00:00", 4, "other")
    file = legacy_file(tmp_path / "b.db", [row, other, row, row])
    assert "4 rows\n2 imported\n2 were in" in command("import", file, password="grown")[1]
    assert Counter(each["freeform"] for each in service.read("grown")) == {
        '"same"': 3, '"other"': 1,
    }  # fmt: skip


def test_a_row_that_can_t_be_imported_is_reported_and_left(
    service: Stack, command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "rows.ndjson"
    good = {"absolute_timestamp": "2020-01-01 00:00:00", "relative_time": 1, "freeform": {"a": 1}}
    lines = [
        {"data": good},
        {"data": {**good, "absolute_timestamp": "soon"}},
        {"data": {**good, "relative_time": "x"}},
        [],
        {"data": {**good, "absolute_timestamp": "2999-01-01 00:00:00"}},
        {"data": {**good, "relative_time": 2}},
    ]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + "{\n")
    status, said, _ = command("import", file, password="bad rows")
    assert status == 1
    assert "7 rows\n2 imported\n" in said
    example = "  row 2: absolute_timestamp is not a date such as 2026-11-23 06:17:23: 'soon'"
    assert example in said
    assert "  row 3: relative_timestamp is not a number" in said
    assert "  row 4: is not an object" in said
    assert "  row 5: the service accepts times of receipt from 1970-01-01 00:00:00 to 20" in said
    assert "  row 7: is not JSON" in said
    assert [each["relative_timestamp"] for each in service.read("bad rows")] == [1, 2]


def test_a_reading_that_is_too_large_does_not_stop_the_import(
    service: Stack, command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "large.ndjson"
    row = {"absolute_timestamp": "2020-01-01 00:00:00", "relative_time": 1}
    texts = ["before", "x" * 17_000_000, "after"]
    file.write_text("".join(json.dumps(row | {"freeform": text}) + "\n" for text in texts))
    status, said, error = command("import", file, password="large")
    assert (status, error) == (1, "")
    assert "3 rows\n2 imported\n" in said
    assert "  row 2: refused by the service: the body may have at most 16777216 bytes" in said
    assert [each["freeform"] for each in service.read("large")] == ['"before"', '"after"']


def test_a_dry_run_counts_what_the_service_would_refuse(
    service: Stack, command: Command, tmp_path: Path
) -> None:
    years = ["1965", "2020", "2999", "1969", "2021"]
    file = tmp_path / "times.csv"
    file.write_text("absolute_timestamp,n\n" + "".join(f"{y}-12-31 23:59:59,1\n" for y in years))
    status, dry, _ = command("import", file, "--dry-run", password="dry")
    assert (status, dry.splitlines()[:2]) == (1, ["5 rows", "2 would be imported"])
    assert "3 skipped: the service accepts times of receipt from 1970-01-01 00:00:00 to 20" in dry
    assert "  row 4: the service accepts times of receipt" in dry
    with Client(service.url, "dry") as client, pytest.raises(RejectedError, match="no vault"):
        client.erase_vault()
    assert "5 rows\n2 imported\n" in command("import", file, password="dry")[1]
    status, dry, _ = command("import", file, "--dry-run", password="dry")
    assert dry.splitlines()[:3] == ["5 rows", "0 would be imported", "2 were in the service before"]


def test_an_answer_of_the_api_is_imported(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "answer.json"
    reading = {"absolute_timestamp": "2020-01-01 00:00:00", "relative_timestamp": 1}
    file.write_text(json.dumps({"data": [reading]}))
    one = (0, "1 row\n1 imported\n0 were in the service before\n", "")
    assert command("import", file, password="answer") == one
    file.write_text(json.dumps({"data": [reading], "cursor": "x"}))
    again = "1 row\n0 imported\n1 was in the service before\n"
    warning = f"warning: {file} is one page of an answer: import its further pages, too\n"
    assert command("import", file, password="answer") == (0, again, warning)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Importer, "run", interrupted)
    stopped = (130, "", "stopped; run the import again to continue\n")
    assert command("import", file, password="answer") == stopped


def test_many_equal_readings(
    service: Stack, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of a file may be equal."""
    monkeypatch.setattr("iot_tools.transfer.import_chunks.CHUNK_READINGS", 10)
    rows = [("equal", "2020-01-01 00:00:00", 1, "x")] * 75
    file = legacy_file(tmp_path / "file.db", rows)
    assert "75 imported\n0 were" in command("import", file, password="equal")[1]
    assert len(service.read("equal")) == 75


def test_an_import_waits_although_its_last_chunk_is_refused(service: Stack, tmp_path: Path) -> None:
    """Readings of different days are in different chunks, and the import waits at the last one."""
    paths: list[str] = []

    class RecordingClient(Client):
        def request(self, method: str, path: str, *arguments: Any, **options: Any) -> Any:
            response = super().request(method, path, *arguments, **options)
            paths.extend([path] if method == "PUT" and response.status < 300 else [])
            return response

    days = ("2021-01-01", "2020-01-01", "1965-01-01")
    rows = [("newest first", f"{day} 00:00:00", n, n) for n, day in enumerate(days)]
    file = legacy_file(tmp_path / "file.db", rows)
    with RecordingClient(service.url) as client:
        source = LegacySqlite(file, "newest first")
        report = Importer(client, source, "newest first", lambda *_: None).run()
    assert (report.imported, report.unusable.total()) == (2, 1)
    assert "ack=stored" in paths[-1]
    assert [each["freeform"] for each in service.read("newest first")] == ["0", "1"]


class KilledError(Exception):
    """Stands for SIGKILL of the importer."""


class DyingClient(Client):
    """A client whose process dies at its nth PUT: before the service got it, or after."""

    dies_at = 0
    after = False
    puts = 0

    def request(self, method: str, *arguments: Any, **options: Any) -> Any:
        self.puts += method == "PUT"
        dies = method == "PUT" and self.puts == self.dies_at
        if dies and not self.after:
            raise KilledError
        response = super().request(method, *arguments, **options)
        if dies:
            raise KilledError
        return response


@pytest.mark.parametrize("after", [False, True])
def test_a_killed_import_continues(
    service: Stack, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    monkeypatch.setattr("iot_tools.transfer.import_chunks.CHUNK_READINGS", 10)
    password = f"killed {after}"
    rows = [(password, f"2020-01-0{n // 7 + 1} 00:00:00", n, n) for n in range(45)]
    file = legacy_file(tmp_path / "file.db", rows)
    with DyingClient(service.url) as client:
        client.dies_at, client.after = 3, after
        with pytest.raises(KilledError):
            Importer(client, LegacySqlite(file, password), password, lambda *_: None).run()
    assert command("import", file, password=password)[0] == 0
    assert [each["freeform"] for each in service.read(password)] == [str(n) for n in range(45)]


def test_a_chunk_that_is_stored_while_the_vault_is_read(
    service: Stack, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pass of the comparison sees a half of the chunk of a killed run."""
    rows = [("half", "2020-01-01 00:00:00", n, n) for n in range(10)]
    file = legacy_file(tmp_path / "file.db", rows)
    assert command("import", file, password="half")[0] == 0
    passes: list[list[bytes]] = []
    stored_digests = Importer._stored_digests  # noqa: SLF001 -- stands for the moment of a drain

    def half_at_first(importer: Importer) -> list[bytes]:
        passes.append(list(stored_digests(importer)))
        return passes[0][:5] if len(passes) == 1 else passes[-1]

    monkeypatch.setattr(Importer, "_stored_digests", half_at_first)
    assert "0 imported\n10 were" in command("import", file, password="half")[1]
    assert len(service.read("half")) == 10


def test_erased_readings_are_imported_again(
    service: Stack, command: Command, tmp_path: Path
) -> None:
    """The service remembers the key of the request, but not the readings."""
    rows = [("erased", "2020-01-01 00:00:00", 7 * n, n) for n in range(5)]
    file = legacy_file(tmp_path / "file.db", rows)
    assert "5 imported" in command("import", file, password="erased")[1]
    with Client(service.url, "erased") as client:
        assert client.erase_readings(0, 10) == 5
    assert service.read("erased") == []
    assert "5 imported" in command("import", file, password="erased")[1]
    assert len(service.read("erased")) == 5


def old_csv(path: Path, flatten: bool) -> Path:
    """Write the recorded readings as the old program's scripts do."""
    rows = [dict(row) for row in RECORDED[-51:-1]]  # RFID readings
    if flatten:
        rows = [row | json.loads(row["freeform"]) for row in rows]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("flatten", [False, True])
def test_csv_files_of_the_old_program(
    service: Stack, command: Command, tmp_path: Path, flatten: bool
) -> None:
    file = old_csv(tmp_path / "out.csv", flatten)
    password = f"csv {flatten}"
    status, said, _ = command("import", file, password=password)
    assert (status, said) == (0, "50 rows\n50 imported\n0 were in the service before\n")
    assert without_ids(service.read(password)) == without_ids(RECORDED[-51:-1])


def test_a_flattened_csv_file_without_freeform(tmp_path: Path) -> None:
    file = old_csv(tmp_path / "out.csv", flatten=True)
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    with file.open("w", newline="") as opened:
        names = [name for name in rows[0] if name != "freeform"]
        writer = csv.DictWriter(opened, fieldnames=names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    found = [json.loads(row.freeform) for row in CsvFile(file, "").rows()]  # type: ignore[union-attr]
    assert found == [json.loads(row["freeform"]) for row in RECORDED[-51:-1]]


def test_times_of_receipt_of_other_stores(tmp_path: Path) -> None:
    """Flask writes MySQL's dates as in HTTP; TinyMongo holds Unix seconds."""
    file = tmp_path / "x.ndjson"
    forms = ["Tue, 18 Mar 2014 10:59:19 GMT", 1395140359.25, "2014-03-18T10:59:19Z"]
    rows = [{"absolute_timestamp": at, "relative_timestamp": 1} for at in forms]
    file.write_text("\n".join(map(json.dumps, rows)))
    received = [row.received for row in NdjsonFile(file, "").rows()]  # type: ignore[union-attr]
    assert received == [f"2014-03-18 10:59:19{fraction}" for fraction in ("", ".250", "")]


def test_files_that_are_no_files_of_readings(command: Command, tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(b"\x89PNG\r\n")
    status, _, error = command("import", tmp_path / "photo")
    formats = "sqlite, csv, ndjson, json, parquet"
    assert (status, error) == (
        1, f"{tmp_path}/photo: unknown format; name it with --format ({formats})\n",
    )  # fmt: skip
    (tmp_path / "empty.csv").write_bytes(b" \n")
    status, _, error = command("import", tmp_path / "empty.csv")
    assert (status, error) == (1, f"{tmp_path}/empty.csv: the file is empty\n")
    (tmp_path / "spaces.csv").write_text("absolute_timestamp, relative_timestamp\n2014-03-18,1\n")
    status, _, error = command("import", tmp_path / "spaces.csv")
    assert status == 1
    assert "the first line has the column ' relative_timestamp': write 'relative_tim" in error
    with closing(sqlite3.connect(tmp_path / "other.db")) as database, database:
        database.execute("CREATE TABLE other (id INTEGER)")
    status, _, error = command("import", tmp_path / "other.db")
    assert status == 1
    assert "can't be read as a database of the old program: no such table: IOTD" in error
    assert command("import", tmp_path / "missing")[0] == 1
    os.mkfifo(tmp_path / "pipe")
    for pipe in (tmp_path / "pipe", "-"):
        status, _, error = command("import", pipe)
        assert status == 1
        assert error.startswith(f"{pipe}: an import reads its file twice")


@pytest.mark.parametrize("name", ["import", "export"])
def test_a_service_that_does_not_answer_is_reported_at_once(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IOT_PASSWORD", "p")
    file = LEGACY_FILE if name == "import" else tmp_path / "out.csv"
    assert main([name, str(file), "--url", "http://127.0.0.1:1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("http://127.0.0.1:1: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["import", "export"])
def test_an_error_of_the_service_names_the_url(
    service: Stack,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv("IOT_PASSWORD", LEGACY_PASSWORD)
    file = LEGACY_FILE if name == "import" else tmp_path / "out.csv"
    url = f"{service.url}/api"
    assert main([name, str(file), "--url", url]) == 1
    assert capsys.readouterr().err == f"{url}: there is nothing at this path\n"


def test_a_page_of_another_server_acknowledges_nothing(
    service: Stack, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy may replace the answer to a PUT by a page with the status 200."""
    rows = [("portal", "2014-03-18 10:59:19", number, number) for number in range(5)]
    file = legacy_file(tmp_path / "in.db", rows)
    request = Client.request

    def replaced(self: Client, method: str, *arguments: Any, **options: Any) -> Response:
        response = request(self, method, *arguments, **options)
        return dataclasses.replace(response, body=b"<html>") if method == "PUT" else response

    with monkeypatch.context() as replacing:
        replacing.setattr(Client, "request", replaced)
        status, _, error = command("import", file, password="portal")
    assert (status, "imported: 0" in error) == (1, True)
    assert error.startswith(f"{service.url}: the response is not from iot-sensor")
    assert command("import", file, password="portal")[0] == 0
    assert len(service.read("portal")) == len(rows)


def test_the_file_stays_as_it_is(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "database.db"
    shutil.copy(LEGACY_FILE, file)
    file.chmod(0o444)
    before = file.read_bytes()
    assert command("import", file, "--dry-run")[0] == 0
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
    assert READINGS == 65
