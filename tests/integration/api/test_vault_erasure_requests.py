"""Requests that erase a vault: passwords, bodies, and states in which nothing is erased."""

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from redis import Redis
from redis.exceptions import ConnectionError  # noqa: A004 - redis-py's own
from werkzeug.test import TestResponse

from integration.api.asking import JSON, PASSWORD, Api, assert_error, row
from integration.api.conftest import MakeApi
from integration.api.test_guess_oracles import full_queue
from integration.api.test_password_change import change, records_of
from integration.api.test_password_forms import COMPOSED, DECOMPOSED, put_as_before, texts
from integration.api.test_vault_erasure import BLOCKED, erase, only_vault
from iot_api.vaults import change_follower
from iot_stores import erasures, vault_records
from iot_stores import postgres as postgres_connections
from iot_stores.password_changes import ERASED, PasswordChange, PasswordChanges
from iot_stores.vault_records import VaultErasedError
from iot_tools.local.redis_server import RedisServer
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.waiting import wait_until

Step = tuple[str, float]
"""The name of a step and the time of its end."""


@pytest.mark.parametrize("sent", [COMPOSED, DECOMPOSED])
def test_forms_of_passwords(make_api: MakeApi, sent: str) -> None:
    put_as_before(make_api, sent, 1)
    assert erase(make_api(), sent).status_code == 200
    assert make_api().read(password=sent) == []
    assert_error(erase(make_api(), sent), 404, "not_found")


def test_after_a_changed_password(make_api: MakeApi, writer: Writer) -> None:
    api = make_api()
    api.put(row("old password"))
    assert change(api).status_code == 200
    assert_error(erase(api, "old password"), 404, "not_found")
    assert erase(api, "new password").status_code == 200
    drain_all(writer)
    assert make_api().read(password="new password") == []


def test_an_erased_vault_is_not_taken_for_lost_while_another_process_creates_a_new_one(
    make_api: MakeApi, redis: "Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process inserts the new vault between two statements of a restore."""
    api = make_api()
    api.put(row())
    (erased,) = records_of(api).scan_cached()
    assert erase(api).status_code == 200
    assert api.put(row()).status_code == 201
    found = iter([None])
    stored = vault_records._stored  # noqa: SLF001 - the first of the two statements
    monkeypatch.setattr(vault_records, "_stored", lambda *given: next(found, stored(*given)))
    with pytest.raises(VaultErasedError):
        records_of(api).restore(erased)
    assert not redis.exists(KEYS.replaced_vault_record(erased.vault_id.bytes))


def test_a_wrong_password_is_a_guess(make_api: MakeApi, postgres: psycopg.Connection) -> None:
    api = make_api(guess_limit=3)
    api.put(row())
    before = only_vault(postgres)
    for number in range(2):
        error = assert_error(erase(api, f"wrong {number}"), 404, "not_found")
        assert error["field"] == "db_password"
    for password in ("wrong again", PASSWORD):
        assert_error(erase(api, password), 429, "too_many_requests")
    assert only_vault(postgres) == before


@pytest.mark.parametrize(
    "body", ["", "{}", '{"data": {}}', '{"data": {"db_password": 5}}', "[]", "not JSON"]
)
def test_invalid_bodies(module_api: Api, body: str) -> None:
    answer = module_api.ask("DELETE", "/api/vault", body, JSON)
    assert assert_error(answer, 400, "invalid_request")["field"] == "data"


def test_two_erasures_at_once(make_api: MakeApi) -> None:
    apis = [make_api() for _ in range(3)]
    for api in apis:
        api.service.change_follower.start()
        api.put(row())
    together = threading.Barrier(len(apis))
    statuses: list[int] = []

    def send(api: Api) -> None:
        together.wait(10)
        statuses.append(erase(api).status_code)

    threads = [threading.Thread(target=send, args=(api,)) for api in apis]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 200 in statuses
    assert set(statuses) <= {200, 404}
    for process in (*apis, make_api()):
        assert process.read() == []


def note_steps(monkeypatch: pytest.MonkeyPatch, *steps: tuple[object, str]) -> list[Step]:
    """Return a list to which each call of these methods adds its name and the time of its end."""
    noted: list[Step] = []

    def wrapped(name: str, method: Callable[..., object]) -> Callable[..., object]:
        def note(*arguments: Any, **named: Any) -> object:
            result = method(*arguments, **named)
            noted.append((name, time.monotonic()))
            return result

        return note

    for owner, name in steps:
        monkeypatch.setattr(owner, name, wrapped(name, getattr(owner, name)))
    return noted


def test_each_announcement_has_time_to_be_read(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise processes acknowledge readings for the erased vault, which are dropped."""
    erasures = api.service.vault_eraser.erasures
    api.put(row())
    steps = note_steps(monkeypatch, (erasures, "announce"), (erasures, "erase"))
    assert erase(api).status_code == 200
    steps.append(("answer", time.monotonic()))
    assert [name for name, _ in steps] == ["announce", "erase", "announce", "answer"]
    for before, after in ((0, 1), (2, 3)):
        assert steps[after][1] - steps[before][1] >= change_follower.ANNOUNCED_SECONDS


def test_a_record_that_comes_back_during_the_erasure_is_removed(
    api: Api, redis: "Redis", postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process has read the record before the transaction, and caches it afterwards."""
    api.put(row())
    vault_id, lookup = only_vault(postgres)
    name, replaced = KEYS.vault_record(lookup), KEYS.replaced_vault_record(vault_id.bytes)
    record = redis.get(name)
    assert record is not None
    redis.set(replaced, record)
    erasures = api.service.vault_eraser.erasures

    def cache_afterwards(*arguments: Any) -> bool:
        erased = type(erasures).erase(erasures, *arguments)
        redis.set(name, record)
        return erased

    monkeypatch.setattr(erasures, "erase", cache_afterwards)
    redis.delete(KEYS.job_list)
    assert erase(api).status_code == 200
    assert redis.exists(name, replaced) == 0
    assert redis.lrange(KEYS.job_list, 0, -1) == [b"sweep"], "nothing deletes the segments soon"


def test_a_process_that_can_not_read_announcements_drops_what_it_erases(
    api: Api, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis may fail between the announcement and the transaction in Postgres."""

    def away() -> None:
        raise ConnectionError("away")

    api.put(row())
    drain_all(writer)
    monkeypatch.setattr(api.service.change_follower, "check", away)
    assert erase(api).status_code == 200
    assert api.read() == []


@pytest.mark.parametrize("request_of", [erase, change])
def test_a_vault_that_another_process_has_moved_is_found(
    make_api: MakeApi, request_of: Callable[[Api, str], TestResponse]
) -> None:
    """The scrypt cost was raised: the vault has another lookup, and nothing was announced."""
    api = make_api()
    api.put(row())
    assert make_api(scrypt_log2_n=11).put(row()).status_code == 201
    assert request_of(api, PASSWORD).status_code == 200
    assert make_api().read() == []


def test_without_redis_nothing_is_erased(
    make_api: MakeApi, own_redis: RedisServer, postgres: psycopg.Connection
) -> None:
    api = make_api(redis_url=own_redis.url)
    api.put(row())
    before = only_vault(postgres)
    own_redis.stop()
    assert_error(erase(api), 503, "unavailable")
    assert only_vault(postgres) == before


def test_while_version_0_1_may_run_nothing_is_erased(
    make_api: MakeApi, postgres: psycopg.Connection
) -> None:
    """Its writers do not look for the vault before they store readings."""
    postgres.execute(
        "UPDATE vault_lookups SET fast_lookups = 'created', costs = '{}', "
        "changed_at = now() - interval '1 hour'"
    )
    api = make_api()
    api.put(row())
    vault_id, lookup = only_vault(postgres)
    error = assert_error(erase(api), 503, "unavailable")
    assert "version 0.1" in error["error"]
    with pytest.raises(psycopg.errors.LockNotAvailable):
        postgres.execute("SELECT erase_vault(%s, %s)", (vault_id, [lookup]))
    assert only_vault(postgres) == (vault_id, lookup)


def test_without_postgres_the_error_does_not_blame_old_processes(
    make_api: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has never reached Postgres opens the vault with its record in Redis."""
    monkeypatch.setattr(postgres_connections, "WAIT_SECONDS", 0.2)
    make_api().put(row())
    away = make_api(postgres_url="postgresql://iot@127.0.0.1:1/none")
    error = assert_error(erase(away), 503, "unavailable")
    assert "version 0.1" not in error["error"]


def test_before_the_migration(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection
) -> None:
    """Processes of this version may start before the migration."""
    postgres.execute("DROP TABLE erased_vaults CASCADE")
    postgres.execute("DROP FUNCTION erase_vault, forget_erased_lookups")
    postgres.execute("DROP FUNCTION refuse_erased_vault CASCADE")
    api = make_api()
    api.service.vault_restorer.close()
    api.put(row(freeform=1))
    api.service.vault_eraser.erasures.clean_redis()
    assert_error(erase(api), 503, "unavailable")
    assert not writer.vault_deletion.run(writer.postgres())
    assert erasures.erased_among(writer.postgres(), {uuid.uuid4()}) == set()
    drain_all(writer)
    assert texts(make_api().read()) == ["1"]


def test_a_put_that_waits_while_an_open_vault_of_it_is_erased(
    make_api: MakeApi, writer: Writer
) -> None:
    """It stores its readings in a new vault: those for the erased vault would be dropped."""
    api, other = make_api(), make_api()
    for each in (api, other):
        each.service.change_follower.start()
    assert api.put([row("open"), row("closed")]).status_code == 201
    vaults = api.service.vaults
    vaults.cache.forget(vaults.cache.key(b"closed"))
    with ThreadPoolExecutor() as threads:
        with full_queue(api, waiting=0):
            waiting = threads.submit(
                api.put, [row("open", freeform="kept"), row("closed", freeform="kept")]
            )
            wait_until(lambda: vaults.queue.waiting == 1, what="an opening")
            assert erase(other, "open").status_code == 200
        assert waiting.result(10).status_code == 201
    drain_all(writer)
    for password in ("open", "closed"):
        assert api.read(password=password)[-1]["freeform"] == '"kept"'
    for each in (api, other):
        each.service.change_follower.stop()


def test_a_put_that_waits_for_postgres_while_an_open_vault_of_it_is_erased(
    make_api: MakeApi, writer: Writer, redis: "Redis", postgres: psycopg.Connection
) -> None:
    """The PUT reads the record of its second vault again, which takes long."""
    api = make_api(vault_cache_seconds=2)
    api.put(row(freeform="erased"))
    vault_id, lookup = only_vault(postgres)
    both = [row(freeform="kept"), row("another", freeform="kept")]
    assert api.put(both).status_code == 201
    cache, follower = api.service.vaults.cache, api.service.change_follower
    follower.check()
    (due,) = [each for each in cache.records() if each.vault_id != vault_id]
    redis.delete(KEYS.vault_record(due.lookup))
    key = cache.key(b"another")
    with ThreadPoolExecutor(1) as executor:
        with postgres.transaction():
            postgres.execute("LOCK TABLE vaults IN ACCESS EXCLUSIVE MODE")
            cached = cache.get(key)
            assert cached is not None
            cached.renew_at = 0.0
            answer = executor.submit(api.put, both)
            wait_until(lambda: postgres.execute(BLOCKED).fetchone() == (1,), what="a waiting PUT")
            postgres.execute("SELECT erase_vault(%s, %s::bytea[])", [vault_id, [lookup]])
            PasswordChanges(redis, KEYS).announce(PasswordChange(vault_id, ERASED), [lookup])
            follower.check()
        assert answer.result().status_code == 201
    drain_all(writer)
    assert texts(api.read()) == ['"kept"']
    assert texts(api.read(password="another")) == ['"kept"'] * 2
