"""JSON responses of every endpoint but the streamed reads."""

import msgspec
from flask import Response

JSON = "application/json"


def json_response(content: object, status: int = 200) -> Response:
    """Encode `content` as JSON. The body ends with a newline, as in the old server's responses."""
    return Response(msgspec.json.encode(content) + b"\n", status, mimetype=JSON)
