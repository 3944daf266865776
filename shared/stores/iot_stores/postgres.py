"""Connections to Postgres: the pool, single connections, and the check of the schema."""

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

from iot_models import metrics, tracing
from iot_models.errors import SettingsError
from iot_models.settings import Settings

from .store_states import POSTGRES_UNAVAILABLE, is_server_state

SCHEMA_REVISION = "0004"
"""The newest schema that this code knows. `iot_writer.schema` migrates a database to it.

Code of one revision also works on the next revision, so old processes continue during a rolling
update. A process is not ready on a schema that is two or more revisions ahead.
"""
OLDEST_REVISION = "0003"
"""The oldest schema that this code works on. A database with vaults of version 0.1 stays at this
revision until processes of that version have ended (`iot_writer.maintenance.lookup_upgrade`)."""
CONNECT_SECONDS = 3
SHORT_QUERY_SECONDS = 10
"""Timeout of statements that usually take milliseconds."""
WAIT_SECONDS = 3.0
"""Maximum time that a request waits for a free connection, or for Postgres to come back."""

IDLE_LIMIT: LiteralString = "SET LOCAL idle_in_transaction_session_timeout = '10s'"
"""Ends the transaction of a client that hangs between two statements, or whose machine is lost.
SET LOCAL works through a pooler in transaction mode."""
TIMEOUTS: LiteralString = f"SET LOCAL statement_timeout = '30s'; {IDLE_LIMIT}"
"""`IDLE_LIMIT`, and a timeout of each statement. The timeout also ends the transaction of a client
that hangs in the middle of a COPY."""

_READ_ONLY = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean"
_LIVENESS = {
    "connect_timeout": CONNECT_SECONDS,
    # A peer that vanished (power loss, dropped packets) is detected within about ten seconds.
    # keepalives cover an idle connection, tcp_user_timeout a connection with unacknowledged data.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

MAX_SESSIONS = 3
"""Maximum number of sessions that `run_idempotent` uses for one call, one after the other."""
RENEW_SECONDS = 1.0
"""Shortest time between two renewals of all connections while Postgres can't serve."""

RECONNECT_SECONDS = 0.5
"""Interval at which a waiting request makes the pool try to connect again."""

Connection = psycopg.Connection[tuple[object, ...]]
CheckTimeout = Callable[[], contextlib.AbstractContextManager[object]]
Result = TypeVar("Result")

# psycopg_pool logs every failed attempt. This module raises the error to the callers, who log it.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


class PoolBusyError(PoolTimeout):
    """All connections of a pool were in use for too long. Postgres itself may be fine."""


class NoAnswerError(psycopg.OperationalError):
    """Postgres did not answer the check of a connection in time."""

    def __init__(self) -> None:
        super().__init__("Postgres does not answer")


class _RecordingConnection(psycopg.Connection[tuple[object, ...]]):
    """A connection whose class records why the last attempt to connect failed.

    Each pool has its own subclass. psycopg_pool connects in its own threads and only raises
    `PoolTimeout`, without the reason.
    """

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
    """A pool that survives failovers and ended sessions, and reports why it has no connection.

    After a failover the host name in the URL resolves to the new primary, but open connections
    still lead to the old one. So all connections are closed after an error that concerns the server
    (`is_server_state`). New connections resolve the name again.

    An idle client does not notice when an administrator, `idle_session_timeout` or a restart of
    PgBouncer ends its session. So this class checks each connection before it is used.
    psycopg_pool's own check pauses for 1 s after the second ended session and for 2 s after the
    third: a waiting request would then fail (`WAIT_SECONDS`).
    """

    _in_use = 0
    _renewed_at = 0.0

    def __init__(
        self,
        conninfo: str,
        *,
        check: Callable[[Connection], None],
        check_timeout: CheckTimeout,
        **options: Any,
    ) -> None:
        class Pooled(_RecordingConnection):
            pass

        self._connection_class = Pooled
        self._check_before_use = check
        self._check_timeout = check_timeout
        super().__init__(conninfo, connection_class=Pooled, **options)

    @contextlib.contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[Connection]:
        """Use a connection for the block. Raises like `getconn`."""
        with super().connection(timeout) as connection:
            try:
                yield connection
            except POSTGRES_UNAVAILABLE as error:
                if is_server_state(error):
                    abandon(connection)
                    self._renew()
                raise

    def run_idempotent(self, work: Callable[[Connection], Result]) -> Result:
        """Return `work(connection)`, with a connection of the pool.

        If the session ends during the call, call `work` again with another connection, for up to
        `MAX_SESSIONS` sessions. An earlier call may have been committed, so `work` must be
        idempotent. Raises the errors of `getconn` and of `work`.
        """
        with tracing.span("ask Postgres"):
            return self._run_idempotent(work)

    def _run_idempotent(self, work: Callable[[Connection], Result]) -> Result:
        # An administrator, or a restart of PgBouncer, ends one session after another: the next
        # session may end too, although its check succeeded.
        for _ in range(MAX_SESSIONS - 1):
            with self.connection() as connection:
                try:
                    return work(connection)
                except POSTGRES_UNAVAILABLE:
                    if not connection.broken:
                        raise
                    metrics.counter("iot_postgres_sessions_lost_total").inc()
                    self._renew()
        with self.connection() as connection:
            return work(connection)

    def getconn(self, timeout: float | None = None) -> Connection:
        """Take a connection whose session was alive a moment ago.

        Raises:
            PoolBusyError: all connections are in use.
            PoolTimeout: Postgres is away. The message is the error of the last attempt to connect,
                if it has ended.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        failures = 0
        while not self._is_alive(connection := self._take_unchecked(deadline)):
            failures += 1
            # More failures than old sessions: new sessions end, too. Do not retry without a pause.
            if failures > self.max_size:
                time.sleep(RECONNECT_SECONDS)
        self._in_use += 1
        return connection

    def _is_alive(self, connection: Connection) -> bool:
        """Return whether a connection still works.

        If not, close it, and let the pool replace its other connections, too.
        """
        try:
            with self._check_timeout():
                self._check_before_use(connection)
        except BaseException as error:
            connection.close()
            super().putconn(connection)
            if not isinstance(error, psycopg.Error):
                raise
            self._connection_class.failure = error
            self._renew()
            return False
        return True

    def _take_unchecked(self, deadline: float) -> Connection:
        while True:
            left = deadline - time.monotonic()
            # psycopg_pool gives up connecting after `reconnect_timeout`, and tries again only when
            # `getconn` is called. A repeated call goes to the end of the queue, so a request that
            # waits for connections in use makes one call only.
            timeout = left if self._in_use >= self.max_size else min(left, RECONNECT_SECONDS)
            try:
                return super().getconn(timeout)
            except PoolTimeout:
                if timeout < left:
                    continue
                # The message of psycopg_pool has the time of this call, not of the whole wait.
                if self._in_use >= self.max_size:
                    raise PoolBusyError("all connections are in use") from None
                failure = self._connection_class.failure or "no connection in time"
                raise PoolTimeout(str(failure)) from None

    def putconn(self, conn: Connection) -> None:
        self._in_use -= 1
        super().putconn(conn)

    def _renew(self) -> None:
        now = time.monotonic()
        if now - self._renewed_at >= RENEW_SECONDS:
            self._renewed_at = now
            self.drain()


def abandon(connection: Connection) -> None:
    """Close a connection to a server that can't serve, and PgBouncer's connection behind it.

    PgBouncer keeps its connection to the server for the next client, unless the present client
    disconnects within a transaction. So this function begins a transaction, and then closes the
    connection.
    """
    with contextlib.suppress(psycopg.Error):
        if connection.info.transaction_status == TransactionStatus.IDLE:
            connection.execute("BEGIN")
    connection.close()


def short_query(
    connection: Connection, statement: LiteralString, parameters: Sequence[object] | None = None
) -> psycopg.Cursor[tuple[object, ...]]:
    """Execute one statement with a timeout of `SHORT_QUERY_SECONDS`, in one round trip.

    In autocommit mode, Postgres runs SET LOCAL and the statement as one transaction, so the timeout
    does not apply to later statements.
    """
    cursor = psycopg.ClientCursor(connection)
    cursor.execute(
        f"SET LOCAL statement_timeout = '{SHORT_QUERY_SECONDS}s'; {statement}", parameters
    )
    cursor.nextset()
    return cursor


@contextlib.contextmanager
def transaction(connection: Connection, *, copies: bool = False) -> Iterator[None]:
    """Run the block in a transaction. Postgres ends the transaction if this process hangs.

    Without this limit, other processes would wait for its locks. If the block uses COPY, set
    `copies`: Postgres then limits the time of each statement, too, because `IDLE_LIMIT` does not
    apply during a COPY.
    """
    with connection.transaction():
        connection.execute(TIMEOUTS if copies else IDLE_LIMIT)
        yield


@contextlib.contextmanager
def rolled_back_if_open(connection: Connection) -> Iterator[None]:
    """If a transaction is open at the end of the block, roll it back.

    For a block that saves round trips: it sends BEGIN and COMMIT together with its statements.
    """
    try:
        yield
    finally:
        with contextlib.suppress(*POSTGRES_UNAVAILABLE):  # the connection is broken
            connection.rollback()


def url_parts(url: str) -> dict[str, Any]:
    """Return the connection parameters in `IOT_POSTGRES_URL`.

    If the password has an unescaped @ or /, libpq takes a part of it for a host, a port or a
    database, and repeats this part in errors. Such a URL is refused here.

    Raises:
        SettingsError: the URL is invalid.
    """
    try:
        parts: dict[str, Any] = conninfo_to_dict(url)
    except (psycopg.Error, UnicodeError):
        parts = {"port": "none"}
    names = f"{parts.get('host') or ''}{parts.get('dbname') or parts.get('user') or ''}"
    if not re.fullmatch(r"[\d,]+", str(parts.get("port") or "5432")) or "@" in names:
        # Raised outside `except`: the context would be the parser's error, with the password.
        raise SettingsError(
            "IOT_POSTGRES_URL is not a libpq URL; if the password contains special "
            "characters, write them as %40 (@), %2F (/), %3A (:), %25 (%)"
        )
    return parts


def check_writable(connection: Connection) -> None:
    """Raise if the server accepts no writes.

    Raises:
        psycopg.errors.ReadOnlySqlTransaction: the server is a standby, or read-only.
    """
    row = short_query(connection, _READ_ONLY).fetchone()
    if row is not None and row[0]:
        raise psycopg.errors.ReadOnlySqlTransaction("Postgres is in recovery, or read-only")


def connect_postgres(settings: Settings, *, name: str) -> Connection:
    """Open one connection in autocommit mode.

    Prepared statements are off, because a pooler in transaction mode does not support them.

    Raises:
        SettingsError: the URL is invalid.
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
    check_timeout: CheckTimeout = contextlib.nullcontext,
) -> Pool:
    """Return a pool of at most `size` connections, which are opened when needed.

    The pool calls `check` before it uses a connection; `check` raises if the connection is
    unusable. `check_timeout()` is a context manager that raises `NoAnswerError` if `check` takes
    too long.

    Raises:
        SettingsError: the URL is invalid.
    """
    pool = Pool(
        _conninfo(settings, name),
        min_size=0,
        max_size=size,
        timeout=WAIT_SECONDS,
        max_idle=300,
        # psycopg_pool gives up after two attempts in a row. Its pause before another attempt would
        # be seconds, longer than a restart of PgBouncer takes. `_take_unchecked` tries again.
        reconnect_timeout=0,
        configure=_configure,
        check=check,
        check_timeout=check_timeout,
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
    """Return the revision of the database's schema, or 0 if there is no schema.

    Raises:
        SettingsError: the schema belongs to another application that uses Alembic.
    """
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    revision = str(row[0]) if row else "0"
    if not re.fullmatch("[0-9]+", revision):
        raise SettingsError("another application uses this database: use a separate database")
    return int(revision)


def check_schema(connection: Connection) -> int:
    """Return the revision of the database's schema. Raise if this code does not work with it.

    Raises:
        SettingsError: the message says what to do.
    """
    newest, found = int(SCHEMA_REVISION), schema_revision(connection)
    if not found:
        raise SettingsError("the database has no schema: run `iot-sensor migrate`")
    if found < int(OLDEST_REVISION):
        raise SettingsError(
            f"the database's schema is {found:04}, this version needs {OLDEST_REVISION}: run "
            "`iot-sensor migrate`"
        )
    if found > newest + 1:
        raise SettingsError(
            f"the database's schema is {found:04}, this version works with schemas up to "
            f"{newest + 1:04}: run a newer version"
        )
    return found
