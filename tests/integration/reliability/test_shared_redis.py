"""Two releases on one Redis, with their own keyrings and databases."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import psycopg
import pytest
from redis import Redis

from iot_cipher.keyring import create_keyring_file
from iot_tools.local.postgres_server import PostgresServer
from support.stack import Stack
from support.waiting import wait_until

OTHER_DATABASE = "other_release"

MakeStack = Callable[[str, dict[str, str]], Stack]


@pytest.fixture
def other_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The database of the second release."""
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {OTHER_DATABASE} TEMPLATE template_iot")
        yield psycopg.conninfo.make_conninfo(postgres_server.url, dbname=OTHER_DATABASE)
        connection.execute(f"DROP DATABASE {OTHER_DATABASE} WITH (FORCE)")


@pytest.fixture
def other_environment(
    environment: dict[str, str], other_postgres_url: str, tmp_path: Path
) -> dict[str, str]:
    """The second release: its keyring and its database, the first one's Redis."""
    keyring = tmp_path / "other-keyring"
    create_keyring_file(keyring)
    return environment | {
        "IOT_POSTGRES_URL": other_postgres_url,
        "IOT_KEYRING_FILE": str(keyring),
    }


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[MakeStack]:
    """Makes stacks, of which no process runs yet."""
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


def test_releases_with_prefixes_of_their_own_share_a_redis(
    make_stack: MakeStack,
    environment: dict[str, str],
    other_environment: dict[str, str],
    redis_url: str,
) -> None:
    prefix = "berlin:"
    stacks = [
        make_stack("one", environment),
        make_stack("two", other_environment | {"IOT_REDIS_KEY_PREFIX": prefix}),
    ]
    for stack in stacks:
        stack.start_api()
        stack.start_writer()
    for number in range(40):
        for stack in stacks:
            row = {"data": {"db_password": f"p{number % 4}", "freeform": number}}
            headers = {"Content-Type": "application/json", "Idempotency-Key": str(number)}
            assert stack.put([row]).status == 201
            assert stack.request("PUT", "/api/iot", b"[]", headers).status < 500
    with Redis.from_url(redis_url) as redis:
        for stack in stacks:
            for vault in range(4):
                expected = {str(number) for number in range(40) if number % 4 == vault}

                def stored(stack: Stack = stack, password: str = f"p{vault}") -> set[str]:
                    return {each["freeform"] for each in stack.read(password)}

                wait_until(lambda stored=stored, expected=expected: stored() == expected)  # type: ignore[misc]
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


def test_a_prefix_that_is_none_ends_the_processes(
    environment: dict[str, str], make_stack: MakeStack, tmp_path: Path
) -> None:
    stack = make_stack("wrong", environment | {"IOT_REDIS_KEY_PREFIX": "berlin"})
    assert stack.start_writer().wait(30) == 2
    assert (
        (tmp_path / "wrong" / "writer-0.log")
        .read_text(encoding="utf-8")
        .startswith("iot-writer: IOT_REDIS_KEY_PREFIX: a prefix is made")
    )
