"""Reads of the last seconds after the number of shards changed while entries waited."""

import time
from contextlib import suppress
from functools import partial

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from integration.writer.sending import sending
from iot_models.settings import load
from iot_stores.hot_window import HotWindow
from iot_writer.writer import Writer

PASSWORDS = [b"password-%d" % number for number in range(20)]


class KilledError(BaseException):
    """Stands for the death of a writer."""


@pytest.mark.parametrize("numbers", [("8", "4"), ("5", "8")])
@pytest.mark.parametrize("error", [None, RedisConnectionError, KilledError])
@pytest.mark.parametrize("is_old", [False, True])
def test_reads_return_what_waited_in_another_shard(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    numbers: tuple[str, str],
    error: type[BaseException] | None,
    is_old: bool,
) -> None:
    """`error`: why the hot window does not get the readings that waited. `is_old`: the writer that
    stores these readings has the old number of shards."""
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
        storer = Writer(before) if is_old else writer
        with monkeypatch.context() as patch:
            if error is not None:
                patch.setattr(HotWindow, "write", partial(_fail, error))
            with suppress(KilledError):
                storer.drain.run(storer.postgres(), [first.shard(mover)])
        storer.drain.run(storer.postgres(), [first.shard(mover)])
        if is_old:
            storer.close()
        for _ in range(2):
            assert second.last_seconds(mover, 90) == second.texts(mover)[1:]
            second.send(mover)
            writer.drain.run(writer.postgres(), [second.shard(mover)])
        writer.close()


def _fail(error: type[BaseException], *_: object) -> None:
    raise error("the hot window gets no segments")
