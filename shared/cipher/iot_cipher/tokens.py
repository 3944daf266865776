"""Bearer tokens: who may do what. Of a token only its name, scopes and hash are kept."""

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from iot_models.errors import IotError, SettingsError
from iot_models.scopes import Scope, parse_scopes

from .followed_file import FollowedFile, strict_json

VERSION = 1
NAME_RULE = "1 to 63 of a-z, 0-9, '-' and '.', at both ends a letter or digit"

# No underscore, which every token has: a token is never taken for a name, and so never printed.
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_TOKEN = re.compile(r"iot_[A-Za-z0-9_-]{43}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CREATED = "%Y-%m-%dT%H:%M:%SZ"
_FIELDS = {"name", "scopes", "sha256", "created"}


@dataclass(frozen=True, slots=True)
class Grant:
    """What the bearer of one token may do."""

    name: str
    scopes: frozenset[Scope]
    sha256: bytes
    created: str
    """In UTC, as `2026-11-23T10:00:00Z`."""

    def allows(self, scope: Scope) -> bool:
        """Whether the bearer may do what needs that scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


class Tokens:
    """The tokens of one moment."""

    def __init__(self, grants: Sequence[Grant]) -> None:
        self.grants = tuple(grants)

    def find(self, presented: bytes) -> Grant | None:
        """The grant of a token, else None; how long it takes tells neither which nor how near."""
        digest = hashlib.sha256(presented).digest()
        found = None
        for grant in self.grants:
            if hmac.compare_digest(grant.sha256, digest):
                found = grant
        return found


class TokensFile(FollowedFile[Tokens]):
    """Tokens that follow their file: one that is revoked is refused a second later."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `SettingsError` when the file can't be read or is wrong."""
        super().__init__(
            path, parse_tokens, what="list of tokens", variable="IOT_TOKENS_FILE", clock=clock
        )


def new_token() -> str:
    """A token that nobody can guess: `iot_` and 32 random bytes in base64url."""
    return f"iot_{secrets.token_urlsafe(32)}"


def new_tokens_text() -> str:
    """JSON of a tokens.json without a token: it lets nobody in."""
    return _text([])


def with_token(
    text: str, name: str, scopes: Iterable[str], *, token: str | None = None
) -> tuple[str, str]:
    """A tokens.json with one more token, and that token, which is nowhere else from now on.

    `token` is one that was made before, by `new_token`; left out, one is made.

    Raises:
        SettingsError: `text` is no tokens.json, or name, scopes or token are not in their form.
        IotError: there is a token of that name, or that token, already.
    """
    grants = list(parse_tokens(text).grants)
    if not _NAME.fullmatch(name):
        raise SettingsError(f"a token's name must be {NAME_RULE}")
    granted = parse_scopes(scopes)
    if not granted:
        raise SettingsError(f"the token {name} needs a scope")
    token = new_token() if token is None else token
    if not _TOKEN.fullmatch(token):
        raise SettingsError(f"the token {name} is not in the form of a token")
    sha256 = hashlib.sha256(token.encode()).digest()
    if any(grant.name == name for grant in grants):
        raise IotError(f"there is a token {name} already")
    if any(grant.sha256 == sha256 for grant in grants):
        raise IotError(f"the token {name} is there already, under another name")
    grants.append(Grant(name, granted, sha256, datetime.now(UTC).strftime(_CREATED)))
    return _text(grants), token


def without_token(text: str, name: str) -> str:
    """A tokens.json without the token of that name.

    Raises:
        SettingsError: `text` is no tokens.json.
        IotError: there is no such token.
    """
    grants = parse_tokens(text).grants
    left = [grant for grant in grants if grant.name != name]
    if len(left) == len(grants):
        # The name is not repeated: it may be a token, given by mistake.
        raise IotError("there is no token of that name")
    return _text(left)


def parse_tokens(text: str) -> Tokens:
    """The tokens of a tokens.json: `{"version": 1, "tokens": [...]}`, and of each in that list
    `{"name": ..., "scopes": [...], "sha256": "<64 hex>", "created": "2026-11-23T10:00:00Z"}`.

    Strict, since a slip of the hand must let nobody in: nothing may be missing, unknown or twice.

    Raises:
        SettingsError: one sentence on what is wrong, without any hash or token.
    """
    rows = _rows(text)
    if rows is None:
        # Raised here, so that no error of the parser, which holds the text, is its context.
        raise SettingsError("the tokens are not JSON of the form that is described")
    grants = [_grant(number, row) for number, row in enumerate(rows)]
    names, digests = set[str](), set[bytes]()
    for grant in grants:
        if grant.name in names:
            raise SettingsError(f"the tokens hold {grant.name} twice")
        if grant.sha256 in digests:
            raise SettingsError(f"the tokens hold that of {grant.name} twice, under two names")
        names.add(grant.name)
        digests.add(grant.sha256)
    return Tokens(grants)


def _rows(text: str) -> list[dict[str, Any]] | None:
    """The objects in the list; None when the text is not of that form."""
    try:
        content = strict_json(text)
        version, rows = content["version"], content["tokens"]
        if set(content) != {"version", "tokens"} or type(version) is not int or version != VERSION:
            return None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return rows


def _grant(number: int, row: dict[str, Any]) -> Grant:
    name, which = row.get("name"), f"token {number}"
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise SettingsError(f"{which} (from 0) has no name, which must be {NAME_RULE}")
    if set(row) != _FIELDS:
        raise SettingsError(f"the token {name} must have {', '.join(sorted(_FIELDS))}, only")
    sha256, created = row["sha256"], row["created"]
    if not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise SettingsError(f"the token {name} has no sha256 of 64 digits 0-9 and a-f")
    if not _is_moment(created):
        raise SettingsError(f"the token {name} was not created at a time like 2026-11-23T10:00:00Z")
    return Grant(name, _scopes(name, row["scopes"]), bytes.fromhex(sha256), created)


def _is_moment(created: object) -> bool:
    try:
        if not isinstance(created, str):
            return False
        moment = datetime.strptime(created, _CREATED).replace(tzinfo=UTC)
    except ValueError:
        return False
    return moment.strftime(_CREATED) == created


def _scopes(name: str, words: object) -> frozenset[Scope]:
    if not (isinstance(words, list) and words and all(isinstance(word, str) for word in words)):
        raise SettingsError(f"the token {name} has no list of scopes")
    try:
        return parse_scopes(words)
    except SettingsError as error:
        raise SettingsError(f"the token {name}: {error}") from None


def _text(grants: Iterable[Grant]) -> str:
    rows = [
        {
            "name": grant.name,
            "scopes": [scope for scope in Scope if scope in grant.scopes],
            "sha256": grant.sha256.hex(),
            "created": grant.created,
        }
        for grant in grants
    ]
    return json.dumps({"version": VERSION, "tokens": rows}, indent=2) + "\n"
