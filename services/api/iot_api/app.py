"""The Flask app: only wiring, no behaviour."""

import logging
from typing import Any

from flask import Flask
from flask_cors import CORS
from flask_cors.core import get_cors_headers, get_cors_options
from werkzeug.datastructures import Headers
from werkzeug.middleware.proxy_fix import ProxyFix

from iot_models import metrics
from iot_models.settings import Settings

from .access import build_access, register_access
from .http_errors import register_errors
from .plain_put import PlainPut
from .requests_seen import register_requests_seen
from .routes.audit import audit_blueprint
from .routes.health import health_blueprint
from .routes.iot import iot_blueprint
from .service import build_service

_log = logging.getLogger(__name__)


def create_app(settings: Settings) -> Flask:
    """The app of one process.

    Raises:
        SettingsError: the keyring or the tokens can't be read.
    """
    access = build_access(settings)
    metrics.begin("api")
    service = build_service(settings)
    app = Flask(__name__, static_folder=None)
    app.extensions["iot"] = service
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    if settings.trusted_proxies:
        hops = settings.trusted_proxies
        # Addresses of clients are found by `clients.client_of`.
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=0, x_proto=hops)  # type: ignore[method-assign]
    origins = [origin.strip() for origin in settings.cors_origins.split(",")]
    cors: dict[str, Any] = {
        "origins": origins,
        "expose_headers": ["X-Request-Id", "Retry-After", "Location"],
    }
    CORS(app, **cors)
    # First: an error in what follows is answered with an id all the same.
    register_requests_seen(app)
    register_errors(app)
    register_access(app, access)
    app.register_blueprint(iot_blueprint("iot", service), url_prefix="/api/iot")
    app.register_blueprint(iot_blueprint("rssi", service), url_prefix="/api/rssi")
    app.register_blueprint(audit_blueprint(service), url_prefix="/api")
    app.register_blueprint(health_blueprint(service))
    app.wsgi_app = PlainPut(app, service, access, _without_origin(app, cors))  # type: ignore[method-assign]
    if access.is_open:
        _log.warning("no tokens are configured: whoever reaches this service may use it")
    return app


def _without_origin(app: Flask, cors: dict[str, Any]) -> dict[str, str]:
    """What CORS says to a request that names no origin."""
    headers = get_cors_headers(get_cors_options(app, cors), Headers(), "PUT")
    return {name: str(value) for name, value in headers.items()}
