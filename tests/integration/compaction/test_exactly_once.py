"""No reading is lost or stored twice when writers are killed or orders are repeated or late."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from integration.compaction.past import Past, each_second, noon
from iot_stores.postgres import Connection
from iot_writer.compaction.compactor import CompactionOutcome
from iot_writer.writer import Writer
from support.keys import KEYS
from support.stack import Stack
from support.waiting import wait_until

PASSWORD = b"p"
NUMBER = 900
GATE = 20140318
"""The advisory lock on which the tests block a writer."""

_HOLD_UP = f"""
    CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN coalesce(NEW, OLD); END $$
"""
POINTS = {
    "before it deletes": "CREATE TRIGGER held BEFORE DELETE ON segments FOR EACH ROW",
    "after it deleted": "CREATE TRIGGER held AFTER DELETE ON segments FOR EACH ROW",
    "before it inserts": "CREATE TRIGGER held BEFORE INSERT ON segments FOR EACH ROW",
    "after it inserted": "CREATE TRIGGER held AFTER INSERT ON segments FOR EACH ROW",
    "as it commits": (
        "CREATE CONSTRAINT TRIGGER held AFTER INSERT ON segments "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
    ),
}
_HELD_UP = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@pytest.fixture
def stored(past: Past) -> Past:
    """Small segments of one day."""
    past.store(PASSWORD, each_second(noon(3), NUMBER))
    return past


@pytest.fixture
def stack(environment: dict[str, str], tmp_path: Path) -> Iterator[Stack]:
    """A stack without processes."""
    made = Stack(environment, tmp_path)
    yield made
    made.stop()


@pytest.fixture
def gate(postgres: Connection) -> Connection:
    """A connection that can block writers."""
    postgres.execute(_HOLD_UP)
    return postgres


@pytest.mark.parametrize("point", POINTS)
def test_a_writer_killed_during_a_merge_changes_nothing(
    point: str, stored: Past, stack: Stack, gate: Connection
) -> None:
    before = stored.readings(PASSWORD)
    gate.execute(f"{POINTS[point]} EXECUTE FUNCTION hold_up()")
    gate.execute("SELECT pg_advisory_lock(%s)", (GATE,))
    assert stored.look(PASSWORD) == 1
    writer = stack.start_writer()
    wait_until(lambda: gate.execute(_HELD_UP).fetchone() == (1,), what="a blocked writer")
    assert stored.readings(PASSWORD) == before
    writer.kill()
    writer.wait()
    gate.execute("SELECT pg_advisory_unlock(%s)", (GATE,))
    assert stored.sender.redis.llen(KEYS.compaction_orders) == 0
    wait_until(lambda: _nobody_else(gate), what="the end of its transaction")
    if point != "as it commits":  # from here on Postgres may commit without the writer
        assert stored.counts(PASSWORD) == [1] * NUMBER
    assert stored.readings(PASSWORD) == before
    stored.look(PASSWORD)
    stack.start_writer()
    wait_until(lambda: stored.counts(PASSWORD) == [NUMBER], what="compaction by another writer")
    assert stored.readings(PASSWORD) == before


def _nobody_else(gate: Connection) -> bool:
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"
    )
    return gate.execute(others).fetchone() == (0,)


def test_a_repeated_order_changes_nothing(stored: Past, other_writer: Writer) -> None:
    before = stored.readings(PASSWORD)
    assert stored.look(PASSWORD) == 1
    (order,) = stored.sender.redis.lrange(KEYS.compaction_orders, 0, -1)
    assert stored.work() == [CompactionOutcome.MERGED]
    rows = stored.rows("SELECT * FROM segments")
    for _ in range(2):
        stored.sender.redis.rpush(KEYS.compaction_orders, order)
        assert other_writer.compaction.run(other_writer.postgres()) == (CompactionOutcome.GONE, 0)
    assert stored.rows("SELECT * FROM segments") == rows
    assert stored.readings(PASSWORD) == before


def test_a_late_order_does_not_match_the_merged_segment(stored: Past) -> None:
    """A merged segment has the first id and the time of receipt of its oldest source."""
    before = stored.readings(PASSWORD)
    stored.look(PASSWORD)
    (late,) = stored.sender.redis.lrange(KEYS.compaction_orders, 0, -1)
    assert stored.work() == [CompactionOutcome.MERGED]
    stored.store(PASSWORD, each_second(noon(3) + 1_000_000, 5))
    stored.sender.redis.rpush(KEYS.compaction_orders, late)
    assert stored.work() == [CompactionOutcome.GONE]
    assert stored.readings(PASSWORD)[:NUMBER] == before


def test_two_writers_execute_the_same_orders(
    stored: Past, writer: Writer, other_writer: Writer
) -> None:
    for number in range(4):
        stored.store(PASSWORD, each_second(noon(4 + number), 1500), each=3)
    before = stored.readings(PASSWORD)
    assert stored.look(PASSWORD) == 5
    orders = stored.sender.redis.lrange(KEYS.compaction_orders, 0, -1)
    stored.sender.redis.delete(KEYS.compaction_orders)
    for order in orders:  # each order twice, concurrently
        stored.sender.redis.rpush(KEYS.compaction_orders, order, order)

    def work(one: Writer) -> list[CompactionOutcome]:
        done: list[CompactionOutcome] = []
        while (outcome := one.compaction.run(one.postgres())[0]) != CompactionOutcome.EMPTY:
            done.append(outcome)
        return done

    with ThreadPoolExecutor(2) as pool:
        outcomes = [each for done in pool.map(work, (writer, other_writer)) for each in done]
    assert len(outcomes) == 10
    assert set(outcomes) <= {CompactionOutcome.MERGED, CompactionOutcome.GONE}
    assert stored.readings(PASSWORD) == before
    stored.compact(PASSWORD)
    assert stored.readings(PASSWORD) == before
    # A writer skips segments that the other has locked, so one order may end as two segments.
    assert sum(stored.counts(PASSWORD)) == len(before)
    assert len(stored.counts(PASSWORD)) <= 10


def test_locked_rows_are_skipped(stored: Past, postgres_url: str) -> None:
    """Compaction never waits for the locks of retention or of another compaction: no deadlock."""
    before = stored.readings(PASSWORD)
    half = f"SELECT FROM segments WHERE interrogator_min < {before[450].interrogator_timestamp}"
    with psycopg.connect(postgres_url) as other:
        other.execute(f"{half} FOR UPDATE")
        stored.look(PASSWORD)
        assert stored.work() == [CompactionOutcome.MERGED]
        assert stored.counts(PASSWORD) == [1] * 450 + [450]
        other.rollback()
    assert stored.readings(PASSWORD) == before


def test_a_replayed_order_does_not_reuse_its_key(stored: Past, postgres_url: str) -> None:
    """A failover of Redis repeats an order: segments it did not merge are left to a new order."""
    before = stored.readings(PASSWORD)
    half = f"SELECT FROM segments WHERE interrogator_min < {before[300].interrogator_timestamp}"
    stored.look(PASSWORD)
    (order,) = stored.sender.redis.lrange(KEYS.compaction_orders, 0, -1)
    with psycopg.connect(postgres_url) as other:
        other.execute(f"{half} FOR UPDATE")
        assert stored.work() == [CompactionOutcome.MERGED]
        other.rollback()
    stored.sender.redis.rpush(KEYS.compaction_orders, order)
    assert stored.work() == [CompactionOutcome.GONE]
    assert stored.counts(PASSWORD) == [1] * 300 + [600]
    assert stored.look(PASSWORD) == 1
    assert stored.work() == [CompactionOutcome.MERGED]
    assert stored.readings(PASSWORD) == before


@pytest.mark.parametrize("how", ["is erased", "is being erased"])
def test_an_erased_vault_gets_no_segment(how: str, stored: Past, postgres_url: str) -> None:
    stored.look(PASSWORD)
    with psycopg.connect(postgres_url) as other:
        other.execute("DELETE FROM vaults")
        if how == "is erased":
            other.commit()
        assert stored.work() == [CompactionOutcome.GONE]
        other.execute("DELETE FROM segments")
        other.commit()
    assert stored.counts(PASSWORD) == []


def test_an_erasure_waits_for_a_running_merge(
    stored: Past, writer: Writer, gate: Connection, postgres_url: str
) -> None:
    gate.execute(f"{POINTS['after it inserted']} EXECUTE FUNCTION hold_up()")
    gate.execute("SELECT pg_advisory_lock(%s)", (GATE,))
    stored.look(PASSWORD)

    def erase() -> None:
        with psycopg.connect(postgres_url) as other:
            other.execute("DELETE FROM vaults")
            other.execute("DELETE FROM segments")

    with ThreadPoolExecutor(2) as pool:
        merged = pool.submit(writer.compaction.run, writer.postgres())
        wait_until(lambda: gate.execute(_HELD_UP).fetchone() == (1,), what="a blocked writer")
        erased = pool.submit(erase)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        wait_until(lambda: gate.execute(waiting).fetchone() == (2,), what="a waiting erasure")
        gate.execute("SELECT pg_advisory_unlock(%s)", (GATE,))
        assert merged.result(20) == (CompactionOutcome.MERGED, 0)
        erased.result(20)
    assert gate.execute("SELECT count(*) FROM segments").fetchone() == (0,)
