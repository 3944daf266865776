"""The Flask app, and the ingest endpoint, which answers PUTs before they reach Flask.

This module only wires the parts together.
"""

import logging
from collections.abc import Mapping
from typing import Any

from flask import Flask

from iot_api.http.access import Access, build_access, register_access
from iot_api.http.cors import Cors
from iot_api.http.errors import ErrorResponder, register_errors
from iot_api.http.rate_headers import register_rate_limit
from iot_api.http.refusal_pace import RefusalPace
from iot_api.http.request import RequestDispatcher, client_of, register_request_metrics
from iot_api.http.request_log import RequestLog
from iot_api.http.request_metrics import RequestMetrics
from iot_api.http.traced_app import TracedApp
from iot_api.ingest.endpoint import IngestEndpoint, route_of
from iot_api.routes.audit import audit_blueprint
from iot_api.routes.dead_letters import dead_letters_blueprint
from iot_api.routes.description import description_blueprint
from iot_api.routes.health import health_blueprint
from iot_api.routes.live import live_blueprint
from iot_api.routes.page import page_blueprint
from iot_api.routes.readings import iot_blueprint
from iot_api.routes.series import series_blueprint
from iot_api.routes.status import status_blueprint
from iot_api.routes.vault import vault_blueprint
from iot_models import metrics, tracing
from iot_models.errors import IotError, TooManyRequestsError
from iot_models.origins import parse_origins
from iot_models.scopes import Scope
from iot_models.settings import Settings

from .service import Service, build_service

_log = logging.getLogger(__name__)


def audit_access(access: Access, service: Service) -> None:
    """Make the audit log record refused access and changes of tokens."""
    audit, proxies = service.access_audit, service.settings.trusted_proxies

    def refused(
        error: IotError, scope: Scope, token: str | None, environ: Mapping[str, Any]
    ) -> None:
        audit.refused(error, scope, token, client_of(environ, proxies))

    audit.follow(access.tokens)
    access.on_refusal = refused


def error_responder(service: Service) -> ErrorResponder:
    """Return an error responder that counts each 429 answer for the audit log."""
    audit, proxies = service.access_audit, service.settings.trusted_proxies

    def limited(error: TooManyRequestsError, token: str, environ: Mapping[str, Any]) -> None:
        audit.limited(error, token or None, client_of(environ, proxies))

    return ErrorResponder(RefusalPace(proxies), limited)


def create_app(settings: Settings) -> Flask:
    """Build the app of one process.

    Raises:
        SettingsError: the keyring or the tokens can't be read.
    """
    access = build_access(settings)
    metrics.create_metrics("api")
    request_metrics = RequestMetrics()
    service = build_service(settings)
    audit_access(access, service)
    app = Flask(__name__, static_folder=None)
    app.extensions["iot"] = service
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    # The request id comes first, so that an error in a later hook has an id too.
    request_log = RequestLog(settings)
    register_request_metrics(app, request_metrics, request_log)
    errors = error_responder(service)
    register_errors(app, errors)
    register_access(app, access)
    if service.rates is not None:
        register_rate_limit(app, service.rates, settings)
    for blueprint in (
        iot_blueprint(service),
        series_blueprint(service),
        live_blueprint(service, access),
    ):
        app.register_blueprint(blueprint, url_prefix="/api/iot")
        # Flask refuses two blueprints of the same name.
        app.register_blueprint(blueprint, url_prefix="/api/rssi", name=f"rssi_{blueprint.name}")
    app.register_blueprint(audit_blueprint(service), url_prefix="/api")
    app.register_blueprint(status_blueprint(service), url_prefix="/api")
    app.register_blueprint(dead_letters_blueprint(service), url_prefix="/api/dead-letters")
    app.register_blueprint(vault_blueprint(service), url_prefix="/api/vault")
    app.register_blueprint(health_blueprint(service))
    app.register_blueprint(description_blueprint(service))
    if settings.page:
        app.register_blueprint(page_blueprint())
    cors = Cors(parse_origins(settings.cors_origins))
    ingest = IngestEndpoint(service, access, request_metrics, cors, errors, request_log)
    app.wsgi_app = RequestDispatcher(ingest, app.wsgi_app, cors)  # type: ignore[method-assign]
    if tracing.is_on():
        app.wsgi_app = TracedApp(app.wsgi_app, route_of)  # type: ignore[method-assign]
    if access.is_open:
        _log.warning("IOT_TOKENS_FILE is not set: every client may use this service")
    return app
