"""The path under which clients reach the API: proxies that take a prefix off say which."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

_PREFIX = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+;=:@-]|%[0-9A-Fa-f]{2})+)*")
_MOST_CHARACTERS = 256


def forwarded_prefix(environ: Mapping[str, Any], trusted_proxies: int) -> str:
    """What stands before the path of a request at the outermost proxy: `/sensors`, or "".

    Each trusted proxy adds at most one prefix to `X-Forwarded-Prefix`, behind those of the proxies
    before it. A prefix that is no plain path is ignored: `//host` would send a client elsewhere.
    """
    told = environ.get("HTTP_X_FORWARDED_PREFIX", "")
    if not told or not trusted_proxies:
        return ""
    prefix = "".join([each.strip().rstrip("/") for each in told.split(",")][-trusted_proxies:])
    if len(prefix) > _MOST_CHARACTERS or not _PREFIX.fullmatch(prefix):
        return ""
    if not {".", ".."}.isdisjoint(unquote(prefix).split("/")):
        return ""
    return prefix
