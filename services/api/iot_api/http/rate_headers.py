"""The rate limits of Flask's views. The ingest endpoint counts its requests itself."""

from flask import Flask, Response, request

from iot_api.limits.rate_limit import RateLimit
from iot_models.settings import Settings

from .access import scope_of_request
from .request import requesting_client


def register_rate_limit(app: Flask, rates: RateLimit, settings: Settings) -> None:
    """Count each request that needs a scope, and add the rate-limit headers to its response.

    Health checks and unknown paths need no scope. Call this after `register_access`, which finds
    the token whose requests are counted.
    """

    @app.before_request
    def count() -> None:
        if scope_of_request(app) is not None:
            rates.count(requesting_client(settings), request.environ)

    @app.after_request
    def add_headers(response: Response) -> Response:
        for name, value in rates.headers(request.environ):
            response.headers[name] = value
        return response
