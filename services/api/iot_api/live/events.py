"""Server-sent events: their text, and how readings are divided among them."""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from iot_models.errors import IotError, UnavailableError
from iot_models.segment import ID_STRIDE

from .live_rows import LiveRows, Skipped
from .position import LivePosition, encode_position

MAX_READINGS = 500
"""Maximum number of readings of an event."""
MAX_CHARACTERS = 64 * 1024
"""Limit of the `freeform` texts in an event, in characters. A reading with a longer text is the
only reading of its event."""
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class ReadingsEvent:
    """An event with readings, or a summary in place of readings (see `Skipped`)."""

    text: bytes
    position: LivePosition
    """The position of a listener that has received this event."""
    readings: int
    skipped: int
    begin: int
    """Earliest time of receipt of the readings (in a summary: of the skipped readings), in Unix
    milliseconds. `end` is the latest."""
    end: int


def encode_event(name: str, content: object, event_id: str | None = None) -> bytes:
    """Return the bytes of an event, with `content` as one line of JSON."""
    head = f"event: {name}\n" if event_id is None else f"event: {name}\nid: {event_id}\n"
    return b"%bdata: %b\n\n" % (head.encode(), _encoder.encode(content))


def open_event(now: int, event_id: str, retry_ms: int, heartbeat_seconds: int) -> bytes:
    """Return the first event of a stream. `now` is the time of Redis in Unix milliseconds."""
    content = {"time": now, "heartbeat": heartbeat_seconds}
    return b"retry: %d\n%b" % (retry_ms, encode_event("open", content, event_id))


def heartbeat_event(now: int, event_id: str) -> bytes:
    """Return an event that says that the stream is alive. `now` is in Unix milliseconds."""
    return encode_event("heartbeat", {"time": now}, event_id)


def error_event(error: IotError, retry_ms: int) -> bytes:
    """Return the last event of a stream that the server ends."""
    retry = error.retry_after * 1000 if isinstance(error, UnavailableError) else 0
    event = encode_event("error", {"error": str(error), "code": error.code})
    return b"retry: %d\n%b" % (max(retry, retry_ms), event)


def summary_event(skipped: Skipped, position: LivePosition, vault_id: bytes) -> ReadingsEvent:
    """Return the event that a listener gets in place of the `skipped` readings."""
    content = {"skipped": skipped.count, "from": skipped.begin, "to": skipped.end}
    text = encode_event("summary", content, encode_position(position, vault_id))
    return ReadingsEvent(text, position, 0, skipped.count, skipped.begin, skipped.end)


def events_of(rows: LiveRows, before: LivePosition, vault_id: bytes) -> Iterator[ReadingsEvent]:
    """Yield events with `rows`, the readings behind the position `before`.

    Each event has the position behind its last reading, so a client may resume after any event.
    """
    if rows.skipped is not None:
        yield summary_event(rows.skipped, before if rows.readings else rows.position, vault_id)
    start = 0
    while start < len(rows.readings):
        stop = _stop(rows, start)
        ids = {reading.id % ID_STRIDE: reading.id for reading in rows.readings[start:stop]}
        whole = stop == len(rows.readings)
        before = rows.position if whole else before.advanced(ids)
        content = {"data": rows.readings[start:stop]}
        text = encode_event("readings", content, encode_position(before, vault_id))
        received = rows.received[start:stop]
        yield ReadingsEvent(text, before, stop - start, 0, min(received), max(received))
        start = stop


def _stop(rows: LiveRows, start: int) -> int:
    """Return the index behind the last reading of the event that begins with reading `start`."""
    size = 0
    for index in range(start, min(start + MAX_READINGS, len(rows.readings))):
        size += len(rows.readings[index].freeform)
        if size > MAX_CHARACTERS:
            return max(index, start + 1)
    return min(start + MAX_READINGS, len(rows.readings))
