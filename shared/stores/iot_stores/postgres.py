"""The connections to Postgres."""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, LiteralString, Self, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolTimeout

from iot_models.errors import SettingsError
from iot_models.settings import Settings

from .store_states import POSTGRES_AWAY, is_server_state

SCHEMA_REVISION = "0004"
"""The newest schema that this code knows; `iot_writer.schema` brings a database to it.

Revisions are numbered, and each is made so that code of the one before works on it: while a new
version is rolled out, processes of the old one go on. On a schema two revisions ahead a process is
not ready.
"""
OLDEST_REVISION = "0003"
"""The oldest schema that this code works on: a database with vaults of version 0.1 stays at it
until processes of that version are gone (`iot_writer.maintenance.lookup_upgrade`)."""
CONNECT_SECONDS = 3
SHORT_QUERY_SECONDS = 10
"""Timeout of a statement that takes milliseconds, as a rule."""
WAIT_SECONDS = 3.0
"""How long a request waits for a free connection, or for Postgres to come back."""

_READ_ONLY = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean"
_LIVENESS = {
    "connect_timeout": CONNECT_SECONDS,
    # A peer that vanished without a word is found out in about ten seconds.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

RENEW_SECONDS = 1.0
"""While a state of Postgres lasts, connections are renewed this often at most."""

RECONNECT_SECONDS = 0.5
"""While no connection can be made, each request that waits lets the pool try again this often."""

AWAY = POSTGRES_AWAY

Connection = psycopg.Connection[tuple[object, ...]]
Result = TypeVar("Result")

# psycopg_pool logs each attempt to connect. Here the error is raised to those who wait, and logged.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


class PoolBusyError(PoolTimeout):
    """All connections of a pool were in use for too long. Postgres may be well."""


class _NotingConnection(psycopg.Connection[tuple[object, ...]]):
    """A connection of a pool, which has a class of its own: why it was not made is noted there."""

    failure: psycopg.Error | None = None

    @classmethod
    def connect(cls, conninfo: str = "", **options: Any) -> Self:
        try:
            connection = super().connect(conninfo, **options)
        except psycopg.Error as error:
            cls.failure = error
            raise
        cls.failure = None
        return connection


class Pool(ConnectionPool[Connection]):
    """A pool that tells whether its connections are in use, or why they can't be made.

    After a failover the name in the URL leads to the new primary, while open connections stay with
    the old one. So all connections are closed after an error that tells of a state of the server;
    the next ones are made anew, which resolves the name again.

    Sessions end without a word to an idle client: an administrator or `idle_session_timeout` ends
    them, PgBouncer restarts. So each connection is checked before it is lent. psycopg_pool's own
    check waits 1 s, then 2 s, between two checks: three ended sessions used up `WAIT_SECONDS`.
    """

    _lent = 0
    _renewed_at = 0.0

    def __init__(
        self, conninfo: str, *, check: Callable[[Connection], None], **options: Any
    ) -> None:
        class Pooled(_NotingConnection):
            pass

        self._made = Pooled
        self._check_before_lending = check
        super().__init__(conninfo, connection_class=Pooled, **options)

    @contextlib.contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[Connection]:
        """Lend a connection. Raises as `getconn`."""
        with super().connection(timeout) as connection:
            try:
                yield connection
            except AWAY as error:
                if is_server_state(error):
                    abandon(connection)
                    self._renew()
                raise

    def run_idempotent(self, work: Callable[[Connection], Result]) -> Result:
        """Do some work on a connection; once more, on another one, if its session ends meanwhile.

        What the first session did may have been committed: the work must be such that doing it
        twice is as good as once. Raises as `getconn`, and what `work` raises.
        """
        with self.connection() as connection:
            try:
                return work(connection)
            except AWAY:
                if not connection.broken:
                    raise
                self._renew()
        with self.connection() as connection:
            return work(connection)

    def getconn(self, timeout: float | None = None) -> Connection:
        """Take a connection whose session was alive a moment ago.

        Raises:
            PoolBusyError: all connections are in use.
            PoolTimeout: Postgres is away, with what it says, if it says anything.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        failures = 0
        while not self._is_alive(connection := self._unchecked(deadline)):
            failures += 1
            if failures > self.max_size:  # sessions that are new have ended, too
                time.sleep(RECONNECT_SECONDS)
        self._lent += 1
        return connection

    def _is_alive(self, connection: Connection) -> bool:
        """Whether a connection passes its check. If not, the pool makes others in place of all."""
        try:
            self._check_before_lending(connection)
        except BaseException as error:
            connection.close()
            super().putconn(connection)
            if not isinstance(error, psycopg.Error):
                raise
            self._made.failure = error
            self._renew()
            return False
        return True

    def _unchecked(self, deadline: float) -> Connection:
        while True:
            left = deadline - time.monotonic()
            # The pool gives up attempts to connect, and makes others only when it is asked. A
            # request that asks again goes to the end of the queue, so it waits for lent ones.
            patience = left if self._lent >= self.max_size else min(left, RECONNECT_SECONDS)
            try:
                return super().getconn(patience)
            except PoolTimeout as error:
                if patience < left:
                    continue
                if self._lent >= self.max_size:
                    raise PoolBusyError(str(error)) from None
                raise PoolTimeout(str(self._made.failure or error)) from None

    def putconn(self, conn: Connection) -> None:
        """Give a connection back."""
        self._lent -= 1
        super().putconn(conn)

    def _renew(self) -> None:
        now = time.monotonic()
        if now - self._renewed_at >= RENEW_SECONDS:
            self._renewed_at = now
            self.drain()


def abandon(connection: Connection) -> None:
    """Close a connection to a server that can't serve.

    PgBouncer would lend its own connection to that server to the next client. It closes the
    connections of clients that leave in the middle of a transaction.
    """
    with contextlib.suppress(psycopg.Error):
        if connection.info.transaction_status == TransactionStatus.IDLE:
            connection.execute("BEGIN")
    connection.close()


def short_query(
    connection: Connection, statement: LiteralString, parameters: Sequence[object] | None = None
) -> psycopg.Cursor[tuple[object, ...]]:
    """Execute one statement with a timeout, in one round trip.

    Two statements in one message are one transaction; SET LOCAL ends with it.
    """
    cursor = psycopg.ClientCursor(connection)
    cursor.execute(
        f"SET LOCAL statement_timeout = '{SHORT_QUERY_SECONDS}s'; {statement}", parameters
    )
    cursor.nextset()
    return cursor


def url_parts(url: str) -> dict[str, Any]:
    """The parts of `IOT_POSTGRES_URL`.

    A password with an @ or a / that is not written as %40 or %2F makes libpq take a part of it for
    another thing: such a URL is refused before any of it is repeated.

    Raises:
        SettingsError: it is no libpq URL.
    """
    try:
        parts: dict[str, Any] = conninfo_to_dict(url)
    except psycopg.Error:
        parts = {"port": "none"}
    names = f"{parts.get('host') or ''}{parts.get('dbname') or parts.get('user') or ''}"
    if not re.fullmatch(r"[\d,]+", str(parts.get("port") or "5432")) or "@" in names:
        # Raised here, so that no error of the parser, which holds the password, is its context.
        raise SettingsError(
            "IOT_POSTGRES_URL is not a libpq URL; special characters of its password must be "
            "written as %40 (@), %2F (/), %3A (:), %25 (%)"
        )
    return parts


def check_writable(connection: Connection) -> None:
    """Refuse a server that takes no writes.

    Raises:
        psycopg.errors.ReadOnlySqlTransaction: it is a standby, or read-only.
    """
    row = short_query(connection, _READ_ONLY).fetchone()
    if row is not None and row[0]:
        raise psycopg.errors.ReadOnlySqlTransaction("the server is in recovery, or read-only")


def connect_postgres(settings: Settings, *, name: str) -> Connection:
    """One connection that commits each statement unless told otherwise.

    Prepared statements are off, so that a pooler in transaction mode may stand between.

    Raises:
        SettingsError: the URL is none.
        psycopg.OperationalError: Postgres is away.
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

    Raises:
        SettingsError: the URL is none.
    """
    pool = Pool(
        _conninfo(settings, name),
        min_size=0,
        max_size=size,
        timeout=WAIT_SECONDS,
        max_idle=300,
        # Two attempts at once, no backoff: its seconds are longer than a restart of PgBouncer.
        reconnect_timeout=0,
        configure=_configure,
        check=check,
        kwargs={"autocommit": True},
        open=False,
    )
    pool.open(wait=False)
    return pool


def _conninfo(settings: Settings, name: str) -> str:
    parts = url_parts(settings.postgres_url)
    return make_conninfo(**{**parts, "application_name": name, **_LIVENESS})


def _configure(connection: Connection) -> None:
    connection.prepare_threshold = None


def schema_revision(connection: Connection) -> int:
    """The revision of the database's schema as a number; 0 when there is none.

    Raises:
        SettingsError: it is that of another application, which uses alembic as well.
    """
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    revision = str(row[0]) if row else "0"
    if not re.fullmatch("[0-9]+", revision):
        raise SettingsError("the database is another application's: use one of its own for this")
    return int(revision)


def check_schema(connection: Connection) -> None:
    """Refuse a database whose schema this code does not work on.

    Raises:
        SettingsError: the sentence tells what to do.
    """
    ours, found = int(SCHEMA_REVISION), schema_revision(connection)
    if found < int(OLDEST_REVISION):
        raise SettingsError(
            f"the database's schema is {f'{found:04}' if found else 'none'}, "
            f"this version needs {OLDEST_REVISION}: run `iot-sensor migrate`"
        )
    if found > ours + 1:
        raise SettingsError(
            f"the database's schema is {found:04}, this version knows {SCHEMA_REVISION} "
            "and works on the one after it: run a newer version"
        )
