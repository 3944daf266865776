"""Spans that are kept in memory."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from iot_models import tracing


@contextmanager
def recorded_spans() -> Iterator[InMemorySpanExporter]:
    """Trace within the block, and keep the spans that end."""
    exporter = InMemorySpanExporter()
    tracing.start("iot-test", SimpleSpanProcessor(exporter))
    try:
        yield exporter
    finally:
        tracing.stop()
