"""Lookups of passwords: one vault a password, whatever changes meanwhile."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from redis import Redis

from integration.api.asking import row, sample
from integration.api.conftest import MakeApi
from iot_cipher.keyring import KeyringFile
from iot_cipher.vault import scrypt_secret
from iot_models import names
from iot_models.settings import Settings
from iot_writer import lookup_upgrade
from iot_writer.writer import Writer
from support.draining import drain_all
from support.waiting import wait_until


def costs(postgres: psycopg.Connection) -> list[int]:
    found = postgres.execute("SELECT scrypt_log2_n FROM vaults ORDER BY created_at")
    return [cost for (cost,) in found]


def lookup_costs(postgres: psycopg.Connection) -> list[int]:
    (found,) = postgres.execute("SELECT costs FROM vault_lookups").fetchall()
    return list(found[0])


def test_a_raised_cost_holds_for_new_vaults_and_for_others_when_they_are_used(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection, redis: "Redis"
) -> None:
    old = make_api()
    old.put([row("used", freeform=1), row("unused")])
    drain_all(writer)
    moved = sample("iot_vaults_moved_total")
    new = make_api(scrypt_log2_n=11)
    assert new.put(row("new")).status_code == 201
    assert costs(postgres) == [10, 10, 11]
    before = set(redis.scan_iter("iot:vault:*"))
    assert len(new.read(password="used")) == 1
    assert sorted(costs(postgres)) == [10, 11, 11]
    assert sample("iot_vaults_moved_total") == moved + 1
    after = set(redis.scan_iter("iot:vault:*"))
    assert len(before - after) == len(after - before) == 1  # renamed
    assert new.put(row("used", freeform=2)).status_code == 201
    drain_all(writer)
    assert [each["freeform"] for each in make_api().read(password="used")] == ["1", "2"]
    assert [each["freeform"] for each in old.read(password="used")] == ["1", "2"]
    assert lookup_costs(postgres) == [10, 11]
    assert len(new.read(password="unused")) == 1
    lookup_upgrade.advance(writer.postgres(), after_seconds=0)
    assert lookup_costs(postgres) == [11]  # the other one is not computed any more


def test_a_lower_cost_in_the_settings_changes_nothing(
    make_api: MakeApi, postgres: psycopg.Connection
) -> None:
    make_api(scrypt_log2_n=11).put(row("one"))
    make_api(scrypt_log2_n=10).put(row("two"))
    assert costs(postgres) == [11, 11]


def test_a_password_gets_one_vault_while_its_cost_is_raised(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection
) -> None:
    """Processes of both settings create the same vaults at once."""
    apis = [make_api(scrypt_log2_n=cost) for cost in (10, 11, 10, 11)]
    apis[0].put(row("first"))
    words = [f"word {number}" for number in range(12)]
    with ThreadPoolExecutor(len(apis)) as threads:
        sent = [threads.submit(api.put, row(word)) for word in words for api in apis]
        assert {each.result().status_code for each in sent} == {201}
    assert len(costs(postgres)) == len(words) + 1
    drain_all(writer)
    for api in (*apis, make_api()):
        assert [len(api.read(password=word)) for word in words] == [len(apis)] * len(words)


@pytest.mark.parametrize("at", [0, 16, 47, 48, 64, 65, 66, 80, -1])
def test_a_flipped_bit_of_a_record_in_redis_costs_a_look_at_postgres(
    at: int, make_api: MakeApi, writer: Writer, redis: "Redis", settings: Settings
) -> None:
    make_api().put(row("p"))
    drain_all(writer)
    key = record_key(settings, b"p")
    right = redis.get(key)
    assert isinstance(right, bytes)
    changed = bytearray(right)
    changed[at] ^= 1
    redis.set(key, bytes(changed), keepttl=True)
    api = make_api()
    assert api.put(row("p")).status_code == 201
    assert len(make_api().read(password="p")) == 1
    assert redis.get(key) == right


@pytest.mark.parametrize("length", [0, 1, 64, 65, 69, 70, 100])
def test_a_truncated_record_in_redis_costs_a_look_at_postgres(
    length: int, make_api: MakeApi, redis: "Redis", settings: Settings
) -> None:
    make_api().put(row("p"))
    key = record_key(settings, b"p")
    right = redis.get(key)
    assert isinstance(right, bytes)
    redis.set(key, right[:length], keepttl=True)
    assert make_api().put(row("p")).status_code == 201
    assert redis.get(key) == right


def test_the_record_of_another_vault_in_redis_costs_a_look_at_postgres(
    make_api: MakeApi, writer: Writer, redis: "Redis", settings: Settings
) -> None:
    make_api().put([row("p"), row("q")])
    drain_all(writer)
    other = redis.get(record_key(settings, b"q"))
    assert isinstance(other, bytes)
    redis.set(record_key(settings, b"p"), other)
    assert len(make_api().read(password="p")) == 1


def test_a_damaged_record_in_redis_while_postgres_is_away_is_no_defect(
    make_api: MakeApi, redis: "Redis", settings: Settings
) -> None:
    make_api().put(row("p"))
    key = record_key(settings, b"p")
    redis.set(key, b"?" * 100)
    away = make_api(postgres_url="postgresql://iot@127.0.0.1:1/none")
    assert away.put(row("p")).status_code == 503


def record_key(settings: Settings, password: bytes) -> str:
    keyring = KeyringFile(Path(settings.keyring_file)).current()
    return names.vault_record(scrypt_secret(keyring, password, 10).lookup)


def test_a_vault_that_is_not_used_leaves_memory(make_api: MakeApi) -> None:
    api = make_api(vault_cache_seconds=1)
    api.put(row("p"))
    held = api.app.extensions["iot"].vaults._cache._held  # noqa: SLF001 - its memory
    assert len(held) == 1
    wait_until(lambda: not held, what="an empty cache")
