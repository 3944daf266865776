"""A migration that waits for a lock holds up no requests, and leaves nothing behind."""

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from iot_stores.postgres import OLDEST_REVISION, schema_revision
from iot_writer.schema import migrate
from support.recorded_version import FIXTURES, RecordedVersion
from support.waiting import wait_until

# What the API asks for at each opening of a vault. The limit is that of the role of the API.
_FIND_VAULT = "SELECT vault_id FROM vaults WHERE lookup = 'l'"
_LIMIT = "SET lock_timeout = '5s'"
MIGRATION_LOCK = 0x696F74
_WAITS = """
    SELECT EXISTS (
        SELECT FROM pg_locks WHERE NOT granted AND {condition}
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )
"""
_WAITS_FOR_VAULTS = _WAITS.format(condition="mode = 'AccessExclusiveLock'")
_WAITS_FOR_AUDIT = _WAITS.format(condition="relation = to_regclass('audit_log')")


@pytest.fixture
def old_url(empty_url: str) -> str:
    """A database of version 0.1."""
    RecordedVersion(FIXTURES / "version_0_1").restore_postgres(empty_url)
    return empty_url


@pytest.fixture
def dump(old_url: str) -> Iterator[psycopg.Connection]:
    """A transaction that holds the locks of pg_dump on `vaults`."""
    with psycopg.connect(old_url) as connection:
        connection.execute("LOCK TABLE vaults IN ACCESS SHARE MODE")
        yield connection


def ask(url: str, stopped: threading.Event) -> int:
    """Look for a vault until an event is set. Return how often. Raise an error if Postgres does."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_LIMIT)
        for number in itertools.count(1):
            connection.execute(_FIND_VAULT)
            if stopped.wait(0.05):
                return number
    raise AssertionError


def test_requests_are_answered_while_a_migration_waits(
    old_url: str, dump: psycopg.Connection
) -> None:
    stopped = threading.Event()
    with ThreadPoolExecutor(2) as pool, psycopg.connect(old_url, autocommit=True) as watch:
        asking = pool.submit(ask, old_url, stopped)
        migrating = pool.submit(migrate, old_url, wait=60)
        try:
            wait_until(
                lambda: watch.execute(_WAITS_FOR_VAULTS).fetchone() == (True,),
                what="a waiting lock",
            )
            end = time.monotonic() + 7  # longer than the limit of the API
            wait_until(lambda: time.monotonic() > end or asking.done(), what="the end")
            assert not migrating.done()
            dump.rollback()
            migrating.result()
        finally:
            dump.rollback()
            stopped.set()
        assert asking.result() > 20
        assert schema_revision(watch) >= int(OLDEST_REVISION)


def test_a_migration_gives_up_after_the_wait(old_url: str, dump: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.LockNotAvailable):
        migrate(old_url, wait=1)
    with psycopg.connect(old_url) as connection:
        assert schema_revision(connection) == 2
    dump.rollback()
    migrate(old_url)


def test_a_migration_waits_for_another_one_no_longer_than_wait(empty_url: str) -> None:
    with psycopg.connect(empty_url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
        with pytest.raises(psycopg.errors.LockNotAvailable):
            migrate(empty_url, wait=1)
        with ThreadPoolExecutor(1) as pool:
            migrating = pool.submit(migrate, empty_url, wait=60)
            with pytest.raises(TimeoutError):
                migrating.result(timeout=4)
            other.rollback()
            migrating.result()
    with psycopg.connect(empty_url) as connection:
        assert schema_revision(connection) >= int(OLDEST_REVISION)


def test_a_deadlock_is_tried_again(old_url: str) -> None:
    """The other transaction, too, locks a table and waits for another one."""
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(old_url, autocommit=True) as watch,
        # Postgres ends the transaction that has waited for its `deadlock_timeout`: the migration's.
        psycopg.connect(old_url, options="-c deadlock_timeout=60s") as other,
    ):
        other.execute("LOCK TABLE audit_log IN ROW EXCLUSIVE MODE")
        migrating = pool.submit(migrate, old_url, wait=60)
        try:
            wait_until(lambda: watch.execute(_WAITS_FOR_AUDIT).fetchone() == (True,), what="a lock")
            other.execute("LOCK TABLE vaults IN ACCESS SHARE MODE")
        finally:
            other.rollback()
        migrating.result()
        assert schema_revision(watch) >= int(OLDEST_REVISION)
