"""Small segments are found cheaply when a vault is opened, outside of the requests."""

import json
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from integration.compaction.past import Past, days_ago, each_second, noon
from iot_models.compaction_order import SMALL_READINGS
from iot_models.metrics import spec_of
from iot_stores import small_segments
from iot_stores.months import DAY_MS
from iot_writer import jobs
from iot_writer.compaction.compactor import CompactionOutcome
from iot_writer.maintenance.retention import enforce
from iot_writer.writer import Writer
from support.clock import now
from support.keys import KEYS
from support.samples import sample_value
from support.stack import Stack
from support.waiting import wait_until

PASSWORD = b"p"
LATELY = days_ago(1.9) // 3_600_000 * 3_600_000
"""A time within the last two days, on a day that is over at any time of day."""


@pytest.fixture
def jobs_of(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let jobs use this writer."""
    monkeypatch.setattr(jobs, "current", lambda: writer)


def test_a_vault_is_planned_at_intervals(past: Past) -> None:
    past.store(PASSWORD, each_second(noon(3), 10))  # before noon, noon(2) is less than two days ago
    vault = past.sender.vault(PASSWORD)
    look = past.sender.service.compaction.look
    assert [look(vault), look(vault)] == [1, 0]
    name = KEYS.compaction_looked(vault.vault_id.bytes)
    assert 0 < past.sender.redis.ttl(name) <= 300
    past.sender.redis.delete(name)
    assert look(vault) == 0  # the whole history once a day, the last two days each time
    past.work()
    past.store(PASSWORD, each_second(LATELY, 10))
    past.sender.redis.delete(name)
    assert look(vault) == 1
    past.sender.redis.persist(name)  # as in a copy of Redis without expiries
    past.store(PASSWORD, each_second(LATELY + 60_000, 10))
    assert [look(vault) > 0, look(vault)] == [True, 0]


def test_the_whole_history_is_planned_daily_until_merged(past: Past) -> None:
    vault = past.sender.vault(PASSWORD)
    look, redis = past.sender.service.compaction.look, past.sender.redis
    looked, looked_back = (
        name(vault.vault_id.bytes) for name in (KEYS.compaction_looked, KEYS.compaction_looked_back)
    )
    past.store(PASSWORD, each_second(noon(20), 10))
    assert look(vault) == 1
    assert 0 < redis.ttl(looked_back) <= 86_400  # the order may be lost
    past.work()
    past.store(PASSWORD, each_second(LATELY, 10))
    redis.delete(looked, looked_back)
    assert look(vault) == 1
    assert redis.ttl(looked_back) > 29 * 86_400  # old segments are merged


def test_a_long_history_is_planned_in_steps(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iot_api.vaults.compaction_planner.MAX_FOUND", 40)
    past.store(PASSWORD, each_second(noon(40), 100))
    vault = past.sender.vault(PASSWORD)
    for _ in range(3):
        past.sender.redis.delete(KEYS.compaction_looked(vault.vault_id.bytes))
        past.sender.service.compaction.look(vault)
        past.work()
    assert past.counts(PASSWORD) == [100]


def test_days_of_one_small_segment_do_not_end_the_planning(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iot_api.vaults.compaction_planner.MAX_FOUND", 3)
    for days in (10, 9, 8, 7, 6):
        past.store(PASSWORD, each_second(noon(days), 1))
    past.store(PASSWORD, each_second(noon(5), 2))
    past.compact(PASSWORD)
    assert past.counts(PASSWORD) == [1, 1, 1, 1, 1, 2]
    vault = past.sender.vault(PASSWORD)
    assert past.sender.redis.ttl(KEYS.compaction_looked_back(vault.vault_id.bytes)) > 29 * 86_400
    past.store(PASSWORD, each_second(LATELY, 2))
    past.sender.redis.delete(KEYS.compaction_looked(vault.vault_id.bytes))
    assert past.sender.service.compaction.look(vault) == 1


def _plan(past: Past, statement: LiteralString, values: dict[str, object]) -> dict[str, Any]:
    (row,) = past.writer.postgres().execute(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", values
    )
    return cast("list[dict[str, Any]]", row[0])[0]


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from _nodes(each)


def test_finding_small_segments_reads_no_large_segments(past: Past) -> None:
    past.store(PASSWORD, each_second(noon(2), 12))
    large = each_second(noon(3), SMALL_READINGS)
    past.store(PASSWORD, large, each=SMALL_READINGS)
    copies = (
        "INSERT INTO segments SELECT vault_id, first_id + 256 * n, last_id + 256 * n, "
        "received_min + n, received_max + n, relative_min, relative_max, interrogator_min, "
        "interrogator_max, shard, count, payload FROM segments, generate_series(1, 5000) AS n "
        "WHERE count >= 512"
    )
    connection = past.writer.postgres()
    connection.execute(copies)
    connection.execute("ANALYZE segments")
    values: dict[str, object] = {
        "vault_id": past.sender.vault(PASSWORD).vault_id, "since": 0, "before": days_ago(0),
        "bytes": small_segments.SMALL_BYTES, "limit": 2048,
    }  # fmt: skip
    plan = _plan(past, small_segments._FIND, values)["Plan"]  # noqa: SLF001 - the tested statement
    scans = [each for each in _nodes(plan) if each.get("Relation Name")]
    assert sum(each["Actual Rows"] for each in scans) == 12
    assert not [each for each in scans if each["Node Type"] == "Seq Scan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 40


def test_retention_deletes_a_merged_segment_within_a_day(past: Past) -> None:
    """A merged segment holds readings of one day, even if its source spans two days."""
    midnight = noon(30) + DAY_MS // 2
    past.store(PASSWORD, [(midnight + n * 60_000, n, n, str(n)) for n in range(-100, 0)])
    past.store(PASSWORD, [(midnight + n * 60_000, n, n, str(n)) for n in range(100)])
    past.compact(PASSWORD)
    assert past.counts(PASSWORD) == [100, 100]
    connection, audit = past.writer.postgres(), past.writer.audit
    assert enforce(connection, audit, days=31, redis_now=now()) == 0
    assert enforce(connection, audit, days=28, redis_now=now()) == 2
    assert past.readings(PASSWORD) == []


def test_a_segment_across_midnight_is_split(past: Past) -> None:
    midnight = noon(8) + DAY_MS // 2
    sent = [(midnight + n * 1000, n, n, str(n)) for n in range(-30, 30)]
    past.store(PASSWORD, sent)
    connection = past.writer.postgres()
    before = past.readings(PASSWORD)
    vault = past.sender.vault(PASSWORD)
    # A segment with two times of receipt, as a writer stores it after a downtime.
    whole = small_segments.find_small(
        connection, vault.vault_id, since=0, before=days_ago(0), limit=100
    )
    assert len(whole) == 60
    past.compact(PASSWORD)
    assert past.counts(PASSWORD) == [30, 30]
    assert past.readings(PASSWORD) == before
    days = past.rows("SELECT received_min / 86400000, received_max / 86400000 FROM segments")
    assert all(begin == end for begin, end in days)
    # Live streams continue in each shard, so merged segments need the shard of their readings.
    assert past.rows("SELECT DISTINCT shard FROM segments") == [(past.sender.shard(PASSWORD),)]


@pytest.mark.usefixtures("jobs_of")
def test_a_job_executes_one_order_and_queues_the_next(past: Past) -> None:
    for days in (2, 3, 4):
        past.store(PASSWORD, each_second(noon(days), 20))
    assert past.look(PASSWORD) == 3
    redis = past.sender.redis

    def queued() -> list[bytes]:
        return cast("list[bytes]", redis.lrange(KEYS.job_list, 0, -1))

    before = sample_value("iot_segments_compacted_total") or 0
    for left in (2, 1, 0):
        assert queued() == [b"compact"]
        redis.delete(KEYS.job_list)
        assert jobs.compact() == "merged"
        assert redis.llen(KEYS.compaction_orders) == left
    assert queued() == []
    assert jobs.compact() == "empty"
    assert sample_value("iot_segments_compacted_total") == before + 60


@pytest.mark.usefixtures("jobs_of")
def test_drains_precede_compaction_and_the_sweep_requeues_compaction(past: Past) -> None:
    past.store(PASSWORD, each_second(noon(2), 20))
    past.look(PASSWORD)
    sender = past.sender
    sender.send_received(PASSWORD, sender.redis.time()[0] * 1000 - 5000)
    sender.redis.delete(KEYS.job_list)
    assert jobs.compact() == "later"
    assert sender.redis.llen(KEYS.compaction_orders) == 1
    jobs.sweep_shards()
    assert b"compact" in cast("list[bytes]", sender.redis.lrange(KEYS.job_list, 0, -1))
    assert jobs.drain(sender.shard(PASSWORD)) == "stored"
    assert jobs.compact() == "merged"


def test_requests_do_not_wait_for_planning(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vaults are opened while a planning pass is slow; vaults that exceed the queue are planned
    later.
    """
    service = past.sender.service
    vault = past.sender.vault(PASSWORD)
    entered, go_on = threading.Event(), threading.Event()
    looked = count()

    def look(*_: object) -> int:
        entered.set()
        assert go_on.wait(20)
        return next(looked)

    monkeypatch.setattr(type(service.compaction), "look", look)
    service.compaction.offer(vault)
    assert entered.wait(20)
    for _ in range(1000):
        service.compaction.offer(vault)
    go_on.set()
    wait_until(service.compaction._vaults.empty, what="all vaults planned")  # noqa: SLF001
    service.compaction.close()
    assert next(looked) == 129


def test_segments_of_a_used_vault_are_merged(
    past: Past, environment: dict[str, str], tmp_path: Path
) -> None:
    """Real processes: a device that keeps sending has its vault opened again and again."""
    sent = each_second(noon(2), 200)
    past.store(PASSWORD, sent)
    stack = Stack({**environment, "IOT_VAULT_CACHE_SECONDS": "1"}, tmp_path)
    try:
        stack.start_api()
        stack.start_writer()
        row = {
            "data": {
                "db_password": PASSWORD.decode(),
                "freeform": "now",
                "interrogator_time": 2**62,
            }
        }
        assert stack.put([row]).status == 201
        wait_until(lambda: 200 in past.counts(PASSWORD), what="compaction")
        expected = [json.loads(text) for *_, text in sent]

        def everything() -> bool:
            found = [json.loads(each["freeform"]) for each in stack.read(PASSWORD.decode())]
            assert found[:200] == expected
            return found[200:] == ["now"]

        wait_until(everything, what="the last reading")
    finally:
        stack.shut_down()
    assert "Traceback" not in (tmp_path / "api.log").read_text()
    assert "Traceback" not in (tmp_path / "writer-0.log").read_text()


def _compactions(outcome: str) -> float:
    return sample_value("iot_compactions_total", {"outcome": outcome}) or 0


@pytest.mark.usefixtures("jobs_of")
@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (psycopg.OperationalError("gone"), "postgres_away"),
        (RedisConnectionError("gone"), "redis_away"),
        (ValueError("a defect"), "failed"),
    ],
)
def test_a_failed_compaction_is_counted(
    error: Exception, outcome: str, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(past.writer.compaction, "run", fail)
    before = _compactions(outcome)
    if outcome != "failed":
        assert jobs.compact() == outcome
    else:
        with pytest.raises(type(error)):
            jobs.compact()
    assert _compactions(outcome) == before + 1


def test_each_compaction_outcome_is_declared() -> None:
    outcomes = {"postgres_away", "redis_away", "failed", *CompactionOutcome}
    assert set(spec_of("iot_compactions_total").initial_labels) == outcomes
