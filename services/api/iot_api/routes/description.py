"""The views of the description of the API: for programs and for people."""

import base64
import hashlib
from functools import cache
from importlib.resources import files

from flask import Blueprint, Response, request

from iot_api.description.document import describe_service
from iot_api.description.reference import render
from iot_api.http.access import needs_no_token
from iot_api.http.paths import forwarded_prefix
from iot_api.http.responses import json_response
from iot_api.service import Service


def description_blueprint(service: Service) -> Blueprint:
    """Return the blueprint of `/openapi.json` and of `/docs`, a page without scripts."""
    blueprint = Blueprint("description", __name__)
    # Rendered at the first request, to start the process faster.
    document = cache(lambda: describe_service(service.settings))
    page = cache(lambda: render(document(), "docs.html", style=_STYLE))

    @blueprint.get("/openapi.json")
    @needs_no_token
    def openapi() -> Response:
        prefix = forwarded_prefix(request.environ, service.settings.trusted_proxies)
        return json_response({**document(), "servers": [{"url": prefix or "/"}]})

    @blueprint.get("/docs")
    @needs_no_token
    def docs() -> Response:
        headers = {"Content-Security-Policy": _POLICY}
        return Response(page(), mimetype="text/html", headers=headers)

    return blueprint


_STYLE = files("iot_api.description").joinpath("docs.css").read_text(encoding="utf-8")
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Content-Security-Policy of `/docs`: the browser loads no other files, runs no scripts, and
applies only the page's own style."""
