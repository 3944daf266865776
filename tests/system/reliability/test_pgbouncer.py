"""The service works through PgBouncer in transaction mode. Migrations connect directly."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from support.stack import MakeStack, Stack
from support.waiting import wait_until
from system.reliability.devices import Fleet
from system.reliability.pgbouncer import POOL, PgBouncer, find_pgbouncer

pytestmark = pytest.mark.skipif(
    find_pgbouncer() is None, reason="pgbouncer is not installed: apt-get install pgbouncer"
)

COUNT = 30_000


@pytest.fixture
def pgbouncer(postgres_url: str, tmp_path: Path) -> Iterator[PgBouncer]:
    """A PgBouncer in front of the empty, migrated database."""
    made = PgBouncer(tmp_path / "pgbouncer", postgres_url)
    yield made
    made.stop()


@pytest.fixture
def stack(make_stack: MakeStack, pgbouncer: PgBouncer) -> Stack:
    """The service with PgBouncer in front of its database."""
    return make_stack({"IOT_POSTGRES_URL": pgbouncer.url}, writers=2)


def test_readings_are_stored_and_read_through_pgbouncer(
    stack: Stack, postgres: psycopg.Connection
) -> None:
    with Fleet(6, [stack.port]) as fleet:
        fleet.go_on(10)
    fleet.assert_no_request_failed()
    fleet.check(stack.read)
    assert stack.request("GET", "/api/iot/maxtime").status == 200
    assert stack.request("GET", "/api/audit").status == 200
    row = postgres.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    ).fetchone()
    assert row is not None
    assert row[0] <= POOL + 1


def test_concurrent_long_reads_are_complete(stack: Stack) -> None:
    """Each read is one transaction with a cursor. The reads need more connections than exist."""
    rows = [
        {"data": {"db_password": "p", "interrogator_time": number, "freeform": number}}
        for number in range(COUNT)
    ]
    for start in range(0, COUNT, 10_000):
        assert stack.put(rows[start : start + 10_000]).status == 201
    wait_until(lambda: len(stack.read("p", "/last/40000")) == COUNT, what="all readings")
    with ThreadPoolExecutor(POOL + 3) as pool:
        answers = list(pool.map(lambda _: stack.read("p"), range(POOL + 3)))
    for answer in answers:
        assert [row["interrogator_timestamp"] for row in answer] == list(range(COUNT))
