"""A device that sends one reading a second ends with the bytes of one that sends batches."""

from integration.compaction.past import Past, each_second, noon

ROW_BYTES = 440
"""A segment's row and its places in the indexes, without its payload; measured (ADR 0008)."""
HOT_SECONDS = 600
"""So many readings have come when an API process opens the vault again."""


def _bytes_a_reading(past: Past, password: bytes) -> float:
    ((segments, payload, readings),) = past.rows(
        "SELECT count(*), sum(octet_length(payload)), sum(count) FROM segments WHERE vault_id = %s",
        past.sender.vault(password).vault_id,
    )
    return (ROW_BYTES * int(segments) + int(payload)) / int(readings)


def test_one_a_second_takes_the_bytes_of_batches(past: Past) -> None:
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


def test_a_slow_device_is_merged_a_day_at_a_time(past: Past) -> None:
    begin = noon(9)
    sent = [(begin + hour * 3_600_000, hour, hour, str(hour)) for hour in range(120)]
    past.store(b"p", sent)
    assert past.compact(b"p") == 6
    assert past.counts(b"p") == [12, 24, 24, 24, 24, 12]
    assert [reading.freeform for reading in past.readings(b"p")] == list(map(str, range(120)))
