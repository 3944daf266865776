"""Who sends a request: the client that limits and fair queues are kept for."""

import ipaddress
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

PROVEN = "iot_api.proven"
"""Key in the WSGI environ: the vaults whose passwords were sent over the request's connection
(`Intake.accept`). The worker sets it.
"""
_PROXY_HEADERS = frozenset({"HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_FORWARDED_FOR"})
_CACHED_CHARACTERS = 256
"""Longer `X-Forwarded-For` headers are not cached: they could be megabytes in all."""
_IPV6_PREFIX = 64
"""One customer has at least this much of IPv6, so the addresses within it are one client."""


@dataclass(frozen=True, slots=True)
class Client:
    """A client as limits and queues know it."""

    name: str
    """Address, with the name of the token if the request brought one."""
    proxy: str = ""
    """Where the header of a proxy that is not trusted tells the address, that proxy's own: clients
    behind it have limits of their own, and all of them together have a wider one."""

    @property
    def sender(self) -> str:
        """Who answers for the client's name: the untrusted proxy if it tells the address."""
        return self.proxy or self.name


def client_of(environ: Mapping[str, Any], trusted_proxies: int, token_name: str = "") -> Client:
    """The client of a WSGI request: what the trusted proxies in front say, if there are any.

    `environ` must be as gunicorn made it, with the peer's address in `REMOTE_ADDR`.
    """
    forwarded = environ.get("HTTP_X_FORWARDED_FOR", "")
    find = _client if len(forwarded) <= _CACHED_CHARACTERS else _client.__wrapped__
    return find(environ.get("REMOTE_ADDR", ""), forwarded, trusted_proxies, token_name)


@lru_cache(maxsize=4096)
def _client(peer: str, forwarded: str, trusted_proxies: int, token_name: str) -> Client:
    address, proxy = network_of(peer), ""
    told = [each.strip() for each in forwarded.split(",")] if forwarded else []
    if trusted_proxies:
        if len(told) >= trusted_proxies:
            address = network_of(told[-trusted_proxies])
    elif told:
        address, proxy = f"{address} for {network_of(told[-1])}", address
    return Client(f"{token_name}@{address}" if token_name else address, proxy)


def proven_vaults(environ: Mapping[str, Any], trusted_proxies: int) -> set[uuid.UUID] | None:
    """The vaults whose passwords were sent over the request's connection.

    None behind a proxy, which sends requests of many clients over one connection: a client that
    guesses would find the passwords of the others without a limit.
    """
    if trusted_proxies or not _PROXY_HEADERS.isdisjoint(environ):
        return None
    proven: set[uuid.UUID] | None = environ.get(PROVEN)
    return proven


def network_of(text: str) -> str:
    """The network that an address counts for: an IPv4 address, or the /64 of an IPv6 address.

    The address may be written as proxies do, with a port or in brackets; "unknown" if it is none.
    """
    text = text.strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    address = _address(text) or _address(text.rpartition(":")[0])  # a port without brackets
    if address is None:
        return "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
