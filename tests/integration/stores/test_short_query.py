"""The timeout of a short query or a read ends with its transaction."""

from collections.abc import Iterator

import psycopg
import pytest

from iot_models.settings import Settings
from iot_stores import postgres as postgres_connections
from iot_stores.history import read_transaction
from iot_stores.postgres import Connection, PoolBusyError, connect_postgres, postgres_pool
from iot_stores.postgres import short_query as query
from support.waiting import wait_until

_SESSION = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"


@pytest.fixture
def connection(settings: Settings) -> Iterator[Connection]:
    """A connection with the options of the services."""
    with connect_postgres(settings, name="test") as made:
        yield made


def test_a_slow_query_is_cancelled(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    assert query(connection, "SELECT %s", (7,)).fetchone() == (7,)
    monkeypatch.setattr(postgres_connections, "SHORT_QUERY_SECONDS", 0.1)
    with pytest.raises(psycopg.errors.QueryCanceled):
        query(connection, "SELECT pg_sleep(20)")
    assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_a_busy_pool_raises_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_connections, "WAIT_SECONDS", 0.2)
    pool = postgres_pool(settings, name="test", size=1)
    with pool.connection(timeout=5), pytest.raises(PoolBusyError), pool.connection(timeout=0.1):
        pass
    with pool.connection(timeout=5) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    pool.close()


def test_timeouts_end_with_the_read(connection: Connection) -> None:
    def timeouts() -> tuple[object, ...]:
        return tuple(
            connection.execute(f"SHOW {name}").fetchone()
            for name in ("statement_timeout", "idle_in_transaction_session_timeout")
        )

    with read_transaction(connection):
        assert timeouts() == (("30s",), ("10s",))
    assert timeouts() == (("0",), ("0",))


@pytest.mark.parametrize("ended_by", ["a timeout", "an administrator"])
def test_a_complete_read_survives_the_end_of_its_session(
    ended_by: str, connection: Connection, settings: Settings
) -> None:
    """Postgres may end the session while the client receives the answer."""
    with connect_postgres(settings, name="admin") as admin, read_transaction(connection):
        session = (connection.info.backend_pid,)
        if ended_by == "a timeout":
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = '1ms'")
        else:
            admin.execute("SELECT pg_terminate_backend(%s)", session)
        wait_until(
            lambda: not admin.execute(_SESSION, session).fetchone(), what="the end of the session"
        )
    assert connection.closed
