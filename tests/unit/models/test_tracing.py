"""Settings turn traces on. While they are off, OpenTelemetry is not imported."""

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from iot_models import opentelemetry_tracer, tracing
from iot_models.errors import SettingsError
from iot_models.opentelemetry_tracer import RequestSpan
from iot_models.tracing import Phases
from support.spans import recorded_spans

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
PARENT = "00-" + "a1" * 16 + "-" + "b2" * 8 + "-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    with recorded_spans() as exporter:
        yield exporter


def request(parent: str | None) -> RequestSpan:
    """Begin the span of a request."""
    span = tracing.request_span("PUT", parent, {})
    assert span is not None
    return span


@pytest.mark.parametrize(
    ("variables", "on"),
    [
        ({}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": " OTLP "}, True),
        ({"OTEL_TRACES_EXPORTER": "none"}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": ""}, True),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "false"}, True),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, False),
    ],
)
def test_the_standard_variables_decide(variables: dict[str, str], *, on: bool) -> None:
    assert tracing.is_requested(variables) is on


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_TRACES_EXPORTER": "jaeger"},
        {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {**ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
    ],
)
def test_what_the_images_lack_is_refused(variables: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="must be"):
        tracing.is_requested(variables)


def test_nothing_is_wrapped_while_traces_are_off() -> None:
    assert tracing.wrap("a name", len) is len
    assert tracing.span("a name") is tracing.span("another")
    assert tracing.traceparent() == tracing.trace_id() == ""
    tracing.record("a name", PARENT.encode(), [], {})


@pytest.mark.parametrize(
    "words",
    [
        ["-c", "import iot_api.gunicorn_conf, iot_api.app, redis"],
        ["-m", "iot_api.server"],
        ["-m", "iot_writer"],
        ["-m", "iot_tools", "held", "list"],
    ],
)
def test_opentelemetry_is_not_imported_while_traces_are_off(words: list[str]) -> None:
    """Each process ends at a wrong setting, after its imports."""
    environ = {
        "IOT_POSTGRES_URL": "postgresql://h/d",
        "IOT_KEYRING_FILE": "none",
        "IOT_API_METRICS_PORT": "0",
    }
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    imported = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    assert "redis.client" in imported
    assert "opentelemetry.sdk.metrics" in imported  # redis-py tries to import it, in vain
    assert "opentelemetry.context" not in imported


def test_work_is_a_span_within_a_trace_only(spans: InMemorySpanExporter) -> None:
    with tracing.span("of no request"):
        assert tracing.traceparent() == ""

    def count(numbers: list[int]) -> int:
        return len(numbers)

    traced = tracing.wrap("a count", count, lambda numbers: {"iot.given": str(numbers)})
    with request(PARENT).current():
        assert tracing.traceparent().startswith(PARENT[:36])
        assert tracing.trace_id() == "a1" * 16
        assert traced([1, 2]) == 2
    (found,) = spans.get_finished_spans()
    assert found.name == "a count"
    assert found.attributes == {"iot.given": "[1, 2]"}
    assert found.resource.attributes["service.name"] == "iot-test"


def test_an_error_is_named_by_its_class(spans: InMemorySpanExporter) -> None:
    def fail() -> None:
        raise ValueError("secret")

    failing = tracing.wrap("it fails", fail)
    with (
        request(PARENT).current(),
        pytest.raises(ValueError, match="secret"),
    ):
        failing()
    (found,) = spans.get_finished_spans()
    assert found.attributes == {"error.type": "builtins.ValueError"}
    assert not found.status.is_ok
    assert "secret" not in found.to_json()


@pytest.mark.parametrize("parent", [b"", b"\xff" * 55, b"00-" + b"0" * 52, PARENT.encode()[:-1]])
def test_an_invalid_parent_is_no_trace(spans: InMemorySpanExporter, parent: bytes) -> None:
    phases = Phases()
    phases.end("a phase")
    tracing.record("stored", parent, phases.ended, {})
    assert spans.get_finished_spans() == ()


def test_tracestate_is_dropped(spans: InMemorySpanExporter) -> None:
    """It is any text of the client."""
    request(PARENT).end()
    (found,) = spans.get_finished_spans()
    assert found.context is not None
    assert not found.context.trace_state


def test_the_service_name_of_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=sensors-api,deployment=x")
    with recorded_spans() as exporter:
        request(None).end()
    (found,) = exporter.get_finished_spans()
    assert found.resource.attributes["service.name"] == "sensors-api"
    assert found.resource.attributes["deployment"] == "x"


def test_the_sampler_of_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    with recorded_spans():
        assert tracing.request_span("PUT", PARENT, {}) is None


def test_a_collector_that_is_away_costs_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(opentelemetry_tracer, "STOP_SECONDS", 0.5)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    tracing.start("iot-api")
    for _ in range(50):
        request(None).end()
    tracing.stop()
    said = [each.msg for each in caplog.records if each.levelno >= logging.WARNING]
    assert said
    assert len(said) == len(set(said)) < 6
