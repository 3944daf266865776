"""Responses of one piece, for the ingest endpoint and the Flask views."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import msgspec
from flask import Response
from werkzeug.http import HTTP_STATUS_CODES

Headers = list[tuple[str, str]]
StartResponse = Callable[..., Any]
Wsgi = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

JSON = "application/json"


class PlainResponse(NamedTuple):
    """A response that is not streamed: its whole body is in memory."""

    status: int
    headers: Headers
    body: bytes

    def for_flask(self) -> Response:
        """Return the response as a Flask response."""
        return Response(self.body, self.status, self.headers)


def json_body(content: object) -> bytes:
    """Encode `content` as JSON. The body ends with a newline, as in the old server's responses."""
    return msgspec.json.encode(content) + b"\n"


def plain_json_response(
    status: int, body: bytes, *headers: tuple[str, str], media_type: str = JSON
) -> PlainResponse:
    """Return a response with a body that is JSON already."""
    first = [("Content-Type", media_type), ("Content-Length", str(len(body)))]
    return PlainResponse(status, [*first, *headers], body)


def json_response(content: object, status: int = 200) -> Response:
    """Encode `content` as the JSON response of a Flask view."""
    return Response(json_body(content), status, mimetype=JSON)


@cache
def status_line(status: int) -> str:
    """Return `201 CREATED` for 201, in the capitals that Werkzeug writes."""
    return f"{status} {HTTP_STATUS_CODES[status].upper()}"
