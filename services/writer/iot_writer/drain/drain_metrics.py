"""The metrics of a drain."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from iot_models import metrics

from .batch import StoredBatch

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


@contextmanager
def _timed(name: str, step: str) -> Iterator[None]:
    """Measure how long a step of a drain takes. A step that fails is not measured."""
    began = time.monotonic()
    yield
    metrics.histogram(name).labels(step).observe(time.monotonic() - began)


timed_redis = partial(_timed, "iot_drain_redis_seconds")
timed_postgres = partial(_timed, "iot_drain_postgres_seconds")


def count_stored(stored: StoredBatch) -> None:
    """Count a batch in the metrics, right after the commit."""
    sizes = [len(segment.payload) for segment in stored.segments]
    counts = [segment.bounds.count for segment in stored.segments]
    metrics.observe_all("iot_segment_bytes", sizes)
    metrics.observe_all("iot_segment_readings", counts)
    metrics.counter("iot_segments_stored_total").inc(len(counts))
    readings = sum(counts)
    metrics.counter("iot_readings_stored_total").inc(readings)
    read = sum(len(waiting.sealed) for waiting in stored.batch.taken)
    metrics.counter("iot_drain_read_bytes_total").inc(read)
    content = sum(stored_entry.entry.readings.size for stored_entry in stored.stored)
    metrics.counter("iot_drain_content_bytes_total").inc(content)
    metrics.counter("iot_drain_written_bytes_total").inc(sum(sizes))
    metrics.counter("iot_entries_repeated_total").inc(stored.repeated)
    metrics.counter("iot_entries_erased_total").inc(stored.erased)
    if readings:
        _observe_age("iot_stored_after_seconds", stored, stored.stored_at)


def observe_readable(stored: StoredBatch) -> None:
    """Observe how old the batch is now. Call this right after its stream was trimmed.

    From then on, all reads find the readings of the batch.
    """
    if stored.segments:
        _observe_age("iot_readable_after_seconds", stored, time.monotonic())


def _observe_age(name: str, stored: StoredBatch, now: float) -> None:
    """Observe in the metric `name` how old the batch's oldest entry is at `now` (`time.monotonic`).

    If the PUT of this entry was traced, the exemplar has the trace's id.
    """
    first = stored.batch.taken[0]
    age = (first.read_at - first.received) / 1000 + now - stored.batch.started_at
    traced = _TRACEPARENT.fullmatch(first.traceparent)
    exemplar = {"trace_id": traced[1].decode()} if traced else None
    metrics.histogram(name).observe(max(0.0, age), exemplar)
