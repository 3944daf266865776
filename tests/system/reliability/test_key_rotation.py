"""A rotation of the master key under load, killed twice and resumed."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psycopg
import pytest
from redis import Redis

from iot_cipher.keyring import Keyring, create_keyring_file, parse_keyring
from iot_cipher.vault import VaultRecord, create_vault, is_authentic, open_vault, scrypt_secret
from iot_models.audit_event import describe
from iot_models.settings import load
from iot_sensor_client import NoResponseError
from iot_stores.audit import UNREADABLE, AuditLog
from iot_stores.cached_records import encode_record, scan_records
from iot_stores.key_uses import count_uses
from iot_stores.stores import Stores
from support.keys import KEYS
from support.stack import Stack, running_stack
from support.waiting import wait_until
from system.reliability.devices import BalancedClient, Fleet
from system.rights.stores import command

VAULTS = int(os.environ.get("ROTATION_VAULTS", "1000"))
"""`make test-rotation` sets 10,000."""
READINGS = 40
DEVICES = 6

COPY = """
    COPY vaults (vault_id, lookup, salt, scrypt_log2_n, wrapped_key, lookup_format) FROM STDIN
"""

WAITS = """
    SELECT 1 FROM pg_stat_activity
    WHERE application_name = 'iot-sensor keys' AND wait_event_type = 'Lock'
"""

Connection = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def keyring_file(tmp_path: Path) -> Path:
    """A keyring of the test's own, which the test changes."""
    path = tmp_path / "keyring.json"
    create_keyring_file(path)
    return path


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """Settings that allow one client to open all vaults."""
    return {**environment, "IOT_GUESS_LIMIT": "1000000"}


@pytest.fixture
def second(environment: dict[str, str], tmp_path: Path) -> Iterator[Stack]:
    """One more gunicorn on the same stores."""
    with running_stack(environment, tmp_path / "second", writers=0) as made:
        yield made


@dataclass
class Rotation:
    """`iot-sensor keys rotate` as a process."""

    environment: dict[str, str]
    writer_keys: Path

    def start(self) -> "subprocess.Popen[str]":
        """Start the command."""
        options = ["--writer-keys", str(self.writer_keys), "--settle", "3", "--wait", "120"]
        return subprocess.Popen(
            [sys.executable, "-m", "iot_tools", "keys", "rotate", *options],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def kill_at(self, postgres: Connection, vault_id: uuid.UUID) -> str:
        """Start the command, and end it with SIGKILL while it rewraps the batch of this vault.

        Return its output. Postgres stores the batch, and no process changes it in Redis.
        """
        with psycopg.connect(self.environment["IOT_POSTGRES_URL"]) as lock, self.start() as process:
            lock.execute("SELECT FROM vaults WHERE vault_id = %s FOR UPDATE", (vault_id,))
            wait_until(
                lambda: process.poll() is not None or postgres.execute(WAITS).fetchone(),
                what="the batch of the vault",
            )
            process.kill()
            assert process.stdout is not None
            output = process.stdout.read()
        assert process.returncode == -9, output
        return output

    def finish(self) -> str:
        """Run the command to its end."""
        with self.start() as process:
            output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
        return output


def vaults_under(postgres: Connection, key_id: int) -> int:
    row = postgres.execute(
        "SELECT count(*) FROM vaults WHERE substring(wrapped_key FROM 2 FOR 4) = %s",
        (key_id.to_bytes(4, "big"),),
    ).fetchone()
    return cast("tuple[int]", row)[0]


def vault_under(postgres: Connection, key_id: int, part: float) -> uuid.UUID:
    """Return a vault of a key. `part`: its place among them in the order of the rewrap, 0 to 1."""
    row = postgres.execute(
        "SELECT vault_id FROM vaults WHERE substring(wrapped_key FROM 2 FOR 4) = %s "
        "ORDER BY vault_id LIMIT 1 OFFSET %s",
        (key_id.to_bytes(4, "big"), int((vaults_under(postgres, key_id) - 1) * part)),
    ).fetchone()
    return cast("tuple[uuid.UUID]", row)[0]


def records(postgres: Connection) -> list[VaultRecord]:
    found = postgres.execute(
        "SELECT vault_id, lookup, salt, scrypt_log2_n, wrapped_key FROM vaults"
    )
    return [VaultRecord(*row) for row in found]  # type: ignore[arg-type]


def fill(stack: Stack, postgres: Connection, redis: "Redis", keyring: Keyring) -> None:
    """Create vaults as the API does, and send readings under some of them.

    Creation through the API takes minutes: it slows a client down that sends new passwords.
    """
    assert stack.put({"data": {"db_password": "the first"}}).status == 201  # sets the scrypt cost
    with postgres.cursor() as cursor, cursor.copy(COPY) as copy, redis.pipeline() as pipeline:
        for number in range(VAULTS):
            secret = scrypt_secret(keyring, f"vault {number}".encode(), 10)
            record, _ = create_vault(keyring, secret)
            copy.write_row((*dataclasses.astuple(record), record.format))
            if number % 2:
                pipeline.set(KEYS.vault_record(record.lookup), encode_record(record), ex=3600)
        pipeline.execute()
    rows = [
        {"data": {"db_password": f"vault {number}", "interrogator_time": number}}
        for number in sampled()
    ]
    assert stack.put(rows).status == 201
    for number in sampled():
        password = f"vault {number}"
        wait_until(lambda password=password: stack.read(password), what=password)  # type: ignore[misc]


def sampled() -> range:
    """Return the numbers of the vaults that have a reading."""
    return range(0, VAULTS, VAULTS // READINGS)


def test_rotation_under_load(
    stack: Stack, second: Stack, environment: dict[str, str], keyring_file: Path, tmp_path: Path
) -> None:
    old = parse_keyring(keyring_file.read_text())
    rotation = Rotation(environment, tmp_path / "writer-keys")
    with (
        psycopg.connect(environment["IOT_POSTGRES_URL"], autocommit=True) as postgres,
        Redis.from_url(environment["IOT_REDIS_URL"]) as redis,
    ):
        fill(stack, postgres, redis, old)
        with Fleet(DEVICES, [stack.port, second.port]) as fleet, Reader(second.port) as reader:
            began = time.monotonic()
            first = rotation.kill_at(postgres, vault_under(postgres, 1, 0.5))
            assert "master key 2 is primary" in first
            left = vaults_under(postgres, 1)
            assert 0 < left < VAULTS
            fleet.go_on()
            restart(stack)
            second_run = rotation.kill_at(postgres, vault_under(postgres, 1, 0.5))
            assert "finishing the rotation to master key 2" in second_run
            assert vaults_under(postgres, 1) < left
            fleet.go_on()
            output = rotation.finish()
            assert "master key 1 was retired" in output
            seconds = time.monotonic() - began
            fleet.go_on()
        reader.stop()
        fleet.assert_no_request_failed()
        assert reader.failures == []
        print(
            f"{VAULTS} vaults, {seconds:.0f} s, {fleet.acknowledged} readings acknowledged, "
            f"{reader.reads} reads; the last run:\n{output}"
        )
        fleet.check(stack.read)
        check_retired(postgres, environment, old, parse_keyring(keyring_file.read_text()))
    assert "the audit log is whole" in command(environment, "audit", "verify")
    for number in sampled():
        (row,) = second.read(f"vault {number}")
        assert row["interrogator_timestamp"] == number


class Reader:
    """Reads the sampled vaults, one after the other, until `stop`."""

    def __init__(self, port: int) -> None:
        self.reads = 0
        self.failures: list[str] = []
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop, and return after the last answer."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        client = BalancedClient([self._port])
        for number in itertools.cycle(sampled()):
            if self._stop.wait(0.05):
                break
            body = json.dumps({"data": {"db_password": f"vault {number}"}})
            headers = {"Content-Type": "application/json"}
            try:
                answer = client.ask("POST", "/api/iot", body, headers)
            except NoResponseError as error:
                self.failures.append(f"vault {number}: {error!r}")
                continue
            self.reads += 1
            rows = answer.json()["data"] if answer.status == 200 else []
            if [row["interrogator_timestamp"] for row in rows] != [number]:
                self.failures.append(f"vault {number}: {answer.status} {rows}")
        client.close()


def restart(stack: Stack) -> None:
    """Restart the API and the writer."""
    for process in (stack.api, *stack.writers):
        assert process is not None
        process.terminate()
        assert process.wait(30) == 0
    stack.writers.clear()
    stack.start_api()
    stack.start_writer()


def check_retired(
    postgres: Connection, environment: dict[str, str], old: Keyring, new: Keyring
) -> None:
    """The old keyring opens nothing, and the new one opens everything."""
    assert new.key_ids == (2,)
    stored = {record.lookup: record for record in records(postgres)}
    assert len(stored) == VAULTS + DEVICES + 1
    with Redis.from_url(environment["IOT_REDIS_URL"]) as redis:
        cached = list(scan_records(redis, KEYS))
    assert cached
    for record in [*stored.values(), *cached]:
        assert not is_authentic(old, record)
        assert is_authentic(new, record)
    for number in range(VAULTS):
        secret = scrypt_secret(new, f"vault {number}".encode(), 10)
        assert open_vault(new, stored[secret.lookup], secret)
    lines = AuditLog(lambda: old).latest(postgres, 100)
    assert {line for _, _, line in lines} == {UNREADABLE}
    readable = [describe(line) for _, _, line in AuditLog(lambda: new).latest(postgres, 100)]
    assert "master key 1 is retired" in readable
    assert UNREADABLE not in readable
    settings = load(environment)
    stores = Stores(settings, lambda: psycopg.connect(settings.postgres_url))
    try:
        uses = count_uses(stores, postgres)
    finally:
        stores.close()
    assert all(set(counts) <= {2} for counts in uses.values()), uses
