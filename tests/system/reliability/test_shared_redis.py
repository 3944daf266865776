"""Two releases share one Redis and have separate keyrings and databases."""

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import psycopg
import pytest
from flask.testing import FlaskClient
from redis import Redis

from iot_api.app import create_app
from iot_cipher.keyring import create_keyring_file
from iot_models.settings import load
from iot_tools.cli.main import main
from iot_tools.local.postgres_server import PostgresServer
from iot_tools.local.redis_server import RedisServer
from support.databases import TEMPLATE, created_database
from support.keys import KEYS
from support.stack import Stack
from support.waiting import wait_until

MakeStack = Callable[[str, dict[str, str]], Stack]


@pytest.fixture
def other_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The database of the second release."""
    with created_database(postgres_server.url, "other_release", template=TEMPLATE) as url:
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("UPDATE installation SET id = gen_random_uuid()")
        yield url


@pytest.fixture
def other_stores(other_postgres_url: str, tmp_path: Path) -> dict[str, str]:
    """Settings of the second release: its database and its keyring."""
    keyring = tmp_path / "other-keyring"
    create_keyring_file(keyring)
    return {"IOT_POSTGRES_URL": other_postgres_url, "IOT_KEYRING_FILE": str(keyring)}


@pytest.fixture(scope="module")
def shared_settings() -> dict[str, str]:
    """Settings of the first release."""
    return {"IOT_API_WORKERS": "1"}


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[MakeStack]:
    """A function that returns stacks without running processes."""
    with ExitStack() as stacks:

        def make(name: str, environment: dict[str, str]) -> Stack:
            logs = tmp_path / name
            logs.mkdir()
            made = Stack(environment | {"IOT_API_WORKERS": "1"}, logs)
            stacks.callback(made.stop)
            return made

        yield make


def _keys(redis: "Redis") -> set[str]:
    return {key.decode() for key in cast("list[bytes]", redis.keys())}


def _holds(stack: Stack, password: str, expected: set[str]) -> bool:
    return {each["freeform"] for each in stack.read(password)} == expected


def test_releases_with_different_prefixes_share_a_redis(
    make_stack: MakeStack,
    shared_stack: Stack,
    shared_environment: dict[str, str],
    other_stores: dict[str, str],
    password: str,
) -> None:
    prefix = "berlin:"
    second = make_stack("two", shared_environment | other_stores | {"IOT_REDIS_KEY_PREFIX": prefix})
    second.start_api()
    second.start_writer()
    stacks = [shared_stack, second]
    for number in range(40):
        for stack in stacks:
            row = {"data": {"db_password": f"{password} {number % 4}", "freeform": number}}
            headers = {"Content-Type": "application/json", "Idempotency-Key": str(number)}
            assert stack.put([row]).status == 201
            assert stack.request("PUT", "/api/iot", b"[]", headers).status < 500
    with Redis.from_url(shared_environment["IOT_REDIS_URL"]) as redis:
        for stack in stacks:
            for vault in range(4):
                expected = {str(number) for number in range(40) if number % 4 == vault}
                wait_until(partial(_holds, stack, f"{password} {vault}", expected))
        tick = f"{prefix}iot:tick:partitions"
        wait_until(lambda: redis.exists(tick, "iot:tick:partitions") == 2, what="both tickers")
        keys = _keys(redis)
        ours = {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}
        assert all(key.startswith(("iot:", "rq:", prefix)) for key in keys)
        for kind in ("iot:backlog", "iot:vault:", "iot:hot:", "iot:tick:", "rq:worker:", "rq:job:"):
            for named in (keys, ours):
                assert any(key.startswith(kind) for key in named), kind
        for name in ("iot:dead", "berlin:iot:dead"):
            assert not redis.xlen(name)


def _put(stack: Stack, password: str, number: int) -> int:
    return stack.put([{"data": {"db_password": password, "freeform": number}}]).status


def _log(folder: Path) -> str:
    return "".join(each.read_text(encoding="utf-8") for each in sorted(folder.glob("*.log")))


def _state(stack: Stack) -> tuple[int, str]:
    answer = stack.request("GET", "/readyz")
    return answer.status, answer.json()["redis"]


def _run(environment: dict[str, str], *arguments: str) -> int:
    """Run a command of `iot-sensor` in this process. Return its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        for name, text in environment.items():
            patch.setenv(name, text)
        return main(arguments)


def _run_refused(environment: dict[str, str], *arguments: str) -> str:
    """Run a command that fails. Return its output, with its log."""
    done = subprocess.run(
        [sys.executable, "-m", "iot_tools", *arguments],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    return done.stdout + done.stderr


def test_another_release_is_refused(
    make_stack: MakeStack,
    shared_stack: Stack,
    shared_environment: dict[str, str],
    other_stores: dict[str, str],
    password: str,
    tmp_path: Path,
) -> None:
    """All readings of the first release are stored, and those of the second are refused."""
    other_environment = shared_environment | other_stores
    first, second = shared_stack, make_stack("second", other_environment)
    second.start_writer()
    second.start_api(wait=False)
    wait_until(second.answers, what="the second API")
    for number in range(60):
        assert _put(first, password, number) == 201
        assert _put(second, password, number) == 503
    status, sentence = _state(second)
    assert status == 503
    assert "Redis belongs to the installation" in sentence
    assert f"not ready: {sentence}" in _log(tmp_path / "second")
    wait_until(
        lambda: (tmp_path / "second" / "writer-0.log").read_text(encoding="utf-8").count(sentence),
        what="the error message of the writer",
    )
    expected = {str(number) for number in range(60)}
    wait_until(lambda: _holds(first, password, expected), what="all readings of the first release")
    with Redis.from_url(shared_environment["IOT_REDIS_URL"]) as redis:
        assert redis.scard("rq:workers") == 1
        assert not redis.xlen("iot:dead")
    assert _state(first) == (200, "ok")
    refused = _run_refused(other_environment, "dead", "drop", "--all")
    assert "not ready: Redis belongs to the installation" in refused


@pytest.mark.parametrize("command", ["held", "dead"])
def test_entries_of_another_release_are_kept(
    environment: dict[str, str], redis: "Redis", command: str
) -> None:
    vault = uuid.uuid4()
    redis.set(KEYS.owner, str(uuid.uuid4()))
    redis.hset(KEYS.held_vaults, vault.hex, 1)
    redis.xadd(KEYS.held_entries(vault.bytes), {"shard": 0, "e": b"sealed", "r": 0})
    letter = redis.xadd(KEYS.dead_letters, {"shard": 0, "id": "1-0", "e": b"x", "reason": "y"})
    dropped = str(vault) if command == "held" else cast("bytes", letter).decode()
    refused = _run_refused(environment, command, "drop", dropped)
    assert "not ready: Redis belongs to the installation" in refused
    assert redis.xlen(KEYS.held_entries(vault.bytes)) == redis.xlen(KEYS.dead_letters) == 1


def test_an_operator_can_claim_redis(
    make_stack: MakeStack,
    environment: dict[str, str],
    other_stores: dict[str, str],
    redis_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A claim moves Redis to a restored database. The old release stops taking readings."""
    other_environment = environment | other_stores
    first, second = make_stack("first", environment), make_stack("second", other_environment)
    first.start_writer()
    first.start_api()
    assert _put(first, "p", 1) == 201
    wait_until(lambda: len(first.read("p")) == 1, what="the reading")
    assert _run(other_environment, "claim-redis") == 0
    assert "it belongs to" in capsys.readouterr().out
    hot_window = {"IOT_HOT_WINDOW_REDIS_URL": redis_url.removesuffix("/0") + "/1"}
    assert _run(other_environment | hot_window, "claim-redis") == 0
    of_backlog, of_window = capsys.readouterr().out.splitlines()
    assert of_backlog.startswith("Redis already belongs to installation ")
    assert of_window.startswith("The hot window's Redis belonged to nobody; it belongs to ")
    wait_until(lambda: _put(first, "p", 2) == 503, what="the refusal")
    assert _state(first)[0] == 503
    second.start_writer()
    second.start_api()
    with Redis.from_url(redis_url) as redis:
        wait_until(lambda: redis.scard("rq:workers") == 1, what="the only writer that works")
    assert _put(second, "p", 3) == 201
    wait_until(lambda: _holds(second, "p", {"3"}), what="the second's reading")
    assert _run(environment, "claim-redis") == 0
    wait_until(lambda: _state(first)[0] == 200, what="readiness of the first")
    wait_until(lambda: _put(second, "p", 4) == 503, what="the second's refusal")
    assert _put(first, "p", 5) == 201
    # A writer of the second release makes no dead letters of entries that it can't open.
    wait_until(lambda: "5" in {each["freeform"] for each in first.read("p")})


def test_two_releases_with_one_keyring_share_all_stores(
    make_stack: MakeStack, shared_stack: Stack, shared_environment: dict[str, str], password: str
) -> None:
    """Blue-green deployment: both releases have one keyring, one database and one Redis."""
    blue, green = shared_stack, make_stack("green", shared_environment)
    green.start_api()
    for number, stack in enumerate([blue, green]):
        assert _put(stack, password, number) == 201


@pytest.mark.usefixtures("shared_stack")
def test_another_keyring_on_the_same_database_is_refused(
    make_stack: MakeStack,
    shared_environment: dict[str, str],
    other_stores: dict[str, str],
    password: str,
) -> None:
    """Even with a separate Redis, other processes could not open the readings."""
    mixed = shared_environment | {
        "IOT_KEYRING_FILE": other_stores["IOT_KEYRING_FILE"],
        "IOT_REDIS_KEY_PREFIX": "other:",
    }
    second = make_stack("second", mixed)
    second.start_api(wait=False)
    wait_until(second.answers, what="the second API")
    assert _put(second, password, 1) == 503
    answer = second.request("GET", "/readyz")
    assert answer.status == 503
    assert "than the keyring that the database is marked with" in answer.json()["postgres"]


def test_a_redis_that_starts_to_evict_is_refused(
    make_stack: MakeStack, environment: dict[str, str], own_redis: RedisServer, tmp_path: Path
) -> None:
    """Readings are refused within seconds, and the backlog is stored."""
    stack = make_stack("one", environment | {"IOT_REDIS_URL": own_redis.url})
    stack.start_api()
    assert _put(stack, "p", 1) == 201
    with Redis.from_url(own_redis.url) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        wait_until(lambda: _put(stack, "p", 2) == 503, what="the refusal")
        status, sentence = _state(stack)
        assert status == 503
        assert "its maxmemory-policy is allkeys-lru" in sentence
        assert sentence in _log(tmp_path / "one")
        stack.start_writer()
        wait_until(lambda: not any(redis.xlen(key) for key in redis.scan_iter("iot:ingest:*")))
        redis.config_set("maxmemory-policy", "noeviction")
        wait_until(lambda: _state(stack)[0] == 200, what="readiness")
        assert _put(stack, "p", 3) == 201


@pytest.mark.parametrize(
    ("lines", "allowed", "sentence"),
    [
        (["maxmemory-policy allkeys-lru"], "IOT_REDIS_ALLOW_EVICTION", "is allkeys-lru"),
        (["appendonly no"], "IOT_REDIS_ALLOW_NO_AOF", "appendonly is no"),
    ],
)
def test_an_unsafe_redis_needs_explicit_settings(
    environment: dict[str, str], tmp_path: Path, lines: list[str], allowed: str, sentence: str
) -> None:
    server = RedisServer(tmp_path / "redis", config=lines)
    server.start()
    try:
        given = environment | {"IOT_REDIS_URL": server.url}
        with _client(given) as refused:
            assert refused.put("/api/iot", json=_READING).status_code == 503
            assert sentence in refused.get("/readyz").get_json()["redis"]
        with _client(given | {allowed: "1"}) as knowing:
            assert knowing.put("/api/iot", json=_READING).status_code == 201
            assert knowing.get("/readyz").status_code == 200
    finally:
        server.stop()


_READING = [{"data": {"db_password": "p"}}]


@contextmanager
def _client(environment: dict[str, str]) -> Iterator[FlaskClient]:
    """A client of an API in this process."""
    app = create_app(load(environment))
    yield app.test_client()
    app.extensions["iot"].close()


def test_an_invalid_prefix_ends_the_processes(
    environment: dict[str, str], make_stack: MakeStack, tmp_path: Path
) -> None:
    stack = make_stack("wrong", environment | {"IOT_REDIS_KEY_PREFIX": "berlin"})
    assert stack.start_writer().wait(30) == 2
    assert (
        (tmp_path / "wrong" / "writer-0.log")
        .read_text(encoding="utf-8")
        .startswith("iot-writer: IOT_REDIS_KEY_PREFIX: a prefix must have at most 64 characters")
    )
