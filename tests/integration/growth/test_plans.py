"""The index and the partitions that each statement uses.

The histories are large enough for the planner to choose by cost: no plan type is disabled.
"""

from collections.abc import Callable, Iterator

import pytest

from integration.growth.conftest import SHAPES, Histories
from integration.growth.histories import ASKED, FIRST_MONTH, spread
from integration.growth.plans import Plan, planned
from iot_stores import history, ledger
from iot_stores.history import PageRange, ReadFilter
from iot_stores.months import month_begin, next_month
from iot_stores.postgres import Connection
from iot_writer.maintenance.partitions import partition_begins, partition_name

Ask = Callable[[Connection], object]


def _relative(connection: Connection, low: float, high: float) -> list[object]:
    least, greatest = spread(connection)
    width = greatest - least
    question = ReadFilter(least + int(low * width), least + int(high * width))
    return list(history.select(connection, ASKED, question))


def _received(connection: Connection, seconds: int) -> list[object]:
    end = connection.execute("SELECT max(received_max) FROM segments").fetchone()
    assert end is not None
    assert isinstance(end[0], int)
    return list(history.select(connection, ASKED, ReadFilter(received_low=end[0] - seconds * 1000)))


ASKS: dict[str, tuple[Ask, set[str]]] = {
    "all": (lambda db: list(history.select(db, ASKED, ReadFilter())), {"segments_in_order"}),
    "latest": (
        lambda db: list(history.select(db, ASKED, ReadFilter(), PageRange(descending=True))),
        {"segments_latest"},
    ),
    "the first hundredth": (lambda db: _relative(db, 0, 0.01), {"segments_by_relative"}),
    "a hundredth in the middle": (lambda db: _relative(db, 0.5, 0.51), {"segments_by_relative"}),
    "from the last hundredth on": (lambda db: _relative(db, 0.99, 9), {"segments_by_relative"}),
    "the last minute": (lambda db: _received(db, 60), {"segments_by_received"}),
    "the last ten days": (lambda db: _received(db, 864_000), {"segments_by_received"}),
    "maxtime": (history.max_relative_timestamp, {"segments_maxtime"}),
    "maxtime of a vault": (
        lambda db: history.max_relative_timestamp(db, ASKED),
        {"segments_by_relative"},
    ),
}
GROWN = [name for name in SHAPES if name != "base"]


def last(plans: list[Plan]) -> Plan:
    """Return the plan of the last statement; earlier statements only find its parameters."""
    return plans[-1]


@pytest.mark.parametrize("shape", GROWN)
@pytest.mark.parametrize("ask", ASKS)
def test_each_query_uses_its_index(ask: str, shape: str, history_of: Histories) -> None:
    connection = history_of(shape)
    run, indexes = ASKS[ask]
    with planned(connection) as plans:
        run(connection)
    plan = last(plans)
    assert plan.seq_scans == set()
    assert plan.indexes == indexes


@pytest.fixture
def misled(history_of: Histories) -> Iterator[Connection]:
    """A connection whose statistics claim that there are two vaults."""
    connection = history_of("others")
    tables = [partition_name(begin) for begin in partition_begins(connection)]
    with connection.transaction(force_rollback=True):
        for table in tables:
            connection.execute(f"ALTER TABLE {table} ALTER vault_id SET (n_distinct = 2)")
            connection.execute(f"ALTER TABLE {table} ALTER vault_id SET STATISTICS 0")
            connection.execute(f"ANALYZE {table}")
        yield connection


@pytest.mark.parametrize("ask", ASKS)
def test_wrong_statistics_do_not_change_the_index(ask: str, misled: Connection) -> None:
    run, indexes = ASKS[ask]
    with planned(misled) as plans:
        run(misled)
    plan = last(plans)
    assert (plan.seq_scans, plan.indexes) == (set(), indexes)


@pytest.mark.parametrize("ask", ASKS)
def test_a_generic_plan_does_not_change_the_index(ask: str, history_of: Histories) -> None:
    """Postgres makes generic plans for prepared statements that run often."""
    connection = history_of("others")
    run, indexes = ASKS[ask]
    with connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        with planned(connection) as plans:
            run(connection)
    plan = last(plans)
    assert (plan.seq_scans, plan.indexes) == (set(), indexes)


def _months(plan: Plan) -> set[str]:
    return {table for table in plan.tables if table.startswith("segments_")}


def test_a_range_of_receipt_scans_only_its_months(history_of: Histories) -> None:
    connection = history_of("months")
    every = [partition_name(begin) for begin in partition_begins(connection)]
    assert len(every) == SHAPES["months"].months
    for days, months in ((1 / 1440, 1), (1, 1), (20, 1), (40, 2), (100, 4)):
        with planned(connection) as plans:
            _received(connection, int(days * 86_400))
        assert _months(last(plans)) == set(every[-months:]), days
    with planned(connection) as plans:
        list(history.select(connection, ASKED, ReadFilter()))
    assert _months(last(plans)) == set(every)


def test_months_begin_where_their_partitions_begin() -> None:
    """Pruning by time of receipt depends on equal boundaries."""
    begin = FIRST_MONTH
    for _ in range(40):
        assert month_begin(next_month(begin) - 1) == begin
        begin = next_month(begin)


def test_the_ledger_uses_its_primary_keys(history_of: Histories) -> None:
    connection = history_of("base")
    fill = """
        INSERT INTO ingest_sessions
        SELECT shard, sha256(number::text::bytea), number, '{}'
        FROM generate_series(0, 7) AS shard, generate_series(1, 5000) AS number
    """
    with connection.transaction(force_rollback=True):
        connection.execute(fill)
        connection.execute("ANALYZE ingest_sessions")
        sessions = connection.execute("SELECT session FROM ingest_sessions LIMIT 20").fetchall()
        known = [session for (session,) in sessions if isinstance(session, bytes)]
        with planned(connection) as plans:
            numbers = ledger.begin_drain(connection, [], 8, {(3, each) for each in known}).sessions
        assert len(numbers) == len(known)
        assert [(plan.seq_scans, plan.indexes) for plan in plans] == [(set(), {"primary key"})]
        assert plans[0].buffers < 5 * len(known)
