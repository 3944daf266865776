"""The client of a request, for limits and fair queues."""

import ipaddress
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from iot_models.audit_event import Value

PROVEN = "iot_api.proven"
"""Key in the WSGI environ: what the client of this connection has proven to know. The worker sets
it. Ids of vaults under whose passwords it sent readings (`Intake.accept`), and cache keys of
passwords (`VaultCache.key`) under which it read some.
"""
Proven = set[uuid.UUID | bytes]
_MAX_PROVEN = 64
_PROXY_HEADERS = frozenset({"HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_FORWARDED_FOR"})
_CACHED_CHARACTERS = 256
"""Longer `X-Forwarded-For` headers are not cached: together they could take megabytes."""
_IPV6_PREFIX = 64
"""A customer of a provider has at least this prefix, so all addresses in it are one client."""


@dataclass(frozen=True, slots=True)
class Client:
    """A client, as limits and queues distinguish clients."""

    name: str
    """The address, with the name of the token if the request has one."""
    proxy: str = ""
    """The address of the untrusted proxy that named the client's address, if there is one. Clients
    behind it have their own limits, and share a wider limit."""
    token: str = ""
    """The name of the token."""

    @property
    def fields(self) -> dict[str, Value]:
        """The client, in an event of the audit log."""
        token, _, address = self.name.rpartition("@")
        return {"token": token or None, "client": address}

    @property
    def sender(self) -> str:
        """The address that can't be forged: the untrusted proxy, otherwise the client."""
        return self.proxy or self.name

    @property
    def address(self) -> str:
        """The address that can't be forged: the client's, or that of the untrusted proxy."""
        return self.proxy or self.name.rpartition("@")[2]

    @property
    def wide_names(self) -> list[str]:
        """The names of the groups of clients that share a wider limit."""
        names = [self.proxy] if self.proxy else []
        if self.token:
            names += [f"{self.token}@*", f"*@{self.name.partition('@')[2]}"]
        return names

    @property
    def group(self) -> str:
        """The clients with which the client takes turns as one: those behind the same untrusted
        proxy, or with the same token.
        """
        return self.proxy or self.token or self.name


def client_of(environ: Mapping[str, Any], trusted_proxies: int, token_name: str = "") -> Client:
    """Return the client of a WSGI request, as named by the trusted proxies if there are any.

    `environ` must be gunicorn's, with the address of the peer in `REMOTE_ADDR`.
    """
    forwarded = environ.get("HTTP_X_FORWARDED_FOR", "")
    find = _client if len(forwarded) <= _CACHED_CHARACTERS else _client.__wrapped__
    return find(environ.get("REMOTE_ADDR", ""), forwarded, trusted_proxies, token_name)


@lru_cache(maxsize=4096)
def _client(peer: str, forwarded: str, trusted_proxies: int, token_name: str) -> Client:
    address, proxy = network_of(peer), ""
    forwarded_for = [hop.strip() for hop in forwarded.split(",")] if forwarded else []
    if trusted_proxies:
        if len(forwarded_for) >= trusted_proxies:
            address = network_of(forwarded_for[-trusted_proxies])
    elif forwarded_for:
        address, proxy = f"{address} for {network_of(forwarded_for[-1])}", address
    return Client(f"{token_name}@{address}" if token_name else address, proxy, token_name)


def proven_vaults(environ: Mapping[str, Any], trusted_proxies: int) -> Proven | None:
    """Return what the client of the connection of the request has proven to know.

    None behind a proxy, which sends requests of many clients over one connection: a client could
    guess the passwords of the others without a limit.
    """
    if trusted_proxies or not _PROXY_HEADERS.isdisjoint(environ):
        return None
    proven: Proven | None = environ.get(PROVEN)
    return proven


def prove(proven: Proven, known: Iterable[uuid.UUID | bytes]) -> None:
    """Add what a client has proven to know. If it is too much, forget the rest."""
    if len(proven) > _MAX_PROVEN:
        proven.clear()
    proven.update(known)


def network_of(text: str) -> str:
    """Return the network that limits count: the IPv4 address, or the /64 of the IPv6 address.

    The address may have a port or brackets, as proxies write it. Anything else is "unknown".
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
