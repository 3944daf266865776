"""Retention deletes only data that is older than its limit."""

import re

import psycopg
import pytest

from integration.writer.sending import Sender
from iot_models.audit_event import AuditEvent, describe
from iot_stores.months import DAY_MS, month_begin
from iot_stores.postgres import Connection
from iot_writer.maintenance.partitions import partition_name
from iot_writer.maintenance.retention import SESSION_DAYS, enforce
from iot_writer.writer import Writer
from support.clock import now
from support.draining import drain_all

PASSWORD = b"p"
AGES = (400, 100, 99, 70, 45, 31, 29, 1, 0)
"""Days since the receipt of each reading; the texts are 0, 1, 2, ..."""


@pytest.fixture
def aged(writer: Writer, sender: Sender) -> list[int]:
    """The times of receipt of the readings, each in a separate segment."""
    moments = [now() - days * DAY_MS for days in AGES]
    for moment in moments:
        sender.send_received(PASSWORD, moment)
        drain_all(writer)
    return moments


def _lines(writer: Writer) -> list[str]:
    return [describe(line) for _, _, line in writer.audit.latest(writer.postgres(), 10)]


def _accounted(writer: Writer, days: int) -> int:
    """Return the number of segments that retention deleted according to the audit log."""
    form = rf"retention deleted (\d+) segments received more than {days} days ago"
    found = [re.fullmatch(form, line) for line in _lines(writer)]
    return sum(int(each[1]) for each in found if each is not None)


def _is_there(writer: Writer, moment: int) -> bool:
    name = partition_name(month_begin(moment))
    row = writer.postgres().execute("SELECT to_regclass(%s) IS NOT NULL", (name,)).fetchone()
    assert row is not None
    return bool(row[0])


@pytest.mark.parametrize(("days", "kept"), [(30, 3), (60, 5), (99, 6), (3000, 9), (1, 1)])
def test_retention_deletes_only_older_readings(
    days: int, kept: int, aged: list[int], writer: Writer, sender: Sender
) -> None:
    deleted = len(aged) - kept
    assert enforce(writer.postgres(), writer.audit, days=days, redis_now=now()) == deleted
    assert sender.texts(PASSWORD) == [str(number) for number in range(deleted, len(aged))]
    assert _accounted(writer, days) == deleted
    assert enforce(writer.postgres(), writer.audit, days=days, redis_now=now()) == 0
    assert _accounted(writer, days) == deleted


def test_whole_months_are_dropped(aged: list[int], writer: Writer) -> None:
    assert _is_there(writer, aged[0])
    enforce(writer.postgres(), writer.audit, days=70, redis_now=now())
    assert not _is_there(writer, aged[0])
    assert not _is_there(writer, aged[1]) or month_begin(aged[1]) == month_begin(aged[3])
    assert _is_there(writer, aged[-1])


def test_an_interrupted_retention_is_audited(
    aged: list[int], writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention stops after its first transaction, for example at the time limit of the job."""
    record = writer.audit.record

    def once(connection: Connection, line: AuditEvent) -> None:
        if _lines(writer):
            raise TimeoutError
        record(connection, line)

    monkeypatch.setattr(writer.audit, "record", once)
    with pytest.raises(TimeoutError):
        enforce(writer.postgres(), writer.audit, days=1, redis_now=now())
    left = writer.postgres().execute("SELECT received_max FROM segments").fetchall()
    assert 1 < len(left) == len(aged) - _accounted(writer, 1) < len(aged)


def test_zero_days_keep_all_readings(aged: list[int], writer: Writer, sender: Sender) -> None:
    assert enforce(writer.postgres(), writer.audit, days=0, redis_now=now()) == 0
    assert len(sender.texts(PASSWORD)) == len(aged)
    assert _lines(writer) == []


def test_a_segment_with_one_young_reading_is_kept(writer: Writer, sender: Sender) -> None:
    moment = now()
    begin = month_begin(moment)
    sender.send_received(PASSWORD, max(begin, moment - 3 * DAY_MS))
    sender.send_received(PASSWORD, moment)
    drain_all(writer)
    assert enforce(writer.postgres(), writer.audit, days=1, redis_now=now()) == 0
    sender.check_all()


def test_segments_are_deleted_during_a_read(
    writer: Writer, sender: Sender, postgres_url: str
) -> None:
    moment = now()
    sender.send_received(PASSWORD, moment - 2 * DAY_MS)
    drain_all(writer)
    sender.send_received(PASSWORD, moment)
    drain_all(writer)
    days = 1 if month_begin(moment - 2 * DAY_MS) == month_begin(moment - DAY_MS) else 40
    with psycopg.connect(postgres_url) as reader, reader.cursor("held") as cursor:
        cursor.execute("SELECT first_id FROM segments")
        assert enforce(writer.postgres(), writer.audit, days=days, redis_now=now()) == (days == 1)
        assert len(cursor.fetchall()) == 2


def test_a_month_that_is_read_is_emptied_and_dropped_later(
    aged: list[int], writer: Writer, sender: Sender, postgres_url: str
) -> None:
    with psycopg.connect(postgres_url) as reader, reader.cursor("held") as cursor:
        cursor.execute("SELECT first_id FROM segments")
        assert enforce(writer.postgres(), writer.audit, days=30, redis_now=now()) == 6
        assert len(cursor.fetchall()) == len(aged)
        assert _is_there(writer, aged[0])
    assert len(sender.texts(PASSWORD)) == len(aged) - 6
    assert enforce(writer.postgres(), writer.audit, days=30, redis_now=now()) == 0
    assert not _is_there(writer, aged[0])


def test_old_sessions_are_deleted(writer: Writer, sender: Sender) -> None:
    sender.send(PASSWORD)
    drain_all(writer)
    connection = writer.postgres()
    for days, left in ((SESSION_DAYS - 1, 1), (SESSION_DAYS + 1, 0)):
        age = "UPDATE ingest_sessions SET seen_at = now() - %s * interval '1 day'"
        connection.execute(age, (days,))
        enforce(connection, writer.audit, days=0, redis_now=now())
        assert connection.execute("SELECT count(*) FROM ingest_sessions").fetchone() == (left,)


def test_a_session_that_is_still_used_is_kept(writer: Writer, sender: Sender) -> None:
    """A process may run for years: without its session, repeated entries would be stored again."""
    sender.send(PASSWORD)
    drain_all(writer)
    connection = writer.postgres()
    connection.execute("UPDATE ingest_sessions SET seen_at = '2020-01-01'")
    sender.send(PASSWORD)
    drain_all(writer)
    enforce(connection, writer.audit, days=0, redis_now=now())
    assert connection.execute("SELECT high FROM ingest_sessions").fetchall() == [(2,)]


@pytest.mark.parametrize("ahead", [-61 * DAY_MS, 61 * DAY_MS])
def test_a_wrong_clock_of_redis_deletes_nothing_early(
    writer: Writer, sender: Sender, ahead: int
) -> None:
    """A wrong clock of Redis deletes no segment and no session early."""
    sender.send(PASSWORD, 2)
    drain_all(writer)
    connection = writer.postgres()
    assert enforce(connection, writer.audit, days=30, redis_now=now() + ahead) == 0
    sender.check_all()


@pytest.mark.parametrize("days", [365, -365])
def test_a_session_is_dated_by_the_later_of_two_clocks(
    writer: Writer, sender: Sender, days: int
) -> None:
    """If one of the clocks was behind, its time is old once the clock is right again."""
    begin, received = now(), now() + days * DAY_MS
    sender.send_received(PASSWORD, received)
    drain_all(writer)
    seen = writer.postgres().execute(
        "SELECT extract(epoch FROM seen_at) * 1000 BETWEEN %s AND %s FROM ingest_sessions",
        (max(begin, received), max(now() + 1, received)),
    )
    assert seen.fetchone() == (True,)
