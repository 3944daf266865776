"""Traces of one process. While tracing is off, OpenTelemetry is not even imported.

Traced code uses the functions of this module, which do nothing while tracing is off. `wrap` and
`is_on` are called when an object is built, so they cost nothing per request.

A span never holds a password, a token, a reading, a path or the message of an error.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from .errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

    from .opentelemetry_tracer import Attributes, OpenTelemetryTracer, RequestSpan

P = ParamSpec("P")
R = TypeVar("R")
TRACEPARENT_BYTES = 55
"""Length of a `traceparent` of version 00 (W3C Trace Context)."""

_NOTHING: AbstractContextManager[None] = nullcontext()
_tracer: "OpenTelemetryTracer | None" = None


class Phase(NamedTuple):
    """A part of a span: its name, begin and end. Times are Unix nanoseconds."""

    name: str
    begin: int
    end: int


def is_requested(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the standard variables of OpenTelemetry ask for traces.

    Raises:
        SettingsError: a variable names an exporter that is neither `otlp` nor `none`, or a protocol
            that is not `http/protobuf`.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    default = "otlp" if any(environ.get(name, "").strip() for name in endpoints) else "none"
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() or default
    if exporter == "none":
        return False
    if exporter != "otlp":
        raise SettingsError("OTEL_TRACES_EXPORTER must be otlp or none")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = environ.get(name, "").strip().lower()
        if protocol:
            if protocol != "http/protobuf":
                raise SettingsError(f"{name} must be http/protobuf")
            break
    return True


def keep_out() -> None:
    """Keep OpenTelemetry out of this process until `start`. Call it before redis is imported.

    Otherwise redis-py 8.1 imports OpenTelemetry's metrics, if installed: 3 MB and 30 ms.
    """
    # None makes the import raise ModuleNotFoundError, which redis-py expects:
    # https://docs.python.org/3/reference/import.html#the-module-cache
    sys.modules.setdefault("opentelemetry", None)  # type: ignore[arg-type]


class Phases:
    """Measures the successive parts of some work, even while tracing is off."""

    def __init__(self) -> None:
        self.ended: list[Phase] = []
        self._begin = time.time_ns()

    def end(self, name: str) -> None:
        """End the current part and begin the next one."""
        now = time.time_ns()
        self.ended.append(Phase(name, self._begin, now))
        self._begin = now


def start(service: str, processor: "SpanProcessor | None" = None) -> None:
    """Start tracing in this process.

    Call it after a fork, not before: the thread that sends spans would not exist in the child.

    `service` names the process, unless OTEL_SERVICE_NAME does. `processor` replaces the OTLP
    exporter.
    """
    if sys.modules.get("opentelemetry", ...) is None:
        del sys.modules["opentelemetry"]
    from .opentelemetry_tracer import OpenTelemetryTracer  # noqa: PLC0415 - only while tracing is on

    global _tracer  # noqa: PLW0603 - one per process, like the metrics
    _tracer = OpenTelemetryTracer(service, processor)


def stop() -> None:
    """Stop tracing. Send the waiting spans first, for a few seconds at most."""
    global _tracer
    tracer, _tracer = _tracer, None
    if tracer is not None:
        tracer.stop()


def is_on() -> bool:
    """Return whether this process traces."""
    return _tracer is not None


def span(name: str, **attributes: object) -> AbstractContextManager[object]:
    """Make the enclosed work a span of the current trace, if there is one."""
    return _NOTHING if _tracer is None else _tracer.span(name, attributes)


def request_span(
    name: str, traceparent: str | None, attributes: "Attributes"
) -> "RequestSpan | None":
    """Begin the span of a request, in the trace of its `traceparent` if it has one.

    Return None if the request is not sampled, or while tracing is off.
    """
    return None if _tracer is None else _tracer.request_span(name, traceparent, attributes)


def record(
    name: str,
    traceparent: bytes,
    phases: Sequence[Phase],
    attributes: Mapping[str, object],
) -> None:
    """Add finished work to the trace of a `traceparent`: a span with a child for each phase."""
    if _tracer is not None and phases:
        _tracer.record(name, traceparent, phases, attributes)


def traceparent() -> str:
    """Return the `traceparent` of the current span; "" if no sampled span is current."""
    return "" if _tracer is None else _tracer.traceparent()


def trace_id() -> str:
    """Return the id of the current trace in hex; "" if no sampled trace is current."""
    return traceparent()[3:35]


def wrap(
    name: str,
    function: Callable[P, R],
    describe: Callable[..., Mapping[str, object]] | None = None,
) -> Callable[P, R]:
    """Return `function` with a span around each call; while tracing is off, `function` itself.

    `describe` returns the attributes of the span of a call.
    """
    if _tracer is None:
        return function

    def traced(*args: P.args, **kwargs: P.kwargs) -> R:
        if not traceparent():
            return function(*args, **kwargs)
        attributes = {} if describe is None else describe(*args, **kwargs)
        with span(name, **attributes):
            return function(*args, **kwargs)

    return traced
