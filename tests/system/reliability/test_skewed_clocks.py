"""Wall clocks of real processes are months off, or step. Acknowledged readings are stored once, can
be read and are not deleted early. The processes report which clock is wrong.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from iot_models import names
from iot_tools.local.ports import free_port
from iot_tools.local.redis_server import RedisServer
from support.http_get import http_get
from support.keys import KEYS
from support.shifted_clock import DAY, ShiftedClock
from support.stack import MakeStack, Stack, running_stack
from support.waiting import wait_until

SHIFT = 61 * DAY
BOTH_WAYS = pytest.mark.parametrize("ahead", [SHIFT, -SHIFT], ids=["ahead", "behind"])
OK = {"status": "ready", "redis": "ok", "postgres": "ok"}


@pytest.fixture
def clock(tmp_path: Path) -> ShiftedClock:
    """A wall clock that starts correct."""
    return ShiftedClock(tmp_path / "clock")


@pytest.fixture
def shifted_redis(
    tmp_path: Path, clock: ShiftedClock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RedisServer]:
    """A Redis with this clock."""
    server = RedisServer(tmp_path / "redis")
    with monkeypatch.context() as patch:
        for name, value in clock.environment.items():
            patch.setenv(name, value)
        server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def api_clock(tmp_path_factory: pytest.TempPathFactory) -> ShiftedClock:
    """The wall clock of `shifted_api`."""
    return ShiftedClock(tmp_path_factory.mktemp("clock") / "clock")


@pytest.fixture(scope="module")
def shifted_processes(
    shared_environment: dict[str, str],
    api_clock: ShiftedClock,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """The API with this clock. Its writers have a correct clock."""
    # Without a hot window, reads use the clock, too. Each process logs its own observations.
    changes = {"IOT_HOT_WINDOW_SECONDS": "0", "IOT_API_WORKERS": "1", **api_clock.environment}
    environment, logs = shared_environment | changes, tmp_path_factory.mktemp("api")
    with running_stack(environment, logs, writers=0, metrics=True) as stack:
        stack.unset(*api_clock.environment)
        yield stack


@pytest.fixture
def shifted_api(shifted_processes: Stack, api_clock: ShiftedClock) -> Iterator[Stack]:
    """The API with this clock, which is correct at the start of each test, without a writer."""
    yield shifted_processes
    stop_writers(shifted_processes)
    api_clock.step_to(0)
    assert readyz(shifted_processes.port) == (200, OK)  # the next fault is reported again


@pytest.fixture(scope="module")
def correct_processes(
    shared_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """The API with a correct clock."""
    with running_stack(shared_environment, tmp_path_factory.mktemp("writers"), writers=0) as stack:
        yield stack


@pytest.fixture
def correct_api(correct_processes: Stack) -> Iterator[Stack]:
    """The API with a correct clock, without a writer."""
    yield correct_processes
    stop_writers(correct_processes)


def stop_writers(stack: Stack) -> None:
    """Leave no writer to the next test, which may share the stores with another API."""
    stack.writer_environment = {}
    for writer in stack.writers:
        writer.stop()


def put(stack: Stack, password: str, *times: int) -> None:
    rows = [
        {"data": {"db_password": password, "interrogator_time": time, "freeform": time}}
        for time in times
    ]
    assert stack.put(rows).status == 201


def assert_stored(stack: Stack, redis_url: str, password: str, *times: int) -> None:
    """Wait until these readings are stored, once each, and check that there is no dead letter."""

    def found() -> list[int]:
        return [row["interrogator_timestamp"] for row in stack.read(password)]

    with Redis.from_url(redis_url) as client:
        wait_until(lambda: len(found()) >= len(times) or client.xlen(KEYS.dead_letters),
                   what="stored readings")  # fmt: skip
        assert client.xlen(KEYS.dead_letters) == 0
    assert found() == list(times)


def readyz(port: int) -> tuple[int, dict[str, str]]:
    status, body = http_get(port, "/readyz")
    return status, json.loads(body)


def gauge(port: int, name: str) -> float:
    """Return a gauge of a metrics port, 0 while it is missing."""
    _, body = http_get(port, "/metrics")
    found = re.search(rf"^{re.escape(name)} (\S+)$", body.decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


@BOTH_WAYS
def test_a_wrong_clock_of_the_api_is_reported(
    shifted_api: Stack,
    api_clock: ShiftedClock,
    shared_environment: dict[str, str],
    password: str,
    ahead: int,
) -> None:
    """The clock steps while the API runs."""
    stack, redis_url = shifted_api, shared_environment["IOT_REDIS_URL"]
    assert stack.api is not None
    log = stack.api.program.log
    mark = len(log.read_text())
    api_clock.step_to(ahead)
    stack.start_writer()
    put(stack, password, 1, 2, 3)
    assert_stored(stack, redis_url, password, 1, 2, 3)
    assert len(stack.read(password, "/seconds/600")) == 3
    status, told = readyz(stack.port)
    assert (status, told["status"], told["redis"], told["postgres"]) == (
        503, "not ready", "ok", "ok",
    )  # fmt: skip
    way = "ahead of" if ahead > 0 else "behind"
    sentence = (
        rf"this machine's clock is (61 days, 0:00|60 days, 23:59):\d\d {way} the clocks of Redis"
    )
    assert re.match(sentence, told["clocks"])
    assert re.search(f"not ready: {sentence}", log.read_text()[mark:])
    assert abs(gauge(stack.metrics_port, "iot_api_clock_skew_seconds") + ahead) < 60
    api_clock.step_to(0)
    assert readyz(stack.port) == (200, OK)
    assert "the clocks agree again" in log.read_text()[mark:]


def test_small_clock_skew_is_reported_and_the_api_stays_ready(
    shifted_api: Stack, api_clock: ShiftedClock
) -> None:
    api_clock.step_to(60)
    status, told = readyz(shifted_api.port)
    assert status == 200
    assert re.match(r"this machine's clock is 0:0(1:00|0:59) ahead of", told["clocks"])
    api_clock.step_to(5)
    assert readyz(shifted_api.port) == (200, OK)


@BOTH_WAYS
def test_a_wrong_clock_of_a_writer_is_reported(
    correct_api: Stack,
    clock: ShiftedClock,
    shared_environment: dict[str, str],
    password: str,
    ahead: int,
) -> None:
    stack, redis_url = correct_api, shared_environment["IOT_REDIS_URL"]
    clock.step_to(ahead)
    port = free_port()
    stack.writer_environment = clock.environment | {"IOT_WRITER_METRICS_PORT": str(port)}
    writer = stack.start_writer()
    put(stack, password, 1, 2, 3)
    assert_stored(stack, redis_url, password, 1, 2, 3)
    wait_until(lambda: gauge(port, "iot_writer_clock_skew_seconds"), what="the gauge")
    assert abs(gauge(port, "iot_writer_clock_skew_seconds") + ahead) < 60
    assert "this machine's clock is 6" in writer.program.log.read_text()
    status, told = readyz(port)
    assert status == 503
    assert told["clocks"].startswith("this machine's clock is 6")
    stack.writer_environment = {}
    stack.start_writer()  # next to a writer with a correct clock
    put(stack, password, 4)
    assert_stored(stack, redis_url, password, 1, 2, 3, 4)
    clock.step_to(0)
    assert readyz(port)[0] == 200
    put(stack, password, 5)
    assert_stored(stack, redis_url, password, 1, 2, 3, 4, 5)


def test_retention_ignores_a_writer_clock_that_is_ahead(
    correct_api: Stack, clock: ShiftedClock, shared_environment: dict[str, str], password: str
) -> None:
    stack, redis_url = correct_api, shared_environment["IOT_REDIS_URL"]
    clock.step_to(SHIFT)
    port = free_port()
    changes = {"IOT_WRITER_METRICS_PORT": str(port), "IOT_RETENTION_DAYS": "30"}
    stack.writer_environment = clock.environment | changes
    with Redis.from_url(redis_url) as client:
        client.delete(KEYS.tick(names.RETENTION_JOB))  # of an earlier test
        stack.start_writer()
        put(stack, password, 1, 2, 3)
        assert_stored(stack, redis_url, password, 1, 2, 3)
        done = 'iot_job_last_success_timestamp_seconds{job_name="retention"}'
        first = wait_until(lambda: gauge(port, done), what="retention")
        client.delete(KEYS.tick(names.RETENTION_JOB))
    wait_until(lambda: gauge(port, done) > first, what="retention once more")
    assert_stored(stack, redis_url, password, 1, 2, 3)


@BOTH_WAYS
def test_entries_are_stored_after_a_step_of_the_redis_clock(
    make_stack: MakeStack,
    clock: ShiftedClock,
    shifted_redis: RedisServer,
    password: str,
    ahead: int,
) -> None:
    """The clock that stamps the entries is correct or behind. The clock at the drain is ahead or
    correct.
    """
    clock.step_to(min(ahead, 0))
    changes = {"IOT_REDIS_URL": shifted_redis.url, "IOT_CLOCK_SKEW_MAX_SECONDS": str(100 * DAY)}
    stack = make_stack(changes, writers=0)
    put(stack, password, 1, 2, 3)
    clock.step_to(max(ahead, 0))
    stack.start_writer()
    assert_stored(stack, shifted_redis.url, password, 1, 2, 3)
    put(stack, password, 4)
    assert_stored(stack, shifted_redis.url, password, 1, 2, 3, 4)


@BOTH_WAYS
def test_a_wrong_clock_of_redis_is_reported(
    make_stack: MakeStack,
    clock: ShiftedClock,
    shifted_redis: RedisServer,
    password: str,
    ahead: int,
) -> None:
    """The API reports the wrong clock. Ticks continue after the correction of the clock."""
    stack = make_stack({"IOT_REDIS_URL": shifted_redis.url})
    clock.step_to(ahead)
    status, told = readyz(stack.port)
    assert status == 503
    way = "ahead of" if ahead > 0 else "behind"
    assert re.match(
        rf"Redis's clock is 6\d days, \S+ {way} the clocks of this machine and Postgres",
        told["clocks"],
    )
    put(stack, password, 1, 2, 3)
    assert_stored(stack, shifted_redis.url, password, 1, 2, 3)
    with Redis.from_url(shifted_redis.url) as client:
        wait_until(lambda: client.exists(KEYS.tick(names.SWEEP_JOB)), what="a tick")
        clock.step_to(0)
        assert readyz(stack.port)[0] == 200
        wait_until(
            lambda: client.ttl(KEYS.tick(names.SWEEP_JOB)) <= 2,
            what="a tick by the corrected clock",
        )
