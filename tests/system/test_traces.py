"""Traces and logs of the real processes."""

import json
from pathlib import Path

from integration.api.asking import row
from support.collector import Collector
from support.stack import Stack
from support.waiting import wait_until

SECRET = "Zq7secret"


def test_processes_send_their_spans_at_shutdown(
    collector: Collector, environment: dict[str, str], tmp_path: Path
) -> None:
    """gunicorn's workers under gevent, and the writer under RQ."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
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
