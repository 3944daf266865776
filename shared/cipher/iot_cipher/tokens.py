"""Bearer tokens. A tokens.json has the name, scopes, hash and creation time of each token."""

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
NAME_RULE = "1 to 63 characters a-z, 0-9, - and ., with a letter or digit at both ends"

# Every token has an underscore, and no name has one. So a token given as a name by mistake is
# refused, and is never stored or printed.
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_TOKEN = re.compile(r"iot_[A-Za-z0-9_-]{43}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CREATED = "%Y-%m-%dT%H:%M:%SZ"
_FIELDS = {"name", "scopes", "sha256", "created"}


@dataclass(frozen=True, slots=True)
class Grant:
    """One token of a tokens.json, without its secret: what its bearer may do."""

    name: str
    scopes: frozenset[Scope]
    sha256: bytes
    created: str
    """Time of creation in UTC, for example `2026-11-23T10:00:00Z`."""

    def allows(self, scope: Scope) -> bool:
        """Return whether the bearer has this scope. The scope `admin` includes all others."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


class Tokens:
    """The tokens of a tokens.json."""

    def __init__(self, grants: Sequence[Grant]) -> None:
        self.grants = tuple(grants)
        self._named = {grant.name: grant for grant in grants}

    def find(self, presented: bytes) -> Grant | None:
        """Return the grant of a token, or None for an unknown token."""
        digest = hashlib.sha256(presented).digest()
        found = None
        # Compare with every hash in constant time, so that the duration reveals nothing.
        for grant in self.grants:
            if hmac.compare_digest(grant.sha256, digest):
                found = grant
        return found

    def named(self, name: str) -> Grant | None:
        """Return the grant of the token with this name, or None for an unknown name."""
        return self._named.get(name)


class TokensFile(FollowedFile[Tokens]):
    """Tokens that are reloaded when their file changes, so a revoked token soon stops working."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `SettingsError` if the file can't be read or is invalid."""
        super().__init__(
            path, parse_tokens, what="list of tokens", variable="IOT_TOKENS_FILE", clock=clock
        )


def new_token() -> str:
    """Return a random token: `iot_` and 32 random bytes in base64url."""
    return f"iot_{secrets.token_urlsafe(32)}"


def new_tokens_text() -> str:
    """Return the JSON of a tokens.json without tokens, which grants no access."""
    return _text([])


def with_token(
    text: str, name: str, scopes: Iterable[str], *, token: str | None = None
) -> tuple[str, str]:
    """Add a token. Return (new tokens.json, token). The tokens.json has only a hash of the token.

    `token` must come from `new_token`. If it is None, a new token is made.

    Raises:
        SettingsError: `text` is not a tokens.json, or name, scopes or token are invalid.
        IotError: the name or the token exists already.
    """
    grants = list(parse_tokens(text).grants)
    if not _NAME.fullmatch(name):
        raise SettingsError(f"a token's name must be {NAME_RULE}")
    granted = parse_scopes(scopes)
    if not granted:
        raise SettingsError(f"the token {name} needs a scope")
    token = new_token() if token is None else token
    if not _TOKEN.fullmatch(token):
        raise SettingsError(f"the token {name} must be iot_ followed by 43 characters of base64url")
    sha256 = hashlib.sha256(token.encode()).digest()
    if any(grant.name == name for grant in grants):
        raise IotError(f"a token named {name} exists already")
    if any(grant.sha256 == sha256 for grant in grants):
        raise IotError(f"the token given for {name} exists already, under another name")
    grants.append(Grant(name, granted, sha256, datetime.now(UTC).strftime(_CREATED)))
    return _text(grants), token


def without_token(text: str, name: str) -> str:
    """Remove the token with this name. Return the new tokens.json.

    Raises:
        SettingsError: `text` is not a tokens.json.
        IotError: there is no token of that name.
    """
    grants = parse_tokens(text).grants
    left = [grant for grant in grants if grant.name != name]
    if len(left) == len(grants):
        # The message omits the name, which may be a token that was given by mistake.
        raise IotError("there is no token of that name: see `iot-sensor tokens list`")
    return _text(left)


def parse_tokens(text: str) -> Tokens:
    """Parse a tokens.json: `{"version": 1, "tokens": [...]}`. Each element of the list is
    `{"name": ..., "scopes": [...], "sha256": "<64 hex>", "created": "2026-11-23T10:00:00Z"}`.

    A typo must not grant access, so missing, unknown and repeated members are refused.

    Raises:
        SettingsError: the file is invalid. The message contains no hash or token.
    """
    rows = _rows(text)
    if rows is None:
        # Raised outside `except`: the context would be the parser's error, which holds the text.
        raise SettingsError(
            'the file of tokens is not JSON of the form {"version": 1, "tokens": [...]}, '
            "or repeats the name of a member"
        )
    grants = [_grant(number, row) for number, row in enumerate(rows)]
    names, owners = set[str](), dict[bytes, str]()
    for grant in grants:
        if grant.name in names:
            raise SettingsError(f"the file of tokens has the name {grant.name} twice")
        if grant.sha256 in owners:
            raise SettingsError(
                f"the tokens {owners[grant.sha256]} and {grant.name} have the same sha256: "
                "remove one of them"
            )
        names.add(grant.name)
        owners[grant.sha256] = grant.name
    return Tokens(grants)


def _rows(text: str) -> list[dict[str, Any]] | None:
    """Return the objects in the list of tokens, or None if the text has another form."""
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
    name = row.get("name")
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise SettingsError(f"token {number} (counted from 0): name must be {NAME_RULE}")
    if set(row) != _FIELDS:
        raise SettingsError(
            f"the token {name} must have the fields {', '.join(sorted(_FIELDS))}, and no others"
        )
    sha256, created = row["sha256"], row["created"]
    if not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise SettingsError(f"the token {name}: sha256 must be 64 digits 0-9 and a-f")
    if not _is_time(created):
        raise SettingsError(
            f"the token {name}: created must be a time such as 2026-11-23T10:00:00Z"
        )
    return Grant(name, _scopes(name, row["scopes"]), bytes.fromhex(sha256), created)


def _is_time(created: object) -> bool:
    try:
        if not isinstance(created, str):
            return False
        time_created = datetime.strptime(created, _CREATED).replace(tzinfo=UTC)
    except ValueError:
        return False
    return time_created.strftime(_CREATED) == created  # strptime also accepts 2026-1-1


def _scopes(name: str, words: object) -> frozenset[Scope]:
    if not (isinstance(words, list) and words and all(isinstance(word, str) for word in words)):
        raise SettingsError(f"the token {name}: scopes must be a list of scope names")
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
