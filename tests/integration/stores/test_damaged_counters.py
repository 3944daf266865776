"""Another program overwrites counters of the backlog: no entry is lost, and the counters are
repaired.
"""

import uuid
from contextlib import suppress
from typing import cast

import pytest
from redis import Redis

from iot_models.errors import UnavailableError
from iot_stores.backlog import Backlog
from iot_stores.backlog_counters import BacklogCounters
from iot_stores.held_entries import HeldEntries
from iot_stores.stream_entries import HeldEntry, Removal
from support.draining import read_waiting
from support.keys import KEYS

VAULT = uuid.uuid4()
EXACT = ["bytes", "held", "in:0", "out:0", "in:1", "out:1", "in:2", "out:2"]
OTHERS = ["session_renewals", "rate", "measured", "measured_at", "at:0", "next:0"]
DAMAGE = [b"abc", b"", b"1.5", b"nan", b"0x10", b" 7", b"-5", b"9" * 30, b"9" * 5000, b"\xff"]


@pytest.fixture
def backlog(redis: "Redis") -> Backlog:
    """A backlog: shard 0 is partly drained with one held entry, 1 is drained, 2 is not."""
    made = Backlog(redis, KEYS, shards=3, max_bytes=10_000)
    for _ in range(4):
        made.append([(0, b"a" * 10), (1, b"b" * 20), (2, b"c" * 30)])
    remove(made, 0, entries=2, held=1)
    remove(made, 1, entries=4)
    return made


def remove(backlog: Backlog, shard: int, *, entries: int, held: int = 0) -> None:
    """Drain entries of a shard, and hold some: both numbers are given."""
    taken = read_waiting(backlog, shard, max_bytes=10_000)[:entries]
    holds = [HeldEntry(each, VAULT.bytes) for each in taken[:held]]
    last = taken[-1]
    backlog.remove([Removal(shard, last, last.entry_id.decode(), 1, holds)])


def counters(redis: "Redis") -> dict[str, bytes]:
    """Return the counters that can be recounted."""
    found = redis.hmget(KEYS.backlog_counters, EXACT)
    return dict(
        zip(EXACT, (value or b"0" for value in cast("list[bytes | None]", found)), strict=True)
    )


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [*EXACT, *OTHERS])
def test_a_damaged_counter_is_recounted(
    redis: "Redis", backlog: Backlog, name: str, damage: bytes
) -> None:
    sound = counters(redis)
    assert BacklogCounters(redis, KEYS).recount() == []
    redis.hset(KEYS.backlog_counters, name, damage)
    backlog.state()
    backlog.progress([0, 1, 2])
    backlog.drain_positions([0])
    backlog.all_removed({0: 1, 1: 1, 2: 1})
    assert BacklogCounters(redis, KEYS).recount() == [name]
    assert counters(redis) == sound
    assert BacklogCounters(redis, KEYS).recount() == []
    backlog.append([(shard, b"more") for shard in range(3)])
    for shard in range(3):
        remove(backlog, shard, entries=10)
    assert backlog.state().bytes == 10  # the held entry


def test_all_damaged_counters_are_recounted(redis: "Redis", backlog: Backlog) -> None:
    redis.hset(KEYS.backlog_counters, mapping=dict.fromkeys([*EXACT, *OTHERS], b"?"))
    assert set(BacklogCounters(redis, KEYS).recount()) == {*EXACT, *OTHERS}
    assert (backlog.state().bytes, backlog.state().held) == (2 * 10 + 4 * 30 + 10, 1)
    for shard in (0, 2):
        remove(backlog, shard, entries=10)
    assert backlog.state().bytes == 10


def test_deleted_counters_are_recounted_after_an_append(redis: "Redis", backlog: Backlog) -> None:
    for shard in (0, 2):
        remove(backlog, shard, entries=10)
    redis.delete(KEYS.backlog_counters)
    backlog.append([(1, b"b" * 5)])
    assert set(BacklogCounters(redis, KEYS).recount()) == {"bytes", "held"}
    assert (backlog.state().bytes, backlog.state().held) == (10 + 5, 1)
    assert BacklogCounters(redis, KEYS).recount() == []
    remove(backlog, 1, entries=10)
    assert backlog.state().bytes == 10


def test_entries_that_waited_before_the_counters_were_deleted_are_counted_after_an_append(
    redis: "Redis", backlog: Backlog
) -> None:
    """Otherwise, the backlog could exceed its maximum. Nothing is appended to shard 2. The recount
    also works while Redis is full."""
    redis.delete(KEYS.backlog_counters)
    backlog.append([(0, b"a" * 4), (0, b"a")])
    redis.config_set("maxmemory", 1)
    try:
        damaged = BacklogCounters(redis, KEYS).recount()
    finally:
        redis.config_set("maxmemory", 0)
    assert set(damaged) == {"bytes", "held", "in:0", "out:0", "in:2"}
    assert (backlog.state().bytes, backlog.state().held) == (2 * 10 + 5 + 4 * 30 + 10, 1)
    assert counters(redis) | {"in:0": b"45", "out:0": b"20", "in:2": b"120"} == counters(redis)
    assert BacklogCounters(redis, KEYS).recount() == []
    remove(backlog, 0, entries=10)
    assert BacklogCounters(redis, KEYS).recount() == ["out:0"]
    assert backlog.state().bytes == 4 * 30 + 10
    backlog.append([(0, b"a" * 5)])
    for shard in (0, 2):
        remove(backlog, shard, entries=10)
    assert BacklogCounters(redis, KEYS).recount() == []
    assert backlog.state().bytes == 10


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["bytes", "in:2", "held", "session_renewals", "rate"])
def test_a_damaged_counter_causes_no_partial_append(
    redis: "Redis", backlog: Backlog, name: str, damage: bytes
) -> None:
    """The counter of the last shard is raised after the counters of the other shards."""
    redis.hset(KEYS.backlog_counters, name, damage)
    before = backlog.state().entries
    with suppress(UnavailableError):
        backlog.append([(0, b"d"), (1, b"d"), (2, b"d")])
    added = {entries - before[shard] for shard, entries in backlog.state().entries.items()}
    assert len(added) == 1
    if name in {"bytes", "in:2"} and damage != b"-5":  # Redis reads -5 as a number
        with pytest.raises(UnavailableError, match="counters of the backlog in Redis are damaged"):
            backlog.append([(2, b"d")])
    BacklogCounters(redis, KEYS).recount()
    for shard in range(3):
        backlog.append([(shard, b"e")])
        remove(backlog, shard, entries=10)
    assert backlog.state().bytes == 10


def test_a_damaged_rate_does_not_hide_a_full_backlog(redis: "Redis", backlog: Backlog) -> None:
    redis.hset(KEYS.backlog_counters, "rate", b"?")
    with pytest.raises(UnavailableError, match="full"):
        backlog.append([(0, b"x" * 9_990)])


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [*EXACT, *OTHERS])
def test_holding_an_entry_with_a_damaged_counter_loses_no_entry(
    redis: "Redis", backlog: Backlog, name: str, damage: bytes
) -> None:
    """The script trims the stream before it reads the counter."""
    redis.hset(KEYS.backlog_counters, name, damage)
    if name == "held":
        redis.hset(KEYS.held_vaults, VAULT.hex, damage)
    remove(backlog, 0, entries=2, held=2)
    assert redis.xlen(KEYS.held_entries(VAULT.bytes)) == 3
    assert list(HeldEntries(redis, KEYS).vaults()) == [VAULT]
    BacklogCounters(redis, KEYS).recount()
    assert (backlog.state().bytes, backlog.state().held) == (4 * 30 + 30, 3)
