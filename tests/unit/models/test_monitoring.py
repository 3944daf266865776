"""The server for metrics and probes."""

import socket
from contextlib import ExitStack

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


def test_silent_clients_keep_no_probe_from_an_answer(capfd: pytest.CaptureFixture[str]) -> None:
    server = monitoring.serve(
        "X", "127.0.0.1", 0, {"/well": lambda: (True, {})}, CollectorRegistry()
    )
    with ExitStack() as opened:
        opened.callback(server.server_close)
        opened.callback(server.shutdown)
        silent = [
            opened.enter_context(socket.create_connection(("127.0.0.1", server.server_port)))
            for _ in range(monitoring.MAX_CONNECTIONS + 5)
        ]
        assert http_get(server.server_port, "/well") == (200, b"{}")
        for oldest in silent[:6]:
            assert oldest.recv(1) == b""
        silent[-1].sendall(b"GET /well HTTP/1.0\r\n\r\n")
        assert silent[-1].recv(9) == b"HTTP/1.0 "
    assert capfd.readouterr().err == ""


def test_a_silent_client_is_left(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iot_models.monitoring._Handler.timeout", 0.05)
    server = monitoring.serve("X", "127.0.0.1", 0, {}, CollectorRegistry())
    with socket.create_connection(("127.0.0.1", server.server_port)) as silent:
        silent.sendall(b"GET /metr")
        assert silent.recv(1) == b""
    server.shutdown()
    server.server_close()
    assert capfd.readouterr().err == ""


def test_a_port_in_use_is_a_settings_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"IOT_X: can't listen on 127.0.0.1 port {port}"):
            monitoring.serve("IOT_X", "127.0.0.1", port, {})
