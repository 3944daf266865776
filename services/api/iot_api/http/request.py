"""A request, from its arrival to the ingest endpoint or a Flask view, and back.

This module dispatches requests, gives them ids, counts them and adds CORS headers. It finds the
client of a request and receives the body: media type, size limit, decompression, passwords.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn, Protocol

import msgspec
from flask import Flask, Response, g, request
from gunicorn.http.errors import ParseException

from iot_api.limits.clients import Client, network_of
from iot_models.errors import (
    InvalidRequestError,
    TooLargeError,
    UnsupportedMediaTypeError,
)
from iot_models.json_dialect import NotJsonError, decode
from iot_models.settings import Settings

from .cors import Cors
from .decompression import check_coding, decompress_body
from .paths import single_slashes
from .request_metrics import RequestMetrics
from .responses import Headers, StartResponse, Wsgi

REQUEST_ID = "X-Request-Id"
PROVEN = "iot_api.proven"
"""Key in the WSGI environ: the passwords that the client of this connection has proven to know, as
cache keys (`VaultCache.key`). A client proves a password when it sends or reads readings under it.
The worker sets this key.
"""
CONNECTION = "iot_api.connection"
"""Key in the WSGI environ: the `Connection` of the request. The worker sets it."""
REPEATED = "iot_api.repeated"
"""Key in the WSGI environ: the names, in capitals, of the headers that the request has more than
once. The worker sets the key if there are any, and joins the values of each header with commas."""
Proven = set[bytes]
_MAX_PROVEN = 64
_CHECKED_PATH = "/healthz"
"""`OPTIONS *` (RFC 9110, 9.3.7) is answered like OPTIONS of this path, which always exists."""
_PROXY_HEADERS = frozenset({"HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_FORWARDED_FOR"})
_CACHED_CHARACTERS = 256
"""Longer `X-Forwarded-For` headers are not cached: together they could take megabytes."""
_LOGGABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
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
_MAX_FORM_BYTES = 64 * 1024
"""Maximum bytes of the body of a `PasswordsForm`, not counting the passwords. The limit is low,
because these requests take no turn in `LargeRequests`."""
_MAX_ESCAPE_BYTES = 6
"""JSON may escape one byte of a password as six bytes, for example `\\u0041`."""


class RequestDispatcher:
    """The WSGI app of a process."""

    def __init__(
        self,
        ingest: Callable[[dict[str, Any], StartResponse], Iterable[bytes] | None],
        flask: Wsgi,
        cors: Cors,
    ) -> None:
        """`ingest` answers a PUT of readings. For a PUT to another path it returns None; then
        `flask` answers. Few PUTs come here: the worker passes most to `ingest` without WSGI."""
        self.ingest = ingest
        self._flask = flask
        self._cors = cors

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT":
            answer = self.ingest(environ, start_response)
            if answer is not None:
                return answer
        # Werkzeug would answer several slashes with a redirect. Clients do not follow it for a
        # POST.
        if "//" in environ["PATH_INFO"]:
            environ["PATH_INFO"] = single_slashes(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "*":  # only of OPTIONS; a proxy may check a server like this
            environ["PATH_INFO"] = _CHECKED_PATH
        cors = self._cors
        added = cors.headers(environ) if "HTTP_ORIGIN" in environ else cors.without_origin

        def start(status: str, headers: Headers, *exc_info: Any) -> Any:
            return start_response(status, [*headers, *added], *exc_info)

        return self._flask(environ, start)


def new_request_id() -> str:
    """Return 32 random hexadecimal digits: the id of a request without a usable `X-Request-Id`."""
    return os.urandom(16).hex()


def request_id_of(environ: Mapping[str, Any]) -> str:
    """Return the `X-Request-Id` of a WSGI request if it is fit to log, or else a new id."""
    given = environ.get("HTTP_X_REQUEST_ID")
    if given is not None and _LOGGABLE_ID.fullmatch(given):
        return str(given)
    return new_request_id()


class Answered(NamedTuple):
    """A request and its answer."""

    route: str
    method: str
    status: int
    seconds: float | None
    """Duration of the request; None if it failed before its start was noted."""
    request_id: str


class AnswerLog(Protocol):
    """What this module uses of the log of requests (`RequestLog`)."""

    logged_from: float
    """A request that succeeds is logged if it took at least this many seconds."""

    def add(self, answered: Answered, environ: Mapping[str, Any]) -> None:
        """Log a request. Call this only if it failed or took at least `logged_from` seconds."""


def register_request_metrics(app: Flask, request_metrics: RequestMetrics, log: AnswerLog) -> None:
    """Give each response of Flask an `X-Request-Id`. Count each request, and log it if needed.

    All requests to unknown paths are counted under the route `none` and the method `any`, because
    clients can send any path and method.
    """

    @app.before_request
    def start() -> None:
        g.started = time.perf_counter()
        g.request_id = request_id_of(request.environ)

    @app.after_request
    def finish(response: Response) -> Response:
        request_id = response.headers[REQUEST_ID] = g.get("request_id") or new_request_id()
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.url_rule else "any"
        seconds = time.perf_counter() - g.started if "started" in g else None
        request_metrics.answered.append((route, method, response.status_code, seconds))
        if response.status_code >= 400 or (seconds or 0.0) >= log.logged_from:
            answered = Answered(route, method, response.status_code, seconds, request_id)
            log.add(answered, request.environ)
        return response


def refuse_repeated(environ: Mapping[str, Any], name: str) -> None:
    """Refuse a request that has a header more than once.

    The worker joins the values of repeated headers into one value, which the client has not sent.

    Raises:
        InvalidRequestError: the request has several headers with this name.
    """
    if name.upper() in environ.get(REPEATED, ()):
        raise InvalidRequestError(f"{name}: the request has this header more than once", field=name)


def refuse_parameters() -> None:
    """Refuse a request with query parameters. Flask views that erase data call this first.

    If such a view ignored a parameter that should limit the erasure, it would erase too much.

    Raises:
        InvalidRequestError: the request has a query parameter.
    """
    for name in request.args:
        problem = f"{request.method} takes no query parameters; nothing was erased"
        raise InvalidRequestError(f"{name}: {problem}", field=name)


def client_of(environ: Mapping[str, Any], trusted_proxies: int, token_name: str = "") -> Client:
    """Return the client of a WSGI request.

    Behind trusted proxies, the client's address is the one that the proxies put into
    `X-Forwarded-For`. `REMOTE_ADDR` must be the address of the peer, as gunicorn sets it.
    """
    forwarded = environ.get("HTTP_X_FORWARDED_FOR", "")
    find = _client if len(forwarded) <= _CACHED_CHARACTERS else _client.__wrapped__
    return find(environ.get("REMOTE_ADDR", ""), forwarded, trusted_proxies, token_name)


@lru_cache(maxsize=4096)
def _client(peer: str, forwarded: str, trusted_proxies: int, token_name: str) -> Client:
    address, proxy = network_of(peer), ""
    forwarded_for = [hop.strip() for hop in forwarded.split(",")] if forwarded else []
    if trusted_proxies:
        if len(forwarded_for) >= trusted_proxies:
            address = network_of(forwarded_for[-trusted_proxies])
    elif forwarded_for:
        address, proxy = f"{address} for {network_of(forwarded_for[-1])}", address
    return Client(f"{token_name}@{address}" if token_name else address, proxy, token_name)


def proven_vaults(environ: Mapping[str, Any], trusted_proxies: int) -> Proven | None:
    """Return the cache keys of the passwords that this connection's client has proven to know.

    While the vaults of these passwords are open, the guess limit does not apply to them. Return
    None for a request that came through a proxy: many clients share the proxy's connection, and one
    of them could guess the passwords of the others without a limit.
    """
    if trusted_proxies or not _PROXY_HEADERS.isdisjoint(environ):
        return None
    proven: Proven | None = environ.get(PROVEN)
    return proven


def prove(proven: Proven, known: Iterable[bytes]) -> None:
    """Record in `proven` the cache keys of passwords that the client knows.

    If `proven` already has more than `_MAX_PROVEN` keys, remove all of them first, to bound the
    memory of a connection.
    """
    if len(proven) > _MAX_PROVEN:
        proven.clear()
    proven.update(known)


def requesting_client(settings: Settings) -> Client:
    """Return the client of the request that a Flask view answers."""
    return client_of(request.environ, settings.trusted_proxies, g.get("token_name", ""))


class Redacted(msgspec.Struct, gc=False):
    """A part of a request that is never printed."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def is_ndjson(environ: Mapping[str, Any]) -> bool:
    """Return whether the body of a WSGI request is NDJSON: one JSON value per line.

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
    """Return the whole body of a WSGI request. A compressed body stays compressed.

    Raises:
        TooLargeError: the body is larger than `limit` bytes.
        InvalidRequestError: the body is not valid chunked encoding, or was cut off. Such a body is
            refused here, because the parser can't see that NDJSON was cut off between two lines.
        UnavailableError: the memory budget of this process is used up.
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


class PasswordsForm:
    """The form of a body: `{"data": {"<field>": "<password>", ...}}`."""

    def __init__(
        self, *fields: str, required: bool, options: Iterable[tuple[str, type, Any]] = ()
    ) -> None:
        """Without `required`, a missing password is empty, as in the old server.

        `options`: name, type and default of other members beside the passwords.
        """
        self._fields = fields
        options = list(options)
        self._options = [name for name, _, _ in options]
        members = dict.fromkeys(fields, "...") | {name: default for name, _, default in options}
        self._form = json.dumps({"data": members})
        self._texts = _decoder(fields, str, None if required else "", options)
        self._raw = _decoder(fields, msgspec.Raw, None if required else msgspec.Raw(b'""'), options)

    def receive(self, environ: Mapping[str, Any], settings: Settings) -> list[bytes]:
        """Return the passwords in the body of a WSGI request, in the order of the fields.

        Raises:
            InvalidRequestError: the body has another form, or a password is too long.
        """
        return self.receive_with_options(environ, settings)[0]

    def receive_with_options(
        self, environ: Mapping[str, Any], settings: Settings
    ) -> tuple[list[bytes], list[Any]]:
        """Return the passwords in the order of the fields, and the values of the options.

        Raises the errors of `receive`.
        """
        body = self._body(environ, settings)
        try:
            passwords, options = self._decode(body)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            form = f"the body must have the form {self._form}"
            # The decoder's own message may quote a password.
            problem = "the body is not JSON: " if isinstance(error, NotJsonError) else ""
            raise InvalidRequestError(problem + form, field="data") from None
        limit = settings.max_password_bytes
        encoded = [
            password_bytes(password, limit, field=field)
            for field, password in zip(self._fields, passwords, strict=True)
        ]
        return encoded, options

    def _decode(self, body: bytes) -> tuple[list[str], list[Any]]:
        if body.isascii():  # as in `ingest.parser`: `json_dialect` looks at all other bodies
            with suppress(msgspec.DecodeError):
                return self._values(self._texts.decode(body))
        decoded = decode(self._texts.decode, body)
        if decoded.stand_ins:
            raw, options = self._values(self._raw.decode(decoded.strict))
            return decoded.stand_ins.strings(map(bytes, raw)), options
        return self._values(decoded.content)

    def _body(self, environ: Mapping[str, Any], settings: Settings) -> bytes:
        password_limit = _MAX_ESCAPE_BYTES * settings.max_password_bytes
        limit = min(_MAX_FORM_BYTES + len(self._fields) * password_limit, settings.max_body_bytes)
        is_ndjson(environ)  # refuses other content types; a single line of NDJSON is JSON
        if "HTTP_CONTENT_ENCODING" not in environ:
            return receive_body(environ, limit)
        check_coding(environ)
        return decompress_body(environ, receive_body(environ, limit), limit)

    def _values(self, content: Any) -> tuple[list[Any], list[Any]]:
        data = content.data
        passwords = [getattr(data, field) for field in self._fields]
        return passwords, [getattr(data, name) for name in self._options]


def refuse_row(row: int, field: str, problem: str) -> NoReturn:
    """Raise an error that names a row and its field."""
    raise InvalidRequestError(f"row {row}, {field}: {problem}", row=row, field=field)


def password_bytes(
    password: str, limit: int, *, row: int | None = None, field: str = "db_password"
) -> bytes:
    """Return a password in UTF-8. An error names `row` if it is given, or else `field`.

    Raises:
        InvalidRequestError: the password has more than `limit` bytes, or half a surrogate pair.
    """
    try:
        encoded = password.encode()
    except UnicodeEncodeError:
        problem = "holds half a surrogate pair, which is not a character"
    else:
        if len(encoded) <= limit:
            return encoded
        problem = f"is longer than {limit} bytes"
    if row is not None:
        refuse_row(row, "db_password", problem)
    raise InvalidRequestError(f"{field}: {problem}", field=field)


def _decoder(
    fields: tuple[str, ...],
    kind: type,
    default: object,
    options: Iterable[tuple[str, type, Any]],
) -> msgspec.json.Decoder[Any]:
    """Return a decoder of the form. The fields are required if `default` is None."""
    members: list[Any] = [
        (field, kind) if default is None else (field, kind, default) for field in fields
    ]
    members += options
    data = msgspec.defstruct("Passwords", members, bases=(Redacted,))
    return msgspec.json.Decoder(msgspec.defstruct("Body", [("data", data)], bases=(Redacted,)))


def _receive(environ: Mapping[str, Any], limit: int) -> bytes:
    """Receive at most `limit` bytes of a body.

    `wsgi.input` is an object of the worker, and enforces the deadlines and the memory budget.
    """
    try:
        body: bytes = environ["wsgi.input"].read(limit)
    except ParseException:
        raise InvalidRequestError("the body is not valid chunked encoding") from None
    except OSError:
        raise _cut_off() from None
    return body


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError("the request is too large", limit=limit)


def _cut_off() -> InvalidRequestError:
    return InvalidRequestError("the body was cut off before its end")
