"""The rate limits of Flask's views. The ingest endpoint counts its requests itself."""

from flask import Flask, Response, g, request

from iot_api.limits.clients import client_of
from iot_api.limits.rate_limit import RateLimit

from .access import scope_of_request


def register_rate_limit(app: Flask, rates: RateLimit, trusted_proxies: int) -> None:
    """Count each request that needs a scope, and send the headers. Registered after the access
    checks: health checks and unknown paths are not counted.
    """

    @app.before_request
    def count() -> None:
        if scope_of_request(app) is not None:
            client = client_of(request.environ, trusted_proxies, g.get("token_name", ""))
            rates.count(client, request.environ)

    @app.after_request
    def add_headers(response: Response) -> Response:
        for name, value in rates.headers(request.environ):
            response.headers[name] = value
        return response
