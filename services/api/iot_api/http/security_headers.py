"""Headers that tell browsers neither to cache a response nor to run scripts in it.

Every response of the worker and of the application has these headers, except a 201. A 201 does not
need them: its body is a constant sentence with a number, and no browser caches or renders the
answer to a PUT. The headers take 160 bytes, which a device on a metered connection would pay for
with every reading.
"""

from functools import cache

from .responses import Headers

SECURITY_HEADERS: Headers = [
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
]
REPLACEABLE = frozenset({"Cache-Control", "Content-Security-Policy"})
"""Headers that are left out if the response has its own: a browser would apply both."""
STRICT_TRANSPORT_SECURITY = ("Strict-Transport-Security", "max-age=31536000")
"""Sent only if the API serves https itself (RFC 6797, 7.2: never over http). It does not say
`includeSubDomains`, because other hosts of the domain are not ours."""


def security_headers(*, tls: bool) -> Headers:
    """Return the security headers of a response. `tls`: the response is sent over https."""
    return [*SECURITY_HEADERS, STRICT_TRANSPORT_SECURITY] if tls else SECURITY_HEADERS


@cache
def security_lines(*, tls: bool, replaced: frozenset[str]) -> str:
    """Return the security headers, without those in `replaced`, as lines of an HTTP response."""
    return "".join(
        f"{name}: {value}\r\n" for name, value in security_headers(tls=tls) if name not in replaced
    )
