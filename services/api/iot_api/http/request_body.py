"""Request bodies: media types, size limits, receiving, decompression."""

from collections.abc import Callable, Mapping
from typing import Any

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
JSON_TYPES = {
    "",
    "application/json",
    "text/json",
    "text/plain",
    "application/octet-stream",
    # The default of `curl -d`.
    "application/x-www-form-urlencoded",
}
Grow = Callable[[int, int], None]
"""Called with the decompressed size so far and the received size; may wait, and refuse by raising.
"""


def is_ndjson(environ: Mapping[str, Any]) -> bool:
    """Return whether the body of a WSGI request is NDJSON: one JSON value a line.

    Raises:
        UnsupportedMediaTypeError: the body is neither JSON nor NDJSON.
    """
    content_type = environ.get("CONTENT_TYPE", "")
    if content_type in JSON_TYPES:
        return False
    media_type = content_type.partition(";")[0].strip(" \t").lower()
    if media_type in JSON_TYPES or media_type.endswith("+json"):
        return False
    if media_type not in NDJSON_TYPES:
        raise UnsupportedMediaTypeError(f"send JSON or NDJSON, not {media_type}")
    return True


def receive_body(environ: Mapping[str, Any], limit: int) -> bytes:
    """Receive the whole body of a WSGI request, compressed or not.

    Raises:
        TooLargeError: the body is larger than `limit` bytes.
        InvalidRequestError: the body was cut off. Half an NDJSON body would look like a whole one.
        UnavailableError: the memory of this process is used up.
    """
    stated = environ.get("CONTENT_LENGTH", "")
    if "HTTP_TRANSFER_ENCODING" not in environ and stated.isdecimal():
        length = int(stated)
        if length > limit:
            raise _too_large(limit)
        body = _receive(environ, length)
        if len(body) != length:
            raise _cut_off()
        return body
    # One more byte tells a body that is too large from a body that ends at the limit.
    body = _receive(environ, limit + 1)
    if len(body) > limit:
        raise _too_large(limit)
    return body


def decompress_body(
    environ: Mapping[str, Any], body: bytes, limit: int, grow: Grow = lambda *_: None
) -> bytes:
    """Decompress a received body by its Content-Encoding. Call `grow` as the result grows.

    Raises:
        TooLargeError: the body decompresses to more than `limit` bytes.
        UnsupportedMediaTypeError: the Content-Encoding is not supported.
        InvalidRequestError: the body does not match its Content-Encoding.
        UnavailableError: the memory of this process is used up.
    """
    encoding = environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower()
    if encoding == "identity":
        return body
    received = len(body)
    if encoding in {"gzip", "x-gzip"}:
        decompressed = GZIP.decompress(body, limit, lambda size: grow(size, received))
    elif encoding == "zstd":
        decompressed = ZSTD.decompress(body, limit, lambda size: grow(size, received))
    else:
        raise UnsupportedMediaTypeError("Content-Encoding must be gzip, zstd or identity")
    charge_request(environ, len(decompressed) * BODY_FACTOR)
    return decompressed


def _receive(environ: Mapping[str, Any], limit: int) -> bytes:
    """Receive at most `limit` bytes. The worker enforces deadlines and charges memory."""
    try:
        body: bytes = environ["wsgi.input"].read(limit)
    except ParseException:
        raise InvalidRequestError("the request's chunks are not in the form of HTTP") from None
    except OSError:
        raise _cut_off() from None
    return body


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError("the request is too large", limit=limit)


def _cut_off() -> InvalidRequestError:
    return InvalidRequestError("the request's body ends before its length says")
