"""The connections to Postgres."""

from collections.abc import Callable

import psycopg
from psycopg_pool import ConnectionPool

from iot_models.errors import SettingsError
from iot_models.settings import Settings

SCHEMA_REVISION = "0001"
"""The schema this code reads and writes; `iot_writer.schema` brings a database to it.

Revisions are numbered, and each is made so that code of the one before works on it: while a new
version is rolled out, processes of the old one go on.
"""

CONNECT_SECONDS = 3
WAIT_SECONDS = 3.0
"""How long a request waits for a free connection, or for Postgres to come back."""

_LIVENESS = {
    "connect_timeout": CONNECT_SECONDS,
    # A peer that vanished without a word is found out in about ten seconds.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

AWAY = (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction)
"""Raised while Postgres can't serve (gone, starting, full, read-only): no defect of ours."""

Connection = psycopg.Connection[tuple[object, ...]]
Pool = ConnectionPool[Connection]


def connect_postgres(settings: Settings, *, name: str) -> Connection:
    """One connection that commits each statement unless told otherwise.

    Prepared statements are off, so that a pooler in transaction mode may stand between.
    """
    connection: Connection = psycopg.connect(_conninfo(settings, name), autocommit=True)
    _configure(connection)
    return connection


def postgres_pool(
    settings: Settings,
    *,
    name: str,
    size: int,
    check: Callable[[Connection], None] = ConnectionPool.check_connection,
) -> Pool:
    """A pool of at most `size` connections, opened as they are needed.

    Each is checked before it is lent: `check` raises when a connection is no good.
    """
    pool: Pool = ConnectionPool(
        _conninfo(settings, name),
        min_size=0,
        max_size=size,
        timeout=WAIT_SECONDS,
        max_idle=300,
        reconnect_timeout=WAIT_SECONDS,
        configure=_configure,
        check=check,
        kwargs={"autocommit": True},
        open=False,
    )
    pool.open(wait=False)
    return pool


def _conninfo(settings: Settings, name: str) -> str:
    return psycopg.conninfo.make_conninfo(settings.postgres_url, application_name=name, **_LIVENESS)


def _configure(connection: Connection) -> None:
    connection.prepare_threshold = None


def found_schema(connection: Connection) -> int:
    """The revision of the database's schema as a number; 0 when there is none."""
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    return int(str(row[0])) if row else 0


def check_schema(connection: Connection) -> None:
    """Refuse a database whose schema is neither the one this code knows nor the next one.

    Raises:
        SettingsError: the sentence tells what to do.
    """
    ours, found = int(SCHEMA_REVISION), found_schema(connection)
    if found < ours:
        raise SettingsError(
            f"the database's schema is {f'{found:04}' if found else 'none'}, "
            f"this version needs {SCHEMA_REVISION}: run `iot-sensor migrate`"
        )
    if found > ours + 1:
        raise SettingsError(
            f"the database's schema is {found:04}, this version knows {SCHEMA_REVISION} "
            "and works on the one after it: run a newer version"
        )
