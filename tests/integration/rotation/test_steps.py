"""`iot-sensor keys`: a key is used, and retired, only when that is safe."""

import json
import re
import uuid
from dataclasses import replace
from pathlib import Path
from typing import cast

import psycopg
import pytest
from redis import Redis

from integration.rotation.running import Running
from iot_cipher.encryption import Sealer
from iot_cipher.keyring import create_keyring_file, new_keyring_text
from iot_cipher.sealed_order import OrderKind, seal_order
from iot_cipher.vault import is_authentic
from iot_stores.cached_records import encode_record, scan_records
from iot_stores.rewrap import try_lock
from iot_stores.stream_entries import WaitingEntry
from iot_tools.cli.main import main
from support.draining import drain_all
from support.keys import KEYS, CheckedKeys
from support.samples import sample_value
from support.waiting import wait_until


def scrypts() -> float:
    return sample_value("iot_vaults_opened_total", {"how": "found"}) or 0.0


def test_a_key_is_promoted_when_every_process_has_loaded_it(running: Running) -> None:
    path = Path(running.settings.keyring_file)
    running.report()
    assert running.keys("add")[0] == 0
    assert path.stat().st_mode & 0o777 == 0o640
    assert running.keyring().primary_id == 1
    status, output = running.keys("promote", "2")
    assert status == 1
    assert re.search(r"api \S+ has not loaded master key 2", output)
    assert re.search(r"writer \S+ has not loaded master key 2", output)
    assert running.keyring().primary_id == 1
    running.wait_for("promote", "2")
    assert running.keyring().primary_id == 2
    labels = {"key": "2"}
    assert sample_value("iot_api_master_key_loaded", labels) == 1
    assert sample_value("iot_writer_master_key_loaded", labels) == 1


def test_no_key_is_promoted_while_no_process_reports(running: Running) -> None:
    running.keys("add")
    status, output = running.keys("promote", "2")
    assert status == 1
    assert "no api process reports its keys" in output
    assert "no writer process reports its keys" in output
    assert running.keys("promote", "2", "--stopped")[0] == 0


def test_another_key_under_the_same_id_is_noticed(running: Running) -> None:
    running.report()
    path = Path(running.settings.keyring_file)
    keyring, other = json.loads(path.read_text()), json.loads(new_keyring_text())
    path.write_text(json.dumps(keyring | {"keys": other["keys"]}))
    status, output = running.keys("rewrap", "--wait", "0")
    assert status == 1
    assert "has a different master key under the id 1" in output


def test_the_keyring_of_another_installation_is_refused(
    running: Running,
    redis: "Redis",
    postgres: psycopg.Connection[tuple[object, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An audit record under this keyring could never be decrypted."""
    running.put()  # the API has marked both stores
    wrong = tmp_path / "wrong.json"
    create_keyring_file(wrong)
    before = wrong.read_text()
    message = "has another pepper than the keyring that the database is marked with"
    for command in (["add"], ["rotate", "--stopped"], ["promote", "1", "--stopped"]):
        status, output = running.keys(*command, "--keyring", str(wrong))
        assert (status, message in output) == (2, True), command
    monkeypatch.setenv("IOT_KEYRING_FILE", str(wrong))
    others = ["dead drop --all", "held drop " + uuid.uuid4().hex, "audit accept", "claim-redis"]
    for command in map(str.split, others):
        assert main(command) == 2, command
        assert message in capsys.readouterr().err
    tokens = tmp_path / "tokens.json"
    create = f"tokens create --file {tokens} --name one --scope read"
    assert main(create.split()) == 0
    assert message in capsys.readouterr().err
    assert wrong.read_text() == before
    assert postgres.execute("SELECT count(*) FROM audit_log").fetchone() == (0,)

    # No command stores the mark of its keyring.
    postgres.execute("UPDATE installation SET keyring = NULL")
    redis.set(KEYS.owner_keyring, "")
    assert running.keys("status")[0] == 0
    assert postgres.execute("SELECT keyring FROM installation").fetchone() == (None,)
    assert redis.get(KEYS.owner_keyring) == b""


def test_a_keyring_that_is_older_than_the_data_is_refused(running: Running) -> None:
    """It would make another key under an id that data uses, and no keyring would open all data."""
    running.put()
    path = Path(running.settings.keyring_file)
    saved = path.read_text()
    running.keys("add")
    running.wait_for("promote", "2")
    running.wait_for("rewrap", "--wait", "0")
    newest = path.read_text()
    path.write_text(saved)
    for command in (["add"], ["rotate", "--stopped"]):
        status, output = running.keys(*command)
        assert (status, "its newest master key is 1" in output) == (1, True), command
        assert "1 vault records in Postgres need master key 2" in output
        assert path.read_text() == saved
    path.write_text(newest)
    assert running.keys("add")[0] == 0
    assert running.keyring().key_ids == (1, 2, 3)


def test_a_rewrap_opens_no_vault_again(
    running: Running, redis: "Redis", postgres: psycopg.Connection[tuple[object, ...]]
) -> None:
    running.put()
    redis.set(b"iot:vault:\xff", "planted")
    running.keys("add")
    running.wait_for("promote", "2")
    before = scrypts()
    running.wait_for("rewrap", "--wait", "0")
    cache = running.service.vaults.cache
    wait_until(
        lambda: {each.master_key_id for each in cache.records()} == {2},
        what="the rewrapped record in the cache",
    )
    for cached in cache._vaults.values():  # noqa: SLF001 - as if five minutes had passed
        cached.renew_at = 0.0
    running.put()
    drain_all(running.writer)
    assert running.read() == ["1", "1"]
    assert scrypts() == before
    (row,) = postgres.execute("SELECT substring(wrapped_key FROM 2 FOR 4) FROM vaults").fetchall()
    assert row == (b"\0\0\0\2",)
    (record,) = scan_records(redis, KEYS)
    assert record.master_key_id == 2


def test_a_renewal_takes_a_rewrapped_record(running: Running) -> None:
    """The renewal comes before the process has compared its records with Postgres."""
    running.put()
    running.keys("add")
    running.wait_for("promote", "2")
    before = scrypts()
    stale = running.service.vaults.cache.records()
    running.wait_for("rewrap", "--wait", "0")
    for cached in running.service.vaults.cache._vaults.values():  # noqa: SLF001
        cached.record, cached.renew_at = stale[0], 0.0
    running.put()
    assert scrypts() == before
    (renewed,) = running.service.vaults.cache.records()
    assert renewed.master_key_id == 2


def test_a_key_is_kept_while_something_needs_it(running: Running, redis: "Redis") -> None:
    running.put()
    keyring = running.keyring()
    sealed = Sealer(CheckedKeys(lambda: keyring)).seal(0, b"content")
    running.service.stores.dead_letters.add(0, WaitingEntry(b"1-1", sealed, 0, 0), "a reason")
    held = uuid.uuid4()
    redis.hset(KEYS.held_vaults, held.hex, 1)
    redis.xadd(KEYS.held_entries(held.bytes), {"e": sealed})
    redis.rpush(KEYS.compaction_orders, seal_order(keyring, b"order"))
    letter_order = seal_order(keyring, b"order", OrderKind.DEAD_LETTER)
    redis.hset(KEYS.dead_letter_orders, "1-1", letter_order)
    running.writer.audit.record(running.writer.postgres(), "a line")
    running.keys("add")
    running.wait_for("promote", "2")
    retire = ("retire", "1", "--settle", "0")
    assert running.keys(*retire)[0] == 1
    running.service.vaults.cache._vaults.clear()  # noqa: SLF001 - as if the vaults had expired

    def reasons() -> set[str]:
        running.report()
        status, output = running.keys(*retire)
        assert status == 1
        return set(re.findall(r"  (\d+ [a-zA-Z ]+) need master key 1", output))

    everything = {
        "1 vault records in Postgres",
        "1 vault records in Redis",
        "1 queued entries",
        "1 held entries",
        "1 compaction orders",
        "1 dead letters",
        "1 dead letter orders",
    }
    found = wait_until(reasons, what="reasons")
    assert everything < found
    assert any(each.endswith("audit records") for each in found - everything)
    assert set(running.keyring().key_ids) == {1, 2}
    drain_all(running.writer)
    running.wait_for("rewrap", "--wait", "0")
    wait_until(lambda: reasons() == everything - {
        "1 vault records in Postgres", "1 vault records in Redis", "1 queued entries"
    }, what="the rest")  # fmt: skip
    running.writer.letter_orders.run(running.writer.postgres)
    redis.delete(KEYS.dead_letters, KEYS.held_vaults, KEYS.compaction_orders)
    running.wait_for(*retire)
    assert running.keyring().key_ids == (2,)
    assert running.read() == ["1"]


def test_the_key_is_kept_until_requests_under_it_have_ended(running: Running) -> None:
    running.report()
    running.keys("add")
    running.wait_for("promote", "2")
    running.wait_for("rewrap", "--wait", "0")
    status, output = running.keys("retire", "1")
    assert status == 1
    assert re.search(r"api \S+ changed its primary key a moment ago", output)
    assert re.search(r"may use the old one for \d+ s more", output)
    assert "waiting: " not in output, "it did not wait"


def test_a_promotion_of_the_primary_key_changes_nothing(
    running: Running, postgres: psycopg.Connection[tuple[object, ...]]
) -> None:
    status, output = running.keys("promote", "1")
    assert (status, "is primary already; nothing changed" in output) == (0, True)
    assert postgres.execute("SELECT count(*) FROM audit_log").fetchone() == (0,)


def test_a_waiting_command_says_what_it_waits_for(running: Running) -> None:
    running.keys("add")
    status, output = running.keys("promote", "2", "--wait", "1")
    assert status == 1
    assert "waiting: no api process reports its keys" in output


def test_a_change_names_the_command_that_derives_the_keys_of_writers(running: Running) -> None:
    _, output = running.keys("add")
    path = running.settings.keyring_file
    assert f"`iot-sensor keys writer --keyring {path} --file FILE`" in output


def test_a_vault_that_postgres_lost_is_rewrapped_in_redis(
    running: Running, redis: "Redis", postgres: psycopg.Connection[tuple[object, ...]]
) -> None:
    running.put()
    (lost,) = running.service.vaults.cache.records()
    redis.rename(KEYS.vault_record(lost.lookup), KEYS.replaced_vault_record(lost.vault_id.bytes))
    redis.persist(KEYS.replaced_vault_record(lost.vault_id.bytes))
    running.service.vaults.cache._vaults.clear()  # noqa: SLF001 - no process restores it
    postgres.execute("DELETE FROM vaults")
    running.keys("add")
    running.wait_for("promote", "2")
    running.wait_for("rewrap", "--wait", "0")
    (record,) = scan_records(redis, KEYS)
    assert record.vault_id == lost.vault_id
    assert record.master_key_id == 2
    assert is_authentic(running.keyring(), record)
    assert redis.ttl(KEYS.replaced_vault_record(lost.vault_id.bytes)) == -1


@pytest.mark.parametrize("postgres_has_the_vault", [False, True])
def test_a_record_that_no_key_opens_stays_if_it_is_the_only_copy(
    running: Running,
    redis: "Redis",
    postgres: psycopg.Connection[tuple[object, ...]],
    *,
    postgres_has_the_vault: bool,
) -> None:
    """The keyring may lack a key by mistake."""
    running.put()
    (record,) = running.service.vaults.cache.records()
    wrapped = record.wrapped_key
    other = replace(record, wrapped_key=wrapped[:1] + b"\0\0\0\x09" + wrapped[5:])
    redis.set(KEYS.vault_record(record.lookup), encode_record(other))
    running.service.vaults.cache._vaults.clear()  # noqa: SLF001 - no process restores it
    if not postgres_has_the_vault:
        postgres.execute("DELETE FROM vaults")
    running.keys("add")
    running.wait_for("promote", "2")
    running.wait_for("rewrap", "--wait", "0")
    found = [each.master_key_id for each in scan_records(redis, KEYS)]
    assert found == ([2] if postgres_has_the_vault else [9])


def test_the_record_of_an_erased_vault_is_removed_from_redis(
    running: Running, redis: "Redis", postgres: psycopg.Connection[tuple[object, ...]]
) -> None:
    """An old copy of Redis has brought the record back. The new key must not open the record."""
    running.put()
    (erased,) = running.service.vaults.cache.records()
    redis.rename(
        KEYS.vault_record(erased.lookup), KEYS.replaced_vault_record(erased.vault_id.bytes)
    )
    redis.persist(KEYS.replaced_vault_record(erased.vault_id.bytes))
    running.service.vaults.cache._vaults.clear()  # noqa: SLF001 - no process has it open
    postgres.execute("INSERT INTO erased_vaults (vault_id) SELECT vault_id FROM vaults")
    postgres.execute("DELETE FROM vaults")
    running.keys("add")
    running.wait_for("promote", "2")
    running.wait_for("rewrap", "--wait", "0")
    assert list(scan_records(redis, KEYS)) == []


def test_never_two_at_once(
    running: Running, postgres: psycopg.Connection[tuple[object, ...]]
) -> None:
    assert try_lock(postgres)
    for command in (["add"], ["promote", "1"], ["rewrap"], ["retire", "1"], ["rotate"]):
        status, output = running.keys(*command)
        assert status == 1
        assert "another `iot-sensor keys` command runs" in output
    assert running.keyring().key_ids == (1,)


def test_status_names_keys_uses_and_processes(running: Running, redis: "Redis") -> None:
    running.put()
    running.report()
    redis.xadd(KEYS.stream(3), {"foo": "bar"})
    redis.xadd(KEYS.stream(3), {"e": b"\1\0\0\0\7"})
    status, output = running.keys("status")
    assert status == 0
    assert re.search(r"^master key 1  [0-9a-f]{16}  primary", output, re.MULTILINE)
    assert "vault records in Postgres: 1 need master key 1" in output
    assert re.findall(r"^queued entries: .*", output, re.MULTILINE) == [
        "queued entries: 1 need master key 1",
        "queued entries: 2 can't be opened by any key of the keyring",
    ]
    assert re.search(
        r"^api \S+: keys 1, primary 1, 1 open vaults under key 1$", output, re.MULTILINE
    )
    assert re.search(r"^writer \S+: keys 1, primary 1$", output, re.MULTILINE)
    assert running.keys("list")[1] == output.splitlines()[0] + "\n"


def test_names_of_processes_in_redis_do_not_control_the_terminal(
    running: Running, redis: "Redis"
) -> None:
    running.report()
    (name,) = redis.scan_iter(KEYS.loaded_keys("api:*"))
    report = json.loads(cast("bytes", redis.get(name)))
    redis.set(KEYS.loaded_keys("planted"), json.dumps({**report, "process": "\x1b]0;planted\x07"}))
    status, output = running.keys("status")
    assert status == 0
    assert "?]0;planted?: keys 1" in output
    assert "\x1b" not in output


@pytest.mark.parametrize("planted", ["no report", "{}", "[]"])
def test_a_planted_report_is_named(running: Running, redis: "Redis", planted: str) -> None:
    redis.set(KEYS.loaded_keys("planted"), planted)
    status, output = running.keys("status")
    assert status == 1
    assert f"the value of the Redis key {KEYS.loaded_keys('planted')} is not a report" in output


def test_planted_writers_are_named(running: Running, redis: "Redis") -> None:
    """Unless it is certain that a writer is gone, a rotation must wait for it."""
    running.report()
    beats = {b"rq:worker:\xff": b"\xff", b"rq:worker:b": b"no time", b"rq:worker:c": b"2020-01-01"}
    beats[b"rq:worker:gone"] = b"2020-01-01T00:00:00.000000Z"
    for name, beat in beats.items():
        fields = {b"hostname": name, b"pid": b"\xff", b"last_heartbeat": beat}
        redis.hset(name, mapping=fields)  # type: ignore[arg-type]
    redis.set("rq:worker:text", "planted")
    redis.sadd("rq:workers", *beats, b"rq:worker:text", b"rq:worker:missing")
    status, output = running.keys("status")
    assert status == 0
    silent = re.findall(r"^writer rq:worker:(\S+): does not report its keys$", output, re.MULTILINE)
    assert silent == ["b:\ufffd", "c:\ufffd", "text", "\ufffd:\ufffd"]
