"""The partitions of the history are created once, before they are needed."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import psycopg

from integration.writer.sending import Sender
from iot_stores.months import month_begin, next_month
from iot_stores.postgres import Connection
from iot_writer.maintenance.partitions import (
    MONTHS_AHEAD,
    ensure_months_ahead,
    ensure_partition,
    partition_name,
)
from iot_writer.writer import Writer
from support.clock import now
from support.draining import drain_all

NEW_YEAR = 1_798_761_600_000
FAR = 2_840_140_800_000
"""The first moment of January 2060."""

_PARTITIONS = (
    "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'segments'::regclass"
)


def partitions(connection: Connection) -> set[str]:
    """Return the names of the tables of all months."""
    return {cast("str", row[0]) for row in connection.execute(_PARTITIONS)}


def test_partitions_are_created_ahead_and_once(writer: Writer) -> None:
    connection = writer.postgres()
    assert ensure_months_ahead(connection, now()) == MONTHS_AHEAD
    begin = month_begin(int(time.time() * 1000))
    months = [begin, next_month(begin), next_month(next_month(begin))]
    assert partitions(connection) == set(map(partition_name, months))
    assert ensure_months_ahead(connection, now()) == 0
    assert len(partitions(connection)) == MONTHS_AHEAD


def test_the_partition_of_a_far_month_is_created_by_its_drain(
    writer: Writer, sender: Sender
) -> None:
    sender.send_received(b"p", FAR + 5)
    drain_all(writer)
    assert partitions(writer.postgres()) == {"segments_206001"}
    sender.check_all()


def test_concurrent_writers_create_a_partition_once(writer: Writer, postgres_url: str) -> None:
    def make(begin: int) -> bool:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            return ensure_partition(connection, begin)

    months = [NEW_YEAR]
    for _ in range(5):
        months.append(next_month(months[-1]))
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, [month for month in months for _ in range(5)]))
    assert sum(made) == len(months)
    assert partitions(writer.postgres()) == set(map(partition_name, months))


def test_a_drain_over_new_year_fills_two_months(writer: Writer, sender: Sender) -> None:
    for received in (NEW_YEAR - 2, NEW_YEAR - 1, NEW_YEAR, NEW_YEAR + 1):
        sender.send_received(b"p", received)
    drain_all(writer)
    sender.check_all()
    connection = writer.postgres()
    for table, bounds in (
        ("segments_202612", [(NEW_YEAR - 2, NEW_YEAR - 1, 2)]),
        ("segments_202701", [(NEW_YEAR, NEW_YEAR + 1, 2)]),
    ):
        statement = psycopg.sql.SQL("SELECT received_min, received_max, count FROM {}")
        found = connection.execute(statement.format(psycopg.sql.Identifier(table)))
        assert found.fetchall() == bounds


def test_a_partition_is_created_during_a_read(
    writer: Writer, sender: Sender, postgres_url: str
) -> None:
    sender.send_received(b"p", NEW_YEAR)
    drain_all(writer)
    with psycopg.connect(postgres_url) as reader, reader.cursor("held") as cursor:
        cursor.execute("SELECT first_id FROM segments")
        sender.send_received(b"p", next_month(NEW_YEAR))
        drain_all(writer)
        assert len(cursor.fetchall()) == 1
    sender.check_all()


def test_a_dropped_partition_is_created_again(writer: Writer, sender: Sender) -> None:
    sender.send_received(b"p", NEW_YEAR)
    drain_all(writer)
    writer.postgres().execute("DROP TABLE segments_202701")
    sender.numbers.clear()
    for received in range(NEW_YEAR + 1, NEW_YEAR + 4):
        sender.send_received(b"q", received)
    drain_all(writer)
    sender.check_all()
    assert sender.backlog.state().dead_letters == 0
