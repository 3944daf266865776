"""Processes of version 0.1 and of this version on the same stores, as during a rolling update."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import cast

import psycopg
import pytest
from redis import Redis

from iot_writer.maintenance import lookup_upgrade
from iot_writer.schema import migrate
from support.earlier_version import VERSION_0_1, EarlierVersion, MissingCommitError
from support.environment import environment_without_settings
from support.keys import KEYS
from support.stack import Stack, running_stack
from support.waiting import wait_until
from system.upgrade.alternating_device import AlternatingDevice, check

SHARED_PASSWORDS = ("", "Schlüssel", "shared")
NEW_PASSWORDS = 8
"""Passwords whose first readings reach both versions at once."""


@pytest.fixture(scope="module")
def version_0_1(tmp_path_factory: pytest.TempPathFactory) -> EarlierVersion:
    """The sources of version 0.1."""
    try:
        return EarlierVersion(VERSION_0_1, tmp_path_factory.mktemp("version_0_1"))
    except MissingCommitError as error:
        pytest.skip(f"version 0.1 can't be run: {error}")


@pytest.fixture
def environment(redis_url: str, empty_url: str, keyring_file: Path) -> dict[str, str]:
    """The environment of processes of both versions, on empty stores."""
    return environment_without_settings() | {
        "IOT_REDIS_URL": redis_url,
        "IOT_POSTGRES_URL": empty_url,
        "IOT_KEYRING_FILE": str(keyring_file),
        "IOT_SCRYPT_LOG2_N": "10",
    }


@pytest.fixture
def old(
    version_0_1: EarlierVersion, environment: dict[str, str], tmp_path: Path
) -> Iterator[Stack]:
    """API and writer of version 0.1 on the schema of that version."""
    version_0_1.run_tool(environment, "migrate")
    yield from running_0_1(version_0_1, environment, tmp_path / "old")


@pytest.fixture
def new(old: Stack, environment: dict[str, str], tmp_path: Path) -> Iterator[Stack]:
    """API and writer of this version, on the migrated stores of `old`."""
    assert old.request("GET", "/readyz").status == 200
    migrate(environment["IOT_POSTGRES_URL"])
    with running_stack(environment, tmp_path / "new") as stack:
        yield stack


def running_0_1(
    version: EarlierVersion, environment: dict[str, str], logs: Path
) -> Iterator[Stack]:
    """Run an API and a writer of version 0.1, whose writers have the whole keyring."""
    logs.mkdir()
    stack = Stack(version.environment(environment), logs)
    stack.writer_environment["IOT_KEYRING_FILE"] = environment["IOT_KEYRING_FILE"]
    try:
        stack.start_writer()
        stack.start_api()
        yield stack
    finally:
        stack.stop()


def at_once(actions: Sequence[Callable[[], object]]) -> None:
    """Run every action in its own thread. All actions start together."""
    barrier = threading.Barrier(len(actions))

    def start(action: Callable[[], object]) -> None:
        barrier.wait()
        action()

    with ThreadPoolExecutor(len(actions)) as pool:
        list(pool.map(start, actions))


def wait_until_drained(redis: "Redis") -> None:
    """Return when the backlog is empty."""

    def drained() -> bool:
        return not any(redis.xlen(key) for key in redis.scan_iter("iot:ingest:*"))

    wait_until(drained, what="an empty backlog")


def count_vaults(postgres_url: str) -> int:
    """Return the number of vaults."""
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute("SELECT count(*) FROM vaults").fetchone()
    return cast("tuple[int]", found)[0]


def test_the_earlier_version_imports_its_own_sources(
    version_0_1: EarlierVersion,
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    base = tmp_path_factory.getbasetemp()
    files = version_0_1.imported_from(environment)
    assert all(file.is_relative_to(base) for file in files), files


def test_a_rolling_update_loses_and_doubles_nothing(
    old: Stack, request: pytest.FixtureRequest, environment: dict[str, str]
) -> None:
    groups = [
        [AlternatingDevice(password, place, [old]) for place in range(2)]
        for password in SHARED_PASSWORDS
    ]
    devices = [device for group in groups for device in group]
    at_once([partial(device.send, 10) for device in devices])
    with Redis.from_url(environment["IOT_REDIS_URL"]) as redis:
        wait_until_drained(redis)  # by the writer of version 0.1

    new: Stack = request.getfixturevalue("new")
    for device in devices:
        device.servers = [old, new]
    groups += [send_first_readings(f"new {number}", [old, new]) for number in range(NEW_PASSWORDS)]
    at_once([partial(device.send, 30) for device in devices])
    with Redis.from_url(environment["IOT_REDIS_URL"]) as redis:
        wait_until_drained(redis)
        for server in (old, new):
            check_all(groups, server)

        switch_lookups(environment["IOT_POSTGRES_URL"])
        # Processes of version 0.1 get no new connections, but keep open connections.
        wait_until(lambda: old.request("GET", "/readyz").status == 503, what="old is not ready")
        groups += [send_first_readings(f"late {number}", [old, new]) for number in range(3)]
        at_once([partial(device.send, 10) for device in devices])
        stop_while_sending(old, devices)
        at_once([partial(device.send, 3) for device in devices])
        wait_until_drained(redis)
        assert redis.xlen(KEYS.dead_letters) == 0
    check_all(groups, new)
    assert count_vaults(environment["IOT_POSTGRES_URL"]) == len(groups)


def test_a_rollback_loses_and_doubles_nothing(
    old: Stack,
    version_0_1: EarlierVersion,
    request: pytest.FixtureRequest,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """Version 0.1 comes back on the schema of this version, while only this version runs."""
    groups = [[AlternatingDevice(name, 0, [old])] for name in (*SHARED_PASSWORDS, "a", "b")]
    devices = [device for group in groups for device in group]
    at_once([partial(device.send, 5) for device in devices])

    new: Stack = request.getfixturevalue("new")
    for device in devices:
        device.servers = [new]
    old.shut_down()
    groups += [send_first_readings(f"new {number}", [new]) for number in range(NEW_PASSWORDS)]
    at_once([partial(device.send, 5) for device in devices])
    new.writers.pop().kill()
    # Version 0.1 drains these entries.
    for _ in range(10):
        devices[0].send_with(devices[1:])

    for again in running_0_1(version_0_1, environment, tmp_path / "rolled back"):
        for device in devices:
            device.servers = [new, again]
        at_once([partial(device.send, 10) for device in devices])
        for _ in range(10):
            devices[0].send_with(devices[1:])
        stop_while_sending(new, devices)
        at_once([partial(device.send, 3) for device in devices])
        with Redis.from_url(environment["IOT_REDIS_URL"]) as redis:
            wait_until_drained(redis)
            assert redis.xlen(KEYS.dead_letters) == 0
        check_all(groups, again)
    assert count_vaults(environment["IOT_POSTGRES_URL"]) == len(groups)


def switch_lookups(postgres_url: str) -> None:
    """End the upgrade, as a writer does after `IOT_UPGRADE_AFTER_SECONDS`."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        assert lookup_upgrade.advance(connection, after_seconds=0)


def send_first_readings(password: str, servers: Sequence[Stack]) -> list[AlternatingDevice]:
    """Use a password for the first time, on all servers at once."""
    group = [AlternatingDevice(password, place, servers) for place in range(4)]
    at_once([partial(device.send, 3) for device in group])
    return group


def stop_while_sending(server: Stack, devices: Sequence[AlternatingDevice]) -> None:
    """Shut down the API and the writer of a server while devices send to it."""
    stopped = threading.Event()
    with ThreadPoolExecutor(len(devices)) as pool:
        sending = [pool.submit(device.send_until, stopped) for device in devices]
        try:
            server.stop()
        finally:
            stopped.set()
    for each in sending:
        each.result()


def check_all(groups: Sequence[Sequence[AlternatingDevice]], server: Stack) -> None:
    """Check that a server returns the readings of every password."""
    for group in groups:
        check(server.read(group[0].password), group)
