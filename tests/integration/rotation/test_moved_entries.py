"""A count of what needs a master key misses no entry that a writer moves meanwhile."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from integration.rotation.running import Running
from iot_cipher.encryption import Sealer
from iot_stores import dead_letters, key_uses
from iot_stores.stores import Stores
from iot_stores.stream_entries import StreamItem, WaitingEntry, read_stream
from support.draining import drain_all
from support.keys import KEYS, CheckedKeys

VAULT = uuid.uuid4()


def replay(running: Running) -> None:
    stores = running.writer.stores
    (letter,) = stores.dead_letters.all()
    stores.backlog.append([(letter.shard, letter.sealed)])
    stores.dead_letters.drop(letter)


def release(running: Running) -> None:
    running.service.stores.held_entries.release(VAULT)


def set_aside(running: Running) -> None:
    drain_all(running.writer)


@pytest.mark.parametrize("move", [replay, release, set_aside])
def test_an_entry_that_moves_during_the_count(
    running: Running,
    redis: "Redis",
    monkeypatch: pytest.MonkeyPatch,
    move: Callable[[Running], None],
) -> None:
    stores: Stores = running.service.stores
    keyring = running.keyring()
    sealed = Sealer(CheckedKeys(lambda: keyring)).seal(0, b"content")
    moves_at = reads = 0

    def read(client: Any, name: str) -> Iterator[StreamItem]:
        nonlocal reads
        reads += 1
        if reads - 1 == moves_at:
            move(running)
        return read_stream(client, name)

    for moves_at in range(20):
        redis.delete(
            *redis.keys("iot:ingest:*"), KEYS.dead_letters, KEYS.dead_letter_ids, KEYS.held_vaults
        )
        if move is replay:
            stores.dead_letters.add(0, WaitingEntry(b"1-1", sealed, 0, 0), "a reason")
        elif move is release:
            redis.hset(KEYS.held_vaults, VAULT.hex, 1)
            redis.xadd(KEYS.held_entries(VAULT.bytes), {"shard": 0, "e": sealed, "r": 1})
        else:
            stores.backlog.append([(0, sealed)])
        reads = 0
        with monkeypatch.context() as patched:
            for module in (key_uses, dead_letters):
                patched.setattr(module, "read_stream", read)
            uses = key_uses.count_uses(stores, running.writer.postgres())
        found = sum(uses[kind][1] for kind in ("queued entries", "held entries", "dead letters"))
        assert found >= 1, moves_at
        if reads <= moves_at:
            break
    assert moves_at >= 3
