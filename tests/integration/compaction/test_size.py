"""Single readings take as many bytes as batches after compaction."""

from integration.compaction.past import Past, each_second, noon

ROW_BYTES = 440
"""Bytes of a segment's row and its index entries, without the payload; measured (ADR 0008)."""
HOT_SECONDS = 600
"""Number of new readings between two openings of the vault by an API process."""


def _bytes_a_reading(past: Past, password: bytes) -> float:
    ((segments, payload, readings),) = past.rows(
        "SELECT count(*), sum(octet_length(payload)), sum(count) FROM segments WHERE vault_id = %s",
        past.sender.vault(password).vault_id,
    )
    return (ROW_BYTES * int(segments) + int(payload)) / int(readings)


def test_single_readings_take_as_many_bytes_as_batches(past: Past) -> None:
    sent = each_second(noon(3), 6000)
    past.store(b"batches", sent, each=1000)
    batches = _bytes_a_reading(past, b"batches")
    for start in range(0, len(sent), HOT_SECONDS):
        past.store(b"single", sent[start : start + HOT_SECONDS])
        if not start:
            assert _bytes_a_reading(past, b"single") > 20 * batches
        past.compact(b"single")
    single = _bytes_a_reading(past, b"single")
    assert past.counts(b"single") == [HOT_SECONDS] * 10
    assert single < 1.1 * batches, (single, batches)
    assert past.compact(b"batches") == 0


def test_readings_of_a_slow_device_are_merged_by_day(past: Past) -> None:
    begin = noon(9)
    sent = [(begin + hour * 3_600_000, hour, hour, str(hour)) for hour in range(120)]
    past.store(b"p", sent)
    assert past.compact(b"p") == 6
    assert past.counts(b"p") == [12, 24, 24, 24, 24, 12]
    assert [reading.freeform for reading in past.readings(b"p")] == list(map(str, range(120)))
