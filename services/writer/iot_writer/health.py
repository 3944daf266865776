"""What the writer tells monitoring and probes."""

from collections.abc import Mapping
from wsgiref.simple_server import WSGIServer

from iot_models import metrics, monitoring
from iot_stores.readiness import Readiness


def serve_health(readiness: Readiness, address: str, port: int) -> WSGIServer:
    """Serve `/metrics`, `/healthz`, which knows no dependency, and `/readyz`, which does.

    Raises:
        SettingsError: the port can't be had.
    """
    metrics.create_metrics("writer")

    def ready() -> tuple[bool, Mapping[str, str]]:
        state = readiness.state()
        well = readiness.ready(state)
        return well, {"status": "ready" if well else "not ready", **state}

    checks = {"/healthz": lambda: (True, {"status": "ok"}), "/readyz": ready}
    return monitoring.serve("IOT_WRITER_METRICS_PORT", address, port, checks)
