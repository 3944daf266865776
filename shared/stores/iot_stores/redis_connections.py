"""Connection pools for Redis that reconnect after a failover.

After a failover the host name in the URL resolves to the new master, but open connections lead to
the old master, which answers with an error such as READONLY. An error that concerns the server, not
the command (see `store_states`), closes idle connections immediately, and connections in use when
they are returned. New connections resolve the name again.
"""

import time
import weakref
from collections.abc import Callable
from typing import Any

from redis import BlockingConnectionPool, Redis
from redis._parsers import _HiredisParser
from redis.connection import ConnectionPool
from redis.sentinel import SentinelConnectionPool

from .store_states import state_of

RENEW_SECONDS = 1.0
"""Shortest time between two renewals of all connections while the server can't serve."""


class RefusalParser(_HiredisParser):
    """A parser that calls `on_refusal` when an error reply shows that the server can't serve now.

    Only errors are examined, so other replies take no more time. redis-py calls `parse_error` for
    every error, also inside arrays and pipelines.
    """

    # `_HiredisParser` is private in redis-py: test_library_parts checks that the names used here
    # exist.

    on_refusal: Callable[[], object] = staticmethod(lambda: None)

    def parse_error(self, response: str) -> Exception:  # type: ignore[override]
        error: Exception = super().parse_error(response)  # type: ignore[no-untyped-call]
        state = state_of(error)
        # redis-py sends subcommands of CLIENT over each connection, which old servers don't know.
        # WRONGTYPE concerns a key: another server would answer the same.
        if state is not None and state.code not in {"NOCOMMAND", "WRONGTYPE"}:
            self.on_refusal()
        return error


class _RenewingPool(ConnectionPool):
    """A pool that closes its connections when the server refuses a command because of its state."""

    _renewed_at = 0.0

    def make_connection(self) -> Any:
        """Return a new connection.

        If the server answers later that it can't serve, all connections of the pool are closed
        (`renew`).
        """
        connection: Any = super().make_connection()
        # A weak reference: a cycle would leave the sockets to the garbage collector.
        pool = weakref.ref(self)
        connection._parser.on_refusal = lambda: _renew(pool())  # noqa: SLF001 - `parser_class`
        return connection

    def renew(self) -> None:
        """Close all open connections, at most once in `RENEW_SECONDS`."""
        now = time.monotonic()
        if now - self._renewed_at >= RENEW_SECONDS:
            self._renewed_at = now
            # Closing a connection in use would fail the command of another thread. So mark it:
            # redis-py closes a marked connection when it is returned.
            self.update_active_connections_for_reconnect()
            self.disconnect_free_connections()


class RenewingPool(_RenewingPool, BlockingConnectionPool):
    """A pool that reconnects after a failover, for a URL of a Redis server, not of Sentinels."""


class RenewingSentinelPool(_RenewingPool, SentinelConnectionPool):
    """A pool that reconnects after a failover, for a URL that names Sentinels."""


def renew_connections(client: "Redis") -> None:
    """Close a client's connections, because the server behind them can't serve."""
    _renew(client.connection_pool)


def _renew(pool: ConnectionPool | None) -> None:
    if isinstance(pool, _RenewingPool):
        pool.renew()
