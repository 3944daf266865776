"""Postgres is restored without its newest rows. Every stored reading can be opened."""

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from redis import Redis

from iot_models.names import KeyNames
from iot_sensor_client import Response
from support.stack import Stack
from support.waiting import wait_until

NAMES = KeyNames("")


@dataclass
class Restored:
    """The service with a vault of the test, and methods that delete rows of this vault."""

    stack: Stack
    redis: "Redis"
    postgres: "psycopg.Connection[tuple[object, ...]]"
    password: str
    earlier: list[object]
    """The ids of the vaults of earlier tests."""
    sent: int = 0

    def put(self, ack: str = "?ack=stored") -> Response:
        """PUT the next reading."""
        row = {"db_password": self.password, "freeform": self.sent, "interrogator_time": self.sent}
        answer = self.stack.request("PUT", f"/api/iot{ack}", json.dumps({"data": row}))
        assert answer.status in {201, 202}, answer.body
        self.sent += 1
        return answer

    def read(self) -> list[dict[str, Any]]:
        """Return the stored readings."""
        return self.stack.read(self.password)

    def lose_everything(self) -> None:
        """Restore Postgres to the moment before the vault was created."""
        self.postgres.execute(
            "CREATE TEMPORARY TABLE lost AS SELECT * FROM vaults WHERE vault_id <> ALL(%s)",
            [self.earlier],
        )
        self.delete_rows()
        self.sent = 0

    def delete_rows(self) -> None:
        """Delete the vaults of this test and their segments."""
        self.postgres.execute("DELETE FROM vaults WHERE vault_id <> ALL(%s)", [self.earlier])
        self.postgres.execute("DELETE FROM segments WHERE vault_id <> ALL(%s)", [self.earlier])

    def stop_writer(self) -> None:
        """Shut down the writer."""
        self.stack.writers[-1].terminate()
        self.stack.writers[-1].wait(20)

    def lose_everything_undrained(self) -> None:
        """Lose everything, and add three readings to the backlog that no writer has read."""
        self.stop_writer()
        self.lose_everything()
        for _ in range(3):
            self.put("")

    def vault_ids(self) -> list[object]:
        """Return the ids of the vaults of this test in Postgres."""
        return [each for each in vaults(self.postgres) if each not in self.earlier]

    def orphans(self) -> int:
        """Return the number of segments without a vault."""
        found = self.postgres.execute(
            "SELECT count(*) FROM segments WHERE vault_id NOT IN (SELECT vault_id FROM vaults)"
        ).fetchone()
        assert found is not None
        return int(str(found[0]))

    def held(self) -> int:
        """Return the number of held entries."""
        count = self.redis.hget(NAMES.backlog_counters, "held")
        return int(count or b"0")

    def forget_records(self) -> None:
        """Delete the vault records in Redis, as a day without use does."""
        for name in self.redis.scan_iter("iot:vault:*"):
            self.redis.delete(name)

    def restart_api(self) -> None:
        """Restart the API, which loses its open vaults."""
        assert self.stack.api is not None
        self.stack.api.terminate()
        self.stack.api.wait(20)
        self.stack.start_api()

    def close_vaults(self) -> None:
        """Replace the API's workers, which have open vaults. A restart of the API takes longer."""
        old = self.stack.workers()
        for worker in old:
            os.kill(worker, signal.SIGTERM)
        wait_until(lambda: (new := self.stack.workers()) and not new & old, what="a new worker")

    def check(self) -> None:
        """Check that every reading is stored once, before and after the open vaults are lost."""
        wait_until(lambda: len(self.read()) >= self.sent, what="all readings")
        self.forget_records()
        self.close_vaults()
        rows = self.read()
        assert [row["freeform"] for row in rows] == [str(number) for number in range(self.sent)]
        assert len({row["id"] for row in rows}) == self.sent
        assert self.orphans() == 0
        assert self.held() == 0


@pytest.fixture(scope="module")
def shared_settings() -> dict[str, str]:
    """One API process: only this process has open vaults."""
    return {"IOT_API_WORKERS": "1"}


@pytest.fixture
def restored(
    shared_environment: dict[str, str], shared_stack: Stack, password: str
) -> Iterator[Restored]:
    """The service with one vault of the test and one reading in it, stored."""
    with (
        Redis.from_url(shared_environment["IOT_REDIS_URL"]) as redis,
        psycopg.connect(shared_environment["IOT_POSTGRES_URL"], autocommit=True) as postgres,
    ):
        made = Restored(shared_stack, redis, postgres, password, vaults(postgres))
        assert made.held() == 0, "an earlier test failed and left held entries"
        made.put("")
        wait_until(made.read, what="a writer")
        yield made


def vaults(postgres: "psycopg.Connection[tuple[object, ...]]") -> list[object]:
    """Return the ids of all vaults."""
    found = postgres.execute("SELECT vault_id FROM vaults").fetchall()
    return [vault_id for (vault_id,) in found]


def test_a_missing_vault_in_use_is_restored(restored: Restored) -> None:
    (vault_id,) = restored.vault_ids()
    restored.lose_everything()
    for _ in range(3):
        restored.put()
    wait_until(restored.vault_ids, what="the vault")
    assert restored.vault_ids() == [vault_id]
    assert restored.put().status == 201
    restored.check()


def test_a_vault_is_restored_from_an_api_process(restored: Restored) -> None:
    """An API process with the open vault has the only copy of the vault."""
    restored.lose_everything()
    restored.forget_records()
    for _ in range(3):
        restored.put()
    restored.check()


def test_entries_of_a_missing_vault_are_stored_by_another_writer(restored: Restored) -> None:
    restored.lose_everything_undrained()
    restored.stack.start_writer()
    restored.check()


def test_a_vault_is_restored_from_its_record_in_redis(restored: Restored) -> None:
    """The API was restarted after the readings were held. No device sends readings."""
    restored.lose_everything_undrained()
    assert restored.stack.api is not None
    restored.stack.api.kill()
    restored.stack.api.wait()
    restored.stack.start_writer()
    wait_until(lambda: restored.held() == 3, what="the readings held")
    restored.stack.start_api()
    assert restored.stack.put({"data": {"db_password": "another"}}).status == 201
    wait_until(lambda: restored.held() == 0, what="the release")
    restored.check()


def test_a_missing_vault_is_restored_after_a_restart(restored: Restored) -> None:
    """The record in Redis restores the vault before the first acknowledgement."""
    restored.lose_everything()
    restored.restart_api()
    assert restored.put().status == 201
    restored.check()


def test_entries_without_any_vault_record_stay_held(restored: Restored) -> None:
    """The entries stay held, a metric counts them, and they are stored when the row is back."""
    restored.stop_writer()
    restored.lose_everything()
    receipt = restored.put("?ack=stored").headers["Location"]
    for _ in range(2):
        restored.put("")
    restored.forget_records()
    restored.stack.serve_metrics()
    restored.restart_api()
    restored.stack.start_writer()
    wait_until(lambda: restored.held() == 3, what="the readings held")
    assert restored.stack.request("GET", receipt).status == 202
    metrics = restored.stack.request("GET", "/metrics", port=restored.stack.metrics_port).body
    assert b"\niot_entries_held 3.0\n" in metrics
    restored.postgres.execute("INSERT INTO vaults SELECT * FROM lost")
    restored.check()
    assert restored.stack.request("GET", receipt).status == 200


def test_entries_of_a_replaced_vault_stay_held(restored: Restored) -> None:
    """A process without the lost vault created another vault for the password. Acknowledged entries
    stay held, and new readings can be read.
    """
    (lost,) = restored.vault_ids()
    restored.lose_everything()
    (lookup,) = restored.postgres.execute("SELECT lookup FROM lost").fetchone() or (b"",)
    assert isinstance(lookup, bytes)
    record = NAMES.vault_record(lookup)
    kept = restored.redis.get(record)
    assert isinstance(kept, bytes)
    restored.stop_writer()
    restored.put("")  # into the lost vault
    restored.forget_records()
    restored.close_vaults()
    restored.put("")  # creates the other vault
    restored.redis.set(record, kept)
    restored.close_vaults()
    restored.stack.start_writer()
    assert restored.put().status == 201
    wait_until(lambda: restored.held() == 1, what="the reading held")
    assert [row["freeform"] for row in restored.read()] == ["1", "2"]
    assert lost not in restored.vault_ids()
    assert restored.orphans() == 0
    (replaced,) = restored.redis.scan_iter("iot:vault:replaced:*")
    assert restored.redis.ttl(replaced) == -1
    # As documented, an operator restores the lost vault.
    restored.delete_rows()
    restored.postgres.execute("INSERT INTO vaults SELECT * FROM lost")
    wait_until(lambda: restored.held() == 0, what="the release")


def test_readings_wait_for_the_schema(restored: Restored) -> None:
    """A database is empty during the restore of a dump. Drains once logged tracebacks then."""
    log = restored.stack.writers[-1].program.log
    earlier = len(log.read_text())
    restored.postgres.execute("ALTER SCHEMA public RENAME TO elsewhere")
    try:
        begin = time.monotonic()
        wait_until(lambda: restored.put("") and time.monotonic() > begin + 5, what="five seconds")
        message = "run `iot-sensor migrate`"
        wait_until(lambda: message in log.read_text()[earlier:], what="the writer's sentence")
    finally:
        restored.postgres.execute("ALTER SCHEMA elsewhere RENAME TO public")
    wait_until(lambda: len(restored.read()) == restored.sent, what="all readings")
    restored.check()
    logged = log.read_text()[earlier:]
    assert "Traceback" not in logged
    assert logged.count("\n") < 12, logged


def test_ids_are_not_assigned_twice(restored: Restored) -> None:
    """The restored ledger has neither the newest ids nor the newest sessions."""
    for _ in range(4):
        restored.put()
    before = [row["id"] for row in restored.read()]
    restored.lose_everything()
    restored.postgres.execute("DELETE FROM ingest_offsets")
    restored.postgres.execute("DELETE FROM ingest_sessions")
    drop = psycopg.sql.SQL("DROP TABLE {}").format(partition(restored.postgres))
    restored.postgres.execute(drop)
    for _ in range(3):
        restored.put()
    after = [row["id"] for row in wait_until(restored.read, what="readings")]
    assert min(after) > max(before)
    shown = restored.stack.request(
        "POST", "/api/iot/seconds/60", json.dumps({"data": {"db_password": "p"}})
    )
    assert shown.status == 200
    restored.check()


def partition(postgres: "psycopg.Connection[tuple[object, ...]]") -> psycopg.sql.Identifier:
    """Return the partition of this month."""
    found = postgres.execute(
        "SELECT min(relname) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
        "WHERE inhparent = 'segments'::regclass"
    ).fetchone()
    assert found is not None
    return psycopg.sql.Identifier(str(found[0]))
