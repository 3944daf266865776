"""Entries of a vault that Postgres lacks are held: no reading is stored without its vault or
lost.
"""

import random
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from psycopg_pool import PoolClosed
from redis import Redis
from redis.exceptions import ResponseError

from integration.writer.sending import Sender
from iot_cipher.encryption import SealedSegment, entry_name
from iot_models.errors import UnavailableError
from iot_models.settings import Settings
from iot_stores import history
from iot_stores.backlog import Backlog
from iot_stores.postgres import Connection
from iot_stores.stream_entries import HeldEntry, Removal
from iot_writer.drain.drain import DrainOutcome
from iot_writer.maintenance import sweep
from iot_writer.writer import Writer
from support.counting import redis_commands
from support.draining import drain_all, read_waiting
from support.keys import KEYS
from support.stack import Stack
from support.waiting import wait_until

SHARDS = range(8)
LOST, KEPT = b"lost", b"kept"


@pytest.fixture(autouse=True)
def _no_restorer(sender: Sender) -> None:
    """Stop the vault restorer, so that only the test restores a vault."""
    sender.service.vault_restorer.close()


def lose(writer: Writer, vault_id: uuid.UUID) -> None:
    """Delete the row of a vault, like a restore of an older backup; `bring_back` undoes this."""
    postgres = writer.postgres()
    postgres.execute("CREATE TABLE IF NOT EXISTS lost AS SELECT * FROM vaults WITH NO DATA")
    postgres.execute("INSERT INTO lost SELECT * FROM vaults WHERE vault_id = %s", (vault_id,))
    postgres.execute("DELETE FROM vaults WHERE vault_id = %s", (vault_id,))


def bring_back(writer: Writer) -> None:
    """Restore the deleted rows."""
    writer.postgres().execute("INSERT INTO vaults SELECT * FROM lost")
    writer.postgres().execute("DELETE FROM lost")


def release(writer: Writer) -> None:
    """Release held entries as the sweep does, then drain."""
    sweep.release_held(writer.held, writer.postgres)
    drain_all(writer)


def orphans(writer: Writer) -> int:
    """Return the number of segments whose vault is missing in Postgres."""
    found = writer.postgres().execute(
        "SELECT count(*) FROM segments WHERE vault_id NOT IN (SELECT vault_id FROM vaults)"
    )
    row = found.fetchone()
    assert row is not None
    return int(str(row[0]))


def same_shard(sender: Sender) -> bytes:
    """A password whose vault is in the shard of LOST."""
    names = (b"%s %d" % (KEPT, number) for number in range(1000))
    return next(name for name in names if sender.shard(name) == sender.shard(LOST))


def test_a_missing_vault_delays_no_other_vault(writer: Writer, sender: Sender) -> None:
    neighbour = same_shard(sender)
    for password in (LOST, neighbour):
        sender.send(password)
    drain_all(writer)
    lost = sender.vault(LOST).vault_id
    lose(writer, lost)
    writer.postgres().execute("DELETE FROM segments WHERE vault_id = %s", (lost,))
    for number in range(5):
        for password in (LOST, neighbour):
            sender.send(password, 2)
        if number % 2:
            drain_all(writer)
    drain_all(writer)
    assert orphans(writer) == 0
    assert sender.waiting() == 0
    assert sender.texts(neighbour) == [str(number) for number in range(11)]
    assert writer.held.vaults() == {lost: 5}
    release(writer)
    assert writer.held.vaults() == {lost: 5}, "entries were released without the row of their vault"
    bring_back(writer)
    release(writer)
    assert writer.held.vaults() == {}
    assert sender.texts(LOST) == [str(number) for number in range(1, 11)]
    assert sender.backlog.state().bytes == sender.backlog.state().held == 0


def test_held_readings_keep_their_time_of_receipt(writer: Writer, sender: Sender) -> None:
    sender.vault(LOST)
    lose(writer, sender.vault(LOST).vault_id)
    sender.send(LOST)
    acknowledged = int(time.time() * 1000)
    drain_all(writer)
    wait_until(lambda: time.time() * 1000 > acknowledged + 100, what="a later time")
    bring_back(writer)
    sender.send(LOST)
    release(writer)
    found = writer.postgres().execute("SELECT received_min, received_max FROM segments").fetchall()
    ((first, second),) = [(int(str(low)), int(str(high))) for low, high in found]
    assert first <= acknowledged < second
    sender.check_all()


def test_a_wait_for_held_readings_ends_when_they_are_stored(writer: Writer, sender: Sender) -> None:
    """The wait continues between release and drain, because the client was answered 202 then."""

    def checks() -> int:
        stats = sender.redis.info("commandstats").get("cmdstat_hmget", {"calls": 0})
        return int(stats["calls"])

    lose(writer, sender.vault(LOST).vault_id)
    shard, sealed = sender.seal(LOST, [0])
    ends = sender.backlog.append([(shard, sealed)]).ends
    drain_all(writer)
    sender.redis.config_resetstat()
    with ThreadPoolExecutor() as threads:
        names = [entry_name(shard, sealed)]
        stored = threads.submit(sender.service.receipts.wait, names, ends, 30)
        wait_until(lambda: checks() > 1, what="checks while the entry is held")
        bring_back(writer)
        sweep.release_held(writer.held, writer.postgres)
        seen = checks()
        wait_until(lambda: stored.done() or checks() > seen + 1, what="checks after the release")
        assert not stored.done()
        drain_all(writer)
        assert stored.result(30)


def test_held_entries_count_as_backlog(writer: Writer, sender: Sender) -> None:
    sender.vault(LOST)
    lose(writer, sender.vault(LOST).vault_id)
    sender.send(LOST, 10)
    waiting = sender.backlog.state().bytes
    drain_all(writer)
    assert sender.backlog.state().bytes == waiting > 0
    small = Backlog(sender.redis, KEYS, shards=8, max_bytes=waiting + 10)
    with pytest.raises(UnavailableError, match="full"):
        small.append([sender.seal(KEPT, [0])])
    lost = sender.vault(LOST).vault_id
    assert writer.held.drop(lost) == 1
    assert sender.backlog.state().bytes == sender.backlog.state().held == 0
    assert writer.held.vaults() == {}


def test_a_late_writer_holds_no_entry_again(writer: Writer, sender: Sender) -> None:
    """Two writers read the same entries; one sees them held, released and stored first."""
    vault = sender.vault(LOST)
    lose(writer, vault.vault_id)
    sender.send(LOST)
    shard = sender.shard(LOST)
    (entry,) = read_waiting(sender.backlog, shard, max_bytes=1)
    hold = HeldEntry(entry, vault.vault_id.bytes)
    late = Removal(shard, entry, entry.entry_id.decode(), 1, [hold])
    drain_all(writer)
    assert sender.backlog.remove([late]) == [False]
    assert writer.held.vaults() == {vault.vault_id: 1}
    bring_back(writer)
    release(writer)
    sender.backlog.remove([late])
    assert writer.held.vaults() == {}
    sender.check_all()


@pytest.mark.parametrize("denied", ["resetkeys ~iot:backlog ~iot:ingest:* ~iot:held", "-hincrby"])
def test_entries_that_may_not_be_held_are_not_lost(
    writer: Writer, sender: Sender, redis: "Redis", denied: str
) -> None:
    """The Redis user of the writers has the rights of an older file, for example."""
    lose(writer, sender.vault(LOST).vault_id)
    sender.send(LOST)
    sender.send(LOST)
    shard, vault_id = sender.shard(LOST), sender.vault(LOST).vault_id.bytes
    entries = read_waiting(sender.backlog, shard, max_bytes=1 << 20)
    held = [HeldEntry(each, vault_id) for each in entries]
    removal = Removal(shard, entries[-1], entries[-1].entry_id.decode(), 1, held)
    change = ["ACL", "SETUSER", "older", "on", ">p", "~*", "+@all", *denied.split()]
    redis.execute_command(*change)  # type: ignore[no-untyped-call]
    try:
        port = redis.get_connection_kwargs()["port"]
        with Redis(port=port, username="older", password="p") as client:
            backlog = Backlog(client, KEYS, shards=8, max_bytes=1 << 20)
            with pytest.raises(ResponseError):
                backlog.remove([removal])
    finally:
        redis.acl_deluser("older")
    streams = [KEYS.stream(shard), KEYS.held_entries(vault_id)]
    assert sum([redis.xlen(each) for each in streams]) == 2


def test_an_entry_held_twice_is_stored_once(writer: Writer, sender: Sender) -> None:
    """A failover of Redis brings back entries that were released and stored."""
    vault = sender.vault(LOST)
    lose(writer, vault.vault_id)
    entry = sender.seal(LOST, [0])
    for _ in range(2):
        sender.backlog.append([entry])
        drain_all(writer)
    assert writer.held.vaults() == {vault.vault_id: 2}
    bring_back(writer)
    release(writer)
    sender.backlog.append([entry])
    drain_all(writer)
    assert sender.texts(LOST) == ["0"]


def test_a_stored_entry_is_not_held(writer: Writer, sender: Sender) -> None:
    """The vault's row is deleted after the commit, so the ledger has the entries."""
    entry = sender.seal(LOST, [0])
    sender.backlog.append([entry])
    drain_all(writer)
    lose(writer, sender.vault(LOST).vault_id)
    sender.backlog.append([entry])
    outcomes = writer.drain.run(writer.postgres(), [sender.shard(LOST)]).outcomes
    assert outcomes == {sender.shard(LOST): DrainOutcome.REPEATED}
    assert writer.held.vaults() == {}


def test_deleting_a_vault_waits_for_a_running_drain(
    writer: Writer, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleting a vault and then its segments leaves no segment behind."""
    other = Writer(writer.settings)
    sender.send(LOST)
    deleting, insert, refused = other.postgres(), history.insert, []
    deleting.execute("SET lock_timeout = '100ms'")

    def try_to_delete(connection: Connection, segments: Iterable[SealedSegment]) -> None:
        insert(connection, segments)
        with pytest.raises(Exception, match="lock timeout") as raised:
            deleting.execute("DELETE FROM vaults")
        refused.append(raised.value)

    monkeypatch.setattr(history, "insert", try_to_delete)
    writer.drain.run(writer.postgres(), [sender.shard(LOST)])
    assert len(refused) == 1
    assert deleting.execute("DELETE FROM vaults").rowcount == 1
    assert deleting.execute("DELETE FROM segments").rowcount == 1
    other.close()


def test_a_vault_deleted_during_drains_loses_no_reading(writer: Writer, sender: Sender) -> None:
    chance = random.Random(7)
    sender.vault(LOST)
    away = False
    for _ in range(40):
        for password in (LOST, KEPT):
            sender.send(password)
        if chance.random() < 0.4:
            if away:
                bring_back(writer)
            else:
                lose(writer, sender.vault(LOST).vault_id)
            away = not away
        if chance.random() < 0.7:
            writer.drain.run(writer.postgres(), SHARDS)
        if chance.random() < 0.3:
            sweep.release_held(writer.held, writer.postgres)
    if away:
        bring_back(writer)
    drain_all(writer)
    release(writer)
    texts = sender.texts(LOST)
    assert sorted(texts, key=int) == [str(number) for number in range(40)]
    assert sender.texts(KEPT) == [str(number) for number in range(40)]
    assert sender.backlog.state().bytes == 0


@pytest.fixture
def writers(environment: dict[str, str], tmp_path: Path) -> Iterator[Stack]:
    """A stack for writer processes, without processes."""
    made = Stack(environment, tmp_path)
    yield made
    made.stop()


def test_killed_writers_hold_each_entry_once(
    writers: Stack, writer: Writer, sender: Sender, settings: Settings
) -> None:
    chance = random.Random(3)
    vault_id = sender.vault(LOST).vault_id
    lose(writer, vault_id)
    for _ in range(5):
        running = writers.start_writer()
        wait_until(lambda: sender.redis.scard("rq:workers") > 0, what="a writer")
        until = time.monotonic() + chance.random()
        while time.monotonic() < until:
            for password in (LOST, KEPT):
                sender.send(password, 3)
        running.kill()
        running.wait()
    assert orphans(writer) == 0
    writers.start_writer()
    wait_until(lambda: sender.waiting() == 0, what="an empty backlog")
    assert orphans(writer) == 0
    bring_back(writer)
    wait_until(
        lambda: not writer.held.vaults() and not sender.waiting(),
        what="the release of held entries",
    )
    wait_until(
        lambda: len(sender.texts(LOST)) >= sender.numbers[LOST], what="all readings", seconds=60
    )
    sender.check_all()
    assert settings.shards == len(SHARDS)


def test_the_record_of_a_replaced_vault_does_not_overwrite_the_new_record(
    writer: Writer, sender: Sender
) -> None:
    """Otherwise a process that opens the vault while Postgres is away would use the lost vault."""
    restorer, lost = sender.service.vault_restorer, sender.vault(LOST)
    (record,) = restorer.cache.records()
    lose(writer, lost.vault_id)
    restorer.cache.forget_vault(lost.vault_id)
    sender.redis.delete(KEYS.vault_record(record.lookup))
    other = sender.vault(LOST)
    assert other.vault_id != lost.vault_id
    assert restorer.records.restore(record).vault_id == other.vault_id
    restorer.records.extend_expiry([record])
    cached = restorer.records.find_cached([record.lookup])
    assert cached is not None
    assert cached.vault_id == other.vault_id


def test_records_are_extended_at_intervals_while_postgres_is_away(sender: Sender) -> None:
    """There may be ten thousand records, and the restorer checks every few seconds."""
    restorer = sender.service.vault_restorer
    for password in (LOST, KEPT):
        sender.vault(password)
    sender.service.pool.close()
    for record in restorer.cache.records():
        restorer.watch(record)
        sender.redis.delete(KEYS.vault_record(record.lookup))
    for kept in (2, 0):
        with redis_commands(sender.redis) as counted, pytest.raises(PoolClosed):
            restorer.check()
        assert counted["set"] == kept
    assert len(list(restorer.records.scan_cached())) == 2
