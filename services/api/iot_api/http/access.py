"""Access checks: the scope that a route needs, and the token that a request has."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from flask import Flask, g, request

from iot_cipher.tokens import Grant, Tokens, TokensFile
from iot_models.errors import ForbiddenError, IotError, UnauthorizedError
from iot_models.scopes import Scope, parse_anonymous_scopes
from iot_models.settings import Settings

from .client_certificate import CLIENT_CERTIFICATE, ClientCertificate

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)

Refused = Callable[[IotError, Scope, str | None, Mapping[str, Any]], None]
View = TypeVar("View", bound=Callable[..., Any])


class Access:
    """Checks the token of a request against the scope that a route needs.

    Without a file of tokens, every request is allowed. Anonymous scopes (`IOT_ANONYMOUS_SCOPES`)
    need no token: the Authorization header is not read, so an old client may send any value in it.
    If the client has a certificate, the DNS name of the certificate is the name of its token, and
    the Authorization header is not read.
    """

    def __init__(self, tokens: Callable[[], Tokens] | None, anonymous: frozenset[Scope]) -> None:
        self.tokens = tokens
        self._anonymous = anonymous
        self.on_refusal: Refused = lambda *_: None
        """Called with the error, the scope, the token's name and the environ of each refused
        request. Must return immediately."""

    @property
    def is_open(self) -> bool:
        """Whether no request needs a token."""
        return self.tokens is None

    def needs_token(self, scope: Scope) -> bool:
        """Return whether a request that needs `scope` must have a token."""
        return self.tokens is not None and scope not in self._anonymous

    def admit(self, scope: Scope, environ: Mapping[str, Any]) -> str:
        """Call `check` for a WSGI request. If `check` refuses it, also call `on_refusal`."""
        authorization = environ.get("HTTP_AUTHORIZATION")
        certificate = environ.get(CLIENT_CERTIFICATE)
        try:
            return self.check(scope, authorization, certificate)
        except (UnauthorizedError, ForbiddenError) as error:
            name = None
            if isinstance(error, ForbiddenError) and self.tokens is not None:
                name = _find(self.tokens(), authorization, certificate).name
            self.on_refusal(error, scope, name, environ)
            raise

    def check(
        self,
        scope: Scope,
        authorization: str | None,
        certificate: ClientCertificate | None = None,
    ) -> str:
        """Return the name of the request's token, "" if the scope needs no token.

        Raises:
            UnauthorizedError: the token is missing or unknown, or the certificate has expired, is
                revoked or names no token.
            ForbiddenError: the token lacks the scope.
        """
        if self.tokens is None or scope in self._anonymous:
            return ""
        grant = _find(self.tokens(), authorization, certificate)
        if not grant.allows(scope):
            raise ForbiddenError(f"this request needs a token with the scope {scope}", scope=scope)
        return grant.name


def _find(
    tokens: Tokens, authorization: str | None, certificate: ClientCertificate | None
) -> Grant:
    if certificate is None:
        return _bearer_grant(tokens, authorization)
    return _certificate_grant(tokens, certificate)


def _bearer_grant(tokens: Tokens, authorization: str | None) -> Grant:
    kind = (authorization or "").split(None, 1)[:1]
    if not kind or kind[0].lower() != "bearer":
        raise UnauthorizedError("this request needs a bearer token", presented=False)
    given = _BEARER.fullmatch(authorization or "")
    grant = tokens.find(given[1].encode()) if given else None
    if grant is None:
        raise UnauthorizedError("the bearer token is unknown", presented=True)
    return grant


def _certificate_grant(tokens: Tokens, certificate: ClientCertificate) -> Grant:
    if not certificate.name:
        raise UnauthorizedError(
            "the client certificate must have exactly one DNS name, which must be the name of a "
            "token in the file of tokens",
            presented=True,
        )
    if certificate.has_expired:
        raise UnauthorizedError(
            "the client certificate has expired since the connection was opened", presented=True
        )
    if certificate.is_revoked():
        raise UnauthorizedError("the client certificate has been revoked", presented=True)
    grant = tokens.named(certificate.name)
    if grant is None:
        raise UnauthorizedError(
            "the DNS name of the client certificate is not the name of a token",
            presented=True,
        )
    return grant


def build_access(settings: Settings) -> Access:
    """Build the access checks from settings. Raises `SettingsError` for a bad tokens file."""
    anonymous = parse_anonymous_scopes(settings.anonymous_scopes)
    if not settings.tokens_file:
        return Access(None, anonymous)
    return Access(TokensFile(Path(settings.tokens_file)).current, anonymous)


def needs(scope: Scope) -> Callable[[View], View]:
    """Return a decorator that declares the scope that a view needs."""

    def declare(view: View) -> View:
        vars(view)["scope"] = scope
        return view

    return declare


def needs_no_token(view: View) -> View:
    """Declare that a view needs no token."""
    vars(view)["scope"] = None
    return view


def declared_scope(view: Callable[..., Any]) -> Scope | None:
    """Return the scope that a view needs, None if it needs no token.

    A view without a declaration needs `admin`.
    """
    return getattr(view, "scope", Scope.ADMIN)


def scope_of_request(app: Flask) -> Scope | None:
    """Return the scope that the current request needs, None if it needs no token.

    Unknown paths need no token. OPTIONS needs none, because browsers send preflights without one.
    """
    rule = request.url_rule
    if rule is None or request.method == "OPTIONS":
        return None
    return declared_scope(app.view_functions[rule.endpoint])


def register_access(app: Flask, access: Access) -> None:
    """Check the token of each request before its body is read, if there is a file of tokens."""
    if access.is_open:
        return

    @app.before_request
    def check() -> None:
        scope = scope_of_request(app)
        if scope is not None:
            g.token_name = access.admit(scope, request.environ)
