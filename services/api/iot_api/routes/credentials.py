"""Requests that hold passwords only, and the client that sent them."""

from contextlib import suppress
from typing import Any

import msgspec
from flask import g, request

from iot_api.http.request_body import decompress_body, is_ndjson, receive_body
from iot_api.ingest.json_dialect import NotJsonError, decode
from iot_api.ingest.parser import Hidden, password_bytes
from iot_api.limits.clients import Client, client_of
from iot_api.service import Service
from iot_models.errors import InvalidRequestError

_MAX_BODY_BYTES = 64 * 1024
"""Limit of a body without its passwords. Such a request takes no turn in `LargeRequests`."""
_MAX_ESCAPE_BYTES = 6
"""JSON may escape one byte of a password as six."""


class PasswordsForm:
    """The form of a body: `{"data": {"<field>": "<password>", ...}}`."""

    def __init__(self, *fields: str, required: bool) -> None:
        """Without `required`, a missing password is empty, as in the old server."""
        self._fields = fields
        self._texts = _decoder(fields, str, None if required else "")
        self._raw = _decoder(fields, msgspec.Raw, None if required else msgspec.Raw(b'""'))

    def receive(self, service: Service) -> list[bytes]:
        """Return the passwords in the body of the request, in the order of the fields.

        Raises:
            InvalidRequestError: the body has another form, or a password is too long.
        """
        body = self._body(service)
        try:
            passwords = self._decode(body)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            members = ", ".join(f'"{field}": "..."' for field in self._fields)
            form = f'the body must have the form {{"data": {{{members}}}}}'
            # The decoder's own message may quote a password.
            problem = "the body is not JSON: " if isinstance(error, NotJsonError) else ""
            raise InvalidRequestError(problem + form, field="data") from None
        limit = service.settings.max_password_bytes
        return [
            password_bytes(password, limit, field=field)
            for field, password in zip(self._fields, passwords, strict=True)
        ]

    def _decode(self, body: bytes) -> list[str]:
        if body.isascii():  # as in `parser`: `json_dialect` looks at all other bodies
            with suppress(msgspec.DecodeError):
                return self._values(self._texts.decode(body))
        decoded = decode(self._texts.decode, body)
        if decoded.stand_ins:
            raw = self._values(self._raw.decode(decoded.strict))
            return decoded.stand_ins.strings(map(bytes, raw))
        return self._values(decoded.content)

    def _body(self, service: Service) -> bytes:
        settings = service.settings
        password_limit = _MAX_ESCAPE_BYTES * settings.max_password_bytes
        limit = min(_MAX_BODY_BYTES + len(self._fields) * password_limit, settings.max_body_bytes)
        environ = request.environ
        is_ndjson(environ)  # refuses other content types; a single line of NDJSON is JSON
        body = receive_body(environ, limit)
        if "HTTP_CONTENT_ENCODING" in environ:
            body = decompress_body(environ, body, limit)
        return body

    def _values(self, content: Any) -> list[Any]:
        return [getattr(content.data, field) for field in self._fields]


def _decoder(fields: tuple[str, ...], kind: type, default: object) -> msgspec.json.Decoder[Any]:
    """Return a decoder of the form. The fields are required if `default` is None."""
    members = [(field, kind) if default is None else (field, kind, default) for field in fields]
    data = msgspec.defstruct("Passwords", members, bases=(Hidden,))
    return msgspec.json.Decoder(msgspec.defstruct("Body", [("data", data)], bases=(Hidden,)))


def requesting_client(service: Service) -> Client:
    """Return the client of the request, for limits."""
    return client_of(request.environ, service.settings.trusted_proxies, g.get("token_name", ""))
