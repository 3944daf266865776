"""Who may ask what: the scope that a route needs, and the token that a request brings."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from flask import Flask, g, request

from iot_cipher.tokens import Tokens, TokensFile
from iot_models.errors import ForbiddenError, UnauthorizedError
from iot_models.scopes import Scope, parse_anonymous_scopes
from iot_models.settings import Settings

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)

View = TypeVar("View", bound=Callable[..., Any])


class Access:
    """Refuses what a request's token is not good for.

    Without tokens the service is open. A scope that is anonymous is not asked for, so whatever
    a client of old sends along does no harm.
    """

    def __init__(self, tokens: Callable[[], Tokens] | None, anonymous: frozenset[Scope]) -> None:
        self._tokens = tokens
        self._anonymous = anonymous

    @property
    def is_open(self) -> bool:
        """Whether everybody may do everything."""
        return self._tokens is None

    def check(self, scope: Scope, authorization: str | None) -> str:
        """Let a request through that needs `scope` and brings that Authorization header.

        Returns the name of its token, or "" when none was needed.

        Raises:
            UnauthorizedError: it brings no token, or one that is not known (any more).
            ForbiddenError: its token lacks the scope.
        """
        if self._tokens is None or scope in self._anonymous:
            return ""
        kind = (authorization or "").split(None, 1)[:1]
        if not kind or kind[0].lower() != "bearer":
            raise UnauthorizedError("this needs a bearer token", presented=False)
        given = _BEARER.fullmatch(authorization or "")
        grant = self._tokens().find(given[1].encode()) if given else None
        if grant is None:
            raise UnauthorizedError("this token is not known here", presented=True)
        if not grant.allows(scope):
            raise ForbiddenError(f"this needs a token with the scope {scope}", scope=scope)
        return grant.name


def build_access(settings: Settings) -> Access:
    """What the settings say. Raises `SettingsError` when the tokens can't be read."""
    anonymous = parse_anonymous_scopes(settings.anonymous_scopes)
    if not settings.tokens_file:
        return Access(None, anonymous)
    return Access(TokensFile(Path(settings.tokens_file)).current, anonymous)


def needs(scope: Scope) -> Callable[[View], View]:
    """Declare the scope that a view needs."""

    def declare(view: View) -> View:
        vars(view)["scope"] = scope
        return view

    return declare


def needs_no_token(view: View) -> View:
    """Declare that everybody may ask a view."""
    vars(view)["scope"] = None
    return view


def declared_scope(view: Callable[..., Any]) -> Scope | None:
    """The scope a view needs, None for none; `admin` for one that was declared nowhere."""
    return getattr(view, "scope", Scope.ADMIN)


def register_access(app: Flask, access: Access) -> None:
    """Check every request before anything of its body is read.

    A path that doesn't exist needs no token, nor does OPTIONS, by which a browser asks first.
    """

    @app.before_request
    def check() -> None:
        rule = request.url_rule
        if rule is None or request.method == "OPTIONS":
            return
        scope = declared_scope(app.view_functions[rule.endpoint])
        if scope is not None:
            g.token_name = access.check(scope, request.environ.get("HTTP_AUTHORIZATION"))
