"""Another program overwrites keys in Redis with values of another type: drains lose nothing that
Redis still holds, and the keys are repaired.
"""

import time
import uuid
from typing import cast

import pytest
from redis import Redis

from integration.writer.sending import Sender
from integration.writer.test_held_entries import LOST, bring_back, lose, release, same_shard
from iot_models.names import JOB_QUEUE, JOBS, drain_job
from iot_stores.backlog_counters import BacklogCounters
from iot_stores.mistyped_keys import MistypedKeys
from iot_writer.ticker import EVERY_SECONDS, Ticker
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS

PASSWORD = b"p"


def overwrite(redis: "Redis", *names: str) -> None:
    """Overwrite keys with a value of a type that no key of the service has there."""
    for name in names:
        redis.delete(name)
        redis.geoadd(name, (1, 2, "planted")) if "index" not in name else redis.set(name, "planted")


@pytest.fixture(autouse=True)
def _no_restorer(sender: Sender) -> None:
    """Stop the vault restorer, so that only the test restores a vault."""
    sender.service.vault_restorer.close()


def test_all_keys_of_the_backlog_and_of_rq_are_repaired(writer: Writer, sender: Sender) -> None:
    sender.send(PASSWORD)
    drain_all(writer)
    redis, queue = sender.redis, KEYS.job_list
    lists = [queue, f"{queue}:intermediate", KEYS.compaction_orders]
    sets = [KEYS.dead_letter_ids, "rq:workers", f"rq:workers:{JOB_QUEUE}"]
    sorted_sets = [f"rq:{name}:{JOB_QUEUE}" for name in ("wip", "finished", "failed")]
    sorted_sets += ["rq:executions:drain-3"]
    streams = [KEYS.dead_letters, KEYS.heartbeats, KEYS.stream(3), "rq:results:sweep"]
    hashes = [KEYS.held_vaults, KEYS.dead_letter_orders]
    hashes += [f"rq:job:{job}" for job in (*JOBS, drain_job(3))]
    keys = [*lists, *sets, *sorted_sets, *streams, *hashes, KEYS.unused_stream, KEYS.audit_head]
    for wrong in ("list", "hash"):
        redis.delete(*keys)
        planted = {key for key in keys if key not in (lists if wrong == "list" else hashes)}
        for key in planted:
            redis.rpush(key, "planted") if wrong == "list" else redis.hset(key, "planted", "1")
        deleted = MistypedKeys(redis, KEYS).delete(writer.backlog.shards())
        assert set(deleted) == planted
        assert redis.exists(*keys) == 0
    assert MistypedKeys(redis, KEYS).delete(writer.backlog.shards()) == []
    sender.send(PASSWORD)
    drain_all(writer)
    sender.check_all()


def test_keys_with_a_right_type_are_not_deleted(writer: Writer, sender: Sender) -> None:
    sender.send(PASSWORD)
    redis = sender.redis
    redis.rpush(KEYS.compaction_orders, "order")
    redis.sadd(KEYS.dead_letter_ids, "0 1-0")
    redis.zadd("rq:wip:iot", {"job": 1})
    redis.hset(KEYS.held_vaults, "0" * 32, "1")
    redis.set(KEYS.audit_head, "1:00")
    before = sorted(cast("list[bytes]", redis.keys()))
    writer.repair_redis()
    assert sorted(cast("list[bytes]", redis.keys())) == before


def test_a_segment_that_the_hot_window_could_not_take_is_not_missing_later(
    writer: Writer, sender: Sender
) -> None:
    """The cover must not claim a segment that the index lacks, even when the index is deleted."""
    sender.send(PASSWORD)
    drain_all(writer)
    index = KEYS.hot_index(sender.vault(PASSWORD).vault_id.bytes)
    overwrite(sender.redis, index)
    assert sender.last_seconds(PASSWORD, 200) == ["0"]
    sender.send(PASSWORD)
    drain_all(writer)
    sender.redis.delete(index)
    assert sender.last_seconds(PASSWORD, 200) == ["0", "1"]
    sender.send(PASSWORD)
    drain_all(writer)
    assert sender.last_seconds(PASSWORD, 200) == ["0", "1", "2"]


@pytest.mark.parametrize("kept", [False, True])
def test_the_next_drain_replaces_an_overwritten_index(
    writer: Writer, sender: Sender, kept: bool
) -> None:
    """`kept`: nobody deletes the planted value."""
    shard = sender.shard(PASSWORD)
    index = KEYS.hot_index(sender.vault(PASSWORD).vault_id.bytes)
    sender.send(PASSWORD)
    drain_all(writer)
    overwrite(sender.redis, index)
    sender.send(PASSWORD)
    drain_all(writer)
    if not kept:
        sender.redis.delete(index)
    assert sender.last_seconds(PASSWORD, 200) == ["0", "1"]
    if kept:
        time.sleep(0.01)
        sender.send(PASSWORD)
        drain_all(writer)
        assert writer.stores.hot_window.covers([shard])[shard] > 0
        assert sender.redis.zcard(index) == 2
        assert sender.last_seconds(PASSWORD, 200) == ["0", "1", "2"]


@pytest.mark.parametrize("idle", [False, True])
def test_an_overwritten_cover_is_replaced(writer: Writer, sender: Sender, idle: bool) -> None:
    """`idle`: no drain of the shard follows."""
    sender.send(PASSWORD)
    drain_all(writer)
    shard = sender.shard(PASSWORD)
    overwrite(sender.redis, KEYS.hot_cover(shard))
    assert writer.stores.hot_window.covers([shard]) == {shard: 0}
    assert sender.last_seconds(PASSWORD, 200) == ["0"]
    if idle:
        writer.outdated_covers.replace()
        assert sender.redis.type(KEYS.hot_cover(shard)) == b"hash"
    sender.send(PASSWORD)
    drain_all(writer)
    assert sender.redis.type(KEYS.hot_cover(shard)) == b"hash"
    assert sender.last_seconds(PASSWORD, 200) == ["0", "1"]


@pytest.mark.parametrize("overwritten", ["entries", "vaults"])
def test_no_entry_is_lost_when_held_entries_are_overwritten(
    writer: Writer, sender: Sender, overwritten: str
) -> None:
    """The script trims the stream before it adds the entries to the held entries."""
    neighbour, vault_id = same_shard(sender), sender.vault(LOST).vault_id
    lose(writer, vault_id)
    held = KEYS.held_entries(vault_id.bytes)
    overwrite(sender.redis, held if overwritten == "entries" else KEYS.held_vaults)
    for _ in range(3):
        sender.send(LOST)
        sender.send(neighbour)
    drain_all(writer)
    assert sender.redis.xlen(held) == 3
    writer.repair_redis()
    state = sender.backlog.state()
    assert (state.held, sum(state.entries.values())) == (3, 0)
    bring_back(writer)
    release(writer)
    sender.check_all()
    writer.repair_redis()
    assert (sender.backlog.state().bytes, sender.backlog.state().held) == (0, 0)


def test_overwritten_held_entries_are_not_counted_any_more(writer: Writer, sender: Sender) -> None:
    vault_id = sender.vault(LOST).vault_id
    lose(writer, vault_id)
    for held in (1, 2):
        sender.send(LOST)
        drain_all(writer)
        assert sender.backlog.state().held == held
    overwrite(sender.redis, KEYS.held_entries(vault_id.bytes))
    sender.send(LOST)
    drain_all(writer)
    writer.repair_redis()
    assert sender.backlog.state().held == 1


def test_an_operator_enters_the_vaults_of_held_entries_again(
    writer: Writer, sender: Sender
) -> None:
    """docs/runbooks.md, Keys of another type."""
    vault_id = sender.vault(LOST).vault_id
    lose(writer, vault_id)
    for _ in range(3):
        sender.send(LOST)
    drain_all(writer)
    writer.repair_redis()
    overwrite(sender.redis, KEYS.held_vaults)
    writer.repair_redis()
    assert sender.backlog.state().held == 3
    assert writer.held.vaults() == {}
    sender.redis.hset(KEYS.held_vaults, vault_id.hex, "1")
    bring_back(writer)
    release(writer)
    sender.check_all()
    assert (sender.backlog.state().bytes, sender.backlog.state().held) == (0, 0)


@pytest.mark.parametrize("erased", [False, True])
def test_overwritten_held_entries_keep_no_other_vault_held(
    writer: Writer, sender: Sender, erased: bool
) -> None:
    vaults = [sender.vault(password).vault_id for password in (LOST, b"another")]
    for password, vault_id in zip((LOST, b"another"), vaults, strict=True):
        lose(writer, vault_id)
        sender.send(password)
    drain_all(writer)
    assert set(writer.held.vaults()) == set(vaults)
    overwrite(sender.redis, KEYS.held_entries(vaults[0].bytes))
    if erased:
        assert writer.held.drop(vaults[0]) == 0
    bring_back(writer)
    release(writer)
    writer.repair_redis()
    assert writer.held.vaults() == {}
    assert sender.texts(b"another") == ["0"]
    assert (sender.backlog.state().bytes, sender.backlog.state().held) == (0, 0)


@pytest.mark.parametrize("deleted", [False, True])
def test_the_counters_are_recounted_from_the_streams(
    writer: Writer, sender: Sender, deleted: bool
) -> None:
    shard, passwords = sender.shard(LOST), [LOST, same_shard(sender), b"c", b"d"]
    lose(writer, sender.vault(LOST).vault_id)
    for password in passwords:
        sender.send(password)
    drain_all(writer)
    for password in passwords[1:]:
        sender.send(password)
    before = sender.backlog.state()
    if deleted:
        sender.redis.delete(KEYS.backlog_counters)
    else:
        overwrite(sender.redis, KEYS.backlog_counters)
    recounted = BacklogCounters(sender.redis, KEYS).recount()
    assert {"bytes", "held", f"in:{shard}", f"out:{shard}"} <= set(recounted)
    assert (KEYS.backlog_counters in recounted) != deleted
    after = sender.backlog.state()
    assert (after.bytes, after.held, after.entries) == (before.bytes, before.held, before.entries)
    assert BacklogCounters(sender.redis, KEYS).recount() == []
    drain_all(writer)
    bring_back(writer)
    release(writer)
    sender.check_all()
    assert sender.backlog.state().bytes == 0


def test_the_counters_recover_if_entries_came_before_the_recount(
    writer: Writer, sender: Sender
) -> None:
    """An operator has deleted the counters while entries waited."""
    for _ in range(5):
        sender.send(PASSWORD)
    sender.redis.delete(KEYS.backlog_counters)
    sender.send(PASSWORD)
    drain_all(writer)
    BacklogCounters(sender.redis, KEYS).recount()
    assert BacklogCounters(sender.redis, KEYS).recount() == []
    sender.send(PASSWORD)
    (known,) = sender.backlog.progress([sender.shard(PASSWORD)]).values()
    assert known.bytes > 0
    drain_all(writer)
    sender.check_all()
    assert sender.backlog.state().bytes == 0


def test_entries_are_acknowledged_while_the_job_list_is_overwritten(
    writer: Writer, sender: Sender
) -> None:
    overwrite(sender.redis, KEYS.job_list)
    sender.send(PASSWORD)
    assert sender.waiting() == 1
    Ticker(writer).tick()
    assert sender.redis.lrange(KEYS.job_list, 0, -1)
    drain_all(writer)
    sender.check_all()


def test_an_overwritten_tick_is_replaced(writer: Writer, sender: Sender) -> None:
    overwrite(sender.redis, *map(KEYS.tick, EVERY_SECONDS))
    Ticker(writer).tick()
    assert sender.redis.llen(KEYS.job_list) == len(EVERY_SECONDS)


def test_a_vault_is_found_whatever_its_records_in_redis_are(sender: Sender) -> None:
    vault = sender.vault(PASSWORD)
    records = sender.service.vault_restorer.records
    (record,) = records.scan_cached()
    assert record.vault_id == vault.vault_id
    overwrite(sender.redis, KEYS.vault_record(record.lookup), KEYS.changed_lookup(record.lookup))
    assert records.cache(record)
    assert records.find_cached([record.lookup]) == record


def test_marks_of_another_type_are_replaced(writer: Writer, sender: Sender) -> None:
    for name in (KEYS.owner, KEYS.owner_keyring):
        overwrite(sender.redis, name)
        writer.watch.confirm_ownership()
    mark = cast("bytes", sender.redis.get(KEYS.owner))
    assert uuid.UUID(mark.decode()) == writer.stores.installation.get_id()
