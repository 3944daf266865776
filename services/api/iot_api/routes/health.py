"""The views for liveness and readiness probes."""

from flask import Blueprint, Response

from iot_api.http.access import needs_no_token
from iot_api.http.responses import json_response
from iot_api.service import Service


def health_blueprint(service: Service) -> Blueprint:
    """Return the blueprint of `/healthz` (the process responds) and `/readyz` (readiness)."""
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/healthz")
    @needs_no_token
    def healthz() -> Response:
        return json_response({"status": "ok"})

    @blueprint.get("/readyz")
    @needs_no_token
    def readyz() -> Response:
        state = service.readiness.state()
        ready = service.readiness.ready(state)
        answer = json_response(
            {"status": "ready" if ready else "not ready", **state}, 200 if ready else 503
        )
        if not ready:
            answer.headers["Retry-After"] = "1"
        return answer

    return blueprint
