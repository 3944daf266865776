"""Indexes that compaction left bloated are rebuilt."""

import logging

import psycopg
import pytest

from integration.compaction.past import Past, each_second, noon
from iot_writer import jobs
from iot_writer.maintenance import bloated_indexes
from iot_writer.maintenance.bloated_indexes import rebuild_bloated
from iot_writer.writer import Writer

PASSWORD = b"p"
_PAGES = """
    SELECT relname, pg_relation_size(indexes.oid) / 8192
    FROM pg_inherits JOIN pg_index ON indrelid = inhrelid
    JOIN pg_class AS indexes ON indexes.oid = indexrelid
    WHERE inhparent = 'segments'::regclass
"""


@pytest.fixture
def thinned_out(past: Past, monkeypatch: pytest.MonkeyPatch) -> Past:
    """Ten merged segments that replace thousands of small segments."""
    monkeypatch.setattr(bloated_indexes, "MIN_BLOATED_BYTES", 5 * 8192)
    sent = each_second(noon(3), 3000)
    for start in range(0, len(sent), 300):
        past.store(PASSWORD, sent[start : start + 300])
        past.compact(PASSWORD)
    for _ in range(2):  # the second VACUUM frees the pages that the first emptied
        past.writer.postgres().execute("VACUUM ANALYZE segments")
    return past


def _pages(past: Past) -> int:
    return sum(pages for _, pages in past.rows(_PAGES))


def test_bloated_indexes_are_rebuilt(thinned_out: Past, writer: Writer) -> None:
    before, readings = _pages(thinned_out), thinned_out.readings(PASSWORD)
    assert rebuild_bloated(writer.postgres()) >= 5
    after = _pages(thinned_out)
    assert after < before / 3
    assert rebuild_bloated(writer.postgres()) == 0
    assert _pages(thinned_out) == after
    assert thinned_out.readings(PASSWORD) == readings


def test_full_indexes_are_not_rebuilt(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bloated_indexes, "MIN_BLOATED_BYTES", 5 * 8192)
    past.store(PASSWORD, each_second(noon(3), 3000))
    past.writer.postgres().execute("VACUUM ANALYZE segments")
    assert _pages(past) > 100
    assert rebuild_bloated(past.writer.postgres()) == 0


def test_small_indexes_are_not_rebuilt(thinned_out: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bloated_indexes, "MIN_BLOATED_BYTES", 8 * 2**20)
    assert rebuild_bloated(thinned_out.writer.postgres()) == 0


def test_an_interrupted_rebuild_is_cleaned_up(
    thinned_out: Past, writer: Writer, postgres_url: str
) -> None:
    """A rebuild waits for running reads and may be killed while it waits."""
    impatient = "-c statement_timeout=300ms"
    with (
        psycopg.connect(postgres_url) as reader,
        psycopg.connect(postgres_url, options=impatient, autocommit=True) as broken,
    ):
        reader.execute("SELECT count(*) FROM segments")
        with pytest.raises(psycopg.errors.QueryCanceled):
            rebuild_bloated(broken)
    invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
    assert thinned_out.rows(invalid) == [(1,)]
    rebuild_bloated(writer.postgres())
    assert thinned_out.rows(invalid) == [(0,)]


def test_the_job_does_not_wait_for_the_rebuild(
    thinned_out: Past, writer: Writer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "current", lambda: writer)
    before = _pages(thinned_out)
    with psycopg.connect(postgres_url) as reader:
        reader.execute("SELECT count(*) FROM segments")
        assert jobs.rebuild_indexes() == "started"
        assert jobs.rebuild_indexes() == "still running"
        thinned_out.store(PASSWORD, each_second(noon(2), 3))  # drains continue
        assert len(thinned_out.readings(PASSWORD)) == 3003
    writer.bloated_indexes.wait(30)
    assert _pages(thinned_out) < before / 3
    assert jobs.rebuild_indexes() == "started"
    writer.bloated_indexes.wait(30)


def test_a_rebuild_without_postgres_is_logged(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away() -> None:
        raise psycopg.OperationalError("gone\nfor good")

    monkeypatch.setattr(writer.bloated_indexes, "_connect", away)
    with caplog.at_level(logging.WARNING):
        assert writer.bloated_indexes.start()
        writer.bloated_indexes.wait(30)
    assert "bloated indexes are not rebuilt: gone" in caplog.text
