"""Changing the number of shards and back loses no reading, and the ids of a vault grow."""

import itertools
from collections.abc import Sequence
from typing import cast

import pytest

from integration.writer.sending import Sender, sending
from iot_models import names
from iot_models.settings import Settings, load
from iot_writer import jobs
from iot_writer.maintenance.sweep import sweep
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.waiting import wait_until

PASSWORDS = [b"password-%d" % number for number in range(20)]


def _sent(sender: Sender, earlier: Sender) -> None:
    """Continue the numbers of the earlier sender."""
    sender.numbers = earlier.numbers
    for password in PASSWORDS:
        sender.send(password, 2)


def _drained(settings: Settings, shards: Sequence[int] | None = None) -> None:
    writer = Writer(settings)
    for shard in range(settings.shards) if shards is None else shards:
        writer.drain.run(writer.postgres(), [shard])
    writer.close()


@pytest.mark.parametrize("numbers", [(4, 8), (16, 8), (8, 4, 8, 4), (1, 8, 3)])
@pytest.mark.parametrize("upwards", [True, False])
def test_ids_grow_when_the_number_of_shards_changes(
    numbers: tuple[int, ...], upwards: bool, environment: dict[str, str], sender: Sender
) -> None:
    _sent(sender, sender)
    _drained(sender.settings)
    for shards in numbers:
        settings = load(environment | {"IOT_SHARDS": str(shards)})
        with sending(settings) as changed:
            _sent(changed, sender)
            order = range(shards) if upwards else range(shards)[::-1]
            _drained(settings, order)
            assert changed.waiting() == 0
            changed.check_all()


def test_ids_grow_after_an_idle_shard(environment: dict[str, str], sender: Sender) -> None:
    eight, four = sender.settings, load(environment | {"IOT_SHARDS": "4"})
    # A password that moves from shard 2 of 4 to shard 6 of 8 and back.
    tried = (b"mover-%d" % number for number in itertools.count())
    mover = next(password for password in tried if sender.shard(password) == 6)
    sender.send(mover, 3)
    _drained(eight)
    with sending(four) as changed:
        changed.numbers = sender.numbers
        changed.send(mover, 50)
        _drained(four)
    for password in PASSWORDS:
        if sender.shard(password) != 6:  # on the way back all other shards are drained first
            sender.send(password, 1)
    _drained(eight)
    sender.send(mover, 3)
    _drained(eight)
    sender.check_all()


def test_ids_are_unique_when_the_number_of_shards_changes(
    environment: dict[str, str], sender: Sender
) -> None:
    for shards in (8, 4, 8, 5, 8):
        settings = load(environment | {"IOT_SHARDS": str(shards)})
        with sending(settings) as changed:
            _sent(changed, sender)
            _drained(settings)
    ids = [each.id for password in PASSWORDS for each in sender.readings(password)]
    assert len(ids) == len(set(ids)) == sum(sender.numbers.values())


@pytest.mark.parametrize("added", [True, False])
def test_the_hot_window_does_not_cover_what_other_shards_stored_before(
    environment: dict[str, str], *, added: bool
) -> None:
    """The hot window is emptied before `IOT_SHARDS` is changed. `added`: to a larger number."""
    apart = environment | {
        "IOT_HOT_WINDOW_REDIS_URL": environment["IOT_REDIS_URL"].replace("/0", "/1")
    }
    numbers = ("4", "8") if added else ("8", "4")
    before, after = (load(apart | {"IOT_SHARDS": shards}) for shards in numbers)
    with sending(before) as first, sending(after) as second:
        mover = next(each for each in PASSWORDS if first.shard(each) != second.shard(each))
        second.numbers = first.numbers
        first.send(mover, 2)
        _drained(before)
        assert first.last_seconds(mover, 60) == ["0", "1"]
        second.service.stores.hot_redis.flushdb()
        second.send(mover)
        _drained(after)
        assert second.last_seconds(mover, 60) == second.texts(mover) == ["0", "1", "2"]


def test_the_backlog_of_a_removed_shard_is_stored(
    environment: dict[str, str], sender: Sender
) -> None:
    _sent(sender, sender)
    four = load(environment | {"IOT_SHARDS": "4"})
    writer = Writer(four)
    writer.redis.delete(KEYS.job_list)
    drains = {names.drain_job(sender.shard(password)).encode() for password in PASSWORDS}

    def all_queued() -> bool:
        sweep(writer.backlog)
        return set(cast("list[bytes]", writer.redis.lrange(KEYS.job_list, 0, -1))) == drains

    wait_until(all_queued, what="drains of all eight shards")
    for job in drains:
        assert jobs.find_job(job.decode())
    state = writer.backlog.state()
    assert sum(state.entries.values()) == len(PASSWORDS)
    drain_all(writer)
    for shard in range(4, 8):
        writer.drain.run(writer.postgres(), [shard])
    writer.close()
    sender.check_all()
