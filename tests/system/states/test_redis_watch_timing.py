"""Results of checks while Redis changes during a check, and of overlapping checks."""

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as RedisConnectionError

from integration.stores.test_redis_watch import Database, watch_on
from iot_stores.installation import Installation
from iot_stores.redis_watch import RedisWatch, UnfitRedisError
from iot_tools.local.redis_server import RedisServer
from system.rights.stores import servers
from system.states.redis_states import ProvokedRedis, load_slowly

Step = Callable[[], object]


class Interrupted(Redis):
    """A client that runs a step after some commands, before the check continues."""

    steps: Mapping[str, Iterator[Step]] = {}
    infos = 0

    def execute_command(self, *arguments: Any, **options: Any) -> Any:
        """Execute a command, then the step that is set for the command."""
        answer = super().execute_command(*arguments, **options)  # type: ignore[no-untyped-call]
        self.infos += arguments[0] == "INFO"
        next(self.steps.get(arguments[0], iter(())), _nothing)()
        return answer

    def after_info(self, step: Step) -> None:
        """Run a step after the next INFO."""
        self.steps = {"INFO": iter([step])}


def _nothing() -> None:
    pass


@pytest.fixture(params=list(servers()))
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ProvokedRedis]:
    """Each supported server of Redis."""
    made = ProvokedRedis(tmp_path / "redis", servers()[request.param])
    made.start()
    yield made
    made.kill()


def load_at_once(server: ProvokedRedis) -> None:
    """Restart Redis and end the state LOADING at once."""
    server.kill()
    server.restart()
    server.start()


def test_a_redis_that_finishes_loading_during_a_check(
    server: ProvokedRedis, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """INFO reports no AOF while Redis loads; the check reads the mark after loading."""
    load_slowly(server)
    with Interrupted.from_url(server.url) as client:
        client.after_info(lambda: load_at_once(server))
        watch = watch_on(client, Database(postgres_url))
        assert watch.state() == "ok"
        watch.require_safe()
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_a_redis_that_starts_loading_during_a_check(
    server: ProvokedRedis, postgres_url: str
) -> None:
    load_slowly(server)
    with Interrupted.from_url(server.url) as client:
        client.steps = {
            "INFO": iter([lambda: load_at_once(server)]),
            "EVALSHA": iter([lambda: load_slowly(server)]),
        }
        watch = watch_on(client, Database(postgres_url))
        assert watch.state() == "LOADING: it loads its data"
        with pytest.raises(BusyLoadingError):
            watch.require_safe()


@pytest.fixture
def watched(own_redis: RedisServer, postgres_url: str) -> Iterator[tuple[Interrupted, RedisWatch]]:
    """A watch and its client."""
    with Interrupted.from_url(own_redis.url) as client:
        yield client, watch_on(client, Database(postgres_url))


def test_an_older_check_does_not_replace_a_newer_result(
    watched: tuple[Interrupted, RedisWatch], caplog: pytest.LogCaptureFixture
) -> None:
    client, watch = watched

    def set_right() -> None:
        client.config_set("appendonly", "yes")
        watch.check()

    client.config_set("appendonly", "no")
    client.after_info(set_right)
    assert watch.check().unsafe
    watch.require_safe()
    assert "not ready" not in caplog.text

    def set_wrong() -> None:
        client.config_set("appendonly", "no")
        watch.check()

    client.after_info(set_wrong)
    assert not watch.check().unsafe
    with pytest.raises(UnfitRedisError):
        watch.require_safe()


def test_an_older_failed_check_does_not_replace_a_newer_result(
    watched: tuple[Interrupted, RedisWatch],
) -> None:
    client, watch = watched

    def break_off() -> None:
        watch.check()
        raise RedisConnectionError("broken")

    client.after_info(break_off)
    assert watch.state() == "away"
    infos = client.infos
    watch.require_safe()
    assert client.infos == infos  # without a query


def test_a_check_during_a_change_of_the_database_is_discarded(
    watched: tuple[Interrupted, RedisWatch],
) -> None:
    client, watch = watched
    client.after_info(watch.invalidate)
    watch.check()
    infos = client.infos
    watch.require_safe()
    assert client.infos == infos + 1


def test_an_older_id_does_not_replace_a_newer_id(
    postgres_url: str,
) -> None:
    database = Database(postgres_url)
    ids: list[uuid.UUID] = []

    def mark(found: uuid.UUID) -> bytes:
        ids.append(found)
        if len(ids) == 1:
            database.renew()
            with database.connect() as connection:
                installation.refresh(connection)
        return found.bytes

    installation = Installation(database.connect, mark)
    assert installation.get_id() == database.id() == ids[1]
    assert ids[0] != ids[1]
    assert installation.get_id() == ids[1]
