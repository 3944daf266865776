"""Errors of Postgres in states that running processes do not meet are recognized."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from iot_stores.store_states import StoreState, state_of
from iot_tools.local.ports import free_port
from iot_tools.local.postgres_server import PostgresServer
from support.waiting import wait_until
from system.reliability.pgbouncer import PgBouncer, find_pgbouncer

ANSWERS = {
    "tls_refused",
    "undefined_table",
    "undefined_function",
    "invalid_schema_name",
    "idle_in_transaction_session_timeout",
}


def state_met_by(attempt: Callable[[], object]) -> StoreState | None:
    """Return the state that an attempt meets."""
    with pytest.raises(psycopg.Error) as caught:
        attempt()
    return state_of(caught.value)


def test_missing_tls_is_recognized(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = PostgresServer(
        tmp_path_factory.mktemp("tls"), settings={"fsync": "off"}, port=free_port()
    )
    server.start()
    state = state_met_by(lambda: psycopg.connect(make_conninfo(server.url, sslmode="require")))
    server.kill()
    assert state is not None
    assert state.code == "tls_refused"


def test_a_database_without_a_schema_is_503(postgres_server: PostgresServer) -> None:
    with psycopg.connect(postgres_server.url) as connection:
        state = state_met_by(lambda: connection.execute("SELECT * FROM vaults"))
    assert state is not None
    assert state.code == "undefined_table"


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("SELECT raise_lookup_cost(17::smallint)", "undefined_function"),
        ("CREATE TABLE segments_2026_11 (id int8)", "invalid_schema_name"),
    ],
)
def test_a_forbidden_schema_is_recognized(
    statement: LiteralString, code: str, postgres_server: PostgresServer
) -> None:
    """A user without USAGE does not see the tables of a schema."""
    options = "-c search_path=closed"
    with psycopg.connect(make_conninfo(postgres_server.url, options=options)) as connection:
        state = state_met_by(lambda: connection.execute(statement))
    assert state is not None
    assert state.code == code


@pytest.mark.skipif(
    find_pgbouncer() is None, reason="pgbouncer is not installed: apt-get install pgbouncer"
)
def test_a_full_pooler_is_recognized(postgres_server: PostgresServer, tmp_path: Path) -> None:
    pooler = PgBouncer(tmp_path / "pgbouncer", postgres_server.url, clients=2)
    try:
        with psycopg.connect(pooler.url), psycopg.connect(pooler.url):
            state = state_met_by(lambda: psycopg.connect(pooler.url))
    finally:
        pooler.stop()
    assert state is not None
    assert state.code == "too_many_connections"


def test_an_idle_transaction_timeout_is_recognized(postgres_server: PostgresServer) -> None:
    options = "-c idle_in_transaction_session_timeout=1ms"

    def code() -> str | None:
        with psycopg.connect(make_conninfo(postgres_server.url, options=options)) as connection:

            def wait() -> None:
                while True:
                    connection.execute("SELECT 1")
                    time.sleep(0.01)

            state = state_met_by(wait)
        return None if state is None else state.code

    # On a busy machine, a client that is sending may see only the end of the connection.
    expected = "idle_in_transaction_session_timeout"
    wait_until(lambda: code() == expected, what="the timeout as the reason")


def test_errors_in_statements_are_no_states(postgres_server: PostgresServer) -> None:
    statements = ("SELECT nothing", "no statement", "SELECT 1/0")
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        for statement in statements:
            assert state_met_by(lambda each=statement: connection.execute(each)) is None  # type: ignore[misc]


def test_a_missing_server_is_recognized() -> None:
    state = state_met_by(lambda: psycopg.connect(f"postgresql://127.0.0.1:{free_port()}/none"))
    assert state is not None
    assert (state.code, state.public) == ("away", "away")
