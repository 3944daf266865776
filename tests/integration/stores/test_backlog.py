"""The backlog counts its bytes exactly, enforces its limit and appends all or nothing."""

import random
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import RedisError

from integration.writer.sending import Sender
from iot_models.errors import TooLargeError, UnavailableError
from iot_stores.backlog import Backlog
from iot_stores.stream_entries import Removal, WaitingEntry
from iot_writer.writer import Writer
from support.draining import drain_all, read_waiting
from support.keys import KEYS

SHARDS = 4


def _remove(backlog: Backlog, shard: int, last: WaitingEntry) -> bool:
    (left,) = backlog.remove([Removal(shard, last, last.entry_id.decode(), 1)])
    return left


@pytest.fixture
def backlog(redis: "Redis") -> Backlog:
    """A small backlog."""
    return Backlog(redis, KEYS, shards=SHARDS, max_bytes=10_000)


def everything(redis: "Redis") -> dict[bytes, bytes]:
    """Return a dump of each key."""
    keys = cast("list[bytes]", redis.keys())
    return {key: cast("bytes", redis.dump(key)) for key in keys}


@given(
    st.lists(
        st.one_of(
            st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400)), max_size=5),
            st.tuples(st.sampled_from(["remove", "remove again"]), st.integers(0, 3)),
        ),
        max_size=40,
    )
)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_are_exact_after_any_steps(
    redis: "Redis", backlog: Backlog, steps: list[list[tuple[int, int]] | tuple[str, int]]
) -> None:
    redis.flushall()
    held: dict[int, list[int]] = {shard: [] for shard in range(SHARDS)}
    removed = {}
    for step in steps:
        if isinstance(step, list):
            if sum(size for _, size in step) + sum(map(sum, held.values())) > 10_000:
                with pytest.raises(UnavailableError):
                    backlog.append([(shard, b"x" * size) for shard, size in step])
                continue
            backlog.append([(shard, b"x" * size) for shard, size in step])
            for shard, size in step:
                held[shard].append(size)
        elif step[0] == "remove":
            waiting = read_waiting(backlog, step[1], max_bytes=500)
            if waiting:
                removed[step[1]] = waiting[-1]
                del held[step[1]][: len(waiting)]
                assert _remove(backlog, step[1], waiting[-1]) == bool(held[step[1]])
        elif step[1] in removed:
            assert _remove(backlog, step[1], removed[step[1]]) == bool(held[step[1]])
        state = backlog.state()
        assert state.bytes == sum(map(sum, held.values()))
        assert state.entries == {shard: len(sizes) for shard, sizes in held.items()}
        assert set(backlog.oldest_ages()) == {shard for shard, sizes in held.items() if sizes}


def test_a_full_backlog_adds_no_entry(redis: "Redis", backlog: Backlog) -> None:
    backlog.append([(0, b"a" * 5000), (1, b"b" * 4999)])
    before = everything(redis)
    with pytest.raises(UnavailableError, match="full") as refused:
        backlog.append([(2, b"c"), (3, b"d")])
    assert refused.value.retry_after > 0
    assert everything(redis) == before
    backlog.append([(2, b"c")])
    assert backlog.state().bytes == 10_000
    before = everything(redis)
    with pytest.raises(UnavailableError):
        backlog.append([(2, b"d")])
    assert everything(redis) == before
    (first,) = read_waiting(backlog, 0, max_bytes=1)
    _remove(backlog, 0, first)
    backlog.append([(2, b"d" * 5000)])
    assert backlog.state().bytes == 10_000


def test_a_request_is_added_whole(redis: "Redis", backlog: Backlog) -> None:
    backlog.append([(shard, b"%d" % shard) for shard in (3, 0, 2, 0)])
    assert [len(read_waiting(backlog, shard)) for shard in range(SHARDS)] == [2, 0, 1, 1]
    queued = cast("list[bytes]", redis.lrange(KEYS.job_list, 0, -1))
    assert queued == [b"drain-3", b"drain-0", b"drain-2"]


@pytest.mark.parametrize("refused", ["hincrby", "xadd", "lpos", "rpush"])
def test_bytes_are_exact_after_appends_that_redis_aborts(
    refused: str, redis: "Redis", backlog: Backlog
) -> None:
    """The Redis user lacks the permission for a command in the middle of the script."""
    redis.acl_setuser(
        "limited", enabled=True, nopass=True, keys=["*"], categories=["+@all"],
        commands=[f"-{refused}"],
    )  # fmt: skip
    options = redis.connection_pool.connection_kwargs
    try:
        with Redis(port=options["port"], username="limited", password="any") as limited:
            theirs = Backlog(limited, KEYS, shards=SHARDS, max_bytes=10_000)
            for _ in range(3):
                with pytest.raises(RedisError, match=r"permission|can't run"):
                    theirs.append([(0, b"a" * 100), (1, b"b" * 100)])
    finally:
        redis.acl_deluser("limited")
    if refused in {"hincrby", "xadd"}:
        assert read_waiting(backlog, 0) == read_waiting(backlog, 1) == []
    backlog.append([(0, b"a" * 100), (1, b"b" * 100)])
    for shard in (0, 1):
        _remove(backlog, shard, read_waiting(backlog, shard, max_bytes=10_000)[-1])
    assert backlog.state().bytes == 0


def test_pages_are_in_order_and_bounded(backlog: Backlog) -> None:
    sent = [b"%05d" % number for number in range(1000)]
    for entry in sent:
        backlog.append([(0, entry)])
    waiting = read_waiting(backlog, 0, max_bytes=2**20)
    assert [each.sealed for each in waiting] == sent
    assert [each.bytes_so_far for each in waiting] == list(range(5, 5001, 5))
    received = [each.received for each in waiting]
    assert received == sorted(received)
    for most in (1, 5, 6, 640, 641, 2222, 4999, 5000):
        part = read_waiting(backlog, 0, max_bytes=most)
        assert [each.sealed for each in part] == sent[: -(-most // 5)]


def test_a_read_of_several_shards_is_bounded(
    redis: "Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iot_stores.backlog.MAX_ENTRIES", 11)
    backlog = Backlog(redis, KEYS, shards=3, max_bytes=10_000)
    for _ in range(2):
        backlog.append([(shard, b"x" * 50) for shard in range(3)])
    for most, counts in ((10_000, [2, 1]), (101, [2, 1]), (100, [2]), (51, [2]), (50, [1])):
        found = backlog.read_shards(range(3), max_bytes=most)
        assert [len(each.entries) for each in found] == counts, most


@pytest.mark.parametrize("damaged", ["nothing", "counters", "positions"])
def test_a_read_fetches_few_large_entries_that_wait_before_many_small_ones(
    redis: "Redis", damaged: str
) -> None:
    """Their mean size says nothing about the oldest entries."""
    backlog = Backlog(redis, KEYS, shards=2, max_bytes=2**30)
    backlog.append([(0, b"x" * 40_000)] * 100 + [(0, b"x" * 25)] * 1000)
    backlog.append([(1, b"x" * 40_000)] * 20)
    if damaged == "counters":
        redis.hset(KEYS.backlog_counters, mapping={"in:0": "?", "in:1": "?"})
    elif damaged == "positions":
        redis.xadd(KEYS.stream(0), {"planted": "entry"})
    before = redis.info("stats")["total_net_output_bytes"]
    found = backlog.read_shards([0, 1], max_bytes=100_000)
    assert [[len(entry.sealed) for entry in each.entries] for each in found] == [[40_000] * 3]
    most = 3_000_000 if damaged == "positions" else 1_000_000
    assert redis.info("stats")["total_net_output_bytes"] - before < most


def test_the_age_of_the_oldest_entry_is_reported(redis: "Redis", backlog: Backlog) -> None:
    assert backlog.oldest_ages() == {}
    assert backlog.state().oldest_seconds == 0
    now = redis.time()[0]
    for shard, age in ((1, 100), (2, 10)):
        redis.xadd(KEYS.stream(shard), {"e": b"", "t": 0}, id=str((now - age) * 1000))
    oldest = backlog.oldest_ages()
    assert set(oldest) == {1, 2}
    assert 100 <= oldest[1] < 130
    assert 10 <= oldest[2] < 40
    assert backlog.state().oldest_seconds == pytest.approx(oldest[1], abs=20)


@pytest.mark.parametrize("begin", [10**14, 10**15 + 1, 2**53 - 10_000])
def test_large_counters_keep_all_digits(begin: int, redis: "Redis", backlog: Backlog) -> None:
    redis.hset(KEYS.backlog_counters, mapping={"in:0": begin, "out:0": begin, "bytes": 0})
    total = begin
    for size in (1, 333, 1234):
        backlog.append([(0, b"x" * size)])
        total += size
        (*_, last) = read_waiting(backlog, 0, max_bytes=10_000)
        assert last.bytes_so_far == total
    assert backlog.state().bytes == 1568
    first, second, third = read_waiting(backlog, 0, max_bytes=10_000)
    for last, left in ((first, 1567), (first, 1567), (third, 0), (second, 0)):
        _remove(backlog, 0, last)
        assert backlog.state().bytes == left
    assert redis.hget(KEYS.backlog_counters, "out:0") == b"%d" % total


@pytest.mark.parametrize(
    ("age", "measures"),
    [(2000, True), (70_000, False), (-5000, False)],
    ids=["two seconds", "an idle minute", "a clock that was set back"],
)
def test_the_bytes_drained_per_second_are_measured(
    redis: "Redis", backlog: Backlog, age: int, measures: bool
) -> None:
    """`Retry-After` of a full backlog is computed from the rate."""
    counters = KEYS.backlog_counters
    backlog.append([(0, b"x" * 1000)])
    (waiting,) = read_waiting(backlog, 0)
    seconds, micros = redis.time()
    now = seconds * 1000 + micros // 1000
    redis.hset(counters, mapping={"measured": 3000, "measured_at": now - age, "rate": 7})
    _remove(backlog, 0, waiting)
    measured_at, rate = (int(redis.hget(counters, each) or 0) for each in ("measured_at", "rate"))
    assert now <= measured_at < now + 60_000
    assert rate == (pytest.approx(4_000_000 / (measured_at - now + age), abs=1) if measures else 7)
    assert redis.hget(counters, "measured") == b"0"


def test_an_error_of_one_shard_stops_the_removal_of_no_other(
    redis: "Redis", backlog: Backlog
) -> None:
    backlog.append([(0, b"a"), (1, b"b")])
    last = [read_waiting(backlog, shard)[-1] for shard in (0, 1)]
    redis.rename(KEYS.stream(0), "kept")
    redis.set(KEYS.stream(0), "planted")
    with pytest.raises(RedisError, match="WRONGTYPE"):
        backlog.remove([Removal(shard, last[shard], "1-0", 1) for shard in (0, 1)])
    assert read_waiting(backlog, 1) == []
    assert redis.xlen("kept") == 1


def test_an_entry_that_arrives_during_a_drain_stays_when_the_ids_restart(
    redis: "Redis", backlog: Backlog
) -> None:
    redis.xadd(KEYS.stream(0), {"e": b"far in the future", "t": 17}, id=f"{2**60}-0")
    (drained,) = read_waiting(backlog, 0)
    redis.xadd(KEYS.stream(0), {"e": b"new", "t": 20}, id=f"{2**60}-1")
    removal = Removal(0, drained, drained.entry_id.decode(), 1)
    assert backlog.remove([removal]) == [True]
    (waiting,) = read_waiting(backlog, 0)
    assert waiting.sealed == b"new"
    assert backlog.remove([replace(removal, last=waiting)]) == [False]
    backlog.append([(0, b"now")])
    assert [each.has_valid_time for each in read_waiting(backlog, 0)] == [True]


def test_the_next_id_of_a_shard_only_rises(backlog: Backlog) -> None:
    """Readings with lower ids count as stored, and a slow writer may remove its entries late."""
    for next_id, known in ((999, 999), (1000, 1000), (998, 1000), (2**51, 2**51), (9, 2**51)):
        backlog.append([(0, b"a")])
        (waiting,) = read_waiting(backlog, 0)
        backlog.remove([Removal(0, waiting, waiting.entry_id.decode(), next_id)])
        assert backlog.drained().next_ids == {0: known}


def test_enqueue_once_skips_queued_jobs(redis: "Redis", backlog: Backlog) -> None:
    assert backlog.enqueue_once(["a", "b", "a"]) == 2
    assert backlog.enqueue_once(["b", "c"]) == 1
    assert redis.lrange(KEYS.job_list, 0, -1) == [b"a", b"b", b"c"]


def test_bytes_are_exact_after_interrupted_drains(writer: Writer, sender: Sender) -> None:
    chance = random.Random(3)
    passwords = [b"%d" % number for number in range(12)]
    for _ in range(60):
        for _ in range(chance.randint(1, 6)):
            sender.send(chance.choice(passwords), chance.randint(1, 20))
        shard = chance.randrange(8)
        with pytest.MonkeyPatch.context() as patch:
            if chance.random() < 0.5:
                patch.setattr(writer.backlog, "remove", _lost)
            try:
                writer.drain.run(writer.postgres(), [shard])
            except ConnectionError:
                continue
        waiting = [
            each
            for number in range(8)
            for each in read_waiting(sender.backlog, number, max_bytes=2**30)
        ]
        assert sender.backlog.state().bytes == sum(len(each.sealed) for each in waiting)
    drain_all(writer)
    state = sender.backlog.state()
    assert (state.bytes, sum(state.entries.values()), state.oldest_seconds) == (0, 0, 0)
    sender.check_all()


def _lost(*_: object) -> None:
    raise ConnectionError


def test_a_request_larger_than_the_backlog_is_too_large(redis: "Redis") -> None:
    backlog = Backlog(redis, KEYS, shards=SHARDS, max_bytes=2**20)
    with pytest.raises(TooLargeError):
        backlog.append([(0, b"x" * 2**19), (1, b"x" * (2**19 + 1))])
    assert backlog.state().bytes == 0
