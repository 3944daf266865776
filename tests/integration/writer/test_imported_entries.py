"""Entries with imported times of receipt, as a writer finds them."""

import os
from array import array

import pytest
from redis.exceptions import RedisError

from integration.writer.sending import Sender
from iot_cipher.encryption import Entry
from iot_models.reading import ReadingColumns, int64s
from iot_stores.months import DAY_MS, END_MS, next_month
from iot_writer.writer import Writer
from support.draining import drain_all

PASSWORD = b"p"
APRIL = 1_396_310_400_000


def send(sender: Sender, received: "array[int]") -> None:
    vault = sender.vault(PASSWORD)
    times = int64s(list(range(len(received))))
    columns = ReadingColumns(times, times, b"\0".join([b"1"] * len(times)), received)
    salt = os.urandom(16)
    entry = Entry(vault.vault_id.bytes, salt, vault.chunk_key(salt), 0, columns)
    shard = vault.shard(sender.settings.shards)
    sender.backlog.append([(shard, sender.sealer.seal(shard, entry.encode()))])


@pytest.mark.parametrize("received", [[APRIL - 1, APRIL], [APRIL, APRIL + DAY_MS], [-1], [END_MS]])
def test_times_that_fit_no_partition_are_set_aside(
    received: list[int], sender: Sender, writer: Writer
) -> None:
    send(sender, int64s(received))
    sender.send(PASSWORD)
    drain_all(writer)
    assert sender.texts(PASSWORD) == ["0"], "the shard continues behind the bad entry"
    (dead,) = sender.service.stores.dead_letters.all()
    wrong = "the entry's imported times of receipt are out of range, or not all on one day (UTC)"
    assert wrong in dead.reason


def test_old_and_new_readings_of_one_drain_are_stored_once(sender: Sender, writer: Writer) -> None:
    for received in ([APRIL, APRIL + 5], [next_month(APRIL)]):
        send(sender, int64s(received))
        sender.send(PASSWORD)
    drain_all(writer)
    rows = (
        writer.postgres()
        .execute("SELECT received_min, received_max, count FROM segments ORDER BY received_min")
        .fetchall()
    )
    assert rows[:2] == [(APRIL, APRIL + 5, 2), (next_month(APRIL), next_month(APRIL), 1)]
    assert [row[2] for row in rows[2:]] in ([2], [1, 1])


def test_the_hot_window_does_not_cover_a_missing_import_ahead_of_the_clock(
    sender: Sender, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender.send(PASSWORD)
    drain_all(writer)
    shard, window = sender.shard(PASSWORD), writer.stores.hot_window
    ahead = sender.backlog.now() + 60_000
    send(sender, int64s([ahead]))

    def refuse(*_: object) -> None:
        raise RedisError("away")

    with monkeypatch.context() as patch:
        patch.setattr(window, "write", refuse)
        drain_all(writer)
    sender.send(PASSWORD)
    drain_all(writer)
    cover = window.recent([shard], []).before[shard]
    assert cover.since == ahead + 1
    writer.hot_redis.flushall()  # drains that commit before the next write are missing, too
    sender.send(PASSWORD)
    drain_all(writer)
    assert window.recent([shard], []).before[shard].since == ahead + 1
