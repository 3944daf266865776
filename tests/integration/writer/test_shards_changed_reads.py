"""Reads of the last seconds after the number of shards changed while entries waited."""

import time

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from integration.writer.sending import sending
from iot_models.settings import load
from iot_stores.hot_window import HotWindow
from iot_writer.writer import Writer

PASSWORDS = [b"password-%d" % number for number in range(20)]


@pytest.mark.parametrize("numbers", [("8", "4"), ("5", "8")])
@pytest.mark.parametrize("lost", [True, False])
def test_reads_return_what_waited_in_another_shard(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    numbers: tuple[str, str],
    lost: bool,
) -> None:
    """`lost`: the hot window does not take the readings that waited."""
    before, after = (load(environment | {"IOT_SHARDS": shards}) for shards in numbers)
    with sending(before) as first, sending(after) as second:
        mover, neighbour = next(
            (mover, each)
            for mover in PASSWORDS
            for each in PASSWORDS
            if first.shard(mover) != second.shard(mover) == first.shard(each)
        )
        second.numbers = first.numbers
        now = int(time.time() * 1000)
        first.send_received(mover, now - 100_000)
        first.send_received(neighbour, now - 100_000)
        writer = Writer(before)
        writer.drain.run(writer.postgres(), [first.shard(mover), first.shard(neighbour)])
        writer.close()
        first.send_received(mover, now - 50_000)  # it waits
        second.send_received(mover, now - 40_000)
        writer = Writer(after)
        writer.drain.run(writer.postgres(), [second.shard(mover)])
        vault_id, shard = second.vault(mover).vault_id, second.shard(mover)
        assert writer.stores.hot_window.coverage(vault_id, shard, 90).bounds is not None
        assert second.last_seconds(mover, 90) == ["2"]
        with monkeypatch.context() as patch:
            if lost:
                patch.setattr(HotWindow, "write", _fail)
            writer.drain.run(writer.postgres(), [first.shard(mover)])
        for _ in range(2):
            assert second.last_seconds(mover, 90) == second.texts(mover)[1:]
            second.send(mover)
            writer.drain.run(writer.postgres(), [second.shard(mover)])
        writer.close()


def _fail(*_: object) -> None:
    raise RedisConnectionError("the hot window is away")
