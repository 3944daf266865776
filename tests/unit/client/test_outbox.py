"""The outbox: what it sends, what it keeps, what it sets aside."""

import json
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from iot_sensor_client import (
    Client,
    Outbox,
    OutboxError,
    OutboxFullError,
    RetryPolicy,
)
from iot_sensor_client.batches import MAX_BYTES
from iot_sensor_client.outbox_file import OutboxFile
from support.waiting import stretched, wait_until
from unit.client.conftest import CLOSE, NOWHERE, QUICK, Server, reading, rows, times

BAD = json.dumps({"error": "relative_time in row 1 is not an integer", "code": "invalid_request"})


def left_behind(path: Path, *readings: dict[str, Any], batch_size: int = 1000) -> None:
    """Leave readings in an outbox whose service is away."""
    with Client(NOWHERE, "secret") as away:
        left = Outbox(away, path, batch_size=batch_size, retry=QUICK)
        left.send(readings)
        left.close(timeout=0)


def test_readings_are_sent_in_order_in_compressed_batches(
    server: Server, client: Client, path: Path
) -> None:
    with Outbox(client, path, batch_size=100, linger=0) as box:
        for first in range(0, 300, 50):
            box.send([reading(number) for number in range(first, first + 50)])
        box.send(reading(300))
        assert box.flush(20)
        state = box.statistics()
        assert (state.state, state.waiting, state.bytes, state.acknowledged) == ("idle", 0, 0, 301)
    sent = server.received
    assert [number for each in sent for number in times(each)] == list(range(301))
    assert all(len(rows(each)) <= 100 for each in sent)
    assert rows(sent[0])[0] == {"db_password": "secret", **reading(0)}
    assert len({each.headers["idempotency-key"] for each in sent}) == len(sent)
    assert [each.path for each in sent] == ["/api/iot"] * len(sent)
    assert any(each.headers.get("content-encoding") == "gzip" for each in sent)


def test_an_outbox_without_waiting_readings_is_idle(client: Client, path: Path) -> None:
    """Also at the moment at which the last reading is acknowledged."""
    with Outbox(client, path, linger=0, interval=0) as box:
        for number in range(1, 21):
            box.send(reading(number))
            while (state := box.statistics()).acknowledged < number:
                continue
            assert state.state == "idle"


def test_a_batch_that_is_not_full_waits_for_later_readings(
    server: Server, client: Client, path: Path
) -> None:
    """With a request for each reading, a device would exceed its share of remembered requests."""
    with Outbox(client, path, batch_size=4, linger=0, interval=3600) as box:
        box.send(reading(1))
        wait_until(lambda: box.statistics().acknowledged == 1, what="the first request")
        for number in (2, 3, 4, 5):
            box.send(reading(number))
        wait_until(lambda: box.statistics().acknowledged == 5, what="the full batch")
        box.send(reading(6))
        assert box.flush(20)
    assert [times(each) for each in server.received] == [[1], [2, 3, 4, 5], [6]]


def test_readings_wait_in_a_private_file_without_the_password(
    server: Server, client: Client, path: Path
) -> None:
    left_behind(path, reading(1), reading(2, freeform="visible"))
    modes = {stat.S_IMODE(each.stat().st_mode) for each in path.parent.glob("readings.outbox*")}
    assert modes == {0o600}
    content = path.read_bytes()
    assert b"visible" in content
    assert b"secret" not in content
    with Outbox(client, path) as box:
        assert box.flush(20)
    assert [times(each) for each in server.received] == [[1, 2]]


@pytest.mark.parametrize("name", ["sub/readings.outbox", ":memory:", "file:readings"])
def test_a_relative_path_names_a_file_even_if_the_process_changes_its_folder(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    with Outbox(client, name) as box:
        monkeypatch.chdir(tmp_path / "sub")
        box.send(reading(1))
        assert box.flush(20)
    assert (tmp_path / name).stat().st_size > 0


def test_links_and_old_files_become_private(client: Client, path: Path, tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    left_behind(link, reading(1))
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    wal = Path(f"{target}-wal")
    wal.touch()
    for each in (target, wal):
        each.chmod(0o644)
    with Outbox(client, link) as box:
        modes = {stat.S_IMODE(each.stat().st_mode) for each in (target, wal)}
        assert modes == {0o600}
        assert box.flush(20)
    path.write_bytes(b"x" * 1000)
    path.chmod(0o644)
    with pytest.raises(OutboxError):
        Outbox(client, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644, "not an outbox: left as it was"


@pytest.mark.parametrize("status", [CLOSE, 429, 500, 503, 401, 404, 302, 415, 400])
def test_a_batch_is_repeated_unchanged_until_it_is_acknowledged(
    server: Server, client: Client, path: Path, status: int
) -> None:
    """Also after a refusal that no reading can be blamed for, for example by a proxy."""
    server.answers = [(status, {})] * 3
    with Outbox(client, path, retry=QUICK, linger=0) as box:
        box.send(reading(1))
        wait_until(lambda: len(server.received) > 1, what="the second attempt")
        box.send(reading(2))
        assert box.flush(20)
        assert box.statistics().acknowledged == 2
    assert [times(each) for each in server.received] == [[1], [1], [1], [1], [2]]
    assert len({each.headers["idempotency-key"] for each in server.received}) == 2


@pytest.mark.parametrize(
    "page", [b"<html>Please log in</html>", b'{"success": false, "message": "please log in"}']
)
def test_a_page_of_another_server_acknowledges_nothing(
    server: Server, client: Client, path: Path, page: bytes
) -> None:
    """A captive portal, or a wrong URL, answers any request with 200."""
    server.body = page
    with Outbox(client, path, retry=QUICK, linger=0) as box:
        box.send(reading(1))
        wait_until(lambda: box.statistics().state == "waiting", what="a failed attempt")
        state = box.statistics()
        assert (state.waiting, state.acknowledged) == (1, 0)
        assert "not from iot-sensor: check the URL" in str(state.last_error)
        server.body = None
        assert box.flush(20)
        assert box.statistics().acknowledged == 1
    assert len({each.headers["idempotency-key"] for each in server.received}) == 1


def test_a_batch_keeps_its_key_and_readings_over_a_restart(
    server: Server, client: Client, path: Path
) -> None:
    server.status_of = lambda _: CLOSE
    box = Outbox(client, path, retry=RetryPolicy(base_seconds=60, max_pause_seconds=60), linger=0)
    box.send(reading(1))
    wait_until(lambda: box.statistics().state == "waiting", what="a failed attempt")
    box.send(reading(2))
    box.close(timeout=0)
    server.status_of = None
    with Outbox(client, path) as box:
        box.send(reading(3))
        assert box.flush(20)
    assert [times(each) for each in server.received[:3]] == [[1], [1], [2]]
    keys = [each.headers["idempotency-key"] for each in server.received]
    assert keys[0] == keys[1] != keys[2]


def test_the_pause_that_the_service_asks_for(server: Server, client: Client, path: Path) -> None:
    server.answers = [(429, {"Retry-After": "1"})]
    with Outbox(client, path, retry=QUICK, linger=0) as box:
        began = time.monotonic()
        box.send(reading(1))
        assert box.flush(20)
        assert time.monotonic() - began >= 1
        assert len(server.received) == 2


def test_bad_readings_are_set_aside_and_the_others_sent(
    server: Server, client: Client, path: Path
) -> None:
    bad = {3, 4, 9}
    server.refusal = BAD.encode()
    server.status_of = lambda received: 400 if bad & set(times(received)) else 201
    with Outbox(client, path, retry=QUICK) as box:
        box.send([reading(number) for number in range(12)])
        assert box.flush(20)
        state = box.statistics()
        assert (state.waiting, state.rejected, state.acknowledged) == (0, 3, 9)
        rejected = box.rejected()
        assert [each.reading for each in rejected] == [reading(number) for number in (3, 4, 9)]
        assert rejected[0].reason == "400 relative_time in row 1 is not an integer"
        accepted = [each for each in server.received if not bad & set(times(each))]
        order = [number for each in accepted for number in times(each)]
        assert order == [number for number in range(12) if number not in bad]
    with Outbox(client, path) as box:
        assert box.discard_rejected(rejected[:1]) == 1
        bad.clear()
        assert box.resend_rejected(rejected) == 2
        assert box.flush(20)
        assert box.statistics().rejected == box.statistics().bytes == 0
    assert times(server.received[-1]) == [4, 9]


def test_a_password_that_the_service_refuses_is_no_fault_of_the_readings(
    server: Server, client: Client, path: Path
) -> None:
    problem = {"error": "row 0, db_password: is longer than 1024 bytes", "field": "db_password"}
    server.refusal = json.dumps({**problem, "code": "invalid_request"}).encode()
    server.status_of = lambda _: 400
    with Outbox(client, path, retry=QUICK) as box:
        box.send([reading(1), reading(2)])
        wait_until(lambda: len(server.received) > 1, what="the second attempt")
        assert "longer than 1024" in str(box.statistics().last_error)
        assert box.statistics().waiting == 2
        server.status_of = None
        assert box.flush(20)
        assert box.statistics().acknowledged == 2
    assert {tuple(times(each)) for each in server.received} == {(1, 2)}


def test_a_deeply_nested_reading_does_not_hide_the_others(client: Client, path: Path) -> None:
    file = OutboxFile(path, 10**6, 10)
    file.append(['{"freeform":' + "[" * 100_000 + "]" * 100_000 + "}", json.dumps(reading(1))])
    batch = file.take()
    assert batch is not None
    file.set_aside(batch, "refused")
    file.close()
    with Outbox(client, path) as box:
        nested, other = box.rejected()
        assert nested.text.startswith('{"freeform":[[')
        assert other.reading == reading(1)
        assert box.discard_rejected([nested]) == 1


def test_a_batch_whose_key_has_other_readings_is_set_aside_whole(
    server: Server, client: Client, path: Path
) -> None:
    """The file was copied, and the other copy has sent readings under the key of the batch."""
    left_behind(path, reading(1), reading(2))
    server.refusal = json.dumps(
        {"error": "an earlier request has other readings", "code": "idempotency_key_reused"}
    ).encode()
    server.status_of = lambda received: 422 if 1 in times(received) else 201
    with Outbox(client, path, retry=QUICK) as box:
        assert box.flush(20)
        rejected = box.rejected()
        assert [each.reading for each in rejected] == [reading(1), reading(2)]
        assert "other readings" in rejected[0].reason
        box.send(reading(3))
        assert box.flush(20)
    assert [times(each) for each in server.received] == [[1, 2], [3]]


def test_a_batch_too_large_for_a_proxy_is_divided(
    server: Server, client: Client, path: Path
) -> None:
    server.status_of = lambda received: 413 if len(rows(received)) > 5 else 201
    with Outbox(client, path, retry=QUICK) as box:
        box.send([reading(number) for number in range(20)])
        assert box.flush(20)
        assert box.statistics().rejected == 0
    accepted = [times(each) for each in server.received if len(rows(each)) <= 5]
    assert [number for each in accepted for number in each] == list(range(20))


def test_a_long_password_makes_batches_smaller(server: Server, path: Path) -> None:
    """A request has the password once for each reading, with six bytes for each "é"."""
    readings = [reading(number) for number in range(400)]
    with Client(server.url, "é" * 500) as client, Outbox(client, path, linger=0) as box:
        client.send(readings)
        box.send(readings)
        assert box.flush(20)
    batches = [rows(each) for each in server.received]
    assert [row["relative_time"] for batch in batches for row in batch] == [*range(400)] * 2
    assert all(len(json.dumps(batch, separators=(",", ":"))) <= MAX_BYTES for batch in batches)


def test_threads_share_an_outbox(server: Server, client: Client, path: Path) -> None:
    server.answers = [(CLOSE, {}), (503, {})] * 5
    with Outbox(client, path, batch_size=7, linger=0, retry=QUICK) as box:

        def send(thread: int) -> None:
            for number in range(0, 60, 3):
                box.send([reading(100 * thread + number + each) for each in range(3)])

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(send, range(4)))
        assert box.flush(30)
    by_key = {each.headers["idempotency-key"]: times(each) for each in server.received}
    order = [number for each in by_key.values() for number in each]
    for thread in range(4):
        own = [number for number in order if number // 100 == thread]
        assert own == list(range(100 * thread, 100 * thread + 60))


def test_a_full_outbox_says_so_and_keeps_what_it_has(
    server: Server, client: Client, path: Path
) -> None:
    with Client(NOWHERE, "secret") as away:
        box = Outbox(away, path, max_bytes=1000)
        for number in range(5):
            box.send(reading(number))
        with pytest.raises(OutboxFullError, match=r"is full: it holds \d+ of 1000 bytes"):
            box.send([reading(number) for number in range(10)])
        assert box.statistics().waiting == 5
        box.close(timeout=0)
    with Outbox(client, path, max_bytes=1000) as box:
        assert box.flush(20)
        box.send(reading(5))
    assert [number for each in server.received for number in times(each)] == list(range(6))


def test_a_disk_without_room_is_full(
    client: Client, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Outbox(client, path) as box:
        free = os.statvfs(path.parent).f_bavail * os.statvfs(path.parent).f_frsize
        monkeypatch.setattr("iot_sensor_client.outbox_space.RESERVE_BYTES", 2 * free)
        with pytest.raises(OutboxFullError, match=r"the disk of the outbox .* is full"):
            box.send(reading(1))
        assert box.statistics().waiting == 0


def test_each_change_is_synced_to_the_disk(path: Path) -> None:
    """A test can't cut the power."""
    file = OutboxFile(path, 10**6, 1000)
    pragmas = ("journal_mode", "synchronous")
    database = file._db  # noqa: SLF001 -- the pragmas are those of a connection
    found = [database.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]
    file.close()
    assert found == ["wal", 2]


def test_a_file_has_one_outbox_at_a_time(client: Client, path: Path) -> None:
    with Outbox(client, path), pytest.raises(OutboxError, match="is in use"):
        Outbox(client, path)
    Outbox(client, path).close()


def test_close_releases_a_file_that_can_not_be_read(
    server: Server, client: Client, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.status_of = lambda _: 503
    box = Outbox(client, path, retry=QUICK)
    box.send(reading(1))

    def unreadable(_: OutboxFile) -> int:
        raise OutboxError("the disk was pulled out")

    with monkeypatch.context() as pulled:
        pulled.setattr(OutboxFile, "last_id", unreadable)
        with pytest.raises(OutboxError, match="pulled out"):
            box.close()
    server.status_of = None
    with Outbox(client, path) as box:
        assert box.flush(20)
    assert times(server.received[-1]) == [1]


def test_close_ends_a_flush_of_another_thread(path: Path) -> None:
    with Client(NOWHERE) as away, ThreadPoolExecutor(1) as thread:
        box = Outbox(away, path)
        box.send(reading(1))
        flush = thread.submit(box.flush, stretched(10))
        wait_until(lambda: box._flushing, what="the flush")  # noqa: SLF001 -- it shows nowhere else
        box.close(timeout=0)
        with pytest.raises(OutboxError, match="the outbox is closed"):
            flush.result()


def test_another_file_is_refused(client: Client, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no database, but longer than the header of one, which has 100 bytes" * 9)
    with pytest.raises(OutboxError, match="file is not a database"):
        Outbox(client, text)
    with pytest.raises(OutboxError, match="can't be read or written"):
        Outbox(client, tmp_path / "missing" / "outbox")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"db_password": "secret"}, "reading 1 has a db_password"),
        ({"freeform": {1, 2}}, "reading 1 can't be written as JSON"),
    ],
)
def test_readings_that_the_outbox_does_not_take(
    client: Client, path: Path, wrong: dict[str, object], message: str
) -> None:
    with Outbox(client, path) as box:
        with pytest.raises(ValueError, match=message):
            box.send([reading(0), reading(1, **wrong)])
        assert box.statistics().waiting == 0
        box.close()
        with pytest.raises(OutboxError, match="closed"):
            box.send(reading(0))
