"""Request bodies: their limits, their compression, their media types."""

from collections.abc import Callable, Mapping
from typing import Any

from flask import Request
from gunicorn.http.errors import ParseException

from iot_api.limits.memory_budget import BODY_FACTOR, charge_request
from iot_models.errors import (
    InvalidRequestError,
    TooLargeError,
    UnsupportedMediaTypeError,
)

from .decompression import GZIP, ZSTD

NDJSON = "application/x-ndjson"
NDJSON_TYPES = {
    NDJSON,
    "application/jsonl",
    "application/jsonlines",
    "application/ndjson",
    "application/vnd.jsonl",
    "application/x-jsonl",
    "application/x-jsonlines",
    "application/x-ldjson",
    "text/jsonl",
    "text/ndjson",
    "text/x-ndjson",
}
Grow = Callable[[int, int], None]
"""Told the size of what is unpacked so far, and of what has arrived; as `unpacking.Grow`."""
JSON_TYPES = {
    "",
    "application/json",
    "text/json",
    "text/plain",
    "application/octet-stream",
    # What curl says of `-d` when it isn't told otherwise.
    "application/x-www-form-urlencoded",
}


def read_body(request: Request, limit: int, grow: Grow = lambda *_: None) -> bytes:
    """The body, unpacked. `grow` is called with the size of what has arrived, and while it is
    unpacked with its size so far.

    Raises:
        TooLargeError: it is larger than `limit` bytes, packed or unpacked.
        UnsupportedMediaTypeError: neither JSON nor NDJSON, or packed in a way not known here.
        InvalidRequestError: it is not what its Content-Encoding says, or was cut off.
        UnavailableError: the memory of this process is used up.
    """
    media_type = request.mimetype
    is_json = media_type in JSON_TYPES or media_type.endswith("+json")
    if not is_json and media_type not in NDJSON_TYPES:
        raise UnsupportedMediaTypeError(f"send JSON or NDJSON, not {media_type}")
    body = _received(request.environ, limit)
    received = len(body)
    grow(received, received)
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding in {"gzip", "x-gzip"}:
        unpacked = GZIP.unpack(body, limit, lambda size: grow(size, received))
    elif encoding == "zstd":
        unpacked = ZSTD.unpack(body, limit, lambda size: grow(size, received))
    else:
        raise UnsupportedMediaTypeError("Content-Encoding must be gzip, zstd or identity")
    charge_request(request.environ, len(unpacked) * BODY_FACTOR)
    return unpacked


def read_plain(environ: Mapping[str, Any]) -> bytes:
    """The body of a WSGI request that is not packed, of the length it states.

    Raises:
        InvalidRequestError: it was cut off.
        UnavailableError: the memory of this process is used up.
    """
    length = int(environ["CONTENT_LENGTH"])
    body = _receive(environ, length)
    if len(body) != length:
        raise _cut_off()
    return body


def _received(environ: Mapping[str, Any], limit: int) -> bytes:
    """The body as it came, all of it: of NDJSON a part looks like a whole, but half is lost."""
    stated = environ.get("CONTENT_LENGTH", "")
    if "HTTP_TRANSFER_ENCODING" not in environ and stated.isdecimal():
        if int(stated) > limit:
            raise TooLargeError("the request is too large", limit=limit)
        return read_plain(environ)
    # One byte more tells a body that is too large from one that ends at the limit.
    body = _receive(environ, limit + 1)
    if len(body) > limit:
        raise TooLargeError("the request is too large", limit=limit)
    return body


def _receive(environ: Mapping[str, Any], most: int) -> bytes:
    """At most so many bytes of the body. The worker enforces deadlines, and charges memory."""
    try:
        body: bytes = environ["wsgi.input"].read(most)
    except ParseException:
        raise InvalidRequestError("the request's chunks are not in the form of HTTP") from None
    except OSError:
        raise _cut_off() from None
    return body


def _cut_off() -> InvalidRequestError:
    return InvalidRequestError("the request's body ends before its length says")


def is_ndjson(request: Request) -> bool:
    """Whether the body says that it is a JSON value a line."""
    return request.mimetype in NDJSON_TYPES
