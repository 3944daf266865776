"""Scopes: what the bearer of a token may do."""

from collections.abc import Iterable
from enum import StrEnum

from .errors import SettingsError


class Scope(StrEnum):
    """Stable names: they stand in files and Secrets."""

    INGEST = "ingest"
    """Send readings, and ask whether they are stored."""
    READ = "read"
    """Read readings back, with their password."""
    AUDIT = "audit"
    """Read the audit log."""
    ADMIN = "admin"
    """Do everything."""


def parse_scopes(words: Iterable[str]) -> frozenset[Scope]:
    """The scopes of these names; raises `SettingsError` when one is none, or stands twice."""
    scopes: set[Scope] = set()
    for word in words:
        try:
            scope = Scope(word)
        except ValueError:
            known = ", ".join(Scope)
            raise SettingsError(f"there is no such scope; the scopes are {known}") from None
        if scope in scopes:
            raise SettingsError(f"the scope {scope} stands twice")
        scopes.add(scope)
    return frozenset(scopes)


def parse_anonymous_scopes(text: str) -> frozenset[Scope]:
    """The scopes in a text such as `ingest,read`, for those who bring no token.

    Raises:
        SettingsError: one of them is none, or is `admin`, which everybody would have then.
    """
    scopes = parse_scopes(word.strip() for word in text.split(",") if word.strip())
    if Scope.ADMIN in scopes:
        raise SettingsError("admin can't be had without a token")
    return scopes
