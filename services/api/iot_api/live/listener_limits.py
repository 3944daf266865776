"""Limits on the live streams of a process and of each client."""

from collections import Counter

from iot_api.limits.clients import Client


class ListenerLimits:
    """Counts the live streams of a process and of each client, and compares them with limits."""

    def __init__(self, most: int, most_per_client: int) -> None:
        self._most = most
        self._most_per_client = most_per_client
        self._clients: Counter[str] = Counter()
        self._behind: Counter[str] = Counter()
        """Number of listeners behind each untrusted proxy."""

    def add(self, client: Client) -> None:
        """Count a listener of a client."""
        self._clients[client.name] += 1
        self._behind[client.proxy] += 1

    def remove(self, client: Client) -> None:
        """Stop counting a listener of a client."""
        self._clients -= Counter([client.name])  # keeps no client at zero
        self._behind -= Counter([client.proxy])

    def exceeded(self, client: Client) -> str | None:
        """Return why the client may not have one more listener; None if it may."""
        if self._clients.total() >= self._most:
            return "this server process has its maximum of live streams; try again"
        if self._clients[client.name] >= self._most_per_client:
            return "this client has its maximum of live streams; close one of them"
        # An untrusted proxy may be a client that invents the addresses of others.
        if client.proxy and 2 * self._behind[client.proxy] >= self._most:
            return "the clients behind this proxy have their maximum of live streams; try again"
        return None
