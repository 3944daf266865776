"""Request bodies: media types, size limits, receiving, decompression, passwords."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

import msgspec
from gunicorn.http.errors import ParseException

from iot_api.limits.memory_budget import BODY_FACTOR, charge_request
from iot_models.errors import (
    InvalidRequestError,
    TooLargeError,
    UnsupportedMediaTypeError,
)
from iot_models.settings import Settings

from .decompression import GZIP, ZSTD
from .json_dialect import NotJsonError, decode

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
_MAX_FORM_BYTES = 64 * 1024
"""Limit of a body without its passwords. Such a request takes no turn in `LargeRequests`."""
_MAX_ESCAPE_BYTES = 6
"""JSON may escape one byte of a password as six."""


class Hidden(msgspec.Struct, gc=False):
    """A part of a request that is never printed."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


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


class PasswordsForm:
    """The form of a body: `{"data": {"<field>": "<password>", ...}}`."""

    def __init__(self, *fields: str, required: bool) -> None:
        """Without `required`, a missing password is empty, as in the old server."""
        self._fields = fields
        self._texts = _decoder(fields, str, None if required else "")
        self._raw = _decoder(fields, msgspec.Raw, None if required else msgspec.Raw(b'""'))

    def receive(self, environ: Mapping[str, Any], settings: Settings) -> list[bytes]:
        """Return the passwords in the body of a WSGI request, in the order of the fields.

        Raises:
            InvalidRequestError: the body has another form, or a password is too long.
        """
        body = self._body(environ, settings)
        try:
            passwords = self._decode(body)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            members = ", ".join(f'"{field}": "..."' for field in self._fields)
            form = f'the body must have the form {{"data": {{{members}}}}}'
            # The decoder's own message may quote a password.
            problem = "the body is not JSON: " if isinstance(error, NotJsonError) else ""
            raise InvalidRequestError(problem + form, field="data") from None
        limit = settings.max_password_bytes
        return [
            password_bytes(password, limit, field=field)
            for field, password in zip(self._fields, passwords, strict=True)
        ]

    def _decode(self, body: bytes) -> list[str]:
        if body.isascii():  # as in `ingest.parser`: `json_dialect` looks at all other bodies
            with suppress(msgspec.DecodeError):
                return self._values(self._texts.decode(body))
        decoded = decode(self._texts.decode, body)
        if decoded.stand_ins:
            raw = self._values(self._raw.decode(decoded.strict))
            return decoded.stand_ins.strings(map(bytes, raw))
        return self._values(decoded.content)

    def _body(self, environ: Mapping[str, Any], settings: Settings) -> bytes:
        password_limit = _MAX_ESCAPE_BYTES * settings.max_password_bytes
        limit = min(_MAX_FORM_BYTES + len(self._fields) * password_limit, settings.max_body_bytes)
        is_ndjson(environ)  # refuses other content types; a single line of NDJSON is JSON
        body = receive_body(environ, limit)
        if "HTTP_CONTENT_ENCODING" in environ:
            body = decompress_body(environ, body, limit)
        return body

    def _values(self, content: Any) -> list[Any]:
        return [getattr(content.data, field) for field in self._fields]


def refuse_row(row: int, field: str, problem: str) -> NoReturn:
    """Raise an error that names a row and its field."""
    raise InvalidRequestError(f"row {row}, {field}: {problem}", row=row, field=field)


def password_bytes(
    password: str, limit: int, *, row: int | None = None, field: str = "db_password"
) -> bytes:
    """Return a password in UTF-8. The error names `row`, or else `field`.

    Raises:
        InvalidRequestError: the password has more than `limit` bytes, or half a surrogate pair.
    """
    try:
        encoded = password.encode()
    except UnicodeEncodeError:
        problem = "holds half a surrogate pair, which is no character"
    else:
        if len(encoded) <= limit:
            return encoded
        problem = f"is longer than {limit} bytes"
    if row is not None:
        refuse_row(row, "db_password", problem)
    raise InvalidRequestError(f"{field}: {problem}", field=field)


def _decoder(fields: tuple[str, ...], kind: type, default: object) -> msgspec.json.Decoder[Any]:
    """Return a decoder of the form. The fields are required if `default` is None."""
    members = [(field, kind) if default is None else (field, kind, default) for field in fields]
    data = msgspec.defstruct("Passwords", members, bases=(Hidden,))
    return msgspec.json.Decoder(msgspec.defstruct("Body", [("data", data)], bases=(Hidden,)))


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
