"""While Redis has no memory left, writers drain without jobs, which makes room."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.writer.sending import Sender
from integration.writer.test_held_entries import bring_back, lose
from iot_models import names
from iot_stores.dead_letters import DeadLetters
from iot_writer import jobs, rq_worker
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.waiting import wait_until
from system.upgrade.conftest import SERVERS, running_server

SHARDS = 4
HELD = b"held"


@pytest.fixture(params=["system", *SERVERS])
def redis_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Each available server."""
    with running_server(request.param, tmp_path / "redis") as server:
        yield server.url


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """Few shards."""
    return environment | {"IOT_SHARDS": str(SHARDS)}


@pytest.fixture
def passwords(writer: Writer, sender: Sender) -> list[bytes]:
    """A password of each shard, with one stored reading: Redis knows the scripts and the vaults."""
    candidates = (b"password %d" % number for number in range(1000))
    found: dict[int, bytes] = {}
    while len(found) < SHARDS:
        password = next(candidates)
        found.setdefault(sender.shard(password), password)
    for password in found.values():
        sender.send(password)
    drain_all(writer)
    return list(found.values())


def fill(sender: Sender) -> None:
    """Let Redis refuse all commands that need memory."""
    sender.redis.config_set("maxmemory", 1)


def test_a_full_redis_is_drained(writer: Writer, sender: Sender, passwords: list[bytes]) -> None:
    """Damaged and held entries, a queued sweep and the entries of a former shard do not stop it."""
    sender.vault(HELD)
    lose(writer, sender.vault(HELD).vault_id)
    sender.send(HELD, 3)
    drain_all(writer)
    bring_back(writer)
    former, sealed = sender.seal(b"former", ["former"], shard=SHARDS)
    sender.backlog.append([(0, b"no entry"), (former, sealed)])
    for password in passwords:
        sender.send(password, 3)
    assert writer.backlog.enqueue_once([names.SWEEP_JOB]) == 1
    fill(sender)

    rq_worker.recover(writer)
    assert (sender.waiting(), writer.held.vaults()) == (0, {})
    assert sender.texts(b"former") == ["former"]
    sender.check_all()
    letters = DeadLetters(writer.redis, KEYS)
    (letter,) = letters.all()
    letters.drop(letter)
    assert sender.redis.exists(KEYS.dead_letters, KEYS.dead_letter_ids) == 1  # an empty stream
    assert list(letters.all()) == []


def test_a_shard_whose_drain_hangs_does_not_stop_the_others(
    writer: Writer, sender: Sender, passwords: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "TIMEOUT_SECONDS", 3)
    for password in passwords:
        sender.send(password)
    fill(sender)
    session = writer.postgres().info.backend_pid
    os.kill(session, signal.SIGSTOP)
    try:
        rq_worker.recover(writer)
    finally:
        os.kill(session, signal.SIGCONT)
    assert {shard for shard, left in sender.backlog.state().entries.items() if left} == {0}

    def drained() -> bool:
        rq_worker.recover(writer)  # the session that hung may hold its locks for a moment
        return sender.waiting() == 0

    wait_until(drained, what="the last shard")
    sender.check_all()
