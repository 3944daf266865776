"""Metrics and probes of the writer."""

from collections.abc import Mapping
from wsgiref.simple_server import WSGIServer

from iot_models import metrics, monitoring
from iot_stores.readiness import Readiness


def serve_health(readiness: Readiness, address: str, port: int) -> WSGIServer:
    """Serve `/metrics`, `/healthz` (independent of the stores) and `/readyz`.

    Raises:
        SettingsError: the port can't be opened.
    """
    metrics.create_metrics("writer")
    metrics.export_build("iot_writer_build_info")

    def ready() -> tuple[bool, Mapping[str, str]]:
        state = readiness.state()
        is_ready = readiness.ready(state)
        return is_ready, {"status": "ready" if is_ready else "not ready", **state}

    checks = {"/healthz": lambda: (True, {"status": "ok"}), "/readyz": ready}
    return monitoring.serve("IOT_WRITER_METRICS_PORT", address, port, checks)
