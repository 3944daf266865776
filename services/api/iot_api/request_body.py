"""Request bodies: their limits, their compression, their media types."""

from typing import Any

import gevent
from flask import Request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected, RequestTimeout

from iot_models.errors import (
    InvalidRequestError,
    IotError,
    TooLargeError,
    UnavailableError,
    UnsupportedMediaTypeError,
)

from . import stopping
from .unpacking import GZIP, ZSTD

READ_SECONDS = 60
"""How long a body may take to arrive."""

NDJSON = "application/x-ndjson"
JSON_TYPES = {
    "",
    "application/json",
    "text/json",
    "text/plain",
    "application/octet-stream",
    # What curl says of `-d` when it isn't told otherwise.
    "application/x-www-form-urlencoded",
}


def read_body(request: Request, limit: int) -> bytes:
    """The body, unpacked.

    Raises:
        TooLargeError: it is larger than `limit` bytes, packed or unpacked.
        UnsupportedMediaTypeError: neither JSON, or packed in a way not known here.
        InvalidRequestError: it is not what its Content-Encoding says, or was cut off.
    """
    media_type = request.mimetype
    if media_type not in JSON_TYPES and media_type != NDJSON and not media_type.endswith("+json"):
        raise UnsupportedMediaTypeError(f"send JSON, not {media_type}")
    body = _received(request, limit)
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding in {"gzip", "x-gzip"}:
        return GZIP.unpack(body, limit)
    if encoding == "zstd":
        return ZSTD.unpack(body, limit)
    raise UnsupportedMediaTypeError("Content-Encoding must be gzip, zstd or identity")


def read_plain(environ: dict[str, Any]) -> bytes:
    """The body of a WSGI request that is not packed, of the length it states."""
    length = int(environ["CONTENT_LENGTH"])
    with gevent.Timeout(READ_SECONDS, _too_slow()):
        body: bytes = environ["wsgi.input"].read(length)
    if len(body) != length:
        raise _cut_off()
    return body


def _received(request: Request, limit: int) -> bytes:
    """The body as it came, all of it: of NDJSON a part looks like a whole, but half is lost."""
    # A body in chunks is cut off at the most that may be read; one byte more tells it from one
    # that ends there.
    request.max_content_length = limit + 1
    try:
        with gevent.Timeout(READ_SECONDS, _too_slow()):
            body = request.get_data(cache=False)
    except ClientDisconnected:  # a body in chunks
        raise _cut_off() from None
    except ParseException:
        raise InvalidRequestError("the request's chunks are not in the form of HTTP") from None
    if len(body) > limit:
        raise TooLargeError("the request is too large", limit=limit)
    if request.content_length is not None and len(body) != request.content_length:
        raise _cut_off()
    return body


def _too_slow() -> RequestTimeout:
    return RequestTimeout("the body took too long to arrive")


def _cut_off() -> IotError:
    """Cut off by its sender; or by our worker, which waits only so long when it is to end."""
    if stopping.asked.is_set():
        return UnavailableError("this server process ends; send the request again")
    return InvalidRequestError("the request's body ends before its length says")


def is_ndjson(request: Request) -> bool:
    """Whether the body says that it is a JSON value a line."""
    return request.mimetype == NDJSON
