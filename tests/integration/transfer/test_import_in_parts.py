"""`iot-sensor import` of chunks that are too large for one request."""

from http.client import HTTPMessage
from pathlib import Path
from typing import Any

import pytest

from iot_sensor_client import Client, Response
from iot_tools.transfer.import_sources import LegacySqlite
from iot_tools.transfer.importer import Importer
from iot_tools.transfer.service_pages import ServiceError
from support.stack import Stack
from support.waiting import wait_until

from .test_import import DyingClient, KilledError, legacy_file


class LimitedClient(DyingClient):
    """A client behind a proxy that refuses bodies with many rows, and rows that are too large.

    It dies at its nth accepted PUT, after the service got it.
    """

    most = 7
    after = True

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.accepted: list[int] = []
        """Rows of each accepted PUT."""

    def request(self, method: str, *arguments: Any, **options: Any) -> Any:
        body = arguments[1] if method == "PUT" else b""
        rows = body.count(b"\n") + 1
        if rows > self.most or b"too large" in body:
            return Response(413, HTTPMessage(), b"<html>413 Request Entity Too Large</html>")
        self.accepted += [rows] if method == "PUT" else []
        return super().request(method, *arguments, **options)


def test_a_chunk_that_is_too_large_is_sent_in_parts(service: Stack, tmp_path: Path) -> None:
    large = {3, 9, 10, 29}
    rows = [
        ("parts", "2020-01-01 00:00:00", n, "too large" if n in large else n) for n in range(30)
    ]
    file = legacy_file(tmp_path / "file.db", rows)
    seen: list[int] = []
    with LimitedClient(service.url) as client:
        source = LegacySqlite(file, "parts")
        report = Importer(client, source, "parts", lambda _, done, __: seen.append(done)).run()
    assert (report.imported, report.rows) == (26, 30)
    assert report.unusable == {"refused by the service": 4}
    refused = "refused by the service: 413 <html>413 Request Entity Too Large</html>"
    assert report.examples == [f"row {n + 1}: {refused}" for n in sorted(large)]
    assert {each["freeform"] for each in service.read("parts")} == {
        str(n) for n in range(30) if n not in large
    }
    assert len(service.read("parts")) == 26
    assert max(seen) < 30, "rows that are sent again are counted twice"


@pytest.mark.parametrize("dies_at", [1, 2, 4])
def test_an_import_in_parts_that_is_killed_repeats_the_same_part(
    service: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    """The service has accepted the last part, and the next run does not find it in the vault."""
    password = f"killed part {dies_at}"
    file = legacy_file(
        tmp_path / "file.db", [(password, "2020-01-01 00:00:00", n, n) for n in range(30)]
    )
    source = LegacySqlite(file, password)
    with LimitedClient(service.url) as client:
        client.dies_at = dies_at
        with pytest.raises(KilledError):
            Importer(client, source, password, lambda *_: None).run()
        stored = sum(client.accepted)
        wait_until(lambda: len(service.read(password)) == stored)
        stored_digests = Importer._stored_digests  # noqa: SLF001 -- stands for the moment of a drain

        def without_the_last_part(importer: Importer) -> list[bytes]:
            digests = list(stored_digests(importer))
            drained = len(client.accepted) > dies_at
            return digests if drained else digests[: stored - client.accepted[dies_at - 1]]

        monkeypatch.setattr(Importer, "_stored_digests", without_the_last_part)
        client.dies_at = 0
        Importer(client, source, password, lambda *_: None).run()
    assert [each["freeform"] for each in service.read(password)] == [str(n) for n in range(30)]


def test_an_import_with_other_times_does_not_double_readings_that_wait(
    service: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier import had whole seconds."""
    sources = [
        LegacySqlite(legacy_file(tmp_path / f"{time}.db", [("other", time, 1, 1)]), "other")
        for time in ("2020-01-01 00:00:00", "2020-01-01 00:00:00.250")
    ]
    with Client(service.url) as client:
        Importer(client, sources[0], "other", lambda *_: None).run()
        with monkeypatch.context() as waiting:
            waiting.setattr(Importer, "_stored_digests", lambda _: [])
            with pytest.raises(ServiceError, match="wait until the service has stored them"):
                Importer(client, sources[1], "other", lambda *_: None).run()
        assert Importer(client, sources[1], "other", lambda *_: None).run().present == 1
    assert len(service.read("other")) == 1


def test_a_client_with_too_many_remembered_requests_is_told_to_wait_a_day(
    service: Stack, tmp_path: Path
) -> None:
    class SpentClient(Client):
        def request(self, method: str, *arguments: Any, **options: Any) -> Response:
            if method != "PUT":
                return super().request(method, *arguments, **options)
            body = b'{"error":"too many","code":"too_many_requests","reason":"remembered_requests"}'
            return Response(429, HTTPMessage(), body)

    source = LegacySqlite(
        legacy_file(tmp_path / "file.db", [("spent", "2020-01-01 00:00:00", 1, 1)]), "spent"
    )
    with (
        SpentClient(service.url) as client,
        pytest.raises(ServiceError, match="run the import again to continue after a day, or raise"),
    ):
        Importer(client, source, "spent", lambda *_: None).run()
