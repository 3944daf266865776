"""Deadlines for slow and silent clients.

Without deadlines, clients that send or read almost nothing occupy every connection of a process.
"""

from .connection import Connection
from .phase import Phase

FIRST_BYTE_SECONDS = 15.0
"""Deadline for the first byte of the first request, from when the connection was accepted. With
TLS, the handshake must be complete by then, too."""
HEAD_SECONDS = 10.0
"""Deadline for the whole head of a request, from its first byte."""
BODY_SECONDS = 60.0
"""Deadline for the whole body of a request, from when the application waits for the body."""
BODY_GRACE_SECONDS = 10.0
"""A body may arrive more slowly than `BODY_BYTES_PER_SECOND` for this long."""
BODY_BYTES_PER_SECOND = 1024
SEND_GRACE_SECONDS = 40.0
"""A client may be this far behind `slow_send.SEND_BYTES_PER_SECOND`. Linux takes bytes in bursts of
about 190 KB (`listeners.start_server`), so up to 23 s pass between two bursts to a client that
reads at this rate. The other 17 s are for bursts in which the client's own kernel receives."""
RESERVE_SECONDS = 1.0
"""A connection in the reserve of `ConnectionTable` is closed at this age, except in the phases
ANSWERING, DELAYED and LINGERING."""


def is_overdue(connection: Connection, now: float, keepalive: float) -> bool:
    """Return whether a connection has missed a deadline.

    `now` is the time of the monotonic clock. `keepalive` is the deadline of an idle connection, in
    seconds. It also limits the deadlines for a first byte and for the headers.
    """
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
            overdue = connection.behind + age >= SEND_GRACE_SECONDS
        case Phase.ANSWERING | Phase.DELAYED | Phase.LINGERING:
            return False
    return overdue or (connection.reserved and now - connection.accepted >= RESERVE_SECONDS)


def _is_body_overdue(connection: Connection, now: float) -> bool:
    age = now - connection.body_began
    expected = (age - BODY_GRACE_SECONDS) * BODY_BYTES_PER_SECOND
    return age >= BODY_SECONDS or connection.body_bytes < expected
