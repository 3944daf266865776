"""Deadlines for slow and silent clients, in seconds.

Without deadlines, clients that send or read almost nothing fill every connection of a process.
"""

from .connections import Connection, Phase

FIRST_BYTE_SECONDS = 15.0
"""For the first byte of a new connection. The TLS handshake is part of it."""
HEAD_SECONDS = 10.0
"""For the head of a request, from its first byte."""
BODY_SECONDS = 60.0
"""For a whole body."""
BODY_GRACE_SECONDS = 10.0
"""A body may arrive more slowly than `BODY_BYTES_PER_SECOND` for this long."""
BODY_BYTES_PER_SECOND = 1024
SEND_GRACE_SECONDS = 10.0
"""A client may read more slowly than `SEND_BYTES_PER_SECOND` for this long."""
SEND_BYTES_PER_SECOND = 8 * 1024
RESERVE_SECONDS = 1.0
"""For everything on a connection of the reserve."""


def is_overdue(connection: Connection, now: float, keepalive: float) -> bool:
    """Whether a connection has missed a deadline. A shorter `keepalive` shortens those of heads."""
    age = now - connection.since
    match connection.phase:
        case Phase.IDLE:
            overdue = age >= keepalive
        case Phase.NEW:
            overdue = age >= min(FIRST_BYTE_SECONDS, keepalive)
        case Phase.HEAD:
            overdue = age >= min(HEAD_SECONDS, keepalive)
        case Phase.BODY:
            overdue = _is_body_overdue(connection, now)
        case Phase.SENDING:
            overdue = _is_send_overdue(connection, now)
        case Phase.ANSWERING:
            return False
    return overdue or (connection.reserved and now - connection.accepted >= RESERVE_SECONDS)


def _is_body_overdue(connection: Connection, now: float) -> bool:
    age = now - connection.body_began
    expected = (age - BODY_GRACE_SECONDS) * BODY_BYTES_PER_SECOND
    return age >= BODY_SECONDS or connection.body_bytes < expected


def _is_send_overdue(connection: Connection, now: float) -> bool:
    """Each piece must be sent in time, and so must the whole answer: a client that reads one piece
    every few seconds stays within the grace period of each piece.
    """
    blocked = now - connection.send_began
    if connection.piece_bytes < (blocked - SEND_GRACE_SECONDS) * SEND_BYTES_PER_SECOND:
        return True
    blocked += connection.blocked_before
    return connection.blocked_bytes < (blocked - SEND_GRACE_SECONDS) * SEND_BYTES_PER_SECOND
