"""The server for metrics and probes."""

import socket

import pytest
from prometheus_client import CollectorRegistry, Counter

from iot_models import monitoring
from iot_models.errors import SettingsError
from support.http_get import http_get


@pytest.mark.parametrize(
    ("address", "client"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")]
)
def test_metrics_and_probes_are_served(address: str, client: str) -> None:
    registry = CollectorRegistry()
    Counter("asked", "Here.", registry=registry)
    well = {"/well": lambda: (True, {"status": "ok"}), "/not": lambda: (False, {"status": "no"})}
    server = monitoring.serve("X", address, 0, well, registry)
    try:
        port = server.server_port
        assert http_get(port, "/well", address=client) == (200, b'{"status": "ok"}')
        assert http_get(port, "/not", address=client) == (503, b'{"status": "no"}')
        status, body = http_get(port, "/metrics", address=client)
        assert status == 200
        assert b"asked_total 0.0" in body
        assert http_get(port, "/", address=client) == (
            404,
            b'{"error": "unknown path; use one of /metrics, /well, /not"}',
        )
    finally:
        server.shutdown()
        server.server_close()


def test_a_port_in_use_is_a_settings_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"IOT_X: can't listen on 127.0.0.1 port {port}"):
            monitoring.serve("IOT_X", "127.0.0.1", port, {})
