"""A changed password: the new one opens everything, the old one nothing, in every process."""

import json
import threading
from typing import Any

import psycopg
import pytest
from redis import Redis
from werkzeug.test import TestResponse

from integration.api.asking import JSON, Api, assert_error, row, sample
from integration.api.conftest import MakeApi
from integration.api.test_password_forms import COMPOSED, DECOMPOSED, put_as_before, texts
from integration.api.test_vault_lookups import renew_at_next_use
from iot_cipher.vault import VaultRecord, rewrap_vault
from iot_stores.password_changes import MAX_ANNOUNCED, PasswordChange, PasswordChanges
from iot_stores.vault_records import VaultRecords
from iot_tools.local.redis_server import RedisServer
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.waiting import wait_until

OLD, NEW = "old password", "new password"
ROWS = "SELECT vault_id, lookup, salt, scrypt_log2_n, wrapped_key, created_at FROM vaults"


def change(api: Api, old: object = OLD, new: object = NEW) -> TestResponse:
    """Send a change of a password."""
    body = json.dumps({"data": {"db_password": old, "new_password": new}})
    return api.ask("POST", "/api/vault/password", body, JSON)


def records_of(api: Api) -> VaultRecords:
    return api.service.vault_restorer.records


def stored_row(postgres: psycopg.Connection) -> tuple[Any, ...]:
    """Return the row of the only vault."""
    (found,) = postgres.execute(ROWS).fetchall()
    return found


def test_the_new_password_opens_everything_and_the_old_one_nothing(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection
) -> None:
    api, other = make_api(), make_api()
    other.service.change_follower.start()
    api.put([row(OLD, freeform=1), row(OLD, freeform=2)])
    drain_all(writer)
    assert texts(other.read(password=OLD)) == ["1", "2"]
    before, segments = stored_row(postgres), postgres.execute("SELECT * FROM segments").fetchall()
    answer = change(api)
    assert (answer.status_code, answer.get_json()) == (200, {"changed": True})
    for process in (other, api, make_api()):
        assert process.read(password=OLD) == []
        assert texts(process.read(password=NEW)) == ["1", "2"]
        assert texts(process.read("/last/1", NEW)) == ["2"]
    after = stored_row(postgres)
    assert (before[0], before[5]) == (after[0], after[5])
    assert all(one != two for one, two in zip(before[1:3], after[1:3], strict=True))
    assert before[4] != after[4]
    assert postgres.execute("SELECT * FROM segments").fetchall() == segments


def test_readings_in_flight_are_stored(make_api: MakeApi, writer: Writer) -> None:
    api = make_api()
    api.put(row(OLD, freeform="in flight"))
    assert change(api).status_code == 200
    drain_all(writer)
    assert texts(api.read(password=NEW)) == ['"in flight"']


def test_a_put_under_the_old_password_begins_a_new_vault(
    make_api: MakeApi, writer: Writer, redis: "Redis"
) -> None:
    api, other = make_api(), make_api()
    other.service.change_follower.start()
    for process in (api, other):
        process.put(row(OLD, freeform="first"))
    (old_record,) = records_of(api).scan_cached()
    assert change(api).status_code == 200
    for process in (other, api):
        assert process.put(row(OLD, freeform="second")).status_code == 201
    drain_all(writer)
    for process in (api, other, make_api()):
        assert texts(process.read(password=OLD)) == ['"second"'] * 2
        assert texts(process.read(password=NEW)) == ['"first"'] * 2
    # A process that has missed the change finds out when it compares the vault.
    assert records_of(other).restore(old_record).lookup != old_record.lookup
    # Redis has both records: they open the vaults while Postgres is away.
    assert len(list(records_of(make_api()).scan_cached())) == 2
    assert_error(change(api, NEW, OLD), 409, "conflict")
    assert redis.xlen(KEYS.password_changes) == 2


def test_an_old_record_in_redis_opens_nothing(
    make_api: MakeApi, writer: Writer, redis: "Redis", postgres: psycopg.Connection
) -> None:
    """A process that read Postgres before the change may store the record afterwards."""
    api = make_api()
    api.put(row(OLD, freeform=1))
    drain_all(writer)
    lookup = stored_row(postgres)[1]
    name, mark = KEYS.vault_record(lookup), KEYS.changed_lookup(lookup)
    planted = redis.get(name)
    assert isinstance(planted, bytes)
    assert change(api).status_code == 200
    wait_until(lambda: not redis.exists(name), what="the end of the old record")
    assert redis.exists(KEYS.vault_record(stored_row(postgres)[1]))
    assert 86_400 < redis.ttl(mark) <= 90_000  # longer than a record that is stored now
    redis.set(name, planted, ex=86_400)
    fresh = make_api()
    assert records_of(fresh).find_cached([lookup]) is None
    assert [each.lookup for each in records_of(fresh).scan_cached()] == [stored_row(postgres)[1]]
    assert fresh.read(password=OLD) == []
    # Redis may lose the mark in a failover; Postgres tells then.
    redis.delete(mark)
    redis.set(name, planted, ex=86_400)
    fresh = make_api()
    assert fresh.read(password=OLD) == []
    assert redis.exists(mark)
    assert texts(fresh.read(password=NEW)) == ["1"]
    assert fresh.put(row(OLD, freeform="new vault")).status_code == 201
    drain_all(writer)
    assert texts(make_api().read(password=OLD)) == ['"new vault"']
    assert texts(make_api().read(password=NEW)) == ["1"]


def test_a_lost_vault_is_restored_under_the_new_password_only(
    make_api: MakeApi, writer: Writer, redis: "Redis", postgres: psycopg.Connection
) -> None:
    api, other = make_api(), make_api()
    for process in (api, other):
        process.put(row(OLD, freeform=1))
    drain_all(writer)
    old_lookup = stored_row(postgres)[1]
    planted = redis.get(KEYS.vault_record(old_lookup))
    assert isinstance(planted, bytes)
    other.service.vault_restorer.watch(other.service.vaults.cache.records()[0])
    assert change(api).status_code == 200
    other.service.change_follower.check()
    new_lookup = stored_row(postgres)[1]
    postgres.execute("DELETE FROM vaults")
    redis.set(KEYS.vault_record(old_lookup), planted, ex=86_400)
    api.put(row(NEW, freeform=2))
    drain_all(writer)  # holds the entry, as no vault has its id
    for process in (other, make_api()):
        restorer = process.service.vault_restorer
        restorer.check()
        restorer.close()
    assert stored_row(postgres)[1] == new_lookup


def test_a_process_that_missed_announcements_compares_its_vaults(
    make_api: MakeApi, writer: Writer, redis: "Redis"
) -> None:
    api, other = make_api(), make_api()
    for process in (api, other):
        process.put([row(OLD, freeform=1), row("another", freeform=2)])
    drain_all(writer)
    assert change(api, "another", "third").status_code == 200
    follower = other.service.change_follower
    follower.check()
    assert change(api).status_code == 200
    redis.delete(KEYS.password_changes)  # as a failover to a replica that lagged behind
    assert texts(other.read(password=OLD)) == ["1", "1"]
    follower.check()
    wait_until(lambda: other.read(password=OLD) == [], what="the end of the old password")
    assert texts(other.read(password=NEW)) == ["1", "1"]


def test_announcements_do_not_accumulate(make_api: MakeApi, redis: "Redis") -> None:
    api = make_api()
    for number in range(MAX_ANNOUNCED + 50):
        redis.xadd(KEYS.password_changes, {b"foreign": b"%d" % number})
    api.put(row(OLD))
    api.service.change_follower.check()  # ignores entries that it can't decode
    assert change(api).status_code == 200
    assert redis.xlen(KEYS.password_changes) == MAX_ANNOUNCED


def test_a_password_is_changed_back(make_api: MakeApi, writer: Writer) -> None:
    api, other = make_api(), make_api()
    other.service.change_follower.start()
    for process in (api, other):
        process.put(row(OLD, freeform=1))
    drain_all(writer)
    assert change(api).status_code == 200
    assert change(other, NEW, OLD).status_code == 200
    for process in (api, other, make_api()):
        assert texts(process.read(password=OLD)) == ["1", "1"]
        assert records_of(process).find_cached(
            [each.lookup for each in process.service.vaults.cache.records()]
        )
    fresh = make_api()
    fresh.service.change_follower.check()
    assert fresh.read(password=NEW) == []


@pytest.mark.parametrize("sent", [OLD, COMPOSED, DECOMPOSED])
def test_forms_of_passwords(make_api: MakeApi, writer: Writer, sent: str) -> None:
    """A vault of an earlier version is found by its bytes. The new password is normalized."""
    put_as_before(make_api, sent, 1)
    drain_all(writer)
    assert change(make_api(), sent, "d\u0065\u0301\u00a0x").status_code == 200
    fresh = make_api()
    for form in ("d\u00e9 x", "d\u0065\u0301\u00a0x"):
        assert texts(fresh.read(password=form)) == ["1"]
    assert fresh.read(password=sent) == []


def test_a_vault_under_a_new_password_moves_to_a_lookup_of_the_normal_form(
    make_api: MakeApi, writer: Writer
) -> None:
    """The process that changed the password renews the vault after the cost was raised."""
    api = make_api()
    api.put(row(OLD, freeform=1))
    drain_all(writer)
    assert change(api, OLD, DECOMPOSED).status_code == 200
    newest = make_api(scrypt_log2_n=11)
    assert newest.read(password="unknown") == []
    renew_at_next_use(api)
    assert api.read(password="unknown") == []
    for form in (DECOMPOSED, COMPOSED):
        for process in (api, newest, make_api(scrypt_log2_n=11)):
            assert texts(process.read(password=form)) == ["1"]


def test_a_vault_of_a_lower_cost(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection
) -> None:
    old = make_api()
    old.put(row(OLD, freeform=1))
    drain_all(writer)
    new = make_api(scrypt_log2_n=11)
    assert new.read(password="unknown") == []
    assert change(old).status_code == 200  # knows only the lower cost until now
    assert stored_row(postgres)[3] == 11
    for process in (old, new, make_api()):
        process.service.change_follower.check()
        assert texts(process.read(password=NEW)) == ["1"]
        assert process.read(password=OLD) == []


def test_a_wrong_old_password_is_a_guess(make_api: MakeApi, postgres: psycopg.Connection) -> None:
    api = make_api(guess_limit=3)
    api.put(row(OLD))
    before, counted = stored_row(postgres), sample("iot_unknown_passwords_total")
    for number in range(2):
        error = assert_error(change(api, f"wrong {number}"), 404, "not_found")
        assert error["field"] == "db_password"
    assert sample("iot_unknown_passwords_total") == counted + 2
    for old in ("wrong again", OLD):
        assert_error(change(api, old), 429, "too_many_requests")
    assert stored_row(postgres) == before


def test_a_new_password_is_a_guess(make_api: MakeApi) -> None:
    """Otherwise, the owner of one vault could test passwords without a limit."""
    api = make_api()
    api.put(row(OLD))
    counted = sample("iot_unknown_passwords_total")
    assert change(api).status_code == 200
    assert sample("iot_unknown_passwords_total") == counted + 1


def test_a_new_password_is_a_guess_even_if_the_change_fails(
    make_api: MakeApi, postgres: psycopg.Connection
) -> None:
    """The answer is not 409, so the client knows that no vault has the password."""
    make_api().put(row(OLD))
    api = make_api(guess_limit=3)
    postgres.execute("ALTER FUNCTION record_audit_event RENAME TO hidden")
    for number in range(2):
        assert_error(change(api, new=f"guess {number}"), 503, "unavailable")
    assert_error(change(api, new="another guess"), 429, "too_many_requests")
    postgres.execute("ALTER FUNCTION hidden RENAME TO record_audit_event")


def test_a_change_that_is_tried_again_is_one_guess(
    make_api: MakeApi, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key rotation replaces the record between the announcement and the change."""
    api = make_api()
    api.put(row(OLD))
    counted = sample("iot_unknown_passwords_total")
    changer = api.service.password_changer
    announce, announced = changer._changes.announce, []  # noqa: SLF001 - the step to act at

    def rotate(*arguments: Any) -> None:
        announce(*arguments)
        announced.append(arguments)
        if len(announced) == 1:
            record = VaultRecord(*stored_row(postgres)[:5])
            renewed = rewrap_vault(changer._keyring(), record).wrapped_key  # noqa: SLF001
            postgres.execute("UPDATE vaults SET wrapped_key = %s", (renewed,))

    monkeypatch.setattr(changer._changes, "announce", rotate)  # noqa: SLF001
    assert change(api).status_code == 200
    assert len(announced) == 3, "twice before the change, once after it"
    assert sample("iot_unknown_passwords_total") == counted + 1


def test_the_password_of_another_vault_is_refused(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection
) -> None:
    put_as_before(make_api, DECOMPOSED, 1)  # also as the bytes of an earlier version
    api = make_api()
    api.put([row(OLD, freeform=2), row(NEW, freeform=3)])
    drain_all(writer)
    before = postgres.execute(f"{ROWS} ORDER BY 1").fetchall()
    for new in (NEW, DECOMPOSED):
        error = assert_error(change(api, OLD, new), 409, "conflict")
        assert error == {
            "error": "new_password: another vault has this password; choose another one",
            "code": "conflict",
            "field": "new_password",
        }
    assert postgres.execute(f"{ROWS} ORDER BY 1").fetchall() == before
    assert texts(api.read(password=OLD)) == ["2"]


@pytest.mark.parametrize(("old", "new"), [(OLD, OLD), (COMPOSED, DECOMPOSED), ("", "")])
def test_the_same_password_is_refused(api: Api, old: str, new: str) -> None:
    api.put(row(old))
    error = assert_error(change(api, old, new), 400, "invalid_request")
    assert error["field"] == "new_password"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{}", "data"),
        ('{"data": {}}', "data"),
        ('{"data": {"db_password": "p"}}', "data"),
        ('{"data": {"new_password": "p"}}', "data"),
        ('{"data": {"db_password": "p", "new_password": 5}}', "data"),
        ("[]", "data"),
        ("not JSON", "data"),
        ('{"data": {"db_password": "p", "new_password": "\\ud800"}}', "new_password"),
        (json.dumps(row("p", new_password="x" * 70_000)), "new_password"),
    ],
    ids=range(9),
)
def test_invalid_bodies(module_api: Api, body: str, field: str) -> None:
    answer = module_api.ask("POST", "/api/vault/password", body, JSON)
    error = assert_error(answer, 400, "invalid_request")
    assert error["field"] == field
    assert "xxx" not in error["error"]


def test_two_changes_at_once(make_api: MakeApi, writer: Writer) -> None:
    apis = [make_api() for _ in range(4)]
    for api in apis:
        api.service.change_follower.start()
        api.put(row(OLD, freeform=1))
    drain_all(writer)
    together = threading.Barrier(len(apis))
    statuses: dict[str, int] = {}

    def send(number: int) -> None:
        together.wait(10)
        statuses[f"new {number}"] = change(apis[number], OLD, f"new {number}").status_code

    threads = [threading.Thread(target=send, args=(number,)) for number in range(len(apis))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses.values()) == [200, 404, 404, 404]
    for password, status in statuses.items():
        for process in (*apis, make_api()):
            assert len(process.read(password=password)) == (4 if status == 200 else 0)
            assert process.read(password=OLD) == []


def test_without_redis_no_password_is_changed(
    make_api: MakeApi, own_redis: RedisServer, postgres: psycopg.Connection
) -> None:
    api = make_api(redis_url=own_redis.url)
    api.put(row(OLD))
    before = stored_row(postgres)
    own_redis.stop()
    assert_error(change(api), 503, "unavailable")
    assert stored_row(postgres) == before


@pytest.mark.parametrize("follows", [False, True])
def test_a_change_that_was_only_announced(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection, redis: "Redis", follows: bool
) -> None:
    """As a process leaves it that is killed before the change in Postgres."""
    api = make_api()
    api.put(row(OLD, freeform=1))
    drain_all(writer)
    vault_id, lookup = stored_row(postgres)[:2]
    PasswordChanges(redis, KEYS).announce(PasswordChange(vault_id, bytes(32)), [lookup])
    for process in (api, make_api()):
        if follows:
            process.service.change_follower.check()
        for _ in range(2):
            assert texts(process.read(password=OLD)) == ["1"]
        assert process.put(row(OLD, freeform=2)).status_code == 201
    assert change(api).status_code == 200
    drain_all(writer)
    assert texts(make_api().read(password=NEW)) == ["1", "2", "2"]
    assert make_api().read(password=OLD) == []


def test_the_thread_that_restores_vaults_survives_a_defect(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = api.service.vault_restorer
    checks = []

    def check() -> None:
        checks.append(threading.current_thread())
        raise ValueError("a defect")

    monkeypatch.setattr("iot_api.vaults.restorer.PAUSE_SECONDS", 0)
    monkeypatch.setattr("iot_api.vaults.restorer.IDLE_SECONDS", 0.01)
    monkeypatch.setattr(restorer, "check", check)
    restorer.start()
    wait_until(lambda: len(checks) > 2, what="further checks")
    assert len(set(checks)) == 1
    restorer.close()
