"""Windows of readings that are erased under load, and by processes that are killed meanwhile."""

import itertools
import json
import threading

import psycopg
import pytest

from integration.compaction.past import Past, each_second, noon
from iot_models.settings import Settings, load
from iot_sensor_client import Client, NoResponseError, Response
from support.stack import Stack
from support.waiting import wait_until
from system.reliability.several_workers import (
    BLOCKED,
    JSON,
    SEVERAL_WORKERS,
    WORKING,
    InBackground,
    kill_workers,
    kill_writers,
    newest_vault,
    postgres_of,
)

WINDOW = 1000
"""Relative times of a device below this are erased."""

NEWEST_SEGMENTS = """
    SELECT FROM segments WHERE vault_id = %s ORDER BY received_min DESC LIMIT 15 FOR UPDATE
"""


def erase(stack: Stack, password: str, low: int, high: int) -> Response:
    """Erase a window of relative time."""
    body = json.dumps({"data": {"db_password": password}})
    return stack.request("DELETE", f"/api/iot/{low}/{high}", body, JSON)


class Device:
    """Sends readings whose relative time is the number of the request, modulo `2 * WINDOW`."""

    def __init__(self, stack: Stack, password: str) -> None:
        self._stack = stack
        self._password = password
        self._numbers = itertools.count(1)
        self.sent: list[tuple[int, int]] = []
        """Number and relative time of each acknowledged reading."""

    def send(self) -> None:
        number = next(self._numbers)
        relative = number * 7 % (2 * WINDOW)
        data = {"db_password": self._password, "relative_time": relative, "freeform": number}
        assert self._stack.put({"data": data}).status == 201
        self.sent.append((number, relative))


def stored(stack: Stack, password: str) -> list[tuple[int, int]]:
    """Return number and relative time of all readings of the device."""
    return sorted(
        (number, each["relative_timestamp"])
        for each in stack.read(password)
        if isinstance(number := json.loads(each["freeform"]), int)
    )


@pytest.fixture(scope="module")
def shared_settings() -> dict[str, str]:
    return SEVERAL_WORKERS


@pytest.fixture
def service(shared_stack: Stack) -> Stack:
    """Several API processes and two writers."""
    shared_stack.start_missing(writers=2)
    return shared_stack


@pytest.fixture
def settings(shared_environment: dict[str, str]) -> Settings:
    """Settings on the stores of the service, for the fixture `past`."""
    return load(shared_environment)


def test_under_load(service: Stack, past: Past, password: str) -> None:
    """While the vault is written to and compacted, nothing else is lost and nothing comes back."""
    past.store(password.encode(), each_second(noon(3), 300))
    device = Device(service, password)

    def compact() -> None:
        past.look(password.encode())

    with InBackground(device.send, device.send, compact) as load_threads:
        wait_until(lambda: len(device.sent) > 100, what="load")
        before = list(device.sent)
        answer = erase(service, password, 0, WINDOW - 1)
        assert answer.status == 200, answer
        count = len(device.sent)
        assert answer.json()["erased"] >= sum(relative < WINDOW for _, relative in before)
        found = stored(service, password)
        assert not {each for each in before if each[1] < WINDOW} & set(found)
        wait_until(lambda: len(device.sent) > count + 50, what="load afterwards")
    assert load_threads.errors == []
    after = set(device.sent[count:])
    kept = {each for each in device.sent if each[1] >= WINDOW}
    wait_until(lambda: kept | after <= set(stored(service, password)), what="all other readings")
    found = stored(service, password)
    assert len(found) == len(set(found))
    assert set(found) <= set(device.sent)
    assert not {each for each in before if each[1] < WINDOW} & set(found)
    # The first reading of the past may lie within the window.
    assert len(past.readings(password.encode())) - len(found) in {299, 300}
    assert erase(service, password, WINDOW, 2**62).status == 200
    left = stored(service, password)
    assert {relative for _, relative in left} <= set(range(WINDOW))


def test_an_api_process_is_killed(
    service: Stack, shared_environment: dict[str, str], password: str
) -> None:
    """It has erased a part. The request is repeated, and restarts bring nothing back."""
    device = Device(service, password)
    for _ in range(30):
        device.send()
        wait_until(lambda: len(stored(service, password)) == len(device.sent), what="a segment")
    high = sorted(relative for _, relative in device.sent)[19]
    kept = sorted(each for each in device.sent if each[1] > high)
    unanswered: list[NoResponseError] = []

    def send() -> None:
        try:
            erase(service, password, 0, high)
        except NoResponseError as error:
            unanswered.append(error)

    thread = threading.Thread(target=send)
    with (
        postgres_of(shared_environment) as postgres,
        psycopg.connect(shared_environment["IOT_POSTGRES_URL"]) as locking,
    ):
        locking.execute(NEWEST_SEGMENTS, [newest_vault(shared_environment)])
        thread.start()
        wait_until(lambda: postgres.execute(BLOCKED).fetchall(), what="an erasure that waits")
        kill_workers(service)
        locking.rollback()
        thread.join()
        assert unanswered
        wait_until(lambda: not postgres.execute(WORKING).fetchall(), what="the killed session")
    assert set(kept) <= set(stored(service, password))
    assert erase(service, password, 0, high).status == 200
    assert stored(service, password) == kept
    kill_writers(service)
    kill_workers(service)
    service.start_writer()
    device.send()
    wait_until(lambda: device.sent[-1] in stored(service, password), what="the new writer")
    assert stored(service, password) == sorted([*kept, device.sent[-1]])


def test_the_python_client(service: Stack, password: str) -> None:
    device = Device(service, password)
    for _ in range(3):
        device.send()
    with Client(service.url, password, timeout=30) as client:
        assert client.erase_readings(0, 7) == 1
        assert client.erase_readings(0, 7) == 0
        assert [each["relative_timestamp"] for each in client.read()] == [14, 21]
