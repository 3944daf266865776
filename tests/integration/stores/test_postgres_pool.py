"""A pool lends working connections, even right after the server has ended all sessions."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import PoolTimeout
from redis import Redis

from iot_cipher.keyring import parse_keyring
from iot_cipher.vault import create_vault, scrypt_secret
from iot_models.audit_event import AuditKind, audit_event
from iot_models.settings import Settings
from iot_stores.audit import AuditLog
from iot_stores.postgres import MAX_SESSIONS, Connection, Pool, postgres_pool
from iot_stores.vault_records import PolicyChangedError, VaultRecords
from iot_tools.local.postgres_server import PostgresServer
from support.keys import KEYS
from support.waiting import wait_until

NAME = "test-pool"
SIZE = 4
COST = 10
CREATED = audit_event(AuditKind.VAULT_CREATED)
_END = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = %s"

Result = TypeVar("Result")
Check = Callable[[Connection], None]


class Sessions:
    """Pools, and an administrator who ends their sessions."""

    def __init__(self, settings: Settings, pools: ExitStack) -> None:
        self._settings = settings
        self._pools = pools

    def pool(self, check: Check = Pool.check_connection) -> Pool:
        """Return a pool with its maximum number of idle connections."""
        made = postgres_pool(self._settings, name=NAME, size=SIZE, check=check)
        pool = self._pools.enter_context(contextlib.closing(made))
        self.fill(pool)
        return pool

    def fill(self, pool: Pool) -> None:
        """Let a pool open all its connections."""
        with ExitStack() as lent:
            for _ in range(SIZE):
                lent.enter_context(pool.connection())
        wait_until(lambda: pool.get_stats()["pool_available"] == SIZE, what="idle connections")

    def end(self) -> None:
        """End all sessions of the pools and wait for their end."""
        with psycopg.connect(self._settings.postgres_url, autocommit=True) as admin:
            admin.execute(_END, (NAME,))


@pytest.fixture
def sessions(settings: Settings) -> Iterator[Sessions]:
    """Pools that are closed at the end."""
    with ExitStack() as pools:
        yield Sessions(settings, pools)


def seven(connection: Connection) -> object:
    """Run a query on Postgres."""
    row = connection.execute("SELECT 7").fetchone()
    assert row is not None
    return row[0]


def test_ended_sessions_are_replaced_at_once(sessions: Sessions) -> None:
    failed = 0

    def check(connection: Connection) -> None:
        nonlocal failed
        try:
            Pool.check_connection(connection)
        except psycopg.Error:
            failed += 1
            raise

    pool = sessions.pool(check)
    sessions.end()
    with pool.connection() as connection:
        assert seven(connection) == 7
    assert failed == 1, "one failed check must close all other idle connections"
    for _ in range(10):
        sessions.fill(pool)
        sessions.end()
        with pool.connection() as connection:
            assert seven(connection) == 7


@pytest.mark.parametrize("count", [1, 2])
def test_sessions_that_end_after_their_check_are_replaced(sessions: Sessions, count: int) -> None:
    ends = iter([True] * count)

    def check(connection: Connection) -> None:
        Pool.check_connection(connection)
        if armed and next(ends, False):
            sessions.end()

    armed = False
    pool = sessions.pool(check)
    armed = True
    assert pool.run_idempotent(seven) == 7


def test_idempotent_work_runs_a_limited_number_of_times(sessions: Sessions) -> None:
    pool = sessions.pool()
    done = 0

    def end_and_ask(connection: Connection) -> object:
        nonlocal done
        done += 1
        sessions.end()
        return seven(connection)

    with pytest.raises(psycopg.OperationalError):
        pool.run_idempotent(end_and_ask)
    assert done == MAX_SESSIONS
    assert pool.run_idempotent(seven) == 7


def test_an_error_in_a_live_session_is_not_retried(sessions: Sessions) -> None:
    pool = sessions.pool()
    done = 0

    def fail(connection: Connection) -> None:
        nonlocal done
        done += 1
        connection.execute("DO $$ BEGIN RAISE 'provoked' USING ERRCODE = '57P01'; END $$")

    with pytest.raises(psycopg.errors.AdminShutdown):
        pool.run_idempotent(fail)
    assert done == 1


def test_a_request_gets_the_first_available_connection(
    settings: Settings, postgres_server: PostgresServer
) -> None:
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    database = sql.Identifier(str(conninfo_to_dict(settings.postgres_url)["dbname"]))
    pool = postgres_pool(settings, name=NAME, size=SIZE)
    with (
        contextlib.closing(pool),
        psycopg.connect(postgres_server.url, autocommit=True) as admin,
        ThreadPoolExecutor(1) as requests,
    ):
        admin.execute(allow.format(database, sql.SQL("false")))
        request = requests.submit(pool.run_idempotent, seven)
        wait_until(
            lambda: pool.get_stats().get("connections_errors", 0) >= 3,
            what="three attempts to connect",
        )
        admin.execute(allow.format(database, sql.SQL("true")))
        assert request.result() == 7


@pytest.mark.parametrize("timeout", [0.01, -1.0])
def test_the_error_of_an_attempt_that_has_not_ended_gives_no_time(
    settings: Settings, timeout: float
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/iot"
        pool = postgres_pool(replace(settings, postgres_url=url), name=NAME, size=1)
        with pytest.raises(PoolTimeout, match="no connection in time"):
            pool.getconn(timeout)
    pool.close()


def test_vault_records_survive_sessions_that_end_before_the_statement(
    sessions: Sessions, settings: Settings, redis_url: str
) -> None:
    ending = False

    def check(connection: Connection) -> None:
        nonlocal ending
        Pool.check_connection(connection)
        if ending:
            ending = False
            sessions.end()

    pool = sessions.pool(check)
    keyring = parse_keyring(Path(settings.keyring_file).read_text())
    with Redis.from_url(redis_url) as redis:
        records = VaultRecords(redis, KEYS, pool, AuditLog(lambda: keyring))

        def ended(call: Callable[[], Result]) -> Result:
            nonlocal ending
            ending = True
            result = call()
            assert not ending, "the sessions were not ended"
            return result

        assert ended(lambda: records.raise_cost(COST)).costs[-1] == COST
        vault, _ = create_vault(keyring, scrypt_secret(keyring, b"password", COST))
        assert ended(lambda: records.find([vault.lookup])).record is None
        assert ended(lambda: records.find_changed([vault])) == [(vault, None)]
        assert ended(lambda: records.add(vault, CREATED)) == vault
        assert records.add(vault, CREATED) == vault, "a repeated add must return the same vault"
        assert ended(lambda: records.restore(vault)) == vault
        assert ended(lambda: records.find([vault.lookup])).record == vault


def test_a_refused_vault_costs_no_connection(
    sessions: Sessions, settings: Settings, redis_url: str
) -> None:
    """The triggers refuse vaults with the SQLSTATE of a server that can't serve."""
    pool = sessions.pool()
    keyring = parse_keyring(Path(settings.keyring_file).read_text())
    with Redis.from_url(redis_url) as redis:
        records = VaultRecords(redis, KEYS, pool, AuditLog(lambda: keyring))
        records.raise_cost(COST + 1)
        good, cheap = (
            create_vault(keyring, scrypt_secret(keyring, b"password", cost))[0]
            for cost in (COST + 1, COST)
        )
        records.add(good, CREATED)
        before = backends(pool)
        for refused in (
            lambda: records.add(cheap, CREATED),
            lambda: records.restore(cheap),
            lambda: records.replace(good, cheap),
            lambda: records.change_password(good, cheap, CREATED),
        ):
            with pytest.raises(PolicyChangedError):
                refused()
        assert backends(pool) == before


def backends(pool: Pool) -> set[int]:
    """Return the processes of Postgres behind all connections of a pool."""
    with ExitStack() as lent:
        return {lent.enter_context(pool.connection()).info.backend_pid for _ in range(SIZE)}
