"""In each state of Redis, PUTs are 503, the log and readiness name the state, and the service
recovers.
"""

from collections.abc import Iterator

import pytest

from support.waiting import wait_until
from system.rights.stores import servers
from system.states.redis_states import STATES, ProvokedRedis
from system.states.running import Running, running_service


@pytest.fixture(params=list(servers()), scope="module")
def provoked_redis(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProvokedRedis]:
    """A server of each available program."""
    server = ProvokedRedis(tmp_path_factory.mktemp("redis"), servers()[request.param])
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def running(
    provoked_redis: ProvokedRedis,
    stores_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Running]:
    """The service on this server."""
    environment = stores_environment | {"IOT_REDIS_URL": provoked_redis.service_url}
    with running_service(environment, tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.mark.parametrize("state", STATES)
def test_each_state_is_reported_and_recovered_from(
    state: str, running: Running, provoked_redis: ProvokedRedis
) -> None:
    provoke, of_a_write = STATES[state]
    password = f"of {state}"
    running.mark()
    assert running.put(password).status == 201
    with provoke(provoked_redis):
        running.assert_refused(password, "Redis", state)
        for _ in range(2):
            assert running.put(password).status == 503
        said = running.ready()
        assert said["status"] == "not ready"
        assert said["redis"].startswith((f"{state}: ", f"{of_a_write}: ")), said
        for process in ("api", "writer-0"):
            what = f"word of {state} in the log of {process}"
            wait_until(lambda p=process: f"Redis answers {state}" in running.log(p), what=what)  # type: ignore[misc]
    running.assert_acknowledged_again(password)
    assert running.ready()["redis"] == "ok"
    running.assert_all_stored()
