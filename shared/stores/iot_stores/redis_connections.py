"""Connection pools for Redis that reconnect after a failover.

After a failover the host name in the URL resolves to the new master, but open connections still
lead to the old one. So an error that shows a state of the server (`store_states`) closes all open
connections: idle connections at once, connections in use when they are returned. The next command
opens a new connection, which resolves the name again.
"""

import time
from typing import Any, cast

from redis import BlockingConnectionPool, Redis
from redis._parsers import _HiredisParser
from redis.connection import ConnectionPool
from redis.sentinel import SentinelConnectionPool

from .store_states import state_of

RENEW_SECONDS = 1.0
"""Shortest time between two renewals while the server can't serve."""


class RefusalTrackingParser(_HiredisParser):
    """A parser that records whether the server answered with an error that shows its state.

    Only errors are examined, so other replies cost nothing more. redis-py parses every error here,
    also errors inside arrays and pipelines. `_HiredisParser` is private: test_library_parts checks
    the names used.
    """

    refused = False
    connected_at = 0.0

    def on_connect(self, connection: Any, **options: Any) -> None:
        """Begin to parse the replies on a new connection."""
        self.refused = False
        self.connected_at = time.monotonic()
        super().on_connect(connection, **options)  # type: ignore[no-untyped-call]

    def parse_error(self, response: str) -> Exception:  # type: ignore[override]
        """Return the exception for an error reply, and record whether it shows a state."""
        error: Exception = super().parse_error(response)  # type: ignore[no-untyped-call]
        self.refused = self.refused or state_of(error) is not None
        return error


class _RenewingPool(ConnectionPool):
    """A pool that closes the connections opened before the last renewal."""

    _renewed_at = 0.0

    def release(self, connection: Any) -> None:
        """Return a connection to the pool; close it if it was opened before the last renewal."""
        parser = cast("RefusalTrackingParser", connection._parser)  # noqa: SLF001 - `parser_class`
        if parser.refused:
            parser.refused = False
            self.renew()
        if parser.connected_at < self._renewed_at:
            connection.disconnect()
        super().release(connection)

    def renew(self) -> None:
        """Close all open connections, at most once in `RENEW_SECONDS`."""
        now = time.monotonic()
        if now - self._renewed_at >= RENEW_SECONDS:
            self._renewed_at = now
            # Closing a connection in use would fail the command of another thread.
            self.disconnect(inuse_connections=False)


class RenewingPool(_RenewingPool, BlockingConnectionPool):
    """A renewing pool for the server at a URL."""


class RenewingSentinelPool(_RenewingPool, SentinelConnectionPool):
    """A renewing pool for the master that Sentinels name."""


def renew_connections(client: "Redis") -> None:
    """Close a client's connections, because the server behind them can't serve."""
    if isinstance(client.connection_pool, _RenewingPool):
        client.connection_pool.renew()
