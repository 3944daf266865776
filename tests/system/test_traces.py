"""Traces and logs of the real processes."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from integration.api.asking import row
from support.stack import Stack
from support.waiting import wait_until

SECRET = "Zq7secret"


class Collector(ThreadingHTTPServer):
    """A collector of spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    def spans(self) -> dict[str, tuple[str, bytes]]:
        """Return the service and the trace of each span, by name."""
        found = {}
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {each.key: each.value.string_value for each in resource.resource.attributes}
                for span in (each for scope in resource.scope_spans for each in scope.spans):
                    found[span.name] = names["service.name"], span.trace_id
        return found


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_processes_send_their_spans_at_shutdown(
    collector: Collector, environment: dict[str, str], tmp_path: Path
) -> None:
    """gunicorn's workers under gevent, and the writer under RQ."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
        "IOT_LOG_FORMAT": "json",
    }
    stack = Stack(environment | variables, tmp_path)
    try:
        stack.start_api()
        stack.start_writer()
        assert stack.put(row(SECRET)).status == 201
        wait_until(lambda: stack.read(SECRET), what="the reading")
        assert "PUT /api/iot" not in collector.spans()
    finally:
        stack.shut_down()
    found = collector.spans()
    service, trace = found["PUT /api/iot"]
    assert service == "iot-api"
    assert found["append to the backlog"] == ("iot-api", trace)
    assert found["commit"] == ("iot-writer", trace)
    assert found["POST /api/iot"][0] == "iot-api"
    assert SECRET.encode() not in b"".join(collector.bodies)
    for name in ("api", "writer-0"):
        for line in (tmp_path / f"{name}.log").read_text().splitlines():
            assert json.loads(line)["level"] in {"INFO", "WARNING"}
