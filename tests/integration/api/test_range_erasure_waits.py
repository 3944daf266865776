"""An erasure of a window waits until the readings acknowledged before it are stored."""

import threading
from typing import Any

import psycopg
import pytest
from redis import Redis

from integration.api.asking import PASSWORD, Api, assert_error, row
from integration.api.conftest import MakeApi
from integration.api.test_password_change import change
from integration.api.test_range_erasure import erase, erased, store
from iot_api.vaults import range_eraser
from iot_models.audit_event import parse_event
from iot_writer.maintenance.sweep import release_held
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS


def test_readings_in_flight_are_erased(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection
) -> None:
    api = make_api()
    store(api, writer, [1])
    rows = [row(relative_time=at) for at in (2, 3, 4)]
    assert api.put(rows).status_code == 201
    counts: list[int] = []
    eraser = threading.Thread(target=lambda: counts.append(erased(api, 2, 3)))
    eraser.start()
    eraser.join(0.3)
    assert eraser.is_alive()  # it waits for the drain
    drain_all(writer)
    eraser.join()
    assert counts == [2]
    assert [each["relative_timestamp"] for each in api.read()] == [4, 1]
    ((_, _, line),) = writer.audit.latest(postgres, 9)
    event = parse_event(line)
    assert event is not None
    assert (event["event"], event["start"], event["end"]) == ("range_erased", 2, 3)


def test_a_changed_password_erases_nothing(api: Api, writer: Writer) -> None:
    """The change is answered while the erasure waits."""
    store(api, writer, [1])
    assert api.put(row(relative_time=2)).status_code == 201
    answers: list[Any] = []
    eraser = threading.Thread(target=lambda: answers.append(erase(api, 1, 2)))
    eraser.start()
    eraser.join(0.3)
    assert eraser.is_alive()
    assert change(api, PASSWORD, "new").status_code == 200
    drain_all(writer)
    eraser.join()
    assert_error(answers[0], 404, "not_found")
    assert len(api.read(password="new")) == 2


def test_without_a_writer_nothing_is_erased(
    api: Api, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(range_eraser, "WAIT_SECONDS", 0.1)
    store(api, writer, [1])
    api.put(row(relative_time=2))
    assert_error(erase(api, 1, 2), 503, "unavailable")
    assert len(api.read()) == 1
    drain_all(writer)
    assert erased(api, 1, 2) == 2


def test_held_readings_stop_an_erasure(
    api: Api, writer: Writer, postgres: psycopg.Connection, redis: "Redis"
) -> None:
    store(api, writer, [1])
    api.service.vault_restorer.close()
    ((vault_id,),) = postgres.execute("SELECT vault_id FROM vaults").fetchall()
    redis.hset(KEYS.held_vaults, vault_id.hex, 1)
    assert "held" in assert_error(erase(api, 1, 1), 503, "unavailable")["error"]
    redis.delete(KEYS.held_vaults)
    assert erased(api, 1, 1) == 1


@pytest.mark.parametrize("held_before", [True, False])
def test_readings_that_leave_or_become_held_entries_as_the_wait_begins_stop_an_erasure(
    api: Api, writer: Writer, redis: "Redis", monkeypatch: pytest.MonkeyPatch, held_before: bool
) -> None:
    """The wait does not include them: they are not in the backlog when its end is read."""
    store(api, writer, [1])
    api.service.vault_restorer.close()
    vault_id = api.service.vaults.cache.records()[0].vault_id
    if held_before:
        redis.hset(KEYS.held_vaults, vault_id.hex, 1)
    backlog = api.service.stores.backlog

    def ends() -> dict[int, int]:
        found = type(backlog).ends(backlog)
        if held_before:
            redis.delete(KEYS.held_vaults)
        else:
            redis.hset(KEYS.held_vaults, vault_id.hex, 1)
        return found

    monkeypatch.setattr(backlog, "ends", ends)
    assert "held" in assert_error(erase(api, 1, 1), 503, "unavailable")["error"]


def test_readings_that_are_held_during_the_wait_stop_an_erasure(
    api: Api, writer: Writer, redis: "Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the end of the wait, writers may release the readings into the backlog."""
    store(api, writer, [1])
    api.service.vault_restorer.close()
    vault_id = api.service.vaults.cache.records()[0].vault_id
    assert api.put(row("another")).status_code == 201  # the erasure waits for it
    backlog = api.service.stores.backlog
    looks = []

    def all_removed(ends: dict[int, int]) -> bool:
        looks.append(ends)
        if len(looks) == 1:
            redis.hset(KEYS.held_vaults, vault_id.hex, 1)
        elif len(looks) == 3:
            redis.delete(KEYS.held_vaults)
            drain_all(writer)
        return type(backlog).all_removed(backlog, ends)

    monkeypatch.setattr(backlog, "all_removed", all_removed)
    assert "held" in assert_error(erase(api, 1, 1), 503, "unavailable")["error"]


@pytest.mark.parametrize("lost_before", [True, False])
def test_readings_that_are_held_and_released_between_two_looks_stop_an_erasure(
    api: Api,
    writer: Writer,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    *,
    lost_before: bool,
) -> None:
    """`lost_before`: Postgres loses the vault before the request, else during the request."""
    store(api, writer, [1])
    restorer = api.service.vault_restorer
    restorer.close()
    (record,) = api.service.vaults.cache.records()
    assert api.put(row(relative_time=1)).status_code == 201  # the erasure waits for it
    backlog = api.service.stores.backlog

    def lose() -> None:
        postgres.execute("DELETE FROM vaults")

    def all_removed(ends: dict[int, int]) -> bool:
        if not lost_before:
            lose()
        drain_all(writer)
        assert writer.held.vaults()
        restorer.records.restore(record)
        release_held(writer.held, writer.postgres)
        return type(backlog).all_removed(backlog, ends)

    if lost_before:
        lose()
    with monkeypatch.context() as patch:
        patch.setattr(backlog, "all_removed", all_removed)
        assert "held" in assert_error(erase(api, 1, 1), 503, "unavailable")["error"]
    api.put(row())  # restores the vault
    release_held(writer.held, writer.postgres)
    drain_all(writer)
    assert erased(api, 1, 1) == 2
    drain_all(writer)
    assert api.read("/1/1") == []


@pytest.mark.parametrize("patched", ["ends", "all_removed"])
def test_readings_that_a_drain_began_to_hold_before_the_request_do_not_escape(
    api: Api,
    writer: Writer,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    patched: str,
) -> None:
    """The drain saw that Postgres lacks the vault, and holds the readings only during the erasure.

    A sweep releases the readings before the erasure looks again. Then they are in the backlog, but
    behind the end for which the erasure waits.
    """
    store(api, writer, [1])
    restorer = api.service.vault_restorer
    restorer.close()
    (record,) = api.service.vaults.cache.records()
    assert api.put(row(relative_time=1)).status_code == 201
    drained, continues = threading.Event(), threading.Event()
    remove = writer.backlog.remove

    def paused(*arguments: Any) -> Any:
        drained.set()
        assert continues.wait(60)
        return remove(*arguments)

    backlog = api.service.stores.backlog
    method = getattr(backlog, patched)

    def hold_and_release(*arguments: Any) -> Any:
        if not continues.is_set():
            continues.set()
            drain.join()
            assert writer.held.vaults()
            found = method(*arguments) if patched == "ends" else None
            release_held(writer.held, writer.postgres)
            return found or method(*arguments)
        drain_all(writer)
        return method(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(writer.backlog, "remove", paused)
        patch.setattr(backlog, patched, hold_and_release)
        postgres.execute("DELETE FROM vaults")
        drain = threading.Thread(target=drain_all, args=[writer])
        drain.start()
        assert drained.wait(60)
        restorer.records.restore(record)
        assert erased(api, 1, 1) == 2
    drain_all(writer)
    assert api.read("/1/1") == []
