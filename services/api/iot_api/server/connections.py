"""The connections of an API process: what each waits for, and which one is closed to make room."""

import math
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import IntEnum
from typing import Any

from iot_models import metrics
from iot_models.errors import UnavailableError

STALLED_SECONDS = 1.0
"""A body or an answer without progress for this long may be closed to make room."""
_RANK_SECONDS = 0.02
"""Shortest time between two rankings while almost all connections are busy."""
_SHARE = 16
"""At least one in so many connections is ranked at a time, so that a flood costs little."""


class Phase(IntEnum):
    """What a connection waits for, in the order in which connections are closed to make room."""

    HEAD = 0
    """The rest of a request's head."""
    NEW = 1
    """The first byte, or the TLS handshake."""
    IDLE = 2
    """The next request."""
    BODY = 3
    """The rest of a body."""
    SENDING = 4
    """A client that reads too slowly."""
    ANSWERING = 5
    """The application. Such a connection is never closed."""


class Connection:
    """One client connection. The greenlet that serves it keeps `phase` up to date."""

    __slots__ = (
        "accepted",
        "blocked_before",
        "blocked_bytes",
        "body_began",
        "body_bytes",
        "client",
        "closing",
        "discards_body",
        "failure",
        "head_bytes",
        "network",
        "phase",
        "piece_bytes",
        "proven",
        "request",
        "reserved",
        "send_began",
        "since",
    )

    def __init__(self, client: socket.socket, network: str) -> None:
        now = time.monotonic()
        self.client = client
        self.network = network
        self.phase = Phase.NEW
        self.since = now
        """When the phase began. In BODY and SENDING: when the last byte was received or sent."""
        self.accepted = now
        self.request: Any = None
        self.proven: set[uuid.UUID] = set()
        """Vaults whose passwords were sent over it."""
        self.reserved = False
        """Whether it is served from the reserve: only health checks are answered."""
        self.closing = False
        self.failure: Exception | None = None
        """Raised by the next receive of the body."""
        self.head_bytes = 0
        """Received of the head, or of several whose requests came at once."""
        self.body_began = 0.0
        """0.0 until the application waits for the body."""
        self.body_bytes = 0
        self.discards_body = False
        """Whether the rest of the body is read only to be discarded."""
        self.send_began = 0.0
        self.piece_bytes = 0
        """Sent of the piece that is blocked."""
        self.blocked_before = 0.0
        """Seconds for which earlier pieces of the answer were blocked."""
        self.blocked_bytes = 0
        """Sent while the answer was blocked."""

    def start_request(self, request: Any) -> None:
        """A whole head has arrived."""
        self.request = request
        self.phase = Phase.ANSWERING
        self.body_began = self.blocked_before = 0.0
        self.body_bytes = self.blocked_bytes = 0
        self.head_bytes = 0
        self.discards_body = False

    def start_receive(self) -> None:
        """The application waits for more of the body."""
        self.phase = Phase.BODY
        self.since = time.monotonic()
        if not self.body_began:
            self.body_began = self.since

    def await_request(self, *, head_began: bool) -> None:
        """The previous request is answered. `head_began`: part of the next head is here already."""
        self.request = None
        self.phase = Phase.HEAD if head_began else Phase.IDLE
        self.since = time.monotonic()

    def start_send(self) -> None:
        """The client does not take the next piece of the answer at once."""
        self.phase = Phase.SENDING
        self.since = self.send_began = time.monotonic()
        self.piece_bytes = 0

    def note_sent(self, count: int) -> None:
        """The client took some of a blocked piece."""
        self.since = time.monotonic()
        self.piece_bytes += count
        self.blocked_bytes += count

    def end_send(self) -> None:
        """The blocked piece is sent, or the client is gone."""
        self.phase = Phase.ANSWERING
        self.blocked_before += time.monotonic() - self.send_began

    def is_silent(self, now: float) -> bool:
        """Whether the connection may be closed to make room for another."""
        if self.closing or self.phase is Phase.ANSWERING:
            return False
        return self.phase < Phase.BODY or now - self.since >= STALLED_SECONDS

    @property
    def droppable(self) -> bool:
        """Whether closing the connection frees the memory that it is charged for."""
        return self.phase in (Phase.BODY, Phase.SENDING) and not self.closing

    def drop(self) -> None:
        """Close a connection whose body or answer holds memory that others need."""
        count_closed("memory")
        self.end(UnavailableError("this server is short of memory; send the request again"))

    def end(self, failure: Exception) -> None:
        """Close the connection from another greenlet. `failure` answers a body that is cut off."""
        self.closing = True
        if self.phase is Phase.SENDING:
            self.abort()
        elif self.request is not None:
            self.cut_body(failure)
        else:
            self.receive_no_more()

    def cut_body(self, failure: Exception) -> None:
        """Make the application's reading of the body fail."""
        self.failure = failure
        self.receive_no_more()

    def receive_no_more(self) -> None:
        """End the receiving side, atomically: the reader gets what has arrived, then the end. So a
        request either arrived before and is answered, or the client finds the connection closed.
        """
        self._shut_down(socket.SHUT_RD)

    def send_no_more(self) -> None:
        """Tell the client that this is the end."""
        self._shut_down(socket.SHUT_WR)

    def abort(self) -> None:
        """Break an answer off."""
        self._shut_down(socket.SHUT_RDWR)

    def _shut_down(self, how: int) -> None:
        # A duplicate: gevent would raise in the greenlet that waits for `client`, and TLS would
        # drop its keys.
        with suppress(OSError), socket.socket(fileno=os.dup(self.client.fileno())) as duplicate:
            duplicate.shutdown(how)


class _Group:
    """Connections that share a limit, and the order in which they give way."""

    def __init__(self) -> None:
        self.connections: dict[Connection, None] = {}
        self._ranked: list[Connection] = []
        self._ranked_at = -math.inf
        self._found = 0

    def pop_victim(self, rank: Callable[[Connection], tuple[float, ...]]) -> Connection | None:
        """The silent connection of the lowest rank; None if all are busy."""
        now = time.monotonic()
        if not self._ranked and self._may_rank(now):
            silent = [each for each in self.connections if each.is_silent(now)]
            silent.sort(key=rank)
            # Not all: meanwhile, others will be silent that should give way earlier.
            of_first_phase = sum(each.phase is silent[0].phase for each in silent)
            chosen = silent[: max(of_first_phase, len(self.connections) // _SHARE)]
            self._ranked = chosen[::-1]
            self._ranked_at, self._found = now, len(chosen)
        while self._ranked:
            victim = self._ranked.pop()
            if victim.is_silent(now):
                return victim
        return None

    def _may_rank(self, now: float) -> bool:
        """Not for each new connection, when most are busy: a flood would make that expensive."""
        found_many = self._found >= len(self.connections) // _SHARE
        return found_many or now - self._ranked_at >= _RANK_SECONDS


class ConnectionTable:
    """All connections of a process, within a limit, a limit per network, and a small reserve.

    A new connection is always taken: a silent one is closed in its place. If all are busy, the new
    connection goes to the reserve, from which only health checks are answered.
    """

    def __init__(self, *, limit: int, per_network: int | None, reserve: int) -> None:
        self._limit = limit
        self._per_network = per_network or math.inf
        self._reserve_limit = reserve
        self._all: dict[Connection, None] = {}
        """Also those that are closed but still have a greenlet."""
        self._reserve: dict[Connection, None] = {}
        self._open = _Group()
        """What counts against the limit."""
        self._networks: dict[str, _Group] = {}

    def __len__(self) -> int:
        """Number of connections, with the reserve."""
        return len(self._all)

    def __iter__(self) -> Iterator[Connection]:
        """All connections, with the reserve."""
        return iter(list(self._all))

    def add(self, connection: Connection) -> None:
        """Take a new connection, and close another one if there are too many."""
        self._all[connection] = None
        if self._makes_room(connection.network):
            self._open.connections[connection] = None
            network = self._networks.setdefault(connection.network, _Group())
            network.connections[connection] = None
        else:
            self._add_to_reserve(connection)

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        connection.closing = True
        self._all.pop(connection, None)
        self._reserve.pop(connection, None)
        self._uncount(connection)

    def close(self, connection: Connection, failure: Exception, *, reason: str) -> None:
        """Close a connection. It counts no longer, though its greenlet has yet to notice."""
        if not connection.closing:
            count_closed(reason)
        self._uncount(connection)
        connection.end(failure)

    def _makes_room(self, network: str) -> bool:
        """Close a silent connection if there are too many; False if all are busy."""
        own = self._networks.get(network)
        if own is not None and len(own.connections) >= self._per_network:
            victim = own.pop_victim(lambda each: (each.phase, each.since))
        elif len(self._open.connections) >= self._limit:
            victim = self._open.pop_victim(self._rank)
        else:
            return True
        if victim is None:
            return False
        self.close(victim, too_many_connections(), reason="room")
        return True

    def _rank(self, connection: Connection) -> tuple[float, ...]:
        """By phase, then the network with most connections, then the longest silent."""
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


def count_closed(reason: str) -> None:
    """Count a connection that is closed on its client."""
    metrics.counter("iot_connections_closed_total").labels(reason).inc()


def too_many_connections() -> UnavailableError:
    """The answer to a request for which there is no connection."""
    return UnavailableError("this server has too many connections; try again")
