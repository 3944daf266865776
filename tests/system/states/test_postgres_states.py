"""In each state of Postgres, requests that need Postgres are 503, the log and readiness name the
state, and the service recovers.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from redis import Redis

from iot_tools.local.ports import free_port
from iot_tools.local.postgres_server import PostgresServer
from iot_tools.local.redis_server import RedisServer
from iot_writer.schema import migrate
from support.waiting import wait_until
from system.states.postgres_states import STATES, ProvokedPostgres
from system.states.running import Running, running_service

OF_THE_SERVER = (
    "read_only_sql_transaction",
    "too_many_connections",
    "invalid_authorization_specification",
    "invalid_catalog_name",
    "cannot_connect_now",
)
"""States that readiness detects. Its statement does not meet the other states."""
ENDS = 10
"""How often all sessions are terminated."""
REQUESTS = 3
"""Number of concurrent requests, one less than the default number of sessions of the API."""


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProvokedPostgres]:
    """A server on loopback, so that it requires passwords."""
    directory = tmp_path_factory.mktemp("postgres")
    server = PostgresServer(directory, settings={"fsync": "off"}, port=free_port())
    server.start()
    made = ProvokedPostgres(server)
    made.prepare()
    migrate(made.service_url)
    yield made
    server.stop()


@pytest.fixture(scope="module")
def running(
    postgres: ProvokedPostgres,
    redis_server: RedisServer,
    stores_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Running]:
    """The service on this server."""
    with Redis.from_url(redis_server.url) as redis:
        redis.flushall()
    changes = {
        "IOT_POSTGRES_URL": postgres.service_url,
        "IOT_REDIS_URL": redis_server.url,
        "IOT_GUESS_LIMIT": "0",  # the tests use many new passwords
    }
    with running_service(
        stores_environment | changes, tmp_path_factory.mktemp("service")
    ) as service:
        yield service


@pytest.mark.parametrize("state", STATES)
def test_each_state_is_reported_and_recovered_from(
    state: str, running: Running, postgres: ProvokedPostgres
) -> None:
    running.mark()
    known = f"known before {state}"
    assert running.put(known).status == 201
    with STATES[state](postgres):
        running.assert_refused(f"new in {state}", "Postgres", state)
        assert running.put(known).status == 201, "a known vault needs no Postgres"
        said = running.ready()
        assert said["status"] == "ready", "the backlog accepts readings"
        if state in OF_THE_SERVER:
            assert said["postgres"].startswith(f"{state}: "), said
        for process in ("api", "writer-0"):
            what = f"word of {state} in the log of {process}"
            told = f"Postgres answers {state}"
            wait_until(lambda p=process, t=told: t in running.log(p), what=what)  # type: ignore[misc]
    running.assert_acknowledged_again(f"new after {state}", known)
    assert running.ready()["postgres"] == "ok"
    running.assert_all_stored()
    assert _dead_letters(running) == 0


@pytest.mark.parametrize("when", ["before requests", "during statements"])
def test_terminated_sessions_are_replaced(
    when: str, running: Running, postgres: ProvokedPostgres
) -> None:
    """No request is refused, even if its statement was interrupted."""
    running.mark()
    with ThreadPoolExecutor(REQUESTS) as requests:
        for number in range(ENDS):
            passwords = [f"{number}.{each} {when}" for each in range(REQUESTS)]
            with postgres.locked_vaults():
                answers = requests.map(running.put, passwords)
                # Not for all: a statement times out after 3 s, and scrypts take turns.
                wait_until(lambda: postgres.blocked() >= 1, what="a session at work")
                if when == "during statements":
                    postgres.end_sessions()
            assert [answer.status for answer in answers] == [201] * REQUESTS
            if when == "before requests":
                postgres.end_sessions()
                assert running.put(f"{number} {when}").status == 201
    running.assert_all_stored()


def test_the_service_recovers_from_a_crash(running: Running, postgres: ProvokedPostgres) -> None:
    running.mark()
    assert running.put("known").status == 201
    with contextlib.suppress(psycopg.OperationalError), postgres.admin() as victim:
        os.kill(victim.info.backend_pid, signal.SIGKILL)
        wait_until(lambda: _ended(victim), what="the crash")
    wait_until(postgres.server.ready, what="the recovery")
    running.assert_acknowledged_again("known", "new")
    running.assert_all_stored()


def _ended(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    connection.execute("SELECT 1")  # raises when the session has ended
    return False


def _dead_letters(running: Running) -> int:
    metrics = running.stack.request("GET", "/metrics", port=running.stack.metrics_port).body
    (line,) = (each for each in metrics.splitlines() if each.startswith(b"iot_dead_letters "))
    return int(float(line.split()[1]))
