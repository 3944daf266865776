"""An erased vault: nothing opens it, nothing is stored for it, and nothing of it is left."""

import json
import threading
import uuid

import psycopg
import pytest
from redis import Redis
from werkzeug.test import TestResponse

from integration.api.asking import JSON, PASSWORD, Api, row, sample
from integration.api.conftest import MakeApi
from integration.api.test_password_change import records_of
from integration.api.test_password_forms import texts
from iot_models.audit_event import AuditKind, audit_event, parse_event
from iot_stores import history
from iot_stores.vault_records import VaultErasedError
from iot_writer.drain import drain as drain_module
from iot_writer.drain.drain import DrainOutcome
from iot_writer.maintenance import sweep, vault_deletion
from iot_writer.writer import Writer
from support.draining import drain_all, read_waiting
from support.erasure import SETTLED, keys_with, rows_with
from support.keys import KEYS
from support.waiting import wait_until

VAULT = "SELECT vault_id, lookup FROM vaults"
BLOCKED = """
    SELECT count(*) FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND datname = current_database()
"""
MARKS = {KEYS.password_changes}
"""Keys that may name an erased vault, apart from the marks of its lookups."""


def erase(api: Api, password: object = PASSWORD) -> TestResponse:
    """Send the erasure of a vault."""
    body = json.dumps({"data": {"db_password": password}})
    return api.ask("DELETE", "/api/vault", body, JSON)


def only_vault(postgres: psycopg.Connection) -> tuple[uuid.UUID, bytes]:
    """Return the id and the lookup of the only vault."""
    ((vault_id, lookup),) = postgres.execute(VAULT).fetchall()
    return vault_id, lookup


def finish(writer: Writer, postgres: psycopg.Connection, *apis: Api) -> None:
    """Do all that processes do after an erasure, as if minutes had passed."""
    for _ in range(2):
        sweep.release_held(writer.held, writer.postgres)
        while writer.vault_deletion.run(writer.postgres()):
            continue
        for api in apis:
            api.service.vault_eraser.erasures.clean_redis()
        postgres.execute(SETTLED)


def traces(redis: "Redis", vault_id: uuid.UUID) -> set[str]:
    """Return the keys in Redis that name a vault, without the marks of its erasure."""
    found = keys_with(redis, vault_id) - MARKS
    return {key for key in found if not key.startswith(KEYS.changed_lookup(b""))}


def test_a_process_that_hung_during_the_erasure(make_api: MakeApi, writer: Writer) -> None:
    """The process has the vault open, and the segments are not deleted yet."""
    api, hung = make_api(), make_api()
    hung.put(row(freeform=1))
    drain_all(writer)
    hung.service.change_follower.check()
    assert texts(hung.read()) == ["1"]
    assert erase(api).status_code == 200
    assert hung.read() == []


def test_nothing_opens_an_erased_vault_and_nothing_of_it_is_left(
    make_api: MakeApi,
    writer: Writer,
    postgres: psycopg.Connection,
    redis: "Redis",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("iot_stores.hot_window._MAX_FETCH", 1)  # delete segments one by one
    api, other = make_api(), make_api()
    other.service.change_follower.start()
    api.put([row(freeform=1), row("another", freeform=3)])
    drain_all(writer)
    api.put(row(freeform=2))
    drain_all(writer)
    assert texts(other.read("/seconds/60")) == ["1", "2"]
    api.put(row(freeform="in the backlog"))
    vault_id = other.service.vaults.cache.records()[0].vault_id
    answer = erase(api)
    assert (answer.status_code, answer.get_json()) == (200, {"erased": True})
    for process in (other, api, make_api()):
        for path in ("", "/last/5", "/seconds/60", "/0/9"):
            assert process.read(path) == []
    drain_all(writer)
    finish(writer, postgres, api)
    assert rows_with(postgres, vault_id) == {"erased_vaults": 1}
    wait_until(lambda: traces(redis, vault_id) == set(), what="an empty Redis")
    tombstone = "SELECT noted, deleted_at IS NOT NULL, lookups IS NULL FROM erased_vaults"
    assert postgres.execute(tombstone).fetchall() == [(True, True, True)]
    assert texts(api.read(password="another")) == ["3"]
    (*_, (_, _, line)) = writer.audit.latest(postgres, 9)
    event = parse_event(line)
    assert event is not None
    assert event.pop("time")
    assert event == {
        "event": "vault_erased", "vault": str(vault_id), "token": None, "client": "127.0.0.1",
    }  # fmt: skip


def test_a_put_under_the_password_begins_a_new_vault(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection
) -> None:
    api, other = make_api(), make_api()
    other.service.change_follower.start()
    keyed = {"Idempotency-Key": "a key"}
    for process in (api, other):
        process.put(row(freeform="before"), keyed)
    vault_id, _ = only_vault(postgres)
    assert erase(api).status_code == 200
    answer = other.put(row(freeform="after"), keyed)
    assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (201, False)
    api.put(row(freeform="later"))
    drain_all(writer)
    finish(writer, postgres, api, other)
    for process in (api, other, make_api()):
        assert texts(process.read()) == ['"after"', '"later"']
        assert texts(process.read("/seconds/60")) == ['"after"', '"later"']
    assert only_vault(postgres)[0] != vault_id
    # The hidden lookups are those of the erased vault alone.
    assert len(list(records_of(make_api()).scan_cached())) == 1


def test_entries_in_flight_are_dropped(make_api: MakeApi, writer: Writer) -> None:
    api = make_api(ack_stored_seconds=0.0)
    api.put([row(freeform=1), row("another", freeform=2)])
    receipt = api.ask("PUT", "/api/iot?ack=stored", json.dumps(row()), JSON).headers["Location"]
    dropped = sample("iot_entries_erased_total")
    assert erase(api).status_code == 200
    outcomes = writer.drain.run(writer.postgres(), range(writer.settings.shards)).outcomes
    assert DrainOutcome.ERASED in outcomes.values() or DrainOutcome.STORED in outcomes.values()
    drain_all(writer)
    assert sample("iot_entries_erased_total") == dropped + 2
    assert writer.held.vaults() == {}
    assert api.ask("GET", receipt).get_json() == {"stored": True}
    assert texts(api.read(password="another")) == ["2"]


def test_entries_that_an_earlier_version_holds_are_dropped(
    api: Api, writer: Writer, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that knows no tombstones holds the entries, since Postgres lacks the vault."""
    api.put(row())
    vault_id, _ = only_vault(postgres)
    assert erase(api).status_code == 200
    with monkeypatch.context() as earlier:
        earlier.setattr(drain_module, "erased_among", lambda *_: set())
        drain_all(writer)
    assert writer.held.vaults() == {vault_id: 1}
    restorer = api.service.vault_restorer
    restorer.check()  # restores vaults of held entries
    assert postgres.execute(VAULT).fetchall() == []
    assert sweep.release_held(writer.held, writer.postgres) == 0
    assert writer.held.vaults() == {}
    assert writer.backlog.state().bytes == 0


def test_dead_letters_are_deleted(
    api: Api, writer: Writer, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise psycopg.DataError("refused by a test")

    api.put([row(), row("another")])
    with monkeypatch.context() as refusing:
        refusing.setattr(history, "insert", refuse)
        drain_all(writer)
    letters = writer.stores.dead_letters
    assert len(list(letters.all())) == 2
    assert erase(api).status_code == 200
    finish(writer, postgres)
    (left,) = letters.all()
    writer.backlog.append([(left.shard, left.sealed)])
    letters.drop(left)
    drain_all(writer)
    assert len(api.read(password="another")) == 1


def test_a_replayed_entry_is_dropped(
    api: Api, writer: Writer, postgres: psycopg.Connection, redis: "Redis"
) -> None:
    """As from an old backup of Redis, after the ledger has forgotten the session."""
    api.put(row())
    waiting = {
        shard: read_waiting(writer.backlog, shard, max_bytes=2**20)
        for shard in range(writer.settings.shards)
    }
    drain_all(writer)
    vault_id, _ = only_vault(postgres)
    assert erase(api).status_code == 200
    finish(writer, postgres, api)
    postgres.execute("DELETE FROM ingest_sessions")
    for shard, entries in waiting.items():
        for entry in entries:
            redis.xadd(KEYS.stream(shard), {"e": entry.sealed, "t": entry.bytes_so_far})
    drain_all(writer)
    assert rows_with(postgres, vault_id) == {"erased_vaults": 1}
    assert writer.held.vaults() == {}


def store_by_both(
    api: Api, other: Api, writer: Writer, redis: "Redis", postgres: psycopg.Connection
) -> tuple[uuid.UUID, bytes, bytes]:
    """Store a reading by each of two processes, which then have the vault open. Return the vault's
    id and lookup, and its record in Redis."""
    for process in (api, other):
        process.put(row(freeform=1))
    drain_all(writer)
    vault_id, lookup = only_vault(postgres)
    record = redis.get(KEYS.vault_record(lookup))
    assert isinstance(record, bytes)
    return vault_id, lookup, record


def bring_back(redis: "Redis", lookup: bytes, record: bytes) -> None:
    """Restore the record of an erased vault in Redis, without the mark that hides it."""
    redis.delete(KEYS.changed_lookup(lookup))
    redis.set(KEYS.vault_record(lookup), record, ex=86_400)


def test_a_record_in_redis_restores_nothing(
    make_api: MakeApi, writer: Writer, redis: "Redis", postgres: psycopg.Connection
) -> None:
    """A failover may lose the marks, and an old backup of Redis has the record."""
    api, other = make_api(), make_api()
    vault_id, lookup, planted = store_by_both(api, other, writer, redis, postgres)
    assert erase(api).status_code == 200
    fresh = make_api()
    bring_back(redis, lookup, planted)
    (record,) = records_of(fresh).scan_cached()
    with pytest.raises(VaultErasedError):
        records_of(fresh).restore(record)
    assert fresh.read() == []
    assert redis.exists(KEYS.changed_lookup(lookup))
    # This process has missed the announcement: it finds out when it compares the vault.
    restorer = other.service.vault_restorer
    restorer.watch(record)
    restorer.check()
    assert other.service.vaults.cache.records() == []
    assert other.put(row(freeform="new")).status_code == 201
    drain_all(writer)
    assert texts(make_api().read()) == ['"new"']
    assert only_vault(postgres)[0] != vault_id


def test_a_record_in_redis_is_not_kept_if_the_password_has_a_new_vault(
    make_api: MakeApi, writer: Writer, redis: "Redis", postgres: psycopg.Connection
) -> None:
    """A record that Redis kept without expiry would outlive the erasure, and be rewrapped."""
    api, other = make_api(), make_api()
    vault_id, lookup, planted = store_by_both(api, other, writer, redis, postgres)
    assert erase(api).status_code == 200
    assert api.put(row(freeform="new")).status_code == 201
    drain_all(writer)
    finish(writer, postgres, api)
    bring_back(redis, lookup, planted)
    assert texts(make_api().read()) == ['"new"']
    assert not redis.exists(KEYS.replaced_vault_record(vault_id.bytes))
    # This process has missed the announcement: it finds out when it compares the vault.
    bring_back(redis, lookup, planted)
    restorer = other.service.vault_restorer
    (record,) = other.service.vaults.cache.records()
    assert record.vault_id == vault_id
    restorer.watch(record)
    restorer.check()
    assert other.service.vaults.cache.records() == []
    assert texts(other.read()) == ['"new"']
    assert traces(redis, vault_id) == set()
    # Other processes may find out later: the record of the new vault stays in Redis.
    restorer.drop_erased(record)
    assert [each.vault_id for each in records_of(other).scan_cached()] == [only_vault(postgres)[0]]


def test_a_vault_that_is_due_for_renewal_is_dropped(
    make_api: MakeApi, writer: Writer, redis: "Redis"
) -> None:
    api, other = make_api(), make_api()
    for process in (api, other):
        process.put(row(freeform=1))
    drain_all(writer)
    assert erase(api).status_code == 200
    cache = other.service.vaults.cache
    (record,) = cache.records()
    cache.mark_missing(record.vault_id)
    assert other.read() == []
    redis.delete(KEYS.password_changes)


def test_a_process_that_reads_announcements_late_accepts_nothing_for_the_vault(
    make_api: MakeApi, writer: Writer
) -> None:
    """Its follower gets no CPU. Otherwise it would acknowledge readings that are dropped."""
    api, late = make_api(), make_api()
    for process in (api, late):
        process.put(row(freeform=1))
    late.service.change_follower.check()
    assert erase(api).status_code == 200
    assert late.put(row(freeform="kept")).status_code == 201
    drain_all(writer)
    assert texts(make_api().read()) == ['"kept"']


def test_an_erasure_waits_for_a_drain_and_stops_the_next(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection, postgres_url: str
) -> None:
    api = make_api()
    api.put(row())
    drain_all(writer)
    vault_id, _ = only_vault(postgres)
    answers: list[int] = []
    eraser = threading.Thread(target=lambda: answers.append(erase(api).status_code))
    with psycopg.connect(postgres_url) as draining:
        draining.execute("SELECT FROM vaults WHERE vault_id = %s FOR KEY SHARE", (vault_id,))
        eraser.start()
        wait_until(lambda: postgres.execute(BLOCKED).fetchone() == (1,), what="the erasure")
        draining.execute(
            "INSERT INTO segments SELECT vault_id, first_id + 256, last_id + 256, received_min, "
            "received_max, 0, 0, 0, 0, 0, 1, payload FROM segments"
        )
    eraser.join()
    assert answers == [200]
    assert rows_with(postgres, vault_id).keys() - {"erased_vaults"} != set()
    finish(writer, postgres, api)
    assert rows_with(postgres, vault_id) == {"erased_vaults": 1}


def test_a_restore_that_waits_for_an_erasure_is_refused(
    api: Api, postgres: psycopg.Connection, postgres_url: str
) -> None:
    api.put(row())
    vault_id, lookup = only_vault(postgres)
    (record,) = records_of(api).scan_cached()
    errors: list[object] = []

    def restore() -> None:
        with psycopg.connect(postgres_url) as restoring:
            try:
                restoring.execute(
                    "INSERT INTO vaults (vault_id, lookup, salt, scrypt_log2_n, wrapped_key, "
                    "lookup_format) VALUES (%s, %s, %s, %s, %s, 2) ON CONFLICT DO NOTHING",
                    (vault_id, lookup, record.salt, record.scrypt_log2_n, record.wrapped_key),
                )
            except psycopg.errors.CannotConnectNow as error:
                errors.append(error.diag.constraint_name)

    restorer = threading.Thread(target=restore)
    with psycopg.connect(postgres_url) as erasing:
        erasing.execute("SELECT erase_vault(%s, %s)", (vault_id, [lookup]))
        restorer.start()
        wait_until(lambda: postgres.execute(BLOCKED).fetchone() == (1,), what="the restore")
    restorer.join()
    assert errors == ["erased_vaults"]
    assert postgres.execute(VAULT).fetchall() == []


@pytest.mark.parametrize("announced", [True, False])
def test_an_erasure_that_was_not_finished(
    make_api: MakeApi,
    writer: Writer,
    postgres: psycopg.Connection,
    redis: "Redis",
    announced: bool,
) -> None:
    """As a process leaves it that is killed before the transaction, or right after it."""
    api = make_api()
    api.put(row(freeform=1))
    drain_all(writer)
    vault_id, lookup = only_vault(postgres)
    changes = api.service.change_follower
    store = api.service.vault_eraser.erasures
    store.announce(vault_id, [lookup])
    if announced:
        for process in (api, make_api()):
            process.service.change_follower.check()
            for _ in range(2):
                assert texts(process.read()) == ["1"]
            assert process.put(row(freeform=2)).status_code == 201
        assert erase(api).status_code == 200
    else:
        assert texts(make_api().read()) == ["1"]  # stores the record in Redis again
        event = audit_event(AuditKind.VAULT_ERASED, vault=str(vault_id))
        for _ in range(2):  # as by a retry whose first attempt was committed
            assert store.erase(vault_id, [lookup], event)
        assert len(writer.audit.latest(postgres, 9)) == 1
        changes.check()
    for process in (api, make_api()):
        assert process.read() == []
    drain_all(writer)
    finish(writer, postgres, make_api())
    assert rows_with(postgres, vault_id) == {"erased_vaults": 1}
    wait_until(lambda: traces(redis, vault_id) == set(), what="an empty Redis")


def test_large_vaults_are_deleted_in_parts(
    api: Api, writer: Writer, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault_deletion, "RUN_SECONDS", 0.0)
    passwords = (PASSWORD, "another")
    api.put([row(password) for password in passwords])
    drain_all(writer)
    postgres.execute(
        "INSERT INTO segments SELECT vault_id, first_id + 256 * n, last_id + 256 * n, received_min,"
        " received_max, 0, 0, 0, 0, 0, 1, payload FROM segments, generate_series(1, 450) AS n"
    )
    for password in passwords:
        assert erase(api, password).status_code == 200
    noted = []
    more = True
    while more:
        more = writer.vault_deletion.run(writer.postgres())
        noted.append(postgres.execute("SELECT FROM erased_vaults WHERE noted").rowcount)
    # The first vault is noted before the second vault is begun.
    assert noted == [0, 0, 0, 1, 1, 1, 1, 2]
    assert postgres.execute("SELECT count(*) FROM segments").fetchone() == (0,)


@pytest.mark.parametrize("planted", ["a value of another type", "a member"])
def test_a_planted_index_of_the_hot_window_stops_no_erasure(
    api: Api, writer: Writer, postgres: psycopg.Connection, redis: "Redis", planted: str
) -> None:
    api.put(row())
    drain_all(writer)
    vault_id, _ = only_vault(postgres)
    index = KEYS.hot_index(vault_id.bytes)
    if planted == "a member":
        redis.zadd(index, {planted: 1})
    else:
        redis.set(index, planted)
    assert erase(api).status_code == 200
    finish(writer, postgres, api)
    assert rows_with(postgres, vault_id) == {"erased_vaults": 1}
    assert postgres.execute("SELECT FROM erased_vaults WHERE deleted_at IS NULL").rowcount == 0
    assert not redis.exists(index)
    if planted == "a member":
        wait_until(lambda: traces(redis, vault_id) == set(), what="an empty Redis")
