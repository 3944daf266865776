"""Scopes: what the bearer of a token may do."""

from collections.abc import Iterable
from enum import StrEnum

from .errors import SettingsError


class Scope(StrEnum):
    """Scope names. Token files and Secrets of users contain them, so they never change."""

    INGEST = "ingest"
    """Send readings, and ask whether they are stored."""
    READ = "read"
    """Read readings, with their password."""
    AUDIT = "audit"
    """Read the audit log."""
    ADMIN = "admin"
    """Do everything."""


def parse_scopes(words: Iterable[str]) -> frozenset[Scope]:
    """Parse scope names. Raises `SettingsError` for an unknown or repeated name."""
    scopes: set[Scope] = set()
    for word in words:
        try:
            scope = Scope(word)
        except ValueError:
            known = ", ".join(Scope)
            raise SettingsError(f"unknown scope; the scopes are {known}") from None
        if scope in scopes:
            raise SettingsError(f"the scope {scope} is given twice")
        scopes.add(scope)
    return frozenset(scopes)


def parse_anonymous_scopes(text: str) -> frozenset[Scope]:
    """Parse a list of scopes, such as `ingest,read`, that requests without a token get.

    Raises:
        SettingsError: a scope is unknown or repeated, or is `admin`.
    """
    scopes = parse_scopes(word.strip() for word in text.split(",") if word.strip())
    if Scope.ADMIN in scopes:
        raise SettingsError("the scope admin always requires a token")
    return scopes
