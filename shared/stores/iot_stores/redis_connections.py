"""Connections to Redis that are given up when the server behind them can't serve.

After a failover the name in the URL leads to the new master, while open connections stay with the
old one. So an answer that tells of a state of the server (`store_states`) closes all connections
that were open then: the idle ones at once, the others when they are returned. The next command
connects anew, which resolves the name again.
"""

import time
from typing import Any, cast

from redis import BlockingConnectionPool, Redis
from redis._parsers import _HiredisParser
from redis.connection import ConnectionPool
from redis.sentinel import SentinelConnectionPool

from .store_states import state_of

RENEW_SECONDS = 1.0
"""While a state lasts, connections are renewed this often at most."""


class RefusalTrackingParser(_HiredisParser):
    """Notes that an answer told of a state of the server. Costs nothing while there is none."""

    refused = False
    connected_at = 0.0

    def on_connect(self, connection: Any, **options: Any) -> None:
        """Begin to parse the answers of a new connection."""
        self.refused = False
        self.connected_at = time.monotonic()
        super().on_connect(connection, **options)  # type: ignore[no-untyped-call]

    def parse_error(self, response: str) -> Exception:  # type: ignore[override]
        """The exception of an error that was answered. Errors within an array come here too."""
        error: Exception = super().parse_error(response)  # type: ignore[no-untyped-call]
        self.refused = self.refused or state_of(error) is not None
        return error


class _RenewingPool(ConnectionPool):
    """Closes the connections of before the last answer that told of a state of the server."""

    _renewed_at = 0.0

    def release(self, connection: Any) -> None:
        """Take a connection back."""
        parser = cast("RefusalTrackingParser", connection._parser)  # noqa: SLF001 - made by the pool
        if parser.refused:
            parser.refused = False
            self.renew()
        if parser.connected_at < self._renewed_at:
            connection.disconnect()
        super().release(connection)

    def renew(self) -> None:
        """Close the connections that are open now, unless that was done just now."""
        now = time.monotonic()
        if now - self._renewed_at >= RENEW_SECONDS:
            self._renewed_at = now
            self.disconnect(inuse_connections=False)


class RenewingPool(_RenewingPool, BlockingConnectionPool):
    """Of the server at a URL."""


class RenewingSentinelPool(_RenewingPool, SentinelConnectionPool):
    """Of the master that Sentinels name."""


def renew_connections(client: "Redis") -> None:
    """Close a client's connections: the server behind them does not do what it should."""
    if isinstance(client.connection_pool, _RenewingPool):
        client.connection_pool.renew()
