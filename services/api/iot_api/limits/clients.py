"""Clients, as limits and fair queues distinguish them."""

import ipaddress
from dataclasses import dataclass

from iot_models.audit_event import Value

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
