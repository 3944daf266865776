"""Writers chain every record of the audit log once, in one order, and publish the head."""

import threading
from typing import cast

import psycopg
import pytest

from integration.writer.audit_records import chain, record
from iot_models.settings import Settings
from iot_stores.audit_chain import BATCH, current_head
from iot_stores.audit_check import check_audit
from iot_stores.audit_head import AuditHead
from iot_stores.postgres import Connection
from iot_writer import jobs
from iot_writer.maintenance import audit_chainer
from iot_writer.schema import migrate
from iot_writer.writer import Writer
from support.keys import KEYS
from support.samples import sample_value

LOGGER = "iot_writer.maintenance.audit_chainer"


def _verified(writer: Writer, url: str) -> AuditHead | None:
    """Check the whole log with the published head. Return the head of the chain."""
    with psycopg.connect(url, autocommit=True) as connection:
        published = writer.stores.audit_head.read()
        return check_audit(connection, writer.keys.current(), published).head


def _places(writer: Writer) -> list[tuple[int, int]]:
    rows = writer.postgres().execute("SELECT sequence, record_id FROM audit_chain ORDER BY 1")
    return cast("list[tuple[int, int]]", rows.fetchall())


def _gauge(name: str) -> float | None:
    return sample_value(name)


def test_the_sweep_chains_new_records_and_publishes_the_head(
    writer: Writer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "current", lambda: writer)
    record(writer, 3)
    jobs.sweep_shards()
    record(writer, 2)
    jobs.sweep_shards()
    head = _verified(writer, postgres_url)
    assert head is not None
    assert head == writer.stores.audit_head.read() == current_head(writer.postgres())
    assert _places(writer) == [(number, number) for number in range(1, 6)]
    assert _gauge("iot_audit_head") == 5
    assert _gauge("iot_audit_head_link") == int.from_bytes(head.link[-6:], "big")
    assert _gauge("iot_audit_head_lost") == 0


def test_an_empty_log_has_no_head(writer: Writer, postgres_url: str) -> None:
    assert chain(writer) == 0
    assert _verified(writer, postgres_url) is None
    assert writer.redis.exists(KEYS.audit_head) == 0


def test_records_of_older_processes_and_late_commits_are_chained(
    writer: Writer, postgres_url: str
) -> None:
    """Ids do not say in which order transactions commit."""
    insert = "INSERT INTO audit_log (sealed) SELECT sealed FROM audit_log WHERE id = %s"
    record(writer, 1)
    with psycopg.connect(postgres_url) as late:
        writer.audit.record(late, "late")
        record(writer, 2)
        assert chain(writer) == 3
        late.commit()
    assert chain(writer) == 1
    assert _places(writer) == [(1, 1), (2, 3), (3, 4), (4, 2)]
    _verified(writer, postgres_url)
    writer.postgres().execute(insert, (1,))  # the statement of every earlier version
    assert chain(writer) == 1


def test_a_rolled_back_record_is_not_awaited(writer: Writer, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        writer.audit.record(connection, "never happened")
        connection.rollback()
    record(writer, 1)
    assert chain(writer) == 1
    _verified(writer, postgres_url)


def test_records_from_before_the_chain_are_chained(writer: Writer, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute("DROP VIEW audit_unchained")
        owner.execute("DROP TABLE audit_chain, audit_pending")
        owner.execute("DROP FUNCTION note_pending_audit CASCADE")
    record(writer, BATCH + 5)
    assert chain(writer) == 0  # a writer that runs before the migration
    migrate(postgres_url)
    migrate(postgres_url)
    assert chain(writer) == BATCH + 5
    head = _verified(writer, postgres_url)
    assert head is not None
    assert head.sequence == BATCH + 5


def test_writers_at_the_same_time_make_one_chain(
    writer: Writer, settings: Settings, postgres_url: str
) -> None:
    def work() -> None:
        other = Writer(settings)
        for _ in range(10):
            record(other, 3)
            chain(other)
        other.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chain(writer)
    head = _verified(writer, postgres_url)
    assert head is not None
    assert head.sequence == 4 * 30


def test_a_drain_does_not_wait_for_the_chain(writer: Writer, postgres_url: str) -> None:
    """A record is inserted while another process chains."""
    record(writer, 2)
    with psycopg.connect(postgres_url) as chaining:
        chaining.execute("SELECT pg_advisory_xact_lock(%s)", (0x696F7461756469,))
        chaining.execute("INSERT INTO audit_chain SELECT id, id, '' FROM audit_unchained")
        chaining.execute("DELETE FROM audit_pending")
        writer.postgres().execute("SET lock_timeout = '1s'")
        record(writer, 1)
        assert chain(writer) == 0  # the other process does it
        chaining.rollback()
    writer.postgres().execute("RESET lock_timeout")
    assert chain(writer) == 3
    _verified(writer, postgres_url)


def test_a_lost_head_stays_published_until_it_is_given_up(
    writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    record(writer, 3)
    chain(writer)
    published = writer.stores.audit_head.read()
    writer.postgres().execute("DELETE FROM audit_chain WHERE sequence = 3")
    writer.postgres().execute("DELETE FROM audit_log WHERE id = 3")
    record(writer, 1)
    assert chain(writer) == 1
    assert writer.stores.audit_head.read() == published
    assert _gauge("iot_audit_head_lost") == 1
    errors = [line for name, _, line in caplog.record_tuples if name == LOGGER]
    assert any(f"lacks the published head of the audit log ({published})" in x for x in errors)


def test_no_lower_head_is_published_if_links_are_deleted_meanwhile(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(writer, 3)
    chain(writer)
    published = writer.stores.audit_head.read()

    def delete_first(connection: Connection) -> AuditHead | None:
        connection.execute("DELETE FROM audit_chain WHERE sequence = 3")
        return current_head(connection)

    monkeypatch.setattr(audit_chainer, "current_head", delete_first)
    chain(writer)
    assert writer.stores.audit_head.read() == published
    assert _gauge("iot_audit_head_lost") == 1


def test_a_damaged_head_in_redis_is_reported_and_kept(writer: Writer) -> None:
    record(writer, 1)
    writer.redis.set(KEYS.audit_head, "nonsense")
    assert chain(writer) == 1
    assert writer.redis.get(KEYS.audit_head) == b"nonsense"
    assert _gauge("iot_audit_head_lost") == 1


@pytest.mark.parametrize("planted", [(2, b"short"), (0, bytes(37)), (2**63 - 1, bytes(37))])
def test_a_writer_publishes_no_planted_row_that_is_no_link(
    planted: tuple[int, bytes], writer: Writer
) -> None:
    """A head in Redis can always be read again."""
    if planted[0]:
        record(writer, 1)
        chain(writer)
    insert = "INSERT INTO audit_chain (sequence, record_id, link) VALUES (%s, 99, %s)"
    writer.postgres().execute(insert, planted)
    chain(writer)
    published = writer.stores.audit_head.read()
    assert published is None or published.sequence in {1, 2**63 - 1}


def test_planted_rows_stop_neither_the_sweep_nor_other_jobs(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs, "current", lambda: writer)
    record(writer, 1)
    writer.postgres().execute("INSERT INTO audit_chain VALUES (9223372036854775807, 99, 'x')")
    assert jobs.sweep_shards() == 0
    assert any("the audit log can't be chained" in line for _, _, line in caplog.record_tuples)
