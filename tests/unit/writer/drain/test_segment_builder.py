"""A segment holds one vault and one month, is bounded in size and numbered by arrival."""

import itertools
import uuid

from hypothesis import given
from hypothesis import strategies as st

from iot_cipher.encryption import Entry, OpenVault, SealedSegment, decrypt_segment
from iot_models.reading import Reading, int64s
from iot_models.segment import ID_STRIDE, SegmentColumns, decode_segment
from iot_stores.months import DAY_MS, month_begin, next_month
from iot_writer.drain.segment_builder import (
    MAX_FREEFORM_BYTES,
    MAX_READINGS,
    Arrival,
    build_segments,
)
from support.segment_rows import reading_columns

NEW_YEAR = 1_798_761_600_000
VAULTS = [OpenVault(uuid.UUID(int=number), bytes([number]) * 32) for number in range(3)]


def arrival(vault: OpenVault, received: int, texts: "list[str] | range") -> Arrival:
    """Return an entry of a vault with these texts as freeform."""
    salt = bytes(16)
    columns = reading_columns((1, 2, str(text).encode()) for text in texts)
    entry = Entry(vault.vault_id.bytes, salt, vault.chunk_key(salt), 0, columns)
    return Arrival(received, entry)


def columns_of(segment: SealedSegment) -> SegmentColumns:
    """Return the columns of a segment, opened with the key of its vault."""
    (vault,) = [each for each in VAULTS if each.vault_id == segment.vault_id]
    content = decrypt_segment(vault, segment.bounds, segment.payload)
    return decode_segment(segment.bounds, content)


def readings_of(segments: list[SealedSegment], vault: OpenVault) -> list[Reading]:
    """Return the readings of a vault in the order of the segments."""
    own = [columns_of(each).readings() for each in segments if each.vault_id == vault.vault_id]
    return list(itertools.chain.from_iterable(own))


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 400_000), st.integers(1, 50)),
        min_size=1,
        max_size=40,
    ),
    st.integers(0, 255),
    st.integers(0, 10**6),
)
def test_each_vault_gets_its_readings_in_order(
    sent: list[tuple[int, int, int]], shard: int, start: int
) -> None:
    first_id = start * ID_STRIDE + shard
    moments = itertools.accumulate((step for _, step, _ in sent), initial=NEW_YEAR - 2_000_000)
    expected: dict[int, list[str]] = {0: [], 1: [], 2: []}
    arrivals = []
    for number, ((vault, _, count), received) in enumerate(zip(sent, moments, strict=False)):
        texts = [f"{number}.{place}" for place in range(count)]
        expected[vault] += texts
        arrivals.append(arrival(VAULTS[vault], received, texts))
    segments, next_id = build_segments(arrivals, shard=shard, next_id=first_id)
    for number, owner in enumerate(VAULTS):
        readings = readings_of(segments, owner)
        assert [reading.freeform for reading in readings] == expected[number]
        ids = [reading.id for reading in readings]
        assert ids == sorted(ids)
    every = [identity for segment in segments for identity in columns_of(segment).ids]
    assert sorted(every) == list(range(first_id, next_id, ID_STRIDE))
    for segment in segments:
        month = month_begin(segment.bounds.received_min)
        assert segment.bounds.received_max < next_month(month)


def test_no_segment_spans_two_months() -> None:
    received = [NEW_YEAR - 2, NEW_YEAR - 1, NEW_YEAR, NEW_YEAR + 1]
    arrivals = [arrival(VAULTS[0], moment, [str(moment)]) for moment in received]
    segments, _ = build_segments(arrivals, shard=0, next_id=0)
    bounds = [(each.bounds.received_min, each.bounds.received_max) for each in segments]
    assert bounds == [(NEW_YEAR - 2, NEW_YEAR - 1), (NEW_YEAR, NEW_YEAR + 1)]
    assert [list(columns_of(each).received) for each in segments] == [received[:2], received[2:]]


def test_a_segment_is_cut_before_it_grows_too_large() -> None:
    part = MAX_READINGS // 4
    arrivals = [arrival(VAULTS[0], NEW_YEAR, range(part)) for _ in range(10)]
    segments, _ = build_segments(arrivals, shard=0, next_id=0)
    assert [each.bounds.count for each in segments] == [4 * part, 4 * part, 2 * part]


def test_a_segment_is_cut_before_its_texts_grow_too_large() -> None:
    text = "x" * (MAX_FREEFORM_BYTES // 4)
    whole = "y" * (2 * MAX_FREEFORM_BYTES)
    sent = [[text]] * 5 + [[whole]] + [[text, text], [text]]
    arrivals = [arrival(VAULTS[0], NEW_YEAR, texts) for texts in sent]
    segments, next_id = build_segments(arrivals, shard=0, next_id=0)
    assert [each.bounds.count for each in segments] == [4, 1, 1, 3]
    texts = [reading.freeform for reading in readings_of(segments, VAULTS[0])]
    assert texts == [text] * 5 + [whole] + [text] * 3
    ids = [identity for segment in segments for identity in columns_of(segment).ids]
    assert ids == list(range(0, next_id, ID_STRIDE))


def test_a_large_entry_is_a_separate_segment() -> None:
    counts = [1, MAX_READINGS + 5, 1]
    arrivals = [arrival(VAULTS[0], NEW_YEAR, range(count)) for count in counts]
    segments, _ = build_segments(arrivals, shard=0, next_id=0)
    assert [each.bounds.count for each in segments] == counts


def test_an_entry_without_readings_is_skipped() -> None:
    arrivals = [arrival(VAULTS[0], NEW_YEAR, []), arrival(VAULTS[1], NEW_YEAR, ["here"])]
    segments, next_id = build_segments(arrivals, shard=3, next_id=3)
    assert [reading.freeform for reading in readings_of(segments, VAULTS[1])] == ["here"]
    assert next_id == 3 + ID_STRIDE


def imported(vault: OpenVault, received: list[int], texts: list[str]) -> Arrival:
    """Return an entry whose readings have imported times of receipt."""
    made = arrival(vault, NEW_YEAR + 10**9, texts)
    made.entry.readings.received = int64s(received)
    return made


def test_imported_readings_keep_their_times_in_segments_of_their_own() -> None:
    vault, december = VAULTS[0], NEW_YEAR - 1000
    arrivals = [
        arrival(vault, NEW_YEAR + 10**9, ["a"]),
        imported(vault, [december, december, december + 5], ["b", "c", "d"]),
        arrival(vault, NEW_YEAR + 10**9 + 1, ["e"]),
        imported(vault, [december + 2], ["f"]),
        imported(vault, [NEW_YEAR], ["g"]),
        imported(vault, [NEW_YEAR + DAY_MS], ["h"]),
    ]
    segments, _ = build_segments(arrivals, shard=0, next_id=0)
    found: dict[str, int] = {}
    for segment in segments:
        columns = columns_of(segment)
        found |= dict(zip(columns.freeform, columns.received, strict=True))
        assert len({moment // DAY_MS for moment in columns.received}) == 1 or "a" in found
        assert segment.bounds.received_min == min(columns.received)
        assert segment.bounds.received_max == max(columns.received)
    live = {"a": NEW_YEAR + 10**9, "e": NEW_YEAR + 10**9 + 1}
    old = {
        "b": december,
        "c": december,
        "d": december + 5,
        "f": december + 2,
        "g": NEW_YEAR,
        "h": NEW_YEAR + DAY_MS,
    }
    assert found == live | old
    assert len(segments) == 4
