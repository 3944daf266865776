"""Origins of web pages (RFC 6454) from which browsers may call the API."""

import ipaddress
import re
from dataclasses import dataclass
from typing import NamedTuple

from .errors import SettingsError

EVERY = "*"
NULL = "null"
"""The origin that browsers send for a page without an origin, such as a local file."""
_FORM = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://(\[[^\]]*\]|[^/?#@:\[\]\\]*)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_LENGTH = 512


class Origin(NamedTuple):
    """An origin, normalized: lowercase, the host in ASCII, `port` None for the default port."""

    scheme: str
    host: str
    port: int | None


@dataclass(frozen=True, slots=True)
class Origins:
    """The allowed origins. Origins are equal if scheme, host and port are equal."""

    every: bool = False
    """Whether all origins are allowed."""
    null: bool = False
    """Whether the origin `null` is allowed."""
    exact: frozenset[Origin] = frozenset()
    wildcards: frozenset[Origin] = frozenset()
    """`https://*.example.org` is stored as `https://example.org`. It allows the origins that have
    exactly one label in front of this host."""

    def allows(self, text: str) -> bool:
        """Return whether the value of an `Origin` header is allowed."""
        if self.every:
            return True
        if text == NULL:
            return self.null
        try:
            origin = _parse(text)
        except ValueError:
            return False
        label, _, parent = origin.host.partition(".")
        return origin in self.exact or (
            bool(label) and origin._replace(host=parent) in self.wildcards
        )


def parse_origins(text: str) -> Origins:
    """Parse a list of origins, separated by commas.

    Each is `*`, `null`, an origin such as `https://app.example.org:8443`, or a wildcard such as
    `https://*.example.org`. This wildcard allows `https://app.example.org`, but not
    `https://example.org` or `https://a.app.example.org`.

    Raises:
        SettingsError: an origin is malformed. The message quotes it.
    """
    every = null = False
    exact: set[Origin] = set()
    wildcards: set[Origin] = set()
    for item in filter(None, map(str.strip, text.split(","))):
        if item == EVERY:
            every = True
        elif item == NULL:
            null = True
        else:
            without_wildcard = item.replace("://*.", "://", 1)
            is_wildcard = without_wildcard != item
            try:
                origin = _parse(without_wildcard, is_wildcard=is_wildcard)
            except ValueError as error:
                raise SettingsError(
                    f"{item!r} is not an origin: {error}; "
                    "write scheme://host or scheme://host:port, such as https://app.example.org"
                ) from None
            (wildcards if is_wildcard else exact).add(origin)
    return Origins(every, null, frozenset(exact), frozenset(wildcards))


def _parse(text: str, *, is_wildcard: bool = False) -> Origin:
    """Parse an origin. Raises `ValueError` with the reason if the origin is invalid.

    `is_wildcard`: `text` is a wildcard without its `*.`, so the host must not be an IPv6 address.
    """
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"an origin has at most {_MAX_LENGTH} characters")
    form = _FORM.fullmatch(text)
    if form is None:
        raise ValueError(_malformation(text))
    scheme, host = form[1].lower(), _host(form[2])
    port = int(form[3]) if form[3] else None
    if is_wildcard and host.startswith("["):
        raise ValueError("an IP address can't have a wildcard")
    if port is not None and port > 65_535:
        raise ValueError("the port is over 65535")
    return Origin(scheme, host, None if port == _DEFAULT_PORTS.get(scheme) else port)


def _malformation(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if not separator or not scheme:
        return "it has no scheme"
    if "/" in rest or "?" in rest or "#" in rest:
        return "it has a path, or a slash at its end"
    if "@" in rest:
        return "it has a user"
    return "the host or the port is malformed"


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(text[1:-1]).compressed}]"
        except ValueError:
            raise ValueError("the IPv6 address is malformed") from None
    host = text.lower() if text.isascii() else _in_ascii(text.lower())
    if "*" in host:
        raise ValueError(
            "* may only replace the first label of the host, as in https://*.example.org"
        )
    if not all(map(_LABEL.fullmatch, host.split("."))):
        raise ValueError("the host is malformed")
    return host


def _in_ascii(host: str) -> str:
    """Return the host in ASCII (`xn--...`).

    Raises `ValueError` if browsers could encode the host differently than Python does.
    """
    # Browsers use IDNA 2008, and Python's codec uses IDNA 2003. They encode a host in the same way
    # if the codec decodes the encoded host to the original.
    try:
        encoded = host.encode("idna")
        if encoded.decode("idna") == host:
            return encoded.decode("ascii").lower()
    except UnicodeError:
        pass
    raise ValueError("write the host in ASCII, as browsers send it (xn--...)")
