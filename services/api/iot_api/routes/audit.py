"""The view of the audit log."""

from flask import Blueprint, Response, request

from iot_api.http.access import needs
from iot_api.http.responses import json_response
from iot_api.query.paging import parse_positive
from iot_api.service import Service
from iot_models.audit_event import describe, parse_event
from iot_models.scopes import Scope

LATEST = 1000
"""Maximum number of records in a response."""


def audit_blueprint(service: Service) -> Blueprint:
    """Return the blueprint of `GET /api/audit`: the latest records, by ascending id.

    `limit` is the maximum number of records, at most `LATEST`. `before` is an id: only records with
    smaller ids are returned. To get older records, set `before` to the smallest id so far.
    """
    blueprint = Blueprint("audit", __name__)

    @blueprint.get("/audit")
    @needs(Scope.AUDIT)
    def audit() -> Response:
        limit = min(_argument("limit") or LATEST, LATEST)
        before = _argument("before")
        lines = service.pool.run_idempotent(
            lambda connection: service.audit.latest(connection, limit, before=before)
        )
        return json_response({"data": [_shown(*line) for line in lines]})

    return blueprint


def _shown(number: int, at: str, line: str) -> dict[str, object]:
    shown = {"id": number, "absolute_timestamp": at, "log": describe(line)}
    event = parse_event(line)
    return shown if event is None else {**shown, "event": event}


def _argument(name: str) -> int | None:
    text = request.args.get(name)
    return None if text is None else parse_positive(name, text)
