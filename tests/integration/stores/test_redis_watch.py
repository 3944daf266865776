"""The checks of Redis by installation, keyring and persistence, on each supported server of
Redis.
"""

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import cast

import psycopg
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from iot_models.errors import SettingsError
from iot_stores.installation import Installation, KeyringMark
from iot_stores.postgres import Connection
from iot_stores.redis_watch import RedisRequirements, RedisWatch, UnfitRedisError
from iot_tools.local.redis_server import RedisServer
from support.keys import KEYS
from support.ports import port_of_a_node
from support.waiting import wait_until
from system.upgrade.conftest import SERVERS, ChosenRedisServer, running_server

Watch = Callable[..., RedisWatch]


@pytest.fixture(params=["system", *SERVERS])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """Each supported server of Redis."""
    with running_server(request.param, tmp_path / "redis") as made:
        yield made


@pytest.fixture
def client(server: RedisServer) -> Iterator["Redis"]:
    """A client of an administrator."""
    with Redis.from_url(server.url) as made:
        yield made


class Database:
    """The database of an installation; a test can make the database unavailable."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.away = False
        self.error: type[psycopg.Error] = psycopg.OperationalError
        """The error that the database raises while it is away."""
        self.asked = 0

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Lend a connection."""
        self.asked += 1
        if self.away:
            raise self.error("away")
        with psycopg.connect(self._url, autocommit=True) as connection:
            yield connection

    def renew(self) -> uuid.UUID:
        """Replace the id of the installation."""
        with self.connect() as connection:
            return _one(connection, "UPDATE installation SET id = gen_random_uuid() RETURNING id")

    def id(self) -> uuid.UUID:
        """Return the id of the installation."""
        with self.connect() as connection:
            return _one(connection, "SELECT id FROM installation")


def _one(connection: Connection, statement: str) -> uuid.UUID:
    row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return cast("uuid.UUID", row[0])


@pytest.fixture
def database(postgres_url: str) -> Database:
    """A migrated database."""
    return Database(postgres_url)


def watch_on(
    client: "Redis",
    database: Database,
    duties: RedisRequirements | None = None,
    keyring: KeyringMark | None = None,
) -> RedisWatch:
    """Return the watch of a process that has not checked Redis yet."""
    installation = Installation(database.connect, keyring)
    return RedisWatch(client, KEYS, installation, duties or RedisRequirements())


def test_an_empty_redis_is_marked_and_another_installation_refused(
    client: "Redis", database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    ours = database.id()
    first = watch_on(client, database)
    first.require_safe()
    first.require_ownership()
    assert client.get(KEYS.owner) == str(ours).encode()
    theirs = database.renew()
    other = watch_on(client, database)
    for check in (other.require_safe, other.require_ownership):
        with pytest.raises(UnfitRedisError):
            check()
    assert not other.keeps_indexes()
    sentence = other.state()
    assert f"belongs to the installation {ours}, and the database to {theirs}" in sentence
    assert "IOT_REDIS_KEY_PREFIX" in sentence
    assert [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR] == [
        f"not ready: {sentence}"
    ]
    assert client.get(KEYS.owner) == str(ours).encode()
    assert first.state() == "ok"


def test_one_of_many_concurrent_first_starts_wins(client: "Redis", database: Database) -> None:
    watches = []
    for _ in range(4):
        database.renew()
        installations = [Installation(database.connect) for _ in range(3)]
        for each in installations:
            each.get_id()
        watches.append(
            [RedisWatch(client, KEYS, each, RedisRequirements()) for each in installations]
        )
    together = threading.Barrier(12)
    states: dict[int, set[str]] = {number: set() for number in range(4)}

    def start(number: int, watch: RedisWatch) -> None:
        together.wait()
        states[number].add(watch.state())

    threads = [
        threading.Thread(target=start, args=(number, watch))
        for number, group in enumerate(watches)
        for watch in group
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(each) == 1 for each in states.values())
    assert [state for each in states.values() for state in each].count("ok") == 1


def test_an_emptied_redis_is_marked_again(client: "Redis", database: Database) -> None:
    watch = watch_on(client, database)
    watch.check()
    client.flushall()
    assert watch.state() == "ok"
    assert client.get(KEYS.owner) == str(database.id()).encode()


def test_a_replaced_mark_is_detected_by_the_next_check(client: "Redis", database: Database) -> None:
    watch = watch_on(client, database)
    watch.require_ownership()
    client.set(KEYS.owner, str(uuid.uuid4()))
    watch.require_ownership()  # without a query
    assert "belongs to the installation" in watch.state()
    with pytest.raises(UnfitRedisError):
        watch.require_ownership()


def test_a_full_redis_is_marked(client: "Redis", database: Database) -> None:
    """Otherwise writers would refuse a full Redis, and its backlog would never drain."""
    client.config_set("maxmemory", 1)
    with pytest.raises(RedisError, match="maxmemory"):
        client.set("other", 1)
    watch_on(client, database).require_ownership()
    assert client.get(KEYS.owner) == str(database.id()).encode()


def test_a_database_without_an_id_is_an_error(client: "Redis", database: Database) -> None:
    with database.connect() as connection:
        connection.execute("DROP TABLE installation")
    watch = watch_on(client, database)
    for check in (watch.require_safe, watch.require_ownership):
        with pytest.raises(UnfitRedisError):
            check()
    with database.connect() as connection, pytest.raises(SettingsError, match="sensor migrate"):
        Installation(database.connect).refresh(connection)
    assert client.get(KEYS.owner) is None


POLICIES = ["allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-ttl"]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_redis_that_evicts_is_not_safe(client: "Redis", database: Database, policy: str) -> None:
    watch, allowed = (
        watch_on(client, database),
        watch_on(client, database, RedisRequirements(may_evict=True)),
    )
    assert not watch.safe  # nothing is checked yet
    watch.require_safe()
    assert watch.safe
    assert watch.keeps_indexes()
    client.config_set("maxmemory-policy", policy)
    assert f"its maxmemory-policy is {policy}" in watch.state()
    assert not watch.safe
    with pytest.raises(UnfitRedisError):
        watch.require_safe()
    watch.require_ownership()  # the stored entries are drained
    assert allowed.state() == "ok"
    allowed.require_safe()
    # A lost hot index would stay unnoticed.
    assert not watch.keeps_indexes()
    assert not allowed.keeps_indexes()
    client.config_set("maxmemory-policy", "noeviction")
    assert watch.state() == "ok"
    watch.require_safe()
    assert watch.safe
    watch.invalidate()
    assert not watch.safe


def test_a_redis_without_aof_is_not_safe(client: "Redis", database: Database) -> None:
    watch, allowed = (
        watch_on(client, database),
        watch_on(client, database, RedisRequirements(durable=False)),
    )
    assert watch.state() == "ok"
    client.config_set("appendonly", "no")
    assert "appendonly is no" in watch.state()
    with pytest.raises(UnfitRedisError):
        watch.require_safe()
    watch.require_ownership()
    assert watch.keeps_indexes()
    assert allowed.state() == "ok"


def test_a_redis_that_forbids_info_and_config_is_used_with_a_warning(
    client: "Redis", server: RedisServer, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Managed servers may forbid INFO and CONFIG."""
    client.execute_command(
        *["ACL", "SETUSER", "managed", "on", "nopass", "~*", "+@all", "-info", "-config"]
    )  # type: ignore[no-untyped-call]
    with Redis(port=server.port, username="managed", password="x") as managed:
        watch = watch_on(managed, database)
        assert watch.state() == "ok"
        assert watch.state() == "ok"
        watch.require_safe()
    warned = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warned) == 1
    assert "does not report its maxmemory-policy and appendonly" in warned[0]


def test_a_user_without_rights_to_the_mark_continues_with_a_warning(
    client: "Redis", server: RedisServer, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """An installation with the Redis users of the previous version continues and logs a warning."""
    rights = "ACL SETUSER before on nopass ~iot:backlog ~iot:ingest:* +@all"
    client.execute_command(*rights.split())  # type: ignore[no-untyped-call]
    with Redis(port=server.port, username="before", password="x") as before:
        watch = watch_on(before, database)
        assert watch.state() == "ok"
    assert "may not use the key iot:owner" in caplog.text


@pytest.mark.parametrize("tells", [True, False])
def test_a_redis_cluster_is_refused(
    database: Database, tmp_path: Path, server: RedisServer, *, tells: bool
) -> None:
    config = ["cluster-enabled yes", "cluster-config-file nodes.conf"]
    if not tells:
        config.append('rename-command INFO ""')
    binary = getattr(server, "_binary", None)
    directory = tmp_path / "cluster"
    cluster = (
        RedisServer(directory, config=config, port=port_of_a_node())
        if binary is None
        else ChosenRedisServer(directory, binary, config=config, port=port_of_a_node())
    )
    cluster.start()
    try:
        with Redis.from_url(cluster.url) as node:
            watch = watch_on(node, database)
            assert "is a Redis Cluster" in watch.state()  # without slots: CLUSTERDOWN
            node.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))

            def serves() -> bool:
                info = cast("bytes", node.execute_command("CLUSTER", "INFO"))
                return "ok" in str(info)

            wait_until(serves, what="the cluster")
            assert "is a Redis Cluster" in watch.state()  # CROSSSLOT
            for check in (watch.require_safe, watch.require_ownership):
                with pytest.raises(UnfitRedisError):
                    check()
    finally:
        cluster.stop()


def test_redis_is_checked_when_it_answers_again(
    client: "Redis", server: RedisServer, database: Database
) -> None:
    other = watch_on(client, database)
    other.check()
    database.renew()
    watch = watch_on(client, database)
    server.stop()  # not killed: a slow fsync delays the AOF, and a kill would lose the mark
    with pytest.raises(RedisConnectionError):
        watch.require_safe()
    assert watch.state() == "away"
    server.start()
    with pytest.raises(UnfitRedisError):
        watch.require_safe()


def test_concurrent_callers_share_a_check(client: "Redis") -> None:
    looks: list[int] = []
    together, all_came = threading.Barrier(9), threading.Event()

    def connect() -> AbstractContextManager[Connection]:
        looks.append(1)
        assert all_came.wait(30)
        raise psycopg.OperationalError("away")

    watch = RedisWatch(client, KEYS, Installation(connect), RedisRequirements())
    errors: list[BaseException] = []

    def require() -> None:
        together.wait()
        try:
            watch.require_safe()
        except psycopg.OperationalError as error:
            errors.append(error)

    threads = [threading.Thread(target=require) for _ in range(8)]
    for thread in threads:
        thread.start()
    together.wait()
    wait_until(lambda: looks, what="a check")
    all_came.set()
    for thread in threads:
        thread.join()
    assert len({id(each) for each in errors}) == 8
    assert len(looks) < 8


def test_the_mark_of_the_keyring_is_checked(client: "Redis", database: Database) -> None:
    def marks(key: bytes) -> KeyringMark:
        return lambda each: each.bytes + key

    ours, theirs = marks(b"ours"), marks(b"theirs")
    watch_on(client, database).check()  # a writer was first
    first = watch_on(client, database, keyring=ours)
    first.require_safe()
    watch_on(client, database, keyring=ours).require_safe()
    other = watch_on(client, database, keyring=theirs)
    with pytest.raises(UnfitRedisError):
        other.require_safe()
    # A database restored from an older backup has no mark, but Redis has one.
    with database.connect() as connection:
        connection.execute("UPDATE installation SET keyring = NULL")
    assert (
        "has another pepper than the keyring that Redis is marked with"
        in watch_on(client, database, keyring=theirs).state()
    )
    watch_on(client, database).require_safe()


def test_without_postgres_the_mark_of_the_keyring_decides(
    client: "Redis", database: Database
) -> None:
    def mark(each: uuid.UUID) -> bytes:
        return each.bytes + b"ours"

    watch_on(client, database, keyring=mark).require_safe()
    database.away = True
    watch_on(client, database, keyring=mark).require_safe()
    for stranger in (
        watch_on(client, database),
        watch_on(client, database, keyring=lambda each: each.bytes),
    ):
        with pytest.raises(psycopg.OperationalError):
            stranger.require_safe()
    client.flushall()
    with pytest.raises(psycopg.OperationalError):
        watch_on(client, database, keyring=mark).require_safe()
