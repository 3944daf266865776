"""The OpenTelemetry SDK. Only `tracing.start` imports this module, when tracing is on.

The SDK itself reads the environment variables `OTEL_*`, for example its endpoint and sampler.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from .logs import EventLimit
from .tracing import Phase

Attributes = Mapping[str, AttributeValue]
STOP_SECONDS = 2.0
"""Maximum time at shutdown to send the waiting spans, even if the collector does not answer."""
_LOG_SECONDS = 60.0
_SCOPE = "iot-sensor"
_PROPAGATOR = TraceContextTextMapPropagator()


class OpenTelemetryTracer:
    """Creates the spans of one process, and sends them to the collector."""

    def __init__(self, service: str, processor: SpanProcessor | None) -> None:
        self._stop_export: Callable[[], None] = lambda: None
        if processor is None:
            exporter = OTLPSpanExporter()
            processor, self._stop_export = BatchSpanProcessor(exporter), exporter.shutdown
        self._provider = TracerProvider(resource=_resource(service), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(_SCOPE)
        _pace_logs()

    def stop(self) -> None:
        """Send the waiting spans. Drop what is not sent after `STOP_SECONDS`."""
        # The SDK would wait for 30 s. Once the exporter is shut down, the SDK drops what is left.
        timer = threading.Timer(STOP_SECONDS, self._stop_export)
        timer.daemon = True
        timer.start()
        self._provider.shutdown()
        timer.cancel()

    def request_span(
        self, name: str, traceparent: str | None, attributes: Attributes
    ) -> "RequestSpan | None":
        """Begin the span of a request, in the trace of its `traceparent` if it has one.

        Return None if the request is not sampled.
        """
        span = self._tracer.start_span(
            name, context=_remote(traceparent), kind=SpanKind.SERVER, attributes=attributes
        )
        return RequestSpan(span) if span.is_recording() else None

    @contextmanager
    def span(self, name: str, attributes: Mapping[str, object]) -> Iterator[Span | None]:
        """Make the enclosed work a span, and yield the span.

        If the current span is not recorded, create no span, and yield None.
        """
        if not trace.get_current_span().is_recording():
            yield None
            return
        span = self._tracer.start_span(name, attributes=_values(attributes))
        with _entered(span):
            yield span

    def record(
        self,
        name: str,
        traceparent: bytes,
        phases: Sequence[Phase],
        attributes: Mapping[str, object],
    ) -> None:
        """Add finished work to the trace of `traceparent`: a span with a child for each phase.

        Do nothing if `traceparent` is invalid.
        """
        parent = _remote(traceparent.decode("ascii", "replace"))
        if not trace.get_current_span(parent).get_span_context().is_valid:
            return
        span = self._tracer.start_span(
            name,
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes=_values(attributes),
            start_time=phases[0].begin,
        )
        within = trace.set_span_in_context(span, Context())
        for phase in phases:
            part = self._tracer.start_span(phase.name, context=within, start_time=phase.begin)
            part.end(phase.end)
        span.end(phases[-1].end)

    def traceparent(self) -> str:
        """Return the `traceparent` of the current span; "" if that span ended or is not sampled."""
        # A greenlet keeps the span of the request that started it, even after the span has ended.
        span = trace.get_current_span()
        context = span.get_span_context()
        if not (span.is_recording() and context.trace_flags.sampled):
            return ""
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


class RequestSpan:
    """The span of a request. It ends after the last piece of the answer."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def current(self) -> AbstractContextManager[Span]:
        """Make the span the current one for the enclosed work."""
        return trace.use_span(self._span, record_exception=False, set_status_on_exception=False)

    def describe(self, name: str, status: int, attributes: Attributes) -> None:
        """Set name, HTTP status and attributes, which are not known before the answer starts."""
        self._span.update_name(name)
        self._span.set_attribute("http.response.status_code", status)
        self._span.set_attributes(attributes)
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)

    def fail(self, error: BaseException) -> None:
        """Record the class of an error, and not its message, which may quote the request."""
        _fail(self._span, error)

    def end(self) -> None:
        """End the span. Idempotent."""
        if self._span.is_recording():
            self._span.end()


@contextmanager
def _entered(span: Span) -> Iterator[None]:
    with trace.use_span(
        span, end_on_exit=True, record_exception=False, set_status_on_exception=False
    ):
        try:
            yield
        except BaseException as error:
            _fail(span, error)
            raise


def _fail(span: Span, error: BaseException) -> None:
    if isinstance(error, StopIteration):
        return
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", f"{type(error).__module__}.{type(error).__qualname__}")


def _remote(traceparent: str | None) -> Context:
    """Return the context of a `traceparent`; an empty context if it is missing or invalid.

    `tracestate` is left out: the client may put any text into it, which would get into the spans.
    """
    if not traceparent:
        return Context()
    return _PROPAGATOR.extract({"traceparent": traceparent}, Context())


def _values(attributes: Mapping[str, object]) -> Attributes:
    return {
        name: value if isinstance(value, str | bool | int | float | list) else str(value)
        for name, value in attributes.items()
    }


def _resource(service: str) -> Resource:
    """Return the resource that the variables `OTEL_*` describe; its default name is `service`."""
    instance = f"{socket.gethostname()}:{os.getpid()}"
    ours = Resource({SERVICE_NAME: service, SERVICE_INSTANCE_ID: instance})
    # Not `Resource.create`: its thread pool waits for itself under gevent, because `queue` is not
    # patched (`gunicorn_conf.py`).
    return ours.merge(OTELResourceDetector().detect())


def _pace_logs() -> None:
    """Limit the log of the SDK: it logs each failed attempt to reach the collector.

    Each message is logged at most once in `_LOG_SECONDS`.
    """
    paced = _PacedEvents()
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("opentelemetry"):
            logging.getLogger(name).addFilter(paced)


class _PacedEvents(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._limit = EventLimit(1, _LOG_SECONDS)

    def filter(self, record: logging.LogRecord) -> bool:
        return self._limit.admit((record.name, record.msg)) is not None
