"""Origins of web pages (RFC 6454): which of them browsers may call from."""

import ipaddress
import re
from dataclasses import dataclass
from typing import NamedTuple

from .errors import SettingsError

EVERY = "*"
NULL = "null"
"""What a browser sends for a page without an origin of its own, such as a file."""
_FORM = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://(\[[^\]]*\]|[^/?#@:\[\]\\]*)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MOST_CHARACTERS = 512


class Origin(NamedTuple):
    """Scheme, host and port: lowercase, without the default port, the host in ASCII."""

    scheme: str
    host: str
    port: int | None


@dataclass(frozen=True, slots=True)
class Origins:
    """A set of origins. An origin of it is compared part by part; nothing is a pattern."""

    every: bool = False
    null: bool = False
    exact: frozenset[Origin] = frozenset()
    wildcards: frozenset[Origin] = frozenset()
    """Those with one label of any name before their host."""

    def allows(self, text: str) -> bool:
        """Whether the value of an `Origin` header is among them."""
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
    """The origins of a list with commas: `*`, `null`, `https://app.example.org:8443`, or
    `https://*.example.org` for all hosts with one label more.

    Raises:
        SettingsError: one of them is malformed; the message quotes it.
    """
    every = null = False
    exact: set[Origin] = set()
    wildcards: set[Origin] = set()
    for each in filter(None, map(str.strip, text.split(","))):
        if each == EVERY:
            every = True
        elif each == NULL:
            null = True
        else:
            whole = each.replace("://*.", "://", 1)
            try:
                origin = _parse(whole, is_wildcard=whole != each)
            except ValueError as error:
                raise SettingsError(
                    f"{each!r} is not an origin: {error}; "
                    "write scheme://host or scheme://host:port, such as https://app.example.org"
                ) from None
            (exact if whole == each else wildcards).add(origin)
    return Origins(every, null, frozenset(exact), frozenset(wildcards))


def _parse(text: str, *, is_wildcard: bool = False) -> Origin:
    """Raises `ValueError` with the reason why a text is no origin."""
    if len(text) > _MOST_CHARACTERS:
        raise ValueError("it is too long")
    form = _FORM.fullmatch(text)
    if form is None:
        raise ValueError(_what_is_wrong(text))
    scheme, host = form[1].lower(), _host(form[2])
    port = int(form[3]) if form[3] else None
    if is_wildcard and host.startswith("["):
        raise ValueError("an address has no wildcard")
    if port is not None and port > 65_535:
        raise ValueError("its port is over 65535")
    return Origin(scheme, host, None if port == _DEFAULT_PORTS.get(scheme) else port)


def _what_is_wrong(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if not separator or not scheme:
        return "it has no scheme"
    if "/" in rest or "?" in rest or "#" in rest:
        return "it has a path, if only a slash"
    if "@" in rest:
        return "it has a user"
    return "its host or its port is malformed"


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(text[1:-1]).compressed}]"
        except ValueError:
            raise ValueError("its IPv6 address is malformed") from None
    host = text.lower() if text.isascii() else _in_ascii(text.lower())
    if "*" in host:
        raise ValueError("a wildcard stands for the whole first label only")
    if not all(map(_LABEL.fullmatch, host.split("."))):
        raise ValueError("its host is malformed")
    return host


def _in_ascii(host: str) -> str:
    """The host as browsers send it. Python's codec knows IDNA 2003 only, so it is used for what
    IDNA 2008 writes alike.
    """
    try:
        encoded = host.encode("idna")
        if encoded.decode("idna") == host:
            return encoded.decode("ascii").lower()
    except UnicodeError:
        pass
    raise ValueError("write its host as browsers send it, with xn--")
