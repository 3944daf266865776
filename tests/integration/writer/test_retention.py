"""Retention deletes what is older than it may be, and nothing else."""

import re

import psycopg
import pytest

from integration.writer.sending import Sender
from iot_stores.months import DAY_MS, month_begin
from iot_stores.postgres import Connection
from iot_writer.maintenance.partitions import partition_name
from iot_writer.maintenance.retention import SESSION_DAYS, enforce
from iot_writer.writer import Writer
from support.clock import now
from support.draining import drain_all

PASSWORD = b"p"
AGES = (400, 100, 99, 70, 45, 31, 29, 1, 0)
"""Days since each reading was received; their texts are 0, 1, 2, ..."""


@pytest.fixture
def aged(writer: Writer, sender: Sender) -> list[int]:
    """When each of the readings was received; each is a segment of its own."""
    moments = [now() - days * DAY_MS for days in AGES]
    for moment in moments:
        sender.send_received(PASSWORD, moment)
        drain_all(writer)
    return moments


def _lines(writer: Writer) -> list[str]:
    return [line for _, _, line in writer.audit.latest(writer.postgres(), 10)]


def _accounted(writer: Writer, days: int) -> int:
    """How many segments the audit log says that retention deleted."""
    form = rf"retention deleted (\d+) segments received more than {days} days ago"
    found = [re.fullmatch(form, line) for line in _lines(writer)]
    return sum(int(each[1]) for each in found if each is not None)


def _is_there(writer: Writer, moment: int) -> bool:
    name = partition_name(month_begin(moment))
    row = writer.postgres().execute("SELECT to_regclass(%s) IS NOT NULL", (name,)).fetchone()
    assert row is not None
    return bool(row[0])


@pytest.mark.parametrize(("days", "kept"), [(30, 3), (60, 5), (99, 6), (3000, 9), (1, 1)])
def test_what_is_older_goes_and_the_rest_stays(
    days: int, kept: int, aged: list[int], writer: Writer, sender: Sender
) -> None:
    deleted = len(aged) - kept
    assert enforce(writer.postgres(), writer.audit, days=days, redis_now=now()) == deleted
    assert sender.texts(PASSWORD) == [str(number) for number in range(deleted, len(aged))]
    assert _accounted(writer, days) == deleted
    assert enforce(writer.postgres(), writer.audit, days=days, redis_now=now()) == 0
    assert _accounted(writer, days) == deleted


def test_whole_months_go_as_tables(aged: list[int], writer: Writer) -> None:
    assert _is_there(writer, aged[0])
    enforce(writer.postgres(), writer.audit, days=70, redis_now=now())
    assert not _is_there(writer, aged[0])
    assert not _is_there(writer, aged[1]) or month_begin(aged[1]) == month_begin(aged[3])
    assert _is_there(writer, aged[-1])


def test_what_went_is_accounted_for_however_it_ends(
    aged: list[int], writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off after the first transaction, as by the job's limit of time."""
    record = writer.audit.record

    def once(connection: Connection, line: str) -> None:
        if _lines(writer):
            raise TimeoutError
        record(connection, line)

    monkeypatch.setattr(writer.audit, "record", once)
    with pytest.raises(TimeoutError):
        enforce(writer.postgres(), writer.audit, days=1, redis_now=now())
    left = writer.postgres().execute("SELECT received_max FROM segments").fetchall()
    assert 1 < len(left) == len(aged) - _accounted(writer, 1) < len(aged)


def test_no_days_keep_all(aged: list[int], writer: Writer, sender: Sender) -> None:
    assert enforce(writer.postgres(), writer.audit, days=0, redis_now=now()) == 0
    assert len(sender.texts(PASSWORD)) == len(aged)
    assert _lines(writer) == []


def test_a_segment_with_one_young_reading_stays(writer: Writer, sender: Sender) -> None:
    moment = now()
    begin = month_begin(moment)
    sender.send_received(PASSWORD, max(begin, moment - 3 * DAY_MS))
    sender.send_received(PASSWORD, moment)
    drain_all(writer)
    assert enforce(writer.postgres(), writer.audit, days=1, redis_now=now()) == 0
    sender.check_all()


def test_single_segments_go_while_a_reader_is_at_them(
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


def test_a_month_that_is_read_is_emptied_now_and_dropped_another_time(
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


def test_sessions_that_ended_long_ago_are_forgotten(writer: Writer, sender: Sender) -> None:
    sender.send(PASSWORD)
    drain_all(writer)
    connection = writer.postgres()
    for days, left in ((SESSION_DAYS - 1, 1), (SESSION_DAYS + 1, 0)):
        age = "UPDATE ingest_sessions SET seen_at = now() - %s * interval '1 day'"
        connection.execute(age, (days,))
        enforce(connection, writer.audit, days=0, redis_now=now())
        assert connection.execute("SELECT count(*) FROM ingest_sessions").fetchone() == (left,)


@pytest.mark.parametrize("ahead", [-61 * DAY_MS, 61 * DAY_MS])
def test_a_clock_of_redis_that_is_wrong_deletes_nothing_early(
    writer: Writer, sender: Sender, ahead: int
) -> None:
    """Nor does Postgres's forget a session early, which was behind as it was seen."""
    sender.send(PASSWORD, 2)
    drain_all(writer)
    connection = writer.postgres()
    assert enforce(connection, writer.audit, days=30, redis_now=now() + ahead) == 0
    sender.check_all()


def test_a_session_is_seen_at_the_later_of_two_clocks(writer: Writer, sender: Sender) -> None:
    """Postgres's was behind, so its `now()` is long ago by the time it is right again."""
    in_a_year = now() + 365 * DAY_MS
    sender.send_received(PASSWORD, in_a_year)
    drain_all(writer)
    seen = writer.postgres().execute(
        "SELECT extract(epoch FROM seen_at) * 1000 = %s FROM ingest_sessions", (in_a_year,)
    )
    assert seen.fetchone() == (True,)
