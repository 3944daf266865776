"""The view of the audit log."""

from flask import Blueprint, Response

from iot_api.http.access import needs
from iot_api.http.responses import json_response
from iot_api.service import Service
from iot_models.scopes import Scope

LATEST = 1000
"""Maximum number of lines in a response."""


def audit_blueprint(service: Service) -> Blueprint:
    """Return the blueprint of `GET /api/audit`: the latest lines, in ascending order."""
    blueprint = Blueprint("audit", __name__)

    @blueprint.get("/audit")
    @needs(Scope.AUDIT)
    def audit() -> Response:
        lines = service.pool.run_idempotent(
            lambda connection: service.audit.latest(connection, LATEST)
        )
        data = [{"id": number, "absolute_timestamp": at, "log": line} for number, at, line in lines]
        return json_response({"data": data})

    return blueprint
