"""Paths as clients and proxies send them: with repeated slashes, and below a prefix."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

_SLASHES = re.compile("/{2,}")
_PREFIX = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+;=:@-]|%[0-9A-Fa-f]{2})+)*")
_MAX_PREFIX_CHARACTERS = 256


def single_slashes(path: str) -> str:
    """Replace each run of slashes with one: clients join a base URL and a path carelessly."""
    return _SLASHES.sub("/", path)


def forwarded_prefix(environ: Mapping[str, Any], trusted_proxies: int) -> str:
    """Return the prefix that the proxies removed from the path, such as `/sensors`, "" if none.

    Each trusted proxy appends at most one prefix to `X-Forwarded-Prefix`. A prefix that is not a
    plain path is ignored: `//host` would send a client elsewhere.
    """
    header = environ.get("HTTP_X_FORWARDED_PREFIX", "")
    if not header or not trusted_proxies:
        return ""
    parts = [part.strip().rstrip("/") for part in header.split(",")]
    prefix = "".join(parts[-trusted_proxies:])
    if len(prefix) > _MAX_PREFIX_CHARACTERS or not _PREFIX.fullmatch(prefix):
        return ""
    if not {".", ".."}.isdisjoint(unquote(prefix).split("/")):
        return ""
    return prefix
