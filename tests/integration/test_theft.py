"""What a thief of database, Redis and keyring can do: guess passwords, at a scrypt each."""

import base64
import hmac
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from flask.testing import FlaskClient
from redis import Redis

from iot_api.limits.clients import Client
from iot_api.service import Service
from iot_cipher.encryption import (
    SEGMENT_FORMAT,
    Opener,
    OpenVault,
    SealedSegment,
    decode_entry,
    decrypt,
    decrypt_segment,
)
from iot_cipher.keyring import Keyring, KeyringFile, create_keyring_file, parse_keyring
from iot_cipher.vault import PasswordSecret, VaultRecord, open_vault, password_key, scrypt_secret
from iot_models.errors import DecryptionError
from iot_models.settings import Settings
from iot_stores import history
from iot_stores.history import ReadFilter
from iot_tools.local.redis_server import RedisServer
from iot_writer.writer import Writer
from support.draining import drain_all, read_waiting
from support.keys import KEYS
from support.needles import contents
from support.waiting import wait_until

PASSWORD = b"the password"
TEXT_MARK = "Xk4OtterMeadow"


@dataclass
class Loot:
    """Everything in Postgres and Redis, and the keyring that may be stolen as well."""

    records: list[VaultRecord]
    segments: list[SealedSegment]
    waiting: list[tuple[int, bytes]]
    keyring: Keyring


@pytest.fixture
def loot(client: FlaskClient, writer: Writer, settings: Settings) -> Loot:
    """Of a service with one vault, some of its readings stored and one still waiting."""
    row = {"data": {"db_password": PASSWORD.decode(), "freeform": TEXT_MARK}}
    assert client.put("/api/iot", json=row).status_code == 201
    drain_all(writer)
    assert client.put("/api/iot", json=row).status_code == 201
    connection = writer.postgres()
    found = connection.execute(
        "SELECT vault_id, lookup, salt, scrypt_log2_n, wrapped_key FROM vaults"
    )
    records = [VaultRecord(*cast("tuple[Any, ...]", row)) for row in found]
    waiting = [
        (shard, each.sealed)
        for shard in range(settings.shards)
        for each in read_waiting(writer.backlog, shard, max_bytes=2**20)
    ]
    (record,) = records
    segments = list(history.select(connection, record.vault_id, ReadFilter()))
    assert len(segments) == len(waiting) == 1
    service: Service = client.application.extensions["iot"]
    vault = service.vaults.find(PASSWORD, Client("test"))
    assert vault is not None
    assert decrypt_segment(vault, segments[0].bounds, segments[0].payload)  # it can be opened
    return Loot(records, segments, waiting, KeyringFile(Path(settings.keyring_file)).current())


@pytest.fixture
def thief(tmp_path: Path) -> Keyring:
    """A keyring of the thief's own."""
    create_keyring_file(tmp_path / "thief.json")
    return parse_keyring((tmp_path / "thief.json").read_text())


def test_without_the_keyring_no_password_can_be_tested(
    loot: Loot, thief: Keyring, redis: "Redis"
) -> None:
    (record,) = loot.records
    ours, theirs = _secret(loot.keyring, PASSWORD), _secret(thief, PASSWORD)
    assert record.lookup == ours.lookup
    assert record.lookup != theirs.lookup
    with pytest.raises(DecryptionError):
        open_vault(thief, record, theirs)
    for shard, sealed in loot.waiting:
        with pytest.raises(DecryptionError):
            Opener(lambda: thief).open(shard, sealed)
    assert redis.exists(KEYS.vault_record(ours.lookup))
    assert not redis.exists(KEYS.vault_record(theirs.lookup))


def test_with_the_master_keys_but_no_pepper_no_vault_is_found(
    loot: Loot, settings: Settings
) -> None:
    content = json.loads(Path(settings.keyring_file).read_text())
    content["pepper"] = base64.b64encode(bytes(32)).decode()
    keyring = parse_keyring(json.dumps(content))
    assert keyring.wrap_key(1) == loot.keyring.wrap_key(1)
    assert loot.records[0].lookup != _secret(keyring, PASSWORD).lookup


def test_with_the_keyring_a_vault_still_needs_its_password(loot: Loot) -> None:
    (record,) = loot.records
    for guess in (b"", b"The password", b"the password ", record.lookup, record.wrapped_key):
        with pytest.raises(DecryptionError):
            open_vault(loot.keyring, record, _secret(loot.keyring, guess))
    assert open_vault(loot.keyring, record, _secret(loot.keyring, PASSWORD))


def test_with_the_keyring_each_guess_costs_a_scrypt(loot: Loot, redis: "Redis") -> None:
    """Nothing in Postgres or in the names and values of Redis tells a password without one."""
    fast = loot.keyring.lookup(PASSWORD)
    stored = [key + (redis.dump(key) or b"") for key in redis.scan_iter()]
    for record in loot.records:
        stored += [record.lookup, record.salt, record.wrapped_key]
    for guess in (fast, fast.hex().encode(), hmac.digest(bytes(32), PASSWORD, "sha256")):
        assert not any(guess in each for each in stored)
    scrypts: list[bytes] = []

    def counted(password: bytes, salt: bytes, log2_n: int) -> bytes:
        scrypts.append(password)
        return password_key(password, salt, log2_n)

    (record,) = loot.records
    for guess in (b"guess", PASSWORD):
        secret = scrypt_secret(loot.keyring, guess, record.scrypt_log2_n, slow_key=counted)
        assert (secret.lookup == record.lookup) is (guess == PASSWORD)
    assert scrypts == [b"guess", PASSWORD]


def _secret(keyring: Keyring, password: bytes) -> PasswordSecret:
    return scrypt_secret(keyring, password, 10)


def test_with_the_keyring_and_the_queue_what_is_stored_stays_closed(loot: Loot) -> None:
    (segment,) = loot.segments
    (shard, sealed) = loot.waiting[0]
    entry = decode_entry(Opener(lambda: loot.keyring).open(shard, sealed).content)
    assert uuid.UUID(bytes=entry.vault_id) == segment.vault_id  # the very vault's chunk key
    for key in (entry.chunk_key, loot.keyring.wrap_key(1), loot.keyring.transit_key(1)):
        with pytest.raises(DecryptionError):
            decrypt_segment(OpenVault(segment.vault_id, key), segment.bounds, segment.payload)
        head = SEGMENT_FORMAT + segment.payload[1:17]
        bound = head + segment.vault_id.bytes + segment.bounds.to_bytes()
        with pytest.raises(DecryptionError):
            decrypt(key, segment.payload[17:], bound)


def test_the_aof_holds_entries_that_are_stored_until_it_is_rewritten(
    loot: Loot, writer: Writer, redis_server: RedisServer
) -> None:
    ((shard, sealed),) = loot.waiting
    drain_all(writer)
    assert read_waiting(writer.backlog, shard, max_bytes=2**20) == []
    entry = decode_entry(Opener(lambda: loot.keyring).open(shard, sealed).content)
    assert TEXT_MARK.encode() in entry.readings.freeform
    wait_until(lambda: sealed in aof(redis_server), what="the entry in the AOF")
    with Redis.from_url(redis_server.url) as redis:
        redis.bgrewriteaof()
    wait_until(lambda: sealed not in aof(redis_server), what="an AOF without the entry")


def aof(server: RedisServer) -> bytes:
    """Return the append-only file of a server."""
    return b"".join(contents(server.directory.rglob("*.aof")))
