"""The connections of an API process, and which of them are closed to make room for others."""

import math
import time
from collections.abc import Callable, Iterator

from iot_models import metrics
from iot_models.errors import UnavailableError

from .connection import Connection
from .phase import Phase, count_closed

STALLED_SECONDS = 1.0
"""A connection whose body makes no progress for this long may be closed to make room."""
STALLED_SEND_SECONDS = 4.0
"""A connection whose answer makes no progress for this long may be closed to make room. The kernel
takes an answer in bursts of about 190 KB: if a client reads 50 KB/s, a send waits almost 4 s."""
_RANK_SECONDS = 0.02
"""Shortest time between two rankings of the silent connections while few connections are silent."""
_SHARE = 16
"""A ranking chooses the connections to close next: at least 1/16 of all connections, if that many
are silent. So a flood of new connections needs few rankings."""


class _Group:
    """Connections that share a limit, and the order in which they are closed."""

    def __init__(self) -> None:
        self.connections: dict[Connection, None] = {}
        self._ranked: list[Connection] = []
        self._ranked_at = -math.inf
        self._found = 0

    def pop_victim(self, rank: Callable[[Connection], tuple[float, ...]]) -> Connection | None:
        """Return the silent connection to close next; None if none is found.

        The group keeps a list of silent connections, sorted by `rank`: the lowest is closed first.
        If the list is empty, make a new one. This takes time. So if the last list had fewer than
        1/16 of the connections (`_SHARE`), return None until the list is `_RANK_SECONDS` old.
        """
        now = time.monotonic()
        if not self._ranked and self._may_rank(now):
            silent = [member for member in self.connections if is_silent(member, now)]
            silent.sort(key=rank)
            # Choose only a share: until the next ranking, other connections with a lower key may
            # fall silent.
            of_first_phase = sum(member.phase is silent[0].phase for member in silent)
            chosen = silent[: max(of_first_phase, len(self.connections) // _SHARE)]
            self._ranked = chosen[::-1]
            self._ranked_at, self._found = now, len(chosen)
        while self._ranked:
            victim = self._ranked.pop()
            if is_silent(victim, now):
                return victim
        return None

    def _may_rank(self, now: float) -> bool:
        # Otherwise a flood of new connections would rank all connections for each new one, while
        # few connections are silent.
        found_many = self._found >= len(self.connections) // _SHARE
        return found_many or now - self._ranked_at >= _RANK_SECONDS


class ConnectionTable:
    """All connections of a process. Their number is limited, in all and per network.

    A new connection is always accepted. If a limit is reached, a silent connection (`is_silent`) is
    closed to make room. If none is silent, the new connection goes to a small reserve, in which
    health checks are answered and all other requests refused (503).
    """

    def __init__(self, *, limit: int, per_network: int | None, reserve: int) -> None:
        self._limit = limit
        self._per_network = per_network or math.inf
        self._reserve_limit = reserve
        self._all: dict[Connection, None] = {}
        """All connections that have a greenlet, closed ones too."""
        self._reserve: dict[Connection, None] = {}
        self._open = _Group()
        """Connections that count against the limit."""
        self._networks: dict[str, _Group] = {}

    def __len__(self) -> int:
        """Return the number of connections, including the reserve."""
        return len(self._all)

    def __iter__(self) -> Iterator[Connection]:
        """Iterate over all connections, including those in the reserve."""
        return iter(list(self._all))

    def export(self) -> None:
        """Set the gauges of connections and of requests. Live streams do not count as requests."""
        requests = sum(
            connection.request is not None and not connection.is_stream for connection in self._all
        )
        metrics.gauge("iot_http_requests_in_flight").set(requests)
        metrics.gauge("iot_http_connections").set(len(self._all))

    def add(self, connection: Connection) -> None:
        """Add a new connection. If there are too many, close a silent one; if none is silent, put
        the new connection into the reserve."""
        self._all[connection] = None
        if self._makes_room(connection.network):
            self._open.connections[connection] = None
            network = self._networks.setdefault(connection.network, _Group())
            network.connections[connection] = None
        else:
            self._add_to_reserve(connection)

    def remove(self, connection: Connection) -> None:
        """Remove a closed connection."""
        connection.closing = True
        self._all.pop(connection, None)
        self._reserve.pop(connection, None)
        self._uncount(connection)

    def close(self, connection: Connection, failure: Exception, *, reason: str) -> None:
        """Close a connection, and count it under `reason`.

        If a body is incomplete, its request is answered with `failure`. The connection stops
        counting against the limits immediately; its greenlet ends a moment later.
        """
        if not connection.closing:
            count_closed(reason)
        self._uncount(connection)
        connection.end(failure)

    def _makes_room(self, network: str) -> bool:
        """Return whether a new connection has room.

        If a limit is reached, close a silent connection. If none is silent, there is no room.
        """
        own = self._networks.get(network)
        if own is not None and len(own.connections) >= self._per_network:
            victim = own.pop_victim(lambda member: (member.phase, member.since))
        elif len(self._open.connections) >= self._limit:
            victim = self._open.pop_victim(self._rank)
        else:
            return True
        if victim is None:
            return False
        self.close(victim, too_many_connections(), reason="room")
        return True

    def _rank(self, connection: Connection) -> tuple[float, ...]:
        """Return the sort key of a connection: the connection with the lowest key is closed first.

        The key is the phase, then the number of connections from the client's network (largest
        first), then the start of the connection's silence (earliest first).
        """
        network = self._networks[connection.network]
        return connection.phase, -len(network.connections), connection.since

    def _add_to_reserve(self, connection: Connection) -> None:
        connection.reserved = True
        if len(self._reserve) >= self._reserve_limit:
            oldest = next(iter(self._reserve))
            del self._reserve[oldest]
            self.close(oldest, too_many_connections(), reason="room")
        self._reserve[connection] = None

    def _uncount(self, connection: Connection) -> None:
        if connection not in self._open.connections:
            return
        del self._open.connections[connection]
        network = self._networks[connection.network]
        del network.connections[connection]
        if not network.connections:
            del self._networks[connection.network]


def is_silent(connection: Connection, now: float) -> bool:
    """Return whether a connection may be closed to make room for another.

    It may be closed while it waits for a first byte, the rest of the headers, the next request or a
    delayed error answer. It may also be closed if its body has made no progress for
    `STALLED_SECONDS`, or its answer for `STALLED_SEND_SECONDS`.
    """
    if connection.closing or connection.phase is Phase.ANSWERING:
        return False
    patience = STALLED_SEND_SECONDS if connection.phase is Phase.SENDING else STALLED_SECONDS
    return connection.phase < Phase.BODY or now - connection.since >= patience


def too_many_connections() -> UnavailableError:
    """Return the error for a request on a connection beyond the limit."""
    return UnavailableError("this server has too many connections; try again")
