"""When the tests use a database again, and when they drop it."""

from collections.abc import Iterator

import psycopg
import pytest

from iot_tools.local.postgres_server import PostgresServer
from support.databases import EmptyDatabases, database_url

KEPT = (
    "INSERT INTO audit_chain VALUES (1, 1, ''); UPDATE audit_chain SET link = 'x'",
    "ALTER ROLE somebody SET work_mem = '8MB'",  # concerns no single database
)
DROPPED = (
    "CREATE TABLE more ()",
    "ANALYZE",
    "ALTER DATABASE {database} SET work_mem = '8MB'",
    "ALTER ROLE somebody IN DATABASE {database} SET work_mem = '8MB'",
)
CASES = [*((statement, True) for statement in KEPT), *((statement, False) for statement in DROPPED)]


@pytest.fixture
def somebody(postgres_server: PostgresServer) -> Iterator[None]:
    """A role of the server."""
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE somebody")
        yield
        connection.execute("DROP ROLE somebody")


@pytest.mark.usefixtures("somebody")
@pytest.mark.parametrize(("statement", "kept"), CASES)
def test_a_database_is_used_again_unless_its_schema_or_settings_changed(
    statement: str, *, kept: bool, postgres_server: PostgresServer, empty_databases: EmptyDatabases
) -> None:
    """On a server that has run many tests, making one takes ten times as long as emptying one."""
    name = empty_databases.take()
    with psycopg.connect(database_url(postgres_server.url, name), autocommit=True) as connection:
        connection.execute(statement.format(database=name))
        first = oid(connection)
    empty_databases.give_back(name)
    again = empty_databases.take()
    with psycopg.connect(database_url(postgres_server.url, again)) as connection:
        assert (oid(connection) == first) == kept
        assert connection.execute("SELECT FROM audit_chain").fetchall() == []
        updates = "SELECT sum(n_tup_upd) FROM pg_stat_user_tables"
        assert connection.execute(updates).fetchone() == (0,)
    empty_databases.give_back(again)


def test_rows_of_open_sessions_are_removed(
    postgres_server: PostgresServer, empty_databases: EmptyDatabases
) -> None:
    """Also after a test that did not use the database."""
    for _ in range(3):
        name = empty_databases.take()
        url = database_url(postgres_server.url, name)
        with psycopg.connect(url, autocommit=True) as connection:
            assert connection.execute("SELECT FROM audit_chain").fetchall() == []
            connection.execute("INSERT INTO audit_chain VALUES (1, 1, '')")
            empty_databases.give_back(name)
        empty_databases.give_back(empty_databases.take())


def oid(connection: psycopg.Connection) -> int:
    """Return the OID of the connection's database."""
    query = "SELECT oid FROM pg_database WHERE datname = current_database()"
    row: tuple[int] | None = connection.execute(query).fetchone()
    assert row is not None
    return row[0]
