"""Forged orders, damaged segments and keys of other vaults cause no damage."""

import logging
import struct
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import LiteralString, cast

import pytest

from integration.compaction.past import Past, each_second, noon
from iot_cipher.encryption import Opener, Sealer, decrypt_segment, salt_of
from iot_cipher.keyring import Keyring, KeyringFile, create_keyring_file
from iot_cipher.sealed_order import open_order, seal_order
from iot_models.compaction_order import SMALL_READINGS, CompactionOrder, decode_order
from iot_models.errors import DecryptionError
from iot_models.segment import SegmentColumns
from iot_models.segment_encoding import may_share_key
from iot_stores import history, small_segments
from iot_stores.history import ReadFilter
from iot_stores.months import DAY_MS
from iot_writer.compaction import compactor
from iot_writer.compaction.compactor import CompactionOutcome
from iot_writer.compaction.segment_merger import merge_segments
from support.defective_segments import content, seal
from support.draining import drain_all
from support.keys import KEYS, CheckedKeys
from support.samples import sample_value

PASSWORD = b"p"
NUMBER = 100


@pytest.fixture
def stored(past: Past) -> Past:
    """Small segments of one day."""
    past.store(PASSWORD, each_second(noon(3), NUMBER))
    return past


def waiting(past: Past) -> bytes:
    """Return the only queued order."""
    (order,) = past.sender.redis.lrange(KEYS.compaction_orders, 0, -1)
    return cast("bytes", order)


def put(past: Past, order: bytes) -> None:
    """Replace the queue by this order."""
    past.sender.redis.delete(KEYS.compaction_orders)
    past.sender.redis.rpush(KEYS.compaction_orders, order)


def keyring(past: Past) -> Keyring:
    return KeyringFile(Path(past.sender.settings.keyring_file)).current()


def test_a_changed_order_is_refused(stored: Past) -> None:
    stored.look(PASSWORD)
    order = waiting(stored)
    for at in (0, 3, 10, 30, 50, len(order) - 1):
        put(stored, order[:at] + bytes([order[at] ^ 1]) + order[at + 1 :])
        assert stored.work() == [CompactionOutcome.REFUSED]
    for other in (b"", b"\1", order[:-1], order + b"\0", b"garbage" * 40):
        put(stored, other)
        assert stored.work() == [CompactionOutcome.REFUSED]
    assert stored.counts(PASSWORD) == [1] * NUMBER
    put(stored, order)
    assert stored.work() == [CompactionOutcome.MERGED]


def test_entries_and_orders_are_not_interchangeable(stored: Past) -> None:
    sender = stored.sender
    stored.look(PASSWORD)
    order = waiting(stored)
    _, entry = sender.seal(PASSWORD, ["1"])
    put(stored, entry)
    assert stored.work() == [CompactionOutcome.REFUSED]
    shard = sender.shard(PASSWORD)
    sender.backlog.append([(shard, order)])
    drain_all(stored.writer)
    assert sender.backlog.state().dead_letters == 1
    # A message sealed as the other kind is refused, too.
    content = open_order(keyring(stored), order)
    sender.backlog.append(
        [(shard, Sealer(CheckedKeys(lambda: keyring(stored))).seal(shard, content))]
    )
    drain_all(stored.writer)
    assert sender.backlog.state().dead_letters == 2
    put(
        stored,
        seal_order(keyring(stored), Opener(lambda: keyring(stored)).open(shard, entry).content),
    )
    assert stored.work() == [CompactionOutcome.REFUSED]
    assert stored.counts(PASSWORD) == [1] * NUMBER


CHANGES = {
    "payload": "payload = set_byte(payload, 40, get_byte(payload, 40) # 1)",
    "salt": "payload = set_byte(payload, 1, get_byte(payload, 1) # 1)",
    "relative_max": "relative_max = relative_max + 1",
}


def damage(past: Past, change: str, which: str = "true") -> None:
    past.rows(f"UPDATE segments SET {change} WHERE {which} RETURNING 1")  # noqa: S608 - constants


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("when", ["before the API looks", "before the writer does it"])
def test_a_damaged_segment_is_kept_and_the_others_are_merged(
    change: str, when: str, stored: Past, caplog: pytest.LogCaptureFixture
) -> None:
    before = stored.readings(PASSWORD)
    which = f"interrogator_min = {before[50].interrogator_timestamp}"
    rows = f"SELECT * FROM segments WHERE {which}"  # noqa: S608 - a constant
    seen = damaged_segments()
    with caplog.at_level(logging.ERROR):
        if when == "before the API looks":
            damage(stored, change, which)
            damaged = stored.rows(rows)
            assert stored.look(PASSWORD) == 1
            assert damaged_segments() == seen + 1
            assert "1 small segments of vault" in caplog.text
            assert stored.work() == [CompactionOutcome.MERGED]
        else:
            assert stored.look(PASSWORD) == 1
            damage(stored, change, which)
            damaged = stored.rows(rows)
            if change == CHANGES["salt"]:  # the segment of the order is gone
                assert stored.work() == [CompactionOutcome.GONE]
                assert stored.look(PASSWORD) == 1
                assert stored.work() == [CompactionOutcome.MERGED]
            else:
                assert stored.work() == [CompactionOutcome.DAMAGED]
    assert sorted(stored.counts(PASSWORD)) == [1, NUMBER - 1]
    assert stored.rows(rows) == damaged
    with pytest.raises(DecryptionError):
        stored.readings(PASSWORD)
    stored.rows(f"DELETE FROM segments WHERE {which} RETURNING 1")  # noqa: S608 - a constant
    assert stored.readings(PASSWORD) == before[:50] + before[51:]


def test_a_defective_segment_is_kept_and_the_others_are_merged(stored: Past) -> None:
    """The API does not decode a segment before it discloses the key. The writer does."""
    vault, connection = stored.sender.vault(PASSWORD), stored.writer.postgres()
    segments = list(history.select(connection, vault.vault_id, ReadFilter()))
    bounds = segments[50].bounds
    defective = seal(vault, bounds, content(bounds, texts=[b"1", b"2"]))
    update = "UPDATE segments SET payload = %s WHERE first_id = %s RETURNING 1"
    assert stored.rows(update, defective.payload, bounds.first_id) == [(1,)]
    assert stored.look(PASSWORD) == 1
    assert stored.work() == [CompactionOutcome.DAMAGED]
    assert sorted(stored.counts(PASSWORD)) == [1, NUMBER - 1]
    (kept,) = stored.rows("SELECT payload FROM segments WHERE first_id = %s", bounds.first_id)
    assert kept == (defective.payload,)


def damaged_segments() -> float:
    return sample_value("iot_damaged_total", {"what": "segment"}) or 0


def test_a_vault_of_damaged_segments_gives_no_order(stored: Past) -> None:
    damage(stored, CHANGES["salt"])
    seen = damaged_segments()
    assert stored.look(PASSWORD) == 0
    assert damaged_segments() == seen + NUMBER
    assert stored.counts(PASSWORD) == [1] * NUMBER


def test_segments_of_another_vault_are_not_ordered(stored: Past) -> None:
    stored.store(b"another", each_second(noon(3), NUMBER, seed=2))
    mine, other = (stored.sender.vault(each).vault_id for each in (PASSWORD, b"another"))
    before = stored.readings(b"another")
    move: LiteralString = "UPDATE segments SET vault_id = %s WHERE vault_id = %s AND count = 1"
    stored.writer.postgres().execute(move, (mine, other))
    stored.look(PASSWORD)
    assert stored.work() == [CompactionOutcome.MERGED]
    assert sorted(stored.counts(PASSWORD)) == [1] * NUMBER + [NUMBER]
    stored.writer.postgres().execute(move, (other, mine))
    assert stored.readings(b"another") == before


def test_an_order_in_the_old_format_is_merged_in_the_old_format(stored: Past) -> None:
    """The order has one key, and the merged segment is marked accordingly."""
    before = stored.readings(PASSWORD)
    stored.look(PASSWORD)
    put(stored, older_order(stored, waiting(stored)))
    assert stored.work() == [CompactionOutcome.MERGED]
    assert stored.readings(PASSWORD) == before
    vault = stored.sender.vault(PASSWORD)
    (merged,) = history.select(stored.writer.postgres(), vault.vault_id, ReadFilter())
    assert may_share_key(decrypt_segment(vault, merged.bounds, merged.payload))


def older_order(past: Past, sealed: bytes) -> bytes:
    """Return the same order in format 1."""
    new = open_order(keyring(past), sealed)
    order = decode_order(new)
    target = order.targets[0]
    count = len(order.sources)
    header = struct.pack("<B16s16s32sI", 1, order.vault_id, target.salt, target.chunk_key, count)
    return seal_order(keyring(past), header + new[len(new) - 64 * count :])


def test_an_order_with_too_few_keys_changes_nothing(
    past: Past, caplog: pytest.LogCaptureFixture
) -> None:
    midnight = noon(8) + DAY_MS // 2
    past.store(PASSWORD, [(midnight + n * 1000, n, n, str(n)) for n in range(-30, 30)])
    assert past.look(PASSWORD) == 2
    orders = [
        decode_order(open_order(keyring(past), cast("bytes", each)))
        for each in past.sender.redis.lrange(KEYS.compaction_orders, 0, -1)
    ]
    both = orders[0].sources + orders[1].sources
    rows = past.rows("SELECT * FROM segments")
    for targets in ((), orders[0].targets):
        order = CompactionOrder(orders[0].vault_id, targets, both)
        put(past, seal_order(keyring(past), order.encode()))
        with caplog.at_level(logging.ERROR):
            assert past.work() == [CompactionOutcome.GONE]
        assert "too few keys" in caplog.text
        assert past.rows("SELECT * FROM segments") == rows
    order = CompactionOrder(orders[0].vault_id, orders[0].targets + orders[1].targets, both)
    put(past, seal_order(keyring(past), order.encode()))
    assert past.work() == [CompactionOutcome.MERGED]
    assert past.counts(PASSWORD) == [30, 30]


def test_an_order_without_the_keyring_shows_no_key(stored: Past, tmp_path: Path) -> None:
    vault = stored.sender.vault(PASSWORD)
    segments = list(history.select(stored.writer.postgres(), vault.vault_id, ReadFilter()))
    keys = [vault.chunk_key(salt_of(each.payload)) for each in segments]
    stored.look(PASSWORD)
    order = waiting(stored)
    opened = decode_order(open_order(keyring(stored), order))
    assert {each.chunk_key for each in opened.sources} == set(keys)
    redis = stored.sender.redis
    at_rest = b"".join(cast("bytes", redis.dump(key)) for key in redis.keys("*"))
    for secret in (*keys, *(each.chunk_key for each in opened.targets)):
        for form in (secret, secret.hex().encode(), secret.hex().upper().encode()):
            assert form not in order
            assert form not in at_rest
        assert secret.hex() not in repr(opened)
        assert repr(secret)[2:-1] not in repr(opened)
    create_keyring_file(tmp_path / "thief.json")
    with pytest.raises(DecryptionError):
        open_order(KeyringFile(tmp_path / "thief.json").current(), order)


def test_an_order_opens_only_its_segments(stored: Past) -> None:
    """The keyring and the queue give access to the ordered segments and to no other segment."""
    stored.store(PASSWORD, each_second(noon(5), 600), each=600)
    stored.look(PASSWORD)
    order = decode_order(open_order(keyring(stored), waiting(stored)))
    assert len(order.sources) == NUMBER
    (large,) = (
        each
        for each in history.select(
            stored.writer.postgres(), uuid.UUID(bytes=order.vault_id), ReadFilter()
        )
        if each.bounds.count == 600
    )
    assert salt_of(large.payload) not in {each.salt for each in order.sources}


def test_unpacked_content_is_bounded(stored: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compactor, "CONTENT_BYTES", 10_000)
    merged: list[int] = []

    def merge(parts: Sequence[SegmentColumns]) -> Iterator[SegmentColumns]:
        merged.append(sum(len(text) for part in parts for text in part.freeform))
        return merge_segments(parts)

    monkeypatch.setattr(compactor, "merge_segments", merge)
    before = stored.readings(PASSWORD)
    while len(stored.counts(PASSWORD)) > 3 and len(merged) < NUMBER // 20:
        assert stored.look(PASSWORD) == 1
        assert stored.work() == [CompactionOutcome.MERGED]
    assert len(stored.counts(PASSWORD)) <= 3
    assert len(merged) > 1
    assert max(merged) < 10_000
    assert stored.readings(PASSWORD) == before


def test_a_merge_that_loses_readings_is_not_stored(
    stored: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stored.readings(PASSWORD)
    monkeypatch.setattr(compactor, "merge_segments", lambda parts: merge_segments(parts[1:]))
    assert stored.look(PASSWORD) == 1
    with pytest.raises(RuntimeError, match="99 readings instead of 100"):
        stored.work()
    assert stored.readings(PASSWORD) == before
    assert stored.counts(PASSWORD) == [1] * NUMBER


def test_segments_that_are_gone_are_not_replaced(stored: Past) -> None:
    """Another writer that has merged them has stored their readings already."""
    connection = stored.writer.postgres()
    vault_id = stored.sender.vault(PASSWORD).vault_id
    old = list(history.select(connection, vault_id, ReadFilter()))
    connection.execute("DELETE FROM segments WHERE first_id = %s", (old[0].bounds.first_id,))
    with pytest.raises(RuntimeError, match="but only 99 exist"), connection.transaction():
        small_segments.replace(connection, old, old[:1])
    assert stored.counts(PASSWORD) == [1] * (NUMBER - 1)


def test_the_number_of_queued_orders_is_bounded(
    stored: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iot_stores.compaction_orders.MAX_ORDERS", 2)
    for days in (4, 5, 6):
        stored.store(PASSWORD, each_second(noon(days), 10))
    assert stored.look(PASSWORD) == 2
    assert stored.work() == [CompactionOutcome.MERGED] * 2
    assert stored.look(PASSWORD) == 2


def test_the_limit_of_small_segments_equals_that_of_the_index(stored: Past) -> None:
    ((definition,),) = stored.rows(
        "SELECT indexdef FROM pg_indexes WHERE indexname = 'segments_small'"
    )
    assert definition.endswith(f"WHERE (count < {SMALL_READINGS})")
