"""Lookups of passwords: a password has one vault, even during changes of the cost."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from redis import Redis

from integration.api.asking import Api, row, sample
from integration.api.conftest import MakeApi
from iot_cipher.keyring import KeyringFile
from iot_cipher.vault import scrypt_secret
from iot_models.settings import Settings
from iot_stores import postgres as postgres_connections
from iot_writer.maintenance import lookup_upgrade
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.waiting import wait_until


def costs(postgres: psycopg.Connection) -> list[int]:
    found = postgres.execute("SELECT scrypt_log2_n FROM vaults ORDER BY created_at")
    return [cost for (cost,) in found]


def renew_at_next_use(api: Api) -> None:
    """Make all cached vaults due for renewal, as if five minutes had passed."""
    cache = api.service.vaults.cache
    for cached in cache._vaults.values():  # noqa: SLF001 - the state of the cache
        cached.renew_at = 0.0


def lookup_costs(postgres: psycopg.Connection) -> list[int]:
    (found,) = postgres.execute("SELECT costs FROM vault_lookups").fetchall()
    return list(found[0])


def test_the_first_of_several_lookups_takes_precedence(
    api: Api, postgres: psycopg.Connection
) -> None:
    """A process of an earlier version may have created a vault under another form of a password."""
    assert api.put([row(f"{number}") for number in range(5)]).status_code == 201
    lookups = [lookup for (lookup,) in postgres.execute("SELECT lookup FROM vaults")]
    for first in range(len(lookups)):
        asked = lookups[first:] + lookups[:first]
        found = api.service.vault_restorer.records.find(asked).record
        assert found is not None
        assert found.lookup == asked[0]


def test_a_raised_cost_applies_to_new_vaults_and_to_others_at_their_next_use(
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
    assert lookup_costs(postgres) == [11]  # the other cost is no longer computed


def test_a_lower_cost_in_the_settings_changes_nothing(
    make_api: MakeApi, postgres: psycopg.Connection
) -> None:
    make_api(scrypt_log2_n=11).put(row("one"))
    make_api(scrypt_log2_n=10).put(row("two"))
    assert costs(postgres) == [11, 11]


def test_a_password_gets_one_vault_while_its_cost_is_raised(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection
) -> None:
    """Processes with both settings create the same vaults concurrently."""
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


def test_a_vault_never_moves_to_an_outdated_cost(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection
) -> None:
    """The cost is raised twice, and a process knows only of the first raise."""
    late = make_api()
    late.put(row("p"))
    assert make_api(scrypt_log2_n=11).read(password="unknown") == []
    assert late.read(password="unknown") == []  # the process knows of cost 11 now
    newest = make_api(scrypt_log2_n=12)
    assert newest.read(password="unknown") == []
    lookup_upgrade.advance(writer.postgres(), after_seconds=0)
    assert lookup_costs(postgres) == [10, 12]
    renew_at_next_use(late)
    assert late.put(row("p")).status_code == 201
    assert newest.put(row("p")).status_code == 201
    drain_all(writer)
    assert costs(postgres) == [12]
    assert [len(api.read(password="p")) for api in (late, newest, make_api())] == [3, 3, 3]


@pytest.mark.parametrize("wrong", ["{}", "{1}", "{9}", "{-1}", "{40}", "{40,10}", "{10,NULL}"])
def test_costs_outside_the_settings_are_refused(
    wrong: str, make_api: MakeApi, postgres: psycopg.Connection
) -> None:
    """An attacker with write access to Postgres could choose a cost that makes a password quick to
    test or that takes all memory.
    """
    api = make_api()
    api.put(row("p"))
    postgres.execute("DROP FUNCTION raise_lookup_cost")
    postgres.execute(
        "CREATE FUNCTION raise_lookup_cost(smallint) RETURNS void LANGUAGE sql AS 'SELECT'"
    )
    postgres.execute("ALTER TABLE vaults DISABLE TRIGGER check_new_vault")
    postgres.execute("UPDATE vault_lookups SET costs = %s", (wrong,))
    assert make_api().put(row("q")).status_code == 503
    assert costs(postgres) == [10]
    # A vault that is open stays usable.
    api.service.vaults.policy.forget()  # as after a restore of Postgres
    renew_at_next_use(api)
    assert api.put(row("p")).status_code == 201


@pytest.mark.parametrize("at", [0, 16, 47, 48, 64, 65, 66, 80, -1])
def test_a_flipped_bit_of_a_record_in_redis_is_repaired_from_postgres(
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
def test_a_truncated_record_in_redis_is_repaired_from_postgres(
    length: int, make_api: MakeApi, redis: "Redis", settings: Settings
) -> None:
    make_api().put(row("p"))
    key = record_key(settings, b"p")
    right = redis.get(key)
    assert isinstance(right, bytes)
    redis.set(key, right[:length], keepttl=True)
    assert make_api().put(row("p")).status_code == 201
    assert redis.get(key) == right


def test_the_record_of_another_vault_in_redis_is_repaired_from_postgres(
    make_api: MakeApi, writer: Writer, redis: "Redis", settings: Settings
) -> None:
    make_api().put([row("p"), row("q")])
    drain_all(writer)
    other = redis.get(record_key(settings, b"q"))
    assert isinstance(other, bytes)
    redis.set(record_key(settings, b"p"), other)
    assert len(make_api().read(password="p")) == 1


def test_a_damaged_record_in_redis_while_postgres_is_away_is_an_error(
    make_api: MakeApi, redis: "Redis", settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_connections, "WAIT_SECONDS", 0.3)
    make_api().put(row("p"))
    key = record_key(settings, b"p")
    redis.set(key, b"?" * 100)
    away = make_api(postgres_url="postgresql://iot@127.0.0.1:1/none")
    assert away.put(row("p")).status_code == 503


def record_key(settings: Settings, password: bytes) -> str:
    keyring = KeyringFile(Path(settings.keyring_file)).current()
    return KEYS.vault_record(scrypt_secret(keyring, password, 10).lookup)


def test_an_unused_vault_leaves_memory(make_api: MakeApi) -> None:
    api = make_api(vault_cache_seconds=1)
    api.put(row("p"))
    held = api.service.vaults.cache._vaults  # noqa: SLF001 - the state of the cache
    assert len(held) == 1
    wait_until(lambda: not held, what="an empty cache")
