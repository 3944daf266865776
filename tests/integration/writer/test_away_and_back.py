"""A running writer continues without a restart after Redis or Postgres was away."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration.writer.sending import Sender, sending
from iot_models.settings import load
from iot_tools.local.child import Child
from iot_tools.local.postgres_server import PostgresServer
from iot_tools.local.redis_server import RedisServer
from iot_writer.schema import migrate
from support.stack import Stack
from support.waiting import wait_until

PASSWORDS = [b"password-%d" % number for number in range(10)]
SECONDS = 10


@dataclass
class Service:
    """A writer process on separate stores."""

    redis: RedisServer
    postgres: PostgresServer
    stack: Stack
    sender: Sender

    @property
    def writer(self) -> Child:
        (writer,) = self.stack.writers
        return writer

    def stores(self) -> None:
        """Check that the same process stores new readings in time."""
        for password in PASSWORDS:
            self.sender.send(password, 3)
        self.stores_what_waits()

    def stores_what_waits(self) -> None:
        wait_until(lambda: not self.sender.waiting(), seconds=SECONDS, what="an empty backlog")
        self.sender.check_all()
        assert self.writer.poll() is None


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, keyring_file: Path) -> Iterator[Service]:
    """One writer process for all tests of this file."""
    tmp_path = tmp_path_factory.mktemp("away")
    redis = RedisServer(tmp_path / "redis", appendfsync="always")
    postgres = PostgresServer(tmp_path / "postgres", settings={"fsync": "off"})
    redis.start()
    postgres.start()
    migrate(postgres.url)
    environment = {
        **os.environ,
        "IOT_REDIS_URL": redis.url,
        "IOT_POSTGRES_URL": postgres.url,
        "IOT_KEYRING_FILE": str(keyring_file),
        "IOT_SCRYPT_LOG2_N": "10",
    }
    stack = Stack(environment, tmp_path)
    with sending(load(environment)) as sender:
        stack.start_writer()
        yield Service(redis, postgres, stack, sender)
    stack.stop()
    redis.stop()
    postgres.stop()


@pytest.fixture
def running(service: Service) -> Service:
    """The service, which has stored a reading."""
    service.stores()
    return service


def test_the_writer_continues_after_redis_is_wiped(running: Service) -> None:
    for _ in range(3):
        running.sender.redis.flushall()
        running.stores()


def test_the_writer_continues_after_redis_restarts(running: Service) -> None:
    running.redis.stop()
    running.redis.start()
    running.stores()


def test_the_backlog_is_stored_after_redis_is_killed(running: Service) -> None:
    running.postgres.stop()
    for password in PASSWORDS:
        running.sender.send(password, 2)
    running.redis.kill()
    wait_until(lambda: not running.redis.running, what="the end of Redis")
    running.redis.start()
    assert running.sender.waiting() == len(PASSWORDS)
    running.postgres.start()
    running.stores_what_waits()
    running.stores()


def test_the_writer_continues_after_postgres_restarts(running: Service) -> None:
    running.postgres.stop()
    running.postgres.start()
    running.stores()


def test_readings_sent_without_postgres_are_stored_later(running: Service) -> None:
    running.postgres.stop()
    for password in PASSWORDS:
        running.sender.send(password, 2)
    log = running.redis.directory.parent / "writer-0.log"
    said = log.read_bytes().count(b"Postgres is away")
    wait_until(
        lambda: log.read_bytes().count(b"Postgres is away") > said,
        what="a log line about the outage",
    )
    assert running.sender.waiting() == len(PASSWORDS)
    running.postgres.start()
    running.stores_what_waits()
