"""Redis holds waiting and recent data only: no key grows with completed work."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from redis import Redis

from integration.growth.conftest import Sending
from integration.writer.sending import Sender
from iot_api.limits.clients import Client
from iot_stores.append_conditions import RememberedRequest
from support.keys import KEYS
from support.stack import Stack
from support.waiting import wait_until

PASSWORDS = [b"one", b"two", b"three"]


PASSING = re.compile(
    r"rq:(executions?|wip|queue|scheduler|clean_|worker:[0-9a-f]+:executions)"
    r"|iot:(tick:|loaded:heartbeats)"
)
"""Keys that exist while a job waits or a process runs. `test_heartbeats` tests their size."""
EXPIRING = re.compile(
    r"iot:(vault(?!:changes)|requests?|guesses|rates|tick|loaded(?!:heartbeats)|hot:segment|hot:index|hot:hidden):|rq:(worker:|clean_)"
)
FIXED = re.compile(
    r"iot:(owner|owner:keyring|audit:head|backlog|requests|dead|dead:(ids|orders)|held(:[0-9a-f]{32})?|ingest:\d|hot:cover:\d"
    r"|vault:changes|loaded:heartbeats)"
    r"|rq:(workers(:iot)?|queues|(finished|failed):iot|(job|results):[a-z]+(-\d)?)"
)
MAX_RESULTS_BYTES = 12_000
"""Of a job's results in Redis. RQ keeps ten and trims whole nodes of 4,096 bytes: two can stand."""


def _keys(redis: "Redis") -> set[str]:
    return {key.decode() for key in cast("list[bytes]", redis.keys())}


def _sizes(redis: "Redis") -> dict[str, int]:
    """Return the bytes of each key."""
    keys = [key for key in _keys(redis) if not PASSING.match(key)]
    return {key: cast("int", redis.memory_usage(key)) or 0 for key in keys}


def _drains(sender: Sender, count: int) -> None:
    for _ in range(count):
        for password in PASSWORDS:
            sender.send(password, 3)
        wait_until(lambda: not sender.waiting(), what="an empty backlog")
    wait_until(
        lambda: not any(key.startswith("iot:hot:segment") for key in _keys(sender.redis)),
        what="an empty hot window",
    )


@pytest.fixture
def hot_window_seconds() -> str:
    """The default hot window; tests override it."""
    return "1"


@pytest.fixture
def stack(environment: dict[str, str], tmp_path: Path, hot_window_seconds: str) -> Iterator[Stack]:
    """A stack without processes."""
    environment["IOT_HOT_WINDOW_SECONDS"] = hot_window_seconds
    made = Stack(environment, tmp_path)
    yield made
    made.stop()


def test_drains_leave_no_new_keys(
    environment: dict[str, str], stack: Stack, sending_on: Sending
) -> None:
    sender = sending_on(environment)
    stack.start_writer()
    _drains(sender, 30)
    before = _sizes(sender.redis)
    _drains(sender, 90)
    after = _sizes(sender.redis)
    # One job drains other shards too; the choice is random.
    assert all(FIXED.fullmatch(key) for key in after.keys() - before.keys())
    results = {key for key in after if key.startswith("rq:results:")}
    assert {key for key in results if after[key] > MAX_RESULTS_BYTES} == set()
    held = [sum(sizes[key] for key in before.keys() - results) for sizes in (before, after)]
    assert held[1] < 1.05 * held[0]


@pytest.mark.parametrize("hot_window_seconds", ["60"])
def test_each_key_has_a_fixed_name_or_an_expiry(
    environment: dict[str, str], stack: Stack, sending_on: Sending
) -> None:
    sender = sending_on(environment)
    stack.start_writer()
    for number in range(40):
        entry = sender.seal(b"password %d" % number, range(5))
        name = KEYS.remembered_request(b"%d" % number)
        client = Client(f"192.0.2.{number}")
        count = KEYS.remembered_of_client(client.name)
        remember = RememberedRequest((name, f"{name}-too"), 3600, b"answer", 1000, count, 1000)
        sender.backlog.append([entry], remember)
        sender.service.vaults.find(b"unknown %d" % number, client)
    wait_until(lambda: not sender.waiting(), what="an empty backlog")
    keys = _keys(sender.redis)
    assert len([key for key in keys if key.startswith("iot:hot:segment")]) >= 40
    ends = {key for key in keys if EXPIRING.match(key)}
    assert {key for key in ends if sender.redis.ttl(key) == -1} == set()
    lasting = {key for key in keys - ends if not PASSING.match(key)}
    assert {key for key in lasting if not FIXED.fullmatch(key)} == set()


def test_killed_writers_are_forgotten(
    environment: dict[str, str], stack: Stack, sending_on: Sending
) -> None:
    redis = sending_on(environment).redis
    for _ in range(3):
        killed = stack.start_writer()
        wait_until(lambda: redis.scard("rq:workers") == len(stack.writers), what="a writer")
        killed.kill()
        killed.wait()
    for key in _keys(redis):
        if EXPIRING.match(key) and key.startswith("rq:"):
            assert redis.ttl(key) > 0
            redis.delete(key)  # as if minutes had passed
    stack.start_writer()
    wait_until(lambda: redis.scard("rq:workers") == 1, what="the remaining writer")
    assert redis.scard("rq:workers:iot") == 1
