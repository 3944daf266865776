"""Clients, as limits and fair queues distinguish them."""

import ipaddress
from dataclasses import dataclass

from iot_models.audit_event import Value

_IPV6_PREFIX = 64
"""All addresses of a /64 are one client: Internet providers give each customer at least a /64."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who sent a request: the address, the token, and the untrusted proxy if there is one.

    Limits and fair queues count by the names that this class returns.
    """

    name: str
    """`<token name>@<address>`, or `<address>` if the request has no token. Behind an untrusted
    proxy, `<address>` is `<address of the proxy> for <address that the proxy named>`."""
    proxy: str = ""
    """The address of an untrusted proxy that named the client's address; otherwise "". Each client
    behind the proxy has its own limits, and all of them share a wider limit."""
    token: str = ""
    """The name of the request's token, "" if it has none."""

    @property
    def fields(self) -> dict[str, Value]:
        """The fields `token` and `client` (the address) of an event of the audit log."""
        token, _, address = self.name.rpartition("@")
        return {"token": token or None, "client": address}

    @property
    def sender(self) -> str:
        """The sender, as far as the service can know it: the untrusted proxy, or else `name`.

        A client behind an untrusted proxy may have invented the address in `name`.
        """
        return self.proxy or self.name

    @property
    def address(self) -> str:
        """The address that really sent the request: `proxy`, or else the client's address."""
        return self.proxy or self.name.rpartition("@")[2]

    @property
    def wide_names(self) -> list[str]:
        """The names of all groups that the client belongs to, up to three.

        The groups are all clients behind its untrusted proxy, all clients with its token, and all
        clients with any token at its address. A group shares a limit that is wider than the limit
        of one client (`minute_limit.WIDE_FACTOR`).
        """
        names = [self.proxy] if self.proxy else []
        if self.token:
            names += [f"{self.token}@*", f"*@{self.name.partition('@')[2]}"]
        return names

    @property
    def group(self) -> str:
        """The name of the client's one group in fair queues, which serve the groups in turn.

        If the request came through an untrusted proxy, the group is all clients behind this proxy.
        Otherwise it is all clients with the request's token, or the client alone if the request has
        no token.
        """
        return self.proxy or self.token or self.name


def network_of(text: str) -> str:
    """Return the network of an address: an IPv4 address itself, or the /64 of an IPv6 address.

    The address may have a port or brackets, as proxies write it. Return "unknown" for any other
    text.
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
