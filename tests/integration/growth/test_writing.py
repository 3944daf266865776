"""The cost of drains and retention in Postgres does not grow with the history."""

import json
import os
import time

from integration.growth.conftest import Sending
from integration.growth.histories import vacuum
from integration.growth.touched import touching
from integration.writer.sending import SENDER, Sender
from iot_api.ingest.parser import Batch
from iot_cipher.encryption import Sealer
from iot_models.errors import UnavailableError
from iot_models.reading import ReadingColumns, int64s
from iot_stores.months import month_begin, next_month
from iot_stores.postgres import Connection
from iot_writer.maintenance.partitions import partition_name
from iot_writer.maintenance.retention import enforce
from iot_writer.writer import Writer
from support.clock import now
from support.draining import drain_all

PASSWORD = b"p"
DAY_MS = 86_400_000
_UPDATES = """
    SELECT sum(n_tup_upd), sum(n_tup_hot_upd), sum(pg_relation_size(relid) + pg_indexes_size(relid))
    FROM pg_stat_user_tables WHERE relname LIKE 'ingest%'
"""


def _updates(connection: Connection) -> tuple[int, int, int]:
    connection.execute("SELECT pg_stat_force_next_flush()")
    connection.execute("SELECT pg_stat_clear_snapshot()")
    row = connection.execute(_UPDATES).fetchone()
    assert row is not None
    updated, hot, size = (int(str(value or 0)) for value in row)
    return updated, hot, size


def test_the_ledger_does_not_grow_with_drains(writer: Writer, sender: Sender) -> None:
    """Updates reuse the pages of the rows (HOT): no index grows, and no vacuum is needed."""
    connection = writer.postgres()
    sealers = [Sealer(writer.keys) for _ in range(4)]
    sizes = []
    for round_ in range(120):
        for sealer in sealers:
            sender.backlog.append([sender.seal(PASSWORD, [round_], sealer=sealer)])
        drain_all(writer)
        if round_ in {19, 119}:
            sizes.append(_updates(connection)[2])
    updated, hot, size = _updates(connection)
    assert updated > 500
    assert hot == updated
    assert sizes == [size, size]


def test_a_full_backlog_creates_few_sessions(
    environment: dict[str, str], sending_on: Sending, writer: Writer
) -> None:
    """Refused requests give their entries back; rows of sessions are kept for months."""
    environment["IOT_BACKLOG_MAX_BYTES"] = str(2**20)
    sender = sending_on(environment)
    intake, refused, taken = sender.service.intake, 0, 0
    for _ in range(40):
        while True:
            noise = json.dumps(os.urandom(100_000).hex()).encode()
            readings = ReadingColumns(int64s([0]), int64s([0]), noise)
            try:
                taken += intake.accept([Batch(PASSWORD, readings)], SENDER).count
            except UnavailableError:
                refused += 1
                break
        drain_all(writer)
    assert refused == 40 < taken
    rows = "SELECT count(*), max(cardinality(missing)) FROM ingest_sessions"
    assert writer.postgres().execute(rows).fetchone() == (1, refused - 1)


def test_a_drain_costs_the_same_on_a_long_history(writer: Writer, sender: Sender) -> None:
    connection = writer.postgres()

    def drain() -> int:
        sender.send(PASSWORD, 10)
        with touching(connection) as touched:
            drain_all(writer)
        assert touched.scanned <= {"ingest_offsets"}  # one row per shard
        return touched.pages

    sender.send(PASSWORD, 10)
    drain_all(writer)  # creates the partition of the month
    before = min(drain() for _ in range(4))
    connection.execute("CREATE TEMP TABLE one AS SELECT * FROM segments LIMIT 1")
    connection.execute("UPDATE one SET vault_id = gen_random_uuid()")
    many = """
        INSERT INTO segments SELECT gen_random_uuid(), first_id + number, last_id + number,
            received_min, received_max, relative_min + number, relative_max + number,
            interrogator_min, interrogator_max, shard, count, payload
        FROM one, generate_series(1, 30000) AS number
    """
    connection.execute(many)
    # The least of several drains: now and then a row splits a page of an index, which costs more.
    # Nine indexes are one level deeper now.
    assert min(drain() for _ in range(4)) <= before + 12


def _aged(connection: Connection, sender: Sender, writer: Writer) -> int:
    """Create two months with a segment a minute, a day of them too old; return the cutoff."""
    now = int(time.time() * 1000)
    begin = month_begin(month_begin(now) - 40 * DAY_MS)
    for month in (begin, next_month(begin)):
        sender.send_received(PASSWORD, month)
        drain_all(writer)  # creates the partition of the month
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS one AS SELECT * FROM segments")
        fill = """
            INSERT INTO segments SELECT vault_id, first_id + number, last_id + number,
                %(begin)s + number * 60000, %(begin)s + number * 60000, relative_min, relative_max,
                interrogator_min, interrogator_max, shard, count, payload
            FROM one, generate_series(1, 30000) AS number
        """
        connection.execute(fill, {"begin": month})
    return begin + DAY_MS


def test_retention_reads_only_the_rows_it_deletes(
    writer: Writer, sender: Sender, postgres_url: str
) -> None:
    connection = writer.postgres()
    cutoff = _aged(connection, sender, writer)
    vacuum(postgres_url)
    days = (int(time.time() * 1000) - cutoff) // DAY_MS
    month = partition_name(month_begin(cutoff))
    pages = connection.execute("SELECT relpages FROM pg_class WHERE relname = %s", (month,))
    (size,) = pages.fetchone() or (0,)
    assert isinstance(size, int)
    with touching(connection) as touched:
        deleted = enforce(connection, writer.audit, days=days, redis_now=now())
    assert 1400 < deleted < 3000
    assert "segments" not in touched.scanned
    assert touched.partitions & {month, partition_name(next_month(month_begin(cutoff)))} == {month}
    # Rows are found by their position, and deletion visits each row twice.
    assert touched.pages < 3 * deleted + size
    with touching(connection) as again:
        enforce(connection, writer.audit, days=days, redis_now=now())
    assert again.pages < size // 2
