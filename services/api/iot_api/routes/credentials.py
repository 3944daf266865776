"""Bodies of requests that hold passwords only, and the client that sent them."""

from flask import g, request

from iot_api.http.request_body import decompress_body, is_ndjson, receive_body
from iot_api.limits.clients import Client, client_of
from iot_api.service import Service

_MAX_BODY_BYTES = 64 * 1024
"""Limit of a body without its passwords. Such a request takes no turn in `LargeRequests`."""
_MAX_ESCAPE_BYTES = 6
"""JSON may escape one byte of a password as six."""


def receive_credentials(service: Service, *, passwords: int = 1) -> bytes:
    """Receive and decompress the body of a request that holds so many passwords."""
    settings = service.settings
    max_bytes = _MAX_BODY_BYTES + passwords * _MAX_ESCAPE_BYTES * settings.max_password_bytes
    limit = min(max_bytes, settings.max_body_bytes)
    is_ndjson(request.environ)  # refuses other content types; a single line of NDJSON is JSON
    return decompress_body(request.environ, receive_body(request.environ, limit), limit)


def requesting_client(service: Service) -> Client:
    """Return the client of the request, for limits."""
    return client_of(request.environ, service.settings.trusted_proxies, g.get("token_name", ""))
