"""The view of the status of the whole service."""

from flask import Blueprint, Response

from iot_api.http.access import needs
from iot_api.http.responses import json_response
from iot_api.service import Service
from iot_models.scopes import Scope


def status_blueprint(service: Service) -> Blueprint:
    """Return the blueprint of `GET /api/status`."""
    blueprint = Blueprint("status", __name__)

    @blueprint.get("/status")
    @needs(Scope.ADMIN)
    def status() -> Response:
        return json_response(service.status.read())

    return blueprint
