"""A compromised writer has the keyring, Redis and Postgres, but no password.

The API gives writers the keys of small segments to merge. No row, record or order that the writer
forges yields a key of another segment.
"""

import os
from collections.abc import Iterable
from dataclasses import replace

import pytest

from integration.compaction.past import Past, Sent, days_ago, each_second, noon
from integration.compaction.thief import Thief
from iot_cipher.encryption import (
    Entry,
    SealedSegment,
    Sealer,
    decrypt_segment,
    encrypt_segment,
    salt_of,
)
from iot_cipher.sealed_order import seal_order
from iot_cipher.vault import create_vault, scrypt_secret
from iot_models.compaction_order import CompactionOrder, Source, Target
from iot_models.errors import DecryptionError
from iot_models.reading import ReadingColumns, int64s
from iot_models.segment import SegmentBounds, SegmentColumns, decode_segment
from iot_models.segment_encoding import encode_merged
from iot_stores import history, small_segments
from iot_stores.months import DAY_MS
from iot_writer.compaction.compactor import CompactionOutcome
from support.draining import drain_all
from support.keys import KEYS, CheckedKeys

PASSWORD = b"the password"
LARGE, SMALL = 600, 40
DAY = noon(3)


def texts(sent: Iterable[Sent]) -> set[str]:
    return {text for *_, text in sent}


@pytest.fixture
def secret(past: Past) -> set[str]:
    """The texts of a large segment that was stored long ago."""
    sent = each_second(DAY, LARGE, seed=7)
    past.store(PASSWORD, sent, each=LARGE)
    return texts(sent)


@pytest.fixture
def small(past: Past) -> set[str]:
    """The texts of small segments of the same day."""
    sent = each_second(DAY + 3_600_000, SMALL)
    past.store(PASSWORD, sent)
    return texts(sent)


@pytest.fixture
def thief(past: Past, secret: set[str], small: set[str]) -> Thief:
    assert len(secret | small) == LARGE + SMALL
    thief = Thief(past, past.sender.vault(PASSWORD).vault_id)
    thief.rows = thief.segments()
    return thief


@pytest.fixture
def large(thief: Thief) -> SealedSegment:
    (found,) = (each for each in thief.rows if each.bounds.count == LARGE)
    return found


def look_and_check(thief: Thief, secret: set[str]) -> set[str]:
    """Let the API and an honest writer work; return the texts that the thief can read."""
    for _ in range(3):
        thief.past.look(PASSWORD)
        thief.collect()
        thief.past.work()
        thief.collect()
    found = thief.texts()
    assert not found & secret
    return found


def small_bounds(large: SealedSegment, number: int) -> SegmentBounds:
    """Return the bounds of a small segment that begins beside a large segment."""
    return replace(
        large.bounds, first_id=large.bounds.first_id + 256 * (1000 + number), count=3,
        last_id=large.bounds.first_id + 256 * (1002 + number),
    )  # fmt: skip


def test_a_thief_reads_ordered_small_segments(
    thief: Thief, secret: set[str], small: set[str]
) -> None:
    """A control: the tests below would detect a disclosed key."""
    assert look_and_check(thief, secret) == small
    assert thief.past.sender.texts(PASSWORD)  # the owner of the password still reads all
    assert set(thief.past.sender.texts(PASSWORD)) == secret | small


@pytest.mark.parametrize("size", [0, 1, 29, 100, 2000])
def test_planted_rows_with_the_salt_of_a_large_segment_disclose_no_key(
    size: int, thief: Thief, secret: set[str], large: SealedSegment
) -> None:
    head = large.payload[:17]
    thief.plant(
        SealedSegment(thief.vault_id, small_bounds(large, number), head + os.urandom(size))
        for number in range(3)
    )
    look_and_check(thief, secret)
    assert salt_of(large.payload) not in thief.keys


def test_planted_rows_with_parts_of_a_large_segment_disclose_no_key(
    thief: Thief, secret: set[str], large: SealedSegment
) -> None:
    payload = large.payload
    parts = (payload, payload[:1000], payload[:17] + payload[-500:], payload[:29] + payload[-16:])
    thief.plant(
        SealedSegment(thief.vault_id, small_bounds(large, number), part)
        for number, part in enumerate(parts)
    )
    look_and_check(thief, secret)
    assert salt_of(large.payload) not in thief.keys


@pytest.mark.parametrize("count", [-1, 0, 1, 511])
def test_a_row_that_claims_a_small_segment_discloses_no_key(
    count: int, thief: Thief, secret: set[str]
) -> None:
    thief.past.rows("UPDATE segments SET count = %s WHERE count = %s RETURNING 1", count, LARGE)
    look_and_check(thief, secret)


def test_a_large_payload_in_the_row_of_a_small_segment_discloses_no_key(
    thief: Thief, secret: set[str], large: SealedSegment
) -> None:
    thief.past.rows("UPDATE segments SET payload = %s WHERE count = 1 RETURNING 1", large.payload)
    look_and_check(thief, secret)
    assert thief.keys == {}


def test_a_payload_replaced_after_planning_discloses_no_key(
    thief: Thief, secret: set[str], large: SealedSegment
) -> None:
    """The API takes the key from the payload that it opened, not from the row."""
    thief.past.look(PASSWORD)
    thief.past.rows("UPDATE segments SET payload = %s WHERE count = 1 RETURNING 1", large.payload)
    look_and_check(thief, secret)
    assert salt_of(large.payload) not in thief.keys


def test_rows_copied_into_a_vault_of_the_thief_disclose_no_key(
    thief: Thief, secret: set[str]
) -> None:
    """The thief knows the password of this vault and opens the vault."""
    own = thief.past.sender.vault(b"known")
    thief.plant(replace(each, vault_id=own.vault_id) for each in thief.segments())
    for _ in range(3):
        thief.past.look(b"known")
        assert thief.orders() == []
    look_and_check(thief, secret)


def test_swapped_vault_records_disclose_no_key(thief: Thief, secret: set[str]) -> None:
    """A vault record opens only under its own password."""
    past = thief.past
    past.sender.vault(b"known")
    secrets = [scrypt_secret(thief.keyring, each, 10) for each in (b"known", PASSWORD)]
    known, victim = (each.lookup for each in secrets)
    ours, theirs = (
        past.rows("SELECT vault_id, salt, wrapped_key FROM vaults WHERE lookup = %s", lookup)[0]
        for lookup in (known, victim)
    )
    forged, _ = create_vault(thief.keyring, secrets[0])
    past.rows("DELETE FROM vaults WHERE lookup = %s RETURNING 1", known)
    for salt, wrapped in (
        (theirs[1], theirs[2]),
        (ours[1], ours[2]),
        (forged.salt, forged.wrapped_key),
    ):
        past.rows(
            "INSERT INTO vaults (vault_id, lookup, salt, scrypt_log2_n, wrapped_key, lookup_format)"
            " VALUES (%s, %s, %s, 10, %s, 2) ON CONFLICT (vault_id) DO UPDATE "
            "SET lookup = excluded.lookup, salt = excluded.salt, "
            "wrapped_key = excluded.wrapped_key RETURNING 1",
            theirs[0], known, salt, wrapped,
        )  # fmt: skip
        past.sender.redis.delete(KEYS.vault_record(known), KEYS.vault_record(victim))
        cache = past.sender.service.vaults.cache
        cache.forget(cache.key(b"known"))
        with pytest.raises(DecryptionError):
            past.sender.vault(b"known")
    thief.collect()
    assert not thief.texts() & secret


@pytest.mark.parametrize("forged", ["its key guessed", "beside small ones"])
def test_forged_orders_disclose_no_key(
    forged: str, thief: Thief, secret: set[str], small: set[str], large: SealedSegment
) -> None:
    """An honest writer opens no segment without its key."""
    thief.past.look(PASSWORD)
    thief.collect()
    (order,) = thief.orders()
    bounds, salt = large.bounds, salt_of(large.payload)
    fake = Source(bounds.first_id, bounds.received_min, salt, order.sources[0].chunk_key)
    others = order.sources if forged == "beside small ones" else ()
    thief.past.sender.redis.delete(KEYS.compaction_orders)
    thief.push(replace(order, sources=(fake, *others)))
    thief.past.work()
    assert look_and_check(thief, secret) == small
    assert set(thief.past.sender.texts(PASSWORD)) == secret | small


def test_replayed_orders_disclose_no_key(thief: Thief, secret: set[str], small: set[str]) -> None:
    """Orders are replayed with their own rows and with other rows in their place."""
    past = thief.past
    past.look(PASSWORD)
    thief.collect()
    (order,) = thief.orders()
    sources = sorted(
        (each for each in thief.segments() if each.bounds.count == 1),
        key=lambda each: each.bounds.received_min,
    )
    assert past.work() == [CompactionOutcome.MERGED]
    for rows in ([], sources[5:7], sources[8:10]):
        if rows:
            thief.plant(rows)
        thief.push(order)
        past.work()
        look_and_check(thief, secret)
    late = each_second(DAY + 7_200_000, LARGE, seed=9)
    past.store(PASSWORD, late, each=LARGE)
    thief.push(order)
    past.work()
    found = look_and_check(thief, secret | texts(late))
    assert found == small


def test_a_forged_target_with_the_salt_of_a_large_segment_discloses_no_key(
    thief: Thief, secret: set[str], large: SealedSegment
) -> None:
    """The merged segment has that salt but another key, so the API can't open it."""
    past = thief.past
    past.look(PASSWORD)
    thief.collect()
    (order,) = thief.orders()
    past.sender.redis.delete(KEYS.compaction_orders)
    target = Target(salt_of(large.payload), os.urandom(32))
    for part in (order.sources[:20], order.sources[20:]):
        thief.push(replace(order, targets=(target,), sources=part))
    assert past.work() == [CompactionOutcome.MERGED] * 2
    look_and_check(thief, secret)
    assert salt_of(large.payload) not in thief.keys


def test_a_forged_entry_with_the_salt_of_a_large_segment_discloses_no_key(
    thief: Thief, secret: set[str], large: SealedSegment
) -> None:
    """The entry becomes a small segment under a key of the thief, not the key of that salt."""
    past = thief.past
    shard = past.sender.shard(PASSWORD)
    salt = salt_of(large.payload)
    columns = ReadingColumns(int64s([1]), int64s([1]), b"1")
    for _ in range(3):
        entry = Entry(thief.vault_id.bytes, salt, os.urandom(32), days_ago(0), columns)
        sealed = Sealer(CheckedKeys(lambda: thief.keyring)).seal(shard, entry.encode())
        past.sender.redis.xadd(KEYS.stream(shard), {"e": sealed, "t": 0}, id=f"{days_ago(2)}-*")
        drain_all(past.writer)
    assert [salt_of(each.payload) for each in thief.segments()].count(salt) == 4
    look_and_check(thief, secret)
    assert salt not in thief.keys


def merged_across_midnight(thief: Thief, *, one_key: bool) -> tuple[set[str], set[str]]:
    """Merge segments across midnight into a large and a small one; return their texts."""
    past = thief.past
    midnight = noon(10) + DAY_MS // 2
    before = [(midnight - 1000, n, n, f'"before {n}"') for n in range(LARGE)]
    after = [(midnight + 1000, n, n, f'"after {n}"') for n in range(LARGE, LARGE + 20)]
    past.store(PASSWORD, before[:400], each=400)
    past.store(PASSWORD, before[400:], each=200)
    spanning(past, [*before[-1:], *after])
    past.look(PASSWORD)
    if one_key:
        (order,) = (each for each in thief.orders() if len(each.targets) == 2)
        make_as_before(thief, order)
        past.sender.redis.delete(KEYS.compaction_orders)
    past.work()
    assert {LARGE + 1, 20} <= set(past.counts(PASSWORD))
    return texts(before), texts(after)


def spanning(past: Past, sent: list[Sent]) -> None:
    """Store readings of two days as one segment."""
    vault = past.sender.vault(PASSWORD)
    ids = [2**45 + 256 * n for n in range(len(sent))]
    received, interrogator, relative, freeform = map(list, zip(*sent, strict=True))
    columns = SegmentColumns(ids, received, relative, interrogator, freeform)
    bounds, content = encode_merged(columns, vault.shard(past.sender.settings.shards))
    salt = os.urandom(16)
    payload = encrypt_segment(vault.vault_id, salt, vault.chunk_key(salt), bounds, content)
    with past.writer.postgres().transaction():
        history.insert(past.writer.postgres(), [SealedSegment(vault.vault_id, bounds, payload)])


def make_as_before(thief: Thief, order: CompactionOrder) -> None:
    """Execute an order as the previous version did: one key for all merged segments."""
    redis = thief.past.sender.redis
    redis.delete(KEYS.compaction_orders)
    new = order.encode()
    sources = new[len(new) - 64 * len(order.sources) :]
    target = order.targets[0]
    old = b"\1" + order.vault_id + target.salt + target.chunk_key
    old += len(order.sources).to_bytes(4, "little") + sources
    redis.rpush(KEYS.compaction_orders, seal_order(thief.keyring, old))
    assert thief.past.work() == [CompactionOutcome.MERGED]


def test_each_merged_segment_has_a_separate_key(thief: Thief, secret: set[str]) -> None:
    """The thief later gets the key of the small segment."""
    before, after = merged_across_midnight(thief, one_key=False)
    extra = [(noon(9), n, n, f'"extra {n}"') for n in range(3)]
    thief.past.store(PASSWORD, extra)
    found = look_and_check(thief, secret | before)
    assert found >= after | texts(extra)


def test_merged_segments_with_a_shared_key_are_not_merged_again(
    thief: Thief, secret: set[str]
) -> None:
    before, after = merged_across_midnight(thief, one_key=True)
    counts = thief.past.counts(PASSWORD)
    extra = [(noon(9), n, n, f'"extra {n}"') for n in range(3)]
    thief.past.store(PASSWORD, extra)
    found = look_and_check(thief, secret | before | after)
    assert found >= texts(extra)
    assert 20 in thief.past.counts(PASSWORD)
    assert counts.count(20) == 1
    vault = thief.past.sender.vault(PASSWORD)
    for each in thief.segments():  # the owner of the password reads all
        decode_segment(each.bounds, decrypt_segment(vault, each.bounds, each.payload))


def test_a_segment_that_spans_many_days_is_not_ordered(thief: Thief, secret: set[str]) -> None:
    sent = [(noon(20) + n * DAY_MS, n, n, f'"day {n}"') for n in range(5)]
    spanning(thief.past, sent)
    thief.past.store(PASSWORD, [(noon(20) + n, n, n, str(n)) for n in range(3)])
    look_and_check(thief, secret | texts(sent))


def test_a_row_that_grows_is_not_fetched(thief: Thief, large: SealedSegment) -> None:
    """A row that grows between the query and the fetch is not fetched."""
    payload = large.payload[:17] + bytes(small_segments.SMALL_BYTES)
    bounds = small_bounds(large, 1)
    thief.plant([SealedSegment(thief.vault_id, bounds, payload)])
    found = small_segments.fetch_small(
        thief.past.writer.postgres(), thief.vault_id, [(bounds.first_id, bounds.received_min)]
    )
    assert found == []
