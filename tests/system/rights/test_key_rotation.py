"""A rotation of the master key with the users that docs/keys.md names."""

import subprocess
import sys
from pathlib import Path

import pytest

from iot_cipher.keyring import create_keyring_file, parse_keyring
from support.stack import Stack
from support.waiting import wait_until
from system.rights.stores import Database, RedisWithUsers, command


@pytest.fixture
def keyring_file(tmp_path: Path) -> Path:
    """A keyring of the test's own, which the test changes."""
    path = tmp_path / "keyring.json"
    create_keyring_file(path)
    return path


def test_the_user_of_the_rotation_and_the_migration_role_rotate_the_keys(
    rights_stack: Stack,
    redis_users: RedisWithUsers,
    database: Database,
    rights_environment: dict[str, str],
    keyring_file: Path,
    tmp_path: Path,
) -> None:
    assert rights_stack.put({"data": {"db_password": "p", "freeform": "one"}}).status == 201
    redis = {**rights_environment, "IOT_REDIS_URL": redis_users.url("iot_rotation")}
    owner = redis | {"IOT_POSTGRES_URL": database.url("iot_migration")}
    writer_keys = str(tmp_path / "writer-keys")
    options = ["--writer-keys", writer_keys, "--settle", "1", "--wait", "60"]
    assert "master key 1 was retired" in command(owner, "keys", "rotate", *options)
    assert parse_keyring(keyring_file.read_text()).key_ids == (2,)
    assert rights_stack.put({"data": {"db_password": "p", "freeform": "two"}}).status == 201
    api = redis | {"IOT_POSTGRES_URL": database.url("iot_api")}
    reader = api | {"IOT_REDIS_URL": redis_users.url("iot_api")}
    wait_until(lambda: "not chained yet: 0" in command(reader, "audit", "verify"), what="the chain")
    wait_until(
        lambda: "keys 2, primary 2" in command(owner, "keys", "status"),
        what="a report without the old key",
    )
    assert redis_users.denied() == []
    command(owner, "keys", "add", "--writer-keys", writer_keys)
    refused = subprocess.run(
        [sys.executable, "-m", "iot_tools", "keys", "promote", "3", "--wait", "30"],
        env=api,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 1
    assert "permission denied for table audit_log" in refused.stderr
    assert "use the role that owns the tables, iot_migration" in refused.stderr
