"""Functions that bring Postgres into each state of the documentation."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from iot_tools.local.postgres_server import PostgresServer
from support.waiting import wait_until

USER, PASSWORD, DATABASE = "service", "right", "readings"
_END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"
_SESSIONS = "SELECT pid FROM pg_stat_activity WHERE usename = %s"
_BLOCKED = """
    SELECT count(*) FROM pg_stat_activity
    WHERE usename = %s AND application_name = 'iot-api' AND wait_event_type = 'Lock'
"""
_TABLES = ("vaults", "ingest_offsets", "segments")


@dataclass(frozen=True)
class ProvokedPostgres:
    """A server with a database that the user of the services owns."""

    server: PostgresServer

    @property
    def service_url(self) -> str:
        """Return the URL for the services."""
        return make_conninfo(self.server.url, dbname=DATABASE, user=USER, password=PASSWORD)

    def prepare(self) -> None:
        """Create the user and the database."""
        with self.admin("postgres") as admin:
            admin.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
            admin.execute(f"CREATE DATABASE {DATABASE} OWNER {USER}")

    def admin(self, database: str = DATABASE) -> psycopg.Connection[tuple[object, ...]]:
        """Return a connection of the administrator."""
        return psycopg.connect(make_conninfo(self.server.url, dbname=database), autocommit=True)

    def alter(self, statement: str) -> None:
        """Execute a statement as the administrator."""
        with self.admin("postgres") as admin:
            admin.execute(sql.SQL(statement))

    def end_sessions(self) -> None:
        """Terminate the sessions of the services."""
        with self.admin("postgres") as admin:
            before = admin.execute(_SESSIONS, (USER,)).fetchall()
            admin.execute(_END_SESSIONS, (USER,))
            wait_until(
                lambda: not {*before} & {*admin.execute(_SESSIONS, (USER,)).fetchall()},
                what="the end of these sessions",
            )

    @contextmanager
    def locked_vaults(self) -> Iterator[None]:
        """Block statements on vaults until the block ends."""
        with self.admin() as admin, admin.transaction():
            admin.execute("LOCK TABLE vaults")
            yield

    def blocked(self) -> int:
        """Return the number of sessions of the API that wait for a lock."""
        with self.admin() as admin:
            row = admin.execute(_BLOCKED, (USER,)).fetchone()
        assert row is not None
        return int(str(row[0]))


Provoked = Callable[[ProvokedPostgres], AbstractContextManager[None]]


@contextmanager
def read_only(postgres: ProvokedPostgres) -> Iterator[None]:
    """Make every new transaction read-only, even in open sessions."""
    postgres.alter("ALTER SYSTEM SET default_transaction_read_only = on")
    postgres.alter("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        with postgres.admin("postgres") as admin:
            admin.execute("SET transaction_read_only = off")
            admin.execute("ALTER SYSTEM RESET default_transaction_read_only")
        postgres.alter("SELECT pg_reload_conf()")


def altered(change: str, back: str, *, ends_sessions: bool = False) -> Provoked:
    """Return a function that provokes a state by one statement and ends it by another."""

    @contextmanager
    def provoke(postgres: ProvokedPostgres) -> Iterator[None]:
        postgres.alter(change)
        if ends_sessions:
            postgres.end_sessions()
        try:
            yield
        finally:
            postgres.alter(back)

    return provoke


@contextmanager
def no_permission(postgres: ProvokedPostgres) -> Iterator[None]:
    """Revoke the right to insert rows."""
    with postgres.admin() as admin:
        admin.execute(f"REVOKE INSERT ON vaults, segments FROM {USER}")
        try:
            yield
        finally:
            admin.execute(f"GRANT INSERT ON vaults, segments TO {USER}")


@contextmanager
def no_database(postgres: ProvokedPostgres) -> Iterator[None]:
    """Rename the database."""
    with postgres.admin("postgres") as admin:
        wait_until(lambda: _renamed(postgres, admin), what="a database without sessions")
        try:
            yield
        finally:
            admin.execute(f"ALTER DATABASE elsewhere RENAME TO {DATABASE}")


@contextmanager
def shutting_down(postgres: ProvokedPostgres) -> Iterator[None]:
    """Shut down Postgres, which waits for the session of the administrator."""
    server = postgres.server
    with postgres.admin("postgres") as admin:
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: _says(postgres, "shutting down"), what="the shutdown")
        admin.execute(_END_SESSIONS, (USER,))
        yield
    wait_until(lambda: not server.running, what="the end of the server")
    server.start()


def raised(sqlstate: str) -> Provoked:
    """Return a function that makes Postgres raise an error with this SQLSTATE, for rare states."""

    @contextmanager
    def provoke(postgres: ProvokedPostgres) -> Iterator[None]:
        with postgres.admin() as admin:
            admin.execute(
                "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"RAISE EXCEPTION 'provoked' USING ERRCODE = '{sqlstate}'; END $$"
            )
            for table in _TABLES:
                admin.execute(
                    f"CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON {table}"
                    " FOR EACH STATEMENT EXECUTE FUNCTION fail()"
                )
            try:
                yield
            finally:
                wait_until(lambda: _dropped(admin), what="the end of the provoked failure")

    return provoke


def _dropped(admin: psycopg.Connection[tuple[object, ...]]) -> bool:
    """Return whether the triggers could be dropped. A drain may lock their tables."""
    try:
        admin.execute("DROP FUNCTION fail CASCADE")
    except psycopg.errors.DeadlockDetected:
        return False
    return True


STATES: Mapping[str, Provoked] = {
    "read_only_sql_transaction": read_only,
    "too_many_connections": altered(
        f"ALTER ROLE {USER} CONNECTION LIMIT 0",
        f"ALTER ROLE {USER} CONNECTION LIMIT -1",
        ends_sessions=True,
    ),
    "invalid_authorization_specification": altered(
        f"ALTER ROLE {USER} PASSWORD 'another'",
        f"ALTER ROLE {USER} PASSWORD '{PASSWORD}'",
        ends_sessions=True,
    ),
    "invalid_catalog_name": no_database,
    "cannot_connect_now": shutting_down,
    "insufficient_privilege": no_permission,
    "disk_full": raised("53100"),
    "out_of_memory": raised("53200"),
    "io_error": raised("58030"),
    "internal_error": raised("XX000"),
    "query_canceled": raised("57014"),
    "lock_not_available": raised("55P03"),
    "deadlock_detected": raised("40P01"),
    "admin_shutdown": raised("57P01"),
    "crash_shutdown": raised("57P02"),
}
"""The function that provokes each state."""


def _renamed(postgres: ProvokedPostgres, admin: psycopg.Connection[tuple[object, ...]]) -> bool:
    postgres.end_sessions()
    with contextlib.suppress(psycopg.errors.ObjectInUse):
        admin.execute(f"ALTER DATABASE {DATABASE} RENAME TO elsewhere")
        return True
    return False


def _says(postgres: ProvokedPostgres, words: str) -> bool:
    try:
        postgres.admin("postgres").close()
    except psycopg.OperationalError as error:
        return words in str(error)
    return False
