"""The service works with the users of production, and the stores refuse none of its commands."""

import json
import time
import uuid
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from integration.compaction.past import Past, each_second, noon
from integration.writer.sending import sending
from iot_cipher.keyring import KeyringFile
from iot_models import names
from iot_models.settings import Settings, load
from iot_stores.audit import AuditLog
from iot_stores.months import DAY_MS, month_begin
from iot_stores.postgres import connect_postgres, postgres_pool
from iot_stores.vault_records import VaultRecords
from iot_writer.maintenance import bloated_indexes
from iot_writer.maintenance.partitions import ensure_partition, partition_name
from iot_writer.writer import Writer
from support.erasure import SETTLED, rows_with
from support.keys import KEYS
from support.live_events import live_events
from support.stack import Stack
from support.waiting import wait_until
from system.rights.conftest import stack_of_users
from system.rights.stores import Database, RedisWithUsers, command, servers

PARTITIONS = """
    SELECT relname, pg_get_userbyid(relowner), relnamespace::regnamespace::text
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'segments'::regclass
"""
JSON = {"Content-Type": "application/json"}
COPY_TO_THE_PAST = """
    INSERT INTO segments
    SELECT vault_id, first_id, last_id, %(at)s, %(at)s, relative_min, relative_max,
        interrogator_min, interrogator_max, shard, count, payload
    FROM segments LIMIT 1
"""


def put_stored(stack: Stack, number: int) -> None:
    """Put a reading and wait until it is stored. Repeat the request, which is replayed."""
    headers = {**JSON, "Idempotency-Key": f"key-{number}"}
    row = {
        "interrogator_time": number,
        "relative_time": number,
        "freeform": f"reading {number}",
        "db_password": "p",
    }
    for _ in range(2):
        answer = stack.request("PUT", "/api/iot?ack=stored", json.dumps({"data": row}), headers)
        assert answer.status == 201, answer
    assert answer.headers["Idempotent-Replayed"] == "true"


def count(database: Database, statement: str) -> int:
    """Return the number that a statement selects, as an administrator."""
    with database.connect("postgres") as connection:
        found = connection.execute(statement.encode()).fetchone()
    assert found is not None
    assert isinstance(found[0], int)
    return found[0]


def partitions(database: Database) -> dict[str, tuple[str, str]]:
    """Return owner and schema of each partition."""
    with database.connect("postgres") as connection:
        found = connection.execute(PARTITIONS).fetchall()
    return {str(name): (str(owner), str(schema)) for name, owner, schema in found}


def check_reads(stack: Stack, readings: int) -> None:
    """Read readings by every route, from the hot window and from the history."""
    assert len(stack.read("p")) == readings
    for path in ("/last/5", "/1/3", "/seconds/60"):
        assert stack.request("POST", f"/api/iot{path}", ask("p"), JSON).status in {200, 404}, path
    with live_events(stack.port, "p", last=60) as events:
        assert [next(events).name for _ in range(2)] == ["open", "readings"]
    assert stack.request("GET", "/api/maxtime").status in {200, 404}
    assert stack.request("GET", "/api/audit").status == 200
    wait_until(lambda: status(stack)["writers"], what="the heartbeat of a writer")
    assert status(stack)["keys"]
    metrics = stack.request("GET", "/metrics", port=stack.metrics_port)
    assert b"iot_backlog_bytes" in metrics.body


def status(stack: Stack) -> dict[str, Any]:
    """Return the status of the service."""
    shown: dict[str, Any] = stack.request("GET", "/api/status").json()
    return shown


def ask(password: str) -> str:
    """Return the body of a read."""
    return json.dumps({"data": {"db_password": password}})


def test_the_service_works_with_separate_users(
    rights_stack: Stack,
    redis_users: RedisWithUsers,
    database: Database,
    rights_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer = {
        **rights_environment,
        "IOT_POSTGRES_URL": database.url("iot_writer"),
        "IOT_REDIS_URL": redis_users.url("iot_writer"),
    }
    api = writer | {
        "IOT_POSTGRES_URL": database.url("iot_api"),
        "IOT_REDIS_URL": redis_users.url("iot_api"),
    }
    for number in range(5):
        put_stored(rights_stack, number)
    check_reads(rights_stack, 5)
    check_held(rights_stack, database, redis_users, load(api))
    check_compaction(load(api), load(writer), redis_users)
    check_password_change(rights_stack, redis_users)
    check_erasure(rights_stack, database, redis_users)
    check_guess_limit(rights_stack)
    check_partitions(database)
    check_retention(database, redis_users, writer)
    check_indexes(writer, monkeypatch)
    check_dead_letters(rights_stack, redis_users, writer)
    check_claim(writer)
    check_audit(database, api)
    database.migrate()


def check_held(
    stack: Stack, database: Database, redis_users: RedisWithUsers, settings: Settings
) -> None:
    """Check that a missing vault is restored, and that its entries are held until then."""
    with database.connect("postgres") as connection:
        connection.execute("DELETE FROM vaults")
    put_stored(stack, 5)
    assert count(database, "SELECT count(*) FROM vaults") == 1
    with redis_users.client("admin") as admin, redis_users.client("iot_api") as client:
        assert admin.hget(KEYS.backlog_counters, "held") == b"0"
        pool = postgres_pool(settings, name="test", size=1)
        audit = AuditLog(KeyringFile(Path(settings.keyring_file)).current)
        assert len(list(VaultRecords(client, KEYS, pool, audit).scan_cached())) == 1
        pool.close()


def test_the_service_works_with_a_key_prefix(
    database: Database, rights_environment: dict[str, str], tmp_path: Path
) -> None:
    """The users have the same rights on the keys of a prefix."""
    prefix = "berlin:"
    redis_users = RedisWithUsers(tmp_path / "redis", servers()["system"], prefix=prefix)
    environment = rights_environment | {"IOT_REDIS_KEY_PREFIX": prefix}
    try:
        with stack_of_users(database, redis_users, environment, tmp_path) as stack:
            put_stored(stack, 1)
            check_reads(stack, 1)
            check_guess_limit(stack)
            with redis_users.client("admin") as admin:
                keys = cast("list[bytes]", admin.keys())
            assert all(key.startswith(prefix.encode()) for key in keys)
    finally:
        redis_users.stop()


def check_compaction(api: Settings, writer: Settings, redis_users: RedisWithUsers) -> None:
    """Check that small segments are merged, which locks the row of the vault."""
    working = Writer(writer)
    with sending(api) as sender, redis_users.client("admin") as admin:
        sender.redis = admin  # the test needs more rights
        past = Past(sender, working)
        past.store(b"past", each_second(noon(3), 200))
        wait_until(partial(_merged, past), what="compaction")
        assert len(past.readings(b"past")) == 200
    working.close()


def _merged(past: Past) -> bool:
    past.look(b"past")  # the running writer executes the order
    return len(past.counts(b"past")) < 5


def check_password_change(stack: Stack, redis_users: RedisWithUsers) -> None:
    """The API's users may do all that a change of a password takes."""
    put = {"data": {"db_password": "first", "freeform": "kept"}}
    passwords = {"data": {"db_password": "first", "new_password": "second"}}
    with redis_users.client("admin") as admin:
        admin.delete(KEYS.guesses("127.0.0.1"))
        assert stack.put(put).status == 201
        answer = stack.request("POST", "/api/vault/password", json.dumps(passwords), JSON)
        assert answer.status == 200, answer
        wait_until(lambda: len(stack.read("second")) == 1, what="the reading")
        assert stack.read("first") == []
        admin.delete(KEYS.guesses("127.0.0.1"))


def check_erasure(stack: Stack, database: Database, redis_users: RedisWithUsers) -> None:
    """API and writers may do all that an erasure takes."""
    put = {"data": {"db_password": "to be erased"}}
    body = json.dumps({"data": {"db_password": "to be erased"}})
    with redis_users.client("admin") as admin, database.connect("postgres") as connection:
        rows = [{"data": {**put["data"], "relative_time": at}} for at in (1, 2, 3)]
        assert stack.put(rows).status == 201
        for low, high, left in ((2, 2, [1, 3]), (3, 9, [1])):
            answer = stack.request("DELETE", f"/api/iot/{low}/{high}", body, JSON)
            assert (answer.status, answer.json()) == (200, {"erased": 1})
            found = stack.read("to be erased", "/seconds/60")
            assert [each["relative_timestamp"] for each in found] == left
        answer = stack.request("DELETE", "/api/vault", body, JSON)
        assert answer.status == 200, answer
        connection.execute(SETTLED)
        ((vault_id,),) = connection.execute("SELECT vault_id FROM erased_vaults").fetchall()
        assert isinstance(vault_id, uuid.UUID)
        finished = "SELECT deleted_at IS NOT NULL AND lookups IS NULL FROM erased_vaults"
        wait_until(
            lambda: connection.execute(finished).fetchone() == (True,),
            what="the deletion",
        )
        assert set(rows_with(connection, vault_id)) == {"erased_vaults"}
        assert stack.read("to be erased") == []
        admin.delete(KEYS.guesses("127.0.0.1"))


def check_guess_limit(stack: Stack) -> None:
    """Check that unknown passwords are counted."""
    statuses = [
        stack.request("POST", "/api/iot", ask(f"unknown {number}"), JSON).status
        for number in range(4)
    ]
    assert statuses[-1] == 429, statuses


def check_partitions(database: Database) -> None:
    """Check that partitions belong to the writers, in a separate schema."""
    wait_until(lambda: len(partitions(database)) >= 3, what="the next months")
    found = partitions(database)
    assert set(found.values()) == {("iot_writer", "iot_writer")}


def check_retention(
    database: Database, redis_users: RedisWithUsers, writer: dict[str, str]
) -> None:
    """Check that an old month is dropped and recorded in the audit log."""
    old = month_begin(int(time.time() * 1000) - 100 * DAY_MS)
    with connect_postgres(load(writer), name="test") as connection:
        ensure_partition(connection, old)
        connection.execute(COPY_TO_THE_PAST, {"at": old})
    with redis_users.client("admin") as admin:
        admin.delete(KEYS.tick(names.RETENTION_JOB))
    name = partition_name(old)
    wait_until(lambda: name not in partitions(database), what="retention")
    assert count(database, "SELECT count(*) FROM audit_log") >= 1


def check_indexes(writer: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that an index of a partition is rebuilt."""
    monkeypatch.setattr(bloated_indexes, "MIN_BLOATED_BYTES", 0)
    monkeypatch.setattr(bloated_indexes, "ENTRY_BYTES", 0)
    with connect_postgres(load(writer), name="test") as connection:
        connection.execute("ANALYZE segments")
        assert bloated_indexes.rebuild_bloated(connection) > 0


def check_dead_letters(stack: Stack, redis_users: RedisWithUsers, writer: dict[str, str]) -> None:
    """List, show, replay and drop dead letters with the user and the keys of a writer, and drop one
    over HTTP."""
    with redis_users.client("admin") as admin:
        for _ in range(3):
            admin.xadd(KEYS.stream(0), {"e": b"garbage", "t": 7})
        wait_until(lambda: admin.xlen(KEYS.dead_letters) == 3, what="dead letters")
        third = status(stack)["dead_letters"]["oldest"][-1]["id"]
        answer = stack.request("DELETE", f"/api/dead-letters/{third}")
        assert answer.status in {200, 202}, answer
        wait_until(lambda: admin.xlen(KEYS.dead_letters) == 2, what="the drop")
        listed = command(writer, "dead", "list").splitlines()
        first, second = (line.split()[0] for line in listed)
        assert "can't be opened" in command(writer, "dead", "show", first)
        command(writer, "dead", "replay", first)
        wait_until(lambda: admin.xlen(KEYS.dead_letters) == 2, what="the replayed dead letter")
        command(writer, "dead", "drop", second)
        command(writer, "dead", "drop", "--all")
        assert admin.xlen(KEYS.dead_letters) == 0


def check_claim(writer: dict[str, str]) -> None:
    """Claim Redis with the users of a writer, as docs/stores.md says."""
    assert "Redis already belongs to" in command(writer, "claim-redis")


def check_audit(database: Database, api: dict[str, str]) -> None:
    """A writer's user chains the audit log, and the API's user checks it."""
    pending = "SELECT count(*) FROM audit_pending"
    wait_until(lambda: count(database, pending) == 0, what="the chain")
    records = count(database, "SELECT count(*) FROM audit_log")
    assert f"the audit log is whole: head {records}:" in command(api, "audit", "verify")
    assert len(command(api, "audit", "export").splitlines()) == records
